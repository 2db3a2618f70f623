"""How model families write a call: the marks around calls, and what may stand between them.

A mark is a tag such as <tool_call>, <|tool_call_start|>, <｜tool▁calls▁begin｜> or [TOOL_CALLS].
Families differ in its spelling more than in what follows: marks are told by their words, and what
follows by its own form, whatever the mark:

JSON         an object, several, or a list of them; also inside {"tool_calls": …}
XML          <function=NAME> or <invoke name="NAME"> around <parameter…> elements, or around JSON
pairs        NAME, then <arg_key>…</arg_key><arg_value>…</arg_value>
named JSON   NAME before an object, with or without a mark between them
XTML         Kimi K3's <|open|>call tool="NAME"<|sep|> around typed arguments
PLaMo        a name and JSON, each between tags of its own
gemma        call:NAME{key:<escape>text<escape>, …}
Python       [name(a=1)], or such calls one after the other
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Literal

from factory.domain.jsontext import (
    MAX_DEPTH,
    JsonTextError,
    json_path,
    parse_prefix,
    parse_strict,
    read_json,
    show,
)
from factory.domain.records import Call
from factory.judge.parsed import MAX_BLOCKS, CallError, Known, ReadCall, read_object, read_objects
from factory.judge.pythonic import NAME, read_list, read_one

Mark = Literal["open", "close", "thought", "thought end", "between", ""]
OPEN, CLOSE = "<tool_call>", "</tool_call>"

TAG = r"<[^<>\n]{1,160}>"
XTML = r"<\|(?:open|close)\|>\s*+[a-z]{1,20}+(?>[^<>\n]{0,400})<\|sep\|>"
"""Kimi K3's tags: a word with attributes between two tokens."""
_WORDS = re.compile(r"[a-z]+")
_CALL_WORDS = re.compile(
    r"(?:tool|function)s?(?>calls?|use|code|requests?)(?!arg|name|id$|result|response|output)"
    r"|usemcptool|pythontag|pythonstart|toolsprefix|invoketool|^(?:start)?action(?:start)?$|^plugin$"
)
_BETWEEN_WORDS = re.compile(r"toolsep|roleseparator|rolesep|tool(?:call)?arguments?|constrain$")
_THOUGHT_WORDS = re.compile(
    r"think|thought|reasoning|reflection|scratchpad|monologue|^inner(?:prefix|suffix)$"
)


_XTML_TAG = re.compile(r"<\|(open|close)\|>\s*+([a-z]++)[^<>\n]*<\|sep\|>")
_XTML_MARKS: dict[tuple[str, str], Mark] = {
    ("open", "think"): "thought",
    ("close", "think"): "thought end",
    ("open", "tools"): "open",
    ("close", "tools"): "close",
    ("close", "call"): "close",
    ("close", "message"): "close",
}


@lru_cache(maxsize=4096)
def mark_of(tag: str) -> Mark:
    """What a tag marks; "" is nothing that concerns calls.

    >>> mark_of("<|tool_calls_section_begin|>"), mark_of("</think>"), mark_of("<b>")
    ('open', 'thought end', '')
    """
    if tag == "<channel|>":  # Gemma 4's
        return "thought end"
    if xtml := _XTML_TAG.match(tag):
        return _XTML_MARKS.get((xtml[1], xtml[2]), "")
    head, *attributes = re.split(r"[\s=]", tag.lower(), maxsplit=1)
    words = _WORDS.findall(head)
    closes = bool(re.match(r".[|｜]?/", tag)) or "end" in words or "suffix" in words
    closes = closes or (tag.endswith("|>") and tag[1] != "|")
    joined = "".join(word for word in words if word not in ("begin", "end", "of", "section"))
    if _THOUGHT_WORDS.search(joined) and not attributes:
        return "thought end" if closes else "thought"
    if _BETWEEN_WORDS.search(joined):
        return "between"
    if _CALL_WORDS.search(joined.removesuffix("suffix")):
        return "close" if closes else "open"
    return "close" if closes and re.search("action|tools$|toolssuffix|python", joined) else ""


SEPARATOR = rf"(?>(?:{TAG}|\[ARGS\]|\[CALL_ID\]\w+|\s+)*)"
M3 = "]<]minimax[>["
"""What MiniMax M3 writes before each tag: what has none is text."""
XML_CALL = re.compile(
    rf"(?:{re.escape(M3)})?"
    r"<(?P<space>(?>[^<>\s=/\"']{0,40}[:｜|])?)(?P<tag>function|invoke|tool)"
    r"(?:\s*=\s*|\s+name\s*=\s*)[\"']?(?P<name>[^<>\"'\n]{1,200})[\"']?[^<>\n]{0,100}>"
)
_XML_ARGUMENT = re.compile(
    r"\s*+<(?P<open>(?>[^<>\s=/\"']{0,40}[:｜|])?(?:parameter|param|argument|arg))"
    r"(?:\s*=\s*|\s+(?:name|key)\s*=\s*)[\"']?(?P<name>[^<>\"'\n]{1,200})[\"']?"
    r"(?P<rest>[^<>\n]{0,100})>"
)
_M3_ELEMENT = re.compile(rf"\s*+{re.escape(M3)}<(?P<key>[^<>/\s][^<>\n]{{0,200}})>")
XTML_CALL = re.compile(r"<\|open\|>\s*+call\b(?P<attributes>[^<>\n]{0,400})<\|sep\|>")
_XTML_PART = re.compile(
    r"\s*+<\|open\|>\s*+(?P<word>argument|json)\b(?P<attributes>[^<>\n]{0,400})<\|sep\|>"
)
_XTML_ATTRIBUTE = re.compile(r'(\w{1,20}+)="([^"]*+)"')
_PLAMO = re.compile(
    r"<\|plamo:begin_tool_name:plamo\|>(?P<name>[^<>\n]{1,200}+)<\|plamo:end_tool_name:plamo\|>\s*+"
    r"<\|plamo:begin_tool_arguments:plamo\|>(?>(?:<\|plamo:constrain\|>\w{1,20}+)?)"
    r"(?>(?:<\|plamo:msg\|>)?)\s*+"
)
_PLAMO_END = "<|plamo:end_tool_arguments:plamo|>"
_PAIRS = re.compile(
    rf"({NAME})\s*+(?:<tool_sep[^<>\n]{{0,20}}>\s*+)?(?=<\w{{0,20}}?arg_key[:\w]{{0,20}}>)"
)
_KEY = re.compile(r"\s*+<(\w{0,20}?arg_key[:\w]{0,20})>")
_VALUE = re.compile(r"\s*+<(\w{0,20}?arg_value[:\w]{0,20})>")
_NAMED = re.compile(
    rf"(?:function(?:{TAG}|(?=[^\W\d][^\n]{{0,200}}\n```)))?(?P<name>[\w.:/-]{{1,200}}+)"
    rf"(?P<between>{SEPARATOR})(?:```\w*+\s*+)?(?=\{{)"
)
_TYPED = re.compile(r"function<[^<>\n]{0,20}sep[^<>\n]{0,20}>\s*+(?=<)")
_GEMMA = re.compile(r"(?:call)?:(?P<name>[\w.:/-]{1,200}+)\s*+(?=\{)")
_PYTHON_ONE = re.compile(rf"{NAME}\s*+\(")
_PYTHON_LIST = re.compile(rf"\[\s*+{NAME}\s*+\(")
_JSON_LIST = re.compile(r"\[\s*+[\[{\]\"]")
_STRING_OR_CLOSE = re.compile(
    r'"(?>[^"\\]*+(?:\\(?:.|\Z)[^"\\]*+)*)(?P<end>"|\Z)|</tool_call>', re.DOTALL
)
_SPACE = re.compile(r"\s*+")
_FENCE_END = re.compile(r"\s*+```")


def skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


class Payload:
    """The calls that are being read out of one answer."""

    def __init__(self, text: str, known: Known | None = None) -> None:
        self.text = text
        self.known: Known = known or {}
        self.calls: list[Call] = []
        self.extra_keys: list[str] = []
        self.foreign: list[int] = []
        self.repaired = False

    def add(self, read: ReadCall) -> None:
        if len(self.calls) == MAX_BLOCKS:
            raise CallError(f"more than {MAX_BLOCKS} calls, in as many call blocks or fewer")
        if not read.is_own:
            self.foreign.append(len(self.calls))
        paths = ((len(self.calls), *path) for path in read.extra_keys)
        self.extra_keys += map(json_path, paths)
        self.calls.append(read.call)

    def keep(self, number: int) -> None:
        """Forget all but the first calls."""
        del self.calls[number:]
        self.foreign = [index for index in self.foreign if index < number]

    def read(self, position: int) -> int:
        """One call or list of calls in any form; the index after it. Raises CallError."""
        text = self.text
        if match := _TYPED.match(text, position):
            position = match.end()
        if text.startswith("{", position) or _JSON_LIST.match(text, position):
            return self.read_json(position)
        if match := XML_CALL.match(text, position):
            return self.read_xml(match)
        if match := XTML_CALL.match(text, position):
            return self.read_xtml(match)
        if match := _PLAMO.match(text, position):
            return self._read_plamo(match)
        if match := _PAIRS.match(text, position):
            return self.read_pairs(match)
        if match := _GEMMA.match(text, position):
            arguments, end = _gemma_value(text, match.end(), 0)
            self.add(ReadCall(Call(name=match["name"], arguments=arguments)))
            return end
        if match := _NAMED.match(text, position):
            return self.read_named(match["name"], match["between"], match.end())
        if _PYTHON_LIST.match(text, position):
            return self.read_python_list(position)
        if _PYTHON_ONE.match(text, position):
            call, end = read_one(text, position)
            self.add(ReadCall(call))
            return end
        raise CallError(f"no call stands in {show(text[position : position + 200])}")

    def read_json(self, position: int) -> int:
        value, end = self.parse(position)
        for read in read_objects(value, self.known):
            self.add(read)
        return end

    def parse(self, position: int) -> tuple[Any, int]:
        try:
            return parse_prefix(self.text, position)
        except JsonTextError as error:
            raise CallError(f"not JSON: {error}") from None

    def read_python_list(self, position: int) -> int:
        calls, end = read_list(self.text, position)
        for call in calls:
            self.add(ReadCall(call))
        return end

    def read_hermes(self, start: int) -> int:
        """The block whose body starts at `start`: JSON, which may be mended, up to its closing tag.

        A closing tag inside a JSON string does not end the block. What other families write in the
        same tags is read as well. Raises CallError.
        """
        text, body = self.text, skip_space(self.text, start)
        if (match := XML_CALL.match(text, body)) or (match := _PAIRS.match(text, body)):
            is_xml = match.re is XML_CALL
            end = skip_space(text, self.read_xml(match) if is_xml else self.read_pairs(match))
            end += len(M3) * text.startswith(M3 + CLOSE, end)
            if not is_xml and not text.startswith(CLOSE, end):
                raise CallError("the last <tool_call> is not closed")
            return end + len(CLOSE) * text.startswith(CLOSE, end)
        end = text.find(CLOSE, start)
        if _JSON_LIST.match(text, body):
            return self._read_listed(body)
        if end < 0:
            raise CallError(f"the last <tool_call> is not closed: {show(text[start:])}")
        if (alone := text[start:end].strip()) in self.known:
            self.add(ReadCall(Call(name=alone, arguments={})))
            return end + len(CLOSE)
        value, end = self._read_block(start, end)
        if not isinstance(value, dict):
            message = f"a call is an object with name and arguments, not {show(value)}"
            raise CallError(message, "call_keys")
        self.add(read_object(value, self.known))
        return end + len(CLOSE)

    def _read_listed(self, position: int) -> int:
        """A list after the opening tag (Granite 3.1), with or without the closing one."""
        value, end = self.parse(position)
        if not value:
            raise CallError("a call is an object with name and arguments, not []", "call_keys")
        for read in read_objects(value, self.known):
            self.add(ReadCall(read.call))
        end = skip_space(self.text, end)
        return end + len(CLOSE) * self.text.startswith(CLOSE, end)

    def _read_block(self, start: int, end: int) -> tuple[Any, int]:
        """The JSON of a Hermes block, and where its closing tag is."""
        text = self.text
        try:
            return parse_strict(text[start:end]), end
        except JsonTextError:
            end = _close_of(text, start, end)
        try:
            read = read_json(text[start:end])
        except JsonTextError as error:
            raise CallError(f"not JSON: {error}") from None
        self.repaired = self.repaired or read.repaired
        return read.value, end

    def read_xml(self, match: re.Match[str]) -> int:
        """An element with a tool's name, around its arguments."""
        text, name, position = self.text, match["name"].strip(), match.end()
        closing = f"</{match['space']}{match['tag']}>"
        arguments: Any
        if match[0].startswith(M3) or text.endswith(M3, 0, match.start()):
            closing = M3 + closing
            arguments, position = self._read_elements(name, position, 0)
        inner = skip_space(text, position)
        if text.startswith("{", inner):
            arguments, position = self.parse(inner)
        elif not closing.startswith(M3):
            arguments = {}
            while found := _XML_ARGUMENT.match(text, position):
                close = f"</{found['open']}>"
                end = text.find(close, found.end())
                if end < 0:
                    raise CallError(f"the argument {show(found['name'])} is not closed")
                if (key := found["name"].strip()) in arguments:
                    raise CallError(f"the argument {show(key)} is given twice")
                value = text[found.end() : end].removeprefix("\n").removesuffix("\n")
                arguments[key] = self._value(name, key, value, found["rest"])
                position = end + len(close)
        position = skip_space(text, position)
        if not text.startswith(closing, position):
            raise CallError(f"a {match[0]} tag that is not whole")
        self.add(ReadCall(Call(name=name, arguments=arguments)))
        return position + len(closing)

    def _read_elements(self, name: str, position: int, depth: int) -> tuple[Any, int]:
        """MiniMax M3's elements as a table, or as a list where inner ones are all called item."""
        text, parts = self.text, list[tuple[str, Any]]()
        if depth > MAX_DEPTH:
            raise CallError(f"nested deeper than {MAX_DEPTH} levels")
        while found := _M3_ELEMENT.match(text, position):
            key, start, closing = found["key"], found.end(), f"{M3}</{found['key']}>"
            value: Any
            if _M3_ELEMENT.match(text, start):
                value, position = self._read_elements(name, start, depth + 1)
                position = skip_space(text, position)
            else:
                position = text.find(closing, start)
                inner = text[start:position]
                value = self._value(name, key, inner) if not depth else self._value("", "", inner)
            if position < 0 or not text.startswith(closing, position):
                raise CallError(f"the argument {show(key)} is not closed")
            position += len(closing)
            parts.append((key, value))
        if depth and {key for key, _ in parts} == {"item"}:
            return [value for _, value in parts], position
        table = dict(parts)
        if len(table) < len(parts):
            raise CallError(f"an argument of {show(name)} is given twice")
        return table, position

    def read_xtml(self, match: re.Match[str]) -> int:
        """Kimi K3's call: typed arguments, or all of them as one JSON."""
        text, position = self.text, match.end()
        name, arguments = _attributes(match).get("tool", ""), dict[str, Any]()
        if not name:
            raise CallError(f"a call without a tool: {show(match[0])}")
        while found := _XTML_PART.match(text, position):
            close, of = f"<|close|>{found['word']}<|sep|>", _attributes(found)
            end = text.find(close, found.end())
            if end < 0:
                raise CallError(f"an argument of {show(name)} is not closed")
            position = end + len(close)
            if found["word"] == "json":
                arguments, end = self.parse(found.end())
                if not isinstance(arguments, dict):
                    raise CallError(f"the arguments of {show(name)} are no object", "call_keys")
                continue
            if "key" not in of or of["key"] in arguments:
                raise CallError(f"an argument of {show(name)} has no name, or one given before")
            value = text[found.end() : end]
            is_text = of.get("type", "string") == "string"
            arguments[of["key"]] = value if is_text else _parse(value)
        position = skip_space(text, position)
        if not text.startswith("<|close|>call<|sep|>", position):
            raise CallError(f"a call of {show(name)} that is not whole")
        self.add(ReadCall(Call(name=name, arguments=arguments)))
        return position + len("<|close|>call<|sep|>")

    def _read_plamo(self, match: re.Match[str]) -> int:
        """PLaMo 3's call: a name, then an object of arguments, each between its tags."""
        end = skip_space(self.text, self.read_named(match["name"].strip(), "", match.end()))
        if not self.text.startswith(_PLAMO_END, end):
            raise CallError(f"a call of {show(match['name'])} that is not whole")
        return end + len(_PLAMO_END)

    def read_pairs(self, match: re.Match[str]) -> int:
        """A name before pairs of keys and values."""
        text, name, position = self.text, match[1], match.end()
        arguments: dict[str, Any] = {}
        while key := _KEY.match(text, position):
            ends = text.find(f"</{key[1]}>", key.end())
            value = _VALUE.match(text, ends + len(key[1]) + 3) if ends >= 0 else None
            close = text.find(f"</{value[1]}>", value.end()) if value else -1
            if value is None or close < 0:
                raise CallError(f"an argument of {show(name)} is not whole")
            word = text[key.end() : ends].strip()
            if word in arguments:
                raise CallError(f"the argument {show(word)} is given twice")
            arguments[word] = self._value(name, word, text[value.end() : close])
            position = close + len(value[1]) + 3
        self.add(ReadCall(Call(name=name, arguments=arguments)))
        return position

    def read_named(self, name: str, between: str, position: int) -> int:
        """A name before a JSON object of arguments, which may stand in a fence."""
        arguments, end = self.parse(position)
        if "argument" in between or name.startswith("functions."):
            name = re.sub(r":\d+$", "", name)  # Kimi numbers its calls
        name = name.removeprefix("functions.")
        self.add(ReadCall(Call(name=name, arguments=arguments)))
        fence = _FENCE_END.match(self.text, end)
        return fence.end() if fence else end

    def _value(self, name: str, key: str, text: str, attributes: str = "") -> Any:
        """A value that is written without quotes: JSON, unless it says or its schema has text."""
        text = text.removeprefix("<![CDATA[").removesuffix("]]>")
        says = re.search(r"""string\s*=\s*["'](true|false)""", attributes)
        if (says and says[1] == "true") or (not says and key in self.known.get(name, ())):
            return text
        try:
            value = parse_strict({"True": "true", "False": "false"}.get(text.strip(), text))
        except JsonTextError:
            return text
        return text if isinstance(value, str) else value


def _attributes(match: re.Match[str]) -> dict[str, str]:
    """Attributes of a tag of Kimi K3's, by name."""
    return {
        key: value.replace("&quot;", '"').replace("&amp;", "&")
        for key, value in _XTML_ATTRIBUTE.findall(match["attributes"])
    }


def _close_of(text: str, start: int, first: int) -> int:
    """The first closing tag outside JSON strings; `first` where strings are broken."""
    for match in _STRING_OR_CLOSE.finditer(text, start):
        if match["end"] == "":
            break
        if match["end"] is None:
            return match.start()
    return first


_ESCAPES = ("<escape>", '<|"|>')
_GEMMA_KEY = re.compile(
    r"\s*+(?:<escape>|<\|\"\|>|\")?([^\s:{}\[\],<\"]{1,200}+)[^:{}\[\],]{0,20}:\s*+"
)
_QUOTED = re.compile(r'"(?>[^"\\]*+(?:\\.[^"\\]*+)*)"', re.DOTALL)
_GEMMA_BARE = re.compile(r"[^,{}\[\]<]*+")


def _gemma_value(text: str, position: int, depth: int) -> tuple[Any, int]:
    """A value as FunctionGemma and Gemma 4 write it, and the index after it."""
    if depth > MAX_DEPTH:
        raise CallError(f"nested deeper than {MAX_DEPTH} levels")
    position = skip_space(text, position)
    for mark in _ESCAPES:
        if text.startswith(mark, position):
            end = text.find(mark, position + len(mark))
            if end < 0:
                raise CallError("a text is not closed")
            return text[position + len(mark) : end], end + len(mark)
    opening = text[position : position + 1]
    if quoted := _QUOTED.match(text, position):
        return _parse(quoted[0]), quoted.end()
    if opening not in ("{", "["):
        bare = _GEMMA_BARE.match(text, position)
        assert bare is not None
        return _parse(bare[0].strip()), bare.end()
    items: list[Any] = []
    table: dict[str, Any] = {}
    closing = "}" if opening == "{" else "]"
    position = skip_space(text, position + 1)
    while not text.startswith(closing, position):
        key = ""
        if opening == "{":
            match = _GEMMA_KEY.match(text, position)
            if match is None or match[1] in table:
                raise CallError(f"{show(text[position : position + 100])} begins with no new key")
            key, position = match[1], match.end()
        value, position = _gemma_value(text, position, depth + 1)
        table[key] = value
        items.append(value)
        position = skip_space(text, position)
        if text.startswith(",", position):
            position = skip_space(text, position + 1)
        elif not text.startswith(closing, position):
            raise CallError("a bracket is not closed")
    return (table if opening == "{" else items), position + 1


def _parse(text: str) -> Any:
    try:
        return parse_strict(text)
    except JsonTextError:
        return text
