"""A rule's finding, and the sentence that explains a broken JSON Schema keyword."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import NamedTuple

from jsonschema import ValidationError

from factory.domain.jsontext import Parts, show

MAX_VERDICTS = 16
"""Verdicts kept of one document or one call."""


class Finding(NamedTuple):
    """A rule's finding before it is tied to a record: Finding("call/wrong_type", ("a",), "…")."""

    rule: str
    path: Parts
    """Where, as parts of a JSON path."""
    message: str


def explain(error: ValidationError) -> str:
    """One sentence with the offending value."""
    value, wanted = show(error.instance), error.validator_value
    match error.validator:
        case "type":
            names = wanted if isinstance(wanted, list) else [wanted]
            kinds = " or ".join(with_article(name) for name in names)
            return f"{value} is {_KINDS[type(error.instance)]}, not {kinds}"
        case "enum":
            return f"{value} is not one of {show(wanted)}"
        case "const":
            return f"{value} is not {show(wanted)}"
        case "pattern":
            return f"{value} does not match the pattern {show(wanted)}"
        case "format":
            return f"{value} is not a valid {show(wanted)}"
        case "anyOf" | "oneOf":
            return f"{value} does not fit the {len(wanted)} allowed forms"
        case keyword if isinstance(wanted, int | float | str):
            return f"{value} breaks {keyword} {show(wanted)}"
        case keyword:
            return f"{value} breaks {keyword}"


_KINDS = {
    bool: "a boolean",
    type(None): "null",
    str: "a string",
    int: "an integer",
    float: "a number",
    list: "an array",
    dict: "an object",
}


def with_article(word: object) -> str:
    name = str(word)
    if name == "null":
        return name
    return f"an {name}" if name[:1] in "aeiou" else f"a {name}"


def suggest(name: str, known: Iterable[str]) -> str:
    """`; did you mean …?` for short names among not too many."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1) if len(name) < 80 and len(names) < 80 else []
    return f"; did you mean {show(near[0], 60)}?" if near else ""
