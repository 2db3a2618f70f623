"""Tools from anywhere: what they stand in, references, and what no reader took."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from workspaces import ROOT

from factory.domain.canon import canonical_json, tool_id
from factory.domain.failures import InputError
from factory.domain.records import Tool
from factory.tools.dialects import find_tools, read_dialect
from factory.tools.schema import read_document
from factory.tools.sources import Imported, read_tools

SHARED = ROOT.parent / "shared"

GOLDEN = Path(__file__).with_name("golden_documents.jsonl")
"""A document of every older dialect and its id: a reader that changes one orphans its codes."""

SCHEMA = {
    "type": "object",
    "properties": {"dish": {"type": "string", "description": "What to cook."}},
    "required": ["dish"],
}
SOUP = {"name": "cook", "description": "Cook a dish.", "inputSchema": SCHEMA}
COOK = {
    "name": "cook",
    "description": "Cook a dish.",
    "arguments": {
        "type": "dict",
        "properties": {"dish": {"type": "string", "description": "What to cook."}},
        "required": ["dish"],
    },
}


def read_file(path: Path, *values: Any) -> Imported[Tool]:
    path.write_text("\n".join(map(json.dumps, values)), encoding="utf-8")
    return read_tools(path)


def is_valid(document: dict[str, Any], arguments: dict[str, Any]) -> bool:
    return bool(read_document(document).validator.is_valid(arguments))


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"jsonrpc": "2.0", "id": 1, "result": {"tools": [SOUP]}}, "result.tools[0]"),
        ({"tools": [SOUP]}, "tools[0]"),
        ({"tools": json.dumps([SOUP]), "query": "Soup!"}, "tools[0]"),
        ({"tools": {"cook": {"inputSchema": SCHEMA}}}, "tools[cook]"),
        ([SOUP], "[0]"),
        ({"functionDeclarations": [{"name": "cook", "parameters": SCHEMA}]}, "functionDecl"),
        ({"tools": [{"function_declarations": [SOUP]}]}, "tools["),
        ({"toolConfig": {"tools": [{"toolSpec": SOUP}]}}, "toolConfig.tools[0]"),
        ({"question": "?", "function": [{"name": "cook", "parameters": SCHEMA}]}, "function[0]"),
        (
            {"system": f"You may call: {json.dumps([SOUP])}. Go [on].", "conversations": []},
            "system[0]",
        ),
    ],
)
def test_tools_are_found_in_what_they_come_in(value: Any, place: str) -> None:
    (found,) = find_tools(value)
    assert found.place.startswith(place)
    assert found.document is not None
    assert found.document["arguments"] == COOK["arguments"]


def test_a_server_is_whose_the_tools_are() -> None:
    for value in (
        {"server": "Kitchen", "tools": [SOUP]},
        {"serverInfo": {"name": "Kitchen", "version": "2"}, "tools": [SOUP]},
        {"server": "Kitchen", "result": {"tools": [SOUP]}},
    ):
        assert read_dialect(value) == ({**COOK, "tool_name": "Kitchen"},)


def test_one_tool_of_a_server_costs_no_other(tmp_path: Path) -> None:
    bare = {"name": "eat", "description": "Eat."}
    value = {"server": "K", "tools": [SOUP, {"name": "?", "schemas": SCHEMA}, 7, bare]}
    read = read_file(tmp_path / "t.jsonl", value, {"tools": [SOUP], "nextCursor": "p2"})
    assert [tool.name for tool in read.items] == ["cook", "eat", "cook"]
    assert [(line.where, line.cause) for line in read.bad] == [
        ("t.jsonl:1 tools[1]", '"schemas" holds what looks like a schema and is not read'),
        ("t.jsonl:1 tools[2]", "a tool is an object, not a int"),
        ("t.jsonl:2", "more tools follow in another answer (nextCursor)"),
    ]


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        ({"name": "f", "shape": {"type": "object", "properties": {"a": {}}}}, '"shape" holds'),
        ({"name": "f", "takes": {"a": {"type": "str"}, "b": {"type": "int"}}}, '"takes" holds'),
        ({"name": "f", "takes": [{"name": "a", "type": "int"}]}, '"takes" holds'),
        ({"name": "f", "params": {"a": "int"}}, '"params" holds'),
        ({"name": "f", "parameters": SCHEMA, "inputSchema": SCHEMA}, '"parameters" holds'),
        ({"function": {"name": "f", "input": SCHEMA}}, '"input" holds'),
        ({"name": "f", "parameters": {**SCHEMA, "required": "dish"}}, "no list of names"),
        ({"name": "f", "parameters": {**SCHEMA, "required": {"dish": True}}}, "no list of names"),
        ({"name": "f", "parameters": {**SCHEMA, "required": [["dish"]]}}, "no list of names"),
        ({"name": "f", "parameters": SCHEMA, "required": "dish"}, "no list of names"),
        ({"name": "f", "parameters": {"required": "dish"}}, "no list of names"),
        ({"name": "f", "parameters": {"dish": "str", "required": ["dish"]}}, "no list of names"),
        ({"name": "f", "parameters": {"dish": {"type": "str"}, "required": True}}, "no list of"),
        (
            {"name": "f", "parameters": {"a": {"type": "str", "required": "y"}}},
            "no list of names",
        ),
        ({"type": "web_search_20250305", "name": "web_search", "max_uses": 5}, "of its provider"),
        ({"tools": []}, "empty"),
        ({"tools": ["cook", "eat"]}, "names alone"),
        ({"tools": "[{"}, "not JSON"),
        ({"openapi": "3.1.0", "info": {"title": "T"}}, "this is an OpenAPI file"),
        ({"mcpServers": {"k": {"command": "npx"}}}, "this is a list of MCP servers"),
        ({"info": {"name": "p"}, "item": []}, "this is a Postman collection"),
        ({"messages": [{"role": "user", "content": "Soup!"}]}, "this is a conversation"),
        ({"query": "Soup!"}, "this is a request"),
        (SCHEMA, "this is a JSON Schema without a tool's name"),
    ],
)
def test_what_no_reader_took_is_told(value: Any, cause: str, tmp_path: Path) -> None:
    read = read_file(tmp_path / "t.jsonl", value)
    assert not read.items
    assert cause in read.bad[0].cause


def test_a_key_twice_is_a_bad_line(tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    twice = '{"name": "f", "parameters": {"properties": {"a": {"type": "int", "type": "str"}}}}'
    file.write_text(f'[{twice}, {{"name": "g"}}]', encoding="utf-8")
    read = read_tools(file)
    assert [tool.name for tool in read.items] == ["g"]
    assert read.bad[0].cause == (
        'the key "type" stands twice in one object, at $.parameters.properties.a'
    )


def test_required_is_read_beside_and_inside() -> None:
    inside = {"a": {"type": "string", "required": True}, "b": {"type": "string", "required": False}}
    plain = {"a": {"type": "string"}, "b": {"type": "string"}}
    for value in (
        {"name": "f", "parameters": {"type": "object", "properties": inside}},
        {"name": "f", "parameters": inside},
        {"name": "f", "parameters": {"type": "object", "properties": plain}, "required": ["a"]},
        {"name": "f", "args": {"a": plain["a"], "b": {**plain["b"], "default": None}}},
        {"name": "f", "parameters": {"a": {"type": "str"}, "b": {"type": "str, optional"}}},
    ):
        (document,) = read_dialect(value)
        assert document["arguments"]["required"] == ["a"]
        assert not any("required" in part for part in document["arguments"]["properties"].values())
    outer = {"type": "object", "properties": {"o": {"type": "object", "properties": inside}}}
    (document,) = read_dialect({"name": "f", "parameters": outer})
    assert document["arguments"]["properties"]["o"]["required"] == ["a"]


def test_smolagents_arguments_are_required_unless_nullable() -> None:
    inputs = {"a": {"type": "string"}, "b": {"type": "integer", "nullable": True}}
    value = {"name": "f", "description": "D.", "inputs": inputs, "output_type": "number"}
    (document,) = read_dialect(value)
    assert document["arguments"]["required"] == ["a"]
    assert document["results"] == {"type": "float"}
    assert is_valid(document, {"a": "x", "b": None}) and not is_valid(document, {"b": 1})


DEFS = {
    "Size": {"type": "string", "enum": ["s", "l"]},
    "Box": {"type": "object", "properties": {"size": {"$ref": "#/$defs/Size"}}},
    "a/b c": {"type": "integer"},
    "Named": {"$anchor": "here", "type": "boolean"},
    "Id": {"$id": "https://x.test/id.json", "type": "null"},
    "Node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}},
}


@pytest.mark.parametrize(
    ("part", "read"),
    [
        ({"$ref": "#/$defs/Size"}, {"type": "string", "enum": ["s", "l"]}),
        (
            {"$ref": "#/$defs/Size", "description": "How big.", "default": "s"},
            {"type": "string", "enum": ["s", "l"], "description": "How big.", "default": "s"},
        ),
        (
            {"type": "array", "items": {"$ref": "#/$defs/Box"}},
            {
                "type": "array",
                "items": {
                    "type": "dict",
                    "properties": {"size": {"type": "string", "enum": ["s", "l"]}},
                },
            },
        ),
        ({"$ref": "#/$defs/a~1b%20c"}, {"type": "integer"}),
        ({"$ref": "#here"}, {"type": "boolean"}),
        ({"$ref": "https://x.test/id.json"}, {"type": "null"}),
        ({"$ref": "#/properties/other"}, {"type": "string"}),
        (
            {"$ref": "#/$defs/Size", "enum": ["l"]},
            {"enum": ["l"], "allOf": [{"type": "string", "enum": ["s", "l"]}]},
        ),
        ({"enum": [{"$ref": "#/none"}]}, {"enum": [{"$ref": "#/none"}]}),
    ],
)
def test_references_are_put_in_place(part: dict[str, Any], read: dict[str, Any]) -> None:
    properties = {"other": {"type": "string"}, "p": part}
    schema = {"type": "object", "properties": properties, "$defs": DEFS}
    (found,) = find_tools({"name": "f", "inputSchema": schema})
    assert found.document is not None
    assert found.document["arguments"]["properties"]["p"] == read
    assert "$defs" not in found.document["arguments"]
    assert found.changes or "enum" in part


@pytest.mark.parametrize(
    ("part", "cause"),
    [
        ({"$ref": "#/$defs/Node"}, "#/$defs/Node goes in a circle"),
        ({"$ref": "#"}, "# goes in a circle"),
        ({"$ref": "#/$defs/none"}, "names nothing"),
        ({"$ref": "other.json#/a"}, "names another document"),
        ({"$ref": "#nowhere"}, "names nothing"),
    ],
)
def test_circles_and_references_to_nothing_are_refused(part: dict[str, Any], cause: str) -> None:
    schema = {"type": "object", "properties": {"p": part}, "$defs": DEFS}
    with pytest.raises(ValueError, match=cause.replace("$", r"\$")):
        read_dialect({"name": "f", "inputSchema": schema})


def test_definitions_that_double_each_other_are_bounded() -> None:
    definitions: dict[str, Any] = {"d0": {"type": "string"}}
    for number in range(1, 40):
        two = {"$ref": f"#/definitions/d{number - 1}"}
        definitions[f"d{number}"] = {"type": "object", "properties": {"a": two, "b": two}}
    properties = {"p": {"$ref": "#/definitions/d39"}}
    with pytest.raises(ValueError, match="over 20,000 schemas"):
        read_dialect(
            {"name": "f", "inputSchema": {"properties": properties} | {"definitions": definitions}}
        )


def test_a_circle_in_the_results_costs_only_itself() -> None:
    output = {"type": "object", "properties": {"n": {"$ref": "#/$defs/Node"}}, "$defs": DEFS}
    (found,) = find_tools({**SOUP, "outputSchema": output})
    assert found.document is not None
    inner = {"type": "dict", "properties": {"next": {"type": "dict"}}}
    assert found.document["results"]["properties"] == {"n": inner}
    assert "circle cut at #/$defs/Node" in found.changes


def test_a_folder_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "LICENSE").write_text("MIT", encoding="utf-8")
    (tmp_path / "a.json").write_text("[", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text(json.dumps(SOUP), encoding="utf-8")
    (tmp_path / "more" / "c.json").write_text(json.dumps([SOUP, 7]), encoding="utf-8")
    read = read_tools(tmp_path)
    assert [tool.document for tool in read.items] == [COOK, COOK]
    assert [line.where for line in read.bad] == ["a.json", "more/c.json[2]"]
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no files of tools"):
        read_tools(tmp_path / "none")


def test_every_tool_of_real_servers_is_read() -> None:
    folder = SHARED / "data" / "mcp_servers"
    if not folder.exists():
        pytest.skip(f"real servers' tools are not here: {folder}")
    read = read_tools(folder)
    assert len(read.items) == 1008 and not read.bad
    assert Counter("$ref" in canonical_json(tool.document) for tool in read.items)[True] == 0
    assert len({tool.id for tool in read.items}) == 996  # some servers are there twice


def test_ids_of_what_was_always_read_stay() -> None:
    rows = [json.loads(line) for line in GOLDEN.read_text("utf-8").splitlines()]
    found = {row["dialect"]: tool_id(read_dialect(row["value"])[0]) for row in rows}
    assert len(rows) == 14
    assert found == {row["dialect"]: row["id"] for row in rows}
