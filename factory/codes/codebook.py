"""The codebook of a checkpoint: which tool has which code, and what a text names by one.

A codebook does not change: growing.py and recoding.py make another one of it, saving.py gives it
files. Its version changes when its tools are given other codes (`recode`), not when tools are added
or the coder follows the model into another space. Texts are stored with tool ids, so what an old
round learnt reads the same from its own checkpoint's codes.

One code ends a trajectory instead of naming a tool (Finish, §3.4). No tool gets it, and it is not
in the trie of all tools, so retrieval cannot return it. In texts its id is FINISH.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from factory.codes.arrays import Code
from factory.codes.base import Coder, ResolvedBy
from factory.codes.spelling import Spelling, make_spelling
from factory.codes.trie import FINISH
from factory.domain.canon import canonical_json
from factory.domain.records import Tool

Fresh: TypeAlias = Sequence[Collection[int]]
"""By position, numbers whose tokens are new or mean something else now: they want rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCode:
    """A tool and its code. Example: ToolCode(tool=Tool(id="t_91…", …), code=(1, 7, 0), …)."""

    tool: Tool
    code: Code
    """Number at each position."""
    resolved_by: ResolvedBy
    """How it came to this code (factory.codes.assign)."""
    error: float
    """Distance to the first position's centroid when the code was given."""
    ood: bool
    """Too far out for this codebook: the code stands, but is not trained on (A38)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What fitting, adding and refreshing found."""

    collisions_before: int
    """Tools beyond the first on one nearest code, when the codebook was fitted."""
    moved: int
    """Tools that are not on their nearest code, those added later included."""
    penalty: float
    """Mean of what moving cost, over the moved tools of the fit, in the coder's distance."""
    usage_entropy: tuple[float, ...]
    """Bits of each position's use over all tools; log2 of its size is even use."""
    outlier_error: float
    """OUTLIER_PERCENTILE of the tools' first-position errors, in the coder's present space."""
    reencoded: float
    """Share of tools whose nearest code, in the coder's present space, is the stored one."""
    fitted: int = 0
    """Tools that the codebook was fitted on; 0 where that was not recorded."""
    age: int = 0
    """Trainings since the fit."""
    pairs: int | None = None
    """Pairs of tools that are used together, as the fit saw them; None where it looked at none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Codebook:
    """Tools with their codes, and the coder that gave them.

    Example: load_codebook(Path("checkpoints/r1")).tool_of("<a_1><b_7><c_0>").name.
    """

    tools: tuple[ToolCode, ...]
    """In the order they came in."""
    coder: Coder
    """What gives codes to documents."""
    report: Report
    finish: Code | None = None
    """The code of Finish; None where it was made without, or none was left."""
    version: int = 1
    """Changes when known tools are given other codes."""
    embedder: str = ""
    """What embeds the documents (codes.embedder)."""
    views: int = 0
    """Gist states of a document; 0 where it was not compressed (codes.gist.views)."""

    @cached_property
    def _entries(self) -> dict[str, ToolCode]:
        return {entry.tool.id: entry for entry in self.tools}

    @cached_property
    def _ids(self) -> dict[Code, str]:
        return {entry.code: entry.tool.id for entry in self.tools}

    @cached_property
    def spelling(self) -> Spelling:
        """How its codes read."""
        return make_spelling(self.coder)

    @property
    def tokens(self) -> list[list[str]]:
        """Code tokens by position; none where codes read as digits or names."""
        return self.spelling.tokens

    @property
    def num_levels(self) -> int:
        """Positions of the longest code."""
        return len(self.tokens) or max(map(len, self._ids), default=0)

    @cached_property
    def tool_ids(self) -> tuple[str, ...]:
        """Ids of all tools, in the order they came in."""
        return tuple(self._entries)

    @cached_property
    def codes(self) -> list[Code]:
        """All tools' codes, in that order."""
        return [entry.code for entry in self.tools]

    @cached_property
    def outliers(self) -> frozenset[str]:
        """Ids of the tools that wait for the next codebook (A38)."""
        return frozenset(entry.tool.id for entry in self.tools if entry.ood)

    def __len__(self) -> int:
        return len(self.tools)

    def __contains__(self, tool_id: str) -> bool:
        return tool_id in self._entries

    def entry_of(self, tool_id: str) -> ToolCode:
        """A tool with its code. KeyError for a tool without one."""
        return self._entries[tool_id]

    def code_of(self, tool_id: str) -> Code:
        """A tool's code. KeyError for a tool without one."""
        return self._entries[tool_id].code

    def code_text(self, tool_id: str) -> str:
        """A tool's code as text, `<a_1><b_7><c_0>`. KeyError for a tool without a code."""
        if tool_id == FINISH and self.finish is not None:
            return self.text_of(self.finish)
        return self.text_of(self.code_of(tool_id))

    def text_of(self, code: Code) -> str:
        """A code as the model writes it."""
        return self.spelling.write(code)

    def parse(self, text: str) -> Code | None:
        """The code that a text spells, and nothing else; else None."""
        return self.spelling.read(text)

    def tool_of(self, text: str) -> Tool | None:
        """The tool that a text names by its code; None for no code and for a free one."""
        code = self.parse(text)
        tool_id = self._ids.get(code) if code is not None else None
        return None if tool_id is None else self._entries[tool_id].tool

    def similar(self, tool_id: str, limit: int) -> list[tuple[ToolCode, int]]:
        """The tools whose codes differ least from a tool's, with the positions that differ.

        KeyError for a tool without a code. ValueError where codes say nothing of documents.
        """
        if not self.coder.reads_documents:
            raise ValueError(f"{self.coder.name} codes say nothing of documents")
        code = self.code_of(tool_id)
        others = (entry for entry in self.tools if entry.tool.id != tool_id)
        differing = [(entry, _hamming(code, entry.code)) for entry in others]
        return sorted(differing, key=lambda pair: (pair[1], pair[0].tool.id))[:limit]

    def summary(self) -> dict[str, Any]:
        """A codebook in figures: what the ledger keeps of it."""
        return {
            "version": self.version,
            "coder": self.coder.name,
            "levels": self.num_levels,
            "size": max(self.coder.sizes, default=0),
            "num_tools": len(self),
            "collisions_before": self.report.collisions_before,
            "moved": self.report.moved,
            "penalty": self.report.penalty,
            "outlier_error": self.report.outlier_error,
            "reencoded": self.report.reencoded,
            "usage_entropy": float(np.mean(self.report.usage_entropy or (0.0,))),
            "sha": self.sha(),
        }

    def sha(self) -> str:
        """SHA-256 over the code tokens and every tool's code, in the order they came in."""
        codes = [[entry.tool.id, *entry.code] for entry in self.tools]
        text = canonical_json({"tokens": self.tokens, "version": self.version, "codes": codes})
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    def taken(self) -> Iterator[Code]:
        """Codes that no further tool may get."""
        yield from self.codes
        if self.finish is not None:
            yield self.finish


def _hamming(a: Code, b: Code) -> int:
    """Positions that differ; one that only the longer code has differs."""
    return abs(len(a) - len(b)) + sum(x != y for x, y in zip(a, b, strict=False))
