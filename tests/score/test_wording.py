"""`factory eval new` on what people have: parts, roles, nullable types, items without a call."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from workspaces import ROOT, make_workspace, run_factory

from factory.engines.replay import ReplayEngine
from factory.score.calls.kind import Benchmark
from factory.score.calls.wording import simplify
from factory.score.labelled import Labelled, read_labelled, write_benchmark
from factory.tools.rowfiles import BadLine
from factory.workspace.prompts import Prompts

CASES = ROOT.parent / "shared" / "cases" / "labelled"


def case(name: str) -> tuple[list[Labelled], list[BadLine]]:
    path = CASES / name
    if not path.exists():
        pytest.skip(f"the cases are not here: {path}")
    return read_labelled(path)


def make(folder: Path, items: list[Labelled]) -> Benchmark:
    return write_benchmark(make_workspace(folder / "ws"), "mine", "Mine", "test", items)


def test_case_of_content_parts(tmp_path: Path) -> None:
    items, bad = case("e01_parts.jsonl")
    assert not bad
    assert [item.query for item in make(tmp_path, items).items] == ["Book me a boat for Sunday"]


def test_case_of_an_empty_turn_keeps_the_roles(tmp_path: Path) -> None:
    items, bad = case("e02_none.jsonl")
    assert not bad
    (item,) = make(tmp_path, items).items
    assert [turn.role for turn in item.turn] == ["system", "user", "user"]
    assert "None" not in item.query and "null" not in item.query


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("e04_u2028.jsonl", 2),
        ("e05_nullable.jsonl", 1),
        ("e07_nullable3.jsonl", 2),
        ("e09_samequestion.jsonl", 3),
        ("e17_number.jsonl", 1),
    ],
)
def test_cases_are_used(tmp_path: Path, name: str, count: int) -> None:
    items, bad = case(name)
    assert not bad
    assert len(make(tmp_path, items).items) == count


SHIP = {
    "name": "hire_ship",
    "description": "Hire a ship.",
    "parameters": {
        "type": "object",
        "properties": {
            "port": {"type": "string", "enum": ["Oslo", "Riga"], "description": "From"},
            "masts": {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]},
            "flag": {"type": ["string", "null"]},
            "cargo": {"type": ["array", "null"], "items": {"type": ["string", "null"]}},
            "length": {"oneOf": [{"type": "number"}, {"type": "string"}]},
            "extra": {},
            "crew": {"type": "array", "items": {"anyOf": [{"type": "object"}, {"type": "string"}]}},
        },
        "required": ["port", "masts"],
        "additionalProperties": False,
    },
}


def row(**changes: Any) -> str:
    gold = {"hire_ship": {"port": ["Oslo"], "masts": [2]}}
    return json.dumps({"question": "A ship!", "function": SHIP, "ground_truth": [gold], **changes})


def gold(**arguments: list[Any]) -> list[dict[str, Any]]:
    return [{"hire_ship": {"port": ["Oslo"], "masts": [2], **arguments}}]


def read(folder: Path, *lines: str) -> tuple[list[Labelled], list[BadLine]]:
    file = folder / "rows.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    return read_labelled(file)


@pytest.mark.parametrize(
    "label",
    [
        gold(),
        gold(masts=[None, 3]),
        gold(flag=["Norway"]),
        gold(flag=[None]),
        gold(cargo=[["tea", "wool"], []]),
        gold(length=[12.5]),
        gold(length=["long"]),
        gold(extra=["b"], crew=[["cook"]]),
    ],
)
def test_labels_of_nullable_and_mixed_types_answer_themselves(
    tmp_path: Path, label: list[Any]
) -> None:
    items, bad = read(tmp_path, row(ground_truth=label))
    assert not bad
    assert len(make(tmp_path, items).items) == 1


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (row(ground_truth=gold(port=["Bergen"])), "breaks its schema at $.arguments.port"),
        (row(ground_truth=gold(port=["Oslo", "Bergen"])), "breaks its schema"),
        (row(ground_truth=gold(masts=[0])), "breaks its schema"),
        (row(ground_truth=gold(flag=[7])), "breaks its schema"),
        (row(ground_truth=None), "ground_truth"),
        (row(ground_truth=[{"hire_ship": {"port": "Oslo", "masts": [2]}}]), "allowed values"),
        (row(question=[[{"role": "user", "content": [{"type": "image_url"}]}]]), "image_url"),
        (row(question=[{"role": "tool", "content": "x"}]), "role"),
        (row(question=[{"role": "system", "content": "x"}]), "empty"),
        (row(question=[{"role": "assistant", "content": None, "tool_calls": [{}]}]), "calls"),
        (row().replace('"question"', '"question": "no", "question"'), "twice"),
    ],
)
def test_an_unfit_row_is_one_bad_line(tmp_path: Path, text: str, cause: str) -> None:
    items, bad = read(tmp_path, row(question="Another ship!"), text)
    assert [item.query for item in items] == ["Another ship!"]
    assert [line.where for line in bad] == ["rows.jsonl:2"] and cause in bad[0].cause


def test_items_where_no_call_is_right(tmp_path: Path) -> None:
    items, bad = read(tmp_path, row(question="Sing!", ground_truth=[]), row())
    assert not bad
    workspace = make_workspace(tmp_path / "ws")
    made = write_benchmark(workspace, "mine", "Mine", "test", items)
    assert made.categories == ("simple", "irrelevance")
    prompts = Prompts.load(workspace)
    marks = asyncio.run(made.ask(ReplayEngine(lambda _: ["I cannot sing."]), prompts))
    assert {mark.category: mark.correct for mark in marks} == {"simple": False, "irrelevance": True}


def test_one_question_has_one_label(tmp_path: Path) -> None:
    other = {**SHIP, "name": "hire_boat"}
    again = row(question="a  SHIP!")
    more = row(function=[other, SHIP])
    differs = row(ground_truth=gold(masts=[3]))
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join([row(), again, more, differs]), encoding="utf-8")
    workspace = make_workspace(tmp_path / "ws")
    done = run_factory("eval", "new", "mine", str(file), cwd=workspace.root, code=1)
    assert "2 items, 1 bad lines" in done.stdout and "1 rows ask the same" in done.stderr
    assert "rows.jsonl:4: rows.jsonl:1 has another label" in done.stderr


@pytest.mark.parametrize(
    ("schema", "word"),
    [
        (True, "any"),
        ({"enum": [1, 2, None]}, "integer"),
        ({"const": "a"}, "string"),
        ({"items": {"type": "string"}}, "array"),
        ({"properties": {}}, "dict"),
        ({"type": ["string", "integer", "null"]}, "any"),
        ({"anyOf": [{"type": "string"}, {"enum": ["a"]}]}, "string"),
        (
            {"anyOf": [{"anyOf": [{"type": "boolean"}, {"type": "null"}]}, {"type": "null"}]},
            "boolean",
        ),
    ],
)
def test_a_schema_gets_one_type(schema: Any, word: str) -> None:
    assert simplify(schema)["type"] == word
