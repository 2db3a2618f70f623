"""Trials that are kept: what is known is not run again, one that fails leaves the others be."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from factory.domain.failures import FactoryError

FILE = "trials.jsonl"
"""Of the finished trials, in the folder that `--out` names."""
Report = Callable[[str], None]


class KeptTrial(Protocol):
    """A finished trial: a dataclass of JSON values, known by its digest."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def digest(self) -> str: ...


TrialT = TypeVar("TrialT", bound=KeptTrial)


@dataclass(frozen=True, slots=True, kw_only=True)
class Course(Generic[TrialT]):
    """How far a list of trials came."""

    trials: Mapping[str, TrialT]
    """Those that are finished, by digest."""
    failed: Mapping[str, FactoryError]
    """What stopped a trial, by its name."""
    unfinished: int
    """Trials that were not started any more, or not ended."""


class Deadline:
    """After which no trial is started; None is never."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds, self._start = seconds, time.monotonic()

    @property
    def is_over(self) -> bool:
        return self._seconds is not None and time.monotonic() - self._start > self._seconds


async def run_trials(
    names: Mapping[str, str],
    out: Path,
    read: Callable[[dict[str, Any]], TrialT | None],
    run: Callable[[str], Awaitable[TrialT | None]],
    report: Report,
    *,
    deadline: Deadline,
    discard: Callable[[str], None] | None = None,
) -> Course[TrialT]:
    """Run every trial that `out` does not have yet, and keep it there once it is finished.

    Args:
        names: of the trials, by digest, in the order in which they are run.
        out: folder whose FILE keeps them, and those of other plans.
        read: a trial from its row; None where a part of it is gone, so that it is run again.
        run: makes the trial of a digest; None where it stopped before its end.
        discard: called for each trial that was run and kept.

    A trial that raises FactoryError is told of, and the others go on.
    """
    path = out / FILE
    out.mkdir(parents=True, exist_ok=True)
    rows = _read_rows(path, report) if path.exists() else []
    kept: dict[str, TrialT] = {}
    for row in rows:
        if row.get("digest") in names and (trial := read(row)) is not None:
            kept[trial.digest] = trial
    if kept:
        report(f"{len(kept)} of {len(names)} trials are known and not run again: {path}")
    if len(rows) > len(kept):
        others = len(rows) - len(kept)
        report(f"left alone, not asked for here: {others} other trials of {path}")
    failed: dict[str, FactoryError] = {}
    unfinished = 0
    for mark, name in names.items():
        if mark in kept:
            continue
        if deadline.is_over:
            unfinished += 1
            continue
        report(name)
        try:
            made = await run(mark)
        except FactoryError as error:
            failed[name] = error
            report(f"{name} failed: {error}")
            continue
        if made is None:
            unfinished += 1
            continue
        kept[mark] = made
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(made)) + "\n")
        if discard is not None:
            discard(mark)
    return Course(trials=kept, failed=failed, unfinished=unfinished)


def _read_rows(path: Path, report: Report) -> list[dict[str, Any]]:
    """Kept trials. A line that was cut short is ended, told of, and its trial run again."""
    text, rows = path.read_text("utf-8", errors="replace"), []
    if text and not text.endswith("\n"):
        path.write_text(text + "\n", "utf-8")
    for number, line in enumerate(text.splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            report(f"no trial, left alone: {path}:{number}")
    return rows
