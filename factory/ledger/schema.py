"""The ledger's schema: numbered migrations make the tables, views.sql the views, and questions.sql
asks them.

The migrations are the only list of tables and columns. Arrow schemas of the segments and the
tables that readers see are derived from them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import duckdb

if TYPE_CHECKING:
    import pyarrow as pa

STORE = Path(__file__).resolve().parent
MIGRATIONS = STORE / "migrations"
BOOKKEEPING = """
create table if not exists migration (number integer, name varchar, applied_at timestamp);
create table if not exists segment (name varchar, folded_at timestamp);
"""
"""Not facts: which migrations this file has seen, and which segments it has taken in.

After a fold's segments stands a mark of the views that it defined (`views_mark`).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One numbered step of the schema. Example: migrations/0001_ledger.sql."""

    number: int
    """1, 2, 3, …: the ledger's version after this step."""
    name: str
    sql: str
    """Statements; they only add tables and columns."""


def load_migrations(folder: Path = MIGRATIONS) -> tuple[Migration, ...]:
    """The migrations of a folder in order; their numbers run from 1 without a gap."""
    found = tuple(
        Migration(number=int(file.stem[:4]), name=file.stem, sql=file.read_text("utf-8"))
        for file in sorted(folder.glob("[0-9]*.sql"))
    )
    numbers = [migration.number for migration in found]
    assert numbers == list(range(1, len(found) + 1)), numbers
    return found


def version_of(con: duckdb.DuckDBPyConnection, database: str) -> int:
    """Number of the last migration that an attached ledger has seen; 0 for a new file."""
    try:
        row = con.execute(f"select max(number) from {database}.migration").fetchone()
    except duckdb.CatalogException:
        return 0
    return int(row[0] or 0) if row else 0


def table_names(con: duckdb.DuckDBPyConnection, database: str, schema: str = "main") -> list[str]:
    """Tables in a schema of an attached database, sorted."""
    sql = """
        select table_name
        from duckdb_tables() where database_name = ? and schema_name = ? order by 1
        """
    return [str(name) for (name,) in con.execute(sql, [database, schema]).fetchall()]


def migrate(con: duckdb.DuckDBPyConnection, migrations: tuple[Migration, ...]) -> None:
    """Bring the current database to the last version, one transaction a step."""
    con.execute(BOOKKEEPING)
    row = con.execute("select coalesce(max(number), 0) from migration").fetchone()
    assert row is not None
    for migration in migrations[int(row[0]) :]:
        con.execute("begin transaction")
        con.execute(migration.sql)
        con.execute(
            "insert into migration values (?, ?, current_timestamp at time zone 'UTC')",
            [migration.number, migration.name],
        )
        con.execute("commit")


def define_views(con: duckdb.DuckDBPyConnection) -> None:
    """Define the public views over the tables (or views) of the current schema."""
    con.execute((STORE / "views.sql").read_text("utf-8"))


def views_mark() -> str:
    """What a file's list of segments ends with where it holds the views of today."""
    return "views " + hashlib.sha256((STORE / "views.sql").read_bytes()).hexdigest()


def arrow_schemas(migrations: tuple[Migration, ...]) -> Mapping[str, pa.Schema]:
    """Arrow schema of each table of facts, as the migrations define it."""
    with duckdb.connect() as con:
        for migration in migrations:
            con.execute(migration.sql)
        return {
            name: con.sql(f'from "{name}"').to_arrow_table().schema
            for name in table_names(con, "memory")
        }


class Question(NamedTuple):
    """A stock question. Example: Question("Where did the time go?", "select round, …")."""

    title: str
    sql: str
    """On one line and without double quotes."""


def stock_questions() -> list[Question]:
    """Those of questions.sql: a comment line and a statement each."""
    text = (STORE / "questions.sql").read_text("utf-8")
    return [Question(*hit) for hit in re.findall(r"^-- ([^\n]+\?)\n([^;]+);", text, re.MULTILINE)]
