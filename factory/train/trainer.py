"""TRL's SFTTrainer with weighted tokens, batches by length, two learning rates, frozen parts."""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, get_args

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import SFTConfig, SFTTrainer

from factory.codes.codebook import Codebook
from factory.codes.gist import score_targets
from factory.domain.failures import GateError
from factory.domain.records import IGNORED, ExampleKind
from factory.train.encoding import Encoded
from factory.train.job import ROW_RATE, TrainingSetup
from factory.train.learner import Learner, Send
from factory.train.memory import CHECKPOINTED
from factory.train.stages import Stage, kind_weights
from factory.train.team import SHARDING, allow_sharding
from factory.workspace.recipe import OptimizerName, TrainSection

Batch: TypeAlias = dict[str, torch.Tensor]
KINDS: tuple[ExampleKind, ...] = get_args(ExampleKind)
OPTIMIZERS: dict[OptimizerName, str] = {
    "adamw_8bit": "adamw_bnb_8bit",
    "paged_adamw": "paged_adamw_32bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
}
"""Names of transformers."""
TRAINED = "trained.safetensors"
"""Weights of a saved step."""
BLANK = -1
"""Kind of the row without loss that fills up the micro-batches of several processes."""


def code_ids_of(learner: Learner, codebook: Codebook | None) -> list[int]:
    """Token ids of all code tokens, ascending."""
    if codebook is None:
        return []
    names = [token for position in codebook.tokens for token in position]
    return sorted(int(number) for number in learner.tokenizer.convert_tokens_to_ids(names))


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """How a stage is trained, in values that JSON holds: what all its processes are told."""

    arguments: dict[str, Any]
    """Of SFTConfig."""
    code_weight: float
    kind_weights: Sequence[float]
    """By a kind's place in KINDS."""


def make_trainer(
    learner: Learner,
    examples: Sequence[Encoded],
    codebook: Codebook | None,
    setup: TrainingSetup,
    folder: str,
    stage: Stage | None = None,
) -> WeightedTrainer:
    """What trains the learner's model on the examples; `folder` it insists on, but leaves empty.

    By default as [train] says. Adapters that the model has from a stage before go on. Where several
    processes share the training, they are told of it, and the trainer's model is a shell that the
    learner's gets its weights from (Team.collect).
    """
    stage = stage or Stage(train=setup.train, seed=setup.seed)
    code_ids = code_ids_of(learner, codebook)
    coded = _code_positions(examples, set(code_ids))
    rows = [
        {
            "input_ids": list(e.input_ids),
            "labels": list(e.labels),
            "coded": positions,
            "kind": KINDS.index(e.kind),
        }
        for e, positions in zip(examples, coded, strict=True)
    ]
    by_kind = kind_weights(stage, examples)
    plan = StagePlan(
        arguments=stage_arguments(learner, setup, stage, folder),
        code_weight=1.0 if by_kind else _code_weight(examples, coded, stage.train.code_share),
        kind_weights=[by_kind.get(kind, 1.0) for kind in KINDS],
    )
    model, is_lora = learner.model, stage.train.method == "lora"
    fresh = is_lora and not isinstance(model, PeftModel)
    if learner.team is not None:
        blank = {"input_ids": [0, 0], "labels": [IGNORED, IGNORED], "coded": [], "kind": BLANK}
        dataset = Dataset.from_list([*rows, blank])
        model = learner.team.share(model, learner.tokenizer, dataset, asdict(plan), Path(folder))
    else:
        dataset = Dataset.from_list(rows)
    adapters = lora_config(learner, code_ids, setup) if fresh else None
    trainer = build_trainer(model, learner.tokenizer, dataset, plan, adapters)
    if is_lora:
        trainer.optimizer = _two_rates(trainer, stage.train)
    elif code_ids and stage.train.row_rate not in (0.0, 1.0):
        trainer.add_callback(FasterRows(model, code_ids, stage.train.row_rate))
    return trainer


def build_trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    plan: StagePlan,
    adapters: LoraConfig | None = None,
) -> WeightedTrainer:
    """The trainer of this process."""
    arguments = SFTConfig(**plan.arguments)
    if arguments.fsdp:
        allow_sharding(arguments)
    trainer = WeightedTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=adapters,
    )
    trainer.data_collator = _collate_with_weights(
        trainer.data_collator, plan.code_weight, plan.kind_weights
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


@contextlib.contextmanager
def only_rows(model: PreTrainedModel, code_ids: Sequence[int]) -> Iterator[None]:
    """Freeze everything but the rows of these tokens, which PEFT or the tables themselves hold."""
    flags = [(weight, weight.requires_grad) for weight in model.parameters()]
    rows = [weight for name, weight in model.named_parameters() if _is_row(name)]
    whole = [] if rows else _tables_of(model)
    for weight, _ in flags:
        weight.requires_grad_(False)
    for weight in (*rows, *whole):
        weight.requires_grad_(True)
    # The other rows' gradient is 0, and so is every moment and step of Adam's.
    hooks = [weight.register_hook(_keep_rows(code_ids)) for weight in whole]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for weight, flag in flags:
            weight.requires_grad_(flag)


def _tables_of(model: PreTrainedModel) -> list[torch.nn.Parameter]:
    """The (W, D) weights of input rows and head; one where they are tied."""
    parts = (model.get_input_embeddings(), model.get_output_embeddings())
    return list({id(part.weight): part.weight for part in parts}.values())


def _keep_rows(code_ids: Sequence[int]) -> Callable[[torch.Tensor], torch.Tensor]:
    """What leaves nothing of a table's (W, D) gradient but that of some rows."""

    def keep(gradient_WD: torch.Tensor) -> torch.Tensor:
        kept_WD = torch.zeros_like(gradient_WD)
        kept_WD[list(code_ids)] = gradient_WD[list(code_ids)]
        return kept_WD

    return keep


def _is_row(name: str) -> bool:
    """Whether a parameter of this name holds rows of code tokens beside adapters."""
    return "trainable_tokens" in name


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
    collate: Callable[[list[dict[str, Any]]], Batch],
    code_weight: float,
    kind_weights: Sequence[float],
) -> Callable[[list[dict[str, Any]]], Batch]:
    """`collate`, which fills up on the right, (B,) kinds by their place in KINDS, and (B, T - 1)
    weights of the next tokens, 0 where there is no loss."""

    def collate_all(rows: list[dict[str, Any]]) -> Batch:
        batch = collate(rows)
        weights_BT = (batch["labels"][:, 1:] != IGNORED).float()
        for weights_T, row in zip(weights_BT, rows, strict=True):
            weights_T[row["coded"]] = code_weight
            weights_T *= kind_weights[row["kind"]]
        kinds_B = torch.tensor([row["kind"] for row in rows])
        return {**batch, "weights": weights_BT, "kinds": kinds_B}

    return collate_all


def stage_arguments(
    learner: Learner, setup: TrainingSetup, stage: Stage, folder: str
) -> dict[str, Any]:
    """Settings of TRL; on a CPU without packing, checkpoints of activations or extra copies."""
    train = stage.train
    num_weights = sum(weight.numel() for weight in learner.model.parameters())
    saves = learner.gpu and num_weights >= CHECKPOINTED
    processes = 1 if learner.team is None else learner.team.size
    shared: dict[str, Any] = {}
    if processes > 1:
        # Without a sync each micro-batch, every process would keep all gradients whole.
        accumulation = {"gradient_accumulation_kwargs": {"sync_each_batch": True}}
        sharding = {**SHARDING, "activation_checkpointing": saves}
        shared = {"fsdp": True, "fsdp_config": sharding, "accelerator_config": accumulation}
    if train.optimizer != "adamw":
        shared["optim"] = OPTIMIZERS[train.optimizer]
    return dict(
        output_dir=folder,
        per_device_train_batch_size=train.micro_batch_size,
        gradient_accumulation_steps=train.batch_size // (train.micro_batch_size * processes),
        num_train_epochs=train.epochs,
        learning_rate=train.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=train.warmup_ratio,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        bf16=_computes_in_bfloat16(learner.gpu, setup.dtype),
        gradient_checkpointing=saves and processes == 1,
        use_cpu=not learner.gpu,
        dataloader_pin_memory=learner.gpu,
        include_num_input_tokens_seen="non_padding",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=stage.seed,
        **shared,
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
    step. Several processes take its micro-batches in turn, so that theirs are of like length too,
    and the epoch is filled up to whole turns by the index after the last example's, of a blank row.
    Example: list(StepsByLength([5, 9, 7], step=3, seed=0)) == [1, 2, 0].
    """

    def __init__(self, lengths: Sequence[int], step: int, seed: int, turn: int = 1) -> None:
        """Take the examples' lengths in tokens, and the examples of an optimizer step and of a turn
        of all processes."""
        self._lengths, self._step, self._seed = lengths, step, seed
        self._num_blanks = -len(lengths) % turn
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Tell which epoch the next iteration is: each has an order of its own."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths) + self._num_blanks

    def __iter__(self) -> Iterator[int]:
        number = len(self._lengths)
        order = np.random.default_rng([self._seed, self._epoch]).permutation(number).tolist()
        for start in range(0, len(order), self._step):
            yield from sorted(
                order[start : start + self._step], key=self._lengths.__getitem__, reverse=True
            )
        yield from [number] * self._num_blanks


class WeightedTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer whose loss weighs each target token, and which keeps each kind's own."""

    # transformers then divides no loss by the micro-batches of a step: compute_loss gives each its
    # part of the step's mean.
    loss_is_scaled_for_ga = True

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        self._nats_K = torch.zeros(len(KINDS), device=self.args.device)
        self._tokens_K = torch.zeros(len(KINDS), device=self.args.device)
        self._trained = [n for n, weight in self.model.named_parameters() if weight.requires_grad]
        self.losses: dict[str, float] = {}
        """Nats a token by kind in the steps that were logged last, not weighted; no kind without
        tokens."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Settle the losses of each kind, over all processes, before anyone is told of the step."""
        if "loss" in logs:
            sums = torch.stack([self._nats_K, self._tokens_K])
            nats, tokens = self.accelerator.reduce(sums, reduction="sum").tolist()
            self._nats_K.zero_()
            self._tokens_K.zero_()
            by_kind = zip(KINDS, nats, tokens, strict=True)
            self.losses = {kind: nat / count for kind, nat, count in by_kind if count}
        super().log(logs, start_time)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> StepsByLength:
        """Steps of examples drawn at random, their micro-batches of like length."""
        kinds = self.train_dataset["kind"]
        lengths = [len(ids) for ids in self.train_dataset["input_ids"]]
        turn = self.args.train_batch_size * self.accelerator.num_processes
        return StepsByLength(
            [length for length, kind in zip(lengths, kinds, strict=True) if kind != BLANK],
            turn * self.args.gradient_accumulation_steps,
            self.args.seed,
            turn if self.accelerator.num_processes > 1 else 1,
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], torch.Tensor]:
        """The micro-batches of one step, and in place of a count the sum of all their weights,
        those of other processes too."""
        samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        weight = sum(sample["weights"].sum() for sample in samples)
        return samples, self.accelerator.reduce(weight.to(device), reduction="sum")

    def compute_loss(
        self,
        model: PreTrainedModel,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """This micro-batch's part of the step's weighted mean, times the processes: what they have
        is averaged, gradients and losses alike."""
        assert num_items_in_batch is not None  # what get_batch_samples gave
        weights_BT, kinds_B = inputs.pop("weights"), inputs.pop("kinds")
        score = score_fused if inputs["input_ids"].is_cuda else score_answers
        log_probs_BL, place_L = score(model, inputs)
        weights_BL = weights_BT[:, place_L]
        real_BL = weights_BL > 0
        nats_B = -(log_probs_BL.detach() * real_BL).sum(dim=1)
        # A blank row has neither nats nor tokens.
        places_B = kinds_B.clamp(min=0)
        self._nats_K.index_add_(0, places_B, nats_B.to(self._nats_K))
        self._tokens_K.index_add_(0, places_B, real_BL.sum(dim=1).to(self._tokens_K))
        part = -(log_probs_BL * weights_BL).sum() / num_items_in_batch.to(log_probs_BL.device)
        return part * self.accelerator.num_processes

    def _save_checkpoint(self, model: PreTrainedModel, trial: Any) -> None:
        """As transformers does, without TRL's card; where the disk is full, training goes on."""
        try:
            Trainer._save_checkpoint(self, model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:
            print(f"step {self.state.global_step} is not saved: {error}", flush=True)
            for path in Path(self.args.output_dir).glob("*"):  # none where it was moved
                shutil.rmtree(path, ignore_errors=True)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write what is trained, by its names in the model: save_pretrained may know it by others,
        which are not read back into a model that is there."""
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        weights = dict(self.model.named_parameters())
        kept = {name: weights[name].detach().contiguous() for name in self._trained}
        save_file(kept, folder / TRAINED)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: PreTrainedModel | None = None
    ) -> None:
        """Read what save_model wrote."""
        saved = load_file(Path(resume_from_checkpoint) / TRAINED)
        weights = dict(self.model.named_parameters())
        for name in self._trained:
            weights[name].data.copy_(saved[name])

    def _track_num_input_tokens(self, inputs: Batch) -> None:
        """Count the tokens of examples, not those of blank rows."""
        mask_BT = inputs["attention_mask"] * (inputs["kinds"] != BLANK)[:, None]
        super()._track_num_input_tokens({**inputs, "attention_mask": mask_BT})


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


def lora_config(learner: Learner, code_ids: Sequence[int], setup: TrainingSetup) -> LoraConfig:
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


def _two_rates(trainer: WeightedTrainer, train: TrainSection) -> torch.optim.Optimizer:
    """The optimizer with a higher learning rate for the code tokens' rows."""
    rate = train.learning_rate
    trained = [(name, p) for name, p in trainer.model.named_parameters() if p.requires_grad]
    rows = [p for name, p in trained if _is_row(name)]
    rest = [p for name, p in trained if not _is_row(name)]
    rate = train.learning_rate
    groups = [{"params": rest, "lr": rate}]
    if rows:
        groups.append({"params": rows, "lr": rate * (train.row_rate or ROW_RATE)})
    if train.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=rate, weight_decay=0.0)
    make, values = trainer.get_optimizer_cls_and_kwargs(trainer.args)
    optimizer: torch.optim.Optimizer = make(groups, **{**values, "lr": rate, "weight_decay": 0.0})
    return optimizer


class FasterRows(TrainerCallback):  # type: ignore[misc]
    """Lengthens each step of some rows of the tables: Adam's step at so many times its rate."""

    def __init__(self, model: PreTrainedModel, row_ids: Sequence[int], rate: float) -> None:
        self._tables = _tables_of(model)
        self._rows, self._rate = torch.tensor(row_ids, device=model.device), rate
        self._before = list[torch.Tensor]()

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        self._before = [table.detach()[self._rows] for table in self._tables]

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        for table, before in zip(self._tables, self._before, strict=True):
            table.data[self._rows] = before + self._rate * (table.detach()[self._rows] - before)


class StageTrainer(Protocol):
    """A trainer that the reporter can follow."""

    @property
    def losses(self) -> dict[str, float]: ...

    @property
    def state(self) -> TrainerState: ...

    def add_callback(self, callback: TrainerCallback) -> None: ...


class Reporter(TrainerCallback):  # type: ignore[misc]
    """Sends one progress message a step, and keeps them; counts on from stage to stage."""

    def __init__(self, send: Send) -> None:
        self.log: list[dict[str, Any]] = []
        self.steps = self.tokens = 0
        """Of the stages that are done."""
        self.seconds = 0.0
        self._send = send
        self._stage: Stage | None = None
        self._steps_after = 0
        self._trainer: StageTrainer | None = None
        self._started = 0.0

    def begin(self, trainer: StageTrainer, stage: Stage, steps_after: int) -> None:
        """Follow this stage; that many steps will come after it."""
        self._trainer, self._stage, self._steps_after = trainer, stage, steps_after
        trainer.add_callback(self)

    def facts(self) -> dict[str, Any]:
        """What it knows in the middle of a stage, for go_on."""
        seconds = self.seconds + time.monotonic() - self._started
        return {"log": self.log, "steps": self.steps, "tokens": self.tokens, "seconds": seconds}

    def go_on(self, facts: Mapping[str, Any]) -> None:
        """Count on from a step of an earlier process."""
        self.log, self.seconds = list(facts["log"]), facts["seconds"]
        self.steps, self.tokens = facts["steps"], facts["tokens"]

    def end(self) -> int:
        """The stage is over; its steps."""
        assert self._trainer is not None
        state = self._trainer.state
        self.steps += state.global_step
        self.tokens += int(state.num_input_tokens_seen)
        self.seconds += time.monotonic() - self._started
        self._trainer = None
        return int(state.global_step)

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
        if "loss" not in logs or self._trainer is None or self._stage is None:
            return
        if not math.isfinite(logs["loss"]):
            raise GateError(
                f"training diverged: the loss of step {state.global_step} is {logs['loss']}",
                remedy="lower train.learning_rate"
                + (f", or that of stage {self._stage.name}" if self._stage.number else ""),
            )
        step = {
            "step": self.steps + state.global_step,
            "steps": self.steps + state.max_steps + self._steps_after,
            "loss": logs["loss"],
            "learning_rate": logs["learning_rate"],
            "tokens": self.tokens + int(state.num_input_tokens_seen),
            "seconds": round(self.seconds + time.monotonic() - self._started, 3),
            "stage": self._stage.number,
            "stage_name": self._stage.name or None,
            "losses": self._trainer.losses,
        }
        self.log.append(step)
        self._send({"type": "progress", **step})
