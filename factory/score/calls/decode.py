"""Calls out of a model's answer, whichever way its family writes them.

hermes   <tool_call>{"name": …, "arguments": {…}}</tool_call>, one block a call (also Qwen)
json     {"name": …, "arguments": {…}}, one or a list of them, bare or in a code fence
python   [name(a=1, b="x"), other.name()]
llama    <function=name>{…}</function>, or JSON after <|python_tag|>, several joined by ";"
mistral  [TOOL_CALLS] with a JSON list, or name[ARGS]{…}; also as it reads without these tokens
auto     the one whose signs the answer bears

An answer is data: nothing is evaluated, sizes and nesting are bounded, and no text raises. One that
bears the signs of a call and cannot be read is a failure, never an answer without calls.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

from factory.domain.jsontext import (
    MAX_CHARS,
    MAX_DEPTH,
    JsonTextError,
    measure_depth,
    parse_sequence,
    parse_strict,
    show,
)
from factory.domain.plaintext import is_unicode, printable
from factory.domain.records import Call
from factory.judge.reading import MAX_BLOCKS, ParsedCalls, parse_calls

Syntax = Literal["hermes", "json", "python", "llama", "mistral", "auto"]
Reading = Literal["official", "hermes", "json", "python", "llama", "mistral", "auto"]
"""Of a benchmark with a form of its own, which is always read; `official` reads nothing else."""
MAX_PYTHON_CHARS = 20_000
"""Longest answer that is read as Python calls."""
WORDS = {"true": True, "false": False, "null": None}
"""JSON's words, which models also write among Python values."""

_THINKING = re.compile(r"\s*+<think>.*?</think>", re.DOTALL)
_FENCE = re.compile(r"\s*+```\w*+\n?(.*?)```\s*+", re.DOTALL)
_JSON_START = re.compile(r"\{|\[\s*+[{\]]")
_LLAMA_BLOCK = re.compile(r"<function=([^<>\n]{1,200}+)>(.*)", re.DOTALL)
_LLAMA_TOKENS = re.compile(r"<\|(?:python_tag|eot_id|eom_id)\|>")
_MISTRAL_CALL = re.compile(
    r"\s*+(?:\[TOOL_CALLS\])?\s*+([\w.:/-]{1,200}+)(?:\[CALL_ID\]\w++)?(?:\[ARGS\])?\s*+(?=\{)"
)
_NAME = r"[^\W\d][\w.:/-]*+(?>(?: [\w.:/-]++)*)"
_PYTHON_START = re.compile(rf"\[?\s*+{_NAME}\(")
_PYTHON_CALL = re.compile(rf"\s*+({_NAME})\s*+\((.*)\)\s*+", re.DOTALL)
_STRING = (
    r"\"\"\".*?\"\"\"|'''.*?'''|\"(?>[^\"\\]*+(?:\\.[^\"\\]*+)*)\"|'(?>[^'\\]*+(?:\\.[^'\\]*+)*)'"
)
_PIECE = re.compile(rf"(?s:{_STRING}|.)")


class _DecodeError(ValueError):
    """The answer bears the signs of a call and cannot be read; str() is one sentence."""


def decode(text: str, syntax: Syntax) -> ParsedCalls:
    """The calls of an answer. Never raises.

    `calls` is empty with the failure `no_tool_call` where the answer calls nothing, and None with
    `call_json`, `call_keys` or `call_python` where it cannot be read.
    """
    if syntax == "hermes":
        return parse_calls(text)
    if len(text) > MAX_CHARS:
        return _failed(text, "call_json", f"{len(text)} characters, at most {MAX_CHARS} are read")
    thought = _THINKING.match(text)
    body = text[thought.end() :] if thought else text
    fenced = _FENCE.fullmatch(body)
    body = (fenced[1] if fenced else body).strip()
    chosen = _choose(body) if syntax == "auto" else syntax
    reason = "call_python" if chosen == "python" else "call_json"
    try:
        if chosen == "hermes":
            return _read_hermes(text, body)
        calls = () if chosen is None else tuple(_READERS[chosen](body))
    except (_DecodeError, JsonTextError) as error:
        return _failed(text, reason, str(error))
    if not calls:
        return ParsedCalls(
            text=text, calls=(), failure="no_tool_call", message=f"no call in {show(text)}"
        )
    return ParsedCalls(text=text, calls=calls)


def decode_beside(text: str, reading: Reading) -> tuple[Call, ...]:
    """The calls of an answer that has not a benchmark's own form; none where only that counts."""
    return () if reading == "official" else tuple(decode(text, reading).calls or ())


def is_abstention(text: str) -> bool:
    """Whether the answer neither makes a call nor tries to, in any syntax."""
    return decode(text, "auto").calls == ()


def _failed(text: str, failure: str, message: str) -> ParsedCalls:
    return ParsedCalls(text=text, calls=None, failure=failure, message=message)


def _choose(body: str) -> Syntax | None:
    """The syntax whose signs the answer bears; None for plain text."""
    if "[TOOL_CALLS]" in body:
        return "mistral"
    if "<tool_call" in body:
        return "hermes"
    if "<function=" in body or "<|python_tag|>" in body:
        return "llama"
    if _JSON_START.match(body):
        return "llama"  # reads bare JSON too, also several values joined by ";"
    if _PYTHON_START.match(body):
        return "python"
    return "mistral" if _MISTRAL_CALL.match(body) else None


def _read_hermes(text: str, body: str) -> ParsedCalls:
    parsed = parse_calls(body)
    if parsed.calls == ():
        return _failed(text, "call_json", "a <tool_call> tag that is not whole")
    return replace(parsed, text=text)


def _read_json(body: str) -> Iterator[Call]:
    """JSON objects, alone, in a list, or one after another."""
    if not _JSON_START.match(body):
        return
    values, cause = parse_sequence(body)
    if cause:
        raise _DecodeError(cause)
    yield from _read_values(values)


def _read_values(values: list[Any]) -> Iterator[Call]:
    if len(values) == 1 and isinstance(values[0], list):
        values = values[0]
    if len(values) > MAX_BLOCKS:
        raise _DecodeError(f"more than {MAX_BLOCKS} calls")
    yield from map(_read_object, values)


def _read_object(value: Any) -> Call:
    """{"name", "arguments"}, with `parameters` for arguments, or inside {"function": …}."""
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise _DecodeError(f"{show(value)} is no object with a name")
    arguments = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):
        arguments = parse_strict(arguments)  # OpenAI's API writes them as text
    if not isinstance(arguments, dict):
        raise _DecodeError(f"{show(value['name'])} has no object of arguments")
    return Call(name=value["name"], arguments=arguments)


def _read_llama(body: str) -> Iterator[Call]:
    """Function tags, else JSON with `;` between calls."""
    body = _LLAMA_TOKENS.sub("", body).strip()
    if "<function=" in body:
        *blocks, rest = body[body.index("<function=") :].split("</function>", MAX_BLOCKS)
        for block in blocks or [body]:
            match = _LLAMA_BLOCK.fullmatch(block.strip())
            if match is None or not blocks or "<function=" in rest:
                raise _DecodeError("a <function=…> tag that is not whole")
            yield _read_object({"name": match[1], "arguments": parse_strict(match[2])})
    elif _PYTHON_START.match(body):
        yield from _read_python(body)
    elif _JSON_START.match(body):
        values = []
        for piece in _split(body, ";"):
            found, cause = parse_sequence(piece)
            if cause:
                raise _DecodeError(cause)
            values += found
        yield from _read_values(values)


def _read_mistral(body: str) -> Iterator[Call]:
    """A JSON list after its marker, or each call's name before its arguments."""
    _, marker, rest = body.rpartition("[TOOL_CALLS]")
    if _JSON_START.match(rest.strip()):
        calls = list(_read_json(rest.strip()))
    else:
        calls = list(_split_mistral(body[body.index(marker) :] if marker else body))
    if marker and not calls:
        raise _DecodeError("a [TOOL_CALLS] marker without calls")
    yield from calls


def _split_mistral(body: str) -> Iterator[Call]:
    position = 0
    for _ in range(MAX_BLOCKS):
        match = _MISTRAL_CALL.match(body, position)
        if match is None:
            break
        end = _find_close(body, match.end())
        yield Call(name=match[1], arguments=parse_strict(body[match.end() : end]))
        position = end
    if position and body[position:].strip():
        raise _DecodeError(f"{show(body[position:])} follows the calls")


def _find_close(text: str, start: int) -> int:
    """Index after the bracket that closes the one at `start`."""
    depth = 0
    for match in _PIECE.finditer(text, start):
        depth += (match[0] in "{[(") - (match[0] in "}])")
        if depth == 0:
            return match.end()
    raise _DecodeError("a bracket is not closed")


def _split(text: str, separator: str) -> Iterator[str]:
    """The pieces between separators outside of strings and brackets."""
    depth = begin = 0
    for match in _PIECE.finditer(text):
        if match[0] == separator and depth == 0:
            yield text[begin : match.start()]
            begin = match.end()
        depth += (match[0] in "{[(") - (match[0] in "}])")
    if text[begin:].strip():
        yield text[begin:]


def _read_python(body: str) -> Iterator[Call]:
    """Calls with named arguments, alone or in a list. A tool's name may have spaces."""
    if not _PYTHON_START.match(body):
        return
    if len(body) > MAX_PYTHON_CHARS:
        raise _DecodeError(f"{len(body)} characters, at most {MAX_PYTHON_CHARS} are read")
    if measure_depth(body.replace("(", "[").replace(")", "]")) > MAX_DEPTH:
        raise _DecodeError(f"nested deeper than {MAX_DEPTH} levels")
    if body.startswith("["):
        if not body.endswith("]"):
            raise _DecodeError("the list of calls is not closed")
        body = body[1:-1]
    for number, piece in enumerate(_split(body, ",")):
        match = _PYTHON_CALL.fullmatch(piece)
        if match is None:
            raise _DecodeError(f"{show(piece)} is no call")
        if number == MAX_BLOCKS:
            raise _DecodeError(f"more than {MAX_BLOCKS} calls")
        yield Call(name=match[1], arguments=_read_arguments(match[2]))


def _read_arguments(text: str) -> dict[str, Any]:
    """`a=1, b="x"` as values."""
    source = f"f({text})"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source, mode="eval").body
        if not (isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name)):
            raise _DecodeError(f"{show(text)} is no list of arguments")
        if tree.args or any(keyword.arg is None for keyword in tree.keywords):
            raise _DecodeError(f"{show(text)} has an argument without a name")
        arguments = {str(k.arg): _read_node(k.value, source) for k in tree.keywords}
        if len(arguments) != len(tree.keywords):
            raise _DecodeError(f"{show(text)} gives an argument twice")
        return arguments
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        if isinstance(error, _DecodeError):
            raise
        cause = printable(str(error))[:100] or type(error).__name__
        raise _DecodeError(f"{show(text)} cannot be read: {cause}") from None


def _read_node(node: ast.expr, source: str) -> Any:
    """A literal's value; the source of anything else, which may name a variable."""
    match node:
        case ast.Constant(value=str() as text):
            if not is_unicode(text):
                raise _DecodeError("a string holds half of a surrogate pair")
            return text
        case ast.Constant(value=None | bool() | int()):
            return node.value
        case ast.Constant(value=float() as number) if abs(number) != float("inf"):
            return number
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_read_node(item, source) for item in items]
        case ast.Dict(keys=keys, values=values) if all(
            isinstance(key, ast.Constant) and isinstance(key.value, str) for key in keys
        ):
            names = [key.value for key in keys if isinstance(key, ast.Constant)]
            return dict(zip(names, (_read_node(v, source) for v in values), strict=True))
        case ast.Name(id=word) if word in WORDS:
            return WORDS[word]
    return ast.get_source_segment(source, node) or ""


_READERS = {
    "json": _read_json,
    "python": _read_python,
    "llama": _read_llama,
    "mistral": _read_mistral,
}
