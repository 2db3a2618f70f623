"""A checkpoint on a benchmark: greedy answers, AST verdicts, a mean with its uncertainty; the gate.

The score is the mean of the categories' shares of right answers, or another sum of them that the
benchmark names. Its interval, and that of the difference between two checkpoints on the same items,
is a percentile bootstrap over items, stratified by category. The gate decides promotion from a dev
set, never from a test set (A11c).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from factory.domain.records import ItemScore, Score

NUM_RESAMPLES = 2000
INTERVAL = (2.5, 97.5)
"""Percentiles of a 95 % interval."""
BOOTSTRAP_SEED = 20240919


class Estimate(NamedTuple):
    """A score in percent, or how one changed in points, with its 95 % interval."""

    value: float
    """The sum of the categories' means, each times its weight."""
    low: float
    """2.5th percentile of the bootstrap."""
    high: float


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


def wilson(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a share, 95 % by default, in percent; all of it where there is none.

    >>> [round(bound, 1) for bound in wilson(95, 100)]
    [88.8, 97.8]
    """
    if not total:
        return 0.0, 100.0
    share, spread = right / total, z * z / total
    middle, half = (
        share + spread / 2,
        z * math.sqrt(share * (1 - share) / total + spread / (4 * total)),
    )
    return 100 * (middle - half) / (1 + spread), 100 * (middle + half) / (1 + spread)


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
    detail = {
        key: value - old.detail[key] if _is_number(value) else value
        for key, value in new.detail.items()
        if not _is_number(value) or _is_number(old.detail.get(key))
    }
    return replace(new, value=new.mark - old.mark, detail=detail)


def average(several: Sequence[Sequence[ItemScore]]) -> list[ItemScore]:
    """The items that several scores, such as those of seeds, have in common: means of their marks
    and of the numbers of their details.
    """
    first, *others = several
    if not others:
        return list(first)
    found = [{item.item: item for item in items} for items in several]
    shared = [item.item for item in first if all(item.item in each for each in found)]
    return [_average([each[name] for each in found]) for name in shared]


def _average(items: Sequence[ItemScore]) -> ItemScore:
    details = [item.detail for item in items]
    numbers = {
        key: float(np.mean([detail[key] for detail in details]))
        for key, value in items[0].detail.items()
        if _is_number(value) and all(_is_number(detail.get(key)) for detail in details)
    }
    mark = float(np.mean([item.mark for item in items]))
    return replace(items[0], value=mark, detail={**items[0].detail, **numbers})


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def combine(groups: Mapping[str, NDArray[np.float64]], weights: Mapping[str, float]) -> Estimate:
    """100 x the weighted sum of group means, items resampled within each group.

    The same for the same values, in whatever order groups and items come. `weights` are of the
    categories that count; each must be in `groups`, which holds values by category.
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


def estimate_perplexity(nats_N: NDArray[np.float64], tokens_N: NDArray[np.int64]) -> Estimate:
    """exp of the nats a token over windows, which are resampled together with their tokens."""
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    draws_RN = generator.integers(len(nats_N), size=(NUM_RESAMPLES, len(nats_N)))
    means_R = nats_N[draws_RN].sum(axis=1) / tokens_N[draws_RN].sum(axis=1)
    low, high = np.percentile(np.exp(means_R), INTERVAL)
    return Estimate(math.exp(nats_N.sum() / tokens_N.sum()), float(low), float(high))


def group_marks(items: Sequence[ItemScore]) -> dict[str, NDArray[np.float64]]:
    """Marks by category in order of first appearance: 1.0 is right, 0.0 wrong, others between."""
    return group_values((item.category, item.mark) for item in items)


def group_values(pairs: Iterable[tuple[str, float]]) -> dict[str, NDArray[np.float64]]:
    """Values by category, from (category, value), in order of first appearance."""
    groups: dict[str, list[float]] = {}
    for category, value in pairs:
        groups.setdefault(category, []).append(value)
    return {name: np.array(values) for name, values in groups.items()}
