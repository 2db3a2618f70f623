"""Steps 3 to 6: every drawn query to its sample, many of them in flight."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from factory.codes.saving import SavedCodebook, load_codebook
from factory.judge.sample import Judgement, Sample
from factory.ledger import history
from factory.ledger.database import Ledger
from factory.ledger.history import OpenRound
from factory.ledger.tables import Batch, merge
from factory.round.asking import Asking, asking_for
from factory.round.factory import Factory
from factory.round.judging import judgement_of
from factory.round.sampler import sample_query
from factory.round.waves import draw_wave
from factory.round.writing import write_wave
from factory.score.keeper import Keeper

FLUSH_SECONDS = 1.0
"""Finished queries reach the ledger this often."""
FOLD_EVERY = 30
"""Flushes between two folds of the segments into the file."""


async def sample(factory: Factory, this: OpenRound, model: Keeper) -> None:
    """Sample every query that has no sample yet, and draw more while too few are accepted."""
    if "sample" in this.stages_done:
        return
    engine = await model.engine()
    started = datetime.now(UTC)
    codebook = codebook_of(factory, this)
    while True:
        queries = history.pending_queries(factory.ledger, this.number)
        factory.monitor.stage("sample", len(queries))
        answerers = [asking_for(factory, this.number, engine, query, codebook) for query in queries]
        await _sample_all(factory, judgement_of(factory, this), answerers)
        if not factory.recipe.accept:
            factory.finish(this.number, "sample", started)
            return
        reached = draw_wave(factory, this)
        writes = factory.writes and reached.ended == "pool"
        if writes and await write_wave(factory, this, engine, reached.next_wave):
            continue
        if reached.ended:
            break
    if reached.note:
        factory.monitor.note(reached.note)
    factory.finish(this.number, "sample", started, detail=asdict(reached))


def codebook_of(factory: Factory, this: OpenRound) -> SavedCodebook | None:
    """The parent's codes; None where it has none, or the recipe wants none."""
    if factory.recipe.codes.coder == "none":
        return None
    return load_codebook(Path(this.checkpoint.path))


async def _sample_all(factory: Factory, judgement: Judgement, answerers: Sequence[Asking]) -> None:
    """A window of queries in flight at once; what is finished is written whatever happens."""
    window = asyncio.Semaphore(factory.recipe.window)

    async def run(asking: Asking) -> Sample:
        async with window:
            sample = await sample_query(judgement, asking.query, asking)
        rows = sample.rows(judgement, datetime.now(UTC))
        writer.add({**rows, "generation": asking.generations})
        return sample

    tally: Counter[str] = Counter()
    writer = _Writer(factory.ledger)
    tasks = [asyncio.ensure_future(run(asking)) for asking in answerers]
    flusher = asyncio.ensure_future(writer.flush_regularly())
    try:
        for done, finished in enumerate(asyncio.as_completed(tasks), 1):
            tally[(await finished).status] += 1
            detail = ", ".join(f"{count} {status}" for status, count in sorted(tally.items()))
            factory.monitor.progress(done, detail)
    finally:
        for task in (flusher, *tasks):
            task.cancel()
        writer.flush()
        # Each would otherwise tell by itself how it ended.
        await asyncio.gather(flusher, *tasks, return_exceptions=True)


class _Writer:
    """Collects the rows of finished queries and appends them every second.

    A row at a time would make a segment, a file of its own, of each query.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._rows: list[Batch] = []

    def add(self, rows: Batch) -> None:
        self._rows.append(rows)

    def flush(self) -> None:
        rows, self._rows = self._rows, []
        self._ledger.append(merge(rows))

    async def flush_regularly(self) -> None:
        """Flush every FLUSH_SECONDS, fold after every FOLD_EVERY flushes, until cancelled."""
        for second in itertools.count(1):
            await asyncio.sleep(FLUSH_SECONDS)
            self.flush()
            if second % FOLD_EVERY == 0:
                self._ledger.fold()
