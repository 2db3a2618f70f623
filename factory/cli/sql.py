"""`factory sql`: one SELECT, answered as a table, JSON lines, CSV or Markdown."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime, time
from decimal import Decimal
from functools import cache
from itertools import chain, count
from typing import Annotated, Any

import typer

from factory.cli.apart import go_on_apart
from factory.cli.opening import open_ledger
from factory.cli.terminal import err, escape_line, out, out_indented, print_table, write
from factory.domain.failures import InputError
from factory.domain.plaintext import clean
from factory.ledger.database import Ledger, Rows, Stream
from factory.ledger.schema import stock_questions

Json = Annotated[bool, typer.Option("--json", help="One JSON object a row.")]

MAX_TIMEOUT = 1e6
"""Seconds; a wait cannot be much longer."""
SCREEN_ROWS = 1000
"""Rows of a table on the screen unless --limit says otherwise."""

LISTING = """
select c.table_name as name,
       any_value(v.comment) as description,
       list(struct_pack(name := c.column_name, type := c.data_type) order by c.column_index)
         as columns
from duckdb_columns() c
left join duckdb_views() v
  on (v.database_name, v.schema_name, v.view_name)
   = (c.database_name, c.schema_name, c.table_name)
where c.database_name = current_database() and c.schema_name = 'main' and not c.internal
  and c.table_name not in ('migration', 'segment')
group by 1
order by description is null, 1
"""
"""Views with their comments, then the tables, which have none."""

_MARKDOWN = re.compile(r"[\\|`*\[\]<>&]")
_HTML = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
_NUMERIC = re.compile(r"(U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL.*)")


def sql(
    query: Annotated[
        str, typer.Argument(help="One SELECT; without it: the views and stock questions.")
    ] = "",
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV with a header.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="A Markdown table.")] = False,
    limit: Annotated[
        int | None,
        typer.Option(
            help=f"Rows at most, 0 is all; {SCREEN_ROWS} unless told, all for the other forms.",
            min=0,
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds of computing at most.")] = 60.0,
) -> None:
    """Query the ledger with SQL, read-only, also while a round runs.

    factory sql

    factory sql "select reason, count(*) from rejected group by 1 order by 2 desc"

    factory sql "select * from round_yield" --json
    """
    wanted = {"json": as_json, "csv": as_csv, "markdown": as_markdown}
    chosen = [form for form, is_wanted in wanted.items() if is_wanted]
    if len(chosen) > 1:
        raise InputError(f"--{' and --'.join(chosen)} exclude each other")
    if not 0 < timeout <= MAX_TIMEOUT:
        raise InputError("--timeout is no number of seconds", remedy="--timeout 60")
    ledger = open_ledger()
    if not query and not chosen:
        _print_listing(ledger)
        return
    go_on_apart(timeout)
    if limit is None and not chosen:
        limit = SCREEN_ROWS
    with ledger.read() as past:
        stream = past.stream(query or LISTING, limit=limit or None, timeout_seconds=timeout)
        if chosen:
            for text in FORMS[chosen[0]](stream):
                write(text)
        else:
            print_table(stream.columns, [row for batch in stream for row in batch])
        more = stream.more
    if more:
        tell_more(limit or 0)


def write_records(rows: Rows) -> None:
    """Each row as a line of JSON on stdout."""
    for row in rows.rows:
        write(_json_line(rows.columns, row))


def tell_more(num_shown: int) -> None:
    """Say that a row limit cut the answer short."""
    err(f"[yellow]only the first {num_shown} rows; --limit 0 gives all[/]")


def jsonable(value: Any) -> Any:
    """A DuckDB value as JSON has it: times in ISO 8601, exact numbers, null.

    A decimal is a number where a double writes the same digits, else text; NaN, infinities, blobs
    (hexadecimal) and everything else that JSON lacks are text.
    """
    kind = type(value)
    if kind in (str, int, bool) or value is None:
        return value
    if kind is float:
        return value if math.isfinite(value) else str(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        near = float(value)
        return near if Decimal(repr(near)) == value else str(value)
    if isinstance(value, dict):
        return {_key(key): jsonable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(part) for part in value]
    return value.hex() if isinstance(value, bytes | bytearray) else str(value)


def _key(key: Any) -> str:
    """A map's key as text."""
    plain = jsonable(key)
    return plain if isinstance(plain, str) else json.dumps(plain)


def _json_line(columns: tuple[str, ...], row: tuple[Any, ...]) -> str:
    pairs = zip(_apart(columns), row, strict=True)
    return json.dumps({name: jsonable(value) for name, value in pairs}) + "\n"


@cache
def _apart(columns: tuple[str, ...]) -> tuple[str, ...]:
    """Names of their own: of equal ones the later become `name_1`, `name_2`."""
    names: list[str] = []
    for column in columns:
        numbered = (f"{column}_{number}" for number in count(1))
        taken = {*names, *columns} if column in names else ()
        names.append(next(name for name in chain((column,), numbered) if name not in taken))
    return tuple(names)


def _to_json(stream: Stream) -> Iterator[str]:
    for batch in stream:
        yield "".join(_json_line(stream.columns, row) for row in batch)


def _to_csv(stream: Stream) -> Iterator[str]:
    """A header, then rows; NULL is an empty field. A terminal shows what would act on it."""
    shown = _shown if sys.stdout.isatty() else _plain
    yield _csv_text([stream.columns], shown)
    for batch in stream:
        yield _csv_text(batch, shown)


def _to_markdown(stream: Stream) -> Iterator[str]:
    """Cells on one line, without control characters, Markdown or HTML."""
    marks = ["---:" if _NUMERIC.fullmatch(kind) else "---" for kind in stream.types]
    yield _markdown_row(map(_markdown_cell, stream.columns)) + _markdown_row(marks)
    for batch in stream:
        yield "".join(_markdown_row(map(_markdown_cell, row)) for row in batch)


FORMS = {"json": _to_json, "csv": _to_csv, "markdown": _to_markdown}
"""What --json, --csv and --markdown write, a batch of rows at a time."""


def _csv_text(rows: Iterable[tuple[Any, ...]], cell: Callable[[Any], Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([map(cell, row) for row in rows])
    return text.getvalue()


def _shown(value: Any) -> Any:
    """A value as text in a cell, control characters as escapes; NULL stays None."""
    found = _plain(value)
    return clean(found) if isinstance(found, str) else found


def _plain(value: Any) -> Any:
    """A value as text in a cell; NULL stays None."""
    found = jsonable(value)
    return found if found is None or isinstance(found, str) else json.dumps(found)


def _markdown_cell(value: Any) -> str:
    text = " ".join(clean(_plain(value)).split())
    return _MARKDOWN.sub(lambda hit: _HTML.get(hit[0], "\\" + hit[0]), text)


def _markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _print_listing(ledger: Ledger) -> None:
    """Views with their columns, tables, and questions that can be pasted into a shell."""
    found = ledger.query(LISTING).records()
    out("[bold]views[/]")
    for view in found:
        if view["description"]:
            _print_relation(view)
            out_indented(view["description"], 6, "dim")
    out("\n[bold]tables[/]  every row that was ever written")
    for table in found:
        if not table["description"]:
            _print_relation(table)
    out("\n[bold]stock questions[/]")
    for question in stock_questions():
        out(f"  [bold]{escape_line(question.title)}[/]")
        out(f"    factory sql {escape_line(chr(34) + question.sql + chr(34))}")


def _print_relation(relation: dict[str, Any]) -> None:
    columns = ", ".join(column["name"] for column in relation["columns"])
    out(f"  {escape_line(relation['name'])}")
    out_indented(columns, 6)
