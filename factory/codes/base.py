"""What a coder is: it gives every tool a code, and new tools theirs without learning again.

A code is a tuple of numbers, one a position. How it reads as text is its coder's layout: tokens of
its own (`<a_1><b_7>`), digits (`0 1 7`) or a name. Most coders look at embeddings of the tools'
documents; of the published baselines some look at nothing but the order of the tools, one at names.

Shape suffixes: N tools, V embeddings of a tool, D model width, d reduced width, P positions,
K numbers of a position.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from factory.codes.arrays import Code, Floats
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


@dataclass(frozen=True, slots=True)
class Seen:
    """What a coder sees of N tools. Example: coder.fit(Seen(embeddings_NVD, seed=3))."""

    embeddings_NVD: Floats
    """Of their documents; of any width, 0 too, for a coder that reads none."""
    names: Sequence[str] = ()
    """As codes may spell them."""
    graph: Graph | None = None
    """Which of them are used together."""
    seed: int = 0
    """Of everything random in learning."""

    def __len__(self) -> int:
        return len(self.embeddings_NVD)

    def only(self, row: int) -> Seen:
        """One of them, as a coder sees it that is fitted."""
        one = slice(row, row + 1)
        return Seen(self.embeddings_NVD[one], self.names[one])


class Renaming(NamedTuple):
    """What numbers are called once they take those of an older coder."""

    names_PK: list[npt.NDArray[np.int64]]
    """New number of each number, by position."""
    kept_PK: list[npt.NDArray[np.bool_]]
    """Whether it shares a tool with the old number of that name: its token means the same."""


class Coder(ABC):
    """A way to give codes to tools; by default one that looks at no document and learns nothing."""

    name: ClassVar[str]
    """The recipe's word for it."""
    layout: ClassVar[Layout]
    """How its codes read."""
    reads_documents: ClassVar[bool] = False
    """Whether it looks at embeddings."""
    proposes: ClassVar[bool] = False
    """Whether a number says the same of a document wherever it stands: a model can then propose
    codes for new documents (A39), and keep what it has learnt of a number (A41)."""
    own_finish: ClassVar[bool] = False
    """Whether Finish has a token that no tool's code has, and so a row of its own."""
    levels: int = 1
    """Positions of an embedding (L); a row of level l is what the rows before leave."""

    @property
    @abstractmethod
    def sizes(self) -> tuple[int, ...]:
        """(P) how many numbers each position has; for codes of no fixed length, of the longest."""

    @property
    def width(self) -> int | None:
        """Numbers of a document's embeddings (V x D) that it was fitted on; None: it reads none."""
        return None

    def fit(self, documents: Seen) -> None:  # noqa: B027 - by default nothing is learnt
        """Learn from these tools."""

    @abstractmethod
    def assign(self, documents: Seen, taken: Taken) -> Assignment:
        """Give N tools codes; these are added to `taken`. InputError where none is left."""

    @abstractmethod
    def reserve(self, taken: Taken) -> Code:
        """A code that no tool gets, added to `taken`, once the fitted tools have theirs.

        InputError where none is left.
        """

    def refresh(self, documents: Seen, codes: Sequence[Code]) -> None:  # noqa: B027
        """Move to a trained model's space; every tool keeps its code, every number its members."""

    def nearest(self, documents: Seen, codes: Sequence[Code]) -> npt.NDArray[np.bool_]:
        """(N) whether each tool's code is the one it would have, had none been taken."""
        assert len(documents) == len(codes)
        return np.ones(len(codes), dtype=np.bool_)

    def first_errors(self, documents: Seen) -> Floats:
        """(N) distances to the first position's centroids (A38); 0 without any."""
        return np.zeros(len(documents))

    def rows(self, documents: Seen, codes: Sequence[Code]) -> list[Floats] | None:
        """P arrays (K, D) of tokens' rows, of the documents; None where names make them (A20)."""
        return None

    def unexplained(self, documents: Seen, codes: Sequence[Code]) -> float | None:
        """Share of the documents' variance that whole codes leave; None where none is explained."""
        return None

    def take_names(
        self, documents: Seen, codes: Sequence[Code], known: Mapping[int, Code]
    ) -> Renaming | None:
        """Renumber itself as the old codes of `known` rows have it; None where it cannot."""
        return None

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write one .npz file."""

    @classmethod
    @abstractmethod
    def load(cls, path: Path) -> Self:
        """Read a saved coder. ModelError if the file is missing or is not one."""
