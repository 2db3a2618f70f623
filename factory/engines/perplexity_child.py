"""The child of factory.engines.perplexity: one pass of the model over each window of a text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from factory.codes.language import read_windows
from factory.codes.literal import encoder_of
from factory.domain.failures import InputError
from factory.engines.chat import load_tokenizer
from factory.engines.child import Channel, run_child
from factory.engines.loading import load_model
from factory.engines.perplexity import STRIDES, WINDOW, Perplexity


def window_losses(
    model: PreTrainedModel, token_ids: Sequence[int], window: int, stride: int
) -> list[tuple[float, int]]:
    """(nats, tokens counted) of each window of one text under a causal model."""
    ids_T = torch.tensor(token_ids, device=model.device)
    with torch.inference_mode():
        return [
            (float(cross_entropy(logits_TV, tokens_T, reduction="sum")), len(tokens_T))
            for logits_TV, tokens_T in read_windows(model, ids_T, window, stride)
        ]


def compute_perplexity(
    folder: Path, text: str, *, window: int = WINDOW, strides: Sequence[int] = STRIDES
) -> list[Perplexity]:
    """The perplexity of `text` under the model in `folder`, once for each stride.

    A stride above the window (which the model's positions bound) becomes the window. Raises
    ModelError, and InputError for a text of fewer than two tokens.
    """
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    token_ids = encoder_of(tokenizer).encode(text)
    if len(token_ids) < 2:
        raise InputError(f"the text has {len(token_ids)} tokens, perplexity needs two")
    window = min(window, model.config.get_text_config().max_position_embeddings)
    perplexities = []
    for stride in dict.fromkeys(min(stride, window) for stride in strides):
        losses = window_losses(model, token_ids, window, stride)
        nats, count = sum(loss for loss, _ in losses), sum(count for _, count in losses)
        perplexities.append(
            Perplexity(
                value=math.exp(nats / count),
                bits_per_character=nats / math.log(2) / len(text),
                window=window,
                stride=stride,
                num_tokens=count,
                losses=tuple(losses),
            )
        )
    return perplexities


def main(channel: Channel, arguments: list[str]) -> None:
    """Measure what the first message asks for."""
    job = channel.receive()
    if job is not None:
        perplexities = compute_perplexity(
            Path(job["folder"]), job["text"], window=job["window"], strides=job["strides"]
        )
        channel.send({"type": "done", "perplexities": [*map(asdict, perplexities)]})


if __name__ == "__main__":
    run_child(main)
