"""The trie of codes: flat arrays, shared by the checker, the sampler and the coder.

A node is an index into `first`, `count` and `leaf`; its children are the edges
`first[node] … first[node] + count[node]`, sorted by token. Node 0 is the root and DEAD (-1) is
where a sequence lands that left the trie. A path ends at a node with `leaf >= 0`: there `end`
(the end-of-turn token) is allowed, and where nothing else is, `end` is all that is allowed
(algorithms §6). Codes may have different lengths and one may be the prefix of another.

Numbers are token ids of the model's tokenizer. Only numpy is needed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from factory.codes.base import REMEDY, Code, Ints, load_arrays
from factory.failures import ModelError

ROOT = 0
"""The node that every sequence starts at."""
DEAD = -1
"""The node of a sequence that is no prefix of any code; only `end` is allowed there."""
FORMAT = 1
"""Version of the saved file."""


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
        ids: list[str],
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
        self.ids = ids
        """Tool ids, by leaf index; freed places hold an empty string."""
        self.frozen = frozen
        """True for a grammar: its nodes are shared, so it can neither grow nor shrink."""
        self._room = count.copy()
        self._num_nodes = len(first)
        self._num_edges = len(tokens)
        self._free_nodes: list[int] = []
        self._free_leaves: list[int] = []
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
        order = np.lexsort(codes_NL.T[::-1]) if len(codes_NL) else np.zeros(0, np.int64)
        codes_NL = codes_NL[order]
        _refuse_duplicates(codes_NL, order, ids)
        return _arrange(codes_NL, [ids[row] for row in order], end)

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
        return len(self.ids) - len(self._free_leaves)

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
        return self.ids[self.leaf[node]] if node is not None and self.is_leaf(node) else None

    def __contains__(self, tokens: Sequence[int]) -> bool:
        return self.lookup(tokens) is not None

    def codes(self) -> Iterator[tuple[Code, str]]:
        """All (code, tool id) in the order of their tokens."""
        stack: list[tuple[int, Code]] = [(ROOT, ())]
        while stack:
            node, prefix = stack.pop()
            if self.leaf[node] >= 0:
                yield prefix, self.ids[self.leaf[node]]
            for token in self.children(node)[::-1]:
                stack.append((self.step(node, int(token)), (*prefix, int(token))))

    def insert(self, tokens: Sequence[int], tool_id: str) -> None:
        """Add one code. ValueError if it is taken, empty, contains `end`, or in a grammar."""
        self._refuse_if_frozen()
        code = tuple(int(token) for token in tokens)
        if not code or min(code) < 0 or self.end in code:
            raise ValueError(f"not a code: {code}")
        if self.lookup(code) is not None:
            raise ValueError(f"code {code} is taken by {self.lookup(code)}")
        node = ROOT
        for token in code:
            following = self.step(node, token)
            node = self._add_edge(node, token) if following == DEAD else following
        if self._free_leaves:
            self.leaf[node] = self._free_leaves.pop()
            self.ids[self.leaf[node]] = tool_id
        else:
            self.leaf[node] = len(self.ids)
            self.ids.append(tool_id)

    def remove(self, tokens: Sequence[int]) -> str:
        """Take one code out and return its tool id. KeyError if it is not there."""
        self._refuse_if_frozen()
        path = [ROOT]
        for token in tokens:
            path.append(self.step(path[-1], int(token)))
            if path[-1] == DEAD:
                raise KeyError(tuple(tokens))
        leaf = int(self.leaf[path[-1]])
        if leaf < 0:
            raise KeyError(tuple(tokens))
        tool_id, self.ids[leaf] = self.ids[leaf], ""
        self._free_leaves.append(leaf)
        self.leaf[path[-1]] = -1
        for parent, token, node in zip(path[-2::-1], tokens[::-1], path[:0:-1], strict=True):
            if self.count[node] or self.leaf[node] >= 0:
                break
            self._drop_edge(parent, int(token))
            self._free_nodes.append(node)
        return tool_id

    def compact(self) -> Trie:
        """The same codes without unused places: equal sets of codes give equal arrays."""
        if self.frozen:
            return self
        nodes = np.zeros(1, np.int64)
        order, edges = [nodes], []
        while len(nodes):
            counts = self.count[nodes]
            base = np.repeat(self.first[nodes] - (np.cumsum(counts) - counts), counts)
            edges.append(base + np.arange(len(base)))
            nodes = self.following[edges[-1]].astype(np.int64)
            order.append(nodes)
        order_M, edges_E = np.concatenate(order), np.concatenate(edges)
        return _from_breadth_first(
            self.tokens[edges_E],
            self.count[order_M],
            [self.ids[leaf] if leaf >= 0 else None for leaf in self.leaf[order_M]],
            self.end,
        )

    def save(self, path: str | Path) -> None:
        """Write one .npz file, atomically; the same codes give the same bytes."""
        target = Path(path)
        trie = self.compact()
        text = np.frombuffer(json.dumps(trie.ids).encode(), dtype=np.uint8)
        scalars = np.array([FORMAT, trie.end, int(trie.frozen)], dtype=np.int32)
        partial = target.with_name(target.name + ".tmp")
        with partial.open("wb") as file:
            np.savez(
                file,
                header=scalars,
                first=trie.first,
                count=trie.count,
                leaf=trie.leaf,
                tokens=trie.tokens,
                following=trie.following,
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
        tokens = self.children(node)
        place = int(tokens.searchsorted(token))
        if place == len(tokens) or tokens[place] != token:
            return -1
        return int(self.first[node]) + place

    def _refuse_if_frozen(self) -> None:
        if self.frozen:
            raise ValueError("a grammar can neither grow nor shrink")

    def _add_edge(self, node: int, token: int) -> int:
        """Put a new child into a node's block (kept sorted) and return it."""
        child = self._new_node()
        if self.count[node] == self._room[node]:
            self._move_block(node)
        start, size = int(self.first[node]), int(self.count[node])
        place = start + int(self.tokens[start : start + size].searchsorted(token))
        for array, value in ((self.tokens, token), (self.following, child)):
            array[place + 1 : start + size + 1] = array[place : start + size]
            array[place] = value
        self.count[node] += 1
        return child

    def _drop_edge(self, node: int, token: int) -> None:
        edge, last = self._edge(node, token), int(self.first[node] + self.count[node]) - 1
        for array in (self.tokens, self.following):
            array[edge:last] = array[edge + 1 : last + 1]
        self.count[node] -= 1

    def _new_node(self) -> int:
        if self._free_nodes:
            return self._free_nodes.pop()
        node = self._num_nodes
        if node == len(self.first):
            self.first = _grow(self.first, node + 1)
            self.count = _grow(self.count, node + 1)
            self._room = _grow(self._room, node + 1)
            self.leaf = _grow(self.leaf, node + 1)
        self.first[node] = self.count[node] = self._room[node] = 0
        self.leaf[node] = -1
        self._num_nodes += 1
        return node

    def _move_block(self, node: int) -> None:
        """Move a full block to the end of the edges, with twice its room."""
        start, size = int(self.first[node]), int(self.count[node])
        room, target = max(2, 2 * size), self._num_edges
        if target + room > len(self.tokens):
            self.tokens = _grow(self.tokens, target + room)
            self.following = _grow(self.following, target + room)
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


def _refuse_duplicates(codes_NL: Ints, order: npt.NDArray[np.int64], ids: Sequence[str]) -> None:
    same = (codes_NL[1:] == codes_NL[:-1]).all(axis=1)
    if same.any():
        row = int(same.argmax())
        names = ids[order[row]], ids[order[row + 1]]
        raise ValueError(f"{names[0]} and {names[1]} share the code {codes_NL[row].tolist()}")


def _arrange(codes_NL: Ints, ids: list[str], end: int) -> Trie:
    """Number the nodes of sorted codes breadth first."""
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
    order = np.argsort(end_node_N)
    leaf = np.full(num_nodes, -1, dtype=np.int32)
    leaf[end_node_N[order]] = np.arange(num_codes)
    return _flat(np.concatenate(tokens), counts, leaf, [ids[row] for row in order], end)


def _from_breadth_first(tokens: Ints, counts: Ints, names: list[str | None], end: int) -> Trie:
    """A trie from its edges in breadth-first order; `names` has None where no code ends."""
    ends = np.array([name is not None for name in names], dtype=bool)
    leaf = np.where(ends, np.cumsum(ends) - 1, -1).astype(np.int32)
    return _flat(tokens, counts, leaf, [name for name in names if name is not None], end)


def _flat(
    tokens: Ints, counts: npt.NDArray[np.integer], leaf: Ints, ids: list[str], end: int
) -> Trie:
    """Breadth first, edge e leads to node e + 1 and blocks follow each other in node order."""
    return Trie(
        first=(np.cumsum(counts) - counts).astype(np.int32),
        count=counts.astype(np.int32),
        leaf=leaf,
        tokens=tokens.astype(np.int32),
        following=np.arange(1, len(tokens) + 1, dtype=np.int32),
        ids=ids,
        end=end,
    )


def _grow(array: Ints, size: int) -> Ints:
    """A copy with room for at least `size` values, growing by half."""
    grown = np.zeros(max(size, len(array) * 3 // 2 + 16), dtype=array.dtype)
    grown[: len(array)] = array
    return grown
