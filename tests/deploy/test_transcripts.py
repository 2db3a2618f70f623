"""TranscriptFile of a server, and rounds that draw from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from factory.deploy.transcripts import TranscriptFile, read_response
from factory.lessons.logs import read_pool

ASKED = {
    "model": "factory",
    "messages": [{"role": "user", "content": "A table for 4, please"}],
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "book_table",
                "description": "Book.",
                "parameters": {"type": "object", "properties": {"people": {"type": "integer"}}},
            },
        }
    ],
    "stop_token_ids": [2],
    "kv_transfer_params": {"prompt_token_ids": [1, 2, 3]},
}
WHOLE = {
    "id": "c",
    "model": "r1",
    "object": "chat.completion",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "t1",
                        "type": "function",
                        "function": {"name": "book_table", "arguments": '{"people": 4}'},
                    }
                ],
            },
            "finish_reason": "tool_calls",
        }
    ],
}


def stream(*deltas: dict[str, Any], ends: bool = True) -> bytes:
    rows = [
        {"id": "c", "model": "r1", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        for delta in deltas
    ]
    rows[-1]["choices"][0]["finish_reason"] = "tool_calls"
    lines = [f"data: {json.dumps(row)}\n\n" for row in rows] + ["data: [DONE]\n\n"] * ends
    return "".join(lines).encode()


STREAMED = (
    {"role": "assistant", "content": ""},
    {
        "tool_calls": [
            {"index": 0, "id": "t1", "type": "function", "function": {"name": "book_table"}}
        ]
    },
    {"tool_calls": [{"index": 0, "function": {"arguments": '{"people"'}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": ": 4}"}}]},
)


def test_a_stream_is_the_answer_that_it_would_be_in_one_piece() -> None:
    assert read_response(stream(*STREAMED)) == WHOLE
    said = read_response(stream({"content": "Hel"}, {"content": "lo"}))
    assert said is not None and said["choices"][0]["message"]["content"] == "Hello"


def test_a_broken_answer_is_none() -> None:
    assert read_response(stream(*STREAMED, ends=False)) is None
    assert read_response(b'{"error": {}}') is None
    assert read_response(b"") is None
    fault = b'data: {"error": {"message": "x"}}\n\ndata: [DONE]\n\n'
    whole = stream(*STREAMED)
    assert read_response(whole.replace(b"data: [DONE]\n\n", fault)) is None
    assert read_response(whole.replace(b"data: [DONE]", b"data: {\n\ndata: [DONE]")) is None
    assert read_response(whole.replace(b'"tool_calls"}]}', b"null}]}")) is None


def test_a_line_ends_where_the_stream_says_so() -> None:
    """JSON may hold other breaks of lines as they are."""
    raw = stream({"content": "a#b"}).replace(b"#", "\u2028\x85".encode())
    said = read_response(raw)
    assert said is not None
    assert said["choices"][0]["message"]["content"] == "a\u2028\x85b"


def test_a_round_draws_from_what_was_recorded(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "served.jsonl"
    transcripts = TranscriptFile(path)
    transcripts.add(ASKED, stream(*STREAMED))
    transcripts.add(ASKED, b"broken")
    (line,) = path.read_text("utf-8").splitlines()
    assert json.loads(line)["request"].keys() == {"model", "messages", "tools"}
    (query,) = read_pool([path], wanted=10).queries
    assert query.text == "A table for 4, please"
    assert query.log is not None
    assert [tool.name for tool in query.log.tools] == ["book_table"]
    assert [(call.name, call.arguments) for call in query.log.calls] == [
        ("book_table", {"people": 4})
    ]
