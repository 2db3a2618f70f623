"""Which tools are used together: counted pairs made into the similarity of ToolWeaver's loss.

A pair counts as often as its tools are called in one accepted answer, or named together in labels
and trajectories (A42); the counts become a sparse, symmetric, normalised matrix (A21). Tools that a
model writes anew for each query hardly ever meet twice, so a pair counts for the known tool of the
same signature (A43). Only numpy.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from factory.codes.arrays import Floats
from factory.domain.records import Pair, Tool

MIN_WEIGHT, MIN_SHARE = 1.0, 0.001
"""Pairs are dropped that weigh less than this share of all that was counted, or less than this
weight where a lot was (A42's 1 alone drops all pairs of a few hundred answers of a model)."""
NEIGHBOURS = 50
"""Pairs kept for each tool, the strongest (A21)."""
_NOT_WORD = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """A symmetric matrix over N tools without diagonal, by its entries above the diagonal."""

    row_E: npt.NDArray[np.int64]
    """Tool of an entry."""
    column_E: npt.NDArray[np.int64]
    """Its other tool, a later one."""
    weight_E: Floats
    """Similarity, in (0, 1]."""

    def __len__(self) -> int:
        return len(self.row_E)


def build_graph(
    pairs: Iterable[Pair],
    tools: Sequence[Tool],
    *,
    min_weight: float | None = None,
    neighbours: int = NEIGHBOURS,
) -> Graph:
    """The similarity of N tools: A = D^-1/2 C D^-1/2, thinned out and symmetric (A21).

    An entry stays if either of its tools counts it among its strongest. Tools are matched by id,
    and pairs of others left out: `canonical_pairs` comes first where namesakes are to count.
    `min_weight` is by default MIN_SHARE of all that was counted, MIN_WEIGHT at most.
    """
    place = {tool.id: row for row, tool in enumerate(tools)}
    counts: dict[tuple[int, int], float] = {}
    for pair in pairs:
        row, column = place.get(pair.a), place.get(pair.b)
        if row is not None and column is not None and row != column:
            key = (min(row, column), max(row, column))
            counts[key] = counts.get(key, 0.0) + pair.weight
    if min_weight is None:
        min_weight = min(MIN_WEIGHT, MIN_SHARE * sum(counts.values()))
    kept = sorted((key, count) for key, count in counts.items() if count >= min_weight)
    row_E = np.array([key[0] for key, _ in kept], dtype=np.int64)
    column_E = np.array([key[1] for key, _ in kept], dtype=np.int64)
    count_E = np.array([count for _, count in kept])
    degree_N = np.bincount(row_E, count_E, len(tools)) + np.bincount(column_E, count_E, len(tools))
    weight_E = count_E / np.sqrt(degree_N[row_E] * degree_N[column_E])
    strong_E = _strongest(row_E, column_E, weight_E, neighbours)
    return Graph(row_E=row_E[strong_E], column_E=column_E[strong_E], weight_E=weight_E[strong_E])


def _strongest(
    row_E: npt.NDArray[np.int64], column_E: npt.NDArray[np.int64], weight_E: Floats, neighbours: int
) -> npt.NDArray[np.bool_]:
    """Which entries are among the strongest of one of their tools; the earlier ones on a tie."""
    tool_F = np.concatenate([row_E, column_E])
    order_F = np.lexsort((np.tile(np.arange(len(row_E)), 2), -np.tile(weight_E, 2), tool_F))
    sorted_F = tool_F[order_F]
    starts_F = np.searchsorted(sorted_F, sorted_F)
    strong_F = np.zeros(len(tool_F), dtype=np.bool_)
    strong_F[order_F] = np.arange(len(tool_F)) - starts_F < neighbours
    return strong_F[: len(row_E)] | strong_F[len(row_E) :]


def signature(tool: Tool) -> str:
    """What makes two tools the same but for wording: name, and parameters with types (A43)."""
    properties: Mapping[str, object] = tool.arguments.get("properties") or {}
    parameters = sorted(
        f"{name.lower()}:{schema.get('type') if isinstance(schema, Mapping) else ''}"
        for name, schema in properties.items()
    )
    name = f"{tool.document.get('tool_name', '')} {tool.name}"
    return " ".join([_NOT_WORD.sub("_", name.lower()).strip("_"), *parameters])


def canonical_pairs(
    pairs: Iterable[Pair], called: Iterable[Tool], tools: Iterable[Tool]
) -> list[Pair]:
    """The pairs, with each tool of `called` that is none of `tools` replaced by its namesake."""
    known = list(tools)
    ids = {tool.id for tool in known}
    first = {signature(tool): tool.id for tool in reversed(known)}
    namesake = {
        tool.id: first.get(signature(tool), tool.id) for tool in called if tool.id not in ids
    }
    return [
        Pair(a=namesake.get(p.a, p.a), b=namesake.get(p.b, p.b), weight=p.weight) for p in pairs
    ]


def join_pairs(labelled: Sequence[Pair], made: Sequence[Pair]) -> list[Pair]:
    """Pairs of people's labels and of a model's answers, which weigh no more for a tool than those.

    A tool that labels name gets half of its pairs from answers at most (A42); others all of theirs.
    """
    given, found = _weigh(labelled), _weigh(made)
    share = {tool: min(1.0, given[tool] / found[tool]) for tool in given.keys() & found.keys()}
    kept = [
        Pair(a=p.a, b=p.b, weight=p.weight * min(share.get(p.a, 1.0), share.get(p.b, 1.0)))
        for p in made
    ]
    return [*labelled, *kept]


def told_of_pairs(count: int) -> str:
    """The pairs that a codebook was fitted with, in words."""
    if count:
        return f"drawn together by {count} pairs of tools that are used together"
    return (
        "no two tools are known to be used together, so they are made of documents alone; answers "
        "that call several tools, chats to replay or `factory codes fit --pairs FILE` say which are"
    )


def _weigh(pairs: Iterable[Pair]) -> dict[str, float]:
    """What the pairs of each tool weigh."""
    weights: defaultdict[str, float] = defaultdict(float)
    for pair in pairs:
        weights[pair.a] += pair.weight
        weights[pair.b] += pair.weight
    return weights
