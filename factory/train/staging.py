"""The stages of a training, run one after the other on one model.

Each has an optimiser, a schedule and an order of examples of its own (A10). Adapters stay on from
stage to stage and are merged when the last one is done.
"""

from __future__ import annotations

import contextlib
import tempfile
from typing import NamedTuple

from peft import PeftModel
from transformers import PreTrainedModel

from factory.codes.codebook import Codebook
from factory.domain.records import ExampleKind
from factory.train.encoding import EncodedSet
from factory.train.job import StageFigures, TrainingSetup
from factory.train.keeping import SavedStep, StepSaver
from factory.train.learner import Learner, Send
from factory.train.preferences import make_preference_trainer
from factory.train.stages import Portion, Stage, limits_of, num_steps, stages_of, take, why_skipped
from factory.train.trainer import Reporter, code_ids_of, make_trainer, only_rows


def has_rows(learner: Learner, codebook: Codebook | None, setup: TrainingSetup) -> bool:
    """Whether there are rows of code tokens to train."""
    return setup.codes.are_made and bool(code_ids_of(learner, codebook))


def limits_for(setup: TrainingSetup, rows: bool) -> dict[ExampleKind, int] | None:
    """The longest example of each kind that a stage takes; None without [[stage]]."""
    stages = [stage for stage in stages_of(setup) if not why_skipped(stage, rows)]
    return limits_of(stages) if setup.stages else None


class PlannedStage(NamedTuple):
    """A stage of an iteration with what it will do."""

    stage: Stage
    portion: Portion
    reason: str
    """Why it does nothing; empty where it trains."""
    steps: int


def run_stages(
    learner: Learner,
    encoded: EncodedSet,
    codebook: Codebook | None,
    setup: TrainingSetup,
    reporter: Reporter,
    send: Send,
    keeper: StepSaver | None = None,
    iteration: int = 1,
    num_iterations: int = 1,
) -> list[StageFigures]:
    """Train `learner.model` in place through the stages of an iteration; adapters are merged.

    A stage that no example fits is told of and left out. With a saved step, what came before it is
    left out too.
    """
    planned = _plan(learner, encoded, codebook, setup, iteration)
    later = (num_iterations - iteration) * sum(each.steps for each in planned)
    figures = list[StageFigures]()
    saved = keeper.find() if keeper is not None else None
    if saved is not None:
        figures += saved.figures
        reporter.go_on(saved.reported)
    for place, (stage, portion, reason, _) in enumerate(planned):
        if saved is not None and place < saved.place:
            continue
        prefix = ""
        if stage.number is not None:
            prefix = f"stage {stage.number} of {len(planned) * num_iterations}, {stage.name}: "
        done = 0
        if reason:
            send({"type": "phase", "text": f"{prefix}skipped, {reason}"})
        else:
            told = f"{prefix}training on {portion.num_examples} examples"
            if saved is not None:
                told += f", goes on from step {saved.step}"
                print(told, flush=True)
            send({"type": "phase", "text": told})
            keeper = None if stage.prefers or learner.team is not None else keeper
            if keeper is not None:
                keeper.begin(reporter, place, figures)
            after = later + sum(each.steps for each in planned[place + 1 :])
            done = _run(learner, stage, portion, codebook, setup, reporter, after, keeper, saved)
            saved = None
        if stage.number is not None:
            figures.append(
                StageFigures(
                    number=stage.number,
                    name=stage.name,
                    examples=0 if reason else portion.num_examples,
                    too_long=portion.too_long,
                    steps=done,
                    skipped=reason,
                )
            )
    if isinstance(learner.model, PeftModel):
        learner.model = learner.model.merge_and_unload()
    learner.model.config.use_cache = True
    return figures


def _plan(
    learner: Learner,
    encoded: EncodedSet,
    codebook: Codebook | None,
    setup: TrainingSetup,
    iteration: int,
) -> list[PlannedStage]:
    """The stages of an iteration."""
    rows, planned = has_rows(learner, codebook, setup), list[PlannedStage]()
    for stage in stages_of(setup, iteration):
        portion = take(stage, encoded.examples)
        reason = why_skipped(stage, rows)
        if not reason and not portion.examples:
            reason = f"no example of its kinds ({', '.join(stage.kinds)})"
        steps = 0 if reason else num_steps(stage, len(portion.examples))
        planned.append(PlannedStage(stage, portion, reason, steps))
    return planned


def _run(
    learner: Learner,
    stage: Stage,
    portion: Portion,
    codebook: Codebook | None,
    setup: TrainingSetup,
    reporter: Reporter,
    steps_after: int,
    keeper: StepSaver | None,
    saved: SavedStep | None,
) -> int:
    """One stage, or what a saved step leaves of it; its steps. Adapters stay on the model."""
    restore_forward(learner.model)
    room = keeper and keeper.room()
    with tempfile.TemporaryDirectory(dir=room) as folder:
        if stage.prefers:
            return _prefer(learner, stage, portion, setup, reporter, folder, steps_after)
        trainer = make_trainer(learner, portion.examples, codebook, setup, folder, stage)
        reporter.begin(trainer, stage, steps_after)
        if room is not None:
            trainer.add_callback(keeper)
        frozen = (
            only_rows(trainer.model, code_ids_of(learner, codebook))
            if stage.rows_only
            else contextlib.nullcontext()
        )
        with frozen:
            trainer.train(resume_from_checkpoint=str(saved.folder) if saved else None)
        if learner.team is not None:
            learner.team.collect(trainer.model, learner.model)
        else:
            learner.model = trainer.model
    return reporter.end()


def _prefer(
    learner: Learner,
    stage: Stage,
    portion: Portion,
    setup: TrainingSetup,
    reporter: Reporter,
    folder: str,
    steps_after: int,
) -> int:
    """One stage of pairs; its steps. No adapters stay on the model: they have no rows of codes."""
    trainer = make_preference_trainer(learner, portion.examples, setup, folder, stage)
    reporter.begin(trainer, stage, steps_after)
    trainer.train()
    learner.model = trainer.model
    if isinstance(learner.model, PeftModel):
        learner.model = learner.model.merge_and_unload()
    return reporter.end()


def restore_forward(model: PreTrainedModel | PeftModel) -> None:
    """Take off what a trainer before has put around a model's forward, such as autocast."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    for part in (model, inner):
        part.__dict__.pop("forward", None)
