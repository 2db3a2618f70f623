"""In which words a request goes on to its next call, learnt from answered ones.

"Book a table in Rome and, when done, call a taxi": what stands between the last value of one call
and the first of the next begins, after words that end the value ("for 90 minutes"), with words that
many requests share there and that different words follow. A request can then go on in another's
words, those above all that stand in requests which the model fails in, and two requests can be told
as one: the answers stay.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from random import Random
from typing import NamedTuple

from factory.domain.records import Call
from factory.lessons.frames import LEAST, LEAST_SHARE, content_words, pieces_of, word_of
from factory.lessons.said import Answered, find_values, keeps_values

_MOST_PIECES = 6
_SAME_BESIDE = 0.4
"""Words that have one word after them, or values of one parameter before, so often are a part of
longer ones, or of how a value is said."""


class Gap(NamedTuple):
    """What stands between two values. Example: Gap(start=24, end=58, name="city", same=False)."""

    start: int
    end: int
    name: str
    """Of the parameter before it."""
    same: bool | None
    """Whether both calls are of one tool; None within one call."""


class Joints:
    """What joins two calls of one tool, and of two, by how often the model failed where it stands.

    Texts as they stand after a value: " and then", ", and also".
    """

    def __init__(self, answered: Sequence[Answered], failed: Iterable[str]) -> None:
        asked = content_words(answered)
        gaps: dict[bool | None, list[tuple[str, list[str]]]] = {True: [], False: [], None: []}
        for one in answered:
            for gap in _gaps(one.text, one.calls):
                gaps[gap.same].append((gap.name, pieces_of(one.text[gap.start : gap.end])))
        within = Counter(word_of(piece) for _, pieces in gaps[None] for piece in pieces)
        self._weights = {same: _joints(gaps[same], within, asked) for same in (True, False)}
        right, wrong = [pieces_of(one.text) for one in answered], [*map(pieces_of, failed)]
        for known in self._weights.values():
            kept, fallen = (
                Counter(joint for text in texts for joint in _longest_in(text, known))
                for texts in (right, wrong)
            )
            known.update({joint: (1 + fallen[joint]) / (1 + kept[joint]) for joint in known})

    def of(self, *, same: bool) -> list[str]:
        """What joins calls of one tool, or of two."""
        return ["".join(joint) for joint in self._weights[same]]

    def draw(self, rng: Random, *, same: bool, but: tuple[str, ...] = ()) -> str | None:
        """One that differs from `but`; None where there is none."""
        others = {joint: w for joint, w in self._weights[same].items() if joint != but}
        if not others:
            return None
        return "".join(rng.choices([*others], [*others.values()])[0])

    def retell(self, rng: Random, text: str, calls: Sequence[Call]) -> str | None:
        """The request with other words between its calls; None where none are known."""
        told = text
        for gap in reversed(list(_gaps(text, calls))):
            if gap.same is None:
                continue
            pieces = pieces_of(text[gap.start : gap.end])
            found = _first(pieces, self._weights[gap.same])
            if found is None:
                continue
            place, joint = found
            other = self.draw(rng, same=gap.same, but=joint)
            if other is not None:
                start = gap.start + len("".join(pieces[:place]))
                told = told[:start] + other + told[start + len("".join(joint)) :]
        return told if told != text and keeps_values(text, told, calls) else None


def _gaps(text: str, calls: Sequence[Call]) -> Iterator[Gap]:
    """Between values that stand one after the other, of one call or of a call and the next."""
    for before, after in pairwise(find_values(text, calls)):
        if before.call == after.call:
            yield Gap(before.end, after.start, before.name, None)
        elif before.call + 1 == after.call:
            same = calls[before.call].name == calls[after.call].name
            yield Gap(before.end, after.start, before.name, same)


def _joints(
    gaps: Sequence[tuple[str, Sequence[str]]], within: Mapping[str, int], asked: Collection[str]
) -> dict[tuple[str, ...], float]:
    """Words that many gaps hold first, after values of different parameters and before different
    words, with how many do: none that are `asked`, nor with what brings a value in, as words
    `within` calls do.
    """
    least = max(LEAST, round(LEAST_SHARE * len(gaps)))
    befores = defaultdict[tuple[str, ...], Counter[str]](Counter)
    afters = defaultdict[tuple[str, ...], Counter[str]](Counter)
    for name, pieces in gaps:
        for start in range(len(pieces)):
            for end in range(start + 1, min(start + _MOST_PIECES, len(pieces)) + 1):
                words = tuple(pieces[start:end])
                befores[words][name] += 1
                afters[words][word_of(pieces[end]) if end < len(pieces) else ""] += 1
    outer = Counter(word_of(piece) for _, pieces in gaps for piece in pieces)
    shared = {
        words
        for words, after in afters.items()
        if after.total() >= least
        and all(_is_mixed(beside) for beside in (after, befores[words]))
        and not any(word_of(piece) in asked for piece in words)
    }
    joining = {piece for piece, count in outer.items() if within[piece] < count}
    shared = {
        words
        for words in shared
        if not joining.isdisjoint(map(word_of, words))
        and (word_of(words[-1]) in joining or words[:-1] not in shared)
    }
    firsts = Counter(found[1] for _, pieces in gaps if (found := _first(pieces, shared)))
    return {words: float(count) for words, count in firsts.items() if count >= least}


def _is_mixed(beside: Counter[str]) -> bool:
    return beside.most_common(1)[0][1] <= _SAME_BESIDE * beside.total()


def _first(
    pieces: Sequence[str], known: Collection[tuple[str, ...]], start: int = 0
) -> tuple[int, tuple[str, ...]] | None:
    """The longest of the known that begins first, from a place on, with its place."""
    for place in range(start, len(pieces)):
        for size in range(min(_MOST_PIECES, len(pieces) - place), 0, -1):
            if (words := tuple(pieces[place : place + size])) in known:
                return place, words
    return None


def _longest_in(pieces: Sequence[str], known: Collection[tuple[str, ...]]) -> set[tuple[str, ...]]:
    """Those that a text holds outside of longer ones."""
    found, place = set[tuple[str, ...]](), 0
    while hit := _first(pieces, known, place):
        found.add(hit[1])
        place = hit[0] + len(hit[1])
    return found
