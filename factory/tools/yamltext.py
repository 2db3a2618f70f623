"""YAML as JSON: the values that JSON has, no key twice, no aliases that multiply.

OpenAPI is written in it, by YAML 1.2's JSON schema (its section "Format"). YAML 1.1, which PyYAML's
loaders follow, takes `no` for false and `2020-01-01` for a date: here they stay the texts they are.
Values are built from the parser's events, so that neither depth nor aliases are without a bound.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from factory.domain.jsontext import MAX_DEPTH, show

YAML_SUFFIXES = (".yaml", ".yml")
MAX_VALUES = 5_000_000
"""Values of a document once its aliases are written out."""

_CONSTANTS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?(?:0|[1-9]\d{0,99})")
_FLOAT = re.compile(
    r"[-+]?(?:(?:\d{1,99}\.\d{0,99}|\.\d{1,99})(?:[eE][-+]?\d{1,3})?|\d{1,99}[eE][-+]?\d{1,3})"
)
_TEXT = "tag:yaml.org,2002:str"


class YamlError(ValueError):
    """The text is not YAML within the bounds; str() is one sentence."""


class _Value(NamedTuple):
    value: Any
    size: int


class _Open:
    """A sequence or a mapping that is not closed yet."""

    def __init__(self, value: list[Any] | dict[str, Any], anchor: str | None) -> None:
        self.value = value
        self.anchor = anchor
        self.size = 1
        self.key: str | None = None
        self.merged: list[dict[str, Any]] = []


def load_yaml(text: str) -> Iterator[Any]:
    """The documents of a text, one after the other. Raises YamlError where one cannot be read."""
    events = yaml.parse(text, Loader=yaml.CSafeLoader)
    try:
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                yield _read(events)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error)
        raise YamlError(f"not YAML: {place}{' '.join(str(problem).split())[:200]}") from None


def _read(events: Iterator[Any]) -> Any:
    """One document, from its first event to its last."""
    anchors: dict[str, _Value | None] = {}
    stack: list[_Open] = []
    root: Any = None
    for event in events:
        if isinstance(event, yaml.DocumentEndEvent):
            return root
        if isinstance(event, yaml.SequenceStartEvent | yaml.MappingStartEvent):
            if len(stack) == MAX_DEPTH + 40:
                raise YamlError(f"nested deeper than {MAX_DEPTH + 40} levels")
            is_list = isinstance(event, yaml.SequenceStartEvent)
            if event.anchor:
                anchors[event.anchor] = None
            stack.append(_Open([] if is_list else {}, event.anchor))
            continue
        if isinstance(event, yaml.ScalarEvent):
            if stack and isinstance(stack[-1].value, dict) and stack[-1].key is None:
                stack[-1].key = event.value  # as it is written: `200` and `null` too
                continue
            done = _Value(_resolve(event), 1)
            if event.anchor:
                anchors[event.anchor] = done
        elif isinstance(event, yaml.AliasEvent):
            found = anchors.get(event.anchor)
            if found is None:
                raise YamlError(f"the alias {show(event.anchor, 60)} stands inside itself")
            done = found
        else:
            done = _close(stack.pop(), anchors)
        if done.size > MAX_VALUES:
            raise YamlError(f"its aliases make over {MAX_VALUES:,} values")
        if not stack:
            root = done.value
        else:
            _add(stack[-1], done)
    return root


def _close(part: _Open, anchors: dict[str, _Value | None]) -> _Value:
    if isinstance(part.value, dict):
        for merged in part.merged:
            part.value.update({k: v for k, v in merged.items() if k not in part.value})
    done = _Value(part.value, part.size)
    if part.anchor:
        anchors[part.anchor] = done
    return done


def _add(part: _Open, done: _Value) -> None:
    part.size += done.size
    if isinstance(part.value, list):
        part.value.append(done.value)
        return
    key, part.key = part.key, None
    if key is None:
        raise YamlError("a key is no scalar")
    if key == "<<" and isinstance(done.value, dict | list):
        listed = done.value if isinstance(done.value, list) else [done.value]
        part.merged += [each for each in listed if isinstance(each, dict)]
    elif key in part.value:
        raise YamlError(f"the key {show(key, 60)} stands twice in one object")
    else:
        part.value[key] = done.value


def _resolve(event: Any) -> Any:
    """A scalar's value: quoted and tagged ones are texts, plain ones what they look like."""
    text = str(event.value)
    if event.tag == _TEXT or not event.implicit[0]:
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text
