"""In which words requests bring in a value, learnt from answered ones.

"… at 7 in Rome", "… located in Rome beginning at 7": which words belong to a value shows where many
requests have them before values of one parameter and different words before those. The same value
can then be brought in by other words of its parameter, above all by those that stand in requests
which the model fails in: the answer stays.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from random import Random

from factory.domain.records import Call
from factory.lessons.said import PIECE, Answered, Place, find_values, folded, keeps_values

Words = tuple[str, ...]
LEAST = 3
"""Requests that have a phrase, and words that stand before it, at least."""
_MOST_BEFORE, _MOST_AFTER = 4, 3
_JOINT = 0.4
"""A word that is part of the phrases of so many parameters joins sentences."""
_BELONGS = 0.8
"""Share of a phrase's requests that go on alike: "for 5 people" ends after the value."""


class Phrases:
    """The phrases of each parameter, by how often the model failed where they stand."""

    def __init__(self, answered: Sequence[Answered], failed: Iterable[str]) -> None:
        places = [one.places for one in answered]
        self._known = _befores(answered, places)
        after: defaultdict[tuple[str, Words], list[list[str]]] = defaultdict(list)
        for one, found in zip(answered, places, strict=True):
            for (before, place, stop), follower in zip_longest(
                _gaps(found, len(one.text)), found[1:]
            ):
                if (words := self._words(one.text, before, place)) is not None:
                    following = PIECE.findall(one.text[place.end : stop])
                    if follower is not None:  # what brings the next value in is not this one's
                        following = following[
                            : -len(self._words(one.text, place.end, follower) or "_")
                        ]
                    after[place.name, words].append(following[:_MOST_AFTER])
        self._after = {key: _spaced(_shared_start(rows)) for key, rows in after.items()}
        asked = [f" {' '.join(folded(text))} " for text in failed]
        self._weights = {
            (name, words): (1 + sum(f" {' '.join(words)} " in text for text in asked)) / len(rows)
            for (name, words), rows in after.items()
        }

    def of(self, name: str) -> list[tuple[str, str]]:
        """What is said before and after the values of a parameter."""
        return [(" ".join(w), self._after[of, w]) for of, w in self._weights if of == name]

    def retell(self, rng: Random, text: str, calls: Sequence[Call]) -> str | None:
        """The request with its values brought in by other words; None where no others are known."""
        told: list[str] = []
        last = 0
        for before, place, _ in _gaps(find_values(text, calls), len(text)):
            words = self._words(text, before, place)
            after = self._after.get((place.name, words or ()))
            if words is None or after is None or not text[place.end :].startswith(after):
                continue
            others = [key for key in self._weights if key[0] == place.name and key[1] != words]
            if not others:
                continue
            (other,) = rng.choices(others, [self._weights[key] for key in others])
            starts = [match.start() for match in PIECE.finditer(text, before, place.start)]
            if starts[-len(words)] < last:
                continue
            told += [text[last : starts[-len(words)]], _spaced(other[1]).strip()]
            told += ["" if other[1][-1] in "\"'" else " ", text[place.start : place.end]]
            told.append(self._after[other])
            last = place.end + len(after)
        other_text = "".join(told) + text[last:]
        return other_text if told and keeps_values(text, other_text, calls) else None

    def cut(self, text: str, calls: Sequence[Call], name: str) -> str | None:
        """The request without a parameter's value and the words that bring it in.

        None where these are not known, the value stands elsewhere too, or other words between it
        and another value would be left in the air ("in Rome and at 7").
        """
        gaps = _gaps(find_values(text, calls), len(text))
        chosen = next((gap for gap in gaps if gap[1].name == name), None)
        if chosen is None:
            return None
        before, place, stop = chosen
        words = self._words(text, before, place)
        after = self._after.get((name, words or ()))
        if words is None or after is None or not text[place.end :].startswith(after):
            return None
        starts = [match.start() for match in PIECE.finditer(text, before, place.start)]
        start, end = starts[-len(words)], place.end + len(after)
        following = next((gap[1] for gap in gaps if gap[1].start == stop), None)
        if following is not None:
            brought = self._words(text, place.end, following) or ()
            if len(PIECE.findall(text[end:stop])) > len(brought):
                return None
        if before and text[before:start].strip():
            return None
        head, tail = text[:start].rstrip(), text[end:].lstrip()
        left = f"{head} {tail}" if tail[:1].isalnum() else head + tail
        return left if head and text[place.start : place.end] not in left else None

    def _words(self, text: str, before: int, place: Place) -> Words | None:
        """The longest phrase of the parameter that leads to the place."""
        words = folded(text[before : place.start])
        for size in range(min(_MOST_BEFORE, len(words)), 0, -1):
            if (found := tuple(words[-size:])) in self._known.get(place.name, ()):
                return found
        return None


def _gaps(places: Sequence[Place], end: int) -> list[tuple[int, Place, int]]:
    """Each place with the end of the one before it and the start of the next."""
    before = [0, *(place.end for place in places)]
    after = [*(place.start for place in places[1:]), end]
    return list(zip(before, places, after, strict=False))


def _befores(
    answered: Sequence[Answered], places: Sequence[Sequence[Place]]
) -> dict[str, frozenset[Words]]:
    """By parameter, words before its values that different words stand before."""
    found: defaultdict[str, defaultdict[Words, Counter[str]]] = defaultdict(
        lambda: defaultdict(Counter)
    )
    for one, of in zip(answered, places, strict=True):
        for before, place, _ in _gaps(of, len(one.text)):
            words = ["" if before else "^", *folded(one.text[before : place.start])]
            for size in range(1, min(_MOST_BEFORE, len(words) - 1) + 1):
                found[place.name][tuple(words[-size:])][words[-size - 1]] += 1
    inner = Counter(
        word for phrases in found.values() for word in {w for each in phrases for w in each[:-1]}
    )
    joints = {word for word, count in inner.items() if count > max(1, _JOINT * len(found))}
    return {
        name: frozenset(
            words
            for words, preceding in phrases.items()
            if len(preceding) >= LEAST and joints.isdisjoint(words[:-1])
        )
        for name, phrases in found.items()
    }


def _shared_start(rows: Sequence[Sequence[str]]) -> Words:
    """The longest beginning that the rows share, of words alone but for a closing quote."""
    shared: Words = ()
    for size in range(1, _MOST_AFTER + 1):
        starts = Counter(tuple(row[:size]) for row in rows if len(row) >= size)
        start, count = starts.most_common(1)[0] if starts else ((), 0)
        if count >= _BELONGS * len(rows) and (start[-1] in "\"'" or start[-1][0].isalnum()):
            shared = start
    return shared


def _spaced(words: Words) -> str:
    """Words as they stand in a text, signs next to what is before them."""
    text = "".join(f" {word}" if re.match(r"\w", word) else word for word in words)
    return re.sub(r"(?<=\w)([\"'])$", r" \1", text) if len(words) > 1 else text
