"""Step 2b: where a round wants more requests than there are, the model writes them.

With `queries = "self"`. They are drawn as any other: the rules of the stage `draw` judge them, the
model answers them, and the vote decides; what they were written for is, like the calls of a log, no
label. The tools that they were written for are their candidates. One that repeats a request of this
or an earlier round, or asks a benchmark's question, is not drawn. A wave is one append: a kill
leaves all of it, or nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from random import Random

from factory.domain.canon import derive_seed, query_id
from factory.domain.records import Logged, Query
from factory.engines.base import Engine
from factory.lab.requests import make_judge
from factory.ledger import history
from factory.ledger.history import OpenRound
from factory.ledger.rows import stage_row
from factory.ledger.tables import Batch, GenerationRow, merge
from factory.lessons.harder import Stock
from factory.lessons.logs import MAX_TOOLS
from factory.lessons.wishes import draw_wishes
from factory.round.backwards import TRIES, Draft, find_stock, write_drafts
from factory.round.factory import Factory
from factory.round.judging import judge_drawn
from factory.round.start import query_rows
from factory.score.keeper import Keeper
from factory.workspace.settings import SELF

WRITE = "write"
"""Stage of requests that the model wrote."""


@dataclass(slots=True)
class Pile:
    """What has been written so far."""

    queries: list[Query] = field(default_factory=list)
    """Those to draw."""
    fallen: Counter[str] = field(default_factory=Counter)
    """Of the others, how many by reason."""
    generations: list[GenerationRow] = field(default_factory=list)

    @property
    def detail(self) -> dict[str, object]:
        """Of the stage."""
        written = len(self.queries) + self.fallen.total()
        return {"written": written, "drawn": len(self.queries), "fallen": dict(self.fallen)}


async def write_missing(factory: Factory, this: OpenRound, model: Keeper) -> None:
    """Draw what the round wants besides what it has drawn, once."""
    # A round that was to write some began with train.ask, whatever flags continue it.
    if not factory.recipe.train.ask or this.is_lesson or {WRITE, "sample"} & this.stages_done:
        return
    missing = history.count_missing(factory.ledger, this.number)
    if missing > 0:
        await write_wave(factory, this, await model.engine(), missing)


async def write_wave(factory: Factory, this: OpenRound, engine: Engine, count: int) -> int:
    """Draw at most `count` requests that the model writes; how many there were.

    None where there is nothing to write them from; a note says where there were fewer.
    """
    started = datetime.now(UTC)
    with factory.ledger.read() as past:
        asked = history.drawn_queries(past, this.number)
        accepted = history.accepted_before(past, this.number)
        known = history.known_texts(past)
        stock = find_stock(past, this)
    if stock is None:
        return 0
    pile = await _write(factory, this, engine, stock, known, len(asked), count)
    rows: list[Batch] = [
        judge_drawn(factory, this, pile.queries, accepted, earlier=asked),
        query_rows(this, pile.queries, {}, first=len(asked)),
        {"generation": pile.generations},
    ]
    stage = stage_row(this.number, WRITE, started, pile.detail)
    factory.ledger.append(merge([*rows, {"stage": [stage]}]))
    if len(pile.queries) < count:
        reasons = ", ".join(f"{n} {reason}" for reason, n in pile.fallen.most_common())
        factory.monitor.note(
            f"the model wrote {len(pile.queries)} of {count} requests that can be drawn"
            + (f" (others: {reasons})" if reasons else "")
            + "; it learns to write them from accepted samples and from lessons"
        )
    return len(pile.queries)


async def _write(
    factory: Factory,
    this: OpenRound,
    engine: Engine,
    stock: Stock,
    known: list[str],
    first: int,
    count: int,
) -> Pile:
    """Requests that repeat none of the `known`, until there are `count` or TRIES are over."""
    pile, place = Pile(), first
    rng = Random(derive_seed(factory.recipe.seed, this.number, SELF, first))
    wishes, judge = draw_wishes(rng, stock), make_judge(factory.rulebook, factory.all_benchmarks)
    for _ in range(TRIES):
        wanted, before = count - len(pile.queries), len(pile.queries)
        factory.monitor.stage("write requests", wanted)
        asked = list(islice(wishes, wanted))
        drafts = await write_drafts(factory, this, engine, asked, f"{SELF}:{{place}}", place)
        place += len(drafts)
        fit = {
            draft.asking.query.id: draft.asking.query.text for draft in drafts if not draft.fault
        }
        faults = judge(fit, [*known, *(query.text for query in pile.queries)])
        for draft in drafts:
            pile.generations += draft.asking.generations
            fault = draft.fault or faults.get(draft.asking.query.id)
            if fault is None:
                pile.queries.append(_to_draw(draft))
            else:
                pile.fallen[fault[0]] += 1
        factory.monitor.progress(wanted, f"{len(pile.queries)} to draw")
        if len(pile.queries) in (before, count):
            break
    return pile


def _to_draw(draft: Draft) -> Query:
    """The request, with what it was written for as its log: candidates, no labels."""
    wish, query = draft.wish, draft.asking.query
    called = set(wish.names)
    tools = sorted(wish.tools, key=lambda tool: tool.name not in called)[:MAX_TOOLS]
    log = Logged(tools=tuple(tools), calls=wish.calls)
    return replace(query, id=query_id(query.text), log=log)
