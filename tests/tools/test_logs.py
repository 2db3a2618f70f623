"""Requests out of logs and conversations of every notation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from workspaces import ROOT

from factory.tools.sources import Imported, Requested, read_queries, read_requests

CASES = ROOT.parent / "shared" / "cases" / "requests"
CALL = {"name": "brew_tea", "arguments": '{"cups": 2}'}
TOOL = {
    "name": "brew_tea",
    "description": "Brew some cups of tea.",
    "parameters": {"type": "object", "properties": {"cups": {"type": "integer"}}},
}
OPENAI_TOOL = {"type": "function", "function": TOOL}
ASK, THEN = "Brew two cups of tea", "And one for Ann"
CALLED = {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "function": CALL}]}
CHAT = [
    {"role": "system", "content": "You brew."},
    {"role": "user", "content": ASK},
    CALLED,
    {"role": "tool", "tool_call_id": "c1", "content": "done"},
    {"role": "assistant", "content": "Here."},
    {"role": "user", "content": THEN},
]
PARTS = [
    {"role": "user", "parts": [{"type": "text", "content": ASK}]},
    {"role": "assistant", "parts": [{"type": "tool_call", "id": "c", **CALL}]},
    {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c", "response": "ok"}]},
    {"role": "user", "parts": [{"type": "text", "content": THEN}]},
]
SPAN: dict[str, Any] = {
    "gen_ai.operation.name": "chat",
    "gen_ai.input.messages": json.dumps(PARTS),
    "gen_ai.tool.definitions": json.dumps([{"type": "function", **TOOL}]),
}
TOLD = {"gen_ai.tool.definitions": SPAN["gen_ai.tool.definitions"]}
OLDER = {
    "gen_ai.prompt.0.role": "user",
    "gen_ai.prompt.0.content": ASK,
    "gen_ai.prompt.1.role": "assistant",
    "gen_ai.prompt.1.tool_calls.0.name": "brew_tea",
    "gen_ai.prompt.1.tool_calls.0.arguments": '{"cups": 2}',
    "gen_ai.prompt.2.role": "user",
    "gen_ai.prompt.2.content": THEN,
    "gen_ai.completion.0.role": "assistant",
    "gen_ai.completion.0.content": "Here.",
    "llm.request.functions.0.name": "brew_tea",
    "llm.request.functions.0.parameters": json.dumps(TOOL["parameters"]),
}
OPENINFERENCE = {
    "llm.input_messages.0.message.role": "user",
    "llm.input_messages.0.message.content": ASK,
    "llm.output_messages.0.message.role": "assistant",
    "llm.output_messages.0.message.tool_calls.0.tool_call.function.name": "brew_tea",
    "llm.output_messages.0.message.tool_calls.0.tool_call.function.arguments": '{"cups": 2}',
    "llm.tools.0.tool.json_schema": json.dumps(OPENAI_TOOL),
}


def otlp(attributes: dict[str, Any]) -> dict[str, Any]:
    """As an exporter writes a span: lists of keys and typed values."""
    listed = [{"key": key, "value": {"stringValue": value}} for key, value in attributes.items()]
    other = {"name": "GET /", "spanId": "b", "attributes": [{"key": "http.method", "value": {}}]}
    span = {"name": "chat", "spanId": "a", "attributes": listed}
    return {"resourceSpans": [{"resource": {}, "scopeSpans": [{"spans": [other, span]}]}]}


def lc(name: str, **fields: Any) -> dict[str, Any]:
    """A message as LangChain serialises it."""
    return {"lc": 1, "type": "constructor", "id": ["langchain", "schema", name], "kwargs": fields}


RUN = {
    "run_type": "llm",
    "inputs": {"messages": [[lc("HumanMessage", content=ASK)]]},
    "outputs": {
        "generations": [
            [
                {
                    "text": "",
                    "message": lc(
                        "AIMessage",
                        content="",
                        tool_calls=[{"name": "brew_tea", "args": {"cups": 2}, "id": "c"}],
                    ),
                }
            ]
        ]
    },
    "extra": {"invocation_params": {"tools": [OPENAI_TOOL]}},
}
GENERATION = {
    "type": "GENERATION",
    "traceId": "t",
    "input": {"messages": CHAT[:2], "tools": [OPENAI_TOOL]},
    "output": CALLED,
}
EVENTS = [
    {"name": "gen_ai.user.message", "attributes": {"content": ASK}},
    {
        "name": "gen_ai.choice",
        "attributes": {"message": json.dumps({"content": "", "tool_calls": [{"function": CALL}]})},
    },
]
ANTHROPIC = [
    {"role": "user", "content": [{"type": "text", "text": ASK}]},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "hm"},
            {"type": "tool_use", "id": "c", "name": "brew_tea", "input": {"cups": 2}},
        ],
    },
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "ok"}]},
]
GEMINI = [
    {"role": "user", "parts": [{"text": ASK}]},
    {"role": "model", "parts": [{"functionCall": {"name": "brew_tea", "args": {"cups": 2}}}]},
]
SHAREGPT = [
    {"from": "human", "value": ASK},
    {"from": "function_call", "value": json.dumps({"name": "brew_tea", "arguments": {"cups": 2}})},
    {"from": "observation", "value": "done"},
    {"from": "gpt", "value": "Here."},
]
FORMS: dict[str, Any] = {
    "openai": {"messages": CHAT, "tools": [OPENAI_TOOL]},
    "trl": {"prompt": CHAT[:2], "completion": [CALLED], "tools": json.dumps([OPENAI_TOOL])},
    "sharegpt": {"conversations": SHAREGPT, "system": "You brew.", "tools": json.dumps([TOOL])},
    "batch": {"custom_id": "1", "url": "/v1", "body": {"messages": CHAT, "tools": [OPENAI_TOOL]}},
    "proxy": {
        "request": {"messages": CHAT[:2], "tools": [OPENAI_TOOL]},
        "response": {"choices": [{"index": 0, "message": CALLED}]},
    },
    "responses": {
        "input": [{"role": "user", "content": [{"type": "input_text", "text": ASK}]}],
        "output": [{"type": "reasoning"}, {"type": "function_call", "call_id": "c", **CALL}],
        "tools": [{"type": "function", **TOOL}],
    },
    "anthropic": {
        "messages": ANTHROPIC,
        "system": "Brew.",
        "tools": [{"name": "brew_tea", "input_schema": TOOL["parameters"]}],
    },
    "gemini": {"contents": GEMINI, "tools": [{"functionDeclarations": [TOOL]}]},
    "span": {"name": "chat", "attributes": SPAN},
    "span with output": {
        "attributes": {
            **SPAN,
            "gen_ai.input.messages": PARTS[:1],
            "gen_ai.output.messages": PARTS[1:2],
        }
    },
    "exporter": otlp(SPAN),
    "older span": {"name": "openai.chat", "attributes": OLDER},
    "openinference": {"attributes": OPENINFERENCE},
    "span events": {"name": "chat", "spanId": "a", "attributes": TOLD, "events": EVENTS},
    "run": RUN,
    "run with children": {"run_type": "chain", "inputs": {"input": "x"}, "child_runs": [RUN]},
    "generation": GENERATION,
    "trace": {
        "id": "t",
        "input": "x",
        "observations": [{"type": "SPAN", "input": "y"}, GENERATION],
    },
}


def requests_of(folder: Path, *rows: Any) -> list[Requested]:
    file = folder / "log.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    bad: list[Any] = []
    found = list(read_requests(file, bad))
    assert not bad
    return found


def queries_of(folder: Path, *rows: Any) -> Imported[Any]:
    file = folder / "log.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read_queries(file)


@pytest.mark.parametrize("form", FORMS)
def test_a_turn_of_every_notation(tmp_path: Path, form: str) -> None:
    first, *later = requests_of(tmp_path, FORMS[form])
    assert first.text == ASK and [each.text for each in later] in ([], [THEN])
    assert first.asked is not None and len(first.asked.tools) == 1
    (call,) = [c for m in first.asked.answer for c in m.get("tool_calls", [])][:1] or [None]
    if isinstance(call, dict):
        assert call["function"]["name"] == "brew_tea"
        assert call["function"]["arguments"] in ('{"cups": 2}', {"cups": 2})
    else:
        assert form == "sharegpt"


CLAUDE = [
    {"type": "summary", "summary": "x", "sessionId": "s"},
    {"type": "user", "sessionId": "s", "message": {"role": "user", "content": ASK}},
    {"type": "assistant", "sessionId": "s", "message": ANTHROPIC[1]},
    {"type": "user", "sessionId": "s", "message": ANTHROPIC[2]},
    {"type": "user", "sessionId": "s", "message": {"role": "user", "content": THEN}},
]
CODEX = [
    {"type": "session_meta", "payload": {"id": "1"}},
    {
        "type": "response_item",
        "payload": {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": ASK}],
        },
    },
    {"type": "response_item", "payload": {"type": "reasoning", "summary": []}},
    {"type": "response_item", "payload": {"type": "function_call", "call_id": "c", **CALL}},
    {
        "type": "response_item",
        "payload": {"type": "function_call_output", "call_id": "c", "output": ""},
    },
    {"type": "response_item", "payload": {"type": "message", "role": "user", "content": THEN}},
]


@pytest.mark.parametrize("events", [CLAUDE, CODEX, CHAT, SHAREGPT])
def test_transcripts_are_read_event_by_event(tmp_path: Path, events: list[Any]) -> None:
    found = requests_of(tmp_path, *events)
    assert [each.text for each in found] == ([ASK] if events is SHAREGPT else [ASK, THEN])
    asked = found[0].asked
    assert asked is not None and any("tool_calls" in message for message in asked.answer)


def test_overlapping_snapshots_count_once(tmp_path: Path) -> None:
    snapshots = [{"messages": CHAT[:end]} for end in range(2, 7)]
    read = queries_of(tmp_path, *snapshots, {"attributes": SPAN})
    assert [query.text for query in read.items] == [ASK, THEN] and not read.bad


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        ({"messages": [{"role": "user", "content": "null"}]}, "stands for none"),
        ({"query": "None"}, "stands for none"),
        ({"messages": CHAT, "tools": "null"}, "text null"),
        ({"messages": CHAT, "tools": "[{"}, "not JSON"),
        ({"messages": "null"}, "text 'null'"),
        ({"messages": []}, "no list"),
        ({"messages": [{"role": "system", "content": "x"}]}, "no request"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "unknown role"),
        ({"messages": ["x"]}, "not an object"),
        ({"messages": [CHAT[1], {"role": "assistant", "tool_calls": [{}]}]}, "no name"),
        ({"messages": [CHAT[1], {"role": "assistant", "tool_calls": "null"}]}, "text null"),
        ({"attributes": {"gen_ai.input.messages": "[{"}}, "not JSON"),
        ({"attributes": {"gen_ai.input.messages": [3]}}, "not an object"),
    ],
)
def test_what_is_broken_is_a_bad_line(tmp_path: Path, row: Any, cause: str) -> None:
    read = queries_of(tmp_path, {"messages": [{"role": "user", "content": "Stir"}]}, row)
    assert [query.text for query in read.items] == ["Stir"]
    assert [line.where for line in read.bad] == ["log.jsonl:2"] and cause in read.bad[0].cause


def test_a_broken_turn_costs_itself_alone(tmp_path: Path) -> None:
    turns = ["Stir", "null", "x" * 9000, "Pour"]
    read = queries_of(tmp_path, {"messages": [{"role": "user", "content": t} for t in turns]})
    assert [query.text for query in read.items] == ["Stir", "Pour"]
    assert [line.where for line in read.bad] == ["log.jsonl:1"] * 2


@pytest.mark.parametrize(
    "kind", ["function", "system", "tool", "assistant", "model", "bot", "user"]
)
def test_a_column_named_type_makes_no_event(tmp_path: Path, kind: str) -> None:
    read = queries_of(tmp_path, {"text": "Stir", "type": kind})
    assert [query.text for query in read.items] == ["Stir"] and not read.bad


@pytest.mark.parametrize("text", ["[urgent] Stir", "{stir} it", '["a", 1]', '{"a": 1}, sort it'])
def test_a_request_may_begin_with_a_bracket(tmp_path: Path, text: str) -> None:
    for row in (
        {"type": "GENERATION", "input": text, "output": "x"},
        {"input": text, "output": [CHAT[2]]},
        {"run_type": "llm", "inputs": {"input": text}, "outputs": {}},
        {"attributes": {"gen_ai.prompt.0.role": "user", "gen_ai.prompt.0.content": text}},
        {"attributes": {"gen_ai.prompt": text, "gen_ai.system_instructions": "[Role] x"}},
    ):
        (found,) = requests_of(tmp_path, row)
        assert found.text == text


@pytest.mark.parametrize(
    "text", ["[f(a='1')]", '{"name": "f", "arguments": {}}', '[{"name": "f"}]', '{"name": "f']
)
def test_an_answer_that_is_no_messages_is_kept_as_text(tmp_path: Path, text: str) -> None:
    asked = [{"role": "user", "content": "Stir"}]
    for row in (
        {"prompt": asked, "completion": text},
        {"type": "GENERATION", "input": asked, "output": text},
        {"attributes": {"gen_ai.input.messages": asked, "gen_ai.output.messages": text}},
        {"run_type": "llm", "inputs": {"messages": asked}, "outputs": text},
    ):
        (found,) = requests_of(tmp_path, row)
        assert found.asked is not None
        assert found.asked.answer == [{"role": "assistant", "content": text}]


def test_spans_and_runs_without_a_model_say_nothing(tmp_path: Path) -> None:
    other = {"name": "GET", "spanId": "1", "traceId": "2", "attributes": {"http.method": "GET"}}
    tool = {"run_type": "tool", "inputs": {"input": "x"}, "outputs": {}}
    read = queries_of(tmp_path, other, tool, {"type": "SPAN", "input": "y"}, {"query": "Stir"})
    assert [query.text for query in read.items] == ["Stir"] and not read.bad


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"instruction": "Say it", "input": "Hej", "output": ""}, "Say it\n\nHej"),
        ({"instruction": "Say it", "input": "", "output": ""}, "Say it"),
        ({"instruction": "Say it", "context": "Hej", "response": ""}, "Say it\n\nHej"),
    ],
)
def test_what_an_instruction_is_about_is_kept(tmp_path: Path, row: Any, text: str) -> None:
    assert [query.text for query in queries_of(tmp_path, row).items] == [text]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("q02_openai_chat.jsonl", ["Book me a boat for Sunday"]),
        ("q05_otel.jsonl", ["Book me a boat for Sunday"]),
        (
            "q01_alpaca.json",
            [
                "Translate the sentence into Danish.\n\nThe lamp in the hall is broken.",
                "Convert the amount into kroner.\n\n250 euros",
                "Convert the amount into kroner.\n\n99 pounds",
            ],
        ),
    ],
)
def test_cases_are_read(name: str, expected: list[str]) -> None:
    path = CASES / name
    if not path.exists():
        pytest.skip(f"the cases are not here: {path}")
    read = read_queries(path)
    assert [query.text for query in read.items] == expected and not read.bad
