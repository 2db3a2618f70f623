"""Plans of variants: what ships, what is refused, what a trial is known by, and the tables."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from workspaces import ROOT, make_workspace, run_factory

from factory.cli.monitor import PlainMonitor
from factory.domain.failures import ContentError, FactoryError, InputError, RecipeError
from factory.domain.records import Candidate, ItemScore, Query
from factory.lab.ablation.plan import AblationPlan, Settled, load_plan, settle, write_home_sets
from factory.lab.ablation.results import (
    AblationTrial,
    StepFigures,
    items_path,
    read_marks,
    write_marks,
)
from factory.lab.ablation.standings import Ablated, describe_row, make_ablation_tables, shares
from factory.lab.home.files import dev_quiet_items
from factory.lab.home.world import home_items, other_home_items
from factory.round.ablation import Ablation, ablate, prepare
from factory.score.base import Scorable
from factory.score.estimates import average
from factory.score.loading import defined, load
from factory.score.published import load_published
from factory.train.curriculum import learnt_share
from factory.workspace.folder import Workspace
from factory.workspace.recipe import Recipe, TrainSection
from factory.workspace.settings import load_settings

BROUGHT = frozenset({"seal-held-out"})
"""Benchmarks that a user makes first, as the plan's page says."""
PLANS = sorted(path.stem for path in (ROOT / "plans").glob("*.toml"))
SMALL = """
title = "A small one"
recipe = "cpu"
model = "rounds/seed"
rounds = 2

[set]
num_queries = 8
score.dev = ""

[[benchmark]]
name = "home-more"
home = 2
seed = 7

[[variant]]
name = "today"

[[variant]]
name = "no vote"
set = { calls.n = 1 }
rules = { "call/*" = "off" }
"""


def make_plan(folder: Path, text: str = SMALL) -> tuple[Workspace, AblationPlan]:
    workspace = make_workspace(folder, {"plans/mine.toml": text})
    return workspace, load_plan(workspace, "mine")


def settle_in(workspace: Workspace, plan: AblationPlan, model: str = "") -> list[Settled]:
    return settle(plan, workspace, load_settings(workspace), model=model)


def bring_data(workspace: Workspace, plan: AblationPlan) -> None:
    """Empty files where the plan looks for what a user brings."""
    files = {*plan.requests, *plan.teach}
    for variant in plan.variant:
        files |= {*(variant.teach or ())}
    for file in files:
        (workspace.root / file).parent.mkdir(parents=True, exist_ok=True)
        (workspace.root / file).touch()


@pytest.mark.parametrize("name", PLANS)
def test_a_shipped_plan_is_whole(name: str, tmp_path: Path) -> None:
    """Its keys, recipes, rules, benchmarks, the row to compare with, and what is published."""
    workspace = make_workspace(tmp_path / "ws")
    plan = load_plan(workspace, name)
    bring_data(workspace, plan)
    variants = settle_in(workspace, plan, model="rounds/seed")
    assert len(variants) == len(plan.variant)
    assert plan.against in {"parent", *(each.name for each in variants)}
    for benchmark in plan.benchmark:
        assert benchmark.is_drawn != (benchmark.name in {*defined(workspace), *BROUGHT})
    tables = {table.title: table for table in load_published(workspace)}
    known = {row for title in plan.published for row in tables[title].values}
    named = {row for each in variants for row in each.published}
    assert named <= known and bool(named) == bool(plan.published)
    command = (ROOT / "plans" / f"{name}.toml").read_text("utf-8").splitlines()[0]
    assert command.startswith(f"# factory ablate {name} --out ")


def test_the_plan_of_learning_differs_in_what_its_names_say(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "ws")
    plan = load_plan(workspace, "learning")
    found = {each.name: each for each in settle_in(workspace, plan)}
    today = found["today's recipe"].recipe
    assert (plan.seeds, plan.rounds, today.num_queries) == (3, 3, 2000)
    assert sum(4 * of.home for of in plan.benchmark) == 1200
    assert found["replay only"].recipe.train.accepted == 0
    assert found["no vote"].recipe.calls.n == 1
    assert {found["no rules"].rules[rule] for rule in ("call/wrong_type", "tool/truncated")} == {
        "off"
    }
    kinds = {
        kind for stage in found["no tool-writing objective"].recipe.stage for kind in stage.kinds
    }
    assert kinds == {"invoke", "code", "retrieve", "adapt", "trajectory"}
    assert found["no replay"].recipe.train.replay == found["no replay"].recipe.train.history == 0
    assert found["right labels"].gold and found["right labels"].recipe == today


def test_every_variant_starts_from_each_of_several_models(tmp_path: Path) -> None:
    models = f'[models]\none = "rounds/seed"\ntwo = "{ROOT / "rounds" / "seed"}"\n'
    workspace, plan = make_plan(tmp_path / "ws", SMALL.replace("[set]", f"{models}\n[set]"))
    names = [each.name for each in settle_in(workspace, plan)]
    assert names == ["one: today", "one: no vote", "two: today", "two: no vote"]
    assert {each.model for each in settle_in(workspace, plan)} == {"rounds/seed"}


def test_a_flag_stands_above_the_plan_and_a_variant_above_what_all_have(tmp_path: Path) -> None:
    workspace, plan = make_plan(tmp_path / "ws")
    settings = load_settings(workspace)
    today, single = settle(plan, workspace, settings, values={"num_queries": "5"})
    assert (today.recipe.num_queries, today.recipe.calls.n, single.recipe.calls.n) == (5, 5, 1)
    assert today.rules == {} and len(single.rules) > 10
    assert today.steps == ("round 1", "round 2") and today.does == "2 rounds of 5"


Edit = Callable[[str], str]


@pytest.mark.parametrize(
    ("edit", "error", "told"),
    [
        (lambda t: t.replace("rounds = 2", "round = 2"), ContentError, "did you mean rounds"),
        (lambda t: t.split("[[variant]]")[0], ContentError, "without variants"),
        (lambda t: t.replace("[[benchmark]]", "[other]"), ContentError, "unknown key"),
        (lambda t: t.replace('"no vote"', '"today"'), ContentError, "two variants"),
        (lambda t: t.replace('"no vote"', '"parent"'), ContentError, "'parent' is the row"),
        (lambda t: t.replace("calls.n", "calls.m"), RecipeError, "did you mean calls.n"),
        (lambda t: t.replace("calls.n = 1", "calls.n = 0"), RecipeError, "calls.n"),
        (lambda t: t.replace("call/*", "cal/wrong"), ContentError, "no rule cal/wrong"),
        (lambda t: t.replace('"cpu"', '"gpu"'), ContentError, "rounds/gpu.toml"),
        (lambda t: t.replace("rounds/seed", "rounds/none"), FactoryError, "rounds/none"),
        (lambda t: t.replace("rounds = 2", 'teach = ["a.jsonl"]'), InputError, "no a.jsonl"),
        (lambda t: t.replace("rounds = 2", 'text = "a.txt"'), InputError, "no a.txt"),
        (lambda t: t.replace("rounds = 2", 'requests = ["a.txt"]'), InputError, "no a.txt"),
        (lambda t: t.replace('"no vote"', '"gold"\ngold = true\nrounds = 0'), InputError, "gold"),
        (lambda t: t.replace("home = 2", "home = 2\nabstain = 2"), ContentError, "two benchmarks"),
        (lambda t: t.replace("home-more", "home"), ContentError, "a benchmark home already"),
        (lambda t: t.replace("home = 2\nseed = 7", ""), ContentError, "home-more"),
        (lambda t: t.replace("home = 2\nseed = 7", "hom = 2"), ContentError, "home-more"),
        (lambda t: t.replace("home = 2", "home = 2\nlimt = 1"), ContentError, "limt"),
        (
            lambda t: t.replace('name = "home-more"\nhome = 2', 'name = "toolbench"'),
            ContentError,
            "without its data|seed",
        ),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_run_is_refused_with_the_reason(
    edit: Edit, error: type[FactoryError], told: str, tmp_path: Path
) -> None:
    text = edit(SMALL)
    assert text != SMALL
    with pytest.raises(error, match=r"(?s)" + told) as caught:
        prepare_in(*make_plan(tmp_path / "ws", text), tmp_path / "out")
    assert caught.value.where or caught.value.remedy


def prepare_in(workspace: Workspace, plan: AblationPlan, out: Path, **values: Any) -> Ablation:
    settings = load_settings(workspace)
    variants = settle(plan, workspace, settings)
    return prepare(plan, variants, workspace, settings, out, PlainMonitor(), **values)


def test_unknown_plans_and_rows_are_refused(tmp_path: Path) -> None:
    workspace, _ = make_plan(tmp_path / "ws")
    out = ["--out", str(tmp_path / "out")]
    done = run_factory("ablate", "learnin", *out, cwd=workspace.root, code=2)
    assert "no plan learnin" in done.stderr and "learning, mine" in done.stderr
    done = run_factory("ablate", "mine", *out, "--against", "me", cwd=workspace.root, code=2)
    assert "parent; today; no vote" in done.stderr
    done = run_factory("ablate", "mine", *out, "--dry-run", cwd=workspace.root)
    assert "today: 2 rounds of 8" in done.stderr and "home-more (8)" in done.stderr
    assert "3 trials" in done.stderr and not list(tmp_path.glob("out/*/.factory"))


def digests(ablation: Ablation) -> dict[str, str]:
    return {trial.name: trial.digest for trial in ablation.trials}


def test_a_trial_is_known_by_what_decides_it_not_by_its_name(tmp_path: Path) -> None:
    workspace, plan = make_plan(tmp_path / "ws")
    first = digests(prepare_in(workspace, plan, tmp_path / "out", seeds=2))
    assert set(first) == {
        "parent", "today, seed 0", "today, seed 1", "no vote, seed 0", "no vote, seed 1",
    }  # fmt: skip
    assert len(set(first.values())) == 5
    raw = SMALL + '\n[[variant]]\nname = "as it is"\nrounds = 0\n'
    renamed = raw.replace('"today"', '"now"').replace("A small one", "Another")
    _, plan = make_plan(tmp_path / "renamed", renamed)
    again = digests(prepare_in(workspace, plan, tmp_path / "out"))
    assert again["now, seed 0"] == first["today, seed 0"]
    assert again["as it is"] == again["parent"] == first["parent"]

    def changed(text: str = SMALL, files: Mapping[str, str] | None = None) -> dict[str, str]:
        number = len(list(tmp_path.iterdir()))
        own = make_workspace(tmp_path / f"ws{number}", {"plans/mine.toml": text, **(files or {})})
        return digests(prepare_in(own, load_plan(own, "mine"), tmp_path / "out"))

    assert changed() == {name: first[name] for name in changed()}
    files = {"asked.txt": "Do a thing\n"}
    for text, more, same in (
        (SMALL.replace("seed = 7", "seed = 8"), {}, ()),
        (SMALL.replace("rounds = 2", 'text = "requests"\nrounds = 2'), {}, ()),
        (SMALL, {"prompts/calls/invoke.j2": "{{ query }} now"}, ()),
        (SMALL.replace("rounds = 2", "rounds = 1"), {}, ("parent",)),
        (SMALL.replace("num_queries = 8", "num_queries = 9"), {}, ("parent",)),
        (SMALL.replace("rounds = 2", 'requests = ["asked.txt"]\nrounds = 2'), files, ("parent",)),
        (SMALL.replace('"today"', '"today"\nrules = {"call/truncated" = "off"}'), {},
         ("parent", "no vote, seed 0")),
    ):  # fmt: skip
        found = changed(text, more)
        assert {name for name in found if found[name] == first[name]} == {*same}


def test_requests_keep_the_tools_that_come_with_them(tmp_path: Path) -> None:
    text = SMALL.replace("rounds = 2", 'requests = ["asked.jsonl"]\nrounds = 2')
    tool = {"name": "nap", "description": "Sleep for a while.", "parameters": {}}

    def pool_of(name: str, **more: Any) -> tuple[Ablation, str]:
        files = {"plans/mine.toml": text, "asked.jsonl": json.dumps({"query": "Rest", **more})}
        own = make_workspace(tmp_path / name, files)
        ablation = prepare_in(own, load_plan(own, "mine"), tmp_path / "out")
        return ablation, digests(ablation)["today, seed 0"]

    (bare, without), (offered, with_tool) = pool_of("bare"), pool_of("offered", tools=[tool])
    assert bare.pool and offered.pool and bare.pool[0].log is None
    assert offered.pool[0].log and offered.pool[0].log.tools[0].document["name"] == "nap"
    assert without != with_tool


def test_nothing_is_started_after_the_time(tmp_path: Path) -> None:
    workspace, plan = make_plan(tmp_path / "ws")
    ablation = prepare_in(workspace, plan, tmp_path / "out", seconds=-1)
    ran = asyncio.run(ablate(ablation, PlainMonitor(), print))
    assert ran.unfinished == 3 and not ran.failed
    assert [row.name for row in ran.rows] == ["parent", "today", "no vote"]
    assert make_ablation_tables(ran.rows, ablation.benchmarks) == []


def test_paths_and_contents_of_the_workspace_reach_the_trials(tmp_path: Path) -> None:
    """A definition with data of the workspace is copied with an absolute path; models are not."""
    text = SMALL + '\n[[benchmark]]\nname = "language"\n'
    text += '\n[[benchmark]]\nname = "home"\ndata = "data/home"\nlimit = 1\n'
    workspace, plan = make_plan(tmp_path / "ws", text)
    definition = (ROOT / "eval" / "language.toml").read_text("utf-8")
    (workspace.root / "eval" / "language.toml").write_text(
        definition.replace('data = ""', 'data = "data/plain.txt"')
    )
    shutil.copytree(ROOT / "eval" / "home", workspace.root / "data" / "home")
    (workspace.root / "data" / "plain.txt").write_text("Once upon a time. " * 50)
    (workspace.root / "rounds" / "own").mkdir()
    (workspace.root / "rounds" / "own" / "model.safetensors").write_bytes(b"weights")
    (workspace.root / "prompts" / "mine.txt").write_text("kept")
    before = sorted(path for path in workspace.root.rglob("*") if path.is_file())
    ablation = prepare_in(workspace, plan, tmp_path / "out")
    assert {"home-more", "language", "home[limit=1]"} == set(ablation.benchmarks)
    copied = ablation.template.root
    assert str(workspace.root / "data" / "plain.txt") in (copied / "eval/language.toml").read_text()
    assert (copied / "prompts" / "mine.txt").exists() and not (copied / "rounds" / "own").exists()
    assert sorted(path for path in workspace.root.rglob("*") if path.is_file()) == before


def test_a_plan_draws_requests_that_call_for_no_call(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "ws")
    plan = load_plan(workspace, "learning")
    (drawn,) = (of for of in plan.benchmark if of.abstain)
    write_home_sets(plan, workspace)
    benchmark = load(workspace, drawn.name, {})
    assert len(benchmark.items) == 3 * drawn.abstain
    asked = {item.query for item in benchmark.items}
    assert asked.isdisjoint(item.query for item in dev_quiet_items())


def test_drawn_home_items_are_others_of_the_same_kind() -> None:
    items = other_home_items(3, 7)
    assert items == other_home_items(3, 7) and len(items) == 12
    held = {item.query for item in home_items()}
    assert not held & {item.query for item in [*items, *other_home_items(3, 8)]}
    assert items != other_home_items(3, 8)


# -- tables --------------------------------------------------------------------------------------


def mark_items(benchmark: Scorable, right: Callable[[int], float]) -> list[ItemScore]:
    return [
        ItemScore(
            item=item.id,
            category=item.category,
            correct=right(number) == 1,
            reason="",
            message="",
            answer="",
            value=right(number),
        )
        for number, item in enumerate(benchmark.items)
    ]


def make_row(
    name: str,
    benchmark: Scorable,
    seeds: list[list[Callable[[int], float]]],
    parent: Ablated | None,
) -> Ablated:
    """A row whose trials have these marks, a list of steps for each seed."""
    trials, marks = [], []
    for seed, steps in enumerate(seeds):
        figures = [
            StepFigures(
                name=f"round {step + 1}" if parent else "as it is",
                checkpoint=f"r{step}",
                trained=step < 2,
                promoted=step == 0,
                drawn=100 if parent else 0,
                accepted=50,
                right=40,
                seconds=60,
            )
            for step in range(len(steps))
        ]
        trials.append(
            AblationTrial(
                variant=name, seed=seed, steps=tuple(figures), folder="x", digest=f"{name}{seed}"
            )
        )
        marks.append(
            {(n, benchmark.name): mark_items(benchmark, right) for n, right in enumerate(steps)}
        )
    settled = None
    if parent:
        settled = Settled(name=name, model="x", recipe=Recipe(), rules={}, published=("Row",))
    return Ablated(
        name=name, settled=settled, trials=tuple(trials), marks=tuple(marks), parent=parent
    )


def half(number: int) -> float:
    return float(number % 2 == 0)


def test_tables_pair_items_with_the_parent_and_a_named_variant() -> None:
    benchmark = load(Workspace(ROOT), "home")
    scored = {benchmark.name: benchmark}
    parent = make_row("parent", benchmark, [[half]], None)
    one = make_row("one", benchmark, [[lambda n: 1.0], [half]], parent)
    two = make_row("two", benchmark, [[half, half, lambda n: 0.0]], parent)
    empty = Ablated(name="late", settled=None, trials=(), marks=(), parent=parent)
    table, kept = make_ablation_tables([parent, one, two, empty], scored, (), against=one)
    assert table.title == "home: 200 items, percent, mean over 2 seeds"
    assert table.columns == (
        "variant", "after", "overall", "over seeds", "simple", "multiple", "parallel",
        "parallel_multiple", "from its parent", "against one",
    )  # fmt: skip
    cells = {(row[0], row[1]): dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert list(cells) == [
        ("parent", "as it is"), ("one", "round 1"), ("two", "round 1"), ("two", "round 2*"),
        ("two", "round 3 –"),
    ]  # fmt: skip
    first = cells["one", "round 1"]
    # Every other item is right in one of two seeds and in the parent: 75 and 50 percent.
    assert str(first["overall"]).startswith("75.0 (7") and first["over seeds"] == "75.0 ±25.0"
    assert str(first["from its parent"]).startswith("+25.0 (+2") and first["against one"] is None
    last = cells["two", "round 3 –"]
    assert str(last["from its parent"]).startswith("-50.0 (-5")
    assert str(last["against one"]).startswith("-75.0 (-7")
    assert cells["two", "round 1"]["from its parent"] == "+0.0 (+0.0 to +0.0)"
    assert cells["parent", "as it is"]["from its parent"] is None
    rows = [dict(zip(kept.columns, row, strict=True)) for row in kept.rows]
    assert [row["variant"] for row in rows] == ["one", "two", "two", "two"]
    assert rows[0]["drawn"] == "100" and rows[0]["min"] == "1.0 ±0.0"
    assert str(rows[0]["accepted, %"]).startswith("50.0 (4")
    assert str(rows[0]["right of accepted, %"]).startswith("80.0 (7")
    assert str(rows[0]["right of drawn, %"]).startswith("40.0 (3")

    record = describe_row(two, scored, one)
    step = record["steps"][2]["scores"]["home"]
    assert step["overall"]["value"] == 0 and step["change"]["value"] == pytest.approx(-75)
    assert step["from_parent"]["value"] == pytest.approx(-50)
    assert record["steps"][0]["shares"]["precision"]["value"] == pytest.approx(80)
    assert len(record["trials"]) == 1
    assert make_ablation_tables([empty], scored) == []


def test_a_held_round_of_some_seeds_is_counted() -> None:
    benchmark = load(Workspace(ROOT), "home")
    parent = make_row("parent", benchmark, [[half]], None)
    row = make_row("one", benchmark, [[half, half], [half, half]], parent)
    first, second = row.trials
    kept = replace(second.steps[1], promoted=True)
    row = replace(row, trials=(first, replace(second, steps=(second.steps[0], kept))))
    assert (row.label(0), row.label(1)) == ("round 1", "round 2 *1 of 2")


def test_published_rows_stand_below_the_variant_that_names_them() -> None:
    benchmark = load(Workspace(ROOT), "home")
    (table,) = load_published(Workspace(ROOT), "apibank")
    table = table.model_copy(
        update={
            "benchmark": "home",
            "columns": ("simple",),
            "values": {"Row": (61.0,), "B": (5.0,)},
        }
    )
    parent = make_row("parent", benchmark, [[half]], None)
    one = make_row("one", benchmark, [[lambda n: 1.0]], parent)
    *_, shown = make_ablation_tables([parent, one], {"home": benchmark}, [table])
    assert shown.rows == [
        ("measured here", "parent", "50.00"),
        ("measured here", "one", "100.00"),
        ("published", "Row", "61.00"),
    ]
    assert table.source in shown.title
    *_, all_of_it = make_ablation_tables([parent], {"home": benchmark}, [table])
    assert [row[1] for row in all_of_it.rows] == ["parent", "Row", "B"]


def test_shares_are_of_the_requests_of_all_seeds() -> None:
    one = StepFigures(name="x", checkpoint="x", drawn=10, accepted=5, right=5)
    found = shares([one, replace(one, accepted=0, right=0)])
    values = {name: each.value if each else None for name, each in found.items()}
    assert values == {"accepted": 25, "precision": 100, "kept right": 25}
    assert shares([replace(one, right=None)])["precision"] is None
    assert set(shares([replace(one, drawn=0, accepted=0, right=0)]).values()) == {None}


def test_marks_are_read_as_they_were_written(tmp_path: Path) -> None:
    item = ItemScore(
        item="a/1", category="a", correct=False, reason="wrong_value", message="é", answer="x",
        value=0.5, detail={"ndcg@5": 0.5},
    )  # fmt: skip
    path = items_path(tmp_path, "mark")
    write_marks(path, {(0, "b"): [item], (1, "b"): [item, replace(item, item="a/2")]})
    assert read_marks(path) == {(0, "b"): [item], (1, "b"): [item, replace(item, item="a/2")]}


def test_an_average_is_of_the_items_that_all_have() -> None:
    base = ItemScore(
        item="1", category="a", correct=True, reason="", message="", answer="",
        detail={"x": 1, "y": "t"},
    )  # fmt: skip
    other = replace(base, correct=False, detail={"x": 2, "y": "u"})
    (found,) = average([[base, replace(base, item="2")], [other]])
    assert (found.mark, found.detail) == (0.5, {"x": 1.5, "y": "t"})
    assert average([[base]]) == [base]


def test_the_share_of_accepted_samples_that_is_learnt_keeps_their_order() -> None:
    samples = [
        Candidate(query=Query(id=f"q{n}", text="t", source="s"), tools=(), calls=())
        for n in range(10)
    ]
    whole = Recipe()
    assert learnt_share(samples, whole) == samples

    def kept(share: float, seed: int = 0) -> list[str]:
        recipe = Recipe(seed=seed, train=TrainSection(accepted=share))
        return [sample.query.id for sample in learnt_share(samples, recipe)]

    assert kept(0) == [] and len(kept(0.3)) == 3 and kept(0.3) == sorted(kept(0.3))
    assert set(kept(0.3)) < set(kept(0.6)) and kept(0.5) != kept(0.5, seed=1)


def test_a_folder_that_is_not_its_own_is_left_alone(tmp_path: Path) -> None:
    workspace, plan = make_plan(tmp_path / "ws")
    (tmp_path / "out" / ".template").mkdir(parents=True)
    (tmp_path / "out" / ".template" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not made by factory ablate"):
        prepare_in(workspace, plan, tmp_path / "out")
    assert (tmp_path / "out" / ".template" / "mine.txt").exists()
