"""The commands of `factory eval`, with a model behind HTTP where one is asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest_models import tiny_model
from model_server import serving
from test_apibank_teval import GOOD, write_apibank, write_teval
from test_retrieval import APIS, STABLE, needs
from workspaces import make_workspace

from factory.cli.main import app
from factory.failures import FactoryError, InputError, ModelError
from factory.recipe import load_settings
from factory.scorers.judge import read_predictions
from factory.serving import engine_settings, find_model
from factory.workspace import Workspace

pytest.importorskip("httpx", reason="no httpx: pip install 'tool-factory[http]'")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    made = make_workspace(tmp_path / "ws")
    monkeypatch.chdir(made.root)
    return made


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    """The JSON that a command prints."""
    app(["eval", *map(str, arguments), "--json"], standalone_mode=False)
    return json.loads(capsys.readouterr().out)


def test_retrieval(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("bm25s", reason="no bm25s: pip install 'tool-factory[eval]'")
    found = run(capsys, "retrieval", needs(STABLE), "--split", "I3-Inst")
    assert found["queries"] == 21
    settings = [(each["system"], each["setting"]) for each in found["results"]]
    assert settings == [("BM25", "multi-domain"), ("BM25", "in-domain")]
    assert found["results"][0]["percent"]["I3-Inst"]["ndcg@5"] == pytest.approx(48, abs=1)
    app(["eval", "retrieval", str(STABLE), "--split", "I3-Inst"], standalone_mode=False)
    shown = capsys.readouterr()
    assert "ndcg_hits@5" in shown.out and "in-domain searches" in shown.err
    with pytest.raises(InputError, match="nothing is to rank"):
        run(capsys, "retrieval", STABLE, "--no-bm25")


def test_apibank(workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_apibank(tmp_path / "bank")
    with serving(lambda _: "API-Request: [SetLamp(room='hall', level='high')]") as server:
        model = f"{server.url}#caller"
        found = run(capsys, "apibank", folder, "--model", model)
        assert found["categories"] == {"Call": 50, "Retrieve+Call": 0}
        assert found["averages"] == {"tooldev": 25}
        app(["eval", "apibank", str(folder), "--model", model], standalone_mode=False)
        assert "2 wrong_tool" in capsys.readouterr().out
        assert {body["model"] for body in server.seen} == {"caller"}


def test_teval(workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_teval(tmp_path / "data")
    with serving(lambda _: GOOD["retrieve+understand_json"]) as server:
        found = run(capsys, "teval", folder, "--model", f"{server.url}#caller")
    assert found["categories"]["retrieve_json"] == 100
    assert found["averages"]["tooldev"] < 100


def agent_and_judge(body: dict[str, Any]) -> str:
    """One model for all parts: it calls the first tool, then Finish, and judges kindly."""
    last = body["messages"][-1]["content"]
    if '"status"' in last:
        return '{"status": "Solved"}'
    if '"better"' in last:
        return '{"better": "A"}'
    if "play an API server" in last:
        return '{"error": "", "response": "boiled"}'
    if last == "Generate the action.":
        called = any("boiled" in message["content"] for message in body["messages"])
        return "Finish" if called else "boil_for_kettle"
    if '"name": "Finish"' in last:
        return '{"return_type": "give_answer", "final_answer": "It boils."}'
    return '{"cups": 2}' if "documentation" in last else "Water first."


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


def test_completion(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, saved = write_stable(tmp_path / "stable"), tmp_path / "ours.json"
    with serving(agent_and_judge) as server:
        model = f"{server.url}#all"
        common = ("completion", folder, "--judge", model, "--model", model, "--limit", 2)
        found = run(capsys, *common, "--setting", "gt", "--save", saved)["I1-Inst"]
        assert found["solved"] == [100, 0, [100, 100, 100]]
        assert (found["won"], found["num_missing"], found["num_unjudged"]) == (None, 0, 0)
        answers = read_predictions(saved)
        assert {each.final_answer for each in answers.values()} == {"It boils."}
        kept = workspace.state / "toolbench" / "made_up.jsonl"
        assert [json.loads(line)["response"] for line in kept.read_text().splitlines()] == [
            "boiled"
        ]
        # Published answers have bare numbers for ids.
        table = {key.split("/")[1]: row for key, row in json.loads(saved.read_text()).items()}
        table["1"]["answer"]["final_answer"] = "It may boil."
        saved.write_text(json.dumps({"1": table["1"]}))
        won = run(capsys, *common, "--reference", saved)["I1-Inst"]["won"]
        assert won == [50, 50, 0], "one against nothing, one whose order decides"


def test_language(workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("What is the weather in Oslo tomorrow? " * 20)
    model = tiny_model(tmp_path / "m0", max_positions=64)
    rows = run(capsys, "language", text, "--before", model, "--model", model)
    assert [row["model"].split("-")[0] for row in rows] == ["m0"], "one model is measured once"
    assert rows[0]["perplexity"] > 1


def test_models_are_found(workspace: Workspace, tmp_path: Path) -> None:
    settings = load_settings(workspace)
    found = find_model(workspace, settings, "")
    assert found.id.startswith("seed-") and Path(found.path).is_dir()
    assert find_model(workspace, settings, found.path) == found
    with pytest.raises(InputError, match="no checkpoint 'r9'"):
        find_model(workspace, settings, "r9")
    with pytest.raises(ModelError):
        find_model(workspace, settings, str(tmp_path))
    assert engine_settings(settings, 3).threads == 3


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("apibank", "{data}", "--model", "http://127.0.0.1:1/v1"), "which model"),
        (("apibank", "{data}", "--model", "http://8.8.8.8/v1#x"), "public address"),
        (("apibank", "nowhere"), "no turns"),
        (("teval", "nowhere"), "no questions"),
        (("retrieval", "nowhere"), "no labelled requests"),
        (("language", "nowhere"), "cannot read"),
    ],
)
def test_wrong_input_is_named_before_anything_is_asked(
    workspace: Workspace,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: Sequence[str],
    what: str,
) -> None:
    data = write_apibank(tmp_path / "bank")
    with pytest.raises(FactoryError, match=what):
        run(capsys, *(each.format(data=data) for each in arguments))
