"""Judging tool documents, calls, votes and codes (algorithms §1.5, check 3)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from bench.faults import FAULTS, SCHEMA_FAULTS, find_miss, make_calls
from bench.faults import judge_plainly as judge_plainly_planted
from bench.gold import DATA, SETS, SHALLOW_CALLNAVI, GoldCall, judge_plainly, judge_shallowly
from bench.gold import judge as judge_call
from factory.domain.canon import tool_id
from factory.domain.records import CONTEXT_FULL, Tool, Verdict
from factory.judge.cases import render_calls
from factory.judge.keys import make_key
from factory.judge.reading import parse_calls, parse_tools
from factory.judge.rulebook import Rulebook
from factory.judge.verdicts import check_calls, check_code, check_document, check_tools
from factory.lab.home.world import fresh_item
from factory.tools.dialects import read_dialect
from factory.tools.schema import arguments_schema
from factory.workspace.folder import Workspace, shipped_root
from factory.workspace.prompts import Prompts, invocation_messages
from factory.workspace.recipe import RuleSetting

settings.register_profile("factory", deadline=None, derandomize=True)
settings.load_profile("factory")

RULEBOOK = Rulebook.load(Workspace(shipped_root()))
WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "Current weather of a city.",
    "arguments": {
        "type": "dict",
        "properties": {
            "city": {"type": "string", "description": "Name of the city"},
            "days": {"type": "integer", "description": "Days ahead", "default": 1},
            "unit": {"type": "string", "enum": ["C", "F"], "description": "Unit"},
            "low": {"type": "float", "description": "Lowest temperature"},
        },
        "required": ["city"],
    },
    "results": {"type": "dict", "properties": {"degrees": {"type": "float", "description": "…"}}},
}


def as_tool(document: dict[str, Any]) -> Tool:
    return Tool(id=tool_id(document), document=document)


TOOL = as_tool(WEATHER)


def with_argument(**schema: Any) -> dict[str, Any]:
    """A document whose one argument `x` has this schema."""
    part = {"description": "A value", **schema}
    arguments = {"type": "dict", "properties": {"x": part}, "required": ["x"]}
    return {"name": "f", "description": "Does this and that.", "arguments": arguments}


def judge(tools: list[Tool], *calls: dict[str, Any], query: str = "") -> list[Verdict]:
    return list(check_calls(render_calls(calls), tools, rulebook=RULEBOOK, query=query))


def weather(**arguments: Any) -> dict[str, Any]:
    return {"name": "get_weather", "arguments": arguments}


def reasons(verdicts: Any) -> list[str]:
    return [verdict.reason for verdict in verdicts]


def test_verdict_shows_rule_path_and_value() -> None:
    (verdict,) = judge([TOOL], weather(city="Oslo"), weather(city="Rome", days="4"))
    assert verdict == Verdict(
        subject="calls",
        rule="call/wrong_type",
        reason="wrong_type",
        severity="reject",
        path="$[1].arguments.days",
        message='"4" is a string, not an integer',
    )


def test_near_names_are_suggested() -> None:
    unknown = judge([TOOL], {"name": "get_wether", "arguments": {}})[0]
    assert unknown.message == 'no candidate is called "get_wether"; did you mean "get_weather"?'
    invented = judge([TOOL], weather(city="Oslo", day=1))[0]
    assert invented.message == ('"day" is no argument of tool "get_weather"; did you mean "days"?')


def test_every_fault_of_a_call_is_found() -> None:
    verdicts = judge([TOOL], weather(days=True, unit="K", low="2", town="Oslo"))
    assert Counter(reasons(verdicts)) == Counter(
        ["unknown_argument", "missing_required", "wrong_type", "enum_violation", "wrong_type"]
    )


def test_the_published_apigen_row_is_rejected() -> None:
    """distilabel's documentation keeps this row: texts for numbers, one of them invented."""
    names = ("initial_velocity", "acceleration", "time")
    properties = {name: {"type": "number", "description": f"The {name}."} for name in names}
    parameters = {"type": "object", "properties": properties, "required": [*names]}
    function = {
        "name": "final_velocity",
        "description": "Calculates the final velocity of an object.",
        "parameters": parameters,
    }
    (document,) = read_dialect({"type": "function", "function": function})
    assert check_document(document, rulebook=RULEBOOK) == ()
    found = judge(
        [as_tool(document)],
        {
            "name": "final_velocity",
            "arguments": {"acceleration": "9.8", "initial_velocity": "0", "time": "10"},
        },
        query="What would be the final velocity of an object that starts at rest and accelerates "
        "at 9.8 m/s^2 for 10 seconds.",
    )
    assert [(v.severity, v.reason, v.path, v.message) for v in found] == [
        (
            "reject",
            "wrong_type",
            "$[0].arguments.initial_velocity",
            '"0" is a string, not a number',
        ),
        ("reject", "wrong_type", "$[0].arguments.acceleration", '"9.8" is a string, not a number'),
        ("reject", "wrong_type", "$[0].arguments.time", '"10" is a string, not a number'),
        (
            "warn",
            "ungrounded_value",
            "$[0].arguments.initial_velocity",
            '"0" stands nowhere in the query',
        ),
    ]


@pytest.mark.parametrize(
    ("schema", "value", "reason"),
    [
        ({"type": "integer"}, 5, ""),
        ({"type": "integer"}, 5.0, "wrong_type"),
        ({"type": "integer"}, "5", "wrong_type"),
        ({"type": "integer"}, True, "wrong_type"),
        ({"type": "integer"}, 10**90, ""),
        ({"type": "float"}, 5, ""),
        ({"type": "number"}, 5.5, ""),
        ({"type": "float"}, False, "wrong_type"),
        ({"type": "boolean"}, 1, "wrong_type"),
        ({"type": "bool"}, True, ""),
        ({"type": "string"}, None, "wrong_type"),
        ({"type": "any"}, {"a": [None]}, ""),
        ({"type": ["string", "null"]}, None, ""),
        ({"type": "union[int, str]"}, 1.5, "wrong_type"),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "a", ""),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, [], "wrong_type"),
        ({"type": "list[int]"}, [1, 2], ""),
        ({"type": "list[int]"}, [1, "2"], "array_item_type"),
        ({"type": "array", "items": {"type": "list[str]"}}, [["a"], [1]], "array_item_type"),
        ({"type": "array", "items": {"enum": [1, 2]}}, [3], "enum_violation"),
        ({"type": "tuple[int, str]"}, [1, "a"], ""),
        ({"type": "tuple[int, str]"}, [1, "a", 2], "array_item_type"),
        ({"type": "list[int]", "minItems": 1}, [], "constraint_violation"),
        ({"type": "list[int]", "uniqueItems": True}, [1, 1], "constraint_violation"),
        ({"type": "dict[str, int]"}, {"a": 1}, ""),
        ({"type": "dict[str, int]"}, {"a": "1"}, "object_nested_schema"),
        ({"type": "dict", "properties": {"a": {"type": "int"}}}, {"a": 1}, ""),
        ({"type": "dict", "properties": {"a": {"type": "int"}}}, {"b": 1}, "object_nested_schema"),
        (
            {"type": "dict", "properties": {"a": {}}, "additionalProperties": True},
            {"b": 1},
            "",
        ),
        ({"type": "dict"}, {"anything": 1}, ""),
        ({"enum": [1, "a"]}, 1, ""),
        ({"enum": [1, "a"]}, True, "enum_violation"),
        ({"type": "integer", "minimum": 2}, 1, "constraint_violation"),
        ({"type": "string", "pattern": "^a+$"}, "aab", "constraint_violation"),
        ({"type": "string", "pattern": "^(a+)+$"}, "a" * 4000 + "!", "constraint_violation"),
        ({"type": "string", "pattern": "^(a+)+$"}, "a" * 100_000, "constraint_violation"),
        ({"type": "string", "format": "date"}, "2024-02-30", "constraint_violation"),
        ({"type": "string", "format": "email"}, "a@b", ""),
        ({"type": "string", "format": "unheard-of"}, "a", ""),
    ],
)
def test_values_against_schemas(schema: dict[str, Any], value: object, reason: str) -> None:
    document = with_argument(**schema)
    found = judge([as_tool(document)], {"name": "f", "arguments": {"x": value}})
    assert reasons(found) == ([reason] if reason else [])
    for verdict in found:
        assert len(verdict.message) < 400
        assert verdict.message.isprintable()


def test_messages_are_bounded_and_safe_to_print() -> None:
    value = "\x1b[31m\u202e" + "x" * 10_000
    name = "\x1b]0;title\x07" * 100
    found = judge([TOOL], weather(city="Oslo", days=value), {"name": name, "arguments": {name: 1}})
    assert reasons(found) == ["wrong_type", "unknown_tool"]
    assert all(len(v.message) < 300 and v.message.isprintable() for v in found)
    invented = judge([TOOL], weather(city="Oslo", **{name: 1}))
    assert all(len(v.path) < 120 and v.path.isprintable() for v in invented)


def test_faults_of_one_call_are_bounded() -> None:
    invented = {f"a{index}": 1 for index in range(500)}
    assert len(judge([TOOL], weather(city="Oslo", **invented))) == 16


@pytest.mark.parametrize(
    ("finish_reason", "where"),
    [("length", "at the limit of new tokens"), (CONTEXT_FULL, "where it met engine.max_model_len")],
)
def test_truncated_answer_says_so_first(finish_reason: str, where: str) -> None:
    text = '<tool_call>{"name": "get_wea'
    verdicts = check_calls(text, [TOOL], rulebook=RULEBOOK, finish_reason=finish_reason)
    assert reasons(verdicts) == ["truncated", "call_json"]
    assert where in verdicts[0].message


def test_subject_and_parsed_answers() -> None:
    parsed = parse_calls(render_calls([weather(city=1)]))
    (verdict,) = check_calls(parsed, [TOOL], rulebook=RULEBOOK, subject="sample:3")
    assert (verdict.subject, verdict.reason) == ("sample:3", "wrong_type")


def test_same_id_with_another_document_is_another_tool() -> None:
    other = {**WEATHER, "arguments": {"type": "dict", "properties": {}, "required": []}}
    for _ in range(2):
        assert not judge([Tool(id="t", document=WEATHER)], weather(city="Oslo"))
        assert judge([Tool(id="t", document=other)], weather(city="Oslo"))


def test_code_is_judged_by_the_trie() -> None:
    assert check_code("<a_1>", valid=True, rulebook=RULEBOOK) == ()
    (verdict,) = check_code("<a_1>\x1b", valid=False, rulebook=RULEBOOK, subject="code:t_1")
    assert (verdict.reason, verdict.subject) == ("code_not_in_trie", "code:t_1")
    assert verdict.message.isprintable()


def test_good_tools_survive_their_neighbours() -> None:
    bad = {**WEATHER, "name": "other", "description": ""}
    text = f"<tools>{json.dumps(WEATHER)}\n{json.dumps(bad)}\n{{broken</tools>"
    checked = check_tools(text, rulebook=RULEBOOK)
    assert [tool.name for tool in checked.tools] == ["get_weather"]
    assert [(v.subject, v.reason) for v in checked.verdicts] == [
        ("tool:2", "tools_json"),
        ("tool:1", "desc_missing"),
        ("tool:1", "desc_short"),
    ]


def test_a_rejected_set_keeps_no_tool() -> None:
    unclosed = check_tools(f"<tools>{json.dumps(WEATHER)}", rulebook=RULEBOOK)
    assert (unclosed.tools, reasons(unclosed.verdicts)) == ((), ["no_tools_tag"])


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("name", "description", "arguments", "type", "properties", "required"),
                    *("items", "enum", "default", "pattern", "anyOf", "minimum", "$ref", "x"),
                    *("format", "additionalProperties", "propertyNames", "minItems"),
                    *("multipleOf", "uniqueItems", "const", "not", "prefixItems", "minLength"),
                ]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=25,
)

NESTED: dict[str, Any] = {
    "name": "plan_trip",
    "description": "Plans a trip with stops.",
    "arguments": {
        "type": "dict",
        "properties": {
            "days": {"type": "integer", "description": "Days"},
            "city": {"type": "string", "description": "City"},
            "price": {"type": "float", "description": "Price"},
            "unit": {"type": "string", "description": "Unit", "enum": ["km", "mi"]},
            "stops": {"type": "array", "description": "Stops", "items": {"type": "string"}},
            "seat": {
                "type": "dict",
                "description": "Seat",
                "properties": {
                    "row": {"type": "integer", "description": "Row"},
                    "kind": {"type": "string", "description": "Kind"},
                },
                "required": ["row"],
            },
        },
        "required": ["days", "city", "seat"],
    },
}

UNUSABLE: list[tuple[str, Any, str]] = [
    ("tool/tool_not_object", 7, "$"),
    ("tool/name_missing", {k: v for k, v in WEATHER.items() if k != "name"}, "$.name"),
    ("tool/name_missing", {**WEATHER, "name": ""}, "$.name"),
    ("tool/name_missing", {**WEATHER, "name": 7}, "$.name"),
    ("tool/args_not_dict", {"name": "f", "description": "Does this."}, "$.arguments"),
    ("tool/args_not_dict", {**WEATHER, "arguments": []}, "$.arguments"),
    (
        "tool/args_not_dict",
        {**WEATHER, "arguments": {"type": "dict"}},
        "$.arguments.properties",
    ),
    (
        "tool/prop_type_unknown",
        {**WEATHER, "arguments": {"type": "dict", "properties": {"x": True}}},
        "$.arguments.properties.x",
    ),
]


@pytest.mark.parametrize("setting", ["off", "warn"])
@pytest.mark.parametrize(("rule", "document", "path"), UNUSABLE)
def test_what_a_tool_needs_is_no_rule(rule: str, document: Any, path: str, setting: Any) -> None:
    others = {name: "off" for name in RULEBOOK.rules if name.startswith("tool/")}
    rulebook = Rulebook.load(Workspace(shipped_root()), {**others, rule: setting})
    checked = check_tools(f"<tools>{json.dumps(document)}</tools>", rulebook=rulebook)
    assert checked.tools == ()
    last = checked.verdicts[-1]
    assert (last.rule, last.reason, last.severity, last.path) == (
        "tool/unusable",
        "tool_unusable",
        "reject",
        path,
    )
    assert check_document(document, rulebook=rulebook)[-1] == last


def test_what_a_rule_rejects_is_not_told_twice() -> None:
    for _, document, _ in UNUSABLE:
        assert "tool_unusable" not in reasons(check_document(document, rulebook=RULEBOOK))


PROMPTS = Prompts.load(Workspace(shipped_root()))
NO_TOOL_RULES = Rulebook.load(
    Workspace(shipped_root()),
    {name: "off" for name in RULEBOOK.rules if name.startswith("tool/")},
)


@settings(max_examples=100)
@given(JSON, JSON)
def test_whatever_is_kept_without_rules_can_be_used(document: Any, schema: Any) -> None:
    """Prompts, votes and the judges of calls take every tool that is left."""
    whole = {**WEATHER, "arguments": {"type": "dict", "properties": {"x": schema}}}
    for value in (document, whole):
        if check_document(value, rulebook=NO_TOOL_RULES):
            continue
        tool = as_tool(value)
        call = {"name": tool.name, "arguments": {"x": {"type": [1]}, "name": 1.5}}
        judge([tool], call, call, query="some query")
        make_key(parse_calls(render_calls([call, call])).calls or (), {tool.name: tool})
        PROMPTS.render("codes/encode", tool=tool.document)
        invocation_messages("q", [tool.document], PROMPTS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<tools>" * 100_000,
        "<tools>" + "[" * 10_000 + "]" * 10_000 + "</tools>",
        "<tools>" + '{"a":' * 10_000 + "1" + "}" * 10_000 + "</tools>",
        "<tools>" + "{}" * 1000 + "</tools>",
        "<tools>" + "1 " * 100_000 + "</tools>",
        "<tools>" + '"' * 300_001 + "</tools>",
        "<tools>" + '{"name": "' + "x" * 900_000 + '"}</tools>',
        '<tools>{"name": "a", "name": "b"}</tools>',
        '<tools>{"name": "\\ud800"}</tools>',
        '<tools>{"n": 1e999}</tools>',
        "<tools>" + "x" * 3_000_000 + "</tools>",
    ],
)
def test_hostile_tools_fall_with_a_reason(text: str) -> None:
    checked = check_tools(text, rulebook=RULEBOOK, query="What is the weather in Oslo?")
    assert checked.tools == ()
    assert any(verdict.severity == "reject" for verdict in checked.verdicts)
    assert all(len(v.message) < 400 and v.message.isprintable() for v in checked.verdicts)


def wide(kind: str, **schema: Any) -> dict[str, Any]:
    return with_argument(type="array", items={"type": kind, **schema})


@pytest.mark.parametrize(
    "text", ["[f(a=[f(a=", "((((I cannot do[f(a=1), .", "I cannot [f(a=1), .", "f(a=1) and more"]
)
def test_broken_calls_in_python_are_rejected_by_a_rule_that_there_is(text: str) -> None:
    assert reasons(check_calls(text, [TOOL], rulebook=RULEBOOK))[-1] in (
        "call_json",
        "no_tool_call",
    )
    assert parse_calls(text).failure in ("call_json", "no_tool_call")


@pytest.mark.parametrize(
    ("document", "value"),
    [
        (wide("string", anyOf=[{"minLength": n} for n in range(9, 2009)]), ["a"] * 20_000),
        (wide("string", **{"not": {"allOf": [{"maxLength": 9}] * 2000}}), ["a" * 10] * 50_000),
        (wide("string", **{"if": {"anyOf": [{"minLength": 9}] * 2000}}), ["a"] * 20_000),
        (wide("string", enum=[*map(str, range(20_000))]), ["19999"] * 90_000),
        (
            wide("dict", properties={f"p{n}": {"type": "string"} for n in range(5000)}),
            [{}] * 90_000,
        ),
        (wide("string", pattern="^((a?a?a?a?|a?a?a?a?)(a?a?a?|a?a?a?)*)*b$"), ["a" * 4000] * 200),
        (with_argument(allOf=[{"uniqueItems": True}] * 3000, type="any"), [*range(9000)]),
    ],
)
def test_a_large_value_times_a_large_schema_is_bounded(
    document: dict[str, Any], value: Any
) -> None:
    """Each is small enough; all of one against all of the other would take minutes."""
    found = judge([as_tool(document)], {"name": "f", "arguments": {"x": value}})
    assert reasons(found)[0] in ("constraint_violation", "array_item_type")
    assert len(found) <= 16


def test_a_document_that_takes_too_long_falls_with_a_reason() -> None:
    forms = [{"type": "integer"}] * 4999 + [{"type": "string"}]
    document = with_argument(enum=[*map(str, range(20_000))], anyOf=forms)
    (verdict,) = check_document(document, rulebook=RULEBOOK)
    assert verdict.reason == "too_many_params" and "1,000,000 steps" in verdict.message


OTHER = {"type": "dict", "properties": {"b": {"type": "string"}}}


def nested(levels: int, wrap: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "dict", "properties": {"a": {"type": "string"}}}
    for _ in range(levels):
        schema = wrap(schema)
    return with_argument(**schema)


@pytest.mark.parametrize("word", ["anyOf", "oneOf", "allOf"])
def test_two_branches_in_each_of_sixteen_levels_are_too_many_schemas(word: str) -> None:
    document = nested(15, lambda schema: {word: [schema, schema]})
    (found,) = (v for v in check_document(document, rulebook=RULEBOOK) if v.severity == "reject")
    assert found.reason == "too_many_params" and "over 20,000 schemas" in found.message
    few = nested(11, lambda schema: {word: [schema, schema]})
    assert not [v for v in check_document(few, rulebook=RULEBOOK) if v.severity == "reject"]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda schema: {"anyOf": [schema, OTHER]},
        lambda schema: {"oneOf": [{"type": "integer"}, schema]},
        lambda schema: {"anyOf": [schema, OTHER], "unevaluatedProperties": False},
        lambda schema: {"anyOf": [schema], "unevaluatedItems": False},
        lambda schema: {
            **OTHER,
            "properties": {"x": schema},
            "anyOf": [{"properties": {"x": OTHER}}],
        },
    ],
)
def test_thirty_levels_of_branches_end_with_a_verdict(
    wrap: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
    """unevaluatedProperties asks its branches again, and so does each that lies in them."""
    document = nested(30, wrap)
    tool = as_tool(document)
    for value in ({"zz": 1}, ["x"]):
        found = judge([tool], {"name": "f", "arguments": {"x": value}})
        assert found and found[0].severity == "reject"


@pytest.mark.parametrize(
    "body",
    ['\\"' * 200_000, "\\'" * 200_000, '"' + '\\"' * 200_000 + "\\", "“" * 300_001, "'\\"],
)
def test_strings_that_nothing_closes_are_read_once(body: str) -> None:
    call, tools = f"<tool_call>{body}</tool_call>", f"<tools>{body}</tools>"
    assert reasons(check_calls(call, [TOOL], rulebook=RULEBOOK)) == ["call_json"]
    assert reasons(check_tools(tools, rulebook=RULEBOOK).verdicts) == ["tools_json"]


def test_many_invented_arguments_cost_no_more_than_those_shown() -> None:
    invented = {f"argument_number_{number}": 1 for number in range(30_000)}
    properties = {f"known_argument_{number}": {"type": "string"} for number in range(70)}
    document = with_argument(type="string")
    document["arguments"]["properties"] |= properties
    found = judge([as_tool(document)], {"name": "f", "arguments": invented})
    assert reasons(found) == ["unknown_argument"] * 16


def test_a_long_description_is_too_long_and_not_missing() -> None:
    found = check_document({**WEATHER, "description": "word " * 2000}, rulebook=RULEBOOK)
    assert [(v.reason, v.path) for v in found] == [("schema_invalid", "$.description")]


SHREDS = [
    "<tool_call>",
    "</tool_call>",
    "<tools>",
    "</tools>",
    '{"name": "get_weather", ',
    "{",
    "}",
]
SHREDS += [
    '"arguments": {',
    '"city": ',
    '"Oslo"',
    '"',
    "'",
    "“",
    "\\",
    ",",
    ":",
    "[",
    "]",
    "1e999",
    "-",
]
SHREDS += ["NaN", "9" * 120, "\\ud800", "\ud800", "\x1b[31m", "\0", "null", " ", "\n", "\u2028"]


@settings(max_examples=300)
@given(st.lists(st.sampled_from(SHREDS), max_size=25).map("".join))
def test_shreds_of_answers_get_a_reason_or_pass(text: str) -> None:
    found = check_calls(text, [TOOL], rulebook=RULEBOOK, query="What about Oslo?")
    checked = check_tools(text, rulebook=RULEBOOK, query="What about Oslo?")
    calls = parse_calls(text).calls
    assert calls or found
    for verdict in (*found, *checked.verdicts):
        assert verdict.message.isprintable() and verdict.path.isprintable()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"type": "dict", "properties": {"a": ', "}}"),
        ('{"anyOf": [', "]}"),
        ('{"type": "array", "items": ', "}"),
    ],
)
@pytest.mark.parametrize("depth", [10, 27, 5000])
def test_deep_schemas_cost_bounded_time_and_stack(before: str, after: str, depth: int) -> None:
    deep = before * depth + '{"type": "string", "minLength": 1}' + after * depth
    frame = json.dumps(with_argument(type="dict", properties={"y": 0}))
    checked = check_tools(f"<tools>{frame.replace('0', deep)}</tools>", rulebook=RULEBOOK)
    assert reasons(checked.verdicts) == ([] if depth < 30 else ["tools_json"])


@settings(max_examples=150)
@given(JSON, JSON)
def test_no_document_breaks_the_checker(document: Any, schema: Any) -> None:
    check_document(document, rulebook=RULEBOOK, query="some query text")
    whole = {
        "name": "f",
        "description": "Does this and that.",
        "arguments": {"type": "dict", "properties": {"x": schema}, "required": ["x"]},
    }
    verdicts = check_document(whole, rulebook=RULEBOOK)
    if not any(verdict.severity == "reject" for verdict in verdicts):
        judge([as_tool(whole)], {"name": "f", "arguments": {"x": {"type": [1]}}})


@settings(max_examples=150)
@given(st.dictionaries(st.sampled_from(["city", "days", "unit", "low", "x"]), JSON, max_size=4))
def test_agrees_with_a_plain_json_schema_judgement(arguments: dict[str, Any]) -> None:
    """Apart from 5.0 for an integer, which JSON Schema calls exact and BFCL does not."""
    text = render_calls([weather(**arguments)])
    if parse_calls(text).failure:
        return
    plain = Draft202012Validator(arguments_schema(TOOL.arguments)).is_valid(arguments)
    ours = not check_calls(text, [TOOL], rulebook=RULEBOOK)
    assert ours == (plain and not isinstance(arguments.get("days"), float))


def test_home_world_is_clean() -> None:
    for number in range(60):
        item = fresh_item(number)
        tools = [as_tool(document) for document in item.tools]
        for document in item.tools:
            assert check_document(document, rulebook=RULEBOOK, query=item.query) == ()
        assert not judge(tools, *item.calls, query=item.query)


def read_gold(name: str) -> list[GoldCall]:
    calls = list(SETS[name]())
    if not calls:
        pytest.skip(f"needs the public data set {name} in {DATA}")
    return calls


def judge_gold(name: str) -> list[tuple[GoldCall, tuple[Verdict, ...]]]:
    """Every call of a set with its verdicts, which agree with plain jsonschema on each."""
    judged = [(gold, judge_call(gold, RULEBOOK)) for gold in read_gold(name)]
    for gold, verdicts in judged:
        assert judge_plainly(gold) == (not verdicts), gold.where
    return judged


PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "float": (int, float),
    "boolean": (bool,),
}


def test_seal_tools_gold_calls() -> None:
    """1,750 of 1,804 fit; the other 54 give values of another type, by Python's own types too."""
    judged = judge_gold("Seal-Tools dev")
    assert (len(judged), sum(not verdicts for _, verdicts in judged)) == (1804, 1750)
    for gold, verdicts in judged:
        properties = gold.tools[gold.call.name].arguments["properties"]
        wrong = {
            f"$[0].arguments.{name}"
            for name, value in gold.call.arguments.items()
            if type(value) not in PYTHON_TYPES[properties[name]["type"]]
        }
        assert {verdict.path for verdict in verdicts} == wrong, gold.where
        assert {verdict.reason for verdict in verdicts} <= {"wrong_type"}


def test_callnavi_gold_calls() -> None:
    """Dirty gold: 232 calls break their own schema at the top level, 27 more inside an object."""
    judged = judge_gold("CallNavi")
    shallow = Counter(filter(None, (judge_shallowly(gold) for gold, _ in judged)))
    assert (len(judged), shallow) == (1078, SHALLOW_CALLNAVI)
    deeper = [verdicts for gold, verdicts in judged if verdicts and not judge_shallowly(gold)]
    assert len(deeper) == 27
    assert {verdicts[0].reason for verdicts in deeper} == {"object_nested_schema"}
    assert all(not verdicts or judge_shallowly(gold) or verdicts in deeper
               for gold, verdicts in judged)  # fmt: skip
    assert sum(not verdicts for _, verdicts in judged) == 819


def test_sgd_gold_calls() -> None:
    """Human dialogues: every service call fits its own schema."""
    judged = judge_gold("SGD train")
    assert len(judged) == 1589
    assert not any(verdicts for _, verdicts in judged)


def test_planted_faults_are_found_and_clean_calls_pass() -> None:
    """A slice of bench.faults, on the home world's documents: the same ones everywhere."""
    documents = [document for number in range(150) for document in fresh_item(number).tools]
    documents += [NESTED]
    made = Counter[str]()
    for planted in islice(make_calls(documents, seed=7), 1500):
        made[planted.fault] += 1
        assert find_miss(planted, RULEBOOK) == ""
        differs = judge_plainly_planted(planted) == (planted.fault in SCHEMA_FAULTS)
        assert not differs or ".0" in planted.text
    assert made.keys() == {"", *FAULTS}


def test_what_plants_faults_would_tell_a_blind_checker() -> None:
    """With the call rules off, every planted fault is a miss."""
    off: dict[str, RuleSetting] = {
        name: "off" for name in RULEBOOK.rules if name.startswith("call/")
    }
    blind = Rulebook.load(Workspace(shipped_root()), off)
    for planted in islice(make_calls([NESTED], seed=1), 100):
        assert bool(find_miss(planted, blind)) == bool(planted.fault)


def test_documents_are_read_from_lists_and_sequences() -> None:
    one, other = json.dumps(WEATHER), json.dumps({**WEATHER, "name": "g"})
    for body in (f"{one}{other}", f"{one},\n{other}", f"[{one}, {other}]", f"{one}\n\n{other}"):
        assert [d["name"] for d in parse_tools(f"<tools>{body}</tools>").documents] == [
            "get_weather",
            "g",
        ]
