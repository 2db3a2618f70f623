"""A bundle of a small checkout, its one wheel from a folder: no index is asked."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from workspaces import ROOT

from factory.domain.failures import InputError, MissingError
from factory.round.bundle import PROJECT, bundle

TINY = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "tiny"
version = "1.0"
[tool.hatch.build.targets.wheel]
only-include = ["tiny.py"]
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny, wheels, root = tmp_path / "tiny", tmp_path / "index", tmp_path / "checkout"
    tiny.mkdir()
    (tiny / "pyproject.toml").write_text(TINY)
    (tiny / "tiny.py").write_text("")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)]
    subprocess.run(build, cwd=tiny, check=True, capture_output=True)
    for name, text in {
        "requirements/cpu.lock": "tiny==1.0\n",
        "Makefile": "TORCH := tiny==1.0\n",
        "factory/a.py": "",
        "factory/__pycache__/a.pyc": "",
        "rounds/seed/model.safetensors": "weights",
        ".factory/ledger.duckdb": "mine",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return root


def test_a_bundle_has_wheels_project_and_what_to_do(checkout: Path, tmp_path: Path) -> None:
    told: list[str] = []
    out = bundle(tmp_path / "out", notify=told.append, root=checkout)
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert files == {
        "README.md",
        "wheels/tiny-1.0-py2.py3-none-any.whl",
        "tool-factory/Makefile",
        "tool-factory/requirements/cpu.lock",
        "tool-factory/factory/a.py",
        "tool-factory/rounds/seed/model.safetensors",
    }
    assert "PIP_FIND_LINKS=../wheels make round" in (out / "README.md").read_text()
    assert len(told) == 2
    with pytest.raises(InputError, match="something is there already"):
        bundle(out, root=checkout)
    with pytest.raises(InputError, match=r"no gpu\.lock"):
        bundle(tmp_path / "other", lock="gpu", root=checkout)
    with pytest.raises(InputError, match="an installed package"):
        bundle(tmp_path / "other", root=tmp_path)
    (checkout / "requirements" / "cpu.lock").write_text("tiny==2.0\n")
    with pytest.raises(MissingError, match=r"tiny==2\.0"):
        bundle(tmp_path / "other", notify=told.append, root=checkout)


def test_the_project_is_what_a_checkout_has() -> None:
    assert all((ROOT / name).exists() for name in PROJECT)
    makefile, dockerfile = ((ROOT / name).read_text() for name in ("Makefile", "Dockerfile"))
    torch = re.search(r"^TORCH := (\S+)$", makefile, re.MULTILINE)
    assert torch and f'ARG TORCH="{torch[1]}"' in dockerfile
