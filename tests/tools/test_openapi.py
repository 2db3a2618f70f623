"""OpenAPI documents as tools: parameters, bodies, references, and what each version means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from workspaces import ROOT

from factory.tools.containers import Found
from factory.tools.dialects import find_tools
from factory.tools.schema import read_document
from factory.tools.sources import read_tools
from factory.tools.yamltext import YamlError, load_yaml

DATA = ROOT.parent / "shared" / "data" / "openapi"


def spec(paths: dict[str, Any], version: str = "3.0.3", **more: Any) -> dict[str, Any]:
    key = "swagger" if version == "2.0" else "openapi"
    return {key: version, "info": {"title": "Shop", "version": "1"}, "paths": paths, **more}


def put(schema: Any, *, required: bool = True, parameters: Any = ()) -> dict[str, Any]:
    body = {"required": required, "content": {"application/json": {"schema": schema}}}
    return {"put": {"operationId": "f", "requestBody": body, "parameters": [*parameters]}}


def one(value: dict[str, Any]) -> Found:
    (found,) = find_tools(value)
    assert found.document is not None, found.cause
    return found


def arguments(value: dict[str, Any]) -> dict[str, Any]:
    document = one(value).document
    assert document is not None
    schema: dict[str, Any] = document["arguments"]
    return schema


def is_valid(value: dict[str, Any], given: dict[str, Any]) -> bool:
    document = one(value).document
    assert document is not None
    return bool(read_document(document).validator.is_valid(given))


def query(name: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema}


def test_parameters_of_path_and_operation_become_arguments() -> None:
    shared = [
        {"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}},
        {"$ref": "#/components/parameters/Lang"},
        query("size", type="integer"),
    ]
    get = {
        "operationId": "get Cake",
        "summary": "Look up a cake",
        "description": "By its number.",
        "parameters": [
            query("size", type="string", enum=["s", "l"]),
            {"name": "X-Trace", "in": "header", "required": True, "schema": {"type": "string"}},
            {"name": "Accept", "in": "header", "schema": {"type": "string"}},
            {"name": "f", "in": "query", "content": {"application/json": {"schema": {}}}},
        ],
    }
    lang = {"name": "lang", "in": "query", "description": "Language.", "schema": {"type": "string"}}
    value = spec(
        {"/cakes/{id}": {"parameters": shared, "get": get}},
        components={"parameters": {"Lang": lang}},
    )
    found = one(value)
    assert found.place == "GET /cakes/{id}"
    assert found.document == {
        "name": "get Cake",
        "description": "Look up a cake. By its number.",
        "tool_name": "Shop",
        "arguments": {
            "type": "dict",
            "properties": {
                "id": {"type": "integer"},
                "lang": {"type": "string", "description": "Language."},
                "size": {"type": "string", "enum": ["s", "l"]},
                "f": {},
                "X-Trace": {"type": "string"},
            },
            "required": ["id", "X-Trace"],
        },
    }
    assert found.changes == ("the header Accept left out",)


def test_a_name_that_two_places_have_is_said_and_kept_apart() -> None:
    path = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    body = {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]}
    value = spec({"/a/{id}": put(body, parameters=[query("id", type="boolean"), path])})
    kinds = {name: part["type"] for name, part in arguments(value)["properties"].items()}
    assert kinds == {"id": "string", "query_id": "boolean", "body_id": "integer"}
    assert arguments(value)["required"] == ["id", "body_id"]
    assert one(value).changes == (
        "id of the query is called query_id: its name was taken",
        "id of the body is called body_id: its name was taken",
    )


def test_a_body_that_may_be_left_out_is_whole_or_not_there() -> None:
    body = {"type": "object", "properties": {"a": {}, "b": {}, "c": {}}, "required": ["a", "b"]}
    value = spec({"/x": put(body, required=False)})
    assert is_valid(value, {}) and is_valid(value, {"a": 1, "b": 2})
    assert not is_valid(value, {"a": 1}) and not is_valid(value, {"c": 1})


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "array", "items": {"type": "integer"}}, {"body": [1]}, {"body": ["1"]}),
        ({"type": "string"}, {"body": "x"}, {}),
        (
            {
                "oneOf": [
                    {"type": "object", "properties": {"a": {}}, "required": ["a"]},
                    {"type": "object", "properties": {"b": {}}, "required": ["b"]},
                ]
            },
            {"b": 1},
            {"c": 1},
        ),
        (
            {"type": "object", "properties": {"a": {}, "b": {}}, "minProperties": 1},
            {"a": 1},
            {},
        ),
        (
            {"type": "object", "additionalProperties": {"type": "integer"}},
            {"body": {"n": 1}},
            {"body": {"n": "x"}},
        ),
    ],
)
def test_bodies_of_every_kind(schema: Any, good: dict[str, Any], bad: dict[str, Any]) -> None:
    value = spec({"/x": put(schema)})
    assert is_valid(value, good) and not is_valid(value, bad)


def test_a_composed_body_beside_parameters_is_one_argument() -> None:
    schema = {"oneOf": [{"type": "object", "properties": {"a": {}}}, {"type": "string"}]}
    value = spec({"/x": put(schema, parameters=[query("q", type="string")])})
    assert is_valid(value, {"q": "x", "body": {"a": 1}}) and is_valid(value, {"body": "x"})
    assert not is_valid(value, {"body": 3}) and not is_valid(value, {"a": 1, "body": "x"})


def test_all_of_is_merged_and_references_are_put_in_place() -> None:
    schemas = {
        "Base": {"type": "object", "properties": {"name": {"type": "string"}}},
        "Cake": {
            "allOf": [
                {"$ref": "#/components/schemas/Base"},
                {
                    "type": "object",
                    "properties": {
                        "price": {
                            "type": "number",
                            "nullable": True,
                            "minimum": 0,
                            "exclusiveMinimum": True,
                        },
                        "id": {"type": "integer", "readOnly": True},
                    },
                    "required": ["price", "id"],
                },
            ]
        },
    }
    reference = {"$ref": "#/components/schemas/Cake"}
    value = spec({"/x": put(reference)}, components={"schemas": schemas})
    assert arguments(value) == {
        "type": "dict",
        "properties": {
            "name": {"type": "string"},
            "price": {"type": ["float", "null"], "exclusiveMinimum": 0},
        },
        "required": ["price"],
    }
    for price, valid in ((None, True), (0.1, True), (0, False), (-1, False)):
        assert is_valid(value, {"price": price}) is valid
    assert "id left out: readOnly" in one(value).changes


def test_what_a_nested_all_of_requires_goes_with_what_is_read_only() -> None:
    schemas = {
        "Row": {
            "type": "object",
            "properties": {"id": {"type": "string", "readOnly": True}, "n": {"type": "string"}},
        },
        "Named": {"allOf": [{"$ref": "#/components/schemas/Row"}], "required": ["id", "n"]},
        "Cake": {
            "allOf": [
                {"$ref": "#/components/schemas/Named"},
                {"properties": {"of": {"$ref": "#/components/schemas/Named"}}, "required": ["id"]},
            ]
        },
    }
    reference = {"$ref": "#/components/schemas/Cake"}
    value = spec({"/x": put(reference)}, components={"schemas": schemas})
    assert arguments(value)["required"] == ["n"]
    assert is_valid(value, {"n": "plum", "of": {"n": "plum"}})
    assert not is_valid(value, {"n": "plum", "of": {}})


@pytest.mark.parametrize(
    ("schema", "valid", "invalid"),
    [
        ({"type": "string", "nullable": True}, ["a", None], [1]),
        ({"type": "string", "nullable": False}, ["a"], [None]),
        ({"nullable": True, "allOf": [{"$ref": "#/components/schemas/N"}]}, [1, None], ["a"]),
        ({"$ref": "#/components/schemas/N", "nullable": True}, [1, None], ["a"]),
        ({"type": "integer", "maximum": 3, "exclusiveMaximum": True}, [2], [3]),
        ({"type": "integer", "maximum": 3, "exclusiveMaximum": False}, [3], [4]),
        ({"type": "integer", "exclusiveMaximum": 3}, [2], [3]),
        ({"type": ["string", "null"]}, ["a", None], [1]),
        ({"const": "x"}, ["x"], ["y"]),
        ({"type": "string", "x-nullable": True}, ["a", None], [1]),
        (True, [1, None, {}], []),
        (False, [], [1, None]),
    ],
)
def test_schemas_of_every_version(schema: Any, valid: list[Any], invalid: list[Any]) -> None:
    parameter = {"name": "p", "in": "query", "schema": schema}
    value = spec(
        {"/x": {"get": {"operationId": "f", "parameters": [parameter]}}},
        "3.1.0",
        components={"schemas": {"N": {"type": "integer"}}},
    )
    assert [is_valid(value, {"p": each}) for each in valid] == [True] * len(valid)
    assert [is_valid(value, {"p": each}) for each in invalid] == [False] * len(invalid)


def test_swagger_2() -> None:
    operation = {
        "parameters": [
            {
                "name": "tags",
                "in": "query",
                "type": "array",
                "items": {"type": "string"},
                "collectionFormat": "csv",
                "required": True,
                "description": "Tags.",
            },
            {"name": "photo", "in": "formData", "type": "file"},
            {"name": "pet", "in": "body", "schema": {"$ref": "#/definitions/Pet"}},
        ],
        "responses": {
            "default": {"description": "no"},
            "201": {"description": "ok", "schema": {"$ref": "#/definitions/Pet"}},
        },
    }
    pet = {"type": "object", "properties": {"name": {"type": "string", "example": "Rex"}}}
    found = one(spec({"/pets/{kind}/all": {"post": operation}}, "2.0", definitions={"Pet": pet}))
    assert found.document == {
        "name": "post_pets_by_kind_all",
        "description": "",
        "tool_name": "Shop",
        "arguments": {
            "type": "dict",
            "properties": {
                "tags": {"type": "array", "items": {"type": "string"}, "description": "Tags."},
                "photo": {"type": "string"},
                "name": {"type": "string"},
            },
            "required": ["tags"],
        },
        "results": {"type": "dict", "properties": {"name": {"type": "string"}}},
    }


def test_circles_are_cut_and_said() -> None:
    node = {
        "type": "object",
        "description": "A node.",
        "properties": {"next": {"$ref": "#/components/schemas/Node"}, "value": {"type": "string"}},
    }
    value = spec(
        {"/x": put({"$ref": "#/components/schemas/Node"})}, components={"schemas": {"Node": node}}
    )
    assert arguments(value)["properties"]["next"] == {"type": "dict", "description": "A node."}
    assert "circle cut at #/components/schemas/Node" in one(value).changes


def test_a_schema_that_two_circles_share_is_cut_where_it_stands() -> None:
    """What was cut inside another schema is not taken for the whole of it elsewhere."""
    schemas = {
        "A": {"type": "object", "properties": {"b": {"$ref": "#/components/schemas/B"}}},
        "B": {"type": "object", "properties": {"a": {"$ref": "#/components/schemas/A"}}},
    }
    both = {
        "type": "object",
        "properties": {
            "x": {"$ref": "#/components/schemas/A"},
            "y": {"$ref": "#/components/schemas/B"},
        },
    }
    found = arguments(spec({"/x": put(both)}, components={"schemas": schemas}))["properties"]
    inner = {"type": "dict"}
    within = {"type": "dict", "properties": {"a": inner}}
    assert found["x"] == {"type": "dict", "properties": {"b": within}}
    assert found["y"] == {"type": "dict", "properties": {"a": found["x"]}}


def test_deprecated_operations_come_when_they_are_asked_for() -> None:
    value = spec(
        {"/x": {"get": {"operationId": "new"}, "put": {"operationId": "old", "deprecated": True}}}
    )
    new, old = find_tools(value)
    assert new.document is not None and old.document is None and "deprecated" in old.left_out
    found = find_tools(value, deprecated=True)
    assert [each.document["name"] for each in found if each.document] == ["new", "old"]


def test_one_operation_that_cannot_be_read_costs_no_other() -> None:
    bad = {"operationId": "g", "parameters": [{"$ref": "#/components/parameters/None"}]}
    other = {"operationId": "h", "parameters": [{"$ref": "common.yaml#/Lang"}]}
    nameless = {"parameters": [{"in": "query", "schema": {}}]}
    value = spec(
        {
            "/x": {"get": bad, "put": {"operationId": "f"}, "post": other, "head": nameless},
            "/y": {"$ref": "#/nowhere"},
        }
    )
    found = {each.place: each.cause for each in find_tools(value)}
    assert found == {
        "GET /x": "the reference #/components/parameters/None names nothing in the document",
        "PUT /x": "",
        "POST /x": "the reference common.yaml#/Lang names another document",
        "HEAD /x": '{"in": "query", "schema": {}} is a parameter without a name',
        "/y": "the reference #/nowhere names nothing in the document",
    }


def test_operations_of_one_name_are_told_apart() -> None:
    value = spec({"/a": {"get": {"operationId": "f"}}, "/b/{c}": {"get": {"operationId": "f"}}})
    names = [found.document["name"] for found in find_tools(value) if found.document]
    assert names == ["f", "get_b_by_c"]


def test_the_first_response_of_success_with_a_schema_is_the_result() -> None:
    def media(kind: str) -> dict[str, Any]:
        return {"content": {"application/json": {"schema": {"type": "object", "title": kind}}}}

    responses = {"404": media("no"), "204": {"description": "none"}, "201": media("yes")}
    get = {"operationId": "f", "responses": responses}
    document = one(spec({"/x": {"get": get}})).document
    assert document is not None and document["results"] == {"type": "dict", "title": "yes"}


def test_real_documents_are_read_whole() -> None:
    if not DATA.exists():
        pytest.skip(f"real OpenAPI documents are not here: {DATA}")
    read = read_tools(DATA)
    assert not read.bad
    assert len(read.items) == 135
    assert len({line.where for line in read.changes if "deprecated" in line.what}) == 4
    assert len(read_tools(DATA, deprecated=True).items) == 139
    # The same API in JSON and YAML is the same tools.
    folder = DATA / "3.0"
    one, other = (read_tools(folder / kind / f"petstore.{kind}") for kind in ("json", "yaml"))
    assert [tool.id for tool in one.items] == [tool.id for tool in other.items]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (
            "a: no\nb: 2020-01-01\nc: 1.5\nd: '5'\ne: ~\nf: 010\n",
            {"a": "no", "b": "2020-01-01", "c": 1.5, "d": "5", "e": None, "f": "010"},
        ),
        ("200: ok\nnull: x\ntrue: y\n", {"200": "ok", "null": "x", "true": "y"}),
        (
            "a: &x {b: 1}\nc: *x\nd:\n  <<: *x\n  b: 2\n  e: 3\n",
            {"a": {"b": 1}, "c": {"b": 1}, "d": {"b": 2, "e": 3}},
        ),
        ("a: |\n  one\n  two\nb: >-\n  three\n  four\n", {"a": "one\ntwo\n", "b": "three four"}),
        ("- !!str 5\n- !thing x\n- -3\n- 1e3\n", ["5", "x", -3, 1000.0]),
    ],
)
def test_yaml_is_read_as_json_has_it(text: str, value: Any) -> None:
    (read,) = load_yaml(text)
    assert read == value and json.loads(json.dumps(read)) == read


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("a: 1\nb: {c: 1, c: 2}\n", 'the key "c" stands twice'),
        ("a: [1\n", "not YAML: line"),
        ("a: &x [*x]\n", "inside itself"),
        ("[" * 200 + "]" * 200, "nested deeper"),
        ("{[1]: 2}", "a key is no scalar"),
        (
            "\n".join(
                ["a0: &a0 [1]"]
                + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
            ),
            "aliases",
        ),
    ],
)
def test_yaml_out_of_bounds_is_refused(text: str, cause: str, tmp_path: Path) -> None:
    with pytest.raises(YamlError, match=cause.replace("[", r"\[")):
        list(load_yaml(text))
    (tmp_path / "t.yaml").write_text(text, encoding="utf-8")
    assert cause in read_tools(tmp_path / "t.yaml").bad[0].cause


def test_yaml_files_of_tools(tmp_path: Path) -> None:
    file = tmp_path / "t.yml"
    file.write_text("- {name: f}\n- name: g\n---\nname: h\n", encoding="utf-8")
    assert [tool.name for tool in read_tools(file).items] == ["f", "g", "h"]


@pytest.mark.parametrize(
    "body",
    [
        {"type": "object", "required": True, "properties": {"a": {"type": "string"}}},
        {"anyOf": True},
        {"allOf": {}},
    ],
)
def test_an_odd_operation_costs_no_other(body: Any) -> None:
    other = {"get": {"operationId": "g", "parameters": []}}
    found = list(find_tools(spec({"/a": put(body), "/b": other})))
    assert [each.document["name"] for each in found if each.document] in (["f", "g"], ["g"])
    assert all(each.document or each.cause for each in found)


def test_operations_without_names_are_numbered_apart() -> None:
    bare: dict[str, Any] = {"get": {"operationId": ["x"]}}
    found = list(find_tools(spec({"/a/b": bare, "/a-b": bare})))
    assert [each.document and each.document["name"] for each in found] == ["get_a_b", "get_a_b_2"]


def test_what_only_answers_hold_is_left_out_also_where_it_may_be_null() -> None:
    kind = {"allOf": [{"type": "string"}], "readOnly": True, "nullable": True}
    schema = {
        "type": "object",
        "required": ["kind", "name"],
        "properties": {"kind": kind, "name": {"type": "string"}},
    }
    assert arguments(spec({"/a": put(schema)}))["required"] == ["name"]


def test_a_body_of_the_path_is_its_operations_too() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    item = {
        "parameters": [{"in": "body", "name": "b", "required": True, "schema": schema}],
        "post": {"operationId": "f"},
    }
    assert arguments(spec({"/a": item}, "2.0"))["required"] == ["a"]
