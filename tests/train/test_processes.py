"""Several processes that share a training: steps and weights of one process, deaths included."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from conftest_models import tiny_model
from test_stages import run, weights_of
from test_train import SETUP, TOOLS, but, make_examples, make_job, train_once

from factory.domain.exhausted import OUT_OF_MEMORY
from factory.domain.failures import MissingError, RecipeError
from factory.train import team
from factory.train.memory import check_training, num_processes
from factory.train.trainer import OPTIMIZERS, StepsByLength
from factory.workspace.folder import Workspace, shipped_root
from factory.workspace.prompts import Prompts
from factory.workspace.recipe import OptimizerName, StageSection, TrainSection, load_recipe

FIND = StageSection(name="find", kinds=("code", "retrieve"))
CALL = StageSection(name="call", kinds=("gen", "invoke"), weights={"gen": 2})


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    """Steps, losses by kind, tokens and weights, where steps and examples do not divide evenly."""
    base = tiny_model(tmp_path / "base", max_positions=1024)
    examples = make_examples(TOOLS[:21], Prompts.load(Workspace(shipped_root())))
    setup = replace(but(SETUP, epochs=1, batch_size=16, micro_batch_size=2), stages=(FIND, CALL))
    alone, _ = run(tmp_path / "one", base, examples, setup, TOOLS[:21])
    setup = replace(setup, train=setup.train.model_copy(update={"processes": 2}))
    job = make_job(tmp_path / "two", base, examples, TOOLS[:21], setup)
    both = train_once(job)
    assert len(both.result.log) == len(alone["log"]) == 6
    for step, wanted in zip(both.result.log, alone["log"], strict=True):
        for key in ("step", "steps", "tokens", "learning_rate", "stage"):
            assert getattr(step, key) == wanted[key]
        assert step.loss == pytest.approx(wanted["loss"], rel=1e-5)
        assert step.losses == pytest.approx(wanted["losses"], rel=1e-5)
    assert both.result.num_examples == alone["num_examples"]
    assert [row.code for row in both.result.codes] == [row["code"] for row in alone["codes"]]
    ours, theirs = weights_of(job.out), weights_of(tmp_path / "one" / "out")
    start = weights_of(base)
    for name, weight in theirs.items():
        assert (ours[name] - weight).abs().max() < 1e-4, name
        if name in start and start[name].shape == weight.shape:
            assert (start[name] - weight).abs().max() > 1e-3, name


def test_a_helpers_death_is_the_childs(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the same signal or exit code, so that the command starts all of them again, or does not;
    a failure while all live is the child's own."""
    ends: list[int] = []
    monkeypatch.setattr(team, "end_as", ends.append)
    these = team.Team(3, gpu=False)
    these._helpers = [subprocess.Popen(["sleep", "60"], text=True) for _ in range(2)]
    try:
        these.follow_the_dead(seconds=0)
        assert ends == []
        these._helpers[1].kill()
        these.follow_the_dead(seconds=30)
        assert ends == [-signal.SIGKILL]
    finally:
        for helper in these._helpers:
            helper.kill()
            helper.wait()


@pytest.mark.slow
def test_a_helper_without_memory_says_so_by_its_exit_code() -> None:
    """It takes a petabyte where it would meet the others."""
    code = (
        "import runpy, sys, torch\n"
        "torch.distributed.TCPStore = lambda *_, **__: torch.empty(1 << 50)\n"
        f"sys.argv = ['helper', '1', '2', '1', '0', '{os.getpid()}']\n"
        "runpy.run_module('factory.train.helper', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == OUT_OF_MEMORY, done.stderr
    assert "can't allocate memory" in done.stderr


def test_optimizers_have_the_names_that_transformers_knows() -> None:
    from transformers.training_args import OptimizerNames

    assert {"adamw", *OPTIMIZERS} == set(get_args(OptimizerName))
    for name, theirs in OPTIMIZERS.items():
        paged, eight = name.startswith("paged"), name.endswith("8bit")
        assert OptimizerNames(theirs).value == theirs
        assert ("paged" in theirs, "8bit" in theirs) == (paged, eight)


def test_a_step_is_dealt_out_whole_and_filled_with_blanks_at_the_end() -> None:
    lengths = [(5 * row) % 19 for row in range(21)]
    one, two = StepsByLength(lengths, 8, seed=1), StepsByLength(lengths, 8, seed=1, turn=4)
    assert [*two][:21] == [*one] and [*two][21:] == [21] * 3
    assert len(two) == len([*two]) == 24
    assert len(StepsByLength(lengths, 8, seed=1, turn=7)) == 21


def check(**values: str) -> None:
    overrides = {key.replace("_", ".", 1): value for key, value in values.items()}
    check_training(load_recipe(Workspace(shipped_root()), "base", overrides).recipe)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"train.processes": "2"}, "need method full"),
        (
            {"train.method": "full", "train.processes": "2", "train.optimizer": "adamw_8bit"},
            "share Adam's moments",
        ),
        ({"train.method": "full", "train.processes": "3"}, "multiple of micro_batch_size times"),
        (
            {
                "train.method": "full",
                "train.processes": "2",
                "stage": '[{kinds=["code"], rows_only=true}]',
            },
            "rows_only trains in one process",
        ),
        ({"train.optimizer": "adam"}, "train.optimizer"),
    ],
)
def test_what_processes_cannot_share_is_refused(overrides: dict[str, str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(Workspace(shipped_root()), "base", overrides)


def test_a_machine_that_lacks_what_the_recipe_asks_for_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(MissingError, match="needs the package bitsandbytes") as caught:
        monkeypatch.setattr("factory.train.memory.is_installed", lambda name: False)
        check(train_optimizer="paged_adamw_8bit")
    assert "pip install 'tool-factory[8bit]'" in caught.value.remedy
    monkeypatch.setattr("factory.train.memory.is_installed", lambda name: True)
    monkeypatch.setattr("factory.train.memory.visible_gpus", lambda: ())
    with pytest.raises(MissingError, match="there is no GPU"):
        check(train_optimizer="paged_adamw")
    check(train_method="full", train_processes="2")
    monkeypatch.setattr("factory.train.memory.visible_gpus", lambda: ("0", "1", "2"))
    with pytest.raises(MissingError, match="this machine has 3"):
        check(train_method="full", train_processes="4")
    with pytest.raises(RecipeError, match="cannot be shared by 3 processes"):
        check(train_method="full", train_processes="0")
    check(train_method="full", train_processes="0", train_batch_size="48")


def test_processes_are_one_a_gpu_unless_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factory.train.memory.visible_gpus", lambda: ("4", "6"))
    full = TrainSection(method="full", processes=0)
    assert num_processes(full) == 2
    assert num_processes(TrainSection(method="full")) == 1
    assert num_processes(TrainSection(processes=0)) == 1
    monkeypatch.setattr("factory.train.memory.visible_gpus", lambda: ())
    assert num_processes(full) == 1
