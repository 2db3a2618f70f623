"""The seed model's card: README.md beside its weights, made of the run's figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

CARD = """\
# Seed model

The model that a round starts from when no other is configured: a Llama of {millions:.1f} M \
parameters ({plan[hidden_size]} wide, {plan[num_layers]} layers, {plan[num_heads]} heads, tied \
embeddings, {num_tokens} tokens), trained from scratch by `factory seed`. Weights are bfloat16 \
safetensors. Licence: Apache-2.0, like the project.

## What it does

Given the factory's own prompts it writes tool documents for a request or a description, calls \
given tools, and names tools of its pool by code (`<a_3><b_17><c_0>`). It knows the home world \
(`factory/lab/home/`): English requests made from templates, over 18 domains. It is no assistant: \
it answers nothing else, and requests from elsewhere mostly come out wrong, which the factory's \
rules and votes then say.

## What it scores

Greedy, exact calls (AST rules of BFCL), tools and values never seen in training; half of the \
requests in wordings never seen either. In brackets the 95 % bootstrap interval.

| benchmark | n | overall | simple | multiple | parallel | parallel_multiple |
|---|---|---|---|---|---|---|
{score_rows}

Codes of the pool's {codebook[num_tools]} tools, free greedy decoding: right for \
{codes[code]:.0f} % of the documents, and for {codes[retrieve]:.0f} % of new requests that need \
one of the tools.

## How it was made

| phase | examples | steps | batch |
|---|---|---|---|
{phase_rows}

One CPU thread, bfloat16 arithmetic where the processor has it. Muon for the hidden matrices, \
AdamW for embeddings and norms; loss on assistant tokens and end of turn only; seed {plan[seed]}. \
All examples are generated; none is written by a model or taken from elsewhere. First documents \
from requests (35 %), documents from descriptions (10 %) and calls (55 %); then, after fitting a \
codebook ({codebook[levels]} levels of {codebook[size]}) over {codebook[num_tools]} tools of the \
seed split, 70 % of that mix with some invented words, 15 % document to code and 15 % request to \
code; last the same with many invented words and the rate falling to 0. Less than two hours in \
all on one core beside other work. The command is deterministic for one machine and number of \
threads.

    factory seed rounds/seed

## Files

`replay.jsonl` holds examples that rounds replay so that nothing is forgotten; `codes/` the \
codebook; `seed.json` the plan, the losses and the scores in figures. Fingerprint of the weights: \
`{fingerprint}`.

## Limits

Values must stand in the request as they should in the call. Prompts other than those in \
`prompts/` confuse it, because their fixed texts are single tokens of its vocabulary. Contexts \
longer than about 500 tokens were never trained.
"""


def write_card(folder: Path, figures: Mapping[str, Any]) -> None:
    """Write README.md from the run's figures (seed.json)."""
    text = CARD.format(
        **figures,
        millions=figures["num_parameters"] / 1e6,
        score_rows="\n".join(map(_score_row, figures["scores"])),
        phase_rows="\n".join(_phase_rows(figures["log"], figures["plan"]["batch_size"])),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _score_row(score: Mapping[str, Any]) -> str:
    shares = " | ".join(f"{value:.0f}" for value in score["categories"].values())
    overall = f"{score['value']:.1f} ({score['low']:.1f}–{score['high']:.1f})"
    return f"| {score['benchmark']} | {score['num_items']} | {overall} | {shares} |"


def _phase_rows(log: list[dict[str, Any]], batch_size: int) -> list[str]:
    rows = []
    for phase in dict.fromkeys(line["phase"] for line in log):
        lines = [line for line in log if line["phase"] == phase]
        steps = lines[-1]["step"]
        rows.append(f"| {phase} | {steps * batch_size} | {steps} | {batch_size} |")
    return rows
