"""The child of factory.engines.perplexity: one pass of the model over each window of a text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import PreTrainedModel

from factory.domain.failures import InputError
from factory.engines.chat import load_tokenizer
from factory.engines.child import Channel, run_child
from factory.engines.loading import load_model
from factory.engines.perplexity import STRIDES, WINDOW, Perplexity


def windows(num_tokens: int, window: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Windows that count no token twice: the first token that the model sees, one past the last,
    and the first whose loss counts. ValueError unless 0 < stride <= window.
    """
    if not 0 < stride <= window:
        raise ValueError(f"a stride of {stride} does not fit a window of {window}")
    counted = 1
    for begin in range(0, num_tokens, stride):
        end = min(begin + window, num_tokens)
        # A window's first token has nothing before it: side by side, it stays uncounted.
        counted = max(counted, begin + 1)
        if counted < end:
            yield begin, end, counted
        counted = end
        if end == num_tokens:
            return


def window_losses(
    model: PreTrainedModel, token_ids: Sequence[int], window: int, stride: int
) -> list[tuple[float, int]]:
    """(nats, tokens counted) of each window of one text under a causal model."""
    losses = []
    ids_T = torch.tensor(token_ids, device=model.device)
    with torch.inference_mode():
        for begin, end, counted in windows(len(token_ids), window, stride):
            logits_TV = model(input_ids=ids_T[None, begin : end - 1]).logits[0].float()
            chosen_TV = logits_TV[counted - begin - 1 :]
            loss = torch.nn.functional.cross_entropy(chosen_TV, ids_T[counted:end], reduction="sum")
            losses.append((float(loss), end - counted))
    return losses


def compute_perplexity(
    folder: Path, text: str, *, window: int = WINDOW, strides: Sequence[int] = STRIDES
) -> list[Perplexity]:
    """The perplexity of `text` under the model in `folder`, once for each stride.

    A stride above the window (which the model's positions bound) becomes the window. Raises
    ModelError, and InputError for a text of fewer than two tokens.
    """
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    token_ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
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
