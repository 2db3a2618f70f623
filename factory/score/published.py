"""Published results: tables with their source, split and date, to be read beside measured ones.

`eval/published/*.toml` and the workspace's own files beside them. A table is never mixed with what
was measured here, and never read by a gate.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from factory.workspace.checking import check_table, read_toml
from factory.workspace.folder import Workspace

FOLDER = "eval/published"
Kind = Literal["published", "measured"]


class PublishedRow(NamedTuple):
    """One line of a table. Example: PublishedRow(model="GPT-4o (FC)", values=(73.58, …))."""

    model: str
    """The model or setting, as its source names it."""
    values: tuple[float | None, ...]
    """One for each column; None where the source gives none."""


class PublishedTable(BaseModel):
    """A table of results with where it comes from: [[tables]], all but the note required."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    benchmark: str = Field(min_length=1)
    """What it is about: a benchmark's name, such as `bfcl`."""
    title: str = Field(min_length=1)
    metric: str = Field(min_length=1)
    """Their unit or metric, e.g. `percent right` or `NDCG@1`."""
    source: str = Field(min_length=1)
    """Paper and table, or address and commit."""
    split: str = Field(min_length=1)
    """The data, with version, that it is measured on."""
    date: str = Field(pattern=r"^\d{4}(-\d{2}){0,2}$")
    """Year of the source, with month and day where it gives them: `2025-05`."""
    kind: Kind
    """`published` by others, or `measured` by a run of the factory that the source names."""
    note: str = ""
    """What a reader must know, such as a misprint."""
    columns: tuple[str, ...] = Field(min_length=1)
    values: dict[str, tuple[float, ...]] = Field(min_length=1, alias="rows")
    """Model to its values, in the source's order; nan is one that the source does not give."""

    @property
    def rows(self) -> tuple[PublishedRow, ...]:
        """The lines, in the source's order."""
        return tuple(
            PublishedRow(model, tuple(None if math.isnan(v) else v for v in values))
            for model, values in self.values.items()
        )

    @model_validator(mode="after")
    def _rows_have_the_columns(self) -> PublishedTable:
        for model, values in self.values.items():
            if len(values) != len(self.columns):
                raise ValueError(
                    f"{model} has {len(values)} values for {len(self.columns)} columns"
                )
        return self


class _File(BaseModel):
    """eval/published/<name>.toml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tables: tuple[PublishedTable, ...] = Field(min_length=1)


def load_published(workspace: Workspace, benchmark: str = "") -> tuple[PublishedTable, ...]:
    """All published tables, or those about one benchmark.

    Raises ContentError for a table without source, split, date or kind, and for any other fault.
    """
    return tuple(
        table
        for path, _ in workspace.walk(FOLDER, ".toml")
        for table in _read(workspace, path)
        if benchmark in ("", table.benchmark)
    )


def _read(workspace: Workspace, path: str) -> tuple[PublishedTable, ...]:
    keys = ", ".join(f.alias or name for name, f in PublishedTable.model_fields.items())
    remedy = f"every table names its source, split, date and kind; the keys are {keys}"
    return check_table(_File, read_toml(workspace.find(path), path), path, remedy=remedy).tables
