"""Requests that the model writes for calls: which are kept, counted, taught, and judged again."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from test_making import ASKED, RECIPE, made_rows, open_made
from test_making import answer as answer_query
from test_rejudge import IDS, call
from test_whole_round import train_nothing

from factory.domain.records import Checkpoint, Completion, Reply, Request
from factory.engines.replay import ReplayEngine
from factory.judge.rulebook import Rulebook
from factory.judge.sample import Judgement
from factory.lab.home.world import home_items
from factory.ledger import history
from factory.lessons.wishes import ASK
from factory.round.factory import Factory
from factory.round.making import judge_made
from factory.round.rejudge import rejudge
from factory.round.round import run_round
from factory.score.loading import load_benchmarks
from factory.train.examples import calls_text
from factory.workspace.recipe import Recipe, load_stored_recipe

BACKWARDS = RECIPE.replace("repair = 1", "ask = 3")
EXAM = next(item.query for item in home_items() if not re.search(r"\d", item.query))
SAID = re.compile(r'"arguments": (\{.*?\})\}\n</tool_call>')
PLANS: dict[str, tuple[str, str]] = {}
"""What became of each request that was written, by its id."""


def answer(request: Request) -> Sequence[str]:
    """Requests of every sort in turn, and answers that bear them out or not."""
    query, stage = request.id.split("/")
    if query in IDS.values():
        return answer_query(request)
    if stage == ASK:
        (message,) = request.messages
        (told,) = SAID.findall(message.content)
        (value,) = json.loads(told).values()
        plan = ("agrees", "differs", "unsure", "none", "unsaid", "named")[len(PLANS) % 6]
        PLANS[query] = (plan, told)
        text = f"Sunday is fine, {value} of us"
        return [{"unsaid": "Sunday", "named": f"{text}: book_table"}.get(plan, text)]
    plan, told = PLANS[query]
    right = f'<tool_call>{{"name": "book_table", "arguments": {told}}}</tool_call>'
    return {
        "agrees": [right] * 5,
        "differs": [call(1)] * 3 + [right] * 2,
        "unsure": [right, right, call(1), call(1), "?"],
        "none": ["I cannot."] * 5,
    }[plan]


async def open_replay(checkpoint: Checkpoint, **_: object) -> ReplayEngine:
    return ReplayEngine(answer, checkpoint)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Factory]:
    """A round of two accepted samples, for which six requests are wanted."""
    PLANS.clear()
    folder = tmp_path_factory.mktemp("backwards")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("test_making.RECIPE", BACKWARDS)
        factory = open_made(folder / "ws")
        patch.setattr("factory.engines.serving.open_engine", open_replay)
        patch.setattr("factory.round.training.run_training", train_nothing)
        asyncio.run(run_round(factory, len(ASKED)))
    yield factory


def test_a_request_is_kept_where_it_says_the_values_and_no_vote_contradicts(
    finished: Factory,
) -> None:
    rows = {row["query_id"]: row for row in made_rows(finished.ledger) if row["made_by"] == ASK}
    assert rows.keys() == PLANS.keys()
    fates = {
        "agrees": ("accepted", ""),
        "unsure": ("accepted", ""),
        "differs": ("rejected", "contradicted"),
        "none": ("rejected", "contradicted"),
        "unsaid": ("rejected", "unsaid"),
        "named": ("rejected", "names_tool"),
    }
    for query, (plan, told) in PLANS.items():
        row = rows[query]
        assert (row["status"], row["reason"]) == fates[plan], (plan, row)
        (made,) = json.loads(row["calls_json"])
        assert made["arguments"] == json.loads(told)
    (detail,) = finished.ledger.query("select detail_json from stage where stage = 'make'").rows[0]
    counts = json.loads(detail)["ways"][ASK]
    assert counts["wanted"] == 6 and counts["made"] == len(PLANS) == 7
    assert counts["accepted"] == sum(row["status"] == "accepted" for row in rows.values())


def test_what_was_asked_is_kept_and_counted_apart(finished: Factory) -> None:
    ledger = finished.ledger
    sql = "select query_id, stage, count(*) from generation group by all"
    asked = {
        (query, stage): count for query, stage, count in ledger.query(sql).rows if query in PLANS
    }
    for query, (plan, _) in PLANS.items():
        answered = plan not in ("unsaid", "named")
        assert asked.get((query, ASK)) == 1
        assert asked.get((query, "calls"), 0) == (5 if answered else 0)
    assert ledger.query("select drawn, called, accepted from round_yield").rows == [(3, 3, 2)]
    assert history.drawn_ids(ledger) == {query.id for query in ASKED}
    starts = "select count(*) from stage where stage = 'start engine'"
    assert ledger.query(starts).rows == [(1,)]


def test_calls_are_taught_turned_round(finished: Factory) -> None:
    sql = "select origin, messages_json from example where kind = 'ask'"
    rows = {origin.split("/")[1]: json.loads(m) for origin, m in finished.ledger.query(sql).rows}
    assert rows.keys() == {IDS["good"], IDS["chatty"]}
    asked, told = rows[IDS["good"]]
    assert told["content"] == "Book a table for 4 people in Lisbon tonight"
    assert '{"name": "book_table", "arguments": {"people": 4}}' in asked["content"]
    kinds = "select distinct kind from example where split_part(origin, '/', 2) = ?"
    for query, (plan, _) in PLANS.items():
        taught = {kind for (kind,) in finished.ledger.query(kinds, [query]).rows}
        # A second request with the same calls and tools would be one chat with the first.
        assert bool(taught) == (plan in ("agrees", "unsure"))
        assert taught <= {"gen", "invoke", "retrieve", "code"} and ASK not in taught


def test_written_requests_are_judged_again_from_what_is_kept(finished: Factory) -> None:
    factory = finished
    same = rejudge(factory.workspace, factory.ledger, Rulebook.load(factory.workspace, {}), 1)
    before = {row["query_id"]: (row["status"], row["reason"]) for row in made_rows(factory.ledger)}
    after = {
        row["query_id"]: (row["status"], row["reason"])
        for row in same.rows["sample"]
        if row["made_by"]
    }
    assert after == before


def test_a_written_request_near_a_benchmark_falls(finished: Factory) -> None:
    exam = load_benchmarks(finished.workspace, Recipe())["home"]
    judgement = Judgement(rulebook=finished.rulebook, vote=Recipe().vote, round_number=1, number=1)
    rows = history.made_samples(finished.ledger, 1)
    (kept, *_) = (made for made in rows if made.made_by == ASK and made.made_of)
    (value,) = kept.calls[0].arguments.values()
    near = replace(kept, query=replace(kept.query, text=f"{EXAM} {value}"))

    def reply(*texts: str) -> Reply:
        answers = (Completion(text=x, token_ids=(), finish_reason="stop", logprob=0) for x in texts)
        return Reply(request_id="", completions=tuple(answers), num_prompt_tokens=0)

    origins = {kept.made_of[0]: replace(kept, query=replace(kept.query, id=kept.made_of[0]))}
    replies = {
        (ASK, ""): reply(near.query.text),
        ("calls", ""): reply(*[calls_text(kept.calls)] * 5),
    }
    for candidate, reason in ((near, "eval_overlap"), (kept, "unanswered")):
        heard = {candidate.query.id: replies} if candidate is near else {}
        (sample,) = judge_made([candidate], origins, set(), judgement, [exam], heard)
        assert sample.cause is not None and sample.cause.reason == reason


def test_the_objective_is_taught_only_where_requests_are_written() -> None:
    assert not Recipe().asks and "ask" not in Recipe().train.known_by()
    stored = load_stored_recipe("r", '{"make": {"ask": 0.5}}').recipe
    assert stored.asks and stored.make.shares == {ASK: 0.5}
    assert load_stored_recipe("r", '{"train": {"ask": true}}').recipe.asks
