"""One checkpoint on one benchmark, outside a round: served, scored, written down.

Its rows stand under the round that made the checkpoint (0 for a model that was given), so that
`round_delta` compares it with its parent as if both had been scored in that round. A baseline's
stand under its own name: it is no checkpoint, and no view takes it for one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from factory.codes.saving import load_codebook
from factory.domain.failures import InputError
from factory.domain.records import Checkpoint, ItemScore
from factory.engines.base import Engine
from factory.engines.serving import serve
from factory.ledger import history, lineage
from factory.ledger.lineage import is_address
from factory.ledger.tables import Batch
from factory.score.base import Baseline, Scorable, SelfServed, Setup
from factory.score.keeper import Keeper, find_missing
from factory.score.rows import given_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Judged items of a checkpoint, or of a baseline, on a benchmark."""

    system: str
    """The checkpoint's id, or the baseline's name."""
    kind: str
    """`checkpoint` or `baseline`."""
    items: Sequence[ItemScore]
    is_new: bool
    """Whether it was scored now; else the ledger had it."""


async def evaluate(
    setup: Setup, benchmark: Scorable, checkpoint: Checkpoint, *, allow_public: bool = False
) -> Measured:
    """The checkpoint's items: from the ledger where it has them, else by asking the model.

    What stands behind an address may change, so it is always asked. Raises FactoryError where the
    model cannot be served.
    """
    remote = is_address(checkpoint.path)
    if remote and isinstance(benchmark, SelfServed):
        raise InputError(
            f"{benchmark.name} needs the checkpoint's folder, not its server",
            where=checkpoint.path,
            remedy="--checkpoint with an id or a model folder",
        )
    basis = benchmark.basis(setup)
    missing = find_missing(setup, checkpoint.id, [(benchmark, basis)], again=remote)
    if not missing:
        return _stored(setup, checkpoint.id, "checkpoint", benchmark, basis)

    def start(num_engines: int) -> contextlib.AbstractAsyncContextManager[Engine]:
        return serve(
            setup.workspace,
            setup.settings,
            checkpoint,
            notify=setup.notify,
            allow_public=allow_public,
            num_engines=num_engines,
        )

    number = None if remote else lineage.round_of(setup.ledger, checkpoint.id)
    new: Batch = {}
    if number is None and not remote:
        new = given_rows(checkpoint, load_codebook(Path(checkpoint.path)))
    setup.monitor.stage(f"score {benchmark.name} on {checkpoint.id}", len(benchmark.items) or None)
    async with Keeper(setup, checkpoint, missing, start) as keeper:
        items = await keeper.score(missing[0])
    _store(setup, {**missing[0].rows(number or 0, checkpoint.id, items), **new})
    return Measured(system=checkpoint.id, kind="checkpoint", items=items, is_new=True)


async def evaluate_baseline(setup: Setup, benchmark: Scorable, baseline: Baseline) -> Measured:
    """The baseline's items, likewise."""
    missing = find_missing(setup, baseline.name, [(benchmark, baseline.basis)])
    if not missing:
        return _stored(setup, baseline.name, "baseline", benchmark, baseline.basis)
    setup.monitor.stage(f"score {benchmark.name} on {baseline.name}")
    items = await baseline.score()
    _store(setup, missing[0].rows(0, baseline.name, items))
    return Measured(system=baseline.name, kind="baseline", items=items, is_new=True)


def _stored(setup: Setup, system: str, kind: str, benchmark: Scorable, basis: str) -> Measured:
    items = history.load_items(setup.ledger, system, benchmark.name, basis)
    return Measured(system=system, kind=kind, items=items, is_new=False)


def _store(setup: Setup, rows: Batch) -> None:
    setup.ledger.append(rows)
    setup.ledger.fold()
