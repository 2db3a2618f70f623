"""Deep residual clustering: PCA, then L levels of k-means on what the level before left.

Structure-aware semantic tokenisation (SGTC), algorithms §2.3 and §2.4, with the choices A14, A15
and A27. scikit-learn and scipy are imported where they are used: a fitted coder loads with numpy.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from factory.codes.arrays import Code, Floats, load_arrays
from factory.codes.base import Seen
from factory.codes.levels import LevelCoder, mean_by_number

RESTARTS = 10
"""Starts of k-means++; the best is kept (A14)."""
ITERATIONS = 300
"""Steps of k-means at most (A14)."""
LARGE = 2_000_000
"""Tools by numbers above which k-means takes the quick way: with many centroids starts hardly
differ, and single precision, a start from a sample and an end at QUICK_ITERATIONS change the error
by a thousandth (`python -m bench.coders`)."""
QUICK_ITERATIONS = 30
"""Steps of the quick way at most."""
QUICK_SAMPLE = 32
"""Tools a number that the quick way starts from."""


class ResidualCoder(LevelCoder):
    """PCA and residual k-means, one chain of levels for each of a tool's V embeddings.

    Example: coder = ResidualCoder(levels=2, size=512); coder.fit(Seen(embeddings_NVD)).
    """

    name: ClassVar[str] = "residual"

    def __init__(self, *, levels: int, size: int, dims: int = 32) -> None:
        super().__init__(levels=levels, size=size)
        self.dims = dims
        """Dimensions that PCA keeps (d), at most."""
        self._mean_VD: Floats = np.zeros((0, 0), dtype=np.float32)
        self._components_VdD: Floats = np.zeros((0, 0, 0), dtype=np.float32)

    @property
    def width(self) -> int:
        return self._mean_VD.size

    def fit(self, documents: Seen) -> None:
        """Fit on at least as many tools as a level has numbers; the same bytes for the same seed.

        Centroids are found in double and stored in single precision; the levels see the stored
        ones, so that encoding the same embeddings again returns the same codes (check 11).
        """
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        embeddings_NVD = documents.embeddings_NVD
        num_tools, num_views, width = embeddings_NVD.shape
        if num_tools < self.size:
            raise ValueError(f"{num_tools} tools are too few for {self.size} codes a level")
        # One thread: sums of several would be added in an order that changes from run to run.
        with threadpool_limits(1):
            self._fit_spaces(embeddings_NVD, min(self.dims, width, num_tools))
            levels = [
                centroids_Kd
                for view in range(num_views)
                for centroids_Kd in fit_levels(
                    self.project(embeddings_NVD, view), self.size, self.levels, documents.seed, view
                )
            ]
        self._centroids_PKd = np.stack(levels)

    @property
    def directions(self) -> list[Floats | None]:
        """By position: (d, D) what PCA keeps of a state; None where rows average whole states."""
        return [
            self._components_VdD[position // self.levels] if position % self.levels else None
            for position in range(len(self.sizes))
        ]

    def project(self, embeddings_NVD: Floats, view: int) -> Floats:
        centred_ND = embeddings_NVD[:, view].astype(np.float64) - self._mean_VD[view]
        reduced_Nd: Floats = centred_ND @ self._components_VdD[view].T.astype(np.float64)
        return reduced_Nd

    def rows(self, documents: Seen, codes: Sequence[Code]) -> list[Floats]:
        """Reframed embeddings (§2.4): the mean of what a code's members still were at its level.

        Level 1 averages the original outputs, level l the residuals after level l - 1 put back
        into the model's width by the linear part of PCA alone (A15: a residual is a difference,
        adding the data's mean would give all rows one large common part). A code without members
        gets the mean of its level.
        """
        embeddings_NVD, codes_NP = documents.embeddings_NVD, np.array(codes, dtype=np.int32)
        rows = []
        for position in range(codes_NP.shape[1]):
            view, level = divmod(position, self.levels)
            if level == 0:
                original_ND = embeddings_NVD[:, view].astype(np.float64)
            else:
                residual_Nd = self.residual(embeddings_NVD, codes_NP[:, :position], view)
                original_ND = residual_Nd @ self._components_VdD[view].astype(np.float64)
            rows_KD, filled_K = mean_by_number(original_ND, codes_NP[:, position], self.size)
            rows_KD[~filled_K] = rows_KD[filled_K].mean(axis=0)
            rows.append(rows_KD)
        return rows

    def refresh(self, documents: Seen, codes: Sequence[Code]) -> None:
        """New PCA and centroids in another space, with every tool's code as it is."""
        from threadpoolctl import threadpool_limits

        embeddings_NVD = documents.embeddings_NVD
        with threadpool_limits(1):
            self._fit_spaces(embeddings_NVD, self._components_VdD.shape[1])
            self._follow(embeddings_NVD, np.array(codes, dtype=np.int32))

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
    def load(cls, path: Path) -> Self:
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


def fit_levels(
    points_Nd: Floats, size: int, levels: int, seed: int, view: int = 0, *, quick: bool = False
) -> list[Floats]:
    """L arrays (K, d) of centroids, single precision; each level sees what the one before left."""
    from scipy.spatial.distance import cdist  # type: ignore[import-untyped]

    found = []
    residual_Nd = points_Nd
    for level in range(levels):
        state = (seed + view * levels + level) % 2**32
        centroids_Kd = cluster(residual_Nd, size, state, quick=quick).astype(np.float32)
        found.append(centroids_Kd)
        nearest_N = cdist(residual_Nd, centroids_Kd.astype(np.float64)).argmin(axis=1)
        residual_Nd = residual_Nd - centroids_Kd[nearest_N]
    return found


def cluster(points_Nd: Floats, size: int, state: int, *, quick: bool = False) -> Floats:
    """(K, d) centroids of k-means: the best of RESTARTS, or the quick way (of LARGE at least)."""
    from sklearn.cluster import KMeans, kmeans_plusplus
    from sklearn.exceptions import ConvergenceWarning

    if len(points_Nd) * size <= LARGE and not quick:
        means = KMeans(size, n_init=RESTARTS, max_iter=ITERATIONS, random_state=state)
    else:
        points_Nd = np.ascontiguousarray(points_Nd, dtype=np.float32)
        sample = np.random.default_rng(state).permutation(len(points_Nd))[: QUICK_SAMPLE * size]
        start_Kd, _ = kmeans_plusplus(points_Nd[sample], size, random_state=state)
        means = KMeans(size, init=start_Kd, n_init=1, max_iter=QUICK_ITERATIONS, random_state=state)
    with warnings.catch_warnings():
        # Fewer distinct residuals than codes: the codes left over stay without members.
        warnings.simplefilter("ignore", ConvergenceWarning)
        means.fit(points_Nd)
    centroids_Kd: Floats = means.cluster_centers_
    return centroids_Kd
