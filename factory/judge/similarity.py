"""How alike texts are: shingles, MinHash bands and word grams, as arrays over many texts.

Near-duplicates are texts whose sets of character 5-grams have a Jaccard similarity of 0.8 or more
(algorithms A43). Comparing all pairs is quadratic, so each text gets a MinHash signature in bands
(Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, §3.4): texts that are alike almost surely
share a band, others rarely do, and a pair that shares one is compared exactly. Characters and not
words, because a request has few words: one changed word out of twelve leaves a word 5-gram Jaccard
of 0.23 to 0.6, which no threshold near 0.8 can tell from another request.

Everything is a function of the text alone, the same on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from factory.judge.wording import close_up

SHINGLE = 5
"""Characters of a shingle (A43)."""
GRAM = 8
"""Words of a gram (A44)."""
BANDS, BAND_ROWS = 20, 5
"""Signature: a pair with Jaccard s shares a band with 1 - (1 - s^5)^20: 0.9996 at s = 0.8."""
CHUNK = 4096
"""Texts worked on at once: bounds memory."""

Hashes = NDArray[np.uint64]


class Lists(NamedTuple):
    """One list of hashes a text. Example: Lists(values=[7, 9, 7], ends=[2, 3])."""

    values: Hashes
    """All lists one after the other."""
    ends: NDArray[np.int64]
    """Where each text's list ends."""


class Features(NamedTuple):
    """What texts are compared by."""

    shingles: Lists
    """Distinct hashes of each text's character 5-grams, 32 bits each, sorted."""
    bands: Lists
    """A hash for each of the bands; equal hashes belong to the same band."""
    grams: Lists
    """Distinct hashes of each text's word 8-grams, sorted; empty below eight words."""


def describe(texts: Sequence[str]) -> Features:
    """Features of texts that fold_words (factory.judge.wording) has made."""
    parts = [_describe(texts[start : start + CHUNK]) for start in range(0, len(texts), CHUNK)]
    return Features(*(_join(lists) for lists in zip(*parts, strict=True))) if parts else _EMPTY


def _describe(texts: Sequence[str]) -> Features:
    padded = [close_up(text).ljust(SHINGLE, "\0") for text in texts]
    letters = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), "<u4")
    shingles = _distinct(_windows(letters.astype(np.uint64), [len(t) for t in padded], SHINGLE, 32))
    ids: dict[str, int] = {}
    words = [text.split() for text in texts]
    numbers = [
        ids.get(word) or ids.setdefault(word, _hash(word)) for text in words for word in text
    ]
    grams = _distinct(
        _windows(np.array(numbers, np.uint64), [len(text) for text in words], GRAM, 64)
    )
    return Features(shingles, _band(shingles), grams)


def _windows(items: Hashes, lengths: Sequence[int], size: int, bits: int) -> Lists:
    """Hashes of all runs of `size` items that lie within one text."""
    num_each = np.maximum(np.array(lengths, np.int64) - size + 1, 0)
    ends = np.cumsum(num_each)
    starts = np.cumsum([0, *lengths[:-1]])
    # Position of each window: its text's start, and how far it is into the text.
    into = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - num_each, num_each)
    place = np.repeat(starts, num_each) + into
    mixed = np.zeros(len(place), np.uint64)
    for offset in range(size):
        mixed = _mix(mixed ^ items[place + offset]) + _SALTS[offset]
    return Lists(mixed >> np.uint64(64 - bits), ends)


def _distinct(lists: Lists) -> Lists:
    """Each list sorted, without repetitions."""
    lengths = np.diff(lists.ends, prepend=0)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((lists.values, owner))
    values, owner = lists.values[order], owner[order]
    fresh = np.ones(len(values), bool)
    fresh[1:] = (values[1:] != values[:-1]) | (owner[1:] != owner[:-1])
    counts = np.bincount(owner[fresh], minlength=len(lengths))
    return Lists(values[fresh], np.cumsum(counts))


def _band(shingles: Lists) -> Lists:
    """MinHash signatures of non-empty lists, BAND_ROWS of them hashed into each band."""
    starts = np.concatenate(([0], shingles.ends[:-1])).astype(np.int64)
    bands = np.empty((len(starts), BANDS), np.uint64)
    for band in range(BANDS):
        mixed = np.full(len(starts), _SALTS[band], np.uint64)
        for row in range(BAND_ROWS):
            number = 2 * (band * BAND_ROWS + row)
            factor, shift = _SALTS[number] | np.uint64(1), _SALTS[number + 1]
            hashed = (shingles.values * factor + shift) >> np.uint64(32)
            mixed = _mix(mixed ^ np.minimum.reduceat(hashed, starts))
        bands[:, band] = mixed
    return Lists(bands.ravel(), np.arange(1, len(starts) + 1) * BANDS)


def _mix(values: Hashes) -> Hashes:
    """A bijection of 64 bits in which every bit moves every other (splitmix64's finaliser)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _hash(word: str) -> int:
    return int.from_bytes(blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def _join(parts: Sequence[Lists]) -> Lists:
    before = np.cumsum([0, *(len(part.values) for part in parts[:-1])])
    ends = [part.ends + offset for part, offset in zip(parts, before, strict=True)]
    return Lists(np.concatenate([part.values for part in parts]), np.concatenate(ends))


_SALTS = _mix(
    np.arange(1, 2 * BANDS * BAND_ROWS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
)
_NONE = Lists(np.empty(0, np.uint64), np.empty(0, np.int64))
_EMPTY = Features(_NONE, _NONE, _NONE)
