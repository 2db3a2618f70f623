"""Ledger rows of a model's codes: those it came with, those a training gave."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from factory.codes.codebook import Codebook, ToolCode
from factory.codes.saving import FOLDER
from factory.domain.records import Checkpoint
from factory.ledger.rows import checkpoint_row, tool_rows
from factory.ledger.tables import Batch, CodebookRow, ToolCodeRow
from factory.train.job import TrainingResult


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
        "codebook": [_codebook_row(0, f"{base.path}/{FOLDER}", codebook.summary())],
    }


def code_rows(number: int, result: TrainingResult) -> Batch:
    """Rows of the checkpoint's codebook and of the codes given in this round, or given anew."""
    if result.codebook is None:
        return {}
    version = result.codebook["version"]
    return {
        "tool_code": [
            {
                "round": number,
                "codebook_version": version,
                "tool_id": given.tool_id,
                "code": given.code,
                "resolved_by": given.resolved_by,
                "error": given.error,
                "ood": given.ood,
            }
            for given in result.codes
        ],
        "codebook": [_codebook_row(number, str(result.path / FOLDER), result.codebook)],
        "code_alias": [
            {
                "round": number,
                "version": version,
                "old_token": alias.old_token,
                "new_token": alias.new_token,
                "overlap": alias.overlap,
            }
            for alias in result.aliases
        ],
    }


def _codebook_row(number: int, path: str, figures: Mapping[str, Any]) -> CodebookRow:
    return {
        "round": number,
        "path": path,
        "version": figures["version"],
        "coder": figures["coder"],
        "levels": figures["levels"],
        "size": figures["size"],
        "num_tools": figures["num_tools"],
        "collisions_before": figures["collisions_before"],
        "moved": figures["moved"],
        "penalty": figures["penalty"],
        "outlier_error": figures["outlier_error"],
        "reencoded": figures["reencoded"],
        "usage_entropy": figures["usage_entropy"],
        "sha": figures["sha"],
    }
