"""Labelled rows of the home world: all usable, and of no tool that is asked or drawn for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from workspaces import ROOT, run_factory

from factory.judge.rulebook import Rulebook
from factory.lab.home.labelled import labelled_rows
from factory.lab.home.world import CATEGORIES, fresh_item
from factory.lessons.files import read_lessons
from factory.lessons.judging import judge_lessons
from factory.score.calls.kind import Benchmark
from factory.workspace.folder import Workspace


def test_every_row_teaches_and_none_is_of_a_benchmark_or_a_round(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    said = run_factory("home", str(file), "--requests", "60", "--documents", "20", cwd=tmp_path)
    assert "60 requests, 20 documents" in said.stdout
    workspace = Workspace(ROOT)
    benchmarks = [Benchmark.load(workspace, name) for name in ("home", "home-dev")]
    judged = judge_lessons(
        read_lessons([file]), [], rulebook=Rulebook.load(workspace), held_out=benchmarks
    )
    assert len(judged.requests) == 60 and len(judged.documents) == 20
    assert all(row.is_accepted for row in judged.rows)
    names = {tool.name for row in judged.rows for tool in row.tools}
    drawn = {call["name"] for number in range(300) for call in fresh_item(number).calls}
    asked = {tool["name"] for each in benchmarks for item in each.items for tool in item.functions}
    assert len(names) > 60 and not names & (drawn | asked)
    again = run_factory("home", str(file), cwd=tmp_path, code=2)
    assert "exists already" in again.stderr


def test_more_rows_begin_with_the_same_ones() -> None:
    few, more = list(labelled_rows(8, 3)), list(labelled_rows(20, 5))
    assert more[:8] == few[:8] and more[20:23] == few[8:]
    assert list(labelled_rows(8, 3, seed=1)) != few
    assert len({json.dumps(row["query"]) for row in more[:20]}) == 20
    with pytest.raises(ValueError, match="400"):
        list(labelled_rows(0, 401))


def test_the_few_are_the_first_of_each_category() -> None:
    few, all_items = (Benchmark.load(Workspace(ROOT), name).items for name in ("home-few", "home"))
    by_category = {name: [i for i in all_items if i.category == name] for name in CATEGORIES}
    assert list(few) == [item for name in CATEGORIES for item in by_category[name][:15]]
