"""The ledger: its rows, its views, its safety, and its promises, tried on real processes."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, get_args, get_type_hints

import duckdb
import pytest

import factory.ledger.schema
from factory.domain.disk import CHECK, disk_remedy
from factory.domain.failures import BusyError, DiskError, InputError
from factory.ledger import history, schema, tables
from factory.ledger.database import Ledger
from factory.ledger.lock import WorkspaceLock
from factory.ledger.place import check_copy
from factory.ledger.schema import MIGRATIONS

Row = dict[str, object]
"""Tests leave columns out that rows of a round have."""

NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
PACKAGE_ROOT = Path(factory.ledger.__file__).parents[2]

VIEWS = {
    "latest_judgement": ("round", "judgement"),
    "outcome": (
        *("round", "judgement", "query_id", "status", "stage", "reason", "rule", "path"),
        *("message", "tools_json", "calls_json", "num_tools", "num_calls", "agreement"),
        "finished_at",
    ),
    "latest_vote": (
        *("round", "query_id", "num_samples", "winner", "votes", "margin", "entropy"),
        *("decided_by", "reason", "classes_json", "judgement"),
    ),
    "judgement_change": (
        *("round", "judgement", "query_id", "status_before", "reason_before"),
        *("status_after", "reason_after", "message"),
    ),
    "accepted": ("round", "query_id", "query", "tools_json", "calls_json", "agreement"),
    "rejected": (
        *("round", "query_id", "query", "stage", "reason"),
        *("rule", "path", "message", "agreement"),
    ),
    "made": (
        *("round", "judgement", "query_id", "query", "made_by", "made_of_json", "status", "stage"),
        *("reason", "rule", "path", "message", "tools_json", "calls_json", "answer"),
    ),
    "rule_yield": ("round", "rule", "reason", "severity", "hits", "samples", "share"),
    "round_yield": (
        *("round", "drawn", "tools_ok", "called", "voted"),
        *("accepted", "rejected", "unjudged", "acceptance", "passed"),
    ),
    "logged": ("round", "query_id", "query", "calls_json", "status", "rule", "message"),
    "calibration": (
        *("round", "benchmark", "wanted", "minimum", "reached", "items"),
        *("votes", "kept", "num_right", "precision", "low"),
    ),
    "calibration_margin": ("round", "votes", "margin", "items", "num_right", "precision"),
    "vote_margin": ("round", "margin", "votes", "queries"),
    "round_score": (
        *("round", "benchmark", "category", "model", "checkpoint_id", "unit"),
        *("value", "low", "high", "num_items", "basis", "new_id"),
    ),
    "round_delta": (
        *("round", "benchmark", "category", "before", "after", "delta"),
        "checkpoint_id",
    ),
    "latest_item": (
        *("round", "checkpoint_id", "benchmark", "item", "category", "correct", "reason"),
        *("message", "answer", "basis", "calls_json", "value", "detail_json"),
        *("identity", "scored_at"),
    ),
    "item_flip": (
        *("round", "checkpoint_id", "benchmark", "category", "item", "flip", "reason"),
        *("message", "query", "gold_json", "answer_before", "answer"),
        *("value_before", "value"),
    ),
    "code_drift": ("version", "round", "token", "tools", "kept", "share", "most"),
    "code_proposal": ("round", "query_id", "tool_id", "proposed", "assigned", "agreement"),
    "lineage": (
        *("checkpoint_id", "parent_id", "round", "promoted"),
        *("fingerprint", "home_before", "home_after"),
    ),
}


def draw(*positions: int) -> dict[str, list[dict[str, object]]]:
    return {"draw": [{"round": 1, "position": n, "query_id": f"q_{n}"} for n in positions]}


def positions(ledger: Ledger) -> list[object]:
    return [n for (n,) in ledger.query("select position from draw order by 1").rows]


def child_command(script: str, *args: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(script), *args]


CHILD_ENVIRONMENT = {**os.environ, "PYTHONPATH": str(PACKAGE_ROOT)}


@contextmanager
def child(script: str, *args: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process; killed at the end if it still runs."""
    process = subprocess.Popen(
        child_command(script, *args),
        env=CHILD_ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def say(process: subprocess.Popen[str], line: str = "") -> str:
    """Send a line to a child and return its answer; only read if there is nothing to send."""
    assert process.stdin is not None and process.stdout is not None
    if line:
        process.stdin.write(line + "\n")
        process.stdin.flush()
    return process.stdout.readline().strip()


# -- rows ------------------------------------------------------------------------------------------


def test_a_ledger_that_does_not_exist_reads_as_empty(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "state")
    for table in ("round", "sample", "query", *VIEWS):
        assert ledger.query(f"from {table}").rows == []
    assert not (tmp_path / "state").exists()
    assert ledger.fold() is True


def test_rows_are_visible_when_append_returns_and_once_after_fold(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(draw(0, 1))
    assert positions(ledger) == [0, 1]
    assert ledger.fold()
    assert positions(ledger) == [0, 1]
    ledger.append(draw(2))
    assert positions(ledger) == [0, 1, 2]
    assert ledger.fold() and ledger.fold()
    assert positions(ledger) == [0, 1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ledger.duckdb", "segments"]
    assert list((tmp_path / "segments").iterdir()) == []


def test_one_batch_is_one_segment_and_an_empty_one_is_none(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append({})
    ledger.append({"draw": []})
    assert not (tmp_path / "segments").exists()
    ledger.append({**draw(0), "query": [{"query_id": "q_0", "text": "hi"}], "tool": []})
    assert len(list((tmp_path / "segments").iterdir())) == 1
    assert ledger.query("select text from query join draw using (query_id)").rows == [("hi",)]


def test_missing_columns_are_null_and_values_keep_their_types(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append({"stage": [{"round": 1, "seconds": 2}], "checkpoint": [{"promoted": True}]})
    for _ in range(2):
        (row,) = ledger.query("from stage").records()
        assert row["seconds"] == 2.0 and row["status"] is None and row["started_at"] is None
        assert ledger.query("select promoted from checkpoint").rows == [(True,)]
        assert ledger.fold()


@pytest.mark.parametrize(
    "batch",
    [
        {"nonsense": [{"round": 1}]},
        {"segment": [{"name": "x"}]},
        {"draw": [{"round": 1, "nonsense": 1}]},
        {"draw": [{"round": 1.5}]},
        {"query": [{"added_at": datetime(2026, 1, 1)}]},  # noqa: DTZ001 - that is the mistake
    ],
)
def test_rows_that_do_not_fit_are_our_bug(
    tmp_path: Path, batch: dict[str, list[dict[str, object]]]
) -> None:
    with pytest.raises(AssertionError):
        Ledger(tmp_path).append(batch)
    assert not (tmp_path / "segments").exists()


def test_times_are_stored_as_utc(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    cet = NOON.astimezone(timezone(timedelta(hours=1)))
    ledger.append({"query": [{"query_id": "q_1", "added_at": cet}]})
    for _ in range(2):
        assert ledger.query("select added_at from query").rows == [(NOON.replace(tzinfo=None),)]
        assert ledger.fold()


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("naïve 😀 نص", "naïve 😀 نص"),
        ("a\0b", "a\0b"),
        ("\x1b[31mred\x1b[0m\r\n\t\x7f\x85", "\x1b[31mred\x1b[0m\r\n\t\x7f\x85"),
        ("half \ud83d of a pair", "half \\ud83d of a pair"),
        ("\udcff", "\\udcff"),
        ("x" * 1_000_000, "x" * 1_000_000),
        ("'; drop table draw; --", "'; drop table draw; --"),
        ("", ""),
    ],
)
def test_any_text_can_be_stored(tmp_path: Path, text: str, stored: str) -> None:
    ledger = Ledger(tmp_path)
    ledger.append({"generation": [{"text": text}]})
    for _ in range(2):
        assert ledger.query("select text from generation").rows == [(stored,)]
        assert ledger.fold()


def test_json_text_is_kept_as_written_and_can_be_queried(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    calls = '[{"name":"a","arguments":{"x":1.0,"y":null}},{"name":"b","arguments":{"x":[]}}]'
    ledger.append({"sample": [{"calls_json": calls}]})
    answer = ledger.query("select calls_json, calls_json->>'$[1].name' from sample")
    assert answer.rows == [(calls, "b")]


def test_folders_may_have_odd_names(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "it's [a] k=v * lock")
    ledger.append(draw(0))
    assert ledger.fold()
    ledger.append(draw(1))
    assert positions(ledger) == [0, 1]
    assert ledger.query("from draw").columns == ("round", "position", "query_id", "chosen")
    with pytest.raises(InputError, match="question mark"):
        Ledger(tmp_path / "why?")
    with pytest.raises(InputError, match="backslash"):
        Ledger(tmp_path / "a\\b")
    with pytest.raises(InputError, match="no UTF-8"):
        Ledger(tmp_path / os.fsdecode(b"caf\xe9"))


# -- views -----------------------------------------------------------------------------------------


def test_views_have_their_golden_columns_and_a_comment(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(draw(0))
    assert ledger.fold()
    with duckdb.connect(str(ledger.file), read_only=True) as con:
        comments = dict(
            con.execute(
                "select view_name, comment from duckdb_views() where not internal"
            ).fetchall()
        )
    assert set(comments) == set(VIEWS)
    assert all(comments.values())
    for view, columns in VIEWS.items():
        assert ledger.query(f"from {view}").columns == columns


def sample(number: int, status: str, stage: str, reason: str = "", judgement: int = 1) -> Row:
    return {
        "round": 1,
        "judgement": judgement,
        "query_id": f"q_{number}",
        "status": status,
        "stage": stage,
        "reason": reason,
        "agreement": 0.8,
    }


def test_code_proposals_are_compared_with_the_codes_assigned(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    texts = {"t_1": "<a_1><b_2>", "t_2": "<a_1><b_9>", "t_3": "<a_12><b_2>"}
    ledger.append(
        {
            "generation": [
                {"round": 1, "query_id": "q", "stage": "propose", "subject": tool, "text": text}
                for tool, text in texts.items()
            ],
            "tool_code": [{"round": 1, "tool_id": tool, "code": "<a_1><b_2>"} for tool in texts],
        }
    )
    rows = ledger.query("select agreement from code_proposal order by tool_id").rows
    assert rows == [("full",), ("prefix",), ("none",)]


@pytest.fixture
def judged(tmp_path: Path) -> Ledger:
    """Round 1: six drawn, one of them not finished, judged twice; scores of two checkpoints."""
    ledger = Ledger(tmp_path)
    unanimous = {"margin": 1.0, "votes": 5}
    ledger.append(
        {
            **draw(0, 1, 2, 3, 4, 5),
            "query": [{"query_id": f"q_{n}", "text": f"query {n}"} for n in (0, 1, 2, 3, 4, 5, 5)],
            "vote": [
                {"round": 1, "query_id": "q_0", "winner": 0, "margin": 1.0, "votes": 5},
                {"round": 1, "query_id": "q_1", "winner": 2, "margin": 1.0, "votes": 5},
                {"round": 1, "query_id": "q_2", "winner": None, "margin": 0.0, "votes": 2},
            ],
            "sample": [
                sample(0, "accepted", ""),
                sample(1, "rejected", "calls", "wrong_type"),
                sample(2, "rejected", "vote", "vote_tie"),
                sample(3, "rejected", "tools", "tools_json"),
                sample(4, "unjudged", "tools", "prompt_too_long"),
            ],
            "verdict": [
                {"round": 1, "judgement": 1, "query_id": "q_1", "rule": "r", "reason": "old"}
            ],
        }
    )
    assert ledger.fold()
    ledger.append(
        {
            "sample": [
                sample(0, "accepted", "", judgement=2),
                sample(1, "accepted", "", judgement=2),
                sample(2, "rejected", "vote", "vote_tie", judgement=2),
                sample(3, "rejected", "tools", "tools_json", judgement=2),
                sample(4, "unjudged", "tools", "prompt_too_long", judgement=2),
            ],
            "vote": [
                {"round": 1, "judgement": 2, "query_id": "q_0", "winner": 0} | unanimous,
                {"round": 1, "judgement": 2, "query_id": "q_1", "winner": 2} | unanimous,
                {"round": 1, "judgement": 2, "query_id": "q_2", "margin": 0.0, "votes": 2},
            ],
            "verdict": [
                {"round": 1, "judgement": 2, "query_id": query, "rule": "r", "reason": "new"}
                for query in ("q_2", "q_2", "q_3")
            ],
            "checkpoint": [
                {"checkpoint_id": "seed", "round": 0, "promoted": True, "fingerprint": "s"},
                {"checkpoint_id": "r1", "round": 1, "parent_id": "seed", "promoted": False},
            ],
            "score": [
                {
                    "round": round_,
                    "checkpoint_id": checkpoint,
                    "benchmark": "home",
                    "category": "overall",
                    "value": value,
                    "scored_at": NOON + timedelta(hours=hour),
                }
                for round_, checkpoint, value, hour in (
                    (0, "seed", 40.0, 0),
                    (1, "seed", 50.0, 1),
                    (1, "r1", 56.0, 2),
                    (2, "r1", 99.0, 3),
                )
            ],
        }
    )
    return ledger


def test_views_count_the_latest_judgement(judged: Ledger) -> None:
    for _ in range(2):
        assert judged.query("select query_id, query from accepted order by 1").rows == [
            ("q_0", "query 0"),
            ("q_1", "query 1"),
        ]
        assert judged.query("select query_id, stage, reason from rejected order by 1").rows == [
            ("q_2", "vote", "vote_tie"),
            ("q_3", "tools", "tools_json"),
        ]
        (funnel,) = judged.query("from round_yield").rows
        assert funnel == (1, 6, 3, 3, 2, 2, 2, 2, 2 / 6, 2)
        assert judged.query("select rule, reason, hits, samples, share from rule_yield").rows == [
            ("r", "new", 3, 2, 2 / 6)
        ]
        assert judged.query("select margin, votes, queries from vote_margin order by 1").rows == [
            (0.0, 2, 1),
            (1.0, 5, 2),
        ]
        assert judged.fold()


def test_what_a_round_makes_counts_apart(judged: Ledger) -> None:
    views = ("accepted", "rejected", "round_yield", "rule_yield", "outcome", "judgement_change")
    asked = [f"from {view} order by all" for view in views]
    before = [judged.query(sql).rows for sql in asked]
    made = {"made_by": "join", "made_of_json": '["q_0", "q_1"]'}
    verdict = {"round": 1, "judgement": 2, "query_id": "q_8", "rule": "r", "severity": "reject"}
    judged.append(
        {
            "query": [{"query_id": "q_7", "text": "both"}, {"query_id": "q_8", "text": "none"}],
            "sample": [
                *(sample(7, "accepted", "calls", judgement=n) | made for n in (1, 2)),
                sample(8, "rejected", "calls", "new", judgement=2) | made,
            ],
            "generation": [{"round": 1, "query_id": "q_7", "stage": "label", "text": "No."}],
            "verdict": [verdict],
        }
    )
    assert [judged.query(sql).rows for sql in asked] == before
    sql = "select query_id, query, made_by, made_of_json, status, reason, answer from made"
    assert judged.query(f"{sql} order by 1").rows == [
        ("q_7", "both", "join", '["q_0", "q_1"]', "accepted", "", "No."),
        ("q_8", "none", "join", '["q_0", "q_1"]', "rejected", "new", ""),
    ]


def test_samples_that_a_set_rule_rejects_fall_at_stage_round(judged: Ledger) -> None:
    key = {"round": 1, "judgement": 2, "subject": "query", "path": "$"}
    judged.append(
        {
            "verdict": [
                key | dict(zip(("query_id", "rule", "reason", "severity"), row, strict=True))
                for row in (
                    ("q_1", "round/b", "second", "reject"),
                    ("q_1", "round/a", "first", "reject"),
                    ("q_0", "round/a", "first", "warn"),
                    ("q_2", "round/a", "first", "reject"),
                )
            ]
            + [key | {"judgement": 1, "query_id": "q_0", "rule": "round/a", "severity": "reject"}]
        }
    )
    for _ in range(2):
        assert judged.query("select query_id from accepted").rows == [("q_0",)]
        assert judged.query(
            "select query_id, stage, reason, rule from rejected order by 1 limit 2"
        ).rows == [("q_1", "round", "first", "round/a"), ("q_2", "vote", "vote_tie", None)]
        (funnel,) = judged.query(
            "select drawn, tools_ok, voted, passed, accepted, rejected, unjudged from round_yield"
        ).rows
        assert funnel == (6, 3, 2, 2, 1, 3, 2)
        changes = judged.query(
            "select query_id, status_before, reason_before, status_after, reason_after "
            "from judgement_change order by 1"
        ).rows
        assert changes == [
            ("q_0", "rejected", "", "accepted", ""),
            ("q_1", "rejected", "wrong_type", "rejected", "first"),
        ]
        assert judged.fold()


def test_views_compare_a_checkpoint_with_its_parent_as_of_its_round(judged: Ledger) -> None:
    assert judged.query("from round_delta order by round").rows == [
        (0, "home", "overall", None, 40.0, None, "seed"),
        (1, "home", "overall", 50.0, 56.0, 6.0, "r1"),
    ]
    assert judged.query("from lineage order by round").rows == [
        ("seed", None, 0, True, "s", None, 40.0),
        ("r1", "seed", 1, False, None, 50.0, 56.0),
    ]


def test_a_delta_compares_one_basis(judged: Ledger) -> None:
    """A later score of the parent alone, on other questions, changes no delta."""
    judged.append({"score": [score_of("seed", 1, 90.0, basis="other", hour=9)]})
    rows = judged.query("select before, after from round_delta where round = 1").rows
    assert rows == [(50.0, 56.0)]
    judged.append({"score": [score_of("r1", 1, 91.0, basis="other", hour=10)]})
    rows = judged.query("select before, after, delta from round_delta where round = 1").rows
    assert rows == [(90.0, 91.0, 1.0)]
    assert judged.query("select home_before from lineage where round = 1").rows == [(90.0,)]


def score_of(checkpoint: str, round_: int, value: float, *, basis: str, hour: int) -> Row:
    return {
        "round": round_,
        "checkpoint_id": checkpoint,
        "benchmark": "home",
        "category": "overall",
        "value": value,
        "basis": basis,
        "scored_at": NOON + timedelta(hours=hour),
    }


def test_item_flips_name_what_turned_with_query_gold_and_answers(judged: Ledger) -> None:
    def item(checkpoint: str, name: str, correct: bool, basis: str = "b") -> Row:
        return {
            "checkpoint_id": checkpoint,
            "benchmark": "home",
            "basis": basis,
            "item": name,
            "category": "simple",
            "correct": correct,
            "reason": "" if correct else "wrong_value",
            "message": "",
            "answer": f"{checkpoint} says {name}",
        }

    judged.append(
        {
            "score": [score_of(name, 1, 50.0, basis="b", hour=20) for name in ("seed", "r1")],
            "item_score": [
                *(item("seed", name, name == "lost") for name in ("lost", "won", "same")),
                *(item("r1", name, name == "won") for name in ("lost", "won", "same")),
                item("seed", "only", True, basis="other"),
                item("r1", "only", False),
            ],
            "benchmark_item": [
                {"benchmark": "home", "basis": "b", "item": name, "query": f"{name}?"}
                for name in ("lost", "won", "won")
            ],
        }
    )
    sql = "select round, item, flip, reason, query, answer_before, answer from item_flip order by 2"
    assert judged.query(sql).rows == [
        (1, "lost", "wrong", "wrong_value", "lost?", "seed says lost", "r1 says lost"),
        (1, "won", "right", "", "won?", "seed says won", "r1 says won"),
    ]


# -- safe SQL --------------------------------------------------------------------------------------

DENIED = [
    "insert into draw values (1, 1, 'q')",
    "insert into pending.draw values (1, 1, 'q')",
    "insert into stored.draw values (1, 1, 'q')",
    "update stored.draw set round = 2",
    "delete from stored.draw",
    "drop view accepted",
    "drop table stored.draw",
    "create table mine as select 1",
    "create or replace view accepted as select 1",
    "alter table stored.draw add column x integer",
    "copy draw to '{folder}/out.csv'",
    "copy (select 1) to '/dev/stdout'",
    "copy stored.draw from '{folder}/in.csv'",
    "export database '{folder}/out'",
    "attach '{folder}/other.duckdb'",
    "select * from read_csv('{folder}/in.csv')",
    "select * from read_text('{folder}/in.csv')",
    "select * from read_json('{folder}/in.csv')",
    "select * from read_parquet('{folder}/*.parquet')",
    "select * from glob('{folder}/*')",
    "from '{folder}/in.csv'",
    "install httpfs",
    "load httpfs",
    "install httpfs from community",
    "set threads = 1",
    "set enable_external_access = true",
    "set lock_configuration = false",
    "reset memory_limit",
    "pragma enable_profiling",
    "create persistent secret s (type s3)",
    "select 1; select 2",
    "commit; drop view accepted; select 1",
    "",
    "selekt 1",
]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """One row in the file and one in a segment; a file to steal lies beside the state folder."""
    folder = tmp_path_factory.mktemp("full")
    (folder / "in.csv").write_text("a,b\n1,2\n")
    ledger = Ledger(folder / "state")
    ledger.append(draw(0))
    assert ledger.fold()
    ledger.append(draw(1))
    return ledger


@pytest.mark.parametrize("sql", DENIED)
def test_sql_that_does_more_than_read_is_denied(full: Ledger, sql: str) -> None:
    folder = full.file.parents[1]
    with pytest.raises(InputError):
        full.query(sql.format(folder=folder))
    assert sorted(path.name for path in folder.iterdir()) == ["in.csv", "state"]
    assert positions(full) == [0, 1]


@pytest.mark.parametrize(
    "sql",
    [
        "insert into pending.draw values (1, 1, 'q')",
        "drop view accepted",
        "attach '{folder}/other.duckdb'",
        "copy draw to '{folder}/out.csv'",
        "from read_csv('{folder}/in.csv')",
        "install httpfs",
        "set enable_external_access = true",
    ],
)
def test_the_raw_connection_is_locked_too(full: Ledger, sql: str) -> None:
    with closing(full.connect()) as con, pytest.raises(duckdb.Error):
        con.execute(sql.format(folder=full.file.parents[1]))


@pytest.mark.parametrize(
    "sql",
    ["show tables", "describe accepted", "summarize draw", "explain from accepted", "from draw;"],
)
def test_reading_statements_work(full: Ledger, sql: str) -> None:
    assert full.query(sql, timeout_seconds=20).rows


def test_parameters_and_row_limit(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(draw(*range(10)))
    answer = ledger.query("select position from draw order by 1", limit=3)
    assert (answer.rows, answer.more) == ([(0,), (1,), (2,)], True)
    answer = ledger.query("select position as p from draw where position > $low", {"low": 8})
    assert (answer.records(), answer.more) == ([{"p": 9}], False)
    assert ledger.query("select 1 from draw where position = ?", [4], limit=1).more is False


@pytest.mark.parametrize(
    "sql",
    [
        "select count(*) from range(10000000000) as a(i), range(10000000) as b(j) where i * j = 7",
        "select i, repeat('x', 10) from range(100000000000) as a(i)",
    ],
)
def test_a_runaway_query_is_stopped(tmp_path: Path, sql: str) -> None:
    started = time.monotonic()
    limit = 1 if "repeat" not in sql else None
    with pytest.raises(InputError, match=r"longer than 0\.3 s"):
        Ledger(tmp_path).query(sql, timeout_seconds=0.3, limit=limit)
    assert time.monotonic() - started < 20


# -- versions --------------------------------------------------------------------------------------


@pytest.fixture
def next_migrations(tmp_path: Path) -> Path:
    """The migrations of a later version: one column and one table more."""
    folder = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, folder)
    number = len(list(folder.iterdir())) + 1
    (folder / f"{number:04d}_more.sql").write_text(
        "alter table draw add column reason varchar; create table extra (round integer);"
    )
    return folder


def test_an_older_ledger_is_read_as_it_is_and_migrated_at_the_next_write(
    tmp_path: Path, next_migrations: Path
) -> None:
    old, new = Ledger(tmp_path / "s"), Ledger(tmp_path / "s", migrations=next_migrations)
    old.append(draw(0))
    assert old.fold()
    old.append(draw(1))
    everything = "select position, reason from draw order by 1"
    assert new.query(everything).rows == [(0, None), (1, None)]
    assert new.query("from extra").rows == []
    new.append({"draw": [{"position": 2, "reason": "why"}], "extra": [{"round": 3}]})
    assert new.query(everything).rows == [(0, None), (1, None), (2, "why")]
    assert new.fold()
    assert new.query(everything).rows == [(0, None), (1, None), (2, "why")]
    with duckdb.connect(str(new.file), read_only=True) as con:
        count = len(list(next_migrations.iterdir()))
        assert con.execute("select count(*), max(number) from migration").fetchall() == [
            (count, count)
        ]


@pytest.fixture
def first_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """A ledger as the first version left it: one round in the file, one sample in a segment.

    Its views are not today's, which name tables that it did not have.
    """
    first = tmp_path / "first"
    first.mkdir()
    shutil.copy(MIGRATIONS / "0001_ledger.sql", first)
    (first / "views.sql").write_text("create view round_yield as select count(*) from draw;")
    monkeypatch.setattr(factory.ledger.schema, "STORE", first)
    ledger = Ledger(tmp_path / "ws" / ".factory", migrations=first)
    ledger.append({**draw(0, 1), "sample": [sample(0, "accepted", "")]})
    assert ledger.fold()
    monkeypatch.undo()
    ledger.append({"sample": [sample(1, "rejected", "vote", "vote_tie")]})
    return ledger


def test_a_ledger_of_the_first_version_is_read_and_then_migrated(first_version: Ledger) -> None:
    """By other processes: before anything is written, after an append, and after the fold."""
    folder = first_version.file.parent
    code = """
        import sys
        from pathlib import Path
        from factory.ledger.database import Ledger
        ledger = Ledger(Path(sys.argv[1]))
        if sys.argv[2]:
            exec(sys.argv[2])
        con = ledger.connect()
        for view in sys.argv[3:]:
            con.execute(f"from {view}").fetchall()
        con.close()
        print(ledger.query("select drawn, accepted, rejected, unjudged from round_yield").rows)
    """

    def run(action: str) -> str:
        command = child_command(code, str(folder), action, *VIEWS)
        done = subprocess.run(
            command, env=CHILD_ENVIRONMENT, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    assert run("") == "[(2, 1, 1, 0)]"
    with duckdb.connect(str(first_version.file), read_only=True) as con:
        assert con.execute("select max(number) from migration").fetchall() == [(1,)]
    row = "{'round': 1, 'position': 2, 'query_id': 'q_2'}"
    assert run(f"ledger.append({{'draw': [{row}]}})") == "[(3, 1, 1, 1)]"
    assert run("assert ledger.fold()") == "[(3, 1, 1, 1)]"
    with duckdb.connect(str(first_version.file), read_only=True) as con:
        assert con.execute("select max(number) from migration").fetchall() == [
            (len(list(MIGRATIONS.glob("*.sql"))),)
        ]
        assert con.execute("select drawn, accepted from round_yield").fetchall() == [(3, 1)]


def test_a_newer_ledger_is_refused(tmp_path: Path, next_migrations: Path) -> None:
    old, new = Ledger(tmp_path / "s"), Ledger(tmp_path / "s", migrations=next_migrations)
    new.append(draw(0))
    with pytest.raises(InputError, match="newer version of tool-factory"):
        old.query("from draw")
    assert new.fold()
    for attempt in (lambda: old.query("from draw"), old.connect):
        with pytest.raises(InputError, match="newer version of tool-factory"):
            attempt()
    old.append(draw(1))
    with pytest.raises(InputError, match="newer version of tool-factory"):
        old.fold()
    assert positions(new) == [0, 1]


def test_a_failed_migration_changes_nothing(tmp_path: Path, next_migrations: Path) -> None:
    ledger = Ledger(tmp_path / "s")
    ledger.append(draw(0))
    assert ledger.fold()
    (last,) = sorted(next_migrations.glob("*_more.sql"))
    last.write_text(last.read_text() + "select nonsense from draw;")
    broken = Ledger(tmp_path / "s", migrations=next_migrations)
    ledger.append(draw(1))
    with pytest.raises(duckdb.Error):
        broken.fold()
    assert positions(ledger) == [0, 1]
    assert ledger.query("from draw").columns == ("round", "position", "query_id", "chosen")


def test_a_file_that_is_no_ledger_is_reported(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(draw(0))
    ledger.file.write_bytes(b"not a database" * 1000)
    for attempt in (lambda: ledger.query("from draw"), ledger.fold):
        with pytest.raises(InputError, match="damaged"):
            attempt()
    ledger.file.unlink()
    (segment,) = (tmp_path / "segments").iterdir()
    whole = segment.read_bytes()
    for content in (b"", whole[:-20], whole[:100], b"not arrow" * 100):
        segment.write_bytes(content)
        for attempt in (lambda: ledger.query("from draw"), ledger.fold):
            with pytest.raises(InputError, match="segment of the ledger is damaged") as caught:
                attempt()
            assert segment.name in caught.value.where
    segment.write_bytes(whole)
    assert positions(ledger) == [0]


# -- promises, on real processes -------------------------------------------------------------------

READER = """
    import sys
    from pathlib import Path
    from factory.ledger.database import Ledger
    con = Ledger(Path(sys.argv[1])).connect()
    print("open", flush=True)
    for line in sys.stdin:
        print(con.execute("select count(*) from draw").fetchone()[0], flush=True)
"""
CLIENT = """
    import sys, duckdb
    con = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "read_only")
    print("open", flush=True)
    for line in sys.stdin:
        print(con.execute(line).fetchall(), flush=True)
"""


def test_a_round_never_waits_for_a_reader(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(draw(0))
    assert ledger.fold()
    ledger.append(draw(1))
    with child(READER, str(tmp_path)) as reader:
        assert say(reader) == "open"
        for number in range(2, 6):
            ledger.append(draw(number))
            started = time.monotonic()
            assert ledger.fold() is False
            assert time.monotonic() - started < 1.0
        assert ledger.fold(wait_seconds=0.2) is False
        assert say(reader, "count") == "2"
        assert positions(ledger) == [0, 1, 2, 3, 4, 5]
    assert ledger.fold(wait_seconds=5) is True
    assert positions(ledger) == [0, 1, 2, 3, 4, 5]


def test_a_reader_in_the_same_process_delays_the_fold_only(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(draw(0))
    assert ledger.fold()
    with closing(ledger.connect()) as con:
        ledger.append(draw(1))
        assert ledger.fold() is False
        assert con.execute("select count(*) from draw").fetchall() == [(1,)]
    assert ledger.fold() is True
    assert positions(ledger) == [0, 1]


def test_the_file_at_rest_opens_in_any_duckdb_client(tmp_path: Path, judged: Ledger) -> None:
    assert judged.fold()
    with child(CLIENT, str(judged.file), "read_only") as client:
        assert say(client) == "open"
        assert say(client, "select count(*) from sample") == "[(10,)]"
        assert say(client, "select drawn, accepted from round_yield") == "[(6, 2)]"
    with duckdb.connect() as con:
        con.execute(f"attach '{judged.file}' as elsewhere (read_only)")
        assert con.execute("select count(*) from elsewhere.rejected").fetchall() == [(2,)]
        (tags,) = con.execute(
            "select tags from duckdb_databases() where database_name = 'elsewhere'"
        ).fetchall()[0]
        assert tags["storage_version"].startswith("v1.")


def test_a_client_that_keeps_the_file_for_writing_is_named(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(draw(0))
    assert ledger.fold()
    with child(CLIENT, str(ledger.file), "write") as client:
        assert say(client) == "open"
        ledger.append(draw(1))
        assert ledger.fold() is False
        with pytest.raises(BusyError, match=f"PID {client.pid}"):
            ledger.query("from draw")
    assert positions(ledger) == [0, 1]


WRITER = """
    import sys
    from pathlib import Path
    from factory.ledger.database import Ledger
    ledger, number = Ledger(Path(sys.argv[1])), int(sys.argv[2])
    while True:
        number += 1
        ledger.append({
            "draw": [{"position": number, "query_id": str(k)} for k in range(3)],
            "generation": [{"round": number, "text": "x" * 2000}],
        })
        print(number, flush=True)
        if number % 4 == 0:
            ledger.fold()
            print("folded", flush=True)
"""


def test_kill_9_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    chance = random.Random(512)
    ledger = Ledger(tmp_path)
    acknowledged: list[int] = []
    folds = 0
    for attempt in range(15):
        with child(WRITER, str(tmp_path), str(attempt * 100_000)) as writer:
            lines = [say(writer) for _ in range(chance.randint(1, 12))]
            time.sleep(chance.uniform(0.0, 0.1))
            os.kill(writer.pid, signal.SIGKILL)
            assert writer.stdout is not None
            lines += [line.strip() for line in writer.stdout if line.endswith("\n")]
        folds += lines.count("folded")
        acknowledged += [int(line) for line in lines if line != "folded"]
        found = ledger.query(
            "select position, drawn, generated "
            "from (select position, count(*) as drawn from draw group by 1) full join "
            "(select round as position, count(*) as generated from generation group by 1) "
            "using (position)"
        ).rows
        assert {counts[1:] for counts in found} == {(3, 1)}
        assert {counts[0] for counts in found}.issuperset(acknowledged)
    assert folds > 0
    assert ledger.fold()
    assert list((tmp_path / "segments").iterdir()) == []
    assert len(ledger.query("from draw").rows) == 3 * len(found)


LOAD_WRITER = """
    import sys
    from pathlib import Path
    from factory.ledger.database import Ledger
    ledger = Ledger(Path(sys.argv[1]))
    folds = 0
    for number in range(1, 41):
        ledger.append({
            "draw": [{"round": 1, "position": number, "query_id": str(k)} for k in range(3)],
            "generation": [{"round": 1, "text": "x" * 500} for _ in range(3)],
        })
        print(number, flush=True)
        if number % 5 == 0:
            folds += ledger.fold(wait_seconds=0.2)
    print(f"done {folds}", flush=True)
"""
LOAD_READERS = {
    "ledger": """
        def counts():
            return Ledger(folder).query("select count(*) from draw").rows[0][0]
    """,
    "stream": """
        def counts():
            with Ledger(folder).read() as past:
                return sum(len(batch) for batch in past.stream("from generation"))
    """,
    "plain client": """
        def counts():
            try:
                con = duckdb.connect(str(folder / "ledger.duckdb"), read_only=True)
            except duckdb.IOException as error:
                assert "lock" in str(error) or "does not exist" in str(error), error
                return None
            with con:
                return con.execute("select count(*) from draw").fetchone()[0]
    """,
    "plain client that stays": """
        while (con := None) is None:
            try:
                con = duckdb.connect(str(folder / "ledger.duckdb"), read_only=True)
                break
            except duckdb.IOException:
                time.sleep(0.02)
        def counts():
            return con.execute("select count(*) from draw").fetchone()[0]
    """,
}
LOAD_LOOP = """
import sys, time
from pathlib import Path
import duckdb
from factory.ledger.database import Ledger
folder = Path(sys.argv[1])
{reader}
last = answers = 0
print("ready", flush=True)
while not (folder / "stop").exists():
    found = counts()
    if found is not None:
        assert found % 3 == 0 and found >= last, (found, last)
        last, answers = found, answers + 1
    time.sleep(0.1)
print(answers, last, flush=True)
"""


@pytest.mark.parametrize("stays", [False, True])
def test_readers_of_every_kind_while_a_round_writes(tmp_path: Path, stays: bool) -> None:
    """Batches are seen whole and never vanish; the writer ends whatever the readers do."""
    Ledger(tmp_path).append({"draw": [{"round": 0, "position": 0} for _ in range(3)]})
    assert Ledger(tmp_path).fold()
    kinds = [kind for kind in LOAD_READERS if stays or "stays" not in kind]
    with ExitStack() as stack:
        readers = [
            stack.enter_context(
                child(LOAD_LOOP.format(reader=textwrap.dedent(LOAD_READERS[kind])), str(tmp_path))
            )
            for kind in kinds
        ]
        assert [say(reader) for reader in readers] == ["ready"] * len(readers)
        writer = stack.enter_context(child(LOAD_WRITER, str(tmp_path)))
        for number in range(1, 41):
            assert say(writer) == str(number)
        end, folds = say(writer).split()
        assert end == "done" and not (stays and int(folds))
        assert Ledger(tmp_path).query("select count(*) from draw").rows == [(41 * 3,)]
        (tmp_path / "stop").touch()
        told = [tuple(map(int, say(reader).split())) for reader in readers]
    for kind, (answers, last) in zip(kinds, told, strict=True):
        assert answers > 0 and last <= 41 * 3, kind
    if stays:
        assert told[-1][1] == 3
    assert Ledger(tmp_path).fold(wait_seconds=5)
    assert Ledger(tmp_path).query("select count(*) from draw").rows == [(41 * 3,)]


FOLDER = """
    import sys
    from pathlib import Path
    from factory.ledger.database import Ledger
    ledger = Ledger(Path(sys.argv[1]))
    sys.stdin.readline()
    print("folding", flush=True)
    ledger.fold()
    print("folded", flush=True)
"""


def test_a_killed_fold_is_done_again_whole(tmp_path: Path) -> None:
    """Killed at points spread over the time that a fold takes."""
    ledger = Ledger(tmp_path)
    chance, rows, survived, killed = random.Random(512), 0, 0, 0
    for attempt in range(6):
        for _ in range(3):
            ledger.append(
                {
                    "draw": [{"position": rows + n} for n in range(1000)],
                    "generation": [{"text": chance.randbytes(400).hex()} for _ in range(1000)],
                }
            )
            rows += 1000
        with child(FOLDER, str(tmp_path)) as process:
            assert say(process, "go") == "folding"
            time.sleep(0.03 * attempt)
            os.kill(process.pid, signal.SIGKILL)
            assert process.stdout is not None
            finished = "folded" in process.stdout.read()
        survived, killed = survived + finished, killed + (not finished)
        counts = "select count(distinct position), count(*), (select count(*) from generation)"
        assert ledger.query(f"{counts} from draw").rows == [(rows, rows, rows)]
    assert killed > 0
    assert ledger.fold()
    assert list((tmp_path / "segments").iterdir()) == []
    with duckdb.connect(str(ledger.file), read_only=True) as con:
        assert con.execute("select count(*) from draw").fetchall() == [(rows,)]


def test_a_fold_cut_off_after_its_commit_is_finished_by_the_next(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for number in (0, 1):
        ledger.append(draw(number))
    first, second = sorted((tmp_path / "segments").iterdir())
    kept = second.read_bytes()
    assert ledger.fold()
    second.write_bytes(kept)
    aside = second.with_name(first.name + ".tmp")
    aside.write_bytes(kept[:100])
    assert positions(ledger) == [0, 1]
    assert Ledger(tmp_path).fold()
    assert positions(ledger) == [0, 1]
    assert list((tmp_path / "segments").iterdir()) == []


FULL_DISK = """
    import json, os, sys
    from pathlib import Path
    from factory.domain.failures import DiskError
    from factory.ledger.database import Ledger
    folder = Path(sys.argv[1])
    ledger = Ledger(folder)
    report = {}

    def rows():
        return ledger.query("select count(*) from generation").rows[0][0]

    def attempt(name, action):
        try:
            report[name] = action()
        except DiskError as error:
            report[name] = f"DiskError {error.what}"
        report[name + " rows"] = rows()

    def append(size):
        ledger.append({"generation": [{"text": os.urandom(size // 2).hex()}]})

    append(1000)
    attempt("append too much", lambda: append(20_000_000))
    report["left aside"] = [p.name for p in (folder / "segments").iterdir() if p.suffix != ".arrow"]
    attempt("first fold", ledger.fold)
    for _ in range(4):
        append(300_000)
    if sys.argv[2] == "tmpfs":
        filler = folder / "filler"
        free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
        filler.write_bytes(b"0" * (free - 100_000))
        attempt("fold without space", ledger.fold)
        attempt("append without space", lambda: append(300_000))
        filler.unlink()
    attempt("fold with space", ledger.fold)
    report["left"] = [p.name for p in (folder / "segments").iterdir()]
    print(json.dumps(report))
"""


def test_a_full_disk_is_reported_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    mount = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    tmpfs = f"mount -t tmpfs -o size=5m tmpfs {tmp_path}"
    if (
        shutil.which("unshare") is None
        or subprocess.run([*mount, tmpfs], capture_output=True).returncode
    ):
        pytest.skip("this machine does not let a test mount a small disk")
    run = subprocess.run(
        [*mount, f'{tmpfs} && exec "$@"', "sh", *child_command(FULL_DISK, str(tmp_path), "tmpfs")],
        env=CHILD_ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert report["append too much"].startswith("DiskError the ledger cannot be written: No space")
    assert report["append too much rows"] == 1
    assert report["left aside"] == []
    assert report["first fold"] is True
    assert report["fold without space"].startswith("DiskError")
    assert report["fold without space rows"] == 5
    assert report["append without space"].startswith("DiskError")
    assert report["append without space rows"] == 5
    assert report["fold with space"] is True
    assert report["fold with space rows"] == 5
    assert report["left"] == []


def test_a_file_size_limit_is_reported_like_a_full_disk(tmp_path: Path) -> None:
    limited = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))\n"
    run = subprocess.run(
        [sys.executable, "-c", limited + textwrap.dedent(FULL_DISK), str(tmp_path), "limit"],
        env=CHILD_ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert report["append too much"].startswith("DiskError the ledger cannot be written: File too")
    assert report["append too much rows"] == 1
    assert report["left aside"] == report["left"] == []
    assert report["fold with space rows"] == 5


NO_LOCKS = """
    #define _GNU_SOURCE
    #include <dlfcn.h>
    #include <errno.h>
    #include <fcntl.h>
    #include <stdarg.h>
    static int call(const char *name, int fd, int command, void *value) {
        if (command == F_SETLK || command == F_SETLKW || command == F_GETLK) {
            errno = %s;
            return -1;
        }
        return ((int (*)(int, int, void *))dlsym(RTLD_NEXT, name))(fd, command, value);
    }
    #define TAKE va_list rest; va_start(rest, command); void *value = va_arg(rest, void *)
    int fcntl(int fd, int command, ...) { TAKE; return call("fcntl", fd, command, value); }
    int fcntl64(int fd, int command, ...) { TAKE; return call("fcntl64", fd, command, value); }
"""
"""A share without file locks, as DuckDB meets it: Samba, sshfs, NFS without its lock daemon."""
FOLD_TWICE = """
    import sys
    from pathlib import Path
    from factory.domain.failures import DiskError
    from factory.ledger.database import Ledger
    ledger = Ledger(Path(sys.argv[1]))
    ledger.append({"draw": [{"round": 1, "position": 0, "query_id": "q_0"}]})
    try:
        print(ledger.fold())
    except DiskError as error:
        print(error)
"""


@pytest.mark.parametrize("number", ["ENOLCK", "ENOTSUP"])
@pytest.mark.parametrize("has_file", [False, True])
def test_a_share_without_locks_is_told_of_as_that(
    tmp_path: Path, number: str, has_file: bool
) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler here to take the locks away with")
    source, library = tmp_path / "locks.c", tmp_path / "locks.so"
    source.write_text(NO_LOCKS % number)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    state = tmp_path / "state"
    if has_file:
        Ledger(state).append(draw(3))
        assert Ledger(state).fold()
    run = subprocess.run(
        child_command(FOLD_TWICE, str(state)),
        env=CHILD_ENVIRONMENT | {"LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "the ledger cannot be used" in run.stdout
    assert "remedy: put the workspace on a disk with file locks" in run.stdout
    assert "free some space" not in run.stdout


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "free some space (`df -h`)"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "free some space (`df -h`)"),
        (PermissionError(errno.EACCES, "Permission denied"), "mend its permissions"),
        (OSError(errno.EROFS, "Read-only file system"), "mend its permissions"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (RuntimeError("Error while serializing: I/O error: No space left on device"), "free some"),
        (OSError(errno.EIO, "Input/output error"), CHECK),
    ],
)
def test_the_remedy_of_a_disk_is_what_the_system_said(error: Exception, remedy: str) -> None:
    assert remedy in disk_remedy(error)


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file in the way")
    with pytest.raises(DiskError):
        Ledger(tmp_path / "state").append(draw(0))


# -- the workspace lock ----------------------------------------------------------------------------

HOLDER = """
    import sys
    from pathlib import Path
    from factory.ledger.lock import WorkspaceLock
    with WorkspaceLock(Path(sys.argv[1])):
        print("held", flush=True)
        sys.stdin.read()
"""


def test_a_second_lock_is_refused_until_the_first_process_is_gone(tmp_path: Path) -> None:
    with child(HOLDER, str(tmp_path)) as holder:
        assert say(holder) == "held"
        with pytest.raises(BusyError, match=rf"process {holder.pid}, since \d{{4}}-") as caught:
            WorkspaceLock(tmp_path).__enter__()
        assert caught.value.exit_code == 3 and str(holder.pid) in caught.value.remedy
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        with WorkspaceLock(tmp_path), pytest.raises(BusyError, match=str(os.getpid())):
            WorkspaceLock(tmp_path).__enter__()
    with WorkspaceLock(tmp_path):
        pass


def test_a_copy_of_a_workspace_in_use_is_refused_and_a_moved_one_is_not(tmp_path: Path) -> None:
    here, moved = tmp_path / "in use", tmp_path / "moved"
    with child(HOLDER, str(here / ".factory")) as holder:
        assert say(holder) == "held"
        time.sleep(1.1)  # a copy within a second of the lock is not told
        copies = [
            shutil.copytree(here, tmp_path / copier.__name__, copy_function=copier)
            for copier in (shutil.copy, shutil.copy2)
        ]
        Ledger(here.rename(moved) / ".factory").query("select 1")
        # One is put just where the workspace was, which still is in use.
        copies[0] = copies[0].rename(here)
        for copy in copies:
            state = copy / ".factory"
            for opened in (Ledger, lambda folder: WorkspaceLock(folder).__enter__()):
                with pytest.raises(InputError, match="was copied while") as caught:
                    opened(state)
                assert "factory backup" in caught.value.remedy and str(state) in caught.value.remedy
        holder.kill()
        holder.wait()
    for copy in copies:
        (copy / ".factory" / "lock").unlink()
    for folder in (moved / ".factory", *(copy / ".factory" for copy in copies)):
        with WorkspaceLock(folder):
            assert Ledger(folder).fold()
        copied = shutil.copytree(folder, tmp_path / f"rest{folder.parent.name}")
        assert Ledger(copied).fold()


def test_a_lock_of_another_number_or_of_changed_rights_is_no_copy(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    number, changed = lock.stat().st_ino, lock.stat().st_ctime_ns

    def say_of_itself(number: int, ns: int, modified: int) -> None:
        lock.write_bytes(b"1 2026-01-01 00:00:00 UTC\n%d %d" % (number, ns))
        os.utime(lock, ns=(modified, modified))
        check_copy(tmp_path)

    earlier = changed - 60 * 10**9
    say_of_itself(number + 1, changed, changed)  # a disk that was mounted again
    say_of_itself(number, earlier, earlier)  # chmod after a kill
    for copy in ((number + 1, earlier, earlier), (number, earlier, changed)):
        with pytest.raises(InputError, match="was copied while"):
            say_of_itself(*copy)
    for unknown in (b"1 2026-01-01\n7 /an/older/version's/lock", b"1 2026", b""):
        lock.write_bytes(unknown)
        check_copy(tmp_path)


def test_a_workspace_that_is_moved_while_it_is_written_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "here" / ".factory"
    state.mkdir(parents=True)
    ledger = Ledger(state)
    ledger.append(draw(0))
    there = state.parent.rename(tmp_path / "there") / state.name
    for recreated in (False, True):
        if recreated:
            state.mkdir(parents=True)
        for step in (lambda: ledger.append(draw(1)), ledger.fold, ledger.connect):
            with pytest.raises(DiskError, match="moved or removed") as caught:
                step()
            assert caught.value.where == str(state.parent)
    assert os.listdir(state) == []
    assert Ledger(there).query("select count(*) from draw").rows == [(1,)]


def test_a_child_program_does_not_keep_the_lock(tmp_path: Path) -> None:
    with WorkspaceLock(tmp_path):
        sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with WorkspaceLock(tmp_path):
            assert sleeper.poll() is None
    finally:
        sleeper.communicate(b"\n")


def test_a_workspace_that_cannot_be_locked_is_reported(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file in the way")
    with pytest.raises(DiskError, match="cannot be locked"):
        WorkspaceLock(tmp_path / "state").__enter__()


def test_row_types_are_the_tables() -> None:
    """A misspelt column is a type error because the types are the migrations' tables."""
    with duckdb.connect() as con:
        for migration in schema.load_migrations():
            con.execute(migration.sql)
        rows = con.execute(
            "select table_name, column_name from duckdb_columns() where not internal"
        ).fetchall()
    columns: dict[str, set[str]] = {}
    for table, column in rows:
        columns.setdefault(table, set()).add(column)
    typed = get_type_hints(tables.Batch)
    assert typed.keys() == columns.keys()
    for table, kind in typed.items():
        (row,) = get_args(kind)
        assert get_type_hints(row).keys() == columns[table], table


def test_a_reader_is_one_snapshot(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append({"draw": [{"round": 1, "position": 0, "query_id": "q"}]})
    with ledger.read() as past:
        assert past.query("select count(*) from draw").rows == [(1,)]
        ledger.append({"draw": [{"round": 1, "position": 1, "query_id": "r"}]})
        assert past.query("select count(*) from draw").rows == [(1,)]
    assert ledger.query("select count(*) from draw").rows == [(2,)]


def test_a_reader_takes_the_views_of_the_file_only_where_they_are_todays(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(draw(0))
    assert ledger.fold()
    where = "select current_database()"
    assert ledger.query(where).rows == [("stored",)]
    ledger.append(draw(1))
    assert ledger.query(where).rows == [("memory",)]
    assert ledger.query("select drawn from round_yield").rows == [(2,)]
    assert ledger.fold()
    # As a version does it that defines other views and notes only segments.
    with duckdb.connect(str(ledger.file)) as con:
        con.execute("insert into segment values ('1-v5-x.arrow', now())")
        con.execute("create or replace view round_yield as select 1 as drawn")
    assert ledger.query(where).rows == [("memory",)]
    assert ledger.query("select drawn from round_yield").rows == [(2,)]
    ledger.append(draw(2))
    assert ledger.fold() and ledger.query(where).rows == [("stored",)]
    assert ledger.query("select drawn from round_yield").rows == [(3,)]


def test_language_is_kept_beside_what_the_lineage_started_with(tmp_path: Path) -> None:
    """The first training of the line counts, and only figures of the same text."""
    ledger = Ledger(tmp_path)

    def made(number: int, parent: str | None) -> dict[str, Any]:
        return {"checkpoint_id": f"r{number}", "round": number, "parent_id": parent}

    def read(number: int, moment: str, perplexity: float, sha: str = "a") -> dict[str, Any]:
        row = {"round": number, "moment": moment, "perplexity": perplexity, "text_sha": sha}
        return row | {"code_mass": 0.0}

    ledger.append(
        {
            "checkpoint": [made(0, None), made(1, "r0"), made(2, "r1"), made(3, "r1")],
            "language": [
                *(read(1, "before", 10.0), read(1, "after", 11.0)),
                *(read(2, "before", 11.0), read(2, "after", 99.0)),
                *(read(3, "before", 11.0), read(3, "after", 12.0)),
                *(read(4, "before", 12.0), read(4, "coded", 12.5), read(4, "after", 13.0)),
                *(read(5, "before", 7.0, "b"), read(5, "after", 8.0, "b")),
            ],
        }
    )
    assert history.language_kept(ledger, 1, "r0") == (10.0, 11.0, 1, 1)
    assert history.language_kept(ledger, 4, "r3") == (10.0, 13.0, 1, 1)
    assert history.language_kept(ledger, 5, "r3") == (7.0, 8.0, 5, 1)
    assert history.language_kept(ledger, 6, "r3") is None
