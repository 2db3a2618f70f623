"""What a score says, laid out: categories, averages by several conventions, ceiling, abstention.

One set of judged items has several honest averages. ToolDev's and the leaderboard's stand side by
side, each with its interval, with the ceiling that gold answers reach through the same checker, and
with what is missing named. Where BFCL counts a broken call as an abstention, the strict share
stands beside the official one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factory.benchmark import Benchmark, Item
from factory.records import ItemScore
from factory.score import Estimate, combine, group_marks, overall_weights
from factory.scorers.bfcl import (
    LANGUAGES,
    LEADERBOARD_PARTS,
    LIVE,
    NON_LIVE,
    OVERALL,
    check_ast,
    gold_calls,
)

Groups = Mapping[str, NDArray[np.float64]]
IRRELEVANCE = {"irrelevance": 0.5, "live_irrelevance": 0.5}


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
    strict: float | None = None
    """Percent of true abstentions, where nothing is to be called."""
    num_items: int = 0
    """Items it is made of."""
    missing: tuple[str, ...] = ()
    """What it lacks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorecard:
    """All that one score says."""

    categories: tuple[Line, ...]
    """In the benchmark's order."""
    averages: tuple[Line, ...]
    """By convention; the first is the overall score of the ledger."""
    reasons: tuple[tuple[str, int], ...]
    """Why items are wrong, the most frequent first."""


def make_scorecard(benchmark: Benchmark, items: Sequence[ItemScore]) -> Scorecard:
    """The scorecard of a benchmark's judged items, in any order."""
    order = {name: position for position, name in enumerate(benchmark.categories)}
    marks = group_marks(sorted(items, key=lambda item: order[item.category]))
    ceilings = group_ceilings(benchmark)
    strict = _share_of_abstentions(benchmark, items)
    return Scorecard(
        categories=tuple(
            Line(
                name=name,
                estimate=combine(marks, {name: 1.0}),
                ceiling=100 * float(ceilings[name].mean()),
                strict=strict.get(name),
                num_items=len(values),
            )
            for name, values in marks.items()
        ),
        averages=tuple(_averages(benchmark, marks, ceilings, strict)),
        reasons=tuple(Counter(item.reason for item in items if not item.correct).most_common()),
    )


def group_ceilings(benchmark: Benchmark) -> dict[str, NDArray[np.float64]]:
    """1.0 for each item whose own gold is judged right, by category."""
    groups: dict[str, list[float]] = {}
    for item in benchmark.items:
        groups.setdefault(item.category, []).append(float(_gold_is_right(item)))
    return {name: np.array(values) for name, values in groups.items()}


def _gold_is_right(item: Item) -> bool:
    if item.judge not in LANGUAGES:
        return True
    calls = gold_calls(item.ground_truth, item.functions, item.language)
    return check_ast(calls, item.functions, item.ground_truth, item.language).correct


def _share_of_abstentions(benchmark: Benchmark, items: Sequence[ItemScore]) -> dict[str, float]:
    """Percent of answers that neither call nor try to, in each category that asks for it."""
    asked = {item.category for item in benchmark.items if item.judge == "no_call"}
    groups: dict[str, list[bool]] = {}
    for item in items:
        if item.category in asked:
            groups.setdefault(item.category, []).append(item.correct and not item.reason)
    return {name: 100 * sum(values) / len(values) for name, values in groups.items()}


def _averages(
    benchmark: Benchmark, marks: Groups, ceilings: Groups, strict: Mapping[str, float]
) -> list[Line]:
    """The conventions that apply to the benchmark, the ledger's overall first."""

    def line(scheme: str, name: str, weights: Mapping[str, float]) -> Line:
        missing = tuple(category for category in weights if category not in marks)
        if missing:
            return Line(scheme=scheme, name=name, missing=missing)
        whole = weights.keys() <= strict.keys()
        return Line(
            scheme=scheme,
            name=name,
            estimate=combine(marks, weights),
            ceiling=combine(ceilings, weights).value,
            strict=sum(w * strict[category] for category, w in weights.items()) if whole else None,
            num_items=sum(len(marks[category]) for category in weights),
        )

    mean = line("mean", "overall", dict.fromkeys(marks, 1 / len(marks)))
    if benchmark.average != "tooldev":
        return [mean]
    live = {name: len(marks[name]) for name in LIVE if name in marks}
    sizes = {name: live[name] / sum(live.values()) for name in LIVE} if len(live) == 4 else LIVE
    parts = ", ".join(f"{part} ({LEADERBOARD_PARTS[part]} %)" for part in ("multi_turn", "agentic"))
    return [
        *([] if overall_weights(benchmark) else [mean]),
        line("tooldev", "overall", OVERALL),
        line("tooldev", "non_live", NON_LIVE),
        line("tooldev", "live", LIVE),
        line("leaderboard", "non_live", NON_LIVE),
        line("leaderboard", "live", sizes),
        line("leaderboard", "irrelevance", IRRELEVANCE),
        line("leaderboard", "relevance", {"live_relevance": 1.0}),
        Line(scheme="leaderboard", name="overall", missing=(parts,)),
    ]
