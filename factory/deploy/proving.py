"""The same items asked of a checkpoint here and through the server where it stands.

Here it gets our own prompt; through the server the tools go along as OpenAI's API has them, so that
its template and its parser are part of what is measured. Items that are judged otherwise are asked
there once more: what changes then is the server's own noise, and the difference counts beyond it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from factory.domain.records import Checkpoint, ItemScore
from factory.engines.serving import serve
from factory.score.base import Setup
from factory.score.calls.kind import Benchmark
from factory.score.estimates import Estimate, combine, group_values, paired_delta
from factory.score.evaluate import Measured, evaluate
from factory.score.gate import ROUNDING

SHOWN_LIMIT = 25
"""Items of each category, unless told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """An item that is judged otherwise through the server."""

    here: ItemScore
    there: ItemScore
    steady: bool
    """Whether it was judged so when it was asked there once more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What a server makes of a checkpoint. Example: Proof(…).holds"""

    here: Measured
    there: Measured
    change: Estimate
    """Of the score, in points, from here to there."""
    flips: Sequence[Flip]
    reworded: int
    """Items judged alike whose calls or words differ."""
    weights: Mapping[str, float] | None = None
    """Of the categories in the score; None is their mean."""

    @property
    def floor(self) -> float:
        """Points that are the server's own noise: the share of items that it judged two ways, with
        categories weighed as in the score.
        """
        noisy = {flip.here.item for flip in self.flips if not flip.steady}
        pairs = ((item.category, float(item.item in noisy)) for item in self.here.items)
        groups = group_values(pairs)
        return combine(groups, self.weights or dict.fromkeys(groups, 1 / len(groups))).value

    @property
    def holds(self) -> bool:
        """Whether the score is no further off than the noise."""
        return abs(self.change.value) <= self.floor + ROUNDING


async def prove(
    setup: Setup,
    benchmark: Benchmark,
    checkpoint: Checkpoint,
    server: Checkpoint,
    *,
    allow_public: bool = False,
    again: bool = False,
) -> Proof:
    """Ask both. `server` is that of find_checkpoint on an address. Raises what evaluate raises."""
    asked = benchmark.narrow(prompt="chat")
    here = await evaluate(setup, benchmark, checkpoint, again=again)
    there = await evaluate(setup, asked, server, allow_public=allow_public, again=True)
    of = {item.item: item for item in there.items}
    pairs = [(item, of[item.item]) for item in here.items]
    flipped = {a.item for a, b in pairs if a.correct != b.correct}
    once_more = await _ask_again(setup, asked, server, flipped, allow_public) if flipped else {}
    flips = [
        Flip(here=a, there=b, steady=once_more[a.item].correct == b.correct)
        for a, b in pairs
        if a.item in flipped
    ]
    return Proof(
        here=here,
        there=there,
        change=paired_delta(here.items, there.items, benchmark.weights),
        flips=flips,
        weights=benchmark.weights,
        reworded=sum(_differ(a, b) for a, b in pairs if a.item not in flipped),
    )


async def _ask_again(
    setup: Setup,
    benchmark: Benchmark,
    server: Checkpoint,
    names: set[str],
    allow_public: bool,
) -> dict[str, ItemScore]:
    """These items through the server once more; nothing of it is kept."""
    some = replace(
        benchmark,
        items=tuple(item for item in benchmark.items if item.id in names),
    )
    async with serve(
        setup.workspace,
        setup.settings,
        server,
        notify=setup.notify,
        allow_public=allow_public,
        timeout_seconds=benchmark.patience.timeout_seconds,
    ) as engine:
        items = await some.ask(engine, setup.prompts)
    return {item.item: item for item in items}


def _differ(here: ItemScore, there: ItemScore) -> bool:
    """Whether other calls were made, or none with other words."""
    if here.calls or there.calls:
        return here.calls != there.calls
    return here.answer.strip() != there.answer.strip()
