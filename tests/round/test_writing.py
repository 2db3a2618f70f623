"""Requests that the model writes where there are too few: drawn, judged and answered as any."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from quick_rounds import finish, make_untrained, open_factory, rows_of, run_sampling, told
from test_waves import BY_ID, ITEMS, Dying
from workspaces import make_workspace, run_factory

from factory.cli.rounds import _find_requests
from factory.domain.canon import query_id
from factory.domain.failures import InputError
from factory.domain.records import Query, Request
from factory.engines.replay import ReplayEngine
from factory.judge.cases import render_calls
from factory.lab.home.world import home_items
from factory.ledger import history
from factory.ledger.history import OpenRound
from factory.lessons.said import written
from factory.lessons.wishes import ASK
from factory.round.factory import Factory, load_factory
from factory.round.start import resume, start
from factory.round.writing import write_missing
from factory.score.keeper import Keeper
from factory.workspace.folder import Workspace
from factory.workspace.recipe import load_recipe
from factory.workspace.settings import SELF, Settings, load_settings

POOL = [
    Query(id=query_id(item.query), text=item.query, source=f"requests.jsonl:{number}")
    for number, item in enumerate(ITEMS[:12], 1)
]
EXAM = next(item.query for item in home_items() if not re.search(r"\d", item.query))
BLOCK = re.compile(r"<tool_call>\n(.*?)\n</tool_call>", re.DOTALL)


class Writer:
    """Answers right, and writes requests: two in five of use, the others each for a reason."""

    def __init__(self) -> None:
        self.calls: dict[str, list[dict[str, object]]] = {}
        self.asked = 0

    def __call__(self, request: Request) -> Sequence[str]:
        query, stage = request.id.split("/")
        if stage == ASK:
            return [self._write(request)]
        if query in self.calls:
            assert stage == "calls"  # its tools are those it was written for
            return [render_calls(self.calls[query])] * 5
        _, item = BY_ID[query]
        if stage == "tools":
            return ["<tools>\n" + "\n".join(map(json.dumps, item.tools)) + "\n</tools>"]
        return [render_calls(item.calls)] * 5

    def _write(self, request: Request) -> str:
        calls = [json.loads(block) for block in BLOCK.findall(request.messages[0].content)]
        values = [written(v) for call in calls for v in call["arguments"].values()]
        said = ", ".join(filter(None, values))
        names = ", ".join(call["name"].replace("_", " ") for call in calls)
        self.asked += 1
        text = (
            f"Wish {chr(64 + self.asked)}: {names} with {said}",
            f"For {said} please go and {names}",
            f"{EXAM} {said}",
            "Nothing at all",
            f"{POOL[0].text} [{said}]",
        )[self.asked % 5]
        self.calls[query_id(text)] = calls
        return text


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_untrained(tmp_path_factory.mktemp("writing") / "ws")


@pytest.fixture(scope="module")
def first(empty: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ledger of a round that has had all requests of the files."""
    folder = tmp_path_factory.mktemp("first") / "ledger"
    factory = open_factory(empty, folder, POOL)
    start(factory, len(POOL))
    run_sampling(factory, ReplayEngine(Writer()))
    finish(factory)
    return folder


def begin(empty: Workspace, first: Path, folder: Path) -> Factory:
    """Its next round, which wants eight requests."""
    shutil.copytree(first, folder)
    factory = open_factory(empty, folder, POOL, {"train.ask": "true"})
    factory = replace(factory, writes=True)
    start(factory, 8)
    return factory


def write(factory: Factory, engine: ReplayEngine) -> OpenRound:
    factory, this = resume(factory, factory.ledger)
    assert this is not None
    keeper = Keeper(factory.setup, this.checkpoint, (), lambda num_engines: engine)
    asyncio.run(write_missing(factory, this, keeper))
    return this


def test_what_is_missing_is_written_and_drawn_as_any_request(
    empty: Workspace, first: Path, tmp_path: Path
) -> None:
    factory, writer = begin(empty, first, tmp_path / "one"), Writer()
    assert told(factory)[-1] == "0 fresh requests; the model writes 8 more"
    write(factory, ReplayEngine(writer))
    assert any("--set make.…, train.…, codes.… and score.…" in note for note in told(factory))
    drawn = history.drawn_queries(factory.ledger, 2)
    assert len(drawn) == 7 and all(query.source.startswith("self:") for query in drawn)
    ((detail,),) = rows_of(factory.ledger, "select detail_json from stage where stage = 'write'")
    assert json.loads(detail) == {
        "written": 16,
        "drawn": 7,
        "fallen": {"eval_overlap": 3, "unsaid": 3, "blank_left": 3},
    }
    assert "the model wrote 7 of 8 requests" in told(factory)[-1]
    sql = "select count(*) from generation where stage = 'ask' and round = 2"
    assert rows_of(factory.ledger, sql) == [(16,)]
    # Nothing is written twice, and answers come by the tools that it was written for.
    write(factory, ReplayEngine(writer))
    run_sampling(factory, ReplayEngine(writer))
    finish(factory)
    ((drawn_, accepted),) = rows_of(
        factory.ledger, "select drawn, accepted from round_yield where round = 2"
    )
    assert (drawn_, accepted) == (7, 7)
    assert rows_of(factory.ledger, "select distinct status from logged") == [("agrees",)]


def test_a_kill_leaves_nothing_and_the_same_is_written_again(
    empty: Workspace, first: Path, tmp_path: Path
) -> None:
    factory = begin(empty, first, tmp_path / "killed")
    dying = Dying(Writer())
    dying.left = 4
    with pytest.raises(KeyboardInterrupt):
        write(factory, dying)
    assert history.drawn_queries(factory.ledger, 2) == []
    write(replace(factory, writes=False), ReplayEngine(Writer()))  # as it began, without the flag
    other = begin(empty, first, tmp_path / "whole")
    write(other, ReplayEngine(Writer()))
    texts = [query.text for query in history.drawn_queries(factory.ledger, 2)]
    assert texts and texts == [q.text for q in history.drawn_queries(other.ledger, 2)]


def test_files_come_first_and_waves_go_on_with_written_ones(
    empty: Workspace, tmp_path: Path
) -> None:
    factory = open_factory(empty, tmp_path / "waves", POOL, accept=14, budget=40)
    factory, writer = replace(factory, writes=True), Writer()
    start(factory, 14)
    assert any(x.startswith("12 fresh requests, and yet nothing") for x in told(factory))
    run_sampling(factory, ReplayEngine(writer))
    finish(factory)
    drawn = [query.source.partition(":")[0] for query in history.drawn_queries(factory.ledger, 1)]
    assert drawn == ["requests.jsonl"] * 12 + ["self"] * 6  # a wave has 8 requests at least
    assert rows_of(factory.ledger, "select accepted from round_yield") == [(14,)]
    assert writer.asked > 2


def test_nothing_to_write_from_and_nothing_left_to_draw_are_errors(
    empty: Workspace, tmp_path: Path
) -> None:
    factory = replace(open_factory(empty, tmp_path / "none", []), writes=True)
    with pytest.raises(InputError, match="no fresh requests, and nothing that others") as caught:
        start(factory, 4)
    assert "factory add-tools" in str(caught.value.remedy)
    assert history.last_round(factory.ledger) == 0
    with pytest.raises(InputError, match="all have been drawn") as caught:
        start(replace(factory, writes=False), 4)
    assert "--queries self" in str(caught.value.remedy)


def test_self_is_a_word_among_the_files(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "ws")
    root = workspace.root
    assert _find_requests(workspace, Settings(), None) == ([], False)
    assert Settings.model_validate({"queries": "self"}).queries == (SELF,)
    both = Settings(queries=("a.jsonl", SELF))
    assert _find_requests(workspace, both, None) == ([root / "a.jsonl"], True)
    given = [Path("b.jsonl"), Path(SELF)]
    assert _find_requests(workspace, both, given) == ([Path("b.jsonl")], True)
    assert _find_requests(workspace, both, given[:1]) == ([Path("b.jsonl")], False)
    shown = run_factory("round", "--dry-run", "--queries", "self", cwd=root).stdout
    assert "from 0 in 0 files, the others written by the model" in shown
    assert re.search(r'train\.ask +true +queries = "self"', shown)
    recipe = load_recipe(workspace, "cpu", {})
    settings = load_settings(workspace)
    monitor = open_factory(workspace, tmp_path / "ledger", []).monitor
    assert load_factory(workspace, settings, recipe, monitor, (), writes=True).recipe.asks
