"""Files as bytes: unpacked where they are packed, and named for what they are if they are no text.

Nothing is read whole: a file of any size is a stream. A pipe is copied to the disk first, within
bounds of size and of waiting, so that it can be read twice.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import select
import stat
import tempfile
import unicodedata
import zlib
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from factory.domain.failures import InputError

HEAD_BYTES = 1 << 16
"""So much of a file tells what it is."""
MAX_PIPE_BYTES = 4 << 30
"""Most that is read of a pipe, which need not end."""
PIPE_SECONDS = 60.0
"""A pipe that gives nothing for so long, at its beginning or later, is given up."""
PACKED_SUFFIXES = (".gz", ".zst", ".zstd", ".bz2", ".xz")
PARQUET = b"PAR1"

_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\x03\x04", "a ZIP archive (an Excel or Word file is one too)", "unpack it, or save CSV"),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Word file", "save it as CSV"),
    (b"7z\xbc\xaf'\x1c", "a 7z archive", "unpack it"),
    (b"Rar!\x1a", "a RAR archive", "unpack it"),
    (b"%PDF", "a PDF", "save its text"),
    (b"SQLite format 3", "an SQLite database", "export the table as CSV or JSON lines"),
    (b"ARROW1", "an Arrow file", "write it as Parquet"),
    (b"FEA1", "a Feather file", "write it as Parquet"),
    (b"ORC", "an ORC file", "write it as Parquet"),
    (b"Obj\x01", "an Avro file", "write it as Parquet or JSON lines"),
    (b"\x89PNG", "a picture (PNG)", ""),
    (b"\xff\xd8\xff", "a picture (JPEG)", ""),
    (b"GIF8", "a picture (GIF)", ""),
    (b"GGUF", "a model (GGUF)", ""),
    (b"\x93NUMPY", "a NumPy array", ""),
    (b"\x89HDF", "an HDF5 file", ""),
    (b"\x7fELF", "a program", ""),
    (b"\x80\x04", "a pickle, which is not opened: it may run anything", "write it as JSON lines"),
    (b"\x80\x05", "a pickle, which is not opened: it may run anything", "write it as JSON lines"),
)
"""How files that are no text begin, what they are, and what helps."""


class PackedError(ValueError):
    """A packed file is damaged."""


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """A file, unpacked and about to be read."""

    stream: IO[bytes]
    head: bytes
    """How it begins; not taken out of the stream."""
    suffix: str
    """In lower case, without that of the packing: `.jsonl` of `log.JSONL.gz`."""
    size: int
    """Bytes that it has, as far as that is known: 0 where it is packed."""

    @property
    def is_parquet(self) -> bool:
        return self.head.startswith(PARQUET)


@contextmanager
def open_file(path: Path) -> Iterator[OpenedFile]:
    """The file's bytes, unpacked. Raises InputError for one that is no text and no Parquet."""
    try:
        # Without waiting: a pipe that nobody writes to would not even open.
        with open(path, "rb", opener=_open_at_once) as raw, _spooled(raw, path) as stream:
            yield _open(stream, path)
    except (PackedError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        what = f"the packed file is damaged: {error}"
        raise InputError(what, where=str(path), remedy="write it anew") from error
    except OSError as error:
        raise InputError(
            f"cannot read the file: {error.strerror or error}",
            where=str(path),
            remedy="check the path",
        ) from error


@contextmanager
def _spooled(raw: io.BufferedReader, path: Path) -> Iterator[IO[bytes]]:
    """The file itself, or what a pipe gives, on the disk."""
    if stat.S_ISREG(path.stat().st_mode):
        yield raw
        return
    with tempfile.TemporaryFile() as copy:
        total = 0
        while chunk := _next_of_pipe(raw.fileno(), path, 1 << 20):
            if not total:
                _check_kind(chunk[:HEAD_BYTES], path)
            copy.write(chunk)
            total += len(chunk)
            if total > MAX_PIPE_BYTES:
                raise InputError(
                    f"the pipe gives more than {MAX_PIPE_BYTES / 2**30:g} GiB, and need not end",
                    where=str(path),
                    remedy="write what is wanted of it into a file",
                )
        copy.seek(0)
        yield copy


def _open_at_once(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_NONBLOCK)


def _next_of_pipe(pipe: int, path: Path, most: int) -> bytes:
    """What it gives next, empty at its end. Raises InputError where nothing comes.

    Before anybody writes a pipe reads as ended, and poll() tells of nothing: it is waited for.
    """
    waiting = select.poll()
    waiting.register(pipe, select.POLLIN)
    if not waiting.poll(PIPE_SECONDS * 1000):
        raise InputError(
            f"the pipe gives nothing for {PIPE_SECONDS:g} seconds",
            where=str(path),
            remedy="start what writes into it, or write what is wanted of it into a file",
        )
    return os.read(pipe, most)


def _open(stream: IO[bytes], path: Path) -> OpenedFile:
    head = stream.read(HEAD_BYTES)
    stream.seek(0)
    suffix, size = path.suffix.lower(), stream.seek(0, io.SEEK_END)
    stream.seek(0)
    unpack = next((way for mark, way in _PACKINGS if head.startswith(mark)), None)
    if unpack is not None:
        stream, size = unpack(stream), 0
        head = stream.read(HEAD_BYTES)
        if head.startswith(PARQUET):
            raise InputError("the file is Parquet, packed once more", where=str(path))
        stream = cast(IO[bytes], _Joined(head, stream))
        if suffix in PACKED_SUFFIXES:
            suffix = path.with_suffix("").suffix.lower()
    _check_kind(head, path)
    return OpenedFile(stream, head, suffix, size)


def _unpack_gzip(stream: IO[bytes]) -> IO[bytes]:
    return cast(IO[bytes], gzip.GzipFile(fileobj=stream))


def _unpack_zstd(stream: IO[bytes]) -> IO[bytes]:
    import pyarrow as pa

    return cast(IO[bytes], _Zstd(pa.CompressedInputStream(pa.PythonFile(stream, "r"), "zstd")))


_PACKINGS: tuple[tuple[bytes, Callable[[IO[bytes]], IO[bytes]]], ...] = (
    (b"\x1f\x8b", _unpack_gzip),
    (b"\x28\xb5\x2f\xfd", _unpack_zstd),
    *((b"BZh%d1AY" % level, bz2.BZ2File) for level in range(1, 10)),
    (b"\xfd7zXZ", lzma.LZMAFile),
)
"""How packed files begin, and what unpacks them."""


class _Zstd(io.RawIOBase):
    """pyarrow's stream, whose read gives other errors."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        try:
            return self._stream.read(size) if size >= 0 else self._stream.read()
        except OSError as error:
            raise PackedError(str(error)) from error


class _Joined(io.RawIOBase):
    """What was read of a stream already, and then the rest of it."""

    def __init__(self, head: bytes, rest: IO[bytes]) -> None:
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        part = self._head[: len(buffer)] or self._rest.read(len(buffer))
        self._head = self._head[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


def _check_kind(head: bytes, path: Path) -> None:
    """Raises InputError that names a file which is neither UTF-8 nor something that is opened."""
    where = str(path)
    if encoding := _find_encoding(head):
        raise InputError(f"the file is {encoding}", where=where, remedy="save it as UTF-8")
    for mark, what, remedy in _SIGNATURES:
        if head.startswith(mark) and not (mark.isalnum() and _is_text(head)):
            raise InputError(f"the file is {what}", where=where, remedy=remedy or _WANTED)
    if head[257:262] == b"ustar":
        raise InputError("the file is a tar archive", where=where, remedy="unpack it")
    if head[8:12] == b"DUCK" and b"\0" in head:
        raise InputError("the file is a DuckDB database", where=where, remedy=_WANTED)
    packed = head.startswith(PARQUET) or any(head.startswith(mark) for mark, _ in _PACKINGS)
    if b"\0" in head and not packed:
        raise InputError("the file is binary, not text", where=where, remedy=_WANTED)


_WANTED = "bring JSON, CSV, TSV, Parquet or lines of text in UTF-8"


def _is_text(head: bytes) -> bool:
    try:
        head[:-4].decode()
    except UnicodeDecodeError as error:
        return error.start > len(head) - 12
    return b"\0" not in head


def _find_encoding(head: bytes) -> str:
    """UTF-16 or UTF-32, with a mark or without; empty where it is neither."""
    if head.startswith((BOM_UTF32_LE, BOM_UTF32_BE)):
        return "UTF-32"
    if head.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        return "UTF-16"
    if b"\0" not in head or head.startswith(BOM_UTF8):
        return ""
    sample = head[: len(head) // 4 * 4]
    for name, codec in (
        ("UTF-32 without a mark", "utf-32-le"),
        ("UTF-32 without a mark", "utf-32-be"),
        ("UTF-16 without a mark", "utf-16-le"),
        ("UTF-16 without a mark", "utf-16-be"),
    ):
        if sample and _reads_as_text(sample, codec):
            return name
    return ""


def _reads_as_text(sample: bytes, codec: str) -> bool:
    """Whether nearly all is letters, marks and lines, with spaces or line breaks among them."""
    try:
        text = sample.decode(codec)
    except UnicodeDecodeError as error:
        if error.start < len(sample) - 4:
            return False
        text = sample[: error.start].decode(codec)
    good = sum(letter in "\t\r\n" or unicodedata.category(letter)[0] in "LMNPSZ" for letter in text)
    return good >= 0.95 * len(text) and any(letter in " \r\n" for letter in text)
