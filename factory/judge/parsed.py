"""What was read in an answer, and the one reader of a call object for all writings."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from factory.domain.jsontext import JsonTextError, Parts, json_path, parse_strict, show
from factory.domain.records import CONTEXT_FULL, ENGINE_DIED, PROMPT_TOO_LONG, Call

MAX_BLOCKS = 256
"""Calls read of one answer; more make it unreadable."""
TRUNCATED = "truncated"
"""The failure of an answer that ends before it calls or says anything."""
CUTS = {
    "length": "at the limit of new tokens",
    CONTEXT_FULL: "where it met engine.max_model_len",
    PROMPT_TOO_LONG: "because the prompt fills engine.max_model_len",
    ENGINE_DIED: "where the engine ended",
}
"""What cut an answer short, by its finish reason."""
Known = Mapping[str, Collection[str]]
"""Tools by name, each with those of its arguments that are text: some writings quote nothing, and
there `5` is a number for one tool and a text for another."""


class CallError(ValueError):
    """The answer bears the signs of a call and cannot be read; str() is one sentence."""

    def __init__(self, message: str, reason: str = "call_json") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedCalls:
    """An answer's calls, or why it has none."""

    text: str
    """The answer as sampled."""
    calls: tuple[Call, ...] | None
    """The calls in order, empty when the answer calls nothing; None when it cannot be read."""
    repaired: bool = False
    """Whether quotes or trailing commas were mended to read it."""
    extra_text: str = ""
    """Text outside the call blocks (its beginning)."""
    extra_keys: tuple[str, ...] = ()
    """JSON paths of keys other than name and arguments; they are dropped."""
    foreign: tuple[int, ...] = ()
    """Numbers of the calls that are no Hermes object of a name and an object of arguments."""
    failure: str = ""
    """Empty, or no_tool_call, call_json, call_keys, call_python, truncated."""
    path: str = "$"
    """Of the failure."""
    message: str = ""
    """Of the failure, in one sentence."""

    @property
    def kind(self) -> Literal["calls", "abstention", "truncated", "unreadable"]:
        """What the answer is; one that cannot be read, or was cut, is no abstention."""
        if self.calls:
            return "calls"
        if self.calls is not None:
            return "abstention"
        return "truncated" if self.failure == TRUNCATED else "unreadable"


def unreadable(text: str, reason: str, message: str, path: Parts = ()) -> ParsedCalls:
    return ParsedCalls(text=text, calls=None, failure=reason, path=json_path(path), message=message)


def if_cut(parsed: ParsedCalls, where: str) -> ParsedCalls:
    """The reading of an answer that was cut: one without a call is then no abstention."""
    if parsed.calls != ():
        return parsed
    return unreadable(parsed.text, TRUNCATED, f"the answer was cut {where} before it called")


def text_arguments(name: str, properties: object) -> dict[str, frozenset[str]]:
    """What is known of a tool by its properties, to be joined with that of others."""
    table = properties if isinstance(properties, dict) else {}
    texts = (key for key, schema in table.items() if _is_text(schema))
    return {name: frozenset(texts)}


def _is_text(schema: object) -> bool:
    return isinstance(schema, dict) and schema.get("type") == "string"


@dataclass(frozen=True, slots=True)
class ReadCall:
    """A call read out of an object."""

    call: Call
    is_own: bool = False
    """Whether it is as Hermes has it: a name and an object of arguments, under these words."""
    extra_keys: tuple[Parts, ...] = ()
    """Of such a one: paths of its other keys."""


_NAMES = ("name", "tool_name", "function", "tool", "action", "recipient_name")
_ARGUMENTS = ("arguments", "parameters", "args", "input", "action_input", "tool_input")
_LISTS = ("tool_calls", "function_calls")


def is_call_like(value: object) -> bool:
    """Whether JSON in the middle of a text is a call: it names a tool, and its arguments."""
    if isinstance(value, list):
        return bool(value) and all(map(is_call_like, value))
    if not isinstance(value, dict) or _is_document(value):
        return False
    if isinstance(value.get("function"), dict):
        return is_call_like(value["function"])
    if any(isinstance(value.get(key), list) for key in _LISTS):
        return True
    return isinstance(_first(value, _NAMES), str) and any(key in value for key in _ARGUMENTS)


def read_objects(value: object, known: Known | None = None) -> Iterator[ReadCall]:
    """The calls of a JSON value: an object, a list of them, or {"tool_calls": […]} around them.

    Raises CallError.
    """
    if isinstance(value, dict):
        key = next((key for key in _LISTS if isinstance(value.get(key), list)), "")
        value = value[key] if key else [value]
    if not isinstance(value, list):
        raise CallError(f"a call is an object with name and arguments, not {show(value)}")
    for each in value:
        yield read_object(each, known)


def read_object(value: object, known: Known | None = None) -> ReadCall:
    """One call, under the names of any family: {"name", "arguments"}, with `parameters`, `args` or
    `input` for arguments, `tool_name` for name, inside {"function": …}, or {NAME: arguments}.

    Arguments may be the JSON text of an object. Raises CallError, reason call_keys.
    """
    is_own = True
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        is_own, value = False, value["function"]
    if not isinstance(value, dict):
        message = f"a call is an object with name and arguments, not {show(value)}"
        raise CallError(message, "call_keys")
    alone = next(iter(value)) if len(value) == 1 else ""
    if known and alone in known and isinstance(value[alone], dict):
        return ReadCall(Call(name=alone, arguments=value[alone]))
    if _is_document(value):
        raise CallError(f"a tool's document is no call: {show(value)}", "call_keys")
    name = _find(value, _NAMES, "name")
    arguments = _find(value, _ARGUMENTS, "arguments")
    if not isinstance(name, str):
        raise CallError(f"name is {show(name)}, not a string", "call_keys")
    is_own = is_own and "name" in value and isinstance(value.get("arguments"), dict)
    if isinstance(arguments, str):
        try:
            arguments = parse_strict(arguments or "{}")  # OpenAI's API writes them as text
        except JsonTextError as error:
            raise CallError(f"the arguments of {show(name)} are not JSON: {error}") from None
    if not isinstance(arguments, dict):
        raise CallError(f"arguments is {show(arguments)}, not an object", "call_keys")
    extra = tuple((key,) for key in value if is_own and key not in ("name", "arguments"))
    return ReadCall(Call(name=name, arguments=arguments), is_own, extra)


def _first(value: Mapping[str, Any], keys: Collection[str]) -> object:
    return next((value[key] for key in keys if key in value), None)


def _find(value: Mapping[str, Any], keys: Collection[str], missing: str) -> object:
    if not any(key in value for key in keys):
        raise CallError(f"the key {missing} is missing in {show(value)}", "call_keys")
    return _first(value, keys)


def _is_document(value: Mapping[str, Any]) -> bool:
    """Whether it describes a tool instead of calling it."""
    schema = value.get("parameters")
    return "description" in value and isinstance(schema, dict) and "properties" in schema
