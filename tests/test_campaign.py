"""The campaign: its figures say what was wrong, and it goes on where it was."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from workspaces import ROOT

from bench.campaign import kills
from bench.campaign.__main__ import read_options
from bench.campaign.fuzz import Fuzz, Tally, run_fuzz
from bench.campaign.kills import leftovers, shown_stages
from bench.campaign.places import judge
from bench.campaign.running import MARK, Records, Running, environment, make_quick
from bench.campaign.servers import GOOD, MODES, sends, try_mode, whole
from bench.campaign.upgrade import differs
from factory.judge.sample import Trail
from factory.workspace.folder import Workspace
from factory.workspace.recipe import load_recipe
from factory.workspace.settings import load_settings

DOCUMENTS = [
    {
        "name": "send",
        "description": "Send a parcel.",
        "arguments": {
            "type": "dict",
            "properties": {
                "size": {"type": "string", "description": "Size.", "enum": ["small", "large"]},
                "note": {"type": "string", "description": "Note."},
                "names": {"type": "array", "description": "Who.", "items": {"type": "string"}},
                "place": {
                    "type": "dict",
                    "description": "Where.",
                    "properties": {"street": {"type": "string", "description": "Street."}},
                    "required": ["street"],
                },
            },
            "required": ["size", "note", "names", "place"],
        },
    }
]
"""One that has room for every fault."""


def test_hostile_answers_end_with_a_reason_and_are_counted_once(tmp_path: Path) -> None:
    file = tmp_path / "fuzz.jsonl"
    for wanted in (300, 500):  # the second goes on after the first
        findings = run_fuzz(
            Records(file),
            Fuzz(DOCUMENTS),
            num_answers=wanted,
            deadline=time.monotonic() + 60,
            seed=7,
        )
        assert findings[0].found == str(wanted)
        assert [f.what for f in findings if not f.is_right] == []
    assert len(Records(file).rows) == 2


def test_an_answer_that_ends_the_judging_is_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(*_: object) -> None:
        raise RecursionError("planted")

    monkeypatch.setattr(Trail, "judge_calls", raises)
    tally: Tally = Fuzz(DOCUMENTS).chunk(3, 100)
    assert tally.crashes > 0 and "planted" in tally.examples[0]


def test_stages_are_told_without_what_differs_by_round() -> None:
    text = (
        "check the model …\n  check the model: 4.1 s\nstart engine on r1-0d11aa …\nsample (8) …\n"
    )
    assert shown_stages(text) == ["check the model", "start engine on", "sample"]


def test_only_changed_prompts_or_rules_may_end_a_round_of_an_older_version(tmp_path: Path) -> None:
    for name in ("prompts", "rules"):
        shutil.copytree(ROOT / name, tmp_path / name)
    assert not differs(tmp_path)
    next((tmp_path / "rules").rglob("*.toml")).write_text("reason = 'other'")
    assert differs(tmp_path)


def test_some_killed_rounds_are_of_each_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kills, "is_installed", lambda package: True)
    assert [kills.backend_of(n) for n in range(4)] == ["transformers"] * 3 + ["vllm"]
    monkeypatch.setattr(kills, "is_installed", lambda package: False)
    assert kills.backend_of(3) == "transformers"


def test_leftovers_are_named(tmp_path: Path) -> None:
    for path in ("ws/.factory/checkpoints/r1.tmp", "ws/.factory/segments", "t/vllm_dist_0a1b"):
        (tmp_path / path).mkdir(parents=True)
    assert leftovers(tmp_path / "ws", tmp_path / "t") == ["r1.tmp", "vllm_dist_0a1b"]


def test_the_quick_workspace_has_a_recipe_that_loads(tmp_path: Path) -> None:
    workspace = Workspace(make_quick(tmp_path / "ws"))
    settings = load_settings(workspace)
    recipe = load_recipe(workspace, settings.recipe, {}).recipe
    assert (settings.engine.threads, recipe.score.dev) == (1, "few")


def test_processes_that_outlive_their_command_are_counted_and_ended(tmp_path: Path) -> None:
    sleeper = "import subprocess; subprocess.Popen(['sleep', '99'], start_new_session=True)"
    process = subprocess.Popen(
        [sys.executable, "-c", sleeper], env=environment(tmp_path, **{MARK: "one"})
    )
    running = Running(process, tmp_path / "log", "one")
    assert running.wait(20) == 0
    assert running.orphans(seconds=0.3) == 1
    deadline = time.monotonic() + 10
    while running.pids() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert running.pids() == [] and MARK not in os.environ


@pytest.mark.parametrize("name", ["HTML", "no content", "gzip bomb", "refuses"])
def test_a_bad_server_is_found_to_end_with_a_reason(name: str) -> None:
    pytest.importorskip("httpx", reason="no httpx: pip install 'tool-factory[http]'")
    found = asyncio.run(try_mode(name, MODES[name]))
    assert found.is_right, found


def test_a_good_answer_is_no_bad_server() -> None:
    pytest.importorskip("httpx", reason="no httpx: pip install 'tool-factory[http]'")
    found = asyncio.run(try_mode("good", sends(whole(json.dumps(GOOD).encode()))))
    assert not found.is_right and "a score" in found.found


def test_an_odd_place_is_right_or_refused_with_its_code() -> None:
    assert judge("x", "right").is_right and judge("x", "exit 2: error: no", 2).is_right
    assert judge("x", "left out: no mount").is_right
    for found in ("exit 2: error: no", "exit 4: our bug: x", "exit 3: Traceback (most"):
        assert not judge("x", found, 3).is_right


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert read_options(["fuzz", "--answers", "5"]).answers == 5
    with pytest.raises(SystemExit):
        read_options(["fuz"])
    assert "no such part: fuz" in capsys.readouterr().err
