"""Samples that a round makes of accepted ones: made once, judged, counted apart, and taught."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from conftest_models import tiny_model
from test_rejudge import DOCUMENT, IDS, POOL, call
from test_rejudge import answer as answer_query
from test_whole_round import train_nothing
from workspaces import make_workspace, run_factory

from factory.cli.card import print_card
from factory.cli.monitor import PlainMonitor
from factory.domain.canon import query_id, tool_id
from factory.domain.records import Call, Candidate, Checkpoint, Query, Request, Tool
from factory.engines.replay import ReplayEngine
from factory.judge.rulebook import Rulebook
from factory.judge.sample import Judgement
from factory.lab.home.world import home_items
from factory.ledger import history
from factory.ledger.database import Ledger
from factory.ledger.history import OpenRound
from factory.ledger.losing import losing_answers
from factory.ledger.rows import tool_rows
from factory.lessons.failures import REPAIR
from factory.lessons.files import read_lessons
from factory.lessons.harder import WAYS
from factory.lessons.wishes import ASK
from factory.round.chats import CHAT
from factory.round.factory import Factory, load_factory
from factory.round.making import _too_few, judge_made, make_samples
from factory.round.rejudge import rejudge
from factory.round.round import run_round
from factory.round.teach import plan_lesson, run_lesson
from factory.score.keeper import Keeper
from factory.score.loading import load_benchmarks
from factory.workspace.folder import Workspace
from factory.workspace.recipe import MakeSection, Recipe, load_recipe, vary
from factory.workspace.settings import load_settings

WORDS = ("tide", "pollen", "traffic", "ferry", "parking", "museum", "concert", "harbour")
CATALOGUE = [
    {
        "name": f"read_{word}",
        "description": f"Read the {word} report of a place for a number of people.",
        "arguments": {
            "type": "dict",
            "properties": {f"{word}_place": {"type": "string", "description": f"Whose {word}."}},
            "required": [f"{word}_place"],
        },
        "results": {"type": "dict", "properties": {}},
    }
    for word in WORDS
]
RECIPE = """extends = "cpu"
[make]
join = 0.5
distractors = 1
withheld = 1
repair = 1
[train]
min_accepted = 1
[score]
benchmarks = []
dev = ""
[[stage]]
kinds = ["gen", "invoke", "code", "retrieve"]
[[stage]]
kinds = ["dpo"]
"""
WRONG = call("6")
ASKED = [query for query in POOL if query.id in (IDS["good"], IDS["chatty"], IDS["tie"])]


def answer(request: Request) -> Sequence[str]:
    """As everywhere, but that one answer in five to one request breaks a rule."""
    said = list(answer_query(request))
    return [*said[:4], WRONG] if request.id == f"{IDS['chatty']}/calls" else said


async def open_replay(checkpoint: Checkpoint, **_: object) -> ReplayEngine:
    """In place of a child that serves the checkpoint."""
    return ReplayEngine(answer, checkpoint)


def open_made(folder: Path) -> Factory:
    """A factory whose rounds make samples and score nothing, with a catalogue."""
    workspace = make_workspace(folder, {"rounds/made.toml": RECIPE})
    tiny_model(workspace.root / "model")
    text = workspace.marker.read_text(encoding="utf-8")
    workspace.marker.write_text(text.replace("rounds/seed", "model"), encoding="utf-8")
    tools = [Tool(id=tool_id(document), document=document) for document in CATALOGUE]
    Ledger(workspace.state).append({"tool": tool_rows(0, tools, "apis.jsonl")})
    recipe = load_recipe(workspace, "made", {})
    settings = load_settings(workspace)
    return load_factory(workspace, settings, recipe, PlainMonitor(), ASKED)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Factory]:
    """A round of two accepted samples, of which others were made."""
    factory = open_made(tmp_path_factory.mktemp("made") / "ws")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("factory.engines.serving.open_engine", open_replay)
        patch.setattr("factory.round.training.run_training", train_nothing)
        asyncio.run(run_round(factory, len(ASKED)))
    yield factory


def made_rows(ledger: Ledger) -> list[dict[str, Any]]:
    return ledger.query("select * from made order by made_by, query_id").records()


def test_every_way_has_a_key_and_makes_nothing_unless_told() -> None:
    assert set(MakeSection.model_fields) == {*WAYS, REPAIR, ASK, CHAT}
    assert Recipe().make.shares == {} and "make" not in Recipe().known_by()
    changed = Recipe(make=MakeSection(join=0.5))
    assert changed.make.shares == {"join": 0.5} and changed.sha != Recipe().sha


def test_a_round_makes_samples_and_counts_them_apart(finished: Factory) -> None:
    ledger = finished.ledger
    rows = made_rows(ledger)
    kinds = [(row["made_by"], row["status"]) for row in rows]
    ways = ("distractors", "distractors", "join", "repair", "withheld", "withheld")
    assert kinds == [(way, "accepted") for way in ways]
    assert all(row["query_id"] not in IDS.values() for row in rows)
    origins = {IDS["good"], IDS["chatty"]}
    assert {each for row in rows for each in json.loads(row["made_of_json"])} == origins
    for row in rows:
        names = {tool["document"]["name"] for tool in json.loads(row["tools_json"])}
        is_withheld = row["made_by"] == "withheld"
        assert ("book_table" in names) != is_withheld
        assert names != {"book_table"} or row["made_by"] in ("join", "repair")
        assert bool(row["answer"]) == is_withheld == (row["calls_json"] == "[]")
    (funnel,) = ledger.query("select drawn, accepted, rejected, unjudged from round_yield").rows
    assert funnel == (3, 2, 1, 0)
    assert {each.query.id for each in history.accepted_samples(ledger, 1)} == origins
    assert history.drawn_ids(ledger) == {query.id for query in ASKED}
    assert [
        name
        for (name,) in ledger.query(
            "select stage from stage where stage in ('judge', 'make', 'train') order by started_at"
        ).rows
    ] == ["judge", "make", "train"]


def test_what_a_round_makes_is_taught_and_known_later(finished: Factory) -> None:
    ledger = finished.ledger
    made = {row["query_id"]: row for row in made_rows(ledger)}
    rows = ledger.query("select split_part(origin, '/', 2), kind, messages_json from example").rows
    kinds: dict[str, set[str]] = {}
    for each, kind, chat in rows:
        if each in made:
            kinds.setdefault(made[each]["made_by"], set()).add(kind)
            answer = made[each]["answer"] or "book_table"
            assert answer in json.loads(chat)[-1]["content"] or kind == "retrieve"
    once = {"invoke"}
    assert kinds.pop("join") == {"gen", "invoke", "retrieve"}
    assert kinds == {"distractors": once, "withheld": once, "repair": once}
    asked = history.asked_before(ledger, 2)
    assert {history.asked_with(each) for each in history.made_samples(ledger, 1)} < asked
    held_out = frozenset({IDS["good"]})
    later = {e.origin.split("/")[1] for e in history.earlier_examples(ledger, 2, held_out)}
    of_good = {each for each, row in made.items() if IDS["good"] in row["made_of_json"]}
    assert 2 <= len(of_good) < 6
    assert later & {*made, *IDS.values()} == {IDS["chatty"], *(made.keys() - of_good)}
    assert history.called_pairs(ledger, 1) == ([], [])


def test_a_failed_call_is_mended_and_stands_against_the_right_one(finished: Factory) -> None:
    ledger = finished.ledger
    (losing,) = history_losing(ledger)
    assert losing == (IDS["chatty"], WRONG, 1)
    sql = "select kind, messages_json from example where kind = 'dpo' or origin like 'r1/' || ?"
    (made,) = [row["query_id"] for row in made_rows(ledger) if row["made_by"] == "repair"]
    chats = {kind: json.loads(chat) for kind, chat in ledger.query(sql, [made]).rows}
    assert chats.keys() == {"dpo", "invoke"}
    *_, failed, told, mended = chats["invoke"]
    assert failed["loss"] is False and '"people": "6"' in failed["content"]
    assert told["role"] == "user" and "is a string, not an integer" in told["content"]
    assert '"people": 6' in mended["content"] and "loss" not in mended
    *_, chosen, rejected = chats["dpo"]
    assert (chosen["content"], rejected["content"]) == (mended["content"], failed["content"])
    assert rejected["loss"] is False
    assert "dpo" not in {each.kind for each in history.earlier_examples(ledger, 2)}


def history_losing(ledger: Ledger) -> list[tuple[str, str, int]]:
    """Request, text and votes of each losing answer."""
    found = losing_answers(ledger, 1)
    return [(each, one.text, one.votes) for each, several in found.items() for one in several]


def test_a_share_that_cannot_be_filled_is_told_with_a_remedy(
    finished: Factory, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    sql = "select detail_json from stage where stage = 'make'"
    ways = json.loads(finished.ledger.query(sql).rows[0][0])["ways"]
    assert ways == {
        "join": {"wanted": 1, "made": 1, "accepted": 1},
        "distractors": {"wanted": 2, "made": 2, "accepted": 2},
        "withheld": {"wanted": 2, "made": 2, "accepted": 2},
        "repair": {"wanted": 2, "made": 1, "accepted": 1},
    }
    assert "make." not in capsys.readouterr().err
    told = _too_few("distractors", {"wanted": 9, "made": 0}, 3, 0)
    assert told.startswith("make.distractors: 0 of 9 could be made of 3 accepted samples")
    assert "factory add-tools" in told
    assert "--n" in _too_few("join", {"wanted": 9, "made": 1}, 3, 0)


def copied(finished: Factory, folder: Path, *stages: str) -> tuple[Factory, OpenRound]:
    """The same round without what came after its judgement, but for some stages."""
    factory = open_made(folder / "ws")
    with finished.ledger.read() as past:
        rows = {
            table: past.query(f"select * from {table} where round = 1").records()
            for table in ("round", "draw", "judgement", "vote", "verdict", "generation", "sample")
        }
        rows["query"] = past.query("select * from query").records()
        rows["checkpoint"] = past.query("select * from checkpoint where round = 0").records()
        done = past.query("select * from stage where list_contains(?, stage)", [stages])
        rows["stage"] = done.records()
    if "make" not in stages:
        made = {row["query_id"] for row in rows["sample"] if row["made_by"]}
        for table in ("sample", "verdict", "generation", "query"):
            rows[table] = [row for row in rows[table] if row["query_id"] not in made]
    zoned = {
        table: [
            {k: v.replace(tzinfo=UTC) if isinstance(v, datetime) else v for k, v in row.items()}
            for row in of_table
        ]
        for table, of_table in rows.items()
    }
    factory.ledger.append(zoned)  # type: ignore[arg-type]
    this = history.open_round(factory.ledger)
    assert this is not None
    base = replace(this.checkpoint, path=str(factory.workspace.root / this.checkpoint.path))
    return factory, replace(this, checkpoint=base)


def test_a_kill_leaves_all_or_nothing_and_the_same_is_made_again(
    finished: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    factory, this = copied(finished, tmp_path, "draw", "sample", "judge")
    engine = ReplayEngine(answer)
    keeper = Keeper(factory.setup, this.checkpoint, (), lambda num_engines: engine)
    with monkeypatch.context() as patch:

        def die(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(Ledger, "append", die)
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(make_samples(factory, this, keeper))
    assert made_rows(factory.ledger) == []
    asyncio.run(make_samples(factory, this, keeper))
    mark = ("query_id", "made_by", "made_of_json", "status", "tools_json", "calls_json", "answer")
    one, other = (
        [[row[key] for key in mark] for row in made_rows(each.ledger)]
        for each in (finished, factory)
    )
    assert one == other and len(one) == 6
    done = replace(this, stages_done=this.stages_done | {"make"})
    asyncio.run(make_samples(factory, done, keeper))
    assert len(made_rows(factory.ledger)) == 6
    # Less than a round needs to train: nothing is made of it.
    factory, this = copied(finished, tmp_path / "few", "draw", "sample", "judge")
    train = vary(factory.recipe.train, min_accepted=3)
    recipe = vary(factory.recipe, train=train)
    few = replace(factory, resolved=replace(factory.resolved, recipe=recipe))
    asyncio.run(make_samples(few, this, keeper))
    assert not engine.requests
    assert made_rows(factory.ledger) == []


def test_a_lesson_makes_samples_of_rows_with_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And teaches them, but no document that a rule rejects."""
    factory = open_made(tmp_path / "ws")
    monkeypatch.setattr("factory.engines.serving.open_engine", open_replay)
    monkeypatch.setattr("factory.round.training.run_training", train_nothing)
    bare = {**DOCUMENT, "name": "seat_table", "description": ""}
    rows = [
        {"query": f"Book for {people} people", "tools": [tool, CATALOGUE[0]],
         "calls": [{"name": tool["name"], "arguments": {"people": people}}]}
        for people, tool in ((4, DOCUMENT), (6, DOCUMENT), (7, bare))
    ]  # fmt: skip
    rows.append({"query": "Sing to me", "tools": [DOCUMENT], "answer": "I cannot sing."})
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    asyncio.run(run_lesson(factory, plan_lesson(factory, read_lessons([file]))))
    found = made_rows(factory.ledger)
    labelled = {query_id(str(row["query"])) for row in rows[:3]}
    assert {row["made_by"] for row in found} == {"join", "distractors", "withheld"}
    assert {origin for row in found for origin in json.loads(row["made_of_json"])} <= labelled
    assert "make.repair: 0 of 3" in capsys.readouterr().err
    said = factory.ledger.query("select kind, messages_json from example").records()
    ends = [(row["kind"], json.loads(row["messages_json"])[-1]["content"]) for row in said]
    invoked = [text for kind, text in ends if kind == "invoke"]
    withheld = [row for row in found if (row["made_by"], row["status"]) == ("withheld", "accepted")]
    assert len(withheld) == 3 and all(row["answer"] in invoked for row in withheld)
    assert "I cannot sing." in invoked
    assert not any("seat_table" in text for kind, text in ends if kind == "gen")


# -- judging -------------------------------------------------------------------------------------

TOOL = Tool(id=tool_id(DOCUMENT), document=DOCUMENT)
OTHER = Tool(id=tool_id(CATALOGUE[0]), document=CATALOGUE[0])
ORIGIN = Candidate(
    query=Query(id="q_origin", text="Book for 4 people", source="test"),
    tools=(TOOL,),
    calls=(Call(name="book_table", arguments={"people": 4}),),
)


def judged(workspace: Workspace, *made: Candidate) -> list[tuple[str, str, str]]:
    judgement = Judgement(
        rulebook=Rulebook.load(workspace, {}), vote=Recipe().vote, round_number=1, number=1
    )
    named = [
        replace(each, query=replace(each.query, id=f"q_{place}"), made_of=("q_origin",))
        if not each.made_of
        else each
        for place, each in enumerate(made)
    ]
    exam = load_benchmarks(workspace, Recipe())["home"]
    samples = judge_made(named, {"q_origin": ORIGIN}, set(), judgement, [exam])
    return [(s.status, s.stage, s.cause.rule if s.cause else "") for s in samples]


def test_what_is_made_is_judged_as_anything_else(finished: Factory) -> None:
    workspace = finished.workspace
    bare = {key: part for key, part in DOCUMENT.items() if key != "description"}
    join = replace(ORIGIN, made_by="join", query=replace(ORIGIN.query, text="4 people, please"))
    wide = replace(ORIGIN, made_by="distractors", tools=(OTHER, TOOL))
    lost = replace(join, made_of=("q_origin", "q_gone"), query=Query(id="q", text="?", source=""))
    wrong = replace(wide, calls=(Call(name="book_table", arguments={"people": "4"}),))
    none = replace(wide, made_by="withheld", tools=(OTHER,), calls=())
    exam = replace(none, answer="No.", query=replace(ORIGIN.query, text=home_items()[0].query))
    bad = Tool(id="t_bad", document=bare)
    assert judged(
        workspace,
        join,
        join,
        ORIGIN,
        wide,
        replace(wide, tools=(TOOL, OTHER)),
        lost,
        wrong,
        none,
        replace(none, answer='<tool_call>{"name": "f", "arguments": {}}</tool_call>'),
        replace(none, answer="None of them can."),
        exam,
        replace(ORIGIN, made_by="rename", tools=(bad,)),
    ) == [
        ("accepted", "calls", ""),
        ("rejected", "make", "made/duplicate"),
        ("rejected", "make", "made/duplicate"),
        ("accepted", "calls", ""),
        ("rejected", "make", "made/duplicate"),
        ("rejected", "make", "made/origin"),
        ("rejected", "calls", "call/wrong_type"),
        ("rejected", "make", "made/no_answer"),
        ("rejected", "make", "made/call_in_answer"),
        ("accepted", "calls", ""),
        ("rejected", "draw", "round/eval_overlap"),
        ("rejected", "calls", "tool/desc_missing"),
    ]


def test_what_was_made_falls_with_its_origin(finished: Factory, tmp_path: Path) -> None:
    factory, _ = copied(finished, tmp_path, "draw", "sample", "judge", "make")
    factory.finish(1, "gate", datetime.now(UTC), detail={"reason": "a test"})
    rulebook = Rulebook.load(factory.workspace, {})
    same = rejudge(factory.workspace, factory.ledger, rulebook, 1)
    assert same.changes == ()
    factory.ledger.append(same.rows)
    assert [row["status"] for row in made_rows(factory.ledger)] == ["accepted"] * 6
    strict = Rulebook.load(factory.workspace, {"call/extra_text": "reject"})
    after = rejudge(factory.workspace, factory.ledger, strict, 1)
    assert [change.query_id for change in after.changes] == [IDS["chatty"]]
    factory.ledger.append(after.rows)
    rows = made_rows(factory.ledger)
    fallen = {
        (row["status"], row["reason"]) for row in rows if IDS["chatty"] in row["made_of_json"]
    }
    assert fallen == {("rejected", "origin")}
    others = [row["status"] for row in rows if IDS["chatty"] not in row["made_of_json"]]
    assert others and set(others) == {"accepted"}
    assert len(factory.ledger.query("from accepted").rows) == 1


# -- looking -------------------------------------------------------------------------------------


def test_made_samples_are_shown_listed_and_exported(
    finished: Factory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = finished.workspace.root
    rows = {row["made_by"]: row for row in made_rows(finished.ledger)}
    shown = run_factory("show", rows["withheld"]["query_id"], cwd=root).stdout
    assert f"made by withheld of {json.loads(rows['withheld']['made_of_json'])[0]}" in shown
    assert rows["withheld"]["answer"] in shown
    whole = run_factory("show", IDS["good"], "--raw", cwd=root).stdout
    assert f"made of it {rows['join']['query_id']} by join, accepted" in whole
    assert '"people": 4' in run_factory("show", rows["join"]["query_id"], "--raw", cwd=root).stdout
    assert "nothing was rejected" in run_factory("rejects", "--made", cwd=root).stdout
    done = run_factory("export", "trl", str(tmp_path / "a.jsonl"), cwd=root)
    assert "2 samples" in done.stdout and "6 samples that rounds made" in done.stderr
    done = run_factory("export", "trl", str(tmp_path / "b.jsonl"), "--made", cwd=root)
    assert "8 samples" in done.stdout and not done.stderr
    lines = (tmp_path / "b.jsonl").read_text(encoding="utf-8").splitlines()
    said = [json.loads(line)["messages"][-1] for line in lines]
    assert [m["content"] for m in said].count(rows["withheld"]["answer"]) == 2
    print_card(finished.ledger, 1, finished.workspace)
    told = "made   2 distractors, 2 withheld, 1 join, 1 repair (0 rejected)"
    assert told in capsys.readouterr().out
