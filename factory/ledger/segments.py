"""Segments: what a running round has finished and the ledger file has not taken in yet.

A segment is one file: an Arrow stream a table. It is written aside and renamed, so it is there
whole or not at all, also after `kill -9` or a full disk, and no lock is needed to append or to
read. One file instead of one a table, because syncing and deleting files is what appending and
folding spend their time on. Names sort in the order of writing and never repeat: the ledger file
remembers them.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from factory.domain.disk import disk_remedy
from factory.domain.failures import DiskError, InputError
from factory.domain.plaintext import storable

if TYPE_CHECKING:
    import pyarrow as pa

ASIDE = ".tmp"
"""Suffix of a file that is being written."""
TABLE_KEY = b"table"
"""Where a stream's schema says which table its rows belong to."""


class Segments:
    """The segments of one ledger, written by one process at a time."""

    def __init__(self, folder: Path, version: int) -> None:
        self.folder = folder
        self.version = version
        self._token = secrets.token_hex(4)
        self._last = 0

    def write(self, tables: Mapping[str, pa.Table]) -> None:
        """Append one segment. Raises DiskError, with nothing left behind, if it cannot."""
        self._last = max(self._last + 1, time.time_ns())
        path = self.folder / f"{self._last:020d}-v{self.version}-{self._token}.arrow"
        aside = Path(f"{path}{ASIDE}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _write_streams(aside, tables)
            aside.rename(path)
            _sync_folder(self.folder)
        except OSError as error:
            for file in (aside, path):
                with contextlib.suppress(OSError):
                    file.unlink()
            raise DiskError(
                f"the ledger cannot be written: {error.strerror or error}",
                where=str(self.folder),
                remedy=f"{disk_remedy(error)}; what was finished before is kept, and the same "
                "command continues from there",
            ) from error

    def names(self) -> list[str]:
        """Segments in the order of writing. Raises InputError if a newer version wrote one."""
        found = sorted(name for name in self._files() if not name.endswith(ASIDE))
        for name in found:
            if int(name.split("-")[1].removeprefix("v")) > self.version:
                raise newer_ledger(self.folder / name)
        return found

    def read(self, names: Iterable[str]) -> dict[str, pa.Table]:
        """All rows of some segments by table; FileNotFoundError if one was deleted meanwhile."""
        import pyarrow as pa

        found: dict[str, list[pa.Table]] = {}
        for name in names:
            for table, rows in _read_streams(self.folder / name):
                found.setdefault(table, []).append(rows)
        return {
            table: pa.concat_tables(parts, promote_options="default").combine_chunks()
            for table, parts in found.items()
        }

    def discard(self, names: Iterable[str]) -> None:
        """Delete segments that the ledger file holds."""
        for name in names:
            (self.folder / name).unlink()

    def sweep(self) -> None:
        """Delete what a killed writer left aside."""
        for name in self._files():
            if name.endswith(ASIDE) and self._token not in name:
                (self.folder / name).unlink()

    def _files(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return os.listdir(self.folder)
        return []


def to_arrow(rows: Sequence[Mapping[str, object]], schema: pa.Schema) -> pa.Table:
    """Rows as an Arrow table. A missing column is null; what does not fit is our bug."""
    import pyarrow as pa

    unknown = set(chain.from_iterable(rows)).difference(schema.names)
    assert not unknown, f"unknown columns: {sorted(unknown)}"
    for field in schema:
        _check_values(rows, field)
    try:
        # All columns at once, as a struct: four times as fast as one column after the other.
        table = pa.array(rows, type=pa.struct(schema))
    except UnicodeEncodeError:
        stored = [{name: storable(value) for name, value in row.items()} for row in rows]
        table = pa.array(stored, type=pa.struct(schema))
    except (TypeError, pa.ArrowInvalid) as error:
        raise AssertionError(f"a value does not fit its column: {error}") from error
    return pa.Table.from_arrays(table.flatten(), schema=schema)


def newer_ledger(where: Path) -> InputError:
    """The refusal to touch what a newer version wrote."""
    return InputError(
        "the ledger was written by a newer version of tool-factory",
        where=str(where),
        remedy="pip install --upgrade tool-factory",
    )


def _check_values(rows: Sequence[Mapping[str, object]], field: pa.Field) -> None:
    """What Arrow would change without a word: fractions are cut off, times without a zone kept."""
    import pyarrow as pa

    name = field.name
    if pa.types.is_integer(field.type):
        assert float not in {type(row.get(name)) for row in rows}, name
    elif pa.types.is_timestamp(field.type):
        times = (row.get(name) for row in rows)
        zones = [time.tzinfo for time in times if isinstance(time, datetime)]
        assert None not in zones, f"{name}: a time without a zone"


def _write_streams(path: Path, tables: Mapping[str, pa.Table]) -> None:
    """Write tables one after the other and wait until they are on the disk."""
    import pyarrow as pa

    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with open(path, "wb") as file:
        for name, rows in tables.items():
            schema = rows.schema.with_metadata({TABLE_KEY: name})
            with pa.ipc.new_stream(file, schema, options=options) as stream:
                stream.write_table(rows)
        file.flush()
        os.fsync(file.fileno())


def _read_streams(path: Path) -> Iterator[tuple[str, pa.Table]]:
    """The tables in a segment. Raises InputError if it is damaged."""
    import pyarrow as pa

    content = path.read_bytes()
    source = pa.BufferReader(content)
    try:
        while source.tell() < len(content) or not content:
            rows = pa.ipc.open_stream(source).read_all()
            yield rows.schema.metadata[TABLE_KEY].decode(), rows.replace_schema_metadata(None)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(
            f"a segment of the ledger is damaged: {error}",
            where=str(path),
            remedy="move the file away; its rows are lost, the rest is kept",
        ) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
