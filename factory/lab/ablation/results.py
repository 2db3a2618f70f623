"""What trials of a plan left: each step in figures, and every judged item in a file beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from factory.domain.records import ItemScore
from factory.train.examples import write_rows

ITEMS = "items"
"""Folder of the judged items, in the folder of the trials."""
Marks: TypeAlias = Mapping[tuple[int, str], Sequence[ItemScore]]
"""Judged items by step, 0 the first, and benchmark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFigures:
    """What one step of a trial came to."""

    name: str
    """`lesson`, `round 1`; `as it is` where nothing was done."""
    checkpoint: str
    """Id of what was scored: that which the step trained, else the one in force."""
    trained: bool = False
    promoted: bool = False
    """Whether the next step starts from it."""
    reason: str = ""
    """Why, or why nothing was trained."""
    drawn: int = 0
    accepted: int = 0
    right: int | None = None
    """Of the accepted, those that call what their request's label says; None without labels."""
    perplexity: float | None = None
    """Of the plan's text; None without one."""
    seconds: float = 0.0
    """Of the step, without the scoring that the plan asks for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AblationTrial:
    """One variant with one seed."""

    variant: str
    """What it was called when it was run."""
    seed: int
    steps: tuple[StepFigures, ...]
    folder: str
    """Its workspace, relative to the folder of the trials."""
    digest: str
    """Of what decided it; its items are items/<digest>.jsonl."""
    wall: float = 0.0
    """Seconds of everything that the command which finished it did."""

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> AblationTrial:
        """The trial of a line of trials.jsonl."""
        return cls(**{**row, "steps": tuple(StepFigures(**step) for step in row["steps"])})


def items_path(out: Path, mark: str) -> Path:
    """Where a trial's items are."""
    return out / ITEMS / f"{mark}.jsonl"


def write_marks(path: Path, marks: Marks) -> None:
    """Write one line an item. The file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".tmp")
    write_rows(
        partial,
        (
            {"step": step, "benchmark": benchmark, **asdict(item), "calls": None}
            for (step, benchmark), items in marks.items()
            for item in items
        ),
    )
    partial.rename(path)


def read_marks(path: Path) -> dict[tuple[int, str], list[ItemScore]]:
    """The inverse of write_marks, but for the calls, which no table needs."""
    marks: dict[tuple[int, str], list[ItemScore]] = {}
    for line in path.read_text("utf-8").split("\n"):
        if line:
            row = json.loads(line)
            key = (row.pop("step"), row.pop("benchmark"))
            marks.setdefault(key, []).append(ItemScore(**row))
    return marks
