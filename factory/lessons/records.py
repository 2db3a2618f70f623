"""What a labelled row teaches, whichever format it came in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from factory.domain.records import Call
from factory.tools.sources import BadLine

Document = Mapping[str, Any]


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
    turns_left: int = 0
    """Turns of its conversation that follow the answer."""

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
