"""The ledger rows of a round's stages: records in, rows by column name out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from factory.domain.canon import to_json
from factory.domain.records import Checkpoint, Example, Progress, Tool
from factory.ledger.tables import (
    CheckpointRow,
    ExampleRow,
    GenerationRow,
    RulerRow,
    StageRow,
    ToolRow,
    TrainingRow,
)


def unsampled_row(
    number: int, query_id: str, stage: str, text: str, checkpoint: str = ""
) -> GenerationRow:
    """What stands in the place of an answer, of a label or of a log: no model of ours made it."""
    return {
        "round": number,
        "query_id": query_id,
        "stage": stage,
        "subject": "",
        "sample_index": 0,
        "text": text,
        "finish_reason": "stop",
        "num_prompt_tokens": 0,
        "num_tokens": 0,
        "logprob": 0.0,
        "seed": 0,
        "sampling_json": "{}",
        "prompt_sha": "",
        "checkpoint_id": checkpoint,
    }


LOG = "log"
"""In place of a checkpoint: who answered is not known."""


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
    identity: str = "",
) -> CheckpointRow:
    """`identity` is that of the model when it was given or made, where it is known."""
    known: CheckpointRow = {
        "checkpoint_id": checkpoint.id,
        "round": number,
        "parent_id": parent_id,
        "path": checkpoint.path,
        "fingerprint": checkpoint.fingerprint,
        "promoted": promoted,
        "reason": reason,
        "made_at": now,
    }
    return {**known, "identity": identity} if identity else known


def ruler_rows(benchmark: str, basis: str, parts: Mapping[str, str]) -> list[RulerRow]:
    """What a score's basis is made of; without a benchmark, a model's identity."""
    return [
        {"benchmark": benchmark, "basis": basis, "part": part, "sha": sha}
        for part, sha in parts.items()
    ]


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
