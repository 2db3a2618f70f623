"""The ledger under a million answers: writing beside a bare insert, size, memory, stock questions.

    python -m bench.ledger
    python -m bench.ledger --samples 20000

Rounds of 10,000 samples are appended as a round does it (flushes of finished queries, each synced
to the disk, folded into the file every 30) with five answers, a vote and the verdicts of each
sample. The alternative is the least that DuckDB can do with the same rows: tables that are Arrow
already, inserted into a bare file, one transaction a round.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import duckdb

from bench.table import Cell, best_seconds, peak_rss_mib, print_machine, print_table
from factory.domain.canon import query_id, to_json, tool_id
from factory.domain.records import Call, Checkpoint
from factory.lab.home.world import FreshItem, dev_items
from factory.ledger.database import READER_CONFIG, Ledger
from factory.ledger.rows import checkpoint_row, stage_row
from factory.ledger.schema import arrow_schemas, load_migrations, stock_questions
from factory.ledger.segments import to_arrow
from factory.ledger.tables import Batch, by_table, merge
from factory.train.examples import calls_text

ROUND_SAMPLES = 10_000
FLUSH_SAMPLES = 250
FOLD_EVERY = 30
ANSWERS = 5
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SAMPLING = '{"max_tokens":256,"n":5,"temperature":0.7,"top_k":40,"top_p":1.0}'
FAULTS = (
    ("call/wrong_type", '"4" is a string, not an integer'),
    ("call/unknown_argument", '"party" is no argument of tool "book_table"'),
    ("call/missing_required", '"date" is required and missing in {"people": 4}'),
    ("call/ungrounded_value", '"Lindqvist" stands nowhere in the query'),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=200_000, help="five answers each")
    num_samples = parser.parse_args().samples
    print_machine("duckdb", "pyarrow")
    with tempfile.TemporaryDirectory() as folder:
        write_and_ask(Path(folder), num_samples)


def write_and_ask(folder: Path, num_samples: int) -> None:
    """Both ways of writing, then the questions on what was written."""
    bare, append, fold = Clock(), Clock(), Clock()
    num_rows = insert_bare(folder / "bare.duckdb", num_samples, bare)
    ledger = Ledger(folder / "state")
    memory = append_rounds(ledger, num_samples, append, fold)
    ours = Clock(wall=append.wall + fold.wall, cpu=append.cpu + fold.cpu)
    print_table(
        f"{num_samples:,} samples with {num_samples * ANSWERS:,} answers: {num_rows:,} rows",
        ("way", "seconds", "CPU s", "rows/s", "bytes/row", "MB", "CPU ratio", "ratio"),
        [
            writing_row("bare Arrow insert", folder / "bare.duckdb", num_rows, bare, bare),
            writing_row("ledger: append, fold", ledger.file, num_rows, ours, bare),
            ("  of it append", append.wall, append.cpu, *[None] * 5),
            ("  of it fold", fold.wall, fold.cpu, *[None] * 5),
        ],
    )
    marks = sorted({0, len(memory) // 4, len(memory) // 2, 3 * len(memory) // 4, len(memory) - 1})
    print_table(
        "the writer's memory after a round, MiB",
        ("round", "rss", "peak"),
        [(mark + 1, *memory[mark]) for mark in marks],
    )
    open_readers(folder / "small")
    ask(ledger)


@dataclass(slots=True)
class Clock:
    """Seconds spent inside its `with` blocks."""

    wall: float = 0.0
    """On the wall: others on the machine slow it down."""
    cpu: float = 0.0
    """Of all threads of this process: they do not."""

    def __enter__(self) -> None:
        self.wall -= time.perf_counter()
        self.cpu -= time.process_time()

    def __exit__(self, *_: object) -> None:
        self.wall += time.perf_counter()
        self.cpu += time.process_time()


def writing_row(way: str, file: Path, num_rows: int, ours: Clock, bare: Clock) -> tuple[Cell, ...]:
    size = file.stat().st_size
    ratios = (None, None) if ours is bare else (bare.cpu / ours.cpu, bare.wall / ours.wall)
    return way, ours.wall, ours.cpu, num_rows / ours.wall, size / num_rows, size / 1e6, *ratios


def insert_bare(file: Path, num_samples: int, clock: Clock) -> int:
    """The number of rows; making them Arrow is not counted."""
    schemas = arrow_schemas(load_migrations())
    num_rows = 0
    for number, batches in rounds(num_samples):
        whole = merge(batches)
        arrow = {table: to_arrow(rows, schemas[table]) for table, rows in by_table(whole).items()}
        num_rows += sum(map(len, arrow.values()))
        with clock, duckdb.connect(str(file)) as con:
            con.execute("begin transaction")
            for table, rows in arrow.items():
                con.register("batch", rows)
                verb = f"create table {table} as" if number == 1 else f"insert into {table}"
                con.execute(f"{verb} select * from batch")
                con.unregister("batch")
            con.execute("commit")
    return num_rows


def append_rounds(
    ledger: Ledger, num_samples: int, append: Clock, fold: Clock
) -> list[tuple[float, float]]:
    """Resident and peak memory after each round; making rows is not counted."""
    memory = []
    for _, batches in rounds(num_samples):
        for flush, batch in enumerate(batches, 1):
            with append:
                ledger.append(batch)
            if flush % FOLD_EVERY == 0:
                with fold:
                    ledger.fold()
        with fold:
            ledger.fold()
        memory.append((rss_mib(), peak_rss_mib()))
    return memory


def open_readers(folder: Path) -> None:
    """A question to a small ledger beside a bare DuckDB that reads nothing."""
    (_, batches), *_ = rounds(FLUSH_SAMPLES)
    ledger = Ledger(folder)
    ledger.append(merge(batches))
    ledger.fold()
    sql = "select count(*) from draw"
    seconds = {
        "bare connection": best_seconds(ask_nothing),
        "ledger at rest": best_seconds(partial(ledger.query, sql)),
    }
    (_, batches), *_ = rounds(FLUSH_SAMPLES)
    ledger.append(merge(batches))
    seconds["ledger with a segment"] = best_seconds(partial(ledger.query, sql))
    bare = seconds["bare connection"]
    print_table(
        "opening a reader for one question, milliseconds",
        ("what", "ms", "ratio"),
        [(what, 1000 * took, took / bare) for what, took in seconds.items()],
    )


def ask_nothing() -> None:
    with duckdb.connect(config=READER_CONFIG) as con:
        con.execute("select 1").fetchall()


def ask(ledger: Ledger) -> None:
    """Each stock question in a plain client, and whole: opened, asked, fetched, closed."""
    rows: list[tuple[str, float, float]] = []
    for question in stock_questions():
        with duckdb.connect(str(ledger.file), read_only=True) as con:
            inside = best_seconds(partial(fetch, con, question.sql))
        whole = best_seconds(partial(ledger.query, question.sql))
        rows.append((question.title, 1000 * inside, 1000 * whole))
    print_table("stock questions, milliseconds", ("question", "plain client", "ledger"), rows)


def fetch(con: duckdb.DuckDBPyConnection, sql: str) -> list[tuple[object, ...]]:
    return con.execute(sql).fetchall()


def rounds(num_samples: int) -> Iterator[tuple[int, Iterator[Batch]]]:
    """Round numbers with the batches that a round of that number appends; always the same rows."""
    chance = random.Random(512)
    items = dev_items()
    for number, start in enumerate(range(0, num_samples, ROUND_SAMPLES), 1):
        end = min(start + ROUND_SAMPLES, num_samples)
        yield number, flushes(number, range(start, end), items, chance)


def flushes(
    number: int, samples: range, items: Sequence[FreshItem], chance: random.Random
) -> Iterator[Batch]:
    """The first batch opens the round, each of the others holds FLUSH_SAMPLES finished queries."""
    parent, made = (Checkpoint(id=f"r{n}", path="", fingerprint="") for n in (number - 1, number))
    yield {
        "round": [
            {
                "round": number,
                "started_at": NOW,
                "checkpoint_id": parent.id,
                "checkpoint_fingerprint": parent.fingerprint,
                "recipe_name": "base",
                "recipe_json": "{}",
                "recipe_sha": "",
                "prompts_sha": "",
                "rules_sha": "",
                "seed": 512,
                "num_queries": len(samples),
                "package_version": "",
                "versions_json": "{}",
            }
        ],
        "stage": [stage_row(number, "sample", NOW)],
        "checkpoint": [checkpoint_row(made, number, parent.id, True, "", NOW)],
    }
    for chunk in _chunks(samples):
        yield merge(
            sample_rows(number, index, items[index % len(items)], chance) for index in chunk
        )


def _chunks(samples: range) -> Iterator[range]:
    for start in range(samples.start, samples.stop, FLUSH_SAMPLES):
        yield range(start, min(start + FLUSH_SAMPLES, samples.stop))


def sample_rows(number: int, index: int, item: FreshItem, chance: random.Random) -> Batch:
    """What one query leaves behind: about one in three is accepted."""
    text = f"{item.query} (order {chance.randrange(10**9)})"
    id_ = query_id(text)
    votes = chance.choice((1, 2, 3, 4, 5, 5))
    rule, message = chance.choice(FAULTS)
    reason = "vote_below_min" if votes < 3 else "" if chance.random() < 0.5 else rule[5:]
    texts = [answer_text(item, chance) for _ in range(ANSWERS)]
    tools = [{"id": tool_id(tool), "document": tool} for tool in item.tools]
    return {
        "query": [{"query_id": id_, "text": text, "source": f"q.jsonl:{index}", "added_at": NOW}],
        "draw": [{"round": number, "position": index, "query_id": id_, "chosen": ""}],
        "generation": [
            {
                "round": number,
                "query_id": id_,
                "stage": "calls",
                "subject": "",
                "sample_index": number_,
                "text": answer,
                "finish_reason": "stop",
                "num_prompt_tokens": 412,
                "num_tokens": len(answer) // 4,
                "logprob": -chance.random(),
                "seed": chance.randrange(2**62),
                "sampling_json": SAMPLING,
                "prompt_sha": "5f1d0c9a8b7e",
                "checkpoint_id": f"r{number - 1}",
            }
            for number_, answer in enumerate(texts)
        ],
        "vote": [
            {
                "round": number,
                "judgement": 1,
                "query_id": id_,
                "num_samples": ANSWERS,
                "winner": 0 if votes >= 3 else None,
                "votes": votes,
                "margin": votes / ANSWERS - 0.2,
                "entropy": 1.37,
                "decided_by": "strict" if votes >= 3 else "none",
                "reason": "" if votes >= 3 else "vote_below_min",
                "classes_json": json.dumps([0] * votes + list(range(1, 6 - votes))),
            }
        ],
        "verdict": [
            {
                "round": number,
                "judgement": 1,
                "query_id": id_,
                "subject": f"sample:{n}",
                "rule": rule,
                "reason": rule[5:],
                "severity": "reject",
                "path": "$[0].arguments",
                "message": message,
            }
            for n in range(chance.choice((0, 1, 2, 3)))
        ],
        "sample": [
            {
                "round": number,
                "judgement": 1,
                "query_id": id_,
                "status": "rejected" if reason else "accepted",
                "stage": "vote" if votes < 3 else "calls",
                "reason": reason,
                "rule": f"call/{reason}" if reason else "",
                "path": "$[0].arguments" if reason else "",
                "message": message if reason else "",
                "tools_json": to_json(tools),
                "calls_json": to_json(item.calls),
                "num_tools": len(tools),
                "num_calls": len(item.calls),
                "made_by": "",
                "made_of_json": "[]",
                "agreement": votes / ANSWERS,
                "finished_at": NOW,
            }
        ],
    }


def answer_text(item: FreshItem, chance: random.Random) -> str:
    """An answer as the model writes it, different each time."""
    calls = [
        Call(name=call["name"], arguments={**call["arguments"], "note": f"{chance.random()}"})
        for call in item.calls
    ]
    return calls_text(calls)


def rss_mib() -> float:
    """Resident memory now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
