"""The rules over a round, and judging it again: on a real workspace, with recorded answers."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from conftest_models import tiny_model
from workspaces import ROOT, make_workspace, run_factory

from factory.cli.monitor import PlainMonitor
from factory.domain.canon import query_id
from factory.domain.failures import ContentError, InputError
from factory.domain.records import Query, Request
from factory.engines.replay import ReplayEngine
from factory.judge.rulebook import Rulebook
from factory.lab.home.world import home_items
from factory.ledger import history
from factory.ledger.database import Ledger
from factory.ledger.lock import WorkspaceLock
from factory.round.factory import Factory, load_factory
from factory.round.gate import decide
from factory.round.judging import judge
from factory.round.rejudge import Rejudgement, rejudge
from factory.round.sampling import sample as sample_round
from factory.round.start import resume, start
from factory.score.keeper import Keeper
from factory.workspace.folder import Workspace
from factory.workspace.recipe import RuleSetting, load_recipe
from factory.workspace.settings import load_settings

DOCUMENT = {
    "name": "book_table",
    "description": "Book a table at a restaurant.",
    "arguments": {
        "type": "dict",
        "properties": {"people": {"type": "integer", "description": "Number of people."}},
        "required": ["people"],
    },
    "results": {"type": "dict", "properties": {}},
}


def write_tools(*documents: Mapping[str, object]) -> str:
    return "<tools>" + "\n".join(map(json.dumps, documents)) + "</tools>"


def call(people: object) -> str:
    body = json.dumps({"name": "book_table", "arguments": {"people": people}})
    return f"<tool_call>{body}</tool_call>"


GOOD = write_tools(DOCUMENT)
FATES: dict[str, tuple[str, str, Sequence[str], str]] = {
    "good": ("Book a table for 4 people in Lisbon tonight", GOOD, [call(4)] * 5, ""),
    "copy": (
        "book a table: for 4 people, in Lisbon, tonight!",
        GOOD,
        [call(4)] * 5,
        "duplicate_query",
    ),
    "untagged": ("Dinner somewhere near the old harbour", "no tags", [], "no_tools_tag"),
    "text": ("Reserve seats for 2 at the opera cafe", GOOD, [call("2")] * 5, "wrong_type"),
    "tie": (
        "We are three or four and hungry",
        GOOD,
        [call(3), call(3), call(4), call(4), "?"],
        "vote_tie",
    ),
    "chatty": (
        "A quiet corner for 6 people on the terrace with a view of the sea",
        GOOD,
        ["Sure! " + call(6)] * 5,
        "",
    ),
    "near": (
        "A quiet corner for 6 people on the terrace with a view of the seas",
        GOOD,
        [call(6)] * 5,
        "near_duplicate_query",
    ),
    "exam": (home_items()[0].query, GOOD, [], "eval_overlap"),
    "bare": (
        "Lunch for 8 colleagues by the river",
        write_tools({k: v for k, v in DOCUMENT.items() if k != "description"}),
        [],
        "desc_missing",
    ),
    "split": (
        "Brunch for 5 on Sunday",
        GOOD,
        [call(5), call(5), call(6), call(7), "?"],
        "vote_below_min",
    ),
}
"""Request, tools answer, call answers and the reason it falls for; empty where it is kept."""
IDS = {name: query_id(fate[0]) for name, fate in FATES.items()}
BY_TEXT = {query_id(fate[0]): fate for fate in FATES.values()}
POOL = [Query(id=query_id(f[0]), text=f[0], source="test") for f in FATES.values()]


def answer(request: Request) -> Sequence[str]:
    identifier, stage = request.id.split("/")
    return [BY_TEXT[identifier][1]] if stage == "tools" else BY_TEXT[identifier][2]


def open_factory(workspace: Workspace) -> Factory:
    settings = load_settings(workspace)
    resolved = load_recipe(workspace, settings.recipe, {})
    return load_factory(workspace, settings, resolved, PlainMonitor(), POOL)


def sample(workspace: Workspace) -> Factory:
    """A round up to the end of sampling."""
    factory = open_factory(workspace)
    this = start(factory, len(POOL))
    engine = ReplayEngine(answer)
    model = Keeper(factory.setup, this.checkpoint, (), lambda num_engines: engine)
    asyncio.run(sample_round(factory, this, model))
    asked = {request.id.split("/")[0] for request in engine.requests}
    assert asked == set(IDS.values()) - {IDS["exam"]}
    return factory


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("sampled")
    workspace = make_workspace(folder / "ws")
    model = tiny_model(workspace.root / "model")
    text = workspace.marker.read_text(encoding="utf-8")
    workspace.marker.write_text(text.replace("rounds/seed", model.name), encoding="utf-8")
    sample(workspace)
    return workspace


@pytest.fixture(scope="module")
def finished(sampled: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return finish(copy_of(sampled, tmp_path_factory.mktemp("finished") / "ws"))


def copy_of(workspace: Workspace, folder: Path) -> Workspace:
    shutil.copytree(workspace.root, folder)
    return Workspace(folder)


def finish(workspace: Workspace) -> Workspace:
    """Judge the open round and end it untrained."""
    factory = open_factory(workspace)
    factory, this = resume(factory, factory.ledger)
    assert this is not None
    judge(factory, this)
    decide(factory, this, "not trained: a test")
    return workspace


def again(
    workspace: Workspace, settings: dict[str, RuleSetting] | None = None, **vote: str
) -> Rejudgement:
    rulebook = Rulebook.load(workspace, settings or {})
    given = load_recipe(workspace, "cpu", {f"vote.{key}": value for key, value in vote.items()})
    return rejudge(workspace, Ledger(workspace.state), rulebook, 1, given)


def changes(result: Rejudgement) -> dict[str, tuple[str, str, str, str]]:
    names = {identifier: name for name, identifier in IDS.items()}
    return {
        names[c.query_id]: (c.status_before, c.reason_before, c.status_after, c.reason_after)
        for c in result.changes
    }


# -- in the round ----------------------------------------------------------------------------------


def test_every_sample_has_its_fate_and_the_books_balance(finished: Workspace) -> None:
    ledger = Ledger(finished.state)
    rows = ledger.query("select query_id, status, reason from outcome").rows
    expected = {(IDS[name], f[3]) for name, f in FATES.items()}
    assert {(identifier, reason) for identifier, _, reason in rows} == expected
    assert all((status == "accepted") == (reason == "") for _, status, reason in rows)
    (funnel,) = ledger.query(
        "select drawn, passed, accepted, rejected, unjudged from round_yield"
    ).rows
    assert funnel == (10, 4, 2, 8, 0)
    stages = dict(ledger.query("select reason, stage from rejected").rows)
    assert stages["eval_overlap"] == "draw"
    assert stages["duplicate_query"] == stages["near_duplicate_query"] == "round"
    kept = {each.query.id for each in history.accepted_samples(ledger, 1)}
    assert kept == {IDS["good"], IDS["chatty"]}


def test_the_stage_and_its_counts_are_on_the_card(finished: Workspace) -> None:
    ledger = Ledger(finished.state)
    (detail,) = ledger.query("select detail_json from stage where stage = 'judge'").rows[0]
    assert json.loads(detail) | {"rules_sha": ""} == {
        "candidates": 4, "rejected": 2, "warned": 0, "rules_sha": "",
    }  # fmt: skip
    printed = subprocess.run(
        [sys.executable, "-c", "from pathlib import Path;"
         "from factory.workspace.folder import Workspace;"
         "from factory.ledger.database import Ledger; from factory.cli.card import print_card;"
         "w = Workspace(Path.cwd()); print_card(Ledger(w.state), 1, w)"],
        cwd=finished.root, env={"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
        check=True,
    ).stdout  # fmt: skip
    assert "passed          4" in printed and "10 drawn = 2 accepted" in printed
    assert "duplicate_query            1" in printed
    assert '"passed": 4' in run_factory("status", "--json", cwd=finished.root).stdout


def test_later_rounds_are_compared_with_what_was_accepted(finished: Workspace) -> None:
    past = history.accepted_before(Ledger(finished.state), 2)
    assert [query.id for query in past.queries] == [IDS["good"], IDS["chatty"]]
    assert [tool.name for tool in past.tools] == ["book_table"]
    assert history.accepted_before(Ledger(finished.state), 1).queries == []


def test_a_rule_that_fails_loses_nothing_and_is_mended(sampled: Workspace, tmp_path: Path) -> None:
    workspace = copy_of(sampled, tmp_path / "ws")
    rule = workspace.root / "rules/round/mine.sql"
    rule.parent.mkdir(parents=True, exist_ok=True)
    rule.with_suffix(".toml").write_text(
        'reason = "mine"\nseverity = "reject"\nwhy = "A rule of one\'s own."\n', encoding="utf-8"
    )
    select = "select query_id, 'tonight' as detail from candidate where words like '%tonight%'"
    rule.write_text(f"{select} and cast(query_id as date) is not null", encoding="utf-8")
    with pytest.raises(ContentError, match="round/mine"):
        open_factory(workspace)
    rule.write_text(f"{select} and error(words) is null", encoding="utf-8")
    factory = open_factory(workspace)
    factory, this = resume(factory, factory.ledger)
    assert this is not None
    with pytest.raises(ContentError, match="round/mine") as caught:
        judge(factory, this)
    assert caught.value.where == str(rule)
    ledger = Ledger(workspace.state)
    before = ledger.query("select count(*) from verdict where rule like 'round/%'").rows
    assert before == [(1,)] and "judge" not in (history.open_round(ledger) or this).stages_done
    rule.write_text(select, encoding="utf-8")
    finish(workspace)
    assert ledger.query("select query_id from rejected where reason = 'mine'").rows == [
        (IDS["good"],)
    ]


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = {tests!r}
import test_rejudge
from factory.ledger.database import Ledger
from factory.round.judging import judge
from factory.round.start import resume
from factory.workspace.folder import Workspace

factory = test_rejudge.open_factory(Workspace(Path(sys.argv[1])))
factory, this = resume(factory, factory.ledger)
real = getattr(Ledger, sys.argv[2])
def die(self, *args):
    if sys.argv[3] == "after":
        real(self, *args)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(Ledger, sys.argv[2], die)
judge(factory, this)
"""


def test_killed_while_judging_it_is_judged_once(sampled: Workspace, tmp_path: Path) -> None:
    """SIGKILL before and after the append and the fold, one after the other; then to the end."""
    workspace = copy_of(sampled, tmp_path / "ws")
    script = KILLED.format(tests=[str(ROOT / "tests"), str(Path(__file__).parent)])
    for method, moment in (("append", "before"), ("append", "after")):
        done = subprocess.run(
            [sys.executable, "-c", script, str(workspace.root), method, moment],
            env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
    finish(workspace)
    ledger = Ledger(workspace.state)
    (row,) = ledger.query(
        "select count(*), count(distinct query_id) from verdict "
        "where rule like 'round/%duplicate_query'"
    ).rows
    assert row == (2, 2)
    assert ledger.query("select count(*) from stage where stage = 'judge'").rows == [(1,)]
    assert ledger.query("select accepted, rejected from round_yield").rows == [(2, 8)]


def test_a_round_trained_before_there_were_set_rules_is_left_alone(
    sampled: Workspace, tmp_path: Path
) -> None:
    workspace = copy_of(sampled, tmp_path / "ws")
    factory = open_factory(workspace)
    factory, this = resume(factory, factory.ledger)
    assert this is not None
    factory.finish(1, "train", datetime.now(UTC))
    finish(workspace)
    assert factory.ledger.query("select 1 from stage where stage = 'judge'").rows == []


# -- judging again ---------------------------------------------------------------------------------


def test_unchanged_rules_change_nothing(finished: Workspace) -> None:
    result = again(finished)
    assert result.changes == () and result.counts == {"accepted": 2, "rejected": 8}
    ledger = Ledger(finished.state)

    def comparable(rows: Sequence[Mapping[str, Any]]) -> set[str]:
        dropped = ("judgement", "finished_at")
        return {
            json.dumps({k: v for k, v in row.items() if k not in dropped}, sort_keys=True)
            for row in rows
        }

    for table in ("vote", "verdict", "sample"):
        stored = ledger.query(f"from {table}").records()
        assert comparable(result.rows[table]) == comparable(stored), table
        assert len(result.rows[table]) == len(stored)
    assert len(result.rows["vote"]) == 7


FLIPS: list[tuple[dict[str, RuleSetting], dict[str, str], dict[str, tuple[str, str, str, str]]]] = [
    ({"call/wrong_type": "off"}, {}, {"text": ("rejected", "wrong_type", "accepted", "")}),
    ({"call/wrong_type": "warn"}, {}, {"text": ("rejected", "wrong_type", "accepted", "")}),
    (
        {"call/extra_text": "reject"},
        {},
        {
            "chatty": ("accepted", "", "rejected", "extra_text"),
            "near": ("rejected", "near_duplicate_query", "accepted", ""),
        },
    ),
    (
        {"round/duplicate_query": "off"},
        {},
        {"copy": ("rejected", "duplicate_query", "accepted", "")},
    ),
    (
        {"round/near_duplicate_query": "warn"},
        {},
        {"near": ("rejected", "near_duplicate_query", "accepted", "")},
    ),
    (
        {"round/eval_overlap": "off"},
        {},
        {"exam": ("rejected", "eval_overlap", "unjudged", "not_sampled")},
    ),
    (
        {"tool/desc_missing": "off"},
        {},
        {"bare": ("rejected", "desc_missing", "unjudged", "not_sampled")},
    ),
    ({}, {"minimum": "2"}, {"split": ("rejected", "vote_below_min", "accepted", "")}),
    ({}, {"minimum": "5"}, {}),
    (
        {},
        {"bar": '["reject"]'},
        {"text": ("rejected", "wrong_type", "rejected", "vote_below_min")},
    ),
]


@pytest.mark.parametrize(("settings", "vote", "expected"), FLIPS)
def test_a_changed_rule_flips_exactly_what_it_should(
    finished: Workspace,
    settings: dict[str, RuleSetting],
    vote: dict[str, str],
    expected: dict[str, tuple[str, str, str, str]],
) -> None:
    assert changes(again(finished, settings, **vote)) == expected


def test_a_tool_that_falls_now_takes_its_calls_along(finished: Workspace, tmp_path: Path) -> None:
    workspace = copy_of(finished, tmp_path / "ws")
    mine = workspace.root / "rules/tool/desc_short.toml"
    schema = json.loads((ROOT / "rules/tool/document.schema.json").read_text(encoding="utf-8"))
    schema["properties"]["description"]["minLength"] = 60
    mine.parent.mkdir(parents=True, exist_ok=True)
    (mine.parent / "document.schema.json").write_text(json.dumps(schema), encoding="utf-8")
    found = changes(again(workspace))
    assert found["good"] == ("accepted", "", "rejected", "desc_short")
    assert all(now[2:] == ("rejected", "desc_short") for now in found.values())


def test_check_appends_one_judgement_and_shows_the_differences(
    finished: Workspace, tmp_path: Path
) -> None:
    workspace = copy_of(finished, tmp_path / "ws")
    text = workspace.marker.read_text(encoding="utf-8")
    assert "0 changed" in run_factory("check", "--dry-run", cwd=workspace.root).stdout
    off = text.replace("[rules]", '[rules]\n"call/wrong_type" = "off"')
    workspace.marker.write_text(off, encoding="utf-8")
    dry = run_factory("check", "--round", "1", "--dry-run", cwd=workspace.root).stdout
    assert "rejected wrong_type → accepted" in dry and FATES["text"][0] in dry
    ledger = Ledger(workspace.state)
    assert ledger.query("select accepted from round_yield").rows == [(2,)]
    done = run_factory("check", cwd=workspace.root).stdout
    assert "appended as judgement 2" in done and "judgement_change" in done
    assert ledger.query("select drawn, accepted, rejected, unjudged from round_yield").rows == [
        (10, 3, 7, 0)
    ]
    assert ledger.query("select query_id, judgement from judgement_change").rows == [
        (IDS["text"], 2)
    ]
    assert ledger.query("select sum(queries) from vote_margin").rows == [(7,)]
    again_ = run_factory("check", "--all", "--set", "vote.minimum=2", "--json", cwd=workspace.root)
    (line,) = again_.stdout.splitlines()
    assert json.loads(line)["query_id"] == IDS["split"] and json.loads(line)["judgement"] == 3
    (note,) = ledger.query("select note from judgement where judgement = 3").rows[0]
    assert '"minimum":2' in note


def test_check_says_what_it_cannot_judge(sampled: Workspace, tmp_path: Path) -> None:
    workspace = copy_of(sampled, tmp_path / "ws")
    done = run_factory("check", "--round", "1", cwd=workspace.root, code=2)
    assert "not finished" in done.stderr and "--abandon" in done.stderr
    assert "no round has answers" in run_factory("check", cwd=workspace.root, code=2).stderr
    assert "no round 7" in run_factory("check", "--round", "7", cwd=workspace.root, code=2).stderr
    done = run_factory("check", "--set", "calls.n=3", cwd=workspace.root, code=2)
    assert "vote.minimum" in done.stderr
    with WorkspaceLock(workspace.state):
        assert "in use" in run_factory("check", cwd=workspace.root, code=3).stderr
    with pytest.raises(InputError):
        again(workspace)
