"""A checkpoint and its scores: those that the ledger lacks are measured, each on its own basis."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from factory.domain.records import Checkpoint, ItemScore
from factory.engines.base import Closing, Engine
from factory.engines.serving import check_answered
from factory.ledger import history
from factory.ledger.tables import Batch
from factory.score.base import Asked, Scorable, SelfServed, Setup
from factory.score.rows import scored_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A score that the ledger lacks."""

    benchmark: Scorable
    basis: str
    """Hash of what the score depends on besides the checkpoint."""
    with_questions: bool
    """Whether it lacks the questions of this basis too."""
    ruler: Mapping[str, str] = field(default_factory=dict)
    """What its basis is made of; empty where the ledger has that."""

    def rows(self, number: int, system: str, items: Sequence[ItemScore]) -> Batch:
        """The score as ledger rows under round `number`."""
        rows = scored_rows(
            number, system, self.benchmark, items, self.basis, with_questions=self.with_questions
        )
        if self.ruler:
            name, basis = self.benchmark.name, self.basis
            rows["ruler"] = [
                {"benchmark": name, "basis": basis, "part": part, "sha": sha}
                for part, sha in self.ruler.items()
            ]
        return rows


def find_missing(
    setup: Setup, system: str, bases: Iterable[tuple[Scorable, str]], *, again: bool = False
) -> tuple[Missing, ...]:
    """The benchmarks that the ledger has no score of the system on; with `again` all of them.

    `bases` are made before the ledger is opened: one may look for a judge's model in the ledger.
    """
    bases = list(bases)
    with setup.ledger.read() as past:
        return tuple(
            Missing(
                benchmark=benchmark,
                basis=basis,
                with_questions=not history.knows_questions(past, benchmark.name, basis),
                ruler={}
                if history.knows_ruler(past, benchmark.name, basis)
                else benchmark.ruler(setup),
            )
            for benchmark, basis in bases
            if again or not history.is_scored(past, system, benchmark.name, basis)
        )


class Keeper(Closing):
    """A checkpoint that is scored; use it with `async with`.

    Its engine is opened when something first asks it, and closed before a benchmark that reads the
    checkpoint's folder: such a benchmark brings a model of its own into memory.
    """

    def __init__(
        self,
        setup: Setup,
        checkpoint: Checkpoint,
        missing: Sequence[Missing],
        start: Callable[[int], contextlib.AbstractAsyncContextManager[Engine]],
    ) -> None:
        """`start` opens the engine as one of so many on this machine."""
        self.checkpoint = checkpoint
        self.missing = missing
        """Scores that the ledger lacked."""
        self._setup, self._start = setup, start
        self._engine: Engine | None = None
        self._open = contextlib.AsyncExitStack()

    async def engine(self) -> Engine:
        """The engine that serves the checkpoint."""
        if self._engine is None:
            asked = [x.benchmark for x in self.missing if isinstance(x.benchmark, Asked)]
            shares = (benchmark.num_engines(self._setup, self.checkpoint) for benchmark in asked)
            start = self._start(max(shares, default=1))
            self._engine = await self._open.enter_async_context(start)
        return self._engine

    async def close(self) -> None:
        """Free the model; the engine is opened anew where it is asked for again."""
        self._engine = None
        await self._open.aclose()

    async def score(self, missing: Missing) -> list[ItemScore]:
        """The items of a benchmark, judged. MissingError where a server answered none of them."""
        benchmark = missing.benchmark
        if isinstance(benchmark, Asked):
            engine = await self.engine()
            items = await benchmark.score(self._setup, self.checkpoint, engine)
            check_answered(engine)
            return items
        assert isinstance(benchmark, SelfServed)
        await self.close()
        return await benchmark.score(self._setup, self.checkpoint)
