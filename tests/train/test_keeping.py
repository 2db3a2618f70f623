"""Saved steps of a training: one that is killed goes on from the last to the same weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from conftest_models import tiny_model
from safetensors.torch import load_file
from test_train import SETUP, TOOLS, but, kill_training_child, make_examples, make_job, train_once

from factory.domain.failures import DiskError
from factory.domain.records import Progress
from factory.train.job import TrainingSetup
from factory.workspace.folder import Workspace, shipped_root
from factory.workspace.prompts import Prompts
from factory.workspace.recipe import StageSection, TrainSection

EACH_STEP = 1e-9
"""Minutes that every step is longer than."""


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return Prompts.load(Workspace(shipped_root()))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("base"), tied=False, max_positions=1024)


def in_two(method: Literal["full", "lora"], **train: float) -> TrainingSetup:
    """Rows of codes for three steps, then two epochs of five over all kinds of answers."""
    rows = StageSection(kinds=("code",), rows_only=True, batch_size=8, micro_batch_size=4, epochs=1)
    find = StageSection(name="find", kinds=("code", "retrieve"), epochs=2)
    return replace(but(SETUP, method=method, **train), stages=(rows, find))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_killed_training_goes_on_from_its_saved_step_to_the_same_weights(
    method: Literal["full", "lora"], base: Path, prompts: Prompts, tmp_path: Path
) -> None:
    """Killed in the first stage, and in the middle of the second epoch of the second."""
    examples = make_examples(TOOLS, prompts)
    whole = train_once(make_job(tmp_path / "whole", base, examples, TOOLS, in_two(method)))
    job = make_job(
        tmp_path / "killed", base, examples, TOOLS, in_two(method, save_minutes=EACH_STEP)
    )
    assert job.digest() == whole.job.digest()
    reached: list[int] = []
    killed: list[int] = []

    def kill(progress: Progress) -> None:
        reached.append(progress.step)
        if progress.step in (3, 11) and progress.step not in killed:
            kill_training_child()
            killed.append(progress.step)

    run = train_once(job, on_progress=kill, max_restarts=2)
    assert killed == [3, 11] and run.result.restarts == 2
    went_on = [phase for phase in run.phases if "goes on from step" in phase]
    assert len(went_on) == 2 and went_on[0].startswith("stage 1 of 2, code: training on 24")
    assert went_on[1].startswith("stage 2 of 2, find: training on 48 examples, goes on from")
    assert went_on[1].rsplit(maxsplit=1)[1] in ("10", "11")
    log = (job.out.parent / "train.log").read_text()
    assert went_on[0] in log and went_on[1] in log and "saved step 2: " in log
    assert reached.count(1) == 1 and reached.count(5) == 1 and reached[-1] == 13
    assert not job.saved.exists()
    one, other = (load_file(each.result.path / "model.safetensors") for each in (whole, run))
    assert one.keys() == other.keys()
    assert all((one[name] == other[name]).all() for name in one)
    assert run.result.fingerprint == whole.result.fingerprint
    assert run.result.stages == whole.result.stages and run.result.codes == whole.result.codes
    assert run.result.num_tokens == whole.result.num_tokens
    figures = [[replace(step, seconds=0) for step in each.result.log] for each in (whole, run)]
    assert figures[0] == figures[1]


@pytest.mark.slow
def test_a_saved_step_of_another_job_or_one_cut_off_goes(
    base: Path, prompts: Prompts, tmp_path: Path
) -> None:
    examples = make_examples(TOOLS, prompts)
    setup = in_two("lora", save_minutes=EACH_STEP)
    job = make_job(tmp_path, base, examples, TOOLS, setup)

    def stop(progress: Progress) -> None:
        if progress.step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_once(job, on_progress=stop)
    kept = max(job.saved.glob("step-*"))
    assert json.loads((kept / "saved.json").read_text())["place"] == 1
    (kept / "optimizer.pt").write_bytes(b"cut off")
    again = train_once(job)
    assert not any("goes on" in phase for phase in again.phases) and again.progress[0].step == 1
    with pytest.raises(KeyboardInterrupt):
        train_once(replace(job, out=tmp_path / "second"), on_progress=stop)
    other = replace(job, out=tmp_path / "third", setup=replace(setup, seed=1))
    fresh = train_once(other)
    assert fresh.progress[0].step == 1 and not job.saved.exists()


@pytest.mark.slow
@pytest.mark.parametrize("saves", [0.0, EACH_STEP])
def test_a_training_whose_folder_is_exchanged_writes_nothing_into_the_other(
    saves: float, base: Path, prompts: Prompts, tmp_path: Path
) -> None:
    """The workspace is moved in mid-training, and another one put where it was."""
    here, moved = tmp_path / "round", tmp_path / "moved"
    examples = make_examples(TOOLS, prompts)
    setup = in_two("lora", save_minutes=saves)
    job = make_job(here, base, examples, TOOLS, replace(setup, stages=setup.stages[:1]))

    def exchange(progress: Progress) -> None:
        if progress.step == 2:
            here.rename(moved)
            here.mkdir()
            (here / "examples.jsonl").write_text("another's\n")

    with pytest.raises(DiskError, match="was moved or removed while this command worked in it"):
        train_once(job, on_progress=exchange)
    assert [path.name for path in here.iterdir()] == ["examples.jsonl"]
    assert (here / "examples.jsonl").read_text() == "another's\n"
    assert (moved / "examples.jsonl").stat().st_size and not list(moved.glob(job.out.name + "*"))
    moved_job = replace(job, examples=moved / "examples.jsonl", new_tools=moved / "tools.jsonl")
    again = train_once(replace(moved_job, out=moved / job.out.name))
    assert again.result.path == moved / job.out.name
    assert any("goes on" in phase for phase in again.phases) == bool(saves)


def test_when_steps_are_saved_names_no_training_and_no_old_recipe() -> None:
    saving = but(SETUP, save_minutes=30.0)
    assert saving.values() == SETUP.values()
    assert "save_minutes" not in TrainSection().known_by()


def test_several_processes_are_not_saved() -> None:
    with pytest.raises(ValueError, match="save_minutes saves trainings of one process"):
        TrainSection(method="full", processes=2, save_minutes=10)
