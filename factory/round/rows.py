"""Ledger rows of a model's codes: those it came with, those a training gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime

from factory.codes.codebook import FOLDER, Codebook, ToolCode
from factory.domain.records import Checkpoint
from factory.ledger.rows import Batch, checkpoint_row, tool_rows
from factory.train.job import TrainingResult


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
