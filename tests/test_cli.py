"""Whole commands in temporary workspaces: what a person types and gets, bad input above all."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import duckdb
import pytest
from conftest_models import tiny_model
from workspaces import ROOT, make_workspace, run_factory

from factory.store.database import Ledger
from factory.store.lock import WorkspaceLock


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return make_workspace(tmp_path / "ws").root


def use_model(workspace: Path, model: Path) -> None:
    marker = workspace / "factory.toml"
    lines = marker.read_text(encoding="utf-8").splitlines()
    lines = [f'model = "{model}"' if line.startswith("model") else line for line in lines]
    marker.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_every_command_has_two_lines_of_help_and_an_example() -> None:
    from factory.cli.main import app

    for command in app.registered_commands:
        assert command.callback is not None
        text = command.callback.__doc__ or ""
        name = command.name or command.callback.__name__
        assert f"factory {name}" in text, name


def test_readme_names_every_command() -> None:
    from factory.cli.main import app

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in app.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__
        assert f"factory {name}" in readme, name


def test_init_then_doctor(tmp_path: Path) -> None:
    run_factory("init", str(tmp_path / "new"), cwd=tmp_path)
    done = run_factory("doctor", "--json", cwd=tmp_path / "new")
    findings = [json.loads(line) for line in done.stdout.splitlines()]
    assert {finding["name"] for finding in findings} >= {"python", "engine", "model", "ledger"}
    assert all(finding["remedy"] for finding in findings if finding["state"] == "bad")
    again = run_factory("init", str(tmp_path / "new"), cwd=tmp_path, code=2)
    assert "already" in again.stderr


def test_outside_a_workspace(tmp_path: Path) -> None:
    done = run_factory("status", cwd=tmp_path, code=2)
    assert "factory init" in done.stderr


def test_empty_ledger_answers(workspace: Path) -> None:
    assert "factory round" in run_factory("status", cwd=workspace).stdout
    done = run_factory("sql", "select count(*) as n from sample", "--json", cwd=workspace)
    assert json.loads(done.stdout) == {"n": 0}
    assert "no round yet" in run_factory("rejects", cwd=workspace, code=2).stderr


def test_sql_forms_and_limits(workspace: Path) -> None:
    Ledger(workspace / ".factory").append(
        {"query": [{"query_id": f"q_{n}", "text": f'a,"{n}"'} for n in range(3)]}
    )
    sql = "select query_id, text from query order by 1"
    rows = [
        json.loads(line)
        for line in run_factory("sql", sql, "--json", cwd=workspace).stdout.splitlines()
    ]
    assert rows[2] == {"query_id": "q_2", "text": 'a,"2"'}
    table = list(csv.reader(io.StringIO(run_factory("sql", sql, "--csv", cwd=workspace).stdout)))
    assert table[0] == ["query_id", "text"] and table[1] == ["q_0", 'a,"0"']
    assert "round_yield" in run_factory("sql", cwd=workspace).stdout
    for bad in (
        "select nothing from nowhere",
        "delete from query",
        "copy query to 'x.csv'",
        "select * from read_csv('/etc/passwd')",
        "select 1; select 2",
    ):
        run_factory("sql", bad, cwd=workspace, code=2)
    assert not (workspace / "x.csv").exists()


def test_show_marks_hostile_text_harmless(workspace: Path) -> None:
    text = "evil \x1b[31mred\x1b[0m [bold]markup[/] \u202eflip"
    Ledger(workspace / ".factory").append(
        {
            "draw": [{"round": 1, "position": 0, "query_id": "q_evil"}],
            "query": [{"query_id": "q_evil", "text": text, "source": "x"}],
        }
    )
    done = run_factory("show", "q_e", cwd=workspace)
    assert "\x1b" not in done.stdout and "\u202e" not in done.stdout
    assert "[bold]markup[/]" in done.stdout
    run_factory("show", "q_other", cwd=workspace, code=2)


def test_unknown_recipe_key(workspace: Path) -> None:
    done = run_factory("round", "--dry-run", "--set", "train.epoch=2", cwd=workspace, code=2)
    assert "train.epoch" in done.stderr and "train.epochs" in done.stderr


def test_unknown_recipe_and_flag(workspace: Path) -> None:
    assert (
        "rounds/none.toml"
        in run_factory("round", "--dry-run", "--recipe", "none", cwd=workspace, code=2).stderr
    )
    run_factory("round", "--no-such-flag", cwd=workspace, code=2)


def test_missing_model_folder(workspace: Path) -> None:
    use_model(workspace, workspace / "nowhere")
    done = run_factory("round", "--n", "4", cwd=workspace, code=2)
    assert "nowhere" in done.stderr and "remedy" in done.stderr
    assert not list((workspace / ".factory").glob("segments/*"))


def test_dry_run_shows_origins_and_writes_nothing(workspace: Path, tmp_path: Path) -> None:
    use_model(workspace, tiny_model(tmp_path / "model"))
    done = run_factory("round", "--dry-run", "--n", "7", "--set", "calls.n=9", cwd=workspace)
    assert "7 (flag)" in done.stdout
    line = next(line for line in done.stdout.splitlines() if line.startswith("calls.n"))
    assert line.split() == ["calls.n", "9", "flag"]
    assert not (workspace / ".factory" / "ledger.duckdb").exists()


def test_broken_query_lines_are_named(workspace: Path, tmp_path: Path) -> None:
    use_model(workspace, tiny_model(tmp_path / "model"))
    file = workspace / "q.jsonl"
    file.write_text('{"query": "good"}\n{"query": \n{"nothing": 1}\n', encoding="utf-8")
    done = run_factory("round", "--dry-run", "--queries", "q.jsonl", cwd=workspace)
    assert "q.jsonl:2" in done.stderr and "q.jsonl:3" in done.stderr
    assert "from 1 in 1 files" in done.stdout


def test_empty_pool(workspace: Path, tmp_path: Path) -> None:
    use_model(workspace, tiny_model(tmp_path / "model"))
    file = workspace / "q.jsonl"
    file.write_text('{"query": "only one"}\n', encoding="utf-8")
    from factory.canon import query_id

    Ledger(workspace / ".factory").append(
        {
            "draw": [{"round": 1, "position": 0, "query_id": query_id("Only  ONE")}],
            "stage": [{"round": 1, "stage": "gate", "status": "done"}],
        }
    )
    done = run_factory("round", "--queries", "q.jsonl", cwd=workspace, code=2)
    assert "pool is empty" in done.stderr and "--queries" in done.stderr


def test_second_round_in_the_same_workspace(workspace: Path) -> None:
    with WorkspaceLock(workspace / ".factory"):
        done = run_factory("round", "--n", "4", cwd=workspace, code=3)
    assert str(os.getpid()) in done.stderr


def test_busy_ledger_does_not_stop_reading_or_adding(workspace: Path, tmp_path: Path) -> None:
    ledger = Ledger(workspace / ".factory")
    ledger.append({"query": [{"query_id": "q_1", "text": "x"}]})
    assert ledger.fold()
    tools = tmp_path / "tools.jsonl"
    tools.write_text('{"name": "f", "description": "d", "parameters": {}}\n', encoding="utf-8")
    reader = duckdb.connect(str(workspace / ".factory" / "ledger.duckdb"), read_only=True)
    try:
        run_factory("add-tools", str(tools), cwd=workspace)
        done = run_factory("sql", "select count(*) as n from tool", "--json", cwd=workspace)
        assert json.loads(done.stdout) == {"n": 1}
    finally:
        reader.close()


def test_add_tools_reports_bad_lines_and_keeps_the_rest(workspace: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools.jsonl"
    tools.write_text('{"name": "f", "parameters": {}}\n{"no": "name"}\n', encoding="utf-8")
    done = run_factory("add-tools", str(tools), cwd=workspace, code=1)
    assert "tools.jsonl:2" in done.stderr and "1 tools added" in done.stdout
    done = run_factory("add-tools", str(tools), cwd=workspace, code=1)
    assert "0 tools added, 1 known already" in done.stdout


def test_resume_without_an_open_round(workspace: Path, tmp_path: Path) -> None:
    use_model(workspace, tiny_model(tmp_path / "model"))
    done = run_factory("round", "--resume", cwd=workspace, code=2)
    assert "no round is open" in done.stderr


def test_ledger_that_is_no_ledger(workspace: Path) -> None:
    file = workspace / ".factory" / "ledger.duckdb"
    file.parent.mkdir()
    file.write_bytes(b"not a database" * 1000)
    assert "damaged" in run_factory("status", cwd=workspace, code=2).stderr


def test_rules_run_their_cases(workspace: Path) -> None:
    assert "0 failed cases" in run_factory("rules", "--test", cwd=workspace).stdout
    assert "call/wrong_type" in run_factory("rules", cwd=workspace).stdout


def test_factory_boy_is_refused(workspace: Path, tmp_path: Path) -> None:
    info = tmp_path / "site" / "factory_boy-3.3.3.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Name: factory_boy\nVersion: 3.3.3\n", encoding="utf-8")
    path = os.pathsep.join((str(ROOT), str(tmp_path / "site")))
    done = run_factory("status", cwd=workspace, code=3, environment={"PYTHONPATH": path})
    assert "pip uninstall factory_boy" in done.stderr
