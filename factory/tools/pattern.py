"""Regular expressions with a time bound: the `pattern` keyword of a tool's schema.

A backtracking engine takes exponential time on patterns that a model (or a user's tool) may well
write. Here a pattern becomes a nondeterministic automaton that is walked once along the text
(Thompson 1968), so time is bounded by length of text x size of pattern. Back-references and
look-around need backtracking and are refused.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

MAX_PATTERN = 300
"""Longest pattern."""
MAX_STATES = 300
"""Largest automaton, counted repetitions written out."""
MAX_TEXT = 4096
"""Longest text that is matched, unless the pattern has one length; a longer one does not match."""

_QUANTIFIER = re.compile(r"[*+?]|\{(\d{1,4})(,?)(\d{0,4})\}")
_CLASS_ESCAPES = frozenset("dDwWsS")
_ASSERTIONS = {"^": "start", "$": "end", r"\b": "edge", r"\B": "inside", r"\A": "start"}


class PatternError(ValueError):
    """The pattern is not one that can be matched in bounded time; str() says why."""


class State(NamedTuple):
    """One instruction of an automaton. Example: State("split", None, (3, 7))."""

    kind: str
    """`atom` (takes a character), `split`, an assertion, or `match`."""
    atom: re.Pattern[str] | None
    """Which characters an `atom` takes."""
    to: tuple[int, ...]
    """Next states."""


class Pattern:
    """A compiled pattern. Example: Pattern("^[a-z]+$").search("abc") is True."""

    def __init__(self, text: str) -> None:
        """Raises PatternError: broken, too long, too large, or in need of backtracking."""
        if len(text) > MAX_PATTERN:
            raise PatternError(f"longer than {MAX_PATTERN} characters")
        self.text = text
        self._states: list[State] = []
        self._position = 0
        self._depth = 0
        self._fixed = False
        self._plain = self._read_plain()
        if self._plain is not None:
            return
        self._position = 0
        start = self._reserve()
        end = self._reserve()
        entry = self._alternatives(end)
        if self._position < len(text):
            raise PatternError("a closing parenthesis without an opening one")
        self._states[start] = State("split", None, (entry,))
        self._states[end] = State("match", None, ())
        self._start = start

    def weigh(self, text: str) -> int:
        """About how many microseconds a search takes."""
        return min(len(text), MAX_TEXT) * len(self._states) // 2

    def search(self, text: str) -> bool:
        """Whether the pattern matches anywhere in `text`."""
        if len(text) > MAX_TEXT and not self._fixed:
            return False
        if self._plain is not None:
            return self._plain.search(text) is not None
        return self._walk(text)

    def _walk(self, text: str) -> bool:
        """Runs the automaton from every position at once."""
        current: set[int] = set()
        seen: set[int] = set()
        for position in range(len(text) + 1):
            self._follow(self._start, text, position, current, seen)
            reached: set[int] = set()
            reached_seen: set[int] = set()
            for index in current:
                state = self._states[index]
                if state.kind == "match":
                    return True
                if position < len(text) and state.atom and state.atom.fullmatch(text[position]):
                    self._follow(state.to[0], text, position + 1, reached, reached_seen)
            current, seen = reached, reached_seen
        return False

    def _follow(
        self, index: int, text: str, position: int, found: set[int], seen: set[int]
    ) -> None:
        """Adds to `found` every state reachable from `index` without taking a character."""
        waiting = [index]
        while waiting:
            index = waiting.pop()
            if index in seen:
                continue
            seen.add(index)
            state = self._states[index]
            if state.kind in ("atom", "match"):
                found.add(index)
            elif state.kind == "split" or _holds(state.kind, text, position):
                waiting.extend(state.to)

    def _read_plain(self) -> re.Pattern[str] | None:
        """The pattern for `re`, if it has no group, no choice and one varying repetition at most.

        Such a pattern backtracks over one length only, so `re` is bounded too, and faster.
        """
        pieces, num_varying = "", 0
        while (character := self._peek()) not in ("", "|", "(", ")"):
            begin = self._position
            self._skip_item()
            atom = self.text[begin : self._position]
            stop = self._position
            least, most = self._quantifier()
            num_varying += least != most
            if atom in _ASSERTIONS and stop != self._position:
                return None
            if atom in _ASSERTIONS:
                pieces += r"\Z" if atom == "$" else atom
            else:
                pieces += _compile_atom(atom).pattern
            pieces += self.text[stop : self._position]
        if character or num_varying > 1:
            return None
        self._fixed = num_varying == 0
        return re.compile(pieces)

    def _reserve(self, state: State | None = None) -> int:
        self._states.append(state or State("split", None, ()))
        if len(self._states) > MAX_STATES:
            raise PatternError(f"more than {MAX_STATES} states when repetitions are written out")
        return len(self._states) - 1

    def _alternatives(self, end: int) -> int:
        """Parses `a|b|c`; returns the entry state."""
        self._depth += 1
        if self._depth > 20:
            raise PatternError("nested deeper than 20 groups")
        entries = [self._sequence(end)]
        while self._peek() == "|":
            self._position += 1
            entries.append(self._sequence(end))
        self._depth -= 1
        return self._reserve(State("split", None, tuple(entries)))

    def _sequence(self, end: int) -> int:
        """Parses a run of quantified items. They are built from the last to the first."""
        items: list[tuple[int, int, int, int | None]] = []
        while self._peek() not in ("", "|", ")"):
            begin = self._position
            self._skip_item()
            stop = self._position
            least, most = self._quantifier()
            items.append((begin, stop, least, most))
        after = self._position
        for begin, stop, least, most in reversed(items):
            end = self._repeat(begin, stop, least, most, end)
        self._position = after
        return end

    def _repeat(self, begin: int, stop: int, least: int, most: int | None, end: int) -> int:
        """`least` copies of an item, then a loop or optional copies."""
        if most is None:
            loop = self._reserve()
            self._states[loop] = State("split", None, (self._item(begin, loop), end))
            end = loop
        else:
            for _ in range(most - least):
                end = self._reserve(State("split", None, (self._item(begin, end), end)))
        for _ in range(least):
            end = self._item(begin, end)
        self._position = stop
        return end

    def _item(self, begin: int, end: int) -> int:
        """Builds the item that starts at `begin`, going on to `end`."""
        self._position = begin
        character = self._peek()
        if character == "(":
            self._position += 3 if self.text.startswith("(?:", begin) else 1
            entry = self._alternatives(end)
            self._expect_close()
            return entry
        self._skip_item()
        atom = self.text[begin : self._position]
        if atom in _ASSERTIONS:
            return self._reserve(State(_ASSERTIONS[atom], None, (end,)))
        return self._reserve(State("atom", _compile_atom(atom), (end,)))

    def _skip_item(self) -> None:
        """Moves behind one item: a group, a class, an escape or a character."""
        character = self._peek()
        if character == "(":
            self._skip_group()
        elif character == "[":
            self._skip_class()
        elif character == "\\":
            self._skip_escape()
        elif character in "*+?":
            raise PatternError(f"nothing to repeat at character {self._position}")
        else:
            self._position += 1

    def _skip_group(self) -> None:
        if self.text.startswith("(?", self._position) and not self.text.startswith(
            "(?:", self._position
        ):
            raise PatternError("look-around, named groups and flags are not supported")
        depth = 0
        while character := self._peek():
            if character == "\\":
                self._position += 2
                continue
            if character == "[":
                self._skip_class()
                continue
            depth += {"(": 1, ")": -1}.get(character, 0)
            self._position += 1
            if depth == 0:
                return
        raise PatternError("a group is not closed")

    def _skip_class(self) -> None:
        match = re.compile(r"\[\^?\]?(?>[^\]\\]*+(?:\\.[^\]\\]*+)*)\]", re.DOTALL).match(
            self.text, self._position
        )
        if match is None:
            raise PatternError("a character class is not closed")
        plain = re.sub(r"\\.", "", match[0][1:], flags=re.DOTALL)
        if any(mark in plain for mark in ("[", "--", "&&", "~~", "||")):
            raise PatternError("set operations in a character class are not supported")
        self._position = match.end()

    def _skip_escape(self) -> None:
        match = re.compile(
            r"\\(?:x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|[dDwWsSbBAnrtfv]|[^A-Za-z0-9])"
        ).match(self.text, self._position)
        if match is None:
            raise PatternError(f"the escape at character {self._position} is not supported")
        self._position = match.end()

    def _quantifier(self) -> tuple[int, int | None]:
        """(least, most) of the quantifier here, (1, 1) without one; laziness changes no answer."""
        match = _QUANTIFIER.match(self.text, self._position)
        if match is None:
            return 1, 1
        self._position = match.end()
        if self._peek() == "?":
            self._position += 1
        elif self._peek() == "+" or _QUANTIFIER.match(self.text, self._position):
            raise PatternError("two quantifiers follow each other")
        if match[1] is None:
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[match[0]]
        least = int(match[1])
        most = least if not match[2] else int(match[3]) if match[3] else None
        if most is not None and most < least:
            raise PatternError("a repetition's limits are the wrong way round")
        return least, most

    def _expect_close(self) -> None:
        if self._peek() != ")":
            raise PatternError("a group is not closed")
        self._position += 1

    def _peek(self) -> str:
        return self.text[self._position : self._position + 1]


@lru_cache(maxsize=1024)
def compile_pattern(text: str) -> Pattern:
    """The pattern, compiled once. Raises PatternError."""
    return Pattern(text)


@lru_cache(maxsize=4096)
def _compile_atom(atom: str) -> re.Pattern[str]:
    """One character's test, left to `re`: exact meaning, and one character cannot backtrack."""
    try:
        return re.compile(atom if atom[0] in "[\\." else re.escape(atom))
    except re.error as error:
        raise PatternError(str(error)) from None


def _holds(assertion: str, text: str, position: int) -> bool:
    if assertion == "start":
        return position == 0
    if assertion == "end":
        return position == len(text)
    before = position > 0 and _is_word(text[position - 1])
    after = position < len(text) and _is_word(text[position])
    return (before != after) == (assertion == "edge")


def _is_word(character: str) -> bool:
    return character == "_" or character.isalnum()
