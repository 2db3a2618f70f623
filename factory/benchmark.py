"""Benchmarks: a definition in eval/<name>.toml, and questions with gold answers in BFCL's format.

The definition names a folder of JSON-lines files, one a category, beside a `possible_answer/`
folder with files of the same names; the folder is found through the workspace's overlay, or inside
an installed package that is never shipped. Everything is checked when it is loaded, before any
model: a benchmark that loads can be scored.
"""

from __future__ import annotations

import importlib.util
import json
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from factory.failures import ContentError, MissingError
from factory.prompts import to_json
from factory.recipe import want_list
from factory.records import Message
from factory.scorers.bfcl import LANGUAGES, PYTHON, Language, item_word
from factory.scorers.decode import Syntax
from factory.workspace import Workspace

Split = Literal["dev", "test"]
Judge = Literal["python", "java", "javascript", "no_call", "any_call"]
"""How a category is judged: calls in a language against gold, or whether anything is called."""
PromptStyle = Literal["own", "chat"]
"""The factory's invocation prompt, or the model's chat template with its tools argument."""
ROLES = ("system", "user", "assistant")
JSON_SCHEMA_WORDS = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}
"""BFCL's type words that JSON Schema writes differently."""


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
    ground_truth: tuple[Any, ...]
    """Expected calls: {function: {argument: [allowed values]}}; "" allows leaving out. Empty where
    the judge asks only whether anything is called; other kinds put what is right there."""
    messages: tuple[Message, ...] = ()
    """The messages of its one turn; empty is one user message, the query."""
    judge: Judge = "python"
    """How the answer is judged."""

    @property
    def language(self) -> Language:
        """The language of the calls."""
        return LANGUAGES.get(self.judge, PYTHON)

    @property
    def shown(self) -> list[dict[str, Any]]:
        """The functions as a model sees them: other languages' values are literals in strings."""
        if self.language is PYTHON:
            return list(self.functions)
        return [_write_as_literals(function, self.language) for function in self.functions]

    @property
    def documents(self) -> list[dict[str, Any]]:
        """What is shown, in ToolDev's dialect, for our prompt."""
        return [to_document(function) for function in self.shown]

    @property
    def openai_tools(self) -> list[dict[str, Any]]:
        """What is shown, as OpenAI's API writes tools, for a chat template."""
        return [{"type": "function", "function": to_json_schema(f)} for f in self.shown]

    @property
    def turn(self) -> tuple[Message, ...]:
        """The messages of the turn, never empty."""
        return self.messages or (Message(role="user", content=self.query),)


class Questions(Protocol):
    """What no training may use: the questions of a benchmark of any kind."""

    @property
    def name(self) -> str:
        """Its file's name."""
        ...

    @property
    def items(self) -> Sequence[Item]:
        """All questions."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A set of questions that are answered by calls."""

    name: str
    """Its file's name: `home` is eval/home.toml."""
    title: str
    """One line for people."""
    split: Split
    """`dev` may decide promotion, `test` is only reported."""
    items: tuple[Item, ...]
    """All questions, category by category."""
    average: Literal["categories", "tooldev"] = "categories"
    """What the overall score is: the mean of the categories, or ToolDev's Overall where all the
    categories that it needs are there."""
    prompt: PromptStyle = "own"
    """How the question is put."""
    syntax: Syntax = "hermes"
    """How calls are read out of the answer."""
    held_out: bool = False
    """Whether its questions are kept from training even where no recipe scores it."""

    @property
    def categories(self) -> tuple[str, ...]:
        """Categories in the definition's order."""
        return tuple(dict.fromkeys(item.category for item in self.items))

    @classmethod
    def load(cls, workspace: Workspace, name: str, data: Path | None = None) -> Benchmark:
        """The benchmark of eval/<name>.toml, its questions from the folder `data` if given.

        Raises:
            ContentError: with file and line: a missing file, an unknown or absent key, or a
                question or answer that could not be judged.
            MissingError: the package that has the questions is not installed.
        """
        path = f"eval/{name}.toml"
        definition = check_definition(_Definition, read_definition(workspace, name), path)
        folder = str(data.resolve()) if data else _find_folder(definition, path)
        items = tuple(
            item
            for category in definition.categories
            for item in _load(workspace, definition, folder, category)
        )
        _require_unique_ids(items, path)
        return cls(
            name=name,
            title=definition.title,
            split=definition.split,
            items=items,
            average=definition.average,
            prompt=definition.prompt,
            syntax=definition.syntax,
            held_out=definition.held_out,
        )

    def narrow(
        self,
        *,
        categories: tuple[str, ...] = (),
        limit: int = 0,
        prompt: PromptStyle | None = None,
        syntax: Syntax | None = None,
    ) -> Benchmark:
        """A part of the benchmark, or another way to ask it, under a name that says so.

        Args:
            categories: those to keep; none is all.
            limit: items of each category at most, the first ones; 0 is all.
            prompt: another style than the definition's.
            syntax: another syntax than the definition's.
        """
        unknown = [category for category in categories if category not in self.categories]
        if unknown:
            raise ContentError(
                f"{self.name} has no category {unknown[0]!r}",
                where=f"eval/{self.name}.toml",
                remedy="its categories are " + ", ".join(self.categories),
            )
        kept = [i for i in self.items if not categories or i.category in categories]
        kept = first_of_each(kept, limit, lambda item: item.category)
        prompt, syntax = prompt or self.prompt, syntax or self.syntax
        marks = [
            "+".join(categories),
            f"limit={limit}" if limit else "",
            f"prompt={prompt}" if prompt != self.prompt else "",
            f"syntax={syntax}" if syntax != self.syntax else "",
        ]
        suffix = ",".join(mark for mark in marks if mark)
        name = f"{self.name}[{suffix}]" if suffix else self.name
        return replace(self, name=name, items=tuple(kept), prompt=prompt, syntax=syntax)


def to_document(function: Mapping[str, Any]) -> dict[str, Any]:
    """A BFCL function as a ToolDev document: `parameters` becomes `arguments`, order kept (A46)."""
    return {"arguments" if key == "parameters" else key: value for key, value in function.items()}


def to_function(document: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of to_document."""
    return {"parameters" if key == "arguments" else key: value for key, value in document.items()}


def to_json_schema(function: Mapping[str, Any]) -> dict[str, Any]:
    """A BFCL function with the type words of JSON Schema."""
    return {key: _rename_types(v) if key == "parameters" else v for key, v in function.items()}


def _rename_types(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    renamed = dict(schema)
    word = schema.get("type")
    if isinstance(word, str):
        renamed["type"] = JSON_SCHEMA_WORDS.get(word, word)
    if "items" in schema:
        renamed["items"] = _rename_types(schema["items"])
    if isinstance(schema.get("properties"), dict):
        renamed["properties"] = {k: _rename_types(v) for k, v in schema["properties"].items()}
    return renamed


def _write_as_literals(function: Mapping[str, Any], language: Language) -> dict[str, Any]:
    """The function with every argument a string, described as a literal of its type."""
    parameters = function["parameters"]
    properties = {
        name: {
            "type": "string",
            "description": f"{schema.get('description', '')} {_describe(schema, language)}".strip(),
        }
        for name, schema in parameters["properties"].items()
    }
    return {
        **function,
        "description": f"{function.get('description', '')} A {language.name} function.".strip(),
        "parameters": {**parameters, "properties": properties},
    }


def _describe(schema: Mapping[str, Any], language: Language) -> str:
    """What the string of an argument holds."""
    word, items = schema["type"], item_word(schema, language)
    kind = "any type" if word == "any" else f"type {word}"
    parts = f" with items of type {items}" if items else ""
    if isinstance(schema.get("properties"), dict):
        parts = f" with the entries {to_json(schema['properties'])}"
    return f"Written as {language.name} code of {kind}{parts}, in a string."


class Definition(BaseModel):
    """What every eval/<name>.toml may say, whatever its kind."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    title: str = Field(min_length=1)
    split: Split
    held_out: bool = False
    """Whether its questions are kept from training even where no recipe scores it."""


class _Definition(Definition):
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
    judge: dict[str, Judge] = Field(default_factory=dict)
    """Category to how it is judged; calls in Python where none is named."""
    average: Literal["categories", "tooldev"] = "categories"
    prompt: PromptStyle = "own"
    syntax: Syntax = "hermes"


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


def _find_folder(definition: _Definition, path: str) -> str:
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
    workspace: Workspace, definition: _Definition, folder: str, category: str
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
        _check_item(item, where)
        yield item


def _find_name(workspace: Workspace, definition: _Definition, folder: str, category: str) -> str:
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


def _check_item(item: Item, where: str) -> None:
    """Every function and expected call has the form that judging relies on."""
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


def _require_unique_ids(items: tuple[Item, ...], path: str) -> None:
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise ContentError(f"two questions have the id {item.id}", where=path)
        seen.add(item.id)
