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
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from factory.codes.arrays import Code, Floats, Ints
from factory.codes.base import Assignment, ResolvedBy, Taken
from factory.domain.failures import InputError

MORE_LEVELS = "set codes.levels = 0 (as many as needed), or to more"
"""What lets codes that are being fitted have room."""


class Measure(Protocol):
    """What is needed of a coder: how far a document is from the numbers of a position."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """(P) how many numbers each position has."""
        ...

    def distances(self, embeddings_NVD: Floats, prefix_NP: Ints) -> Floats:
        """(N, K) distances to the numbers of the next position, after these numbers."""
        ...

    def errors(self, embeddings_NVD: Floats, codes_NP: Ints) -> Floats:
        """(N) what a whole code leaves of a document, a distance."""
        ...


def resolve(
    coder: Measure,
    embeddings_NVD: Floats,
    codes_NP: Ints,
    error_N: Floats,
    taken: Taken,
    *,
    parted_NP: Ints | None = None,
) -> Assignment:
    """Make nearest codes unique; the result is added to `taken`.

    Args:
        coder: whose distances decide.
        embeddings_NVD: (N, V, D).
        codes_NP: nearest codes.
        error_N: what the nearest codes' first positions leave; handed on.
        taken: codes in use.
        parted_NP: what tools are given where it is free, if not their nearest codes.

    Raises:
        InputError: more tools than codes.
    """
    remedy = anew("--set codes.levels=0 ") if len(taken) else MORE_LEVELS
    refuse_if_full(len(taken) + len(codes_NP), math.prod(coder.sizes), remedy)
    wanted = [tuple(row) for row in codes_NP.tolist()]
    parted = wanted if parted_NP is None else [tuple(row) for row in parted_NP.tolist()]
    final: list[Code | None] = [None] * len(wanted)
    groups: defaultdict[Code, list[int]] = defaultdict(list)
    for row, code in enumerate(parted):
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
    codes = tuple(code for code in final if code is not None)
    moved = [row for row, code in enumerate(codes) if code != wanted[row]]
    return Assignment(
        codes=codes,
        wanted=tuple(wanted),
        resolved_by=tuple(_how(a, b) for a, b in zip(wanted, codes, strict=True)),
        error_N=error_N,
        penalty_N=_penalties(coder, embeddings_NVD, codes_NP, codes, moved),
    )


def _penalties(
    coder: Measure,
    embeddings_NVD: Floats,
    codes_NP: Ints,
    codes: tuple[Code, ...],
    moved: list[int],
) -> Floats:
    penalty_N = np.zeros(len(codes))
    if moved:
        settled_NP = np.array([codes[row] for row in moved], dtype=np.int32)
        part_NVD = embeddings_NVD[moved]
        after_N, before_N = (coder.errors(part_NVD, c) for c in (settled_NP, codes_NP[moved]))
        penalty_N[moved] = after_N - before_N
    return penalty_N


def _share_prefix(
    coder: Measure, embeddings_NVD: Floats, code: Code, rows: list[int], taken: Taken
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
    coder: Measure, embedding_1VD: Floats, prefix: Code, taken: Taken
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


def _how(wanted: Code, settled: Code) -> ResolvedBy:
    if settled == wanted:
        return "nearest"
    return "sibling" if settled[:-1] == wanted[:-1] else "prefix"


def refuse_if_full(num_tools: int, capacity: int, remedy: str, *, finish: bool = False) -> None:
    """Raise InputError where so many tools, and with `finish` Finish too, do not fit."""
    if num_tools + finish > capacity:
        what = f"{num_tools} tools and Finish" if finish else f"{num_tools} tools"
        raise InputError(f"{what} do not fit into {capacity} codes", where="codes", remedy=remedy)


def anew(options: str = "", *, by_round: bool = True) -> str:
    """The remedy for a full codebook: codes made anew, with these options of `codes fit`."""
    command = f"`factory codes fit {options}--out FOLDER`"
    rounds = ", or a round with codes.recode_every = 1" if by_round else ""
    return f"codes made anew have room: `factory add-tools FILE`, then {command}{rounds}"
