"""A beam over a trie for an engine that tells the log-probabilities of a few tokens after a prompt.

The same search as factory.engines.beam makes with a model at hand, without proof of exactness.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from factory.codes.arrays import Code
from factory.codes.trie import ROOT, Trie


class Branch(NamedTuple):
    """A prefix of codes. Example: Branch(score=-0.3, code=(2061,), node=4)."""

    score: float
    """Log-probability that the model writes it."""
    code: Code
    node: int
    """Where it stands in the trie."""


class Beam:
    """The likeliest codes of one prompt: `take` what the engine says to `asked`, until it is empty.

    Example: beam = Beam(trie, 4); beam.take([{2061: -0.3, 2064: -1.9}]).
    """

    def __init__(self, trie: Trie, width: int) -> None:
        self.end = trie.end
        """Token that follows a whole code."""
        self._trie = trie
        self._width = width
        self._branches = [Branch(0.0, (), ROOT)]
        self.found: list[tuple[float, Code]] = []
        """Log-probabilities and whole codes without their end, at most `width`, likeliest first."""

    def asked(self) -> list[tuple[Code, list[int]]]:
        """Prefixes, and the tokens whose log-probabilities after each are wanted next."""
        return [(each.code, self._trie.allowed(each.node).tolist()) for each in self._branches]

    def take(self, told: Sequence[Mapping[int, float]]) -> None:
        """Log-probabilities over the whole vocabulary, at least of what was `asked`."""
        grown: list[Branch] = []
        for branch, logprobs in zip(self._branches, told, strict=True):
            for token in self._trie.allowed(branch.node).tolist():
                score, code = branch.score + logprobs[token], branch.code
                if token == self._trie.end:
                    self.found.append((score, code))
                else:
                    node = self._trie.step(branch.node, token)
                    grown.append(Branch(score, (*code, token), node))
        self.found = heapq.nlargest(self._width, self.found)
        # A prefix's log-probability only falls as it grows.
        least = self.found[-1][0] if len(self.found) == self._width else float("-inf")
        self._branches = [
            branch for branch in heapq.nlargest(self._width, grown) if branch.score > least
        ]
