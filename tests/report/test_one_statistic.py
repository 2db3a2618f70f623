"""One ledger, one set of numbers: the card, the page, `factory score` and the views."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from workspaces import make_workspace, run_factory

from factory.cli.card import print_card
from factory.cli.monitor import PlainMonitor
from factory.domain.records import ItemScore
from factory.ledger.database import Ledger
from factory.report.page import Pages
from factory.score.base import Scorable, Setup
from factory.score.calls.bfcl import OVERALL
from factory.score.calls.kind import Benchmark
from factory.score.intervals import round_estimates
from factory.score.loading import load
from factory.score.rows import scored_rows
from factory.workspace.folder import Workspace
from factory.workspace.settings import load_settings

NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


def judge_at_random(benchmark: Scorable, seed: int) -> list[ItemScore]:
    marks = random.Random(seed)
    return [
        ItemScore(
            item=item.id,
            category=item.category,
            correct=marks.random() < 0.6,
            reason="",
            message="",
            answer="",
        )
        for item in benchmark.items
    ]


def fill_ledger(workspace: Workspace, benchmarks: Sequence[Scorable]) -> Ledger:
    """A round whose two models were scored, as a round writes it."""
    setup = Setup.load(workspace, load_settings(workspace), PlainMonitor())
    ledger = setup.ledger
    made = {"round": 1, "parent_id": "base", "promoted": True}
    ledger.append(
        {
            "round": [{"round": 1, "checkpoint_id": "base", "started_at": NOON}],
            "draw": [{"round": 1, "position": 0, "query_id": "q_1"}],
            "stage": [
                {"round": 1, "stage": "gate", "seconds": 1.0, "detail_json": '{"reason": ""}'}
            ],
            "checkpoint": [
                {"checkpoint_id": "base", "round": 0, "path": "a", "fingerprint": "a"},
                {"checkpoint_id": "r1-ab", "path": "b", "fingerprint": "b", **made},
            ],
        }
    )
    for seed, name in enumerate(("base", "r1-ab")):
        for benchmark in benchmarks:
            items, basis = judge_at_random(benchmark, seed), benchmark.basis(setup)
            items[0] = replace(items[0], detail={"cut": "max_tokens"})
            ledger.append(scored_rows(1, name, benchmark, items, basis, with_questions=False))
    return ledger


def test_every_number_of_a_category_is_the_same_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = make_workspace(tmp_path / "ws")
    names = ("home", "home-dev")
    ledger = fill_ledger(workspace, [load(workspace, name) for name in names])
    with ledger.read() as past:
        pages, estimates = Pages(past, workspace), round_estimates(past, 1)
        shown = pages.show("scores", {"round": 1}, estimates).rows
        changed = pages.show("changes", {"round": 1}, estimates).rows
    deltas = ledger.query("select benchmark, category, before, after, delta from round_delta").rows
    scored = {
        name: json.loads(
            run_factory(
                *("score", name, "--checkpoint", "r1-ab", "--before", "base", "--json"),
                cwd=workspace.root,
            ).stdout
        )
        for name in names
    }
    page = {(r["benchmark"], r["category"], r["model"]): r for r in shown}
    change = {(r["benchmark"], r["category"]): r for r in changed}
    print_card(ledger, 1, workspace)
    card = capsys.readouterr().out
    for name, category, before, after, delta in deltas:
        others = {other["system"]: other for other in scored[name]["others"]}
        for system, model, value in (("base", "parent", before), ("r1-ab", "new", after)):
            report = others.get(system, scored[name])
            lines = report["categories"] if category != "overall" else report["averages"]
            (line,) = (line for line in lines if line["name"] == category)
            row = page[name, category, model]
            assert row["percent"] == value == pytest.approx(line["value"], rel=1e-12)
            assert (line["low"], line["high"]) == (row["low"], row["high"])
            assert line["num_items"] == row["items"]
        told = re.escape(f"{delta:+.1f}")
        row = change[name, category]
        told += re.escape(f" [{row['low']:+.1f}, {row['high']:+.1f}]")
        lines = scored[name]["change"]["averages" if category == "overall" else "categories"]
        if category == "overall":
            assert re.search(rf"{name} +{before:.1f} .* → {after:.1f} .* {told}\n", card)
        else:
            assert re.search(rf" {category} +{before:.1f} → {after:.1f} +{told}\n", card)
        (line,) = (x for x in lines if x["name"] == category)
        assert (line["low"], line["high"]) == (row["low"], row["high"]) and row["low"] < row["high"]
        assert line["value"] == pytest.approx(row["points"]) == pytest.approx(delta)
    assert len(deltas) == 10
    assert scored["home"]["cut"] == {"max_tokens": 1}
    assert "home: 1 of the new model's answers cut at max_tokens" in card


def test_the_change_of_an_average_has_its_paired_interval_on_page_and_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = make_workspace(tmp_path / "ws")
    home, names = load(workspace, "home"), [*OVERALL]
    assert isinstance(home, Benchmark)
    items = [replace(x, category=names[n % len(names)]) for n, x in enumerate(home.items)]
    benchmark = replace(home, items=tuple(items), average="tooldev")
    ledger = fill_ledger(workspace, [benchmark])
    expected = benchmark.change(*(judge_at_random(benchmark, seed) for seed in (0, 1)))
    every = (*expected.averages, *expected.categories)
    lines = {line.title: line for line in every if line.estimate}
    lines["overall"] = lines.pop("tooldev: overall")
    with ledger.read() as past:
        estimates = round_estimates(past, 1)
        shown = Pages(past, workspace).show("changes", {"round": 1}, estimates).rows
    assert {row["category"] for row in shown} == set(lines)
    for row in shown:
        found = lines[row["category"]].estimate
        assert found is not None
        assert row["points"] == pytest.approx(found.value)
        assert (row["low"], row["high"]) == (found.low, found.high)
        assert row["items"] == lines[row["category"]].num_items
    print_card(ledger, 1, workspace)
    card = capsys.readouterr().out
    live = lines["tooldev: live"].estimate
    assert live is not None
    told = f"{live.value:+.1f} [{live.low:+.1f}, {live.high:+.1f}]"
    assert re.search(rf"tooldev: live .*{re.escape(told)}\n", card)


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({}, ""),
        ({"pairs": None}, ""),
        ({"pairs": 7}, "codes: drawn together by 7 pairs"),
        ({"pairs": 0}, "codes: no two tools are known to be used together"),
    ],
)
def test_the_card_says_how_many_pairs_drew_codes_together(
    facts: dict[str, object], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = make_workspace(tmp_path / "ws")
    ledger = fill_ledger(workspace, [])
    detail = json.dumps({"examples": 1, "dropped": {}, **facts})
    ledger.append(
        {
            "training": [{"round": 1, "step": 1, "loss": 1.0, "tokens": 9, "seconds": 1.0}],
            "stage": [{"round": 1, "stage": "train", "seconds": 1.0, "detail_json": detail}],
        }
    )
    print_card(ledger, 1, workspace)
    card = capsys.readouterr().out
    assert told in card and ("codes:" in card) == bool(told)
