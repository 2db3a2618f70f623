r"""Regular expressions with a time bound: the `pattern` keyword of a tool's schema.

A backtracking engine takes exponential time on patterns that a model (or a user's tool) may well
write. RE2 takes time linear in the text, whatever the pattern, and refuses what needs backtracking:
look-around and back-references. Its \w, \d and \s are ASCII, as in JavaScript; here they take what
they take in Python's `re`, in every pattern. Only \b knows no letters but ASCII's in RE2.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import re2

MAX_PATTERN = 300
"""Longest pattern."""
MAX_TEXT = 4096
"""Longest text that is matched, unless the pattern has one length; a longer one does not match."""

_MEMBERS = {
    "w": r"\p{L}\p{N}_",
    "W": r"\p{M}\p{Z}\p{S}\p{C}\p{Pd}\p{Ps}\p{Pe}\p{Pi}\p{Pf}\p{Po}‿⁀⁔︳︴﹍-﹏＿",
    "d": r"\p{Nd}",
    "D": r"\P{Nd}",
    "s": r"\t-\r\x1c-\x20\x85\xa0\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}",
    "S": r"\x00-\x08\x0e-\x1b\x21-\x84\x86-\x9f\xa1-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027}"
    r"\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff}",
}
r"""What `re` takes for \w and its like, as RE2 writes it inside brackets."""

_ESCAPE = re.compile(r"\\(?:x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|[dDwWsSbBAnrtfv]|[^A-Za-z0-9])", re.S)
_SET = re.compile(r"\[\^?\]?(?>(?:\[:\w+:\]|\\.|[^\\\]])*)\]", re.S)
_PART = re.compile(rf"{_ESCAPE.pattern}|{_SET.pattern}|\$", re.S)
_PLAIN = r"[^\\()|\[*+?{]*"
_ONE_REPEAT = re.compile(rf"{_PLAIN}(?:(?:[*+?]|\{{\d{{1,4}}(?:,\d{{0,4}})?\}})\??{_PLAIN})?")
_FIXED_REPEAT = re.compile(r"\{\d{1,4}\}(?![*+?{])")
_ANY_ESCAPE = re.compile(r"\\(.)", re.S)
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
        bare = _FIXED_REPEAT.sub("", _PART.sub("x", text))
        self._has_one_length = not set("(|*+?{") & set(bare)
        # With one repetition and no choice there is one length to try, so `re` is bounded too. It
        # knows counts beyond RE2's thousand, and \w{1,99} costs it no 100,000 states.
        self._plain: re.Pattern[str] | None = None
        if _ONE_REPEAT.fullmatch(bare) and not _SET_OPERATION.search(text):
            self._plain = _compile_plain(text)
        self._size = 0
        if self._plain is None:
            self._size = _compile(text, _respell).programsize
            self._automaton = _compile(text, _widen)

    def weigh(self, text: str) -> int:
        """About how many microseconds a search takes at most: RE2 may go all ways side by side."""
        return min(len(text), MAX_TEXT) * self._size // 50

    def search(self, text: str) -> bool:
        """Whether the pattern matches anywhere in `text`."""
        if len(text) > MAX_TEXT and not self._has_one_length:
            return False
        if self._plain:
            return self._plain.search(text) is not None
        # Half of a surrogate pair, which JSON can name, is a character like others.
        return self._automaton.search(text.encode("utf-8", "surrogatepass")) is not None


@lru_cache(maxsize=256)
def compile_pattern(text: str) -> Pattern:
    """The pattern, compiled once. Raises PatternError."""
    return Pattern(text)


def _compile_plain(text: str) -> re.Pattern[str] | None:
    """For `re`, the end being the very end; None where `re` does not take it."""
    try:
        return re.compile(_PART.sub(lambda part: r"\Z" if part[0] == "$" else part[0], text))
    except re.error:
        return None


def _compile(text: str, spell: Callable[[re.Match[str]], str]) -> Any:
    try:
        pattern = _PART.sub(spell, text).encode("utf-8", "surrogatepass")
        return re2.compile(pattern, _OPTIONS)
    except re2.error as error:
        message = error.args[0].decode("utf-8", "replace")
        if _NEEDS_BACKTRACKING.search(text):
            message = f"look-around and back-references are not supported ({message})"
        raise PatternError(message) from None


def _respell(part: re.Match[str]) -> str:
    """An escape, also inside a set, as RE2 spells it."""
    return _ESCAPE.sub(_respell_escape, part[0])


def _respell_escape(escape: re.Match[str]) -> str:
    mark = escape[0][1]
    if mark == "u":
        return rf"\x{{{escape[0][2:]}}}"
    # RE2 takes a backslash before ASCII's signs alone.
    return mark if mark == "_" or mark > "\x7f" else escape[0]


def _widen(part: re.Match[str]) -> str:
    r"""The same, with classes of Unicode for \w and its like."""
    text = _respell(part)
    members = _ANY_ESCAPE.sub(
        lambda mark: _MEMBERS[mark[1]] if mark[1] in _MEMBERS else mark[0], text
    )
    return members if text[0] == "[" or members == text else f"[{members}]"
