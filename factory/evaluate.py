"""One checkpoint on one benchmark, outside a round: found, served, scored, written down.

Its rows stand under the round that made the checkpoint (0 for a model that was given), so that
`round_delta` compares it with its parent as if both had been scored in that round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from factory import history
from factory.benchmark import Benchmark
from factory.codes.lifecycle import Codebook
from factory.engines.base import Engine, check_model_folder, fingerprint, open_engine
from factory.failures import InputError
from factory.records import Checkpoint, ItemScore
from factory.round import Factory
from factory.rows import base_rows, benchmark_rows, item_rows, score_rows
from factory.score import score, score_basis
from factory.serving import make_checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A checkpoint's judged items on a benchmark."""

    checkpoint: Checkpoint
    """What was scored."""
    items: Sequence[ItemScore]
    """Every item, judged."""
    is_new: bool
    """Whether it was scored now; else the ledger had it."""


def find_checkpoint(factory: Factory, wanted: str) -> Checkpoint:
    """A checkpoint of the ledger by id or its beginning (`r3`), or a model folder.

    Empty is the one that the next round starts from. Raises InputError, ModelError.
    """
    base = factory.base_checkpoint()
    if not wanted:
        return factory.locate(history.promoted_checkpoint(factory.ledger, base))
    found = history.find_checkpoints(factory.ledger, wanted)
    if len(found) > 1:
        ids = ", ".join(checkpoint.id for checkpoint in found)
        raise InputError(f"{wanted} may be any of {ids}", remedy="give the whole id")
    if found:
        return factory.locate(found[0])
    folder = Path(wanted).expanduser().resolve()
    if not folder.exists():
        raise InputError(
            f"there is no checkpoint {wanted!r}, and no such folder",
            where=str(factory.workspace.root),
            remedy='factory sql "select checkpoint_id from lineage" lists the checkpoints',
        )
    check_model_folder(folder)
    mark = fingerprint(folder)
    known = history.find_checkpoints(factory.ledger, mark)
    return (
        replace(known[0], path=str(folder)) if known else make_checkpoint(folder.name, folder, mark)
    )


async def evaluate(factory: Factory, benchmark: Benchmark, checkpoint: Checkpoint) -> Measured:
    """The checkpoint's items: from the ledger where it has them, else by asking the model.

    Raises FactoryError where the model cannot be served.
    """
    basis = score_basis(benchmark, factory.prompts, factory.recipe.score.max_tokens)
    ledger = factory.ledger
    if history.is_scored(ledger, checkpoint.id, benchmark.name, basis):
        items = history.load_items(ledger, checkpoint.id, benchmark.name, basis)
        return Measured(checkpoint=checkpoint, items=items, is_new=False)
    check_model_folder(Path(checkpoint.path))
    factory.monitor.stage(f"start engine on {checkpoint.id}")
    engine = await open_engine(
        factory.settings.engine.backend,
        checkpoint,
        settings=factory.engine_settings(),
        log_folder=factory.workspace.state / "logs" / "score",
        notify=factory.monitor.note,
    )
    try:
        items = await score_and_store(factory, engine, benchmark, basis)
    finally:
        await engine.close()
    return Measured(checkpoint=checkpoint, items=items, is_new=True)


async def score_and_store(
    factory: Factory, engine: Engine, benchmark: Benchmark, basis: str
) -> list[ItemScore]:
    """Score the engine's checkpoint and append the rows, with the checkpoint's if it is new."""
    ledger, checkpoint, name = factory.ledger, engine.checkpoint, benchmark.name
    factory.monitor.stage(f"score {name}", len(benchmark.items))
    result, items = await score(
        engine,
        benchmark,
        factory.prompts,
        max_tokens=factory.recipe.score.max_tokens,
        progress=lambda done, total: factory.monitor.progress(done, total=total),
    )
    number = history.round_of(ledger, checkpoint.id)
    rows = {
        **(
            {}
            if number is not None
            else base_rows(checkpoint, Codebook.load(Path(checkpoint.path)))
        ),
        "score": score_rows(number or 0, result, basis),
        "item_score": item_rows(number or 0, checkpoint.id, name, items, basis),
    }
    if not history.knows_questions(ledger, name, basis):
        rows["benchmark_item"] = benchmark_rows(benchmark, basis)
    ledger.append(rows)
    ledger.fold()
    return items
