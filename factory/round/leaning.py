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
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

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
    told = [frozenset(_words(fate.text)) for fate in fates]
    counts = Counter(word for words in told for word in words)
    most = max(1.0, _COMMON * len(told))
    worth = {
        word: math.log(1 + len(told) / number) for word, number in counts.items() if number <= most
    }
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, words in enumerate(told):
        for word in sorted(words & worth.keys()):
            places[word].append(place)
    lengths = [_length(words, worth) for words in told]
    found: dict[int, Leaning] = {}
    for place, query in enumerate(fresh):
        leaning = _weigh_one(frozenset(_words(query.text)), fates, places, worth, lengths)
        if leaning is not None:
            found[place] = leaning
    return found


def _weigh_one(
    words: frozenset[str],
    fates: Sequence[Fate],
    places: Mapping[str, Sequence[int]],
    worth: Mapping[str, float],
    lengths: Sequence[float],
) -> Leaning | None:
    shared: defaultdict[int, float] = defaultdict(float)
    for word in sorted(words):
        for place in places.get(word, ()):
            shared[place] += worth[word] ** 2
    own = _length(words, worth)
    likeness = {place: sum_ / (own * lengths[place]) for place, sum_ in shared.items()}
    nearest = sorted(likeness, key=lambda place: (-likeness[place], place))[:NEAREST]
    failed = [(likeness[place] * fates[place].weakness, place) for place in nearest]
    total = sum(value for value, _ in failed)
    if not total:
        return None
    _, place = max(failed, key=lambda entry: (entry[0], -entry[1]))
    weakness = total / (sum(likeness[p] for p in nearest) + _UNKNOWN)
    return Leaning(weakness, f"like {fates[place].query_id} ({fates[place].reason})")


def _length(words: Iterable[str], worth: Mapping[str, float]) -> float:
    return math.sqrt(sum(worth[word] ** 2 for word in words if word in worth)) or 1.0


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())
