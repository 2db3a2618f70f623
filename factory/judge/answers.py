"""Calls out of a model's answer, whichever way its family writes them.

An answer is gone through once. Marks (factory.judge.writings) outside of what was read before them
open calls; without a mark a call is JSON that names a tool and its arguments, Python's
`[name(a=1)]`, or `name(a=1)` on lines of its own. Where one call is marked, only marked ones count.
What stands before a tag that closes a thought is thought: nothing in it is called. A mark inside a
string, or alone in quotes, is text.

An answer is data: nothing is evaluated, sizes, nesting and tries are bounded, and no text raises.

Why not the parsers that are there: vLLM's (`vllm.tool_parsers`) need the family's name and its
tokenizer, answer a call that they cannot read with plain text and no reason, and are unbounded
patterns over the whole text; `parse_response` of transformers needs a `response_template` in the
model's folder, which few have, and gives no reason either. An answer that cannot be read would be
an abstention with both.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable
from typing import Literal

from factory.domain.jsontext import MAX_CHARS, JsonTextError, parse_prefix, show
from factory.judge.parsed import (
    TRUNCATED,
    CallError,
    Known,
    ParsedCalls,
    ReadCall,
    is_call_like,
    read_objects,
    unreadable,
)
from factory.judge.pythonic import NAME, find_close, read_one
from factory.judge.writings import (
    M3,
    OPEN,
    TAG,
    XML_CALL,
    XTML,
    XTML_CALL,
    Payload,
    mark_of,
    skip_space,
)

Syntax = Literal["hermes", "json", "python", "llama", "mistral", "auto"]
MAX_RESTARTS = 8
"""Thoughts that are drafts of calls that cannot be read; before the last ones nothing is tried."""
MAX_FAULTS = 16
"""Brackets in prose that are tried as JSON and are none."""
MAX_TRIED = 2 * MAX_CHARS
"""Characters that all tries in vain go through; where they are more, the answer is unreadable."""

_BARE: dict[Syntax, frozenset[str]] = {
    "hermes": frozenset(),
    "json": frozenset({"json"}),
    "python": frozenset({"python"}),
    "llama": frozenset({"json", "python"}),
    "mistral": frozenset({"json", "named"}),
    "auto": frozenset({"json", "python", "named"}),
}
"""What each syntax reads without a mark."""
_BRACKETED = r"\[/?[A-Z][A-Z_]{2,24}\]|◁/?think▷"
_TAG = re.compile(rf"{XTML}|{TAG}|{_BRACKETED}")
_CLOSING = re.compile(rf"\s*+(?:{re.escape(M3)})?(?P<tag>{_TAG.pattern})")
_RECIPIENT = (
    r"\bto=functions\.[\w.:/-]{1,200}+(?>[^<{\n]|<\|(?:channel|constrain|message)\|>){0,80}"
)
_NUMBERED = r"\bfunctions\.[\w.-]{1,200}+:\d{1,6}\s*+(?=\{)"
_REACT = (
    r"(?m:^)[ \t]*+Action:[ \t]*+[^\n]{1,200}\n\s*+Action[ _]Input:\s*+"
    r"|✿FUNCTION✿:[ \t]*+[^\n]{1,200}\n\s*+✿ARGS✿:\s*+"
)
_CALL_SIGN = (
    r"(?:\[\s*+)?\{\s*+"
    r"[\"'](?:name|function|tool_name|tool_calls|type|arguments|parameters)[\"']\s*+:"
)
_PYTHON_SIGN = rf"\[\s*+{NAME}\(\s*+(?:\w++\s*+=(?!=)|\*\*|\)\s*+[\],])"


def _signs(bracket: str) -> re.Pattern[str]:
    """Where a scan stops; between these is prose."""
    return re.compile(
        rf"(?P<tag>{XTML}|{TAG}|{_BRACKETED})|(?P<recipient>{_RECIPIENT}(?=\{{))|(?P<numbered>{_NUMBERED})"
        rf"|(?P<react>{_REACT})|(?P<mark>\bfunctools(?=\[\s*+\{{))"
        rf"|(?P<half><[|｜]?tool[_▁]?calls?\b)|(?P<fence>```\w*+)|(?P<bracket>{bracket})"
        r"|(?P<line>(?m:^)[ \t]*+(?=[^\W\d][\w.:/-]{0,200}\())"
    )


_SIGN, _FEW_SIGNS = _signs(r"[\[{]"), _signs(f"{_CALL_SIGN}|{_PYTHON_SIGN}")
_CALL_START, _PYTHON_LIST = re.compile(_CALL_SIGN), re.compile(_PYTHON_SIGN)
_HEADER = re.compile(
    r"(?P<head>(?>[^<{\n]|<\|(?:channel|constrain)\|>){0,200})<\|message\|>\s*+(?P<body>)"
)
_TO = re.compile(r"\bto=([\w.:/-]{1,200}+)")
_NOBODY = ("self", "user", "all", "assistant")
_MESSAGE_END = re.compile(r"<\|(?:end|call|return|start|channel|eom|eot)\|>")
_GRANITE = re.compile(r"\s*+Here(?: is|'s) my thought process:")
_GRANITE_END = re.compile(r"Here(?: is|'s) my response:")
_FIRST = re.compile(r"\s*+(?P<fence>```\w*+\s*+)?")
_REST = re.compile(r"\s*+(?:```\s*+)?\Z")
_QUOTES = "\"'`“”‘’"
_JSON_START = re.compile(r"\{|\[\s*+[\[{]")
_NAMED_FIRST = re.compile(r"[\w.:/-]{0,200}[\w./-](?P<apart>\s*+)(?:```\w*+\s*+)?(?=\{)")
_PYTHON_FIRST = re.compile(rf"[^\W\d][\w.:/-]*+\(|\[\s*+{NAME}\s*+\(")
_PYTHON_LINE = re.compile(
    r"[^\W\d][\w.:/-]*+\(\s*+(?:\w++\s*+=(?!=)|\*\*|\)[ \t;,]*+$)", re.MULTILINE
)
_LIST_BEGUN = re.compile(r"\[[^\W\d][\w.:/-]*+\(")
_PYTHON_NEXT = re.compile(r"[^\W\d][\w.:/-]*+\(\s*+(?:\w++\s*+=(?!=)|\))")
_LINE_END = re.compile(r"[ \t;,]*+(?:\n|\Z|```)")
_BETWEEN = re.compile(r"\s*+(?P<mark>[;,]?)\s*+")


def read_answer(text: str, syntax: Syntax = "auto", known: Known | None = None) -> ParsedCalls:
    """The calls of an answer. Never raises.

    `calls` is empty with the failure `no_tool_call` where the answer calls nothing, and None with
    `call_json`, `call_keys`, `call_python` or `truncated` where it cannot be read, or is written
    in another syntax. `known` says which arguments are text.
    """
    if len(text) > MAX_CHARS:
        problem = f"{len(text)} characters, at most {MAX_CHARS} are read"
        return unreadable(text, "call_json", problem)
    found = _scan(text, syntax, known)
    if found.calls == () and syntax != "auto":
        other = _scan(text, "auto", known)
        if other.calls:
            problem = f"a call that is not written in the syntax {syntax}: {show(text)}"
            return unreadable(text, "call_json", problem)
        return other
    return found


def _scan(text: str, syntax: Syntax, known: Known | None) -> ParsedCalls:
    scan = _Scan(text, syntax, known)
    try:
        scan.run()
    except CallError as error:
        return unreadable(text, error.reason, str(error), (len(scan.found.calls),))
    found = scan.found
    if found.calls:
        return ParsedCalls(
            text=text,
            calls=tuple(found.calls),
            repaired=found.repaired,
            extra_text=scan.outside(),
            extra_keys=tuple(found.extra_keys),
            foreign=tuple(found.foreign),
        )
    if scan.unfinished:
        return unreadable(text, TRUNCATED, "the answer ends inside of a thought")
    message = f"no call in {show(text)}" if text.strip() else "an empty answer"
    return ParsedCalls(text=text, calls=(), failure="no_tool_call", message=message)


def without_thought(text: str) -> str:
    """What stands after the last tag that closes a thought."""
    return text[max(_thought_ends(text), default=0) :].strip()


def _thought_ends(text: str) -> list[int]:
    """Where thoughts end: after each tag that closes one and is not merely mentioned."""
    return [
        match.end()
        for match in _TAG.finditer(text)
        if mark_of(match[0]) == "thought end" and not _is_mention(match)
    ]


def _is_mention(match: re.Match[str]) -> bool:
    """Whether a mark stands alone in quotes."""
    start, end = match.span()
    before, after = match.string[max(0, start - 1) : start], match.string[end : end + 1]
    return bool(before and after) and before in _QUOTES and after in _QUOTES


class _Scan:
    """One way through an answer."""

    def __init__(self, text: str, syntax: Syntax, known: Known | None) -> None:
        self.text = text
        self._syntax: Syntax = syntax
        self._known = known
        self._position = 0
        self._thought_ends = _thought_ends(text)
        self._tried = 0
        self.unfinished = False
        """Whether the answer ends inside of a thought."""
        self._clear()

    def _clear(self) -> None:
        """Forget what was read: it was thought."""
        self.marked = Payload(self.text, self._known)
        self.bare = Payload(self.text, self._known)
        self._spans: list[tuple[int, int, Payload]] = []
        self._fence = -1
        self._faults = 0
        self._allowed = _BARE[self._syntax]

    @property
    def found(self) -> Payload:
        """The calls that count."""
        return self.marked if self.marked.calls else self.bare

    def outside(self) -> str:
        """The beginnings of what stands around the calls."""
        position, gaps = 0, []
        for start, end, payload in self._spans:
            if payload is self.found:
                gaps.append(self.text[position : min(start, position + 200)].strip())
                position = end
        gaps.append(self.text[position : position + 200].strip())
        return " ".join(filter(None, gaps))

    def run(self) -> None:
        """Read the answer; what cannot be read in a thought is no fault. Raises CallError."""
        start = 0
        if match := _GRANITE.match(self.text):
            closing = _GRANITE_END.search(self.text, match.end())
            start = closing.end() if closing else len(self.text)
            self.unfinished = closing is None
        while True:
            try:
                self._read_body(start)
                return
            except CallError:
                ends = self._thought_ends[-MAX_RESTARTS:]
                start = next((end for end in ends if end > self._position), -1)
                if start < 0:
                    raise
                self._clear()

    def _read_body(self, start: int) -> None:
        self._read_first(start)
        while match := self._next_sign():
            kind = match.lastgroup or ""
            if kind != "bracket" and _is_mention(match):
                self._position = match.end()
            else:
                _READERS[kind](self, match)

    def _next_sign(self) -> re.Match[str] | None:
        signs = _SIGN if self._faults < MAX_FAULTS else _FEW_SIGNS
        return signs.search(self.text, self._position)

    def _keep(self, payload: Payload, start: int, end: int) -> None:
        """Go on after what was read, and after the marks that close it."""
        start -= len(M3) * self.text.endswith(M3, 0, start)
        while match := _CLOSING.match(self.text, end):
            if mark_of(match["tag"]) not in ("close", "between"):
                break
            end = match.end()
        self._spans.append((start, end, payload))
        self._position = end

    # Without a mark -----------------------------------------------------------------------

    def _read_first(self, start: int) -> None:
        """What an answer begins with: there the first sign of a call is one."""
        self._position = start
        match = _FIRST.match(self.text, start)
        assert match is not None
        first = match.end()
        if "json" in self._allowed and _JSON_START.match(self.text, first):
            self._read_json(first, is_first=True)
        elif "python" in self._allowed and _PYTHON_FIRST.match(self.text, first):
            self._read_python_first(first)
        elif "named" in self._allowed and _NAMED_FIRST.match(self.text, first):
            self._read_named_first(first)
        if self._position > start and match["fence"]:
            self._fence = first

    def _read_bracket(self, match: re.Match[str]) -> None:
        start, text = match.start(), self.text
        if _JSON_START.match(text, start):
            self._read_json(start)
        elif (
            "python" in self._allowed
            and _PYTHON_LIST.match(text, start)
            and not text[max(0, start - 40) : start].rstrip(" \t").endswith(("=", "(", "+"))
        ):
            self._read_python_list(start)
        else:
            self._position = start + 1

    def _read_json(self, start: int, *, is_first: bool = False) -> None:
        """JSON in a text; only where an answer begins with it, or it names a tool, is it a call."""
        is_sign = is_first or _CALL_START.match(self.text, start) is not None
        self._position = start + 1
        try:
            value, end = parse_prefix(self.text, start)
        except JsonTextError as error:
            if is_sign and "json" in self._allowed:
                raise CallError(f"not JSON: {error}") from None
            self._faults += 1
            self._try_in_vain(start, error.end)
            return
        self._position = end
        if "json" not in self._allowed or not (is_first or is_call_like(value)):
            return
        for read in read_objects(value, self._known):
            self.bare.add(read)
        self._keep(self.bare, start, end)
        self._expect_more()

    def _try_in_vain(self, start: int, end: int) -> None:
        """Count what was read for nothing. Raises CallError."""
        self._tried += end - start
        if self._tried > MAX_TRIED:
            raise CallError("too many brackets that are no calls")

    def _expect_more(self) -> None:
        """After a semicolon between calls a call is due, or the end."""
        match = _BETWEEN.match(self.text, self._position)
        if match is None or match["mark"] != ";" or match.end() == len(self.text):
            return
        if not _JSON_START.match(self.text, match.end()):
            raise CallError(f"{show(self.text[match.end() :])} follows the calls")

    def _read_python_list(self, start: int) -> None:
        before = len(self.bare.calls)
        end = self.bare.read_python_list(start)
        if self.text.startswith("(", end):  # a link of Markdown
            self.bare.keep(before)
            self._position = end
            return
        self._keep(self.bare, start, end)

    def _read_python_first(self, start: int) -> None:
        text = self.text
        if not (_PYTHON_LIST.match(text, start) or _PYTHON_LINE.match(text, start)):
            try:
                end = find_close(text, start if text[start] == "[" else text.index("(", start))
            except CallError:
                if _LIST_BEGUN.match(text, start):
                    raise
                self._try_in_vain(start, len(text))
                return
            if not _REST.match(text, end):
                self._try_in_vain(start, end)
                return
        if text[start] == "[":
            self._read_python_list(start)
        else:
            self._read_python_lines(start)
            if not _LINE_END.match(text, self._position):
                problem = f"{show(text[self._position :])} follows the calls"
                raise CallError(problem, "call_python")

    def _read_python_lines(self, start: int) -> None:
        """Calls one after the other, from `start` on."""
        text, position = self.text, start
        while True:
            call, position = read_one(text, position)
            self.bare.add(ReadCall(call))
            match = _BETWEEN.match(text, position)
            if match is None or not _PYTHON_LINE.match(text, match.end()):
                break
            position = match.end()
        self._keep(self.bare, start, position)

    def _read_line(self, match: re.Match[str]) -> None:
        """A call on a line of its own; of code in a fence only where all of it is calls."""
        text, start = self.text, match.end()
        self._position = text.index("(", start)
        if "python" not in self._allowed or not _PYTHON_LINE.match(text, start):
            return
        if self._fence >= 0 and skip_space(text, self._fence) < start:
            return
        spans, before = list(self._spans), len(self.bare.calls)
        self._read_python_lines(start)
        end = _LINE_END.match(text, self._position)
        if end is None or (self._fence >= 0 and not _is_fence_end(text, self._position)):
            self.bare.keep(before)
            self._spans = spans

    def _read_named_first(self, start: int) -> None:
        """NAME{…}NAME{…}, and nothing else."""
        text, position = self.text, start
        named, is_apart = Payload(text, self._known), False
        while match := _NAMED_FIRST.match(text, position):
            is_apart = is_apart or bool(match["apart"])
            if not match[0].startswith("call:"):
                try:
                    value, _ = parse_prefix(text, match.end())
                except JsonTextError as error:
                    if is_apart:  # a word before a bracket
                        self._try_in_vain(start, error.end)
                        return
                    raise CallError(f"not JSON: {error}") from None
                if is_call_like(value):
                    return
            position = skip_space(text, named.read(position))
        if not _REST.match(text, position):
            if is_apart:
                return
            raise CallError(f"{show(text[position:])} follows the calls")
        for call in named.calls:
            self.bare.add(ReadCall(call))
        self._keep(self.bare, start, position)

    # With a mark --------------------------------------------------------------------------

    def _read_tag(self, match: re.Match[str]) -> None:
        tag, mark = match[0], mark_of(match[0])
        self._position = match.end()
        if tag in ("<|channel|>", "<|start|>") and self._syntax == "auto":
            self._read_channel(match)
        elif mark == "thought" or (tag == "<|channel>" and self._names("thought")):
            self._skip_thought(match.end())
        elif mark == "thought end":
            self._clear()
            self._read_first(match.end())
        elif self._is_mine(tag) and (element := XML_CALL.match(self.text, match.start())):
            self._position = match.start()
            self._keep(self.marked, match.start(), self.marked.read_xml(element))
        elif self._syntax == "auto" and XTML_CALL.match(tag):
            self._position = match.start()
            self._keep(self.marked, match.start(), self.marked.read(match.start()))
        elif mark == "open" and self._is_mine(tag):
            self._position = match.start()
            self._read_opened(match, tag)
        elif mark == "open":
            self._allowed = frozenset()

    def _names(self, channel: str) -> bool:
        return self.text.startswith(channel, self._position)

    def _is_mine(self, tag: str) -> bool:
        """Whether the syntax has this mark."""
        match self._syntax:
            case "auto":
                return True
            case "hermes":
                return tag == OPEN
            case "llama":
                return tag.startswith(("<function=", "<|python"))
            case "mistral":
                return tag == "[TOOL_CALLS]"
            case _:
                return False

    def _skip_thought(self, start: int) -> None:
        number = bisect_right(self._thought_ends, start)
        self.unfinished = number == len(self._thought_ends)
        self._clear()
        self._read_first(len(self.text) if self.unfinished else self._thought_ends[number])

    def _read_opened(self, match: re.Match[str], tag: str) -> None:
        """One call or more after a mark."""
        text, position = self.text, match.end()
        while inner := _TAG.match(text, skip_space(text, position)):
            if mark_of(inner[0]) not in ("open", "between") or XML_CALL.match(text, inner.start()):
                break
            tag, position = inner[0], inner.end()
        if tag == OPEN:
            self._keep(self.marked, match.start(), self.marked.read_hermes(position))
            return
        position = skip_space(text, position)
        end = self.marked.read(position)
        while (between := _BETWEEN.match(text, end)) and self._goes_on(between):
            end = self.marked.read(between.end())
        self._keep(self.marked, match.start(), end)

    def _goes_on(self, between: re.Match[str]) -> bool:
        """Whether another call follows without a mark of its own."""
        text, position = self.text, between.end()
        readable = (_JSON_START, XML_CALL, XTML_CALL, _PYTHON_NEXT)
        if any(pattern.match(text, position) for pattern in readable):
            return True
        if between["mark"] == ";" and position < len(text) and text[position] != "<":
            raise CallError(f"{show(text[position:])} follows the calls")
        return False

    def _read_channel(self, match: re.Match[str]) -> None:
        """A message of gpt-oss: a thought, a call to somebody, or text."""
        header = _HEADER.match(self.text, match.end())
        if header is None:
            return
        to = _TO.search(header["head"])
        if to and to[1] not in _NOBODY:
            self._position = match.start()
            end = self._read_arguments(to[1], header.end())
            self._keep(self.marked, match.start(), end)
        elif "analysis" in header["head"] or (to and to[1] == "self"):
            end_match = _MESSAGE_END.search(self.text, header.end())
            self.unfinished = end_match is None
            self._position = end_match.start() if end_match else len(self.text)
        else:
            self._position = header.end()

    def _read_arguments(self, name: str, position: int) -> int:
        if not self.text.startswith("{", position):
            raise CallError(f"{show(name)} is called without an object of arguments")
        return self.marked.read_named(name, "", position)

    def _read_recipient(self, match: re.Match[str]) -> None:
        """gpt-oss's call as it reads without its tokens."""
        to = _TO.match(self.text, match.start())
        assert to is not None
        self._read_named(match, to[1])

    def _read_react(self, match: re.Match[str]) -> None:
        self._read_named(match, match[0].strip().split("\n")[0].partition(":")[2].strip())

    def _read_numbered(self, match: re.Match[str]) -> None:
        self._read_named(match, match[0].strip())

    def _read_named(self, match: re.Match[str], name: str) -> None:
        if self._syntax != "auto":
            self._position = match.end()
            return
        self._position = match.start()
        self._keep(self.marked, match.start(), self._read_arguments(name, match.end()))

    def _read_mark(self, match: re.Match[str]) -> None:
        if self._syntax != "auto":
            self._position = match.end()
            return
        self._position = match.start()
        self._read_opened(match, "")

    def _read_half(self, match: re.Match[str]) -> None:
        if self._syntax in ("auto", "hermes"):
            raise CallError(f"a tag that is not whole: {show(self.text[match.start() :])}")
        self._position = match.end()

    def _read_fence(self, match: re.Match[str]) -> None:
        self._position = match.end()
        if self._fence < 0 and mark_of(f"<{match[0][3:]}>") == "open":
            self._read_mark(match)
        self._fence = match.end() if self._fence < 0 else -1


def _is_fence_end(text: str, position: int) -> bool:
    position = skip_space(text, position)
    return position == len(text) or text.startswith("```", position)


_READERS: dict[str, Callable[[_Scan, re.Match[str]], None]] = {
    "tag": _Scan._read_tag,
    "recipient": _Scan._read_recipient,
    "numbered": _Scan._read_numbered,
    "react": _Scan._read_react,
    "mark": _Scan._read_mark,
    "half": _Scan._read_half,
    "fence": _Scan._read_fence,
    "bracket": _Scan._read_bracket,
    "line": _Scan._read_line,
}
"""By the group of _SIGN."""
