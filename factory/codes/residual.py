"""Deep residual clustering: PCA, then L levels of k-means on what the level before left.

Structure-aware semantic tokenisation (SGTC), algorithms §2.3 and §2.4, with the choices A14, A15
and A27. scikit-learn and scipy are imported where they are used: a fitted coder loads with numpy.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from factory.codes.base import Encoding, Floats, Ints, as_NVD, encode_greedily, load_arrays

CAPACITY = 20
"""Codes per tool that the default depth leaves room for (A27)."""
TOOLS_PER_CODE = 8
"""A level has at most one code for so many tools (A14)."""
RESTARTS = 10
"""Starts of k-means++; the best is kept (A14)."""
ITERATIONS = 300
"""Steps of k-means at most (A14)."""


class Shape(NamedTuple):
    """Size of a codebook."""

    size: int
    """Numbers of a position (K)."""
    levels: int
    """Levels of an embedding (L)."""


def choose_shape(num_tools: int, size: int, levels: int | None = None, views: int = 1) -> Shape:
    """K capped at N // 8 (A14) and, without `levels`, the smallest L with K**(V L) >= 20 N (A27).

    >>> choose_shape(64, 512)
    Shape(size=8, levels=4)
    """
    capped = max(2, min(size, num_tools // TOOLS_PER_CODE))
    if levels:
        return Shape(capped, levels)
    depth = 1
    while capped ** (views * depth) < CAPACITY * num_tools:
        depth += 1
    return Shape(capped, depth)


class ResidualCoder:
    """PCA and residual k-means, one chain of levels for each of a tool's V embeddings.

    Example: ResidualCoder(levels=2, size=512).fit(embeddings_NVD, seed=0).codes_NP.
    """

    name: ClassVar[str] = "residual"

    def __init__(self, *, levels: int, size: int, dims: int = 32) -> None:
        self.levels = levels
        """Levels of an embedding (L)."""
        self.size = size
        """Numbers of a position (K)."""
        self.dims = dims
        """Dimensions that PCA keeps (d), at most."""
        self._mean_VD: Floats = np.zeros((0, 0), dtype=np.float32)
        self._components_VdD: Floats = np.zeros((0, 0, 0), dtype=np.float32)
        self._centroids_PKd: Floats = np.zeros((0, 0, 0), dtype=np.float32)

    @property
    def sizes(self) -> tuple[int, ...]:
        return (self.size,) * len(self._centroids_PKd)

    def fit(self, embeddings_NVD: Floats, *, seed: int) -> Encoding:
        """Fit on at least as many tools as a level has numbers; the same bytes for the same seed.

        The codes come from the stored single-precision arrays, so that encoding the same
        embeddings again returns them exactly (check 11).
        """
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        embeddings_NVD = as_NVD(embeddings_NVD)
        num_tools, num_views, width = embeddings_NVD.shape
        if num_tools < self.size:
            raise ValueError(f"{num_tools} tools are too few for {self.size} codes a level")
        dims = min(self.dims, width, num_tools)
        # One thread: sums of several would be added in an order that changes from run to run.
        with threadpool_limits(1):
            self._fit_spaces(embeddings_NVD, dims)
            self._centroids_PKd = np.stack(
                [
                    centroids
                    for view in range(num_views)
                    for centroids in self._fit_levels(embeddings_NVD[:, view], view, seed)
                ]
            )
            return self.encode(embeddings_NVD)

    def encode(self, embeddings_NVD: Floats) -> Encoding:
        return encode_greedily(self, as_NVD(embeddings_NVD))

    def distances(self, embeddings_NVD: Floats, prefix_NP: Ints) -> Floats:
        from scipy.spatial.distance import cdist  # type: ignore[import-untyped]

        position = prefix_NP.shape[1]
        residual_Nd = self._residual(embeddings_NVD, prefix_NP, position // self.levels)
        centroids_Kd = self._centroids_PKd[position].astype(np.float64)
        # cdist subtracts pair by pair: a row's distances do not depend on the rows beside it.
        distances: Floats = cdist(residual_Nd, centroids_Kd)
        return distances

    def errors(self, embeddings_NVD: Floats, codes_NP: Ints) -> Floats:
        """Root of the summed squares of what is left of the V embeddings after the last level."""
        embeddings_NVD = as_NVD(embeddings_NVD)
        squares = [
            (self._residual(embeddings_NVD, codes_NP, view) ** 2).sum(axis=1)
            for view in range(embeddings_NVD.shape[1])
        ]
        errors_N: Floats = np.sqrt(np.sum(squares, axis=0))
        return errors_N

    def rows(self, embeddings_NVD: Floats, codes_NP: Ints) -> list[Floats]:
        """Reframed embeddings (§2.4): the mean of what a code's members still were at its level.

        Level 1 averages the original outputs, level l the residuals after level l - 1 put back
        into the model's width by the linear part of PCA alone (A15: a residual is a difference,
        adding the data's mean would give all rows one large common part). A code without members
        gets the mean of its level.
        """
        embeddings_NVD = as_NVD(embeddings_NVD)
        rows = []
        for position in range(codes_NP.shape[1]):
            view, level = divmod(position, self.levels)
            if level == 0:
                original_ND = embeddings_NVD[:, view].astype(np.float64)
            else:
                residual_Nd = self._residual(embeddings_NVD, codes_NP[:, :position], view)
                original_ND = residual_Nd @ self._components_VdD[view].astype(np.float64)
            rows_KD, filled_K = _mean_by_code(original_ND, codes_NP[:, position], self.size)
            rows_KD[~filled_K] = rows_KD[filled_K].mean(axis=0)
            rows.append(rows_KD)
        return rows

    def refresh(self, embeddings_NVD: Floats, codes_NP: Ints) -> None:
        """New PCA and centroids in another space, with every tool's code as it is.

        A centroid becomes the mean residual of its members. One without members follows the
        linear map (least squares) that takes the other old centroids of its level to the new.
        """
        from threadpoolctl import threadpool_limits

        embeddings_NVD = as_NVD(embeddings_NVD)
        with threadpool_limits(1):
            self._fit_spaces(embeddings_NVD, self._components_VdD.shape[1])
            for position, old_Kd in enumerate(self._centroids_PKd.astype(np.float64)):
                view = position // self.levels
                residual_Nd = self._residual(embeddings_NVD, codes_NP[:, :position], view)
                new_Kd, filled_K = _mean_by_code(residual_Nd, codes_NP[:, position], self.size)
                map_dd = np.linalg.lstsq(old_Kd[filled_K], new_Kd[filled_K])[0]
                new_Kd[~filled_K] = old_Kd[~filled_K] @ map_dd
                self._centroids_PKd[position] = new_Kd

    def save(self, path: Path) -> None:
        with path.open("wb") as file:
            np.savez(
                file,
                levels=np.int64(self.levels),
                mean=self._mean_VD,
                components=self._components_VdD,
                centroids=self._centroids_PKd,
            )

    @classmethod
    def load(cls, path: Path) -> ResidualCoder:
        """Read a saved coder. ModelError if the file is missing or is not one."""
        arrays = load_arrays(path, ("levels", "mean", "components", "centroids"))
        centroids, components = arrays["centroids"], arrays["components"]
        coder = cls(levels=int(arrays["levels"]), size=centroids.shape[1], dims=components.shape[1])
        coder._mean_VD, coder._components_VdD = arrays["mean"], components
        coder._centroids_PKd = centroids
        return coder

    def _fit_spaces(self, embeddings_NVD: Floats, dims: int) -> None:
        """One PCA for each of the V embeddings, over all tools (A14)."""
        from sklearn.decomposition import PCA

        with np.errstate(invalid="ignore"):  # shares of a variance of zero: equal documents
            spaces = [
                PCA(n_components=dims, svd_solver="full").fit(embeddings_ND.astype(np.float64))
                for embeddings_ND in embeddings_NVD.swapaxes(0, 1)
            ]
        self._mean_VD = np.stack([space.mean_ for space in spaces]).astype(np.float32)
        self._components_VdD = np.stack([s.components_ for s in spaces]).astype(np.float32)

    def _fit_levels(self, embeddings_ND: Floats, view: int, seed: int) -> list[Floats]:
        """L arrays (K, d) of centroids; each level sees what the one before left (§2.3)."""
        from scipy.spatial.distance import cdist
        from sklearn.cluster import KMeans
        from sklearn.exceptions import ConvergenceWarning

        levels = []
        residual_Nd = self._project(embeddings_ND, view)
        for level in range(self.levels):
            state = (seed + view * self.levels + level) % 2**32
            means = KMeans(self.size, n_init=RESTARTS, max_iter=ITERATIONS, random_state=state)
            with warnings.catch_warnings():
                # Fewer distinct residuals than codes: the codes left over stay without members.
                warnings.simplefilter("ignore", ConvergenceWarning)
                means.fit(residual_Nd)
            centroids_Kd = means.cluster_centers_.astype(np.float32)
            levels.append(centroids_Kd)
            nearest_N = cdist(residual_Nd, centroids_Kd.astype(np.float64)).argmin(axis=1)
            residual_Nd = residual_Nd - centroids_Kd[nearest_N]
        return levels

    def _project(self, embeddings_ND: Floats, view: int) -> Floats:
        """(N, d) in double precision."""
        centred_ND = embeddings_ND.astype(np.float64) - self._mean_VD[view]
        reduced_Nd: Floats = centred_ND @ self._components_VdD[view].T.astype(np.float64)
        return reduced_Nd

    def _residual(self, embeddings_NVD: Floats, prefix_NP: Ints, view: int) -> Floats:
        """(N, d) what the numbers given for this view leave of it."""
        residual_Nd = self._project(embeddings_NVD[:, view], view)
        start = view * self.levels
        for position in range(start, min(start + self.levels, prefix_NP.shape[1])):
            residual_Nd = residual_Nd - self._centroids_PKd[position][prefix_NP[:, position]]
        return residual_Nd


class _Means(NamedTuple):
    mean_KD: Floats
    filled_K: np.ndarray[tuple[int], np.dtype[np.bool_]]


def _mean_by_code(values_ND: Floats, codes_N: Ints, size: int) -> _Means:
    """Mean of each code's members, and which codes have any (the others' rows are 0)."""
    mean_KD = np.zeros((size, values_ND.shape[1]))
    filled_K = np.zeros(size, dtype=np.bool_)
    for code in np.unique(codes_N):
        mean_KD[code] = values_ND[codes_N == code].mean(axis=0)
        filled_K[code] = True
    return _Means(mean_KD, filled_K)
