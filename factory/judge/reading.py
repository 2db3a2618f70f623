"""Read tools and calls from a model's text; what cannot be read is a fault with its place."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from factory.domain.jsontext import (
    MAX_CHARS,
    JsonTextError,
    json_path,
    mend,
    parse_sequence,
    parse_strict,
    read_json,
    show,
)
from factory.domain.records import Call

_TOOLS_OPEN, _TOOLS_CLOSE = "<tools>", "</tools>"


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


OPEN, CLOSE = "<tool_call>", "</tool_call>"
MAX_BLOCKS = 256
"""Call blocks read of one answer; more make it unreadable."""
_STRING_OR_CLOSE = re.compile(
    r'"(?>[^"\\]*+(?:\\(?:.|\Z)[^"\\]*+)*)(?P<end>"|\Z)|</tool_call>', re.DOTALL
)
_CALL_KEYS = ("name", "arguments")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedCalls:
    """An answer's calls, or why it has none."""

    text: str
    """The answer as sampled."""
    calls: tuple[Call, ...] | None
    """The calls in order, empty when the answer calls nothing; None when it cannot be read."""
    repaired: bool = False
    """Whether quotes or trailing commas were mended to read it."""
    extra_text: str = ""
    """Text outside the call blocks (its beginning)."""
    extra_keys: tuple[str, ...] = ()
    """JSON paths of keys other than name and arguments; they are dropped."""
    failure: str = ""
    """Empty, or no_tool_call, call_json, call_keys."""
    path: str = "$"
    """Of the failure."""
    message: str = ""
    """Of the failure, in one sentence."""


def parse_calls(text: str) -> ParsedCalls:
    """Reads an answer's `<tool_call>` blocks. Never raises; hostile text costs bounded time."""
    if len(text) > MAX_CHARS:
        problem = f"{len(text)} characters, at most {MAX_CHARS} are read"
        return _unreadable(text, "call_json", (), problem)
    calls: list[Call] = []
    extra_keys: list[str] = []
    outside: list[str] = []
    repaired = False
    position = 0
    while (start := text.find(OPEN, position)) >= 0:
        if start > position:
            outside.append(text[position : min(start, position + 200)].strip())
        index = len(calls)
        if index == MAX_BLOCKS:
            return _unreadable(text, "call_json", (index,), f"more than {MAX_BLOCKS} call blocks")
        try:
            value, mended, end = _read_block(text, start + len(OPEN))
        except JsonTextError as error:
            return _unreadable(text, "call_json", (index,), str(error))
        repaired = repaired or mended
        if problem := _find_key_fault(value):
            return _unreadable(text, "call_keys", (index,), problem)
        if len(value) > 2:
            extra_keys += [json_path((index, key)) for key in value if key not in _CALL_KEYS]
        calls.append(Call(name=value["name"], arguments=value["arguments"]))
        position = end + len(CLOSE)
    outside.append(text[position : position + 200].strip())
    if not calls:
        return ParsedCalls(
            text=text,
            calls=(),
            extra_text="",
            failure="no_tool_call",
            message=f"no <tool_call> block in {show(text)}" if text.strip() else "an empty answer",
        )
    return ParsedCalls(
        text=text,
        calls=tuple(calls),
        repaired=repaired,
        extra_text=" ".join(filter(None, outside)),
        extra_keys=tuple(extra_keys),
    )


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


def _read_block(text: str, start: int) -> tuple[Any, bool, int]:
    """The JSON of the block whose body starts at `start`, whether mended, and the body's end.

    A closing tag inside a JSON string does not end the block. Raises JsonTextError.
    """
    end = text.find(CLOSE, start)
    if end < 0:
        raise JsonTextError(f"the last <tool_call> is not closed: {show(text[start:])}")
    try:
        return parse_strict(text[start:end]), False, end
    except JsonTextError:
        end = _find_close(text, start, end)
    try:
        read = read_json(text[start:end])
        return read.value, read.repaired, end
    except JsonTextError as error:
        raise JsonTextError(f"not JSON: {error}") from None


def _find_close(text: str, start: int, first: int) -> int:
    """The first closing tag outside JSON strings; `first` where strings are broken."""
    for match in _STRING_OR_CLOSE.finditer(text, start):
        if match["end"] == "":
            break
        if match["end"] is None:
            return match.start()
    return first


def _find_key_fault(value: object) -> str:
    """What is wrong with a call object's name and arguments; empty if nothing is."""
    if not isinstance(value, dict):
        return f"a call is an object with name and arguments, not {show(value)}"
    for key in _CALL_KEYS:
        if key not in value:
            return f"the key {key} is missing in {show(value)}"
    if not isinstance(value["name"], str):
        return f"name is {show(value['name'])}, not a string"
    if not isinstance(value["arguments"], dict):
        return f"arguments is {show(value['arguments'])}, not an object"
    return ""


def _unreadable(text: str, reason: str, path: tuple[int, ...], message: str) -> ParsedCalls:
    return ParsedCalls(text=text, calls=None, failure=reason, path=json_path(path), message=message)
