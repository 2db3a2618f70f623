"""Schemas mean what they say: closed as a whole, every draft's keywords, exact numbers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from workspaces import ROOT

from factory.domain.records import Tool
from factory.judge.rulebook import Rulebook
from factory.judge.verdicts import check_calls
from factory.tools.schema import arguments_schema, make_validator, read_document, read_tool
from factory.tools.sources import read_tools
from factory.workspace.folder import Workspace, shipped_root

CASES = ROOT.parent / "shared" / "cases"


def is_valid(schema: dict[str, Any], given: Any) -> bool:
    return bool(make_validator(arguments_schema(schema)).is_valid(given))


def named(*names: str, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {} for name in names}, **more}


@pytest.mark.parametrize(
    ("schema", "valid", "invalid"),
    [
        (named("a", anyOf=[named("b"), named("c")]), [{"a": 1, "c": 2}], [{"a": 1, "d": 2}]),
        ({"allOf": [named("a"), named("b")]}, [{"a": 1, "b": 2}], [{"c": 1}]),
        (
            {"oneOf": [named("a", required=["a"]), named("b", required=["b"])]},
            [{"a": 1}, {"b": 1}],
            [{}, {"a": 1, "b": 1}, {"a": 1, "c": 1}],
        ),
        (named("a", **{"not": named("a", required=["a"])}), [{}], [{"a": 1}]),
        (
            {
                "properties": {"a": {}},
                "if": {"properties": {"a": {"const": 1}}},
                "then": {"properties": {"b": {"type": "string"}}, "required": ["b"]},
                "else": {"properties": {"c": {}}},
            },
            [{"a": 1, "b": "x"}, {"a": 2, "c": 1}],
            [{"a": 1}, {"a": 1, "b": 1}, {"a": 2, "d": 1}],
        ),
        (named("a", anyOf=[{"required": ["a"]}, {"required": ["b"]}]), [{"a": 1}], [{}, {"b": 1}]),
        (named("a", allOf=[{"additionalProperties": True}]), [{"a": 1, "z": 2}], []),
        (
            named("a", dependentSchemas={"a": named("b", required=["b"])}),
            [{}, {"a": 1, "b": 2}],
            [{"a": 1}, {"z": 1}],
        ),
        # An object that several parts describe is closed by all their names, nothing in a branch.
        (
            {
                "properties": {"o": named("a")},
                "oneOf": [
                    {"properties": {"o": named("b", required=["b"])}},
                    {"properties": {"o": named("c", required=["c"])}},
                ],
            },
            [{"o": {"a": 1, "b": 1}}],
            [{"o": {"b": 1, "z": 1}}],
        ),
        (
            {
                "oneOf": [
                    {"properties": {"o": named("b", required=["b"])}},
                    {"properties": {"o": named("c", required=["c"])}},
                ]
            },
            [{"o": {"b": 1}}],
            [{"o": {"b": 1, "z": 1}}, {"o": {"b": 1, "c": 1}}],
        ),
        (
            {"properties": {"l": {"allOf": [{"type": "array", "items": named("a")}]}}},
            [{"l": [{"a": 1}]}],
            [{"l": [{"b": 1}]}],
        ),
        (
            {"properties": {"l": {"type": "array", "contains": named("a", required=["a"])}}},
            [{"l": [{"a": 1, "b": 1}]}],
            [{"l": [{"b": 1}]}],
        ),
        (
            {"properties": {"o": {"not": {"properties": {"p": named("a")}, "required": ["p"]}}}},
            [{"o": {}}],
            [{"o": {"p": {"a": 1}}}, {"o": {"p": {"b": 1}}}],
        ),
    ],
)
def test_an_object_is_closed_as_a_whole(
    schema: dict[str, Any], valid: list[Any], invalid: list[Any]
) -> None:
    assert [each for each in valid if not is_valid(schema, each)] == []
    assert [each for each in invalid if is_valid(schema, each)] == []


@pytest.mark.parametrize(
    ("part", "valid", "invalid"),
    [
        ({"items": [{"type": "number"}], "additionalItems": False}, [[1]], [["a"], [1, 2]]),
        (
            {"prefixItems": [{"type": "number"}], "additionalItems": {"type": "string"}},
            [[1, "a"]],
            [[1, 2]],
        ),
        ({"dependencies": {"a": ["b"]}}, [{"a": 1, "b": 1}, {}], [{"a": 1}]),
        ({"dependencies": {"a": {"required": ["b"]}}}, [{"a": 1, "b": 1}, {}], [{"a": 1}]),
        (
            {"patternProperties": {"^x": {"type": "integer"}}, "additionalProperties": False},
            [{"x1": 1}],
            [{"x1": "a"}, {"y": 1}],
        ),
        (
            {"patternProperties": {"^x": {}}, "properties": {"a": {}}},
            [{"x": 1, "a": 1}],
            [{"b": 1}],
        ),
        (
            {"unevaluatedProperties": False, "anyOf": [named("a", required=["a"]), named("b")]},
            [{"a": 1}, {"b": 1}, {"a": 1, "b": 1}],
            [{"c": 1}],
        ),
        (
            {"unevaluatedProperties": {"type": "integer"}, "properties": {"a": {}}},
            [{"a": "x", "b": 1}],
            [{"b": "x"}],
        ),
        ({"prefixItems": [True], "unevaluatedItems": False}, [[1]], [[1, 2]]),
        ({"minimum": 0, "exclusiveMinimum": True}, [0.1], [0]),
        ({"maximum": 9, "exclusiveMaximum": False}, [9], [10]),
        ({"multipleOf": 0.01}, [19.99, 600.03, 20, 1.11, -0.07], [0.005, 1.111]),
        ({"multipleOf": 1e-8}, [12391239123, 0.00000003], [1e-9]),
        ({"multipleOf": 0.1}, [0.3, 5.5, 1e300], [0.35]),
        ({"uniqueItems": True}, [[1, True], [0, False], [[1], [True]]], [[1, 1.0], [{"a": 1}] * 2]),
        (True, [1, None, {"a": [2]}], []),
        (False, [], [1, None]),
        ({}, [1, None, {"a": [2]}], []),
        ({"type": "Dict[str, Any]"}, [{"a": 1, "b": [None]}], [1]),
        ({"type": "any"}, [1, None], []),
    ],
)
def test_keywords_of_every_draft_hold(part: Any, valid: list[Any], invalid: list[Any]) -> None:
    schema = {"type": "object", "properties": {"p": part}}
    assert [each for each in valid if not is_valid(schema, {"p": each})] == []
    assert [each for each in invalid if is_valid(schema, {"p": each})] == []


def test_a_property_that_is_true_has_no_schema_and_false_has_no_value() -> None:
    arguments = {"type": "dict", "properties": {"a": True, "b": False}}
    read = read_document({"name": "f", "arguments": arguments})
    assert read.properties == {"a": {}, "b": {"not": {}}}
    assert read.validator.is_valid({"a": None}) and not read.validator.is_valid({"b": 1})


def test_calls_of_others_documents_get_the_right_verdict() -> None:
    if not CASES.exists():
        pytest.skip(f"the cases are not here: {CASES}")
    rows = [json.loads(line) for line in (CASES / "calls.jsonl").read_text("utf-8").splitlines()]
    read = {file: read_tools(CASES / file) for file in {row["tools"] for row in rows}}
    assert not [line for imported in read.values() for line in imported.bad]
    wrong = []
    for row in rows:
        call = row["call"]
        (tool,) = (tool for tool in read[row["tools"]].items if tool.name == call["name"])
        if read_tool(tool).validator.is_valid(call["arguments"]) is not row["valid"]:
            wrong.append(row)
    assert len(rows) > 30 and not wrong


@pytest.mark.parametrize(
    ("name", "text", "valid"),
    [
        ("date-time", "2024-02-29T10:00:00Z", True),
        ("date-time", "2024-02-29t10:00:00.123456789z", True),
        ("date-time", "2023-02-29T10:00:00Z", False),
        ("date-time", "2024-05-01T10:00Z", False),
        ("date-time", "2024-05-01T10:00:00", False),
        ("date-time", "1998-12-31T23:59:60Z", True),
        ("date-time", "1998-12-31T15:59:60.5-08:00", True),
        ("date-time", "1998-12-31T22:59:60Z", False),
        ("time", "08:30:06+00:20", True),
        ("time", "01:29:60+01:30", True),
        ("time", "23:59:60+01:00", False),
        ("time", "08:30:06", False),
        ("time", "08:30Z", False),
        ("time", "24:00:00Z", False),
        ("time", "08:30:06+24:00", False),
        ("time", "0৮:30:06Z", False),
        ("date", "2024-13-01", False),
        ("date", "2024-1৪-01", False),
    ],
)
def test_times_are_those_of_rfc_3339(name: str, text: str, valid: bool) -> None:
    assert make_validator({"type": "string", "format": name}).is_valid(text) is valid


def test_a_call_of_a_shared_name_may_fit_any_tool_that_bears_it() -> None:
    shipped = Rulebook.load(Workspace(shipped_root()))

    def bear(name: str) -> Tool:
        arguments = {"type": "dict", "properties": {name: {"type": "integer"}}, "required": [name]}
        document = {"name": "f", "description": "Does this.", "arguments": arguments}
        return Tool(id=f"t_{name}", document=document)

    tools = [bear("a"), bear("b")]
    for given, reasons in ({"a": 1}, set()), ({"b": 1}, set()), ({"c": 1}, {"unknown_argument"}):
        answer = f"<tool_call>{json.dumps({'name': 'f', 'arguments': given})}</tool_call>"
        found = {verdict.reason for verdict in check_calls(answer, tools, rulebook=shipped)}
        assert found >= reasons and bool(found) is bool(reasons)
