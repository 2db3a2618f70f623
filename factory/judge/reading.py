"""Read tools, calls and requests from a model's text; what cannot be read is a fault with its
place."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from factory.domain.canon import normalise_text
from factory.domain.jsontext import (
    MAX_CHARS,
    JsonTextError,
    mend,
    parse_sequence,
    parse_strict,
    show,
)
from factory.domain.records import UNANSWERED, Call, Completion, Form
from factory.judge.answers import Syntax, read_answer, without_thought
from factory.judge.parsed import CUTS, MAX_BLOCKS, Known, ParsedCalls, if_cut
from factory.judge.writings import CLOSE, OPEN

_KEYS = {"name", "arguments"}
_TOOLS_OPEN, _TOOLS_CLOSE = "<tools>", "</tools>"
_MARK = re.compile(
    r"^\s*(?:(?:[-*•]|\d+[.)])\s|(?:request|user|question|person)\s*:)\s*", re.IGNORECASE
)
_QUOTES = "\"'“”‘’«»` "
_BLANK = re.compile(r"\[[^\][]*\]|<[^<>]*>|\{[^{}]*\}|_{3,}")
_IDENTIFIER = re.compile(r"[a-z][A-Z]|[_\d.]")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedTools:
    """The documents of a `<tools>` block. Example: ParsedTools(documents=[{"name": "f", …}])."""

    documents: list[Any]
    """Parsed values in order, up to the first that cannot be read."""
    failure: str = ""
    """Empty, no_tools_tag or tools_json."""
    message: str = ""
    """One sentence about the failure."""


def parse_tools(text: str) -> ParsedTools:
    """Reads the objects of the first `<tools>` block. Never raises."""
    start = text.find(_TOOLS_OPEN)
    if start < 0:
        return ParsedTools(
            documents=[], failure="no_tools_tag", message=f"no <tools> block in {show(text)}"
        )
    start += len(_TOOLS_OPEN)
    end = text.find(_TOOLS_CLOSE, start)
    body = text[start : end if end >= 0 else None]
    values, cause = parse_sequence(body)
    if cause and (mended := mend(body)) != body:
        again, later = parse_sequence(mended)
        if not later:
            values, cause = again, ""
    documents = [
        part for value in values for part in (value if isinstance(value, list) else [value])
    ]
    if not cause and not documents:
        cause = "the <tools> block is empty"
    failure, message = ("tools_json", cause) if cause else ("", "")
    if end < 0:
        cause = cause or f"it ends with {show(body[-40:])}"
        failure, message = "no_tools_tag", f"the <tools> block is not closed; {cause}"
    return ParsedTools(documents=documents, failure=failure, message=message)


SYNTAX: Mapping[Form, Syntax] = {"own": "hermes", "native": "auto"}
"""How answers are read that were asked for in either form."""


def parse_calls(text: str, known: Known | None = None, *, syntax: Syntax = "hermes") -> ParsedCalls:
    """Reads an answer's `<tool_call>` blocks, or what another syntax has in their place. Never
    raises; hostile text costs bounded time.

    An answer that calls in another syntax than that cannot be read. One that is broken in Python's
    writing is no JSON either, as the rule that rejects it has it. What keys a call has besides, and
    what they are called, is a family's own business where any is read.
    """
    found = _read_plain(text) or read_answer(text, syntax, known)
    if syntax == "auto":
        found = replace(found, extra_keys=(), foreign=())
    return replace(found, failure="call_json") if found.failure == "call_python" else found


def _read_plain(text: str) -> ParsedCalls | None:
    """The calls of an answer that is nothing but blocks as they should be, which most are."""
    if not text.startswith(OPEN) or not text.endswith(CLOSE) or len(text) > MAX_CHARS:
        return None
    calls: list[Call] = []
    for block in text[len(OPEN) : -len(CLOSE)].split(CLOSE, MAX_BLOCKS):
        body = block.lstrip().removeprefix(OPEN) if calls else block
        try:
            value = parse_strict(body)
        except JsonTextError:
            return None
        if not isinstance(value, dict) or value.keys() != _KEYS or len(calls) == MAX_BLOCKS:
            return None
        name, arguments = value["name"], value["arguments"]
        if not (isinstance(name, str) and isinstance(arguments, dict)):
            return None
        calls.append(Call(name=name, arguments=arguments))
    return ParsedCalls(text=text, calls=tuple(calls))


def read_answers(samples: Iterable[ParsedCalls | str]) -> list[ParsedCalls]:
    """The calls of each answer; equal texts are read once and share what they give."""
    readings: dict[str, ParsedCalls] = {}
    answers = []
    for sample in samples:
        if isinstance(sample, str):
            if sample not in readings:
                readings[sample] = parse_calls(sample)
            sample = readings[sample]
        answers.append(sample)
    return answers


def read_completions(
    completions: Iterable[Completion], known: Known | None = None, syntax: Syntax = "hermes"
) -> list[ParsedCalls]:
    """The same of an engine's answers: one that was cut before it called is no abstention."""
    readings: dict[tuple[str, str], ParsedCalls] = {}
    answers = []
    for completion in completions:
        limit = CUTS.get(completion.finish_reason, "")
        key = (completion.text, limit)
        if key not in readings:
            parsed = parse_calls(completion.text, known, syntax=syntax)
            readings[key] = if_cut(parsed, limit) if limit else parsed
        answers.append(readings[key])
    return answers


def read_request(completion: Completion, tools: Iterable[str]) -> tuple[str, str]:
    """The request in an answer, its first line without marks and quotes around it, and why it is
    none: an engine's reason, empty, cut, blank_left, or names_tool of these tools' names.

    Where nothing can be read, the text is the whole answer.
    """
    said = without_thought(completion.text)
    lines = [line for line in said.splitlines() if line.strip()]
    text = _unquote(_MARK.sub("", lines[0]).strip()) if lines else ""
    if completion.finish_reason in UNANSWERED:
        return text, completion.finish_reason
    if not normalise_text(text):
        return completion.text, "empty"
    if completion.finish_reason != "stop" and len(lines) == 1:
        return text, "cut"
    if _BLANK.search(text):
        return text, "blank_left"
    folded = text.casefold()
    if any(_IDENTIFIER.search(name) and name.casefold() in folded for name in tools):
        return text, "names_tool"
    return text, ""


def _unquote(text: str) -> str:
    """Without the quotes that stand around the whole; `Play "Hello"` keeps its own."""
    while len(text) > 1 and text[0] in _QUOTES and text[-1] in _QUOTES:
        text = text[1:-1].strip()
    return text
