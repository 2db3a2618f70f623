"""Tool documents of every dialect, read into the factory's own (algorithms A46).

The factory keeps {name, description, arguments, results} with ToolDev's type words, and of
ToolBench's APIs whose they are {tool_name, tool_description, category_name}. What a dialect
says besides (ToolBench's HTTP method, Seal-Tools' field) is left behind. BFCL's functions are
written too: benchmarks are scored on them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from factory.domain.canon import CATEGORY
from factory.domain.jsontext import JsonTextError, parse_strict
from factory.tools.schema import TOOLDEV, make_validator, read_type, respell, to_json_schema

Document = dict[str, Any]
Read = Callable[[Any], list[Document]]
"""Documents of a value, type words as they come. Raises ValueError with the cause."""


def read_dialect(value: object) -> tuple[Document, ...]:
    """A tool, or a service with several, in whatever dialect it is. Raises ValueError.

    >>> read_dialect({"api_name": "f", "parameters": {"a": "str"}})[0]["arguments"]["properties"]
    {'a': {'type': 'string'}}
    """
    name = find_dialect(value)
    return tuple(_respell(one) for one in DIALECTS[name](value))


def to_document(function: Mapping[str, Any]) -> Document:
    """A BFCL function as a ToolDev document: `parameters` becomes `arguments`, order kept."""
    return {"arguments" if key == "parameters" else key: value for key, value in function.items()}


def to_function(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document as BFCL writes functions, order kept; whose API it is goes unsaid."""
    names = {"arguments": "parameters", "results": "response"}
    return {names.get(k, k): part for k, part in document.items() if k not in _SERVICE_KEYS}


def find_dialect(value: object) -> str:
    """Key of DIALECTS, told by the keys that only this dialect has. Raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError(f"a tool is an object, not a {type(value).__name__}")
    if isinstance(value.get("function"), dict):
        return "openai"
    for key, name in _MARKS.items():
        if key in value:
            return name
    schema = value.get("parameters")
    if isinstance(schema, dict) and schema and not _is_whole(schema):
        return "table"
    kind = schema.get("type") if isinstance(schema, dict) else None
    return "bfcl" if str(kind).lower() in ("dict", "none") else "function"


_MARKS = {
    "api_list": "toolbench-tool",
    "arguments": "tooldev",
    "required_parameters": "toolbench",
    "optional_parameters": "toolbench",
    "api_name": "seal-tools",
    "inputSchema": "mcp",
    "name_for_model": "plugin",
    "desc": "taskbench",
    "intents": "sgd",
    "analyzed_tools": "toolsense",
    "document_content": "corpus",
}

_ALIASES = ("responses", "response", "returnParameter")


def _respell(document: Document) -> Document:
    """The document with ToolDev's type words in its two schemas."""
    schemas = [key for key in ("arguments", "results") if key in document]
    return document | {key: respell(document[key], TOOLDEV) for key in schemas}


def _make_document(
    name: object, description: object, arguments: Document, results: object = None
) -> Document:
    if not isinstance(name, str) or not name.strip():
        raise ValueError("has no name")
    text = description if isinstance(description, str) else ""
    document: Document = {"name": name, "description": text, "arguments": arguments}
    if isinstance(results, dict) and results:
        table = {"type": "dict", "properties": _read_table(results)}
        document["results"] = results if _is_whole(results) else table
    return document


def _is_whole(schema: Document) -> bool:
    """Whether it is the schema of an object, not a table of arguments by name.

    An argument may be called `type` or `properties`: then it is an object, or has a type.
    """
    inner = schema.get("properties")
    if isinstance(inner, dict):
        return not isinstance(inner.get("type"), str)
    parts = (value for key, value in schema.items() if key not in ("additionalProperties", "items"))
    return isinstance(schema.get("type"), str) and not any(isinstance(part, dict) for part in parts)


def _read_schema(schema: object) -> Document:
    """The schema of an object of arguments; nothing at all is a tool without arguments."""
    if schema is None or schema == [] or schema == "":
        schema = {}
    if not isinstance(schema, dict):
        raise ValueError(f"its parameters are a {type(schema).__name__}, not an object")
    kind = (read_type(schema.get("type", "dict")) or {}).get("type", "object")
    if kind != "object":
        raise ValueError(f"its parameters are the schema of an {kind}, which names no argument")
    required = schema.get("required")
    kept = {key: part for key, part in schema.items() if key not in _OWN_KEYS}
    return {
        **kept,
        "type": "dict",
        "properties": schema.get("properties") or {},
        "required": list(required) if isinstance(required, list) else [],
    }


_OWN_KEYS = ("$schema", "type", "properties", "required")


def _read_table(table: Mapping[str, object]) -> Document:
    """Properties by name; a bare word is a type."""
    return {
        str(name): {"type": part} if isinstance(part, str) else part for name, part in table.items()
    }


def _schema_of(properties: Document, required: object = None) -> Document:
    names = [str(name) for name in required] if isinstance(required, list) else []
    return {"type": "dict", "properties": properties, "required": names}


def _function(parameters: str, results: str) -> Read:
    """{name, description, <parameters>: schema, <results>: schema}: OpenAI, BFCL, ToolACE, MCP."""

    def read(value: Document) -> list[Document]:
        found = next((value[key] for key in (results, *_ALIASES) if key in value), None)
        schema = _read_schema(value.get(parameters))
        document = _make_document(value.get("name"), value.get("description"), schema, found)
        return [document | _service(value) if parameters == "arguments" else document]

    return read


def _table(name: str, description: str, results: str) -> Read:
    """{<name>, <description>, parameters: {name: schema}, required}: Seal-Tools, xLAM."""

    def read(value: Document) -> list[Document]:
        parameters = value.get("parameters")
        if isinstance(parameters, dict) and not _is_whole(parameters):
            arguments = _schema_of(_read_table(parameters), value.get("required"))
        else:
            arguments = _read_schema(parameters)
        found = next((value[key] for key in (results, *_ALIASES) if key in value), None)
        return [_make_document(value.get(name), value.get(description), arguments, found)]

    return read


def _read_toolbench(value: Document) -> list[Document]:
    required = _named(value.get("required_parameters"))
    properties = {}
    for part in [*required, *_named(value.get("optional_parameters"))]:
        kept = {key: inner for key, inner in part.items() if key not in ("name", "default")}
        default = _read_default(part.get("default", ""), kept)
        properties[str(part["name"])] = {**kept, **default}
    arguments = _schema_of(properties, [part["name"] for part in required])
    name = value.get("api_name", value.get("name"))
    description = value.get("api_description", value.get("description"))
    return [{**_make_document(name, description, arguments), **_service(value)}]


def _service(value: Document) -> Document:
    """Whose API it is: APIs of different services are different tools, however alike (§3.1)."""
    texts = {key: value.get(key) for key in _SERVICE_KEYS}
    return {key: text for key, text in texts.items() if isinstance(text, str) and text}


_SERVICE_KEYS = ("tool_name", "tool_description", CATEGORY)


def _read_default(default: object, part: Document) -> Document:
    """ToolBench writes defaults as text, and no default as an empty one."""
    if default is None or default == "":
        return {}
    if isinstance(default, str):
        try:
            value = parse_strict(default)
        except JsonTextError:
            return {"default": default}
        if not isinstance(value, str) and make_validator(to_json_schema(part)).is_valid(value):
            return {"default": value}
    return {"default": default}


def _read_toolbench_tool(value: Document) -> list[Document]:
    listed = value["api_list"] if isinstance(value["api_list"], list) else []
    service = _service(value)
    return [_read_toolbench({**service, **part})[0] for part in listed if isinstance(part, dict)]


def toolsense_apis(value: Document) -> list[Document]:
    """The APIs that a request of ToolSense names, as ToolBench writes them; it tells no parameters.

    Raises ValueError for one that is not named `Tool&&API`.
    """
    apis = []
    for part in (*_one_or_more(value.get("tool")), *_one_or_more(value.get("analyzed_tools"))):
        service, mark, name = str(part.get("tool_name", "")).partition("&&")
        if not (service and mark and name):
            raise ValueError("a tool of it is not named Tool&&API")
        texts = {key: part.get(key) or "" for key in ("tool_description", "api_description")}
        parameters: Document = {"required_parameters": [], "optional_parameters": []}
        apis.append({"tool_name": service, "api_name": name, **texts, **parameters})
    return apis


def _one_or_more(parts: object) -> list[Document]:
    listed = parts if isinstance(parts, list) else [parts]
    return [part for part in listed if isinstance(part, dict)]


def _read_toolsense(value: Document) -> list[Document]:
    return [_read_toolbench(api)[0] for api in toolsense_apis(value)]


def _read_taskbench(value: Document) -> list[Document]:
    properties = {
        str(part["name"]): {
            "description" if key == "desc" else key: inner
            for key, inner in part.items()
            if key != "name"
        }
        for part in _named(value.get("parameters"))
    }
    return [_make_document(value.get("id"), value["desc"], _schema_of(properties))]


def _read_plugin(value: Document) -> list[Document]:
    description = value.get("description_for_model")
    return [_make_document(value["name_for_model"], description, _schema_of({}))]


def _read_sgd(service: Document) -> list[Document]:
    """One tool an intent; every slot takes SGD's word for no preference too."""
    slots = {slot["name"]: slot for slot in _named(service.get("slots"))}
    documents = []
    for intent in _named(service["intents"]):
        required, optional = intent.get("required_slots", []), intent.get("optional_slots", {})
        given = {name: _read_slot(slots[name]) for name in required}
        given |= {name: _read_slot(slots[name]) | {"default": optional[name]} for name in optional}
        results = {name: _read_slot(slots[name]) for name in intent.get("result_slots", [])}
        schema, found = _schema_of(given, required), {"type": "dict", "properties": results}
        documents.append(_make_document(intent["name"], intent.get("description"), schema, found))
    return documents


_NO_PREFERENCE = "dontcare"


def _read_slot(slot: Document) -> Document:
    part = {"type": "string", "description": slot.get("description", "")}
    if not slot.get("is_categorical"):
        return part
    return part | {"enum": [*slot.get("possible_values", []), _NO_PREFERENCE]}


def _named(parts: object) -> list[Document]:
    """The objects of a list that have a name."""
    listed = parts if isinstance(parts, list) else []
    return [part for part in listed if isinstance(part, dict) and "name" in part]


_FUNCTION = _function("parameters", "response")
DIALECTS: dict[str, Read] = {
    "tooldev": _function("arguments", "results"),
    "openai": lambda value: _FUNCTION(value["function"]),
    "function": _FUNCTION,
    "mcp": _function("inputSchema", "outputSchema"),
    "bfcl": _FUNCTION,
    "seal-tools": _table("api_name", "api_description", "responses"),
    "table": _table("name", "description", "returnParameter"),
    "toolbench": _read_toolbench,
    "toolbench-tool": _read_toolbench_tool,
    "taskbench": _read_taskbench,
    "plugin": _read_plugin,
    "sgd": _read_sgd,
    "toolsense": _read_toolsense,
    "corpus": lambda value: [*read_dialect(parse_strict(str(value["document_content"])))],
}
"""`bfcl` is ToolACE's too, `function` is OpenAI's without its wrapper, `plugin` a plugin's
manifest, `table` what xLAM and CallNavi write. `toolbench-tool`, `sgd` and `toolsense` hold
several tools, `corpus` is a row of ToolBench's corpus.tsv, whose document is text."""
