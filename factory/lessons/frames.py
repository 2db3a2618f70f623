"""How requests begin and end, learnt from the requests themselves.

"Hello, I hope to …", "Help me …, thanks." say nothing of what is asked. Which words of that kind a
pool of requests has shows in what stands beside them: an opening that many requests share, that
many different words follow, and that names no tool. Two openings are of a kind where they go on
with the same words. So a request whose answer is known can be told in another request's frame,
above all in those that the model fails in: its answer stays.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import NamedTuple

from factory.lessons.said import PIECE, Answered, folded

LEAST = 4
"""Requests that share an opening, at least,"""
LEAST_SHARE = 0.004
"""and of all requests."""
MOST_PIECES = 8
_SAME_NEXT = 0.4
"""An opening that goes on with one word so often is a part of a longer one."""
_ASKS = 0.3
"""A word that so often stands in the called tool's name or in a value, where it is said, is what is
asked."""
_ALIKE = 0.3
"""Share of the first words after an opening, those of the rarer one, that two of a kind share."""
_CLOSES = 0.5
"""Share of an opening's requests that end alike: the end belongs to the frame,"""
_MOST_CLOSING = 6
"""unless it is so many pieces long: it would be cut in its midst."""
_PIECE = re.compile(rf"\s*+(?:{PIECE.pattern})")
_STOPS = (".", "?", "!")


class Frame(NamedTuple):
    """Example: Frame(opening="Help me ", closing=", thanks.")."""

    opening: str
    closing: str


class Frames:
    """The frames of a pool of requests, by how often the model failed in them."""

    def __init__(
        self, requests: Iterable[str], answered: Iterable[Answered], failed: Iterable[str]
    ) -> None:
        pool = [pieces_of(text.strip()) for text in requests]
        least = max(LEAST, round(LEAST_SHARE * len(pool)))
        asked = content_words(answered)
        self._openings = {
            edge for edge in _edges(pool, least) if asked.isdisjoint(map(word_of, edge))
        }
        grouped: defaultdict[tuple[str, ...], list[Sequence[str]]] = defaultdict(list)
        for pieces in pool:
            grouped[self._opening(pieces)].append(pieces)
        self._closings = {edge: _common_end(group, asked) for edge, group in grouped.items()}
        failures = Counter(self._opening(pieces_of(text.strip())) for text in failed)
        self._weights = {
            edge: 1 + failures[edge] for edge, group in grouped.items() if len(group) >= least
        }
        self._first = {
            edge: frozenset(
                word_of(pieces[len(edge)]) for pieces in group if len(pieces) > len(edge)
            )
            for edge, group in grouped.items()
            if edge in self._weights
        }

    @property
    def known(self) -> Mapping[Frame, int]:
        """Frames, and 1 more than the requests that the model failed in."""
        return {
            Frame("".join(edge), self._closings[edge]): weight
            for edge, weight in self._weights.items()
        }

    def retell(self, rng: Random, text: str) -> str | None:
        """The request in another frame of its kind; None where none fits."""
        if (told := self._split(text)) is None:
            return None
        edge, rest = told
        first = word_of(pieces_of(rest)[0])
        fitting = [
            other
            for other in self._weights
            if other != edge and (first in self._first[other] or self._alike(edge, other))
        ]
        if not fitting:
            return None
        (other,) = rng.choices(fitting, [self._weights[each] for each in fitting])
        return _tell("".join(other), rest, self._closings[other])

    def join(self, first: str, joint: str, second: str) -> str | None:
        """Two requests as one in the first's frame; None where either has none."""
        one, two = self._split(first), self._split(second)
        if one is None or two is None:
            return None
        edge, rest = one
        return _tell("".join(edge), _tell(f"{rest}{joint}", two[1], ""), self._closings[edge])

    def _split(self, text: str) -> tuple[tuple[str, ...], str] | None:
        """Its opening, and what is between that and its closing; None where it has no frame."""
        pieces = pieces_of(text.strip())
        edge = self._opening(pieces)
        closing = self._closings.get(edge, "")
        if edge not in self._weights or not text.strip().endswith(closing):
            return None
        rest = "".join(pieces[len(edge) :]).removesuffix(closing)
        if not closing and rest.endswith(_STOPS):
            rest = rest[:-1]
        return (edge, rest) if rest.strip() else None

    def _alike(self, one: tuple[str, ...], other: tuple[str, ...]) -> bool:
        shared = self._first[one] & self._first[other]
        fewest = min(len(self._first[one]), len(self._first[other]))
        return len(shared) >= LEAST and len(shared) >= _ALIKE * fewest

    def _opening(self, pieces: Sequence[str]) -> tuple[str, ...]:
        sizes = range(min(MOST_PIECES, len(pieces) - 1), 0, -1)
        return next((e for size in sizes if (e := tuple(pieces[:size])) in self._openings), ())


def _tell(opening: str, rest: str, closing: str) -> str:
    rest = rest.lstrip()
    second = rest[1:2]
    if not opening:
        return f"{rest[0].upper()}{rest[1:]}{closing}"
    if not second.isupper():
        rest = rest[0].lower() + rest[1:]
    return f"{opening} {rest}{closing}"


def pieces_of(text: str) -> list[str]:
    """Its words and signs, each with the space before it."""
    return _PIECE.findall(text)


def word_of(piece: str) -> str:
    """The word of a piece, without the space before it and in small letters."""
    return piece.strip().casefold()


def content_words(answered: Iterable[Answered]) -> frozenset[str]:
    """Words that tell which tool is to be called, or with what."""
    said: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for told in answered:
        words = set(folded(told.text))
        said.update(words)
        meant = [*told.names, *(told.text[place.start : place.end] for place in told.places)]
        asked.update(words & {word for each in meant for word in folded(each) if word.isalnum()})
    return frozenset(word for word, count in asked.items() if count >= _ASKS * said[word])


def _edges(pool: Iterable[Sequence[str]], least: int) -> frozenset[tuple[str, ...]]:
    """Beginnings that so many requests share and that different words follow."""
    following: defaultdict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for pieces in pool:
        for size in range(1, min(MOST_PIECES, len(pieces) - 1) + 1):
            following[tuple(pieces[:size])][word_of(pieces[size])] += 1
    return frozenset(
        edge
        for edge, after in following.items()
        if (total := after.total()) >= least and after.most_common(1)[0][1] <= _SAME_NEXT * total
    )


def _common_end(group: Sequence[Sequence[str]], asked: frozenset[str]) -> str:
    """The longest end that the requests of an opening share and that asks nothing."""
    ends = Counter(
        tuple(pieces[-size:])
        for pieces in group
        for size in range(1, min(_MOST_CLOSING + 1, len(pieces)))
    )
    shared = [end for end, count in ends.items() if count >= _CLOSES * len(group)]
    longest = max(shared, key=len, default=())
    if len(longest) >= _MOST_CLOSING or not asked.isdisjoint(map(word_of, longest)):
        longest = longest[-1:] if longest[-1:] and longest[-1] in _STOPS else ()
    return "".join(longest)
