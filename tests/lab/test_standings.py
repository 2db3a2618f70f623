"""What a comparison came to: tables, records, and the published ranking beside them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from conftest_models import tiny_model
from test_compare import divided, make_bench, make_plan, make_trial, write_lists
from workspaces import ROOT, make_workspace, run_factory

from factory.cli.comparing import find_base
from factory.lab.trials.compare import Outcome, Plan, Trial, digest_trials
from factory.lab.trials.division import divide
from factory.lab.trials.labels import load_labels
from factory.lab.trials.standings import (
    RANKING,
    Standing,
    change,
    load_ranking,
    make_tables,
    rank,
)
from factory.lab.trials.tables import Spread
from factory.lab.trials.variants import choose_variants
from factory.score.published import load_published
from factory.score.toolbench.ranking import BM25, evaluate
from factory.train.curriculum import train_setup
from factory.workspace.folder import Workspace
from factory.workspace.recipe import load_recipe


def test_the_published_ranking_is_read_from_its_table() -> None:
    """Mean of I1, I2 and I3; Numerical's misplaced cells in their places (A18)."""
    (table,) = [t for t in load_published(Workspace(ROOT), "toolbench") if t.title == RANKING]
    assert table.source.endswith("Table 3") and "ndcg_hits" in table.note
    ranking = load_ranking(Workspace(ROOT))
    assert {name: round(row["ndcg_hits@1"], 2) for name, row in ranking.items()} == {
        "numeric": 76.50,
        "hierarchical": 81.33,
        "semantic": 86.17,
        "atomic": 84.50,
        "sgtc": 90.83,
    }
    fifth = (88.07 + 81.91 + 84.30) / 3
    assert ranking["numeric"]["ndcg_hits@5"] == pytest.approx(fifth)
    assert set(ranking["sgtc"]) == {"ndcg_hits@1", "ndcg_hits@3", "ndcg_hits@5"}


def test_a_workspace_without_the_table_has_no_ranking(tmp_path: Path) -> None:
    empty = 'tables = [{benchmark = "toolbench", title = "x", metric = "x", source = "x", split = '
    empty += '"x", date = "2025", kind = "published", columns = ["x"], rows = {x = [1.0]}}]\n'
    workspace = make_workspace(tmp_path / "ws", {"eval/published/sgtc.toml": empty})
    assert load_ranking(workspace) == {}


def make_outcome(folder: Path, places: dict[str, list[list[int]]]) -> tuple[Plan, Outcome]:
    """Trials whose requests have their tool at these places in turn, one list a seed."""
    plan = make_plan(folder, labelled=divided(held_out_tools=0.2))
    trials: list[Trial] = []
    found = {}
    for name, seeds in places.items():
        for seed, turns in enumerate(seeds):
            mark = f"{name}-{seed}"
            lists = found[mark] = write_lists(plan, mark, turns)
            trial = make_trial(name, seed, 0, digest=mark, values=lists.table())
            added = {"num_tools": 6, "far": 0.5 * seed, "reason": ""}
            before = (200.0, 900.0 + 200 * seed) if name == "sgtc" else None
            trials.append(replace(trial, added=added, perplexity=before))
    words = asyncio.run(evaluate(BM25(), plan.labelled.asked))
    return plan, Outcome(
        trials=tuple(trials), found=found, baselines=(words,), failed={}, unstarted=0
    )


def test_tables_have_intervals_over_requests_and_spreads_over_seeds(tmp_path: Path) -> None:
    plan, outcome = make_outcome(tmp_path, {"sgtc": [[1], [2, 1]], "quantized": [[0]]})
    standings = rank(outcome, load_ranking(Workspace(ROOT)))
    first, second, words = standings
    labelled = plan.labelled
    tables = make_tables(standings, labelled, first)
    retrieval, *groups, against, codes = tables
    assert "toolbench" in retrieval.title and "mean of splits" in retrieval.title
    assert "over 2 seeds" in retrieval.title
    assert retrieval.columns[1:] == (
        *("textbook@1", "textbook@3", "textbook@5", "hits-only@3", "hits-only@5", "recall@5"),
        "published hits-only@1/3/5",
    )
    row = dict(zip(retrieval.columns, retrieval.rows[0], strict=True))
    # Every other request is second in one of two seeds: their means are 1 and 0.5.
    estimate = first.estimate("ndcg@1", labelled.asked.queries)
    assert estimate is not None and estimate.value == pytest.approx(75)
    assert 50 < estimate.low < 75 < estimate.high < 100
    assert row["textbook@1"] == f"75.0 ({estimate.low:.1f} to {estimate.high:.1f})"
    assert row["published hits-only@1/3/5"] == "90.8/91.4/93.5"
    assert first.over_seeds("ndcg@1") == Spread(75, 25)
    assert retrieval.rows[1][1] == "0.0 (0.0 to 0.0)" and retrieval.rows[1][-1] is None
    assert [row[0] for row in retrieval.rows] == ["sgtc", "quantized", "BM25"]

    titles = [table.title for table in groups]
    assert [title.split(":")[0] for title in titles] == [
        *("tools seen", "tools document only", "tools held out"),
    ]
    held = dict(zip(groups[2].columns, groups[2].rows[0], strict=True))
    assert held["far from all codes"] == "25.0 ±25.0"
    assert groups[0].rows[2][0] == "BM25"

    assert against.title.startswith("against sgtc on the same requests")
    assert [row[0] for row in against.rows] == ["quantized", "BM25"]
    lost = change(first, second, "ndcg@1", labelled.asked.queries)
    assert lost is not None and lost.value == pytest.approx(-75) and lost.high < -50

    assert [row[0] for row in codes.rows] == ["sgtc", "quantized"]
    figures = dict(zip(codes.columns, codes.rows[0], strict=True))
    assert figures["new tokens"] == 24 and figures["length"] == "3.5 ±0.0"
    assert figures["collisions"] == "1.0 ±1.0" and figures["start alike, %"] == "25.0 ±0.0"
    assert figures["if used together, %"] is None
    assert (figures["perplexity"], figures["after"]) == ("200.0", "1,000.0 ±100.0")
    assert codes.columns[-3:] == ("fitting, s", "training, min", "all, min")

    record = json.loads(json.dumps(first.to_json(labelled, words)))
    assert record["values"]["toolbench"]["ndcg@1"]["value"] == pytest.approx(75)
    assert record["values"]["I1-Inst"]["num_requests"] == len(labelled.asked.queries)
    whole = [q for q in labelled.asked.queries if labelled.group_of(q) == "held out"]
    assert record["groups"]["held out"]["splits"]["all"]["num_requests"] == len(whole) > 0
    assert record["groups"]["held out"]["share_found@5"]["value"] > 0
    assert record["against"] == "BM25" and set(record["change"]) == {"ndcg@1", "ndcg@5", "recall@5"}
    assert record["over_seeds"]["ndcg@1"] == {"mean": 75, "sd": 25}
    assert record["figures"]["collisions_before"] == {"mean": 1, "sd": 1}
    assert record["perplexity_before"] == 200 and record["perplexity_after"]["mean"] == 1000
    assert record["far"]["mean"] == 25 and record["seconds"]["training"]["mean"] == 2
    assert record["published"]["ndcg_hits@1"] == pytest.approx(90.8333, abs=1e-3)
    assert [trial["digest"] for trial in record["trials"]] == ["sgtc-0", "sgtc-1"]
    assert words.to_json(labelled, words)["change"] is None
    assert str(Spread(1234.5, None)) == "1,234.5"


def test_an_arm_that_calls_itself_residual_has_no_published_row(tmp_path: Path) -> None:
    _, outcome = make_outcome(tmp_path, {"residual": [[1]]})
    (standing, _) = rank(outcome, load_ranking(Workspace(ROOT)))
    assert standing.published == {}


def test_changes_from_what_was_not_tried_are_not_shown_from_another(tmp_path: Path) -> None:
    plan, outcome = make_outcome(tmp_path, {"sgtc": [[1]]})
    standings = rank(outcome, {})
    assert [find_base(standings, name) for name in ("", "BM25")] == standings
    assert find_base(standings, "residual") is None
    titles = [table.title for table in make_tables(standings, plan.labelled, None)]
    assert not any(title.startswith("against") for title in titles)


def test_a_share_of_tools_counts_those_of_its_group_alone(tmp_path: Path) -> None:
    plan, outcome = make_outcome(tmp_path, {"sgtc": [[1]]})
    labelled = plan.labelled
    standing: Standing = rank(outcome, {})[0]
    marks = [
        float(sorted(query.relevant)[0] in wanted) / len(wanted)
        for query in labelled.asked.queries
        if (wanted := labelled.relevant_in(query, "seen"))
    ]
    found = standing.share_found(labelled, "seen")
    assert found is not None and found.value == pytest.approx(100 * sum(marks) / len(marks))


@pytest.mark.slow
def test_the_command_shows_known_trials_without_training(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "ws")
    bench = make_bench()
    data = tmp_path / "data"
    (data / "test_instruction").mkdir(parents=True)
    documents = [each.document for several in bench.documents.values() for each in several]
    lines = "".join(json.dumps(document) + "\n" for document in documents)
    (data / "corpus.jsonl").write_text(lines, encoding="utf-8")
    rows = [
        {
            "query_id": number,
            "query": query.text,
            "api_list": [],
            "relevant APIs": sorted(map(list, query.relevant)),
        }
        for number, query in enumerate(bench.queries)
    ]
    (data / "test_instruction" / "G1_instruction.json").write_text(json.dumps(rows), "utf-8")
    recipe = load_recipe(workspace, "cpu", {}).recipe
    plan = Plan(
        model=tiny_model(tmp_path / "model"),
        labelled=divide(load_labels(data)),
        text="",
        out=tmp_path / "out",
        workspace=workspace.root,
        variants=tuple(choose_variants(recipe, ["numeric"])),
        seeds=(0, 1),
        setup=train_setup(recipe, 0, "auto", 1),
    )
    marks = list(digest_trials(plan))
    for mark, turns in zip(marks, ([1], [2, 1]), strict=True):
        write_lists(plan, mark, turns)
    trials = [make_trial("numeric", n, 40 + 4 * n, digest=mark) for n, mark in enumerate(marks)]
    kept = [*trials, replace(trials[0], digest="another")]
    text = "".join(json.dumps(asdict(trial)) + "\n" for trial in kept)
    (plan.out / "trials.jsonl").write_text(text, encoding="utf-8")

    flags = ("--model", str(plan.model), "--out", str(plan.out), "--only", "numeric")
    command = ("codes", "compare", str(data), *flags, "--seeds", "2", "--against", "BM25")
    done = run_factory(*command, cwd=workspace.root)
    assert "2 of 2 trials are known" in done.stderr
    assert "only requests of a test: two thirds of them" in " ".join(done.stderr.split())
    for part in ("textbook@3", "hits-only@3", "75.0 (", "76.5/79.4/84.8", "new tokens", "BM25"):
        assert part in done.stdout, part
    assert "against BM25 on the same requests" in done.stdout
    shown = run_factory(*command, "--json", cwd=workspace.root).stdout
    first, *baselines = [json.loads(line) for line in shown.splitlines()]
    assert first["codes"] == "numeric" and first["seeds"] == [0, 1] and first["against"] == "BM25"
    assert [trial["digest"] for trial in first["trials"]] == marks
    assert [each["codes"] for each in baselines] == ["BM25", "EmbSim (model)"]
    more = (*command[:-1], "nobody", "--minutes", "0.0001")
    assert "--against one of numeric; BM25" in run_factory(*more, cwd=workspace.root, code=2).stderr
