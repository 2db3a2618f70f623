"""Canonical keys of calls: answers that mean the same have the same key (algorithms §9.2)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from json.encoder import JSONEncoder, encode_basestring
from typing import Any, NamedTuple
from unicodedata import normalize

from factory.domain.canon import normalise_text
from factory.domain.records import Call, Tool
from factory.tools.schema import ReadTool, Schema, read_tool

_REFERENCE = re.compile(
    r"API_call_\d+|\{\{[^{}]{1,100}\}\}|[$<#](?:call|result|output|step)s?[._ \[]?\d+",
    re.IGNORECASE,
)
_PLAIN = JSONEncoder(ensure_ascii=False, check_circular=False)
_quote: Callable[[str], str] = encode_basestring
_IGNORED = str.maketrans("'", '"', " ,./-_*^")
_TELLING = re.compile(
    r"(?<=\d)[ ,./_*^-]+(?=\d)"  # 2024-1-12, 12.50, 1/2
    r"|(?<![^\s(\[,:=])-(?=\S)|(?<![^\s(\[,:=-])\.(?=\d)"  # -5, .5, -x
    r"|(?<=[^\W_])\s*[*^/]+\s*(?=[^\W_])"  # a*b
    r"|(?<![^\W_][^\W_])(?<=[^\W_])-(?=\d|[^\W_](?![^\W_]))"  # x-1, a-b
)
"""Signs that BFCL's scorer drops and that make another value of a text."""
_IN_LINES = re.compile(r"[\n\r\v\f\x85\u2028\u2029]")
_TRAILING = re.compile(r"(?<![^\S\n])[^\S\n]++$", re.MULTILINE)
_WHOLE_FLOATS = 2**53


class Key(NamedTuple):
    """A sample's key. Example: Key('[["f",{"a":1}]]', exact=True)."""

    text: str
    """Equal text is agreement."""
    exact: bool
    """False where the key hides a type fault: 5.0 for an integer, null for an optional."""


def make_key(calls: Sequence[Call], tools: Mapping[str, Tool], *, loose: bool = False) -> Key:
    """Key of several calls: a multiset, or a sequence where one refers to another's result."""
    writer = _KeyWriter(loose, several=len(calls) > 1)
    texts = []
    for call in calls:
        tool = tools.get(call.name)
        texts.append(writer.write_call(call, read_tool(tool) if tool else None))
    if not writer.refers:
        texts.sort()
    sign = "=" if writer.refers else ""
    return Key(f"{sign}[{','.join(texts)}]", not writer.inexact)


def is_same(calls: Sequence[Call], others: Sequence[Call], tools: Mapping[str, Tool]) -> bool:
    """Whether two answers say the same, strictly or as a loose vote compares them."""
    return any(
        make_key(calls, tools, loose=loose).text == make_key(others, tools, loose=loose).text
        for loose in (False, True)
    )


def emitted_text(calls: Sequence[Call]) -> str:
    """The calls as they would be written out, order and values kept."""
    return _PLAIN.encode([[call.name, call.arguments] for call in calls])


class _KeyWriter:
    """Writes values as key text, and remembers whether a type fault was hidden on the way."""

    def __init__(self, loose: bool, *, several: bool) -> None:
        self.loose = loose
        self.several = several
        self.inexact = False
        self.refers = False

    def write_call(self, call: Call, tool: ReadTool | None) -> str:
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
        if text.isascii() and text.isalnum():
            return text.lower() if self.loose else text
        if _IN_LINES.search(text.strip()):
            return _fold_lines(text)
        text = normalise_text(text)
        return _fold_loosely(text) if self.loose else text

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


def _fold_lines(text: str) -> str:
    """A text of several lines: code and tables mean something by their white space."""
    lines = normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n")
    return _TRAILING.sub("", lines).strip("\n")


def _fold_loosely(text: str) -> str:
    """The text as BFCL's scorer compares it, but for signs that make another value of it.

    >>> _fold_loosely("New York, N.Y."), _fold_loosely("2024-1-12")
    ('newyorkny', '2024-1-12')
    """
    text, parts, start = text.lower(), [], 0
    for found in _TELLING.finditer(text):
        parts += [text[start : found.start()].translate(_IGNORED), found[0].strip() or " "]
        start = found.end()
    return "".join((*parts, text[start:].translate(_IGNORED)))


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
