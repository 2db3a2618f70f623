"""The arrays that codes are made of, and how they are read from files."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from factory.domain.failures import ModelError

Floats: TypeAlias = npt.NDArray[np.floating]
Ints: TypeAlias = npt.NDArray[np.int32]
Code: TypeAlias = tuple[int, ...]
REMEDY = "restore the checkpoint's codes folder, or start from its parent checkpoint"
"""What mends a damaged codes folder."""


def as_NVD(embeddings: Floats) -> Floats:
    """Embeddings as (N, V, D); (N, D) stands for V = 1. ValueError for anything else."""
    if embeddings.ndim == 2:
        embeddings = embeddings[:, None, :]
    if embeddings.ndim != 3:
        raise ValueError(f"embeddings have shape {embeddings.shape}, not (N, D) or (N, V, D)")
    if not np.isfinite(embeddings).all():
        raise ValueError("embeddings hold NaN or infinity")
    return embeddings


def load_arrays(path: Path, names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """Arrays of an .npz file by name. ModelError if one or the file is missing or damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names}
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ModelError(
            f"cannot read the arrays of the codes: {error}", where=str(path), remedy=REMEDY
        ) from error
