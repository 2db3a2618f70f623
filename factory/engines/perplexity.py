"""How much language a checkpoint keeps: perplexity of a text before and after (algorithms §7.6).

exp of the mean negative log-likelihood of the text's tokens, in windows of `window` tokens that
move on by `stride`. A token is counted once, in the first window that holds it, after at least
`window - stride` others; the first of all is not, nor the first of each window where windows stand
side by side. Figures of different tokenizers cannot be compared, bits a character can.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from factory.domain.failures import ChildError, InputError, ModelError
from factory.engines.child import Channel, Child, run_child

WINDOW = 2048
STRIDES = (2048, 512)
"""Both are reported: windows side by side, and overlapping by three quarters."""


class Window(NamedTuple):
    """Tokens begin…end are run through the model; the loss counts from `counted` on."""

    begin: int
    """First token that the model sees."""
    end: int
    """One past the last."""
    counted: int
    """First token whose loss counts, at least begin + 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Perplexity:
    """One measurement. Example: Perplexity(value=25.4, window=2048, stride=512, …)."""

    value: float
    """exp of the mean negative log-likelihood in nats."""
    bits_per_character: float
    """The same loss over the text's characters, comparable between tokenizers."""
    window: int
    """Tokens of a window, at most the model's positions."""
    stride: int
    """Tokens between the starts of windows."""
    num_tokens: int
    """Tokens counted."""
    losses: tuple[tuple[float, int], ...]
    """Nats and counted tokens of each window."""


def windows(num_tokens: int, window: int, stride: int) -> Iterator[Window]:
    """Windows that count no token twice. ValueError unless 0 < stride <= window."""
    if not 0 < stride <= window:
        raise ValueError(f"a stride of {stride} does not fit a window of {window}")
    counted = 1
    for begin in range(0, num_tokens, stride):
        end = min(begin + window, num_tokens)
        # A window's first token has nothing before it: side by side, it stays uncounted.
        counted = max(counted, begin + 1)
        if counted < end:
            yield Window(begin, end, counted)
        counted = end
        if end == num_tokens:
            return


def window_losses(
    model: Any, token_ids: Sequence[int], window: int, stride: int
) -> list[tuple[float, int]]:
    """(nats, tokens counted) of each window of one text under a causal model."""
    import torch

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

    Imports torch; a command asks `measure_perplexity` instead. A stride above the window (which
    the model's positions bound) becomes the window. Raises ModelError, and InputError for a text
    of fewer than two tokens.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"transformers cannot load this model: {error}", where=str(folder)
        ) from error
    model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    token_ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    if len(token_ids) < 2:
        raise InputError(f"the text has {len(token_ids)} tokens, perplexity needs two")
    window = min(window, model.config.get_text_config().max_position_embeddings)
    found = []
    for stride in dict.fromkeys(min(stride, window) for stride in strides):
        losses = window_losses(model, token_ids, window, stride)
        nats, count = sum(loss for loss, _ in losses), sum(count for _, count in losses)
        found.append(
            Perplexity(
                value=math.exp(nats / count),
                bits_per_character=nats / math.log(2) / len(text),
                window=window,
                stride=stride,
                num_tokens=count,
                losses=tuple(losses),
            )
        )
    return found


async def measure_perplexity(
    folder: Path,
    text: str,
    *,
    threads: int,
    log: Path,
    window: int = WINDOW,
    strides: Sequence[int] = STRIDES,
) -> list[Perplexity]:
    """`compute_perplexity` in a child process that ends with the work. Raises ChildError too."""
    child = await Child.start("factory.engines.perplexity", threads=threads, log=log)
    try:
        await child.send(
            {"folder": str(folder), "text": text, "window": window, "strides": list(strides)}
        )
        answer = await child.receive()
        if answer is None:
            raise ChildError(f"the perplexity process died: {child.cause()}", where=str(folder))
        return [Perplexity(**each) for each in answer["found"]]
    finally:
        await child.stop()


def main(channel: Channel, arguments: list[str]) -> None:
    """Measure what the first message asks for."""
    job = channel.receive()
    if job is not None:
        found = compute_perplexity(
            Path(job["folder"]), job["text"], window=job["window"], strides=job["strides"]
        )
        channel.send({"type": "done", "found": [asdict(each) for each in found]})


if __name__ == "__main__":
    run_child(main)
