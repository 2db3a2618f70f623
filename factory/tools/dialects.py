"""Tool documents of every dialect, read into the factory's own and written back (algorithms A46).

The factory keeps {name, description, arguments, results} with ToolDev's type words, and of
ToolBench's APIs whose they are {tool_name, tool_description, category_name}. What a dialect
says besides (ToolBench's HTTP method, Seal-Tools' field, a spelling such as `HashMap`) is the
reading's rest: the few places where the dialect's plain writing of the documents differs from what
was read. Documents with their rest give the value back whole; documents alone can be written in
any dialect.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from factory.domain.canon import CATEGORY
from factory.domain.jsontext import JsonTextError, parse_strict
from factory.tools.schema import SPELLINGS, make_validator, read_type, respell, to_json_schema

Document = dict[str, Any]


class Change(NamedTuple):
    """One difference from a dialect's plain writing. Example: Change(("field",), "Chemistry")."""

    path: tuple[str | int, ...]
    """Keys and indices from the top."""
    value: Any = None
    """What stands there."""
    absent: bool = False
    """True where nothing stands there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A value of some dialect. Example: read_dialect({"api_name": "f"}).documents[0]["name"]."""

    documents: tuple[Document, ...]
    """Its tools in the factory's dialect; most values hold one, a service's file several."""
    dialect: str
    """Key of DIALECTS."""
    rest: tuple[Change, ...]
    """What the documents do not say."""


class Dialect(NamedTuple):
    """How tools are written somewhere."""

    words: Mapping[str, str]
    """Its type words."""
    read: Callable[[Any], list[Document]]
    """Documents of a value, type words as they come. Raises ValueError with the cause."""
    write: Callable[[list[Document]], Any]
    """The plain writing of documents that have the dialect's type words."""


def read_dialect(value: object) -> Reading:
    """A tool, or a service with several, in whatever dialect it is. Raises ValueError."""
    name = find_dialect(value)
    words = SPELLINGS["tooldev"]
    documents = tuple(_respell(one, words) for one in DIALECTS[name].read(value))
    rest = tuple(_find_changes(write_documents(documents, name), value))
    return Reading(documents=documents, dialect=name, rest=rest)


def write_dialect(reading: Reading) -> Any:
    """The value that was read, with whatever its documents say by now."""
    value = copy.deepcopy(write_documents(reading.documents, reading.dialect))
    for change in reading.rest:
        value = _apply(value, change)
    return value


def write_documents(documents: Iterable[Document], name: str) -> Any:
    """Documents in the plain writing of a dialect; most take exactly one."""
    dialect = DIALECTS[name]
    return dialect.write([_respell(document, dialect.words) for document in documents])


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
}


_ALIASES = ("responses", "response", "returnParameter")


def _respell(document: Document, words: Mapping[str, str]) -> Document:
    """The document with another spelling in its two schemas."""
    schemas = {key: respell(document[key], words) for key in _SCHEMAS if key in document}
    return {**document, **schemas}


_SCHEMAS = ("arguments", "results")


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


def _function(parameters: str, results: str) -> tuple[Any, Any]:
    """{name, description, <parameters>: schema, <results>: schema}: OpenAI, BFCL, ToolACE, MCP."""

    own = parameters == "arguments"

    def read(value: Document) -> list[Document]:
        found = next((value[key] for key in (results, *_ALIASES) if key in value), None)
        schema = _read_schema(value.get(parameters))
        document = _make_document(value.get("name"), value.get("description"), schema, found)
        return [{**document, **_service(value)} if own else document]

    def write(documents: list[Document]) -> Document:
        (document,) = documents
        named = {"arguments": parameters, "results": results}
        return {
            named.get(key, key): part
            for key, part in document.items()
            if own or key not in _SERVICE_KEYS
        }

    return read, write


def _read_openai(value: Document) -> list[Document]:
    read, _ = _function("parameters", "response")
    documents: list[Document] = read(value["function"])
    return documents


def _write_openai(documents: list[Document]) -> Document:
    _, write = _function("parameters", "response")
    return {"type": "function", "function": write(documents)}


def _table(name: str, description: str, results: str) -> tuple[Any, Any]:
    """{<name>, <description>, parameters: {name: schema}, required}: Seal-Tools, xLAM."""

    def read(value: Document) -> list[Document]:
        parameters = value.get("parameters")
        if isinstance(parameters, dict) and not _is_whole(parameters):
            arguments = _schema_of(_read_table(parameters), value.get("required"))
        else:
            arguments = _read_schema(parameters)
        found = next((value[key] for key in (results, *_ALIASES) if key in value), None)
        return [_make_document(value.get(name), value.get(description), arguments, found)]

    def write(documents: list[Document]) -> Document:
        (document,) = documents
        value = {
            name: document["name"],
            description: document["description"],
            "parameters": document["arguments"]["properties"],
            "required": document["arguments"]["required"],
        }
        if "results" in document:
            value[results] = document["results"].get("properties", {})
        return value

    return read, write


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


def _write_toolbench(documents: list[Document]) -> Document:
    (document,) = documents
    arguments = document["arguments"]
    lists: dict[bool, list[Document]] = {True: [], False: []}
    for name, part in arguments["properties"].items():
        lists[name in arguments["required"]].append({"name": name, "default": "", **part})
    return {
        **_service(document),
        "api_name": document["name"],
        "api_description": document["description"],
        "required_parameters": lists[True],
        "optional_parameters": lists[False],
    }


def _read_toolbench_tool(value: Document) -> list[Document]:
    listed = value["api_list"] if isinstance(value["api_list"], list) else []
    service = _service(value)
    return [_read_toolbench({**service, **part})[0] for part in listed if isinstance(part, dict)]


def _write_toolbench_tool(documents: list[Document]) -> Document:
    return {"api_list": [_write_toolbench([document]) for document in documents]}


def _read_taskbench(value: Document) -> list[Document]:
    properties = {
        str(part["name"]): _rename(part, {"desc": "description"}, drop="name")
        for part in _named(value.get("parameters"))
    }
    return [_make_document(value.get("id"), value["desc"], _schema_of(properties))]


def _write_taskbench(documents: list[Document]) -> Document:
    (document,) = documents
    parts = document["arguments"]["properties"].items()
    parameters = [{"name": name, **_rename(part, {"description": "desc"})} for name, part in parts]
    return {"id": document["name"], "desc": document["description"], "parameters": parameters}


def _read_plugin(value: Document) -> list[Document]:
    description = value.get("description_for_model")
    return [_make_document(value["name_for_model"], description, _schema_of({}))]


def _write_plugin(documents: list[Document]) -> Document:
    (document,) = documents
    text = document["description"]
    return {"name_for_model": document["name"], "description_for_model": text}


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


def _write_sgd(documents: list[Document]) -> Document:
    slots: dict[str, Document] = {}
    intents = []
    for document in documents:
        arguments, results = document["arguments"], document.get("results", {})
        given, found = arguments["properties"], results.get("properties", {})
        slots |= {name: _write_slot(name, part) for name, part in (given | found).items()}
        intents.append(
            {
                "name": document["name"],
                "description": document["description"],
                "required_slots": arguments["required"],
                "optional_slots": {
                    name: part.get("default", _NO_PREFERENCE)
                    for name, part in given.items()
                    if name not in arguments["required"]
                },
                "result_slots": list(found),
            }
        )
    return {"slots": list(slots.values()), "intents": intents}


def _write_slot(name: str, part: Document) -> Document:
    return {
        "name": name,
        "description": part["description"],
        "is_categorical": "enum" in part,
        "possible_values": [text for text in part.get("enum", ()) if text != _NO_PREFERENCE],
    }


def _named(parts: object) -> list[Document]:
    """The objects of a list that have a name."""
    listed = parts if isinstance(parts, list) else []
    return [part for part in listed if isinstance(part, dict) and "name" in part]


def _rename(part: Document, names: Mapping[str, str], drop: str = "") -> Document:
    return {names.get(key, key): value for key, value in part.items() if key != drop}


def _find_changes(
    made: object, wanted: object, path: tuple[str | int, ...] = ()
) -> Iterator[Change]:
    """What turns `made` into `wanted`; the order of keys means nothing."""
    if isinstance(made, dict) and isinstance(wanted, dict):
        for key in made:
            if key not in wanted:
                yield Change((*path, key), absent=True)
        for key, part in wanted.items():
            if key in made:
                yield from _find_changes(made[key], part, (*path, key))
            else:
                yield Change((*path, key), part)
    elif isinstance(made, list) and isinstance(wanted, list) and len(made) == len(wanted):
        for index, (one, other) in enumerate(zip(made, wanted, strict=True)):
            yield from _find_changes(one, other, (*path, index))
    elif json.dumps(made) != json.dumps(wanted):
        yield Change(path, wanted)


def _apply(value: Any, change: Change) -> Any:
    if not change.path:
        return copy.deepcopy(change.value)
    *parents, last = change.path
    place = value
    try:
        for key in parents:
            place = place[key]
        if change.absent:
            del place[last]
        else:
            place[last] = copy.deepcopy(change.value)
    except (KeyError, IndexError, TypeError):
        pass  # The documents have been edited there: what they say now counts.
    return value


DIALECTS: dict[str, Dialect] = {
    "tooldev": Dialect(SPELLINGS["tooldev"], *_function("arguments", "results")),
    "openai": Dialect(SPELLINGS["json-schema"], _read_openai, _write_openai),
    "function": Dialect(SPELLINGS["json-schema"], *_function("parameters", "response")),
    "mcp": Dialect(SPELLINGS["json-schema"], *_function("inputSchema", "outputSchema")),
    "bfcl": Dialect(SPELLINGS["tooldev"], *_function("parameters", "response")),
    "seal-tools": Dialect(SPELLINGS["python"], *_table("api_name", "api_description", "responses")),
    "table": Dialect(SPELLINGS["python"], *_table("name", "description", "returnParameter")),
    "toolbench": Dialect(SPELLINGS["toolbench"], _read_toolbench, _write_toolbench),
    "toolbench-tool": Dialect(SPELLINGS["toolbench"], _read_toolbench_tool, _write_toolbench_tool),
    "taskbench": Dialect(SPELLINGS["json-schema"], _read_taskbench, _write_taskbench),
    "plugin": Dialect(SPELLINGS["json-schema"], _read_plugin, _write_plugin),
    "sgd": Dialect(SPELLINGS["json-schema"], _read_sgd, _write_sgd),
}
"""`bfcl` is ToolACE's too, `function` is OpenAI's without its wrapper, `plugin` a plugin's
manifest, `table` what xLAM and CallNavi write. `toolbench-tool` and `sgd` hold several tools."""


def to_document(function: Mapping[str, Any]) -> dict[str, Any]:
    """A BFCL function as a ToolDev document: `parameters` becomes `arguments`, order kept (A46)."""
    return {"arguments" if key == "parameters" else key: value for key, value in function.items()}
