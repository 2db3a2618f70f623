"""Type words of every dialect, and JSON Schema's words for them.

Documents say types in Python's words (`List[int]`, `Optional[str]`, `Literal["a", "b"]`), Java's,
ToolBench's capitals or JSON Schema's own (algorithms A46).
"""

from __future__ import annotations

import ast
import re
from typing import Any

Schema = dict[str, Any]

WORDS: dict[str, str] = {
    **dict.fromkeys(("string", "str", "text", "char", "character", "enum", "date"), "string"),
    **dict.fromkeys(("time", "datetime", "binary", "file", "credentials"), "string"),
    **dict.fromkeys(("date (yyyy-mm-dd)", "time (24-hour hh:mm)"), "string"),
    **dict.fromkeys(("integer", "int", "long", "short", "byte"), "integer"),
    **dict.fromkeys(("number", "float", "double", "decimal"), "number"),
    **dict.fromkeys(("boolean", "bool"), "boolean"),
    **dict.fromkeys(("array", "list", "tuple", "set", "arraylist", "queue", "stack"), "array"),
    **dict.fromkeys(("sequence", "iterable", "collection", "frozenset", "deque"), "array"),
    **dict.fromkeys(("object", "dict", "dictionary", "map", "hashmap", "hashtable"), "object"),
    **dict.fromkeys(("mapping", "mutablemapping", "ordereddict", "defaultdict"), "object"),
    **dict.fromkeys(("null", "none", "nonetype"), "null"),
    **dict.fromkeys(("any", "mixed"), ""),
}
"""Type words in lower case, and JSON Schema's word; an empty word is no constraint."""

_MAX_WORD = 1000
_WRAPPERS = frozenset({"annotated", "required", "notrequired", "readonly", "final", "classvar"})
"""Python's words that say of a type what a schema says elsewhere."""
_PACKAGE = re.compile(r"^(?:typing|typing_extensions|collections\.abc|collections|builtins|t)\.")
_GENERIC = re.compile(r"([A-Za-z]+)\s*[\[<(](.*)[\]>)]", re.S)
_LITERALS = {str: "string", int: "integer", bool: "boolean", type(None): "null"}


def read_type(word: object, depth: int = 0) -> Schema | None:
    """JSON Schema of a type word; None where the word is not known.

    >>> read_type("List[int]")
    {'type': 'array', 'items': {'type': 'integer'}}
    """
    if isinstance(word, list):
        return _read_union(word, depth)
    if not isinstance(word, str) or len(word) > _MAX_WORD or depth > 8:
        return None
    if (known := WORDS.get(word.lower())) is not None:
        return {"type": known} if known else {}
    text = word.strip()
    if text[-10:].lower() == ", optional":
        text = text[:-10]
    plain = _PACKAGE.sub("", text.lower())
    if plain in WORDS:
        return {"type": WORDS[plain]} if WORDS[plain] else {}
    if len(alternatives := _split(text, "|")) > 1 or len(alternatives := _split_or(text)) > 1:
        return _read_union(alternatives, depth)
    if text.endswith("[]"):
        return _read_items(text[:-2], depth)
    match = _GENERIC.fullmatch(_PACKAGE.sub("", text))
    return _read_generic(match[1].lower(), match[2], depth) if match else None


def _read_union(words: list[Any], depth: int) -> Schema | None:
    parts = [read_type(word, depth + 1) for word in words[:16]]
    known = [part for part in parts if part is not None]
    if not parts or len(known) < len(parts):
        return None
    if any(not part for part in known):
        return {}
    if all(set(part) == {"type"} for part in known):
        kinds = [part["type"] for part in known]
        names = list(dict.fromkeys(k for kind in kinds for k in _as_list(kind)))
        return {"type": names[0] if len(names) == 1 else names}
    return {"anyOf": known}


def _as_list(kind: Any) -> list[Any]:
    return kind if isinstance(kind, list) else [kind]


def _read_items(word: str, depth: int) -> Schema | None:
    items = read_type(word, depth + 1)
    return None if items is None else {"type": "array", "items": items}


def _read_generic(name: str, inside: str, depth: int) -> Schema | None:
    """`List[int]`, `Tuple[int, ...]`, `Mapping[str, int]`, `Optional[int]`, `Literal["a", "b"]`."""
    if name == "literal":
        return _read_literal(inside)
    parts = _split(inside, ",")
    if name in _WRAPPERS:
        return read_type(parts[0], depth + 1)
    if name == "union":
        return _read_union(parts, depth)
    if name == "optional":
        return _read_union([*parts, "null"], depth)
    kind = WORDS.get(name)
    if name == "tuple" and len(parts) == 2 and parts[1].strip() == "...":
        return _read_items(parts[0], depth)
    if name == "tuple" and inside.strip() == "()":
        return {"type": "array", "maxItems": 0}
    inner = [read_type(part, depth + 1) for part in parts]
    if kind not in ("array", "object") or any(part is None for part in inner):
        return None
    if kind == "object":
        return {"type": "object", "additionalProperties": inner[-1]}
    if name == "tuple" and len(inner) > 1:
        return {"type": "array", "prefixItems": inner, "minItems": len(inner), "items": False}
    return {"type": "array", "items": inner[0]}


def _read_literal(inside: str) -> Schema | None:
    """The values that Python writes inside Literal[...]; None where one is no value of JSON."""
    try:
        values = ast.literal_eval(f"[{inside}]")
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    kinds = [_LITERALS.get(type(value)) for value in values]
    if not values or None in kinds:
        return None
    names = list(dict.fromkeys(kinds))
    return {"type": names[0] if len(names) == 1 else names, "enum": values}


def _split_or(text: str) -> list[str]:
    """`int or None`, as NumPy's docstrings have it; inside brackets it is no such word."""
    return (
        re.split(r"\s+or\s+", text) if " or " in text and not set(text) & set("[<('\"") else [text]
    )


def _split(text: str, mark: str) -> list[str]:
    """Splits at `mark` outside brackets and quotes."""
    parts, depth, current, quote = [], 0, "", ""
    for character in text:
        if character in "'\"" and quote in ("", character):
            quote = "" if quote else character
        if not quote:
            depth += (character in "[<(") - (character in "]>)")
        if character == mark and depth == 0 and not quote:
            parts.append(current)
            current = ""
        else:
            current += character
    return [*parts, current]
