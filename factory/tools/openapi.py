"""OpenAPI 2.0, 3.0 and 3.1 documents: an operation is a tool, its parameters are the arguments.

Read by the specifications' own rules (swagger.io/specification, versions 2.0, 3.0.4, 3.1.1): which
parameters a path hands down, which headers are not parameters, what `nullable` and a boolean
`exclusiveMinimum` mean. How the call is sent over HTTP (method, path, style) is left behind.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from factory.domain.jsontext import show
from factory.tools.containers import Document, Found, unreadable
from factory.tools.references import Inliner, Schema

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace", "query")
_PLACES = ("path", "query", "header", "cookie", "formData", "body")
"""Where parameters go, in the order in which they keep a name that two of them have."""
_NOT_PARAMETERS = frozenset({"accept", "content-type", "authorization"})
"""Headers that the specification says to ignore among parameters."""
_DROPPED = frozenset({"example", "examples", "xml", "externalDocs", "discriminator"})
"""Keywords of schemas that judge nothing and that no model needs."""
_OF_PARAMETER = frozenset(
    {"name", "in", "required", "schema", "content", "style", "explode", "allowReserved"}
    | {"allowEmptyValue", "collectionFormat", "deprecated", "$ref"}
)
"""Keys of a parameter that are not its schema (2.0 writes both into one object)."""
_OF_OBJECT = frozenset(
    {"type", "properties", "required", "additionalProperties", "title", "description", "default"}
    | {"nullable", "deprecated", "readOnly", "writeOnly", "allOf", "$schema"}
)
"""Keywords of an object whose properties may as well be arguments of their own."""
_MAX_RESULTS = 400
"""Schemas of results; a larger tree is a whole data model and tells a caller no more."""


def is_openapi(value: object) -> bool:
    """Whether a value is an OpenAPI document with paths."""
    if not isinstance(value, dict) or not isinstance(value.get("paths"), dict):
        return False
    return any(isinstance(value.get(key), str | float) for key in ("openapi", "swagger"))


class Argument(NamedTuple):
    """A parameter or a property of the body."""

    name: str
    place: str
    schema: Schema
    required: bool


class Body(NamedTuple):
    """What is sent besides the parameters."""

    schema: Schema
    """{properties, required, …}; empty where there is none, or it is an argument of its own."""
    required: bool = True
    is_whole: bool = False
    """Whether it is the schema of all arguments."""


class OpenApi:
    """An OpenAPI document. Example: list(OpenApi(value).tools())."""

    def __init__(self, value: Document) -> None:
        self._value = value
        self._request = _Converter(value, "readOnly")
        self._response = _Converter(value, "writeOnly")

    def tools(self, deprecated: bool = False) -> Iterator[Found]:
        """A tool for each operation; `deprecated` ones only where they are asked for."""
        paths = self._value.get("paths")
        names: set[str] = set()
        for path, item in paths.items() if isinstance(paths, dict) else ():
            try:
                item = self._request.follow(item)
            except ValueError as error:
                yield Found(place=path, cause=str(error))
                continue
            for method in METHODS:
                if isinstance(item, dict) and isinstance(item.get(method), dict):
                    yield self._read(path, method, item, deprecated, names)

    def _read(
        self, path: str, method: str, item: Document, deprecated: bool, names: set[str]
    ) -> Found:
        operation, place = item[method], f"{method.upper()} {path}"
        if operation.get("deprecated") is True and not deprecated:
            return Found(place=place, left_out="deprecated: left out (--deprecated takes it)")
        changes: list[str] = []
        try:
            document = self._make(path, method, item, changes, names)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            return Found(place=place, cause=unreadable(error))
        return Found(place=place, document=document, changes=tuple(dict.fromkeys(changes)))

    def _make(
        self, path: str, method: str, item: Document, changes: list[str], names: set[str]
    ) -> Document:
        operation = item[method]
        self._request.begin(changes)
        arguments = [*self._parameters(item, operation, changes)]
        body = self._body(item, operation, arguments, changes)
        name = operation.get("operationId")
        if not isinstance(name, str) or not name.strip() or name.strip() in names:
            taken = f": {name} is taken" if isinstance(name, str) and name.strip() else ""
            plain = name = _name_after(method, path)
            number = 2
            while name in names:
                name, number = f"{plain}_{number}", number + 1
            changes.append(f"named {name} after its method and path{taken}")
        names.add(name.strip())
        document: Document = {
            "name": name.strip(),
            "description": _describe(operation, item),
            "arguments": body.schema if body.is_whole else _join(arguments, body, changes),
        }
        results = self._results(operation, changes)
        if results:
            document["results"] = results
        info = self._value.get("info")
        title = info.get("title") if isinstance(info, dict) else None
        if isinstance(title, str) and title.strip():
            document["tool_name"] = title.strip()
        return document

    def _parameters(
        self, item: Document, operation: Document, changes: list[str]
    ) -> Iterator[Argument]:
        """Those of the path, then the operation's, which replace them by place and name."""
        found: dict[tuple[str, str], Document] = {}
        for owner in (item, operation):
            for part in _listed(owner, "parameters"):
                part = self._request.follow(part)
                if not isinstance(part, dict) or not isinstance(part.get("name"), str):
                    raise ValueError(f"{show(part, 60)} is a parameter without a name")
                if part.get("in") not in _PLACES:
                    raise ValueError(f"the parameter {part['name']} is in {show(part.get('in'))}")
                found[str(part["in"]), part["name"]] = part
        for (place, name), part in found.items():
            if place == "header" and name.lower() in _NOT_PARAMETERS:
                changes.append(f"the header {name} left out")
            elif place != "body":
                required = part.get("required") is True or place == "path"
                yield Argument(name, place, self._schema_of(part), required)

    def _schema_of(self, part: Document) -> Schema:
        """A parameter's schema, with its description."""
        content = part.get("content")
        if "schema" in part:
            written = part["schema"]
        elif isinstance(content, dict) and content:
            written = _first_schema(content)
        else:  # 2.0
            written = {key: inner for key, inner in part.items() if key not in _OF_PARAMETER}
        schema = _as_object(self._request.copy(written))
        text = part.get("description")
        return {**schema, "description": text} if isinstance(text, str) and text else schema

    def _body(
        self, item: Document, operation: Document, arguments: list[Argument], changes: list[str]
    ) -> Body:
        """The body's properties as arguments; what cannot stand beside others becomes one."""
        written, name, required = self._written_body(item, operation)
        if written is None:
            return Body({})
        schema = self._request.copy(written)
        merged = _merge(schema)
        if merged is not None and merged["properties"]:
            return Body(merged, required)
        if not arguments and required and _is_object(schema) and _names_any(schema):
            rest = {key: part for key, part in schema.items() if key != "description"}
            properties = rest.pop("properties", {})
            names = rest.pop("required", [])
            whole = {**rest, "type": "dict", "properties": properties, "required": names}
            return Body(whole, is_whole=True)
        changes.append(f"the body is one argument, {name}")
        arguments.append(Argument(name, "body", _as_object(schema), required))
        return Body({})

    def _written_body(self, item: Document, operation: Document) -> tuple[Any, str, bool]:
        """The body's schema as it is written, its name, and whether a call must have it."""
        body = operation.get("requestBody")
        if body is not None:
            body = self._request.follow(body)
            content = body.get("content") if isinstance(body, dict) else None
            if not isinstance(content, dict):
                raise ValueError("its requestBody has no content")
            written = _first_schema(content) if content else None
            return written, str(body.get("x-body-name", "body")), body.get("required") is True
        for part in (*_listed(operation, "parameters"), *_listed(item, "parameters")):
            part = self._request.follow(part)
            if isinstance(part, dict) and part.get("in") == "body":
                name = part.get("name")
                named = name if isinstance(name, str) and name else "body"
                return part.get("schema", {}), named, part.get("required") is True
        return None, "", False

    def _results(self, operation: Document, changes: list[str]) -> Schema:
        """The schema of the first response of success that has one."""
        responses = operation.get("responses")
        for code, response in responses.items() if isinstance(responses, dict) else ():
            if not re.fullmatch(r"2\d\d|2XX", str(code), re.IGNORECASE):
                continue
            notes: list[str] = []
            try:
                response = self._response.follow(response)
                if not isinstance(response, dict):
                    continue
                content = response.get("content")
                written = response.get("schema")
                if written is None and isinstance(content, dict) and content:
                    written = _first_schema(content)
                if not written:
                    continue
                self._response.begin(notes, _MAX_RESULTS)
                results = self._response.copy(written)
            except ValueError as error:
                changes.append(f"results left out: {error}")
                return {}
            changes += (f"results: {note}" for note in notes)
            return results if isinstance(results, dict) else {}
        return {}


class _Converter(Inliner):
    """Puts references in place and says what OpenAPI says in JSON Schema 2020-12's words."""

    def __init__(self, root: Document, one_way: str) -> None:
        """`one_way` marks properties that only go the other way."""
        self._one_way = one_way
        self._away: set[str] = set()
        """Names that were left out so far, in whatever schema."""
        super().__init__(root, cut=True)

    def follow(self, value: Any) -> Any:
        """What a reference to a parameter, a body, a response or a path names."""
        for _ in range(20):
            if not isinstance(value, dict) or not isinstance(value.get("$ref"), str):
                return value
            value = self.find(value["$ref"])
        raise ValueError("its references go in a circle")

    def finish(self, schema: Schema) -> Schema:
        for key in [key for key in schema if key in _DROPPED or key.startswith("x-")]:
            part = schema.pop(key)
            if key == "x-nullable":
                schema["nullable"] = part
            else:
                self.note(f"{key} left out")
        for bound in ("Minimum", "Maximum"):
            exclusive, plain = f"exclusive{bound}", bound.lower()
            is_old = isinstance(schema.get(exclusive), bool)
            if is_old and schema.pop(exclusive) and plain in schema:
                schema[exclusive] = schema.pop(plain)
        properties = schema.get("properties")
        if isinstance(properties, dict):
            self._drop_one_way(schema, properties)
        if self._away and "allOf" in schema:
            schema = self._require_less(schema, _names_of(schema))
        return _allow_null(schema) if "nullable" in schema else schema

    def _drop_one_way(self, schema: Schema, properties: Schema) -> None:
        away = {
            name
            for name, part in properties.items()
            if isinstance(part, dict) and part.get(self._one_way) is True
        }
        self._away |= away
        if away:
            kept = {name: part for name, part in properties.items() if name not in away}
            schema["properties"] = kept
            if isinstance(schema.get("required"), list):
                schema["required"] = [name for name in schema["required"] if name not in away]
            for name in sorted(away):
                self.note(f"{name} left out: {self._one_way}")

    def _require_less(self, schema: Any, names: set[str]) -> Any:
        """A composition whose parts require no name that went away and that none has any more."""
        if not isinstance(schema, dict):
            return schema
        out = dict(schema)
        if isinstance(required := schema.get("required"), list):
            gone = self._away - names
            out["required"] = [name for name in required if name not in gone]
        if isinstance(schema.get("allOf"), list):
            out["allOf"] = [self._require_less(part, names) for part in schema["allOf"]]
        return out


def _names_of(schema: Any) -> set[str]:
    """Properties that a schema and its allOf name."""
    if not isinstance(schema, dict):
        return set()
    properties = schema.get("properties")
    names = set(properties) if isinstance(properties, dict) else set()
    return names.union(*map(_names_of, _listed(schema, "allOf")))


_OUTSIDE = ("title", "description", "default", "readOnly", "writeOnly", "deprecated")


def _allow_null(schema: Schema) -> Schema:
    """3.0's nullable. Beside a composition, where it says nothing, it is what the author meant."""
    nullable, kind = schema.pop("nullable"), schema.get("type")
    if nullable is not True:
        return schema
    if isinstance(kind, str):
        return {**schema, "type": [kind, "null"]} if kind != "null" else schema
    if kind is None and schema.keys() & {"allOf", "anyOf", "oneOf"}:
        outside: Schema = {key: schema[key] for key in _OUTSIDE if key in schema}
        inside = {key: part for key, part in schema.items() if key not in outside}
        return {**outside, "anyOf": [inside, {"type": "null"}]}
    return schema


def _first_schema(content: Mapping[str, Any]) -> Any:
    """The schema of the media type that calls are likeliest written in: JSON, forms, the first."""

    def rank(kind: str) -> int:
        kind = kind.split(";")[0].strip().lower()
        if kind == "application/json":
            return 0
        return 1 if kind.endswith("+json") else 2 if "form" in kind else 3

    media = content[min(content, key=rank)]
    return media.get("schema", {}) if isinstance(media, dict) else {}


def _describe(operation: Document, item: Document) -> str:
    texts = []
    for key in ("summary", "description"):
        text = operation.get(key) or item.get(key)
        if isinstance(text, str) and text.strip():
            texts.append(text.strip())
    if len(texts) == 2 and texts[1].startswith(texts[0]):
        texts = texts[1:]
    if len(texts) == 2 and texts[0][-1] not in ".!?:":
        texts[0] += "."
    return " ".join(texts)


def _name_after(method: str, path: str) -> str:
    """`GET /cakes/{id}` is get_cakes_by_id."""
    words = re.sub(r"\{([^{}]*)\}", r" by \1 ", path)
    return "_".join([method, *re.findall(r"[A-Za-z0-9]+", words)])[:128]


def _is_object(schema: Any) -> bool:
    """Whether nothing but objects fit a schema."""
    if not isinstance(schema, dict):
        return False
    if schema.get("type") == "object" or isinstance(schema.get("properties"), dict):
        return bool(schema.get("type", "object") == "object")
    branches = [part for key in ("oneOf", "anyOf") for part in _listed(schema, key)]
    return bool(branches) and all(map(_is_object, branches))


def _names_any(schema: Schema) -> bool:
    """Whether an object, or each of its alternatives, names a property."""
    branches = [part for key in ("oneOf", "anyOf") for part in _listed(schema, key)]
    return bool(schema.get("properties")) or (bool(branches) and all(map(_names_any, branches)))


def _listed(value: Document, key: str) -> list[Any]:
    """The list at a key; anything else that stands there means nothing."""
    listed = value.get(key)
    return listed if isinstance(listed, list) else []


def _merge(schema: Any) -> Schema | None:
    """An object and its allOf as one {properties, required, …}; None where it is more than that."""
    if not isinstance(schema, dict) or any(
        key not in _OF_OBJECT and not key.startswith("$") for key in schema
    ):
        return None
    if schema.get("type", "object") not in ("object", ["object", "null"]):
        return None
    parts = [_merge(part) for part in _listed(schema, "allOf")]
    own = schema.get("properties") or {}
    if any(part is None for part in parts) or not isinstance(own, dict):
        return None
    properties: Schema = {}
    required: list[str] = []
    rest: Schema = {}
    for part in (*parts, {**schema, "properties": own}):
        assert part is not None
        for name, inner in part["properties"].items():
            before = properties.get(name, inner)
            properties[name] = inner if before == inner else {"allOf": [before, inner]}
        names = _listed(part, "required")
        required += [name for name in names if isinstance(name, str) and name not in required]
        if part.get("additionalProperties", False) is not False:
            rest.setdefault("additionalProperties", part["additionalProperties"])
    return {"properties": properties, "required": required, **rest}


def _as_object(schema: Any) -> Schema:
    """A schema, also a boolean one, as an object."""
    if isinstance(schema, dict):
        return schema
    return {"not": {}} if schema is False else {}


def _join(arguments: list[Argument], body: Body, changes: list[str]) -> Document:
    """The schema of all arguments; of two of one name the later is called after its place."""
    order = sorted(arguments, key=lambda each: _PLACES.index(each.place))
    needed = body.schema.get("required", [])
    order += (
        Argument(name, "body", _as_object(part), body.required and name in needed)
        for name, part in body.schema.get("properties", {}).items()
    )
    properties: Schema = {}
    required: list[str] = []
    renamed: dict[str, str] = {}
    for each in order:
        name = each.name
        while name in properties:
            name = f"{each.place}_{name}"
        if name != each.name:
            changes.append(f"{each.name} of the {each.place} is called {name}: its name was taken")
        if each.place == "body":
            renamed[each.name] = name
        properties[name] = each.schema
        required += [name] if each.required else []
    schema: Document = {"type": "dict", "properties": properties, "required": required}
    if "additionalProperties" in body.schema:
        schema["additionalProperties"] = body.schema["additionalProperties"]
    if needed and not body.required:
        # No body at all is right, half a body is not.
        names = [renamed[name] for name in needed if name in renamed]
        together = {
            name: others
            for name in renamed.values()
            if (others := [other for other in names if other != name])
        }
        if together:
            schema["dependentRequired"] = together
        changes.append("the body is optional: its required arguments only go together")
    return schema
