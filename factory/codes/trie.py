"""The trie of codes: flat arrays, shared by the checker, the sampler, the beam and the coder.

A node is an index into `first`, `count` and `leaf`; its children are the edges
`first[node] … first[node] + count[node]`, sorted by token. Node 0 is the root and DEAD (-1) is
where a sequence lands that left the trie. A path ends at a node with `leaf >= 0`: there `end`
(the end-of-turn token) is allowed, and where nothing else is, `end` is all that is allowed
(algorithms §6). Codes may have different lengths and one may be the prefix of another.

A block of edges that is full moves to the end of the arrays when it gets another child, so adding
or removing a code touches its own path only. Numbers are token ids of the model's tokenizer. Only
numpy is needed.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.dtypes import StringDType

from factory.codes.arrays import REMEDY, Code, Ints, load_arrays
from factory.domain.failures import ModelError

ROOT = 0
"""The node that every sequence starts at."""
DEAD = -1
"""The node of a sequence that is no prefix of any code; only `end` is allowed there."""
FINISH = "<<Finish>>"
"""Id of the entry that ends a trajectory instead of naming a tool (ToolGen §3); every sub-trie
keeps it."""
FORMAT = 1
"""Version of the saved file."""

Names = np.ndarray[Any, Any]
"""(N) tool ids; up to 15 bytes each lie in the array itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """The way from each node of a trie back to the root."""

    parent_N: Ints
    """(N) node above; DEAD for the root and for freed nodes."""
    token_N: Ints
    """(N) token that leads here from the node above."""
    node_of_leaf: Ints
    """(leaves) node at which a leaf's code ends."""

    def code_of(self, node: int) -> Code:
        """The tokens that lead to a node."""
        code = []
        while node != ROOT:
            code.append(int(self.token_N[node]))
            node = int(self.parent_N[node])
        return tuple(code[::-1])


class Trie:
    """A set of codes, each with the id of the tool it names.

    Example: trie = Trie.build([(7, 8), (7, 9)], ["t_1", "t_2"], end=2);
    trie.allowed(trie.step(ROOT, 7)) -> [8, 9].
    """

    def __init__(
        self,
        *,
        first: Ints,
        count: Ints,
        leaf: Ints,
        tokens: Ints,
        following: Ints,
        ids: Sequence[str] | Names,
        end: int,
        frozen: bool = False,
    ) -> None:
        self.end = end
        """Token id that closes a code."""
        self.first = first
        """(nodes) index of a node's first edge."""
        self.count = count
        """(nodes) number of a node's children."""
        self.leaf = leaf
        """(nodes) index into `ids` where a code ends, else -1."""
        self.tokens = tokens
        """(edges) token of an edge; unused places between blocks hold no meaning."""
        self.following = following
        """(edges) node that an edge leads to."""
        self.ids: Names = np.asarray(ids, dtype=StringDType())
        """(leaves) tool ids; unused places hold an empty string."""
        self.frozen = frozen
        """True for a grammar: its nodes are shared, so it can neither grow nor shrink."""
        self._num_nodes = len(first)
        self._num_edges = len(tokens)
        self._num_leaves = len(self.ids)
        self._room: dict[int, int] = {}
        self._free_nodes: list[int] = []
        self._free_leaves: list[int] = []
        self._leaves_by_id: dict[str, list[int]] = {}
        self._only_end = np.array([end], dtype=np.int32)

    @classmethod
    def build(
        cls, codes: Sequence[Code] | npt.NDArray[np.integer], ids: Sequence[str], end: int
    ) -> Trie:
        """A trie of N codes, in time O(N L log N), all in numpy.

        Args:
            codes: (N, L) token ids, or N tuples of any length of at least 1.
            ids: N tool ids.
            end: token that closes a code; no code contains it.

        Raises:
            ValueError: a code is empty, negative, contains `end`, or occurs twice.
        """
        codes_NL = _pad(codes)
        if len(codes_NL) != len(ids):
            raise ValueError(f"{len(codes_NL)} codes but {len(ids)} tool ids")
        if (codes_NL == end).any():
            raise ValueError(f"a code contains the end token {end}")
        order = _sort(codes_NL)
        codes_NL = codes_NL[order]
        _refuse_duplicates(codes_NL, order, ids)
        return _arrange(codes_NL, order, ids, end)

    @classmethod
    def grammar(cls, levels: Sequence[Sequence[int]], end: int) -> Trie:
        """Every combination of one token per level, as a chain of len(levels) + 1 shared nodes."""
        if any(len(level) == 0 or end in level for level in levels):
            raise ValueError("a level is empty or contains the end token")
        blocks = [np.unique(np.asarray(level, dtype=np.int32)) for level in levels]
        sizes = np.array([len(block) for block in blocks] + [0], dtype=np.int32)
        nodes = len(sizes)
        leaf = np.full(nodes, -1, dtype=np.int32)
        leaf[-1] = 0
        return cls(
            first=(np.cumsum(sizes) - sizes).astype(np.int32),
            count=sizes,
            leaf=leaf,
            tokens=np.concatenate([*blocks, np.zeros(0, np.int32)]).astype(np.int32),
            following=np.repeat(np.arange(1, nodes + 1, dtype=np.int32), sizes),
            ids=[""],
            end=end,
            frozen=True,
        )

    def __len__(self) -> int:
        """Number of codes; a grammar counts as one."""
        return self._num_leaves - len(self._free_leaves)

    @property
    def num_nodes(self) -> int:
        """Nodes ever made; freed ones are used again."""
        return self._num_nodes

    def measure_depth(self) -> int:
        """Tokens of the longest code."""
        return self._num_nodes - 1 if self.frozen else len(list(self._breadth_first())) - 1

    def _breadth_first(self) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """The nodes of each level, and the edges that lead on from them."""
        nodes = np.zeros(1, np.int64)
        while len(nodes):
            counts = self.count[nodes]
            base = np.repeat(self.first[nodes] - (np.cumsum(counts) - counts), counts)
            edges = base + np.arange(len(base))
            yield nodes, edges
            nodes = self.following[edges].astype(np.int64)

    def children(self, node: int) -> Ints:
        """Tokens that lead on from a node, sorted: a view, valid until the next insert."""
        if node == DEAD:
            return self._only_end[:0]
        start = self.first[node]
        return self.tokens[start : start + self.count[node]]

    def allowed(self, node: int) -> Ints:
        """Token ids that may come next; `[end]` at a leaf and where no code can be reached."""
        tokens = self.children(node)
        if len(tokens) == 0:
            return self._only_end
        return np.append(tokens, self._only_end) if self.leaf[node] >= 0 else tokens

    def step(self, node: int, token: int) -> int:
        """The node after one more token; DEAD for `end` and for everything not allowed."""
        edge = self._edge(node, token)
        return DEAD if edge < 0 else int(self.following[edge])

    def walk(self, tokens: Sequence[int]) -> int | None:
        """The node that a prefix leads to, or None when it is no prefix of any code."""
        node = ROOT
        for token in tokens:
            node = self.step(node, token)
            if node == DEAD:
                return None
        return node

    def is_leaf(self, node: int) -> bool:
        """Whether a code ends here (a longer one may go on)."""
        return node != DEAD and bool(self.leaf[node] >= 0)

    def lookup(self, tokens: Sequence[int]) -> str | None:
        """The tool of a whole code (without `end`); None if there is none, "" in a grammar."""
        node = self.walk(tokens)
        if node is None or not self.is_leaf(node):
            return None
        return str(self.ids[self.leaf[node]])

    def __contains__(self, tokens: Sequence[int]) -> bool:
        return self.lookup(tokens) is not None

    def codes(self) -> Iterator[tuple[Code, str]]:
        """All (code, tool id) in the order of their tokens."""
        stack: list[tuple[int, Code]] = [(ROOT, ())]
        while stack:
            node, prefix = stack.pop()
            if self.leaf[node] >= 0:
                yield prefix, str(self.ids[self.leaf[node]])
            for token in self.children(node)[::-1]:
                stack.append((self.step(node, int(token)), (*prefix, int(token))))

    def insert(self, tokens: Sequence[int], tool_id: str) -> None:
        """Add one code. ValueError if it is taken, empty, contains `end`, or in a grammar."""
        self._refuse_if_frozen()
        code = tuple(map(int, tokens))
        if not code or min(code) < 0 or self.end in code:
            raise ValueError(f"not a code: {code}")
        node, depth = ROOT, 0
        while depth < len(code) and (edge := self._edge(node, code[depth])) >= 0:
            node, depth = int(self.following[edge]), depth + 1
        if depth == len(code) and self.leaf[node] >= 0:
            raise ValueError(f"code {code} is taken by {self.ids[self.leaf[node]]}")
        for token in code[depth:]:
            node = self._add_edge(node, token)
        self.leaf[node] = leaf = self._new_leaf()
        self.ids[leaf] = tool_id
        if self._leaves_by_id:
            self._leaves_by_id.setdefault(tool_id, []).append(leaf)

    def remove(self, tokens: Sequence[int]) -> str:
        """Take one code out and return its tool id. KeyError if it is not there."""
        self._refuse_if_frozen()
        path, edges = [ROOT], []
        for token in tokens:
            edges.append(self._edge(path[-1], int(token)))
            if edges[-1] < 0:
                raise KeyError(tuple(tokens))
            path.append(int(self.following[edges[-1]]))
        leaf = int(self.leaf[path[-1]])
        if leaf < 0:
            raise KeyError(tuple(tokens))
        tool_id, self.ids[leaf] = str(self.ids[leaf]), ""
        if self._leaves_by_id:
            self._leaves_by_id[tool_id].remove(leaf)
        self._free_leaves.append(leaf)
        self.leaf[path[-1]] = -1
        for parent, edge, node in zip(path[-2::-1], edges[::-1], path[:0:-1], strict=True):
            if self.count[node] or self.leaf[node] >= 0:
                break
            self._drop_edge(parent, edge)
            self._free_nodes.append(node)
        return tool_id

    def only(self, tool_ids: Collection[str]) -> Trie:
        """The sub-trie of some tools and of FINISH: in-domain, ground truth or live catalogue.

        ValueError where a tool has no code here, and for a grammar.
        """
        self._refuse_if_frozen()
        if not self._leaves_by_id:
            for place, name in enumerate(self.ids[: self._num_leaves].tolist()):
                self._leaves_by_id.setdefault(name, []).append(place)
            for place in self._free_leaves:
                self._leaves_by_id[""].remove(place)
        found = self._leaves_by_id
        if missing := sorted(name for name in tool_ids if not found.get(name)):
            raise ValueError(f"{len(missing)} tools have no code: {', '.join(missing[:3])}")
        leaves = [leaf for name in {*tool_ids, FINISH} for leaf in found.get(name, ())]
        family = self.family()
        codes = [family.code_of(int(node)) for node in family.node_of_leaf[leaves]]
        return Trie.build(codes, [str(self.ids[leaf]) for leaf in leaves], self.end)

    def family(self) -> Family:
        """The way back up, as it is now. ValueError for a grammar, where ways meet."""
        self._refuse_if_frozen()
        nodes_N = np.arange(self._num_nodes, dtype=np.int32)
        counts_N, leaf_N = self.count[: self._num_nodes], self.leaf[: self._num_nodes]
        starts_N = self.first[: self._num_nodes] - (np.cumsum(counts_N) - counts_N)
        edges_E = np.repeat(starts_N, counts_N) + np.arange(counts_N.sum())
        parent_N, token_N = np.full_like(nodes_N, DEAD), np.full_like(nodes_N, -1)
        parent_N[self.following[edges_E]] = np.repeat(nodes_N, counts_N)
        token_N[self.following[edges_E]] = self.tokens[edges_E]
        node_of_leaf = np.full(self._num_leaves, DEAD, dtype=np.int32)
        node_of_leaf[leaf_N[leaf_N >= 0]] = nodes_N[leaf_N >= 0]
        return Family(parent_N=parent_N, token_N=token_N, node_of_leaf=node_of_leaf)

    def compact(self) -> Trie:
        """The same codes without unused places: equal sets of codes give equal arrays."""
        if self.frozen:
            return self
        order_M, edges_E = map(np.concatenate, zip(*self._breadth_first(), strict=True))
        leaf_M = self.leaf[order_M]
        ends_M = leaf_M >= 0
        renamed_M = np.where(ends_M, np.cumsum(ends_M) - 1, -1)
        return _flat(
            self.tokens[edges_E], self.count[order_M], renamed_M, self.ids[leaf_M[ends_M]], self.end
        )

    def save(self, path: str | Path) -> None:
        """Write one .npz file, atomically; the same codes give the same bytes."""
        target = Path(path)
        trie = self.compact()
        text = np.frombuffer(json.dumps(trie.ids.tolist()).encode(), dtype=np.uint8)
        scalars = np.array([FORMAT, trie.end, int(trie.frozen)], dtype=np.int32)
        partial = target.with_name(target.name + ".tmp")
        with partial.open("wb") as file:
            np.savez(
                file,
                header=scalars,
                **{name: getattr(trie, name) for name in _ARRAYS},
                ids=text,
            )
        os.replace(partial, target)

    @classmethod
    def load(cls, path: str | Path) -> Trie:
        """Read a saved trie. ModelError if the file is missing or is not one."""
        arrays = load_arrays(Path(path), ("header", "ids", *_ARRAYS))
        version, end, frozen = (int(value) for value in arrays["header"])
        if version != FORMAT:
            raise ModelError(
                f"the trie of codes has format {version}, this version reads {FORMAT}",
                where=str(path),
                remedy=REMEDY,
            )
        return cls(
            **{name: arrays[name] for name in _ARRAYS},
            ids=json.loads(arrays["ids"].tobytes()),
            end=end,
            frozen=bool(frozen),
        )

    def _edge(self, node: int, token: int) -> int:
        """Index of the edge that a token takes from a node, or -1."""
        if node == DEAD:
            return -1
        start = int(self.first[node])
        stop = start + int(self.count[node])
        place = bisect_left(self.tokens, token, start, stop)
        return place if place < stop and self.tokens[place] == token else -1

    def _refuse_if_frozen(self) -> None:
        if self.frozen:
            raise ValueError("a grammar can neither grow nor shrink")

    def _add_edge(self, node: int, token: int) -> int:
        """Put a new child into a node's block (kept sorted) and return it."""
        child = self._new_node()
        size = int(self.count[node])
        if size == self._room.get(node, size):
            self._move_block(node, size)
        start = int(self.first[node])
        stop = start + size
        place = bisect_left(self.tokens, token, start, stop)
        for array, value in ((self.tokens, token), (self.following, child)):
            if place < stop:
                array[place + 1 : stop + 1] = array[place:stop]
            array[place] = value
        self.count[node] = size + 1
        return child

    def _drop_edge(self, node: int, edge: int) -> None:
        """Take an edge out of a node's block; the block keeps its room."""
        size = int(self.count[node])
        last = int(self.first[node]) + size - 1
        if edge < last:
            for array in (self.tokens, self.following):
                array[edge:last] = array[edge + 1 : last + 1]
        self._room.setdefault(node, size)
        self.count[node] = size - 1

    def _new_node(self) -> int:
        if self._free_nodes:
            return self._free_nodes.pop()
        node = self._num_nodes
        if node == len(self.first):
            self.first, self.count, self.leaf = map(_grow, (self.first, self.count, self.leaf))
        self.first[node] = self.count[node] = 0
        self.leaf[node] = -1
        self._num_nodes += 1
        return node

    def _new_leaf(self) -> int:
        if self._free_leaves:
            return self._free_leaves.pop()
        if self._num_leaves == len(self.ids):
            self.ids = _grow(self.ids)
        self._num_leaves += 1
        return self._num_leaves - 1

    def _move_block(self, node: int, size: int) -> None:
        """Move a full block to the end of the edges, with room for as many again."""
        start, room, target = int(self.first[node]), max(2, 2 * size), self._num_edges
        while target + room > len(self.tokens):
            self.tokens, self.following = _grow(self.tokens), _grow(self.following)
        self.tokens[target : target + size] = self.tokens[start : start + size]
        self.following[target : target + size] = self.following[start : start + size]
        self.first[node], self._room[node] = target, room
        self._num_edges += room


_ARRAYS = ("first", "count", "leaf", "tokens", "following")


def _pad(codes: Sequence[Code] | npt.NDArray[np.integer]) -> Ints:
    """(N, L) codes; shorter ones are filled up with -1."""
    if isinstance(codes, np.ndarray):
        padded = codes.astype(np.int32)
        if padded.ndim != 2 or (len(padded) and (padded.shape[1] == 0 or padded.min() < 0)):
            raise ValueError("codes must be an (N, L) array of token ids, L at least 1")
        return padded
    lengths = np.fromiter((len(code) for code in codes), dtype=np.int64, count=len(codes))
    if len(codes) == 0:
        return np.zeros((0, 1), dtype=np.int32)
    if lengths.min() == 0 or min(min(code) for code in codes) < 0:
        raise ValueError("a code is empty or holds a negative number")
    padded = np.full((len(codes), int(lengths.max())), -1, dtype=np.int32)
    inside = np.arange(padded.shape[1]) < lengths[:, None]
    padded[inside] = np.fromiter(
        (token for code in codes for token in code), dtype=np.int32, count=int(lengths.sum())
    )
    return padded


def _sort(codes_NL: Ints) -> npt.NDArray[np.int64]:
    """The order of the codes; as one number each where they fit into 63 bits, which is faster."""
    if len(codes_NL) == 0:
        return np.zeros(0, dtype=np.int64)
    lows_L = codes_NL.min(axis=0)
    bits_L = [int(span).bit_length() for span in codes_NL.max(axis=0) - lows_L]
    if sum(bits_L) > 63:
        by_column: npt.NDArray[np.int64] = np.lexsort(codes_NL.T[::-1])
        return by_column
    keys_N = np.zeros(len(codes_NL), dtype=np.int64)
    for column, low, bits in zip(codes_NL.T, lows_L, bits_L, strict=True):
        keys_N = (keys_N << bits) | (column - low)
    return np.argsort(keys_N, kind="stable")


def _refuse_duplicates(codes_NL: Ints, order: npt.NDArray[np.int64], ids: Sequence[str]) -> None:
    same = (codes_NL[1:] == codes_NL[:-1]).all(axis=1)
    if same.any():
        row = int(same.argmax())
        names = ids[order[row]], ids[order[row + 1]]
        raise ValueError(f"{names[0]} and {names[1]} share the code {codes_NL[row].tolist()}")


def _arrange(codes_NL: Ints, order: npt.NDArray[np.int64], ids: Sequence[str], end: int) -> Trie:
    """Number the nodes of sorted codes breadth first; `order` says whose code each row is."""
    num_codes, num_levels = codes_NL.shape
    lengths = (codes_NL >= 0).sum(axis=1)
    node_N = np.zeros(num_codes, dtype=np.int64)
    opens_N = np.zeros(num_codes, dtype=bool)
    opens_N[:1] = True
    tokens, parents, num_nodes = [], [], 1
    end_node_N = np.zeros(num_codes, dtype=np.int64)
    for level in range(num_levels):
        column = codes_NL[:, level]
        opens_N[1:] |= column[1:] != column[:-1]
        news = opens_N & (column >= 0)
        tokens.append(column[news])
        parents.append(node_N[news])
        node_N = num_nodes - 1 + np.cumsum(news)
        num_nodes += len(tokens[-1])
        ends = lengths == level + 1
        end_node_N[ends] = node_N[ends]
    counts = np.bincount(np.concatenate(parents), minlength=num_nodes)
    leaf = np.full(num_nodes, -1, dtype=np.int32)
    leaf[end_node_N] = order
    return _flat(np.concatenate(tokens), counts, leaf, ids, end)


def _flat(
    tokens: Ints,
    counts: npt.NDArray[np.integer],
    leaf: npt.NDArray[np.integer],
    ids: Sequence[str] | Names,
    end: int,
) -> Trie:
    """Breadth first, edge e leads to node e + 1 and blocks follow each other in node order."""
    return Trie(
        first=(np.cumsum(counts) - counts).astype(np.int32),
        count=counts.astype(np.int32),
        leaf=leaf.astype(np.int32, copy=False),
        tokens=tokens.astype(np.int32, copy=False),
        following=np.arange(1, len(tokens) + 1, dtype=np.int32),
        ids=ids,
        end=end,
    )


def _grow(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A copy with half as much room again."""
    grown = np.zeros(len(array) * 3 // 2 + 16, dtype=array.dtype)
    grown[: len(array)] = array
    return grown
