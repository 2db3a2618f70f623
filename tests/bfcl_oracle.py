"""The official BFCL checker as an oracle, its data, and systematic mutations of its gold answers.

Needs an installed bfcl_eval (`pip install --no-deps bfcl-eval==2026.3.23`), of which only the
standard-library part is loaded: a stub stands for the table of models, whose import would want
every vendor's client.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

from factory.domain.records import Call
from factory.score.calls.bfcl import (
    LANGUAGES,
    LIVE,
    NON_LIVE,
    OVERALL,
    PYTHON,
    SIMPLE,
    CodeLanguage,
    gold_calls,
    item_word,
)

INSTALL = "pip install --no-deps bfcl-eval==2026.3.23"
CATEGORIES = {
    "simple_python": "python",
    "simple_java": "java",
    "simple_javascript": "javascript",
    **dict.fromkeys(("multiple", "parallel", "parallel_multiple"), "python"),
    **dict.fromkeys(("live_simple", "live_multiple"), "python"),
    **dict.fromkeys(("live_parallel", "live_parallel_multiple"), "python"),
}
"""AST category to its language."""

Answer = list[dict[str, dict[str, Any]]]
"""Decoded calls as the official checker takes them: [{function: {argument: value}}]."""
CRASHES = (TypeError, AttributeError, OverflowError, KeyError, IndexError, ValueError)
"""What the official checker raises where it has no verdict; such an answer is not right."""


class Question(NamedTuple):
    """One item: what may be called, and what should be."""

    functions: list[dict[str, Any]]
    """The functions on offer."""
    gold: list[dict[str, dict[str, list[Any]]]]
    """The expected calls."""
    language: CodeLanguage
    """The category's language."""


class Mutation(NamedTuple):
    """A gold answer with one thing changed."""

    kind: str
    """name, missing, extra, type, value, order, count, nesting or literal; gold is unchanged."""
    answer: Answer
    """The answer."""


class _AnyModel(dict[str, SimpleNamespace]):
    def __missing__(self, key: str) -> SimpleNamespace:
        return SimpleNamespace(underscore_to_dot=False)


def data_folder() -> Path | None:
    """The data of the installed package, without importing it."""
    spec = importlib.util.find_spec("bfcl_eval")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "data"


def load_official() -> Callable[[Question, Answer], bool]:
    """Whether the official `ast_checker` calls an answer right; a crash is no."""
    os.environ.setdefault("BFCL_PROJECT_ROOT", tempfile.mkdtemp())
    models = ModuleType("bfcl_eval.constants.model_config")
    models.MODEL_CONFIG_MAPPING = _AnyModel()  # type: ignore[attr-defined]
    sys.modules[models.__name__] = models
    from bfcl_eval.constants import enums
    from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker

    def is_right(question: Question, answer: Answer) -> bool:
        category = "parallel" if len(question.gold) > 1 else "multiple"
        language = enums.Language[question.language.name.upper()]
        try:
            verdict = ast_checker(
                question.functions, answer, question.gold, language, category, "any"
            )
        except CRASHES:
            return False
        return bool(verdict["valid"])

    return is_right


def read_questions(folder: Path, category: str) -> Iterator[Question]:
    """Every question of an AST category."""
    name = f"BFCL_v4_{category}.json"
    answers = map(json.loads, (folder / "possible_answer" / name).read_text("utf-8").splitlines())
    gold = {row["id"]: row["ground_truth"] for row in answers}
    for line in (folder / name).read_text("utf-8").splitlines():
        row = json.loads(line)
        yield Question(row["function"], gold[row["id"]], LANGUAGES[CATEGORIES[category]])


def gold_answer(question: Question) -> Answer:
    """The gold as an answer."""
    calls = gold_calls(question.gold, question.functions, question.language)
    return [{call.name: call.arguments} for call in calls]


def as_calls(answer: Answer) -> list[Call]:
    return [Call(name=name, arguments=given) for call in answer for name, given in call.items()]


def mutations(question: Question) -> Iterator[Mutation]:
    """The gold answer and every systematic change of it, one change at a time."""
    answer = gold_answer(question)
    yield Mutation("gold", answer)
    yield from _change_calls(question, answer)
    for position, call in enumerate(answer):
        ((name, arguments),) = call.items()
        for kind, changed in _change_arguments(question, name, arguments):
            yield Mutation(kind, [*answer[:position], {name: changed}, *answer[position + 1 :]])


def _change_calls(question: Question, answer: Answer) -> Iterator[Mutation]:
    yield Mutation("count", [])
    yield Mutation("count", [*answer, answer[0]])
    yield Mutation("count", answer[1:])
    if len(answer) > 1:
        yield Mutation("order", answer[::-1])
        yield Mutation("order", [*answer[1:], answer[0]])
        yield Mutation("value", [answer[0]] * len(answer))
    ((name, arguments),) = answer[0].items()
    others = [f["name"] for f in question.functions if f["name"] != name]
    for other in (name.upper(), name + "_", name.replace(".", "_"), "", *others[:2]):
        yield Mutation("name", [{other: arguments}, *answer[1:]])


def _change_arguments(
    question: Question, name: str, arguments: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    properties = next(f for f in question.functions if f["name"] == name)["parameters"]
    yield "extra", {**arguments, "not_there": 1}
    yield "missing", {}
    for unused in [key for key in properties["properties"] if key not in arguments][:2]:
        yield "extra", {**arguments, unused: "x"}
    for key, value in arguments.items():
        yield "missing", {k: v for k, v in arguments.items() if k != key}
        yield "name", {(k + "_" if k == key else k): v for k, v in arguments.items()}
        for other in _other_gold(question, name, key):
            yield "value", {**arguments, key: other}
        for kind, changed in _change_value(value):
            yield kind, {**arguments, key: changed}
        if question.language is not PYTHON:
            for literal in _literals(value, properties["properties"][key], question.language):
                yield "literal", {**arguments, key: literal}


def _other_gold(question: Question, name: str, key: str) -> Iterator[Any]:
    """The other values that the gold allows, and those it allows for other calls."""
    for gold in question.gold:
        yield from gold.get(name, {}).get(key, [])[:3]


def _change_value(value: Any) -> Iterator[tuple[str, Any]]:
    """Values of another type, near values, and values with one part changed."""
    for other in (str(value), [value], {"k": value}, None, True, 1, 1.0, "", [], {}):
        yield "type", other
    match value:
        case bool():
            yield "value", not value
        case int() | float():
            for number in (value + 1, -value, float(value), int(value), value * 10):
                yield "value", number
        case str():
            for text in (value.upper(), " ".join(value), value + "x", value[1:], f'"{value}"'):
                yield "value", text
            yield "value", value.replace(",", "").replace("-", "/").replace("'", '"')
        case list():
            yield "order", value[::-1]
            yield "count", value[:-1]
            yield "count", value + value[:1]
            for kind, item in _change_value(value[0]) if value else ():
                yield "nesting" if kind == "type" else kind, [item, *value[1:]]
        case dict():
            yield "nesting", {**value, "not_there": 1}
            for key, item in value.items():
                yield "nesting", {k: v for k, v in value.items() if k != key}
                for _, changed in _change_value(item):
                    yield "nesting", {**value, key: changed}


FRAGMENTS = (
    *("5", "-5", "5L", "5l", "5n", "5.0", "5.0f", "5f", "5e3", "1_000", " 5", "5 ", "+5", ""),
    *("true", "false", "True", "null", "undefined", "'a'", '"a"', "'", '"', "a", "5\n", "٥"),
    *("[]", "[ ]", "[1]", "[1,2", "[1,2]", "[1, 2] // x", "['a', \"b\"]", "['a,b']", "[a, b]"),
    *("[[1,2],[3]]", "[[1], [2] x, [3]]", "[ [1] , [2] ]", "[[1]", "[[]]", "[[1]] , [[2]]"),
    *("[[1],\n[2]]", "[[1,\n2]]", "[1,\n2]", "[[[1]]]", "[{}]", "[true, null]", "[,]", "[1,]"),
    *("new Array(1, 2)", "new  Array()", "new Array([1], [2])", "new Array([1]", "Array(1)"),
    *("{}", "{ }", "{a: 1}", "{'a': 'b', \"c\": true}", "{a: [1, 2], b: 'x,y'}", "{a: {b: 1}}"),
    *("{a}", "{a:}", "{:1}", "{a: 1, b}", "{a: 'x: y', b: 2}", "{a: ', :x'}", "{a: 1", "{\n}"),
    *("new int[]{1, 2}", "new long[] {1L}", 'new String[]{"a", "b"}', "new int[]{}", "{1, 2}"),
    *("new int[2]", "x = new int[]{1};", "new int[]{1,,2}", "new int[]{\n1}", "new Object[]{a}"),
    *("new ArrayList<>()", "new ArrayList<Integer>(Arrays.asList(1, 2))", "new ArrayList<>(x)"),
    *("new ArrayList<>(Arrays.asList())", 'new ArrayList<>(Arrays.asList("a", "b,c"))'),
    *("new ArrayList<>() {{ add(1); add(2); }}", "new ArrayList<>() {{ }}", "Arrays.asList(1)"),
    *("new ArrayList<>(){{ }} new ArrayList<>(){{add(1);}}", "new ArrayList<>() {{}} add(2) }}"),
    *("new HashMap<>()", 'new HashMap<>() {{ put("a", 1); }}', "new HashMap<>() {}"),
    *('new HashMap<String, Integer>() {{ put("a", 1L); put("b", "x)"); put("c", true); }}',),
    *('new HashMap<>(){ { put("a" , 1); } }', 'new HashMap<>() {{ put("a", 1)', "new HashMap<"),
    *('new HashMap<A<B>>() {{put("k", 1.5f);}}', 'new HashMap<>() { put("a", 1); } }'),
)
"""Literals and near misses of both languages."""


def _literals(value: Any, schema: dict[str, Any], language: CodeLanguage) -> Iterator[Any]:
    """The value written for other types, quoted, damaged and surrounded; and fixed fragments."""
    text = str(value)
    for word in language.types:
        if value != (written := language.write_value(_read(value, schema, language), word, None)):
            yield written
    yield from (f"'{text}'", f'"{text}"', f" {text} ", f"{text};", f"x{text}", text[:-1])
    yield from (text.replace(", ", ","), text.replace(",", " , "), text.replace("new ", "new  "))
    yield from (text + "L", text + "f", text + "n", text.replace('"', ""), text.replace("'", '"'))
    yield from FRAGMENTS


def _read(value: Any, schema: dict[str, Any], language: CodeLanguage) -> Any:
    return language.read_value(value, schema["type"], item_word(schema, language))


def average_table_1(scores: Mapping[str, float]) -> list[float]:
    """Non-live, Live and Overall of ToolDev's Table 1, from categories in percent (§7.3)."""
    if "simple" in scores:
        scores = {**scores, **dict.fromkeys(SIMPLE, scores["simple"])}
    return [
        sum(weight * scores[category] for category, weight in weights.items())
        for weights in (NON_LIVE, LIVE, OVERALL)
    ]
