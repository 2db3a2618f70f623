"""TRL's DPOTrainer on pairs of answers that are already token ids, for stages of kind `dpo`.

The reference is the model as the stage finds it: its log-probabilities are taken once, before the
first step, so that no second model is held. Adapters are of the stage alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from peft import PeftModel
from transformers import PrinterCallback
from trl import DPOConfig, DPOTrainer

from factory.train.encoding import Encoded
from factory.train.job import TrainingSetup
from factory.train.learner import Learner
from factory.train.stages import Stage
from factory.train.trainer import lora_config, stage_arguments


class PreferenceTrainer(DPOTrainer):  # type: ignore[misc]
    """DPOTrainer that takes token ids as they are, and keeps its loss as that of the kind `dpo`."""

    def __init__(self, **values: Any) -> None:
        self.losses: dict[str, float] = {}
        """Of the step that was logged last."""
        super().__init__(**values)

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        """The ids are those of factory.train.encoding."""
        return dataset

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Settle the loss before anyone is told of the step."""
        if "loss" in logs:
            self.losses = {"dpo": logs["loss"]}
        super().log(logs, start_time)


def make_preference_trainer(
    learner: Learner,
    examples: Sequence[Encoded],
    setup: TrainingSetup,
    folder: str,
    stage: Stage,
) -> PreferenceTrainer:
    """What trains the learner's model on pairs; adapters of a stage before become its weights."""
    if isinstance(learner.model, PeftModel):
        learner.model = learner.model.merge_and_unload()
    rows = []
    for example in examples:
        answer = len(example.target_ids)
        rows.append({
            "prompt_ids": list(example.input_ids[:-answer]),
            "chosen_ids": list(example.input_ids[-answer:]),
            "rejected_ids": list(example.rejected),
        })  # fmt: skip
    arguments = stage_arguments(learner, setup, stage, folder)
    del arguments["dataset_kwargs"]
    trainer = PreferenceTrainer(
        model=learner.model,
        args=DPOConfig(**arguments, beta=stage.beta, precompute_ref_log_probs=True),
        train_dataset=Dataset.from_list(rows),
        processing_class=learner.tokenizer,
        peft_config=lora_config(learner, (), setup) if stage.train.method == "lora" else None,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer
