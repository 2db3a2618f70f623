"""The ledger rows of a round's stages: records in, rows by column name out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from factory.codes.lifecycle import FOLDER, Codebook, ToolCode
from factory.judging import Batch
from factory.kinds.base import Scorable
from factory.prompts import to_json
from factory.records import Checkpoint, Example, ItemScore, Tool
from factory.train import Progress, TrainingResult


def stage_row(
    number: int, stage: str, started: datetime, detail: Mapping[str, object] | None = None
) -> Mapping[str, object]:
    """One ended stage of a round."""
    now = datetime.now(UTC)
    return {
        "round": number,
        "stage": stage,
        "status": "done",
        "started_at": started,
        "finished_at": now,
        "seconds": (now - started).total_seconds(),
        "detail_json": to_json(detail or {}),
    }


def checkpoint_row(
    checkpoint: Checkpoint,
    number: int,
    parent_id: str | None,
    promoted: bool,
    reason: str,
    now: datetime,
) -> Mapping[str, object]:
    """A checkpoint and what the gate said of it."""
    return {
        "checkpoint_id": checkpoint.id,
        "round": number,
        "parent_id": parent_id,
        "path": checkpoint.path,
        "fingerprint": checkpoint.fingerprint,
        "promoted": promoted,
        "reason": reason,
        "made_at": now,
    }


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
    common = {
        "round": number,
        "checkpoint_id": checkpoint_id,
        "benchmark": benchmark.name,
        "basis": basis,
    }
    overall = (result.value, result.low, result.high, result.num_items)
    parts = {
        name: (value, *result.intervals.get(name, (None, None)), None)
        for name, value in result.categories.items()
    }
    now = datetime.now(UTC)
    rows: dict[str, list[Mapping[str, object]]] = {
        "score": [
            {
                **common,
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
        "item_score": [common | asdict(item) for item in items],
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


def training_row(number: int, progress: Progress) -> Mapping[str, object]:
    """One optimizer step."""
    return {
        "round": number,
        "step": progress.step,
        "loss": progress.loss,
        "learning_rate": progress.learning_rate,
        "tokens": progress.tokens,
        "seconds": progress.seconds,
    }


def example_row(number: int, example: Example) -> Mapping[str, object]:
    """One training example, codes not yet rendered."""
    return {
        "round": number,
        "kind": example.kind,
        "origin": example.origin,
        "messages_json": to_json([asdict(message) for message in example.messages]),
    }


def tool_rows(number: int, tools: Iterable[Tool], origin: str) -> list[Mapping[str, object]]:
    """Tool documents, each once; `origin` is a file, `round` or `checkpoint`."""
    now = datetime.now(UTC)
    return [
        {
            "tool_id": tool.id,
            "name": tool.name,
            "document_json": to_json(tool.document),
            "origin": origin,
            "round": number,
            "added_at": now,
        }
        for tool in {tool.id: tool for tool in tools}.values()
    ]


def code_row(number: int, codebook: Codebook, entry: ToolCode) -> Mapping[str, object]:
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


def base_rows(base: Checkpoint, codebook: Codebook | None) -> Batch:
    """The model that was given, with the tools and codes it came with."""
    now = datetime.now(UTC)
    checkpoint = checkpoint_row(base, 0, None, True, "the model that was given", now)
    if codebook is None:
        return {"checkpoint": [checkpoint]}
    codes = [code_row(0, codebook, entry) for entry in codebook.tools]
    return {
        "checkpoint": [checkpoint],
        "tool": tool_rows(0, (entry.tool for entry in codebook.tools), "checkpoint"),
        "tool_code": codes,
        "codebook": [{"round": 0, "path": f"{base.path}/{FOLDER}", **codebook.summary()}],
    }


def code_rows(number: int, result: TrainingResult) -> Mapping[str, list[Mapping[str, object]]]:
    """Rows of the checkpoint's codebook and of the codes given in this round, or given anew."""
    if result.codebook is None:
        return {}
    version = result.codebook["version"]
    codes: list[Mapping[str, object]] = [
        {"round": number, "codebook_version": version, **asdict(row)} for row in result.codes
    ]
    codebook = {"round": number, "path": str(result.path / FOLDER), **result.codebook}
    aliases: list[Mapping[str, object]] = [
        {"round": number, "version": version, **asdict(alias)} for alias in result.aliases
    ]
    return {"tool_code": codes, "codebook": [codebook], "code_alias": aliases}
