"""Step 8, requests that need no tool: the model is shown tools all the same, and must call none.

They come from the files of `chat` in factory.toml, in a round of home requests without any from the
home world. A sample is kept where every answer calls nothing; the likeliest is what is taught. The
tools are those of an accepted sample, whose own request they answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from random import Random

from factory.domain.canon import canonical_json, digest
from factory.domain.records import UNANSWERED, Candidate, Query
from factory.engines.base import Engine
from factory.judge.answers import without_thought
from factory.judge.reading import read_completions
from factory.lab.home.talk import talk_stream
from factory.ledger.history import OpenRound
from factory.lessons.logs import read_pool
from factory.round.asking import Asking, asking_for
from factory.round.backwards import Replies, WrittenRequests
from factory.round.factory import Factory

CHAT = "chat"
"""Way of making a sample."""
_MOST_TALK = 5000
"""Requests of the home world that are looked at: its wordings are few, and come again."""


def find_requests(factory: Factory, known: Iterable[str], count: int) -> list[Query]:
    """At most `count` requests that need no tool, none of those that are known; none where no file
    has any and the round is not of the home world.

    Raises InputError for a file that cannot be read.
    """
    said = set(known)
    files = [factory.workspace.root / name for name in factory.settings.chat]
    pool: Iterable[Query] = ()
    if files:
        pool = read_pool(files, wanted=count + len(said)).queries
    elif factory.pool is None:
        pool = islice(talk_stream(), _MOST_TALK)
    fresh = {query.id: query for query in pool if query.text not in said}
    return list(islice(fresh.values(), count))


async def ask_chats(
    factory: Factory,
    this: OpenRound,
    engine: Engine,
    rng: Random,
    samples: Sequence[Candidate],
    requests: Sequence[Query],
    count: int,
) -> WrittenRequests:
    """Answers to the requests, until `count` are kept or there are no more."""
    asked, left, kept = WrittenRequests(), iter(requests), 0
    window = asyncio.Semaphore(factory.recipe.window)
    while queries := list(islice(left, count - kept)):
        factory.monitor.stage("ask what needs no tool", len(queries))
        found = await asyncio.gather(
            *(_ask(factory, this, engine, window, query, rng.choice(samples)) for query in queries)
        )
        for candidate, asking, replies in found:
            asked.candidates.append(candidate)
            asked.replies[candidate.query.id] = replies
            asked.generations += asking.generations
            kept += find_call(replies) is None
        factory.monitor.progress(len(queries), f"{kept} kept")
    return asked


async def _ask(
    factory: Factory,
    this: OpenRound,
    engine: Engine,
    window: asyncio.Semaphore,
    query: Query,
    sample: Candidate,
) -> tuple[Candidate, Asking, Replies]:
    mark = canonical_json([this.number, CHAT, query.text, sample.query.id])
    asking = asking_for(
        factory, this.number, engine, replace(query, id=f"q_{digest(mark)}", log=None)
    )
    async with window:
        reply = await asking.call(sample.tools)
    # Of those that say something, if there are any.
    likeliest = max(
        reply.completions,
        key=lambda one: (
            bool(without_thought(one.text)),
            one.logprob / max(1, len(one.token_ids)),
        ),
    )
    candidate = Candidate(
        query=asking.query,
        tools=sample.tools,
        answer=without_thought(likeliest.text),
        made_by=CHAT,
        made_of=(sample.query.id,),
    )
    return candidate, asking, {("calls", ""): reply}


def find_call(replies: Replies) -> tuple[str, str] | None:
    """Reason and message for which an answer without a call is not taken; None where it is."""
    reply = replies.get(("calls", ""))
    if reply is None or any(one.finish_reason in UNANSWERED for one in reply.completions):
        return "unanswered", "not all of its answers were given"
    calling = sum(answer.calls != () for answer in read_completions(reply.completions))
    if calling:
        return "called", f"{calling} of {len(reply.completions)} answers call something, or try to"
    return None
