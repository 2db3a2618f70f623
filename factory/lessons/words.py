"""Other words for values, so that copying a value does not depend on which word it is.

A model that answers "zucchini migration" by "zucchini mig" has learnt words, not to copy. What was
given for a parameter in accepted answers are words it copies already; here a value is respelt in
words of the pool's requests, those above all that it failed in, and in words that no text has, of
pieces of the model's vocabulary that the requests hold least. Signs, capitals and the number of
words stay.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from random import Random
from typing import Any

from factory.lessons.said import Answered

_WORD = re.compile(r"[^\W\d_]{4,}")
"""Shorter ones hold sentences together, or are an ending such as "com"."""
_NUMBER = re.compile(r"[A-Z]+[-/#]?\d+")
"""An order number and the like."""
_FORMED = re.compile(r"\d|://|^(?:true|false|null|none|yes|no)$", re.IGNORECASE)
"""Dates, addresses, and words that are no text."""
_FIXED = frozenset({"enum", "const", "format", "pattern", "maxLength", "anyOf", "oneOf", "$ref"})
"""Keys of a schema that say which texts are right."""
_INVENTED = 0.7
"""Share of the words that no text has,"""
_LEAST_INVENTED, _MOST_OF_A_PIECE = 5, 8
"""letters of one, and of each piece of it."""


class Words:
    """Words of requests that are no part of how a request is told."""

    def __init__(
        self, answered: Sequence[Answered], failed: Iterable[str], pieces: Sequence[str] = ()
    ) -> None:
        told, meant = Counter[str](), Counter[str]()
        for one in answered:
            within = [range(place.start, place.end) for place in one.places]
            for match in _WORD.finditer(one.text):
                is_value = any(match.start() in each for each in within)
                (meant if is_value else told)[match[0].casefold()] += 1
        found = (match for text in failed for match in _WORD.finditer(text))
        pool = Counter(match[0].casefold() for match in found if match.start())
        pool.update(meant)
        words = {word: count for word, count in sorted(pool.items()) if told[word] <= meant[word]}
        self._words = _Drawn(words)
        self._pieces = _Drawn(_rarity(pieces, told + pool) or words)

    def respell(self, rng: Random, value: str) -> str:
        """The value in other words; itself where it has none of its own or is a date."""
        if _NUMBER.fullmatch(value):
            return re.sub(r"[A-Z]|\d", lambda each: _other_sign(rng, each[0]), value)
        if not self._words.texts or _FORMED.search(value):
            return value
        return _WORD.sub(lambda each: _cased(each[0], self._another(rng)), value)

    def _another(self, rng: Random) -> str:
        if rng.random() >= _INVENTED:
            return self._words.draw(rng)
        word = ""
        while len(word) < _LEAST_INVENTED:
            word += self._pieces.draw(rng)[:_MOST_OF_A_PIECE]
        return word


class _Drawn:
    """Texts, and how often each is drawn by another."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.texts = tuple(weights)
        self._sums = tuple(accumulate(weights.values()))

    def draw(self, rng: Random) -> str:
        return rng.choices(self.texts, cum_weights=self._sums)[0]


def _rarity(pieces: Sequence[str], words: Mapping[str, int]) -> dict[str, float]:
    """The pieces, those least that words hold most: a token that is never read is never copied."""
    held = dict.fromkeys(pieces, 0)
    longest = max(map(len, pieces), default=0)
    for word, count in words.items():
        for start in range(len(word)):
            for end in range(start + 1, min(start + longest, len(word)) + 1):
                if word[start:end] in held:
                    held[word[start:end]] += count
    return {piece: 1 / (1 + count) for piece, count in held.items()}


def is_free(schema: Any) -> bool:
    """Whether any text will do for a parameter, as far as its schema says."""
    return isinstance(schema, dict) and _FIXED.isdisjoint(schema)


def _other_sign(rng: Random, sign: str) -> str:
    return rng.choice("123456789") if sign.isdigit() else rng.choice("ABCDEFGHKLMNPRSTVWX")


def _cased(word: str, other: str) -> str:
    if word.isupper():
        return other.upper()
    return other.capitalize() if word[0].isupper() else other
