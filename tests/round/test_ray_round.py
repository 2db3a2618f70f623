"""A round whose engines Ray keeps, killed as a whole and continued, if possible without network."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from real_round import ask, make_quick_workspace, start_round, wait_for
from workspaces import descendants, has_namespaces, run_factory

pytest.importorskip("ray", reason="no ray: requirements/ray.lock")
pytestmark = pytest.mark.slow

RAY = "engine.backend=ray", "engine.replicas=2", "engine.inner=transformers"
SHORT = "window=4", "train.min_accepted=100", "score.benchmarks=[]", 'score.dev=""'
OWN_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""Ray's own look for their parent now and then, and end about a minute after it."""


def sets(*values: str) -> list[str]:
    return [word for value in values for word in ("--set", value)]


def alive(pids: set[int]) -> set[int]:
    """Those that have not ended, be it as zombies."""
    files = ((pid, Path(f"/proc/{pid}/cmdline")) for pid in pids)
    return {pid for pid, file in files if file.exists() and file.read_bytes()}


def test_a_killed_round_leaves_no_process_and_is_continued(tmp_path: Path) -> None:
    workspace = make_quick_workspace(tmp_path / "ws")
    round_ = start_round(workspace, "--n", "24", *sets(*RAY, *SHORT))
    wait_for(workspace, "select count(*) > 0 from sample")
    started = dict(descendants(round_.pid))
    names = [*OWN_AGENTS, "ray::EngineActor", "raylet", "factory.engines.transformers"]
    assert all(any(name in line for line in started.values()) for name in names)
    round_.kill()
    assert round_.wait() == -signal.SIGKILL
    ours = {pid for pid, line in started.items() if not line.startswith(OWN_AGENTS)}
    deadline = time.monotonic() + 30
    while (left := alive(ours)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left, [started[pid] for pid in left]
    (half,) = ask(workspace, "select count(*) as n from sample")
    assert 0 < half["n"] < 24

    alone = ("--airgap",) if has_namespaces() else ()
    done = run_factory("round", "--resume", *alone, *sets(*RAY), cwd=workspace, code=1)
    assert "24 drawn" in done.stdout
    assert not alone or "no connection was tried" in done.stdout
    (whole,) = ask(workspace, "select count(*) as n, count(distinct query_id) as ids from sample")
    assert whole == {"n": 24, "ids": 24}
    stages = [row["stage"] for row in ask(workspace, "select stage from stage order by started_at")]
    assert stages.count("sample") == 1
    logs = workspace / ".factory" / "logs" / "r1"
    assert {path.name for path in logs.iterdir()} >= {"engine-ray.log", "engine-1", "engine-2"}
