"""What codes can still tell apart: how often the tool that is asked for lies nearest by them.

A request is embedded as documents are, and the nearest tool is looked up by whole embeddings, by
what PCA keeps of them, and by what codes keep of that: the sum of their centroids. No language
model takes part: this is what codes made of documents say of them before one has learnt anything.

Suffixes: Q requests, U points that differ.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from factory.codes.arrays import Code, Floats
from factory.codes.base import CHUNK, Coder, OnProgress, silent
from factory.codes.levels import LevelCoder, choose_shape
from factory.codes.residual import QUICK_SAMPLE, fit_levels

DIMS = (32, 64, 128, 256)
"""Dimensions of the curve, as far as embeddings have them."""
LEVELS = (2, 3, 4)
QUICK_FROM = 200_000
"""Tools by numbers from which the curve's codes are fitted the quick way, from a sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookups:
    """Q requests, and the rows of the tools that answer each: any of them will do."""

    embeddings_QVD: Floats
    """As those of documents."""
    wanted: Sequence[Collection[int]]


class Kept(NamedTuple):
    """A way to keep documents. Example: Kept("codes", dims=128, levels=2, size=309, found=0.31)."""

    what: str
    """`whole`, `pca`, `codes` (residual ones), or `these`: the codebook at hand."""
    dims: int
    levels: int
    """0 where nothing is coded, and `size` too."""
    size: int
    found: float
    """Share of the requests that find a tool they ask for first (NDCG@1)."""


def tell_apart(
    coder: Coder,
    codes: Sequence[Code],
    documents_NVD: Floats,
    asked: Lookups,
    *,
    size: int,
    seed: int = 0,
    on_progress: OnProgress = silent,
) -> list[Kept]:
    """By whole embeddings, by these codes, and by the curve of others; nothing for other coders.

    Args:
        coder: which made them.
        codes: of the N tools.
        documents_NVD: their embeddings.
        asked: what is looked up.
        size: numbers of a position in the curve, at most; a quarter of it is tried too.
        seed: of clustering.
        on_progress: hears of the dimensions done.
    """
    if not isinstance(coder, LevelCoder):
        return []
    queries_QVD, wanted = asked.embeddings_QVD, asked.wanted
    width = documents_NVD[0].size
    kept_Nd, queries_Qd = coder.kept(codes), coder.project_all(queries_QVD)
    own = find_first(kept_Nd, queries_Qd, wanted)
    chains = len(coder.sizes) // coder.levels
    return [
        Kept("whole", width, 0, 0, find_first(_flat(documents_NVD), _flat(queries_QVD), wanted)),
        Kept("these", kept_Nd.shape[1] // chains, coder.levels, coder.size, own),
        *_curve(documents_NVD, asked, choose_shape(len(codes), size).size, seed, on_progress),
    ]


def find_first(points_ND: Floats, queries_QD: Floats, wanted: Sequence[Collection[int]]) -> float:
    """Share of requests whose nearest point is a wanted tool's; tools of one point share it."""
    points_UD, group_N = np.unique(points_ND, axis=0, return_inverse=True)
    group_N = group_N.reshape(-1)
    count_U, square_U = np.bincount(group_N), (points_UD**2).sum(axis=1)
    found = 0.0
    for start in range(0, len(queries_QD), CHUNK):
        rows = slice(start, start + CHUNK)
        nearest_Q = (square_U - 2 * queries_QD[rows] @ points_UD.T).argmin(axis=1)
        found += sum(
            sum(group_N[row] == group for row in tools) / count_U[group]
            for group, tools in zip(nearest_Q, wanted[rows], strict=True)
        )
    return float(found / max(1, len(wanted)))


def _curve(
    documents_NVD: Floats, asked: Lookups, size: int, seed: int, on_progress: OnProgress
) -> Iterator[Kept]:
    """PCA at each number of dimensions, and residual codes of it at each depth."""
    spaces = [
        _reduce(documents_NVD[:, view], asked.embeddings_QVD[:, view])
        for view in range(documents_NVD.shape[1])
    ]
    points_NVd, queries_QVd = (np.stack(each, axis=1) for each in zip(*spaces, strict=True))
    most = points_NVd.shape[2]
    all_dims = sorted({min(dims, most) for dims in DIMS})
    for done, dims in enumerate(all_dims):
        on_progress(done, f"{dims} dims", len(all_dims))
        part_NVd, asked_Qd = points_NVd[:, :, :dims], _flat(queries_QVd[:, :, :dims])
        yield Kept("pca", dims, 0, 0, find_first(_flat(part_NVd), asked_Qd, asked.wanted))
        for each in sorted({max(2, size // 4), size}):
            for level, kept_NVd in enumerate(_code(part_NVd, each, seed), 1):
                if level in LEVELS:
                    found = find_first(_flat(kept_NVd), asked_Qd, asked.wanted)
                    yield Kept("codes", dims, level, each, found)
    on_progress(len(all_dims), "", len(all_dims))


def _reduce(documents_ND: Floats, queries_QD: Floats) -> tuple[Floats, Floats]:
    """Both in the most dimensions of the curve, the widest first: any fewer are the first ones."""
    from sklearn.decomposition import PCA

    with np.errstate(invalid="ignore"):  # shares of a variance of zero: equal documents
        space = PCA(min(*documents_ND.shape, max(DIMS)), svd_solver="full").fit(
            documents_ND.astype(np.float64)
        )
    reduced = (space.transform(each.astype(np.float64)) for each in (documents_ND, queries_QD))
    first_Nd, second_Qd = reduced
    return first_Nd, second_Qd


def _code(points_NVd: Floats, size: int, seed: int) -> Iterator[Floats]:
    """What residual codes keep after each level."""
    from scipy.spatial.distance import cdist  # type: ignore[import-untyped]

    sample = np.random.default_rng(seed).permutation(len(points_NVd))[: QUICK_SAMPLE * size]
    views, levels = range(points_NVd.shape[1]), max(LEVELS)
    quick = len(points_NVd) * size >= QUICK_FROM
    books = [
        fit_levels(points_NVd[sample, view], size, levels, seed, view, quick=quick)
        for view in views
    ]
    kept_NVd = np.zeros_like(points_NVd)
    for level in range(levels):
        for view in views:
            book_Kd = books[view][level].astype(np.float64)
            left_Nd = points_NVd[:, view] - kept_NVd[:, view]
            kept_NVd[:, view] += book_Kd[cdist(left_Nd, book_Kd).argmin(axis=1)]
        yield kept_NVd


def _flat(values_NVD: Floats) -> Floats:
    flat_ND: Floats = values_NVD.reshape(len(values_NVD), -1).astype(np.float64)
    return flat_ND
