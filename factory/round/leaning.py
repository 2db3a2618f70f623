"""Drawing where the model is weak: of the fresh requests, those most like ones that failed.

Every request that earlier rounds sampled says how weak the model is there: 1 where its sample fell,
what a vote left undecided where it was accepted. A fresh request is as weak as the requests that
share most words with it, rare words counting more. Which tools it needs, how many calls, and in
which words it is told comes in by its words; nothing else is known of it before it is asked.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from factory.domain.records import Query
from factory.ledger.history import Fate

LOOKED_AT = 4
"""Fresh requests looked at for each that is drawn."""
ROUNDS = 3
"""Rounds before this one whose samples count."""
NEAREST = 8
"""Of them, requests that tell of a fresh one."""
_UNKNOWN = 0.5
"""Similarity's worth of strength that a request has of itself, so that a faint likeness says
little."""
_COMMON = 0.2
"""A word of so many requests tells nothing."""
_WORD = re.compile(r"[^\W\d_]+")


class Leaning(NamedTuple):
    """How a request was chosen. Example: Leaning(0.71, "like q_3b1f… (vote_tie)")."""

    weakness: float
    """From 0 to 1."""
    reason: str


def lean(
    fresh: Sequence[Query], count: int, share: float, fates: Sequence[Fate]
) -> tuple[list[Query], dict[str, str]]:
    """`count` of the fresh requests in their order, a share of them the weakest, the others the
    first; and by query id why each of that share was chosen. The same input gives the same.
    """
    leanings = weigh(fresh, fates)
    ranked = sorted(leanings, key=lambda place: (-leanings[place].weakness, place))
    weakest = ranked[: round(share * min(count, len(fresh)))]
    chosen = set(weakest)
    others = [place for place in range(len(fresh)) if place not in chosen]
    chosen.update(others[: count - len(chosen)])
    reasons = {fresh[place].id: leanings[place].reason for place in weakest}
    return [fresh[place] for place in sorted(chosen)], reasons


def weigh(fresh: Sequence[Query], fates: Sequence[Fate]) -> dict[int, Leaning]:
    """How weak the model is in each of the requests, by place; none that is like no failed one."""
    told = _Told(fates)
    found: dict[int, Leaning] = {}
    for place, query in enumerate(fresh):
        leaning = told.weigh(query.text)
        if leaning is not None:
            found[place] = leaning
    return found


class _Told:
    """Requests of earlier rounds by their words, N of them."""

    def __init__(self, fates: Sequence[Fate]) -> None:
        self._fates = fates
        self._weakness_N = np.array([fate.weakness for fate in fates])
        told = [frozenset(_words(fate.text)) for fate in fates]
        counts = Counter(word for words in told for word in words)
        most = max(1.0, _COMMON * len(told))
        self._worth = {
            word: math.log(1 + len(told) / number)
            for word, number in counts.items()
            if number <= most
        }
        places: defaultdict[str, list[int]] = defaultdict(list)
        for place, words in enumerate(told):
            for word in words & self._worth.keys():
                places[word].append(place)
        self._places = {word: np.array(found) for word, found in places.items()}
        self._length_N = np.array([self._length(words) for words in told])

    def weigh(self, text: str) -> Leaning | None:
        """How weak the model is in a request; None where it is like no failed one."""
        words = frozenset(_words(text)) & self._worth.keys()
        shared_N = np.zeros(len(self._fates))
        for word in sorted(words):
            shared_N[self._places[word]] += self._worth[word] ** 2
        (near,) = shared_N.nonzero()
        likeness = shared_N[near] / (self._length(words) * self._length_N[near])
        if len(near) > NEAREST:
            # All that are as near as the last of the nearest: the first of them count.
            close = likeness >= np.partition(likeness, -NEAREST)[-NEAREST]
            near, likeness = near[close], likeness[close]
        nearest = np.argsort(-likeness, kind="stable")[:NEAREST]
        near, likeness = near[nearest], likeness[nearest]
        failed = likeness * self._weakness_N[near]
        total = sum(failed.tolist())
        if not total:
            return None
        _, place = max(zip(failed, near, strict=True), key=lambda one: (one[0], -one[1]))
        weakness = total / (sum(likeness.tolist()) + _UNKNOWN)
        fate = self._fates[int(place)]
        return Leaning(weakness, f"like {fate.query_id} ({fate.reason})")

    def _length(self, words: Iterable[str]) -> float:
        return math.sqrt(sum(self._worth.get(word, 0.0) ** 2 for word in sorted(words))) or 1.0


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())
