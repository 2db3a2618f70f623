"""What a round teaches: its examples, the tools that get a code, and how training is set up."""

from __future__ import annotations

from collections.abc import Sequence

from factory.canon import derive_seed
from factory.codes.gist import GistConfig
from factory.codes.graph import Pair, canonical_pairs
from factory.codes.lifecycle import Codebook, CodeConfig
from factory.codes.quantized import QuantizedConfig
from factory.dataset import examples_from_sample, unique_examples
from factory.history import AcceptedSample
from factory.prompts import Prompts
from factory.recipe import Recipe
from factory.records import Example, Tool
from factory.train import TrainConfig


def own_examples(
    accepted: Sequence[AcceptedSample], codebook: Codebook | None, prompts: Prompts
) -> list[Example]:
    """Examples of a round's accepted samples, each chat once; replay comes on top."""
    return unique_examples(
        example
        for sample in accepted
        for example in examples_from_sample(
            query=sample.query,
            tools=sample.tools,
            calls=sample.calls,
            prompts=prompts,
            round_number=sample.round_number,
            written=[tool for tool in sample.tools if not _has_code(tool, codebook)],
        )
    )


def tools_to_code(
    imported: Sequence[Tool], accepted: Sequence[AcceptedSample], codebook: Codebook | None
) -> list[Tool]:
    """Tools without a code: imported ones, then those that an accepted vote called (A40)."""
    tools = {tool.id: tool for tool in imported}
    for sample in accepted:
        called = {call.name for call in sample.calls}
        tools |= {tool.id: tool for tool in sample.tools if tool.name in called}
    return [tool for tool in tools.values() if not _has_code(tool, codebook)]


def _has_code(tool: Tool, codebook: Codebook | None) -> bool:
    return codebook is not None and tool.id in codebook


def called_together(
    pairs: Sequence[Pair],
    written: Sequence[Tool],
    accepted: Sequence[AcceptedSample],
    coded: Sequence[Tool],
    codebook: Codebook | None,
) -> list[Pair]:
    """The pairs by the tools that have codes, or get one now: namesakes are one tool (A43)."""
    known = [entry.tool for entry in codebook.tools] if codebook is not None else []
    called = [*written, *(tool for sample in accepted for tool in sample.tools)]
    return canonical_pairs(pairs, called, [*known, *coded])


def train_config(recipe: Recipe, number: int, dtype: str, codebook_version: int) -> TrainConfig:
    """The recipe's training values for round `number`; a new codebook would get this version."""
    train = recipe.train
    return TrainConfig(
        method=train.method,
        learning_rate=train.learning_rate,
        epochs=train.epochs,
        batch_size=train.batch_size,
        micro_batch_size=train.micro_batch_size,
        max_length=train.max_length,
        lora_rank=train.lora_rank,
        lora_alpha=train.lora_alpha,
        warmup_ratio=train.warmup_ratio,
        code_share=train.code_share,
        seed=derive_seed(recipe.seed, number, "train") % 2**31,
        dtype=dtype,
        codes=code_config(recipe, codebook_version),
    )


def code_config(recipe: Recipe, version: int) -> CodeConfig:
    """The recipe's codes; a codebook that is fitted gets this version."""
    codes = recipe.codes
    return CodeConfig(
        coder=codes.coder,
        size=codes.size,
        levels=codes.levels,
        min_tools=codes.min_tools,
        dims=codes.dims,
        digits=codes.digits,
        branches=codes.branches,
        embedder=codes.embedder,
        recode_every=codes.recode_every,
        post_guided=codes.post_guided,
        reframe=codes.reframe,
        gist=GistConfig(**codes.gist.model_dump(), seed=recipe.seed) if codes.gist.views else None,
        quantized=QuantizedConfig(**codes.quantized.model_dump()),
        version=version,
    )
