"""Tries side by side on one device: where constrained rows and the branches of beams stand.

Shape suffixes: R rows, W most ways on, N nodes, E edges.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from factory.codes.trie import ROOT, Trie

FREE = -1
"""Where a row stands that may take any token."""
LOST = 0
"""The forest's node of a row that left its trie: only the closing token is allowed there."""
NONE = -1
"""In place of a token where there is none."""
LEAST_ROOM = 1 << 20
"""Nodes that a forest may hold in vain before it drops the tries nobody walks."""


class Forest:
    """Tries side by side in the arrays of one device, so that one step moves all rows at once.

    A step is a binary search for (node, token) among all edges, which are sorted by that pair.
    Node LOST has no edges and counts as a leaf.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._roots: dict[Trie, int] = {}
        self._depths: dict[Trie, int] = {}
        self._clear()

    def _clear(self) -> None:
        self._roots.clear()
        self._depths.clear()
        self._num_nodes = 1
        self._parts: dict[str, list[npt.NDArray[Any]]] = {
            **{name: [np.zeros(0, np.int64)] for name in ("key", "token", "following")},
            **{name: [np.zeros(1, np.int64)] for name in ("first", "count")},
            "leaf": [np.ones(1, bool)],
        }

    def cover(self, tries: Iterable[Trie]) -> None:
        """Hold at least these tries; others go when they take too much room."""
        wanted = dict.fromkeys(tries)
        missing = [trie for trie in wanted if trie not in self._roots]
        if not missing:
            return
        if self._num_nodes > LEAST_ROOM + 2 * sum(trie.num_nodes for trie in wanted):
            self._clear()
            missing = list(wanted)
        for trie in missing:
            self._plant(trie)
        self._upload()

    def root(self, trie: Trie) -> int:
        """Node of a covered trie's root."""
        return self._roots[trie]

    def depth(self, trie: Trie) -> int:
        """Tokens of a covered trie's longest code."""
        return self._depths[trie]

    def _plant(self, trie: Trie) -> None:
        base, flat = self._num_nodes, trie.compact()
        num_edges = sum(len(part) for part in self._parts["token"])
        counts_N, tokens_E = flat.count.astype(np.int64), flat.tokens.astype(np.int64)
        parents_E = np.repeat(base + np.arange(len(counts_N)), counts_N)
        for name, values in (
            ("key", parents_E << 32 | tokens_E),
            ("token", tokens_E),
            ("following", base + flat.following),
            ("first", num_edges + flat.first),
            ("count", counts_N),
            ("leaf", flat.leaf >= 0),
        ):
            self._parts[name].append(values)
        self._roots[trie], self._depths[trie] = base + ROOT, flat.measure_depth()
        self._num_nodes += len(counts_N)

    def _upload(self) -> None:
        for name, parts in self._parts.items():
            self._parts[name] = [np.concatenate(parts)]
        arrays = {
            name: torch.from_numpy(parts[0]).to(self.device) for name, parts in self._parts.items()
        }
        # One edge that nothing finds keeps every index valid where there are no edges.
        pad = torch.full((1,), NONE, device=self.device)
        self._key_E = torch.cat([arrays["key"], torch.full_like(pad, 1 << 62)])
        self._token_E = torch.cat([arrays["token"], pad])
        self._following_E = torch.cat([arrays["following"], pad])
        self._first_N, self._count_N = arrays["first"], arrays["count"]
        self._leaf_N = arrays["leaf"]
        self._width = int(self._parts["count"][0].max())

    def step(self, node_R: Tensor, token_R: Tensor) -> Tensor:
        """(R) nodes after one more token; LOST where no code goes on like that."""
        key_R = node_R << 32 | token_R
        edge_R = torch.searchsorted(self._key_E, key_R)
        found_R = self._key_E[edge_R] == key_R
        return torch.where(found_R, self._following_E[edge_R], LOST)

    def is_leaf(self, node_R: Tensor) -> Tensor:
        """(R) whether a code is whole here."""
        return self._leaf_N[node_R]

    def edges(self, node_R: Tensor) -> tuple[Tensor, Tensor]:
        """(R, W) edges that lead on from each node, in token order, and which of them are real.

        On a GPU W is the widest node's number, so that nothing waits for the device.
        """
        count_R = self._count_N[node_R]
        width = self._width if self.device.type == "cuda" else int(count_R.max())
        place_W = torch.arange(width, device=self.device)
        real_RW = place_W < count_R[:, None]
        return torch.where(real_RW, self._first_N[node_R][:, None] + place_W, NONE), real_RW

    def follow(self, edge: Tensor) -> tuple[Tensor, Tensor]:
        """Token and next node of edges of any shape; NONE for an edge that is not real."""
        return self._token_E[edge], self._following_E[edge]

    def choices(self, node_R: Tensor, close_R: Tensor) -> Tensor:
        """(R, W + 1) tokens allowed at each node, some of them repeated to fill the rows."""
        edge_RW, real_RW = self.edges(node_R)
        some_R = self._token_E[torch.where(self._count_N[node_R] > 0, self._first_N[node_R], NONE)]
        may_close_R = self._leaf_N[node_R] | (some_R == NONE)
        last_R1 = torch.where(may_close_R, close_R, some_R)[:, None]
        return torch.cat([torch.where(real_RW, self._token_E[edge_RW], last_R1), last_R1], dim=1)
