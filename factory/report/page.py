"""The report: one self-contained HTML page a round, and one over all rounds.

A page holds its style and drawings and asks for nothing: no script, no request, and a content
security policy that refuses both. All text of the ledger is hostile: it is escaped by the template,
and what would act unseen (control characters, direction marks) is shown as escapes. Everything is
read in one transaction; the page's size is bounded whatever the round's.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from factory.domain.failures import InputError
from factory.domain.plaintext import clean, shorten
from factory.ledger.database import Ledger, Source
from factory.report.chart import WIDTH, Chart, number
from factory.report.panel import Estimates, Panel, Record, draw, fill_intervals, read_panel
from factory.score.definition import stem_of
from factory.score.intervals import round_estimates
from factory.score.published import PublishedTable, load_published
from factory.workspace.folder import Workspace

FOLDER = "reports"
"""Where pages are written, below the workspace's state."""
INDEX = "index.html"
ROUND_WINDOW = 10
"""Rounds that a trend on a round's page covers."""
INDEX_WINDOW = 100
"""Rounds that the page over all rounds covers."""
TABLE_ROWS = 60
"""Rows shown of a query's answer."""
CELL_CHARS = 120
QUOTE_CHARS = 800
"""Longest text of an example."""
HERE = Path(__file__).resolve().parent

ROUND_SECTIONS: Mapping[str, Sequence[str]] = {
    "Yield": ("funnel", "reasons", "rules"),
    "Votes": ("agreement", "margins", "calibration", "calibration-margins"),
    "Scores": ("scores", "changes", "opponents"),
    "Training": ("loss", "made", "examples"),
    "Tools and codes": ("tool-use", "types", "calls", "lengths", "tools", "codes", "codebook"),
    "Variety and drift": ("variety", "tool-variety", "drift"),
    "Time": ("time", "answers"),
}
"""The page of a round: headings, and below each its panels in reading order."""
INDEX_SECTIONS: Mapping[str, Sequence[str]] = {
    "Over the rounds": (
        *("acceptance", "score-history", "reason-history", "loss-history", "time-history"),
    ),
    "Variety and drift": ("variety", "tool-variety", "drift"),
}

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A panel with its answer."""

    panel: Panel
    sql: str
    """The query as it ran."""
    rows: list[Record]
    chart: Chart | None
    """Its picture, if it has one and there is something to draw."""


def write_reports(
    workspace: Workspace, ledger: Ledger, number: int, folder: Path | None = None
) -> Path:
    """Write the page of a round and the one over all rounds; the round's page.

    `folder` is by default the workspace's own. Raises InputError where there is no such round.
    """
    folder = folder or workspace.state / FOLDER
    page = folder / page_name(number)
    with ledger.read() as past:
        pages = Pages(past, workspace)
        write_page(page, pages.round_page(number))
        written = {path.name for path in folder.glob("r*.html")}
        write_page(folder / INDEX, pages.index_page(written))
    return page


def write_round(workspace: Workspace, ledger: Ledger, number: int, file: Path) -> Path:
    """Write the page of one round to a file. Raises InputError where there is no such round."""
    with ledger.read() as past:
        write_page(file, Pages(past, workspace).round_page(number, links=False))
    return file


def write_page(file: Path, text: str) -> None:
    """Write a page aside and rename it, so that a reader never sees half of one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(file.name + ".new")
    aside.write_text(text, encoding="utf-8")
    aside.replace(file)


def page_name(number: int) -> str:
    """File name of a round's page."""
    return f"r{number}.html"


@dataclass(frozen=True, slots=True)
class Pages:
    """Pages from one reading of a ledger."""

    past: Source
    workspace: Workspace
    """Where the published tables are."""

    def round_page(self, number: int, links: bool = True) -> str:
        """The page of a round as HTML; `links` to the pages beside it."""
        bounds = {"round": number, "first": max(1, number - ROUND_WINDOW + 1)}
        facts = self.show("facts", bounds)
        if not facts.rows:
            last = self._last_round()
            raise InputError(
                f"the ledger holds no round {number}",
                where=f"its latest is {last}" if last else "it holds none yet",
                remedy="`factory status` lists the rounds; `factory round --n 64` makes one",
            )
        summary = self.show("rounds", {"round": number, "first": number})
        flips, fallen = self.show("flips", bounds), self.show("fallen", bounds)
        return _render(
            "round.html.j2",
            title=f"Round {number}",
            facts=facts,
            summary=summary,
            sections=self._sections(ROUND_SECTIONS, bounds, round_estimates(self.past, number)),
            fallen=fallen,
            fallen_groups=_groups(fallen.rows, lambda row: row["reason"]),
            kept=self.show("kept", bounds),
            flips=flips,
            flipped=_groups(flips.rows, lambda row: (row["benchmark"], row["now"])),
            published=self._published(number),
            neighbours=self._neighbours(number) if links else None,
        )

    def index_page(self, written: set[str]) -> str:
        """The page over all rounds as HTML; it links to the pages that are `written`."""
        last = self._last_round()
        bounds = {"round": last, "first": max(1, last - INDEX_WINDOW + 1)}
        history = self.show("rounds", bounds)
        return _render(
            "index.html.j2",
            title="All rounds",
            history=history,
            links={r["round"]: page_name(r["round"]) for r in history.rows},
            written=written,
            sections=self._sections(INDEX_SECTIONS, bounds),
            published=self._published(last),
            bounds=bounds,
        )

    def show(
        self, name: str, bounds: Mapping[str, int], estimates: Estimates | None = None
    ) -> Shown:
        """A panel with the ledger's answer; `estimates` are intervals that it does not hold."""
        panel = read_panel(name)
        sql = panel.fill(bounds)
        rows = self._ask(sql)
        if panel.chart and panel.chart.kind in ("scores", "changes"):
            rows = fill_intervals(rows, estimates or {})
        chart = draw(panel.chart, rows) if panel.chart and rows else None
        return Shown(panel=panel, sql=sql, rows=rows, chart=chart)

    def _ask(self, sql: str) -> list[Record]:
        try:
            return self.past.query(sql).records()
        except InputError as error:
            raise InputError(
                f"the ledger cannot be reported: {error.what}",
                where=shorten(sql, 200),
                remedy="`factory sql` with this query says more",
            ) from error

    def _last_round(self) -> int:
        return int(self.past.query("select coalesce(max(round), 0) from round").rows[0][0])

    def _sections(
        self,
        sections: Mapping[str, Sequence[str]],
        bounds: Mapping[str, int],
        estimates: Estimates | None = None,
    ) -> list[tuple[str, list[Shown]]]:
        return [
            (title, [self.show(name, bounds, estimates) for name in names])
            for title, names in sections.items()
        ]

    def _neighbours(self, number: int) -> list[int]:
        sql = "select round from round where abs(round - ?) = 1 order by 1"
        return [round_number for (round_number,) in self.past.query(sql, [number]).rows]

    def _published(self, number: int) -> list[PublishedTable]:
        """Published tables about the benchmarks that were scored up to a round."""
        sql = "select distinct benchmark from score where round <= ? order by 1"
        names = [stem_of(name) for (name,) in self.past.query(sql, [number]).rows]
        known = [table for table in load_published(self.workspace) if table.benchmark in names]
        return sorted(known, key=lambda table: names.index(table.benchmark))


def _render(template: str, **values: Any) -> str:
    style = (HERE / "style.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    page = _environment().get_template(template)
    return page.render(style=Markup(style), style_sha=digest, **values)


@cache
def _environment() -> Environment:
    """Strict, escaping, and every value cleaned on its way into a page."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else clean(value),
    )
    environment.filters.update(
        cell=show_cell,
        quote_text=lambda text: _cut(clean(text), QUOTE_CHARS),
        number=number,
        unit=lambda value: f"{value:.1f}".removesuffix(".0"),
    )
    environment.globals.update(WIDTH=WIDTH, TABLE_ROWS=TABLE_ROWS)
    return environment


def show_cell(value: object) -> str:
    """A value of a table, short; None is a dash."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return shorten(value, CELL_CHARS)


def _groups(rows: Iterable[T], key: Callable[[T], object]) -> list[list[T]]:
    """Rows that stand together and have the same key, in their order."""
    return [list(group) for _, group in itertools.groupby(rows, key)]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
