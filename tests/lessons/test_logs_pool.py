"""What a round may draw of files: streams, snapshots, logs' tools and calls, masking."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from workspaces import ROOT

from factory.domain.canon import query_id, tool_id
from factory.domain.failures import InputError
from factory.lessons.files import read_lessons
from factory.lessons.logs import MAX_TOOLS, Pool, read_pool


def tool(name: str) -> dict[str, Any]:
    properties = {"cups": {"type": "integer", "description": "How many"}}
    parameters = {"type": "object", "properties": properties, "required": ["cups"]}
    described = {"name": name, "description": f"To {name}.", "parameters": parameters}
    return {"type": "function", "function": described}


def chat(text: str, *calls: tuple[str, Any], tools: Any = None, answer: str = "") -> dict[str, Any]:
    listed = [{"type": "function", "function": {"name": n, "arguments": a}} for n, a in calls]
    said = {"role": "assistant", "content": answer, "tool_calls": listed}
    messages = [{"role": "user", "content": text}, *([said] if calls or answer else [])]
    return {"messages": messages, "tools": [tool("brew_tea")] if tools is None else tools}


def pool_of(folder: Path, *rows: Any, wanted: int = 10, **more: Any) -> Pool:
    file = folder / "log.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read_pool([file], wanted=wanted, **more)


def test_a_log_brings_tools_and_calls(tmp_path: Path) -> None:
    row = chat("Tea for two", ("brew_tea", '{"cups": 2}'), tools=[tool("nap"), tool("brew_tea")])
    pool = pool_of(tmp_path, row)
    (query,) = pool.queries
    assert query.log is not None and not pool.bad and pool.num_logged == (1, 1)
    assert [each.name for each in query.log.tools] == ["brew_tea", "nap"]
    assert [call.arguments for call in query.log.calls] == [{"cups": 2}]


def test_calls_in_an_answers_text_are_read(tmp_path: Path) -> None:
    text = '<tool_call>\n{"name": "brew_tea", "arguments": {"cups": 2}}\n</tool_call>'
    (query,) = pool_of(tmp_path, chat("Tea", answer=text)).queries
    assert query.log is not None and [call.name for call in query.log.calls] == ["brew_tea"]


def test_only_so_many_tools_are_shown_and_each_name_once(tmp_path: Path) -> None:
    tools = [tool(f"t{n}") for n in range(20)] + [tool("t0")]
    (query,) = pool_of(tmp_path, chat("Tea", ("t19", {"cups": 1}), tools=tools)).queries
    assert query.log is not None and len(query.log.tools) == MAX_TOOLS
    assert query.log.tools[0].name == "t19"


@pytest.mark.parametrize(
    ("row", "cause", "num_tools"),
    [
        (chat("Tea", ("brew_tea", '{"cups": ')), "cannot be read", 1),
        (chat("Tea", ("brew_tea", "null")), "cannot be read", 1),
        (chat("Tea", ("brew_tea", None)), "cannot be read", 1),
        (chat("Tea", ("brew_tea", "[2]")), "cannot be read", 1),
        (chat("Tea", ("steep", {"cups": 2})), "no tool steep beside", 1),
        (chat("Tea", ("steep", {"cups": 2}), tools=[]), "no tool steep beside", 0),
        (chat("Tea", tools=[{"type": "function"}]), "its tools cannot be read", 0),
    ],
)
def test_calls_that_are_no_candidates_are_bad_lines(
    tmp_path: Path, row: Any, cause: str, num_tools: int
) -> None:
    pool = pool_of(tmp_path, row)
    (query,) = pool.queries
    assert query.text == "Tea" and cause in pool.bad[0].cause and pool.bad.total == 1
    assert (query.log.tools if query.log else ()) == () or len(query.log.tools) == num_tools  # type: ignore[union-attr]
    assert query.log is None or not query.log.calls


def test_documents_beside_a_plain_request_are_on_offer(tmp_path: Path) -> None:
    """In any dialect. Names and texts are none; one that cannot be read costs no request."""
    plain = {"query": "Tea", "tools": [tool("nap"), {"name": "brew", "parameters": {}}]}
    names = [{"query": f"Pour {n}", "tools": t} for n, t in enumerate((["nap"], "a nap", [], None))]
    broken = {"query": "Brew", "tools": [{"type": "function"}]}
    pool = pool_of(tmp_path, plain, *names, broken, plain)
    first, *others = pool.queries
    assert first.log is not None and [each.name for each in first.log.tools] == ["nap", "brew"]
    assert not first.log.calls and [query.log for query in others] == [None] * 5
    assert others[-1].text == "Brew" and pool.num_logged == (1, 0)
    assert ["tools cannot be read" in line.cause for line in pool.bad] == [True]
    (named,) = pool_of(tmp_path, {"ask": "Tea", "tools": [tool("nap")]}, field="ask").queries
    assert named.log is not None and named.log.tools[0].name == "nap"
    written = {"prompt": "Tea", "tools": json.dumps([tool("nap")])}
    (packed,) = pool_of(tmp_path, written).queries
    assert packed.log is not None and packed.log.tools[0].name == "nap"


def test_a_later_snapshot_brings_the_calls(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, chat("Tea"), chat("tea", ("brew_tea", {"cups": 3})), {"query": "Tea"})
    (query,) = pool.queries
    assert query.log is not None and query.log.calls[0].arguments == {"cups": 3}
    assert pool.size == 3


def test_calls_of_another_conversation_are_not_a_requests(tmp_path: Path) -> None:
    called = chat("Yes", ("brew_tea", {"cups": 3}))
    before = [{"role": "user", "content": "Coffee?"}, {"role": "assistant", "content": "Sure?"}]
    behind = {**called, "messages": [*before, *called["messages"]]}
    others = [behind, {**called, "tools": [tool("brew_tea"), tool("nap")]}]
    for first in (chat("Yes"), {"query": "Yes"}):
        query = pool_of(tmp_path, first, *others).queries[0]
        assert query.text == "Yes" and (query.log is None or not query.log.calls)
    yes = pool_of(tmp_path, {**behind, "messages": behind["messages"][:-1]}, behind).queries[1]
    assert yes.log is not None and yes.log.calls


def test_only_what_may_be_drawn_is_kept(tmp_path: Path) -> None:
    rows = [{"query": f"Pour {n}"} for n in range(50)]
    pool = pool_of(tmp_path, *rows, {"odd": 1}, wanted=3, drawn={query_id("Pour 0")})
    assert [query.text for query in pool.queries] == ["Pour 1", "Pour 2", "Pour 3"]
    assert pool.size == 50 and [line.where for line in pool.bad] == ["log.jsonl:51"]
    with pytest.raises(InputError, match="no requests"):
        pool_of(tmp_path)


def test_masking_reaches_texts_and_calls_alike(tmp_path: Path) -> None:
    row = chat("Tea to ann@x.org", ("brew_tea", {"cups": 2, "note": "for ann@x.org"}))
    pool = pool_of(tmp_path, row, {"query": "Tea at 9"}, mask=True)
    query, other = pool.queries
    assert query.text == "Tea to EMAIL_1" and query.id == query_id(query.text)
    assert query.log is not None and query.log.calls[0].arguments["note"] == "for EMAIL_1"
    assert other.text == "Tea at 9"
    assert pool.masked == {"EMAIL": 1} and pool.masked_rows == 1


def test_masking_reaches_the_tools_of_a_log(tmp_path: Path) -> None:
    offered = tool("brew_tea")
    properties = offered["function"]["parameters"]["properties"]
    offered["function"]["description"] = "Tea; complain to boss@x.org or +47 22345678."
    properties["to"] = {
        "type": "string",
        "description": "As ann@x.org",
        "enum": ["ann@x.org", "Emma", "express"],
        "default": "ann@x.org",
    }
    properties["description"] = {"type": "integer", "maximum": 12345678, "default": 4722345678}
    asked = ("brew_tea", {"cups": 2, "to": "ann@x.org", "first_name": "Emma"})
    (query,) = (pool := pool_of(tmp_path, chat("Tea", asked, tools=[offered]), mask=True)).queries
    assert query.log is not None and pool.masked == {"EMAIL": 2, "PHONE": 1}
    (found,) = query.log.tools
    made = found.arguments["properties"]
    assert found.document["description"] == "Tea; complain to EMAIL_2 or PHONE_1."
    assert made["to"]["description"] == "As EMAIL_1" and made["to"]["default"] == "EMAIL_1"
    assert made["to"]["enum"] == ["EMAIL_1", "Emma", "express"]
    assert made["description"]["maximum"] == 12345678
    assert made["description"]["default"] == 1000000001
    assert found.name == "brew_tea" and found.id == tool_id(found.document)
    assert query.log.calls[0].arguments == {"cups": 2, "to": "EMAIL_1", "first_name": "Emma"}


def span(text: str) -> dict[str, Any]:
    asked = [{"role": "user", "parts": [{"type": "text", "content": text}]}]
    call = {"type": "tool_call", "name": "brew_tea", "arguments": {"cups": 2}}
    attributes = {
        "gen_ai.input.messages": json.dumps(asked),
        "gen_ai.output.messages": json.dumps([{"role": "assistant", "parts": [call]}]),
        "gen_ai.tool.definitions": json.dumps([tool("brew_tea")]),
    }
    return {"name": "chat", "attributes": attributes}


def test_a_trace_is_a_label_only_where_it_is_said(tmp_path: Path) -> None:
    file = tmp_path / "spans.jsonl"
    file.write_text(json.dumps(span("Tea for two")) + "\n", encoding="utf-8")
    read = read_lessons([file])
    assert not read.items and "--labelled" in read.bad[0].cause
    (lesson,) = read_lessons([file], labelled=True).items
    assert lesson.query == "Tea for two" and lesson.calls and lesson.calls[0].name == "brew_tea"
    assert len(lesson.documents) == 1


def test_snapshots_of_one_conversation_are_one_lesson(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "brew_tea", "arguments": {"cups": 2}}}
    messages = [
        {"role": "user", "content": "Tea"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "done"},
        {"role": "assistant", "content": "Here."},
        {"role": "user", "content": "Thanks, once more"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    rows = [{"messages": messages[:end], "tools": [tool("brew_tea")]} for end in (2, 4, 6)]
    other = [messages[0], {"role": "assistant", "content": "No."}]
    rows.append({"messages": other, "tools": [tool("brew_tea")]})
    file = tmp_path / "chats.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    read = read_lessons([file])
    assert [len(lesson.turns) for lesson in read.items] == [6, 0] and read.joined == 2


def test_case_of_a_chat_is_a_labelled_call() -> None:
    path = ROOT.parent / "shared" / "cases" / "requests" / "q02_openai_chat.jsonl"
    if not path.exists():
        pytest.skip(f"the cases are not here: {path}")
    (lesson,) = read_lessons([path]).items
    assert lesson.calls is not None and lesson.calls[0].arguments == {"day": "Sunday"}
    (query,) = read_pool([path], wanted=5).queries
    assert query.log is not None and query.log.calls == lesson.calls
