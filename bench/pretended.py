"""Engines that answer at a GPU's rate without a model: the child of `python -m bench.ray`.

They stand behind the interface of factory.engines.actor.EngineActor and are called through Ray,
many in one process: what a call costs the process that deals is that of an engine of its own.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from bench.ray import RATE
from factory.engines.actor import Numbered
from factory.engines.child import run_child
from factory.engines.ray import Cluster, RayEngine, serve
from factory.workspace.identity import identify

# isort: split
import ray  # which reads the environment that the module above sets

LATENCY = 2.0
"""Seconds from a request to its answer, at least: five answers of 100 tokens at 50 a second."""
HALLS = 2
"""Processes of the pretended engines."""
TOKENS = list(range(1000, 1100))
TEXT = '[{"name": "find_route", "arguments": {"from": "Erfurt", "to": "Jena", "stops": 3}}]' * 4


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """A reply of so many completions as are asked for, each of 100 tokens."""
    completion = {
        "text": TEXT,
        "token_ids": TOKENS,
        "finish_reason": "stop",
        "logprob": -12.5,
        "fault": "",
    }
    completions = [completion] * int(request["sampling"]["n"])
    return {"request_id": request["id"], "completions": completions, "num_prompt_tokens": 600}


class Hall:
    """The seats of many pretended engines."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._queues: dict[int, deque[tuple[float, int, dict[str, Any]]]] = {}
        self._last: dict[int, float] = {}

    async def give(self, seat: int, requests: Sequence[Numbered], dropped: Sequence[int]) -> None:
        queue = self._queues.setdefault(seat, deque())
        for number, request in requests:
            due = max(time.monotonic() + LATENCY, self._last.get(seat, 0.0) + 1 / self._rate)
            self._last[seat] = due
            queue.append((due, number, answer(request)))

    async def take(self, seat: int, pause: float) -> tuple[list[Numbered], list[str]]:
        queue = self._queues.setdefault(seat, deque())
        while not queue or queue[0][0] > time.monotonic():
            await asyncio.sleep(max(pause, queue[0][0] - time.monotonic() if queue else 0))
        finished: list[Numbered] = []
        while queue and queue[0][0] <= time.monotonic():
            _, number, reply = queue.popleft()
            finished.append((number, reply))
        return finished, []


class Call:
    """A method of a hall for one seat, with the `remote` that an actor's has."""

    def __init__(self, method: Any, seat: int) -> None:
        self._method = method
        self._seat = seat

    def remote(self, *arguments: object) -> Any:
        return self._method.remote(self._seat, *arguments)


class Seat:
    """One engine of a hall, as a handle of its own."""

    def __init__(self, hall: Any, seat: int) -> None:
        self.give = Call(hall.give, seat)
        self.take = Call(hall.take, seat)


class Halls(Cluster):
    """A cluster whose engines are pretended."""

    def __init__(self, opening: dict[str, Any], channel: Any) -> None:
        super().__init__(opening, channel)
        hall = ray.remote(Hall).options(num_cpus=0, max_concurrency=1000)
        self._halls = [hall.remote(float(os.environ[RATE])) for _ in range(HALLS)]

    async def hire(self, number: int) -> RayEngine:
        seat = Seat(self._halls[number % HALLS], number)
        return RayEngine(seat, identify(self.folder).parts)


if __name__ == "__main__":
    run_child(lambda channel, _: serve(channel, Halls))
