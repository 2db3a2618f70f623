"""What a score says, laid out: categories, averages by several conventions, ceiling, abstention.

One set of judged items has several honest averages. ToolDev's and the leaderboard's stand side by
side, each with its interval, with the ceiling that gold answers reach through the same checker, and
with what is missing named. Where BFCL counts a broken call as an abstention, its count stands
beside that of true ones. Other kinds of benchmark are laid out likewise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from factory.domain.records import UNANSWERED, ItemScore
from factory.score.estimates import Estimate, combine, group_marks

Groups = Mapping[str, NDArray[np.float64]]
POOLED = " pooled"
"""After a scheme: of several categories, each item weighing the same."""


class Average(NamedTuple):
    """A weighted sum of categories. Example: Average("tooldev", "live", {"live_simple": 1.0})."""

    scheme: str
    """Whose convention it follows."""
    name: str
    """What it is called there."""
    weights: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One number of a scorecard. Example: Line(name="simple_python", estimate=Estimate(…))."""

    name: str
    """Category or average."""
    scheme: str = ""
    """Whose convention an average follows: `tooldev`, `leaderboard`, or `mean`."""
    estimate: Estimate | None = None
    """The score; None where parts of it are missing."""
    ceiling: float | None = None
    """Percent that gold answers reach."""
    official: float | None = None
    """Percent by BFCL's count where nothing is to be called: what cannot be read is right there."""
    num_items: int = 0
    """Items it is made of."""
    cut: int = 0
    """How many of them have an answer that a limit cut."""
    missing: tuple[str, ...] = ()
    metric: str = ""
    """What is measured where a benchmark has several measures: `ndcg@5`."""
    note: str = ""
    """What else is to be known of it, such as the spread of a judge's runs."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Of an average: the weight of each category."""

    @property
    def title(self) -> str:
        """Its name on the card and in the ledger. Example: `tooldev: live`."""
        return f"{self.scheme}: {self.name}" if self.scheme else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorecard:
    """All that one score says."""

    categories: tuple[Line, ...]
    """In the benchmark's order."""
    averages: tuple[Line, ...]
    """By convention; the first is the overall score of the ledger."""
    reasons: tuple[tuple[str, int], ...]
    """Why items are wrong, the most frequent first."""
    cut: tuple[tuple[str, int], ...] = ()
    """The limits that answers reached, with how many items they are of."""
    details: tuple[Line, ...] = ()
    """The benchmark's other measures, by category."""
    per_call: tuple[Line, ...] = ()
    """How an item's single calls fare, where one wrong call makes the item wrong."""


def count_unanswered(items: Sequence[ItemScore]) -> dict[str, int]:
    """How many items the engine gave no answer to, by reason; the most frequent first."""
    return dict(Counter(x.reason for x in items if x.reason in UNANSWERED).most_common())


def by_requests(counts: Mapping[str, int]) -> dict[str, float]:
    """Weights of categories under which each item weighs the same."""
    return {name: count / sum(counts.values()) for name, count in counts.items()}


def make_card(
    items: Sequence[ItemScore],
    averages: Sequence[Average] = (),
    *,
    ceilings: Groups | None = None,
    official: Mapping[str, float] | None = None,
    notes: Mapping[str, str] | None = None,
) -> Scorecard:
    """Categories in the items' order, and averages.

    The overall score is the first average, or the mean of the categories where that lacks one.
    """
    marks = group_marks(items)
    ceilings, official, notes = ceilings or {}, official or {}, notes or {}
    cut = [(item.category, item.detail["cut"]) for item in items if "cut" in item.detail]
    num_cut = Counter(category for category, _ in cut)

    def line(average: Average) -> Line:
        scheme, name, weights = average
        missing = tuple(category for category in weights if category not in marks)
        if missing:
            return Line(scheme=scheme, name=name, missing=missing)
        whole = weights.keys() <= official.keys()
        return Line(
            scheme=scheme,
            name=name,
            estimate=combine(marks, weights),
            ceiling=combine(ceilings, weights).value if ceilings else None,
            official=sum(w * official[name] for name, w in weights.items()) if whole else None,
            num_items=sum(len(marks[category]) for category in weights),
            cut=sum(num_cut[category] for category in weights),
            weights=weights,
        )

    lines = [line(average) for average in averages]
    if not lines or lines[0].missing:
        mean = Average("mean", "overall", dict.fromkeys(marks, 1 / len(marks)))
        lines.insert(0, line(mean))
    return Scorecard(
        categories=tuple(
            Line(
                name=name,
                estimate=combine(marks, {name: 1.0}),
                ceiling=100 * float(ceilings[name].mean()) if ceilings else None,
                official=official.get(name),
                num_items=len(values),
                cut=num_cut[name],
                note=notes.get(name, ""),
            )
            for name, values in marks.items()
        ),
        averages=tuple(lines),
        reasons=tuple(Counter(item.reason for item in items if not item.correct).most_common()),
        cut=tuple(Counter(limit for _, limit in cut).most_common()),
    )
