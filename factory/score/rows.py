"""Ledger rows of a score: as a whole, by category, by item."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from factory.domain.canon import to_json
from factory.domain.records import ItemScore
from factory.ledger.tables import Batch
from factory.score.base import Scorable


def scored_rows(
    number: int,
    checkpoint_id: str,
    benchmark: Scorable,
    items: Sequence[ItemScore],
    basis: str,
    *,
    with_questions: bool,
) -> Batch:
    """A checkpoint's score as a whole and by category, its items, and the questions if wanted."""
    result = benchmark.summary(checkpoint_id, items)
    overall = (result.value, result.low, result.high, result.num_items)
    parts = {
        name: (value, *result.intervals.get(name, (None, None)), None)
        for name, value in result.categories.items()
    }
    now = datetime.now(UTC)
    rows: Batch = {
        "score": [
            {
                "round": number,
                "checkpoint_id": checkpoint_id,
                "benchmark": benchmark.name,
                "basis": basis,
                "category": category,
                "value": value,
                "low": low,
                "high": high,
                "num_items": num_items,
                "unit": result.unit,
                "scored_at": now,
            }
            for category, (value, low, high, num_items) in {"overall": overall, **parts}.items()
        ],
        "item_score": [
            {
                "round": number,
                "checkpoint_id": checkpoint_id,
                "benchmark": benchmark.name,
                "basis": basis,
                "item": item.item,
                "category": item.category,
                "correct": item.correct,
                "reason": item.reason,
                "message": item.message,
                "answer": item.answer,
                "calls_json": item.calls_json,
                "value": item.value,
                "detail_json": item.detail_json,
            }
            for item in items
        ],
    }
    if with_questions:
        rows["benchmark_item"] = [
            {
                "benchmark": benchmark.name,
                "basis": basis,
                "item": item.id,
                "category": item.category,
                "query": item.query,
                "functions_json": to_json(item.functions),
                "gold_json": to_json(item.ground_truth),
            }
            for item in benchmark.items
        ]
    return rows
