"""Tool documents of every dialect, read into the factory's own (algorithms A46).

The factory keeps {name, description, arguments, results} with ToolDev's type words, and of
ToolBench's APIs whose they are {tool_name, tool_description, category_name}. What a dialect
says besides (ToolBench's HTTP method, Seal-Tools' field) is left behind. BFCL's functions are
written too: benchmarks are scored on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from factory.domain.canon import CATEGORY
from factory.domain.jsontext import JsonTextError, parse_strict, show
from factory.tools.containers import Document, Found, name_shape, open_container, unreadable
from factory.tools.openapi import OpenApi, is_openapi
from factory.tools.references import Inliner, has_references
from factory.tools.schema import TOOLDEV, make_validator, respell, to_json_schema
from factory.tools.words import read_type

Read = Callable[[Any, list[str]], list[Document]]
"""Documents of a value, type words as they come; what is changed on the way is added to the list.
Raises ValueError with the cause."""


class Dialect(NamedTuple):
    """How tools are written somewhere."""

    read: Read
    keys: frozenset[str]
    """What it reads; schemas under other keys would be lost, so they are refused."""


def read_dialect(value: object) -> tuple[Document, ...]:
    """A tool, or a service with several, in whatever dialect it is. Raises ValueError.

    >>> read_dialect({"api_name": "f", "parameters": {"a": "str"}})[0]["arguments"]["properties"]
    {'a': {'type': 'string'}}
    """
    documents = []
    for found in find_tools(value):
        if found.cause:
            raise ValueError(f"{found.place}: {found.cause}" if found.place else found.cause)
        if found.document is not None:
            documents.append(found.document)
    return tuple(documents)


def find_tools(value: Any, *, deprecated: bool = False) -> Iterator[Found]:
    """Every tool of a value, whatever it stands in; one that cannot be read costs no other.

    Operations of OpenAPI that are `deprecated` are left out unless they are asked for.
    """
    yield from _find(value, "", "", deprecated)


def _find(value: Any, place: str, server: str, deprecated: bool) -> Iterator[Found]:
    if is_openapi(value):
        for found in OpenApi(value).tools(deprecated):
            document = _respell(found.document) if found.document is not None else None
            yield replace(found, place=f"{place} {found.place}".lstrip(), document=document)
        return
    changes: list[str] = []
    try:
        opened = open_container(value)
        if opened is None:
            name = find_dialect(value)
            dialect = DIALECTS[name]
            documents = [_respell(one) for one in dialect.read(value, changes)]
            _refuse_unread(value, dialect.keys)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        yield Found(place=place, cause=unreadable(error))
        return
    if opened is None:
        service = {"tool_name": server} if server else {}
        for document in documents:
            yield Found(place=place, document=document | service, changes=tuple(changes))
        return
    for inner, part in opened.parts:
        whole = f"{place}.{inner}" if place else inner
        yield from _find(part, whole, opened.server or server, deprecated)
    if opened.cause:
        yield Found(place=place, cause=opened.cause)


def to_document(function: Mapping[str, Any]) -> Document:
    """A BFCL function as a ToolDev document: `parameters` becomes `arguments`, order kept."""
    return {"arguments" if key == "parameters" else key: value for key, value in function.items()}


def to_function(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document as BFCL writes functions, order kept; whose API it is goes unsaid."""
    names = {"arguments": "parameters", "results": "response"}
    return {names.get(k, k): part for k, part in document.items() if k not in _SERVICE_KEYS}


def to_openai(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document as OpenAI's API and chat templates have tools."""
    function = {
        "name": document["name"],
        "description": document.get("description", ""),
        "parameters": respell(document["arguments"]),
    }
    return {"type": "function", "function": function}


def find_dialect(value: object) -> str:
    """Key of DIALECTS, told by the keys that only this dialect has. Raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError(f"a tool is an object, not a {type(value).__name__}")
    if isinstance(value.get("function"), dict):
        return "openai"
    for key, name in _MARKS.items():
        if key in value:
            return name
    if not isinstance(value.get("name"), str):
        shape = name_shape(value)
        raise ValueError(f"has no name: {shape}" if shape else "has no name")
    schema, given = value.get("parameters"), value.get("type")
    if "parameters" not in value and isinstance(given, str) and given not in _TOOL_TYPES:
        raise ValueError(f"is a tool of its provider ({show(given, 60)}): no arguments are told")
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
    "toolSpec": "bedrock",
    "inputSchema": "mcp",
    "input_schema": "anthropic",
    "parametersJsonSchema": "gemini",
    "parameters_json_schema": "gemini",
    "args_schema": "langchain",
    "args": "langchain",
    "parameter_definitions": "cohere",
    "output_type": "smolagents",
    "name_for_model": "plugin",
    "desc": "taskbench",
    "intents": "sgd",
    "analyzed_tools": "toolsense",
    "document_content": "corpus",
}

_ALIASES = (
    *("responses", "response", "returnParameter", "returns", "outputSchema", "output_schema"),
    *("responseJsonSchema", "response_json_schema"),
)
"""Keys of what a tool gives back, in any dialect of functions."""


def _respell(document: Document) -> Document:
    """The document with ToolDev's type words in its two schemas."""
    schemas = [key for key in ("arguments", "results") if key in document]
    return document | {key: respell(document[key], TOOLDEV) for key in schemas}


def _refuse_unread(value: Document, keys: frozenset[str]) -> None:
    """Raises ValueError where something that looks like a schema is under a key nobody reads."""
    for key, part in value.items():
        if key not in keys and part and (_letters(key) in _PARAMETERS or _is_schema_like(part)):
            raise ValueError(f"{show(key, 60)} holds what looks like a schema and is not read")


_TOOL_TYPES = ("function", "custom", "tool", "object", "dict", "")
_PARAMETERS = frozenset(
    "parameters params arguments args inputschema inputs inputparameters input schema argsschema "
    "parametersjsonschema jsonschema properties requiredparameters optionalparameters required "
    "parameterdefinitions parametersschema inputjsonschema signature requiredargs "
    "optionalargs".split()
)
"""Names of arguments' schemas, letters only in lower case."""


def _letters(key: str) -> str:
    return "".join(letter for letter in key.lower() if letter.isalpha())


def _is_schema_like(part: object) -> bool:
    """Whether a value is a schema, a table of schemas by name, or a list of named ones."""
    if isinstance(part, list):
        named = [each for each in part if isinstance(each, dict) and "name" in each]
        return bool(part) and len(named) == len(part) and all("type" in each for each in named)
    if not isinstance(part, dict):
        return False
    if isinstance(part.get("properties"), dict) or isinstance(part.get("$ref"), str):
        return True
    if any(isinstance(part.get(key), list) for key in ("allOf", "anyOf", "oneOf")):
        return True
    return bool(part) and all(
        isinstance(each, dict) and read_type(each.get("type")) is not None for each in part.values()
    )


def _make_document(
    name: object,
    description: object,
    arguments: Document,
    results: Any = None,
    changes: list[str] | None = None,
) -> Document:
    if not isinstance(name, str) or not name.strip():
        raise ValueError("has no name")
    text = description if isinstance(description, str) else ""
    document: Document = {"name": name, "description": text, "arguments": arguments}
    results = _unwrap(results)
    if isinstance(results, dict) and results:
        if has_references(results):
            results = Inliner(results, cut=True, notes=changes).copy(results)
        table = {"type": "dict", "properties": _read_table(results)}
        document["results"] = results if _is_whole(results) else table
    return document


def _unwrap(schema: Any) -> Any:
    """The schema itself, where it alone stands under a key of its own (Bedrock, AI SDK)."""
    if isinstance(schema, dict) and len(schema) == 1:
        ((key, inner),) = schema.items()
        if key in ("json", "jsonSchema", "json_schema") and isinstance(inner, dict):
            return inner
    return schema


def _is_whole(schema: Document) -> bool:
    """Whether it is the schema of an object, not a table of arguments by name.

    An argument may be called `type` or `properties`: then it is an object, or has a type.
    """
    inner = schema.get("properties")
    if isinstance(inner, dict):
        return not isinstance(inner.get("type"), str)
    if isinstance(schema.get("$ref"), str):
        return True
    if any(isinstance(schema.get(key), list) for key in ("allOf", "anyOf", "oneOf")):
        return True
    parts = (value for key, value in schema.items() if key not in ("additionalProperties", "items"))
    return isinstance(schema.get("type"), str) and not any(isinstance(part, dict) for part in parts)


def _read_schema(schema: Any, changes: list[str], beside: object = None) -> Document:
    """The schema of an object of arguments; nothing at all is a tool without arguments.

    `beside` is a list of required names that stands next to it.
    """
    schema = _unwrap(schema)
    if schema is None or schema == [] or schema == "":
        schema = {}
    if not isinstance(schema, dict):
        raise ValueError(f"its parameters are a {type(schema).__name__}, not an object")
    if has_references(schema):
        schema = Inliner(schema, notes=changes).copy(schema)
    kind = (read_type(schema.get("type", "dict")) or {}).get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        raise ValueError(f"its parameters are the schema of an {kind}, which names no argument")
    required = _read_required(schema.get("required"))
    properties = schema.get("properties") or {}
    for name in _read_required(beside):
        if name not in properties:
            changes.append(f"{name}: required beside the parameters, where it is none; left out")
        elif name not in required:
            required.append(name)
            changes.append(f"{name}: required beside the parameters, moved into them")
    kept = {key: part for key, part in schema.items() if key not in _OWN_KEYS}
    return _settle(
        {**kept, "type": "dict", "properties": properties, "required": required}, changes
    )


_OWN_KEYS = ("$schema", "type", "properties", "required")


def _read_required(required: object) -> list[str]:
    """Names that a call must give. Raises ValueError for what says so in another way."""
    if required is None or isinstance(required, bool):  # draft 3: of the object itself
        return []
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise ValueError(f"its required is {show(required, 60)}, no list of names")
    return list(required)


def _settle(schema: Document, changes: list[str], path: str = "") -> Document:
    """The schema of an object whose properties say themselves that they are required (draft 3),
    with the names in one list, and schemas that are true or false as objects.
    """
    properties = schema.get("properties")
    if not isinstance(properties, dict) or not any(map(_is_unsettled, properties.values())):
        return schema
    required = list(schema.get("required") or [])
    settled: Document = {}
    for name, part in properties.items():
        if isinstance(part, bool):
            part = {} if part else {"not": {}}
            changes.append(f"{path}{name}: a boolean schema as an object")
        if isinstance(part, dict):
            mark = part.get("required")
            if isinstance(mark, bool):
                part = {key: inner for key, inner in part.items() if key != "required"}
                changes.append(f"{path}{name}: required {str(mark).lower()} moved to the list")
                required += [name] if mark and name not in required else []
            elif mark is not None and not _is_list_of_names(mark):
                raise ValueError(f"{path}{name} has required {show(mark, 60)}, no list of names")
            part = _settle(part, changes, f"{path}{name}.")
            if isinstance(part.get("items"), dict):
                part = part | {"items": _settle(part["items"], changes, f"{path}{name}[].")}
        settled[name] = part
    whole = {**schema, "properties": settled}
    return whole | {"required": required} if required or "required" in schema else whole


def _is_unsettled(part: object) -> bool:
    if not isinstance(part, dict):
        return isinstance(part, bool)
    if "required" in part and not _is_list_of_names(part["required"]):
        return True
    inner = [part.get("properties"), part.get("items")]
    if isinstance(inner[1], dict):
        inner.append(inner[1].get("properties"))
    return any(isinstance(each, dict) and any(map(_is_unsettled, each.values())) for each in inner)


def _is_list_of_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _read_table(table: Mapping[str, object]) -> Document:
    """Properties by name; a bare word is a type."""
    return {
        str(name): {"type": part} if isinstance(part, str) else part for name, part in table.items()
    }


def _schema_of(properties: Document, required: object, changes: list[str]) -> Document:
    names = _read_required(required)
    return _settle({"type": "dict", "properties": properties, "required": names}, changes)


def _function(parameters: str, results: str) -> Dialect:
    """{name, description, <parameters>: schema, <results>: schema}: OpenAI, BFCL, ToolACE, MCP."""

    def read(value: Document, changes: list[str]) -> list[Document]:
        found = next((value[key] for key in (results, *_ALIASES) if key in value), None)
        schema = _read_schema(value.get(parameters), changes, value.get("required"))
        name, description = value.get("name"), value.get("description")
        document = _make_document(name, description, schema, found, changes)
        return [document | _service(value) if parameters == "arguments" else document]

    return Dialect(read, frozenset({parameters, "required", results, *_ALIASES}))


def _table(name: str, description: str, results: str) -> Dialect:
    """{<name>, <description>, parameters: {name: schema}, required}: Seal-Tools, xLAM."""

    def read(value: Document, changes: list[str]) -> list[Document]:
        parameters, required = value.get("parameters"), value.get("required")
        if isinstance(parameters, dict) and not _is_whole(parameters):
            mark = parameters.get("required", {})
            if not isinstance(mark, dict) and read_type(mark) is None:
                raise ValueError(f"its required is {show(mark, 60)}, no list of names")
            if required is None and name == "name":
                required = _not_optional(parameters)
            arguments = _schema_of(_read_table(parameters), required, changes)
        else:
            arguments = _read_schema(parameters, changes, required)
        found = next((value[key] for key in (results, *_ALIASES) if key in value), None)
        return [_make_document(value.get(name), value.get(description), arguments, found, changes)]

    return Dialect(read, frozenset({"parameters", "required", results, *_ALIASES}))


def _not_optional(table: Mapping[str, Any]) -> list[str]:
    """xLAM's way: an argument is required unless its type ends in `, optional`.

    A table of bare words (CallNavi) says nothing of it, nor one whose parts say it themselves.
    """
    parts = table.values()
    if not all(isinstance(part, dict) and isinstance(part.get("type"), str) for part in parts):
        return []
    if any("required" in part for part in parts):
        return []
    return [name for name, part in table.items() if not part["type"].endswith("optional")]


def _table_at(key: str, results: str, is_optional: Callable[[Document], bool]) -> Dialect:
    """{name, description, <key>: {name: schema}}: smolagents, LangChain."""

    def read(value: Document, changes: list[str]) -> list[Document]:
        table = value.get(key)
        if not isinstance(table, dict) or not all(
            isinstance(each, dict) for each in table.values()
        ):
            raise ValueError(f"its {key} are no object with a schema for each name")
        required = [name for name, part in table.items() if not is_optional(part)]
        found = value.get(results)
        if isinstance(found, str):
            found = {"type": found} if read_type(found) else None
        arguments = _schema_of(table, required, changes)
        name, description = value.get("name"), value.get("description")
        return [_make_document(name, description, arguments, found, changes)]

    return Dialect(read, frozenset({key, results}))


_LANGCHAIN = _function("args_schema", "response_schema")
_LANGCHAIN_TABLE = _table_at("args", "response_schema", lambda part: "default" in part)


def _read_langchain(value: Document, changes: list[str]) -> list[Document]:
    whole = isinstance(value.get("args_schema"), dict)
    return (_LANGCHAIN if whole else _LANGCHAIN_TABLE).read(value, changes)


def _read_openai(value: Document, changes: list[str]) -> list[Document]:
    function = value["function"]
    _refuse_unread(function, _FUNCTION.keys)
    return _FUNCTION.read(function, changes)


def _read_bedrock(value: Document, changes: list[str]) -> list[Document]:
    inner = value["toolSpec"]
    if not isinstance(inner, dict):
        raise ValueError("its toolSpec is no object")
    _refuse_unread(inner, _MCP.keys)
    return _MCP.read(inner, changes)


def _read_gemini(value: Document, changes: list[str]) -> list[Document]:
    key = next(key for key in ("parametersJsonSchema", "parameters_json_schema") if key in value)
    return _function(key, "responseJsonSchema").read(value, changes)


def _read_toolbench(value: Document, changes: list[str]) -> list[Document]:
    required = _named(value.get("required_parameters"))
    properties = {}
    for part in [*required, *_named(value.get("optional_parameters"))]:
        kept = {key: inner for key, inner in part.items() if key not in ("name", "default")}
        default = _read_default(part.get("default", ""), kept)
        properties[str(part["name"])] = {**kept, **default}
    arguments = _schema_of(properties, [str(part["name"]) for part in required], changes)
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


def _read_toolbench_tool(value: Document, changes: list[str]) -> list[Document]:
    listed, service = value["api_list"], _service(value)
    if not isinstance(listed, list) or not listed:
        raise ValueError(f"its api_list is {show(listed, 60)}, no list of APIs")
    if not all(isinstance(part, dict) for part in listed):
        raise ValueError("its api_list holds what is no API")
    return [_read_toolbench({**service, **part}, changes)[0] for part in listed]


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


def _read_toolsense(value: Document, changes: list[str]) -> list[Document]:
    return [_read_toolbench(api, changes)[0] for api in toolsense_apis(value)]


def _read_taskbench(value: Document, changes: list[str]) -> list[Document]:
    properties = {
        str(part["name"]): {
            "description" if key == "desc" else key: inner
            for key, inner in part.items()
            if key != "name"
        }
        for part in _named(value.get("parameters"))
    }
    return [_make_document(value.get("id"), value["desc"], _schema_of(properties, [], changes))]


def _read_plugin(value: Document, changes: list[str]) -> list[Document]:
    description = value.get("description_for_model")
    return [_make_document(value["name_for_model"], description, _schema_of({}, [], changes))]


def _read_sgd(service: Document, changes: list[str]) -> list[Document]:
    """One tool an intent; every slot takes SGD's word for no preference too."""
    slots = {slot["name"]: slot for slot in _named(service.get("slots"))}
    documents = []
    for intent in _named(service["intents"]):
        required, optional = intent.get("required_slots", []), intent.get("optional_slots", {})
        given = {name: _read_slot(slots[name]) for name in required}
        given |= {name: _read_slot(slots[name]) | {"default": optional[name]} for name in optional}
        results = {name: _read_slot(slots[name]) for name in intent.get("result_slots", [])}
        schema, found = (
            _schema_of(given, required, changes),
            {"type": "dict", "properties": results},
        )
        documents.append(_make_document(intent["name"], intent.get("description"), schema, found))
    return documents


_NO_PREFERENCE = "dontcare"


def _read_slot(slot: Document) -> Document:
    part = {"type": "string", "description": slot.get("description", "")}
    if not slot.get("is_categorical"):
        return part
    return part | {"enum": [*slot.get("possible_values", []), _NO_PREFERENCE]}


def _named(parts: object) -> list[Document]:
    """The objects of a list that have a name. Raises ValueError where one has none."""
    if parts is None:
        return []
    if not isinstance(parts, list):
        raise ValueError(f"{show(parts, 60)} is no list of parts with a name")
    for part in parts:
        if not isinstance(part, dict) or "name" not in part:
            raise ValueError(f"{show(part, 60)} has no name")
    return parts


def _read_corpus(value: Document, changes: list[str]) -> list[Document]:
    return [*read_dialect(parse_strict(str(value["document_content"])))]


def _reads(read: Read, *keys: str) -> Dialect:
    return Dialect(read, frozenset(keys))


_FUNCTION = _function("parameters", "response")
_MCP = _function("inputSchema", "outputSchema")
_TOOLBENCH = ("required_parameters", "optional_parameters", "template_response", "schema")
DIALECTS: dict[str, Dialect] = {
    "tooldev": _function("arguments", "results"),
    "openai": _reads(_read_openai, "function"),
    "function": _FUNCTION,
    "mcp": _MCP,
    "anthropic": _function("input_schema", "output_schema"),
    "bedrock": _reads(_read_bedrock, "toolSpec"),
    "gemini": Dialect(
        _read_gemini,
        _FUNCTION.keys - {"parameters"} | {"parametersJsonSchema", "parameters_json_schema"},
    ),
    "langchain": Dialect(_read_langchain, _LANGCHAIN.keys | _LANGCHAIN_TABLE.keys),
    "smolagents": _table_at("inputs", "output_type", lambda part: part.get("nullable") is True),
    "cohere": _table_at("parameter_definitions", "", lambda part: True),
    "bfcl": _FUNCTION,
    "seal-tools": _table("api_name", "api_description", "responses"),
    "table": _table("name", "description", "returnParameter"),
    "toolbench": _reads(_read_toolbench, *_TOOLBENCH),
    "toolbench-tool": _reads(_read_toolbench_tool, "api_list", *_TOOLBENCH),
    "taskbench": _reads(_read_taskbench, "parameters", "input-type", "output-type"),
    "plugin": _reads(_read_plugin),
    "sgd": _reads(_read_sgd, "intents", "slots"),
    "toolsense": _reads(_read_toolsense, "tool", "analyzed_tools"),
    "corpus": _reads(_read_corpus, "document_content"),
}
"""`bfcl` is ToolACE's too, `function` is OpenAI's without its wrapper, `plugin` a plugin's
manifest, `table` what xLAM and CallNavi write, `anthropic` what dumps of MCP servers often have.
`toolbench-tool`, `sgd` and `toolsense` hold several tools, `corpus` is a row of ToolBench's
corpus.tsv, whose document is text."""
