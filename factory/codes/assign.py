"""Collision-free assignment: every tool ends on a code of its own (algorithms A25, A38).

Same input, same result: nothing is random, and the order of the tools is the order of insertion
(accepted-at, then id). The steps of A25:
(1) equal documents have equal ids, so they never meet here twice;
(2, 3) tools that want the same code share out the free last numbers of its prefix so that the sum
    of their distances is least. A25 names Sinkhorn passes and a greedy rest; the exact assignment
    is what those approximate, and needs neither passes nor a rest;
(4) where the prefix has no free number left, the nearest other prefix that has one;
(5) never a longer code.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from factory.codes.base import Code, Coder, Floats, Ints
from factory.failures import InputError

ResolvedBy = Literal["nearest", "sibling", "prefix"]
"""`nearest`: the coder's own choice; `sibling`: another last number; `prefix`: another prefix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Codes without collisions."""

    codes_NP: Ints
    """The codes, all different from each other and from those taken before."""
    resolved_by: tuple[ResolvedBy, ...]
    """(N) how each tool came to its code."""
    penalty_N: Floats
    """(N) how much more of the document the code leaves than the nearest one; 0 if not moved."""

    @property
    def moved(self) -> int:
        """Tools that are not on their nearest code."""
        return sum(how != "nearest" for how in self.resolved_by)


class Taken:
    """Codes in use, by prefix."""

    def __init__(self, codes: Iterable[Code] = ()) -> None:
        self._last: defaultdict[Code, set[int]] = defaultdict(set)
        self._num = 0
        for code in codes:
            self.add(code)

    def add(self, code: Code) -> None:
        self._last[code[:-1]].add(code[-1])
        self._num += 1

    def __contains__(self, code: Code) -> bool:
        return code[-1] in self._last.get(code[:-1], ())

    def __len__(self) -> int:
        return self._num

    def free(self, prefix: Code, size: int) -> npt.NDArray[np.int64]:
        """Last numbers not in use after a prefix."""
        used = self._last.get(prefix, set())
        return np.array([number for number in range(size) if number not in used], dtype=np.int64)


def resolve(coder: Coder, embeddings_NVD: Floats, codes_NP: Ints, taken: Taken) -> Assignment:
    """Make nearest codes unique; the result is added to `taken`.

    Raises:
        InputError: more tools than codes.
    """
    _refuse_if_full(coder.sizes, len(taken) + len(codes_NP))
    wanted = [tuple(int(number) for number in row) for row in codes_NP]
    final: list[Code | None] = [None] * len(wanted)
    groups: defaultdict[Code, list[int]] = defaultdict(list)
    for row, code in enumerate(wanted):
        groups[code].append(row)
    crowded = {code for code, rows in groups.items() if len(rows) > 1 or code in taken}
    for code, rows in groups.items():
        if code not in crowded:
            final[rows[0]] = code
            taken.add(code)
    for code in sorted(crowded):
        for row, settled in _share_prefix(coder, embeddings_NVD, code, groups[code], taken):
            final[row] = settled
            taken.add(settled)
    for row in (row for row, settled in enumerate(final) if settled is None):
        settled = next(_nearest_free(coder, embeddings_NVD[row : row + 1], (), taken))
        final[row] = settled
        taken.add(settled)
    settled_NP = np.array(final, dtype=np.int32).reshape(codes_NP.shape)
    before_N = coder.errors(embeddings_NVD, codes_NP)
    return Assignment(
        codes_NP=settled_NP,
        resolved_by=tuple(_how(a, b) for a, b in zip(wanted, final, strict=True)),
        penalty_N=coder.errors(embeddings_NVD, settled_NP) - before_N,
    )


def _share_prefix(
    coder: Coder, embeddings_NVD: Floats, code: Code, rows: list[int], taken: Taken
) -> list[tuple[int, Code]]:
    """The group's shares of the free last numbers of its prefix; some may get none."""
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

    free = taken.free(code[:-1], coder.sizes[-1])
    prefix_NP = np.tile(np.array(code[:-1], dtype=np.int32), (len(rows), 1))
    distances = coder.distances(embeddings_NVD[rows], prefix_NP)[:, free]
    members, numbers = linear_sum_assignment(distances)
    return [
        (rows[member], (*code[:-1], int(free[number])))
        for member, number in zip(members, numbers, strict=True)
    ]


def _nearest_free(
    coder: Coder, embedding_1VD: Floats, prefix: Code, taken: Taken
) -> Iterator[Code]:
    """Free codes in depth-first order, the nearest number of each position first."""
    position = len(prefix)
    last = position == len(coder.sizes) - 1
    free = taken.free(prefix, coder.sizes[position]) if last else None
    if free is not None and len(free) == 0:
        return
    prefix_1P = np.array([prefix], dtype=np.int32).reshape(1, position)
    distances = coder.distances(embedding_1VD, prefix_1P)[0]
    numbers = np.argsort(distances, kind="stable")
    if free is not None:
        yield from ((*prefix, int(n)) for n in numbers if n in set(free.tolist()))
        return
    for number in numbers:
        yield from _nearest_free(coder, embedding_1VD, (*prefix, int(number)), taken)


def _how(wanted: Code, settled: Code | None) -> ResolvedBy:
    assert settled is not None
    if settled == wanted:
        return "nearest"
    return "sibling" if settled[:-1] == wanted[:-1] else "prefix"


def _refuse_if_full(sizes: tuple[int, ...], num_tools: int) -> None:
    capacity = math.prod(sizes)
    if num_tools > capacity:
        raise InputError(
            f"{num_tools} tools do not fit into {capacity} codes "
            f"({len(sizes)} positions of {sizes[0]})",
            where="codes",
            remedy="set [codes] levels = 0 (as many as needed), or raise levels or size",
        )
