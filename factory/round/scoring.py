"""Steps 2 and 9: a round's checkpoint on every benchmark of the recipe; the gate's opponents."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from factory.domain.records import Checkpoint
from factory.engines import serving
from factory.engines.base import Engine
from factory.engines.early import Early
from factory.engines.opening import early_engine
from factory.ledger import history
from factory.ledger.history import OpenRound
from factory.round.factory import Factory
from factory.round.opponents import Rival, find_rivals, noise_row, ruler_of, turned
from factory.score.base import Asked, Scorable, SelfServed
from factory.score.keeper import Keeper, Missing, find_missing, identity_sha


def serve(
    factory: Factory,
    this: OpenRound,
    checkpoint: Checkpoint,
    benchmarks: Iterable[Scorable] | None = None,
    early: Early | None = None,
) -> Keeper:
    """A checkpoint of the round: its engine starts where something is left to ask it.

    Without `benchmarks`, all of the recipe are to be scored. `early` may have started its children.
    """

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
            early=early,
        ) as engine:
            factory.finish(this.number, "start engine", started)
            yield engine

    setup = factory.setup
    wanted = factory.benchmarks.values() if benchmarks is None else benchmarks
    bases = [(benchmark, benchmark.basis(setup)) for benchmark in wanted]
    missing = find_missing(setup, checkpoint.id, bases, of=checkpoint)
    return Keeper(setup, checkpoint, missing, start)


def early_for(factory: Factory, this: OpenRound) -> Early:
    """The engine of the checkpoint to be, where a benchmark will ask it."""
    if not any(isinstance(benchmark, Asked) for benchmark in factory.benchmarks.values()):
        return Early()
    return early_engine(factory.settings.engine, factory.log_folder(this.number))


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


async def score_opponents(factory: Factory, this: OpenRound, parent: Keeper | None = None) -> None:
    """What the gate will ask of the best one so far and the model that was given.

    With `parent` only where it is one of them, by its open engine; else by engines of their own.
    """
    with factory.ledger.read() as past:
        rivals = find_rivals(factory, this, past)
    for rival in rivals:
        is_parent = rival.checkpoint.id == this.checkpoint.id and rival.served_in is None
        if parent is not None and is_parent:
            bases = [(asked, asked.basis(factory.setup)) for asked in rival.sets]
            missing = find_missing(factory.setup, parent.checkpoint.id, bases, of=parent.checkpoint)
            await _score_rival(factory, this, rival, parent, missing)
        elif parent is None and Path(rival.checkpoint.path).is_dir():
            asking = factory.asking(rival.served_in)
            async with serve(asking, this, rival.checkpoint, rival.sets) as model:
                await _score_rival(asking, this, rival, model, model.missing)


async def _score_rival(
    factory: Factory, this: OpenRound, rival: Rival, model: Keeper, lacking: Sequence[Missing]
) -> None:
    for missing in lacking:
        await model.engine()
        served = " as served" if rival.served_in else ""
        await _score(factory, this, model, missing, f"score {rival.role}{served}")
    if (dev := rival.twice) is None:
        return
    stage, ruler = f"score {rival.role} again: {dev.name}", ruler_of(factory, dev)
    await model.engine()
    started, identity = datetime.now(UTC), identity_sha(factory.setup, rival.checkpoint)
    factory.monitor.stage(stage, len(dev.items))
    again = Missing(
        benchmark=turned(dev), basis=f"{ruler.basis} again", with_questions=False, identity=identity
    )
    second = await model.score(again)
    first = history.load_items(factory.ledger, rival.checkpoint.id, *ruler)
    row = noise_row(this.number, rival.checkpoint, ruler, dev, first, second)
    row["identity"] = identity
    factory.finish(this.number, stage, started, {"noise": [row]})
    model.stored()


async def _score(
    factory: Factory, this: OpenRound, model: Keeper, missing: Missing, stage: str = ""
) -> None:
    is_parent = model.checkpoint.id == this.checkpoint.id
    stage = stage or ("score parent" if is_parent else "score new")
    name, num_items = missing.benchmark.name, len(missing.benchmark.items)
    factory.monitor.stage(f"{stage} on {name}", num_items or None)
    started = datetime.now(UTC)
    items = await model.score(missing)
    rows = missing.rows(this.number, model.checkpoint.id, items)
    factory.finish(this.number, f"{stage}: {name}", started, rows)
    model.stored()
