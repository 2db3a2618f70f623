"""What benchmarks share that ask a model one question an item: asking, reading, and grades."""

from __future__ import annotations

import ast
import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from factory.domain.records import (
    CONTEXT_FULL,
    UNANSWERED,
    Completion,
    ItemScore,
    Message,
    Reply,
    Request,
    Role,
    Sampling,
)
from factory.engines.base import Engine

ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")
CUT_BY = {"length": "max_tokens", CONTEXT_FULL: "engine.max_model_len"}
"""The limit that an answer reached, by its finish reason."""


def grade(
    *, item: str, category: str, value: float, reason: str = "", message: str = "", answer: str = ""
) -> ItemScore:
    """One item with its mark from 0 to 1; a full mark is right and has no reason.

    Example: grade(item="12", category="plan_str", value=0.8, reason="plan_differs", …).
    """
    return ItemScore(
        item=f"{category}/{item}",
        category=category,
        correct=value == 1,
        value=value,
        reason="" if value == 1 else reason,
        message=message,
        answer=answer,
    )


def parse_text(text: str) -> Any:
    """A value from its text, as JSON or as Python prints it; None where it is neither."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None


def greedy(
    name: str, messages: Sequence[Message], max_tokens: int, tools: Sequence[dict[str, Any]] = ()
) -> Request:
    """One question, to be answered by the likeliest tokens."""
    return Request(
        id=name,
        messages=tuple(messages),
        tools=tuple(tools),
        sampling=Sampling(max_tokens=max_tokens),
        logprob=False,
    )


async def ask_all(
    engine: Engine,
    requests: Sequence[Request],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Reply]:
    """Answers in the order of the requests, all in flight at once.

    `progress` hears (answers so far, answers in all). What the engine raises ends all.
    """
    num_done = 0

    async def ask(request: Request) -> Reply:
        nonlocal num_done
        (reply,) = await engine.sample([request])
        num_done += 1
        progress(num_done, len(requests))
        return reply

    tasks = [asyncio.ensure_future(ask(request)) for request in requests]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def cut_of(completion: Completion) -> dict[str, str]:
    """What an item's detail says of a cut answer: `cut` with the limit that it reached."""
    limit = CUT_BY.get(completion.finish_reason)
    return {"cut": limit} if limit else {}


def explain_unanswered(score: ItemScore, reply: Reply) -> ItemScore:
    """The item as it is, or with the reason why the engine gave no answer to it."""
    reason = reply.completions[0].finish_reason
    if reason not in UNANSWERED:
        return score
    return replace(score, reason=reason, message=no_answer(reply))


def no_answer(reply: Reply) -> str:
    """Why a reply is none, in words."""
    told = f"the engine gave no answer to a prompt of {reply.num_prompt_tokens} tokens"
    return reply.completions[0].fault or told


def explain_ending(score: ItemScore, reply: Reply) -> ItemScore:
    """The item with the limit that cut its answer, or the reason why there is none."""
    detail = {**score.detail, **cut_of(reply.completions[0])}
    return replace(explain_unanswered(score, reply), detail=detail)


def to_messages(rows: Sequence[Mapping[str, object]]) -> tuple[Message, ...]:
    """Chat messages of a file; a role that models do not know speaks as the user."""
    known: dict[object, Role] = {role: role for role in ROLES}
    return tuple(
        Message(role=known.get(row["role"], "user"), content=str(row["content"])) for row in rows
    )
