"""Where a long piece of work shows what it is doing."""

from __future__ import annotations

from typing import Protocol


class Monitor(Protocol):
    """Where a round shows what it is doing; the CLI has a live one and a plain one."""

    def stage(self, name: str, total: int | None = None) -> None:
        """A stage starts; `total` is its number of steps where that is known."""

    def progress(self, done: int, detail: str = "", total: int | None = None) -> None:
        """`done` steps of the current stage are finished; `total` where it is known only now."""

    def note(self, text: str) -> None:
        """Something the user should know."""
