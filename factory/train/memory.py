"""What a training takes of a device's memory and GPUs, told and checked before anything else.

The parts are counted from the model's files and the recipe; `python -m bench.memory` measures what
the same training takes on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from factory.domain.bounded import parse_json, read_text
from factory.domain.failures import MissingError, ModelError, RecipeError
from factory.workspace.machine import computes_halves, visible_gpus
from factory.workspace.models import is_installed
from factory.workspace.recipe import Recipe, TrainSection, vary
from factory.workspace.weights import check_file, read_header

CHECKPOINTED = 500_000_000
"""Weights from which a GPU keeps only the layers' inputs, and one layer at a time whole."""
HEAD_TILE = 4096 * 32768
"""Logits that TRL's fused head has at a time on a GPU, positions by tokens (trl 1.16)."""
SINGLE, HALF = 4, 2
"""Bytes of a number."""


class TrainingMemory(NamedTuple):
    """Bytes that a training takes at most, on the device that trains; of several GPUs, on each."""

    weights: int
    """Masters in single precision; under adapters, as the model is loaded."""
    gradients: int
    moments: int
    """Adam's two, where they are not paged."""
    copies: int
    """Of weights: in half precision where it computes so, and what FSDP brings together."""
    activations: int
    """Of a forward pass over examples of the longest length."""
    logits: int
    """Of the same, with their logarithms and gradient."""
    host: int = 0
    """In the machine's memory, where a GPU trains."""

    @property
    def fixed(self) -> int:
        """What any example takes."""
        return self.weights + self.gradients + self.moments + self.copies

    @property
    def total(self) -> int:
        """What the longest examples take."""
        return self.fixed + self.activations + self.logits

    def __str__(self) -> str:
        names = ("weights", "gradients", "moments", "copies")
        parts = ", ".join(f"{name} {_gib(getattr(self, name))}" for name in names)
        longest = f"activations up to {_gib(self.activations)}, logits up to {_gib(self.logits)}"
        beside = f", and {_gib(self.host)} GiB of the machine's memory" if self.host else ""
        return f"{_gib(self.total)} GiB at most ({parts}, {longest}){beside}"


def memory_of(
    recipe: Recipe, model: Path, *, gpu: bool, dtype: str = "auto", processes: int | None = None
) -> TrainingMemory:
    """What training a model folder as the recipe says takes, in its largest stage.

    `dtype` is that of the engine; `processes` are, if not given, those on this machine.
    """
    most = max(settled(recipe), key=lambda train: train.micro_batch_size * train.max_length)
    halves = dtype == "bfloat16" or (dtype == "auto" and (gpu or computes_halves()))
    number = processes or num_processes(recipe.train)
    return training_memory(model, most, gpu=gpu, halves=halves, processes=number)


def training_memory(
    model: Path, train: TrainSection, *, gpu: bool, halves: bool, processes: int = 1
) -> TrainingMemory:
    """What training a model folder takes, examples of the longest length at once.

    A layer keeps 11 numbers a token and unit of width, and 4 a unit of its feed-forward part.
    Adapters keep as much; the rows of code tokens beside them are not counted.
    """
    file = model / "config.json"
    config = parse_json(read_text(file, error=ModelError), str(file), ModelError)
    config |= config.get("text_config") or {}
    width, layers = config.get("hidden_size", 0), config.get("num_hidden_layers", 0) or 1
    vocabulary = config.get("vocab_size", 0)
    shapes = weight_shapes(model)
    number = sum(map(math.prod, shapes.values()))
    tables = {name: math.prod(shape) for name, shape in shapes.items() if vocabulary in shape}
    full = train.method == "full"
    trained = number if full else _adapter_weights(shapes, tables.keys(), train.lora_rank)
    loaded = SINGLE if full or not gpu else HALF
    kept = loaded * number + (0 if full else SINGLE * trained)
    in_single = min(max(tables.values(), default=0), trained) if full else 0
    moments = 2 * SINGLE * trained
    if train.optimizer.endswith("_8bit"):  # bitsandbytes leaves embeddings in single precision
        moments = 2 * (trained - in_single) + 2 * SINGLE * in_single
    paged = train.optimizer.startswith("paged_")
    copies = HALF * number if halves and loaded == SINGLE and processes == 1 else 0
    host = moments if paged and gpu else 0
    if processes > 1:
        # Two layers at a time, and the tables from the first to the last.
        gathered = 2 * (number - sum(tables.values())) // layers + sum(tables.values())
        copies = (HALF if halves else SINGLE) * gathered + SINGLE * sum(tables.values())
        host = SINGLE * number
    tokens = train.micro_batch_size * min(
        train.max_length, config.get("max_position_embeddings") or train.max_length
    )
    layer = 11 * width + 4 * config.get("intermediate_size", 4 * width)
    saves = gpu and number >= CHECKPOINTED
    # On a CPU in half and single precision, transposed, their logarithms and gradient.
    logits = (5 if halves else 4) * tokens * vocabulary
    if gpu:  # a tile, and the head's gradient before it joins the others
        logits = min(tokens * vocabulary, HEAD_TILE) + in_single
    memory = TrainingMemory(
        weights=kept // processes,
        gradients=SINGLE * trained // processes,
        moments=0 if host and paged else moments // processes,
        copies=copies,
        activations=SINGLE * tokens * (layers * width + layer if saves else layers * layer),
        logits=SINGLE * logits,
        host=host if gpu else 0,
    )
    if gpu or processes == 1:
        return memory
    # All of them on one machine, beside the whole model of the first.
    together = TrainingMemory(*(processes * size for size in memory))
    return together._replace(weights=together.weights + host)


def weight_shapes(model: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of a model folder's weights by name; other files than safetensors count as one weight
    of 2 bytes a number. Raises ModelError for a file that is none."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in model.iterdir():
        if file.suffix == ".safetensors":
            check_file(file)
            shapes |= {name: weight.shape for name, weight in read_header(file).items()}
        elif file.suffix == ".bin":
            shapes[file.name] = (file.stat().st_size // HALF,)
    return shapes


def _adapter_weights(shapes: dict[str, tuple[int, ...]], tables: Iterable[str], rank: int) -> int:
    """Weights of LoRA's adapters on all linear layers but the head."""
    linear = (shape for name, shape in shapes.items() if len(shape) == 2 and name not in tables)
    return sum(rank * (rows + columns) for rows, columns in linear)


def settled(recipe: Recipe) -> list[TrainSection]:
    """[train] as it is in each stage; without [[stage]], itself. Pairs are two examples each."""
    stages = []
    for stage in recipe.stage:
        train = stage.settle(recipe.train)
        each = 2 if "dpo" in stage.kinds else 1
        stages.append(vary(train, micro_batch_size=each * train.micro_batch_size))
    return stages or [recipe.train]


def num_processes(train: TrainSection) -> int:
    """Processes that the training has on this machine."""
    if train.method == "lora" or train.optimizer != "adamw":
        return 1
    return train.processes or max(1, len(visible_gpus()))


def check_training(recipe: Recipe) -> None:
    """Refuse what this machine cannot train, whatever the model.

    Raises MissingError for a package or for GPUs that are not there, RecipeError for steps that its
    number of processes cannot share.
    """
    train, gpus = recipe.train, visible_gpus()
    check_optimizer(train)
    number = num_processes(train)
    if gpus and number > len(gpus):
        raise MissingError(
            f"train.processes is {number}, one a GPU; this machine has {len(gpus)}",
            remedy=f"--set train.processes={len(gpus)}, or 0 for as many as there are",
        )
    for each in settled(recipe):
        if each.batch_size % (each.micro_batch_size * number):
            raise RecipeError(
                f"a step of {each.batch_size} examples cannot be shared by {number} processes with "
                f"{each.micro_batch_size} at once",
                where="train.processes = 0",
                remedy="set batch_size to a multiple of micro_batch_size times the processes",
            )
    if number > 1 and any(stage.rows_only for stage in recipe.stage):
        raise RecipeError(
            "a stage with rows_only trains in one process", remedy="--set train.processes=1"
        )


def check_optimizer(train: TrainSection) -> None:
    """Raise MissingError where the optimizer's package is not there, or its GPU."""
    if train.optimizer != "adamw" and not is_installed("bitsandbytes"):
        raise MissingError(
            f"train.optimizer {train.optimizer} needs the package bitsandbytes",
            remedy="pip install 'tool-factory[8bit]', or --set train.optimizer=adamw",
        )
    if train.optimizer.startswith("paged_") and not visible_gpus():
        raise MissingError(
            f"train.optimizer {train.optimizer} moves moments between a GPU's memory and the "
            "machine's; there is no GPU",
            remedy="--set train.optimizer=adamw",
        )


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f}"
