"""Bundles of a small checkout, whose wheels are in indexes that are folders: no other is asked."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from workspaces import ROOT

from factory.domain.failures import InputError, MissingError
from factory.round.bundle import BUILD, PROJECT, bundle

LOCK = ROOT / "requirements" / "cpu.lock"
TINY = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "{name}"
version = "1.0"
[tool.hatch.build.targets.wheel]
only-include = ["pyproject.toml"]
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    index, root = tmp_path / "index", tmp_path / "checkout"
    for name, folder in (("tiny", index), ("editables", index), ("torchy", tmp_path / "torches")):
        make_wheel(name, tmp_path / name, folder / name)
    for name, text in {
        "requirements/cpu.lock": "tiny==1.0\neditables==1.0\n",
        "requirements/gpu.lock": "tiny==1.0\n",
        "requirements/ray.lock": "tiny==1.0\n",
        "Makefile": f"TORCH := torchy==1.0\nTORCH_CPU_INDEX := {(tmp_path / 'torches').as_uri()}\n",
        "factory/a.py": "",
        "factory/__pycache__/a.pyc": "",
        "rounds/seed/model.safetensors": "weights",
        ".factory/ledger.duckdb": "mine",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", index.as_uri())
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    return root


def make_wheel(name: str, source: Path, folder: Path) -> None:
    """The wheel of a project in `source`, in a folder of an index."""
    source.mkdir()
    (source / "pyproject.toml").write_text(TINY.format(name=name))
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    (wheel,) = folder.iterdir()
    (folder / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


PROJECT_FILES = {
    "README.md",
    "tool-factory/Makefile",
    *(f"tool-factory/requirements/{name}.lock" for name in ("cpu", "gpu", "ray")),
    "tool-factory/factory/a.py",
    "tool-factory/rounds/seed/model.safetensors",
}


def wheels_of(*names: str) -> set[str]:
    return {f"wheels/{name}-1.0-py2.py3-none-any.whl" for name in names}


def test_a_bundle_has_wheels_project_and_what_to_do(checkout: Path, tmp_path: Path) -> None:
    """torchy is only at the index that the Makefile names."""
    told: list[str] = []
    out = bundle(tmp_path / "new" / "out", notify=told.append, root=checkout)
    assert files_of(out) == PROJECT_FILES | wheels_of("tiny", "editables", "torchy")
    assert "PIP_FIND_LINKS=../wheels make round" in (out / "README.md").read_text()
    assert len(told) == 2
    with pytest.raises(InputError, match="something is there already"):
        bundle(out, root=checkout)
    with pytest.raises(InputError, match="an installed package"):
        bundle(tmp_path / "other", root=tmp_path)


def test_a_bundle_for_gpus_has_what_builds_the_project_and_steps_of_its_own(
    checkout: Path, tmp_path: Path
) -> None:
    out = bundle(tmp_path / "out", lock="gpu", notify=str, root=checkout)
    assert files_of(out) == PROJECT_FILES | wheels_of("tiny", "editables")
    steps = (out / "README.md").read_text()
    assert "--no-deps ../wheels/*.whl" in steps and "make" not in steps.split("\n\n")[1]
    for lock in ("ray", "none"):
        with pytest.raises(InputError, match=rf"of {lock}\.lock") as caught:
            bundle(tmp_path / "other", lock=lock, root=checkout)
        assert caught.value.remedy == "--lock cpu or gpu"


def test_what_fails_leaves_nothing_and_can_be_run_again(checkout: Path, tmp_path: Path) -> None:
    pins, out = checkout / "requirements" / "cpu.lock", tmp_path / "new" / "out"
    pins.write_text("tiny==2.0\n")
    with pytest.raises(MissingError, match=r"tiny==2\.0"):
        bundle(out, notify=str, root=checkout)
    assert not list(out.parent.iterdir())
    pins.write_text("tiny==1.0\n")
    out.mkdir()
    assert bundle(out, notify=str, root=checkout) == out
    assert files_of(out) == PROJECT_FILES | wheels_of("tiny", "torchy")


def test_the_project_is_what_a_checkout_has() -> None:
    assert all((ROOT / name).exists() for name in PROJECT)
    makefile, dockerfile = ((ROOT / name).read_text() for name in ("Makefile", "Dockerfile"))
    assert re.search(r"^TORCH_CPU_INDEX := \S+$", makefile, re.MULTILINE)
    pinned = {line.partition("==")[0] for line in LOCK.read_text().splitlines()}
    assert set(BUILD) <= pinned
    torch = re.search(r"^TORCH := (\S+)$", makefile, re.MULTILINE)
    assert torch and f'ARG TORCH="{torch[1]}"' in dockerfile
