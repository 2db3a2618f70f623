"""`python -m bench.coders`: the fit of residual codes beside other ways to find their centroids.

N points of 32 dimensions (a mixture of services, resources and operations, uneven in size) are
coded in two levels of 512 by each way, on one thread: error as the share of variance that is left,
wall and CPU seconds, and the ratio of CPU seconds to those of the way that the factory takes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import numpy as np
from scipy.spatial.distance import cdist  # type: ignore[import-untyped]
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from bench.table import Cell, print_machine, print_table
from factory.codes.arrays import Floats
from factory.codes.residual import fit_levels

Ways = Iterator[tuple[str, Callable[[Floats], list[Floats]]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--points", type=int, default=47_000)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--levels", type=int, default=2)
    arguments = parser.parse_args()
    print_machine("scikit-learn", "faiss-cpu")
    points_Nd = make_points(arguments.points)
    rows: list[list[Cell]] = []
    with threadpool_limits(1):
        for name, find in ways(arguments.size, arguments.levels):
            wall, cpu = time.perf_counter(), time.process_time()
            left_Nd = find_rest(points_Nd, find(points_Nd))
            seconds = time.perf_counter() - wall, time.process_time() - cpu
            error = float((left_Nd**2).sum(axis=1).mean() / points_Nd.var(axis=0).sum())
            rows.append(
                [name, error, *seconds, seconds[1] / float(rows[0][3] or 1) if rows else 1.0]
            )
    title = f"{arguments.points:,} x 32 points, {arguments.levels} levels of {arguments.size}"
    print_table(title, ("way", "variance left", "wall s", "cpu s", "ratio"), rows)


def make_points(count: int) -> Floats:
    """(N, 32) points in clusters within clusters, of uneven size, some directions wider."""
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, 601)
    service_N = rng.choice(600, count, p=share / share.sum())
    resource_N = service_N * 10 + rng.integers(0, 10, count)
    points_Nd: Floats = rng.normal(size=(600, 32))[service_N]
    points_Nd = points_Nd + rng.normal(size=(6000, 32))[resource_N] * 0.6
    return (points_Nd + rng.normal(size=(count, 32)) * 0.3) * np.linspace(1.5, 0.3, 32)


def ways(size: int, levels: int) -> Ways:
    """Names, and functions from points to the centroids of each level; ours first."""
    yield "factory (scikit-learn, quick)", lambda x: fit_levels(x, size, levels, seed=0)
    yield "scikit-learn KMeans", lambda x: by_level(x, levels, lambda r: whole(r, size))
    yield "scikit-learn MiniBatchKMeans", lambda x: by_level(x, levels, lambda r: mini(r, size))
    try:
        import faiss
    except ImportError:
        print("faiss is not installed: its rows are left out")
        return
    faiss.omp_set_num_threads(1)
    for steps in (25, 100):
        yield f"faiss.Kmeans, {steps} steps", faiss_by_level(size, levels, steps)
    if size & (size - 1) == 0:
        yield "faiss.ResidualQuantizer", lambda x: by_quantizer(x, size, levels)


def faiss_by_level(size: int, levels: int, steps: int) -> Callable[[Floats], list[Floats]]:
    """Levels of faiss.Kmeans, each over all points."""
    import faiss

    def cluster(rest_Nd: Floats) -> Floats:
        points_Nd = np.ascontiguousarray(rest_Nd, dtype=np.float32)
        means = faiss.Kmeans(
            points_Nd.shape[1], size, niter=steps, seed=1, max_points_per_centroid=len(points_Nd)
        )
        means.train(points_Nd)
        found_Kd: Floats = np.asarray(means.centroids)
        return found_Kd

    return lambda points_Nd: by_level(points_Nd, levels, cluster)


def whole(rest_Nd: Floats, size: int) -> Floats:
    from sklearn.cluster import KMeans

    found_Kd: Floats = KMeans(size, n_init=1, random_state=0).fit(rest_Nd).cluster_centers_
    return found_Kd


def mini(rest_Nd: Floats, size: int) -> Floats:
    from sklearn.cluster import MiniBatchKMeans

    means = MiniBatchKMeans(size, random_state=0, n_init=1, batch_size=4096).fit(rest_Nd)
    found_Kd: Floats = means.cluster_centers_
    return found_Kd


def by_level(points_Nd: Floats, levels: int, cluster: Callable[[Floats], Floats]) -> list[Floats]:
    """Centroids of each level, where a level sees what the one before left."""
    found: list[Floats] = []
    for _ in range(levels):
        found.append(cluster(find_rest(points_Nd, found)))
    return found


def by_quantizer(points_Nd: Floats, size: int, levels: int) -> list[Floats]:
    """faiss trains all levels with a beam; its codebooks are one array after the other."""
    import faiss

    quantizer = faiss.ResidualQuantizer(points_Nd.shape[1], levels, int(np.log2(size)))
    quantizer.train(np.ascontiguousarray(points_Nd, dtype=np.float32))
    books = faiss.vector_to_array(quantizer.codebooks).reshape(levels, size, -1)
    return list(books)


def find_rest(points_Nd: Floats, found: list[Floats]) -> Floats:
    """(N, d) what the nearest centroids leave, level after level."""
    for centroids_Kd in found:
        points_Nd = points_Nd - centroids_Kd[cdist(points_Nd, centroids_Kd).argmin(axis=1)]
    return points_Nd


if __name__ == "__main__":
    main()
