"""One checkpoint on benchmarks, outside a round: served, scored, written down.

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
    setup: Setup,
    benchmark: Scorable,
    checkpoint: Checkpoint,
    *,
    allow_public: bool = False,
    again: bool = False,
) -> Measured:
    """The checkpoint's items: from the ledger where it has them, else by asking the model.

    What stands behind an address may change, so it is always asked; any model is with `again`.
    Raises FactoryError where the model cannot be served.
    """
    (measured,) = await evaluate_all(
        setup, [benchmark], checkpoint, allow_public=allow_public, again=again
    )
    return measured


async def evaluate_all(
    setup: Setup,
    benchmarks: Sequence[Scorable],
    checkpoint: Checkpoint,
    *,
    allow_public: bool = False,
    again: bool = False,
) -> list[Measured]:
    """The same for several benchmarks, with one engine for all that ask it; kept one by one."""
    remote = is_address(checkpoint.path)
    setup = setup.of(checkpoint)
    for benchmark in benchmarks:
        if remote and isinstance(benchmark, SelfServed):
            raise InputError(
                f"{benchmark.name} needs the checkpoint's folder, not its server",
                where=checkpoint.path,
                remedy="--checkpoint with an id or a model folder",
            )
    bases = [(benchmark, benchmark.basis(setup)) for benchmark in benchmarks]
    missing = find_missing(setup, checkpoint.id, bases, again=again or remote, of=checkpoint)

    def start(num_engines: int) -> contextlib.AbstractAsyncContextManager[Engine]:
        return serve(
            setup.workspace,
            setup.settings,
            checkpoint,
            notify=setup.notify,
            allow_public=allow_public,
            num_engines=num_engines,
            timeout_seconds=max(each.benchmark.patience.timeout_seconds for each in missing),
        )

    number = None if remote else lineage.round_of(setup.ledger, checkpoint.id)
    new: Batch = {}
    if missing and number is None and not remote:
        new = given_rows(
            checkpoint, load_codebook(Path(checkpoint.path)), missing[0].identity or ""
        )
    scored: dict[str, Measured] = {}
    async with Keeper(setup, checkpoint, missing, start, afresh=again) as keeper:
        for each in sorted(missing, key=lambda x: isinstance(x.benchmark, SelfServed)):
            name, num_items = each.benchmark.name, len(each.benchmark.items)
            setup.monitor.stage(f"score {name} on {checkpoint.id}", num_items or None)
            items = await keeper.score(each)
            _store(setup, {**each.rows(number or 0, checkpoint.id, items), **new})
            keeper.stored()
            new = {}
            scored[name] = Measured(
                system=checkpoint.id, kind="checkpoint", items=items, is_new=True
            )
    return [
        scored.get(benchmark.name) or _stored(setup, checkpoint.id, "checkpoint", benchmark, basis)
        for benchmark, basis in bases
    ]


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
