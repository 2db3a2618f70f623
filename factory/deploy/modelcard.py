"""README.md of an exported model: what it was made of, what it scores, and how it is served."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined

from factory.domain.bounded import read_text
from factory.domain.failures import ModelError
from factory.domain.records import Checkpoint
from factory.ledger.database import Source
from factory.workspace.templates import BoundedEnvironment

TEMPLATE = Path(__file__).with_name("card.md.j2")
_FRONT = re.compile(r"\A---\n(.*?)\n---", re.DOTALL)
_LICENCE = re.compile(r"^licen[sc]e: *['\"]?([^'\"\n]+?)['\"]? *$", re.MULTILINE)
_SAID = re.compile(r"\bLicen[sc]e: *([A-Za-z0-9.+ -]*[A-Za-z0-9+])")


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What the ledger knows of a checkpoint."""

    base: Checkpoint
    """The model that was given."""
    rounds: Sequence[tuple[Any, ...]]
    """Number, recipe, drawn, accepted, promoted; first to last."""
    scores: Sequence[tuple[Any, ...]]
    """Benchmark, value, low, high, items, unit: the latest of each, overall."""


def read_history(past: Source, checkpoint: Checkpoint) -> History:
    """The checkpoint's line back to the model that was given, and its latest scores."""
    sql = """
        with recursive line as (
          select checkpoint_id, parent_id, round, path, fingerprint from checkpoint
          where checkpoint_id = $id
          union
          select c.checkpoint_id, c.parent_id, c.round, c.path, c.fingerprint
          from checkpoint as c join line on c.checkpoint_id = line.parent_id
        )
        select checkpoint_id, path, fingerprint, round, parent_id from line order by round
        """
    line = past.query(sql, {"id": checkpoint.id}).rows
    given = next((row for row in line if row[4] is None), None)
    base = checkpoint
    if given is not None:
        base = Checkpoint(id=str(given[0]), path=str(given[1]), fingerprint=str(given[2]))
    numbers = [int(row[3]) for row in line if row[4] is not None]
    sql = """
        select r.round, r.recipe_name, y.drawn, y.accepted,
               (select bool_or(promoted) from checkpoint as c
                where c.round = r.round and c.parent_id is not null)
        from round as r join round_yield as y on y.round = r.round
        where list_contains($numbers, r.round) order by r.round
        """
    rounds = past.query(sql, {"numbers": numbers}).rows if numbers else []
    sql = """
        select benchmark, arg_max(value, scored_at), arg_max(low, scored_at),
               arg_max(high, scored_at), arg_max(num_items, scored_at),
               coalesce(any_value(unit), 'percent')
        from score where checkpoint_id = ? and category = 'overall' group by 1 order by 1
        """
    return History(base=base, rounds=rounds, scores=past.query(sql, [checkpoint.id]).rows)


def find_licence(folder: Path) -> str:
    """The licence that a model's folder names; empty where it names none."""
    card = folder / "README.md"
    if card.exists():
        text = read_text(card, error=ModelError)
        front = _FRONT.match(text)
        found = (_LICENCE.search(front[1]) if front else None) or _SAID.search(text)
        if found:
            return found[1].strip()
    for file in sorted(folder.glob("LICEN[CS]E*")):
        lines = [line.strip() for line in read_text(file, error=ModelError).splitlines()]
        return next(filter(None, lines), file.name)
    return ""


def write_card(out: Path, **values: Any) -> None:
    """README.md of the folder."""
    environment = BoundedEnvironment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    text = environment.from_string(TEMPLATE.read_text("utf-8")).render(**values)
    (out / "README.md").write_text(text, encoding="utf-8")
