"""The 95 % intervals of a round's scores by category, and of what changed on the same items.

The ledger keeps the interval of a whole score, which needs the benchmark's weights. That of a
category is drawn again from the stored items, by the same bootstrap as a scorecard's: whoever shows
one shows the same.
"""

from __future__ import annotations

import numpy as np

from factory.ledger.database import Source
from factory.score.estimates import Estimate, combine

Marks = dict[str, float]
"""By item, from 0 to 1."""


def round_estimates(past: Source, number: int) -> dict[tuple[str, str, str], Estimate]:
    """By benchmark, category and model (`parent`, `new`), in percent; `change` is in points.

    What is measured otherwise, such as a perplexity, is left out.
    """
    models: dict[tuple[str, str], dict[str, Marks]] = {}
    rows = past.query(
        """
        select score.benchmark, item_score.category, score.model, item_score.item,
               any_value(coalesce(item_score.value, item_score.correct::int))
        from round_score as score
        join item_score using (checkpoint_id, benchmark, basis)
        where score.round = ? and score.category = 'overall' and score.unit = 'percent'
        group by 1, 2, 3, 4 order by 1, 2, 3, 4
        """,
        [number],
    ).rows
    for benchmark, category, model, item, mark in rows:
        models.setdefault((benchmark, category), {}).setdefault(model, {})[item] = mark
    found = {}
    for (benchmark, category), marks in models.items():
        before, after = marks.get("parent", {}), marks.get("new", {})
        changes = {item: after[item] - before[item] for item in after if item in before}
        for name, values in (("parent", before), ("new", after), ("change", changes)):
            if values:
                groups = {category: np.array(list(values.values()), dtype=np.float64)}
                found[benchmark, category, name] = combine(groups, {category: 1.0})
    return found
