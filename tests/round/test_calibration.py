"""`vote.precision`: the votes that a label needs, by the model's own answers to a labelled set."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quick_rounds import finish, make_untrained, open_factory, rows_of, run_sampling, told

from factory.cli.card import print_card
from factory.domain.canon import query_id
from factory.domain.failures import ContentError, InputError, RecipeError
from factory.domain.records import Request
from factory.engines.replay import ReplayEngine
from factory.judge.cases import render_calls
from factory.judge.rulebook import Rulebook
from factory.lab.home.world import fresh_item
from factory.ledger import history
from factory.round.calibration import Level, calibration_set, choose_minimum
from factory.round.factory import Factory
from factory.round.rejudge import rejudge
from factory.round.start import start
from factory.score.calls.kind import Benchmark
from factory.workspace.folder import Workspace
from factory.workspace.recipe import Recipe, load_recipe

ASKED = {
    query_id(item.query): (number, item) for number, item in enumerate(map(fresh_item, range(8)))
}


def gold(item: Any) -> list[dict[str, Any]]:
    """The calls that a dev item expects, with the first value that it allows."""
    return [
        {
            "name": name,
            "arguments": {key: values[0] for key, values in arguments.items() if values[0] != ""},
        }
        for call in item.ground_truth
        for name, arguments in call.items()
    ]


def make_tell(dev: Benchmark) -> Any:
    """Of four dev items two are answered rightly by all, one rightly and one wrongly by three; of
    the requests each second by all, the others by three.
    """
    items = {query_id(item.query): (number, item) for number, item in enumerate(dev.items)}

    def tell(request: Request) -> Sequence[str]:
        identifier, stage = request.id.split("/")
        if identifier in ASKED:
            number, asked = ASKED[identifier]
            if stage == "tools":
                return ["<tools>\n" + "\n".join(map(json.dumps, asked.tools)) + "\n</tools>"]
            right = render_calls(asked.calls)
            return [right] * 5 if number % 2 else [right] * 3 + ["?"] * 2
        number, item = items[identifier]
        right = render_calls(gold(item))
        wrong = render_calls(gold(item) * 2)
        return {1: [right] * 3 + ["?"] * 2, 3: [wrong] * 3 + ["?"] * 2}.get(number % 4, [right] * 5)

    return tell


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_untrained(tmp_path_factory.mktemp("calibration") / "ws")


def open_with(empty: Workspace, folder: Path, precision: float, **overrides: str) -> Factory:
    given_values = {"vote.precision": str(precision), **overrides}
    factory = open_factory(empty, folder, overrides=given_values)
    dev = factory.benchmarks["home-dev"]
    assert isinstance(dev, Benchmark)
    return replace(factory, benchmarks={"home-dev": dev.narrow(limit=10)})


def engine_for(factory: Factory) -> ReplayEngine:
    dev = factory.benchmarks["home-dev"]
    assert isinstance(dev, Benchmark)
    return ReplayEngine(make_tell(dev))


def make_round(empty: Workspace, folder: Path, precision: float) -> tuple[Factory, ReplayEngine]:
    factory = open_with(empty, folder, precision)
    start(factory, 8)
    engine = engine_for(factory)
    # What the command loads again is the whole set; a round goes on with this part of it.
    factory = run_sampling(factory, engine, {"home-dev": factory.benchmarks["home-dev"]})
    finish(factory)
    return factory, engine


@pytest.fixture(scope="module")
def made(
    empty: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Factory, ReplayEngine]:
    return make_round(empty, tmp_path_factory.mktemp("made"), 0.9)


def test_the_least_votes_that_are_right_often_enough_are_the_minimum(
    made: tuple[Factory, ReplayEngine], capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = made[0].ledger
    sql = """
        select votes, items, kept, num_right, round(low, 1), minimum, reached
        from calibration order by 1
        """
    rows = rows_of(ledger, sql)
    items, kept = rows[0][1], rows[0][2]
    assert [row[0] for row in rows] == [2, 3, 4, 5] and kept == items
    assert rows[0][3] == rows[1][3] == items - items // 4
    assert [row[2:4] for row in rows[2:]] == [(items // 2, items // 2)] * 2
    assert {row[5:] for row in rows} == {(4, True)}
    # The requests that three of five answer alike fall, the others are accepted.
    assert rows_of(ledger, "select status, count(*) from outcome group by 1 order by 1") == [
        ("accepted", 4), ("rejected", 4),
    ]  # fmt: skip
    ((detail,),) = rows_of(ledger, "select detail_json from stage where stage = 'calibrate'")
    assert {(m["votes"], m["margin"]) for m in json.loads(detail)["margins"]} == {
        (3, 0.2),
        (5, 1.0),
    }
    sql = "select votes, margin, items, num_right from calibration_margin order by 1"
    (few, all_) = rows_of(ledger, sql)
    assert few[:2] == (3, 0.2) and all_[:2] == (5, 1.0)
    assert few[2] + all_[2] == items and all_[2] == all_[3] and few[3] < few[2]
    print_card(ledger, 1, made[0].workspace)
    shown = capsys.readouterr().out
    assert f"3 votes, margin 0.20: {few[3]} of {few[2]} right" in shown
    assert f"5 votes, margin 1.00: {all_[3]} of {all_[2]} right" in shown


def test_judged_again_by_the_same_curve(made: tuple[Factory, ReplayEngine]) -> None:
    factory, rulebook = made[0], Rulebook.load(made[0].workspace, {})
    again = rejudge(factory.workspace, factory.ledger, rulebook, 1)
    assert again.changes == () and again.counts["accepted"] == 4
    for flags in ({"vote.precision": "0.5"}, {"vote.precision": "0", "vote.minimum": "3"}):
        given_recipe = load_recipe(factory.workspace, "cpu", flags)
        again = rejudge(factory.workspace, factory.ledger, rulebook, 1, given_recipe)
        assert again.counts["accepted"] == 8


def test_what_is_known_of_a_model_is_not_asked_again(
    made: tuple[Factory, ReplayEngine], empty: Workspace
) -> None:
    folder = made[0].ledger.file.parent
    factory, engine = make_round_again(empty, folder)
    asked = {request.id.split("/")[0] for request in engine.requests}
    assert asked.isdisjoint({query_id(i.query) for i in factory.benchmarks["home-dev"].items})
    rows = rows_of(factory.ledger, "select distinct round, minimum from calibration order by 1")
    assert rows == [(1, 4), (2, 2)]


def make_round_again(empty: Workspace, folder: Path) -> tuple[Factory, ReplayEngine]:
    """Another round of the same ledger for half of them right."""
    factory = open_with(empty, folder, 0.5)
    factory = replace(factory, pool=None)
    number = history.last_round(factory.ledger) + 1
    assert number == 2
    start(factory, 1)
    engine = ReplayEngine(lambda request: ["no tools"])
    factory = run_sampling(factory, engine, {"home-dev": factory.benchmarks["home-dev"]})
    finish(factory)
    return factory, engine


def test_a_precision_that_nothing_reaches_takes_the_strictest_and_says_so(
    empty: Workspace, tmp_path: Path
) -> None:
    factory, _ = make_round(empty, tmp_path / "state", 0.99)
    assert rows_of(factory.ledger, "select distinct minimum, reached from calibration") == [
        (5, False)
    ]
    (note,) = [each for each in told(factory) if "no number of votes" in each]
    assert "vote.precision 0.99 on home-dev" in note and "they are the minimum" in note


def test_without_a_labelled_set_it_is_refused_with_the_remedy(
    empty: Workspace, tmp_path: Path
) -> None:
    given_values = {"vote.precision": "0.9", "score.dev": '""'}
    factory = open_factory(empty, tmp_path / "state", overrides=given_values)
    with pytest.raises(RecipeError, match="needs labelled requests") as caught:
        start(factory, 8)
    assert "factory eval new" in (caught.value.remedy or "")
    named = open_factory(
        empty, tmp_path / "other", overrides={**given_values, "vote.dev": '"home-dev"'}
    )
    dev = calibration_set(named)
    assert dev is not None and dev.name == "home-dev" and dev in named.all_benchmarks
    with pytest.raises(ContentError, match=r"vote\.dev is home, a test set"):
        open_factory(empty, tmp_path / "test", overrides={**given_values, "vote.dev": '"home"'})


def test_a_round_without_a_calibration_cannot_be_judged_by_one(
    empty: Workspace, tmp_path: Path
) -> None:
    factory = open_factory(empty, tmp_path / "state")
    start(factory, 1)
    factory = run_sampling(factory, ReplayEngine(lambda request: ["no tools"]))
    finish(factory)
    given_recipe = load_recipe(empty, "cpu", {"vote.precision": "0.9"})
    with pytest.raises(InputError, match="not calibrated"):
        rejudge(empty, factory.ledger, Rulebook.load(empty, {}), 1, given_recipe)


def test_votes_are_counted_one_way() -> None:
    for other in ({"minimum": 3}, {"plurality": True}):
        with pytest.raises(ValueError, match=r"vote\.precision sets the minimum"):
            Recipe.model_validate({"vote": {"precision": 0.9, **other}})
    assert Recipe().sha == Recipe.model_validate({"vote": {"precision": 0, "dev": ""}}).sha


@given(
    st.lists(st.tuples(st.integers(0, 50), st.floats(0, 100)), min_size=1, max_size=6),
    st.floats(0.01, 0.98),
    st.floats(0.0, 0.01),
)
def test_more_precision_never_takes_fewer_votes(
    curve: list[tuple[int, float]], wanted: float, more: float
) -> None:
    levels = [
        Level(votes=votes, kept=kept, right=0, low=low)
        for votes, (kept, low) in enumerate(curve, 2)
    ]
    minimum, reached = choose_minimum(levels, wanted)
    stricter, still = choose_minimum(levels, wanted + more)
    assert minimum <= stricter and (reached or not still)
    chosen = next(level for level in levels if level.votes == minimum)
    assert not reached or (chosen.kept and chosen.low >= 100 * wanted)
