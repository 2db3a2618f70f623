"""Step 10: promote the new checkpoint or keep the parent, and end the round."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from factory.domain.records import Checkpoint
from factory.ledger import history
from factory.ledger.history import OpenRound
from factory.ledger.rows import checkpoint_row
from factory.ledger.tables import Batch
from factory.round.factory import Factory
from factory.score.calls.kind import Benchmark
from factory.score.estimates import paired_delta
from factory.score.gate import Decision, gate, hold_without_language


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundResult:
    """How a round ended."""

    number: int
    promoted: bool
    """Whether the next round starts from this round's checkpoint."""
    reason: str
    """Why, in one sentence."""


def decide(factory: Factory, this: OpenRound, trained: Checkpoint | str) -> RoundResult:
    """End the round with what was trained, or with the reason why nothing was."""
    now = datetime.now(UTC)
    rows: Batch = {}
    if isinstance(trained, str):
        decision = Decision(False, trained)
    else:
        decision = weigh(factory, this, trained)
        stored = replace(trained, path=relative(factory, trained.path))
        parent, promote = this.checkpoint.id, decision.promote
        rows["checkpoint"] = [
            checkpoint_row(stored, this.number, parent, promote, decision.reason, now)
        ]
    factory.finish(this.number, "gate", now, rows, {"reason": decision.reason})
    return RoundResult(number=this.number, promoted=decision.promote, reason=decision.reason)


def relative(factory: Factory, path: str) -> str:
    """The path below the workspace's root, so that the workspace may be moved."""
    root = factory.workspace.root
    return str(Path(path).relative_to(root)) if Path(path).is_relative_to(root) else path


def weigh(factory: Factory, this: OpenRound, trained: Checkpoint) -> Decision:
    """What the dev set and plain text say of the new checkpoint beside its parent."""
    score = factory.recipe.score
    with factory.ledger.read() as past:
        kept = history.language_kept(past, this.number, this.checkpoint.id)
        dev = factory.benchmarks.get(score.dev)
        if dev is None:
            decision = Decision(True, "promoted without a gate: score.dev is empty")
            return hold_without_language(decision, kept, score.language)
        assert isinstance(dev, Benchmark), "load_benchmarks lets no other kind decide"
        basis = dev.basis(factory.setup)
        before = history.load_items(past, this.checkpoint.id, dev.name, basis)
        after = history.load_items(past, trained.id, dev.name, basis)
    decision = gate(
        dev.summary(this.checkpoint.id, before),
        dev.summary(trained.id, after),
        paired_delta(before, after, dev.weights),
        tolerance=score.tolerance,
    )
    return hold_without_language(decision, kept, score.language)
