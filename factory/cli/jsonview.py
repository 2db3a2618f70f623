"""JSON for a person: a value laid out in lines, each finding shown under the part it is about."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from rich.console import Console
from rich.text import Text

from factory.cli.terminal import inline
from factory.domain.jsontext import Parts, json_path, walk
from factory.domain.plaintext import clean

MAX_STRING = 300
"""Characters of one string, and of one key."""
MAX_LINES = 200
"""Lines of one value."""
STYLES = {"reject": "red", "warn": "yellow"}
GUTTER = " │ "


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """A finding about a part. Example: Remark(path="$[0].name", severity="reject", text="…")."""

    path: str
    severity: str
    """`reject` or `warn`."""
    text: str
    """Reason and message."""


def lay_out(value: Any, marks: Sequence[Remark], width: int) -> list[Text]:
    """A JSON value in lines of at most `width` cells, with each mark below its part.

    Parts without a mark in them stay on one line where they fit. A mark of something that is not
    there (a missing key) stands below the innermost part that is.
    """
    return _Layout(value, marks, width).lines()


def side_by_side(columns: Sequence[Sequence[Text]], width: int) -> Iterator[Text]:
    """Columns of `width` cells next to each other, as lines."""
    for number in range(max(map(len, columns), default=0)):
        line = Text()
        for index, column in enumerate(columns):
            cell = column[number].copy() if number < len(column) else Text()
            cell.align("left", width)
            line = line + (Text(GUTTER, "dim") if index else Text()) + cell
        line.rstrip()
        yield line


def wrap(text: str, width: int, style: str = "", indent: int = 0) -> list[Text]:
    """Text as it is, each line indented and broken between words."""
    body = Text(clean(text).expandtabs(4), style=style)
    lines = body.wrap(_CONSOLE, max(10, width - indent))
    for line in lines:
        line.rstrip()
    return [Text(" " * indent) + line for line in lines]


_CONSOLE = Console(width=80)


class _Layout:
    def __init__(self, value: Any, marks: Sequence[Remark], width: int) -> None:
        self.value = value
        self.width = width
        self.marks: dict[str, list[Remark]] = {}
        """By the path of the innermost part there is."""
        paths = [json_path(parts) for parts, _ in walk(value)]
        for mark in marks:
            inside = [path for path in paths if _is_within(mark.path, path)]
            self.marks.setdefault(max(inside, key=len, default="$"), []).append(mark)

    def lines(self) -> list[Text]:
        lines = list(islice(self._value(self.value, (), "", "", 0), MAX_LINES + 1))
        if len(lines) > MAX_LINES:
            lines[MAX_LINES:] = [Text("… and more; --json has all", "dim")]
        return lines

    def _value(self, value: Any, parts: Parts, head: str, tail: str, depth: int) -> Iterator[Text]:
        own = self.marks.get(path := json_path(parts), [])
        style = STYLES.get(own[0].severity, "") if own else ""
        indent = "  " * depth
        short = head + _one_line(value) + tail
        has_inner = any(_is_within(other, path) for other in self.marks if other != path)
        is_plain = not isinstance(value, dict | list) or not value
        if is_plain or (not has_inner and 2 * depth + Text(short).cell_len <= self.width):
            yield from wrap(short, self.width, style, 2 * depth)
            yield from self._findings(own, depth)
            return
        opening, closing = "{}" if isinstance(value, dict) else "[]"
        yield Text(indent) + Text(head + opening, style)
        yield from self._findings(own, depth)
        items: list[tuple[str, str | int, Any]] = (
            [(f"{_one_line(key)}: ", key, part) for key, part in value.items()]
            if isinstance(value, dict)
            else [("", index, part) for index, part in enumerate(value)]
        )
        for number, (name, key, part) in enumerate(items, 1):
            comma = "," if number < len(items) else ""
            yield from self._value(part, (*parts, key), name, comma, depth + 1)
        yield Text(indent + closing + tail)

    def _findings(self, marks: Sequence[Remark], depth: int) -> Iterator[Text]:
        for mark in marks:
            style = STYLES.get(mark.severity, "")
            yield from wrap(f"^ {mark.text}", self.width, style, 2 * depth)


def _one_line(value: Any) -> str:
    """A value as JSON on one line that a terminal shows as it is; long strings are shortened."""
    return inline(json.dumps(_shorten(value), ensure_ascii=False))


def _shorten(value: Any) -> Any:
    if isinstance(value, str) and len(value) > MAX_STRING:
        return f"{value[:MAX_STRING]}… ({len(value):,} characters)"
    if isinstance(value, list):
        return [_shorten(part) for part in value]
    if isinstance(value, Mapping):
        return {_shorten(key): _shorten(part) for key, part in value.items()}
    return value


def _is_within(path: str, outer: str) -> bool:
    """Whether a JSON path lies at or below another."""
    return path.startswith(outer) and path[len(outer) : len(outer) + 1] in ("", ".", "[")
