"""References between schemas, put in place: `$ref`, `$defs`, anchors and ids of one document.

A tool document stands alone, and a grammar, a prompt or a vote sees its schema without a resolver.
So what a reference names is copied to where it stands (JSON Schema 2020-12 core, sections 8 and 9).
Only a circle cannot be: it is refused, or cut where the caller says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote, urldefrag

Schema = dict[str, Any]

POINTERS = ("$ref", "$dynamicRef", "$recursiveRef")
NAMES = ("$id", "$anchor", "$dynamicAnchor", "$recursiveAnchor", "$defs", "definitions")
"""Keywords that name schemas for references; nobody needs them once all is in place."""
SCHEMA_MAPS = ("properties", "patternProperties", "dependentSchemas", "dependencies")
SCHEMA_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
SCHEMAS = (
    *("items", "additionalItems", "additionalProperties", "contains", "propertyNames", "not"),
    *("if", "then", "else", "unevaluatedItems", "unevaluatedProperties"),
)
_INNER = frozenset((*SCHEMA_MAPS, *SCHEMA_LISTS, *SCHEMAS))
MAX_COPIED = 20_000
"""Schemas of one document after all references are in place; definitions may double each other."""

_NOTES = frozenset({"title", "description", "default", "examples", "deprecated", "$comment"})
"""Keywords that judge nothing: beside a reference they replace the target's."""
_BESIDE = (
    {"properties", "patternProperties", "additionalProperties", "unevaluatedProperties"},
    {"items", "prefixItems", "additionalItems", "unevaluatedItems", "contains"},
    {"contains", "minContains", "maxContains"},
    {"if", "then", "else"},
)
"""Keywords that look at one another: they stay in one schema, and in no other."""


def has_references(schema: object) -> bool:
    """Whether a schema names or refers to others, wherever a schema may stand in it."""
    if isinstance(schema, list):
        return any(has_references(part) for part in schema)
    if not isinstance(schema, dict):
        return False
    for key, part in schema.items():
        if key[:1] == "$" and (key in POINTERS or key in NAMES):
            return True
        if key in _INNER and isinstance(part, dict | list):
            if key in SCHEMA_MAPS and isinstance(part, dict):
                part = list(part.values())
            if has_references(part):
                return True
    return isinstance(schema.get("definitions"), dict)


_NONE = 10**9


class _Known(NamedTuple):
    """What a reference names, once it is copied."""

    schema: Any
    size: int
    notes: list[str]


class Inliner:
    """Copies schemas of one document with what they refer to in place of each reference.

    Example: Inliner({"$defs": {"A": {"type": "string"}}}).copy({"$ref": "#/$defs/A"}).
    """

    def __init__(self, root: object, *, cut: bool = False, notes: list[str] | None = None) -> None:
        """`root` is what pointers start from. Circles raise ValueError unless they are `cut`."""
        self.root = root
        self._cut = cut
        self._open: list[str] = []
        self._outermost = _NONE
        self._named: dict[str, Any] | None = None
        self._known: dict[str, _Known] = {}
        self.begin(notes if notes is not None else [])

    def begin(self, notes: list[str], most: int = MAX_COPIED) -> None:
        """What is copied from here on adds to `notes`, and has `most` schemas at most."""
        self._notes, self._most, self._left = notes, most, most

    def copy(self, schema: object) -> Any:
        """The schema without references. Raises ValueError for one that names nothing here."""
        if isinstance(schema, list):
            return [self.copy(part) for part in schema]
        if not isinstance(schema, dict):
            return schema
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"with its references in place it has over {self._most:,} schemas")
        out: Schema = {}
        reference = None
        for key, part in schema.items():
            if key in POINTERS and isinstance(part, str):
                reference = part
            elif key in SCHEMA_MAPS and isinstance(part, dict):
                out[key] = {name: self.copy(inner) for name, inner in part.items()}
            elif key in _INNER:
                out[key] = self.copy(part)
            elif key in NAMES:
                self.note(f"{key} left out")
            else:
                out[key] = part
        if reference is None:
            return self.finish(out)
        whole = join(self._resolve(reference), out)
        return self.finish(whole) if isinstance(whole, dict) else whole

    def finish(self, schema: Schema) -> Schema:
        """A schema whose parts are copied, as it is to be; may change it. Done again, it stays."""
        return schema

    def note(self, note: str) -> None:
        """Something that was not kept as it was written; said once."""
        if note not in self._notes:
            self._notes.append(note)

    def _resolve(self, reference: str) -> Any:
        """What a reference names, copied once: later copies share it."""
        known = self._known.get(reference)
        if known is not None:
            self._left -= known.size
            for note in known.notes:
                self.note(note)
            return known.schema
        target = self.find(reference)
        if reference in self._open or len(self._open) > 60:
            if not self._cut:
                raise ValueError(f"the reference {reference} goes in a circle: no end of schemas")
            self.note(f"circle cut at {reference}")
            if reference in self._open:
                self._outermost = min(self._outermost, self._open.index(reference))
            return _stub(target)
        return self._copy_target(reference, target)

    def _copy_target(self, reference: str, target: object) -> Any:
        depth, outermost, left, notes = len(self._open), self._outermost, self._left, self._notes
        self._open.append(reference)
        self._outermost, self._notes = _NONE, [f"{reference} put in place"]
        try:
            found = self.copy(target)
        finally:
            self._open.pop()
            inner, self._notes = self._notes, notes
        for note in inner:
            self.note(note)
        if self._outermost >= depth:  # cut at nothing outside: the same wherever it stands
            self._known[reference] = _Known(found, left - self._left, inner)
        self._outermost = min(self._outermost, outermost)
        return found

    def find(self, reference: str) -> Any:
        """What a reference names, with its own references. Raises ValueError."""
        base, fragment = urldefrag(reference)
        start = self.root
        if base:
            start = self._names().get(base, self._names().get(base.rsplit("/", 1)[-1]))
            if start is None:
                raise ValueError(f"the reference {reference} names another document")
        if not fragment:
            return start
        if not fragment.startswith("/"):
            if f"#{fragment}" not in self._names():
                raise ValueError(f"the reference {reference} names nothing in the document")
            return self._names()[f"#{fragment}"]
        for name in unquote(fragment)[1:].split("/"):
            name = name.replace("~1", "/").replace("~0", "~")
            try:
                start = start[int(name)] if isinstance(start, list) else start[name]  # type: ignore[index]
            except (KeyError, IndexError, ValueError, TypeError):
                message = f"the reference {reference} names nothing in the document"
                raise ValueError(message) from None
        return start

    def _names(self) -> dict[str, Any]:
        """Schemas by id, by the id's last part, and by `#anchor`."""
        if self._named is None:
            self._named = {}
            _collect(self.root, self._named)
        return self._named


def join(target: object, beside: Mapping[str, Any]) -> Any:
    """One schema that asks for all of both: what a reference names, and what stands beside it."""
    if not beside:
        return target
    if not isinstance(target, dict):
        return {**beside, "allOf": [*beside.get("allOf", ()), target]}
    ruling = {key for key in beside if key not in _NOTES}
    taken = {key for key in target if key not in _NOTES}
    clash = {key for key in ruling & taken if beside[key] != target[key]}
    if clash or any(ruling & group and taken & group for group in _BESIDE):
        return {**beside, "allOf": [*beside.get("allOf", ()), target]}
    return {**target, **beside}


def _stub(target: object) -> Schema:
    """What is left of a schema in which it stands itself: what it is called, and its type."""
    if not isinstance(target, dict):
        return {}
    return {key: target[key] for key in ("title", "description", "type") if key in target}


def _collect(value: object, named: dict[str, Any]) -> None:
    if isinstance(value, list):
        for part in value:
            _collect(part, named)
    elif isinstance(value, dict):
        for key in ("$id", "id"):
            if isinstance(word := value.get(key), str):
                named.setdefault(word.rstrip("#"), value)
                named.setdefault(word.rstrip("#").rsplit("/", 1)[-1], value)
        for key in ("$anchor", "$dynamicAnchor"):
            if isinstance(word := value.get(key), str):
                named.setdefault(f"#{word}", value)
        for part in value.values():
            _collect(part, named)
