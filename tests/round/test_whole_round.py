"""A round from its first query to the gate in this process: recorded answers, no child trains."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest_models import tiny_model
from test_rejudge import IDS, POOL
from test_rejudge import answer as answer_query
from workspaces import make_workspace

from factory.cli.monitor import PlainMonitor
from factory.cli.rounds import make_round
from factory.domain.records import Checkpoint, Progress, Request
from factory.engines.replay import ReplayEngine
from factory.ledger.database import Ledger
from factory.round.factory import load_factory
from factory.round.round import run_round
from factory.train.job import TrainingJob, TrainingResult
from factory.workspace.models import fingerprint
from factory.workspace.recipe import load_recipe
from factory.workspace.settings import load_settings

MOST_READERS = 15
"""One a step, two where opponents are looked up, besides those that read nothing."""


def answer(request: Request) -> Sequence[str]:
    return ["No."] if request.id.startswith("score/") else answer_query(request)


async def open_replay(checkpoint: Checkpoint, **_: object) -> ReplayEngine:
    """In place of a child that serves the checkpoint."""
    return ReplayEngine(answer, checkpoint)


async def train_nothing(job: TrainingJob, **_: object) -> TrainingResult:
    """In place of a child that trains: the parent, as if one step had been made."""
    assert job.examples.exists() and job.new_tools.exists()
    shutil.copytree(job.checkpoint, job.out)
    step = Progress(step=1, steps=1, loss=1.0, learning_rate=0.1, tokens=9, seconds=0.1)
    return TrainingResult(
        path=job.out, fingerprint=fingerprint(job.out), num_examples=2, dropped={}, num_tokens=9,
        steps=1, seconds=0.1, codes=(), codebook=None, log=(step,), restarts=0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("min_accepted", "promoted", "stages"),
    [
        (1, True, ["draw", "start engine", "score parent: home", "score parent: home-dev",
                   "sample", "score base again: home-dev", "judge", "train", "start engine",
                   "score new: home", "score new: home-dev", "gate"]),
        (99, False, ["draw", "start engine", "score parent: home", "score parent: home-dev",
                     "sample", "score base again: home-dev", "judge", "gate"]),
    ],
)  # fmt: skip
def test_a_whole_round_asks_the_ledger_once_a_step(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    min_accepted: int,
    promoted: bool,
    stages: list[str],
) -> None:
    workspace = make_workspace(tmp_path / "ws")
    model = tiny_model(workspace.root / "model")
    text = workspace.marker.read_text(encoding="utf-8")
    workspace.marker.write_text(text.replace("rounds/seed", model.name), encoding="utf-8")
    settings = load_settings(workspace)
    recipe = load_recipe(workspace, "cpu", {"train.min_accepted": str(min_accepted)})
    factory = load_factory(workspace, settings, recipe, PlainMonitor(), POOL)
    monkeypatch.setattr("factory.engines.serving.open_engine", open_replay)
    monkeypatch.setattr("factory.round.training.run_training", train_nothing)
    opened = []
    connect = Ledger.connect

    def count(self: Ledger, *rest: Any) -> Any:
        opened.append(self)
        return connect(self, *rest)

    monkeypatch.setattr(Ledger, "connect", count)
    result = asyncio.run(run_round(factory, len(POOL)))
    num_readers = len(opened)
    assert (result.number, result.promoted) == (1, promoted)
    ledger = factory.ledger
    rows = ledger.query("select stage from stage order by started_at, finished_at").rows
    assert [stage for (stage,) in rows] == stages
    assert ledger.query("select accepted, rejected from round_yield").rows == [(2, len(POOL) - 2)]
    shown = ledger.query(
        "select distinct origin from example where kind = 'invoke' order by 1"
    ).rows
    kept = sorted(f"r1/{IDS[name]}" for name in ("good", "chatty"))
    assert [origin for (origin,) in shown] == (kept if promoted else [])
    assert num_readers <= MOST_READERS


@pytest.mark.slow
def test_rounds_in_a_row_end_with_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `factory round --rounds 2`: each begins where the one before it ended."""
    workspace = make_workspace(tmp_path / "ws")
    tiny_model(workspace.root / "model")
    text = workspace.marker.read_text(encoding="utf-8")
    workspace.marker.write_text(text.replace("rounds/seed", "model"), encoding="utf-8")
    kept = [query for query in POOL if query.id in (IDS["good"], IDS["chatty"])]
    requests = workspace.root / "requests.jsonl"
    lines = (json.dumps({"query": query.text}) for query in kept)
    requests.write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setattr("factory.engines.serving.open_engine", open_replay)
    monkeypatch.setattr("factory.round.training.run_training", train_nothing)
    monkeypatch.chdir(workspace.root)
    quick = ["train.min_accepted=1", 'score.benchmarks=["home-dev"]']
    make_round(num_queries=1, queries=[requests], overrides=quick, rounds=2)
    with Ledger(workspace.state).read() as past:
        made = past.query("select checkpoint_id, parent_id from lineage order by round").rows
        noise = past.query("select points, num_changed from noise").rows
        met = past.query("select round, opponent from gate order by 1, opponent_id").rows
    (base, _), (first, of_base), (second, of_first) = made
    assert (of_base, of_first) == (base, first) and noise == [(0.0, 0)]
    assert met == [(1, "parent, best, base"), (2, "base"), (2, "parent, best")]
    shown = capsys.readouterr().out
    assert shown.rstrip().rpartition("\nbest  ")[2].startswith(f"{second}  home-dev 0.0")
    assert "calls on home-dev, tolerance 1 points, noise 0.0" in shown
