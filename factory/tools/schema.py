"""Parameter schemas: every dialect's type words to JSON Schema 2020-12, compiled once a tool.

Tool documents come with Python words (ToolDev, BFCL, ToolACE, Seal-Tools: `dict`, `float`,
`list[str]`), upper-case words (ToolBench: `STRING`) or JSON Schema's own (OpenAI). Here all become
one JSON Schema (algorithms A46), against which calls are judged without any coercion.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from math import inf
from typing import Any, NamedTuple

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend

from factory.domain.canon import canonical_json, to_json
from factory.domain.records import Tool
from factory.tools.closing import close
from factory.tools.formats import CHECKER
from factory.tools.pattern import PatternError, compile_pattern
from factory.tools.references import MAX_COPIED, POINTERS, SCHEMA_LISTS, SCHEMAS
from factory.tools.words import WORDS, read_type

Schema = dict[str, Any]

_KINDS = ("string", "integer", "number", "boolean", "array", "object", "null", "")
_TOOLDEV = ("string", "integer", "float", "boolean", "array", "dict", "null", "any")
JSON_SCHEMA = dict(zip(_KINDS, _KINDS, strict=True))
TOOLDEV = dict(zip(_KINDS, _TOOLDEV, strict=True))
"""JSON Schema's words as ToolDev and BFCL spell them."""

REFERENCES = frozenset({*POINTERS, "$id", "$anchor", "$dynamicAnchor"})
"""Keywords that name another schema. A tool document stands alone, so they are put in place."""
UNSUPPORTED = frozenset({"patternProperties", "unevaluatedProperties", "unevaluatedItems"})
"""Keywords that no grammar expresses: they hold, but a model is not to write them."""
_SCHEMA_MAPS = ("properties", "patternProperties", "dependentSchemas")

_READ_ON_SIGHT = frozenset({"type", "description", "title"})
"""Keywords of a schema in which no other one stands: what it says is its type."""
_PLAIN = (
    *("enum", "const", "default", "pattern", "format", "minLength", "maxLength", "multipleOf"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems"),
    *("uniqueItems", "minContains", "maxContains", "minProperties", "maxProperties"),
    *("dependentRequired", "required"),
)

MAX_WORK = 1_000_000
"""Steps that one judgement may take, each one to ten microseconds."""


class Part(NamedTuple):
    """One schema of a document. Example: Part(("arguments",), {"type": "dict"}, …)."""

    path: tuple[str | int, ...]
    written: Mapping[str, Any]
    kind: Schema | None
    """What its type word means; None without one, and for a word that nobody knows."""
    schema: Schema
    """The same in JSON Schema 2020-12, known keywords only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadTool:
    """A tool's document, read once: for the rules about it and for judging calls.

    Example: read_tool(tool).validator.is_valid({"people": 4}).
    """

    parts: tuple[Part, ...]
    """Its arguments' schema and every schema inside it, outer before inner.

    At most MAX_COPIED + 1: what lies beyond is not looked at, and the judge refuses the document.
    """
    properties: dict[str, Schema]
    """Parameter name to its JSON Schema, `default` kept."""
    required: frozenset[str]
    """Names that a call must give."""
    validator: Draft202012Validator
    """Strict validator of a call's arguments."""


def to_json_schema(schema: object) -> Any:
    """A parameter's schema in JSON Schema 2020-12, known keywords only.

    Objects that declare properties are closed as a whole (tools.closing). Keywords with values of
    the wrong kind are dropped; the judge of documents reports them as schema_invalid.
    """
    read = _read(schema, (), [])
    close(read)
    return read


def _read(schema: object, path: tuple[str | int, ...], parts: list[Part]) -> Any:
    """A schema in JSON Schema's words; it and those inside it are added to `parts`."""
    if isinstance(schema, list):  # in place of a schema: its items are looked at all the same
        _read_list(schema, path, parts)
    if isinstance(schema, bool) or not isinstance(schema, Mapping):
        return schema if isinstance(schema, bool) else {}
    if len(parts) > MAX_COPIED:
        return {}
    kind, out = read_type(schema.get("type")) if "type" in schema else None, dict[str, Any]()
    parts.append(Part(path, schema, kind, out))
    if _READ_ON_SIGHT.issuperset(schema):
        out |= kind or {}
        return out
    inner: Schema = {}
    for key in (*SCHEMA_LISTS, *SCHEMAS):
        if key in schema:
            read = _read_list if isinstance(schema[key], list) else _read
            inner[key] = read(schema[key], (*path, key), parts)
    for key in _SCHEMA_MAPS:
        if isinstance(schema.get(key), Mapping):
            inner[key] = {
                name: _as_object(_read(part, (*path, key, name), parts))
                for name, part in schema[key].items()
            }
    # Validators go through keywords in this order, and so do findings.
    out |= kind or {}
    out |= {key: schema[key] for key in _PLAIN if key in schema and _is_plausible(key, schema[key])}
    out |= {key: inner[key] for key in _SCHEMA_MAPS if key in inner}
    out |= {
        key: inner[key] for key in SCHEMA_LISTS if isinstance(schema.get(key), list) and inner[key]
    }
    out |= {key: inner[key] for key in SCHEMAS if isinstance(schema.get(key), Mapping | bool)}
    _read_older(schema, out, inner, path, parts)
    return out


def _read_older(
    schema: Mapping[str, Any],
    out: Schema,
    inner: Schema,
    path: tuple[str | int, ...],
    parts: list[Part],
) -> None:
    """What earlier drafts say in other keywords, in the words of 2020-12."""
    if isinstance(schema.get("items"), list):
        out["prefixItems"] = inner["items"]
    rest = out.pop("additionalItems", None)
    if "prefixItems" in out and rest is not None:
        out.setdefault("items", rest)
    dependencies = schema.get("dependencies")
    for name, part in dependencies.items() if isinstance(dependencies, Mapping) else ():
        if _is_plausible("required", part):
            out["dependentRequired"] = {**out.get("dependentRequired", {}), name: part}
        elif isinstance(part, Mapping | bool):
            read = _read(part, (*path, "dependencies", name), parts)
            out["dependentSchemas"] = {**out.get("dependentSchemas", {}), name: read}
    for bound in ("Minimum", "Maximum"):  # draft 4
        limit = schema.get(bound.lower())
        if schema.get(f"exclusive{bound}") is True and _is_plausible("minimum", limit):
            out[f"exclusive{bound}"] = out.pop(bound.lower())
    if schema.get("nullable") is True and isinstance(out.get("type"), str):
        out["type"] = [out["type"], "null"]


def _as_object(schema: Any) -> Any:
    """A boolean schema as an object, as readers of properties expect them."""
    if isinstance(schema, bool):
        return {} if schema else {"not": {}}
    return schema


def _read_list(schemas: list[Any], path: tuple[str | int, ...], parts: list[Part]) -> list[Any]:
    return [_read(part, (*path, index), parts) for index, part in enumerate(schemas)]


def respell(schema: object, words: Mapping[str, str] = JSON_SCHEMA) -> Any:
    """A copy with its type words in another spelling; words that nobody knows stay.

    >>> respell({"type": "List[int]"}, TOOLDEV)
    {'type': 'array', 'items': {'type': 'integer'}}
    """
    if isinstance(schema, list):
        return [respell(part, words) for part in schema]
    if not isinstance(schema, dict | Mapping):
        return schema
    out: Schema = {}
    for key, part in schema.items():
        if key == "type" and isinstance(part, str) and WORDS.get(part):
            out.setdefault("type", words[WORDS[part]])
        elif key == "type":
            fragment = read_type(part)
            spelled = {"type": part} if fragment is None else _spell(fragment, words)
            out |= {name: value for name, value in spelled.items() if name not in out}
        elif key in _SCHEMA_MAPS and isinstance(part, Mapping):
            out[key] = {name: respell(inner, words) for name, inner in part.items()}
        elif key == "items" and isinstance(part, list):
            out["prefixItems"] = respell(part, words)
        elif key in SCHEMA_LISTS or key in SCHEMAS:
            out[key] = respell(part, words)
        else:
            out[key] = part
    return out


def _spell(fragment: Schema, words: Mapping[str, str]) -> Schema:
    """What read_type gave, in these words; a word for anything is left out where there is none."""
    out: Schema = {}
    kind = fragment.get("type", "")
    if isinstance(kind, list):
        out["type"] = [words[name] for name in kind]
    elif words[kind] and not fragment.keys() & {"anyOf"}:
        out["type"] = words[kind]
    for key, part in fragment.items():
        if key != "type":
            out[key] = respell(part, words)
    return out


def arguments_schema(arguments: Mapping[str, Any]) -> Schema:
    """JSON Schema of a call's arguments: a closed object."""
    return _close(to_json_schema(arguments))


def _close(schema: Schema) -> Schema:
    # Validators go through keywords in order: an invented argument is told before a missing one.
    head = {
        "type": "object",
        "additionalProperties": schema.get("additionalProperties", False),
        "required": schema.get("required", []),
        "properties": schema.get("properties", {}),
    }
    return head | {key: part for key, part in schema.items() if key not in head}


def make_validator(schema: object) -> Draft202012Validator:
    """A strict validator: true is not 1, 5.0 is not an integer, patterns take bounded time."""
    return StrictValidator(schema, format_checker=CHECKER)


class _Kept:
    """What was read of the last tools, while their documents' JSON is MAX_KEPT characters long."""

    def __init__(self) -> None:
        self._readings: dict[Tool, tuple[ReadTool, int]] = {}
        self._lock = threading.Lock()
        self.size = 0

    def read(self, tool: Tool) -> ReadTool:
        if kept := self._readings.get(tool):
            return kept[0]
        reading = read_document(tool.document)
        with self._lock:
            if tool not in self._readings:
                size = _TOOL_SIZE + len(to_json(tool.document))
                self._readings[tool] = reading, size
                self.size += size
            while self.size > MAX_KEPT:
                self.size -= self._readings.pop(next(iter(self._readings)))[1]
        return reading


MAX_KEPT = 8_000_000
"""Characters of tools that are kept; in memory they take some ten times as much."""
_TOOL_SIZE = 1000
"""What a tool adds to its document: its validator."""
_KEPT = _Kept()


def read_tool(tool: Tool) -> ReadTool:
    """The tool's document, read once and kept for the last few thousand tools of usual length."""
    return _KEPT.read(tool)


def read_document(document: Mapping[str, Any]) -> ReadTool:
    """A document, which may lack whatever a tool must have: the rules say so."""
    parts: list[Part] = []
    arguments = _read(document.get("arguments"), ("arguments",), parts)
    close(arguments)
    schema = _close(arguments if isinstance(arguments, dict) else {})
    return ReadTool(
        parts=tuple(parts),
        properties=schema["properties"],
        required=frozenset(schema["required"]),
        validator=make_validator(schema),
    )


def _is_plausible(key: str, value: object) -> bool:
    if key == "enum":
        return isinstance(value, list)
    if key == "required":
        return isinstance(value, list) and all(isinstance(name, str) for name in value)
    if key in ("const", "default"):
        return True
    if key in ("pattern", "format"):
        return isinstance(value, str)
    if key == "uniqueItems":
        return isinstance(value, bool)
    if key == "dependentRequired":
        return isinstance(value, Mapping) and all(
            _is_plausible("required", names) for names in value.values()
        )
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return key != "multipleOf" or value > 0


_LOOKING_AGAIN = 300
"""Steps of asking once more what a part says, as unevaluated… does: inside itself it doubles."""


class TooMuchWork(Exception):
    """Judging takes more than MAX_WORK; str() is one sentence."""


class _Work(threading.local):
    """What is left of this thread's judgement; without one there is no end to the steps."""

    left: float = inf

    def spend(self, cost: int) -> None:
        self.left -= cost
        if self.left < 0:
            raise TooMuchWork(f"judging it takes more than {MAX_WORK:,} steps")


_WORK = _Work()


@contextmanager
def bounded_work() -> Iterator[None]:
    """Validations in it share MAX_WORK steps, beyond which TooMuchWork is raised.

    A schema of many alternatives and a value of many items are each small, their product is not.
    A judgement inside another has steps of its own; the outer one goes on with what it had.
    """
    outer, _WORK.left = _WORK.left, MAX_WORK
    try:
        yield
    finally:
        _WORK.left = outer


def spend_work(steps: int) -> None:
    """Count what is about to be done outside a validation. Raises TooMuchWork."""
    _WORK.spend(steps)


def _check_pattern(
    validator: Draft202012Validator, pattern: str, instance: object, schema: Schema
) -> Iterator[ValidationError]:
    if not isinstance(instance, str):
        return
    try:
        compiled = compile_pattern(pattern)
        _WORK.spend(compiled.weigh(instance))
        matched = compiled.search(instance)
    except PatternError as error:
        yield ValidationError(f"the pattern cannot be used: {error}")
        return
    if not matched:
        yield ValidationError("does not match the pattern")


def _matches(pattern: str, name: str) -> bool:
    try:
        compiled = compile_pattern(pattern)
    except PatternError:
        return False
    _WORK.spend(compiled.weigh(name))
    return compiled.search(name)


def is_named(name: str, schema: Schema) -> bool:
    """Whether an object's schema says itself what stands under a name."""
    if name in schema.get("properties", {}):
        return True
    return any(_matches(pattern, name) for pattern in schema.get("patternProperties", {}))


def _check_pattern_properties(
    validator: Draft202012Validator, patterns: Schema, instance: object, schema: Schema
) -> Iterator[ValidationError]:
    if isinstance(instance, dict):
        for pattern, part in patterns.items():
            for name, value in instance.items():
                if _matches(pattern, name):
                    yield from validator.descend(value, part, path=name, schema_path=pattern)


def _check_additional(
    validator: Draft202012Validator, rest: Any, instance: object, schema: Schema
) -> Iterator[ValidationError]:
    if not isinstance(instance, dict) or rest is True:
        return
    others = [name for name in instance if not is_named(name, schema)]
    if rest is False and others:
        yield ValidationError(f"does not take {', '.join(map(repr, others))}")
    elif isinstance(rest, dict):
        for name in others:
            yield from validator.descend(instance[name], rest, path=name)


def _check_unevaluated(
    validator: Draft202012Validator, rest: Any, instance: object, schema: Schema
) -> Iterator[ValidationError]:
    if isinstance(instance, dict):
        _WORK.spend(_LOOKING_AGAIN * (1 + len(instance)))
        seen = _evaluated(validator, schema, instance, "unevaluatedProperties")
        for name in instance.keys() - seen:
            if not validator.evolve(schema=rest).is_valid(instance[name]):
                yield ValidationError(f"does not take {name!r}")


def _evaluated(
    validator: Draft202012Validator, schema: Any, instance: Mapping[str, Any], but: str = ""
) -> set[str]:
    """Names of an object that a schema, all keywords `but` one, says something of (core, 11.3)."""
    if not isinstance(schema, dict):
        return set()
    if schema.keys() & {"additionalProperties", "unevaluatedProperties"} - {but}:
        return set(instance)
    seen = {name for name in instance if is_named(name, schema)}
    parts = [part for key in ("allOf", "anyOf", "oneOf") for part in schema.get(key, ())]
    dependent = schema.get("dependentSchemas", {})
    parts += [part for name, part in dependent.items() if name in instance]
    if "if" in schema:
        holds = validator.evolve(schema=schema["if"]).is_valid(instance)
        parts += [schema["if"], schema.get("then")] if holds else [schema.get("else")]
    for part in parts:
        _WORK.spend(_LOOKING_AGAIN)
        if part is not None and validator.evolve(schema=part).is_valid(instance):
            seen |= _evaluated(validator, part, instance)
    return seen


def _check_multiple(
    validator: Draft202012Validator, step: Any, instance: object, schema: Schema
) -> Iterator[ValidationError]:
    """By decimal digits, as both are written: 19.99 is a multiple of 0.01."""
    if isinstance(instance, int | float) and not isinstance(instance, bool):
        quotient = Fraction(str(instance)) / Fraction(str(step))
        if quotient.denominator != 1:
            yield ValidationError(f"is not a multiple of {step}")


def _check_unique(
    validator: Draft202012Validator, unique: bool, instance: object, schema: Schema
) -> Iterator[ValidationError]:
    if unique and isinstance(instance, list):
        _WORK.spend(2 * len(instance))
        seen: set[str] = set()
        for item in instance:
            text = canonical_json(_without_point(item))
            if text in seen:
                yield ValidationError("holds an item twice")
                return
            seen.add(text)


def _without_point(value: Any) -> Any:
    """A value with 1 for 1.0, which is the same number."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_without_point(part) for part in value]
    if isinstance(value, dict):
        return {name: _without_point(part) for name, part in value.items()}
    return value


def _is_integer(checker: object, instance: object) -> bool:
    return isinstance(instance, int) and not isinstance(instance, bool)


def _weighed(keyword: str, weigh: Callable[[Any, Any], int]) -> Callable[..., Any]:
    """The keyword's own check, after its work is counted."""
    check = Draft202012Validator.VALIDATORS[keyword]

    def check_weighed(validator: Any, value: Any, instance: Any, schema: Any) -> Any:
        _WORK.spend(weigh(value, instance))
        return check(validator, value, instance, schema)

    return check_weighed


def _length(instance: object) -> int:
    return len(instance) if isinstance(instance, list | dict) else 1


_WEIGHTS: dict[str, Callable[[Any, Any], int]] = {
    **dict.fromkeys(
        ("anyOf", "oneOf", "allOf", "dependentSchemas"), lambda value, instance: 15 * len(value)
    ),
    **dict.fromkeys(
        ("items", "contains", "propertyNames"), lambda value, instance: 2 * _length(instance)
    ),
    "unevaluatedItems": lambda value, instance: _LOOKING_AGAIN * (1 + _length(instance)),
    "properties": lambda value, instance: 3 * len(value),
    "prefixItems": lambda value, instance: 5 * min(len(value), _length(instance)),
    "enum": lambda value, instance: len(value) * (1 + _length(instance) // 8),
    "required": lambda value, instance: len(value) // 8,
    "dependentRequired": lambda value, instance: len(value) // 8,
}
"""Keywords that make checks multiply, with about how many microseconds they take."""

StrictValidator = extend(
    Draft202012Validator,
    {keyword: _weighed(keyword, weigh) for keyword, weigh in _WEIGHTS.items()}
    | {
        "pattern": _check_pattern,
        "uniqueItems": _check_unique,
        "patternProperties": _check_pattern_properties,
        "additionalProperties": _check_additional,
        "unevaluatedProperties": _check_unevaluated,
        "multipleOf": _check_multiple,
    },
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer),
)
_descend_anywhere = StrictValidator.descend
_ELSEWHERE = frozenset({"$id", "$schema"})
"""Keywords with which a schema has a resolver, or a validator, of its own."""


def _descend(
    self: Any,
    instance: Any,
    schema: Any,
    path: str | int | None = None,
    schema_path: str | int | None = None,
    resolver: Any = None,
) -> Iterator[ValidationError]:
    """jsonschema's own, without a new validator for each schema inside another.

    Only what follows a reference, and a schema with an id or `$schema`, needs one.
    """
    if resolver is not None or isinstance(schema, bool) or not _ELSEWHERE.isdisjoint(schema):
        yield from _descend_anywhere(self, instance, schema, path, schema_path, resolver)
        return
    for keyword, value in schema.items():
        check = self.VALIDATORS.get(keyword)
        for error in (check and check(self, value, instance, schema)) or ():
            error._set(
                validator=keyword,
                validator_value=value,
                instance=instance,
                schema=schema,
                type_checker=self.TYPE_CHECKER,
            )
            if keyword not in ("if", "$ref"):
                error.schema_path.appendleft(keyword)
            if path is not None:
                error.path.appendleft(path)
            if schema_path is not None:
                error.schema_path.appendleft(schema_path)
            yield error


StrictValidator.descend = _descend
