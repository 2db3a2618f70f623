"""The ledger: at rest one DuckDB file, while a round runs also segments beside it.

DuckDB lets one process write a file or several read it, never both. So `append` writes segments
and `fold` moves them into the file in one transaction when nobody reads it; readers see both.
What that promises: a round never waits for a reader or fails because of one, rows are visible as
soon as `append` returns, `kill -9` tears nothing, and at rest any DuckDB client opens the file.
A reader of a ledger at rest takes the views that the file holds: defining them costs more than most
questions. Appending and folding are for the process that holds the WorkspaceLock; anyone may read.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from factory.domain.disk import disk_remedy, no_locks
from factory.domain.failures import BusyError, DiskError, InputError
from factory.domain.plaintext import shorten
from factory.ledger import schema
from factory.ledger.interrupt import interrupted_after
from factory.ledger.place import FixedFolder, check_copy
from factory.ledger.segments import Segments, newer_ledger, to_arrow
from factory.ledger.tables import Batch, by_table

if TYPE_CHECKING:
    import pyarrow as pa

STORAGE_VERSION = "v1.2.0"
"""File format: the oldest that holds what we store, so that older DuckDB clients open it too."""
READ_WAIT_SECONDS = 2.0
"""How long a reader waits for a fold to end."""
STREAM_ROWS = 2048
"""Rows of a stream held in memory at once."""
FOLD_CHUNK = 1024
"""Segments held in memory at once."""
READER_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "memory_limit": "4GB",
    "temp_directory": "",
}

Connection = duckdb.DuckDBPyConnection
Parameters = Sequence[object] | Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """A query's answer. Example: Rows(columns=("reason", "n"), rows=[("wrong_type", 3)])."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    """Values in column order; times are UTC without a zone."""
    more: bool = False
    """Whether the row limit cut the answer short."""

    def records(self) -> list[dict[str, object]]:
        """Each row as a dict by column name."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


class Stream:
    """A query's answer while it is read, a batch in memory at a time.

    Example:
        with ledger.read() as past:
            stream = past.stream("from generation")
            for batch in stream:
                write(stream.columns, batch)
    """

    def __init__(
        self,
        con: Connection,
        sql: str,
        parameters: Parameters | None,
        timeout_seconds: float | None,
        limit: int | None,
    ) -> None:
        self._con, self._sql = con, sql
        self._timeout = self._left_seconds = timeout_seconds
        self._limit = limit
        self.more = False
        """After the last batch: whether the row limit cut the answer short."""
        with self._bounded():
            statements = con.extract_statements(sql)
            if len(statements) != 1:
                raise InputError(
                    f"one statement at a time, this has {len(statements)}", where=shorten(sql, 200)
                )
            con.execute(statements[0], parameters)
        found = con.description or []
        self.columns = tuple(str(column[0]) for column in found)
        self.types = tuple(str(column[1]) for column in found)
        """DuckDB's types: `VARCHAR`, `TIMESTAMP`, `DECIMAL(5,2)`, …"""
        if any(_ZONED in kind for kind in self.types):
            with self._bounded():
                con.execute(_in_utc(statements[0].query, self.types), parameters)

    def __iter__(self) -> Iterator[list[tuple[Any, ...]]]:
        """Batches of rows. Raises InputError like `Ledger.query`."""
        left = self._limit
        while True:
            size = STREAM_ROWS if left is None else min(STREAM_ROWS, left + 1)
            with self._bounded():
                batch = self._con.fetchmany(size)
            if left is not None:
                self.more = len(batch) > left
                batch = batch[:left]
                left -= len(batch)
            if not batch:
                return
            yield batch

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        """One step in DuckDB: bounded by the time that is left, its complaints turned into ours."""
        started = time.monotonic()
        try:
            with interrupted_after(self._con, self._left_seconds):
                yield
        except duckdb.InterruptException as error:
            raise InputError(
                f"the query took longer than {self._timeout:g} s and was stopped",
                where=shorten(self._sql, 200),
                remedy="narrow it with `where round = …` or `limit …`, or allow more time",
            ) from error
        except duckdb.Error as error:
            raise InputError(
                f"the query cannot be run: {error}",
                where=shorten(self._sql, 200),
                remedy="the ledger can only be read; `show tables` lists what is in it, "
                "`describe NAME` its columns",
            ) from error
        if self._left_seconds is not None:
            # Only time in here counts: whoever reads the rows may be slow.
            self._left_seconds = max(0.0, self._left_seconds - (time.monotonic() - started))


_ZONED = "TIMESTAMP WITH TIME ZONE"


def _in_utc(sql: str, types: Sequence[str]) -> str:
    """The same with its zoned times in UTC, without a zone as the ledger's own are.

    DuckDB needs pytz to give Python a zoned time.
    """
    names = [f"c{number}" for number in range(len(types))]
    values = [
        name
        if _ZONED not in kind
        else f"make_timestamp(epoch_us({name}))"
        if kind == _ZONED
        else f"{name}::varchar"
        for name, kind in zip(names, types, strict=True)
    ]
    inner = sql.strip().rstrip(";")
    return f"select {', '.join(values)} from (\n{inner}\n) as zoned({', '.join(names)})"


class Source(ABC):
    """What can be asked: a ledger, on a connection for each question, or one snapshot of it."""

    @abstractmethod
    def read(self) -> AbstractContextManager[Reader]:
        """One snapshot for several questions."""

    def query(
        self,
        sql: str,
        parameters: Parameters | None = None,
        *,
        timeout_seconds: float | None = None,
        limit: int | None = None,
    ) -> Rows:
        """Run one statement and fetch its rows, at most `limit`; after an error read anew.

        Raises InputError for SQL that is wrong, denied, too big for memory or too slow.
        """
        with self.read() as reader:
            stream = reader.stream(sql, parameters, timeout_seconds=timeout_seconds, limit=limit)
            rows = [row for batch in stream for row in batch]
            return Rows(columns=stream.columns, rows=rows, more=stream.more)


class Reader(Source):
    """One snapshot of the ledger on one connection: what a stage asks while it is open.

    Example:
        with ledger.read() as past:
            this = history.open_round(past)
            queries = history.pending_queries(past, this.number)
    """

    def __init__(self, con: Connection) -> None:
        self._con = con

    def read(self) -> AbstractContextManager[Reader]:
        """Itself, which stays open."""
        return nullcontext(self)

    def stream(
        self,
        sql: str,
        parameters: Parameters | None = None,
        *,
        timeout_seconds: float | None = None,
        limit: int | None = None,
    ) -> Stream:
        """Like `query`, but the rows come in batches."""
        return Stream(self._con, sql, parameters, timeout_seconds, limit)


class Ledger(Source):
    """The ledger of one workspace.

    Example:
        ledger = Ledger(workspace.state)
        ledger.append({"draw": [{"round": 1, "position": 0, "query_id": "q_3b1f"}]})
        ledger.query("select count(*) from draw where round = ?", [1]).rows  # [(1,)]
    """

    def __init__(
        self,
        folder: Path,
        *,
        migrations: Path = schema.MIGRATIONS,
        on_busy: Callable[[str], None] | None = None,
    ) -> None:
        """`folder` is the workspace's state folder; it need not exist yet.

        With `on_busy`, reading waits as long as another process keeps the file for writing, and
        `on_busy` is told once; without it, reading gives up with BusyError.
        """
        self._on_busy = on_busy
        path = str(folder)
        is_text = path.isascii() or path.encode("utf-8", "replace").decode("utf-8") == path
        # DuckDB takes a backslash for a slash: it would open another folder's ledger.
        odd = {"a question mark": "?" in path, "a backslash": "\\" in path,
               "bytes that are no UTF-8": not is_text}  # fmt: skip
        for name in (name for name, is_there in odd.items() if is_there):
            raise InputError(
                f"DuckDB cannot open a file whose path has {name}",
                where=path,
                remedy="rename the folder",
            )
        check_copy(folder)
        self._root = FixedFolder(folder.parent)
        self.file = folder / "ledger.duckdb"
        self._migrations = schema.load_migrations(migrations)
        self._segments = Segments(folder / "segments", len(self._migrations))

    def append(self, batch: Batch) -> None:
        """Append rows to tables, all of them or none; they are on disk when it returns.

        Columns that a row lacks are null; times need a zone and are stored as UTC; lone
        surrogates, which UTF-8 cannot hold, are stored as their `\\udXXX` escape. An unknown table
        or column is our bug. Raises DiskError if there is no space, or the folder was moved.
        """
        if tables := self._to_arrow(batch):
            self._root.check()
            self._segments.write(tables)

    def fold(self, wait_seconds: float = 0.0) -> bool:
        """Move the segments into the file; False if a reader held it for `wait_seconds`.

        The file remembers the segments it took in, in the same transaction, so a process killed
        anywhere in here neither loses nor repeats a row. An older file is migrated first.
        Raises DiskError if there is no space (the segments stay), InputError for a newer file.
        """
        self._root.check()
        self._segments.sweep()
        names = self._segments.names()
        if not names:
            return True
        with self._explained(), closing(duckdb.connect()) as con:
            if not self.file.exists():
                self._create(con)
            try:
                self._attach(con, f"storage_version '{STORAGE_VERSION}'", wait_seconds)
            except BusyError:
                return False
            self._take_in(con, names)
        self._segments.discard(names)
        return True

    def connect(self, also: Batch | None = None) -> Connection:
        """A private connection that reads the file and the segments, and can do nothing else.

        It shows the rows of `also` as if they had been appended.

        Every table and view is there by its name, empty if there is no ledger yet. The file is
        attached read-only; other files, extensions and settings are out of reach; all of it is
        one read-only transaction, so after an error open another. Close it soon: while it is open
        nothing is folded. One at a time in a process, because DuckDB's file locks are POSIX
        locks, which the first close gives up for the whole process.
        Raises BusyError if a writer keeps the file, InputError for a newer one.
        """
        deadline = time.monotonic() + READ_WAIT_SECONDS
        self._root.check()
        while True:
            try:
                with self._explained():
                    return self._open_reader(also or {})
            except FileNotFoundError:
                # A first fold has just made the file and is deleting the segments we listed.
                if time.monotonic() >= deadline:
                    raise

    @contextmanager
    def read(self, also: Batch | None = None) -> Iterator[Reader]:
        """One snapshot for several questions; nothing is folded until the block ends.

        It shows the rows of `also` as if they had been appended. Close it before anything is
        appended that must be folded, or read again.
        """
        with closing(self._connect_patiently(also)) as con:
            yield Reader(con)

    def _connect_patiently(self, also: Batch | None) -> Connection:
        told = False
        while True:
            try:
                return self.connect(also)
            except BusyError as error:
                if self._on_busy is None:
                    raise
                if not told:
                    self._on_busy(f"{error.what}; waiting until it is closed ({error.where})")
                told = True

    @cached_property
    def _schemas(self) -> Mapping[str, pa.Schema]:
        return schema.arrow_schemas(self._migrations)

    def _create(self, con: Connection) -> None:
        """Make the file aside and rename it: it is never there without its tables."""
        fresh = self.file.with_suffix(".new")
        for leftover in (fresh, Path(f"{fresh}.wal")):
            leftover.unlink(missing_ok=True)
        con.execute(f"attach {_quote(fresh)} as fresh (storage_version '{STORAGE_VERSION}')")
        con.execute("use fresh")
        schema.migrate(con, self._migrations)
        con.execute("use memory")
        con.execute("detach fresh")
        fresh.rename(self.file)

    def _attach(self, con: Connection, option: str, wait_seconds: float) -> bool:
        """Attach the file as `stored`; whether it has the present tables and columns.

        Raises BusyError if it stays held by another process.
        """
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                con.execute(f"attach {_quote(self.file)} as stored ({option})")
                break
            except (duckdb.IOException, duckdb.ResourceInUseException) as error:
                held = "Could not set lock" in str(error) or "already attached" in str(error)
                if not held or no_locks(error):
                    raise
                if time.monotonic() >= deadline:
                    raise BusyError(
                        f"another process keeps the ledger: {str(error).splitlines()[0]}",
                        where=str(self.file),
                        remedy="close the program that has the file open, then try again",
                    ) from error
            time.sleep(0.02)
        version = schema.version_of(con, "stored")
        if version > len(self._migrations):
            raise newer_ledger(self.file)
        return version == len(self._migrations)

    def _take_in(self, con: Connection, names: Sequence[str]) -> None:
        """Insert the segments that the attached file has not seen, in one transaction."""
        con.execute("use stored")
        schema.migrate(con, self._migrations)
        con.execute("begin transaction")
        fresh = self._unseen(con, names)
        self._load(con, fresh)
        schema.define_views(con)
        con.execute(
            "insert into segment select unnest(?), current_timestamp at time zone 'UTC'",
            [[*fresh, schema.views_mark()]],
        )
        con.execute("commit")
        con.execute("use memory")
        con.execute("detach stored")

    def _open_reader(self, also: Batch) -> Connection:
        # Listed before the file is attached: what a fold takes in meanwhile is seen in the file.
        names = self._segments.names()
        con = duckdb.connect(config=READER_CONFIG)
        try:
            has_file = self.file.exists()
            current = has_file and self._attach(con, "read_only", READ_WAIT_SECONDS)
            if has_file:
                names = self._unseen(con, names)
            if current and not names and not also and self._has_views(con):
                con.execute("use stored")
            else:
                self._unite(con, names, also, has_file, current)
            # DuckDB would draw one into stdout, among the answer, where Python seems interactive.
            con.execute("set enable_progress_bar = false")
            con.execute("set enable_external_access = false")
            con.execute("set lock_configuration = true")
            con.execute("begin transaction read only")
        except BaseException:
            con.close()
            raise
        return con

    def _has_views(self, con: Connection) -> bool:
        """Whether the attached file's last fold defined the views of today.

        Defining them anew is most of what opening a reader costs.
        """
        last = con.execute("select name from stored.segment order by rowid desc limit 1").fetchone()
        return last == (schema.views_mark(),)

    def _unite(
        self, con: Connection, names: Sequence[str], also: Batch, has_file: bool, current: bool
    ) -> None:
        """Define tables over the file, the segments and `also`, and the views over these."""
        stored = schema.table_names(con, "stored") if has_file else []
        con.execute("create schema pending")
        con.execute("use memory.pending")
        for migration in self._migrations:
            con.execute(migration.sql)
        pending = self._load(con, names) | _insert(con, self._to_arrow(also))
        con.execute("use memory.main")
        for table in schema.table_names(con, "memory", "pending"):
            if current and table not in pending:
                # Not through a union, which keeps DuckDB from skipping unread columns.
                con.execute(f'create view "{table}" as from stored."{table}"')
                continue
            # By name: a file that is older than the code lacks columns, they read as null.
            old = f' union all by name from stored."{table}"' if table in stored else ""
            con.execute(f'create view "{table}" as from pending."{table}"{old}')
        schema.define_views(con)

    def _unseen(self, con: Connection, names: Sequence[str]) -> list[str]:
        """The segments that the attached file has not taken in."""
        if not names:
            return []
        sql = "select name from stored.segment where name in (select unnest(?))"
        seen = {name for (name,) in con.execute(sql, [names]).fetchall()}
        return [name for name in names if name not in seen]

    def _load(self, con: Connection, names: Sequence[str]) -> set[str]:
        """Insert the rows of some segments into the tables of the current schema; their names."""
        filled: set[str] = set()
        for start in range(0, len(names), FOLD_CHUNK):
            filled |= _insert(con, self._segments.read(names[start : start + FOLD_CHUNK]))
        return filled

    def _to_arrow(self, batch: Batch) -> dict[str, pa.Table]:
        if not (given := by_table(batch)):
            return {}  # Reading alone loads no Arrow.
        unknown = sorted(given.keys() - self._schemas.keys())
        assert not unknown, f"no such table: {unknown}"
        return {name: to_arrow(rows, self._schemas[name]) for name, rows in given.items() if rows}

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn DuckDB's and the system's complaints about the file into ours."""
        try:
            yield
        except FileNotFoundError:
            raise
        except (duckdb.Error, OSError) as error:
            text, where = str(error).splitlines()[0], str(self.file)
            if "version number" in text or "newer version" in text:
                raise InputError(
                    f"this DuckDB is too old for the ledger: {text}",
                    where=where,
                    remedy="pip install --upgrade duckdb",
                ) from error
            if "not a valid DuckDB" in text or isinstance(error, duckdb.SerializationException):
                raise InputError(
                    f"the ledger is damaged: {text}",
                    where=where,
                    remedy="restore the file from a backup, or move it away to start a new one",
                ) from error
            if isinstance(error, (OSError, duckdb.IOException)) or "No space left" in str(error):
                raise DiskError(
                    f"the ledger cannot be used: {text}",
                    where=where,
                    remedy=f"{disk_remedy(error)}; what was finished before is kept",
                ) from error
            raise


def _insert(con: Connection, tables: Mapping[str, pa.Table]) -> set[str]:
    """Insert rows by table; the tables' names."""
    for table, rows in tables.items():
        con.register("batch", rows)
        con.execute(f'insert into "{table}" by name from batch')
        con.unregister("batch")
    return set(tables)


def _quote(path: Path) -> str:
    """A path as an SQL string."""
    return "'" + str(path).replace("'", "''") + "'"
