"""The wheel carries all content and works away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from workspaces import ROOT

CONTENT = ("prompts", "rules", "rounds", "eval", "plans")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (file,) = out.glob("tool_factory-*.whl")
    return file


def test_wheel_holds_the_package_and_every_content_file(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in CONTENT:
        for file in (ROOT / folder).rglob("*"):
            if file.is_file():
                assert f"factory/builtin_data/{file.relative_to(ROOT).as_posix()}" in names
    assert "factory/builtin_data/factory.toml" in names
    for file in (ROOT / "factory").rglob("*"):
        if file.is_file() and file.suffix != ".pyc":
            assert file.relative_to(ROOT).as_posix() in names
    assert not [name for name in names if name.startswith(("tests/", "bench/"))]


def test_installed_wheel_runs_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    environment = {**os.environ, "PYTHONPATH": str(site)}

    def factory(*arguments: str, cwd: Path) -> str:
        command = [sys.executable, "-P", "-m", "factory", *arguments]
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    factory("init", "ws", cwd=tmp_path)
    assert "0 failed cases" in factory("rules", "--test", cwd=tmp_path / "ws")
    factory("eject", "prompts/calls/system.j2", cwd=tmp_path / "ws")
    assert "home" in factory("round", "--dry-run", cwd=tmp_path / "ws")
