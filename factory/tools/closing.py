"""Objects closed as a whole: an argument that no part of a schema names is an invented one.

JSON Schema leaves objects open. A tool's document means all that may be given, so each object that
names properties takes no others unless it says so: by what it and all its parts name together
(allOf, anyOf, oneOf, then, else, dependentSchemas). A part of its own is never closed, since a
branch knows nothing of the others, and under `not` and `if` closing would turn what is said around.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

Schema = dict[str, Any]

_BRANCHES = ("anyOf", "oneOf")
_CONDITIONS = ("if", "then", "else")
_WHOLE = ("additionalProperties", "unevaluatedProperties")
_PARTS = frozenset((*_BRANCHES, *_CONDITIONS, "allOf", "dependentSchemas"))
_LEAF = frozenset(("type", "default", "enum"))
"""Keywords of most schemas, in which there is nothing to close."""


class Share(NamedTuple):
    """A schema that says something of one place."""

    schema: Schema
    is_certain: bool
    """Whether it always holds: it is the place's own schema, or in its allOf."""


def close(schema: Any) -> None:
    """Closes every object of a schema, in place; the schema shares nothing with another."""
    if isinstance(schema, dict):
        _close([Share(schema, True)])


def _close(shares: Sequence[Share]) -> None:
    """Closes one place, whose own schema is the first one, and all places inside it."""
    own = shares[0].schema
    if len(shares) == 1 and own.keys() <= _LEAF:
        return
    parts = [*_flatten(shares)] if len(shares) > 1 or own.keys() & _PARTS else list(shares)
    names = list(dict.fromkeys(name for part in parts for name in _table(part, "properties")))
    if names and not own.keys() & {*_WHOLE}:
        _close_names(own, parts, names)
    for name in names:
        _close_inside(own, name, parts)
    for key in ("items", "additionalProperties"):
        found = [part for part in parts if isinstance(part.schema.get(key), dict)]
        if found and found[0].is_certain:
            _close([Share(part.schema[key], part.is_certain) for part in found])
    for part in parts:
        if part.is_certain:
            for inner in (*_list(part.schema, "prefixItems"), *_patterned(part)):
                close(inner)


def _close_names(own: Schema, parts: Sequence[Share], names: Iterable[str]) -> None:
    given = [
        part.schema[key]
        for part in parts[1:]
        for key in _WHOLE
        if part.schema.get(key, False) is not False
    ]
    if given:
        own["additionalProperties"] = True
        return
    properties = own.setdefault("properties", {})
    for name in names:
        properties.setdefault(name, {})
    for part in parts[1:]:
        for pattern in _table(part, "patternProperties"):
            own.setdefault("patternProperties", {}).setdefault(pattern, {})
    own["additionalProperties"] = False


def _close_inside(own: Schema, name: str, parts: Sequence[Share]) -> None:
    """Closes what is under a name, by all parts that say something of it."""
    found = [
        Share(inner, part.is_certain)
        for part in parts
        if isinstance(inner := _table(part, "properties").get(name), dict)
    ]
    certain = [share for share in found if share.is_certain]
    if certain:
        _close([certain[0], *(share for share in found if share is not certain[0])])
    elif found and name in own.get("properties", {}):
        _close([Share(own["properties"][name], True), *found])


def _flatten(shares: Sequence[Share]) -> Iterator[Share]:
    """The schemas of one place with all their parts; what `not` holds is none."""
    for share in shares:
        yield share
        schema = share.schema
        inner = [Share(part, share.is_certain) for part in _list(schema, "allOf")]
        inner += [Share(part, False) for key in _BRANCHES for part in _list(schema, key)]
        inner += [Share(part, False) for part in _table(share, "dependentSchemas").values()]
        inner += [Share(schema[key], False) for key in _CONDITIONS if key in schema]
        yield from _flatten([part for part in inner if isinstance(part.schema, dict)])


def _table(share: Share, key: str) -> dict[str, Any]:
    found = share.schema.get(key)
    return found if isinstance(found, dict) else {}


def _list(schema: Schema, key: str) -> list[Any]:
    found = schema.get(key)
    return found if isinstance(found, list) else []


def _patterned(share: Share) -> Iterable[Any]:
    return _table(share, "patternProperties").values()
