"""Drawing the queries of a round: fresh, distinct, and not those of a benchmark.

The pool is, in this order: the files given, else the home world's endless stream. A query is
drawn once in the life of a ledger. One that overlaps a benchmark item is drawn too and rejected
with `eval_overlap`, so that it is seen (algorithms A44).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from factory.canon import query_id
from factory.failures import InputError
from factory.home.world import fresh_queries
from factory.records import Query

NGRAM = 8
"""Words of an n-gram (A44)."""
OVERLAP = 0.5
"""Share of a query's n-grams found in one benchmark item that makes it contaminated (A44)."""


def draw(pool: Iterable[Query], count: int, drawn: set[str]) -> list[Query]:
    """The first `count` queries of the pool that are not in `drawn`, each once.

    Raises InputError where the pool has fewer than one; a pool that is merely too small gives
    what it has.
    """
    fresh: list[Query] = []
    seen = set(drawn)
    total = 0
    for query in pool:
        total += 1
        if query.id not in seen:
            seen.add(query.id)
            fresh.append(query)
            if len(fresh) == count:
                break
    if not fresh:
        raise InputError(
            f"the query pool is empty: it holds {total} queries and all have been drawn",
            remedy="add requests: `factory round --queries FILE`, or `queries` in factory.toml",
        )
    return fresh


def home_stream() -> Iterator[Query]:
    """The home world's fresh queries, without end."""
    start = 0
    while True:
        for number, text in enumerate(fresh_queries(start, 256), start):
            yield Query(id=query_id(text), text=text, source=f"home:{number}")
        start += 256


@dataclass(frozen=True, slots=True)
class Overlap:
    """Where a query meets a benchmark."""

    item: str
    """Benchmark and item id, e.g. `home/parallel_3`."""
    share: float
    """Share of the query's n-grams that the item holds; 1 for an equal text."""


class Contamination:
    """Index of benchmark questions by word n-grams."""

    def __init__(self, questions: Mapping[str, str]) -> None:
        self._texts: dict[str, str] = {}
        self._grams: dict[tuple[str, ...], list[str]] = {}
        for item, text in questions.items():
            words = _words(text)
            self._texts.setdefault(" ".join(words), item)
            for gram in _ngrams(words):
                self._grams.setdefault(gram, []).append(item)

    def find(self, text: str) -> Overlap | None:
        """The benchmark item that `text` equals or overlaps by half of its 8-grams or more."""
        words = _words(text)
        if (item := self._texts.get(" ".join(words))) is not None:
            return Overlap(item, 1.0)
        grams = _ngrams(words)
        hits: dict[str, int] = {}
        for gram in grams:
            for found in self._grams.get(gram, ()):
                hits[found] = hits.get(found, 0) + 1
        if not hits:
            return None
        item = max(sorted(hits), key=lambda found: hits[found])
        share = hits[item] / len(grams)
        return Overlap(item, share) if share >= OVERLAP else None


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _ngrams(words: list[str]) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + NGRAM]) for i in range(len(words) - NGRAM + 1)}
