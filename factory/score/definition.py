"""A benchmark's definition file: what every kind has in common."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from factory.domain.failures import ContentError
from factory.workspace.folder import Workspace
from factory.workspace.recipe import want_list

Split = Literal["dev", "test"]


def full_name(stem: str, variant: str) -> str:
    """A benchmark's name in tables and the ledger: its file's, and what was changed about it."""
    return f"{stem}[{variant}]" if variant else stem


def stem_of(name: str) -> str:
    """The file's part of a full name."""
    return name.partition("[")[0]


class Definition(BaseModel):
    """What every eval/<name>.toml may say, whatever its kind."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    title: str = Field(min_length=1)
    split: Split
    held_out: bool = False
    """Whether its questions are kept from training even where no recipe scores it."""


DefinitionT = TypeVar("DefinitionT", bound=BaseModel)


def read_definition(workspace: Workspace, name: str) -> dict[str, Any]:
    """eval/<name>.toml as a table. Raises ContentError."""
    path = f"eval/{name}.toml"
    try:
        return tomllib.loads(workspace.find(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ContentError(f"not valid TOML: {error}", where=path) from error


def check_definition(
    model: type[DefinitionT], table: Mapping[str, object], path: str
) -> DefinitionT:
    """The table as its kind reads it. Raises ContentError with its first fault."""
    try:
        return model.model_validate(table)
    except ValidationError as error:
        # An unknown key stands before the one it was meant to be.
        faults = error.errors()
        fault = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
        key = ".".join(str(part) for part in fault["loc"])
        what = f"{key}: {'unknown key' if fault['type'] == 'extra_forbidden' else fault['msg']}"
        remedy = f"the keys are {', '.join(model.model_fields)}"
        if fault["type"] == "tuple_type":
            what, example = want_list(model, fault["loc"], fault["input"])
            remedy = f"write {example}, or once: --set '{example}'"
        raise ContentError(what, where=path, remedy=remedy) from error


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
