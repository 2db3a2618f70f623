"""Put a benchmark's questions to a model and judge its answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby

from factory.domain.canon import canonical_json, digest
from factory.domain.records import (
    CONTEXT_FULL,
    UNANSWERED,
    Completion,
    ItemScore,
    Message,
    Reply,
    Request,
    Sampling,
    Score,
)
from factory.engines.base import Engine
from factory.judge.reading import ParsedCalls
from factory.score.calls.bfcl import LANGUAGES, OVERALL, RIGHT, AstVerdict, check_ast
from factory.score.calls.decode import Syntax, decode, is_abstention
from factory.score.calls.questions import Benchmark
from factory.score.estimates import summarise
from factory.score.items import Item
from factory.workspace.messages import invocation_messages
from factory.workspace.prompts import Prompts


async def score(
    engine: Engine,
    benchmark: Benchmark,
    prompts: Prompts,
    *,
    max_tokens: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Score, list[ItemScore]]:
    """Score the engine's checkpoint; items come back in the benchmark's order.

    All items are in flight at once, answers are greedy and at most `max_tokens` long. `progress`
    hears (items done, items in all) after each item. What the engine raises ends the scoring.
    """
    num_done = 0

    async def answer(item: Item) -> ItemScore:
        nonlocal num_done
        (reply,) = await engine.sample([make_request(benchmark, item, prompts, max_tokens)])
        num_done += 1
        progress(num_done, len(benchmark.items))
        return judge(item, reply, benchmark.syntax)

    tasks = [asyncio.ensure_future(answer(item)) for item in benchmark.items]
    try:
        items = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    weights = overall_weights(benchmark)
    return summarise(benchmark.name, engine.checkpoint.id, items, weights), items


def make_request(benchmark: Benchmark, item: Item, prompts: Prompts, max_tokens: int) -> Request:
    """One item's prompt, to be answered greedily."""
    own = benchmark.prompt == "own"
    return Request(
        id=f"score/{benchmark.name}/{item.id}",
        messages=_own_messages(item, prompts) if own else _join_neighbours(item.turn),
        tools=() if own else tuple(item.openai_tools),
        sampling=Sampling(n=1, temperature=0.0, max_tokens=max_tokens),
        logprob=False,
    )


def _own_messages(item: Item, prompts: Prompts) -> tuple[Message, ...]:
    """The invocation prompt with the turn's last message as the query.

    A system message of the turn follows the prompt's own, earlier messages stand between.
    """
    *earlier, last = item.turn
    system, query = invocation_messages(last.content, item.documents, prompts)
    rules = [message for message in earlier if message.role == "system"]
    chat = [message for message in earlier if message.role != "system"]
    return _join_neighbours([system, *rules, *chat, query])


def _join_neighbours(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Messages of one role in a row as one: many chat templates want roles to alternate."""
    return tuple(
        Message(role=role, content="\n\n".join(message.content for message in group))
        for role, group in groupby(messages, key=lambda message: message.role)
    )


def score_basis(benchmark: Benchmark, prompts: Prompts, max_tokens: int) -> str:
    """Hash of what a score depends on besides the checkpoint: items, prompts, length.

    What is as usual adds nothing: our prompt and syntax, one user message, calls in Python.
    """
    items = [[item.id, item.query, item.functions, item.ground_truth] for item in benchmark.items]
    shas = [prompts.sha(name) for name in ("calls/system", "calls/invoke")]
    unusual: dict[str, object] = {
        item.id: [item.judge, [asdict(message) for message in item.turn]]
        for item in benchmark.items
        if item.judge != "python" or len(item.turn) > 1
    }
    if (benchmark.prompt, benchmark.syntax) != ("own", "hermes"):
        unusual[""] = [benchmark.prompt, benchmark.syntax]
    parts = [items, shas, max_tokens]
    return digest(canonical_json([*parts, unusual] if unusual else parts))


def judge(item: Item, reply: Reply, syntax: Syntax = "hermes") -> ItemScore:
    """One reply against its item.

    An answer whose JSON has to be repaired is wrong, as it is to BFCL's decoders. Where nothing is
    to be called, an answer that cannot be read is right, as BFCL has it, but with a reason: it is
    no abstention.
    """
    completion = reply.completions[0]
    parsed = decode(completion.text, syntax)
    verdict = _find_unreadable(parsed, completion, reply.num_prompt_tokens)
    if item.judge in LANGUAGES:
        verdict = verdict or check_ast(
            parsed.calls or (), item.functions, item.ground_truth, item.language
        )
    elif item.judge == "any_call":
        verdict = verdict or RIGHT
    elif completion.finish_reason not in UNANSWERED:
        verdict = _judge_abstention(verdict, parsed, completion.text)
    assert verdict is not None
    return ItemScore(
        item=item.id,
        category=item.category,
        correct=verdict.correct,
        reason=verdict.reason,
        message=verdict.message,
        answer=completion.text,
        calls=None if parsed.calls is None else tuple(parsed.calls),
    )


def _find_unreadable(
    parsed: ParsedCalls, completion: Completion, num_prompt_tokens: int
) -> AstVerdict | None:
    """Why there are no calls to judge; None where there are."""
    if completion.finish_reason in UNANSWERED:
        message = f"the engine gave no answer to a prompt of {num_prompt_tokens} tokens"
        return AstVerdict(False, completion.finish_reason, message)
    if parsed.calls is None and completion.finish_reason in ("length", CONTEXT_FULL):
        return AstVerdict(False, "truncated", "the answer reached max_tokens")
    if parsed.calls is None or parsed.failure:
        return AstVerdict(False, parsed.failure, parsed.message)
    if parsed.repaired:
        return AstVerdict(False, "call_json", "a call is readable only after repair")
    return None


def _judge_abstention(unreadable: AstVerdict | None, parsed: ParsedCalls, text: str) -> AstVerdict:
    """Right where no call can be read (BFCL's irrelevance)."""
    if unreadable is None:
        names = ", ".join(call.name for call in parsed.calls or ())
        return AstVerdict(False, "unwanted_call", f"calls {names} where nothing is to be called")
    if is_abstention(text):
        return RIGHT
    return AstVerdict(
        True, "unreadable_call", f"a call that BFCL cannot read: {unreadable.message}"
    )


def overall_weights(benchmark: Benchmark) -> Mapping[str, float] | None:
    """Weight of each category in the overall score; None is the mean of all."""
    has_all = set(OVERALL) <= set(benchmark.categories)
    return OVERALL if benchmark.average == "tooldev" and has_all else None
