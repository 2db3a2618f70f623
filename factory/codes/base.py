"""What a coder is: it turns embeddings of tool documents into codes of fixed length.

A code has one number per position, below `sizes[position]`. Positions are (embedding v, level l)
with the level running fastest (algorithms §2.1), so a coder over V embeddings of a document and L
levels has P = V*L positions. Everything a lifecycle needs rests on one question: how far is a
document from each number of the next position, given the numbers before it.

Shape suffixes: N tools, V embeddings of a tool, D model width, d reduced width, P positions,
K numbers of a position.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from factory.failures import ModelError

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int32]
Code = tuple[int, ...]

CHUNK = 4096
"""Rows whose distances are computed at once: bounds memory, changes no result."""
REMEDY = "restore the checkpoint's codes folder, or start from its parent checkpoint"
"""What mends a damaged codes folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """Nearest codes, before collisions are resolved."""

    codes_NP: Ints
    """Number at each position."""
    error_N: Floats
    """Distance to the first position's centroid, in the coder's space (A38)."""


class Coder(Protocol):
    """A way to give codes to tools. Embeddings are (N, V, D), float."""

    name: ClassVar[str]
    """The recipe's word for it."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """(P) how many numbers each position has."""
        ...

    def fit(self, embeddings_NVD: Floats, *, seed: int) -> Encoding:
        """Learn from these tools and encode them."""
        ...

    def encode(self, embeddings_NVD: Floats) -> Encoding:
        """Nearest codes; a document's code does not depend on the others given with it."""
        ...

    def distances(self, embeddings_NVD: Floats, prefix_NP: Ints) -> Floats:
        """(N, K) distances to the numbers of the next position, after these numbers."""
        ...

    def errors(self, embeddings_NVD: Floats, codes_NP: Ints) -> Floats:
        """(N) what a whole code leaves of a document, a distance."""
        ...

    def rows(self, embeddings_NVD: Floats, codes_NP: Ints) -> list[Floats]:
        """P arrays (K, D): initial embeddings of the code tokens, not yet scaled."""
        ...

    def refresh(self, embeddings_NVD: Floats, codes_NP: Ints) -> None:
        """Move to a trained model's space; every tool keeps its code, every number its members."""
        ...

    def save(self, path: Path) -> None:
        """Write one .npz file."""
        ...


def as_NVD(embeddings: Floats) -> Floats:
    """Embeddings as (N, V, D); (N, D) stands for V = 1. ValueError for anything else."""
    if embeddings.ndim == 2:
        embeddings = embeddings[:, None, :]
    if embeddings.ndim != 3:
        raise ValueError(f"embeddings have shape {embeddings.shape}, not (N, D) or (N, V, D)")
    if not np.isfinite(embeddings).all():
        raise ValueError("embeddings hold NaN or infinity")
    return embeddings


def encode_greedily(coder: Coder, embeddings_NVD: Floats) -> Encoding:
    """Nearest number position by position; the lowest number on a tie."""
    num_tools, num_positions = len(embeddings_NVD), len(coder.sizes)
    codes_NP = np.zeros((num_tools, num_positions), dtype=np.int32)
    error_N = np.zeros(num_tools)
    for start in range(0, num_tools, CHUNK):
        rows = slice(start, start + CHUNK)
        for position in range(num_positions):
            distances = coder.distances(embeddings_NVD[rows], codes_NP[rows, :position])
            codes_NP[rows, position] = distances.argmin(axis=1)
            if position == 0:
                error_N[rows] = distances.min(axis=1)
    return Encoding(codes_NP=codes_NP, error_N=error_N)


def load_arrays(path: Path, names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """Arrays of an .npz file by name. ModelError if one or the file is missing or damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names}
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ModelError(
            f"cannot read the arrays of the codes: {error}", where=str(path), remedy=REMEDY
        ) from error
