"""A real round on the embedded model, killed at four moments and continued to its end."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from workspaces import ROOT, make_workspace, run_factory

RECIPE = """extends = "cpu"
[train]
epochs = 1
replay_limit = 48
min_accepted = 1
[score]
tolerance = 100
"""
"""Little training, and a gate that lets any checkpoint pass: what is tested is the path."""
MOMENTS = {
    "while the engine starts": "select count(*) > 0 from draw",
    "while sampling": "select count(*) > 0 from score where benchmark = 'home-dev'",
    "while training": "select count(*) > 0 from stage where stage = 'sample'",
    "while scoring": "select count(*) > 0 from stage where stage = 'train'",
}


class FinishedRound(NamedTuple):
    """What a round left; the workspace is shared between tests, so copy it to change it."""

    workspace: Path
    card: str
    """What the command printed at the end."""


def make_quick_workspace(folder: Path) -> Path:
    """A workspace whose rounds take little training."""
    settings = (ROOT / "factory.toml").read_text(encoding="utf-8")
    files = {"rounds/quick.toml": RECIPE, "factory.toml": settings.replace('"cpu"', '"quick"')}
    return make_workspace(folder, files).root


def ask(workspace: Path, sql: str) -> list[dict[str, Any]]:
    done = run_factory("sql", sql, "--json", cwd=workspace)
    return [json.loads(line) for line in done.stdout.splitlines()]


def start_round(workspace: Path, *arguments: str) -> subprocess.Popen[bytes]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "factory", "round", *arguments]
    return subprocess.Popen(
        command, cwd=workspace, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def wait_for(workspace: Path, sql: str, seconds: float = 900.0) -> None:
    """Wait until the query gives a true value; the round must not end before."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if next(iter(ask(workspace, sql)[0].values())):
            return
        time.sleep(0.2)
    raise AssertionError(f"never true: {sql}")


def run_and_kill(workspace: Path, num_queries: int) -> FinishedRound:
    """One round, killed with SIGKILL at four moments, then resumed to its end."""
    rng = random.Random(5)
    for moment, sql in MOMENTS.items():
        process = start_round(workspace, "--n", str(num_queries))
        wait_for(workspace, sql)
        time.sleep(rng.random() * 2)
        process.kill()
        assert process.wait() == -signal.SIGKILL, moment
    done = run_factory("round", "--resume", cwd=workspace)
    return FinishedRound(workspace, done.stdout)


def check_books(workspace: Path, number: int, drawn: int) -> None:
    """Every drawn query has exactly one sample, and every sample that fell a reason."""
    (row,) = ask(workspace, f"select * from round_yield where round = {number}")
    assert row["drawn"] == drawn
    assert row["accepted"] + row["rejected"] + row["unjudged"] == drawn
    (counts,) = ask(
        workspace,
        "select count(*) as samples, count(distinct query_id) as queries, "
        "count(*) filter (status <> 'accepted' and reason = '') as unexplained "
        f"from sample where round = {number}",
    )
    assert counts == {"samples": drawn, "queries": drawn, "unexplained": 0}
