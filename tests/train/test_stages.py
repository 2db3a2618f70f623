"""Trainings in stages: what each teaches and moves, and how kinds share a loss."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from conftest_models import tiny_model
from test_train import SETUP, TOOLS, but, losses_by_hand, make_examples, make_job

from factory.codes.saving import load_codebook
from factory.domain.failures import InputError
from factory.domain.records import Example, ExampleKind, Tool
from factory.train.child import train
from factory.train.encoding import Encoded
from factory.train.job import TrainingSetup
from factory.train.stages import Stage, kind_weights, limits_of, num_steps, stages_of, take
from factory.workspace.folder import Workspace, shipped_root
from factory.workspace.prompts import Prompts
from factory.workspace.recipe import GistSection, StageSection, vary

ROWS = StageSection(name="rows", kinds=("code",), rows_only=True, batch_size=8, micro_batch_size=4)
FIND = StageSection(name="find", kinds=("code", "retrieve"), epochs=1)


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return Prompts.load(Workspace(shipped_root()))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("base"), tied=False, max_positions=1024)


def in_stages(*stages: StageSection, **train: Any) -> TrainingSetup:
    return replace(but(SETUP, **{"epochs": 1, **train}), stages=stages)


def run(
    folder: Path,
    base: Path,
    examples: list[Example],
    setup: TrainingSetup,
    tools: list[Tool] = TOOLS,
) -> tuple[dict[str, Any], list[str]]:
    """What the child would send last, and the phases that it told of."""
    sent: list[dict[str, Any]] = []
    done = train(make_job(folder, base, examples, tools, setup), sent.append)
    return done, [message["text"] for message in sent if message["type"] == "phase"]


def weights_of(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_first_stage_moves_only_the_rows_and_the_next_goes_on_from_it(
    method: Literal["full", "lora"], base: Path, prompts: Prompts, tmp_path: Path
) -> None:
    """The control is the same training whose first stage stands still (rate near 0)."""
    examples = make_examples(TOOLS, prompts)
    still = ROWS.model_copy(update={"learning_rate": 1e-30})
    runs = {
        "still": (still,),
        "rows": (ROWS,),
        "both": (ROWS, FIND),
    }
    made = {
        name: run(tmp_path / name, base, examples, in_stages(*stages, method=method))[0]
        for name, stages in runs.items()
    }
    weights = {name: weights_of(tmp_path / name / "out") for name in runs}
    num_words = weights_of(base)["model.embed_tokens.weight"].shape[0]
    for name, before in weights["still"].items():
        after = weights["rows"][name]
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            assert (before[:num_words] == after[:num_words]).all()
            assert (before[num_words:] != after[num_words:]).any(dim=1).sum() > 8
        else:
            assert (before == after).all(), name
            assert name.endswith("norm.weight") or (weights["both"][name] != after).any(), name
    log = made["both"]["log"]
    assert [step["stage"] for step in log] == [1] * 3 + [2] * 5
    assert [(step["step"], step["steps"]) for step in log] == [(n, 8) for n in range(1, 9)]
    alone = [(step["loss"], step["tokens"]) for step in made["rows"]["log"]]
    assert [(step["loss"], step["tokens"]) for step in log[:3]] == alone
    assert log[-1]["tokens"] == made["both"]["num_tokens"] > alone[-1][1]
    assert log[3]["losses"]["code"] < made["still"]["log"][0]["losses"]["code"]
    assert made["both"]["dropped"] == {"gen/no_stage": 24, "invoke/no_stage": 24}
    assert made["both"]["num_examples"] == 48


@pytest.mark.slow
def test_kinds_share_the_loss_as_their_weights_say(
    base: Path, prompts: Prompts, tmp_path: Path
) -> None:
    """One step over all examples, at a rate of 0, against means by hand: 1:1 (Eq. 6) and 2:1."""
    examples = [e for e in make_examples(TOOLS[:4], prompts) if e.kind in ("gen", "invoke")]
    losses = losses_by_hand(base, base, examples, lambda example, _: example.kind == "gen")
    gen, invoke = (sum(losses[is_gen]) / len(losses[is_gen]) for is_gen in (True, False))
    assert len(losses[True]) > 2 * len(losses[False])  # documents are the longer ones
    for weight, wanted in ((1.0, (gen + invoke) / 2), (2.0, (2 * gen + invoke) / 3)):
        stage = StageSection(
            kinds=("gen", "invoke"), weights={"gen": weight}, batch_size=8, micro_batch_size=4
        )
        done, _ = run(tmp_path / str(weight), base, examples, in_stages(stage), tools=[])
        (step,) = done["log"]
        assert step["loss"] == pytest.approx(wanted, rel=1e-4)
        assert step["losses"] == {
            "gen": pytest.approx(gen, rel=1e-4),
            "invoke": pytest.approx(invoke, rel=1e-4),
        }
    assert gen != pytest.approx(invoke, rel=1e-3)


@pytest.mark.slow
def test_a_stage_that_no_example_fits_is_told_of_and_left_out(
    base: Path, prompts: Prompts, tmp_path: Path
) -> None:
    examples = [e for e in make_examples(TOOLS, prompts) if e.kind != "gen"]
    adapt = StageSection(name="adaption", kinds=("adapt",))
    off = StageSection(name="off", kinds=("invoke",), epochs=0)
    short = StageSection(kinds=("code", "retrieve"), max_length=64, epochs=0.1)
    done, phases = run(tmp_path / "some", base, examples, in_stages(adapt, off, short, FIND))
    names = [(stage["name"], stage["skipped"]) for stage in done["stages"]]
    assert names == [
        ("adaption", "no example of its kinds (adapt)"),
        ("off", "epochs = 0"),
        ("code, retrieve", ""),
        ("find", ""),
    ]
    assert "stage 1 of 4, adaption: skipped, no example of its kinds (adapt)" in phases
    assert done["stages"][2]["too_long"] == 24 and done["stages"][2]["examples"] == 24
    assert done["dropped"] == {"invoke/no_stage": 24} and done["num_examples"] == 48
    with pytest.raises(InputError, match="no example can be trained on") as caught:
        run(tmp_path / "none", base, examples, in_stages(adapt, off))
    assert "[[stage]]" in caught.value.remedy


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_second_iteration_codes_anew_from_the_model_of_the_first(
    method: Literal["full", "lora"], base: Path, prompts: Prompts, tmp_path: Path
) -> None:
    """The control is one iteration, which the first of two must be, step by step."""
    examples = [e for e in make_examples(TOOLS, prompts) if e.kind != "gen"]
    gist = GistSection(views=2, epochs=1, merge=True)
    stages = (FIND, StageSection(name="calls", kinds=("invoke",), epochs=0.4))
    setup = in_stages(*stages, method=method)
    made = []
    for iterations in (1, 2):
        codes = vary(SETUP.codes, gist=gist, iterations=iterations)
        folder = tmp_path / str(iterations)
        made.append(run(folder, base, examples, replace(setup, codes=codes)))
    (once, _), (twice, phases) = made
    losses = [[(step["loss"], step["losses"]) for step in done["log"]] for done in (once, twice)]
    assert losses[1][: len(losses[0])] == losses[0] and len(losses[1]) == 2 * len(losses[0])
    assert [(s["number"], s["name"]) for s in twice["stages"]] == [
        (1, "find"),
        (2, "calls"),
        (3, "find, iteration 2"),
        (4, "calls, iteration 2"),
    ]
    assert twice["log"][-1]["step"] == twice["log"][0]["steps"] == twice["steps"]
    assert "iteration 2 of 2: giving all tools codes anew" in phases
    assert once["recoded"] is None and twice["recoded"]["reason"] == "iteration 2 of 2"
    assert twice["recoded"]["churn"] > 0 and twice["aliases"] == []
    books = [load_codebook(tmp_path / name / "out") for name in ("1", "2")]
    assert all(book is not None and len({*book.codes}) == len(TOOLS) for book in books)
    assert [book and (book.version, book.report.age) for book in books] == [(1, 1), (1, 1)]
    assert [row["code"] for row in twice["codes"]] != [row["code"] for row in once["codes"]]


def encoded(kind: ExampleKind, *lengths: int, first: int = 0) -> list[Encoded]:
    """Examples of one part each, all of whose tokens are learnt."""
    return [
        Encoded(kind=kind, input_ids=ids, labels=ids, spans=((0, length),), example=first + number)
        for number, length in enumerate(lengths)
        for ids in (tuple(range(length)),)
    ]


def test_weights_of_kinds_hold_whatever_their_numbers_and_lengths() -> None:
    stage = stages_of(in_stages(StageSection(kinds=("gen", "code"), weights={"gen": 3.0})))[0]
    examples = [*encoded("gen", 40, 60), *encoded("code", 3, 3, 2, 2)]
    weights = kind_weights(stage, examples)
    assert 100 * weights["gen"] == pytest.approx(3 * 10 * weights["code"])
    assert 100 * weights["gen"] + 10 * weights["code"] == pytest.approx(110)
    assert kind_weights(stage, examples[2:]) == {"code": 1.0}
    assert kind_weights(replace(stage, weights={}), examples) == {}


def test_stages_settle_what_they_leave_out_and_have_seeds_of_their_own() -> None:
    plain, staged = but(SETUP), in_stages(ROWS, FIND)
    assert stages_of(plain) == [Stage(train=plain.train, seed=plain.seed)]
    rows, find = stages_of(staged)
    assert (rows.train.batch_size, rows.train.learning_rate) == (8, SETUP.train.learning_rate)
    assert (find.train.batch_size, find.number, find.name) == (SETUP.train.batch_size, 2, "find")
    again = stages_of(staged, iteration=2)
    assert [(s.number, s.name) for s in again] == [
        (3, "rows, iteration 2"),
        (4, "find, iteration 2"),
    ]
    assert len({stage.seed for stage in (rows, find, *again)} - {plain.seed}) == 4
    assert limits_of([rows, replace(find, kinds=("retrieve",))]) == {"code": 640, "retrieve": 640}


def test_a_stage_takes_whole_examples_of_its_kinds() -> None:
    (stage,) = stages_of(in_stages(StageSection(kinds=("code", "gen"), max_length=10)))
    turns = [replace(part, example=7) for part in encoded("gen", 5, 11)]
    examples = [*encoded("code", 4, 10, 11), *encoded("invoke", 4, first=3), *turns]
    portion = take(stage, examples)
    assert (portion.examples, portion.num_examples, portion.too_long) == (examples[:2], 2, 2)


@pytest.mark.parametrize(
    ("parts", "batch", "micro", "epochs", "steps"),
    [(48, 10, 5, 1.0, 5), (48, 10, 5, 0.5, 3), (51, 8, 8, 2.0, 14), (1, 64, 4, 3.0, 3)],
)
def test_steps_are_counted_before_training(
    parts: int, batch: int, micro: int, epochs: float, steps: int
) -> None:
    (stage,) = stages_of(but(SETUP, batch_size=batch, micro_batch_size=micro, epochs=epochs))
    assert num_steps(stage, parts) == steps


def test_stages_are_part_of_what_a_training_is_known_by(base: Path, tmp_path: Path) -> None:
    def digest_of(*stages: StageSection) -> str:
        job = make_job(tmp_path, base, [], [], in_stages(*stages))
        row = json.loads(json.dumps(job.to_json()))
        assert type(job).from_json(row) == job
        return job.digest()

    others: Sequence[tuple[StageSection, ...]] = ((), (ROWS,), (ROWS, FIND), (FIND, ROWS))
    assert len({digest_of(*stages) for stages in others}) == 4
    job = make_job(tmp_path, base, [], [], in_stages())
    assert "stages" not in job.setup.values()
