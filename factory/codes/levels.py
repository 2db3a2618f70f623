"""Codes by residual quantisation: each level codes what the level before left of a document.

A document is projected into a small space; the number at a position is the centroid nearest to
what the positions before leave (algorithms §2.3, §4.3). Positions are (embedding v, level l), the
level running fastest (§2.1). How the space and the centroids come about is the subclass's affair:
PCA and k-means (SGTC), or an encoder and codebooks learnt together (ToolWeaver).
"""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from factory.codes.arrays import Code, Floats, Ints
from factory.codes.assign import MORE_LEVELS, refuse_if_full, resolve
from factory.codes.base import CHUNK, Assignment, Coder, Layout, Renaming, Seen, Taken

CAPACITY, LEAST_CAPACITY = 20, 2
"""Codes per tool that the default depth leaves room for (A27), and that a given one does."""
TOOLS_PER_CODE = 8
"""A level has at most one code for so many tools (A14), where that leaves room."""


class Shape(NamedTuple):
    """Size of a codebook."""

    size: int
    """Numbers of a position (K)."""
    levels: int
    """Levels of an embedding (L)."""


def choose_shape(num_tools: int, size: int, levels: int | None = None, views: int = 1) -> Shape:
    """K capped at N // 8 (A14) and, without `levels`, the smallest L with K**(V L) >= 20 N (A27).

    With few tools on given levels, K is what leaves two codes a tool, N // 2 at most.

    >>> choose_shape(64, 512)
    Shape(size=8, levels=4)
    >>> choose_shape(64, 512, levels=2)
    Shape(size=12, levels=2)
    """
    capped = max(2, min(size, num_tools // TOOLS_PER_CODE))
    if levels:
        most = min(size, num_tools // 2)
        while capped < most and capped ** (views * levels) < LEAST_CAPACITY * num_tools:
            capped += 1
        return Shape(capped, levels)
    depth = 1
    while capped ** (views * depth) < CAPACITY * num_tools:
        depth += 1
    return Shape(capped, depth)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """Nearest codes, before collisions are resolved."""

    codes_NP: Ints
    """Number at each position."""
    error_N: Floats
    """Distance to the first position's centroid, in the coder's space (A38)."""


class LevelCoder(Coder):
    """A coder whose numbers are centroids, level below level."""

    layout: ClassVar[Layout] = "tokens"
    reads_documents: ClassVar[bool] = True
    proposes: ClassVar[bool] = True

    def __init__(self, *, levels: int, size: int) -> None:
        self.levels = levels
        self.size = size
        """Numbers of a position (K)."""
        self._centroids_PKd: Floats = np.zeros((0, 0, 0), dtype=np.float32)

    @property
    def sizes(self) -> tuple[int, ...]:
        return (self.size,) * len(self._centroids_PKd)

    @abstractmethod
    def project(self, embeddings_NVD: Floats, view: int) -> Floats:
        """(N, d) a document's embedding in the space of the centroids, in double precision."""

    def assign(self, documents: Seen, taken: Taken) -> Assignment:
        wanted = self.encode(documents.embeddings_NVD)
        return resolve(self, documents.embeddings_NVD, wanted.codes_NP, wanted.error_N, taken)

    def reserve(self, taken: Taken) -> Code:
        """The last free code: with room to spare, no tool comes near it by itself."""
        refuse_if_full(len(taken), math.prod(self.sizes), MORE_LEVELS, finish=True)
        numbers = [range(size - 1, -1, -1) for size in self.sizes]
        free = next(code for code in itertools.product(*numbers) if code not in taken)
        taken.add(free)
        return free

    def nearest(self, documents: Seen, codes: Sequence[Code]) -> npt.NDArray[np.bool_]:
        codes_NP = self.encode(documents.embeddings_NVD).codes_NP
        same: npt.NDArray[np.bool_] = (codes_NP == np.array(codes, dtype=np.int32)).all(axis=1)
        return same

    def first_errors(self, documents: Seen) -> Floats:
        return self.encode(documents.embeddings_NVD).error_N

    def unexplained(self, documents: Seen, codes: Sequence[Code]) -> float | None:
        embeddings_NVD = documents.embeddings_NVD
        left_N = self.errors(embeddings_NVD, np.array(codes, dtype=np.int32)) ** 2
        views = range(len(self.sizes) // self.levels)
        spread = sum(self.project(embeddings_NVD, view).var(axis=0).sum() for view in views)
        return float(left_N.mean() / spread) if spread else 0.0

    def encode(self, embeddings_NVD: Floats) -> Encoding:
        """Nearest number position by position, the lowest on a tie.

        A document's code does not depend on the others given with it.
        """
        num_tools, num_positions = len(embeddings_NVD), len(self.sizes)
        codes_NP = np.zeros((num_tools, num_positions), dtype=np.int32)
        error_N = np.zeros(num_tools)
        for start in range(0, num_tools, CHUNK):
            rows = slice(start, start + CHUNK)
            for position in range(num_positions):
                distances = self.distances(embeddings_NVD[rows], codes_NP[rows, :position])
                codes_NP[rows, position] = distances.argmin(axis=1)
                if position == 0:
                    error_N[rows] = distances.min(axis=1)
        return Encoding(codes_NP=codes_NP, error_N=error_N)

    def distances(self, embeddings_NVD: Floats, prefix_NP: Ints) -> Floats:
        """(N, K) distances to the numbers of the next position, after these numbers."""
        from scipy.spatial.distance import cdist  # type: ignore[import-untyped]

        position = prefix_NP.shape[1]
        residual_Nd = self.residual(embeddings_NVD, prefix_NP, position // self.levels)
        centroids_Kd = self._centroids_PKd[position].astype(np.float64)
        # cdist subtracts pair by pair: a row's distances do not depend on the rows beside it.
        distances: Floats = cdist(residual_Nd, centroids_Kd)
        return distances

    def errors(self, embeddings_NVD: Floats, codes_NP: Ints) -> Floats:
        """(N) root of the summed squares of what whole codes leave of all views."""
        squares = [
            (self.residual(embeddings_NVD, codes_NP, view) ** 2).sum(axis=1)
            for view in range(len(self.sizes) // self.levels)
        ]
        errors_N: Floats = np.sqrt(np.sum(squares, axis=0))
        return errors_N

    def project_all(self, embeddings_NVD: Floats) -> Floats:
        """(N, V*d) all of a tool's embeddings in the spaces of the centroids."""
        views = range(len(self.sizes) // self.levels)
        return np.concatenate([self.project(embeddings_NVD, view) for view in views], axis=1)

    def kept(self, codes: Sequence[Code]) -> Floats:
        """(N, V*d) what codes keep of documents there: the sum of their centroids."""
        codes_NP = np.array(codes, dtype=np.int32)
        entries_PNd = np.stack(
            [
                book_Kd[codes_NP[:, position]].astype(np.float64)
                for position, book_Kd in enumerate(self._centroids_PKd)
            ]
        )
        views = range(0, len(entries_PNd), self.levels)
        return np.concatenate([entries_PNd[v : v + self.levels].sum(axis=0) for v in views], axis=1)

    def residual(self, embeddings_NVD: Floats, prefix_NP: Ints, view: int) -> Floats:
        """(N, d) what the numbers given for this view leave of it."""
        residual_Nd = self.project(embeddings_NVD, view)
        start = view * self.levels
        for position in range(start, min(start + self.levels, prefix_NP.shape[1])):
            residual_Nd = residual_Nd - self._centroids_PKd[position][prefix_NP[:, position]]
        return residual_Nd

    def take_names(
        self, documents: Seen, codes: Sequence[Code], known: Mapping[int, Code]
    ) -> Renaming:
        """Renumber itself as an older coder where numbers mean the same.

        The old centroids are in another space, so an old number stands where its tools are in this
        coder's, on average.
        """
        codes_NP = np.array(codes, dtype=np.int32)
        names = Renaming([], [])
        for position, size in enumerate(self.sizes):
            both = [
                (row, code[position])
                for row, code in known.items()
                if position < len(code) and code[position] < size
            ]
            rows, old_N = np.array(both, dtype=np.int32).reshape(-1, 2).T
            prefix_NP = codes_NP[rows, :position]
            distance_KK = self.regroup(documents.embeddings_NVD[rows], prefix_NP, old_N)
            names_K, kept_K = match_names(codes_NP[rows, position], old_N, distance_KK)
            names.names_PK.append(names_K)
            names.kept_PK.append(kept_K)
        for position, names_K in enumerate(names.names_PK):
            self._centroids_PKd[position][names_K] = self._centroids_PKd[position].copy()
        return names

    def regroup(self, embeddings_NVD: Floats, prefix_NP: Ints, group_N: Ints) -> Floats:
        """(K, K) distances from the numbers of the next position to the means of K groups of tools.

        The means are of what these tools' numbers so far leave of them; a group without tools is at
        the origin.
        """
        from scipy.spatial.distance import cdist

        position = prefix_NP.shape[1]
        residual_Nd = self.residual(embeddings_NVD, prefix_NP, position // self.levels)
        means_Kd = mean_by_number(residual_Nd, group_N, self.size).mean_KD
        distances: Floats = cdist(self._centroids_PKd[position].astype(np.float64), means_Kd)
        return distances

    def _follow(self, embeddings_NVD: Floats, codes_NP: Ints) -> None:
        """Centroids as the mean of their members' residuals, in the space as it is now.

        One without members follows the linear map (least squares) that takes the other old
        centroids of its level to the new ones.
        """
        self._centroids_PKd = self._centroids_PKd.copy()  # a codebook before may have this array
        for position, old_Kd in enumerate(self._centroids_PKd.astype(np.float64)):
            view = position // self.levels
            residual_Nd = self.residual(embeddings_NVD, codes_NP[:, :position], view)
            new_Kd, filled_K = mean_by_number(residual_Nd, codes_NP[:, position], self.size)
            map_dd = np.linalg.lstsq(old_Kd[filled_K], new_Kd[filled_K])[0]
            new_Kd[~filled_K] = old_Kd[~filled_K] @ map_dd
            self._centroids_PKd[position] = new_Kd


def match_names(
    new_N: Ints, old_N: Ints, distance_KK: Floats
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """(K) an old number for each new one, all different, and which of them share a tool.

    As many tools as can be keep their number; of equal matchings the one of least total distance
    from new to old numbers (A41), where numbers without a tool in common are farthest apart.

    Args:
        new_N: new numbers of N tools.
        old_N: their old ones.
        distance_KK: from each new number to each old one.
    """
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

    size = len(distance_KK)
    shared_KK = np.zeros((size, size))
    np.add.at(shared_KK, (new_N, old_N), 1)
    farthest = distance_KK.max(initial=0.0, where=shared_KK > 0) or 1.0
    # Size times the greatest tie-break is less than one tool.
    tie_KK = np.where(shared_KK > 0, distance_KK / farthest, 1.0) / (size + 1)
    _, names_K = linear_sum_assignment(tie_KK - shared_KK)
    kept_K = shared_KK[np.arange(size), names_K] > 0
    # The others take the names left over, lowest first.
    names_K[~kept_K] = np.sort(names_K[~kept_K])
    return names_K.astype(np.int64), kept_K


class Means(NamedTuple):
    """Means of the members of each number."""

    mean_KD: Floats
    """Zero for a number without members."""
    filled_K: npt.NDArray[np.bool_]
    """Which numbers have members."""


def mean_by_number(values_ND: Floats, numbers_N: Ints, size: int) -> Means:
    """Mean of each number's members."""
    count_K = np.bincount(numbers_N, minlength=size)
    sum_KD = np.zeros((size, values_ND.shape[1]))
    np.add.at(sum_KD, numbers_N, values_ND)
    return Means(sum_KD / np.maximum(count_K, 1)[:, None], count_K > 0)


def mean_rows(
    vectors_ND: Floats, codes_NP: Ints, sizes: Sequence[int], levels: int
) -> list[Floats]:
    """P arrays (K, D): what each number's members still are at its level, averaged.

    The first level averages the vectors, the next what the rows before leave of them, and so on
    for each view: the rows of a code add up to nearly its tool's vector (A20, by the way of §2.4).
    A number without members gets the mean of its level.
    """
    rows: list[Floats] = []
    residual_ND = vectors_ND
    for position, size in enumerate(sizes):
        if position % levels == 0:
            residual_ND = vectors_ND.astype(np.float64)
        rows_KD, filled_K = mean_by_number(residual_ND, codes_NP[:, position], size)
        residual_ND = residual_ND - rows_KD[codes_NP[:, position]]
        # A number whose only members were alone on the level before has nothing left to average.
        filled_K &= np.linalg.norm(rows_KD, axis=1) > 1e-9 * np.abs(vectors_ND).max(initial=1e-30)
        rest_KD = rows_KD[filled_K] if filled_K.any() else vectors_ND
        rows_KD[~filled_K] = rest_KD.mean(axis=0)
        rows.append(rows_KD)
    return rows
