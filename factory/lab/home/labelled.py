"""Labelled requests and documents of the home world: what a model of one's own is taught first."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

from factory.lab.home.world import CATEGORIES, catalogue_specs, document, draw_item

Row = dict[str, Any]


def labelled_rows(requests: int, documents: int, seed: int = 0) -> Iterator[Row]:
    """Rows `{query, tools, calls}`, no two of one request, then bare tool documents.

    All are of the seed split and its wordings: rounds draw from other tools and values, and so do
    the benchmarks. Another number draws more of the same rows, another seed other rows. ValueError
    for more documents than the catalogue has.
    """
    specs = catalogue_specs()
    if documents > len(specs):
        raise ValueError(f"the home world's catalogue has {len(specs)} documents")
    rng = Random(f"home labelled {seed}")
    seen: set[str] = set()
    while len(seen) < requests:
        category = CATEGORIES[len(seen) % len(CATEGORIES)]
        item = draw_item(rng, "seed", category, "seed", catalogue=False)
        if item.query not in seen:
            seen.add(item.query)
            yield {"query": item.query, "tools": [*item.tools], "calls": [*item.calls]}
    chosen = Random(f"home documents {seed}").sample(specs, len(specs))
    yield from map(document, chosen[:documents])
