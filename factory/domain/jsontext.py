"""JSON as a model writes it: read within bounds, repaired only where that is safe, shown safely.

A model's text is data. Size, nesting and number length are bounded before the parser sees it;
duplicate keys, NaN, Infinity and lone surrogates are refused, because no later step (Arrow, DuckDB,
a training file) can carry them unchanged.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from factory.domain.plaintext import is_unicode, printable

MAX_CHARS = 1_000_000
"""Longest text that is read at all."""
MAX_DEPTH = 64
"""Deepest nesting of objects and arrays."""
TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"
MAX_DIGITS = 100
"""Longest number."""
MAX_VALUES = 256
"""Most values read of a sequence."""
SHOWN_CHARS = 120
"""Longest value shown in a message."""
_WINDOW = 4096
"""What is tried first of a text that goes on: a parser counts the lines of all it is given."""
_MARGIN = 64
"""So near the end of a window a fault may be the window's."""

Parts = tuple[str | int, ...]

# A string that nothing closes reaches to the end, so that no text is gone through twice.
_STRING = r'"(?>[^"\\]*+(?:\\(?:.|\Z)[^"\\]*+)*)(?:"|\Z)'
_TOKEN = re.compile(rf"{_STRING}|[\[{{]|[\]}}]", re.DOTALL)
_REPAIRABLE = re.compile(
    rf"{_STRING}"  # kept
    r"|'(?P<single>(?>[^'\\]*+(?:\\(?:.|\Z)[^'\\]*+)*))(?:'|(?P<open>\Z))"
    r"|[“”](?P<curly>[^“”]*+)(?:[“”]|(?P<bare>\Z))"
    r"|,(?=\s*+[}\]])",
    re.DOTALL,
)
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,59}")


class JsonTextError(ValueError):
    """The text is not JSON within the bounds; str() is one sentence without line breaks."""

    end: int = 0
    """Of `parse_prefix`: up to where the text was read, or somewhat further."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonText:
    """A value read from text. Example: JsonText(value={"name": "f"}, repaired=False)."""

    value: Any
    repaired: bool
    """Whether quotes or trailing commas had to be mended."""


def read_json(text: str) -> JsonText:
    """Reads one JSON value: strictly, else with quotes and trailing commas mended.

    Raises JsonTextError with the strict reading's cause.
    """
    try:
        return JsonText(value=parse_strict(text), repaired=False)
    except JsonTextError as error:
        mended = mend(text)
        if mended == text:
            raise
        try:
            return JsonText(value=parse_strict(mended), repaired=True)
        except JsonTextError:
            raise error from None


def parse_strict(text: str) -> Any:
    """One JSON value, nothing after it but white space. Raises JsonTextError."""
    _check_bounds(text)
    try:
        value = _DECODER.decode(text)
    except JsonTextError:
        raise
    except ValueError as error:
        raise JsonTextError(_cause(error)) from None
    _check_surrogates(text, value)
    return value


def parse_prefix(text: str, start: int) -> tuple[Any, int]:
    """The JSON object or array that begins at `start`, and the index after it.

    Raises JsonTextError.

    >>> parse_prefix('so: {"a": 1} it is', 4)
    ({'a': 1}, 12)
    """
    size, start = _WINDOW, _skip(text, start)
    if text[start : start + 1] not in ("{", "["):
        raise JsonTextError(f"no object or array begins at {show(text[start : start + 20], 40)}")
    while True:
        window = text[start : start + size]
        try:
            value, end = _DECODER.raw_decode(window)
            _check_bounds(window[:end])
            _check_surrogates(window[:end], value)
            return value, start + end
        except json.JSONDecodeError as cause:
            is_open = cause.pos > size - _MARGIN or cause.msg.startswith("Unterminated")
            if is_open and len(text) > start + size:
                size *= 8
                continue
            error = JsonTextError(_cause(cause))
            error.end = start + (len(window) if is_open else cause.pos)
        except (JsonTextError, RecursionError) as cause:
            is_deep = isinstance(cause, RecursionError)
            error = JsonTextError(TOO_DEEP if is_deep else str(cause))
            error.end = start + len(window)
        raise error from None


def parse_sequence(text: str) -> tuple[list[Any], str]:
    """JSON values that follow one another, and the cause why the next one cannot be read.

    White space and single commas may stand between values. The cause is empty when all is read.
    """
    values: list[Any] = []
    try:
        _check_bounds(text)
    except JsonTextError as error:
        return values, str(error)
    position, end = 0, len(text.rstrip())
    while (position := _skip(text, position)) < end:
        if len(values) == MAX_VALUES:
            return values, f"more than {MAX_VALUES} values"
        try:
            value, position = _DECODER.raw_decode(text, position)
            _check_surrogates(text, value)
        except JsonTextError as error:
            return values, str(error)
        except ValueError as error:
            return values, _cause(error)
        values.append(value)
        position = _skip(text, position)
        if text[position : position + 1] == "," and position + 1 < end:
            position += 1
    return values, ""


def mend(text: str) -> str:
    """Replaces single and typographic quotes around strings, and drops trailing commas."""
    return _REPAIRABLE.sub(_mend_token, text)


def measure_depth(text: str) -> int:
    """Nesting depth of brackets outside strings, up to MAX_DEPTH + 1."""
    depth = deepest = 0
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token in "[{":
            depth += 1
            deepest = max(deepest, depth)
            if deepest > MAX_DEPTH:
                break
        elif token in "]}":
            depth = max(0, depth - 1)
    return deepest


def show(value: object, limit: int = SHOWN_CHARS) -> str:
    """A value as JSON for a message: printable characters only, at most `limit` of them."""
    pieces, length = [], 0
    whole = isinstance(value, str | int | float)
    if isinstance(value, str):
        value = value[: limit + 1]
    for piece in (_ENCODER.encode(value),) if whole else _ENCODER.iterencode(value):
        pieces.append(piece)
        length += len(piece)
        if length > limit:
            break
    text = printable("".join(pieces)[: limit + 1])
    return text if len(text) <= limit else text[: limit - 1] + "…"


def json_path(parts: Iterable[str | int]) -> str:
    """JSON path of a part.

    >>> json_path([0, "arguments", "a b"])
    '$[0].arguments["a b"]'
    """
    text = "$"
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _PLAIN_KEY.fullmatch(part):
            text += f".{part}"
        else:
            text += f"[{show(part, 60)}]"
    return text


def walk(value: Any, parts: Parts = ()) -> Iterator[tuple[Parts, Any]]:
    """A JSON value and every value inside it, outer before inner, with its path in parts."""
    yield parts, value
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from walk(part, (*parts, key))


def _check_bounds(text: str) -> None:
    if len(text) > MAX_CHARS:
        raise JsonTextError(f"{len(text)} characters, at most {MAX_CHARS} are read")
    if text.count("{") + text.count("[") > MAX_DEPTH and measure_depth(text) > MAX_DEPTH:
        raise JsonTextError(TOO_DEEP)


def _check_surrogates(text: str, value: object) -> None:
    if "\\u" not in text and text.isascii():
        return
    if not is_unicode(json.dumps(value, ensure_ascii=False)):
        raise JsonTextError("a string holds half of a surrogate pair")


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _cause(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        near = error.doc[error.pos : error.pos + 20]
        found = f"found {show(near, 40)}" if near else "the text ends"
        return f"{printable(error.msg)} at character {error.pos}: {found}"
    return printable(str(error))[:SHOWN_CHARS]


def _mend_token(match: re.Match[str]) -> str:
    inner = match["single"]
    if inner is None:
        inner = match["curly"]
    if inner is None or match["open"] is not None or match["bare"] is not None:
        return "" if match[0] == "," else match[0]
    inner = inner.replace("\\'", "'")
    return '"' + re.sub(r'\\.|"', lambda m: m[0] if m[0] != '"' else '\\"', inner) + '"'


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        times = Counter(name for name, _ in pairs)
        twice = next(name for name in times if times[name] > 1)
        raise JsonTextError(f"the key {show(twice, 60)} appears twice in one object")
    return table


def _read_float(text: str) -> float:
    value = float(text)
    if len(text) > MAX_DIGITS or value in (float("inf"), float("-inf")):
        raise JsonTextError(f"the number {show(text, 40)} is too long or too large")
    return value


def _read_int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise JsonTextError(f"a number of {len(text)} digits, at most {MAX_DIGITS} are read")
    return int(text)


def _refuse_constant(name: str) -> Any:
    raise JsonTextError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique_keys,
    parse_float=_read_float,
    parse_int=_read_int,
    parse_constant=_refuse_constant,
)
_ENCODER = json.JSONEncoder(ensure_ascii=False)
