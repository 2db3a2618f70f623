"""A small plan on the embedded model: killed within a round, continued, tabled, known again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from real_round import ask
from workspaces import ROOT, make_workspace, run_factory

PLAN = """
title = "One round, and right labels of its requests"
rounds = 1
text = "requests"
against = "round"

[set]
num_queries = 8
score.dev = ""
train.replay_limit = 8
train.min_accepted = 1

[[benchmark]]
name = "home-more"
home = 1
seed = 7

[[variant]]
name = "round"

[[variant]]
name = "right labels"
gold = true
"""


def wait_for_draw(out: Path, process: subprocess.Popen[bytes], seconds: float = 900) -> Path:
    """The workspace of the first round, once it has drawn; the command must not end before."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        for folder in out.glob("round-0-*[0-9a-f]"):
            if (folder / ".factory").exists():
                (row,) = ask(folder, "select count(*) as n from draw")
                if row["n"]:
                    return folder
        time.sleep(0.2)
    raise AssertionError(f"no trial has drawn a request; exit code {process.poll()}")


@pytest.mark.slow
def test_a_plan_is_run_continued_after_a_kill_and_known_again(tmp_path: Path) -> None:
    settings = (ROOT / "factory.toml").read_text(encoding="utf-8")
    files = {
        "plans/small.toml": PLAN,
        "factory.toml": settings.replace('"auto"', '"transformers"'),
    }
    workspace = make_workspace(tmp_path / "ws", files).root
    before = sorted(workspace.rglob("*"))
    out = tmp_path / "out"
    arguments = ["ablate", "small", "--out", str(out), "--discard"]
    process = subprocess.Popen(
        [sys.executable, "-m", "factory", *arguments], cwd=workspace,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        folder = wait_for_draw(out, process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()

    done = run_factory(*arguments, cwd=workspace)
    assert "1 of 3 trials are known" in done.stderr and "continuing round 1" in done.stderr
    assert "home-more: 4 items, percent" in done.stdout and "against round" in done.stdout
    assert "what the steps drew, kept and cost" in done.stdout
    lines = (out / "trials.jsonl").read_text("utf-8").splitlines()
    parent, made, gold = map(json.loads, lines)
    assert [trial["variant"] for trial in (parent, made, gold)] == [
        "parent", "round", "right labels",
    ]  # fmt: skip
    (step,), (lesson,) = made["steps"], gold["steps"]
    assert step["drawn"] == lesson["drawn"] == 8 and lesson["accepted"] >= 7
    assert 0 <= step["right"] <= step["accepted"] and lesson["right"] is None
    assert step["perplexity"] > 1 and parent["steps"][0]["name"] == "as it is"
    (row,) = ask(folder, "select count(distinct round) as n, count(*) as drawn from draw")
    assert (row["n"], row["drawn"]) == (1, 8)
    asked = "select text from query join draw using (query_id) order by position"
    other = out / gold["folder"]
    assert ask(folder, asked) == ask(other, asked)  # the same requests for both
    assert not list(out.glob("*/.factory/checkpoints")) and sorted(workspace.rglob("*")) == before

    again = run_factory(*arguments, "--json", "--only", "right labels", "--against", "parent",
                        cwd=workspace)  # fmt: skip
    assert "2 of 2 trials are known" in again.stderr and "1 other trials" in again.stderr
    records = [json.loads(line) for line in again.stdout.splitlines()]
    assert [record["variant"] for record in records] == ["parent", "right labels"]
    score = records[1]["steps"][0]["scores"]["home-more"]
    assert score["items"] == 4 and score["from_parent"] is not None and score["change"] is None
