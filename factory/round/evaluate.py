"""One checkpoint on one benchmark, outside a round: served, scored, written down.

Its rows stand under the round that made the checkpoint (0 for a model that was given), so that
`round_delta` compares it with its parent as if both had been scored in that round. A baseline's
stand under its own name: it is no checkpoint, and no view takes it for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from factory.codes.saving import load_codebook
from factory.domain.failures import InputError
from factory.domain.records import Checkpoint, ItemScore
from factory.engines.serving import serve
from factory.ledger import history, lineage
from factory.ledger.lineage import is_address
from factory.ledger.tables import Batch
from factory.round.round import Factory
from factory.round.rows import base_rows
from factory.score.base import Asked, Baseline, Scorable, SelfServed


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Judged items of a checkpoint, or of a baseline, on a benchmark."""

    system: str
    """The checkpoint's id, or the baseline's name."""
    kind: str
    """`checkpoint` or `baseline`."""
    items: Sequence[ItemScore]
    """Every item, judged."""
    is_new: bool
    """Whether it was scored now; else the ledger had it."""


async def evaluate(
    factory: Factory, benchmark: Scorable, checkpoint: Checkpoint, *, allow_public: bool = False
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
    basis, number = benchmark.basis(factory.setup), 0
    stored = None if remote else _stored(factory, checkpoint.id, benchmark, basis)
    if stored is not None:
        return Measured(system=checkpoint.id, kind="checkpoint", items=stored, is_new=False)
    new: Batch = {}
    if not remote:
        known = lineage.round_of(factory.ledger, checkpoint.id)
        number = known or 0
        if known is None:
            new = base_rows(checkpoint, load_codebook(Path(checkpoint.path)))
    factory.monitor.stage(
        f"score {benchmark.name} on {checkpoint.id}", len(benchmark.items) or None
    )
    if isinstance(benchmark, Asked):
        async with serve(
            factory.workspace,
            factory.settings,
            checkpoint,
            notify=factory.monitor.note,
            allow_public=allow_public,
            num_engines=benchmark.num_engines(factory.setup, checkpoint),
        ) as engine:
            items = await benchmark.score(factory.setup, checkpoint, engine)
    else:
        assert isinstance(benchmark, SelfServed)
        items = await benchmark.score(factory.setup, checkpoint)
    store(factory, number, checkpoint.id, benchmark, items, basis, new)
    return Measured(system=checkpoint.id, kind="checkpoint", items=items, is_new=True)


async def evaluate_baseline(factory: Factory, benchmark: Scorable, baseline: Baseline) -> Measured:
    """The baseline's items, likewise."""
    stored = _stored(factory, baseline.name, benchmark, baseline.basis)
    if stored is None:
        factory.monitor.stage(f"score {benchmark.name} on {baseline.name}")
        items = await baseline.score()
        store(factory, 0, baseline.name, benchmark, items, baseline.basis)
    return Measured(
        system=baseline.name,
        kind="baseline",
        items=items if stored is None else stored,
        is_new=stored is None,
    )


def _stored(
    factory: Factory, system: str, benchmark: Scorable, basis: str
) -> list[ItemScore] | None:
    if not history.is_scored(factory.ledger, system, benchmark.name, basis):
        return None
    return history.load_items(factory.ledger, system, benchmark.name, basis)


def store(
    factory: Factory,
    number: int,
    system: str,
    benchmark: Scorable,
    items: Sequence[ItemScore],
    basis: str,
    more: Batch | None = None,
) -> None:
    """Append the rows of a score, with those of a checkpoint that is new."""
    rows = factory.score_rows(number, system, benchmark, items, basis)
    factory.ledger.append({**rows, **(more or {})})
    factory.ledger.fold()
