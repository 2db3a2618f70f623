"""A ledger of an earlier version with an open round: read as it is, migrated by the next fold."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest

from factory.ledger import history, schema
from factory.ledger.database import Ledger

NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize("version", [1, 5, 9])
@pytest.mark.parametrize("folded", [True, False])
def test_an_open_round_of_an_older_ledger_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int, folded: bool
) -> None:
    older = tmp_path / "migrations"
    older.mkdir()
    for file in sorted(schema.MIGRATIONS.glob("[0-9]*.sql"))[:version]:
        shutil.copy(file, older)
    before = Ledger(tmp_path / "state", migrations=older)
    before.append(
        {
            "round": [{"round": 1, "checkpoint_id": "seed", "recipe_name": "cpu",
                       "recipe_json": "{}", "started_at": NOON}],
            "checkpoint": [{"checkpoint_id": "seed", "round": 0, "path": "rounds/seed"}],
            "judgement": [{"round": 1, "judgement": 1}],
            "draw": [{"round": 1, "position": n, "query_id": f"q_{n}"} for n in range(3)],
            "query": [{"query_id": f"q_{n}", "text": str(n), "source": "s"} for n in range(3)],
            "sample": [{"round": 1, "judgement": 1, "query_id": "q_0", "status": "accepted"}],
        }
    )  # fmt: skip
    if folded:
        with monkeypatch.context() as earlier:  # its views knew only its own columns
            earlier.setattr(schema, "define_views", lambda con: None)
            earlier.setattr(schema, "views_mark", lambda: "views of that version")
            assert before.fold()
    now = Ledger(tmp_path / "state")
    this = history.open_round(now)
    assert this is not None and (this.number, this.checkpoint.id) == (1, "seed")
    assert [query.id for query in history.pending_queries(now, 1)] == ["q_1", "q_2"]
    now.append({"sample": [{"round": 1, "judgement": 1, "query_id": "q_1", "status": "rejected"}]})
    assert now.fold()
    with duckdb.connect(str(now.file), read_only=True) as con:
        assert schema.version_of(con, "ledger") == len(schema.load_migrations())
        assert con.execute("select count(*) from sample").fetchone() == (2,)
    assert [query.id for query in history.pending_queries(now, 1)] == ["q_2"]
