"""BFCL's AST judgement: are these calls one of the allowed answers? (algorithms §5.5, §7.3)

Verdicts equal those of the official `ast_checker`, so scores can be put beside published ones,
peculiarities included: parallel calls are matched greedily in gold order, an int passes for a float
but not inside an array, an empty array passes where the argument may be omitted; in the Java and
JavaScript categories every value is a literal in a string. The difference is in what a wrong item
says: one reason code and one sentence.

Gold is `[{function: {argument: [allowed values]}}]`; the allowed value `""` means that the argument
may be left out. Type words are BFCL's (`dict`, `float`, `tuple`, `any`), not JSON Schema's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from factory.domain.jsontext import show
from factory.domain.records import Call
from factory.score.calls.literals import (
    JAVA_TYPES,
    JAVASCRIPT_TYPES,
    read_java,
    read_javascript,
    write_java,
    write_javascript,
)

Function: TypeAlias = Mapping[str, Any]
"""A function as BFCL writes it: name, description, parameters{type, properties, required}."""
Gold: TypeAlias = Mapping[str, Mapping[str, Sequence[Any]]]
"""One expected call: {function: {argument: [allowed values]}}."""

OMITTABLE = ""
"""Among the allowed values: the argument may be left out."""
IGNORED_IN_STRINGS = " ,./-_*^"
_STANDARD = str.maketrans("'", '"', IGNORED_IN_STRINGS)
SHOWN_VALUES = 4
"""Allowed values that a message names."""
LIVE_SIZES = {
    "live_simple": 258,
    "live_multiple": 1037,
    "live_parallel": 16,
    "live_parallel_multiple": 24,
}
"""Items of BFCL V3's live categories, September 2024 (algorithms §5.5)."""
SIMPLE = ("simple_python", "simple_java", "simple_javascript")
NON_LIVE: Mapping[str, float] = {
    **dict.fromkeys(SIMPLE, 1 / 12),
    **dict.fromkeys(("multiple", "parallel", "parallel_multiple"), 1 / 4),
}
"""Weight of each category in Non-live, of ToolDev's Table 1 and of the leaderboard alike."""
LIVE: Mapping[str, float] = {c: size / sum(LIVE_SIZES.values()) for c, size in LIVE_SIZES.items()}
"""Weight of each category in ToolDev's Live: as many items as there were in September 2024."""
OVERALL: Mapping[str, float] = {c: w / 2 for c, w in {**NON_LIVE, **LIVE}.items()}
LEADERBOARD_PARTS = {"non_live": 10, "live": 10, "irrelevance": 10, "multi_turn": 30, "agentic": 40}
"""Percent that each part weighs in the overall score of BFCL V4."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeLanguage:
    """How a category's language writes types and values. Example: PYTHON."""

    name: str
    """As people write it."""
    types: Mapping[str, type[Any]]
    """Python type of each BFCL type word."""
    containers: frozenset[str]
    """Type words whose items are checked too."""
    read_value: Callable[[Any, str, str | None], Any] = lambda value, word, items_word: value
    """(value, type word, item type word) -> the value as a Python object; ValueError where it
    cannot be a literal. The identity where values arrive as JSON."""
    write_value: Callable[[Any, str, str | None], Any] = lambda value, word, items_word: value
    """The inverse, for gold answers."""


PYTHON = CodeLanguage(
    name="Python",
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
    containers=frozenset({"array", "tuple"}),
)
JAVA = CodeLanguage(
    name="Java",
    types=JAVA_TYPES,
    containers=frozenset({"Array", "ArrayList"}),
    read_value=read_java,
    write_value=write_java,
)
JAVASCRIPT = CodeLanguage(
    name="JavaScript",
    types=JAVASCRIPT_TYPES,
    containers=frozenset({"array"}),
    read_value=read_javascript,
    write_value=write_javascript,
)
LANGUAGES = {"python": PYTHON, "java": JAVA, "javascript": JAVASCRIPT}


class AstVerdict(NamedTuple):
    """Whether an answer is right, and if not, why."""

    correct: bool
    reason: str = ""
    """Empty, or a code: wrong_count, unknown_tool, wrong_tool, missing_required, unknown_argument,
    unexpected_argument, missing_argument, wrong_type, array_item_type, wrong_value."""
    message: str = ""
    """One sentence naming the argument and the value."""


class _Fault(NamedTuple):
    """What is wrong, its sentence told only when it is shown."""

    reason: str
    tell: Callable[[], str]


RIGHT = AstVerdict(True)


def check_ast(
    calls: Sequence[Call],
    functions: Sequence[Function],
    ground_truth: Sequence[Gold],
    language: CodeLanguage = PYTHON,
) -> AstVerdict:
    """Judge an answer against the expected calls (algorithms §7.3).

    The number of calls must be equal. Each expected call, in gold order, takes the first call left
    that fits it. Every name in `ground_truth` must be among `functions`.
    """
    if len(calls) != len(ground_truth):
        return AstVerdict(
            False, "wrong_count", f"{len(calls)} calls where {len(ground_truth)} are expected"
        )
    pairs = _pair(calls, functions, ground_truth, language)
    for position, faults in enumerate(pairs, start=1):
        if faults is not None:
            return _nearest_miss(faults, position, len(ground_truth))
    return RIGHT


def _pair(
    calls: Sequence[Call],
    functions: Sequence[Function],
    ground_truth: Sequence[Gold],
    language: CodeLanguage,
) -> Iterator[list[_Fault] | None]:
    """Of each expected call None where it takes the first call left that fits it, else the faults
    of those left."""
    left = list(calls)
    for gold in ground_truth:
        faults: list[_Fault] = []
        for index, call in enumerate(left):
            fault = _find_fault(call, functions, gold, language)
            if fault is None:
                del left[index]
                yield None
                break
            faults.append(fault)
        else:
            yield faults


def match_calls(
    calls: Sequence[Call],
    functions: Sequence[Function],
    ground_truth: Sequence[Gold],
    language: CodeLanguage = PYTHON,
) -> tuple[int, int]:
    """How many expected calls have a given one of the same name, and one that fits them whole.

    A given call serves one expected call of each count.
    """
    expected = Counter(name for gold in ground_truth for name in gold)
    named = (expected & Counter(call.name for call in calls)).total()
    pairs = _pair(calls, functions, ground_truth, language)
    exact = sum(faults is None for faults in pairs)
    return named, exact


def item_word(schema: Mapping[str, Any], language: CodeLanguage) -> str | None:
    """Type word of the items of an array argument; None where there is none to check."""
    if schema["type"] not in language.containers or "items" not in schema:
        return None
    return str(schema["items"]["type"])


def gold_calls(
    ground_truth: Sequence[Gold],
    functions: Sequence[Function] = (),
    language: CodeLanguage = PYTHON,
) -> tuple[Call, ...]:
    """An answer that should be right: the first allowed value of each argument that has one.

    Other languages' values are written as literals of the types that `functions` give.
    """
    by_name = {function["name"]: function["parameters"]["properties"] for function in functions}
    calls = []
    for gold in ground_truth:
        ((name, allowed),) = gold.items()
        values = _first_values(allowed)
        for argument, schema in by_name.get(name, {}).items() if language is not PYTHON else ():
            if argument in values:
                words = schema["type"], item_word(schema, language)
                values[argument] = language.write_value(values[argument], *words)
        calls.append(Call(name=name, arguments=values))
    return tuple(calls)


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
            key: options
            if isinstance(options, str)
            else next(option for option in options if option != OMITTABLE)
            for key, options in allowed.items()
            if list(options) != [OMITTABLE]
        }
    if isinstance(allowed, list):
        return [_plain_value(item) for item in allowed]
    return allowed


def _nearest_miss(faults: Sequence[_Fault], position: int, expected: int) -> AstVerdict:
    """The verdict to show when no call fits: of a call to the right tool if there is one."""
    wrong_names = ("unknown_tool", "wrong_tool")
    nearest = next((fault for fault in faults if fault.reason not in wrong_names), faults[0])
    prefix = f"expected call {position}: " if expected > 1 else ""
    return AstVerdict(False, nearest.reason, prefix + nearest.tell())


def _find_fault(
    call: Call, functions: Sequence[Function], gold: Gold, language: CodeLanguage
) -> _Fault | None:
    """What is wrong with one call, compared with one expected call; in the official order."""
    ((name, allowed),) = gold.items()
    given = call.arguments
    if call.name != name:
        known = any(function["name"] == call.name for function in functions)
        reason = "wrong_tool" if known else "unknown_tool"
        return _Fault(reason, lambda: f"calls {show(call.name)} where {name!r} is expected")
    function = next(function for function in functions if function["name"] == name)
    properties = function["parameters"]["properties"]
    for argument in function["parameters"].get("required", ()):
        if argument not in given:
            return _say("missing_required", f"{name}: {argument!r} is required")
    for argument, value in given.items():
        if argument not in properties:
            return _say("unknown_argument", f"{name} has no argument {show(argument)}")
        if argument not in allowed:
            return _say("unexpected_argument", f"{name}: {argument!r} is not to be given here")
        schema, where = properties[argument], f"{name}.{argument}"
        fault = _find_value_fault(value, schema, allowed[argument], language, where)
        if fault is not None:
            return fault
    for argument, values in allowed.items():
        if argument not in given and OMITTABLE not in values:
            return _say("missing_argument", f"{name}: {argument!r} is not given")
    return None


def _say(reason: str, message: str) -> _Fault:
    return _Fault(reason, lambda: message)


def _find_value_fault(
    value: Any,
    schema: Mapping[str, Any],
    allowed: Sequence[Any],
    language: CodeLanguage,
    where: str,
) -> _Fault | None:
    """What is wrong with one argument: its type, or that it is not among the allowed values."""
    word, items_word = schema["type"], item_word(schema, language)
    expected = language.types[word]
    items = language.types[items_word] if items_word else None
    try:
        value = language.read_value(value, word, items_word)
    except ValueError as error:
        cause = str(error)
        return _Fault("wrong_type", lambda: f"{where}: {show(value)} is no {word}: {cause}")
    if expected is float and type(value) is int:
        expected = int  # an int passes for a float (§7.3)
    # Gold of another type than the schema's stands for a variable: compared as it is.
    gold_type = _gold_type(allowed)
    is_variable = gold_type not in (None, language.types[word])
    if type(value) is not expected and type(value) is not gold_type:
        return _Fault("wrong_type", lambda: f"{where}: {show(value)} is no {word}")
    if type(value) is expected and items is not None and not _items_fit(value, items, allowed):
        return _Fault(
            "array_item_type", lambda: f"{where}: {show(value)} is no array of {items_word}"
        )
    if value in allowed if is_variable else _is_allowed(value, items, allowed):
        return None
    return _Fault("wrong_value", lambda: f"{where}: {show(value)} is none of {_show_all(allowed)}")


def _show_all(allowed: Sequence[Any]) -> str:
    shown = ", ".join(show(value) for value in allowed[:SHOWN_VALUES])
    return f"[{shown}{', …' if len(allowed) > SHOWN_VALUES else ''}]"


def _gold_type(allowed: Sequence[Any]) -> type | None:
    """Type of the first allowed value that is not the omission mark."""
    for value in allowed:
        if value != OMITTABLE:
            return type(value)
    return None


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
    if value in allowed:
        return True
    if isinstance(value, list):
        standard = [_standardise(item) for item in value]
        return any(
            standard == [_standardise(item) for item in gold]
            for gold in allowed
            if isinstance(gold, list | str)  # the omission mark reads as an empty array
        )
    if not isinstance(value, str):
        return False
    standard = _standardise(value)
    return any(standard == _standardise(gold) for gold in allowed)


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
    return value.translate(_STANDARD).lower() if isinstance(value, str) else value
