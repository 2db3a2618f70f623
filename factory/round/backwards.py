"""Step 8, backwards: the model writes the requests that calls would answer, then answers them.

A request is kept where it says every value of its calls and the vote on the answers to it, a strict
majority, is for these calls or undecided: that it asks for something else would show there. What is
asked here are rows as anything that a model is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from random import Random

from factory.domain.canon import canonical_json, digest
from factory.domain.records import Candidate, Query, Reply
from factory.engines.base import Engine
from factory.judge.keys import is_same
from factory.judge.reading import read_request
from factory.judge.sample import Judgement, Trail
from factory.ledger.history import OpenRound
from factory.ledger.tables import GenerationRow
from factory.lessons.harder import Stock
from factory.lessons.wishes import ASK, Wish, draw_wishes, why_unfit
from factory.round.asking import Asking
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


async def ask_backwards(
    factory: Factory, this: OpenRound, engine: Engine, rng: Random, stock: Stock, count: int
) -> WrittenRequests:
    """Requests for wishes of the stock, until `count` are kept or TRIES are over."""
    asked, kept = WrittenRequests(), 0
    judgement, more = judgement_of(factory, this), draw_wishes(rng, stock)
    for _ in range(TRIES):
        wishes = list(islice(more, count - kept))
        factory.monitor.stage("write requests", len(wishes))
        window = asyncio.Semaphore(factory.recipe.window)
        first = len(asked.candidates)
        found = await asyncio.gather(
            *(
                _ask(factory, this, engine, window, wish, place)
                for place, wish in enumerate(wishes, first)
            )
        )
        before = kept
        for candidate, asking, replies in found:
            asked.candidates.append(candidate)
            asked.replies[candidate.query.id] = replies
            asked.generations += asking.generations
            kept += find_fault(candidate, replies, judgement) is None
        factory.monitor.progress(len(wishes), f"{kept} kept")
        if kept in (before, count):
            break
    return asked


async def _ask(
    factory: Factory,
    this: OpenRound,
    engine: Engine,
    window: asyncio.Semaphore,
    wish: Wish,
    place: int,
) -> tuple[Candidate, Asking, Replies]:
    calls = [[call.name, call.arguments] for call in wish.calls]
    tools = [tool.id for tool in wish.tools]
    mark = canonical_json([this.number, ASK, place, calls, tools])
    origins = ", ".join(wish.origins) or "tools of the catalogue"
    query = Query(id=f"q_{digest(mark)}", text="", source=f"made: {ASK} of {origins}")
    asking = Asking(
        query=query,
        round_number=this.number,
        engine=engine,
        prompts=factory.prompts,
        recipe=factory.recipe,
        codebook=None,
    )
    async with window:
        written = await asking.write_request(wish)
        replies = {(ASK, ""): written}
        text, fault = read_request(written.completions[0], wish.names)
        asking = replace(asking, query=replace(query, text=text))
        if not fault and not why_unfit(wish, text):
            replies["calls", ""] = await asking.call(wish.tools)
    candidate = Candidate(
        query=asking.query,
        tools=wish.tools,
        calls=wish.calls,
        made_by=ASK,
        made_of=wish.origins,
    )
    return candidate, asking, replies


def find_fault(
    candidate: Candidate, replies: Replies, judgement: Judgement
) -> tuple[str, str] | None:
    """Reason and message for which a written request falls; None where it is kept."""
    wish = Wish(tools=candidate.tools, calls=candidate.calls)
    if (ASK, "") not in replies:
        return "unanswered", "no request was written"
    text, fault = read_request(replies[ASK, ""].completions[0], wish.names)
    if fault:
        return fault, "the model's answer is no request"
    if unfit := why_unfit(wish, text):
        return "unsaid", unfit
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
