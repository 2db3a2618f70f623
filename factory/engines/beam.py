"""The k most likely codes of a prompt: a beam over the trie whose branches share one prompt.

A prompt is read once. The tokens of the beam then stand side by side in the prompt's own row, and
a mask lets each see the prompt and the tokens of its own branch; so keys and values are neither
repeated for each branch nor reordered between steps, which is most of what a beam search costs.

A prefix's log-probability only falls as it grows. A ranking is therefore known to be exact when
its last code beats every prefix that the beam dropped; where it does not, a wider beam decides.

Shape suffixes: B prompts, T tokens of the longest one, K branches of a prompt, L tokens written so
far, W ways on from a branch, V vocabulary, N nodes of the trie.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from factory.codes.base import Code
from factory.codes.trie import Trie
from factory.engines.constrain import LOST, Forest

WIDEN = 4
"""How much wider the beam is at the next try for a ranking that is not known to be exact."""
LOW = float("-inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A tool by its code. Example: Found(tool_id="t_91…", code=(2061, 2093, 2125), score=-0.4)."""

    tool_id: str
    """The tool."""
    code: Code
    """Token ids of its code."""
    score: float
    """Log-probability that the model writes this code and ends its turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """The tools found for one prompt."""

    found: tuple[Found, ...]
    """Most likely first."""
    exact: bool
    """Whether no other code of the trie can be more likely than these."""


class BeamSearch:
    """Beam search over one trie with one transformers model.

    The model must be a decoder that attends to its whole past, as a prompt of this length lets it.
    Example: BeamSearch(model, trie).search([prompt_ids], k=5, beams=5)[0].found[0].tool_id.
    """

    def __init__(self, model: Any, trie: Trie) -> None:
        self._model = model
        self._trie = trie.compact()
        self._forest = Forest(model.device)
        self._forest.cover([self._trie])
        self._root = self._forest.root(self._trie)
        self.depth = self._forest.depth(self._trie)
        """Tokens of the longest code."""
        self._family = self._trie.family()

    def search(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        k: int,
        beams: int,
        exact: bool = False,
        max_tokens: int = 1024,
    ) -> list[Ranking]:
        """The k most likely codes of each prompt, in the order of the prompts.

        Args:
            prompts: token ids, at least one each.
            k: codes of a ranking; fewer where the trie has fewer.
            beams: branches kept at each step, at least k.
            exact: widen the beam until each ranking is known to be exact.
            max_tokens: prompt tokens that are read at once; a longer prompt is read alone.
        """
        import torch

        rankings: dict[int, Ranking] = {}
        open_rows = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
        k, beams = min(k, len(self._trie)), min(beams, len(self._trie))
        with torch.inference_mode():
            while open_rows and k:
                for batch in _batches(open_rows, prompts, max_tokens):
                    found = self._search([prompts[row] for row in batch], k, max(beams, k))
                    rankings.update(zip(batch, found, strict=True))
                beams *= WIDEN
                open_rows = [row for row in open_rows if exact and not rankings[row].exact]
        nothing = Ranking(found=(), exact=True)
        return [rankings.get(row, nothing) for row in range(len(prompts))]

    def _search(self, prompts: Sequence[Sequence[int]], k: int, beams: int) -> list[Ranking]:
        import torch
        from transformers import DynamicCache

        device, num_prompts = self._model.device, len(prompts)
        ids_BT, mask_BT = _left_pad(prompts, device)
        cache = DynamicCache()
        logits_BKV = self._read(ids_BT, mask_BT, mask_BT.cumsum(1) - 1, cache, last=1)
        node_BK = torch.full((num_prompts, 1), self._root, device=device)
        score_BK = torch.zeros(num_prompts, 1, device=device)
        branch_BKL = torch.zeros(num_prompts, 1, 0, dtype=torch.bool, device=device)
        best_Bk = torch.full((num_prompts, k), LOW, device=device)
        best_node_Bk = torch.full((num_prompts, k), LOST, device=device)
        dropped_B = torch.full((num_prompts,), LOW, device=device)
        itself_KK = torch.eye(beams, dtype=torch.bool, device=device).expand(num_prompts, -1, -1)
        for length in range(self.depth + 1):
            norm_BK = logits_BKV.logsumexp(-1)
            end_BK = score_BK + logits_BKV[..., self._trie.end] - norm_BK
            whole_BK = self._forest.is_leaf(node_BK) & (node_BK != LOST)
            best_Bk, best_node_Bk = _best_of(
                torch.cat([best_Bk, end_BK.masked_fill(~whole_BK, LOW)], 1),
                torch.cat([best_node_Bk, node_BK], 1),
                k,
            )
            if length == self.depth:
                break
            edge_BKW, real_BKW = self._forest.edges(node_BK.flatten())
            token_BKW, next_BKW = (
                values.view(*node_BK.shape, -1) for values in self._forest.follow(edge_BKW)
            )
            grown_BKW = (score_BK - norm_BK)[..., None] + logits_BKV.gather(
                2, token_BKW.clamp(min=0)
            )
            grown_BKW.masked_fill_(~real_BKW.view_as(grown_BKW), LOW)
            score_BK, place_BK, rest_B = _keep(grown_BKW.flatten(1), beams)
            dropped_B = torch.maximum(dropped_B, rest_B)
            if bool((score_BK[:, 0] <= best_Bk[:, -1]).all()):
                # No branch can still come among the best.
                break
            width = grown_BKW.shape[2]
            node_BK = next_BKW.flatten(1).gather(1, place_BK).masked_fill(score_BK == LOW, LOST)
            token_BK = token_BKW.flatten(1).gather(1, place_BK).clamp(min=0)
            parent_BK = place_BK // width
            branch_BKL = branch_BKL.gather(
                1, parent_BK[..., None].expand(-1, -1, branch_BKL.shape[2])
            )
            branch_BKL = torch.cat([branch_BKL, itself_KK], 2)
            seen_BKT = torch.cat([mask_BT[:, None].expand(-1, beams, -1).bool(), branch_BKL], 2)
            position_BK = (mask_BT.sum(1, keepdim=True) + length).expand(-1, beams)
            logits_BKV = self._read(token_BK, self._additive(seen_BKT), position_BK, cache, last=0)
        exact_B = best_Bk[:, -1] >= dropped_B
        return self._rank(best_Bk.tolist(), best_node_Bk.tolist(), exact_B.tolist())

    def _read(self, ids: Any, mask: Any, positions: Any, cache: Any, last: int) -> Any:
        """(B, K, V) float32 logits of the last positions (0: of all); the cache grows by them."""
        output = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions.clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=last,
        )
        return output.logits.float()

    def _additive(self, seen_BKT: Any) -> Any:
        """(B, 1, K, T) mask to be added to attention scores, which every implementation takes."""
        import torch

        low = torch.finfo(self._model.dtype).min
        mask = torch.zeros(seen_BKT.shape, dtype=self._model.dtype, device=seen_BKT.device)
        return mask.masked_fill_(~seen_BKT, low)[:, None]

    def _rank(
        self, scores: list[list[float]], nodes: list[list[int]], exact: list[bool]
    ) -> list[Ranking]:
        rankings = []
        for scores_k, nodes_k, is_exact in zip(scores, nodes, exact, strict=True):
            found = [
                self._found(node - self._root, score)
                for node, score in zip(nodes_k, scores_k, strict=True)
                if score > LOW
            ]
            rankings.append(Ranking(found=tuple(found), exact=is_exact))
        return rankings

    def _found(self, node: int, score: float) -> Found:
        tool_id = str(self._trie.ids[self._trie.leaf[node]])
        return Found(tool_id=tool_id, code=self._family.code_of(node), score=score)


def _batches(
    rows: Sequence[int], prompts: Sequence[Sequence[int]], max_tokens: int
) -> Iterator[list[int]]:
    """Rows, sorted by length, in batches of at most `max_tokens` tokens, pads included."""
    batch: list[int] = []
    for row in rows:
        if batch and (len(batch) + 1) * len(prompts[row]) > max_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _left_pad(prompts: Sequence[Sequence[int]], device: Any) -> tuple[Any, Any]:
    """Prompts as (B, T) ids and mask; pads stand on the left, where the mask is 0."""
    import torch

    width = max(map(len, prompts))
    ids_BT = np.zeros((len(prompts), width), dtype=np.int64)
    mask_BT = np.zeros((len(prompts), width), dtype=np.int64)
    for row, prompt in enumerate(prompts):
        ids_BT[row, width - len(prompt) :] = prompt
        mask_BT[row, width - len(prompt) :] = 1
    return torch.from_numpy(ids_BT).to(device), torch.from_numpy(mask_BT).to(device)


def _keep(score_BC: Any, beams: int) -> tuple[Any, Any, Any]:
    """The best candidates of each row: (B, K) scores and places, and (B) the best one left out."""
    import torch

    num_missing = beams + 1 - score_BC.shape[1]
    if num_missing > 0:
        score_BC = torch.nn.functional.pad(score_BC, (0, num_missing), value=LOW)
    score_BK, place_BK = score_BC.topk(beams + 1, dim=1)
    real_BK = score_BK[:, :-1] > LOW
    return score_BK[:, :-1], place_BK[:, :-1].where(real_BK, 0), score_BK[:, -1]


def _best_of(score_BC: Any, node_BC: Any, k: int) -> tuple[Any, Any]:
    score_Bk, place_Bk = score_BC.topk(k, dim=1)
    return score_Bk, node_BC.gather(1, place_Bk)
