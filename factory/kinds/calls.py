"""Questions in BFCL's format, answered by calls: home, BFCL, and benchmarks of one's own."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from factory.benchmark import Benchmark, PromptStyle, check_definition
from factory.engines.base import Engine
from factory.kinds.base import Scorable, Setup, resolve
from factory.published import PublishedTable
from factory.records import Checkpoint, ItemScore, Score
from factory.score import overall_weights, score, score_basis, summarise
from factory.scorecard import Scorecard, make_scorecard
from factory.scorers.decode import Syntax
from factory.workspace import Workspace


class Changes(BaseModel):
    """What of a definition can be changed for once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str = ""
    categories: tuple[str, ...] = ()
    limit: int = Field(0, ge=0)
    prompt: PromptStyle | None = None
    syntax: Syntax | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls(Scorable):
    """Questions in BFCL's format, answered by calls."""

    benchmark: Benchmark
    """The questions."""

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
