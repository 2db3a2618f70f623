"""Benchmarks of one's own: from labelled lines and from confirmed samples, kept from training."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from workspaces import make_workspace, run_factory

from factory.domain.canon import query_id, to_json
from factory.domain.failures import ContentError, InputError
from factory.domain.records import Call, Candidate, Query, Tool
from factory.engines.replay import ReplayEngine
from factory.ledger import history
from factory.ledger.database import Ledger
from factory.score.calls.kind import Benchmark
from factory.score.definition import read_definition
from factory.score.labelled import (
    Labelled,
    from_samples,
    held_out_ids,
    read_ids,
    read_labelled,
    write_benchmark,
)
from factory.score.loading import load_held_out
from factory.workspace.folder import Workspace
from factory.workspace.prompts import Prompts

LAMP = {
    "name": "set_lamp",
    "description": "Set a lamp.",
    "parameters": {
        "type": "object",
        "properties": {
            "room": {"type": "string", "description": "Where"},
            "level": {"type": "number", "description": "0 to 1"},
            "colors": {"type": "array", "items": {"type": "string"}, "description": "Which"},
        },
        "required": ["room"],
    },
}
HEAT = {**LAMP, "name": "set_heat"}
HALL: dict[str, Any] = {"set_lamp": {"room": ["hall"], "level": ["", 0.5], "colors": [""]}}


def line(**changes: Any) -> str:
    row = {"question": "Light in the hall.", "function": LAMP, "ground_truth": HALL}
    return json.dumps({**row, **changes})


LINES = [
    line(),
    line(question=[[{"role": "user", "content": "Hall light, please."}]], function=[LAMP, HEAT]),
    line(question="Twice", ground_truth=[HALL, {"set_lamp": {"room": ["attic"]}}]),
    line(query="Q", question=None, ground_truth=HALL).replace('"question": null, ', ""),
]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path / "ws")


def read(folder: Path, *lines: str) -> tuple[list[Labelled], list[Any]]:
    file = folder / "labelled.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    return read_labelled(file)


def test_labelled_lines_become_a_benchmark_that_is_scored(
    tmp_path: Path, workspace: Workspace
) -> None:
    items, bad = read(tmp_path, *LINES, "", line())
    assert not bad
    made = write_benchmark(workspace, "lamps", "Lamps", "test", items)
    assert made == Benchmark.load(workspace, "lamps")
    assert made.categories == ("simple", "multiple", "parallel")
    assert len(made.items) == 4, "the same request counts once"
    assert made.split == "test" and read_definition(workspace, "lamps")["held_out"] is True
    assert made.max_tokens == 512
    right = '<tool_call>{"name": "set_lamp", "arguments": {"room": "hall"}}</tool_call>'
    engine = ReplayEngine(lambda _: [right])
    prompts = Prompts.load(workspace)
    marks = asyncio.run(made.ask(engine, prompts))
    result = made.summary("tiny", marks)
    assert result.categories == {"simple": 100, "multiple": 100, "parallel": 0}
    assert {mark.reason for mark in marks} == {"", "wrong_count"}


def test_a_long_label_gets_the_tokens_that_it_may_need(
    tmp_path: Path, workspace: Workspace
) -> None:
    gold = {"set_lamp": {"room": ["hall " * 200]}}
    items, _ = read(tmp_path, line(), line(question="Long", ground_truth=gold))
    made = write_benchmark(workspace, "lamps", "Lamps", "test", items)
    assert 1000 < made.max_tokens < 1200


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("oops", "not JSON"),
        ("[1]", "question"),
        (line(question=""), "empty"),
        (line(question=[[], []]), "2 turns"),
        (line(function=None), "function"),
        (line(function=[]), "function"),
        (line(function={"name": "x"}), "expected call"),
        (line(ground_truth=None), "ground_truth"),
        (line(ground_truth={"set_heat": {}}), "expected call"),
        (line(ground_truth={"set_lamp": {"room": [7]}}), ""),
        (line(ground_truth={"set_lamp": {"level": [1]}}), "label"),
        (line(ground_truth={"set_lamp": {"room": ["a"], "wall": ["b"]}}), "label"),
    ],
)
def test_a_bad_line_is_named_and_the_others_are_used(tmp_path: Path, text: str, cause: str) -> None:
    items, bad = read(tmp_path, line(), text)
    if cause:
        assert [each.where for each in bad] == ["labelled.jsonl:2"]
        assert cause in bad[0].cause
    assert items[0].query == "Light in the hall."


@pytest.mark.parametrize("name", ["", "A", "a b", "../x", "home", "lamps.toml"])
def test_bad_and_taken_names_are_refused(tmp_path: Path, workspace: Workspace, name: str) -> None:
    items, _ = read(tmp_path, line())
    with pytest.raises(InputError):
        write_benchmark(workspace, name, "x", "test", items)
    assert not list((workspace.root / "eval").iterdir())


def test_nothing_is_left_of_a_benchmark_that_does_not_load(
    tmp_path: Path, workspace: Workspace
) -> None:
    items, _ = read(tmp_path, line())
    with pytest.raises(ContentError):
        write_benchmark(workspace, "lamps", "", "test", items)
    with pytest.raises(InputError, match="no labelled request"):
        write_benchmark(workspace, "lamps", "x", "test", [])
    assert not list((workspace.root / "eval").iterdir())


# Confirmed samples ------------------------------------------------------------------------


def sample(text: str, *calls: Call, default: Any = None) -> Candidate:
    properties: dict[str, Any] = {
        "room": {"type": "string", "description": "Where"},
        "mode": {"type": "dict", "description": "How", "properties": {}},
    }
    if default is not None:
        properties["level"] = {"type": "float", "description": "0 to 1", "default": default}
    document = {
        "name": "set_lamp",
        "description": "Set a lamp.",
        "arguments": {"type": "dict", "properties": properties, "required": ["room"]},
    }
    return Candidate(
        query=Query(id=query_id(text), text=text, source="ledger"),
        tools=(Tool(id="t_1", document=document),),
        calls=calls,
    )


@pytest.mark.parametrize(
    ("arguments", "right", "wrong"),
    [
        ({"room": "hall"}, [{}, {"level": 0.5}], [{"level": 0.7}, {"mode": {"a": 1}}]),
        ({"room": "hall", "level": 0.5}, [{}, {"level": 0.5}], [{"level": 0.7}]),
        ({"room": "hall", "level": 0.7}, [{"level": 0.7}], [{}, {"level": 0.5}]),
        ({"room": "hall", "mode": {"a": "x"}}, [{"mode": {"a": "X"}}], [{}, {"mode": {"a": "y"}}]),
    ],
)
def test_a_confirmed_call_is_the_label(
    arguments: dict[str, Any], right: list[dict[str, Any]], wrong: list[dict[str, Any]]
) -> None:
    from factory.score.calls.bfcl import check_ast

    confirmed = sample("Light!", Call(name="set_lamp", arguments=arguments), default=0.5)
    (item,), bad = from_samples([confirmed.query.id], [confirmed], frozenset())
    assert not bad
    for extra, correct in [*((each, True) for each in right), *((each, False) for each in wrong)]:
        call = Call(name="set_lamp", arguments={"room": "hall", **extra})
        verdict = check_ast([call], item.functions, item.ground_truth)
        assert verdict.correct is correct, (extra, verdict)


def test_what_was_trained_on_or_never_accepted_is_refused() -> None:
    call = Call(name="set_lamp", arguments={"room": "hall"})
    samples = [sample(text, call) for text in ("one", "two")]
    one, two = (each.query.id for each in samples)
    items, bad = from_samples([one, two, "q_0", one], samples, frozenset([two]))
    assert [item.query for item in items] == ["one"]
    assert [each.where for each in bad] == [two, "q_0"]
    assert "trained" in bad[0].cause


def test_ids_are_told_from_labelled_lines(tmp_path: Path) -> None:
    file = tmp_path / "ids.txt"
    file.write_text("q_12ab\n\nq_34cd\n")
    assert read_ids(file) == ["q_12ab", "q_34cd"]
    file.write_text(line())
    assert read_ids(file) == []
    with pytest.raises(InputError, match="cannot read"):
        read_ids(tmp_path / "none")


# Kept from training -----------------------------------------------------------------------


def example_rows(*origins: tuple[int, str]) -> list[dict[str, Any]]:
    messages = to_json([{"role": "user", "content": "x"}])
    return [
        {"round": number, "kind": "invoke", "origin": origin, "messages_json": messages}
        for number, origin in origins
    ]


def checkpoint_row(number: int, promoted: bool) -> dict[str, Any]:
    return {
        "checkpoint_id": f"r{number}-x",
        "round": number,
        "promoted": promoted,
        "made_at": datetime.now(UTC),
    }


def test_held_out_questions_are_not_replayed(tmp_path: Path, workspace: Workspace) -> None:
    items, _ = read(tmp_path, line())
    made = write_benchmark(workspace, "lamps", "x", "test", items)
    assert {name: each.items for name, each in load_held_out(workspace).items()} == {
        "lamps": made.items
    }
    held_out = held_out_ids([made])
    assert held_out == {query_id("light in the  hall.")} or held_out == {
        query_id("Light in the hall.")
    }
    ledger = Ledger(workspace.state)
    (kept,) = held_out
    ledger.append({"example": example_rows((1, f"r1/{kept}"), (1, "r1/q_0"))})
    origins = [each.origin for each in history.earlier_examples(ledger, 2, held_out)]
    assert origins == ["r1/q_0"]
    assert len(history.earlier_examples(ledger, 2)) == 2


def test_what_a_promoted_checkpoint_was_trained_on(workspace: Workspace) -> None:
    ledger = Ledger(workspace.state)
    rows = example_rows((1, "r1/q_1"), (2, "r2/q_2"), (3, "r3/q_3"))
    ledger.append({"example": rows, "checkpoint": [checkpoint_row(3, False)]})
    assert history.trained_queries(ledger) == frozenset()
    ledger.append({"checkpoint": [checkpoint_row(2, True)]})
    assert history.trained_queries(ledger) == {"q_1", "q_2"}
    ledger.append({"query": [{"query_id": "q_2", "text": "Light"}]})  # type: ignore[typeddict-item]
    assert history.trained_queries(ledger) == {"q_1", "q_2", query_id("Light")}


def test_the_command(tmp_path: Path, workspace: Workspace) -> None:
    file = tmp_path / "labelled.jsonl"
    file.write_text("\n".join(LINES))
    done = run_factory("eval", "new", "lamps", str(file), cwd=workspace.root)
    assert "4 items, 0 bad lines" in done.stdout
    assert Benchmark.load(workspace, "lamps").title == "lamps"
    file.write_text(line() + "\noops\n")
    done = run_factory("eval", "new", "lamps", str(file), cwd=workspace.root, code=2)
    assert "labelled.jsonl:2" in done.stderr
    assert "already" in done.stderr
