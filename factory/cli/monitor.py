"""Progress of a round: a live line on a terminal, plain lines into a file."""

from __future__ import annotations

import time
from typing import Self

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from factory.cli.terminal import escape, stderr
from factory.domain.plaintext import clean

PLAIN_SECONDS = 5.0
"""Seconds between plain progress lines."""


class LiveMonitor:
    """A bar, a rate and an estimate for the stage that runs; finished stages stay above it."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("[bold]{task.description:<28}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:>5.0f}/{task.fields[total_text]:<5}"),
            TextColumn("{task.fields[rate]:>9}"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[detail]}", style="dim", markup=False),
            console=stderr,
        )
        self._task: TaskID | None = None
        self._started = 0.0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._finish()
        self._progress.stop()

    def stage(self, name: str, total: int | None = None) -> None:
        self._finish()
        self._started = time.monotonic()
        self._task = self._progress.add_task(
            name, total=total, total_text=str(total or ""), rate="", detail=""
        )

    def progress(self, done: int, detail: str = "", total: int | None = None) -> None:
        if self._task is None:
            return
        rate = _rate(done, time.monotonic() - self._started)
        if total is not None:
            self._progress.update(self._task, total=total, total_text=str(total))
        self._progress.update(self._task, completed=done, detail=clean(detail), rate=rate)

    def note(self, text: str) -> None:
        self._progress.console.print(f"[yellow]note:[/] {escape(text)}")

    def _finish(self) -> None:
        if self._task is None:
            return
        seconds = time.monotonic() - self._started
        task = next(task for task in self._progress.tasks if task.id == self._task)
        total = task.total or max(task.completed, 1)
        self._progress.update(
            self._task,
            completed=total,
            total=total,
            total_text=str(int(total)),
            detail=f"{task.fields['detail']} {seconds:.1f} s".strip(),
        )
        self._task = None


class PlainMonitor:
    """One line when a stage starts, then one every few seconds; for files and pipes."""

    def __init__(self) -> None:
        self._name = ""
        self._total: int | None = None
        self._started = 0.0
        self._printed = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._finish()

    def stage(self, name: str, total: int | None = None) -> None:
        self._finish()
        self._name, self._total = name, total
        self._started = self._printed = time.monotonic()
        stderr.print(f"{name}{f' ({total})' if total else ''} …")

    def progress(self, done: int, detail: str = "", total: int | None = None) -> None:
        now = time.monotonic()
        self._total = total or self._total
        if now - self._printed < PLAIN_SECONDS:
            return
        self._printed = now
        elapsed = now - self._started
        left = ""
        if self._total and done:
            left = f", about {elapsed / done * (self._total - done):.0f} s left"
        of = f"/{self._total}" if self._total else ""
        stderr.print(f"  {done}{of} {_rate(done, elapsed)}{left}  {escape(detail)}")

    def note(self, text: str) -> None:
        stderr.print(f"note: {escape(text)}")

    def _finish(self) -> None:
        if self._name:
            stderr.print(f"  {self._name}: {time.monotonic() - self._started:.1f} s")
        self._name = ""


def make_monitor() -> LiveMonitor | PlainMonitor:
    """The monitor that suits stderr."""
    return LiveMonitor() if stderr.is_terminal else PlainMonitor()


def _rate(done: int, seconds: float) -> str:
    return f"{done / seconds:.1f}/s" if done and seconds > 0 else ""
