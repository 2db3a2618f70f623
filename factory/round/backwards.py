"""Step 8, backwards: the model writes the requests that calls would answer, then answers them.

A request is kept where it says every value of its calls and the vote on the answers to it, a strict
majority, is for these calls or undecided: that it asks for something else would show there. What is
asked here are rows as anything that a model is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from random import Random

from factory.codes.saving import load_codebook
from factory.domain.canon import canonical_json, digest
from factory.domain.records import Candidate, Query, Reply, Tool
from factory.engines.base import Engine
from factory.judge.keys import is_same
from factory.judge.reading import read_request
from factory.judge.sample import Judgement, Trail
from factory.ledger import history
from factory.ledger.database import Source
from factory.ledger.history import OpenRound
from factory.ledger.tables import GenerationRow
from factory.lessons.harder import Stock
from factory.lessons.wishes import ASK, Wish, draw_wishes, why_unfit
from factory.round.asking import Asking, asking_for
from factory.round.factory import Factory
from factory.round.judging import judgement_of
from factory.workspace.recipe import VoteSection

TRIES = 3
"""Times that requests are asked for until enough are kept; none after one that gave nothing."""
Replies = Mapping[tuple[str, str], Reply]
"""Answers to one query by stage and subject."""


@dataclass(slots=True)
class WrittenRequests:
    """What a model wrote for a round, and how it answered that."""

    candidates: list[Candidate] = field(default_factory=list)
    """Those that fall too."""
    replies: dict[str, Replies] = field(default_factory=dict)
    """By query id."""
    generations: list[GenerationRow] = field(default_factory=list)

    def join(self, other: WrittenRequests) -> None:
        """Take over what another holds."""
        self.candidates += other.candidates
        self.replies |= other.replies
        self.generations += other.generations


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What a model wrote for a wish."""

    wish: Wish
    asking: Asking
    """Of the request, which is its query; what else is asked of it is asked by this."""
    written: Reply
    fault: tuple[str, str] | None
    """Reason and message for which it is no request for the wish; None where it may be."""


async def write_drafts(
    factory: Factory,
    this: OpenRound,
    engine: Engine,
    wishes: Sequence[Wish],
    source: str,
    first: int,
) -> list[Draft]:
    """One for each wish, in their order, counted from `first` on; their queries have ids of their
    own, whatever is written, and this source.
    """
    window = asyncio.Semaphore(factory.recipe.window)

    async def write(wish: Wish, place: int) -> Draft:
        calls = [[call.name, call.arguments] for call in wish.calls]
        mark = canonical_json([this.number, source, place, calls, [tool.id for tool in wish.tools]])
        told = source.format(of=", ".join(wish.origins) or "tools of the catalogue", place=place)
        query = Query(id=f"q_{digest(mark)}", text="", source=told)
        asking = asking_for(factory, this.number, engine, query)
        async with window:
            written = await asking.write_request(wish)
        text, fault = read_draft(wish, written)
        asking = replace(asking, query=replace(query, text=text))
        return Draft(wish=wish, asking=asking, written=written, fault=fault)

    return list(await asyncio.gather(*(write(w, n) for n, w in enumerate(wishes, first))))


async def ask_backwards(
    factory: Factory, this: OpenRound, engine: Engine, rng: Random, stock: Stock, count: int
) -> WrittenRequests:
    """Requests for wishes of the stock, until `count` are kept or TRIES are over."""
    asked, kept = WrittenRequests(), 0
    judgement, more = judgement_of(factory, this), draw_wishes(rng, stock)
    for _ in range(TRIES):
        wishes, before = list(islice(more, count - kept)), kept
        factory.monitor.stage("write requests", len(wishes))
        first = len(asked.candidates)
        drafts = await write_drafts(factory, this, engine, wishes, f"made: {ASK} of {{of}}", first)
        for candidate, generations, replies in await asyncio.gather(*map(_answer, drafts)):
            asked.candidates.append(candidate)
            asked.replies[candidate.query.id] = replies
            asked.generations += generations
            kept += find_fault(candidate, replies, judgement) is None
        factory.monitor.progress(len(wishes), f"{kept} kept")
        if kept in (before, count):
            break
    return asked


async def _answer(draft: Draft) -> tuple[Candidate, list[GenerationRow], Replies]:
    """The draft as a sample, every answer so far as a row, and by stage."""
    wish, asking = draft.wish, draft.asking
    replies = {(ASK, ""): draft.written}
    if draft.fault is None:
        replies["calls", ""] = await asking.call(wish.tools)
    candidate = Candidate(
        query=asking.query,
        tools=wish.tools,
        calls=wish.calls,
        made_by=ASK,
        made_of=wish.origins,
    )
    return candidate, asking.generations, replies


def read_draft(wish: Wish, written: Reply) -> tuple[str, tuple[str, str] | None]:
    """The request in an answer; reason and message for which it is none for the wish."""
    text, reason = read_request(written.completions[0], wish.names)
    if reason:
        return text, (reason, "the model's answer is no request")
    return text, why_unfit(wish, text)


def find_fault(
    candidate: Candidate, replies: Replies, judgement: Judgement
) -> tuple[str, str] | None:
    """Reason and message for which a written request falls; None where it is kept."""
    wish = Wish(tools=candidate.tools, calls=candidate.calls)
    if (ASK, "") not in replies:
        return "unanswered", "no request was written"
    _, fault = read_draft(wish, replies[ASK, ""])
    if fault is not None:
        return fault
    if ("calls", "") not in replies:
        return "unanswered", "it was not answered"
    return _contradict(candidate, replies["calls", ""], judgement)


def _contradict(candidate: Candidate, reply: Reply, judgement: Judgement) -> tuple[str, str] | None:
    """What the vote on the answers says against the calls."""
    majority = replace(judgement, vote=VoteSection(bar=judgement.vote.bar))
    heard = Trail(judgement=majority, query=candidate.query).judge_calls(candidate.tools, reply)
    if heard.status == "unjudged" and heard.cause is not None:
        return "unanswered", heard.cause.message
    vote, calls = heard.vote, heard.candidate.calls
    if vote is None or (vote.winner is None and vote.reason != "no_call_majority"):
        return None
    tools = {tool.name: tool for tool in candidate.tools}
    if vote.winner is not None and is_same(candidate.calls, calls, tools):
        return None
    answered = canonical_json([[call.name, call.arguments] for call in calls])
    message = f"{vote.votes} of {vote.num_samples} answers are {answered if calls else 'no call'}"
    return "contradicted", message


# -- what wishes are drawn from -------------------------------------------------------------------


def find_catalogue(this: OpenRound, past: Source) -> list[Tool]:
    """Imported tools, and those that the parent has codes for, each once."""
    book = load_codebook(Path(this.checkpoint.path))
    coded = [] if book is None else [entry.tool for entry in book.tools]
    tools = {tool.id: tool for tool in [*history.imported_tools(past), *coded]}
    return list(tools.values())


def find_stock(past: Source, this: OpenRound) -> Stock | None:
    """What requests are written from: samples that were accepted so far, and the catalogue; None
    where there is neither, or no value is known.
    """
    samples = [
        sample
        for number in range(1, this.number + 1)
        for sample in history.accepted_samples(past, number)
    ]
    stock = Stock(samples, find_catalogue(this, past))
    return None if next(draw_wishes(Random(0), stock), None) is None else stock
