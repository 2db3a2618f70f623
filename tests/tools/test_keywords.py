"""Verdicts of every keyword, those of plain `jsonschema`, and all that we judge otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jsonschema
import pytest
from keywords import ROWS, Row

from factory.domain.records import Call, Tool
from factory.judge.calls import judge_call
from factory.tools.dialects import read_dialect
from factory.tools.schema import read_document

PLAIN = {
    "7": jsonschema.Draft7Validator,
    "2019": jsonschema.Draft201909Validator,
    "2020": jsonschema.Draft202012Validator,
}


def judge_as_argument(schema: Any) -> Callable[[Any], bool]:
    """Whether a value is taken as an argument of this schema."""
    named = (
        {k: v for k, v in schema.items() if k in ("$defs", "definitions")}
        if schema and isinstance(schema, dict)
        else {}
    )
    own = {k: v for k, v in schema.items() if k not in named} if named else schema
    arguments = {"type": "object", "properties": {"v": own}, **named}
    (document,) = read_dialect({"name": "f", "description": "F.", "inputSchema": arguments})
    is_valid = read_document(document).validator.is_valid
    return lambda value: is_valid({"v": value})


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.drafts} {row.schema}"[:60])
def test_the_verdict_is_json_schemas_and_plain_jsonschemas(row: Row) -> None:
    judge = judge_as_argument(row.schema)
    for expected, values in ((True, row.valid), (False, row.invalid)):
        for value in values:
            assert judge(value) is expected, value
            for draft in row.drafts.split():
                assert PLAIN[draft](row.schema).is_valid(value) is expected, (draft, value)


def test_every_keyword_of_the_drafts_has_a_row() -> None:
    shown = {key for row in ROWS if isinstance(row.schema, dict) for key in _keys(row.schema)}
    for validator in PLAIN.values():
        assert not set(validator.VALIDATORS) - shown - ELSEWHERE


ELSEWHERE = {"format", "$recursiveRef", "$ref"}
"""Formats have tests of their own; a $recursiveRef is a circle, which is refused."""


def _keys(schema: Any) -> set[str]:
    if isinstance(schema, list):
        return set().union(*map(_keys, schema))
    if not isinstance(schema, dict):
        return set()
    return {*schema}.union(*map(_keys, schema.values()))


class Difference(NamedTuple):
    """What we judge otherwise than plain `jsonschema`. Example: see DIFFERENCES."""

    why: str
    draft: str
    schema: Any
    value: Any
    ours: bool


CLOSED = "an argument that no part of a schema names is an invented one"
WHOLE = "5.0 is no integer: a function that takes an int gets a float"
DECIMAL = "multiples go by decimal digits: 19.99 is one of 0.01"
ASSERTED = "formats are asserted: a call with no date for a date fails where it is made"
ECMA = "patterns are ECMA-262's, as JSON Schema says; plain ones are Python's"
BOUNDED = "patterns take bounded time: no look-around, no reference back, no text without end"
NULLABLE = "OpenAPI's nullable is meant"
OLDER = "keywords of one draft hold in documents of all: none says its draft"
BESIDE = "what stands beside $ref holds, as from 2019-09 on"
DIFFERENCES = [
    Difference(CLOSED, "2020", {"properties": {"a": {}}}, {"b": 1}, False),
    Difference(CLOSED, "7", {"allOf": [{"properties": {"a": {}}}]}, {"b": 1}, False),
    Difference(CLOSED, "2020", {"anyOf": [{"properties": {"a": {}}}, {}]}, {"b": 1}, False),
    Difference(WHOLE, "2020", {"type": "integer"}, 5.0, False),
    Difference(DECIMAL, "2020", {"multipleOf": 0.01}, 19.99, True),
    Difference(ASSERTED, "2020", {"format": "date"}, "tomorrow", False),
    Difference(ASSERTED, "7", {"format": "ipv4"}, "1.2.3", False),
    Difference(ECMA, "2020", {"pattern": r"^\d$"}, "٣", False),
    Difference(ECMA, "2020", {"pattern": r"^\w$"}, "é", False),
    Difference(ECMA, "2020", {"pattern": r"^\s$"}, "\ufeff", True),
    Difference(ECMA, "2020", {"pattern": "^a$"}, "a\n", False),
    Difference(ECMA, "2020", {"pattern": "^.$"}, "\u2028", False),
    Difference(ECMA, "7", {"patternProperties": {r"^\d$": False}}, {"٣": 1}, True),
    Difference(BOUNDED, "2020", {"pattern": "^(?=a)a"}, "a", False),
    Difference(BOUNDED, "2020", {"pattern": r"(a)\1"}, "aa", False),
    Difference(BOUNDED, "2020", {"pattern": "^(a|b)+$"}, "ab" * 4000, False),
    Difference(NULLABLE, "2020", {"type": "string", "nullable": True}, None, True),
    Difference(OLDER, "2020", {"dependencies": {"a": ["b"]}}, {"a": 1}, False),
    Difference(OLDER, "7", {"dependentRequired": {"a": ["b"]}}, {"a": 1}, False),
    Difference(OLDER, "7", {"prefixItems": [{"type": "string"}]}, [1], False),
    Difference(
        OLDER, "7", {"properties": {"a": {}}, "unevaluatedProperties": False}, {"b": 1}, False
    ),
    Difference(OLDER, "7", {"contains": {"const": 1}, "maxContains": 1}, [1, 1], False),
    Difference(
        BESIDE,
        "7",
        {
            "definitions": {"w": {}},
            "properties": {"a": {"$ref": "#/definitions/w", "maxLength": 1}},
        },
        {"a": "ab"},
        False,
    ),
]


@pytest.mark.parametrize("one", DIFFERENCES, ids=lambda one: f"{one.schema} {one.value!r}"[:60])
def test_each_difference_is_known_and_still_one(one: Difference) -> None:
    plain = PLAIN[one.draft](one.schema).is_valid(one.value)
    assert judge_as_argument(one.schema)(one.value) is one.ours is not plain, one.why


@pytest.mark.parametrize(
    ("schema", "cause"),
    [
        ({"$ref": "https://example.org/a"}, "names another document"),
        ({"$ref": "#/$defs/none"}, "names nothing"),
        ({"properties": {"a": {"$ref": "#"}}}, "goes in a circle"),
        ({"$recursiveRef": "#"}, "goes in a circle"),
    ],
)
def test_what_cannot_be_judged_is_refused_by_name(schema: Any, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        judge_as_argument(schema)


def test_a_value_without_end_is_refused_and_not_waited_for() -> None:
    schema = {"anyOf": [{"const": number} for number in range(1000)]}
    document = {"name": "f", "arguments": {"type": "dict", "properties": {"v": {"items": schema}}}}
    call = Call(name="f", arguments={"v": [999] * 1000})
    (finding,) = judge_call(call, 0, {"f": Tool(id="t_1", document=document)})
    assert "takes more than" in finding.message
