"""Questions and functions of one's own in BFCL's words: messages of plain text, one type each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from factory.domain.jsontext import show
from factory.domain.records import Message, Role

_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "model": "assistant",
    "gpt": "assistant",
}
_UNIONS = ("anyOf", "oneOf")
_ANY = {"type": "any"}
_WORDS: Mapping[type, str] = {bool: "boolean", int: "integer", float: "float", str: "string"}


def read_question(value: object) -> tuple[Message, ...]:
    """The turns of a text, of messages, or of BFCL's single turn of messages; those without text
    are left out. Raises ValueError for what cannot be asked as text.
    """
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if isinstance(value, list) and all(isinstance(each, list) for each in value):
        if len(value) != 1:
            raise ValueError(f"{len(value)} turns; only one can be scored")
        (value,) = value
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise ValueError(f"its question is {show(value)}: a text or messages are wanted")
    read = [_read_message(message, number) for number, message in enumerate(value, 1)]
    messages = tuple(message for message in read if message.content)
    if not any(message.role == "user" for message in messages):
        raise ValueError("the request is empty")
    if messages[-1].role == "assistant":
        raise ValueError("it ends with an answer, not with a request")
    return messages


def _read_message(message: Mapping[str, Any], number: int) -> Message:
    word = message.get("role", message.get("from"))
    if word not in _ROLES:
        raise ValueError(f"message {number} has the role {show(word)}, which no question has")
    if message.get("tool_calls") or message.get("function_call"):
        raise ValueError(f"message {number} calls a tool: only text can be asked")
    content = message.get("content", message.get("value"))
    return Message(role=_ROLES[word], content=_read_content(content, number))


def _read_content(content: object, number: int) -> str:
    if content is None:
        return ""
    texts: list[str] = []
    for part in content if isinstance(content, list) else [content]:
        text = part.get("text") if isinstance(part, dict) else part
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise ValueError(f"message {number} holds {show(kind)}: only text can be asked")
        texts.append(text)
    return "\n".join(texts).strip()


def simplify(schema: object) -> dict[str, Any]:
    """An argument's schema with one type word, as BFCL compares values: one that may be null is of
    its other type, one of several types, or of none, is `any`.

    >>> simplify({"anyOf": [{"type": "integer"}, {"type": "null"}], "description": "How many"})
    {'description': 'How many', 'type': 'integer'}
    """
    if not isinstance(schema, dict):
        return dict(_ANY)
    found = dict(schema)
    for union in _UNIONS:
        if isinstance(parts := found.get(union), list) and "type" not in found:
            del found[union]
            found |= _join([part for part in parts if not _is_null(part)])
    found["type"] = _find_word(found)
    if found["type"] == "any":
        found.pop("items", None)
    elif "items" in found:
        found["items"] = simplify(found["items"])
        if found["items"]["type"] == "any":
            del found["items"]
    return found


def _join(parts: list[Any]) -> dict[str, Any]:
    simple = [simplify(part) for part in parts]
    if len(simple) == 1:
        return simple[0]
    words = {part["type"] for part in simple}
    return {"type": words.pop()} if len(words) == 1 else dict(_ANY)


def _is_null(schema: object) -> bool:
    return isinstance(schema, dict) and (
        schema.get("type") in ("null", ["null"])
        or schema.get("enum") == [None]
        or ("const" in schema and schema["const"] is None)
    )


def _find_word(schema: Mapping[str, Any]) -> Any:
    word = schema.get("type")
    if isinstance(word, list):
        words = [each for each in word if each != "null"]
        return words[0] if len(words) == 1 else "any"
    if word is not None:
        return "any" if word == "null" else word
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(values, list) and values:
        kinds = {_WORDS.get(type(value), "any") for value in values if value is not None}
        return kinds.pop() if len(kinds) == 1 else "any"
    if isinstance(schema.get("properties"), dict):
        return "dict"
    return "array" if "items" in schema else "any"
