"""`python -m bench.adding [FILE…]`: seconds of `factory add-tools`, here and in another checkout.

Each file of tools is added to a fresh workspace by this checkout and by the one that `--beside`
names (`git worktree add --detach FOLDER COMMIT` makes one), in turns, so that what else the machine
does falls on both. Seconds are user CPU of the whole command, start included; the smallest of
`--repeats` counts, and all are printed. Without files, the documents of botocore's service models
and Google's cached discovery documents are taken (`bench.real_tools`; 47,933 of their versions of
November 2025).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.real_tools import load_documents
from bench.table import Cell, print_machine, print_table

HERE = Path(__file__).parents[1]


def add(checkout: Path, file: Path) -> tuple[float, int]:
    """User seconds of one `factory add-tools`, and how many tools it says it added."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"PYTHONPATH": str(checkout)}
        factory = [sys.executable, "-m", "factory"]
        started = [*factory, "init", "."]
        subprocess.run(started, cwd=folder, env=environment, capture_output=True, check=True)
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        done = subprocess.run(
            [*factory, "add-tools", str(file)],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    said = re.search(r"(\d+) tools added", done.stdout)
    if said is None:
        raise SystemExit(f"add-tools of {checkout} failed: {done.stderr}")
    return seconds, int(said[1])


def measure(file: Path, checkouts: list[Path], repeats: int) -> list[list[Cell]]:
    """A row of each checkout; the last one is what the others are compared with."""
    with file.open(encoding="utf-8") as lines:
        num = sum(bool(line.strip()) for line in lines)
    runs = [[add(checkout, file) for checkout in checkouts] for _ in range(repeats)]
    by_checkout = [list(column) for column in zip(*runs, strict=True)]
    best = [min(seconds for seconds, _ in column) for column in by_checkout]
    rows: list[list[Cell]] = []
    for checkout, column, took in zip(checkouts, by_checkout, best, strict=True):
        every = " ".join(f"{seconds:.1f}" for seconds, _ in column)
        name = "here" if checkout == HERE else checkout.name
        rows.append([file.name, name, num, column[0][1], every, num / took, best[-1] / took])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="*", help="JSON lines, a document each")
    parser.add_argument("--beside", type=Path, help="another checkout, to compare with")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print_machine("jsonschema", "botocore", "google-api-python-client")
    checkouts = [HERE, *([arguments.beside.resolve()] if arguments.beside else [])]
    rows: list[list[Cell]] = []
    with tempfile.TemporaryDirectory() as folder:
        files = [file.resolve() for file in arguments.files]
        if not files and not (documents := load_documents()):
            print("skipped: neither botocore nor google-api-python-client is installed")
            return
        if not files:
            files = [Path(folder) / "real_documents.jsonl"]
            lines = (json.dumps(document) + "\n" for _, document in documents)
            files[0].write_text("".join(lines), encoding="utf-8")
        for file in files:
            rows += measure(file, checkouts, arguments.repeats)
    columns = ("file", "checkout", "documents", "added", "user seconds", "documents/s", "ratio")
    print_table("Documents added", columns, rows)


if __name__ == "__main__":
    main()
