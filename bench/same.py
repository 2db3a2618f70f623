"""`python -m bench.same ONE OTHER`: do two workspaces hold the same rounds?

A change of the house must not change what a seeded round does. Compares every table of the two
ledgers row by row, times, paths and package versions aside, and the fingerprints of the weights;
exits with 1 where they differ. Run both rounds with the same `engine.threads` (`--set` cannot give
it: write it into factory.toml), because sums of another number of threads round otherwise.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args, get_type_hints

from bench.table import Cell, print_table
from factory.domain.canon import digest, to_json
from factory.ledger.database import Ledger
from factory.ledger.tables import Batch

ASIDE = ("_at", "seconds", "path", "package_version", "versions_json", "segment")
"""Endings of the columns that two runs of one round need not share."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("one", type=Path)
    parser.add_argument("other", type=Path)
    arguments = parser.parse_args()
    one, other = (read(folder / ".factory") for folder in (arguments.one, arguments.other))
    rows: list[list[Cell]] = [
        [table, len(one.get(table, ())), len(other.get(table, ())), verdict(one, other, table)]
        for table in sorted(one | other)
    ]
    print_table("ledger rows", ("table", "rows", "rows", "verdict"), rows)
    sys.exit(int(any(one.get(table) != other.get(table) for table in one | other)))


def read(state: Path) -> dict[str, list[str]]:
    """By table, a digest of each row, sorted."""
    ledger = Ledger(state)
    found = {}
    for table, kind in get_type_hints(Batch).items():
        (row,) = get_args(kind)
        kept = [f'"{name}"' for name in sorted(get_type_hints(row)) if not name.endswith(ASIDE)]
        if kept:
            rows = ledger.query(f'select {", ".join(kept)} from "{table}"').rows
            found[table] = sorted(digest(to_json([str(value) for value in row])) for row in rows)
    return found


def verdict(one: dict[str, list[str]], other: dict[str, list[str]], table: str) -> str:
    different = set(one.get(table, ())) ^ set(other.get(table, ()))
    return "equal" if one.get(table) == other.get(table) else f"{len(different)} differ"


if __name__ == "__main__":
    main()
