"""Drawing the queries of a round: fresh and distinct.

The pool is, in this order: the files given, else the home world's endless stream. A query is
drawn once in the life of a ledger. What is wrong with one as such, e.g. that it overlaps a
benchmark, set rules of the stage `draw` say; it is drawn all the same, so that it is seen.
"""

from __future__ import annotations

from collections.abc import Iterable

from factory.domain.failures import InputError
from factory.domain.records import Query


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
