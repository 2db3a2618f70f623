"""Benchmarks: a definition in eval/<name>.toml, and questions with gold answers in BFCL's format.

The definition names a folder of JSON-lines files, one a category, beside a `possible_answer/`
folder with files of the same names; the folder is found through the workspace's overlay, or inside
an installed package that is never shipped. Everything is checked when it is loaded, before any
model: a benchmark that loads can be scored.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from factory.domain.bounded import parse_json
from factory.domain.failures import ContentError, MissingError
from factory.domain.records import Message
from factory.judge.answers import Syntax
from factory.score.base import read_text
from factory.score.calls.bfcl import LANGUAGES
from factory.score.definition import (
    Definition,
    check_definition,
    first_of_each,
    read_definition,
)
from factory.score.items import Item, JudgedBy
from factory.workspace.folder import Workspace

PromptStyle = Literal["own", "chat"]
"""The factory's invocation prompt, or the model's chat template with its tools argument."""
ROLES = ("system", "user", "assistant")
MAX_TOKENS = 512
"""New tokens of an answer where a definition names no other limit."""


class CallsDefinition(Definition):
    """eval/<name>.toml of the kind `calls`."""

    kind: Literal["calls"] = "calls"
    questions: str = Field(min_length=1)
    """Folder of the questions: relative to eval/ or to the package, or absolute."""
    package: str = ""
    """Installed package that has the folder."""
    install: str = ""
    """The command that installs the package."""
    prefix: str | tuple[str, ...] = ""
    """What stands before the category in a file's name; the first that exists is taken."""
    categories: tuple[str, ...] = Field(min_length=1)
    old_names: dict[str, str] = Field(default_factory=dict)
    """Category to its name in older files."""
    judge: dict[str, JudgedBy] = Field(default_factory=dict)
    """Category to how it is judged; calls in Python where none is named."""
    limit: int = Field(0, ge=0)
    """Items of each category at most; 0 is all."""
    average: Literal["categories", "tooldev"] = "categories"
    prompt: PromptStyle = "own"
    syntax: Syntax = "hermes"
    max_tokens: int = Field(MAX_TOKENS, gt=0)
    """New tokens of an answer."""


def load_questions(
    workspace: Workspace, name: str, data: Path | None
) -> tuple[CallsDefinition, tuple[Item, ...]]:
    """eval/<name>.toml and its questions, from the folder `data` if given.

    Raises ContentError with file and line, MissingError for a package that is not installed.
    """
    path = f"eval/{name}.toml"
    definition = check_definition(CallsDefinition, read_definition(workspace, name), path)
    folder = str(data.resolve()) if data else _find_folder(definition, path)
    items: dict[str, Item] = {}
    for category in definition.categories:
        for item in _load(workspace, definition, folder, category):
            if item.id in items:
                raise ContentError(f"two questions have the id {item.id}", where=path)
            items[item.id] = item
    kept = first_of_each(list(items.values()), definition.limit, lambda item: item.category)
    return definition, tuple(kept)


def _find_folder(definition: CallsDefinition, path: str) -> str:
    """The folder of the questions: relative to eval/, or absolute."""
    if not definition.package:
        return definition.questions
    spec = importlib.util.find_spec(definition.package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingError(
            f"the package {definition.package}, which has the questions, is not installed",
            where=path,
            remedy=f"{definition.install}; or point to a folder of them: `questions` in {path} "
            f"(`factory eject {path}`), or `factory score {Path(path).stem} --data DIR`",
        )
    return str(Path(spec.submodule_search_locations[0]) / definition.questions)


def _load(
    workspace: Workspace, definition: CallsDefinition, folder: str, category: str
) -> Iterator[Item]:
    """The items of one category, questions joined with answers by id."""
    name = _find_name(workspace, definition, folder, category)
    judge = definition.judge.get(category, "python")
    has_gold = judge in LANGUAGES
    answers: dict[str, Any] = {}
    if has_gold:
        for where, row in _read_lines(workspace, f"{folder}/possible_answer/{name}"):
            answers[str(_take(row, "id", str, where))] = _take(row, "ground_truth", list, where)
    seen: dict[str, int] = {}
    for where, row in _read_lines(workspace, f"{folder}/{name}"):
        item_id = _take(row, "id", str, where)
        if has_gold and item_id not in answers:
            raise ContentError(
                f"question {item_id} has no answer",
                where=where,
                remedy=f"add a line with this id to possible_answer/{name}",
            )
        if not has_gold:
            # Without gold an id joins nothing, and BFCL's older files use some twice.
            seen[item_id] = seen.get(item_id, 0) + 1
            item_id += f"#{seen[item_id]}" if seen[item_id] > 1 else ""
        messages = _read_turn(_take(row, "question", list, where), where)
        item = Item(
            id=item_id,
            category=category,
            query="\n\n".join(message.content for message in messages),
            functions=tuple(_take(row, "function", list, where, empty=not has_gold)),
            ground_truth=tuple(answers[item_id]) if has_gold else (),
            messages=messages,
            judge=judge,
        )
        check_item(item, where)
        yield item


def _find_name(
    workspace: Workspace, definition: CallsDefinition, folder: str, category: str
) -> str:
    """Name of a category's file: the first one that exists, else the newest form."""
    prefixes = (definition.prefix,) if isinstance(definition.prefix, str) else definition.prefix
    names = [
        f"{prefix}{word}.json"
        for prefix in prefixes
        for word in (category, definition.old_names.get(category, category))
    ]
    return next((name for name in names if _exists(workspace, f"{folder}/{name}")), names[0])


def _locate(workspace: Workspace, path: str) -> Path:
    """A file of questions: absolute, or below eval/ through the overlay."""
    return Path(path) if Path(path).is_absolute() else workspace.find(f"eval/{path}")


def _exists(workspace: Workspace, path: str) -> bool:
    try:
        return _locate(workspace, path).exists()
    except ContentError:
        return False


def _read_lines(workspace: Workspace, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """("file:line", object) of each line that is not blank; an empty file is an error."""
    file = _locate(workspace, path)
    lines = read_text(file).split("\n")
    if not any(line.strip() for line in lines):
        raise ContentError("no questions in this file", where=str(file))
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{file}:{number}"
        row = parse_json(line, where)
        if not isinstance(row, dict):
            raise ContentError("a line must be a JSON object", where=where)
        yield where, row


def _take(row: Mapping[str, Any], key: str, kind: type, where: str, *, empty: bool = False) -> Any:
    """row[key], which must be a `kind`, not empty unless `empty` allows it."""
    value = row.get(key)
    if not isinstance(value, kind) or not (value or empty):
        raise ContentError(f"{key!r} must be a non-empty {kind.__name__}", where=where)
    return value


def _read_turn(question: list[Any], where: str) -> tuple[Message, ...]:
    """The messages of the only turn: [[{role, content}, …]]."""
    if len(question) != 1:
        raise ContentError(f"{len(question)} turns; only one can be scored", where=where)
    try:
        messages = tuple(
            Message(role=message["role"], content=str(message["content"]))
            for message in question[0]
        )
    except (TypeError, KeyError) as error:
        raise ContentError("'question' must be [[{role, content}, …]]", where=where) from error
    if not messages or any(message.role not in ROLES for message in messages):
        raise ContentError(f"a role is none of {', '.join(ROLES)}", where=where)
    return messages


def check_item(item: Item, where: str) -> None:
    """Every function and expected call has the form that judging relies on; else ContentError."""
    for function in item.functions:
        if not isinstance(function, dict):
            raise ContentError("a function must be an object", where=where)
        _check_function(function, item, where)
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


def _check_function(function: dict[str, Any], item: Item, where: str) -> None:
    """Name, parameters, and where calls are compared the type words of arguments and items."""
    name = _take(function, "name", str, where)
    parameters = _take(function, "parameters", dict, where)
    properties = parameters.get("properties")
    if not isinstance(properties, dict):
        raise ContentError(f"{name}: parameters have no 'properties'", where=where)
    types, containers = item.language.types, item.language.containers
    for argument, schema in properties.items() if item.ground_truth else ():
        word = schema.get("type") if isinstance(schema, dict) else None
        words = [word]
        if word in containers and "items" in schema:
            items = schema["items"]
            words.append(items.get("type") if isinstance(items, dict) else None)
        unknown = next((w for w in words if not isinstance(w, str) or w not in types), word)
        if unknown not in types:
            raise ContentError(
                f"{name}.{argument}: {unknown!r} is no BFCL type",
                where=where,
                remedy="the type words are " + ", ".join(sorted(types)),
            )
    required = parameters.get("required", [])
    if not isinstance(required, list) or not all(argument in properties for argument in required):
        raise ContentError(f"{name}: 'required' names an unknown argument", where=where)
