"""What a coder is: it gives every tool a code, and new tools theirs without learning again.

A code is a tuple of numbers, one a position. How it reads as text is its coder's layout: tokens of
its own (`<a_1><b_7>`), digits (`0 1 7`) or a name. Most coders look at embeddings of the tools'
documents; of the published baselines some look at nothing but the order of the tools, one at names.

Shape suffixes: N tools, V embeddings of a tool, D model width, d reduced width, P positions,
K numbers of a position.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from factory.codes.arrays import Code, Floats

if TYPE_CHECKING:
    from factory.codes.graph import Graph


OnProgress: TypeAlias = Callable[[int, str, int], None]
"""Hears of long work: steps done, what they came to, and steps in all at most."""


Layout = Literal["tokens", "digits", "name"]
"""`tokens`: added to the vocabulary, one a position; `digits`: one a position, spaced; `name`: the
code is the bytes of a name."""


ResolvedBy = Literal["nearest", "sibling", "prefix"]
"""`nearest`: the coder's own choice; `sibling`: another last number; `prefix`: another prefix."""


CHUNK = 4096
"""Rows whose distances are computed at once: bounds memory, changes no result."""


def silent(done: int, detail: str, total: int) -> None:
    """Progress that nobody wants to hear of."""


class Taken:
    """Codes in use, by prefix."""

    def __init__(self, codes: Iterable[Code] = ()) -> None:
        self._last: defaultdict[Code, set[int]] = defaultdict(set)
        self._num = 0
        for code in codes:
            self.add(code)

    def add(self, code: Code) -> None:
        self._last[code[:-1]].add(code[-1])
        self._num += 1

    def __contains__(self, code: Code) -> bool:
        return code[-1] in self._last.get(code[:-1], ())

    def __len__(self) -> int:
        return self._num

    def free(self, prefix: Code, size: int) -> npt.NDArray[np.int64]:
        """Last numbers not in use after a prefix."""
        used = self._last.get(prefix, set())
        return np.array([number for number in range(size) if number not in used], dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Codes given to N tools, all different from each other and from those taken before."""

    codes: tuple[Code, ...]
    """Each tool's code."""
    wanted: tuple[Code, ...]
    """The codes the tools would have had, had none been taken."""
    resolved_by: tuple[ResolvedBy, ...]
    """(N) how each tool came to its code."""
    error_N: Floats
    """Distance to the first position's centroid, in the coder's space (A38); 0 without one."""
    penalty_N: Floats
    """(N) how much more of the document the code leaves than the nearest one; 0 if not moved."""

    @property
    def moved(self) -> int:
        """Tools that are not on their nearest code."""
        return sum(how != "nearest" for how in self.resolved_by)

    @property
    def collisions(self) -> int:
        """Tools beyond the first that wanted the same code."""
        return len(self.wanted) - len(set(self.wanted))


class Coder(Protocol):
    """A way to give codes to tools. Embeddings are (N, V, D), float."""

    name: ClassVar[str]
    """The recipe's word for it."""
    layout: ClassVar[Layout]
    """How its codes read."""
    reads_documents: ClassVar[bool]
    """Whether it looks at embeddings; else they may have any width, 0 too."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """(P) how many numbers each position has; for codes of no fixed length, of the longest."""
        ...

    def fit(self, embeddings_NVD: Floats, *, seed: int, graph: Graph | None = None) -> None:
        """Learn from these tools; `graph` says which of them are used together."""
        ...

    def assign(self, names: Sequence[str], embeddings_NVD: Floats, taken: Taken) -> Assignment:
        """Give N tools codes; these are added to `taken`. InputError where none is left."""
        ...

    def reserve(self, taken: Taken) -> Code:
        """A code that no tool gets, added to `taken`, once the fitted tools have theirs.

        InputError where none is left.
        """
        ...

    def refresh(self, embeddings_NVD: Floats, codes: Sequence[Code], *, seed: int) -> None:
        """Move to a trained model's space; every tool keeps its code, every number its members."""
        ...

    def nearest(self, embeddings_NVD: Floats, codes: Sequence[Code]) -> npt.NDArray[np.bool_]:
        """(N) whether each tool's code is the one it would have, had none been taken."""
        ...

    def save(self, path: Path) -> None:
        """Write one .npz file."""
        ...
