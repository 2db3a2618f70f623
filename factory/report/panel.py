"""A panel of a report: one question to the ledger, and the chart of its rows.

Each is a file of panels/: its head, TOML in comments, says title, caption and chart; its one SELECT
puts every row in a fixed order. `:round` in it is the page's round (on the page over all rounds the
latest), `:first` the earliest round that a trend shows. The page prints the query with both filled
in, ready for `factory sql "…"`; so it has no double quote, backtick or dollar sign before a
bracket.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from factory.report.chart import Chart, Interval, Series, bars, columns, intervals, lines
from factory.score.estimates import Estimate

PANELS = Path(__file__).resolve().parent / "panels"

Record = dict[str, Any]
Estimates = Mapping[tuple[str, str, str], Estimate]
"""By benchmark, category and model (`parent`, `new`, `change`): factory.score.intervals."""


class Drawing(BaseModel):
    """How rows become a picture."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["bars", "columns", "lines", "courses", "scores", "changes"]
    """`courses` are lines over rounds, one for each value of the column x, with their intervals."""
    x: str = ""
    y: tuple[str, ...] = ()
    title: str = ""
    """What the labels are, where the column's name does not say it."""
    unit: str = ""
    total: str = ""
    """Column, the same in each row, that is the full width of bars."""
    bounds: tuple[float, float] | None = None
    """Ends of the vertical axis; else it follows the values."""
    dots: bool = True


class Panel(BaseModel):
    """One question. Example: read_panel("funnel")."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    """Its file's name; unique on a page."""
    title: str
    caption: str
    """What the numbers are: unit, definition, source."""
    sql: str
    chart: Drawing | None = None
    """Without one the table is shown."""
    turned: bool = False
    """Whether the shown table has a column for each row: for few rows of many columns."""

    def fill(self, bounds: Mapping[str, int]) -> str:
        """The query with its numbers in place of `:round` and `:first`."""
        return re.sub(r":(round|first)\b", lambda hit: str(bounds[hit[1]]), self.sql)


@cache
def read_panel(name: str) -> Panel:
    """panels/<name>.sql; a fault in it is one of ours."""
    text = (PANELS / f"{name}.sql").read_text(encoding="utf-8")
    head, _, sql = text.partition("\n\n")
    table = tomllib.loads("\n".join(line.removeprefix("--").strip() for line in head.split("\n")))
    table["caption"] = " ".join(str(table["caption"]).split())
    return Panel.model_validate({**table, "id": name, "sql": sql.strip()})


def fill_intervals(rows: list[Record], estimates: Estimates) -> list[Record]:
    """Rows of scores or of changes with the intervals that the ledger does not hold.

    SQL cannot draw a bootstrap, and a page shows the one that a scorecard shows.
    """
    filled = []
    for row in rows:
        key = (row["benchmark"], row["category"], row.get("model", "change"))
        if row["low"] is None and (known := estimates.get(key)):
            row = {**row, "low": known.low, "high": known.high}
        filled.append(row)
    return filled


def draw(drawing: Drawing, rows: list[Record]) -> Chart | None:
    """The picture of a panel's rows; None where there is nothing to draw."""
    # Other units than percent have no place on a picture's axis.
    rows = [row for row in rows if row.get("unit", "percent") == "percent"]
    x, y = drawing.x, drawing.y
    match drawing.kind:
        case "bars":
            whole = float(rows[0][drawing.total]) if rows and drawing.total else None
            items = [(str(row[x]), float(row[y[0]] or 0)) for row in rows]
            return bars(items, drawing.unit, whole)
        case "columns":
            stacks = [Series(name=name, values=[float(r[name] or 0) for r in rows]) for name in y]
            return columns([_short(row[x]) for row in rows], stacks, drawing.title)
        case "lines" if len(rows) > 1:
            series = [Series(name=name, values=[_float(r[name]) for r in rows]) for name in y]
            labels = [_short(row[x]) for row in rows]
            return lines(labels, series, x, bounds=drawing.bounds, dots=drawing.dots)
        case "courses":
            return _draw_courses(rows, x, y[0])
        case "scores":
            return _draw_scores(rows)
        case "changes":
            return intervals(
                [(_score_name(r), [_interval(r, "points")]) for r in rows], ("change",)
            )
    return None


def _draw_courses(rows: list[Record], name: str, value: str) -> Chart | None:
    rounds = sorted({row["round"] for row in rows})
    if len(rounds) < 2:
        return None
    series = []
    for each in dict.fromkeys(row[name] for row in rows):
        at = {row["round"]: row for row in rows if row[name] == each}
        course = [at.get(number, {}) for number in rounds]
        series.append(
            Series(
                name=str(each),
                values=[_float(row.get(value)) for row in course],
                low=[_float(row.get("low")) for row in course],
                high=[_float(row.get("high")) for row in course],
            )
        )
    return lines([str(number) for number in rounds], series, "round")


def _draw_scores(rows: list[Record]) -> Chart:
    pairs: dict[str, dict[str, Interval]] = {}
    for row in rows:
        pairs.setdefault(_score_name(row), {})[row["model"]] = _interval(row, "percent")
    return intervals(
        [(name, [pair.get("parent"), pair.get("new")]) for name, pair in pairs.items()],
        ("parent", "new"),
    )


def _score_name(row: Record) -> str:
    benchmark, category = row["benchmark"], row["category"]
    return str(benchmark) if category == "overall" else f"{benchmark}: {category}"


def _interval(row: Record, value: str) -> Interval:
    return Interval(value=row[value], low=row["low"], high=row["high"])


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
