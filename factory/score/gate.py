"""Promote a checkpoint, or hold it back.

A new checkpoint meets several opponents, on calls and on abstention: its parent, the best one so
far, the model that was given. It must not have fallen below any of them by more than the tolerance,
which is at least the noise between two passes of one model. What cannot be compared is no pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from factory.domain.records import Checkpoint, Form, ItemScore, Score
from factory.ledger.history import LanguageKept
from factory.ledger.tables import GateRow
from factory.score.calls.kind import Benchmark
from factory.score.estimates import Estimate, paired_delta

ROUNDING = 1e-9
"""Points below which two scores are equal."""


class Decision(NamedTuple):
    """Whether a checkpoint becomes the next round's parent."""

    promote: bool
    reason: str
    """One sentence with the numbers."""


def hold_without_language(decision: Decision, kept: LanguageKept | None, limit: float) -> Decision:
    """The decision, unless the perplexity of plain text is above `limit` times what it was.

    Without `kept`, or with a limit of 0, it stands. The reason says where a limit had nothing, or
    not the lineage's first training, to be held against.
    """
    if not limit:
        return decision
    if kept is None:
        told = "perplexity of plain text was not measured, so score.language decided nothing"
        return Decision(decision.promote, f"{decision.reason}; {told}")
    since = ""
    if kept.since != kept.first:
        since = (
            f"perplexity of plain text is compared with that before round {kept.since}: before "
            f"round {kept.first}, the lineage's first, this text was not read"
        )
    if kept.after <= kept.before * limit:
        return Decision(decision.promote, "; ".join(filter(None, (decision.reason, since))))
    reason = (
        f"perplexity of plain text rose from {kept.before:.1f} to {kept.after:.1f}, more than "
        f"{limit:g} times (score.language)"
    )
    return Decision(False, "; ".join(filter(None, (reason, since, f"else: {decision.reason}"))))


def gate(
    before: Score,
    after: Score,
    delta: Estimate,
    *,
    tolerance: float,
    of: str = "",
    surely: bool = False,
    noise: float = 0.0,
) -> Decision:
    """Promote unless the dev score falls by more than `tolerance` points (algorithms A11c).

    `of` tells whose the score before is, where it is not the parent's. With `surely` a fall counts
    only where its whole interval lies below 0. The tolerance is at least `noise`. ValueError for
    scores of different benchmarks.
    """
    if before.benchmark != after.benchmark:
        raise ValueError(f"{before.benchmark} and {after.benchmark} cannot be compared")
    allowed = max(tolerance, noise)
    within = delta.value >= -allowed - ROUNDING
    promote = within or (surely and delta.high >= 0)
    numbers = (
        f"from {before.value:.1f}{of} to {after.value:.1f} "
        f"({delta.value:+.1f} points, 95 % interval {delta.low:+.1f} to {delta.high:+.1f}, "
        f"{after.num_items} items)"
    )
    if abs(delta.value) <= ROUNDING:
        return Decision(promote, f"{after.benchmark} stayed the same, {numbers}")
    if delta.value > 0:
        return Decision(promote, f"{after.benchmark} rose {numbers}")
    bound = "within" if within else "more than"
    told = f"{bound} the tolerance of {allowed:.3g} points"
    if noise > tolerance:
        told += ", the noise between two passes of one model"
    if surely and not within:
        told += ", but within its interval" if promote else " and below its interval"
    return Decision(promote, f"{after.benchmark} fell {numbers}, {told}")


Measure = Literal["calls", "abstention"]
Role = Literal["parent", "best", "base"]
WHOSE: dict[Role, str] = {
    "parent": "the parent",
    "best": "the best so far",
    "base": "the model that was given",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Opponent:
    """Whom a new checkpoint meets on what."""

    measure: Measure
    roles: tuple[Role, ...]
    """What it is; one checkpoint may be all of them."""
    checkpoint: Checkpoint
    asked: Benchmark
    """The set as the opponent is asked it."""
    served_in: Form | None = None
    """The form in which it is served, where it is asked in that and the new checkpoint in another;
    None where both are asked in one."""

    @property
    def title(self) -> str:
        """`r2-1a2b3c, the best so far`."""
        served = f" as it is served, in {self.served_in} form" if self.served_in else ""
        return f"{self.checkpoint.id}, {WHOSE[self.roles[0]]}{served}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """A new checkpoint beside one opponent."""

    opponent: Opponent
    dev: Benchmark
    """The set as the new checkpoint is asked it."""
    scores: tuple[Score, Score, Estimate] | None
    """Before, after and the change; None where one of the two has no score by this ruler."""
    tolerance: float
    noise: float | None
    decision: Decision

    def row(self, number: int, made: Checkpoint, basis: str) -> GateRow:
        """Its row of the table gate."""
        before, after, delta = self.scores or (None, None, None)
        verdict = "passed" if self.decision.promote else "held"
        return {
            "round": number,
            "checkpoint_id": made.id,
            "measure": self.opponent.measure,
            "opponent": ", ".join(self.opponent.roles),
            "opponent_id": self.opponent.checkpoint.id,
            "benchmark": self.dev.name,
            "basis": basis,
            "prompt": "served" if self.opponent.served_in else self.opponent.asked.prompt,
            "before": before.value if before else None,
            "after": after.value if after else None,
            "delta": delta.value if delta else None,
            "low": delta.low if delta else None,
            "high": delta.high if delta else None,
            "num_items": after.num_items if after else 0,
            "tolerance": max(self.tolerance, self.noise or 0.0),
            "noise": self.noise,
            "verdict": verdict if self.scores else "inconclusive",
            "message": self.decision.reason,
        }


def meet(
    opponent: Opponent,
    dev: Benchmark,
    before: Sequence[ItemScore],
    after: Sequence[ItemScore],
    *,
    tolerance: float,
    noise: float | None = None,
) -> Meeting:
    """What the same questions say of a new checkpoint and an opponent.

    On calls a fall beyond the tolerance holds; on abstention, whose sets are small, one that also
    lies beyond its interval.
    """
    scores: tuple[Score, Score, Estimate] | None = None
    if not before or {item.item for item in before} != {item.item for item in after}:
        lacks = f"{opponent.title}," if after else "the new checkpoint"
        reason = f"inconclusive: {lacks} has no score on {opponent.asked.name} as it is now"
        decision = Decision(False, reason)
    else:
        asked = " in chat" if opponent.asked.prompt != dev.prompt else ""
        is_parent = opponent.roles[0] == "parent" and opponent.served_in is None
        scores = (
            dev.summary(opponent.checkpoint.id, before),
            dev.summary("", after),
            paired_delta(before, after, dev.weights),
        )
        decision = gate(
            *scores,
            tolerance=tolerance,
            of="" if is_parent else f" of {opponent.title}{asked},",
            surely=opponent.measure == "abstention",
            noise=noise or 0.0,
        )
    return Meeting(
        opponent=opponent, dev=dev, scores=scores,
        tolerance=tolerance, noise=noise, decision=decision,
    )  # fmt: skip


def conclude(meetings: Sequence[Meeting]) -> Decision:
    """Promote where nothing says otherwise; the first meeting, with the parent, is always told."""
    first, *_ = meetings
    against = [each.decision.reason for each in meetings if not each.decision.promote]
    if not against:
        return first.decision
    if first.decision.promote:
        against.append(f"else: {first.decision.reason}")
    return Decision(False, "; ".join(against))
