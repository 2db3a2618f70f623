"""What a plan came to: a table a benchmark, what the rounds kept, and the published rows beside.

An item's mark is its mean over the seeds, an interval a bootstrap over items, and a change one
paired by item: from the parent, and from the same step of the variant that `against` names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np

from factory.domain.records import ItemScore
from factory.lab.ablation.plan import PARENT, Settled
from factory.lab.ablation.results import AblationTrial, Marks, StepFigures
from factory.lab.trials.tables import Cell, Spread, TrialTable, cell, spread, to_record
from factory.score.base import Scorable
from factory.score.card import Line, Scorecard
from factory.score.estimates import Estimate, average, combine
from factory.score.published import PublishedTable

MOST_PARTS = 6
"""Columns of a benchmark's parts, such as its categories, at most."""
AS_IT_IS = "as it is"
READ_AS = (
    "in brackets: 95 % of a bootstrap over items, each item's mark its mean over the seeds; "
    "changes are paired by item, ± is the standard deviation over the seeds",
    "after: the checkpoint that the step trained; * it was held back, so the next step starts from "
    "its parent; – nothing was trained, and the checkpoint in force is scored",
)
"""What a reader of the tables must know."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Ablated:
    """A variant, or what variants start from, with its finished trials."""

    name: str
    settled: Settled | None
    """None of a parent."""
    trials: tuple[AblationTrial, ...]
    """By seed."""
    marks: tuple[Marks, ...]
    """Of each trial."""
    parent: Ablated | None
    """None of a parent itself, and of one that is not scored yet."""

    @property
    def steps(self) -> range:
        """Numbers of the steps that all trials have."""
        return range(min((len(trial.steps) for trial in self.trials), default=0))

    def items(self, step: int, benchmark: str) -> list[ItemScore]:
        """Judged items, their means over the seeds."""
        return average([marks[step, benchmark] for marks in self.marks])

    def figures(self, step: int) -> list[StepFigures]:
        """Of each seed."""
        return [trial.steps[step] for trial in self.trials]

    def label(self, step: int) -> str:
        """`round 2*`, as READ_AS explains."""
        figures = self.figures(step)
        name = figures[0].name
        if name == AS_IT_IS:
            return name
        held = sum(each.trained and not each.promoted for each in figures)
        idle = sum(not each.trained for each in figures)
        some = f" of {len(figures)}" if len(figures) > 1 else ""
        return "".join((
            name,
            f" *{held}{some}" if held and some else "*" if held else "",
            f" –{idle}{some}" if idle and some else " –" if idle else "",
        ))  # fmt: skip


def overall(card: Scorecard) -> Line | None:
    """The line of the ledger's overall score."""
    return next((line for line in card.averages if line.estimate), None)


def parts(card: Scorecard) -> dict[str, Estimate]:
    """Its other averages by name, of the overall line's convention; else its categories."""
    first = overall(card)
    others = {
        line.name: line.estimate
        for line in card.averages
        if line.estimate and line is not first and first and line.scheme == first.scheme
    }
    found = others or {line.name: line.estimate for line in card.categories if line.estimate}
    return found if 1 < len(found) <= MOST_PARTS or others else {}


def make_ablation_tables(
    rows: Sequence[Ablated],
    benchmarks: Mapping[str, Scorable],
    published: Sequence[PublishedTable] = (),
    against: Ablated | None = None,
) -> list[TrialTable]:
    """A table a benchmark, one of what was kept, and the published ones with measured values.

    `rows` are the parents, then the variants; those without a finished trial are left out.
    """
    rows = [row for row in rows if row.trials]
    if not rows:
        return []
    tables = [_score_table(rows, benchmark, against) for benchmark in benchmarks.values()]
    if kept := [line for row in rows for line in _kept_rows(row)]:
        tables.append(TrialTable("what the steps drew, kept and cost", KEPT_COLUMNS, kept))
    tables += [
        _published_table(rows, benchmark, table)
        for table in published
        for benchmark in benchmarks.values()
        if benchmark.stem == table.benchmark
    ]
    return tables


def _score_table(
    rows: Sequence[Ablated], benchmark: Scorable, against: Ablated | None
) -> TrialTable:
    seeds = max(len(row.trials) for row in rows)
    cards = {
        (id(row), step): benchmark.card(row.items(step, benchmark.name))
        for row in rows
        for step in row.steps
    }
    names = list(dict.fromkeys(name for card in cards.values() for name in parts(card)))
    calls = list(dict.fromkeys(x.metric for card in cards.values() for x in card.per_call))
    named = against if against is not None and against.trials else None
    lines: list[tuple[Cell, ...]] = []
    for row in rows:
        for step in row.steps:
            card = cards[id(row), step]
            line = overall(card)
            found = parts(card)
            single = {x.metric: x.estimate for x in card.per_call}
            first, second = _changes(row, step, benchmark, against)
            lines.append((
                row.name,
                row.label(step),
                cell(line.estimate) if line else None,
                *([_over_seeds(row, step, benchmark)] if seeds > 1 else []),
                *(cell(found.get(name), bare=True) for name in names),
                *(cell(single.get(metric)) for metric in calls),
                cell(first, sign="+"),
                *([cell(second, sign="+")] if named else []),
            ))  # fmt: skip
    over = f", mean over {seeds} seeds" if seeds > 1 else ""
    number = len(rows[0].items(0, benchmark.name))
    return TrialTable(
        f"{benchmark.name}: {number} items, {benchmark.unit}{over}",
        (
            "variant",
            "after",
            "overall",
            *(["over seeds"] if seeds > 1 else []),
            *names,
            *(f"calls {metric}" for metric in calls),
            "from its parent",
            *([f"against {named.name}"] if named else []),
        ),
        lines,
    )


def _over_seeds(row: Ablated, step: int, benchmark: Scorable) -> str | None:
    values = []
    for marks in row.marks:
        line = overall(benchmark.card(marks[step, benchmark.name]))
        values += [line.estimate.value] if line and line.estimate else []
    found = spread(values)
    return str(found) if found and found.sd is not None else None


def _changes(
    row: Ablated, step: int, benchmark: Scorable, against: Ablated | None
) -> tuple[Estimate | None, Estimate | None]:
    """From the parent, and from the same step (or the last one) of `against`, in points."""
    first = _change(row.parent, 0, row, step, benchmark) if row.parent else None
    if against is None or against is row or not against.trials or row.parent is None:
        return first, None
    other = min(step, against.steps[-1])
    return first, _change(against, other, row, step, benchmark)


def _change(
    before: Ablated, at: int, after: Ablated, step: int, benchmark: Scorable
) -> Estimate | None:
    if benchmark.unit != "percent":
        return None
    one, other = before.items(at, benchmark.name), after.items(step, benchmark.name)
    shared = {item.item for item in one} & {item.item for item in other}
    pair = [[item for item in items if item.item in shared] for items in (one, other)]
    line = overall(benchmark.change(*pair)) if shared else None
    return line.estimate if line else None


KEPT_COLUMNS = (
    "variant", "after", "drawn", "accepted, %", "right of accepted, %", "right of drawn, %",
    "perplexity", "min",
)  # fmt: skip


def _kept_rows(row: Ablated) -> Iterator[tuple[Cell, ...]]:
    """Lines of the steps that drew something, or whose perplexity was measured."""
    for step in row.steps:
        figures = row.figures(step)
        perplexity = spread(f.perplexity for f in figures if f.perplexity is not None)
        if not perplexity and not any(each.drawn for each in figures):
            continue
        yield (
            row.name,
            row.label(step),
            _first(spread(each.drawn for each in figures if each.drawn)),
            *(cell(shown) for shown in shares(figures).values()),
            str(perplexity) if perplexity else None,
            str(spread(each.seconds / 60 for each in figures)),
        )


def _first(found: Spread | None) -> str | None:
    return None if found is None else f"{found.mean:,.0f}"


def shares(figures: Sequence[StepFigures]) -> dict[str, Estimate | None]:
    """Percent of requests, those of all seeds together, with a bootstrap over them."""
    drawn = sum(each.drawn for each in figures)
    accepted = sum(each.accepted for each in figures)
    known = all(each.right is not None for each in figures)
    right = sum(each.right or 0 for each in figures)
    return {
        "accepted": _share(accepted, drawn),
        "precision": _share(right, accepted) if known else None,
        "kept right": _share(right, drawn) if known else None,
    }


@cache
def _share(part: int, whole: int) -> Estimate | None:
    if not whole:
        return None
    marks = np.zeros(whole)
    marks[:part] = 1.0
    return combine({"": marks}, {"": 1.0})


def _published_table(
    rows: Sequence[Ablated], benchmark: Scorable, table: PublishedTable
) -> TrialTable:
    """The last step of each variant in the columns of a published table, its row below it."""
    known = {row.model: row.values for row in table.rows}
    lines: list[tuple[Cell, ...]] = []
    shown: set[str] = set()
    for row in rows:
        items = row.items(row.steps[-1], benchmark.name)
        values = benchmark.beside(table, benchmark.card(items))
        lines.append((
            "measured here", row.name, *(_number(values.get(name)) for name in table.columns)
        ))  # fmt: skip
        for name in row.settled.published if row.settled else ():
            if name in known:
                shown.add(name)
                lines.append((table.kind, name, *map(_number, known[name])))
    if not shown:
        lines += [(table.kind, name, *map(_number, values)) for name, values in known.items()]
    title = f"{table.title}: {table.source}, {table.date}; {table.split}; {benchmark.name} here"
    return TrialTable(title, ("", "row", *table.columns), lines)


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}"


def describe_row(
    row: Ablated, benchmarks: Mapping[str, Scorable], against: Ablated | None
) -> dict[str, Any]:
    """Everything in the tables and more, with the single trials."""
    return {
        "variant": row.name,
        "against": against.name if against else PARENT,
        "does": row.settled.does if row.settled else "nothing",
        "seeds": [trial.seed for trial in row.trials],
        "steps": [
            {
                "after": row.figures(step)[0].name,
                "shares": {
                    name: to_record(value) for name, value in shares(row.figures(step)).items()
                },
                "scores": {
                    name: _score_record(row, step, benchmark, against)
                    for name, benchmark in benchmarks.items()
                },
            }
            for step in row.steps
        ],
        "trials": [asdict(trial) for trial in row.trials],
    }


def _score_record(
    row: Ablated, step: int, benchmark: Scorable, against: Ablated | None
) -> dict[str, Any]:
    items = row.items(step, benchmark.name)
    card = benchmark.card(items)
    first, second = _changes(row, step, benchmark, against)
    line = overall(card)
    lines = (*card.averages, *card.categories, *card.details, *card.per_call)
    return {
        "unit": benchmark.unit,
        "items": len(items),
        "overall": to_record(line.estimate) if line else None,
        "parts": [
            {"scheme": x.scheme, "name": x.name, "metric": x.metric, **x.estimate._asdict()}
            for x in lines
            if x.estimate
        ],
        "from_parent": to_record(first),
        "change": to_record(second),
    }
