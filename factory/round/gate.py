"""Step 11: promote the new checkpoint or keep the parent, and end the round."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from factory.domain.records import Checkpoint
from factory.ledger import history
from factory.ledger.database import Source
from factory.ledger.history import OpenRound
from factory.ledger.lineage import base_checkpoint, last_ruler
from factory.ledger.rows import checkpoint_row
from factory.ledger.tables import Batch
from factory.round.collapse import compare_variety
from factory.round.factory import Factory
from factory.round.opponents import doubt_of_gate, find_opponents, gate_sets, ruler_of
from factory.score.gate import Decision, Meeting, conclude, hold_without_language, meet
from factory.score.keeper import identity_sha
from factory.score.variety import hold_collapsed
from factory.workspace.models import form_of


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundResult:
    """How a round ended."""

    number: int
    promoted: bool
    """Whether the next round starts from this round's checkpoint."""
    reason: str
    """Why, in one sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighed:
    """What the gate makes of a new checkpoint."""

    decision: Decision
    rows: Batch = field(default_factory=Batch)
    """Each meeting with an opponent, and each figure of its variety."""
    notes: tuple[str, ...] = ()
    """What is to be known of the comparison."""


def decide(factory: Factory, this: OpenRound, trained: Checkpoint | str) -> RoundResult:
    """End the round with what was trained, or with the reason why nothing was."""
    now = datetime.now(UTC)
    rows: Batch = {}
    if isinstance(trained, str):
        weighed = Weighed(decision=Decision(False, trained))
    else:
        weighed = weigh(factory, this, trained)
        stored = replace(trained, path=relative(factory, trained.path))
        parent, decision = this.checkpoint.id, weighed.decision
        made = checkpoint_row(
            stored, this.number, parent, decision.promote, decision.reason, now,
            identity_sha(factory.setup, trained) or "",
        )  # fmt: skip
        rows = {"checkpoint": [made], **weighed.rows}
    promote, reason = weighed.decision
    factory.finish(this.number, "gate", now, rows, {"reason": reason, "notes": weighed.notes})
    return RoundResult(number=this.number, promoted=promote, reason=reason)


def relative(factory: Factory, path: str) -> str:
    """The path below the workspace's root, so that the workspace may be moved."""
    root = factory.workspace.root
    return str(Path(path).relative_to(root)) if Path(path).is_relative_to(root) else path


def weigh(factory: Factory, this: OpenRound, trained: Checkpoint) -> Weighed:
    """What the gate's sets and plain text say of the new checkpoint beside its opponents."""
    score = factory.recipe.score
    with factory.ledger.read() as past:
        kept = history.language_kept(past, this.number, this.checkpoint.id)
        meetings = _meet_all(factory, this, trained, past)
        variety = compare_variety(factory, this, trained, past)
        notes = _notes(factory, past)
    decision = Decision(True, "promoted without a gate: score.dev is empty")
    if meetings:
        decision = conclude(meetings)
    decision = hold_without_language(decision, kept, score.language)
    rows = [each.row(this.number, trained, ruler_of(factory, each.dev).basis) for each in meetings]
    return Weighed(
        decision=hold_collapsed(decision, variety),
        rows={"gate": rows, "variety": [each.row(this.number, trained) for each in variety]},
        notes=notes,
    )


def _meet_all(
    factory: Factory, this: OpenRound, trained: Checkpoint, past: Source
) -> list[Meeting]:
    sets = gate_sets(factory)
    meetings: list[Meeting] = []
    base = base_checkpoint(factory.workspace, factory.settings, past, exact=False)
    for opponent in find_opponents(factory, this, past):
        dev = sets[opponent.measure]
        ruler = ruler_of(factory, dev)
        asking = factory.asking(opponent.served_in)
        before = history.load_items(past, opponent.checkpoint.id, *ruler_of(asking, opponent.asked))
        after = history.load_items(past, trained.id, *ruler)
        model = identity_sha(factory.setup, base)
        noise = history.measured_noise(past, base.id, *ruler, model)
        tolerance = factory.recipe.score.tolerance
        meetings.append(meet(opponent, dev, before, after, tolerance=tolerance, noise=noise))
    return meetings


def _notes(factory: Factory, past: Source) -> tuple[str, ...]:
    """What is to be known of the sets, and is measured otherwise than at the last decision."""
    told = (_other_ruler(factory, past), doubt_of_gate(factory.settings, factory.recipe))
    return tuple(filter(None, told))


def _other_ruler(factory: Factory, past: Source) -> str:
    base = base_checkpoint(factory.workspace, factory.settings, past, exact=False)
    dev, last = gate_sets(factory).get("calls"), last_ruler(past, base)
    if dev is None or last is None or last[1] == (today := ruler_of(factory, dev)):
        return ""
    number, former = last
    told = f"scores as round {number} made them are not compared: "
    if former.benchmark != today.benchmark:
        return f"{told}the gate asked {former.benchmark} there, and asks {today.benchmark} here"
    made_in = history.checkpoint_folder(factory.workspace.state, number)
    if made_in.is_dir() and (form := form_of(made_in)) != factory.prompts.form:
        return (
            f"{told}it asked {dev.name} in {form} form, and this one asks in "
            f"{factory.prompts.form} form; the parent and the best so far are met as they are "
            f"served too (--set calls.form={form} stays with the former)"
        )
    parts = history.what_changed(past, dev.name, former.basis, today.basis)
    what = ", ".join(parts) or "what it is measured with"
    remedy = f"`factory score {dev.name} --checkpoint ID` scores a checkpoint again"
    return f"{told}{what} of {dev.name} changed since; {remedy}"
