"""Questions in BFCL's format, answered by calls: home, BFCL, and benchmarks of one's own."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.benchmark import Benchmark
from factory.engines.base import Engine
from factory.failures import ContentError
from factory.kinds.base import Scorable, Setup
from factory.published import PublishedTable
from factory.records import Checkpoint, ItemScore, Score
from factory.score import overall_weights, score, score_basis, summarise
from factory.scorecard import Scorecard, make_scorecard
from factory.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls(Scorable):
    """Questions in BFCL's format, answered by calls."""

    benchmark: Benchmark
    """The questions."""

    @classmethod
    def load(cls, workspace: Workspace, name: str, changes: Mapping[str, Any]) -> Calls:
        """The benchmark, narrowed by `changes`."""
        known = {"data", "categories", "limit", "prompt", "syntax"}
        if unknown := sorted(changes.keys() - known):
            raise ContentError(
                f"{unknown[0]} cannot be changed for {name}",
                where=f"eval/{name}.toml",
                remedy=f"what can be is {', '.join(sorted(known))}",
            )
        whole = Benchmark.load(
            workspace, name, Path(changes["data"]) if "data" in changes else None
        )
        benchmark = whole.narrow(
            categories=tuple(changes.get("categories", ())),
            limit=changes.get("limit", 0),
            prompt=changes.get("prompt"),
            syntax=changes.get("syntax"),
        )
        return cls.of(benchmark)

    @classmethod
    def of(cls, benchmark: Benchmark) -> Calls:
        """A loaded benchmark as one of many kinds."""
        return cls(
            name=benchmark.name,
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

    async def score(
        self, setup: Setup, checkpoint: Checkpoint, engine: Engine | None
    ) -> list[ItemScore]:
        assert engine is not None
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
