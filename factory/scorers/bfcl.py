"""BFCL's AST judgement: are these calls one of the allowed answers? (algorithms §5.5, §7.3)

Verdicts equal those of the official `ast_checker` on its Python categories, so scores can be put
beside published ones, peculiarities included: parallel calls are matched greedily in gold order,
an int passes for a float but not inside an array, an empty array passes where the argument may be
omitted. The difference is in what a wrong item says: one reason code and one sentence.

Gold is `[{function: {argument: [allowed values]}}]`; the allowed value `""` means that the argument
may be left out. Type words are BFCL's (`dict`, `float`, `tuple`, `any`), not JSON Schema's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from factory.jsontext import show
from factory.records import Call

Function: TypeAlias = Mapping[str, Any]
"""A function as BFCL writes it: name, description, parameters{type, properties, required}."""
Gold: TypeAlias = Mapping[str, Mapping[str, Sequence[Any]]]
"""One expected call: {function: {argument: [allowed values]}}."""

OMITTABLE = ""
"""Among the allowed values: the argument may be left out."""
IGNORED_IN_STRINGS = re.compile(r"[ ,./\-_*^]")
LIVE_SIZES = {
    "live_simple": 258,
    "live_multiple": 1037,
    "live_parallel": 16,
    "live_parallel_multiple": 24,
}
"""Items of BFCL V3's live categories, September 2024 (algorithms §5.5)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """How a category's language writes types and values. Example: PYTHON."""

    types: Mapping[str, type[Any]]
    """Python type of each BFCL type word."""
    read_value: Callable[[Any, str, str | None], Any]
    """(value, type word, item type word) -> the value as a Python object; ValueError where a
    literal is none of the type. The identity where values arrive as JSON."""


PYTHON = Language(
    types={
        "string": str,
        "integer": int,
        "float": float,
        "boolean": bool,
        "array": list,
        "tuple": list,
        "dict": dict,
        "any": str,
    },
    read_value=lambda value, word, items_word: value,
)


class AstVerdict(NamedTuple):
    """Whether an answer is right, and if not, why."""

    correct: bool
    """The verdict."""
    reason: str = ""
    """Empty, or a code: wrong_count, unknown_tool, wrong_tool, missing_required, unknown_argument,
    unexpected_argument, missing_argument, wrong_type, array_item_type, wrong_value."""
    message: str = ""
    """One sentence naming the argument and the value."""


class Averages(NamedTuple):
    """BFCL averages as ToolDev's Table 1 forms them, in percent."""

    non_live: float
    """Mean of simple, multiple, parallel, parallel_multiple."""
    live: float
    """Mean over live items."""
    overall: float
    """Mean of the two."""


RIGHT = AstVerdict(True)


def check_ast(
    calls: Sequence[Call],
    functions: Sequence[Function],
    ground_truth: Sequence[Gold],
    language: Language = PYTHON,
) -> AstVerdict:
    """Judge an answer against the expected calls (algorithms §7.3).

    The number of calls must be equal. Each expected call, in gold order, takes the first call left
    that fits it. Every name in `ground_truth` must be among `functions`.
    """
    if len(calls) != len(ground_truth):
        return AstVerdict(
            False, "wrong_count", f"{len(calls)} calls where {len(ground_truth)} are expected"
        )
    left = list(calls)
    for position, gold in enumerate(ground_truth, start=1):
        verdicts = [_check_call(call, functions, gold, language) for call in left]
        fits = next((index for index, verdict in enumerate(verdicts) if verdict.correct), None)
        if fits is None:
            return _nearest_miss(verdicts, position, len(ground_truth))
        del left[fits]
    return RIGHT


def gold_calls(ground_truth: Sequence[Gold]) -> tuple[Call, ...]:
    """An answer that should be right: the first allowed value of each argument that has one."""
    return tuple(
        Call(name=name, arguments=_first_values(allowed))
        for gold in ground_truth
        for name, allowed in gold.items()
    )


def tooldev_averages(scores: Mapping[str, float]) -> Averages:
    """Non-live, live and overall from category scores in percent (algorithms §7.3).

    `simple` may be given by language as simple_python, simple_java and simple_javascript. A
    missing category raises KeyError.
    """
    if "simple" in scores:
        simple = scores["simple"]
    else:
        simple = sum(scores[f"simple_{name}"] for name in ("python", "java", "javascript")) / 3
    others = ("multiple", "parallel", "parallel_multiple")
    non_live = (simple + sum(scores[name] for name in others)) / 4
    total = sum(LIVE_SIZES.values())
    live = sum(size * scores[name] for name, size in LIVE_SIZES.items()) / total
    return Averages(non_live=non_live, live=live, overall=(non_live + live) / 2)


def _first_values(allowed: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """{argument: first allowed value}; [] where the list is empty, nothing where it is [""]."""
    return {
        name: _plain_value(next((value for value in values if value != OMITTABLE), []))
        for name, values in allowed.items()
        if list(values) != [OMITTABLE]
    }


def _plain_value(allowed: Any) -> Any:
    """A value from its gold form: each key of an object has a list of allowed values there."""
    if isinstance(allowed, dict):
        return {
            key: next(option for option in options if option != OMITTABLE)
            for key, options in allowed.items()
            if list(options) != [OMITTABLE]
        }
    if isinstance(allowed, list):
        return [_plain_value(item) for item in allowed]
    return allowed


def _nearest_miss(verdicts: Sequence[AstVerdict], position: int, expected: int) -> AstVerdict:
    """The verdict to show when no call fits: of a call to the right tool if there is one."""
    wrong_names = ("unknown_tool", "wrong_tool")
    nearest = next((v for v in verdicts if v.reason not in wrong_names), verdicts[0])
    prefix = f"expected call {position}: " if expected > 1 else ""
    return nearest._replace(message=prefix + nearest.message)


def _check_call(
    call: Call, functions: Sequence[Function], gold: Gold, language: Language
) -> AstVerdict:
    """One call against one expected call, in the official order of tests."""
    ((name, allowed),) = gold.items()
    if call.name != name:
        known = any(function["name"] == call.name for function in functions)
        reason = "wrong_tool" if known else "unknown_tool"
        return AstVerdict(False, reason, f"calls {show(call.name)} where {name!r} is expected")
    function = next(function for function in functions if function["name"] == name)
    parameters = function["parameters"]
    for argument in parameters.get("required", ()):
        if argument not in call.arguments:
            return AstVerdict(False, "missing_required", f"{name}: {argument!r} is required")
    for argument, value in call.arguments.items():
        if argument not in parameters["properties"]:
            message = f"{name} has no argument {show(argument)}"
            return AstVerdict(False, "unknown_argument", message)
        if argument not in allowed:
            message = f"{name}: {argument!r} is not to be given here"
            return AstVerdict(False, "unexpected_argument", message)
        schema = parameters["properties"][argument]
        verdict = _check_value(value, schema, allowed[argument], language)
        if not verdict.correct:
            return verdict._replace(message=f"{name}.{argument}: {verdict.message}")
    for argument, values in allowed.items():
        if argument not in call.arguments and OMITTABLE not in values:
            return AstVerdict(False, "missing_argument", f"{name}: {argument!r} is not given")
    return RIGHT


def _check_value(
    value: Any, schema: Mapping[str, Any], allowed: Sequence[Any], language: Language
) -> AstVerdict:
    """One argument: its type, then whether it is among the allowed values."""
    word, items_word = schema["type"], None
    expected = language.types[word]
    items: type[Any] | None = None
    if word in ("array", "tuple") and "items" in schema:
        items_word = schema["items"]["type"]
        items = language.types[items_word]
    try:
        value = language.read_value(value, word, items_word)
    except ValueError as error:
        return AstVerdict(False, "wrong_type", f"{show(value)} is no {word}: {error}")
    if expected is float and type(value) is int:
        expected = int  # an int passes for a float (§7.3)
    # Gold of another type than the schema's stands for a variable: compared as it is.
    gold_type = _gold_type(allowed)
    is_variable = gold_type not in (None, language.types[word])
    if type(value) is not expected and type(value) is not gold_type:
        return AstVerdict(False, "wrong_type", f"{show(value)} is no {word}")
    if type(value) is expected and items is not None and not _items_fit(value, items, allowed):
        return AstVerdict(False, "array_item_type", f"{show(value)} is no array of {items_word}")
    is_equal = value in allowed if is_variable else _is_allowed(value, items, allowed)
    if is_equal:
        return RIGHT
    return AstVerdict(False, "wrong_value", f"{show(value)} is none of {show(list(allowed), 240)}")


def _gold_type(allowed: Sequence[Any]) -> type | None:
    """Type of the first allowed value that is not the omission mark."""
    return next((type(value) for value in allowed if value != OMITTABLE), None)


def _items_fit(value: Sequence[Any], items: type, allowed: Sequence[Any]) -> bool:
    """Whether all items have the schema's item type, or that of one allowed array.

    An allowed value that is no array, such as the omission mark, sets no condition.
    """
    return any(
        not isinstance(gold, list) or all(type(v) in (items, _gold_type(gold)) for v in value)
        for gold in allowed
    )


def _is_allowed(value: Any, items: type | None, allowed: Sequence[Any]) -> bool:
    """Equality under BFCL's loose string comparison, by kind of value."""
    if isinstance(value, dict):
        return any(isinstance(gold, dict) and _object_fits(value, gold) for gold in allowed)
    if isinstance(value, list) and items is dict:
        return any(_objects_fit(value, gold) for gold in allowed)
    if isinstance(value, list):
        standard = [_standardise(item) for item in value]
        return any(
            standard == [_standardise(item) for item in gold]
            for gold in allowed
            if isinstance(gold, list | str)  # the omission mark reads as an empty array
        )
    return _standardise(value) in [_standardise(gold) for gold in allowed]


def _object_fits(value: Mapping[str, Any], gold: Mapping[str, Sequence[Any]]) -> bool:
    """Every key is expected and has an allowed value; no key is missing but omittable ones."""
    return all(
        key in gold and _standardise(item) in [_standardise(option) for option in gold[key]]
        for key, item in value.items()
    ) and all(key in value or OMITTABLE in options for key, options in gold.items())


def _objects_fit(value: Sequence[Any], gold: Sequence[Any]) -> bool:
    """An array of objects against an allowed one: equal length, element by element."""
    return len(value) == len(gold) and all(
        isinstance(item, dict) and isinstance(expected, dict) and _object_fits(item, expected)
        for item, expected in zip(value, gold, strict=True)
    )


def _standardise(value: Any) -> Any:
    """A string in lower case without spaces and `,./-_*^`, `'` as `"`; other values as they are."""
    if not isinstance(value, str):
        return value
    return IGNORED_IN_STRINGS.sub("", value).lower().replace("'", '"')
