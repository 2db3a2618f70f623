"""Temporary folders: gone with their child, swept after a kill, never another's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from workspaces import ROOT

from factory.engines import scratch
from factory.engines.scratch import PREFIX, Scratch, sweep

HOLD = """
import sys, time
from factory.engines.scratch import Scratch
one = Scratch()
(one.path / "vllm_dist_1").mkdir()
print(one.path, flush=True)
time.sleep(99)
"""


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temp folder with a short path, as real ones have."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        scratch.sweep.cache_clear()
        yield Path(folder)


def hold(base: Path) -> tuple[subprocess.Popen[str], Path]:
    """Another command that has a folder, and the folder."""
    env = {**os.environ, "TMPDIR": str(base), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD], env=env, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_what_a_killed_command_left_goes_and_what_a_running_one_has_stays(base: Path) -> None:
    killed, left = hold(base)
    running, kept = hold(base)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert left.exists()
    with Scratch() as folder:
        assert not left.exists() and kept.exists()
        assert folder.parent == base and folder.name.startswith(PREFIX)
    assert not folder.exists()
    running.kill()
    running.wait()
    for process in (killed, running):
        assert process.stdout is not None
        process.stdout.close()


def test_links_files_and_others_folders_of_that_name_stay(base: Path) -> None:
    (base / f"{PREFIX}main" / "src").mkdir(parents=True)
    (base / f"{PREFIX}main" / "src" / "mine").touch()
    elsewhere = base / "elsewhere"
    elsewhere.mkdir()
    (base / f"{PREFIX}link").symlink_to(elsewhere)
    (base / f"{PREFIX}file").touch()
    sweep(str(base))
    assert elsewhere.exists() and (base / f"{PREFIX}file").exists()
    assert (base / f"{PREFIX}main" / "src" / "mine").exists()


def test_a_path_too_long_for_sockets_is_not_given_to_a_child(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    one = Scratch()
    assert one.environment()["TMPDIR"] == str(one.path)
    assert Path(one.environment()["TORCHINDUCTOR_CACHE_DIR"]).parent == base
    one.close()
    one.close()
    deep = base / ("x" * 60)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    two = Scratch()
    assert two.environment() == {}
    two.close()
