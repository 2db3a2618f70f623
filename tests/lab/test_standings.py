"""What a comparison came to: tables, records, and the published ranking beside them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from conftest_models import tiny_model
from test_compare import make_bench, make_trial
from workspaces import ROOT, make_workspace, run_factory

from factory.lab.trials.compare import Plan, digest_trials, divide, standard_variants
from factory.lab.trials.standings import RANKING, Spread, load_ranking, make_tables, rank
from factory.score.published import load_published
from factory.score.toolbench.data import load_toolbench
from factory.score.toolbench.ranking import BM25, evaluate
from factory.train.curriculum import need_codes, train_setup
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
        "residual": 90.83,
    }
    fifth = (88.07 + 81.91 + 84.30) / 3
    assert ranking["numeric"]["ndcg_hits@5"] == pytest.approx(fifth)
    assert set(ranking["residual"]) == {"ndcg_hits@1", "ndcg_hits@3", "ndcg_hits@5"}


def test_a_workspace_without_the_table_has_no_ranking(tmp_path: Path) -> None:
    empty = 'tables = [{benchmark = "toolbench", title = "x", metric = "x", source = "x", split = '
    empty += '"x", date = "2025", kind = "published", columns = ["x"], rows = {x = [1.0]}}]\n'
    workspace = make_workspace(tmp_path / "ws", {"eval/published/sgtc.toml": empty})
    assert load_ranking(workspace) == {}


def test_tables_have_means_and_spreads_of_both_readings() -> None:
    trials = [
        make_trial("residual", 0, 40, perplexity=(200.0, 900.0)),
        make_trial("residual", 1, 44, perplexity=(200.0, 1100.0)),
        make_trial("quantized", 0, 30),
    ]
    words = asyncio.run(evaluate(BM25(), divide(make_bench(), 1 / 3).asked))
    standings = rank(trials, [words], load_ranking(Workspace(ROOT)))
    retrieval, codes = make_tables(standings)
    assert "toolbench" in retrieval.title and "over 2 seeds" in retrieval.title
    names = ("codes", "textbook@1", "textbook@3", "textbook@5")
    names += ("hits-only@1", "hits-only@3", "hits-only@5", "recall@5", "published hits-only@1/3/5")
    assert retrieval.columns == names
    first, second, third = retrieval.rows
    assert first[:5] == ("residual", "42.0 ±2.0", "42.0 ±2.0", "42.0 ±2.0", "52.0 ±2.0")
    assert first[-2:] == ("62.0 ±2.0", "90.8/91.4/93.5")
    assert second[:2] == ("quantized", "30.0") and second[-1] is None
    assert third[0] == "BM25" and third[-1] is None
    assert third[1] == f"{words.table()['mean']['ndcg@1']:.1f}"

    assert [row[0] for row in codes.rows] == ["residual", "quantized"]
    figures = dict(zip(codes.columns, codes.rows[0], strict=True))
    assert figures["new tokens"] == 24 and figures["length"] == "3.5 ±0.0"
    assert figures["collisions"] == "1.0 ±1.0" and figures["start alike, %"] == "25.0 ±0.0"
    assert figures["if used together, %"] is None
    assert (figures["perplexity"], figures["after"]) == ("200.0", "1,000.0 ±100.0")
    assert codes.rows[1][-2:] == (None, None)

    record = json.loads(json.dumps(standings[0].to_json()))
    assert record["values"]["toolbench"]["ndcg_hits@3"] == {"mean": 52, "sd": 2}
    assert record["figures"]["collisions_before"] == {"mean": 1, "sd": 1}
    assert record["perplexity_before"] == 200 and record["perplexity_after"]["mean"] == 1000
    assert [trial["values"]["mean"]["ndcg@1"] for trial in record["trials"]] == [40, 44]
    assert record["published"]["ndcg_hits@1"] == pytest.approx(90.8333, abs=1e-3)
    assert standings[2].to_json()["trials"] == [] and str(Spread(1234.5, None)) == "1,234.5"


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
        bench=load_toolbench(data),
        text="",
        out=tmp_path / "out",
        workspace=workspace.root,
        variants=(standard_variants(need_codes(recipe))["numeric"],),
        seeds=(0, 1),
        setup=train_setup(recipe, 0, "auto", 1),
    )
    marks = digest_trials(plan, divide(plan.bench, plan.held_out)).values()
    trials = [make_trial("numeric", n, 40 + 4 * n, digest=mark) for n, mark in enumerate(marks)]
    plan.out.mkdir()
    kept = [*trials, replace(trials[0], digest="another")]
    text = "".join(json.dumps(asdict(trial)) + "\n" for trial in kept)
    (plan.out / "trials.jsonl").write_text(text, encoding="utf-8")

    flags = ("--model", str(plan.model), "--out", str(plan.out), "--only", "numeric")
    command = ("codes", "compare", str(data), *flags, "--seeds", "2")
    done = run_factory(*command, cwd=workspace.root)
    assert "2 of 2 trials are known" in done.stderr
    for part in ("textbook@3", "hits-only@3", "42.0 ±2.0", "76.5/79.4/84.8", "new tokens", "BM25"):
        assert part in done.stdout, part
    shown = run_factory(*command, "--json", cwd=workspace.root).stdout
    first, *baselines = [json.loads(line) for line in shown.splitlines()]
    assert first["codes"] == "numeric" and first["seeds"] == [0, 1]
    assert [trial["digest"] for trial in first["trials"]] == list(marks)
    assert [each["codes"] for each in baselines] == ["BM25", "EmbSim (model)"]
