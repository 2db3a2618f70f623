"""Calls out of a model's answer, whichever way its family writes them.

hermes   <tool_call>{"name": …, "arguments": {…}}</tool_call>, one block a call (also Qwen)
json     {"name": …, "arguments": {…}}, one or a list of them, bare or in a code fence
python   [name(a=1, b="x"), other.name()]
llama    <function=name>{…}</function>, or JSON after <|python_tag|>, several joined by ";"
mistral  [TOOL_CALLS] with a JSON list, or name[ARGS]{…}; also as it reads without these tokens
auto     whatever the answer bears the signs of, other families' writings among them

An answer is data: nothing is evaluated, sizes and nesting are bounded, and no text raises. One that
bears the signs of a call and cannot be read is a failure, never an answer without calls.
"""

from __future__ import annotations

from typing import Literal

from factory.domain.records import Call
from factory.judge.answers import Syntax, read_answer
from factory.judge.parsed import Known, ParsedCalls
from factory.judge.reading import parse_calls

Reading = Literal["official", "hermes", "json", "python", "llama", "mistral", "auto"]
"""Of a benchmark with a form of its own, which is always read; `official` reads nothing else."""


def decode(text: str, syntax: Syntax, known: Known | None = None) -> ParsedCalls:
    """The calls of an answer. Never raises.

    `calls` is empty with the failure `no_tool_call` where the answer calls nothing, and None with
    `call_json`, `call_keys`, `call_python` or `truncated` where it cannot be read.
    """
    if syntax == "hermes":
        return parse_calls(text, known)
    return read_answer(text, syntax, known)


def decode_beside(text: str, reading: Reading) -> tuple[Call, ...]:
    """The calls of an answer that has not a benchmark's own form; none where only that counts."""
    return () if reading == "official" else tuple(decode(text, reading).calls or ())
