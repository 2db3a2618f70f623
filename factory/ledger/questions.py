"""The stock questions of the ledger: questions.sql, a comment line and a statement each."""

from __future__ import annotations

import re
from dataclasses import dataclass

from factory.ledger.schema import STORE

_BLOCK = re.compile(r"^-- (?P<title>[^\n]+\?)\n(?P<sql>[^;]+);", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question. Example: Question(title="Where did the time go?", sql="select round, …")."""

    title: str
    sql: str
    """In SQL, on one line and without double quotes."""


def stock_questions() -> tuple[Question, ...]:
    """All of them, in the order of the file."""
    text = (STORE / "questions.sql").read_text("utf-8")
    return tuple(Question(title=hit["title"], sql=hit["sql"]) for hit in _BLOCK.finditer(text))
