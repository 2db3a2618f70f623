"""Drawing until a round has accepted as many samples as its recipe wants (`accept`), in waves.

The first wave is as large as what is wanted: no more can be accepted of fewer requests. Each later
one is what the yield so far says is missing. What counts as accepted is judged with the rules over
the round so far, as step 7 will judge it; the first `accept` in draw order are kept, the others of
the last wave are `round/surplus`. All follows from the ledger, so a killed round goes on alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import ceil
from typing import Literal

from factory.domain.failures import InputError
from factory.judge.sets import judge_round
from factory.judge.verdicts import first_reject
from factory.ledger import history
from factory.ledger.history import OpenRound
from factory.ledger.rows import stage_row
from factory.ledger.tables import merge
from factory.round.factory import Factory
from factory.round.judging import judge_drawn
from factory.round.start import choose, find_fates, query_rows

SMALLEST_WAVE = 8
"""Requests of a wave at least: a few more cost less than starting once more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """How far a round has come. Example: Reached(wanted=500, accepted=412, drawn=2000, …)."""

    wanted: int
    accepted: int
    """Samples that all rules accept, surplus included."""
    drawn: int
    budget: int
    """Requests that it may draw."""
    ended: Literal["", "accept", "budget", "pool"] = ""
    """Why nothing more is drawn; empty while it is."""

    @property
    def next_wave(self) -> int:
        """Requests to draw next, 0 where there are enough samples or too many requests."""
        missing = self.wanted - self.accepted
        if missing <= 0:
            return 0
        expected = ceil(missing * self.drawn / self.accepted) if self.accepted else self.drawn
        return max(0, min(max(expected, SMALLEST_WAVE), self.budget - self.drawn))

    @property
    def note(self) -> str:
        """What a user is told where too few were accepted, with the remedy; else empty."""
        told = f"{self.accepted} of {self.wanted} samples are accepted after {self.drawn} requests"
        if self.ended == "budget":
            needed = self.wanted * self.drawn / self.accepted if self.accepted else 2 * self.drawn
            return f"{told}, the budget: --budget {ceil(1.1 * needed)} may be enough another time"
        if self.ended == "pool":
            return f"{told}, all that there are: add requests with --queries FILE"
        return ""


def draw_wave(factory: Factory, this: OpenRound) -> Reached:
    """Draw another wave for the open round where it needs one; how far it had come before."""
    started = datetime.now(UTC)
    with factory.ledger.read() as past:
        asked = history.drawn_queries(past, this.number)
        candidates = history.round_candidates(past, this.number, this.judgement)
        accepted = history.accepted_before(past, this.number)
        drawn = history.drawn_ids(past)
        fates = find_fates(factory, past, this.number)
    verdicts = judge_round(factory.rulebook.rules, candidates, accepted, factory.all_benchmarks)
    fallen = sum(first_reject(found) is not None for found in verdicts.values())
    reached = Reached(
        wanted=factory.recipe.accept,
        accepted=len(candidates) - fallen,
        drawn=len(asked),
        budget=factory.recipe.most_drawn,
    )
    if not reached.next_wave:
        enough = reached.accepted >= reached.wanted
        return replace(reached, ended="accept" if enough else "budget")
    factory.monitor.stage(f"draw, {reached.accepted} of {reached.wanted} accepted")
    try:
        queries, chosen = choose(factory, reached.next_wave, drawn, fates)
    except InputError:
        queries, chosen = [], {}
    if not queries:
        return replace(reached, ended="pool")
    rows = [
        judge_drawn(factory, this, queries, accepted, earlier=asked),
        query_rows(this, queries, chosen, first=len(asked)),
    ]
    stage = stage_row(this.number, "draw", started, {"queries": len(queries)})
    factory.ledger.append(merge([*rows, {"stage": [stage]}]))
    return reached
