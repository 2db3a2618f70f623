"""Questions in BFCL's format, answered by calls: home, BFCL, and benchmarks of one's own."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from factory.domain.records import Checkpoint, ItemScore, Score
from factory.engines.base import Engine
from factory.score.base import Asked, Setup, resolve
from factory.score.calls.asking import overall_weights, score, score_basis
from factory.score.calls.bfcl import (
    LANGUAGES,
    LEADERBOARD_PARTS,
    LIVE,
    NON_LIVE,
    OVERALL,
    check_ast,
    gold_calls,
)
from factory.score.calls.decode import Syntax
from factory.score.calls.questions import Benchmark, PromptStyle
from factory.score.card import Average, Groups, Scorecard, make_card
from factory.score.definition import check_definition
from factory.score.estimates import group_marks, summarise
from factory.score.items import Item
from factory.score.published import PublishedTable
from factory.workspace.folder import Workspace


class Changes(BaseModel):
    """What of a definition can be changed for once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str = ""
    categories: tuple[str, ...] = ()
    limit: int = Field(0, ge=0)
    prompt: PromptStyle | None = None
    syntax: Syntax | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls(Asked):
    """Questions in BFCL's format, answered by calls."""

    benchmark: Benchmark

    @classmethod
    def load(cls, workspace: Workspace, name: str, changes: Mapping[str, Any]) -> Calls:
        """The benchmark, narrowed by `changes`."""
        wanted = check_definition(Changes, changes, f"eval/{name}.toml")
        folder = resolve(workspace, wanted.data) if wanted.data else None
        benchmark = Benchmark.load(workspace, name, folder).narrow(
            categories=wanted.categories,
            limit=wanted.limit,
            prompt=wanted.prompt,
            syntax=wanted.syntax,
        )
        return cls.of(benchmark)

    @classmethod
    def of(cls, benchmark: Benchmark) -> Calls:
        """A loaded benchmark as one of many kinds."""
        return cls(
            stem=benchmark.stem,
            variant=benchmark.variant,
            title=benchmark.title,
            split=benchmark.split,
            items=benchmark.items,
            categories=benchmark.categories,
            benchmark=benchmark,
        )

    @property
    def asked(self) -> Mapping[str, str]:
        return {"prompt": self.benchmark.prompt, "syntax": self.benchmark.syntax}

    def basis(self, setup: Setup) -> str:
        return score_basis(self.benchmark, setup.prompts, setup.max_tokens)

    async def score(self, setup: Setup, checkpoint: Checkpoint, engine: Engine) -> list[ItemScore]:
        _, items = await score(
            engine,
            self.benchmark,
            setup.prompts,
            max_tokens=setup.max_tokens,
            progress=setup.progress,
        )
        return items

    def card(self, items: Sequence[ItemScore]) -> Scorecard:
        return make_scorecard(self.benchmark, items)

    def summary(self, checkpoint: str, items: Sequence[ItemScore]) -> Score:
        return summarise(self.name, checkpoint, items, overall_weights(self.benchmark))

    def beside(self, table: PublishedTable, card: Scorecard) -> Mapping[str, float]:
        values = {line.name: line.estimate.value for line in card.categories if line.estimate}
        for line in card.averages:
            if line.scheme == "tooldev" and line.estimate:
                values[line.name] = line.estimate.value
        simple = [f"simple_{word}" for word in ("python", "java", "javascript")]
        if all(name in values for name in simple):
            values["simple"] = statistics.fmean(values[name] for name in simple)
        return values


IRRELEVANCE = {"irrelevance": 0.5, "live_irrelevance": 0.5}


def make_scorecard(benchmark: Benchmark, items: Sequence[ItemScore]) -> Scorecard:
    """The scorecard of a benchmark's judged items, in any order."""
    order = {name: position for position, name in enumerate(benchmark.categories)}
    ordered = sorted(items, key=lambda item: order[item.category])
    return make_card(
        ordered,
        _averages(benchmark, group_marks(ordered)),
        ceilings=group_ceilings(benchmark),
        strict=_share_of_abstentions(benchmark, items),
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


def _averages(benchmark: Benchmark, marks: Groups) -> list[Average]:
    """The conventions that apply to the benchmark."""
    if benchmark.average != "tooldev":
        return []
    live = {name: len(marks[name]) for name in LIVE if name in marks}
    sizes = {name: live[name] / sum(live.values()) for name in LIVE} if len(live) == 4 else LIVE
    parts = ", ".join(f"{part} ({LEADERBOARD_PARTS[part]} %)" for part in ("multi_turn", "agentic"))
    return [
        Average("tooldev", "overall", OVERALL),
        Average("tooldev", "non_live", NON_LIVE),
        Average("tooldev", "live", LIVE),
        Average("leaderboard", "non_live", NON_LIVE),
        Average("leaderboard", "live", sizes),
        Average("leaderboard", "irrelevance", IRRELEVANCE),
        Average("leaderboard", "relevance", {"live_relevance": 1.0}),
        Average("leaderboard", "overall", {parts: 1.0}),
    ]
