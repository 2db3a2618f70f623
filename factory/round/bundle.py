"""A checkout and the wheels of its pins in one folder, for a machine without a network."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from factory.domain.failures import InputError, MissingError
from factory.workspace.folder import shipped_root

PROJECT = (
    *("factory", "prompts", "rules", "rounds", "eval", "plans", "docs", "requirements"),
    *("tests", "bench", "Makefile", "Dockerfile", "pyproject.toml", "factory.toml", "README.md"),
    *("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", ".gitignore"),
)
"""What a checkout has that is no result of work in it; rounds/seed is the embedded model."""
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".*_cache")
PROJECT_FOLDER = "tool-factory"
WHEELS_FOLDER = "wheels"
README = """# tool-factory, for a machine without a network

Needed there: Python {python}, the same kind of system and processor as this was made on, make.

    cd {project}
    PIP_NO_INDEX=1 PIP_FIND_LINKS=../{wheels} make round

`make round` makes .venv of ../{wheels} and runs a round on the embedded model. The pages are in
docs/.
"""


def bundle(
    folder: Path,
    *,
    lock: str = "cpu",
    notify: Callable[[str], None] = print,
    root: Path | None = None,
) -> Path:
    """Write the checkout and the wheels of requirements/LOCK.lock into a new folder, and return it.

    Raises InputError where there is no checkout, no such lock, or something in the folder, and
    MissingError where pip finds a package nowhere.
    """
    root = root or shipped_root()
    pins = root / "requirements" / f"{lock}.lock"
    if not (root / "Makefile").is_file():
        raise InputError(
            "a bundle is made of a checkout; this is an installed package",
            where=str(root),
            remedy="git clone the repository and run `factory bundle` there",
        )
    if not pins.is_file():
        known = sorted(path.stem for path in pins.parent.glob("*.lock"))
        raise InputError(
            f"there is no {pins.name}", where=str(pins.parent), remedy=f"one of {known}"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            "something is there already", where=str(folder), remedy="name a new folder"
        )
    wheels = folder / WHEELS_FOLDER
    wheels.mkdir(parents=True)
    for wanted in (*_torch(root, pins), ["-r", str(pins)]):
        notify(f"wheels of {' '.join(wanted)}")
        _fetch(wanted, wheels)
    for name in PROJECT:
        source, target = root / name, folder / PROJECT_FOLDER / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=LEFT_OUT)
        elif source.is_file():
            shutil.copy2(source, target)
    (folder / "README.md").write_text(
        README.format(
            python=".".join(map(str, sys.version_info[:2])),
            project=PROJECT_FOLDER,
            wheels=WHEELS_FOLDER,
        ),
        encoding="utf-8",
    )
    return folder


def _torch(root: Path, pins: Path) -> list[list[str]]:
    """The torch that the Makefile installs before the lock, which names it for GPUs alone."""
    makefile = (root / "Makefile").read_text("utf-8")
    named = re.search(r"^TORCH := (\S+)$", makefile, re.MULTILINE)
    return [[named[1]]] if named and pins.stem == "cpu" else []


def _fetch(wanted: list[str], wheels: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *wanted]
    done = subprocess.run([*command, "--wheel-dir", str(wheels)], capture_output=True, text=True)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
        raise MissingError(
            f"pip makes no wheel: {lines[-1]}",
            where=" ".join(wanted),
            remedy="run it where pip reaches an index that has it (PIP_EXTRA_INDEX_URL; that of "
            "torch without CUDA is named in the Makefile)",
        )
