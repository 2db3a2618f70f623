"""What is wrong with a tool document: its schema, and what a schema cannot say.

Findings are named by rule id (`rules/tool/`); factory.judge.verdicts turns them into verdicts. The
document is read once, by tools.schema, and asked here part by part.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from jsonschema import SchemaError, ValidationError

from factory.domain.canon import normalise_text, tool_id
from factory.domain.jsontext import Parts, show, walk
from factory.domain.plaintext import printable
from factory.domain.records import Tool
from factory.judge.findings import MAX_VERDICTS, Finding, explain
from factory.judge.rulebook import Rule, Rulebook
from factory.tools.formats import CHECKER
from factory.tools.pattern import PatternError, compile_pattern
from factory.tools.references import MAX_COPIED
from factory.tools.schema import (
    REFERENCES,
    UNSUPPORTED,
    Part,
    ReadTool,
    StrictValidator,
    TooMuchWork,
    bounded_work,
    make_validator,
    read_document,
    read_tool,
    respell,
    spend_work,
)

_SIMPLE: dict[str, type | tuple[type, ...]] = {
    "type": (str, list),
    "description": str,
    "properties": dict,
    "items": dict,
    "enum": list,
    "default": object,
    "title": str,
    **dict.fromkeys(("minimum", "maximum"), (int, float)),
}
_BRANCHES = ("anyOf", "oneOf", "allOf")
_UNTYPED = ("enum", "const", "anyOf", "oneOf", "allOf")
META_STEPS = 100
"""Steps of asking JSON Schema's own schema about one schema."""
UNUSABLE = "tool/unusable"
"""Id under which find_unusable speaks; it is no rule and cannot be switched off."""

_WORD = re.compile(r"\w+")
_UNSOUND = frozenset({"tool/schema_reference", "tool/schema_pattern", "tool/prop_type_unknown"})


def find_unusable(document: object) -> Finding | None:
    """What keeps a document from being a Tool at all, whatever the rules' settings say.

    A tool has a name, an object of arguments with an object of properties, and each property is
    an object: prompts, codes, votes and the judges of calls rely on it.
    """
    if not isinstance(document, dict):
        return Finding(UNUSABLE, (), f"{show(document)} is no object")
    name = document.get("name")
    if not isinstance(name, str) or not name:
        return Finding(UNUSABLE, ("name",), f"{show(name)} is no name to call a tool by")
    path: Parts = ("arguments",)
    part = document.get("arguments")
    if isinstance(part, dict):
        path, part = ("arguments", "properties"), part.get("properties")
    if not isinstance(part, dict):
        return Finding(UNUSABLE, path, f"{show(part)} is no object of {path[-1]}")
    for argument, schema in part.items():
        if not isinstance(schema, dict):
            message = f"{show(schema)} does not describe the argument {show(argument, 60)}"
            return Finding(UNUSABLE, (*path, argument), message)
    return None


def judge_name_in_set(document: object, index: int, names: dict[str, int]) -> Iterator[Finding]:
    name = document.get("name") if isinstance(document, dict) else None
    if not isinstance(name, str):
        return
    if name in names:
        message = f"tool {names[name]} is called {show(name)} too"
        yield Finding("tool/name_duplicate_in_set", ("name",), message)
    names.setdefault(name, index)


def judge_document(document: object, rulebook: Rulebook, query: str) -> Iterator[Finding]:
    """What the document schema says, and what a schema cannot say."""
    found: dict[tuple[str, Parts], Finding] = {}
    try:
        with bounded_work():
            for finding in _judge_whole(document, rulebook, query):
                found.setdefault(finding[:2], finding)
                if len(found) == MAX_VERDICTS:
                    break
    except TooMuchWork as error:
        finding = Finding("tool/too_many_params", ("arguments",), f"too large: {error}")
        found.setdefault(finding[:2], finding)
    yield from found.values()


def _judge_whole(document: object, rulebook: Rulebook, query: str) -> Iterator[Finding]:
    yield from _judge_shape(document, rulebook)
    if not isinstance(document, dict):
        return
    arguments = document.get("arguments")
    if isinstance(arguments, dict) and isinstance(arguments.get("properties"), dict):
        parts = _read(document).parts
        if len(parts) > MAX_COPIED:
            raise TooMuchWork(f"it has over {MAX_COPIED:,} schemas")
        yield from _judge_arguments(arguments, parts, rulebook)
    if query:
        yield from _judge_leak(document, query, rulebook)
    yield from _judge_marks(document, rulebook.rule("tool/control_token"))


def _read(document: dict[str, Any]) -> ReadTool:
    """Kept under the tool's id, so that whoever judges its calls need not read it again."""
    try:
        return read_tool(Tool(id=tool_id(document), document=document))
    except ValueError:  # NaN and Infinity are no JSON and have no id
        return read_document(document)


def _judge_shape(document: object, rulebook: Rulebook) -> Iterator[Finding]:
    """Errors of rules/tool/document.schema.json, each under the rule its x-rule names."""
    for error in rulebook.document_validator.iter_errors(document):
        path: Parts = tuple(error.absolute_path)
        if "propertyNames" in error.absolute_schema_path:
            yield Finding(_marked_rule(error), (*path, error.instance), explain(error))
        elif error.validator == "required":
            for name in error.validator_value:
                if name not in error.instance:
                    rule = _marked_rule(error, name)
                    message = f"{name} is missing in {show(error.instance)}"
                    yield Finding(rule, (*path, name), message)
        else:
            yield Finding(_marked_rule(error), path, explain(error))


def _marked_rule(error: ValidationError, name: str = "") -> str:
    """The rule that x-rule names for the broken keyword (and missing property)."""
    mark = error.schema.get("x-rule", {}) if isinstance(error.schema, dict) else {}
    if isinstance(mark, str):
        return mark
    keyword = str(error.validator)
    fallback = mark.get(keyword, "tool/schema_invalid")
    return str(mark.get(f"{keyword}.{name}", fallback))


def _judge_arguments(
    arguments: Mapping[str, Any], parts: Sequence[Part], rulebook: Rulebook
) -> Iterator[Finding]:
    """Types, items, enums, defaults, required names; then JSON Schema's own meta-schema."""
    types = rulebook.rule("tool/prop_type_unknown").words("types")
    sound = True
    for part in parts:
        for finding in _judge_part(part, types):
            sound = sound and finding.rule not in _UNSOUND
            yield finding
    if sound and not all(_is_simple(part.written) for part in parts):
        spend_work(META_STEPS * len(parts))
        yield from _judge_meta(arguments)


def _judge_part(part: Part, types: frozenset[str]) -> Iterator[Finding]:
    for keyword in part.written.keys() & (REFERENCES | UNSUPPORTED):
        message = f"{keyword} {show(part.written[keyword])} is not allowed: a document stands alone"
        yield Finding("tool/schema_reference", (*part.path, keyword), message)
    pattern = part.written.get("pattern")
    if isinstance(pattern, str):
        try:
            compile_pattern(pattern)
        except PatternError as error:
            message = f"pattern {show(pattern, 60)} cannot be used: {printable(str(error))}"
            yield Finding("tool/schema_pattern", (*part.path, "pattern"), message)
    yield from _judge_type(part, types)
    yield from _judge_required(part)
    yield from _judge_values(part)


def _judge_type(part: Part, types: frozenset[str]) -> Iterator[Finding]:
    written = part.written
    if "type" not in written:
        if not any(keyword in written for keyword in _UNTYPED) and len(part.path) > 1:
            message = f"the type is missing in {show(written)}"
            yield Finding("tool/prop_type_unknown", part.path, message)
        return
    word = written["type"]
    named = {name for one in (word if isinstance(word, list) else [word]) for name in _names(one)}
    if part.kind is None or not named <= types:
        message = f"{show(word)} is none of the type words in use"
        yield Finding("tool/prop_type_unknown", (*part.path, "type"), message)
    elif part.kind.get("type") == "array" and not {"items", "prefixItems"} & {*part.kind, *written}:
        message = f"no items say what is in the array: {show(written)}"
        yield Finding("tool/array_without_items", part.path, message)


def _names(word: object) -> list[str]:
    return _WORD.findall(word.lower()) if isinstance(word, str) else []


def _judge_required(part: Part) -> Iterator[Finding]:
    required, properties = part.written.get("required"), part.written.get("properties", {})
    if isinstance(required, list) and isinstance(properties, dict):
        for index, name in enumerate(required):
            if not isinstance(name, str) or name not in properties:
                message = f"{show(name)} is required but is no property"
                yield Finding("tool/required_unknown", (*part.path, "required", index), message)


def _judge_values(part: Part) -> Iterator[Finding]:
    """Enum members and the default must fit the part's own type; a null default means none."""
    choices, default = part.written.get("enum"), part.written.get("default")
    if isinstance(choices, list):
        frame = {key: one for key, one in part.schema.items() if key not in ("default", "enum")}
        validator = make_validator(frame)
        if not choices:
            yield Finding("tool/enum_type_mismatch", (*part.path, "enum"), "the enum [] is empty")
        for index, choice in enumerate(choices):
            if not validator.is_valid(choice):
                message = f"{show(choice)} is not a {show(part.written.get('type'))}"
                yield Finding("tool/enum_type_mismatch", (*part.path, "enum", index), message)
    if isinstance(default, float) and default.is_integer():
        default = int(default)  # a default is no call: 5.0 is the integer 5 (JSON Schema 6.1.1)
    if default is not None and not make_validator(part.schema).is_valid(default):
        kind = show(part.written.get("type"), 40)
        message = f"the default {show(default)} does not fit its own schema, {kind}"
        yield Finding("tool/default_type_mismatch", (*part.path, "default"), message)


def _is_simple(part: Mapping[str, Any]) -> bool:
    """Whether a part is valid on sight, so that the meta-schema need not be asked."""
    required = part.get("required", [])
    listed = isinstance(required, list) and all(isinstance(name, str) for name in required)
    return (
        listed
        and len(set(required)) == len(required)
        and all(_is_branches(part[key]) for key in _BRANCHES if key in part)
        and all(
            isinstance(part[key], _SIMPLE.get(key, ()))
            for key in part.keys() - {"required", *_BRANCHES}
        )
    )


def _is_branches(value: object) -> bool:
    """Whether they are schemas, each of which is a part of its own."""
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def _judge_meta(schema: Mapping[str, Any]) -> Iterator[Finding]:
    try:
        StrictValidator.check_schema(respell(schema), format_checker=CHECKER)
    except SchemaError as error:
        path: Parts = ("arguments", *error.absolute_path)
        message = f"not JSON Schema: {show(error.instance)} breaks {error.validator}"
        yield Finding("tool/schema_invalid", path, message)


def _judge_leak(document: dict[str, Any], query: str, rulebook: Rulebook) -> Iterator[Finding]:
    """A description that quotes the whole query."""
    wanted = normalise_text(query).casefold().rstrip(".?!")
    if len(wanted) < rulebook.rule("tool/query_leak").limit("min_chars"):
        return
    for path, text in walk(document):
        if path[-1:] != ("description",) or not isinstance(text, str):
            continue
        if wanted in normalise_text(text).casefold():
            message = f"the description quotes the query: {show(text)}"
            yield Finding("tool/query_leak", path, message)


def _judge_marks(document: dict[str, Any], rule: Rule) -> Iterator[Finding]:
    """Names and texts that spell a control token of a known family of models."""
    if not rule.active:
        return
    marks = _pattern_of(rule.words("marks"))
    for path, value in walk(document):
        for text in (*path[-1:], value):
            if isinstance(text, str) and (hit := marks.search(text)):
                message = f"{show(hit.group())} is a control token of known models"
                yield Finding(rule.id, path, message)


@lru_cache(maxsize=8)
def _pattern_of(marks: frozenset[str]) -> re.Pattern[str]:
    """What finds the marks; `*` in one stands for a name."""
    parts = (re.escape(mark).replace(r"\*", r"[\w▁-]{1,40}") for mark in sorted(marks))
    return re.compile("|".join(parts) or r"(?!)")
