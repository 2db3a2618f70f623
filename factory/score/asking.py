"""What benchmarks share that ask a model one question an item: asking all at once, and grades."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from factory.domain.records import UNANSWERED, ItemScore, Message, Reply, Request, Role, Sampling
from factory.engines.base import Engine

ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")


def grade(
    *, item: str, category: str, value: float, reason: str = "", message: str = "", answer: str = ""
) -> ItemScore:
    """One item with its mark from 0 to 1; a full mark is right.

    Example: grade(item="12", category="plan_str", value=0.8, reason="plan_differs", …).
    """
    return ItemScore(
        item=f"{category}/{item}",
        category=category,
        correct=value == 1,
        value=value,
        reason=reason,
        message=message,
        answer=answer,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemPrompt:
    """One item's messages. Example: ItemPrompt(id="apibank/Call/3", messages=(…))."""

    id: str
    """Unique among the requests in flight."""
    messages: tuple[Message, ...]
    """What the model is asked."""


async def ask_all(
    engine: Engine,
    questions: Sequence[ItemPrompt],
    *,
    max_tokens: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Reply]:
    """Greedy answers in the order of the questions, all in flight at once.

    `progress` hears (answers so far, answers in all). What the engine raises ends all.
    """
    num_done = 0

    async def ask(question: ItemPrompt) -> Reply:
        nonlocal num_done
        sampling = Sampling(max_tokens=max_tokens)
        request = Request(
            id=question.id, messages=question.messages, sampling=sampling, logprob=False
        )
        (reply,) = await engine.sample([request])
        num_done += 1
        progress(num_done, len(questions))
        return reply

    tasks = [asyncio.ensure_future(ask(question)) for question in questions]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def explain_unanswered(score: ItemScore, reply: Reply) -> ItemScore:
    """The item as it is, or with the reason why the engine gave no answer to it."""
    reason = reply.completions[0].finish_reason
    if reason not in UNANSWERED:
        return score
    message = f"the engine gave no answer to a prompt of {reply.num_prompt_tokens} tokens"
    return replace(score, reason=reason, message=message)


def to_messages(rows: Sequence[Mapping[str, object]]) -> tuple[Message, ...]:
    """Chat messages of a file; a role that models do not know speaks as the user."""
    known: dict[object, Role] = {role: role for role in ROLES}
    return tuple(
        Message(role=known.get(row["role"], "user"), content=str(row["content"])) for row in rows
    )
