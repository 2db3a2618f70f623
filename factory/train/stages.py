"""The stages of a training, settled: what each teaches, how, and on which of the examples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

from factory.domain.canon import derive_seed
from factory.domain.records import ExampleKind
from factory.train.encoding import Encoded
from factory.train.job import TrainingSetup
from factory.workspace.recipe import TrainSection


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage with every value in force."""

    train: TrainSection
    seed: int
    """Of the order of its examples."""
    number: int | None = None
    """From 1; None for all of a training whose recipe has no stages."""
    name: str = ""
    kinds: tuple[ExampleKind, ...] = ()
    """What it teaches; none is everything."""
    weights: Mapping[ExampleKind, float] = field(default_factory=dict)
    """Shares of kinds in the loss, 1 where one is not named; empty: tokens count alike."""
    rows_only: bool = False
    """Whether only rows of code tokens move."""
    beta: float = 0.1
    """Of a stage that prefers answers."""

    @property
    def prefers(self) -> bool:
        """Whether it teaches pairs of answers."""
        return self.kinds == ("dpo",)


class Portion(NamedTuple):
    """What a stage finds of the examples."""

    examples: list[Encoded]
    """In their order; one may be several, each with other turns."""
    num_examples: int
    """Examples that these are."""
    too_long: int
    """Examples of its kinds that only another stage has room for."""


def stages_of(setup: TrainingSetup, iteration: int = 1) -> list[Stage]:
    """The stages of an iteration, in their order; without [[stage]] the training as one."""
    if not setup.stages:
        seed = setup.seed if iteration == 1 else _seed(setup, iteration, 0)
        return [Stage(train=setup.train, seed=seed)]
    before = len(setup.stages) * (iteration - 1)
    again = f", iteration {iteration}" if iteration > 1 else ""
    return [
        Stage(
            train=own.settle(setup.train),
            seed=_seed(setup, iteration, place),
            number=before + place,
            name=(own.name or ", ".join(own.kinds)) + again,
            kinds=own.kinds,
            weights={kind: own.weights.get(kind, 1.0) for kind in own.kinds} if own.weights else {},
            rows_only=own.rows_only,
            beta=own.beta,
        )
        for place, own in enumerate(setup.stages, 1)
    ]


def _seed(setup: TrainingSetup, iteration: int, place: int) -> int:
    return derive_seed(setup.seed, "stage", iteration, place) % 2**31


def why_skipped(stage: Stage, has_rows: bool) -> str:
    """Why the stage cannot teach anything, whatever the examples; empty where it can."""
    if not stage.train.epochs:
        return "epochs = 0"
    if stage.rows_only and not has_rows:
        return "rows_only, and no code token has a row to train"
    return ""


def limits_of(stages: Sequence[Stage]) -> dict[ExampleKind, int]:
    """The longest example of each kind that any of these stages takes."""
    limits: dict[ExampleKind, int] = {}
    for stage in stages:
        for kind in stage.kinds:
            limits[kind] = max(limits.get(kind, 0), stage.train.max_length)
    return limits


def take(stage: Stage, encoded: Sequence[Encoded]) -> Portion:
    """The examples that the stage teaches: those of its kinds, none longer than it has room for."""
    portion, count, too_long = list[Encoded](), 0, 0
    for _, group in groupby(encoded, key=lambda part: part.example):
        parts = list(group)
        if stage.kinds and parts[0].kind not in stage.kinds:
            continue
        if any(part.length > stage.train.max_length for part in parts):
            too_long += 1
            continue
        portion += parts
        count += 1
    return Portion(portion, count, too_long)


def kind_weights(stage: Stage, examples: Sequence[Encoded]) -> dict[ExampleKind, float]:
    """Weight of a token of each kind, 1 on average, with which the stage's shares come out.

    The loss is then the weighted sum of each kind's mean (ToolDev Eq. 6), whatever the kinds'
    numbers and lengths. Empty where the stage has no weights.
    """
    if not stage.weights:
        return {}
    tokens = dict.fromkeys(stage.kinds, 0)
    for example in examples:
        tokens[example.kind] += len(example.target_ids)
    taught = {kind: count for kind, count in tokens.items() if count}
    unit = sum(taught.values()) / sum(stage.weights[kind] for kind in taught)
    return {kind: unit * stage.weights[kind] / count for kind, count in taught.items()}


def num_steps(stage: Stage, num_parts: int) -> int:
    """Optimizer steps over so many parts, as transformers counts them."""
    micro, batch = stage.train.micro_batch_size, stage.train.batch_size
    an_epoch = math.ceil(math.ceil(num_parts / micro) / (batch // micro))
    return math.ceil(stage.train.epochs * an_epoch)
