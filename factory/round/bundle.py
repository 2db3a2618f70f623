"""A checkout and the wheels of its pins in one folder, for a machine without a network."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
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
STEPS = {
    "cpu": """    cd {project}
    PIP_NO_INDEX=1 PIP_FIND_LINKS=../{wheels} make round

`make round` makes .venv of ../{wheels} and runs a round on the embedded model.""",
    "gpu": """    cd {project}
    python{python} -m venv .venv
    .venv/bin/pip install --no-index --no-deps ../{wheels}/*.whl
    .venv/bin/pip install --no-index --no-deps --no-build-isolation --editable .
    .venv/bin/factory round --n 64""",
}
"""How each lock is installed from the wheels alone."""
README = """# tool-factory, for a machine without a network

Needed there: Python {python}, the same kind of system and processor as this was made on{more}.

{steps}

The pages are in docs/.
"""
BUILD = ("hatchling", "editables", "pathspec", "pluggy", "trove-classifiers")
"""What builds the project itself, which gpu.lock lacks; pinned in cpu.lock."""


def bundle(
    folder: Path,
    *,
    lock: str = "cpu",
    notify: Callable[[str], None] = print,
    root: Path | None = None,
) -> Path:
    """Write the checkout and the wheels of requirements/LOCK.lock into a new folder, and return it.

    The folder is there once it is whole. Raises InputError where there is no checkout, another lock
    than of STEPS, or something in the folder, and MissingError where pip finds a package nowhere.
    """
    root = root or shipped_root()
    if not (root / "Makefile").is_file():
        raise InputError(
            "a bundle is made of a checkout; this is an installed package",
            where=str(root),
            remedy="git clone the repository and run `factory bundle` there",
        )
    if lock not in STEPS:
        raise InputError(
            f"no bundle is made of {lock}.lock",
            where=str(root / "requirements"),
            remedy=f"--lock {' or '.join(STEPS)}",
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            "something is there already", where=str(folder), remedy="name a new folder"
        )
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as beside:
        whole = Path(beside, "whole")
        _fill(whole, root, lock, notify)
        whole.rename(folder)
    return folder


def _fill(folder: Path, root: Path, lock: str, notify: Callable[[str], None]) -> None:
    wheels = folder / WHEELS_FOLDER
    wheels.mkdir(parents=True)
    for wanted, index in _wanted(root, lock):
        notify(f"wheels of {' '.join(wanted)}")
        _fetch(wanted, wheels, index)
    for name in PROJECT:
        source, target = root / name, folder / PROJECT_FOLDER / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=LEFT_OUT)
        elif source.is_file():
            shutil.copy2(source, target)
    names = {
        "python": ".".join(map(str, sys.version_info[:2])),
        "project": PROJECT_FOLDER,
        "wheels": WHEELS_FOLDER,
    }
    more = ", make" if lock == "cpu" else ", a GPU with its driver"
    text = README.format(**names, more=more, steps=STEPS[lock].format(**names))
    (folder / "README.md").write_text(text, encoding="utf-8")


def _wanted(root: Path, lock: str) -> Iterator[tuple[list[str], str]]:
    """What pip is asked for, one after another, and the index of what the configured ones lack."""
    pins = root / "requirements" / f"{lock}.lock"
    if lock == "cpu":
        # torch is not in the lock: the Makefile installs it first, for no GPU.
        variables = re.findall(r"^(\w+) := (\S+)$", (root / "Makefile").read_text("utf-8"), re.M)
        makefile = dict(variables)
        yield [makefile["TORCH"]], makefile["TORCH_CPU_INDEX"]
    else:
        lines = (root / "requirements" / "cpu.lock").read_text("utf-8").splitlines()
        yield [line for line in lines if line.partition("==")[0] in BUILD], ""
    yield ["-r", str(pins)], ""


def _fetch(wanted: list[str], wheels: Path, index: str) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *wanted]
    command += ["--wheel-dir", str(wheels)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0 and index:
        done = subprocess.run([*command, "--index-url", index], capture_output=True, text=True)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
        raise MissingError(
            f"pip makes no wheel: {lines[-1]}",
            where=" ".join(wanted),
            remedy="run it where pip reaches an index that has it (PIP_INDEX_URL, "
            "PIP_EXTRA_INDEX_URL)",
        )
