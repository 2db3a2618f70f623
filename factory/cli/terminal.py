"""What every command prints through: data to stdout, everything else to stderr.

A model's text is data: for people, control characters are shown as escapes and rich markup in it
is inert; for programs it is written as it is, past rich.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape as escape_tags
from rich.table import Table
from rich.text import Text

from factory.domain.plaintext import clean, shorten

WHOLE_WIDTH = 24
"""Columns this narrow are never broken: ids stay whole, to be copied."""
MIN_WIDTH = 16
"""Other columns are broken into lines no narrower than this."""

stdout = Console(highlight=False, soft_wrap=True, emoji=False)
stderr = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def out(text: str = "") -> None:
    """A line of output, markup allowed."""
    stdout.print(text)


def err(text: str) -> None:
    """A line for the person at the terminal, markup allowed."""
    stderr.print(text)


def note(text: str) -> None:
    """Something that the user should know, beside the answer."""
    err(f"[yellow]note:[/] {escape(text)}")


def err_some(lines: Sequence[str], limit: int) -> None:
    """The first `limit` lines, and how many more there are; markup allowed."""
    for line in lines[:limit]:
        err(line)
    if len(lines) > limit:
        err(f"… and {len(lines) - limit} more")


def write(text: str) -> None:
    """Text for programs on stdout, unchanged."""
    sys.stdout.write(text)


def write_json(record: object) -> None:
    """A record as one line of JSON on stdout; what JSON lacks becomes text."""
    write(json.dumps(record, default=str) + "\n")


def out_indented(text: object, indent: int = 2, style: str = "") -> None:
    """Text on stdout as it is, each line indented and broken between words at the width."""
    body = Text(clean(text).expandtabs(4), style=style)
    for line in body.wrap(stdout, max(20, stdout.width - indent)):
        line.rstrip()
        stdout.print(Text(" " * indent) + line)


def inline(value: object) -> str:
    """`value` as text on one line: line breaks and tabs are shown as escapes too."""
    return clean(value).replace("\n", "\\n").replace("\t", "\\t")


_ESCAPED_BRACKET = re.compile(r"(\\+\[)(?![a-z#/@][^\[]*?\])")


def escape_markup(text: str) -> str:
    """Text that rich prints as it is, whatever comes after it.

    rich takes a backslash before any bracket for an escape; one at the end is before an empty tag.
    """
    escaped = escape_tags(_ESCAPED_BRACKET.sub(r"\\\1", text))
    if not text.endswith("\\"):
        return escaped
    body = escaped.rstrip("\\")
    return body + "\\\\" * (len(text) - len(text.rstrip("\\"))) + "[none][/none]"


def escape(value: object) -> str:
    """`value` as text that neither the terminal nor rich interprets."""
    return escape_markup(clean(value))


def escape_line(value: object) -> str:
    """The same on one line."""
    return escape_markup(inline(value))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], width: int = 80) -> None:
    """A table on stdout; cells are shortened to `width` characters.

    It grows wider than the terminal before it breaks a column that is kept whole.
    """
    cells = [[shorten(_cell(value), width) for value in row] for row in rows]
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    needed = 0
    for number, column in enumerate(columns):
        longest = max((len(row[number]) for row in cells), default=0)
        is_number = bool(rows) and all(
            isinstance(row[number], int | float) and not isinstance(row[number], bool)
            for row in rows
        )
        is_whole = longest <= WHOLE_WIDTH
        needed += 2 + (max(longest, len(column)) if is_whole else MIN_WIDTH)
        table.add_column(
            escape(column),
            justify="right" if is_number else "left",
            no_wrap=is_whole,
            min_width=None if is_whole else MIN_WIDTH,
        )
    for row in cells:
        table.add_row(*map(escape_markup, row))
    console = Console(highlight=False, emoji=False)
    console.width = max(console.width, needed)
    console.print(table, crop=False, soft_wrap=True)


def _cell(value: object) -> object:
    return f"{value:.4g}" if isinstance(value, float) else value
