r"""Regular expressions with a time bound: the `pattern` keyword of a tool's schema.

A backtracking engine takes exponential time on patterns that a model (or a user's tool) may well
write. RE2 takes time linear in the text, whatever the pattern, and refuses what needs backtracking:
look-around and back-references. What a pattern means is ECMA-262's, as JSON Schema has it (core,
6.4): \w, \d and \b are ASCII's, \s knows Unicode's blanks, `.` stops at each of four line ends, `$`
is the very end, and a character is a code point.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import re2

MAX_PATTERN = 300
"""Longest pattern."""
MAX_TEXT = 4096
"""Longest text that is matched, unless the pattern has one length, and begins with `^` or is no
longer than MAX_REACH; a longer one does not match."""
MAX_REACH = 1000

_MEMBERS = {
    "s": r"\t-\r \xa0\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}\x{feff}",
    "S": r"\x00-\x08\x0e-\x1f\x21-\x9f\xa1-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027}"
    r"\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{fefe}\x{ff00}-\x{10ffff}",
}
r"""What ECMA-262 takes for \s and \S, as RE2 writes it inside brackets; \w and \d are its own."""
_NO_LINE_END = r"[^\n\r\x{2028}\x{2029}]"
_CODE_POINT = re.compile(r"\\x\{([0-9a-f]+)\}")
_PLAIN_MEMBERS = {
    "w": "A-Za-z0-9_",
    "W": r"\x00-/:-@\[-^`{-\U0010ffff",
    "d": "0-9",
    "D": r"\x00-/:-\U0010ffff",
} | {key: _CODE_POINT.sub(lambda m: f"\\U{m[1]:0>8}", text) for key, text in _MEMBERS.items()}
"""The same, and ASCII's classes, as `re` writes them inside brackets."""
_LETTERS = r"\p{L}\p{N}_"
r"""What `re` calls \w; with it alone a pattern of Unicode's letters is one for `re`."""
_CATEGORIES = {
    "Letter": "L",
    "Lowercase_Letter": "Ll",
    "Uppercase_Letter": "Lu",
    "Titlecase_Letter": "Lt",
    "Modifier_Letter": "Lm",
    "Other_Letter": "Lo",
    "Mark": "M",
    "Nonspacing_Mark": "Mn",
    "Number": "N",
    "Decimal_Number": "Nd",
    "digit": "Nd",
    "Letter_Number": "Nl",
    "Other_Number": "No",
    "Punctuation": "P",
    "punct": "P",
    "Symbol": "S",
    "Math_Symbol": "Sm",
    "Currency_Symbol": "Sc",
    "Separator": "Z",
    "Space_Separator": "Zs",
    "Other": "C",
    "Control": "Cc",
    "cntrl": "Cc",
    "Format": "Cf",
}
"""ECMA-262's long names of general categories; RE2 knows the short ones, and scripts."""

_ESCAPE = re.compile(
    r"\\(?:x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|u\{[0-9A-Fa-f]{1,6}\}|c[A-Za-z]|0(?![0-9])"
    r"|[pP]\{[\w=]+\}|[dDwWsSbBAnrtfv]|[^A-Za-z0-9])",
    re.S,
)
_SET = re.compile(r"\[(?>(?:\[:\w+:\]|\\.|[^\\\]])*)\]", re.S)
_EMPTY_SETS = {"[]": r"[^\x00-\x{10ffff}]", "[^]": r"[\x00-\x{10ffff}]"}
"""ECMA-262's set of nothing and of everything, as RE2 spells them."""
_CLASS = r"\\(?:[dDwWsS]|[pP]\{[^}]*\})"
_CLASS_HYPHEN = re.compile(rf"(?P<before>{_CLASS})-|(?P<other>\\.)|-(?={_CLASS})", re.S)
_PART = re.compile(rf"{_ESCAPE.pattern}|{_SET.pattern}|\$|\.", re.S)
_PLAIN = r"[^\\()|\[*+?{]*"
_ONE_REPEAT = re.compile(rf"{_PLAIN}(?:(?:[*+?]|\{{\d{{1,4}}(?:,\d{{0,4}})?\}})\??{_PLAIN})?")
_REPEAT = re.compile(r"\{(\d{1,4})(,?)(\d{0,4})\}|[*+]")
_FIXED_REPEAT = re.compile(r"\{\d{1,4}\}(?![*+?{])")
_ANY_ESCAPE = re.compile(r"\\(.)", re.S)
_FLAGS = re.compile(r"\(\?[a-zA-Z]*[smx]")
_SET_OPERATION = re.compile(r"--|&&|~~|\|\||\[[^\\\]]*\[")
_NEEDS_BACKTRACKING = re.compile(r"\(\?<?[=!]|\\[1-9]")

_OPTIONS = re2.Options()
_OPTIONS.log_errors = False
_OPTIONS.never_capture = True


class PatternError(ValueError):
    """The pattern is not one that can be matched in bounded time; str() says why."""


class Pattern:
    """A compiled pattern. Example: Pattern("^[a-z]+$").search("abc") is True."""

    def __init__(self, text: str) -> None:
        """Raises PatternError: broken, too long, too large, or in need of backtracking."""
        if len(text) > MAX_PATTERN:
            raise PatternError(f"longer than {MAX_PATTERN} characters")
        # With one letter for each escape and set, what repeats is plain to see.
        single = _PART.sub("x", text)
        bare = _FIXED_REPEAT.sub("", single)
        self._is_anchored = text.startswith("^")
        self._reach = len(text) + sum(map(_count, _REPEAT.finditer(single)))
        has_one_length = not set("(|*+?{") & set(bare)
        self._takes_long = has_one_length and (self._is_anchored or self._reach <= MAX_REACH)
        # With one repetition and no choice there is one length to try, so `re` is bounded too. It
        # knows counts beyond RE2's thousand, and \p{L}{1,99} costs it no 100,000 states.
        self._plain: re.Pattern[str] | None = None
        if _ONE_REPEAT.fullmatch(bare) and not _SET_OPERATION.search(text):
            self._plain = _compile_plain(text)
        self._size = 0
        if self._plain is None:
            self._automaton = _compile(text)
            self._size = self._automaton.programsize

    def weigh(self, text: str) -> int:
        """About how many microseconds a search takes at most: RE2 may go all ways side by side.

        `re` may go as far as the pattern reaches, from every place unless it is held at `^`.
        """
        length = len(text) if self._takes_long else min(len(text), MAX_TEXT)
        if self._plain:
            return (1 if self._is_anchored else length) * min(length, self._reach) // 200
        return length * self._size // 50

    def search(self, text: str) -> bool:
        """Whether the pattern matches anywhere in `text`."""
        if len(text) > MAX_TEXT and not self._takes_long:
            return False
        if self._plain:
            return self._plain.search(text) is not None
        # Half of a surrogate pair, which JSON can name, is a character like others.
        return self._automaton.search(text.encode("utf-8", "surrogatepass")) is not None


@lru_cache(maxsize=256)
def compile_pattern(text: str) -> Pattern:
    """The pattern, compiled once. Raises PatternError."""
    return Pattern(text)


def _count(repeat: re.Match[str]) -> int:
    """How often it repeats at most, as far as texts go."""
    least, comma, most = repeat.groups()
    return int(most if comma else least) if most or (not comma and least) else MAX_TEXT


def _free_hyphens(part: str) -> str:
    r"""A set whose hyphens beside \w and the like are themselves, as no range begins there."""
    if part[0] != "[":
        return part
    return _CLASS_HYPHEN.sub(lambda m: m["other"] or rf"{m['before'] or ''}\-", part)


def _compile_plain(text: str) -> re.Pattern[str] | None:
    """For `re`, the end being the very end; None where `re` does not take it."""
    if r"\p" in text.replace(_LETTERS, ""):
        return None
    any_point = "." if _FLAGS.search(text) else "[^\n\r\u2028\u2029]"
    try:
        return re.compile(_PART.sub(lambda part: _spell_plain(part[0], any_point), text))
    except re.error:
        return None


def _spell_plain(part: str, any_point: str) -> str:
    """An escape, a set, `.` or `$` as `re` spells it."""
    if part in ("$", "."):
        return r"\Z" if part == "$" else any_point
    if part in (r"\b", r"\B"):
        return f"(?a:{part})"
    if part in _EMPTY_SETS:
        return _EMPTY_SETS[part].replace(r"\x{10ffff}", r"\U0010ffff")
    part = _free_hyphens(part)
    text = part.replace(_LETTERS, r"\w") if _LETTERS in part else _members(part, _PLAIN_MEMBERS)
    text = _ESCAPE.sub(_spell_plain_escape, text)
    return text if part[0] == "[" or text == part or len(part) > 2 else f"[{text}]"


def _spell_plain_escape(escape: re.Match[str]) -> str:
    kind = escape[0][1]
    if kind == "c":
        return f"\\x{ord(escape[0][2]) % 32:02x}"
    if kind == "u" and escape[0][2] == "{":
        return f"\\U{escape[0][3:-1]:0>8}"
    return r"\x00" if kind == "0" else escape[0]


def _members(part: str, members: Mapping[str, str]) -> str:
    return _ANY_ESCAPE.sub(lambda mark: members.get(mark[1], mark[0]), part)


def _compile(text: str) -> Any:
    any_point = "." if _FLAGS.search(text) else _NO_LINE_END
    try:
        pattern = _PART.sub(lambda part: _respell(part[0], any_point), text)
        return re2.compile(pattern.encode("utf-8", "surrogatepass"), _OPTIONS)
    except re2.error as error:
        message = error.args[0].decode("utf-8", "replace")
        if _NEEDS_BACKTRACKING.search(text):
            message = f"look-around and back-references are not supported ({message})"
        raise PatternError(message) from None


def _respell(part: str, any_point: str) -> str:
    """An escape, a set or `.` as RE2 spells it."""
    if part == ".":
        return any_point
    if part in _EMPTY_SETS:
        return _EMPTY_SETS[part]
    text = _ESCAPE.sub(_respell_escape, _free_hyphens(part))
    widened = _members(text, _MEMBERS)
    return widened if part[0] == "[" or widened == text else f"[{widened}]"


def _respell_escape(escape: re.Match[str]) -> str:
    mark = escape[0][1]
    if mark == "u":
        return rf"\x{{{escape[0][2:].strip('{}')}}}"
    if mark == "c":
        return f"\\x{ord(escape[0][2]) % 32:02x}"
    if mark in "pP":
        name = escape[0][3:-1].rpartition("=")[2]
        return f"\\{mark}{{{_CATEGORIES.get(name, name)}}}"
    if mark == "0":
        return r"\x00"
    # RE2 takes a backslash before ASCII's signs alone.
    return mark if mark == "_" or mark > "\x7f" else escape[0]
