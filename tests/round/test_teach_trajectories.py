"""A lesson of documents, requests and trajectories in the three stages of ToolGen's recipe."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from real_round import ask
from workspaces import ROOT, make_workspace, run_factory

from factory.domain.canon import to_json
from factory.ledger.database import Ledger
from factory.ledger.history import accepted_samples, called_pairs

RECIPE = """extends = "cpu"
[codes]
coder = "atomic"
min_tools = 4
[train]
batch_size = 4
max_length = 2048
replay = 0
[score]
benchmarks = []
dev = ""
"""
APIS = [
    {
        "tool_name": "Stove",
        "api_name": f"boil_{n}",
        "api_description": f"Boil water on plate number {n} of the stove.",
        "required_parameters": [{"name": "cups", "type": "NUMBER", "description": "How many."}],
        "optional_parameters": [],
    }
    for n in range(6)
]
FINAL = {"return_type": "give_answer", "final_answer": "It boils."}
GIVE_UP = {"return_type": "give_up_and_restart"}


def call(name: str, arguments: object) -> dict[str, object]:
    return {"function": {"name": name, "arguments": json.dumps(arguments)}}


def trajectory(n: int, end: object = FINAL) -> dict[str, object]:
    first, second = (f"boil_{place}_for_stove" for place in (n, (n + 1) % len(APIS)))
    called = [call(name, {"cups": n}) for name in (first, second)]
    return {
        "messages": [
            {"role": "user", "content": f"Boil {n} cups of water on two plates"},
            {"role": "assistant", "content": "First one plate.", "tool_calls": called},
            {"role": "tool", "content": '{"error": "", "response": "warm"}'},
            {"role": "tool", "content": '{"error": "", "response": "hot"}'},
            {"role": "assistant", "content": "", "tool_calls": [call("Finish", end)]},
        ]
    }


def write_recipe() -> str:
    """ToolGen's stages, each once over its examples, but a tenth of the documents: the embedded
    model's tools get codes anew, and are 400.
    """
    toolgen = tomllib.loads((ROOT / "rounds" / "toolgen.toml").read_text(encoding="utf-8"))
    stages = [
        f'[[stage]]\nname = "{stage["name"]}"\nkinds = {json.dumps(stage["kinds"])}\n'
        f"epochs = {0.1 if stage['kinds'] == ['code'] else 1}\n"
        for stage in toolgen["stage"]
    ]
    return "\n".join((RECIPE, *stages))


@pytest.mark.parametrize("name", ["toolgen", "sgtc", "toolweaver"])
def test_the_last_stage_of_the_papers_recipes_is_of_trajectories(name: str) -> None:
    stages = tomllib.loads((ROOT / "rounds" / f"{name}.toml").read_text(encoding="utf-8"))["stage"]
    assert stages[-1]["kinds"][0] == "trajectory"
    assert all("trajectory" not in stage["kinds"] for stage in stages[:-1])


@pytest.mark.slow
def test_trajectories_are_taught_in_their_stage(tmp_path: Path) -> None:
    files = {"rounds/small.toml": write_recipe()}
    workspace = make_workspace(tmp_path / "ws", files).root
    rows = [*APIS, *map(trajectory, range(5)), trajectory(5, GIVE_UP)]
    (workspace / "rows.jsonl").write_text("".join(to_json(row) + "\n" for row in rows))
    arguments = ("teach", "rows.jsonl", "--recipe", "small")
    dry = run_factory(*arguments, "--dry-run", cwd=workspace, code=1)
    assert "5 trajectory" in dry.stdout and "5 solved in steps" in dry.stdout

    run_factory(*arguments, cwd=workspace, code=1)
    (row,) = ask(workspace, "select detail_json from stage where round = 1 and stage = 'train'")
    detail = json.loads(row["detail_json"])
    assert detail["dropped"] == {}
    assert [(each["name"], each["skipped"]) for each in detail["stages"]] == [
        ("memorisation", ""), ("retrieval training", ""), ("end-to-end tuning", ""),
    ]  # fmt: skip
    told = ask(workspace, "select stage, losses_json from training where round = 1")
    kinds: dict[int, set[str]] = {}
    for each in told:
        kinds.setdefault(each["stage"], set()).update(json.loads(each["losses_json"]))
    assert kinds == {1: {"code"}, 2: {"retrieve"}, 3: {"adapt", "gen", "trajectory"}}
    taught = ask(
        workspace, "select messages_json from example where round = 1 and kind = 'trajectory'"
    )
    chats = [json.loads(each["messages_json"]) for each in taught]
    assert len(chats) == 5
    with Ledger(workspace / ".factory").read() as past:
        samples = accepted_samples(past, 1)
        labelled = called_pairs(past, 1).labelled
    stored = sorted(to_json([m.to_json() for m in each.chat]) for each in samples)
    assert stored == sorted(map(to_json, chats))
    assert len(labelled) == 5 and {pair.weight for pair in labelled} == {1.0}
    (left,) = ask(workspace, "select rule, message from rejected where round = 1")
    assert left["rule"] == "row/gave_up"
