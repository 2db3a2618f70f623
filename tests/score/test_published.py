"""Published tables: all that ship load, and none without its source does."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from bfcl_oracle import average_table_1
from workspaces import ROOT, make_workspace

from factory.domain.failures import ContentError
from factory.score.published import load_published
from factory.workspace.folder import Workspace

TABLE = """
[[tables]]
benchmark = "bfcl"
title = "Some results"
metric = "percent right"
source = "Some paper, Table 3"
split = "BFCL V3"
date = "2024-09-20"
kind = "published"
columns = ["live", "overall"]
[tables.rows]
"Some-8B" = [50.5, nan]
"""
CSV = ROOT.parent / "shared" / "data" / "bfcl" / "data_combined_Sep_20_2024.csv"
CSV_COLUMNS = {
    "simple": "Non-Live Simple AST",
    "multiple": "Non-Live Multiple AST",
    "parallel": "Non-Live Parallel AST",
    "parallel_multiple": "Non-Live Parallel Multiple AST",
    "live_simple": "Live Simple AST",
    "live_multiple": "Live Multiple AST",
    "live_parallel": "Live Parallel AST",
    "live_parallel_multiple": "Live Parallel Multiple AST",
}
NOT_IN_CSV = {"ToolDev-8B (FC)", "ToolACE-8B (FC)"}
"""Rows of ToolDev's Table 1 that the leaderboard of its date does not have."""


def table_1() -> dict[str, dict[str, float]]:
    """ToolDev's Table 1: model to its named values."""
    table = load_published(Workspace(ROOT), "bfcl")[0]
    assert table.source.endswith("Table 1")
    return {
        row.model: {
            name: value
            for name, value in zip(table.columns, row.values, strict=True)
            if value is not None
        }
        for row in table.rows
    }


def test_shipped_tables_load() -> None:
    tables = load_published(Workspace(ROOT))
    assert {table.kind for table in tables} == {"published"}
    sources = {table.source for table in tables}
    assert {f"SGTC (anonymous submission), Table {n}" for n in range(1, 12)} <= sources
    assert {f"ToolDev (ToolACE-DEV, arXiv 2505.07512), Table {n}" for n in (1, 2, 3)} <= sources
    assert any("ToolGen" in source for source in sources)
    assert any("ToolWeaver" in source for source in sources)
    for table in tables:
        for row in table.rows:
            assert all(v is None or v >= 0 for v in row.values)
            if table.metric.startswith(("percent", "NDCG", "SoPR")):
                assert all(v is None or v <= 100 for v in row.values), (table.title, row)


def test_the_query_counts_explain_the_fractions() -> None:
    """SGTC's NDCG@1 over 200, 200 and 100 queries; its SoPR over three runs of 163."""
    tables = load_published(Workspace(ROOT), "toolbench")
    sgtc = next(row for row in tables[0].rows if row.model == "SGTC")
    assert [round(v * n / 100, 6) % 1 for v, n in zip(sgtc.values, (200, 200, 100), strict=False)
            if v is not None] == [0, 0, 0]  # fmt: skip
    completion = load_published(Workspace(ROOT), "toolbench-completion")[0]
    row = next(row for row in completion.rows if row.model == "SGTC, Retrieval")
    named = dict(zip(completion.columns, row.values, strict=True))
    assert named["SoPR I1"] == pytest.approx(100 * 307 / 489, abs=0.005)
    assert named["SoWR I1"] == pytest.approx(100 * 70 / 163, abs=0.005)


def test_averages_reproduce_all_rows_of_table_1() -> None:
    rows = table_1()
    assert len(rows) == 21
    for model, row in rows.items():
        expected = [row[name] for name in ("non_live", "live", "overall")]
        assert average_table_1(row) == pytest.approx(expected, abs=0.0101), model


def test_table_1_is_what_the_leaderboard_of_its_date_says() -> None:
    """Nineteen rows from the leaderboard's own categories; the averages to 0.01."""
    if not CSV.exists():
        pytest.skip(f"no {CSV}")
    with CSV.open(encoding="utf-8") as file:
        board = [
            {name: float(line[column].rstrip("%")) for name, column in CSV_COLUMNS.items()}
            for line in csv.DictReader(file)
        ]
    num_found = 0
    for model, row in table_1().items():
        same = [line for line in board if all(line[name] == row[name] for name in CSV_COLUMNS)]
        assert len(same) == (model not in NOT_IN_CSV), model
        for line in same:
            expected = [row[name] for name in ("non_live", "live", "overall")]
            assert average_table_1(line) == pytest.approx(expected, abs=0.0101), model
            num_found += 1
    assert num_found == 19


def write(folder: Path, text: str) -> Workspace:
    return make_workspace(folder / "ws", {"eval/published/mine.toml": text})


def test_a_workspace_adds_tables(tmp_path: Path) -> None:
    tables = load_published(write(tmp_path, TABLE), "bfcl")
    (mine,) = (table for table in tables if table.title == "Some results")
    assert (mine.rows[0].model, mine.rows[0].values) == ("Some-8B", (50.5, None))
    assert (mine.date, mine.kind, mine.split) == ("2024-09-20", "published", "BFCL V3")


@pytest.mark.parametrize(
    "key", ["benchmark", "title", "metric", "source", "split", "date", "kind", "columns"]
)
def test_a_table_without_its_source_is_refused(tmp_path: Path, key: str) -> None:
    lines = [line for line in TABLE.splitlines() if not line.startswith(key)]
    with pytest.raises(ContentError, match=rf"tables\.0\.{key}") as caught:
        load_published(write(tmp_path, "\n".join(lines)))
    assert caught.value.where == "eval/published/mine.toml"
    assert "source, split, date and kind" in caught.value.remedy


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ('"Some paper, Table 3"', '""', "source"),
        ("2024-09-20", "last year", "date"),
        ('"published"', '"heard"', "kind"),
        ("[50.5, nan]", "[50.5]", "1 values for 2 columns"),
        ("title", "titel", "title"),
        ("[[tables]]", "[[tables", "not valid TOML"),
    ],
)
def test_a_broken_table_is_refused(tmp_path: Path, old: str, new: str, what: str) -> None:
    assert old in TABLE
    with pytest.raises(ContentError, match=what):
        load_published(write(tmp_path, TABLE.replace(old, new)))
