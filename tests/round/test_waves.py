"""Drawing on: requests until so many samples are accepted, answers where too few agree."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quick_rounds import facts, finish, make_untrained, open_factory, rows_of, run_sampling, told
from workspaces import run_factory

from factory.domain.canon import query_id
from factory.domain.failures import InputError
from factory.domain.records import Query, Reply, Request
from factory.engines.replay import ReplayEngine
from factory.judge.cases import render_calls
from factory.judge.rulebook import Rulebook
from factory.lab.home.world import fresh_item
from factory.ledger import history
from factory.round.factory import Factory
from factory.round.rejudge import rejudge
from factory.round.start import resume, start
from factory.round.waves import Reached
from factory.workspace.folder import Workspace
from factory.workspace.recipe import Recipe, load_recipe

ITEMS = [fresh_item(number) for number in range(120)]
BY_ID = {query_id(item.query): (number, item) for number, item in enumerate(ITEMS)}


def tell(request: Request) -> Sequence[str]:
    """Right answers to two requests of three, none that agree to the third."""
    identifier, stage = request.id.split("/")
    number, item = BY_ID[identifier]
    if stage == "tools":
        return ["<tools>\n" + "\n".join(map(json.dumps, item.tools)) + "\n</tools>"]
    texts = [render_calls(item.calls)] * 5
    if stage == "more":
        return texts * 2 if number % 2 else ["?"] * 10
    return texts if number % 3 else [*texts[:2], "?", "<tool_call>", "<tool_call>"]


class Dying(ReplayEngine):
    """Ends as a killed process does, after so many requests."""

    left = 0

    async def sample(self, requests: Sequence[Request]) -> list[Reply]:
        self.left -= len(requests)
        if self.left < 0:
            raise KeyboardInterrupt
        return await super().sample(requests)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_untrained(tmp_path_factory.mktemp("waves") / "ws")


def make_round(factory: Factory, engine: ReplayEngine | None = None) -> Factory:
    start(factory, factory.recipe.accept)
    factory = run_sampling(factory, engine or ReplayEngine(tell))
    finish(factory)
    return factory


@pytest.fixture(scope="module")
def made(empty: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Factory:
    """A round that was to accept 10."""
    return make_round(open_factory(empty, tmp_path_factory.mktemp("made"), accept=10))


def test_exactly_so_many_are_accepted_and_learnt(made: Factory) -> None:
    ledger = made.ledger
    ((drawn, accepted, passed),) = rows_of(
        ledger, "select drawn, accepted, passed from round_yield"
    )
    assert accepted == 10 == len(history.accepted_samples(ledger, 1))
    assert facts(ledger) == {
        "wanted": 10, "accepted": passed, "drawn": drawn, "budget": 40, "ended": "accept",
    }  # fmt: skip
    waves = rows_of(ledger, "select detail_json from stage where stage = 'draw' order by rowid")
    sizes = [json.loads(detail)["queries"] for (detail,) in waves]
    assert sizes[0] == 10 and sum(sizes) == drawn <= 40 and len(sizes) > 1
    assert any("10 samples are accepted, 40 requests at most" in each for each in told(made))


def test_surplus_is_the_last_in_draw_order_and_says_why(made: Factory) -> None:
    sql = "select position, reason from outcome join draw using (round, query_id) order by 1"
    reasons = [reason for _, reason in rows_of(made.ledger, sql)]
    assert "surplus" in reasons
    last = max(index for index, reason in enumerate(reasons) if reason == "")
    assert "surplus" not in reasons[:last]
    ((message, stage),) = rows_of(
        made.ledger, "select distinct message, stage from rejected where reason = 'surplus'"
    )
    assert stage == "round" and message.startswith("10 samples that were drawn before it")


def test_judged_again_the_same_are_accepted(made: Factory) -> None:
    again = rejudge(made.workspace, made.ledger, Rulebook.load(made.workspace, {}), 1)
    assert again.changes == () and again.counts["accepted"] == 10


@pytest.mark.parametrize("requests", [5, 24])
def test_killed_in_any_wave_it_goes_on_alike(
    made: Factory, empty: Workspace, tmp_path: Path, requests: int
) -> None:
    factory = open_factory(empty, tmp_path / "state", accept=10)
    start(factory, 10)
    engine = Dying(tell)
    engine.left = requests
    with pytest.raises(KeyboardInterrupt):
        run_sampling(factory, engine)
    # Flags of the command that goes on do not change what the round wants.
    factory = run_sampling(open_factory(empty, tmp_path / "state"), ReplayEngine(tell))
    finish(factory)
    sql = """
        select position, query_id, status, reason from outcome join draw using (round, query_id)
        order by 1
        """
    assert rows_of(factory.ledger, sql) == rows_of(made.ledger, sql)
    assert facts(factory.ledger) == facts(made.ledger)


def test_a_budget_that_is_too_small_is_told_with_what_was_reached(
    empty: Workspace, tmp_path: Path
) -> None:
    factory = make_round(open_factory(empty, tmp_path / "state", accept=10, budget=12))
    found = facts(factory.ledger)
    assert (found["drawn"], found["ended"]) == (12, "budget") and found["accepted"] < 10
    (note,) = [each for each in told(factory) if "the budget" in each]
    assert note.startswith(f"{found['accepted']} of 10 samples are accepted after 12 requests")
    assert "--budget" in note
    assert rows_of(factory.ledger, "select accepted from round_yield") == [(found["accepted"],)]


def test_all_requests_of_the_pool_are_drawn(empty: Workspace, tmp_path: Path) -> None:
    pool = [
        Query(id=query_id(item.query), text=item.query, source=f"mine.jsonl:{number}")
        for number, item in enumerate(ITEMS[:12])
    ]
    factory = open_factory(empty, tmp_path / "state", pool, accept=10, budget=30)
    start(factory, 10)
    with pytest.raises(InputError, match=r"files such as mine\.jsonl") as caught:
        resume(open_factory(empty, tmp_path / "state"), factory.ledger)
    assert "--queries FILE" in (caught.value.remedy or "")
    factory = run_sampling(factory, ReplayEngine(tell))
    finish(factory)
    assert (facts(factory.ledger)["drawn"], facts(factory.ledger)["ended"]) == (12, "pool")
    (note,) = [each for each in told(factory) if "all that there are" in each]
    assert "--queries FILE" in note


@given(st.integers(1, 300), st.integers(1, 8), st.lists(st.integers(0, 100), min_size=1))
def test_waves_end_with_enough_or_at_the_budget(wanted: int, times: int, yields: list[int]) -> None:
    """Whatever share of each wave is accepted: never more than the budget is drawn."""
    drawn, accepted, waves = wanted, wanted * yields[0] // 100, 0
    while True:
        reached = Reached(wanted=wanted, accepted=accepted, drawn=drawn, budget=wanted * times)
        if not (wave := reached.next_wave):
            break
        waves += 1
        drawn += wave
        accepted += wave * yields[waves % len(yields)] // 100
        assert drawn <= wanted * times
    assert accepted >= wanted or drawn == wanted * times


def test_a_budget_below_what_is_wanted_is_refused() -> None:
    with pytest.raises(ValueError, match="a budget of 5 requests cannot give 10 samples"):
        Recipe.model_validate({"accept": 10, "budget": 5})
    assert Recipe().sha == Recipe.model_validate({"accept": 0, "budget": 0}).sha


def test_the_plan_shows_the_budget_and_flags_do_not_mix(empty: Workspace) -> None:
    plan = run_factory("round", "--accept", "50", "--dry-run", cwd=empty.root).stdout
    assert "until 50 are accepted, 200 at most (flag) from the home world" in plan
    both = run_factory("round", "--accept", "50", "--n", "8", cwd=empty.root, code=2)
    assert "as many as it takes" in both.stderr
    low = run_factory("round", "--accept", "50", "--budget", "8", cwd=empty.root, code=2)
    assert "a budget of 8 requests" in low.stderr


def test_more_answers_are_judged_again_as_they_were(empty: Workspace, tmp_path: Path) -> None:
    factory = open_factory(empty, tmp_path / "state", overrides={"calls.more": "10"})
    start(factory, 12)
    factory = run_sampling(factory, ReplayEngine(tell))
    finish(factory)
    sql = "select num_samples, count(*), count(winner) from vote group by 1 order by 1"
    assert rows_of(factory.ledger, sql) == [(5, 8, 8), (15, 4, 2)]
    rulebook = Rulebook.load(empty, {})
    again = rejudge(empty, factory.ledger, rulebook, 1)
    assert again.changes == ()
    before = rows_of(factory.ledger, "select query_id, classes_json from vote order by 1")
    rows = again.rows["vote"]
    assert sorted((row["query_id"], row["classes_json"]) for row in rows) == before
    # Two of five win now, so that nobody would have asked for more.
    given = load_recipe(empty, "cpu", {"vote.minimum": "2"})
    fewer = rejudge(empty, factory.ledger, rulebook, 1, given).rows["vote"]
    assert {row["num_samples"] for row in fewer} == {5}
