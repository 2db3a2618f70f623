"""Tables of files and flags into typed values; what does not fit is our error, with its remedy."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from pydantic import BaseModel, ValidationError

from factory.domain.bounded import parse_toml, read_text
from factory.domain.failures import ContentError, InputError
from factory.domain.plaintext import shorten

ModelT = TypeVar("ModelT", bound=BaseModel)


def read_toml(
    file: Path, where: str = "", *, error: type[InputError] = ContentError
) -> dict[str, Any]:
    """The table of a TOML file. Raises `error`, which names `where`, else the file."""
    where = where or str(file)
    return parse_toml(read_text(file, where=where, error=error), where, error)


def check_table(
    model: type[ModelT],
    table: Mapping[str, Any],
    where: str,
    *,
    error: type[InputError] = ContentError,
    name: str = "",
    remedy: str = "",
    list_remedy: str = "write {}",
) -> ModelT:
    """The table as `model` reads it. Raises `error` with its first fault.

    The message has `name` before the key, `where` is a file, line or flag. `remedy` stands in place
    of "did you mean" the nearest key, and of "edit" the key; `list_remedy` where a list is wanted
    and one value given: {} is the list it may mean.
    """
    try:
        return model.model_validate(table)
    except ValidationError as cause:
        # An unknown key stands before the one it was meant to be.
        faults = cause.errors()
        fault = next((each for each in faults if each["type"] == "extra_forbidden"), faults[0])
        key = ".".join(map(str, fault["loc"]))
        what = f"{key}: {fault['msg'].removeprefix('Value error, ')}".removeprefix(": ")
        if fault["type"] == "extra_forbidden":
            what = f"{key}: unknown key"
            named = ".".join(part for part in fault["loc"] if isinstance(part, str))
            near = difflib.get_close_matches(named, list(_keys(model)), n=1, cutoff=0.0)
            remedy = remedy or f"did you mean {near[0]}?"
        elif fault["type"] == "tuple_type":
            what, example = want_list(model, fault["loc"], fault["input"])
            remedy = list_remedy.format(example)
        elif fault["type"] not in ("value_error", "missing"):
            what += f", not {shorten(repr(fault['input']), 120)}"
        raise error(
            f"{name}: {what}" if name else what,
            where=where,
            remedy=remedy or (f"edit {key}" if key else "edit them"),
        ) from cause


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted keys that a table of `model` may have."""
    for name, field in model.model_fields.items():
        of = get_args(field.annotation)[:1] or (field.annotation,)  # of a list, its items
        if isinstance(of[0], type) and issubclass(of[0], BaseModel):
            yield from _keys(of[0], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def want_list(model: type[BaseModel], place: Sequence[str | int], given: object) -> tuple[str, str]:
    """What is wrong where a key that takes a list was given one value, and the list it may mean.

    Example: want_list(Recipe, ("score", "benchmarks"), "home")[1] == 'score.benchmarks=["home"]'.
    """
    key, of = ".".join(map(str, place)), cast(Any, model)
    for part in place:
        of = get_args(of)[0] if isinstance(part, int) else of.model_fields[part].annotation
    item = get_args(of)[0]
    kind = getattr(item, "__origin__", item)  # Annotated[int, …] is of int
    values = [] if given is None else [given]
    if isinstance(given, str):
        values = [_read_item(word.strip(), kind) for word in given.split(",") if word.strip()]
    written = json.dumps(values, ensure_ascii=False, default=str)
    return f"{key}: a list is wanted, not {given!r}", f"{key}={written}"


def _read_item(word: str, kind: object) -> object:
    """The number that a word spells in a list of numbers, else the word."""
    try:
        return kind(word) if kind is int or kind is float else word
    except ValueError:
        return word
