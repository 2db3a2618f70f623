"""Benchmarks: a definition in eval/<name>.toml, and questions with gold answers in BFCL's format.

The definition names a folder of JSON-lines files, one a category, beside a `possible_answer/`
folder with files of the same names. Everything is checked when it is loaded, before any model:
a benchmark that loads can be scored. Files are found through the workspace's overlay.
"""

from __future__ import annotations

import datetime
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from factory.failures import ContentError
from factory.workspace import Workspace

Split = Literal["dev", "test"]
TYPE_WORDS = frozenset({"string", "integer", "float", "boolean", "array", "tuple", "dict", "any"})
"""The type words of BFCL's Python categories."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One question. Example: Item(id="simple_7", category="simple", query="Book a table for 4",
    functions=({"name": "book_table", "parameters": {…}},), ground_truth=({"book_table":
    {"people": [4]}},)).
    """

    id: str
    """Unique in the benchmark."""
    category: str
    """Category it counts in."""
    query: str
    """The messages of its one turn, joined by blank lines."""
    functions: tuple[dict[str, Any], ...]
    """Functions on offer, in BFCL's dialect (`parameters`)."""
    ground_truth: tuple[dict[str, dict[str, list[Any]]], ...]
    """Expected calls: {function: {argument: [allowed values]}}; "" allows leaving out."""

    @property
    def documents(self) -> list[dict[str, Any]]:
        """The functions in ToolDev's dialect, for the prompt."""
        return [to_document(function) for function in self.functions]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRow:
    """A reference result to print beside measured ones; shown, never compared by the gate."""

    model: str
    """The model as its source names it."""
    value: float
    """Overall, in percent."""
    categories: dict[str, float]
    """Percent by category, where the source gives it."""
    source: str
    """Paper and table, or address and commit."""
    date: datetime.date
    """Date of the source."""
    kind: Literal["paper", "leaderboard", "measured"]
    """Who vouches: a paper, a public leaderboard, or a run of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A set of questions that a checkpoint is scored on."""

    name: str
    """Its file's name: `home` is eval/home.toml."""
    title: str
    """One line for people."""
    split: Split
    """`dev` may decide promotion, `test` is only reported."""
    items: tuple[Item, ...]
    """All questions, category by category."""
    published: tuple[PublishedRow, ...]
    """Reference rows, may be empty."""
    held_out: bool = False
    """Whether its questions are kept from training even where no recipe scores it."""

    @property
    def categories(self) -> tuple[str, ...]:
        """Categories in the definition's order."""
        return tuple(dict.fromkeys(item.category for item in self.items))

    @classmethod
    def load(cls, workspace: Workspace, name: str) -> Benchmark:
        """The benchmark of eval/<name>.toml.

        Raises ContentError with file and line for a missing file, an unknown or absent key, and
        any question or answer that could not be judged.
        """
        path = f"eval/{name}.toml"
        definition = _read_definition(workspace.find(path), path)
        items = tuple(
            item
            for category in definition.categories
            for item in _load(workspace, definition, category)
        )
        _require_unique_ids(items, path)
        return cls(
            name=name,
            title=definition.title,
            split=definition.split,
            items=items,
            held_out=definition.held_out,
            published=tuple(PublishedRow(**row.model_dump()) for row in definition.published),
        )


def load_held_out(workspace: Workspace) -> dict[str, Benchmark]:
    """The benchmarks whose definition says `held_out = true`, by name. Raises ContentError."""
    found = {}
    for path, file in workspace.walk("eval", ".toml"):
        if path.count("/") == 1 and _is_held_out(file):
            benchmark = Benchmark.load(workspace, file.stem)
            found[benchmark.name] = benchmark
    return found


def _is_held_out(file: Path) -> bool:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8")).get("held_out") is True
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ContentError(f"not valid TOML: {error}", where=str(file)) from error


def to_document(function: Mapping[str, Any]) -> dict[str, Any]:
    """A BFCL function as a ToolDev document: `parameters` becomes `arguments`, order kept (A46)."""
    return {"arguments" if key == "parameters" else key: value for key, value in function.items()}


def to_function(document: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of to_document."""
    return {"parameters" if key == "arguments" else key: value for key, value in document.items()}


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _PublishedRow(_Strict):
    """[[published]]: every number with its source, date and kind."""

    model: str = Field(min_length=1)
    value: float = Field(ge=0, le=100)
    categories: dict[str, float] = Field(default_factory=dict)
    source: str = Field(min_length=1)
    date: datetime.date
    kind: Literal["paper", "leaderboard", "measured"]


class _Definition(_Strict):
    """eval/<name>.toml."""

    title: str = Field(min_length=1)
    split: Split
    questions: str = Field(min_length=1)
    """Folder of the questions: relative to eval/, or absolute."""
    prefix: str = ""
    """What stands before the category in a file's name."""
    categories: tuple[str, ...] = Field(min_length=1)
    held_out: bool = False
    published: tuple[_PublishedRow, ...] = ()


def _read_definition(file: Path, path: str) -> _Definition:
    try:
        return _Definition.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ContentError(f"not valid TOML: {error}", where=path) from error
    except ValidationError as error:
        raise _explain(error, path) from error


def _explain(error: ValidationError, path: str) -> ContentError:
    """The first fault of a definition; an unknown key before the one it was meant to be."""
    faults = error.errors()
    fault = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
    key = ".".join(str(part) for part in fault["loc"])
    row = key.startswith("published.")
    known = (_PublishedRow if row else _Definition).model_fields
    what = "unknown key" if fault["type"] == "extra_forbidden" else fault["msg"]
    needs = "every published number names its source, date and kind; " if row else ""
    return ContentError(
        f"{key}: {what}", where=path, remedy=f"{needs}the keys are {', '.join(known)}"
    )


def _load(workspace: Workspace, definition: _Definition, category: str) -> Iterator[Item]:
    """The items of one category, questions joined with answers by id."""
    name = f"{definition.prefix}{category}.json"
    answers: dict[str, Any] = {}
    for where, row in _read_lines(workspace, f"{definition.questions}/possible_answer/{name}"):
        answers[str(_take(row, "id", str, where))] = _take(row, "ground_truth", list, where)
    for where, row in _read_lines(workspace, f"{definition.questions}/{name}"):
        item_id = _take(row, "id", str, where)
        if item_id not in answers:
            raise ContentError(
                f"question {item_id} has no answer",
                where=where,
                remedy=f"add a line with this id to possible_answer/{name}",
            )
        item = Item(
            id=item_id,
            category=category,
            query=_join_turn(_take(row, "question", list, where), where),
            functions=tuple(_take(row, "function", list, where)),
            ground_truth=tuple(answers[item_id]),
        )
        _check_item(item, where)
        yield item


def _read_lines(workspace: Workspace, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """("file:line", object) of each line that is not blank; an empty file is an error."""
    file = Path(path) if Path(path).is_absolute() else workspace.find(f"eval/{path}")
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ContentError(f"cannot be read: {error}", where=str(file)) from error
    if not any(line.strip() for line in lines):
        raise ContentError("no questions in this file", where=str(file))
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{file}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ContentError(f"not valid JSON: {error}", where=where) from error
        if not isinstance(row, dict):
            raise ContentError("a line must be a JSON object", where=where)
        yield where, row


def _take(row: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    """row[key], which must be a non-empty `kind`."""
    value = row.get(key)
    if not isinstance(value, kind) or not value:
        raise ContentError(f"{key!r} must be a non-empty {kind.__name__}", where=where)
    return value


def _join_turn(question: list[Any], where: str) -> str:
    """The text of the only turn: [[{role, content}, …]]."""
    if len(question) != 1:
        raise ContentError(f"{len(question)} turns; only one can be scored", where=where)
    try:
        return "\n\n".join(str(message["content"]) for message in question[0])
    except (TypeError, KeyError) as error:
        raise ContentError("'question' must be [[{role, content}, …]]", where=where) from error


def _check_item(item: Item, where: str) -> None:
    """Every function and expected call has the form that judging relies on."""
    for function in item.functions:
        if not isinstance(function, dict):
            raise ContentError("a function must be an object", where=where)
        _check_function(function, where)
    names = {function["name"] for function in item.functions}
    for call in item.ground_truth:
        if not isinstance(call, dict) or len(call) != 1:
            raise ContentError("an expected call must be {function: {…}}", where=where)
        ((name, arguments),) = call.items()
        if name not in names:
            raise ContentError(f"{item.id} expects {name!r}, which is not offered", where=where)
        if not isinstance(arguments, dict) or not all(
            isinstance(allowed, list) for allowed in arguments.values()
        ):
            raise ContentError(
                f"{item.id}: an argument of {name!r} has no list of allowed values", where=where
            )


def _check_function(function: dict[str, Any], where: str) -> None:
    """Name, parameters, and type words of arguments and array items."""
    name = _take(function, "name", str, where)
    parameters = _take(function, "parameters", dict, where)
    properties = parameters.get("properties")
    if not isinstance(properties, dict):
        raise ContentError(f"{name}: parameters have no 'properties'", where=where)
    for argument, schema in properties.items():
        word = schema.get("type") if isinstance(schema, dict) else None
        words = [word]
        if word in ("array", "tuple") and "items" in schema:
            items = schema["items"]
            words.append(items.get("type") if isinstance(items, dict) else None)
        unknown = next((w for w in words if not isinstance(w, str) or w not in TYPE_WORDS), word)
        if unknown not in TYPE_WORDS:
            raise ContentError(
                f"{name}.{argument}: {unknown!r} is no BFCL type",
                where=where,
                remedy="the type words are " + ", ".join(sorted(TYPE_WORDS)),
            )
    required = parameters.get("required", [])
    if not isinstance(required, list) or not all(argument in properties for argument in required):
        raise ContentError(f"{name}: 'required' names an unknown argument", where=where)


def _require_unique_ids(items: tuple[Item, ...], path: str) -> None:
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise ContentError(f"two questions have the id {item.id}", where=path)
        seen.add(item.id)
