"""Promote a checkpoint, or hold it back."""

from __future__ import annotations

from typing import NamedTuple

from factory.domain.records import Score
from factory.ledger.history import LanguageKept
from factory.score.estimates import Estimate

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


def gate(before: Score, after: Score, delta: Estimate, *, tolerance: float) -> Decision:
    """Promote unless the dev score falls by more than `tolerance` points (algorithms A11c).

    ValueError for scores of different benchmarks.
    """
    if before.benchmark != after.benchmark:
        raise ValueError(f"{before.benchmark} and {after.benchmark} cannot be compared")
    promote = delta.value >= -tolerance - ROUNDING
    numbers = (
        f"from {before.value:.1f} to {after.value:.1f} "
        f"({delta.value:+.1f} points, 95 % interval {delta.low:+.1f} to {delta.high:+.1f}, "
        f"{after.num_items} items)"
    )
    if abs(delta.value) <= ROUNDING:
        return Decision(promote, f"{after.benchmark} stayed the same, {numbers}")
    if delta.value > 0:
        return Decision(promote, f"{after.benchmark} rose {numbers}")
    bound = "within" if promote else "more than"
    return Decision(
        promote, f"{after.benchmark} fell {numbers}, {bound} the tolerance of {tolerance:g} points"
    )
