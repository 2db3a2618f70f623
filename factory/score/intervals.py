"""The 95 % intervals of a round's scores, and of what changed on the same items.

The ledger keeps the interval of an average, and the weights of its categories. That of a category,
and that of a change, is drawn again from the stored items, by the same bootstrap as a scorecard's:
whoever shows one shows the same.
"""

from __future__ import annotations

import json

import numpy as np
from numpy.typing import NDArray

from factory.ledger.database import Source
from factory.score.estimates import Estimate, combine

Marks = dict[str, float]
"""By item, from 0 to 1."""
Groups = dict[str, NDArray[np.float64]]
"""By category, the changes of its items."""


def round_estimates(past: Source, number: int) -> dict[tuple[str, str, str], Estimate]:
    """By benchmark, category and model (`parent`, `new`), in percent; `change` is in points.

    Of an average, by its name, only the change. What is measured otherwise, such as a perplexity,
    is left out.
    """
    models: dict[tuple[str, str], dict[str, Marks]] = {}
    rows = past.query(
        """
        select score.benchmark, latest_item.category, score.model, latest_item.item,
               any_value(coalesce(latest_item.value, latest_item.correct::int))
        from round_score as score
        join latest_item using (checkpoint_id, benchmark, basis)
        where score.round = ? and score.category = 'overall' and score.unit = 'percent'
        group by 1, 2, 3, 4 order by 1, 2, 3, 4
        """,
        [number],
    ).rows
    for benchmark, category, model, item, mark in rows:
        models.setdefault((benchmark, category), {}).setdefault(model, {})[item] = mark
    found = {}
    changed: dict[str, Groups] = {}
    for (benchmark, category), marks in models.items():
        before, after = marks.get("parent", {}), marks.get("new", {})
        changes = {item: after[item] - before[item] for item in after if item in before}
        for name, values in (("parent", before), ("new", after), ("change", changes)):
            if values:
                groups = {category: np.array(list(values.values()), dtype=np.float64)}
                found[benchmark, category, name] = combine(groups, {category: 1.0})
                if name == "change":
                    changed.setdefault(benchmark, {}).update(groups)
    for benchmark, name, weights in _averages(past, number):
        if weights.keys() <= (groups := changed.get(benchmark, {})).keys():
            found[benchmark, name, "change"] = combine(groups, weights)
    return found


def _averages(past: Source, number: int) -> list[tuple[str, str, dict[str, float]]]:
    """The averages of the round's new model, each with the weights of its categories."""
    rows = past.query(
        """
        select benchmark, category, arg_max(score.weights_json, score.scored_at)
        from round_score
        join score using (checkpoint_id, benchmark, basis, category)
        where round_score.round = ? and model = 'new' and score.weights_json is not null
        group by 1, 2 order by 1, 2
        """,
        [number],
    ).rows
    return [(benchmark, name, json.loads(weights)) for benchmark, name, weights in rows]
