"""A benchmark's definition file: what every kind has in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from factory.engines.http import TIMEOUT_SECONDS
from factory.workspace.checking import check_table, read_toml
from factory.workspace.folder import Workspace

Split = Literal["dev", "test"]


def full_name(stem: str, variant: str) -> str:
    """A benchmark's name in tables and the ledger: its file's, and what was changed about it."""
    return f"{stem}[{variant}]" if variant else stem


def stem_of(name: str) -> str:
    """The file's part of a full name."""
    return name.partition("[")[0]


class Patience(BaseModel):
    """How long answers are waited for, and how many are enough; no score depends on it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    timeout_seconds: float = Field(TIMEOUT_SECONDS, gt=0)
    """For one answer of a server that is scored or judges, with all its tries."""
    min_answered: float = Field(0.95, ge=0, le=1)
    """Share of the items that a score is complete with: an engine may leave some without answer."""


class Definition(Patience):
    """What every eval/<name>.toml may say, whatever its kind."""

    kind: str
    title: str = Field(min_length=1)
    split: Split
    held_out: bool = False
    """Whether its questions are kept from training even where no recipe scores it."""


DefinitionT = TypeVar("DefinitionT", bound=BaseModel)


def read_definition(workspace: Workspace, name: str) -> dict[str, Any]:
    """eval/<name>.toml as a table. Raises ContentError."""
    path = f"eval/{name}.toml"
    return read_toml(workspace.find(path), path)


def check_definition(
    model: type[DefinitionT], table: Mapping[str, object], path: str
) -> DefinitionT:
    """The table as its kind reads it. Raises ContentError with its first fault."""
    return check_table(
        model,
        table,
        path,
        remedy=f"the keys are {', '.join(model.model_fields)}",
        list_remedy="write {0}, or once: --set '{0}'",
    )


T = TypeVar("T")


def first_of_each(items: Sequence[T], limit: int, group: Callable[[T], str]) -> list[T]:
    """The first `limit` items of each group, in their order; all for 0."""
    counts: Counter[str] = Counter()
    kept = []
    for item in items:
        counts[group(item)] += 1
        if not limit or counts[group(item)] <= limit:
            kept.append(item)
    return kept
