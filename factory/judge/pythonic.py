"""Calls as Python writes them: `[name(a=1, b="x"), other.name()]`. Nothing is evaluated."""

from __future__ import annotations

import ast
import io
import math
import re
import warnings
from collections.abc import Iterator
from typing import Any

from factory.domain.jsontext import MAX_DEPTH, MAX_DIGITS, show
from factory.domain.plaintext import is_unicode, printable
from factory.domain.records import Call
from factory.judge.parsed import MAX_BLOCKS, CallError

MAX_PYTHON_CHARS = 20_000
"""Longest call, or list of calls, that is read as Python."""
WORDS = {"true": True, "false": False, "null": None}
"""JSON's words, which models also write among Python values."""

NAME = r"[^\W\d][\w.:/-]*+(?>(?: [\w.:/-]++)*)"
"""A tool's name, which may have spaces."""
_CALL = re.compile(rf"\s*+({NAME})\s*+\((.*)\)\s*+", re.DOTALL)
# A string that nothing closes reaches to the end, so that no text is gone through twice.
_STRING = (
    r"\"\"\".*?(?:\"\"\"|\Z)|'''.*?(?:'''|\Z)"
    r"|\"(?>[^\"\\]*+(?:\\(?:.|\Z)[^\"\\]*+)*)(?:\"|\Z)"
    r"|'(?>[^'\\]*+(?:\\(?:.|\Z)[^'\\]*+)*)(?:'|\Z)"
)
_TOKEN = re.compile(rf"(?s:{_STRING}|[\[\](){{}},])")


def _fault(message: str) -> CallError:
    return CallError(message, "call_python")


def find_close(text: str, start: int) -> int:
    """Index after the bracket that closes the one at `start`. Raises CallError."""
    depth = 0
    for match in _TOKEN.finditer(text, start):
        depth += (match[0] in "{[(") - (match[0] in "}])")
        if depth > MAX_DEPTH:
            raise _fault(f"nested deeper than {MAX_DEPTH} levels")
        if depth == 0:
            return match.end()
    raise _fault("a bracket is not closed")


def read_list(text: str, start: int) -> tuple[list[Call], int]:
    """The calls of the list at `start`, and the index after it. Raises CallError."""
    end = find_close(text, start)
    return list(_read_calls(text[start + 1 : end - 1])), end


def read_one(text: str, start: int) -> tuple[Call, int]:
    """The call at `start`, and the index after it. Raises CallError."""
    opening = text.index("(", start)
    end = find_close(text, opening)
    (call,) = _read_calls(text[start:end])
    return call, end


def _read_calls(body: str) -> Iterator[Call]:
    if len(body) > MAX_PYTHON_CHARS:
        raise _fault(f"{len(body)} characters, at most {MAX_PYTHON_CHARS} are read")
    for number, piece in enumerate(_split(body)):
        match = _CALL.fullmatch(piece)
        if match is None:
            raise _fault(f"{show(piece)} is no call")
        if number == MAX_BLOCKS:
            raise _fault(f"more than {MAX_BLOCKS} calls")
        yield Call(name=match[1], arguments=_read_arguments(match[2]))


def _split(text: str) -> Iterator[str]:
    """The pieces between commas outside of strings and brackets."""
    depth = begin = 0
    for match in _TOKEN.finditer(text):
        if match[0] == "," and depth == 0:
            yield text[begin : match.start()]
            begin = match.end()
        depth += (match[0] in "{[(") - (match[0] in "}])")
    if text[begin:].strip():
        yield text[begin:]


def _read_arguments(text: str) -> dict[str, Any]:
    """`a=1, b="x"` as values."""
    source = f"f({text})"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source, mode="eval").body
        if not (isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name)):
            raise _fault(f"{show(text)} is no list of arguments")
        if tree.args or any(keyword.arg is None for keyword in tree.keywords):
            raise _fault(f"{show(text)} has an argument without a name")
        lines = [line.encode() for line in io.StringIO(source, newline="")]
        arguments = {str(k.arg): _read_node(k.value, lines) for k in tree.keywords}
        if len(arguments) != len(tree.keywords):
            raise _fault(f"{show(text)} gives an argument twice")
        return arguments
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        if isinstance(error, CallError):
            raise
        cause = printable(str(error))[:100] or type(error).__name__
        raise _fault(f"{show(text)} cannot be read: {cause}") from None


def _read_node(node: ast.expr, lines: list[bytes]) -> Any:
    """A literal's value; the source of anything else, which may name a variable."""
    match node:
        case ast.Constant(value=str() as text):
            if not is_unicode(text):
                raise _fault("a string holds half of a surrogate pair")
            return text
        case ast.Constant(value=None | bool()):
            return node.value
        case ast.Constant(value=int() | float() as number):
            return _bounded(number)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            if isinstance(number, bool):
                raise _fault(f"-{number} is no number")
            return -_bounded(number)
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_read_node(item, lines) for item in items]
        case ast.Dict(keys=keys, values=values) if all(
            isinstance(key, ast.Constant) and isinstance(key.value, str) for key in keys
        ):
            names = [_read_node(key, lines) for key in keys if key]
            if len(set(names)) != len(names):
                raise _fault("an object names a key twice")
            return dict(zip(names, (_read_node(v, lines) for v in values), strict=True))
        case ast.Name(id=word) if word in WORDS:
            return WORDS[word]
    return _segment(node, lines)


def _bounded(number: int | float) -> int | float:
    """The number, where JSON's reader would take it too. Raises CallError."""
    if not math.isfinite(number) if isinstance(number, float) else number >= 10**MAX_DIGITS:
        raise _fault(f"a number is infinite or has more than {MAX_DIGITS} digits")
    return number


def _segment(node: ast.expr, lines: list[bytes]) -> str:
    """The node's source; ast.get_source_segment splits all lines each time."""
    found = lines[node.lineno - 1 : node.end_lineno]
    found[-1] = found[-1][: node.end_col_offset]
    found[0] = found[0][node.col_offset :]
    return b"".join(found).decode()
