"""The published baselines: atomic, numeric, hierarchical and semantic codes (algorithms §3).

`atomic` is ToolGen's own choice, one token a tool; the other three are what it is compared with.
None of them adds more than atomic's tokens to the vocabulary, and a code once given is kept.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Self, TypeVar

import numpy as np
import numpy.typing as npt

from factory.codes.arrays import Code, Floats, load_arrays
from factory.codes.assign import anew, refuse_if_full
from factory.codes.base import Assignment, Coder, Layout, ResolvedBy, Seen, Taken

MAX_NAME = 64
"""Characters of a semantic code, the last ones of the name (§3.1)."""

_NOT_WORD = re.compile(r"\W+")

ItemT = TypeVar("ItemT")


class AtomicCoder(Coder):
    """One token a tool and one for Finish, in the order of insertion (ToolGen §3.1).

    The token is `<a_17>`, not the tool's name as in ToolGen: names collide (A34), and one token
    means the same to a model however it is spelt. Its row starts from the name all the same.
    """

    name: ClassVar[str] = "atomic"
    layout: ClassVar[Layout] = "tokens"
    own_finish: ClassVar[bool] = True

    def __init__(self, num_tools: int = 0) -> None:
        self.num_tools = num_tools
        """Tokens so far, that of Finish included."""

    @property
    def sizes(self) -> tuple[int, ...]:
        return (self.num_tools,)

    def assign(self, documents: Seen, taken: Taken) -> Assignment:
        start = len(taken)
        codes = [(start + row,) for row in range(len(documents))]
        self.num_tools = start + len(codes)
        return _assigned(codes, taken)

    def reserve(self, taken: Taken) -> Code:
        """A token of its own."""
        code = (len(taken),)
        taken.add(code)
        self.num_tools = len(taken)
        return code

    def save(self, path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, num_tools=np.int64(self.num_tools))

    @classmethod
    def load(cls, path: Path) -> Self:
        return cls(int(load_arrays(path, ("num_tools",))["num_tools"]))


class NumericCoder(Coder):
    """A running number, one digit a position: `0 0 1 2 8` (§3.2)."""

    name: ClassVar[str] = "numeric"
    layout: ClassVar[Layout] = "digits"

    def __init__(self, digits: int = 5) -> None:
        self.digits = digits
        """Positions of a code."""

    @property
    def sizes(self) -> tuple[int, ...]:
        return (10,) * self.digits

    def assign(self, documents: Seen, taken: Taken) -> Assignment:
        start = len(taken)
        self._refuse_if_full(start + len(documents), fitted=start > 0)
        return _assigned([self._spell(start + row) for row in range(len(documents))], taken)

    def reserve(self, taken: Taken) -> Code:
        """The next number: Finish is counted like a tool (§3.2)."""
        self._refuse_if_full(len(taken), finish=True)
        code = self._spell(len(taken))
        taken.add(code)
        return code

    def _refuse_if_full(
        self, num_tools: int, *, fitted: bool = False, finish: bool = False
    ) -> None:
        digits = len(str(num_tools))  # the largest number is Finish's
        remedy = f"set codes.digits = {digits}"
        if fitted:
            remedy = anew(f"--set codes.digits={digits} ", by_round=False)
        refuse_if_full(num_tools, math.prod(self.sizes), remedy, finish=finish)

    def _spell(self, number: int) -> Code:
        return tuple(int(digit) for digit in f"{number:0{self.digits}d}")

    def save(self, path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, digits=np.int64(self.digits))

    @classmethod
    def load(cls, path: Path) -> Self:
        return cls(int(load_arrays(path, ("digits",))["digits"]))


class SemanticCoder(Coder):
    """The tool's name, in the model's own words: `compress_for_imagon` (§3.2).

    A name that is taken is told apart by a number, since two tools may share it (A34).
    """

    name: ClassVar[str] = "semantic"
    layout: ClassVar[Layout] = "name"

    @property
    def sizes(self) -> tuple[int, ...]:
        return ()

    def assign(self, documents: Seen, taken: Taken) -> Assignment:
        wanted = [tuple(standard_name(name).encode()) for name in documents.names]
        codes = []
        for code in wanted:
            codes.append(next(free for free in _numbered(code) if free not in taken))
            taken.add(codes[-1])
        how: list[ResolvedBy] = [
            "nearest" if code == first else "sibling"
            for code, first in zip(codes, wanted, strict=True)
        ]
        return _assigned(codes, None, wanted, how)

    def reserve(self, taken: Taken) -> Code:
        """`Finish` itself: tools' names have no capitals (§3.2)."""
        code = tuple(b"Finish")
        taken.add(code)
        return code

    def save(self, path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, max_name=np.int64(MAX_NAME))

    @classmethod
    def load(cls, path: Path) -> Self:
        load_arrays(path, ("max_name",))
        return cls()


def standard_name(name: str) -> str:
    """A name as ToolBench spells it (§3.1): lower case, one `_` between words, the last 64.

    >>> standard_name("2Fast: Get Weather")
    'get_2fast_get_weather'
    """
    words = _NOT_WORD.sub("_", name.encode("utf-8", "replace").decode().lower()).strip("_")
    text = "get_" + words if words[:1].isdigit() else words
    return text[-MAX_NAME:] or "tool"


def _numbered(code: Code) -> Iterator[Code]:
    yield code
    number = 2
    while True:
        yield (*code, *f"_{number}".encode())
        number += 1


class HierarchicalCoder(Coder):
    """The path through a tree of clusters, one digit a level: `3 1 4` (§3.2).

    A cluster of more tools than branches is split by k-means into as many, again and again, so a
    crowded region has longer codes; where that leaves no digit for Finish, so is a full cluster. A
    new tool goes down to the nearest small cluster and takes its next free digit, or where that is
    full to the next nearest that has one.
    """

    name: ClassVar[str] = "hierarchical"
    layout: ClassVar[Layout] = "digits"
    reads_documents: ClassVar[bool] = True

    def __init__(self, branches: int = 10, dims: int = 32) -> None:
        self.branches = branches
        """Children of a cluster; at most 10, one a digit."""
        self.dims = dims
        """Dimensions that PCA keeps (d), at most."""
        self._mean_D: Floats = np.zeros(0, dtype=np.float32)
        self._components_dD: Floats = np.zeros((0, 0), dtype=np.float32)
        self._centroids: dict[Code, Floats] = {}
        self._fitted: list[Code] = []

    @property
    def sizes(self) -> tuple[int, ...]:
        depth = max((len(path) for path in self._centroids), default=0) + 1
        return (self.branches,) * (depth + (1 if self._centroids else 0))

    @property
    def width(self) -> int:
        return self._mean_D.size

    def fit(self, documents: Seen) -> None:
        self._fit_space(documents.embeddings_NVD)
        points_Nd = self._project(documents.embeddings_NVD)
        for limit in (self.branches, self.branches - 1):
            self._centroids, self._fitted = {}, [()] * len(points_Nd)
            self._split(
                points_Nd, np.arange(len(points_Nd)), (), self._fitted, documents.seed, limit
            )
            if len(points_Nd) < self._capacity:  # else no digit is left for Finish
                break

    def assign(self, documents: Seen, taken: Taken) -> Assignment:
        """Codes of the fit for the tools it was fitted on, else down the tree, one by one."""
        points_Nd = self._project(documents.embeddings_NVD)
        error_N = self.first_errors(documents)
        if self._fitted and not len(taken) and len(self._fitted) == len(points_Nd):
            codes, self._fitted = self._fitted, []
            return _assigned(codes, taken, error_N=error_N)
        refuse_if_full(len(taken) + len(points_Nd), self._capacity, anew())
        codes, wanted = [], []
        for point_d in points_Nd:
            free = ((p, taken.free(p, self.branches)) for p in self._paths(point_d, ()))
            tried = list(_until(free, lambda found: len(found[1]) > 0))
            path, digits = tried[-1]
            codes.append((*path, int(digits[0])))
            wanted.append(codes[-1] if len(tried) == 1 else tried[0][0])
            taken.add(codes[-1])
        how: list[ResolvedBy] = [
            "nearest" if code == first else "prefix"
            for code, first in zip(codes, wanted, strict=True)
        ]
        return _assigned(codes, None, wanted, how, error_N)

    def reserve(self, taken: Taken) -> Code:
        """A free digit of the last small cluster that has one, as `fit` leaves at least one."""
        free = ((path, taken.free(path, self.branches)) for path in reversed(self._leaves()))
        path, digits = next(found for found in free if len(found[1]))
        code = (*path, int(digits[-1]))
        taken.add(code)
        return code

    def refresh(self, documents: Seen, codes: Sequence[Code]) -> None:
        """New PCA, and every cluster's centre as the mean of its members."""
        self._fit_space(documents.embeddings_NVD)
        points_Nd = self._project(documents.embeddings_NVD)
        members: dict[Code, list[int]] = {}
        for row, code in enumerate(codes):
            for length in range(1, len(code)):
                members.setdefault(code[:length], []).append(row)
        self._centroids = {
            path: np.stack(
                [points_Nd[members[(*path, child)]].mean(axis=0) for child in range(len(old_Cd))]
            ).astype(np.float32)
            for path, old_Cd in self._centroids.items()
        }

    def nearest(self, documents: Seen, codes: Sequence[Code]) -> npt.NDArray[np.bool_]:
        points_Nd = self._project(documents.embeddings_NVD)
        paths = [next(self._paths(point_d, ())) for point_d in points_Nd]
        return np.array([path == code[:-1] for path, code in zip(paths, codes, strict=True)])

    def save(self, path: Path) -> None:
        paths = sorted(self._centroids)
        depth = max((len(p) for p in paths), default=0)
        padded = [[*p, *[-1] * (depth - len(p))] for p in paths]
        with path.open("wb") as file:
            np.savez(
                file,
                branches=np.int64(self.branches),
                mean=self._mean_D,
                components=self._components_dD,
                paths=np.array(padded, dtype=np.int32).reshape(len(paths), depth),
                counts=np.array([len(self._centroids[p]) for p in paths], dtype=np.int32),
                centroids=np.concatenate(
                    [np.zeros((0, len(self._components_dD)), dtype=np.float32)]
                    + [self._centroids[p] for p in paths]
                ),
            )

    @classmethod
    def load(cls, path: Path) -> Self:
        names = ("branches", "mean", "components", "paths", "counts", "centroids")
        arrays = load_arrays(path, names)
        coder = cls(branches=int(arrays["branches"]), dims=len(arrays["components"]))
        coder._mean_D, coder._components_dD = arrays["mean"], arrays["components"]
        parts = np.split(arrays["centroids"], np.cumsum(arrays["counts"])[:-1])
        for row, centroids_Cd in zip(arrays["paths"].tolist(), parts, strict=False):
            coder._centroids[tuple(n for n in row if n >= 0)] = centroids_Cd
        return coder

    def _fit_space(self, embeddings_NVD: Floats) -> None:
        from sklearn.decomposition import PCA
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        flat_ND = embeddings_NVD.reshape(len(embeddings_NVD), -1).astype(np.float64)
        dims = min(self.dims, *flat_ND.shape)
        # One thread, one order of summing; shares of a variance of zero: equal documents.
        with threadpool_limits(1), np.errstate(invalid="ignore"):
            space = PCA(n_components=dims, svd_solver="full").fit(flat_ND)
        self._mean_D = space.mean_.astype(np.float32)
        self._components_dD = space.components_.astype(np.float32)

    def _project(self, embeddings_NVD: Floats) -> Floats:
        flat_ND = embeddings_NVD.reshape(len(embeddings_NVD), -1).astype(np.float64)
        points_Nd: Floats = (flat_ND - self._mean_D) @ self._components_dD.T.astype(np.float64)
        return points_Nd

    def _split(
        self,
        points_Nd: Floats,
        rows: npt.NDArray[np.int64],
        path: Code,
        codes: list[Code],
        seed: int,
        limit: int,
    ) -> None:
        """Number the tools of a cluster of at most `limit`; split a larger one and go on there."""
        if len(rows) <= limit:
            for digit, row in enumerate(rows):
                codes[row] = (*path, digit)
            return
        child_R = _cluster(points_Nd[rows], self.branches, seed)
        parts = [rows[child_R == child] for child in range(child_R.max() + 1)]
        self._centroids[path] = np.stack([points_Nd[part].mean(axis=0) for part in parts]).astype(
            np.float32
        )
        for child, part in enumerate(parts):
            self._split(points_Nd, part, (*path, child), codes, seed, limit)

    @property
    def _capacity(self) -> int:
        """Codes that there are, given or free."""
        return len(self._leaves()) * self.branches

    def _leaves(self) -> list[Code]:
        """Paths of the small clusters."""
        children = [
            (*p, child) for p, c_Cd in self._centroids.items() for child in range(len(c_Cd))
        ]
        return [path for path in children if path not in self._centroids] or [()]

    def _paths(self, point_d: Floats, path: Code) -> Iterator[Code]:
        """Small clusters in depth-first order, the nearest child first."""
        if path not in self._centroids:
            yield path
            return
        order = np.argsort(((self._centroids[path] - point_d) ** 2).sum(axis=1), kind="stable")
        for child in order:
            yield from self._paths(point_d, (*path, int(child)))

    def first_errors(self, documents: Seen) -> Floats:
        """(N) distances to the nearest cluster of the first split; 0 where there is none."""
        from scipy.spatial.distance import cdist  # type: ignore[import-untyped]

        if () not in self._centroids:
            return np.zeros(len(documents))
        points_Nd = self._project(documents.embeddings_NVD)
        errors_N: Floats = cdist(points_Nd, self._centroids[()].astype(np.float64)).min(axis=1)
        return errors_N


def _until(items: Iterable[ItemT], good: Callable[[ItemT], bool]) -> Iterator[ItemT]:
    """The items up to the first good one, which is included."""
    for item in items:
        yield item
        if good(item):
            return


def _cluster(points_Nd: Floats, size: int, seed: int) -> npt.NDArray[np.int64]:
    """(N) cluster of each point, at most `size` of them, none of them empty, at least two."""
    import warnings

    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than clusters
        found_N = KMeans(size, n_init=1, random_state=seed % 2**32).fit_predict(points_Nd)
    used, numbers_N = np.unique(found_N, return_inverse=True)
    if len(used) > 1:
        return numbers_N.astype(np.int64)
    return np.arange(len(points_Nd)) * size // len(points_Nd)


def _assigned(
    codes: Sequence[Code],
    taken: Taken | None,
    wanted: Sequence[Code] | None = None,
    how: Sequence[ResolvedBy] | None = None,
    error_N: Floats | None = None,
) -> Assignment:
    """An assignment whose moves cost nothing that could be measured."""
    if taken is not None:
        for code in codes:
            taken.add(code)
    return Assignment(
        codes=tuple(codes),
        wanted=tuple(codes if wanted is None else wanted),
        resolved_by=tuple(how or ["nearest"] * len(codes)),
        error_N=np.zeros(len(codes)) if error_N is None else error_N,
        penalty_N=np.zeros(len(codes)),
    )
