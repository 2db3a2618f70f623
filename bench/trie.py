"""python -m bench.trie: the trie of codes from a thousand to a million tools.

Compares factory.codes.trie with a trie of Python dicts, and in build time, memory and lookup with
marisa-trie (requirements/bench.lock), which is static and cannot say what may follow a prefix.
Memory is that of the arrays with the ids of the tools in them, of the dicts without the ids, and of
marisa-trie's bytes.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.table import best_seconds, print_machine, print_table
from factory.codes.trie import ROOT, Trie

Codes = npt.NDArray[np.int32]
END = 2
LEVELS, SIZE = 3, 512
CHANGES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One way of holding the codes, at one size. Times in microseconds but for the build."""

    way: str
    """What was measured."""
    build_seconds: float
    """To build it from all codes."""
    mib: float
    """Memory that it holds."""
    lookup: float
    """A whole code to its tool."""
    insert: float | None = None
    """Median of adding one code."""
    remove: float | None = None
    """Median of taking one out."""
    allowed: float | None = None
    """What may follow a prefix of one or two tokens."""


def make_codes(num: int, seed: int = 0) -> Codes:
    """(num, LEVELS) distinct codes in random order, in ids of a model's vocabulary."""
    rng = np.random.default_rng(seed)
    numbers = rng.choice(SIZE**LEVELS, num, replace=False)
    levels = [numbers // SIZE**level % SIZE + SIZE * level + 2000 for level in range(LEVELS)]
    return np.stack(levels, axis=1).astype(np.int32)


def build_dicts(codes: Sequence[tuple[int, ...]], ids: Sequence[str]) -> dict[int, Any]:
    """Nested dicts, as most constrained decoders hold their trie."""
    root: dict[int, Any] = {}
    for code, name in zip(codes, ids, strict=True):
        node = root
        for token in code[:-1]:
            node = node.setdefault(token, {})
        node[code[-1]] = {END: name}
    return root


def dicts_mib(root: dict[int, Any]) -> float:
    """Memory of the dicts; tokens and ids are counted with the codes they come from."""
    total, stack = 0, [root]
    while stack:
        node = stack.pop()
        total += sys.getsizeof(node)
        stack += [child for child in node.values() if isinstance(child, dict)]
    return total / 2**20


def each_microseconds(run: Callable[[Any], object], values: Sequence[Any]) -> float:
    """Median microseconds of one call."""
    times = []
    for value in values:
        started = time.perf_counter()
        run(value)
        times.append(time.perf_counter() - started)
    return 1e6 * median(times)


def measure_flat(codes_NL: Codes, ids: list[str], fresh: list[tuple[int, ...]]) -> Measured:
    """factory.codes.trie."""
    build = partial(Trie.build, codes_NL, ids, END)
    seconds, trie = best_seconds(build), build()
    arrays = (trie.first, trie.count, trie.leaf, trie.tokens, trie.following, trie.ids)
    mib = sum(array.nbytes for array in arrays) / 2**20  # ids beyond 15 bytes lie outside
    some = [tuple(code) for code in codes_NL[:CHANGES].tolist()]
    return Measured(
        way="flat arrays (factory)",
        build_seconds=seconds,
        mib=mib,
        lookup=each_microseconds(trie.lookup, some),
        allowed=each_microseconds(
            lambda prefix: trie.allowed(trie.walk(prefix) or ROOT),
            [code[: 1 + row % 2] for row, code in enumerate(some)],
        ),
        insert=each_microseconds(lambda code: trie.insert(code, "t_new"), fresh),
        remove=each_microseconds(trie.remove, fresh),
    )


def measure_dicts(codes_NL: Codes, ids: list[str], fresh: list[tuple[int, ...]]) -> Measured:
    """Nested Python dicts."""
    codes = [tuple(code) for code in codes_NL.tolist()]
    build = partial(build_dicts, codes, ids)
    seconds, root = best_seconds(build, 1), build()
    mib = dicts_mib(root)

    def walk(prefix: tuple[int, ...]) -> dict[int, Any]:
        node = root
        for token in prefix:
            node = node[token]
        return node

    def insert(code: tuple[int, ...]) -> None:
        node = root
        for token in code:
            node = node.setdefault(token, {})
        node[END] = "t_new"

    def remove(code: tuple[int, ...]) -> None:
        path = [root]
        for token in code:
            path.append(path[-1][token])
        del path[-1][END]
        for node, token in zip(path[-2::-1], code[::-1], strict=True):
            if node[token]:
                return
            del node[token]

    some = codes[:CHANGES]
    return Measured(
        way="dicts",
        build_seconds=seconds,
        mib=mib,
        lookup=each_microseconds(lambda code: walk(code)[END], some),
        allowed=each_microseconds(
            lambda prefix: list(walk(prefix)), [c[: 1 + row % 2] for row, c in enumerate(some)]
        ),
        insert=each_microseconds(insert, fresh),
        remove=each_microseconds(remove, fresh),
    )


def measure_marisa(codes_NL: Codes) -> Measured:
    """marisa-trie, a static succinct trie: codes as strings of one character a token."""
    import marisa_trie

    keys = ["".join(map(chr, code)) for code in codes_NL.tolist()]
    build = partial(marisa_trie.Trie, keys)
    seconds, trie = best_seconds(build), build()
    mib = len(trie.tobytes()) / 2**20
    return Measured(
        way="marisa-trie",
        build_seconds=seconds,
        mib=mib,
        lookup=each_microseconds(trie.get, keys[:CHANGES]),
    )


def print_size(num: int, found: list[Measured]) -> None:
    """One table; `ratio` is the build time of a way to ours."""
    ours = found[0]
    print_table(
        f"{num:,} codes of {LEVELS} tokens",
        (
            *("way", "build s", "ratio", "MiB", "lookup µs", "allowed µs"),
            *("insert µs", "remove µs"),
        ),
        [
            (
                one.way,
                one.build_seconds,
                one.build_seconds / ours.build_seconds if one is not ours else None,
                one.mib,
                one.lookup,
                one.allowed,
                one.insert,
                one.remove,
            )
            for one in found
        ],
    )


def main() -> None:
    """Parse the sizes, print a table each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    sizes = [1_000, 10_000, 47_933, 100_000, 1_000_000]
    parser.add_argument("--sizes", type=int, nargs="+", default=sizes)
    options = parser.parse_args()
    print_machine("numpy", "marisa-trie")
    has_marisa = importlib.util.find_spec("marisa_trie") is not None
    if not has_marisa:
        print("marisa-trie is not installed (requirements/bench.lock): left out")
    for num in options.sizes:
        codes = make_codes(num + CHANGES)
        codes_NL, fresh = codes[:num], [tuple(code) for code in codes[num:].tolist()]
        ids = [f"t_{row:012x}" for row in range(num)]
        found = [measure_flat(codes_NL, ids, fresh), measure_dicts(codes_NL, ids, fresh)]
        found += [measure_marisa(codes_NL)] if has_marisa else []
        print_size(num, found)


if __name__ == "__main__":
    main()
