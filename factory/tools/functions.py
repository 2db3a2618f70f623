"""Python functions as tools: signature, annotations and docstring, nothing called.

Importing a module runs its top level, and annotations written as text are evaluated; the functions
themselves are only looked at. Types are what pydantic makes of them.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
import typing
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from factory.domain.failures import InputError
from factory.domain.jsontext import JsonTextError, parse_strict
from factory.tools.containers import Document

_SECTION = re.compile(
    r"^\s*(Args|Arguments|Parameters|Params|Returns?|Raises|Yields?|Examples?|Notes?|Attributes)"
    r"\s*:?\s*$",
    re.MULTILINE,
)
_GOOGLE = re.compile(r"^(\s*)\*{0,2}(\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)$")
_SPHINX = re.compile(r"^\s*:param\s+(?:[^:]*\s)?\*{0,2}(\w+)\s*:\s*(.*)$", re.MULTILINE)
_NUMPY = re.compile(r"^\*{0,2}(\w+)\s*(?::.*)?$")


def read_functions(target: str) -> list[tuple[str, Document | str]]:
    """A name and a document of OpenAI's form, or the cause why there is none, for each function.

    `target` is `module:function`, `module:Class.method`, or `module` for all its public functions.
    Raises InputError where the module cannot be imported or has no such function.
    """
    module_name, _, path = target.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's own module raises
        raise InputError(
            f"the module cannot be imported: {type(error).__name__} {error}",
            where=module_name,
            remedy="--python package.module:function, from the folder that holds the package",
        ) from error
    functions: list[Callable[..., Any]] = []
    if path:
        found: Any = module
        for name in path.split("."):
            found = getattr(found, name, None)
        functions.append(_unwrap(found))
    else:
        public = (part for name, part in vars(module).items() if not name.startswith("_"))
        functions += (
            part
            for part in public
            if inspect.isfunction(part) and part.__module__ == module.__name__
        )
    if not functions or not all(callable(each) for each in functions):
        raise InputError("there is no such function", where=target)
    made: list[tuple[str, Document | str]] = []
    for each in functions:
        name = getattr(each, "__name__", path)
        try:
            made.append((name, read_function(each)))
        except Exception as error:  # annotations are the user's own code too
            told = isinstance(error, ValueError | TypeError | NameError)
            made.append((name, str(error) if told else f"{type(error).__name__}: {error}"))
    return made


def read_function(function: Callable[..., Any]) -> Document:
    """A function as OpenAI writes tools. Raises ValueError for a type that JSON cannot have."""
    text = inspect.getdoc(function) or ""
    described = _describe_parameters(text)
    hints = typing.get_type_hints(function, include_extras=True)
    properties: dict[str, Any] = {}
    required: list[str] = []
    schema: Document = {"type": "object", "properties": properties, "required": required}
    parameters = [*inspect.signature(function).parameters.values()]
    if parameters and parameters[0].name in ("self", "cls"):
        parameters = parameters[1:]
    for each in parameters:
        if each.kind is inspect.Parameter.VAR_KEYWORD:
            schema["additionalProperties"] = True
        elif each.kind is inspect.Parameter.VAR_POSITIONAL:
            raise ValueError(f"*{each.name} has no name to be called by")
        else:
            part = _schema_of(hints.get(each.name, each.empty), each.name)
            if each.name in described:
                part = {**part, "description": described[each.name]}
            if each.default is each.empty:
                required.append(each.name)
            else:
                part |= _default_of(each.default)
            properties[each.name] = _place(part, schema)
    document = {
        "name": function.__name__,
        "description": _first_words(text),
        "parameters": schema,
    }
    returned = hints.get("return")
    if returned not in (None, type(None), Any):
        with suppress(ValueError):  # what comes back is not given by a call
            document["response"] = _schema_of(returned, "return")
    return document


def _unwrap(found: Any) -> Any:
    """The function inside a tool object of LangChain and the like, or inside decorators."""
    inner = getattr(found, "func", None) or getattr(found, "fn", None)
    return inspect.unwrap(inner if callable(inner) else found) if callable(found) or inner else None


def _schema_of(annotation: Any, name: str) -> Document:
    if annotation is inspect.Parameter.empty or annotation is Any:
        return {}
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticUserError

    try:
        schema: Document = TypeAdapter(annotation).json_schema()
    except (PydanticUserError, TypeError) as error:
        raise ValueError(f"{name}: {annotation} is no type of JSON") from error
    return schema


def _place(part: Document, schema: Document) -> Document:
    """A parameter's schema, its definitions moved to where the references look for them."""
    definitions = part.pop("$defs", {})
    known = schema.setdefault("$defs", {}) if definitions else {}
    names: dict[str, str] = {}
    for name, definition in definitions.items():
        free, number = name, 2
        while free in known and known[free] != definition:
            free, number = f"{name}_{number}", number + 1
        names[f"#/$defs/{name}"] = f"#/$defs/{free}"
    renamed = {old: new for old, new in names.items() if old != new}
    for name, definition in definitions.items():
        known[names[f"#/$defs/{name}"].removeprefix("#/$defs/")] = _point(definition, renamed)
    placed: Document = _point(part, renamed)
    return placed


def _point(schema: Any, names: Mapping[str, str]) -> Any:
    """A schema whose references have other names."""
    if not names:
        return schema
    if isinstance(schema, list):
        return [_point(part, names) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: names.get(part, part)
        if key == "$ref" and isinstance(part, str)
        else _point(part, names)
        for key, part in schema.items()
    }


def _default_of(default: Any) -> Document:
    """The default, where JSON can say it."""
    try:
        return {"default": parse_strict(json.dumps(default))}
    except (TypeError, ValueError, JsonTextError):
        return {}


def _first_words(text: str) -> str:
    """A docstring up to its first section, as one line a paragraph."""
    head = _SECTION.split(text, maxsplit=1)[0]
    head = re.split(r"^\s*:(?:param|type|returns?|rtype|raises)\b", head, flags=re.M)[0]
    return "\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", head.strip()))


def _describe_parameters(text: str) -> dict[str, str]:
    """What a docstring says of each parameter, in Google's, NumPy's or Sphinx' way."""
    found = {match[1]: match[2].strip() for match in _SPHINX.finditer(text)}
    parts = _SECTION.split(text)
    for title, body in zip(parts[1::2], parts[2::2], strict=False):
        if title in ("Args", "Arguments", "Parameters", "Params"):
            is_numpy = re.match(r"\s*\n?\s*-{3,}", body) is not None
            found |= _read_numpy(body) if is_numpy else _read_google(body)
    return {name: " ".join(words.split()) for name, words in found.items() if words.strip()}


def _read_google(body: str) -> dict[str, str]:
    found: dict[str, str] = {}
    indent, name = None, ""
    for line in body.strip("\n").splitlines():
        match = _GOOGLE.match(line)
        if match and (indent is None or len(match[1]) <= indent):
            indent, name = len(match[1]), match[2]
            found[name] = match[3]
        elif name and line.strip():
            found[name] += f" {line.strip()}"
    return found


def _read_numpy(body: str) -> dict[str, str]:
    found: dict[str, str] = {}
    name = ""
    for line in body.splitlines():
        match = _NUMPY.match(line)
        if match and not line.startswith((" ", "-")):
            name = match[1]
            found[name] = ""
        elif name and line.startswith(" "):
            found[name] += f" {line.strip()}"
    return found
