"""The factory as a process of its own: in a small workspace, with its processes and traces told."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from factory.ledger.database import Ledger
from factory.workspace.folder import shipped_root
from factory.workspace.scaffold import init_workspace

MARK = "FACTORY_CAMPAIGN"
"""A variable that every process of one command inherits: none of it can be missed."""
RECIPE = """extends = "cpu"
[train]
epochs = 1
replay_limit = 24
min_accepted = 1
[score]
tolerance = 100
benchmarks = []
dev = "few"
"""
"""Every stage of a round, each as short as it goes, and a gate that lets anything pass."""
FEW = """title = "A few questions of the home world"
split = "dev"
questions = "few"
prefix = "home_"
categories = ["simple"]
max_tokens = 64
"""
NUM_FEW = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One figure of the campaign. Example: Finding(what="orphans", wanted="0", found="0")."""

    what: str
    wanted: str
    found: str
    is_right: bool


def same(what: str, wanted: object, found: object) -> Finding:
    """A figure that must be just what was wanted."""
    return Finding(what=what, wanted=str(wanted), found=str(found), is_right=wanted == found)


@dataclass(slots=True)
class Running:
    """A command that runs. Example: Running(process, log, mark)."""

    process: subprocess.Popen[bytes]
    log: Path
    mark: str

    def text(self) -> str:
        """What it has printed so far, both streams."""
        return self.log.read_text("utf-8", "replace")

    def pids(self) -> list[int]:
        """Its processes that are alive, itself included, wherever they hang in the tree."""
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc")))
                if is_marked(pid, self.mark)]  # fmt: skip

    def wait(self, seconds: float) -> int:
        """Its exit code; the command is killed where it takes longer. Raises TimeoutExpired."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def orphans(self, seconds: float = 20.0) -> int:
        """Processes that outlive the command by so long; they are ended."""
        deadline = time.monotonic() + seconds
        while (left := self.pids()) and time.monotonic() < deadline:
            time.sleep(0.1)
        for pid in left:
            os.kill(pid, 9)
        return len(left)


def is_marked(pid: int, mark: str) -> bool:
    """Whether a process has the mark, and lives: what has ended and is not waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    return state[0] != "Z" and f"{MARK}={mark}".encode() in environment.split(b"\0")


def command(*arguments: str) -> list[str]:
    """`factory ARGUMENTS` of this checkout."""
    return [sys.executable, "-m", "factory", *arguments]


def environment(temp: Path | None = None, **changes: str | None) -> dict[str, str]:
    """This process's variables with the checkout's path and changes; None takes one away."""
    told = {**os.environ, "PYTHONPATH": str(shipped_root()), "PYTHONSAFEPATH": "1"}
    told |= {"TMPDIR": str(temp)} if temp else {}
    for name, value in changes.items():
        if value is None:
            told.pop(name, None)
        else:
            told[name] = value
    return told


def start(
    workspace: Path, *arguments: str, log: Path, temp: Path, root: Path | None = None
) -> Running:
    """Start a command whose processes carry a mark of their own, of another checkout at `root`."""
    mark = secrets.token_hex(8)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(*arguments),
            cwd=workspace,
            env=environment(temp, **{MARK: mark, "PYTHONPATH": str(root or shipped_root())}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    return Running(process, log, mark)


def ask(workspace: Path, sql: str) -> list[dict[str, Any]]:
    """Rows of the ledger, of what is not folded yet too; no command may work there meanwhile."""
    return Ledger(workspace / ".factory").query(sql).records()


def make_quick(folder: Path, backend: str = "auto") -> Path:
    """A workspace whose rounds have every stage and take as little as they can."""
    root = init_workspace(folder).root
    shipped = shipped_root() / "eval" / "home" / "dev"
    settings = (root / "factory.toml").read_text(encoding="utf-8")
    settings = settings.replace('recipe = "cpu" ', 'recipe = "quick"').replace(
        '"auto"', f'"{backend}"'
    )
    files = {
        "factory.toml": settings.replace("threads = 0", "threads = 1"),
        "rounds/quick.toml": RECIPE,
        "eval/few.toml": FEW,
    }
    for name in ("home_simple.json", "possible_answer/home_simple.json"):
        lines = (shipped / name).read_text(encoding="utf-8").splitlines(keepends=True)
        files[f"eval/few/{name}"] = "".join(lines[:NUM_FEW])
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


@dataclass(slots=True)
class Records:
    """Results as lines of JSON in a file: a campaign that was stopped goes on after them."""

    file: Path
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.file.exists():
            with self.file.open(encoding="utf-8") as lines:
                self.rows = [json.loads(line) for line in lines if line.endswith("\n")]

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep one more."""
        self.rows.append(dict(row))
        with self.file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")
