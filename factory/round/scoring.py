"""Steps 2 and 9: a round's checkpoint on every benchmark of the recipe."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from factory.domain.records import Checkpoint
from factory.engines import serving
from factory.engines.base import Engine
from factory.ledger.history import OpenRound
from factory.round.factory import Factory
from factory.score.base import Asked, SelfServed
from factory.score.keeper import Keeper, Missing, find_missing


def serve(factory: Factory, this: OpenRound, checkpoint: Checkpoint) -> Keeper:
    """A checkpoint of the round: its engine starts where something is left to ask it."""

    @contextlib.asynccontextmanager
    async def start(num_engines: int) -> AsyncIterator[Engine]:
        factory.monitor.stage(f"start engine on {checkpoint.id}")
        started = datetime.now(UTC)
        async with serving.serve(
            factory.workspace,
            factory.settings,
            checkpoint,
            notify=factory.monitor.note,
            num_engines=num_engines,
            log_folder=factory.log_folder(this.number),
        ) as engine:
            factory.finish(this.number, "start engine", started)
            yield engine

    setup = factory.setup
    bases = [(benchmark, benchmark.basis(setup)) for benchmark in factory.benchmarks.values()]
    return Keeper(setup, checkpoint, find_missing(setup, checkpoint.id, bases), start)


async def score_answers(factory: Factory, this: OpenRound, model: Keeper) -> None:
    """Score the model on the benchmarks that ask it."""
    for missing in model.missing:
        if isinstance(missing.benchmark, Asked):
            await model.engine()  # its start is a stage of its own, not part of the score's time
            await _score(factory, this, model, missing)


async def score_weights(factory: Factory, this: OpenRound, model: Keeper) -> None:
    """Score it on those that read its folder, its engine closed: never two models in memory."""
    for missing in model.missing:
        if isinstance(missing.benchmark, SelfServed):
            await _score(factory, this, model, missing)


async def _score(factory: Factory, this: OpenRound, model: Keeper, missing: Missing) -> None:
    stage = "score parent" if model.checkpoint.id == this.checkpoint.id else "score new"
    name, num_items = missing.benchmark.name, len(missing.benchmark.items)
    factory.monitor.stage(f"{stage} on {name}", num_items or None)
    started = datetime.now(UTC)
    items = await model.score(missing)
    rows = missing.rows(this.number, model.checkpoint.id, items)
    factory.finish(this.number, f"{stage}: {name}", started, rows)
