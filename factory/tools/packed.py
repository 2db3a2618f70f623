"""Messages of a log that are packed as JSON text, told from texts that begin with a bracket."""

from __future__ import annotations

import re
from typing import Any

from factory.domain.jsontext import parse_strict


def unpack(value: Any) -> Any:
    """A value, or what its JSON text holds."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return parse_strict(value)
        except ValueError as error:
            raise ValueError(f"a value of the log is text that is not JSON: {error}") from error
    return value


_SAID = ("messages", "contents", "conversations", "role", "content", "parts", "text", "message")
_SAID_IN_LISTS = {
    *_SAID,
    "type",
    "from",
    "functionCall",
    "functionResponse",
    "toolUse",
    "toolResult",
}
_CUT = re.compile(rf"[\[\s]*+\{{\s*+(?:\"(?:{'|'.join((*_SAID, 'type', 'from'))})\"|\Z)")
"""How messages begin that are packed as JSON text."""


def unpack_said(value: Any, more: tuple[str, ...] = ()) -> Any:
    """Messages or parts that JSON text holds; a text of anything else is what was said.

    An object may also have one of the keys `more`. Raises ValueError for messages that are broken.
    """
    try:
        opened = unpack(value)
    except ValueError:
        if _CUT.match(value):
            raise
        return value
    is_said = _is_said(opened, {*_SAID, *more}) if isinstance(value, str) else True
    return opened if is_said else value


def _is_said(value: Any, keys: set[str]) -> bool:
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        (value,) = value
    if isinstance(value, list) and value:
        return all(isinstance(each, dict) and _SAID_IN_LISTS & each.keys() for each in value)
    return isinstance(value, dict) and bool(keys & value.keys())
