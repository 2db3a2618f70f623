"""Ledger rows of scoring: a score as a whole, by category, by item; a model that was given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, cast

from factory.codes.codebook import Codebook, ToolCode
from factory.codes.saving import FOLDER
from factory.domain.canon import to_json
from factory.domain.records import Checkpoint, ItemScore
from factory.ledger.rows import checkpoint_row, tool_rows
from factory.ledger.tables import Batch, CodebookRow, ToolCodeRow
from factory.score.base import Scorable


def scored_rows(
    number: int,
    checkpoint_id: str,
    benchmark: Scorable,
    items: Sequence[ItemScore],
    basis: str,
    *,
    with_questions: bool,
    identity: str | None = None,
) -> Batch:
    """A checkpoint's score as a whole, by category and average, its items, the questions if wanted.

    `identity` is that of its model. An average is a category by the name that the card gives it:
    `tooldev: live`.
    """
    result = benchmark.summary(checkpoint_id, items)
    overall = (result.value, result.low, result.high, result.num_items)
    parts = {
        name: (value, *result.intervals.get(name, (None, None)), None)
        for name, value in result.categories.items()
    }
    first, *others = [line for line in benchmark.card(items).averages if line.estimate]
    weights = {line.title: line.weights for line in others} | {"overall": first.weights}
    averages = {line.title: (*line.estimate, line.num_items) for line in others if line.estimate}
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
                "weights_json": to_json(weights[category]) if weights.get(category) else None,
                "identity": identity,
            }
            for category, (value, low, high, num_items) in {
                "overall": overall,
                **parts,
                **averages,
            }.items()
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
                "calls_json": "" if item.calls is None else to_json([*map(asdict, item.calls)]),
                "value": item.value,
                "detail_json": to_json(item.detail) if item.detail else "",
                "identity": identity,
                "scored_at": now,
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


def given_rows(base: Checkpoint, codebook: Codebook | None, identity: str) -> Batch:
    """The model that was given, with the tools and codes it came with."""
    now = datetime.now(UTC)
    checkpoint = checkpoint_row(base, 0, None, True, "the model that was given", now, identity)
    if codebook is None:
        return {"checkpoint": [checkpoint]}
    codes = [code_row(0, codebook, entry) for entry in codebook.tools]
    return {
        "checkpoint": [checkpoint],
        "tool": tool_rows(0, (entry.tool for entry in codebook.tools), "checkpoint"),
        "tool_code": codes,
        "codebook": [codebook_row(0, f"{base.path}/{FOLDER}", codebook.summary())],
    }


def code_row(number: int, codebook: Codebook, entry: ToolCode) -> ToolCodeRow:
    """A tool's code in a codebook."""
    return {
        "round": number,
        "codebook_version": codebook.version,
        "tool_id": entry.tool.id,
        "code": codebook.text_of(entry.code),
        "resolved_by": entry.resolved_by,
        "error": entry.error,
        "ood": entry.ood,
    }


def codebook_row(number: int, path: str, figures: Mapping[str, Any]) -> CodebookRow:
    """A codebook with its figures (Codebook.summary names them as the columns)."""
    return cast(CodebookRow, {"round": number, "path": path, **figures})
