"""A checkpoint and its scores: those that the ledger lacks are measured, each on its own basis."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from factory.domain.failures import ChildError
from factory.domain.records import ENGINE_DIED, Checkpoint, ItemScore
from factory.engines.base import Closing, Engine
from factory.engines.serving import check_answered
from factory.ledger import history
from factory.ledger.database import Source
from factory.ledger.history import Scored
from factory.ledger.lineage import models_of
from factory.ledger.rows import ruler_rows
from factory.ledger.tables import Batch
from factory.score.base import Asked, Scorable, SelfServed, Setup
from factory.score.kept import KeptAnswers, keeping
from factory.score.rows import scored_rows
from factory.workspace.identity import Identity


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
    identity: str | None = None
    """Of the model that is to be scored; None of what is no folder."""
    parts: Mapping[str, str] = field(default_factory=dict)
    """What its identity is made of; empty where the ledger has that."""

    def rows(self, number: int, system: str, items: Sequence[ItemScore]) -> Batch:
        """The score as ledger rows under round `number`."""
        rows = scored_rows(
            number, system, self.benchmark, items, self.basis,
            with_questions=self.with_questions, identity=self.identity,
        )  # fmt: skip
        rulers = ruler_rows(self.benchmark.name, self.basis, self.ruler)
        if self.identity is not None:
            rulers += ruler_rows("", self.identity, self.parts)
        return {**rows, "ruler": rulers} if rulers else rows


def identity_of(setup: Setup, checkpoint: Checkpoint) -> Identity | None:
    """What a checkpoint is now, as it would be served; None of a server, or of a folder gone."""
    return models_of(setup.workspace, setup.settings.engine)(checkpoint)


def identity_sha(setup: Setup, checkpoint: Checkpoint) -> str | None:
    """Its hash."""
    model = identity_of(setup, checkpoint)
    return None if model is None else model.sha


def find_missing(
    setup: Setup,
    system: str,
    bases: Iterable[tuple[Scorable, str]],
    *,
    again: bool = False,
    of: Checkpoint | None = None,
) -> tuple[Missing, ...]:
    """The benchmarks that the ledger has no score of the system on; with `again` all of them.

    A score of the checkpoint `of` counts only where it was that model in every part: what has
    changed since is told. `bases` are made before the ledger is opened: one may look for a judge's
    model in the ledger.
    """
    bases, model = list(bases), identity_of(setup, of) if of is not None else None
    found: list[Missing] = []
    with setup.ledger.read() as past:
        parts: Mapping[str, str] = {}
        if model is not None and not history.knows_ruler(past, "", model.sha):
            parts = model.parts
        for benchmark, basis in bases:
            last = history.last_scored(past, system, benchmark.name, basis)
            is_stale = last is not None and model is not None and not last.is_of(model)
            if last is not None and not is_stale and not again:
                continue
            if last is not None and model is not None and is_stale:
                setup.notify(_stale(past, system, benchmark, last, model))
            known = history.knows_ruler(past, benchmark.name, basis)
            found.append(
                Missing(
                    benchmark=benchmark,
                    basis=basis,
                    with_questions=not history.knows_questions(past, benchmark.name, basis),
                    ruler={} if known else benchmark.ruler(setup),
                    identity=None if model is None else model.sha,
                    parts={} if found else parts,
                )
            )
    return tuple(found)


def _stale(past: Source, system: str, benchmark: Scorable, last: Scored, model: Identity) -> str:
    """Why a score is made again."""
    what = "folder"
    if last.identity is not None:
        # A part that one of the two lacks has changed too.
        before = history.parts_of(past, last.identity)
        names = dict.fromkeys((*model.parts, *before))
        what = ", ".join(x for x in names if model.parts.get(x) != before.get(x)) or "the model"
    return (
        f"{system} is scored again on {benchmark.name}: its {what} changed since it was scored "
        f"({last.at:%Y-%m-%d %H:%M} UTC)"
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
        *,
        afresh: bool = False,
    ) -> None:
        """`start` opens the engine as one of so many on this machine; `afresh`: answers that a
        stopped scoring has left are asked again."""
        self.checkpoint = checkpoint
        self.missing = missing
        """Scores that the ledger lacked."""
        self._setup, self._start, self._afresh = setup, start, afresh
        self._kept: KeptAnswers | None = None
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
        """The items of a benchmark, judged; call `stored` once the ledger has them.

        Raises MissingError where a server answered none of them, ChildError where an engine did.
        """
        benchmark = missing.benchmark
        if isinstance(benchmark, Asked):
            engine = await self.engine()
            self._kept = kept = self._open_kept(missing)
            setup = replace(self._setup, kept=kept)
            items = await benchmark.score(setup, self.checkpoint, keeping(engine, kept))
            check_answered(engine)
            if items and all(item.reason == ENGINE_DIED for item in items):
                raise ChildError(
                    f"the engine answered none of {len(items)} items, which have no score: "
                    f"{items[0].message}",
                    where=benchmark.name,
                    remedy="mend what it says; the engine's log says more",
                )
            return items
        assert isinstance(benchmark, SelfServed)
        await self.close()
        return await benchmark.score(self._setup, self.checkpoint)

    def _open_kept(self, missing: Missing) -> KeptAnswers:
        name, of = missing.benchmark.name, missing.identity or self.checkpoint.fingerprint
        state = self._setup.workspace.state
        kept = KeptAnswers(state, (self.checkpoint.id, name), (of, missing.basis))
        if self._afresh:
            kept.forget()
        if kept.num_known:
            self._setup.notify(
                f"{kept.num_known} answers of a stopped scoring on {name} are kept: it goes on "
                "with the rest"
            )
        return kept

    def stored(self) -> None:
        """The ledger has what was scored last: its answers need not be kept any more."""
        if self._kept is not None:
            self._kept.forget()
            self._kept = None
