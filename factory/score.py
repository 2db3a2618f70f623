"""A checkpoint on a benchmark: greedy answers, AST verdicts, a mean with its uncertainty; the gate.

The score is the mean of the categories' shares of right answers. Its interval, and that of the
difference between two checkpoints on the same items, is a percentile bootstrap over items,
stratified by category. The gate decides promotion from a dev set, never from a test set (A11c).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from factory.benchmark import Benchmark, Item
from factory.calls import invocation_messages
from factory.engines.base import CONTEXT_FULL, UNANSWERED, Engine
from factory.prompts import Prompts
from factory.records import ItemScore, Reply, Request, Sampling, Score
from factory.scorers.bfcl import AstVerdict, check_ast
from factory.vote import parse_calls

NUM_RESAMPLES = 2000
INTERVAL = (2.5, 97.5)
"""Percentiles of a 95 % interval."""
BOOTSTRAP_SEED = 20240919
ROUNDING = 1e-9
"""Points below which two scores are equal."""


class Delta(NamedTuple):
    """How a score changed, in points, with its 95 % interval."""

    value: float
    """After minus before."""
    low: float
    """2.5th percentile of the paired bootstrap."""
    high: float
    """97.5th percentile."""


class Decision(NamedTuple):
    """Whether a checkpoint becomes the next round's parent."""

    promote: bool
    """The answer."""
    reason: str
    """One sentence with the numbers."""


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
        return judge(item, reply)

    tasks = [asyncio.ensure_future(answer(item)) for item in benchmark.items]
    try:
        items = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return summarise(benchmark.name, engine.checkpoint.id, items), items


def make_request(benchmark: Benchmark, item: Item, prompts: Prompts, max_tokens: int) -> Request:
    """The invocation prompt of one item, to be answered greedily."""
    return Request(
        id=f"score/{benchmark.name}/{item.id}",
        messages=invocation_messages(item.query, item.documents, prompts),
        sampling=Sampling(n=1, temperature=0.0, max_tokens=max_tokens),
    )


def judge(item: Item, reply: Reply) -> ItemScore:
    """One reply against its item.

    An answer whose JSON has to be repaired is wrong, as it is to BFCL's decoders.
    """
    completion = reply.completions[0]
    parsed = parse_calls(completion.text)
    if completion.finish_reason in UNANSWERED:
        message = f"the engine gave no answer to a prompt of {reply.num_prompt_tokens} tokens"
        verdict = AstVerdict(False, completion.finish_reason, message)
    elif parsed.calls is None and completion.finish_reason in ("length", CONTEXT_FULL):
        verdict = AstVerdict(False, "truncated", "the answer reached max_tokens")
    elif parsed.calls is None or parsed.failure:
        verdict = AstVerdict(False, parsed.failure, parsed.message)
    elif parsed.repaired:
        verdict = AstVerdict(False, "call_json", "a call is readable only after repair")
    else:
        verdict = check_ast(parsed.calls, item.functions, item.ground_truth)
    return ItemScore(
        item=item.id,
        category=item.category,
        correct=verdict.correct,
        reason=verdict.reason,
        message=verdict.message,
        answer=completion.text,
    )


def summarise(benchmark: str, checkpoint: str, items: Sequence[ItemScore]) -> Score:
    """Mean over categories in percent, with a bootstrap interval; `items` must not be empty."""
    marks = _by_category(items, [float(item.correct) for item in items])
    low, high = _bootstrap_interval(list(marks.values()))
    categories = {name: 100 * float(values.mean()) for name, values in marks.items()}
    return Score(
        benchmark=benchmark,
        checkpoint=checkpoint,
        value=sum(categories.values()) / len(categories),
        low=low,
        high=high,
        categories=categories,
        num_items=len(items),
    )


def paired_delta(before: Sequence[ItemScore], after: Sequence[ItemScore]) -> Delta:
    """After minus before on the same items, in points, by a paired bootstrap.

    Items are paired by id; ValueError where the two sets differ.
    """
    earlier = {item.item: item.correct for item in before}
    if sorted(earlier) != sorted(item.item for item in after):
        raise ValueError("the two scores are not of the same items")
    changes = _by_category(after, [float(item.correct - earlier[item.item]) for item in after])
    low, high = _bootstrap_interval(list(changes.values()))
    value = 100 * float(np.mean([values.mean() for values in changes.values()]))
    return Delta(value, low, high)


def gate(before: Score, after: Score, delta: Delta, *, tolerance: float) -> Decision:
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


def _by_category(
    items: Sequence[ItemScore], values: Sequence[float]
) -> dict[str, NDArray[np.float64]]:
    """Values grouped by their items' category, in order of first appearance."""
    groups: dict[str, list[float]] = {}
    for item, value in zip(items, values, strict=True):
        groups.setdefault(item.category, []).append(value)
    return {name: np.array(group) for name, group in groups.items()}


def _bootstrap_interval(groups: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """95 % percentile interval of 100 x the mean of group means; items resampled in each group."""
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    means_R = np.zeros(NUM_RESAMPLES)
    for values in groups:
        draws_RN = generator.integers(len(values), size=(NUM_RESAMPLES, len(values)))
        means_R += values[draws_RN].mean(axis=1) / len(groups)
    low, high = np.percentile(100 * means_R, INTERVAL)
    return float(low), float(high)
