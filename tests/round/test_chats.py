"""Requests that need no tool: kept where no answer calls one, and taught as they were answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

import pytest
from test_making import ASKED, RECIPE, made_rows, open_made
from test_making import answer as answer_query
from test_rejudge import IDS, call
from test_whole_round import train_nothing

from factory.domain.failures import InputError
from factory.domain.records import Checkpoint, Request
from factory.engines.replay import ReplayEngine
from factory.judge.rulebook import Rulebook
from factory.lab.home.abstain import TALK
from factory.lab.home.talk import SMALL_TALK, talk_stream
from factory.round.chats import CHAT, find_requests
from factory.round.factory import Factory, load_factory
from factory.round.making import _too_few
from factory.round.rejudge import rejudge
from factory.round.round import run_round
from factory.workspace.recipe import vary

CHATS = ("Good morning, how are you?", "Call me Ishmael.", "What is a haiku?", "Tell me a joke.")
QUIET = {"Good morning, how are you?", "What is a haiku?"}


def answer(request: Request) -> Sequence[str]:
    """To what needs no tool: no call, or one call of five."""
    text = request.messages[-1].content
    if request.id.split("/")[0] in IDS.values():
        return answer_query(request)
    return ["Nothing to do."] * 4 + (["So be it."] if text in QUIET else [call(1)])


async def open_replay(checkpoint: Checkpoint, **_: object) -> ReplayEngine:
    return ReplayEngine(answer, checkpoint)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Factory]:
    """A round of two accepted samples, beside which four requests without a call are wanted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("test_making.RECIPE", RECIPE.replace("repair = 1", "chat = 2"))
        factory = open_made(tmp_path_factory.mktemp("chats") / "ws")
        rows = "\n".join(json.dumps({"query": text}) for text in (*CHATS, ASKED[0].text))
        (factory.workspace.root / "chats.jsonl").write_text(rows, encoding="utf-8")
        settings = vary(factory.settings, chat=("chats.jsonl",))
        factory = replace(factory, settings=settings)
        patch.setattr("factory.engines.serving.open_engine", open_replay)
        patch.setattr("factory.round.training.run_training", train_nothing)
        asyncio.run(run_round(factory, len(ASKED)))
    yield factory


def test_what_no_answer_calls_for_is_kept_and_taught(finished: Factory) -> None:
    rows = {row["query"]: row for row in made_rows(finished.ledger) if row["made_by"] == CHAT}
    assert rows.keys() == set(CHATS)  # what was drawn is no small talk
    for text, row in rows.items():
        quiet = text in QUIET
        assert (row["status"], row["reason"]) == (
            ("accepted", "") if quiet else ("rejected", "called")
        )
        assert row["calls_json"] == "[]" and row["answer"]
        (origin,) = json.loads(row["made_of_json"])
        assert origin in (IDS["good"], IDS["chatty"])
        sql = "select kind, messages_json from example where split_part(origin, '/', 2) = ?"
        taught = finished.ledger.query(sql, [row["query_id"]]).rows
        assert [kind for kind, _ in taught] == ["invoke"] * quiet
        if quiet:
            system, asked, said = json.loads(taught[0][1])
            assert "book_table" in system["content"] and asked["content"] == text
            assert said["content"] in ("Nothing to do.", "So be it.")
    counts = "select detail_json from stage where stage = 'make'"
    ways = json.loads(finished.ledger.query(counts).rows[0][0])["ways"]
    assert ways[CHAT] == {"wanted": 4, "made": 4, "accepted": 2}
    assert "`chat` of factory.toml" in _too_few(CHAT, ways[CHAT], 2, 0)


def test_it_is_judged_again_from_its_answers(finished: Factory) -> None:
    again = rejudge(finished.workspace, finished.ledger, Rulebook.load(finished.workspace, {}), 1)
    rows = {row["query_id"]: row["status"] for row in made_rows(finished.ledger)}
    assert {r["query_id"]: r["status"] for r in again.rows["sample"] if r["made_by"]} == rows


def test_where_such_requests_come_from(finished: Factory) -> None:
    assert [query.text for query in find_requests(finished, CHATS[:2], 9)] == [
        *CHATS[2:],
        ASKED[0].text,
    ]
    none = replace(finished, settings=vary(finished.settings, chat=()))
    assert find_requests(none, (), 9) == []
    home = find_requests(replace(none, pool=None), (), 30)
    assert len({query.id for query in home}) == 30
    assert home == find_requests(replace(none, pool=None), (), 30)
    others = find_requests(replace(none, pool=None), [query.text for query in home], 30)
    assert len(others) == 30 and not {q.id for q in others} & {q.id for q in home}


def test_a_file_that_is_not_there_stops_before_anything_is_asked(finished: Factory) -> None:
    workspace, settings = finished.workspace, vary(finished.settings, chat=("gone.jsonl",))
    with pytest.raises(InputError, match="no such file") as caught:
        load_factory(workspace, settings, finished.resolved, finished.monitor)
    assert "`chat` of factory.toml" in str(caught.value.remedy)


def test_small_talk_is_worded_otherwise_than_the_benchmark() -> None:
    assert not set(SMALL_TALK) & set(TALK)
    texts = [query.text for query in islice(talk_stream(), 200)]
    assert not any("{" in text for text in texts) and len(set(texts)) > 100
    starts = {" ".join(text.split()[:3]) for text in TALK}
    assert not any(" ".join(text.split()[:3]) in starts for text in SMALL_TALK)
