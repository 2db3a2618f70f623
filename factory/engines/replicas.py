"""Copies of one model, each in a child of its own on GPUs of its own: engine.data_parallel.

vLLM keeps copies of a model in step only for mixtures of experts; of any other it wants independent
engines (vllm.config.ParallelConfig), which these are. A request's seeds decide its samples, so it
does not matter which copy answers it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from factory.domain.records import Checkpoint, Reply, Request
from factory.engines.base import Closing, check_request
from factory.engines.process import ProcessEngine


class Replicas(Closing):
    """An Engine that deals requests to engines of one checkpoint, each to the one with least to do.

    `factory.engines.opening.open_engine` makes one.
    """

    def __init__(self, engines: Sequence[ProcessEngine]) -> None:
        self._engines = engines
        self._samples = [0] * len(engines)
        """Of each engine, under way."""

    @property
    def checkpoint(self) -> Checkpoint:
        return self._engines[0].checkpoint

    @property
    def num_restarts(self) -> int:
        """Deaths survived so far."""
        return sum(engine.num_restarts for engine in self._engines)

    async def start(self) -> None:
        """Load all copies at once; raises what one of them raises, and closes the others then."""
        try:
            await together([engine.start() for engine in self._engines])
        except BaseException:
            await self.close()
            raise

    async def sample(self, requests: Sequence[Request]) -> list[Reply]:
        """As ProcessEngine.sample; a copy that fails for good fails the call."""
        for request in requests:
            check_request(request)
        places: list[list[int]] = [[] for _ in self._engines]
        for place, request in enumerate(requests):
            chosen = min(range(len(self._engines)), key=self._samples.__getitem__)
            self._samples[chosen] += request.sampling.n
            places[chosen].append(place)
        replies: dict[int, Reply] = {}

        async def ask(number: int) -> None:
            own = [requests[place] for place in places[number]]
            try:
                answers = await self._engines[number].sample(own)
                replies.update(zip(places[number], answers, strict=True))
            finally:
                self._samples[number] -= sum(request.sampling.n for request in own)

        await together([ask(number) for number, own in enumerate(places) if own])
        return [replies[place] for place in range(len(requests))]

    async def close(self) -> None:
        await asyncio.gather(*(engine.close() for engine in self._engines))


async def together(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Wait for all; the first that fails cancels the others, and its exception is raised."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
