"""The process of a bench (factory.judge.bench): a private, locked, in-memory DuckDB.

It reads a line that asks, and tables; it answers each rule with its columns, its rows and an empty
batch, or with why it did not come to its end.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import duckdb
import pyarrow as pa

from factory.domain.limits import die_with_parent, limit_memory
from factory.ledger.database import READER_CONFIG
from factory.ledger.interrupt import interrupted_after

SENSE = "struct(marks varchar[], signs varchar[], units varchar[], heard varchar[])"
"""What nearly equal texts must have in common to ask the same (factory.judge.wording)."""

TABLES = {
    "candidate": f"""
create table candidate (
  place bigint,          -- order in which requests came: history first, then by draw
  query_id varchar,
  query varchar,
  words varchar,         -- its words and signs, case folded, one blank between them
  sense {SENSE},
  wording varchar,       -- the words with numbers and the values of its calls masked as _
  calls_json varchar,    -- the calls that won the vote
  calls_key varchar,     -- equal where calls mean the same; null without calls
  shingles uinteger[],   -- distinct hashes of the words' character 5-grams
  bands ubigint[],       -- MinHash bands of the shingles: near-duplicates share at least one
  grams ubigint[]        -- distinct hashes of the word 8-grams
)""",
    "history": f"""
create table history (   -- earlier rounds' accepted samples
  place bigint,
  round integer,
  query_id varchar,
  query varchar,
  words varchar,
  sense {SENSE},
  calls_key varchar,
  shingles uinteger[],
  bands ubigint[],
  grams ubigint[]
)""",
    "candidate_tool": """
create table candidate_tool (
  query_id varchar,
  tool_id varchar,
  called boolean         -- whether one of the sample's calls names it
)""",
    "tool": """
create table tool (      -- every document of the round and its history, once
  tool_id varchar,
  place bigint,          -- order in which documents came, history first
  name varchar,          -- its words in lower case, joined by _
  parameters varchar[],  -- sorted names
  signature varchar,     -- name, then each parameter's name and type, sorted
  description varchar,
  document_json varchar,
  shingles uinteger[],   -- of the description's words
  bands ubigint[]
)""",
    "benchmark": f"""
create table benchmark ( -- every question that the model is scored on
  item varchar,          -- benchmark and item id, e.g. home/simple_7
  sha varchar,           -- hash of the benchmark's content
  query varchar,
  words varchar,
  sense {SENSE},
  shingles uinteger[],
  bands ubigint[],
  grams ubigint[]
)""",
    "benchmark_tool": """
create table benchmark_tool (
  item varchar,
  sha varchar,
  name varchar,
  parameters varchar[],
  signature varchar
)""",
}
"""What a rule may read, by name."""

JACCARD = """
create macro jaccard_of(a, b) as
  len(list_intersect(a, b)) / greatest(1, len(a) + len(b) - len(list_intersect(a, b)))
"""
"""Jaccard similarity of two lists of distinct values."""

SAME_SENSE = """
create macro same_sense(a, b) as
  a.marks = b.marks and list_has_all(a.heard, b.units) and list_has_all(b.heard, a.units)
"""
"""Whether two texts have the same numbers with sign and unit, operators, emoji and negations."""

ROWS_AT_ONCE = 1000
"""Of an answer, in one message."""
CELL_CHARS = 1000
"""Of a value that are told; a message is shorter."""


class Told:
    """What the parent is told, a line each; DuckDB has no other way to stdout."""

    def __init__(self) -> None:
        self._file: BinaryIO = os.fdopen(os.dup(1), "wb")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def __call__(self, **message: Any) -> None:
        self._file.write(json.dumps(message).encode() + b"\n")
        self._file.flush()


def main(parent: str, limits: str) -> None:
    """Serve until the parent has no more to ask."""
    die_with_parent(int(parent))
    tell = Told()
    con = open_tables(json.loads(limits))
    while line := sys.stdin.buffer.readline():
        asked = json.loads(line)
        fill(con, asked["tables"], sys.stdin.buffer)
        limit_memory(asked["memory"])
        tell(ready=True)
        most, seconds = asked["most"], asked["seconds"]
        if not all(run(con, rule, most, seconds, tell) for rule in asked["rules"]):
            return
        con.execute("rollback")


def open_tables(limits: Mapping[str, Any]) -> duckdb.DuckDBPyConnection:
    """A connection with the tables, empty, that reaches nothing outside and cannot be unlocked."""
    con = duckdb.connect(config=READER_CONFIG | dict(limits))
    for ddl in (*TABLES.values(), JACCARD, SAME_SENSE):
        con.execute(ddl)
    con.execute("set enable_external_access = false")
    con.execute("set lock_configuration = true")
    return con


def fill(con: duckdb.DuckDBPyConnection, names: Sequence[str], source: BinaryIO) -> None:
    """Fill the tables that are named, empty the others, and allow only reading from then on."""
    for name in TABLES:
        con.execute(f"truncate {name}")
    for name in names:
        con.register("batch", pa.ipc.open_stream(source).read_all())
        con.execute(f"insert into {name} by name from batch")
        con.unregister("batch")
    con.execute("begin transaction read only")


def run(
    con: duckdb.DuckDBPyConnection, rule: Mapping[str, Any], most: int, seconds: float, tell: Told
) -> bool:
    """Whether the rule came to its end; tells its answer, or why there is none."""
    try:
        (statement,) = duckdb.extract_statements(rule["sql"])
        limits = {name: rule["limits"][name] for name in statement.named_parameters}
        with interrupted_after(con, seconds):
            con.execute(statement, limits)
            columns = [str(column[0]) for column in con.description or ()]
            found = sorted(con.fetchmany(most + 1), key=str)
        rows = [[_text(*each) for each in zip(columns, row, strict=True)] for row in found]
    except duckdb.InterruptException:
        tell(late=True)
    except (duckdb.OutOfMemoryException, MemoryError):
        tell(memory=True)
    except duckdb.Error as error:
        tell(error=str(error)[:CELL_CHARS])
    else:
        tell(columns=columns)
        for start in range(0, len(rows), ROWS_AT_ONCE):
            tell(rows=rows[start : start + ROWS_AT_ONCE])
        tell(rows=[])
        return True
    return False


def _text(column: str, value: object) -> str:
    """A value as text; a detail that says nothing is empty."""
    return str((value or "") if column == "detail" else value)[:CELL_CHARS]


if __name__ == "__main__":
    main(*sys.argv[1:])
