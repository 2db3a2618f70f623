"""How well a model keeps its language while codes come into it: one pass over plain text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from factory.domain.records import Fluency

if TYPE_CHECKING:
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

    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:max_tokens]
    ids_T = torch.tensor(ids, dtype=torch.long, device=model.device)
    codes_C = torch.tensor([*code_ids], dtype=torch.long, device=model.device)
    nats, mass, count = 0.0, 0.0, 0
    with reading(model) as window:
        for window_T in (part for part in ids_T.split(window) if len(part) > 1):
            logits_TV = model(input_ids=window_T[None], use_cache=False).logits[0, :-1]
            logs_TV = logits_TV.float().log_softmax(dim=1)
            nats -= float(logs_TV.gather(1, window_T[1:, None]).sum())
            mass += float(logs_TV[:, codes_C].exp().sum())
            count += len(window_T) - 1
    if not count:
        return None
    return Fluency(perplexity=math.exp(min(nats / count, 700.0)), code_mass=mass / count)


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
