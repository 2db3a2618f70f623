"""What a labelled row teaches, whichever format it came in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from factory.domain.records import Call
from factory.tools.rowfiles import BadLine

Document = Mapping[str, Any]
Speaker = Literal["system", "user", "assistant", "tool"]
Part = Literal["thought", "action", "input"]
PARTS: tuple[Part, ...] = ("thought", "action", "input")


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """What one speaker says."""

    speaker: Speaker
    text: str
    calls: tuple[Call, ...] = ()
    """Those of the assistant."""
    loss: bool = True
    """Of the assistant: whether it is learnt, or only stands there."""
    silent: frozenset[Part] = field(default=frozenset(), repr=False)
    """Of an agent's turn that is learnt: its parts without loss."""
    number: int = 0
    """Of the message, from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LessonStep:
    """A step of an agent: what it thinks, the one call that it makes, and what comes back."""

    thought: str
    call: Call
    """By the name that the row gives the tool; FINISH ends the trajectory."""
    response: str = ""
    silent: frozenset[Part] = frozenset()
    """Its turns without loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Why a row is not taught although it can be read."""

    rule: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """A labelled row: a request with what answers it, or a tool document alone.

    Example: Lesson(where="rows.jsonl:7", query="Book a table for 4", documents=({…},),
    calls=(Call(name="book_table", arguments={"people": 4}),)).
    """

    where: str
    """File and line, or place in the file's list."""
    query: str = ""
    """The request; empty where the row is a document alone."""
    documents: tuple[Document, ...] = ()
    """Tool documents that the row gives, in the factory's own dialect."""
    names: tuple[str, ...] = ()
    """Tools that it needs by name, as documents of other rows have it: `api`, or `tool&&api`."""
    calls: tuple[Call, ...] | None = None
    """The right calls; empty: the right answer calls nothing; None: only the tools are known."""
    answer: str = ""
    """What is said where nothing is called."""
    key: str = ""
    """Under which another row has the rest of this one: BFCL keeps questions and answers apart."""
    turns: tuple[Utterance, ...] = ()
    """The whole conversation from the request on, where it goes on after the first answer."""
    steps: tuple[LessonStep, ...] = ()
    """The whole trajectory of an agent, in place of calls."""
    fault: Fault | None = None

    @property
    def file(self) -> str:
        """The file's name."""
        return _PLACE.sub("", self.where)


_PLACE = re.compile(r"(:\d+|\[\d+\]).*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class LessonRow:
    """A row as a file has it, before anybody knows its format."""

    where: str
    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Lessons:
    """What some files gave."""

    items: tuple[Lesson, ...]
    """The usable rows, in file order."""
    bad: tuple[BadLine, ...]
    """The others."""
    formats: Mapping[str, int]
    """Rows by the reader that took them."""
    joined: int = 0
    """Rows that are the beginning of another one, with which they are taught."""
    masked: Mapping[str, int] = field(default_factory=dict)
    """Values that were masked, by kind."""
    masked_rows: int = 0
