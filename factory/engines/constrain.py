"""Trie-constrained decoding (algorithms §6), shared by the backends that run in a child.

A constrained row may only take tokens that lead on in the trie, and the end token at a leaf. Its
place is computed from the tokens sampled so far, so preemption and moves within a batch do no
harm, and rows without a constraint are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from factory.codes.trie import ROOT, Trie
from factory.failures import ModelError

TRIE = "trie"
"""Key of the trie's path in vLLM's `SamplingParams.extra_args`."""


def load_trie(path: str, vocabulary: int) -> Trie:
    """The trie saved at `path`, cached until the file changes.

    Raises:
        ModelError: the file is missing or broken, or has tokens beyond the model's `vocabulary`.
    """
    file = Path(path)
    trie = _load(path, file.stat().st_mtime_ns if file.exists() else 0)
    top = max(int(trie.tokens.max(initial=0)), trie.end)
    if top >= vocabulary:
        raise ModelError(
            f"The trie of codes names token {top}, the model has only {vocabulary}",
            where=path,
            remedy="use the checkpoint whose codes folder the trie comes from",
        )
    return trie


@lru_cache(maxsize=16)
def _load(path: str, stamp: int) -> Trie:
    return Trie.load(path)


class Walk:
    """Where one sequence stands in a trie.

    Example: walk = Walk(trie); walk.allowed([7, 8]) -> tokens that may follow 7, 8.
    """

    __slots__ = ("_node", "_seen", "_trie")

    def __init__(self, trie: Trie) -> None:
        self._trie = trie
        self._node = ROOT
        self._seen = 0

    def allowed(self, output_ids: Sequence[int]) -> np.ndarray[Any, np.dtype[np.int32]]:
        """Token ids that may follow all tokens sampled so far; only new ones are walked."""
        if len(output_ids) < self._seen:
            self._node, self._seen = ROOT, 0
        for token in output_ids[self._seen :]:
            self._node = self._trie.step(self._node, token)
        self._seen = len(output_ids)
        return self._trie.allowed(self._node)


def restrict(logits_RV: Any, rows: Mapping[int, np.ndarray[Any, np.dtype[np.int32]]]) -> None:
    """Set everything but the allowed tokens of each given row to -inf, in place.

    Args:
        logits_RV: (R, V) torch tensor.
        rows: allowed token ids by row index.
    """
    import torch

    if not rows:
        return
    device = logits_RV.device
    lengths = [len(tokens) for tokens in rows.values()]
    rows_R = torch.tensor(list(rows), device=device)
    rows_E = rows_R.repeat_interleave(torch.tensor(lengths, device=device))
    tokens_E = torch.from_numpy(np.concatenate(list(rows.values())).astype(np.int64)).to(device)
    kept_E = logits_RV[rows_E, tokens_E]
    logits_RV[rows_R] = float("-inf")
    logits_RV[rows_E, tokens_E] = kept_E


def vllm_processor() -> type:
    """vLLM's logits processor (its V1 interface, 0.32) for `extra_args={"trie": path}`."""
    from vllm.v1.sample.logits_processor import (
        BatchUpdate,
        LogitsProcessor,
        MoveDirectionality,
    )

    class TrieProcessor(LogitsProcessor):  # type: ignore[misc]
        """Keeps a Walk for every constrained row of vLLM's persistent batch."""

        def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
            self._vocabulary: int = vllm_config.model_config.get_vocab_size()
            self._rows: dict[int, tuple[Walk, Sequence[int]]] = {}

        def is_argmax_invariant(self) -> bool:
            return False

        def update_state(self, batch_update: BatchUpdate | None) -> None:
            """Follow requests that leave, enter and move; the order is vLLM's contract."""
            if batch_update is None:
                return
            for row in batch_update.removed:
                self._rows.pop(row, None)
            for row, params, _, output_ids in batch_update.added:
                self._rows.pop(row, None)
                path = (params.extra_args or {}).get(TRIE)
                if path is not None:
                    self._rows[row] = (Walk(load_trie(path, self._vocabulary)), output_ids)
            for source, target, direction in batch_update.moved:
                moved, replaced = self._rows.pop(source, None), self._rows.pop(target, None)
                if moved is not None:
                    self._rows[target] = moved
                if replaced is not None and direction == MoveDirectionality.SWAP:
                    self._rows[source] = replaced

        def apply(self, logits: Any) -> Any:
            """Tokens are walked here and not in update_state, where the last may be missing."""
            restrict(logits, {row: walk.allowed(ids) for row, (walk, ids) in self._rows.items()})
            return logits

    return TrieProcessor
