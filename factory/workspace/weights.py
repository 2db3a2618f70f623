"""A model folder's weight files: which are loaded, and what they say and hold, without torch.

A safetensors file begins with the length of its header, then the header: by name the type, shape
and place of every weight. So a cut-off file is told from its size, and a value that is no number
can be found without loading a model.
"""

from __future__ import annotations

import json
import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from factory.domain.bounded import DATA, read_text
from factory.domain.failures import ModelError

POINTER = b"version https://git-lfs"
"""How a file begins that git-lfs has not fetched yet."""
WHOLE = ("model.safetensors", "pytorch_model.bin")
"""Names of a file with all weights; `NAME.index.json` lists the parts where there are several."""
MAX_HEADER_BYTES = 100_000_000
"""As safetensors has it."""
LOOK_BYTES = 64 << 20
"""How much of the weights is looked at for NaN and infinity."""
FETCH = "fetch the model again, and compare the sizes of its files with those of where it is from"
_SLICES = 8
# By type: as what its values are read, and the bits that are all set in NaN and infinity.
_FLOATS = {
    "BF16": ("<u2", 0x7F80),
    "F16": ("<u2", 0x7C00),
    "F32": ("<u4", 0x7F800000),
    "F64": ("<u8", 0x7FF0000000000000),
}


class Weight(NamedTuple):
    """One weight. Example: Weight(Path("model.safetensors"), "BF16", (2156, 256), 4096, 1107968)"""

    file: Path
    dtype: str
    """As safetensors names it; empty in a file of torch's, of which only names are read."""
    shape: tuple[int, ...]
    start: int
    """Of its bytes in the file, up to `stop`."""
    stop: int


def weight_files(folder: Path) -> list[Path]:
    """The files that are loaded: a whole one, else those of an index, else all that there are.

    Raises ModelError for an index that is none, and for files that it names in vain.
    """
    for name in WHOLE:
        index = folder / f"{name}.index.json"
        if (folder / name).exists() or (folder / name).is_symlink():
            return [folder / name]
        if index.exists():
            return _listed(index)
    return sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])


def read_weights(folder: Path) -> dict[str, Weight]:
    """All weights by name. Raises ModelError where a file is missing, cut off or none."""
    weights: dict[str, Weight] = {}
    for file in weight_files(folder):
        check_file(file)
        weights |= read_header(file) if file.suffix == ".safetensors" else _read_pickle(file)
    return weights


def check_file(file: Path) -> None:
    """Raise ModelError for a link to nothing, and for a pointer of git-lfs in a file's place."""
    if file.is_symlink() and not file.exists():
        raise ModelError(
            f"{file.name} is a link to {file.readlink()}, which is not there",
            where=str(file),
            remedy="fetch the model again; copy a folder of links with `cp -rL`",
        )
    try:
        with file.open("rb") as opened:
            start = opened.read(len(POINTER))
    except OSError as error:
        raise ModelError(
            f"{file.name} cannot be read: {error.strerror}",
            where=str(file),
            remedy="make the file readable for you (`chmod`, `chown`), or fetch the model again",
        ) from error
    if start == POINTER:
        raise ModelError(
            f"{file.name} is a pointer of git-lfs, not the file itself",
            where=str(file),
            remedy=f"fetch what it points to: git -C {file.parent} lfs pull",
        )


def read_header(file: Path) -> dict[str, Weight]:
    """What a safetensors file says of its weights. Raises ModelError where it is cut off or none.

    Example: read_header(Path("rounds/seed/model.safetensors"))["model.norm.weight"].shape
    """
    size = file.stat().st_size
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if length > min(size - 8, MAX_HEADER_BYTES):
                raise ValueError(f"its header is {length} bytes long, the file {size}")
            head: dict[str, Any] = json.loads(opened.read(length))
        head.pop("__metadata__", None)
        first = 8 + length
        weights = {
            name: Weight(file, said["dtype"], tuple(said["shape"]), *_within(said, first))
            for name, said in head.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"{file.name} is no file of weights, or is cut off: {error}",
            where=str(file),
            remedy=FETCH,
        ) from error
    end = max((weight.stop for weight in weights.values()), default=first)
    if end != size:
        state = "is cut off" if size < end else "has more than it says"
        raise ModelError(
            f"{file.name} {state}: it is {size:,} bytes long, its header tells of {end:,}",
            where=str(file),
            remedy=FETCH,
        )
    return weights


def find_no_number(weights: Mapping[str, Weight], budget: int = LOOK_BYTES) -> tuple[str, int]:
    """The first weight in which NaN or infinity was found, else "", and the bytes looked at.

    Small weights are read whole; of larger ones slices that lie evenly, as `budget` allows.
    """
    looked = 0
    left = [
        (weight.stop - weight.start, name, weight)
        for name, weight in weights.items()
        if weight.dtype in _FLOATS and name.endswith((".weight", ".bias"))
    ]
    left.sort(reverse=True)
    while left:
        share = (budget - looked) // len(left)
        size, name, weight = left.pop()
        unsigned, exponent = _FLOATS[weight.dtype]
        for piece in _slices(weight, min(size, share), np.dtype(unsigned).itemsize):
            looked += len(piece)
            bits = np.frombuffer(piece, unsigned)
            if (bits & exponent == exponent).any():
                return name, looked
    return "", looked


def _listed(index: Path) -> list[Path]:
    """The files that an index names."""
    check_file(index)
    try:
        text = read_text(index, most=DATA, error=ModelError)
        names = sorted(set(json.loads(text)["weight_map"].values()))
        files = [index.parent / name for name in names]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"{index.name} is no index of weights: {error!r}", where=str(index), remedy=FETCH
        ) from error
    lost = [file.name for file in files if not file.exists() and not file.is_symlink()]
    if lost:
        raise ModelError(
            f"{index.name} names {len(files)} files of weights, and {len(lost)} of them are not "
            f"there, such as {lost[0]}",
            where=str(index.parent),
            remedy="copy or fetch the missing files; without them the model is not whole",
        )
    return files


def _within(said: Mapping[str, Any], first: int) -> tuple[int, int]:
    """Where a weight's bytes are in the file; the header counts from its own end."""
    start, stop = said["data_offsets"]
    if not 0 <= start <= stop:
        raise ValueError(f"a weight is said to lie at {start} to {stop}")
    return first + start, first + stop


def _read_pickle(file: Path) -> dict[str, Weight]:
    """The names of weights in a file of torch's, whose pickle is read and not run."""
    with file.open("rb") as opened:
        is_zip = opened.read(2) == b"PK"
    if not is_zip:
        # As torch wrote before 1.6: the loader tells.
        return {}
    try:
        with zipfile.ZipFile(file) as archive:
            (entry,) = (each for each in archive.infolist() if each.filename.endswith("/data.pkl"))
            if entry.file_size > MAX_HEADER_BYTES:
                raise ValueError(f"its table of weights is {entry.file_size} bytes long")
            steps = [argument for _, argument, _ in pickletools.genops(archive.read(entry))]
    except (zipfile.BadZipFile, ValueError) as error:
        raise ModelError(
            f"{file.name} is cut off or damaged: {error}", where=str(file), remedy=FETCH
        ) from error
    names = (text for text in steps if isinstance(text, str))
    return {
        name: Weight(file, "", (), 0, 0) for name in names if name.endswith((".weight", ".bias"))
    }


def _slices(weight: Weight, share: int, width: int) -> Iterator[bytes]:
    """`share` bytes of a weight, whole values of `width` bytes: all of it, or slices of it."""
    size = weight.stop - weight.start
    pieces = 1 if share >= size else _SLICES
    length = share // pieces // width * width
    with weight.file.open("rb") as opened:
        for number in range(pieces if length else 0):
            offset = (size - length) * number // max(1, pieces - 1) // width * width
            opened.seek(weight.start + offset)
            yield opened.read(length)
