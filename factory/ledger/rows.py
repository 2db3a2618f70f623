"""The ledger rows of a round's stages: records in, rows by column name out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from factory.domain.canon import to_json
from factory.domain.records import Checkpoint, Example, Progress, Tool
from factory.ledger.tables import CheckpointRow, ExampleRow, StageRow, ToolRow, TrainingRow


def stage_row(
    number: int, stage: str, started: datetime, detail: Mapping[str, object] | None = None
) -> StageRow:
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
) -> CheckpointRow:
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


def training_row(number: int, progress: Progress) -> TrainingRow:
    return {
        "round": number,
        "step": progress.step,
        "loss": progress.loss,
        "learning_rate": progress.learning_rate,
        "tokens": progress.tokens,
        "seconds": progress.seconds,
        "stage": progress.stage,
        "stage_name": progress.stage_name,
        "losses_json": to_json(progress.losses),
    }


def example_row(number: int, example: Example) -> ExampleRow:
    """One training example, codes not yet rendered."""
    return {
        "round": number,
        "kind": example.kind,
        "origin": example.origin,
        "messages_json": to_json([message.to_json() for message in example.messages]),
    }


def tool_rows(number: int, tools: Iterable[Tool], origin: str) -> list[ToolRow]:
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
