"""Tools and calls of a log in a round: shown, judged, compared with the vote, and never a label."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest_models import tiny_model
from workspaces import make_workspace, run_factory

from factory.cli.monitor import PlainMonitor
from factory.domain.canon import query_id, tool_id
from factory.domain.records import Call, Logged, Query, Request, Tool
from factory.engines.replay import ReplayEngine
from factory.judge.rulebook import Rulebook
from factory.ledger import history
from factory.ledger.database import Ledger
from factory.round.factory import load_factory
from factory.round.gate import decide
from factory.round.judging import judge
from factory.round.rejudge import rejudge
from factory.round.sampling import sample
from factory.round.start import resume, start
from factory.score.keeper import Keeper
from factory.workspace.folder import Workspace
from factory.workspace.recipe import load_recipe
from factory.workspace.settings import load_settings

DOCUMENT = {
    "name": "brew_tea",
    "description": "Brew some cups of tea.",
    "arguments": {
        "type": "dict",
        "properties": {"cups": {"type": "integer", "description": "How many cups."}},
        "required": ["cups"],
    },
}
TOOL = Tool(id=tool_id(DOCUMENT), document=DOCUMENT)
FATES: dict[str, tuple[tuple[Call, ...], list[str], str]] = {
    "Brew 2 cups for the night watch": (
        (Call(name="brew_tea", arguments={"cups": 2}),),
        ["2"] * 5,
        "agrees",
    ),
    "Pour 3 mugs at the lighthouse": (
        (Call(name="brew_tea", arguments={"cups": 7}),),
        ["3"] * 5,
        "differs",
    ),
    "Some 4 guests came in from the rain": (
        (Call(name="brew_tea", arguments={"cups": "four"}),),
        ["4"] * 5,
        "rejected",
    ),
    "Is there still 5 of the green one?": (
        (Call(name="brew_tea", arguments={"cups": 5}),),
        ["5", "5", "6", "7", "8"],
        "unconfirmed",
    ),
    "Rinse 6 pots before the ferry leaves": ((), ["6"] * 5, ""),
}
"""Request, logged calls, cups that the model's answers name, and what is said of the log."""


def tell(request: Request) -> Sequence[str]:
    identifier, stage = request.id.split("/")
    assert stage == "calls", "the tools of a log are not written"
    calls = next(fate[1] for text, fate in FATES.items() if query_id(text) == identifier)
    body = '<tool_call>{"name": "brew_tea", "arguments": {"cups": %s}}</tool_call>'
    return [body % cups for cups in calls]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = make_workspace(tmp_path_factory.mktemp("logged") / "ws")
    model = tiny_model(workspace.root / "model")
    text = workspace.marker.read_text(encoding="utf-8")
    workspace.marker.write_text(text.replace("rounds/seed", model.name), encoding="utf-8")
    pool = [
        Query(id=query_id(text), text=text, source="log:1", log=Logged(tools=(TOOL,), calls=calls))
        for text, (calls, *_) in FATES.items()
    ]
    settings = load_settings(workspace)
    resolved = load_recipe(workspace, settings.recipe, {})
    factory = load_factory(workspace, settings, resolved, PlainMonitor(), pool)
    this = start(factory, len(pool))
    assert [query.log for query in history.pending_queries(factory.ledger, 1)] == [
        query.log for query in pool
    ]
    engine = ReplayEngine(tell)
    model_of = Keeper(factory.setup, this.checkpoint, (), lambda num_engines: engine)
    asyncio.run(sample(factory, this, model_of))
    factory, this_again = resume(factory, factory.ledger)
    assert this_again is not None
    judge(factory, this_again)
    decide(factory, this_again, "not trained: a test")
    return workspace


def rows_of(workspace: Workspace, sql: str) -> list[Any]:
    return list(Ledger(workspace.state).query(sql).rows)


def test_the_view_says_what_became_of_logged_calls(finished: Workspace) -> None:
    rows = rows_of(finished, "select query, status, calls_json from logged")
    assert {query: status for query, status, _ in rows} == {
        text: fate[2] for text, fate in FATES.items() if fate[2]
    }
    assert all(json.loads(calls)[0]["name"] == "brew_tea" for *_, calls in rows)


def test_the_vote_alone_decides_what_is_kept(finished: Workspace) -> None:
    rows = rows_of(finished, "select query, calls_json, agreement from accepted")
    cups = {query: json.loads(calls)[0]["arguments"]["cups"] for query, calls, _ in rows}
    assert sorted(cups.values()) == [2, 3, 4, 6]
    assert all(agreement == 1 for *_, agreement in rows)


def test_what_is_a_logs_is_told_from_what_a_model_answered(finished: Workspace) -> None:
    rows = rows_of(
        finished, "select stage, checkpoint_id = 'log', count(*) from generation group by all"
    )
    assert sorted(rows) == [("calls", False, 25), ("log", True, 5), ("tools", True, 5)]


def test_judging_again_changes_nothing(finished: Workspace) -> None:
    given = load_recipe(finished, "cpu", {})
    result = rejudge(finished, Ledger(finished.state), Rulebook.load(finished, {}), 1, given)
    assert not result.changes and result.counts == {"accepted": 4, "rejected": 1}
    with Ledger(finished.state).read(also=result.rows) as past:
        rows = past.query("select status, count(*) from logged group by 1 order by 1").rows
    assert rows == [("agrees", 1), ("differs", 1), ("rejected", 1), ("unconfirmed", 1)]


SPAN = {
    "gen_ai.input.messages": json.dumps(
        [{"role": "user", "parts": [{"type": "text", "content": "Brew 2 cups for ann@x.org"}]}]
    ),
    "gen_ai.output.messages": json.dumps(
        [
            {
                "role": "assistant",
                "parts": [{"type": "tool_call", "name": "brew_tea", "arguments": {"cups": 2}}],
            }
        ]
    ),
    "gen_ai.tool.definitions": json.dumps(
        [
            {
                "type": "function",
                "name": "brew_tea",
                "description": "Brew some cups of tea.",
                "parameters": DOCUMENT["arguments"],
            }
        ]
    ),
}


def test_the_commands_take_a_span(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "ws")
    file = tmp_path / "spans.jsonl"
    file.write_text(json.dumps({"name": "chat", "attributes": SPAN}) + "\n", encoding="utf-8")
    done = run_factory("round", "--dry-run", "--mask", "--queries", str(file), cwd=workspace.root)
    assert "come with tools of their log and 1 with calls" in done.stderr
    assert "masked in 1 of 1 requests: 1 EMAIL" in done.stderr
    done = run_factory("add-tools", str(file), cwd=workspace.root)
    assert "1 tools added" in done.stdout
