"""Java and JavaScript literals as values, read as BFCL's scorer reads them, and written.

In BFCL's Java and JavaScript categories every argument is a string that holds a literal of the
schema's type. What is no literal of its type stays text, because it may name a variable. Readings
equal the official ones, peculiarities included (elements are split at every comma, text after a
literal is ignored), but cost bounded time on hostile text: patterns cannot backtrack far, and a
text above MAX_LITERAL characters is not read. Of Java's Set, Hashtable, Queue and Stack, which
the official scorer cannot read either, and which no question uses, there is nothing here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

MAX_LITERAL = 10_000
"""Longest text that is read as a literal."""

JAVA_TYPES: dict[str, type[Any]] = {
    **dict.fromkeys(("byte", "short", "integer", "long"), int),
    **dict.fromkeys(("float", "double"), float),
    "boolean": bool,
    **dict.fromkeys(("char", "String", "any"), str),
    **dict.fromkeys(("Array", "ArrayList"), list),
    "HashMap": dict,
}
"""Python type of each type word of the Java category."""
JAVASCRIPT_TYPES: dict[str, type[Any]] = {
    **dict.fromkeys(("integer", "Bigint"), int),
    "float": float,
    "Boolean": bool,
    **dict.fromkeys(("String", "any"), str),
    "array": list,
    "dict": dict,
}
"""Python type of each type word of the JavaScript category."""

_Reader = Callable[[str, str, str | None], Any]
_Scalar = tuple[re.Pattern[str], Callable[[str], Any]]
"""How a literal looks, and the value of its first group."""
_INTEGER: _Scalar = re.compile(r"(-?\d+)$"), int
_LONG: _Scalar = re.compile(r"(-?\d+)[lL]$"), int
_FLOAT: _Scalar = re.compile(r"(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)[fF]$"), float
_BOOLEAN: _Scalar = re.compile(r"(true|false)\Z"), "true".__eq__
_JAVA_SCALARS: dict[str, _Scalar] = {
    **dict.fromkeys(("byte", "short", "integer"), _INTEGER),
    "long": _LONG,
    "float": _FLOAT,
    "double": (re.compile(r"(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)$"), float),
    "boolean": _BOOLEAN,
}
_JAVASCRIPT_SCALARS: dict[str, _Scalar] = {
    "integer": _INTEGER,
    "float": (re.compile(r"(-?\d+(?:\.\d+)?)$"), float),
    "Bigint": (re.compile(r"(-?\d+)n$"), int),
    "Boolean": _BOOLEAN,
}

_SUFFIXES = {"long": "L", "float": "f"}

_AS_LIST = re.compile(r"new\s++ArrayList<\w*+>\(Arrays\.asList\((.+?)\)\)")
_ADD_BLOCK = re.compile(r"new\s++ArrayList<\w*+>\(\)\s*+\{\{\s*+(\S.*?)\}\}", re.DOTALL)
_ADD = re.compile(r"add\((.+?)\)")
_EMPTY_LIST = re.compile(r"new\s++ArrayList<\w*+>\(\)")
_ARRAY = re.compile(r"new\s++\w++\[\]\s*+\{([^}\n]*+)\}")
_MAP = re.compile(r"new\s++HashMap<.*?>\s*+\(\)\s*+\{\s*+\{?+\s*+([^}]*+)\}", re.DOTALL)
_PUT = re.compile(r'put\("(.*?)",\s*+(.*?)\)')
_EMPTY_MAP = re.compile(r"new\s++HashMap<.*?>\s*+\(\)")

_ROWS = r"\[(?>(?:[^\]\n]*+\](?!\s*+{end})(?>(?:\s*+,\s*+\[)?))*)[^\]\n]*+\]\s*+{end}"
_NESTED = re.compile(
    r"\[\s*+" + _ROWS.format(end=r"\]") + r"|new\s++Array\(\s*+" + _ROWS.format(end=r"\)")
)
_FLAT = re.compile(r"\[([^\]\n]*+)\]|new\s++Array\(([^)\n]*+)\)")
_ROW = re.compile(r"\[([^\]\n]*+)\]")
_OBJECT = re.compile(r"\{([^}\n]*+)\}")
_PAIR = re.compile(r"([^:]++):\s*+(.*?)(?:,\s*(?=[^,][^,:]*+:)|$)")


def read_java(value: Any, word: str, items_word: str | None) -> Any:
    """A Java literal of type `word`, or the text itself; ValueError where `value` is no text."""
    return _read(value, word, items_word, _read_java)


def read_javascript(value: Any, word: str, items_word: str | None) -> Any:
    """A JavaScript literal of type `word`, or the text; ValueError where `value` is no text."""
    return _read(value, word, items_word, _read_javascript)


def _read(value: Any, word: str, items_word: str | None, reader: _Reader) -> Any:
    if not isinstance(value, str):
        raise ValueError("a literal must be given as a string")
    return value if len(value) > MAX_LITERAL else reader(value, word, items_word)


def _read_java(text: str, word: str, items_word: str | None = None) -> Any:
    match word:
        case "Array":
            return _read_array(text, items_word)
        case "ArrayList":
            return _read_array_list(text, items_word)
        case "HashMap":
            return _read_map(text)
    return _read_scalar(text, _JAVA_SCALARS.get(word))


def _read_array(text: str, items_word: str | None) -> Any:
    """`new int[]{1, 2}`; a String keeps its quotes, as in the official reading."""
    found = _ARRAY.search(text)
    if found is None:
        return text
    parts = [part.strip() for part in found[1].split(",") if part.strip()]
    return [_read_java(part, items_word) if items_word else _guess_java(part) for part in parts]


def _read_array_list(text: str, items_word: str | None) -> Any:
    """`new ArrayList<>(Arrays.asList(1, 2))`, or `new ArrayList<>() {{ add(1); add(2); }}`."""
    if found := _AS_LIST.search(text):
        parts = found[1].split(",")
    elif found := _ADD_BLOCK.search(text):
        parts = _ADD.findall(found[1].rstrip())
    else:
        return [] if _EMPTY_LIST.search(text) else text
    return [_read_list_item(part.strip(), items_word) for part in parts]


def _read_list_item(text: str, items_word: str | None) -> Any:
    if items_word in ("char", "String"):
        return text[1:-1]
    return _read_java(text, items_word) if items_word else _guess_java(text)


def _read_map(text: str) -> Any:
    """`new HashMap<>() {{ put("a", 1); }}`."""
    found = _MAP.search(text)
    if found is None:
        return {} if _EMPTY_MAP.search(text) else text
    return {key: _guess_java(value.strip()) for key, value in _PUT.findall(found[1].rstrip())}


def _guess_java(text: str) -> Any:
    """A Java literal of whatever type it looks like."""
    if text.startswith('"') and text.endswith('"'):
        return text[1:-1]
    for scalar in (_BOOLEAN, _LONG, _FLOAT):
        if (value := _read_scalar(text, scalar)) is not text:
            return value
    return _guess_number(text)


def _read_scalar(text: str, scalar: _Scalar | None) -> Any:
    """The value of a literal; the text where it does not look like one."""
    found = scalar[0].match(text) if scalar else None
    return scalar[1](found[1]) if scalar and found else text


def _guess_number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _read_javascript(text: str, word: str, items_word: str | None = None) -> Any:
    match word:
        case "String":
            return text[1:-1] if _is_quoted(text) else text
        case "array":
            return _read_list(text.strip(), items_word)
        case "dict":
            return _read_object(text.strip())
    return _read_scalar(text, _JAVASCRIPT_SCALARS.get(word))


def _read_list(text: str, items_word: str | None) -> Any:
    """`[1, 2]`, `[[1], [2]]`, or the same in `new Array(…)`; text where an element is faulty."""
    if found := _NESTED.match(text):
        rows = _ROW.findall(found[0])
        if rows:
            rows[0] = rows[0].strip().removeprefix("[")
        return [[_guess_javascript(part) for part in row.strip().split(",")] for row in rows]
    found = _FLAT.match(text)
    if found is None:
        return text
    inner = (found[1] if found[1] is not None else found[2]).strip()
    parts = [part.strip() for part in inner.split(",")] if inner else []
    if items_word:
        return [_read_javascript(part, items_word) for part in parts]
    return [_guess_javascript(part) for part in parts]


def _read_object(text: str) -> Any:
    """`{a: 1, b: [2]}`, up to its first closing brace."""
    found = _OBJECT.match(text)
    if found is None:
        return text
    return {
        key.strip().strip("'\""): _read_member(value.strip())
        for key, value in _PAIR.findall(found[1])
    }


def _read_member(text: str) -> Any:
    if text.startswith("[") and text.endswith("]"):
        return _read_list(text, None)
    return _guess_javascript(text.strip("'\""))


def _guess_javascript(text: str) -> Any:
    """A JavaScript literal of whatever type it looks like."""
    text = text.strip()
    if text in ("true", "false"):
        return text == "true"
    return text[1:-1] if _is_quoted(text) else _guess_number(text)


def _is_quoted(text: str) -> bool:
    return any(text.startswith(quote) and text.endswith(quote) for quote in ("'", '"'))


def write_java(value: Any, word: str, items_word: str | None) -> str:
    """A value as the Java literal of its type; text as it is, since it may name a variable."""
    return value if isinstance(value, str) else _write_java(value, word, items_word)


def write_javascript(value: Any, word: str, items_word: str | None) -> str:
    """A value as the JavaScript literal of its type; text as it is."""
    return value if isinstance(value, str) else _write_javascript(value, word)


def _write_java(value: Any, word: str | None, items_word: str | None = None) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"{value}{_SUFFIXES.get(word or '', '')}"
    if isinstance(value, str):
        return f"'{value}'" if word == "char" else f'"{value}"'
    if isinstance(value, dict):
        puts = (f'put("{key}", {_write_java(item, None)});' for key, item in value.items())
        return "new HashMap<>() {{ " + " ".join(puts) + " }}"
    inner = ", ".join(_write_java(item, items_word) for item in value)
    if word == "Array":
        return f"new {items_word or 'Object'}[]{{{inner}}}"
    return f"new ArrayList<>(Arrays.asList({inner}))" if value else "new ArrayList<>()"


def _write_javascript(value: Any, word: str | None = None) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"{value}n" if word == "Bigint" else str(value)
    if isinstance(value, str):
        return f"'{value}'"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_write_javascript(v)}" for k, v in value.items()) + "}"
    return "[" + ", ".join(_write_javascript(item) for item in value) + "]"
