"""A lesson on the embedded model: real training and scoring, killed and continued."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from real_round import ask, make_quick_workspace, wait_for
from workspaces import ROOT, run_factory

from factory.domain.canon import to_json
from factory.lab.home.world import draw_item
from factory.lessons.files import read_lessons

NUM_ROWS = 60


def write_rows(workspace: Path) -> Path:
    """Labelled requests of the home world, two that call nothing, a wrong one, a document."""
    rng = Random(3)
    items = [
        draw_item(rng, "novel", rng.choice(("simple", "multiple")), "novel", catalogue=False)
        for _ in range(NUM_ROWS)
    ]
    rows: list[object] = [
        {"query": item.query, "tools": list(item.tools), "calls": list(item.calls)}
        for item in items
    ]
    tools = list(items[0].tools)
    rows += [
        {"query": "Sing me a sailor's song, please", "tools": tools, "calls": []},
        {"query": "Whistle me an old tune", "tools": tools, "answer": "I cannot whistle."},
        {
            "query": "Do something else now",
            "tools": tools,
            "calls": [{"name": "x", "arguments": {}}],
        },
        {"odd": 1},
        {
            "name": "polish_brass_lantern",
            "description": "Polish the brass lantern of a ship until it shines.",
            "parameters": {
                "type": "object",
                "properties": {"minutes": {"type": "integer", "description": "How long."}},
                "required": ["minutes"],
            },
        },
    ]
    path = workspace / "rows.jsonl"
    path.write_text("".join(to_json(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.slow
def test_a_lesson_is_a_round_that_is_continued_after_a_kill(tmp_path: Path) -> None:
    workspace = make_quick_workspace(tmp_path / "ws")
    arguments = ["teach", str(write_rows(workspace)), "--dev", "0.2"]
    knobs = ["--set", "score.benchmarks=[]", "--set", "train.replay_limit=16"]
    dry = run_factory(*arguments, *knobs, "--dry-run", cwd=workspace, code=1)
    assert "1 document" in dry.stdout and "row/unreadable" in dry.stdout
    assert "call/unknown_tool" in dry.stdout and "eval/taught-1.toml" in dry.stdout
    assert not (workspace / "eval" / "taught-1.toml").exists()

    command = [sys.executable, "-m", "factory", *arguments, *knobs]
    process = subprocess.Popen(
        command, cwd=workspace, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(workspace, "select count(*) > 0 from score where benchmark = 'taught-1'")
    process.send_signal(signal.SIGKILL)
    process.wait()
    run_factory("teach", "--dry-run", cwd=workspace, code=2)
    done = run_factory("teach", cwd=workspace)
    assert "promoted" in done.stdout and "taught-1" in done.stdout

    (row,) = ask(workspace, "select * from round_yield where round = 1")
    fallen = ask(workspace, "select rule, count(*) as n from rejected where round = 1 group by 1")
    left = {each["rule"]: each["n"] for each in fallen}
    assert left["row/unreadable"] == left["call/unknown_tool"] == 1 and left["row/held_out"] > 5
    assert row["accepted"] + sum(left.values()) == row["drawn"] == NUM_ROWS + 4
    taught = ask(workspace, "select kind, messages_json from example where round = 1")
    answers = {each["kind"]: json.loads(each["messages_json"])[-1]["content"] for each in taught}
    assert set(answers) == {"adapt", "gen", "invoke", "code", "retrieve"}
    said = [json.loads(e["messages_json"])[-1]["content"] for e in taught if e["kind"] == "invoke"]
    assert "I cannot whistle." in said and "None of these tools can do that." in said
    assert all(said)
    dev = ask(workspace, "select distinct query from benchmark_item where benchmark = 'taught-1'")
    questions = {each["query"] for each in dev}
    assert len(questions) == left["row/held_out"]
    assert not any(q in each["messages_json"] for q in questions for each in taught)

    status = run_factory("status", cwd=workspace).stdout
    assert "promoted" in status
    run_factory("export", "trl", "out.jsonl", cwd=workspace)
    lines = [json.loads(line) for line in (workspace / "out.jsonl").read_text().splitlines()]
    ends = [line["messages"][-1] for line in lines]
    assert len(lines) == row["accepted"]
    assert all(end["content"] or end["tool_calls"] for end in ends)
    refused = run_factory("check", "--round", "1", cwd=workspace, code=2)
    assert "is a lesson" in refused.stderr
    again = read_lessons([workspace / "out.jsonl"])
    assert len(again.items) == len(lines) and not again.bad


def test_planning_deletes_no_dev_set(tmp_path: Path) -> None:
    workspace = make_quick_workspace(tmp_path / "ws")
    rows = write_rows(workspace)
    kept = workspace / "eval" / "taught-1"
    kept.mkdir(parents=True)
    (kept / "notes.txt").write_text("of another ledger")
    dry = run_factory("teach", str(rows), "--dev", "0.2", "--dry-run", cwd=workspace, code=1)
    assert "eval/taught-1-2.toml" in dry.stdout and (kept / "notes.txt").exists()
    assert not (workspace / "eval" / "taught-1-2.toml").exists()


def test_a_lesson_that_holds_nothing_begins_nothing(tmp_path: Path) -> None:
    workspace = make_quick_workspace(tmp_path / "ws")
    (workspace / "bad.jsonl").write_text('{"odd": 1}\n{"query": "x", "tool": "none"}\n')
    done = run_factory("teach", "bad.jsonl", cwd=workspace, code=2)
    assert "nothing is left to teach" in done.stderr and "row/no_document" in done.stdout
    assert ask(workspace, "select count(*) as n from round") == [{"n": 0}]
    none = run_factory("teach", cwd=workspace, code=2)
    assert "no lesson is open" in none.stderr
