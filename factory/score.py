"""A checkpoint on a benchmark: greedy answers, AST verdicts, a mean with its uncertainty; the gate.

The score is the mean of the categories' shares of right answers, or another sum of them that the
benchmark names. Its interval, and that of the difference between two checkpoints on the same items,
is a percentile bootstrap over items, stratified by category. The gate decides promotion from a dev
set, never from a test set (A11c).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from factory.benchmark import Benchmark, Item
from factory.calls import invocation_messages
from factory.canon import canonical_json, digest
from factory.engines.base import CONTEXT_FULL, UNANSWERED, Engine
from factory.prompts import Prompts, to_json
from factory.records import Completion, ItemScore, Message, Reply, Request, Sampling, Score
from factory.scorers.bfcl import LANGUAGES, OVERALL, RIGHT, AstVerdict, check_ast
from factory.scorers.decode import Syntax, decode, is_abstention
from factory.vote import ParsedCalls

NUM_RESAMPLES = 2000
INTERVAL = (2.5, 97.5)
"""Percentiles of a 95 % interval."""
BOOTSTRAP_SEED = 20240919
ROUNDING = 1e-9
"""Points below which two scores are equal."""


class Estimate(NamedTuple):
    """A score in percent, or how one changed in points, with its 95 % interval."""

    value: float
    """The sum of the categories' means, each times its weight."""
    low: float
    """2.5th percentile of the bootstrap."""
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
        calls_json="" if parsed.calls is None else to_json([asdict(c) for c in parsed.calls]),
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


def summarise(
    benchmark: str,
    checkpoint: str,
    items: Sequence[ItemScore],
    weights: Mapping[str, float] | None = None,
) -> Score:
    """The weighted sum of the categories in percent, their mean without weights.

    With a bootstrap interval; `items` must not be empty.
    """
    marks = group_marks(items)
    categories = {name: 100 * float(values.mean()) for name, values in marks.items()}
    overall = combine(marks, weights or dict.fromkeys(marks, 1 / len(marks)))
    value = overall.value if weights else sum(categories.values()) / len(categories)
    return Score(
        benchmark=benchmark,
        checkpoint=checkpoint,
        value=value,
        low=overall.low,
        high=overall.high,
        categories=categories,
        num_items=len(items),
    )


def paired_delta(
    before: Sequence[ItemScore],
    after: Sequence[ItemScore],
    weights: Mapping[str, float] | None = None,
) -> Estimate:
    """After minus before on the same items, in points, by a paired bootstrap.

    Categories weigh as in `summarise`, items are paired as `subtract` pairs them.
    """
    changes = group_marks(subtract(before, after))
    return combine(changes, weights or dict.fromkeys(changes, 1 / len(changes)))


def subtract(before: Sequence[ItemScore], after: Sequence[ItemScore]) -> list[ItemScore]:
    """The items of `after`, their marks and the numbers of their details less those of `before`.

    A number that only one of the two has is no change and is left out.
    Items are paired by id; ValueError where the two sets differ.
    """
    earlier = {item.item: item for item in before}
    if sorted(earlier) != sorted(item.item for item in after):
        raise ValueError("the two scores are not of the same items")
    return [_subtract(earlier[item.item], item) for item in after]


def _subtract(old: ItemScore, new: ItemScore) -> ItemScore:
    was, now = (json.loads(item.detail_json or "{}") for item in (old, new))
    detail = {
        key: value - was[key] if _is_number(value) else value
        for key, value in now.items()
        if not _is_number(value) or _is_number(was.get(key))
    }
    return replace(new, value=new.mark - old.mark, detail_json=to_json(detail))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def gate(before: Score, after: Score, delta: Estimate, *, tolerance: float) -> Decision:
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


def combine(groups: Mapping[str, NDArray[np.float64]], weights: Mapping[str, float]) -> Estimate:
    """100 x the weighted sum of group means, items resampled within each group.

    The same for the same values, in whatever order groups and items come.

    Args:
        groups: values by category.
        weights: of the categories that count; each must be in `groups`.
    """
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    value, means_R = 0.0, np.zeros(NUM_RESAMPLES)
    for name, weight in sorted(weights.items()):
        values = np.sort(groups[name])
        draws_RN = generator.integers(len(values), size=(NUM_RESAMPLES, len(values)))
        means_R += weight * values[draws_RN].mean(axis=1)
        value += weight * float(values.mean())
    low, high = np.percentile(100 * means_R, INTERVAL)
    return Estimate(100 * value, float(low), float(high))


def group_marks(items: Sequence[ItemScore]) -> dict[str, NDArray[np.float64]]:
    """Marks by category: 1.0 for right and 0.0 for wrong, or between."""
    return _by_category(items, [item.mark for item in items])


def _by_category(
    items: Sequence[ItemScore], values: Sequence[float]
) -> dict[str, NDArray[np.float64]]:
    """Values grouped by their items' category, in order of first appearance."""
    groups: dict[str, list[float]] = {}
    for item, value in zip(items, values, strict=True):
        groups.setdefault(item.category, []).append(value)
    return {name: np.array(group) for name, group in groups.items()}
