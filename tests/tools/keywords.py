"""A schema, and values that it takes or not, for each keyword of the drafts.

Each row is (drafts, schema, valid values, invalid values): what JSON Schema says of them, and every
validator of these drafts. `7`, `2019` and `2020` are draft-07, 2019-09 and 2020-12.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Row(NamedTuple):
    """What one schema takes. Example: Row("7", {"type": "null"}, [None], [0])."""

    drafts: str
    schema: Any
    valid: list[Any]
    invalid: list[Any]


ALL, NEW = "7 2019 2020", "2019 2020"
TREE = {
    "$defs": {"word": {"type": "string", "minLength": 2}},
    "properties": {"a": {"$ref": "#/$defs/word"}},
}
CONDITION = {
    "if": {"properties": {"way": {"const": "bank"}}, "required": ["way"]},
    "then": {"required": ["iban"]},
    "else": {"required": ["card"]},
    "properties": {"way": {}, "iban": {}, "card": {}},
}
ROWS = [
    Row(ALL, True, [1, None, {}], []),
    Row(ALL, False, [], [1, None, {}]),
    Row(ALL, {}, [1, None, "a"], []),
    Row(ALL, {"type": "string"}, ["", "a"], [1, None, True, [], {}]),
    Row(ALL, {"type": "integer"}, [1, -1, 10**30], [1.5, "1", True, None]),
    Row(ALL, {"type": "number"}, [1, 1.5], ["1", True]),
    Row(ALL, {"type": "boolean"}, [True, False], [0, 1, "true"]),
    Row(ALL, {"type": "null"}, [None], [0, "", False]),
    Row(ALL, {"type": "array"}, [[], [1]], [{}, "a"]),
    Row(ALL, {"type": "object"}, [{}, {"a": 1}], [[], "a"]),
    Row(ALL, {"type": ["string", "null"]}, ["a", None], [1]),
    Row(
        ALL, {"enum": [1, "a", None, [1], {"b": 1}]}, [1, 1.0, "a", None, [1], {"b": 1}], [2, True]
    ),
    Row(ALL, {"enum": [False, [0]]}, [False, [0], [0.0]], [0, [False], None]),
    Row(ALL, {"const": 2}, [2, 2.0], [3, "2", None]),
    Row(ALL, {"const": {"a": [True]}}, [{"a": [True]}], [{"a": [1]}, {}]),
    Row(ALL, {"const": None}, [None], [0, "", False]),
    Row(ALL, {"multipleOf": 3}, [9, 0, "a"], [10]),
    Row(ALL, {"multipleOf": 0.5}, [1.5, 2], [1.2]),
    Row(ALL, {"maximum": 3}, [3, 2.9, "4"], [3.1]),
    Row(ALL, {"minimum": -3}, [-3, "a"], [-3.1]),
    Row(ALL, {"exclusiveMaximum": 3}, [2.9], [3]),
    Row(ALL, {"exclusiveMinimum": 3}, [3.1], [3]),
    Row(ALL, {"maxLength": 2}, ["ab", "😀😀", 100], ["abc"]),
    Row(ALL, {"minLength": 2}, ["ab", "😀😀", 1], ["a", "😀"]),
    Row(ALL, {"pattern": "^a+$"}, ["aa", 1], ["ab", ""]),
    Row(ALL, {"pattern": "b"}, ["abc"], ["ac"]),
    Row(ALL, {"items": {"type": "integer"}}, [[1, 2], [], "a"], [[1, "a"]]),
    Row(ALL, {"items": False}, [[], {}], [[1]]),
    Row("7 2019", {"items": [{"type": "integer"}, True]}, [[1], [1, 2, "a"], []], [["a"]]),
    Row(
        "7 2019",
        {"items": [{"type": "integer"}], "additionalItems": {"type": "string"}},
        [[1], [1, "a", "b"]],
        [[1, 2]],
    ),
    Row("7 2019", {"items": [{}], "additionalItems": False}, [[1], []], [[1, 2]]),
    Row("2020", {"prefixItems": [{"type": "integer"}]}, [[1], [1, "a"], []], [["a"]]),
    Row(
        "2020",
        {"prefixItems": [{}], "items": {"type": "string"}},
        [[1], [1, "a"]],
        [[1, 2]],
    ),
    Row(ALL, {"maxItems": 2}, [[1, 2], "abc"], [[1, 2, 3]]),
    Row(ALL, {"minItems": 1}, [[1], ""], [[]]),
    Row(ALL, {"uniqueItems": True}, [[1, 2], [1, "1"], [{"a": 1}, {"a": 2}]], [[1, 1], [1, 1.0]]),
    Row(
        ALL,
        {"uniqueItems": True},
        [[1, True], [[1], [True]]],
        [[{"a": 1, "b": 2}, {"b": 2, "a": 1}]],
    ),
    Row(ALL, {"contains": {"minimum": 5}}, [[1, 5], "a"], [[1, 2], []]),
    Row(NEW, {"contains": {"const": 1}, "minContains": 2}, [[1, 1], [1, 2, 1]], [[1], []]),
    Row(NEW, {"contains": {"const": 1}, "maxContains": 1}, [[1], [1, 2]], [[1, 1], [2]]),
    Row(NEW, {"contains": {"const": 1}, "minContains": 0}, [[], [2]], []),
    Row(ALL, {"maxProperties": 1}, [{}, {"a": 1}, [1, 2]], [{"a": 1, "b": 2}]),
    Row(ALL, {"minProperties": 1}, [{"a": 1}, []], [{}]),
    Row(ALL, {"required": ["a"]}, [{"a": None}, [], "a"], [{}, {"b": 1}]),
    Row(ALL, {"properties": {"a": {"type": "integer"}}}, [{"a": 1}, {}, []], [{"a": "1"}]),
    Row(ALL, {"properties": {"a": False, "b": True}}, [{"b": 1}, {}], [{"a": 1}]),
    Row(
        ALL,
        {"patternProperties": {"^n_": {"type": "integer"}}},
        [{"n_a": 1, "b": "x"}],
        [{"n_a": "1"}],
    ),
    Row(
        ALL,
        {"properties": {"a": {}}, "patternProperties": {"^n": {}}, "additionalProperties": False},
        [{"a": 1, "n1": 2}, {}],
        [{"b": 1}],
    ),
    Row(ALL, {"additionalProperties": {"type": "integer"}}, [{"a": 1}, {}], [{"a": "x"}]),
    Row(
        ALL,
        {"properties": {"a": {}}, "additionalProperties": {"type": "boolean"}},
        [{"a": 1, "b": True}],
        [{"a": 1, "b": 1}],
    ),
    Row(ALL, {"propertyNames": {"maxLength": 2}}, [{"ab": 1}, {}], [{"abc": 1}]),
    Row("7", {"dependencies": {"a": ["b"]}}, [{"a": 1, "b": 2}, {"b": 1}, {}], [{"a": 1}]),
    Row(
        "7",
        {"dependencies": {"a": {"required": ["b"]}}},
        [{"a": 1, "b": 1}, {}, {"c": 1}],
        [{"a": 1}],
    ),
    Row(NEW, {"dependentRequired": {"a": ["b"]}}, [{"a": 1, "b": 2}, {"b": 1}], [{"a": 1}]),
    Row(
        NEW,
        {"dependentSchemas": {"a": {"required": ["b"]}}},
        [{"a": 1, "b": 1}, {"c": 1}],
        [{"a": 1}],
    ),
    Row(NEW, {"dependentSchemas": {"a": False}}, [{"b": 1}], [{"a": 1}]),
    Row(ALL, {"allOf": [{"type": "integer"}, {"minimum": 2}]}, [2], [1, 2.5, "a"]),
    Row(ALL, {"allOf": [True, False]}, [], [1]),
    Row(ALL, {"anyOf": [{"type": "integer"}, {"minLength": 2}]}, [1, "ab", None], ["a"]),
    Row(
        ALL, {"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, [{"a": 1}, {"b": 1}], [{"c": 1}]
    ),
    Row(ALL, {"oneOf": [{"type": "integer"}, {"minimum": 2}]}, [1, 2.5, "a"], [3, 1.5]),
    Row(ALL, {"not": {"type": "integer"}}, ["a", 1.5], [1]),
    Row(
        ALL,
        {"not": {"properties": {"a": {"const": 1}}, "required": ["a"]}},
        [{"a": 2}, {"b": 1}],
        [{"a": 1}, {"a": 1, "b": 2}],
    ),
    Row(
        ALL,
        CONDITION,
        [{"way": "bank", "iban": "x"}, {"card": 1}, {"way": "card", "card": 1}],
        [{"way": "bank"}, {"way": "card"}, {}],
    ),
    Row(ALL, {"if": {"const": 1}, "then": False}, [2], [1]),
    Row(ALL, {"if": {"const": 1}, "else": False}, [1], [2]),
    Row(ALL, {"then": False, "else": False}, [1], []),
    Row(NEW, TREE, [{"a": "ab"}, {}], [{"a": "a"}, {"a": 1}]),
    Row(
        "7",
        {"definitions": TREE["$defs"], "properties": {"a": {"$ref": "#/definitions/word"}}},
        [{"a": "ab"}],
        [{"a": "a"}],
    ),
    Row(
        NEW,
        {
            "$defs": {"w": {"$anchor": "word", "minLength": 2}},
            "properties": {"a": {"$ref": "#word"}},
        },
        [{"a": "ab"}],
        [{"a": "a"}],
    ),
    Row(
        NEW,
        {
            "$defs": {"w": {"$id": "urn:x:w", "minLength": 2}},
            "properties": {"a": {"$ref": "urn:x:w"}},
        },
        [{"a": "ab"}],
        [{"a": "a"}],
    ),
    Row(
        NEW,
        {"$defs": {"w": {"minLength": 2}}, "$ref": "#/$defs/w", "maxLength": 3},
        ["ab"],
        ["a", "abcd"],
    ),
    Row(
        "2020",
        {"$defs": {"w": {"$dynamicAnchor": "w", "minLength": 2}}, "items": {"$dynamicRef": "#w"}},
        [["ab"]],
        [["a"]],
    ),
    Row(
        NEW,
        {"properties": {"a": {}}, "unevaluatedProperties": False},
        [{"a": 1}, {}],
        [{"b": 1}, {"a": 1, "b": 2}],
    ),
    Row(
        NEW,
        {
            "allOf": [{"properties": {"a": {}}}],
            "anyOf": [{"properties": {"b": {"const": 1}}, "required": ["b"]}, True],
            "unevaluatedProperties": {"type": "string"},
        },
        [{"a": 1, "b": 1}, {"a": 1, "c": "x"}],
        [{"c": 1}, {"b": 2}],
    ),
    Row(
        NEW,
        {
            "if": {"properties": {"a": {"const": 1}}, "required": ["a"]},
            "then": {"properties": {"b": {}}},
            "unevaluatedProperties": False,
        },
        [{"a": 1, "b": 2}, {}],
        [{"a": 2}, {"b": 2}],
    ),
    Row("2020", {"prefixItems": [{}], "unevaluatedItems": False}, [[1], []], [[1, 2]]),
    Row("2019", {"items": [{}], "unevaluatedItems": False}, [[1], []], [[1, 2]]),
    Row(
        "2020",
        {"allOf": [{"prefixItems": [{}, {}]}], "unevaluatedItems": {"type": "string"}},
        [[1, 2, "a"], [1]],
        [[1, 2, 3]],
    ),
    Row("2020", {"contains": {"const": 1}, "unevaluatedItems": {"const": 2}}, [[1, 2]], [[1, 3]]),
    Row(
        ALL,
        {"title": "t", "description": "d", "default": 1, "examples": [1], "$comment": "c"},
        [1, "a", None],
        [],
    ),
    Row(ALL, {"readOnly": True, "writeOnly": True, "deprecated": True}, [1], []),
    Row(ALL, {"contentEncoding": "base64", "contentMediaType": "application/json"}, ["%", 1], []),
    Row(NEW, {"contentSchema": False, "contentMediaType": "text/plain"}, ["a"], []),
    Row(ALL, {"unknown-keyword": False}, [1], []),
]
