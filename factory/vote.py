"""What n sampled answers agree on (algorithms §9.2, A5, A7, A8).

A sample's calls become a key; samples with the same key are one class; the largest class wins if
it has enough votes out of n. The strict key keeps everything that BFCL's scorer can tell apart
exactly, the loose key compares strings as that scorer does. Nothing is coerced: "5" is no vote
for 5.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from json.encoder import JSONEncoder, encode_basestring
from math import ceil, log2
from typing import Any, Literal, NamedTuple

from factory.canon import normalise_text
from factory.jsontext import (
    MAX_CHARS,
    JsonTextError,
    json_path,
    parse_strict,
    read_json,
    show,
)
from factory.records import Call, Tool, Vote
from factory.schema import CompiledTool, Schema, compile_tool

OPEN, CLOSE = "<tool_call>", "</tool_call>"
MAX_BLOCKS = 256
"""Call blocks read of one answer; more make it unreadable."""

_STRING_OR_CLOSE = re.compile(
    r'"(?>[^"\\]*+(?:\\(?:.|\Z)[^"\\]*+)*)(?P<end>"|\Z)|</tool_call>', re.DOTALL
)
_REFERENCE = re.compile(
    r"API_call_\d+|\{\{[^{}]{1,100}\}\}|[$<#](?:call|result|output|step)s?[._ \[]?\d+",
    re.IGNORECASE,
)
_PLAIN = JSONEncoder(ensure_ascii=False, check_circular=False)
_quote: Callable[[str], str] = encode_basestring
_CALL_KEYS = ("name", "arguments")
_IGNORED = str.maketrans("'", '"', " ,./-_*^")
_WHOLE_FLOATS = 2**53


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedCalls:
    """An answer's calls, or why it has none.

    Example: ParsedCalls(text="<tool_call>…", calls=(Call(name="f", arguments={}),)).
    """

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
    """JSON path of the failure."""
    message: str = ""
    """One sentence about the failure."""


class Key(NamedTuple):
    """A sample's key. Example: Key('[["f",{"a":1}]]', exact=True)."""

    text: str
    """Equal text is agreement."""
    exact: bool
    """False where the key hides a type fault: 5.0 for an integer, null for an optional."""


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


def canonical_key(calls: Sequence[Call], tools: Sequence[Tool]) -> str:
    """The strict vote key: equal for calls that mean exactly the same (§9.2, 2-5)."""
    return make_key(calls, {tool.name: tool for tool in tools}).text


def loose_key(calls: Sequence[Call], tools: Sequence[Tool]) -> str:
    """The loose vote key: strings compared as BFCL's scorer does (§9.2, 6; §7.3)."""
    return make_key(calls, {tool.name: tool for tool in tools}, loose=True).text


def make_key(calls: Sequence[Call], tools: Mapping[str, Tool], *, loose: bool = False) -> Key:
    """Key of several calls: a multiset, or a sequence where one refers to another's result."""
    writer = _KeyWriter(loose, several=len(calls) > 1)
    texts = []
    for call in calls:
        tool = tools.get(call.name)
        texts.append(writer.write_call(call, compile_tool(tool) if tool else None))
    if not writer.refers:
        texts.sort()
    sign = "=" if writer.refers else ""
    return Key(f"{sign}[{','.join(texts)}]", not writer.inexact)


def emitted_text(calls: Sequence[Call]) -> str:
    """The calls as they would be written out, order and values kept."""
    return _PLAIN.encode([[call.name, call.arguments] for call in calls])


def vote(
    samples: Sequence[ParsedCalls | str],
    tools: Sequence[Tool],
    *,
    minimum: int | None = None,
    plurality: bool = False,
    logprobs: Sequence[float] | None = None,
) -> Vote:
    """The vote of n samples; n stays the denominator whatever can be read of them.

    Args:
        samples: answers, read or not.
        tools: the candidates, whose schemas say what values mean.
        minimum: votes needed; None or 0 is a strict majority, ceil((n + 1) / 2).
        plurality: most votes win, whatever their number (ToolDev as published).
        logprobs: mean token log-probability of each sample.
    """
    parsed = read_answers(samples)
    needed = 1 if plurality else minimum or ceil((len(parsed) + 1) / 2)
    by_name = {tool.name: tool for tool in tools}
    strict = _make_keys(parsed, by_name, loose=False)
    ballot = _Ballot.tally([key.text for key in strict], needed)
    decided: Literal["strict", "loose", "none"] = "strict"
    if ballot.reason:
        keys = _make_keys(parsed, by_name, loose=True)
        loose = _Ballot.tally([key.text for key in keys], needed)
        ballot, decided = (ballot, "none") if loose.reason else (loose, "loose")
    winner, reason = None, ballot.reason
    if not reason and ballot.leader == _NO_CALL:
        reason = "no_call_majority"
    elif not reason:
        scores = logprobs if logprobs is not None else [0.0] * len(parsed)
        winner = _choose_representative(parsed, strict, ballot.members(0), scores)
    return Vote(
        num_samples=len(parsed),
        winner=winner,
        votes=ballot.sizes[0] if ballot.sizes else 0,
        margin=ballot.margin,
        entropy=ballot.entropy,
        decided_by=decided,
        reason=reason,
        classes=ballot.classes,
    )


_NO_CALL = "none"
_INVALID = "invalid:"


def _make_keys(
    parsed: Sequence[ParsedCalls], tools: Mapping[str, Tool], *, loose: bool
) -> list[Key]:
    """A key for each sample; samples that are one object (read_answers) are written once."""
    keys: dict[int, Key] = {}
    for sample in parsed:
        if id(sample) not in keys:
            keys[id(sample)] = _sample_key(sample, tools, loose=loose)
    return [keys[id(sample)] for sample in parsed]


def _sample_key(sample: ParsedCalls, tools: Mapping[str, Tool], *, loose: bool) -> Key:
    if sample.calls is None:
        return Key(_INVALID, False)
    if not sample.calls:
        return Key(_NO_CALL, True)
    key = make_key(sample.calls, tools, loose=loose)
    return key if not sample.extra_keys else key._replace(exact=False)


class _Ballot(NamedTuple):
    """Samples counted by key. Classes are numbered by size, then by first member."""

    classes: tuple[int, ...]
    sizes: tuple[int, ...]
    leader: str
    """Key of the largest class."""
    reason: str
    """Why nothing won, empty where one readable class leads alone with enough votes."""

    @classmethod
    def tally(cls, keys: Sequence[str], needed: int) -> _Ballot:
        """Counts; each unreadable sample is a class of its own and cannot win."""
        own = [f"{key}{i}" if key == _INVALID else key for i, key in enumerate(keys)]
        counts = dict.fromkeys(own, 0)
        for key in own:
            counts[key] += 1
        ranked = list(counts)
        if len(ranked) > 1:
            ranked.sort(key=lambda key: (-counts[key], key.startswith(_INVALID)))
        number = {key: rank for rank, key in enumerate(ranked)}
        sizes = tuple([counts[key] for key in ranked])
        leader = ranked[0] if ranked else _INVALID
        reason = _find_reason(sizes, leader, needed)
        return cls(tuple([number[key] for key in own]), sizes, leader, reason)

    @property
    def margin(self) -> float:
        first, second, *_ = (*self.sizes, 0, 0)
        return (first - second) / len(self.classes) if self.classes else 0.0

    @property
    def entropy(self) -> float:
        if len(self.sizes) < 2:
            return 0.0
        total = len(self.classes)
        return -sum(size / total * log2(size / total) for size in self.sizes)

    def members(self, number: int) -> list[int]:
        return [index for index, own in enumerate(self.classes) if own == number]


def _find_reason(sizes: Sequence[int], leader: str, needed: int) -> str:
    """Why nothing won. All samples different is no tie: nothing got a second vote."""
    tied = len(sizes) > 1 and sizes[0] == sizes[1]
    if sizes and sizes[0] >= needed and not tied and not leader.startswith(_INVALID):
        return ""
    return "vote_tie" if tied and (sizes[0] > 1 or sizes[0] >= needed) else "vote_below_min"


def _choose_representative(
    parsed: Sequence[ParsedCalls],
    strict: Sequence[Key],
    members: Sequence[int],
    logprobs: Sequence[float],
) -> int:
    """The class's answer (§9.2, 7), by content before position, so that order cannot matter.

    Samples whose values have the schema's own types come first (§9.2, 3).
    """
    exact = [index for index in members if strict[index].exact] or list(members)
    first = parsed[exact[0]]
    if all(parsed[i] is first for i in exact):
        return min(exact, key=lambda i: (-logprobs[i], i))
    texts = {i: emitted_text(parsed[i].calls or ()) for i in exact}
    keys = Counter(strict[i].text for i in exact)
    counts = Counter(texts.values())
    return min(
        exact,
        key=lambda i: (
            -keys[strict[i].text],
            -counts[texts[i]],
            -logprobs[i],
            texts[i],
            parsed[i].text,
            i,
        ),
    )


class _KeyWriter:
    """Writes values as key text, and remembers whether a type fault was hidden on the way."""

    def __init__(self, loose: bool, *, several: bool) -> None:
        self.loose = loose
        self.several = several
        self.inexact = False
        self.refers = False

    def write_call(self, call: Call, tool: CompiledTool | None) -> str:
        """`["name",{"argument":value,…}]` with the arguments sorted."""
        properties = tool.properties if tool else {}
        required = tool.required if tool else frozenset()
        parts = []
        for name in sorted(call.arguments):
            value, schema = call.arguments[name], properties.get(name)
            if value is None and schema is not None and name not in required:
                self.inexact = self.inexact or not _allows_null(schema)
                continue
            text = self.write(value, schema)
            if schema and "default" in schema and name not in required:
                default = _KeyWriter(self.loose, several=False).write(schema["default"], schema)
                if text == default:
                    continue
            parts.append(f"{_quote(name)}:{text}")
        return f"[{_quote(call.name)},{{{','.join(parts)}}}]"

    def write(self, value: Any, schema: Any) -> str:
        """One value; `schema` is its JSON Schema, or None."""
        if isinstance(value, str):
            return _quote(self._fold(value))
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, int):
            return str(value)
        if isinstance(value, float):
            self.inexact = self.inexact or _wants_integer(schema)
            return _write_float(value)
        if value is None:
            return "null"
        if isinstance(value, dict):
            return self._write_object(value, schema)
        return self._write_array(value, schema)

    def _fold(self, text: str) -> str:
        if self.several and _REFERENCE.search(text):
            self.refers = True
        text = text if text.isascii() and text.isalnum() else normalise_text(text)
        return text.lower().translate(_IGNORED) if self.loose else text

    def _write_object(self, value: Mapping[str, Any], schema: Any) -> str:
        properties = schema.get("properties", {}) if isinstance(schema, dict) else {}
        rest = schema.get("additionalProperties") if isinstance(schema, dict) else None
        parts = (
            f"{_quote(name)}:{self.write(value[name], properties.get(name, rest))}"
            for name in sorted(value)
        )
        return "{" + ",".join(parts) + "}"

    def _write_array(self, value: Sequence[Any], schema: Any) -> str:
        known = schema if isinstance(schema, dict) else {}
        first, rest = known.get("prefixItems", ()), known.get("items")
        parts = [
            self.write(item, first[index] if index < len(first) else rest)
            for index, item in enumerate(value)
        ]
        if known.get("uniqueItems") is True:
            parts.sort()
        return "[" + ",".join(parts) + "]"


def _write_float(value: float) -> str:
    """A number's text, the same for 1, 1.0 and 1e0."""
    if value.is_integer():
        if abs(value) < _WHOLE_FLOATS:
            return str(int(value))
        return format(Decimal(repr(value)), "f").removesuffix(".0")
    return repr(value)


def _wants_integer(schema: Any) -> bool:
    kind = schema.get("type") if isinstance(schema, dict) else None
    return kind == "integer" or (
        isinstance(kind, list) and "integer" in kind and "number" not in kind
    )


def _allows_null(schema: Schema) -> bool:
    kind = schema.get("type")
    return kind == "null" or (isinstance(kind, list) and "null" in kind) or not schema


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
