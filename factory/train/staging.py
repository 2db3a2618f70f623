"""The stages of a training, run one after the other on one model.

Each has an optimiser, a schedule and an order of examples of its own (A10). Adapters stay on from
stage to stage and are merged when the last one is done.
"""

from __future__ import annotations

import contextlib
import tempfile

from peft import PeftModel
from transformers import PreTrainedModel

from factory.codes.codebook import Codebook
from factory.domain.records import ExampleKind
from factory.train.encoding import EncodedSet
from factory.train.job import StageFigures, TrainingSetup
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


def run_stages(
    learner: Learner,
    encoded: EncodedSet,
    codebook: Codebook | None,
    setup: TrainingSetup,
    reporter: Reporter,
    send: Send,
    iteration: int = 1,
    num_iterations: int = 1,
) -> list[StageFigures]:
    """Train `learner.model` in place through the stages of an iteration; adapters are merged.

    A stage that no example fits is told of and left out.
    """
    stages, rows = stages_of(setup, iteration), has_rows(learner, codebook, setup)
    portions = [take(stage, encoded.examples) for stage in stages]
    reasons = [
        why_skipped(stage, rows)
        or ("" if portion.examples else f"no example of its kinds ({', '.join(stage.kinds)})")
        for stage, portion in zip(stages, portions, strict=True)
    ]
    steps = [
        0 if reason else num_steps(stage, len(portion.examples))
        for stage, portion, reason in zip(stages, portions, reasons, strict=True)
    ]
    later = (num_iterations - iteration) * sum(steps)
    figures = []
    for place, (stage, portion, reason) in enumerate(zip(stages, portions, reasons, strict=True)):
        prefix = ""
        if stage.number is not None:
            prefix = f"stage {stage.number} of {len(stages) * num_iterations}, {stage.name}: "
        done = 0
        if reason:
            send({"type": "phase", "text": f"{prefix}skipped, {reason}"})
        else:
            told = f"{prefix}training on {portion.num_examples} examples"
            send({"type": "phase", "text": told})
            after = later + sum(steps[place + 1 :])
            done = _run(learner, stage, portion, codebook, setup, reporter, after)
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


def _run(
    learner: Learner,
    stage: Stage,
    portion: Portion,
    codebook: Codebook | None,
    setup: TrainingSetup,
    reporter: Reporter,
    steps_after: int,
) -> int:
    """One stage; its steps. Adapters stay on the model."""
    restore_forward(learner.model)
    with tempfile.TemporaryDirectory() as folder:
        if stage.prefers:
            return _prefer(learner, stage, portion, setup, reporter, folder, steps_after)
        trainer = make_trainer(learner, portion.examples, codebook, setup, folder, stage)
        reporter.begin(trainer, stage, steps_after)
        frozen = (
            only_rows(trainer.model, code_ids_of(learner, codebook))
            if stage.rows_only
            else contextlib.nullcontext()
        )
        with frozen:
            trainer.train()
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
