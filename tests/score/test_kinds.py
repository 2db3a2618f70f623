"""`factory score` on every kind of benchmark, with a model behind HTTP where one is asked."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from conftest_models import tiny_model
from model_server import serving
from test_apibank_teval import GOOD, write_apibank, write_teval
from test_retrieval import APIS, STABLE, needs, write_sense
from test_scoring import store_items
from workspaces import ROOT, make_workspace, run_factory

from factory.cli.app import app
from factory.cli.monitor import PlainMonitor
from factory.codes.growing import fit_codebook
from factory.codes.saving import SavedCodebook, load_codebook, save_codebook
from factory.domain.failures import ContentError, FactoryError, InputError
from factory.domain.records import (
    PROMPT_TOO_LONG,
    Checkpoint,
    Completion,
    ItemScore,
    Reply,
    Request,
)
from factory.engines.base import Engine
from factory.engines.process import ProcessEngine
from factory.engines.replay import ReplayEngine
from factory.engines.serving import engine_settings
from factory.ledger.database import Ledger
from factory.ledger.lineage import find_checkpoint
from factory.lessons.readers import read_row
from factory.report.page import Pages
from factory.round import scoring
from factory.round.factory import Factory, load_factory
from factory.round.start import start
from factory.score.base import Setup
from factory.score.card import Scorecard
from factory.score.evaluate import evaluate
from factory.score.items import Item
from factory.score.kept import KeepingEngine
from factory.score.loading import KINDS, defined, find_fault, kind_of, load
from factory.score.published import load_published
from factory.score.toolbench.completion import TaskCompletion
from factory.score.toolbench.data import load_toolbench, to_tool
from factory.score.toolbench.judge import read_predictions
from factory.score.toolbench.ranking import METRICS
from factory.workspace.folder import Workspace
from factory.workspace.recipe import load_recipe
from factory.workspace.settings import Settings, load_settings

pytest.importorskip("httpx", reason="no httpx: pip install 'tool-factory[http]'")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    made = make_workspace(tmp_path / "ws")
    monkeypatch.chdir(made.root)
    return made


def score(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    """The JSON that `factory score` prints."""
    app(["score", *map(str, arguments), "--threads", "1", "--json"], standalone_mode=False)
    return json.loads(capsys.readouterr().out)


def show(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What it prints for people."""
    app(["score", *map(str, arguments), "--threads", "1"], standalone_mode=False)
    return capsys.readouterr().out


def values(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {f"{line['scheme']} {line['name']}".strip(): line["value"] for line in lines}


def ask(workspace: Workspace, sql: str) -> list[tuple[Any, ...]]:
    return Ledger(workspace.state).query(sql).rows


# Definitions ------------------------------------------------------------------------------


def test_shipped_definitions_of_other_kinds_lack_only_their_data(workspace: Workspace) -> None:
    kinds = {name: kind_of(workspace, name) for name in defined(workspace)}
    calls = {name for name, kind in kinds.items() if kind == "calls"}
    assert calls == {"bfcl", "home", "home-abstain", "home-dev", "home-few"}
    assert {kind for kind in kinds.values() if kind != "calls"} == set(KINDS)
    for name, kind in kinds.items():
        if kind not in ("calls", "memory"):
            fault = find_fault(workspace, name)
            assert "without its data" in fault and f"factory score {name} --data" in fault
    assert find_fault(workspace, "home") == find_fault(workspace, "memory") == ""
    about = {table.benchmark for table in load_published(workspace)}
    assert about - {"toolbench-data"} <= set(kinds)


def test_the_list_names_kinds_and_what_is_missing(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    app(["eval", "list", "--json"], standalone_mode=False)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = {row["benchmark"]: row for row in rows}
    assert found["toolbench"]["kind"] == "retrieval" and "--data" in found["toolbench"]["fault"]
    assert found["home"] | {"title": ""} == {
        "benchmark": "home",
        "kind": "calls",
        "title": "",
        "fault": "",
    }
    app(["eval", "list"], standalone_mode=False)
    assert "toolbench-completion" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('kind = "poetry"', "no kind of benchmark 'poetry'"),
        ('kind = "apibank"\nwindow = 3', "window: unknown key"),
        ('kind = "language"\nwindow = "wide"', "window"),
        ('kind = "teval"\ndata = "elsewhere"', "there is no .*elsewhere"),
        ('kind = "retrieval"\nsettings = []', "settings"),
    ],
)
def test_broken_definitions_are_named(workspace: Workspace, text: str, what: str) -> None:
    file = workspace.root / "eval" / "mine.toml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(f'title = "Mine"\nsplit = "test"\n{text}\n')
    with pytest.raises(ContentError, match=what):
        load(workspace, "mine")


def test_data_are_found_beside_the_workspace_and_changes_are_in_the_name(
    workspace: Workspace,
) -> None:
    write_apibank(workspace.root / "bank")
    whole = load(workspace, "apibank", {"data": "bank"})
    part = load(workspace, "apibank", {"data": str(workspace.root / "bank"), "limit": 1})
    assert (whole.name, part.name) == ("apibank", "apibank[limit=1]")
    assert (len(whole.items), len(part.items)) == (3, 2)
    assert whole.categories == ("Call", "Retrieve+Call")


def test_a_round_refuses_a_benchmark_without_its_data(workspace: Workspace) -> None:
    settings = load_settings(workspace)
    for name, what in (("toolbench", "without its data"), ("toolbench-completion", "without")):
        recipe = load_recipe(workspace, settings.recipe, {"score.benchmarks": f'["{name}"]'})
        with pytest.raises(ContentError, match=what):
            load_factory(workspace, settings, recipe, PlainMonitor())


def test_only_calls_may_gate(workspace: Workspace) -> None:
    write_apibank(workspace.root / "bank")
    text = (ROOT / "eval/apibank.toml").read_text("utf-8")
    text = text.replace('data = ""', 'data = "bank"').replace('"test"', '"dev"')
    (workspace.root / "eval").mkdir(exist_ok=True)
    (workspace.root / "eval/apibank.toml").write_text(text)
    settings = load_settings(workspace)
    recipe = load_recipe(workspace, settings.recipe, {"score.dev": "apibank"})
    with pytest.raises(ContentError, match="not answered by calls"):
        load_factory(workspace, settings, recipe, PlainMonitor())


# Retrieval --------------------------------------------------------------------------------


def write_stable(folder: Path) -> Path:
    (folder / "test_instruction").mkdir(parents=True)
    relevant = [["Kettle", "boil"]]
    rows = [
        {
            "query": f"Boil {n} cups.",
            "query_id": n,
            "api_list": APIS,
            "relevant APIs": relevant,
        }
        for n in (1, 2, 3)
    ]
    (folder / "test_instruction" / "G1_instruction.json").write_text(json.dumps(rows))
    return folder


def coded_model(folder: Path, data: Path) -> Path:
    """A model whose codes name all APIs of a ToolBench folder."""
    import numpy as np
    from transformers import AutoTokenizer

    documents = load_toolbench(data).documents
    tools = list({t.id: t for x in documents.values() for t in map(to_tool, x)}.values())
    vectors = np.random.default_rng(0).normal(size=(len(tools), 8)).astype(np.float32)
    codebook = fit_codebook(tools, vectors, seed=1)
    tiny_model(folder, extra_tokens=[token for level in codebook.tokens for token in level])
    save_codebook(codebook, folder, AutoTokenizer.from_pretrained(folder))
    return folder


def test_retrieval_beside_bm25_in_the_ledger(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("bm25s", reason="no bm25s: pip install 'tool-factory[eval]'")
    data = write_stable(tmp_path / "stable")
    model = coded_model(tmp_path / "coded", data)
    arguments = ("toolbench", "--data", data, "--checkpoint", model)
    found = score(capsys, *arguments)
    assert (found["benchmark"], found["unit"], found["items"]) == ("toolbench", "percent", 6)
    assert found["change"] is None, "compared with nothing"
    names = [line["name"] for line in found["categories"]]
    assert names == ["multi-domain I1-Inst", "in-domain I1-Inst"]
    (bm25,) = found["others"]
    assert (bm25["system"], bm25["kind"]) == ("BM25", "baseline")
    assert values(bm25["averages"])["mean multi-domain"] == 100, "the word boil says it"
    details = {(x["scheme"], x["metric"], x["name"]): x for x in found["details"]}
    assert {name for _, _, name in details} == {"I1-Inst", "mean"}
    assert details["multi-domain", "recall@5", "mean"]["value"] == 100, "few tools, all returned"
    assert all(x["low"] <= x["value"] <= x["high"] for x in found["details"])
    # Each request in each setting is a row with all measures; a baseline is no checkpoint.
    sql = (
        "select checkpoint_id, count(*), min(value), max(detail_json->>'recall@5') from item_score"
    )
    rows = ask(workspace, f"{sql} group by 1 order by 1")
    assert [row[:2] for row in rows] == [("BM25", 6), (found["checkpoint"], 6)]
    assert rows[1][3] == "1.0"
    assert ask(workspace, "select count(*) from checkpoint") == [(1,)]
    assert ask(workspace, "select distinct query from benchmark_item order by 1") == [
        (f"Boil {n} cups.",) for n in (1, 2, 3)
    ]
    again = show(capsys, *arguments)
    assert "from the ledger" in again and "ndcg_hits@5" in again and "baseline" in again
    assert "SGTC (anonymous submission), Table 1" in again and "measured here" in again
    assert ask(workspace, "select count(*) from item_score") == [(12,)]
    with pytest.raises(InputError, match="folder, not its server"):
        score(capsys, *arguments[:3], "--checkpoint", "http://127.0.0.1:1/v1#x")


def test_what_changed_stands_in_the_table_of_the_measures(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setup, data = open_setup(workspace), write_stable(tmp_path / "stable")
    retrieval = load(workspace, "toolbench", {"data": str(data)})
    row = {"round": 0, "path": "", "fingerprint": "", "promoted": True}
    setup.ledger.append({"checkpoint": [{**row, "checkpoint_id": each} for each in "mn"]})
    for name, marks in (("m", (1, 0.5, 0.2)), ("n", (0.6, 1, 0.8))):
        items = [marked(item, mark) for item, mark in zip(retrieval.items, marks * 2, strict=True)]
        store_items(setup, 0, name, retrieval, items, retrieval.basis(setup))
    arguments = ("toolbench", "--data", data, "--set", "bm25=false", "--checkpoint", "n")
    change = score(capsys, *arguments, "--before", "m")["change"]
    assert change["from"] == "m" and len(change["details"]) == 2 * 2 * len(METRICS)
    assert {round(line["value"], 3) for line in change["details"]} == {23.333}
    assert values(change["averages"]) == pytest.approx(
        {"mean multi-domain": 23.333, "mean in-domain": 23.333}, abs=1e-3
    )
    measures = show(capsys, *arguments, "--before", "m").partition("no full mark")[0]
    assert measures.count("kind") == 1, "one table"
    cells = r" +\+23\.3 \[-40\.0, \+60\.0\]" * 2
    for setting in ("multi-domain", "in-domain"):
        assert re.search(rf"{setting} +ndcg@5 +change +points{cells}", measures)
    assert "change" not in show(capsys, *arguments).partition("no full mark")[0]


def test_published_columns_meet_the_measured_hits(workspace: Workspace, tmp_path: Path) -> None:
    kind = load(workspace, "toolbench", {"data": str(write_stable(tmp_path / "stable"))})
    from factory.score.toolbench.data import ApiKey
    from factory.score.toolbench.retrieval import judge_ranking

    boil, other = ApiKey("Kettle", "boil"), ApiKey("Kettle", "keep")
    items = [
        judge_ranking(item, [other, boil] if "multi" in item.id else [boil], None)
        for item in kind.items
    ]
    card = kind.card(items[::-1])
    tables = {table.title: table for table in load_published(workspace, "toolbench")}
    multi = kind.beside(tables["Tool retrieval, multi-domain"], card)
    assert multi["I1 NDCG@1"] == 0 and multi["I1 NDCG@3"] == pytest.approx(63.09, abs=0.01)
    assert kind.beside(tables["Tool retrieval, in-domain"], card)["I1 NDCG@1"] == 100
    assert {item.reason for item in items} == {"ranked_low", ""}
    nothing = judge_ranking(kind.items[0], [], set())
    assert (nothing.reason, nothing.value, nothing.correct) == ("no_code", 0, False)


def test_pooled_splits_are_the_published_pools(workspace: Workspace, tmp_path: Path) -> None:
    """Each request weighs the same in a pool, and a pool that lacks a split is left blank."""
    data = write_stable(tmp_path / "stable") / "test_instruction"
    rows = json.loads((data / "G1_instruction.json").read_text())
    for name, number in {"G1_tool": 1, "G1_category": 2, "G2_instruction": 1}.items():
        (data / f"{name}.json").write_text(json.dumps(rows[:number]))
    kind = load(workspace, "toolbench", {"data": str(data.parent)})
    marks = {"I1-Inst": 1.0, "I1-Tool": 0.0, "I1-Cat": 0.5, "I2-Inst": 0.5}
    items = [marked(item, marks[item.category.split()[1]]) for item in kind.items]
    card = kind.card(items)
    tables = {table.title: table for table in load_published(workspace, "toolbench")}
    (pool,) = {line.name for line in card.details if line.scheme == "multi-domain pooled"}
    assert pool == "I1"
    for setting in ("multi-domain", "in-domain"):
        pooled = kind.beside(tables[f"ToolGen: tool retrieval, {setting}"], card)
        assert pooled["I1 NDCG@3"] == pytest.approx(100 * 4 / 6) and "I2 NDCG@3" not in pooled
    assert kind.beside(tables["Tool retrieval, multi-domain"], card)["I1 NDCG@3"] == 100


def test_measures_that_an_older_score_lacks_are_left_out(
    workspace: Workspace, tmp_path: Path
) -> None:
    kind = load(workspace, "toolbench", {"data": str(write_stable(tmp_path / "stable"))})
    new = [marked(item, 1) for item in kind.items]
    old = [
        replace(x, detail={k: v for k, v in x.detail.items() if not k.startswith("hit@")})
        for x in new
    ]
    assert {x.metric for x in kind.card(new).details} == set(METRICS)
    lacking = {x.metric for x in kind.change(old, new).details}
    assert lacking == {metric for metric in METRICS if not metric.startswith("hit@")}


def test_toolsense_by_complexity_beside_bm25(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("bm25s", reason="no bm25s: pip install 'tool-factory[eval]'")
    data = write_sense(tmp_path)
    model = tiny_model(workspace.root / "bare")
    arguments = ("toolsense", "--data", data, "--set", f"corpus={data}", "--checkpoint", model)
    found = score(capsys, *arguments)
    assert found["benchmark"] == "toolsense" and found["reasons"] == {"no_code": 3}
    assert values(found["averages"]) == {"by requests multi-domain": 0}
    details = {(x["metric"], x["name"]): x for x in found["others"][0]["details"]}
    assert {name for _, name in details} == {"easy", "medium", "hard", "all"}
    for metric in METRICS:
        parts = [details[metric, name]["value"] for name in ("easy", "medium", "hard")]
        whole = details[metric, "all"]
        assert whole["value"] == pytest.approx(sum(parts) / 3)
        assert whole["low"] <= whole["value"] <= whole["high"]
    part = score(capsys, *arguments, "--category", "easy", "--set", "bm25=false")
    assert (part["benchmark"], part["items"]) == ("toolsense[splits=easy]", 1)
    assert "left out: none of its tools" not in show(capsys, *arguments)


def test_without_codes_nothing_is_found_but_by_embeddings(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_stable(tmp_path / "stable")
    model = tiny_model(workspace.root / "bare")
    arguments = ("toolbench", "--data", data, "--checkpoint", model, "--set", "bm25=false")
    found = score(capsys, *arguments)
    assert found["others"] == [] and found["reasons"] == {"no_code": 6}
    assert values(found["averages"]) == {"mean multi-domain": 0, "mean in-domain": 0}
    found = score(capsys, *arguments, "--set", 'embedders=["bare"]')
    (similar,) = found["others"]
    assert (found["benchmark"], similar["system"]) == ("toolbench", "EmbSim (bare)")
    details = {(x["scheme"], x["metric"], x["name"]): x["value"] for x in similar["details"]}
    assert details["multi-domain", "recall@5", "mean"] == 100, "few tools, all returned"
    assert 0 < details["multi-domain", "mrr", "mean"] <= 100


def test_bm25_on_real_data(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("bm25s", reason="no bm25s: pip install 'tool-factory[eval]'")
    found = score(capsys, "toolbench", "--data", needs(STABLE), "--category", "I3-Inst")
    assert (found["benchmark"], found["items"]) == ("toolbench[splits=I3-Inst]", 42)
    (bm25,) = found["others"]
    assert values(bm25["categories"])["multi-domain I3-Inst"] == pytest.approx(48, abs=1)


# API-Bank, T-Eval, served by others -------------------------------------------------------


def test_apibank(workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_apibank(tmp_path / "bank")
    with serving(lambda _: "API-Request: [SetLamp(room='hall', level='high')]") as server:
        model = f"{server.url}#caller"
        arguments = ("apibank", "--data", folder, "--checkpoint", model)
        found = score(capsys, *arguments)
        assert values(found["categories"]) == {"Call": 50, "Retrieve+Call": 0}
        assert values(found["averages"]) == {"tooldev overall": 25}
        assert found["published"][0]["benchmark"] == "apibank"
        shown = show(capsys, *arguments)
        assert "2 wrong_tool" in shown and "scored now" in shown, "a server may have changed"
        assert {body["model"] for body in server.seen} == {"caller"}
        part = score(capsys, *arguments, "--limit", 1, "--before", model)
        assert part["benchmark"] == "apibank[limit=1]" and part["items"] == 2
        changes = show(capsys, *arguments, "--before", model).partition("change from ")[2]
        assert re.search(r"Retrieve\+Call +1 +\+0\.00 +\[\+0\.0, \+0\.0\]", changes)
        home = score(capsys, "home", "--limit", 1, "--checkpoint", model)
        assert home["items"] == 4 and home["prompt"] == "own" and home["averages"][0]["value"] == 0
    rows = ask(workspace, "select category, value, unit from score where benchmark = 'apibank'")
    assert set(rows) == {
        ("overall", 25, "percent"),
        ("Call", 50, "percent"),
        ("Retrieve+Call", 0, "percent"),
    }
    assert ask(workspace, "select count(*) from checkpoint") == [(0,)], "a server has no weights"


def test_an_average_with_a_part_missing_is_not_the_score(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_apibank(tmp_path / "bank")
    (folder / "level-2-api.json").unlink()
    with serving(lambda _: "API-Request: [SetLamp(room='hall', level='high')]") as server:
        arguments = ("apibank", "--data", folder, "--checkpoint", f"{server.url}#caller")
        found = score(capsys, *arguments)
        assert values(found["averages"]) == {"mean overall": 50, "tooldev overall": None}
        assert "tooldev: overall needs Retrieve+Call" in show(capsys, *arguments)


def test_teval(workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_teval(tmp_path / "data")
    with serving(lambda _: GOOD["retrieve+understand_json"]) as server:
        found = score(capsys, "teval", "--data", folder, "--checkpoint", f"{server.url}#caller")
    assert values(found["categories"])["retrieve_json"] == 100
    averages = values(found["averages"])
    parts = [averages[f"tooldev {task}"] for task in ("plan", "retrieve", "understand")]
    assert averages["tooldev overall"] == pytest.approx(sum(parts) / 3)
    items = ask(workspace, "select item, correct, value from item_score order by item")
    assert ("retrieve_json/q1", True, 1) in items and len(items) == 8


# TaskCompletion -------------------------------------------------------------------------------


def agent_and_judge(body: dict[str, Any]) -> str:
    """One model for all parts: it calls the first tool, then Finish, and judges kindly."""
    last = body["messages"][-1]["content"]
    mumbles = body["model"] == "mumbling"
    if '"status"' in last:
        return '{"status": "Solved"}' if not mumbles or "Boil 1 cups." in last else "Well done."
    if '"better"' in last:
        return '{"better": "A"}' if not mumbles else "Both boil."
    if "play an API server" in last:
        return '{"error": "", "response": "boiled"}'
    if body["model"] == "worse" and '"name": "Finish"' in last:
        return '{"return_type": "give_up_and_restart"}'
    if last == "Generate the action.":
        called = any("boiled" in message["content"] for message in body["messages"])
        return "Finish" if called else "boil_for_kettle"
    if '"name": "Finish"' in last:
        return '{"return_type": "give_answer", "final_answer": "It boils."}'
    return '{"cups": 2}' if "documentation" in last else "Water first."


def test_completion(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, saved = write_stable(tmp_path / "stable"), tmp_path / "ours.json"
    with serving(agent_and_judge) as server:
        model = f"{server.url}#all"
        common = ("toolbench-completion", "--data", folder, "--checkpoint", model, "--limit", 2)
        common = (*common, "--set", f"judge={model}")
        found = score(capsys, *common, "--set", "setting=gt", "--save", saved)
        assert found["benchmark"] == "toolbench-completion[limit=2,setting=gt]"
        assert values(found["averages"]) == {"mean SoPR": 100, "by requests SoPR": 100}
        note = "0 of 6 judgements unread; std 0.00; runs 100.00, 100.00, 100.00"
        assert found["categories"][0]["note"] == note
        answers = read_predictions(saved)
        assert {each.final_answer for each in answers.values()} == {"It boils."}
        rows = json.loads(saved.read_text())
        lessons = read_row(rows, saved.name)[1]
        assert {each.fault and each.fault.rule for each in lessons} == {"round/eval_overlap"}
        own = {key: row | {"split": "dev"} for key, row in rows.items()}
        calls = [step.call.name for step in read_row(own, saved.name)[1][0].steps]
        assert calls == ["boil_for_kettle", "Finish"] and rows["I1-Inst/1"]["solved"]
        kept = workspace.state / "toolbench" / "made_up.jsonl"
        assert [json.loads(line)["response"] for line in kept.read_text().splitlines()] == [
            "boiled"
        ]
        # Published answers have bare numbers for ids.
        table = {key.split("/")[1]: row for key, row in json.loads(saved.read_text()).items()}
        table["1"]["answer"]["final_answer"] = "It may boil."
        saved.write_text(json.dumps({"1": table["1"]}))
        arguments = (*common, "--set", f'reference="{saved}"')
        lines = {line["name"]: line for line in score(capsys, *arguments)["categories"]}
        won = lines["SoWR I1-Inst"]
        note = "1 tied, 0 lost, 0 unjudged of 2; 0 of 6 votes unread"
        assert (won["value"], won["note"]) == (50, note)
        assert "StableToolBench solvable queries" in show(capsys, *arguments)
        unread = (*arguments, "--set", f"judge={server.url}#mumbling")
        found = score(capsys, *unread)
        notes = [line["note"] for line in found["categories"]]
        assert notes == [
            "3 of 6 judgements unread; std 0.00; runs 50.00, 50.00, 50.00",
            "0 tied, 0 lost, 1 unjudged of 2; 3 of 6 votes unread",
        ]
        assert values(found["categories"]) == {"SoPR I1-Inst": 50, "SoWR I1-Inst": 50}
        assert found["reasons"] == {"unjudged": 2}
        shown = " ".join(show(capsys, *unread).split())
        assert all(note in shown for note in notes) and "2 unjudged" in shown
        arguments = (*arguments, "--before", f"{server.url}#worse")
        change = values(score(capsys, *arguments)["change"]["averages"])
        assert change == {
            "mean SoPR": 100,
            "by requests SoPR": 100,
            "mean SoWR": 0,
            "by requests SoWR": 0,
        }, "each request is solved now; the one without a reference was won before too"
        shown = show(capsys, *arguments).partition("change from ")[2]
        assert re.search(r"mean: SoPR +2 +\+100\.00 +\[\+100\.0, \+100\.0\]", shown)
        assert not re.search(r"^mean ", shown, re.MULTILINE), "no mean over SoPR and SoWR"
    (row,) = ask(
        workspace,
        "select distinct message, detail_json->>'statuses' from item_score "
        "where item = 'SoPR/I1-Inst/1' and checkpoint_id like '%#all'",
    )
    assert row == ("judged Solved, Solved, Solved", '["Solved","Solved","Solved"]')
    with pytest.raises(ContentError, match="no judge"):
        score(capsys, "toolbench-completion", "--data", folder)


def test_a_model_without_codes_gets_its_names_from_a_retriever(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Never from the answer: APIs that no word of the request speaks of are not listed."""
    pytest.importorskip("bm25s", reason="no bm25s: pip install 'tool-factory[eval]'")
    folder = write_stable(tmp_path / "stable")
    with serving(agent_and_judge) as server:
        model = f"{server.url}#all"
        common = ("toolbench-completion", "--data", folder, "--checkpoint", model, "--limit", 1)
        common = (*common, "--set", f"judge={model}", "--set", "runs=1")
        found = score(capsys, *common)
        assert values(found["averages"])["mean SoPR"] == 100
        listed = [body["messages"][0]["content"] for body in server.seen]
        (agent,) = {text for text in listed if "Finish" in text and "API server" not in text}
        assert "boil_for_kettle" in agent and "_for_lamp" not in agent
        switches = {"setting": "retrieval", "decode": "sample", "constrain": "on", "retry": "on"}
        switches |= {"retriever": "bm25", "top": "5"}
        assert switches.items() <= found.items()
        assert "retry on, retriever bm25, top 5" in " ".join(show(capsys, *common).split())
        tiny_model(workspace.root / "bare")
        near = score(capsys, *common, "--set", "retriever=bare", "--set", "top=3")
        assert (near["retriever"], near["benchmark"]) == (
            "bare",
            "toolbench-completion[limit=1,runs=1,top=3]",
        )
        assert any("_for_lamp" in body["messages"][0]["content"] for body in server.seen)


def test_attempts_after_the_first_can_be_switched_off(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_stable(tmp_path / "stable")
    with serving(agent_and_judge) as server:
        model = f"{server.url}#worse"
        common = ("toolbench-completion", "--data", folder, "--checkpoint", model, "--limit", 1)
        common = (*common, "--set", f"judge={model}", "--set", "setting=gt")
        assert score(capsys, *common)["retry"] == "on"
        assert score(capsys, *common, "--set", "retry=false")["retry"] == "off"
    kept = "detail_json->>'retry', detail_json->>'attempts'"
    rows = ask(workspace, f"select {kept}, benchmark from item_score order by 1")
    assert [row[:2] for row in rows] == [("off", "1"), ("on", "5")]
    assert rows[0][2] == "toolbench-completion[limit=1,retry=False,setting=gt]"


def test_the_trie_can_be_taken_off_the_agents_codes(workspace: Workspace, tmp_path: Path) -> None:
    data = write_stable(tmp_path / "stable")
    model, setup = coded_model(tmp_path / "coded", data), open_setup(workspace)
    checkpoint = find_checkpoint(workspace, setup.settings, setup.ledger, str(model))
    for setting in ("retrieval", "gt"):
        for constrain in (True, False):
            changes = {"data": str(data), "judge": "x", "setting": setting, "constrain": constrain}
            kind = load(workspace, "toolbench-completion", changes)
            assert isinstance(kind, TaskCompletion)
            at_hand = asyncio.run(kind._actions(setup, checkpoint, tmp_path / "tries"))
            assert (at_hand(kind.bench.queries[0]).constraint is not None) is constrain
            assert kind.asked["constrain"] == ("on" if constrain else "off")


def test_a_beam_without_a_trie_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    data = write_stable(tmp_path / "stable")
    changes = {"data": str(data), "judge": "x", "decode": "beam", "constrain": False}
    with pytest.raises(ContentError, match="a beam searches a trie") as refused:
        load(workspace, "toolbench-completion", changes)
    assert "constrain = true" in refused.value.remedy


def test_pooled_requests_of_completion(workspace: Workspace, tmp_path: Path) -> None:
    data = write_stable(tmp_path / "stable") / "test_instruction"
    rows = json.loads((data / "G1_instruction.json").read_text())
    (data / "G2_instruction.json").write_text(json.dumps(rows[:1]))
    (data / "G2_category.json").write_text(json.dumps(rows))
    changes = {"data": str(data.parent), "judge": "x"}
    kind = load(workspace, "toolbench-completion", changes)
    detail = {"statuses": ["Solved"], "attempts": 1, "actions": 3, "no_tool": 1}
    items = [
        replace(marked(item, float("Cat" in item.category)), detail=detail) for item in kind.items
    ]
    card = kind.card(items)
    averages = {f"{line.scheme}: {line.name}": line.estimate for line in card.averages}
    assert averages["pooled: SoPR I2"].value == 75 and "pooled: SoPR I1" not in averages
    assert "3 of 9 actions name no tool at hand" in card.categories[0].note
    tables = {table.title: table for table in load_published(workspace, "toolbench-completion")}
    table = tables["ToolGen: task completion"]
    assert kind.beside(table, card)["SoPR I2"] == 0
    pooled = table.model_copy(update={"split": "pooled"})
    assert kind.beside(pooled, card) == {"SoPR I2": 75}


def load_judged(workspace: Workspace, data: Path, judge: object) -> TaskCompletion:
    found = load(
        workspace,
        "toolbench-completion",
        {"data": str(data), "limit": 2, "judge": str(judge), "setting": "gt"},
    )
    assert isinstance(found, TaskCompletion)
    return found


def with_backend(settings: Settings, backend: str) -> Settings:
    engine = settings.engine.model_copy(update={"backend": backend})
    return settings.model_copy(update={"engine": engine})


def test_a_judge_with_the_weights_of_the_checkpoint_is_its_engine(
    workspace: Workspace, tmp_path: Path
) -> None:
    """An engine of another name could not be opened."""
    model = tiny_model(tmp_path / "model")
    shutil.copytree(model, tmp_path / "copy")
    kind = load_judged(workspace, write_stable(tmp_path / "stable"), tmp_path / "copy")
    setup = open_setup(workspace)
    setup = replace(setup, settings=with_backend(setup.settings, "none"))
    checkpoint = find_checkpoint(workspace, setup.settings, setup.ledger, str(model))

    def answer(request: Request) -> list[str]:
        messages = [{"content": message.content} for message in request.messages]
        text = agent_and_judge({"model": "all", "messages": messages})
        return [text] * request.sampling.n

    engine = ReplayEngine(answer, checkpoint)
    items = asyncio.run(kind.score(setup, checkpoint, engine))
    assert [item.correct for item in items] == [True, True]
    assert {request.id.split("/")[0] for request in engine.requests} > {"judge", "simulate"}
    other = find_checkpoint(
        workspace, setup.settings, Ledger(workspace.state), str(tiny_model(tmp_path / "b", seed=1))
    )
    with pytest.raises(InputError, match="no engine 'none'"):
        asyncio.run(kind.score(setup, other, engine))


def test_two_models_of_this_machine_share_its_gpu(workspace: Workspace, tmp_path: Path) -> None:
    data, setup = write_stable(tmp_path / "stable"), open_setup(workspace)
    model, other = tiny_model(tmp_path / "a"), tiny_model(tmp_path / "b", seed=1)
    mended = shutil.copytree(model, tmp_path / "mended")
    before = load_judged(workspace, data, mended).basis(setup)
    with (mended / "chat_template.jinja").open("a") as template:
        template.write("{# mended #}")
    assert load_judged(workspace, data, mended).basis(setup) != before
    server = "http://127.0.0.1:1/v1#x"
    for judge, scored, wanted in (
        (other, model, 2),
        (mended, model, 2),
        (model, model, 1),
        (server, model, 1),
        (model, server, 1),
        (server, server, 1),
    ):
        checkpoint = find_checkpoint(
            workspace, setup.settings, Ledger(workspace.state), str(scored)
        )
        assert load_judged(workspace, data, judge).num_engines(setup, checkpoint) == wanted
    assert load(workspace, "home").num_engines(setup, checkpoint) == 1
    shares = [engine_settings(setup.settings, 1, number).gpu_memory for number in (1, 2)]
    assert shares == [0.9, 0.45]


def process_of(engine: Engine) -> ProcessEngine:
    """The engine that is asked where answers are kept."""
    inner = engine._engine if isinstance(engine, KeepingEngine) else engine
    assert isinstance(inner, ProcessEngine)
    return inner


@pytest.mark.slow
def test_a_checkpoint_leaves_half_of_a_gpu_to_its_judge(
    workspace: Workspace, tmp_path: Path
) -> None:
    """Outside a round and in one, for as long as the judge is to come."""
    factory = load_whole(workspace)
    factory = replace(factory, settings=with_backend(factory.settings, "transformers"))
    judge, model = tiny_model(tmp_path / "judge", seed=1), tiny_model(tmp_path / "model")
    kind = load_judged(workspace, write_stable(tmp_path / "stable"), judge)
    checkpoint = find_checkpoint(workspace, factory.settings, Ledger(workspace.state), str(model))
    shares = []

    class Watched(TaskCompletion):
        """Notes the share of the engine in place of asking it."""

        async def score(
            self, setup: Setup, checkpoint: Checkpoint, engine: Engine | None
        ) -> list[ItemScore]:
            assert engine is not None
            asked = process_of(engine)
            shares.append(asked._settings.gpu_memory)
            async with self._open_judge(setup, checkpoint, engine) as judging:
                assert process_of(judging) is not asked
                shares.append(process_of(judging)._settings.gpu_memory)
            detail: dict[str, Any] = {"correct": False, "reason": "", "message": "", "answer": ""}
            detail |= {"detail": {"statuses": ["Unsolved"]}}
            return [ItemScore(item=x.id, category=x.category, **detail) for x in self.items]

    watched = Watched(**{each.name: getattr(kind, each.name) for each in fields(kind) if each.init})

    factory = replace(factory, benchmarks={watched.name: watched})
    this = start(factory, 1)

    async def serve_in_a_round() -> None:
        async with scoring.serve(factory, this, checkpoint) as served:
            engine = await served.engine()
            assert isinstance(engine, ProcessEngine)
            shares.append(engine._settings.gpu_memory)

    asyncio.run(serve_in_a_round())
    asyncio.run(evaluate(factory.setup, watched, checkpoint))
    asyncio.run(serve_in_a_round())
    assert shares == [0.45, 0.45, 0.45, 0.9]


# Language ---------------------------------------------------------------------------------


def test_language_before_and_after(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("What is the weather in Oslo tomorrow? " * 20)
    model = tiny_model(tmp_path / "m0", max_positions=64)
    other = tiny_model(tmp_path / "m1", max_positions=64, seed=1)
    arguments = ("language", "--data", text, "--checkpoint", model, "--before", other)
    found = score(capsys, *arguments, "--set", "strides=[64, 16]")
    assert (found["benchmark"], found["unit"]) == ("language[strides=64+16]", "perplexity")
    assert [line["name"] for line in found["categories"]] == ["stride 64", "stride 16"]
    for line in found["categories"]:
        assert 1 < line["low"] < line["value"] < line["high"] and "bits a char" in line["note"]
    assert values(found["averages"]) == {"stride 16 perplexity": found["categories"][1]["value"]}
    assert [each["kind"] for each in found["others"]] == ["checkpoint"]
    shown = show(capsys, *arguments, "--set", "strides=[64, 16]")
    assert "from the ledger" in shown and "m1-" in shown
    assert "ToolWeaver (arXiv 2601.21947)" in shown and shown.count("measured here") == 2
    capsys.readouterr()
    (line,) = score(capsys, "language", "--data", text, "--checkpoint", model)["categories"]
    assert line["name"] == "stride 64"
    assert line["note"].startswith("in place of 2048 and 512, the windows being 64 tokens long; ")
    units = ask(workspace, "select distinct unit, category = 'overall' or low < high from score")
    assert units == [("perplexity", True)]


# Memory -----------------------------------------------------------------------------------


class Spelling(ReplayEngine):
    """Recorded answers in the token ids of a codebook; a word that is no code token is 0."""

    def __init__(self, codebook: SavedCodebook, answers: Mapping[str, str]) -> None:
        super().__init__({key: [text] for key, text in answers.items()})
        self._ids = codebook.token_ids

    async def sample(self, requests: Sequence[Request]) -> list[Reply]:
        replies = await super().sample(requests)
        return [replace(x, completions=tuple(map(self._spell, x.completions))) for x in replies]

    def _spell(self, found: Completion) -> Completion:
        words = re.findall(r"<\w+>|\S+", found.text)
        cut = PROMPT_TOO_LONG if found.text == "" else found.finish_reason
        ids = tuple(self._ids.get(word, 0) for word in words)
        return replace(found, token_ids=ids, finish_reason=cut)


def memory_values(card: Scorecard) -> dict[str, tuple[float, int]]:
    lines = ((line.name, line.estimate, line.num_items) for line in card.categories)
    return {name: (round(each.value, 2), num) for name, each, num in lines if each}


def test_memory_by_level_whole_free_and_bound(workspace: Workspace, tmp_path: Path) -> None:
    setup = open_setup(workspace)
    model = coded_model(tmp_path / "coded", write_stable(tmp_path / "stable"))
    codebook = load_codebook(model)
    assert codebook is not None and len(codebook) == 3
    checkpoint = Checkpoint(id="m", path=str(model), fingerprint="")
    kind = load(workspace, "memory", {"max_tokens": 9})
    one, two, three = codebook.tool_ids
    codes = {each: codebook.code_text(each) for each in codebook.tool_ids}
    first = codes[two].split(">")[0] + ">"
    answers = {
        f"free/{one}": codes[one],
        f"free/{two}": f"{first} and more",
        f"free/{three}": "",
        f"bound/{one}": codes[one],
        f"bound/{two}": codes[one],
        f"bound/{three}": codes[three],
        f"plain/{one}": f"It is {first} for tea.",
        f"plain/{two}": "It boils.",
        f"plain/{three}": "",
    }
    engine = Spelling(codebook, answers)
    items = asyncio.run(kind.score(setup, checkpoint, engine))
    bound = [request for request in engine.requests if request.id.startswith("bound/")]
    assert all(request.constraint and request.constraint.trie for request in bound)
    assert {x.constraint for x in engine.requests if x not in bound} == {None}
    plain = next(request for request in engine.requests if request.id.startswith("plain/"))
    assert plain.sampling.max_tokens == 9 and "plain words" in plain.messages[0].content
    found = {item.item: (item.correct, item.reason) for item in items}
    assert found == {
        f"free/{one}": (True, ""),
        f"free/{two}": (False, "no_tool"),
        f"free/{three}": (False, PROMPT_TOO_LONG),
        f"bound/{one}": (True, ""),
        f"bound/{two}": (False, "other_tool"),
        f"bound/{three}": (True, ""),
        f"plain/{one}": (False, "code_leaked"),
        f"plain/{two}": (True, ""),
        f"plain/{three}": (False, PROMPT_TOO_LONG),
    }
    card = kind.card(items)
    shown = memory_values(card)
    assert shown["free level 1"] == (66.67, 3) and shown["free whole code"] == (33.33, 3)
    assert shown["bound whole code"] == (66.67, 3)
    assert shown["hallucinated"] == (50, 2) and shown["leaked"] == (50, 2)
    assert list(shown)[-2:] == ["hallucinated", "leaked"]
    assert card.averages[0].estimate.value == pytest.approx(100 / 3)
    assert dict(card.reasons)[PROMPT_TOO_LONG] == 2
    # The same tools only are compared; of rates and levels what both have.
    better = dict(answers) | {f"free/{two}": codes[two], f"plain/{one}": "For tea."}
    later = asyncio.run(kind.score(setup, checkpoint, Spelling(codebook, better)))
    fewer = [item for item in items if not item.item.endswith(one)]
    change = memory_values(kind.change(fewer, later))
    assert change["free whole code"] == (50, 2) and change["hallucinated"] == (-100, 1)
    assert memory_values(kind.change(items, later))["leaked"] == (-50, 2)
    few = load(workspace, "memory", {"limit": 2})
    part = asyncio.run(few.score(setup, checkpoint, engine))
    assert len({item.item.split("/")[1] for item in part}) == 2
    other = load(workspace, "memory", {"limit": 2, "seed": 3})
    assert len({each.basis(setup) for each in (kind, few, other)}) == 3


def test_memory_beside_a_checkpoint_without_codes(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setup, kind = open_setup(workspace), load(workspace, "memory")
    bare = Checkpoint(id="bare", path=str(tiny_model(tmp_path / "bare")), fingerprint="")
    without = asyncio.run(kind.score(setup, bare, ReplayEngine({})))
    assert "bare has no codes and remembers none: run a round" in capsys.readouterr().err
    assert [(item.reason, item.mark) for item in without] == [("no_code", 0)]
    detail = {"level 1": 1.0, "level 2": 0.0, "whole code": 0.0, "hallucinated": 1.0}
    known = ItemScore(
        item="free/t_1", category="free", correct=False, reason="no_tool", message="", answer="",
        detail=detail,
    )  # fmt: skip
    row = {"round": 0, "path": "", "fingerprint": "", "promoted": True}
    setup.ledger.append({"checkpoint": [{**row, "checkpoint_id": each} for each in "mn"]})
    for name, items in (("m", without), ("n", [known])):
        store_items(setup, 0, name, kind, items, kind.basis(setup))
    found = score(capsys, "memory", "--checkpoint", "n", "--before", "m")
    lines = {line["name"]: line["value"] for line in found["categories"]}
    assert lines == {
        "free level 1": 100,
        "free level 2": 0,
        "free whole code": 0,
        "hallucinated": 100,
    }
    (none,) = found["change"]["averages"]
    assert none["value"] is None and none["missing"] == ["tools that both know"]
    shown = show(capsys, "memory", "--checkpoint", "n", "--before", "m")
    assert "free: whole code needs tools that both know" in shown
    assert "less is better: free answers" in " ".join(shown.split())
    with pytest.raises(InputError, match="folder, not its server"):
        address = Checkpoint(id="s", path="http://127.0.0.1:1/v1#x", fingerprint="")
        asyncio.run(kind.score(setup, address, ReplayEngine({})))


@pytest.mark.slow
def test_memory_of_a_real_model(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = coded_model(tmp_path / "coded", write_stable(tmp_path / "stable"))
    found = score(capsys, "memory", "--checkpoint", model, "--set", "max_tokens=4")
    assert (found["benchmark"], found["items"]) == ("memory[max_tokens=4]", 9)
    assert {(line["name"], line["num_items"]) for line in found["categories"]} >= {
        ("bound whole code", 3),
        ("hallucinated", 3),
        ("leaked", 3),
    }
    sql = "select answer, reason from item_score where item like 'bound/%'"
    codebook = load_codebook(model)
    assert all(codebook.tool_of(answer) for answer, _ in ask(workspace, sql))


# The ledger -------------------------------------------------------------------------------


def test_marks_that_move_are_flips_and_perplexity_has_a_delta(
    workspace: Workspace, tmp_path: Path
) -> None:
    setup = open_setup(workspace)
    (workspace.root / "text.txt").write_text("a b c")
    data = str(write_stable(tmp_path / "stable"))
    retrieval = load(workspace, "toolbench", {"data": data, "settings": ["multi-domain"]})
    language = load(workspace, "language", {"data": "text.txt"})
    row = {"path": "", "fingerprint": "", "promoted": True}
    setup.ledger.append(
        {
            "checkpoint": [
                {**row, "checkpoint_id": "m", "round": 0},
                {**row, "checkpoint_id": "r1-a", "round": 1, "parent_id": "m"},
            ]
        }
    )
    for number, name, marks, nats in (
        (0, "m", (1, 0.5, 0.2), 9.0),
        (1, "r1-a", (0.6, 1, 0.2), 8.0),
    ):
        items = [marked(item, mark) for item, mark in zip(retrieval.items, marks, strict=True)]
        store_items(setup, number, name, retrieval, items, "b")
        window = ItemScore(
            item="stride 4/0", category="stride 4", correct=True, reason="", message="",
            answer="", detail={"nats": nats, "tokens": 4},
        )  # fmt: skip
        store_items(setup, number, name, language, [window], "b")
    flips = ask(workspace, "select item, flip, value_before, value from item_flip order by item")
    assert flips == [
        ("multi-domain/I1-Inst/1", "wrong", 1, 0.6),
        ("multi-domain/I1-Inst/2", "right", 0.5, 1),
    ]
    deltas = ask(
        workspace,
        "select benchmark, round(before, 3), round(after, 3) from round_delta "
        "where category = 'overall' and round = 1 order by benchmark",
    )
    assert deltas == [("language", 9.488, 7.389), (retrieval.name, 56.667, 60.0)]
    again = {item.item: item for item in load_stored(setup, retrieval.name)}
    assert again["multi-domain/I1-Inst/1"].mark == 0.6
    setup.ledger.append({"round": [{"round": 1, "checkpoint_id": "m"}]})
    with setup.ledger.read() as past:
        pages = Pages(past, workspace)
        scores, changes = (pages.show(name, {"round": 1}) for name in ("scores", "changes"))
    rows = scores.rows
    shown = {(each["benchmark"], each["category"]): each for each in rows}
    assert ("language", "stride 4") in shown and shown["language", "overall"]["unit"] != "percent"
    assert scores.chart is not None
    by_category = {each["category"]: each for each in changes.rows}
    assert set(by_category) == {"overall", "multi-domain I1-Inst"}
    change = by_category["overall"]
    assert (change["gained"], change["lost"]) == (1, 1)
    assert change["points"] == pytest.approx(100 * (-0.4 + 0.5) / 3)


def marked(item: Item, mark: float) -> ItemScore:
    """A judged request whose every measure is `mark`."""
    return ItemScore(
        item=item.id, category=item.category, correct=mark == 1, value=mark, reason="",
        message="", answer="[]", detail=dict.fromkeys(METRICS, mark),
    )  # fmt: skip


def load_stored(setup: Setup, name: str) -> list[ItemScore]:
    from factory.ledger import history

    return history.load_items(setup.ledger, "r1-a", name, "b")


def load_whole(workspace: Workspace) -> Factory:
    settings = load_settings(workspace)
    resolved = load_recipe(workspace, settings.recipe, {})
    return load_factory(workspace, settings, resolved, PlainMonitor())


def open_setup(workspace: Workspace) -> Setup:
    return Setup.load(workspace, load_settings(workspace), PlainMonitor())


def test_a_basis_tells_data_options_and_prompts_apart(workspace: Workspace, tmp_path: Path) -> None:
    setup = open_setup(workspace)
    data = str(write_stable(tmp_path / "stable"))
    judge = {"judge": "http://127.0.0.1:1/v1#x"}
    variants = [
        load(workspace, "toolbench", {"data": data}),
        load(workspace, "toolbench", {"data": data, "depth": 3}),
        load(workspace, "toolbench", {"data": data, "limit": 1}),
        load(workspace, "toolbench-completion", {"data": data, **judge}),
        load(workspace, "toolbench-completion", {"data": data, "judge": "http://127.0.0.1:1/v1#y"}),
        load(workspace, "toolbench-completion", {"data": data, **judge, "setting": "gt"}),
        load(workspace, "toolbench-completion", {"data": data, **judge, "constrain_inputs": True}),
        load(workspace, "toolbench-completion", {"data": data, **judge, "decode": "beam"}),
        load(workspace, "toolbench-completion", {"data": data, **judge, "constrain": False}),
        load(workspace, "toolbench-completion", {"data": data, **judge, "retry": False}),
        load(workspace, "toolbench-completion", {"data": data, **judge, "top": 3}),
    ]
    found = {each.basis(setup) for each in variants}
    assert len(found) == len(variants)
    prompt = workspace.root / "prompts/codes/retrieve.j2"
    prompt.parent.mkdir(parents=True)
    prompt.write_text("Which tool? {{ query }}")
    assert variants[0].basis(open_setup(workspace)) not in found
    template = workspace.root / "eval/toolbench/judge_answer.j2"
    template.parent.mkdir(parents=True)
    template.write_text("{{ query }} {{ answer }} {{ trajectory }}")
    assert variants[3].basis(setup) not in found


def test_verdicts_of_other_judging_rules_are_not_read_back(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"data": str(write_stable(tmp_path / "stable")), "judge": "http://127.0.0.1:1/v1#x"}
    setup, completion = (
        open_setup(workspace),
        load(workspace, "toolbench-completion", changes),
    )
    now = completion.basis(setup)
    monkeypatch.setattr("factory.score.toolbench.completion.RULES_VERSION", 1)
    assert completion.basis(setup) != now


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("apibank", "--data", "{data}", "--checkpoint", "http://127.0.0.1:1/v1"), "which model"),
        (("apibank", "--data", "{data}", "--checkpoint", "http://8.8.8.8/v1#x"), "public address"),
        (("apibank", "--data", "{empty}"), "no turns"),
        (("apibank", "--data", "nowhere"), "there is no"),
        (("apibank", "--data", "{data}", "--category", "Call"), "category: unknown key"),
        (("teval", "--data", "{empty}"), "no questions"),
        (("toolbench", "--data", "{empty}"), "no labelled requests"),
        (("toolbench",), "without its data"),
        (("language", "--data", "{empty}"), "cannot read"),
        (("home", "--set", "judge=x"), "judge: unknown key"),
        (("home", "--set", "limit=abc"), "limit: Input should be a valid integer"),
        (("home", "--set", "limit=-1"), "limit: Input should be greater"),
        (("home", "--set", "prompt=foo"), "prompt: Input should be 'own' or 'chat'"),
        (
            ("home", "--set", "categories=simple, parallel"),
            r"""categories: a list is wanted, not 'simple, parallel'(?s:.)*"""
            r"""or once: --set 'categories=\["simple", "parallel"\]'""",
        ),
        (("language", "--data", "{text}", "--set", "strides=64"), r"strides=\[64\]'"),
        (("language", "--data", "{text}", "--set", "strides=64,8"), r"strides=\[64, 8\]'"),
        (("language", "--data", "{text}", "--set", "strides="), r"strides=\[\]'"),
        (("language", "--data", "{text}", "--set", "strides=[0]"), "strides.0: "),
        (("teval", "--data", "{teval}", "--set", "embedder=nope"), "embedder: there is no .*nope"),
        (
            ("toolbench", "--data", "{stable}", "--set", 'embedders=["nope"]'),
            "embedders: there is no .*nope",
        ),
        (("toolsense", "--data", "{text}"), "no labelled requests of ToolSense(?s:.)*not JSON"),
        (("toolsense", "--data", "{text}", "--set", "corpus=nope"), "corpus: there is no .*nope"),
        (
            ("toolbench-completion", "--data", "{stable}", "--set", "judge=x", "--set", "cache=no"),
            "cache: there is no .*no",
        ),
        (
            "toolbench-completion --data {stable} --set judge=x --set retriever=nope".split(),
            "retriever: there is no .*nope",
        ),
        (
            "toolbench-completion --data {stable} --set judge=x --set reference=no".split(),
            "reference: there is no .*no",
        ),
        (
            ("toolbench-completion", "--data", "{stable}", "--limit", "1"),
            "^toolbench-completion has no judge",
        ),
        (("nowhere",), "no such file"),
    ],
)
def test_wrong_input_is_named_before_anything_is_asked(
    workspace: Workspace,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: Sequence[str],
    what: str,
) -> None:
    data, empty = write_apibank(tmp_path / "bank"), tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "text").write_text("Boil one cup.")
    places = {
        "data": data,
        "empty": empty,
        "text": tmp_path / "text",
        "stable": write_stable(tmp_path / "stable"),
        "teval": write_teval(tmp_path / "teval"),
    }
    with pytest.raises(FactoryError, match=what):
        score(capsys, *(each.format(**places) for each in arguments))


def test_a_server_is_a_checkpoint_without_a_folder(workspace: Workspace) -> None:
    settings = load_settings(workspace)
    address = "http://127.0.0.1:8000/v1#judge"
    found = find_checkpoint(workspace, settings, Ledger(workspace.state), address)
    assert found == Checkpoint(id=address, path=address, fingerprint=address)
    base = find_checkpoint(workspace, settings, Ledger(workspace.state), "")
    assert base.id.startswith("seed-") and Path(base.path).is_dir()
    assert find_checkpoint(workspace, settings, Ledger(workspace.state), base.path) == base


@pytest.mark.slow
def test_the_command_scores_a_real_model_by_a_real_engine(tmp_path: Path) -> None:
    folder = make_workspace(tmp_path / "ws").root
    model = tiny_model(tmp_path / "model", max_positions=1024, repeats=True)
    write_apibank(folder / "bank")
    arguments = ("score", "apibank", "--data", "bank", "--checkpoint", str(model), "--threads", "1")
    first = run_factory(*arguments, cwd=folder).stdout
    assert "scored now" in first and "ToolDev (ToolACE-DEV, arXiv 2505.07512)" in first
    record = json.loads(run_factory(*arguments, "--json", cwd=folder).stdout)
    assert record["items"] == 3 and record["reasons"] == {"truncated": 3}
    assert "from the ledger" in run_factory(*arguments, cwd=folder).stdout
    status = run_factory("sql", "select count(*) as n from item_score", "--json", cwd=folder).stdout
    assert json.loads(status) == {"n": 3}
