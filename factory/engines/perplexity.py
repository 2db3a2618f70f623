"""How much language a checkpoint keeps: perplexity of a text before and after (algorithms §7.6).

exp of the mean negative log-likelihood of the text's tokens, in windows of `window` tokens that
move on by `stride`. A token is counted once, in the first window that holds it, after at least
`window - stride` others; the first of all is not, nor the first of each window where windows stand
side by side. Figures of different tokenizers cannot be compared, bits a character can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from factory.engines.child import ask_once

WINDOW = 2048
STRIDES = (2048, 512)
"""Both are reported: windows side by side, and overlapping by three quarters."""


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
    losses: tuple[tuple[float, int], ...]
    """Nats and counted tokens of each window."""


async def measure_perplexity(
    folder: Path,
    text: str,
    *,
    threads: int,
    log: Path,
    window: int = WINDOW,
    strides: Sequence[int] = STRIDES,
) -> list[Perplexity]:
    """compute_perplexity of perplexity_child, in a child; raises what that does and ChildError."""
    answer = await ask_once(
        "factory.engines.perplexity_child",
        {"folder": str(folder), "text": text, "window": window, "strides": list(strides)},
        work="the perplexity process",
        threads=threads,
        log=log,
    )
    return [Perplexity(**measured) for measured in answer["perplexities"]]
