"""Temporary workspaces made of strings, and the `factory` command run in them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from factory.workspace.folder import Workspace
from factory.workspace.scaffold import init_workspace

ROOT = Path(__file__).resolve().parent.parent


def make_workspace(folder: Path, files: Mapping[str, str] | None = None) -> Workspace:
    """A fresh workspace with these files over the scaffold's."""
    workspace = init_workspace(folder)
    for path, text in (files or {}).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return workspace


def run_factory(
    *arguments: str,
    cwd: Path,
    code: int = 0,
    environment: Mapping[str, str] | None = None,
    prefix: tuple[str, ...] = (),
) -> subprocess.CompletedProcess[str]:
    """Run `factory ARGUMENTS` in a folder and check its exit code."""
    command = [*prefix, sys.executable, "-m", "factory", *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "160", **(environment or {})}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def has_namespaces() -> bool:
    """Whether the kernel lets this user make a network namespace."""
    return subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode == 0


def child_pids() -> list[int]:
    """Process ids of the children that this process has now."""
    paths = Path("/proc/self/task").glob("*/children")
    return [int(pid) for path in paths for pid in path.read_text(encoding="ascii").split()]


def descendants(pid: int) -> Iterator[tuple[int, str]]:
    """Processes below one, each with its command line."""
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            for child in map(int, path.read_text(encoding="ascii").split()):
                line = Path(f"/proc/{child}/cmdline").read_bytes().decode(errors="replace")
                yield child, line.replace("\0", " ")
                yield from descendants(child)
        except OSError:  # it has ended
            continue
