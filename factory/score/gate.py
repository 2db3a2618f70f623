"""Promote a checkpoint, or hold it back."""

from __future__ import annotations

from typing import NamedTuple

from factory.domain.records import Score
from factory.score.estimates import Estimate

ROUNDING = 1e-9
"""Points below which two scores are equal."""


class Decision(NamedTuple):
    """Whether a checkpoint becomes the next round's parent."""

    promote: bool
    reason: str
    """One sentence with the numbers."""


def hold_without_language(
    decision: Decision, kept: tuple[float, float] | None, limit: float
) -> Decision:
    """The decision, unless the perplexity of plain text is above `limit` times what it was.

    `kept` is that before the lineage's first training and now; without it, or a limit of 0, the
    decision stands.
    """
    if not limit or kept is None or kept[1] <= kept[0] * limit:
        return decision
    reason = (
        f"perplexity of plain text rose from {kept[0]:.1f} to {kept[1]:.1f}, more than "
        f"{limit:g} times (score.language); else: {decision.reason}"
    )
    return Decision(False, reason)


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
