"""Children of an engine that start before their model is there, so that it need not wait for them.

Importing vLLM takes several times as long as loading a small model, on one core of however many. A
child imports first and then waits to be told what to open: until then it holds nothing of a model,
and no memory of a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from factory.engines.base import Closing
from factory.engines.child import Child


class Seat(NamedTuple):
    """Where one copy of a model is served."""

    module: str
    """That its child runs."""
    threads: int
    log: Path
    gpus: tuple[str, ...] = ()
    """Those that the child sees; without any, it sees what the command does."""

    async def start_child(self) -> Child:
        return await Child.start(self.module, threads=self.threads, log=self.log, gpus=self.gpus)


class Early(Closing):
    """Children by their seats; use it with `async with`, which ends those that nobody took.

    Example: early = Early(seats_of(settings, …)); await early.start(); await early.take(seat).
    """

    def __init__(self, seats: Sequence[Seat] = ()) -> None:
        self._seats = seats
        self._children: dict[Seat, Child] = {}

    async def start(self) -> None:
        """Start a child for each seat, and wait for none of them."""
        for seat in self._seats:
            if seat not in self._children:
                self._children[seat] = await seat.start_child()

    async def take(self, seat: Seat) -> Child | None:
        """The seat's child, which is the caller's from now on; None where none was started, or it
        died meanwhile: that was no death of the engine."""
        child = self._children.pop(seat, None)
        if child is None or child.is_alive:
            return child
        await child.kill()
        return None

    async def close(self) -> None:
        while self._children:
            _, child = self._children.popitem()
            await child.kill()
