"""What tools come in: lists, answers of servers, rows of data sets; and names of other files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from factory.domain.jsontext import JsonTextError, parse_strict

Document = dict[str, Any]

_LISTS = (
    *("tools", "functions", "functionDeclarations", "function_declarations", "function"),
    *("api_ports", "nodes"),
)
"""Keys under which a list of tools stands: MCP, OpenAI, Gemini, BFCL, CallNavi, TaskBench."""
_WRAPPERS = ("result", "toolConfig", "tool_config", "functionSchema", "tools_list")
"""Keys of an object that holds the list: JSON-RPC's answer, Bedrock's request."""
_SERVERS = ("server", "server_name", "serverInfo", "server_info", "service_name", "mcp_server")


class Held(NamedTuple):
    """Something inside a value. Example: Held("tools[2]", {"name": …})."""

    place: str
    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A tool's document in a value, or why there is none. Example: Found(place="", cause="…")."""

    place: str
    """Where it stands in the value; empty for the value itself."""
    document: Document | None = None
    cause: str = ""
    """What is wrong with it; empty where there is a document."""
    left_out: str = ""
    """Why it was not wanted; empty where it was."""
    changes: tuple[str, ...] = ()
    """What was put in place, moved or dropped."""


def unreadable(error: Exception) -> str:
    """The cause of a document that a reader gave up on, expecting another shape or not."""
    if isinstance(error, ValueError):
        return str(error)
    return f"not of the shape that its form has ({type(error).__name__}: {error})"


class Opened(NamedTuple):
    """A value that holds tools."""

    parts: tuple[Held, ...]
    server: str = ""
    """Whose tools they are, where it is said."""
    cause: str = ""
    """What is missing from it."""


def open_container(value: object) -> Opened | None:
    """The tools in a value, each with its place; None where it is a tool itself.

    Raises ValueError where there should be tools and are none.
    """
    if isinstance(value, list):
        return Opened(tuple(Held(f"[{number}]", part) for number, part in enumerate(value)))
    if not isinstance(value, dict):
        return None
    for key in _WRAPPERS:
        inner = value.get(key)
        if isinstance(inner, dict) and (opened := open_container(inner)) is not None:
            parts = tuple(Held(f"{key}.{part.place}", part.value) for part in opened.parts)
            return opened._replace(parts=parts, server=opened.server or _find_server(value))
    for key in _LISTS:
        if key in value and not isinstance(value.get("parameters"), dict):
            listed = _read_list(value[key], key)
            if listed is not None:
                parts = tuple(Held(f"{key}[{place}]", part) for place, part in listed)
                more = "more tools follow in another answer (nextCursor)"
                return Opened(parts, _find_server(value), more if value.get("nextCursor") else "")
    if isinstance(value.get("system"), str) and "conversations" in value:
        return _open_system(value["system"])
    return None


def _read_list(listed: object, key: str) -> list[tuple[object, Any]] | None:
    """Tools with their numbers or names; None where the key holds something else."""
    if isinstance(listed, str) and listed.lstrip()[:1] in ("[", "{"):
        try:
            listed = parse_strict(listed)
        except JsonTextError as error:
            raise ValueError(f"its {key} are text that is not JSON: {error}") from error
    if isinstance(listed, dict) and key in ("tools", "functions"):
        named = listed.items()
        if listed and all(isinstance(part, dict) for part in listed.values()):
            return [(name, {"name": name} | part) for name, part in named]
    if not isinstance(listed, list):
        return None
    if not listed:
        raise ValueError(f"its list of {key} is empty")
    if all(isinstance(part, str) for part in listed):
        raise ValueError(f"its {key} are names alone, without documents")
    return list(enumerate(listed))


def _find_server(value: Mapping[str, Any]) -> str:
    for key in _SERVERS:
        found = value.get(key)
        if isinstance(found, dict):
            found = found.get("name")
        if isinstance(found, str) and found.strip():
            return found.strip()
    return ""


def _open_system(text: str) -> Opened | None:
    """The list of functions in ToolACE's system message."""
    start = text.find("[{")
    while start >= 0:
        for end in _ends(text, start):
            try:
                listed = parse_strict(text[start:end])
            except JsonTextError:
                continue
            if all(isinstance(part, dict) and "name" in part for part in listed):
                parts = (Held(f"system[{number}]", part) for number, part in enumerate(listed))
                return Opened(tuple(parts))
        start = text.find("[{", start + 1)
    return None


def _ends(text: str, start: int) -> list[int]:
    """Where a list may end that begins at `start`: the last places first, a few of them."""
    ends: list[int] = []
    end = len(text)
    while len(ends) < 8 and (end := text.rfind("}]", start, end)) >= 0:
        ends.append(end + 2)
    return ends


_SHAPES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("openapi",), "an OpenAPI file without paths"),
    (("swagger",), "an OpenAPI file without paths"),
    (("asyncapi",), "an AsyncAPI file"),
    (("mcpServers",), "a list of MCP servers to start; `--mcp` asks a running one for its tools"),
    (("discoveryVersion",), "a Google discovery document"),
    (("operations", "shapes"), "an AWS service model"),
    (("__schema",), "a GraphQL schema"),
    (("info", "item"), "a Postman collection"),
    (("log",), "an HTTP archive"),
    (("messages",), "a conversation"),
    (("conversations",), "a conversation"),
    (("query",), "a request"),
    (("question",), "a request"),
    (("instruction",), "a request"),
    (("prompt",), "a request"),
    (("$defs",), "a JSON Schema without a tool's name"),
    (("definitions",), "a JSON Schema without a tool's name"),
    (("properties",), "a JSON Schema without a tool's name"),
    (("$schema",), "a JSON Schema without a tool's name"),
    (("resources",), "a list of resources"),
    (("prompts",), "a list of prompts"),
    (("error", "jsonrpc"), "a server's error"),
    (("code", "requirements"), "a smolagents tool as code; `--python` reads its function"),
)
"""Keys that tell what a value is that is no tool, likeliest first."""


def name_shape(value: Mapping[str, Any]) -> str:
    """What a value without tools looks like, for a message; empty where nobody can tell."""
    for keys, name in _SHAPES:
        if all(key in value for key in keys):
            return f"this is {name}"
    return ""
