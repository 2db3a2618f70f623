"""TRL's SFTTrainer with weighted code tokens, batches by length and two learning rates."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import SFTConfig, SFTTrainer

from factory.codes.codebook import Codebook
from factory.codes.gist import score_targets
from factory.domain.failures import GateError
from factory.domain.records import IGNORED
from factory.train.encoding import Encoded
from factory.train.job import ROW_RATE, TrainingSetup
from factory.train.learner import Learner, Send

Batch: TypeAlias = dict[str, torch.Tensor]


def _code_ids(learner: Learner, codebook: Codebook | None) -> list[int]:
    """Token ids of all code tokens, ascending."""
    if codebook is None:
        return []
    names = [token for position in codebook.tokens for token in position]
    return sorted(int(number) for number in learner.tokenizer.convert_tokens_to_ids(names))


def make_trainer(
    learner: Learner,
    examples: Sequence[Encoded],
    codebook: Codebook | None,
    setup: TrainingSetup,
    folder: str,
) -> WeightedTrainer:
    """What trains the learner's model on the examples; `folder` it insists on, but leaves empty."""
    code_ids = _code_ids(learner, codebook)
    coded = _code_positions(examples, set(code_ids))
    rows = [
        {"input_ids": list(e.input_ids), "labels": list(e.labels), "coded": positions}
        for e, positions in zip(examples, coded, strict=True)
    ]
    lora = _lora_config(learner, code_ids, setup) if setup.train.method == "lora" else None
    trainer = WeightedTrainer(
        model=learner.model,
        args=_arguments(learner, setup, folder),
        train_dataset=Dataset.from_list(rows),
        processing_class=learner.tokenizer,
        peft_config=lora,
    )
    weight = _code_weight(examples, coded, setup.train.code_share)
    trainer.data_collator = _collate_with_weights(trainer.data_collator, weight)
    trainer.remove_callback(PrinterCallback)
    if lora is not None:
        trainer.optimizer = _two_rates(trainer.model, setup.train.learning_rate)
    return trainer


def _code_positions(examples: Sequence[Encoded], code_ids: set[int]) -> list[list[int]]:
    """At which of its next tokens each example learns a code: all code tokens, or else the answers
    of code examples."""
    if code_ids:
        return [[i for i, label in enumerate(e.labels[1:]) if label in code_ids] for e in examples]
    return [
        [i for start, stop in e.spans if e.is_code for i in range(start - 1, stop - 1)]
        for e in examples
    ]


def _code_weight(
    examples: Sequence[Encoded], coded: Sequence[Sequence[int]], code_share: float
) -> float:
    """Weight of a code's token beside 1 of others, with which codes together get `code_share`, as
    long as a code example then weighs no more than an average other one."""
    num_tokens = sum(map(len, coded))
    other = sum(len(e.target_ids) for e in examples) - num_tokens
    if not (code_share > 0 and num_tokens and other):
        return 1.0
    num_coded = sum(map(bool, coded))
    most = num_coded / max(1, len(examples) - num_coded)
    return max(1.0, min(code_share / (1 - code_share), most) * other / num_tokens)


def _collate_with_weights(
    collate: Callable[[list[dict[str, Any]]], Batch], code_weight: float
) -> Callable[[list[dict[str, Any]]], Batch]:
    """`collate`, which fills up on the right, and (B, T - 1) weights of the next tokens, 0 where
    there is no loss."""

    def collate_all(rows: list[dict[str, Any]]) -> Batch:
        batch = collate(rows)
        weights_BT = (batch["labels"][:, 1:] != IGNORED).float()
        for weights_T, row in zip(weights_BT, rows, strict=True):
            weights_T[row["coded"]] = code_weight
        return {**batch, "weights": weights_BT}

    return collate_all


def _arguments(learner: Learner, setup: TrainingSetup, folder: str) -> SFTConfig:
    """Settings of TRL; on a CPU without packing, checkpoints of activations or extra copies."""
    big = sum(weight.numel() for weight in learner.model.parameters()) > 500_000_000
    return SFTConfig(
        output_dir=folder,
        per_device_train_batch_size=setup.train.micro_batch_size,
        gradient_accumulation_steps=setup.train.batch_size // setup.train.micro_batch_size,
        num_train_epochs=setup.train.epochs,
        learning_rate=setup.train.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=setup.train.warmup_ratio,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        bf16=_computes_in_bfloat16(learner.gpu, setup.dtype),
        gradient_checkpointing=learner.gpu and big,
        use_cpu=not learner.gpu,
        dataloader_pin_memory=learner.gpu,
        include_num_input_tokens_seen="non_padding",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=setup.seed,
    )


def _computes_in_bfloat16(gpu: bool, dtype: str) -> bool:
    """Whether to autocast to bfloat16: where asked for, or where the processor has it."""
    if dtype != "auto":
        return dtype == "bfloat16"
    if gpu:
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


class StepsByLength:
    """Indices of an epoch at random, those of a step from long to short.

    A step's micro-batches then hardly pad, and its gradient is that of the same examples in any
    order. Transformers' own `batch_rebalance` does as much, but repeats examples to fill the last
    step. Example: list(StepsByLength([5, 9, 7], step=3, seed=0)) == [1, 2, 0].
    """

    def __init__(self, lengths: Sequence[int], step: int, seed: int) -> None:
        """Take the examples' lengths in tokens, and the examples of an optimizer step."""
        self._lengths, self._step, self._seed = lengths, step, seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Tell which epoch the next iteration is: each has an order of its own."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self._seed, self._epoch]).permutation(len(self)).tolist()
        for start in range(0, len(order), self._step):
            yield from sorted(
                order[start : start + self._step], key=self._lengths.__getitem__, reverse=True
            )


class WeightedTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer whose loss weighs each target token."""

    # transformers then divides no loss by the micro-batches of a step: compute_loss gives each its
    # part of the step's mean.
    loss_is_scaled_for_ga = True

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> StepsByLength:
        """Steps of examples drawn at random, their micro-batches of like length."""
        return StepsByLength(
            [len(ids) for ids in self.train_dataset["input_ids"]],
            self.args.train_batch_size * self.args.gradient_accumulation_steps,
            self.args.seed,
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], torch.Tensor]:
        """The micro-batches of one step, and the sum of their weights in place of a count."""
        samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        return samples, sum(sample["weights"].sum() for sample in samples)

    def compute_loss(
        self,
        model: PreTrainedModel,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """This micro-batch's part of the step's weighted mean."""
        assert num_items_in_batch is not None  # what get_batch_samples gave
        weights_BT = inputs.pop("weights")
        score = score_fused if inputs["input_ids"].is_cuda else score_answers
        log_probs_BL, place_L = score(model, inputs)
        weights_BL = weights_BT[:, place_L]
        return -(log_probs_BL * weights_BL).sum() / num_items_in_batch.to(model.device)


def score_fused(model: PreTrainedModel, inputs: Batch) -> tuple[torch.Tensor, slice]:
    """(B, L) log-probabilities of next tokens, by TRL's fused head, and their positions: all."""
    outputs = model(**inputs, use_cache=False, fused_lm_head=True)
    return outputs.log_probs, slice(None)


def score_answers(model: PreTrainedModel, inputs: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The same where any example of the batch has loss: without Triton, TRL scores all positions.

    Answers end their examples and a batch's are of like length, so that few positions are left.
    """
    others = {key: value for key, value in inputs.items() if key != "labels"}
    return score_targets(model, inputs["labels"], **others)


def _lora_config(learner: Learner, code_ids: Sequence[int], setup: TrainingSetup) -> LoraConfig:
    """Adapters on all linear layers but the head, and the code tokens' rows trained whole."""
    if not setup.codes.are_made:
        code_ids = []
    model = learner.model
    tables = [model.get_input_embeddings()]
    if not model.config.get_text_config().tie_word_embeddings:
        tables.append(model.get_output_embeddings())
    names = [name.split(".")[-1] for name, part in model.named_modules() if part in tables]
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=setup.train.lora_rank,
        lora_alpha=setup.train.lora_alpha,
        target_modules="all-linear",
        trainable_token_indices=dict.fromkeys(names, code_ids) if code_ids else None,
    )


def _two_rates(model: PreTrainedModel, rate: float) -> torch.optim.Optimizer:
    """AdamW with ROW_RATE times the learning rate for the code tokens' rows."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    rows = [p for name, p in trained if "trainable_tokens" in name]
    rest = [p for name, p in trained if "trainable_tokens" not in name]
    groups = [{"params": rest, "lr": rate}]
    if rows:
        groups.append({"params": rows, "lr": rate * ROW_RATE})
    return torch.optim.AdamW(groups, lr=rate, weight_decay=0.0)


class Reporter(TrainerCallback):  # type: ignore[misc]
    """Sends one progress message a step, and keeps them."""

    def __init__(self, send: Send) -> None:
        self.log: list[dict[str, Any]] = []
        self._send = send
        self._started = 0.0

    def seconds(self) -> float:
        """Since training began."""
        return time.monotonic() - self._started

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._started = time.monotonic()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **_: Any,
    ) -> None:
        if "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise GateError(
                f"training diverged: the loss of step {state.global_step} is {logs['loss']}",
                remedy="lower train.learning_rate",
            )
        step = {
            "step": state.global_step,
            "steps": state.max_steps,
            "loss": logs["loss"],
            "learning_rate": logs["learning_rate"],
            "tokens": int(state.num_input_tokens_seen),
            "seconds": round(self.seconds(), 3),
        }
        self.log.append(step)
        self._send({"type": "progress", **step})
