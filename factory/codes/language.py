"""How well a model keeps its language while codes come into it: one pass over plain text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from factory.codes.literal import encoder_of
from factory.domain.records import Fluency

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WINDOW = 512
"""Tokens that are read at once, side by side."""
MAX_TOKENS = 2048
"""Of a text; those beyond are left out."""


def read_language(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    code_ids: Sequence[int] = (),
    max_tokens: int = MAX_TOKENS,
) -> Fluency | None:
    """Perplexity of a text, and what code tokens take of it; None for less than two tokens."""
    import torch

    ids = encoder_of(tokenizer).encode(text)[:max_tokens]
    ids_T = torch.tensor(ids, dtype=torch.long, device=model.device)
    codes_C = torch.tensor([*code_ids], dtype=torch.long, device=model.device)
    nats, mass, count = 0.0, 0.0, 0
    with reading(model) as window:
        for logits_TV, tokens_T in read_windows(model, ids_T, window, window):
            logs_TV = logits_TV.log_softmax(dim=1)
            nats -= float(logs_TV.gather(1, tokens_T[:, None]).sum())
            mass += float(logs_TV[:, codes_C].exp().sum())
            count += len(tokens_T)
    if not count:
        return None
    return Fluency(perplexity=math.exp(min(nats / count, 700.0)), code_mass=mass / count)


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


def read_windows(
    model: PreTrainedModel, ids_T: Tensor, window: int, stride: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """(T, V) logits of the tokens that each window of a text counts, and these (T) tokens."""
    for begin, end, counted in windows(len(ids_T), window, stride):
        logits_TV = model(input_ids=ids_T[None, begin:end], use_cache=False).logits[0]
        yield logits_TV[counted - begin - 1 : -1].float(), ids_T[counted:end]


@contextmanager
def reading(model: PreTrainedModel) -> Iterator[int]:
    """The model as it answers, without gradients; how many tokens it is given at once."""
    import torch

    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield min(WINDOW, positions or WINDOW)
    finally:
        model.train(was_training)
