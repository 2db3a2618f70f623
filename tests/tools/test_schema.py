"""Type words of every dialect, patterns in bounded time, and JSON text within bounds."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from factory.domain.jsontext import (
    MAX_DEPTH,
    JsonTextError,
    json_path,
    measure_depth,
    mend,
    parse_sequence,
    parse_strict,
    read_json,
    show,
)
from factory.domain.plaintext import printable
from factory.domain.records import Tool
from factory.tools.pattern import Pattern, PatternError
from factory.tools.schema import (
    MAX_KEPT,
    MAX_WORK,
    TooMuchWork,
    arguments_schema,
    bounded_work,
    make_validator,
    read_tool,
    to_json_schema,
)
from factory.tools.words import read_type

settings.register_profile("factory", deadline=None, derandomize=True)
settings.load_profile("factory")

WORDS: dict[str, dict[Any, Any]] = {
    "ToolDev": {"string": "string", "dict": "object", "list": "array", "float": "number"},
    "JSON Schema": {
        **{word: word for word in ("string", "integer", "number", "boolean", "array", "object")},
        "null": "null",
    },
    "BFCL": {"tuple": "array", "any": None, "integer": "integer", "dict": "object"},
    "BFCL Java": {"String": "string", "long": "integer", "ArrayList": "array", "HashMap": "object"},
    "ToolBench": {"STRING": "string", "NUMBER": "number", "BOOLEAN": "boolean", "ENUM": "string"},
    "ToolACE": {"str": "string", "int": "integer", "float": "number", "bool": "boolean"},
    "Seal-Tools": {"str": "string", "int": "integer", "float": "number", "bool": "boolean"},
}


@pytest.mark.parametrize("source", WORDS)
def test_type_words(source: str) -> None:
    for word, kind in WORDS[source].items():
        assert read_type(word) == ({} if kind is None else {"type": kind})


STR_TO_INT = {"type": "object", "additionalProperties": {"type": "integer"}}
INTS = {"type": "array", "items": {"type": "integer"}}


@pytest.mark.parametrize(
    ("word", "schema"),
    [
        ("List[int]", {"type": "array", "items": {"type": "integer"}}),
        ("string[]", {"type": "array", "items": {"type": "string"}}),
        ("int | None", {"type": ["integer", "null"]}),
        ("Optional[str]", {"type": ["string", "null"]}),
        ("Union[int, str]", {"type": ["integer", "string"]}),
        ("dict[str, float]", {"type": "object", "additionalProperties": {"type": "number"}}),
        ("typing.List[typing.Dict[str, int]]", {"type": "array", "items": STR_TO_INT}),
        ("collections.abc.Mapping[str, int]", STR_TO_INT),
        ("Sequence[str]", {"type": "array", "items": {"type": "string"}}),
        ("Tuple[int, ...]", {"type": "array", "items": {"type": "integer"}}),
        (
            "Tuple[int, str]",
            {
                "type": "array",
                "prefixItems": [{"type": "integer"}, {"type": "string"}],
                "minItems": 2,
                "items": False,
            },
        ),
        ("Tuple", {"type": "array"}),
        ("Optional[Tuple[int, ...]]", {"anyOf": [INTS, {"type": "null"}]}),
        ("Literal['Oslo', \"Rome, IT\"]", {"type": "string", "enum": ["Oslo", "Rome, IT"]}),
        ("Literal['a|b', ']']", {"type": "string", "enum": ["a|b", "]"]}),
        ("Literal[1, 'a', None]", {"type": ["integer", "string", "null"], "enum": [1, "a", None]}),
        ("Optional[Literal[1]]", {"anyOf": [{"type": "integer", "enum": [1]}, {"type": "null"}]}),
        ("Annotated[int, Field(ge=0)]", {"type": "integer"}),
        ("int or None", {"type": ["integer", "null"]}),
        ("Dict[str, Any]", {"type": "object", "additionalProperties": {}}),
        ("Literal[f()]", None),
        ("Literal[b'x']", None),
        ("Literal[]", None),
        (["string", "null"], {"type": ["string", "null"]}),
        (["int", "any"], {}),
        ("list[money]", None),
        ("money", None),
        ("", None),
        (7, None),
        ([], None),
        ([{}], None),
        ("list[" * 60, None),
        ("list[" * 20 + "int" + "]" * 20, None),
    ],
)
def test_composed_type_words(word: object, schema: dict[str, Any] | None) -> None:
    assert read_type(word) == schema


def test_parameters_are_closed_and_keep_what_counts() -> None:
    arguments = {
        "type": "dict",
        "properties": {
            "a": {"type": "float", "description": "x", "minimum": 0, "default": 1, "odd": 2},
            "b": {"type": "dict", "properties": {"c": {"type": "str"}}, "required": ["c"]},
            "d": {"type": "dict"},
            "e": {"type": "int", "minimum": "1", "enum": 5, "nullable": True},
        },
        "required": ["a"],
    }
    assert arguments_schema(arguments) == {
        "type": "object",
        "additionalProperties": False,
        "required": ["a"],
        "properties": {
            "a": {"type": "number", "default": 1, "minimum": 0},
            "b": {
                "type": "object",
                "required": ["c"],
                "properties": {"c": {"type": "string"}},
                "additionalProperties": False,
            },
            "d": {"type": "object"},
            "e": {"type": ["integer", "null"]},
        },
    }
    assert to_json_schema("nonsense") == {}


PIECES = st.recursive(
    st.sampled_from(["a", "b", "[ab]", "[^a]", ".", r"\d", r"\w", "^", "$", r"\b", "1", r"\."]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"(?:{pair[0]}|{pair[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{2,}", "*?"])).map(
            lambda pair: f"({pair[0]}){pair[1]}"
        ),
    ),
    max_leaves=6,
)


@settings(max_examples=300)
@given(PIECES, st.lists(st.text("ab1 .", max_size=8), max_size=4))
def test_patterns_match_as_in_re(pattern: str, texts: list[str]) -> None:
    compiled = Pattern(pattern)
    for text in texts:
        assert compiled.search(text) == (re.search(pattern, text) is not None)


@pytest.mark.parametrize(
    "pattern",
    [
        *("^(a+)+$", "^(a|a)*$", "^(a|aa)+$", "(a*)*b", ".*.*.*.*x", "^(([a-z])+.)+[A-Z]([a-z])+$"),
        *("((a{9}){9}){9}", "(" * 50 + ")" * 50, "(|a)" * 70 + "b"),
    ],
)
def test_patterns_that_explode_elsewhere(pattern: str) -> None:
    started = time.process_time()
    Pattern(pattern).search("a" * 4000 + "!")
    assert time.process_time() - started < 2


@pytest.mark.parametrize("pattern", ["[ab]{9999}c", "[ab]{4000}[ab]{4000}", "[ab]*c", "[ab]{9,}c"])
def test_patterns_for_re_are_weighed_and_bounded(pattern: str) -> None:
    compiled, text = Pattern(pattern), "ab" * 15_000
    started = time.process_time()
    compiled.search(text)
    spent = (time.process_time() - started) * 1e6
    assert spent < 500_000 and compiled.weigh(text) > 50_000
    assert compiled.weigh("ab" * 10) < 10
    assert Pattern(f"^{pattern}").weigh(text) < 100


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        *(("(?i)a", "A"), ("[[a]]", "[]"), ("[[a]b]+", "[b]"), (r"\p{L}+\d*", "Ålesund")),
        *(("(?<year>[0-9]{4})", "2026"), ("[a&&b]{2}", "&&"), ("^.{1,2000}$", "é" * 2000)),
    ],
)
def test_patterns_in_the_words_of_others(pattern: str, text: str) -> None:
    assert Pattern(pattern).search(text)


BLANKS = "\t\n\v\f\r \xa0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff" + "".join(
    map(chr, range(0x2000, 0x200B))
)
"""ECMA-262's WhiteSpace and LineTerminator (12.2, 12.3)."""
WORD = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"
ECMA = {
    r"\d": "0123456789".__contains__,
    r"\D": lambda letter: letter not in "0123456789",
    r"\w": WORD.__contains__,
    r"\W": lambda letter: letter not in WORD,
    r"\s": BLANKS.__contains__,
    r"\S": lambda letter: letter not in BLANKS,
    r"[\s.]": lambda letter: letter in BLANKS + ".",
    r"[^\W_]": lambda letter: letter in WORD and letter != "_",
    r"[^\S]": BLANKS.__contains__,
    r"[-\d]": "-0123456789".__contains__,
    ".": lambda letter: letter not in "\n\r\u2028\u2029",
}


@pytest.mark.parametrize("one", ECMA)
def test_classes_are_those_of_ecma_262_however_they_are_matched(one: str) -> None:
    alone, automaton = Pattern(one), Pattern(f"^({one})+$")
    for character in (*map(chr, range(0x3100)), "\ufeff", "\uff3f", "\ud800", "𝟘", "😀"):
        expected = ECMA[one](character)
        assert alone.search(character) == automaton.search(character) == expected, ascii(character)


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("^.$", "😀", True),
        ("^.{2}$", "😀😀", True),
        ("^a$", "a\n", False),
        (r"^(\cA|x)$", "\x01", True),
        (r"^\cA$", "\x01", True),
        (r"^\0$", "\x00", True),
        (r"^\u{1F600}$", "😀", True),
        (r"^(\u{1F600}|x)$", "😀", True),
        (r"^\p{Letter}+$", "Éa", True),
        (r"^\p{Script=Greek}+$", "αβ", True),
        (r"^\p{Lu}$", "a", False),
        (r"\bé", "é", False),
        (r"^\b\w", "é", False),
        (r"^[\p{L}\p{N}_][\p{L}\p{N}_ -]{0,127}$", "天気-2", True),
        (r"^[\p{L}\p{N}_][\p{L}\p{N}_ -]{0,127}$", "x" * 129, False),
        (r"^\$\.[.$]$", "$..", True),
        (r"^[\w-z]$", "-", True),
        (r"^[\w-z]$", "`", False),
        (r"^([\w-z])$", "-", True),
        (r"^[\s-_]+$", "- _", True),
        (r"^[+-\d]$", "-", True),
        (r"^[+-\d]$", ".", False),
        (r"^([+-\d]|x)$", ".", False),
        (r"^[\p{L}-z]+$", "é-", True),
        (r"^[\\d-f]$", "e", True),
        ("^[^]+$", "a\n", True),
        ("^(a|[^])$", "\n", True),
        ("[]", "a", False),
        ("(a|[])", "b", False),
        ("@", "a" * 9000 + "@", True),
    ],
)
def test_patterns_mean_what_ecma_262_says(pattern: str, text: str, matches: bool) -> None:
    assert Pattern(pattern).search(text) is matches


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"(\u00e9)+", "é"),
        (r"(\x41|\_)+", "_"),
        (r"(\é|b)+", "é"),
        ("(\ud800)+", "\ud800"),
        ("(é)+", "é"),
    ],
)
def test_escapes_that_re2_spells_otherwise(pattern: str, text: str) -> None:
    assert Pattern(pattern).search(text)
    assert not Pattern(pattern).search("\n")


@pytest.mark.parametrize(
    "pattern",
    [
        *("(?=a)b", "(?<!a)b", r"(a)\1", "(", ")", "[", "a**", "*a", "a{3,1}", "(a{1001})+"),
        *("a" * 1000, r"\p{No such}", "[b-a]", "a{2}{3}", "(?>a)b", r"(\p{L}{99}){99}"),
    ],
)
def test_patterns_that_are_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        Pattern(pattern)


def test_a_refusal_says_what_needs_backtracking() -> None:
    with pytest.raises(PatternError, match="look-around and back-references are not supported"):
        Pattern("(?=a)b")


def test_the_end_is_the_very_end() -> None:
    assert not Pattern("^a$").search("a\n")
    assert not Pattern("^(a)$").search("a\n")


@given(st.text(max_size=20))
def test_a_pattern_compiles_or_is_refused(text: str) -> None:
    try:
        Pattern(text).search(text)
    except PatternError as error:
        assert str(error)


def test_shown_values_are_short_and_printable() -> None:
    assert show({"a": [1, "é"]}) == '{"a": [1, "é"]}'
    assert show("\x1b[2J\u202e\ud800") == '"\\u001b[2J\\u202e\\ud800"'
    assert len(show("x" * 10**6)) == 120
    assert len(show(list(range(10**5)))) == 120
    assert printable("a\tb\U000e0001") == "a\\u0009b\\U000e0001"


def test_paths_quote_odd_names() -> None:
    assert json_path([]) == "$"
    assert json_path([0, "a_1", "a b", 'q"']) == '$[0].a_1["a b"]["q\\""]'


def test_bounds() -> None:
    assert measure_depth('{"a": [1, "[[[["]}') == 2
    assert parse_strict("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    for text in (
        "[" * 65 + "]" * 65,
        "1" * 101,
        "-Infinity",
        "1 2",
        '{"a":1,"a":2}',
        " ",
        "\ufeff1",
    ):
        with pytest.raises(JsonTextError):
            parse_strict(text)


def test_mending_keeps_strings() -> None:
    assert mend("{\"a\": \"it's, ]\", 'b': 'c',}") == '{"a": "it\'s, ]", "b": "c"}'
    assert read_json("{“a”: 1}").value == {"a": 1}
    assert not read_json('{"a": "’"}').repaired


def test_sequences_stop_at_the_first_fault() -> None:
    assert parse_sequence('{"a": 1} , {"b": 2}\n') == ([{"a": 1}, {"b": 2}], "")
    values, cause = parse_sequence('{"a": 1} {"b"')
    assert values == [{"a": 1}]
    assert "character" in cause


def test_work_inside_other_work_leaves_the_outer_bounded() -> None:
    validator = make_validator({"enum": [0] * (MAX_WORK // 2)})
    with bounded_work():
        validator.is_valid(0)
        with bounded_work():
            validator.is_valid(0)
        validator.is_valid(0)
        with pytest.raises(TooMuchWork, match="1,000,000 steps"):
            validator.is_valid(0)
    validator.is_valid(0)


def test_a_tool_is_compiled_once_by_its_id_and_document() -> None:
    def tool(kind: str) -> Tool:
        properties = {"x": {"type": kind}}
        return Tool(id="t", document={"name": "f", "arguments": {"properties": properties}})

    assert read_tool(tool("int")) is read_tool(tool("int"))
    assert not read_tool(tool("str")).validator.is_valid({"x": 1})


def test_what_is_kept_of_tools_is_bounded_by_their_length() -> None:
    def tool(number: int) -> Tool:
        properties = {"x": {"type": "string", "description": "long " * (MAX_KEPT // 15)}}
        document = {"name": "f", "arguments": {"properties": properties}}
        return Tool(id=f"t_{number}", document=document)

    first, second = read_tool(tool(1)), read_tool(tool(2))
    assert read_tool(tool(2)) is second
    read_tool(tool(3))
    assert read_tool(tool(1)) is not first


@pytest.mark.parametrize("beside", [{}, {"$id": "urn:x"}])
def test_errors_are_those_of_jsonschema_with_their_paths(beside: dict[str, Any]) -> None:
    """The validator goes into parts of a schema on its own; what it says is jsonschema's."""
    inner = {**beside, "properties": {"a b": {"type": "string", "minLength": 3}}}
    schema = {
        "$defs": {"word": {"enum": ["x", "y"]}},
        "propertyNames": {"maxLength": 5},
        "properties": {
            "list": {"items": inner, "uniqueItems": True},
            "ref": {"$ref": "#/$defs/word"},
            "no": False,
            "yes": True,
            "kinds": {"anyOf": [{"type": "null"}, {"items": {"$ref": "#/$defs/word"}}]},
            "if": {"if": {"type": "object"}, "then": {"required": ["z"]}},
        },
    }
    broken = {
        "list": [{"a b": 1}, {"a b": "ab"}, 3],
        "ref": "z",
        "no": 1,
        "yes": 1,
        "kinds": ["x", "q"],
        "if": {},
        "longer": 1,
    }

    def tell(validator: Any) -> list[object]:
        return [
            (
                *(list(e.absolute_path), list(e.absolute_schema_path), e.validator),
                *(e.validator_value, e.instance, e.schema),
                [list(each.absolute_path) for each in e.context or ()],
            )
            for e in validator.iter_errors(broken)
        ]

    found = tell(make_validator(schema))
    assert found == tell(Draft202012Validator(schema))
    assert len(found) == 7


@pytest.mark.parametrize(
    "word", ["Optional[int] | str", "Union[Optional[int], str]", ["integer|null", "string"]]
)
def test_alternatives_of_alternatives_are_flat(word: Any) -> None:
    assert read_type(word) == {"type": ["integer", "null", "string"]}
    assert read_type("Optional[int|str]") == {"type": ["integer", "string", "null"]}
    assert read_type("list[int|str]") == {
        "type": "array",
        "items": {"type": ["integer", "string"]},
    }
