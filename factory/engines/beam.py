"""The k most likely codes of a prompt: a beam over the trie whose branches share one prompt.

A prompt is read once. The tokens of the beam then stand side by side in the prompt's own row, and
a mask lets each see the prompt and the tokens of its own branch; so keys and values are neither
repeated for each branch nor reordered between steps, which is most of what a beam search costs.
What the prompts of a batch begin with is read once. Prompts of like length are read together, and
the beams of many such groups take their steps together: a pass of the model has a fixed cost that
its tokens share.

Where layers see only a window of their past, a token's place in its row is not its position: the
mask counts positions, layer type by layer type. A model that counts places itself is held to as
many as it treats alike; one that keeps a state instead of keys and values is refused.

A prefix's log-probability only falls as it grows. A ranking is therefore known to be exact when
its last code beats every prefix that the beam dropped; where it does not, a wider beam decides.

Shape suffixes: B prompts, T tokens of the longest one, K branches of a prompt, L tokens written so
far, W ways on from a branch, V vocabulary, N nodes of the trie.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from inspect import signature
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Cache, PreTrainedConfig, PreTrainedModel

from factory.codes.arrays import Code
from factory.codes.trie import Trie
from factory.domain.failures import ModelError
from factory.engines.forest import LOST, Forest

WIDEN = 4
"""How much wider the beam is at the next try for a ranking that is not known to be exact."""
SHARED = 8
"""Tokens that prompts must have in common for these to be read once."""
LOW = float("-inf")
MAX_LOGITS = 1 << 26
"""Logits of a step, at most: branches times vocabulary."""
HELD = 8
"""Prompt tokens of a batch, in multiples of those that are read at once."""
ANY = ""
"""The type of a layer where all see the same."""
LAYER_TYPES = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
"""Layers whose past is keys and values, one of each a token."""
PLACE_LIMITS = ("attention_chunk_size", "window_size", "keep_window_size")
"""Settings of models (Llama 4, GPT-Neo, Doge) that treat places in a row alike up to that many."""
REMEDY = (
    "search with a decoder whose layers are all attention and which takes position_ids, "
    "such as Llama, Qwen3, Mistral, Gemma 3 or gpt-oss"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedCode:
    """A tool by its code. Example: RankedCode(tool_id="t_91…", code=(2061, 2093), score=-0.4)."""

    tool_id: str
    code: Code
    """Token ids of its code."""
    score: float
    """Log-probability that the model writes this code and ends its turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """What was found for one prompt."""

    codes: tuple[RankedCode, ...]
    """Most likely first."""
    exact: bool
    """Whether no other code of the trie can be more likely than these."""


class BeamSearch:
    """Beam search over one trie with one transformers model.

    The model must be a decoder that attends to its past, all of it or a sliding window, and that
    takes positions from `position_ids`: ModelError for one that does not.
    Example: BeamSearch(model, trie).search([prompt_ids], k=5, beams=5)[0].codes[0].tool_id.
    """

    def __init__(self, model: PreTrainedModel, trie: Trie) -> None:
        self._model = model
        self._trie = trie.compact()
        self._forest = Forest(model.device)
        self._forest.cover([self._trie])
        self._root = self._forest.root(self._trie)
        self.depth = self._forest.depth(self._trie)
        """Tokens of the longest code."""
        self._family = self._trie.family()
        config = model.config.get_text_config()
        self._num_layers, self._vocabulary = config.num_hidden_layers, config.vocab_size
        refuse_other_models(model)
        self._windows = _windows(config)
        self._window = min((size for size in self._windows.values() if size), default=None)
        limits = [getattr(config, name, None) for name in PLACE_LIMITS]
        self._max_places = min((limit for limit in limits if limit), default=None)
        self._kind = config.model_type
        self.seconds = [0.0] * (self.depth + 1)
        """Spent so far on reading prompts, then on each token of the codes."""

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
            exact: widen the beam until each ranking is known to be exact, as far as it `fits`.
            max_tokens: tokens that are read at once; a longer prompt is read alone.

        Raises:
            ModelError: a prompt with its beam takes more places than the model treats alike.
        """
        rankings: dict[int, Ranking] = {}
        open_rows = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
        widest = len(self._trie)
        k, beams = min(k, widest), min(max(k, beams), widest)
        with torch.inference_mode():
            while open_rows and k:
                lengths = [len(prompts[row]) for row in open_rows]
                num_rows = max(1, min(max_tokens, MAX_LOGITS // self._vocabulary) // beams)
                for part in _batches(lengths, HELD * max_tokens, num_rows):
                    batch = open_rows[part]
                    ranked = self._search([prompts[row] for row in batch], k, beams, max_tokens)
                    rankings.update(zip(batch, ranked, strict=True))
                wider = exact and beams < widest
                beams = min(WIDEN * beams, widest)
                open_rows = [
                    row
                    for row in open_rows
                    if wider and not rankings[row].exact and self.fits(len(prompts[row]), beams)
                ]
        nothing = Ranking(codes=(), exact=True)
        return [rankings.get(row, nothing) for row in range(len(prompts))]

    def _search(
        self, prompts: Sequence[Sequence[int]], k: int, beams: int, max_tokens: int
    ) -> list[Ranking]:
        device, num_prompts = self._model.device, len(prompts)
        longest = max(map(len, prompts))
        self._refuse_too_many_places(longest, beams)
        since = time.perf_counter()
        # Pads between shared tokens and the rest would count as positions when a prompt is read.
        slides = self._window is not None and longest + self.depth > self._window
        num_shared = 0 if slides else _count_shared(prompts)
        ids_BT, mask_BT = _left_pad(prompts, num_shared, device)
        past = KeyValueCache(self._num_layers, num_prompts, ids_BT.shape[1] + beams * self.depth)
        logits_BKV = self._read_prompts(ids_BT, mask_BT, num_shared, past, max_tokens)
        node_BK = torch.full((num_prompts, 1), self._root, device=device)
        score_BK = torch.zeros(num_prompts, 1, device=device)
        branch_BKL = torch.zeros(num_prompts, 1, 0, dtype=torch.bool, device=device)
        position_BT = mask_BT.cumsum(1) - 1
        best_Bk = torch.full((num_prompts, k), LOW, device=device)
        best_node_Bk = torch.full((num_prompts, k), LOST, device=device)
        dropped_B = torch.full((num_prompts,), LOW, device=device)
        itself_KK = torch.eye(beams, dtype=torch.bool, device=device).expand(num_prompts, -1, -1)
        for length in range(self.depth + 1):
            since, before = time.perf_counter(), since
            self.seconds[length] += since - before
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
            position_BT = torch.cat([position_BT, position_BK], 1)
            masks = self._masks(seen_BKT, position_BK, position_BT)
            logits_BKV = self._read(token_BK, masks, position_BK, past)
        exact_B = best_Bk[:, -1] >= dropped_B
        return self._rank(best_Bk.tolist(), best_node_Bk.tolist(), exact_B.tolist())

    def _read_prompts(
        self, ids_BT: Tensor, mask_BT: Tensor, num_shared: int, past: KeyValueCache, max_tokens: int
    ) -> Tensor:
        """(B, 1, V) logits after the prompts, as `_left_pad` lays them out, sorted by length.

        All but their last tokens are read only as far as keys and values go, the shared ones once.
        """
        last = ids_BT.shape[1] - 1
        position_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)

        def fill(rows: slice, start: int, stop: int) -> None:
            """Read slots `start` to `stop` of some rows, which see the shared ones before."""
            first = 0 if num_shared else start
            ids, positions = ids_BT[rows, start:stop], position_BT[rows, start:stop]
            with past.filling(rows, first, start):
                self._read(ids, mask_BT[rows, first:stop], positions, past, last=1)

        if num_shared:
            fill(slice(0, 1), 0, num_shared)
            past.repeat_first(num_shared)
        lengths = mask_BT[:, num_shared:].sum(1).tolist()
        for rows in _batches(lengths, max_tokens, len(lengths)):
            if (longest := lengths[rows.stop - 1]) > 1:
                fill(rows, last + 1 - longest, last)
        return self._read(ids_BT[:, last:], mask_BT, position_BT[:, last:], past)

    def _read(
        self,
        ids: Tensor,
        mask: Tensor | Mapping[str, Tensor],
        positions: Tensor,
        past: KeyValueCache,
        last: int = 0,
    ) -> Tensor:
        """(B, K, V) float32 logits of the last positions (0: of all); the past grows by them."""
        logits: Tensor = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=past,
            use_cache=True,
            logits_to_keep=last,
        ).logits
        return logits.float()

    def fits(self, num_tokens: int, beams: int) -> bool:
        """Whether the model treats the places of a prompt and its branches alike."""
        places = num_tokens + min(beams, len(self._trie)) * self.depth
        return self._max_places is None or places <= self._max_places

    def _refuse_too_many_places(self, num_tokens: int, beams: int) -> None:
        if not self.fits(num_tokens, beams):
            raise ModelError(
                f"a prompt of {num_tokens} tokens with {beams} branches of {self.depth} takes "
                f"{num_tokens + beams * self.depth} places, and a {self._kind} model treats "
                f"{self._max_places} alike",
                where=self._model.name_or_path,
                remedy="shorten the query or take fewer beams",
            )

    def _masks(
        self, seen_BKT: Tensor, position_BK: Tensor, position_BT: Tensor
    ) -> Tensor | Mapping[str, Tensor]:
        """The mask of what branches see, or one for each type of layer.

        A layer with a window sees the token itself and fewer than the window's positions before it
        (transformers.masking_utils.sliding_window_overlay).
        """
        masks = {}
        for kind, window in self._windows.items():
            near_BKT = seen_BKT
            if window is not None:
                near_BKT = seen_BKT & (position_BK[:, :, None] - position_BT[:, None] < window)
            masks[kind] = self._additive(near_BKT)
        return masks.get(ANY, masks)

    def _additive(self, seen_BKT: Tensor) -> Tensor:
        """(B, 1, K, T) mask to be added to attention scores, which every implementation takes."""
        low = torch.finfo(self._model.dtype).min
        mask = torch.zeros(seen_BKT.shape, dtype=self._model.dtype, device=seen_BKT.device)
        return mask.masked_fill_(~seen_BKT, low)[:, None]

    def _rank(
        self, scores: list[list[float]], nodes: list[list[int]], exact: list[bool]
    ) -> list[Ranking]:
        rankings = []
        for scores_k, nodes_k, is_exact in zip(scores, nodes, exact, strict=True):
            found = zip(nodes_k, scores_k, strict=True)
            codes = [self._ranked(node - self._root, score) for node, score in found if score > LOW]
            rankings.append(Ranking(codes=tuple(codes), exact=is_exact))
        return rankings

    def _ranked(self, node: int, score: float) -> RankedCode:
        tool_id = str(self._trie.ids[self._trie.leaf[node]])
        return RankedCode(tool_id=tool_id, code=self._family.code_of(node), score=score)


def refuse_other_models(model: PreTrainedModel) -> None:
    """Refuse what does not hold its past as keys and values at the positions that it is told.

    Raises:
        ModelError: the model cannot be searched with.
    """
    config = model.config.get_text_config()
    kind = config.model_type
    other = sorted(set(getattr(config, "layer_types", None) or ()) - LAYER_TYPES)
    if other or getattr(model, "_is_stateful", False):
        layers = ", ".join(other) or "recurrent"
        raise ModelError(
            f"a {kind} model has layers that cannot hold the branches of a beam side by side "
            f"({layers})",
            where=model.name_or_path,
            remedy=REMEDY,
        )
    # Branches stand side by side, so a token's place in its row is not its position.
    takes_positions = "position_ids" in signature(model.forward).parameters
    if not takes_positions or getattr(config, "alibi", False):
        raise ModelError(
            f"a {kind} model cannot be told a token's position",
            where=model.name_or_path,
            remedy=REMEDY,
        )


def _windows(config: PreTrainedConfig) -> Mapping[str, int | None]:
    """Tokens that layers of each type see; None is all, and ANY stands for every type.

    Models take a mask for each of their `layer_types`, or one for all where their configuration
    knows none (transformers.masking_utils.create_masks_for_generate).
    """
    window = getattr(config, "sliding_window", None)
    kinds = config.layer_types if hasattr(type(config), "layer_types") else None
    if kinds is None:
        return {ANY: window}
    if window is None or "sliding_attention" not in kinds:
        return {ANY: None}
    return {kind: window if kind == "sliding_attention" else None for kind in kinds}


class _Filled(Exception):
    """The last layer's keys and values are written: the rest of a pass would be idle."""


class KeyValueCache(Cache):  # type: ignore[misc]
    """Keys and values of a batch, each layer's in one block that is written in place.

    A pass writes its tokens from the cursor on, which moves behind them, and sees all slots before.
    """

    def __init__(self, num_layers: int, num_rows: int, num_slots: int) -> None:
        super().__init__(layers=[])
        self._num_layers, self._num_rows, self._num_slots = num_layers, num_rows, num_slots
        self._blocks: dict[int, list[Tensor]] = {}
        self._rows, self._start, self._is_filling = slice(None), 0, False
        self._cursors = [0] * num_layers
        """Where each layer writes next: within a pass, the first layers are ahead."""

    @contextmanager
    def filling(self, rows: slice, start: int, cursor: int) -> Iterator[None]:
        """Passes here are of some rows, see from slot `start` on and write from `cursor` on.

        They end with the last layer's keys and values and give nothing back. What is left of a pass
        then is the last layer's attention and all after it: a tenth of a whole search (128 prompts
        of 170 tokens on the shipped model of 4 layers, 5 beams: 1.09 s of one core, else 1.20).
        """
        self._rows, self._start, self._is_filling = rows, start, True
        self._cursors = [cursor] * self._num_layers
        try:
            with suppress(_Filled):
                yield
        finally:
            self._rows, self._start, self._is_filling = slice(None), 0, False

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> list[Tensor]:
        """Write a layer's new keys and values; all that the rows see of both."""
        new = key_states, value_states
        if layer_idx not in self._blocks:
            self._blocks[layer_idx] = [
                states.new_zeros(self._num_rows, states.shape[1], self._num_slots, states.shape[3])
                for states in new
            ]
        cursor = self._cursors[layer_idx]
        stop = self._cursors[layer_idx] = cursor + key_states.shape[2]
        for block, states in zip(self._blocks[layer_idx], new, strict=True):
            block[self._rows, :, cursor:stop] = states
        if self._is_filling and layer_idx == self._num_layers - 1:
            raise _Filled
        return [block[self._rows, :, self._start : stop] for block in self._blocks[layer_idx]]

    def repeat_first(self, num_slots: int) -> None:
        """Give every row the first one's keys and values of the first slots."""
        for blocks in self._blocks.values():
            for block in blocks:
                block[1:, :, :num_slots] = block[:1, :, :num_slots]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Slots that the rows see before new ones."""
        return self._cursors[layer_idx] - self._start

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Slots that they see with the new ones, and where these begin."""
        return self.get_seq_length(layer_idx) + query_length, 0


def _batches(lengths: Sequence[int], max_tokens: int, max_rows: int) -> Iterator[slice]:
    """Rows, sorted by length, in batches of so many rows and tokens, pads included."""
    start = 0
    for row, length in enumerate(lengths):
        num_rows = row + 1 - start
        if row > start and (num_rows > max_rows or num_rows * length > max_tokens):
            yield slice(start, row)
            start = row
    if lengths:
        yield slice(start, len(lengths))


def _count_shared(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens at the start that all prompts have in common, but for the last of the shortest."""
    first, last = min(map(tuple, prompts)), max(map(tuple, prompts))
    alike = (a == b for a, b in zip(first, last, strict=False))
    num = min(sum(takewhile(bool, alike)), min(map(len, prompts)) - 1)
    return num if num >= SHARED and len(prompts) > 1 else 0


def _left_pad(
    prompts: Sequence[Sequence[int]], num_shared: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Prompts as (B, T) ids and mask: shared tokens, pads, which the mask has as 0, the rest."""
    width = max(map(len, prompts))
    ids_BT = np.zeros((len(prompts), width), dtype=np.int64)
    mask_BT = np.zeros((len(prompts), width), dtype=np.int64)
    ids_BT[:, :num_shared], mask_BT[:, :num_shared] = prompts[0][:num_shared], 1
    for row, prompt in enumerate(prompts):
        start = width - len(prompt) + num_shared
        ids_BT[row, start:], mask_BT[row, start:] = prompt[num_shared:], 1
    return torch.from_numpy(ids_BT).to(device), torch.from_numpy(mask_BT).to(device)


def _keep(score_BC: Tensor, beams: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best candidates of each row: (B, K) scores and places, and (B) the best one left out."""
    num_missing = beams + 1 - score_BC.shape[1]
    if num_missing > 0:
        score_BC = torch.nn.functional.pad(score_BC, (0, num_missing), value=LOW)
    score_BK, place_BK = score_BC.topk(beams + 1, dim=1)
    real_BK = score_BK[:, :-1] > LOW
    return score_BK[:, :-1], place_BK[:, :-1].where(real_BK, 0), score_BK[:, -1]


def _best_of(score_BC: Tensor, node_BC: Tensor, k: int) -> tuple[Tensor, Tensor]:
    score_Bk, place_Bk = score_BC.topk(k, dim=1)
    return score_Bk, node_BC.gather(1, place_Bk)
