"""Where a request says the values of its calls, and in which words it is cut for that."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from factory.domain.records import Call

PIECE = re.compile(r"[^\W_]+(?:['’]\w+)?|[^\w\s]|_")
"""A word, or one sign."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A request and its accepted calls. Example: Answered("A table for 4.", (Call(…),))."""

    text: str
    calls: tuple[Call, ...]

    @property
    def places(self) -> list[Place]:
        """Where the text says a value."""
        return find_values(self.text, self.calls)

    @property
    def names(self) -> frozenset[str]:
        """Of the tools that it calls."""
        return frozenset(call.name for call in self.calls)


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A value in a text. Example: Place(start=12, end=13, name="people", call=0)."""

    start: int
    end: int
    name: str
    """Of the parameter."""
    call: int
    """Which call has it."""


def find_values(text: str, calls: Sequence[Call]) -> list[Place]:
    """Where the text says a value, in its order: those only that one argument has, that stand there
    once, as whole words, and neither within another value nor around one.
    """
    values = [value for call in calls for value in call.arguments.values()]
    found = []
    for index, call in enumerate(calls):
        for name, value in call.arguments.items():
            said = written(value)
            if not said or values.count(value) > 1:
                continue
            pattern = rf"(?<![\w.,-]){re.escape(said)}(?![\w-]|[.,]\d)"
            spans = [match.span() for match in re.finditer(pattern, text)]
            if len(spans) == 1:
                found.append(Place(*spans[0], name, index))
    return sorted(
        one
        for one in found
        if not any(o is not one and o.start < one.end and one.start < o.end for o in found)
    )


def keeps_values(text: str, other: str, calls: Sequence[Call]) -> bool:
    """Whether another text says all values of the calls that this one says."""
    said = [
        written(each)
        for call in calls
        for value in call.arguments.values()
        for each in (value if isinstance(value, list) else [value])
    ]
    return all(each in other for each in said if each in text)


def written(value: Any) -> str:
    """A value as a request says it; "" where that cannot be told."""
    if isinstance(value, list):
        *most, last = [written(each) for each in value] or [""]
        return f"{', '.join(most)} and {last}" if most and all(most) and last else last
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    if isinstance(value, float):
        text = repr(value).removesuffix(".0")
        return text if re.fullmatch(r"-?\d+(\.\d+)?", text) else ""
    return str(value)


def folded(text: str) -> list[str]:
    """Its words and signs in lower case."""
    return [piece.casefold() for piece in PIECE.findall(text)]
