"""The parent's engine: one child process serves all requests and is restarted when it dies.

Requests in flight are kept until they are answered. When the child dies, the unanswered ones go
to a new one under the same seeds, so a death changes no sample (algorithms A50).
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from factory.child import Child
from factory.engines.base import EngineSettings, check_request, reply_from_wire, request_to_wire
from factory.failures import ChildError, FactoryError, ModelError
from factory.records import Checkpoint, Reply, Request


class ProcessEngine:
    """An Engine in a child process; `factory.engines.base.open_engine` makes one."""

    def __init__(
        self,
        module: str,
        checkpoint: Checkpoint,
        *,
        settings: EngineSettings,
        log: Path,
        notify: Callable[[str], None],
    ) -> None:
        self._module = module
        self._checkpoint = checkpoint
        self._settings = settings
        self._log = log
        self._notify = notify
        self._child: Child | None = None
        self._ready = False
        self._numbers = itertools.count()
        self._in_flight: dict[int, tuple[Request, asyncio.Future[Reply]]] = {}
        self._sent: set[int] = set()
        self._supervisor: asyncio.Task[None] | None = None
        self._ending = False
        self._failure: FactoryError | None = None
        self._first_ready: asyncio.Event = asyncio.Event()
        self.info: dict[str, Any] = {}
        """What the child says of itself: backend, version, device, dtype, max_model_len, …"""
        self.num_restarts = 0
        """Deaths survived so far."""

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint it serves."""
        return self._checkpoint

    @property
    def num_in_flight(self) -> int:
        """Requests not answered yet."""
        return len(self._in_flight)

    @property
    def child_pid(self) -> int | None:
        """Process id of the child that serves now."""
        return self._child.pid if self._child else None

    async def start(self) -> None:
        """Start the child and wait until the model is loaded; raises what `open_engine` raises."""
        self._supervisor = asyncio.create_task(self._supervise())
        ready = asyncio.create_task(self._first_ready.wait())
        try:
            await asyncio.wait({self._supervisor, ready}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self.close()
            raise
        finally:
            ready.cancel()
        if self._supervisor.done():
            self._supervisor.result()
            assert self._failure is not None
            raise self._failure

    async def __aenter__(self) -> ProcessEngine:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def sample(self, requests: Sequence[Request]) -> list[Reply]:
        """Replies in the order of `requests`; cancelling the call takes them back.

        Raises:
            InputError: a request asks for what no engine can do; none of them is sampled.
            FactoryError: the child failed for good; every later call raises the same.
        """
        if self._failure:
            raise self._failure
        for request in requests:
            check_request(request)
        loop = asyncio.get_running_loop()
        submitted: dict[int, asyncio.Future[Reply]] = {}
        for request in requests:
            number = next(self._numbers)
            submitted[number] = loop.create_future()
            self._in_flight[number] = (request, submitted[number])
        try:
            for number in submitted:
                await self._dispatch(number)
            return await asyncio.gather(*submitted.values())
        finally:
            await self._take_back(submitted)

    async def close(self) -> None:
        """End the child; calls still waiting are cancelled."""
        self._failure = self._failure or ChildError("The engine is closed")
        if self._supervisor:
            if not self._ending:
                self._supervisor.cancel()
            await asyncio.wait({self._supervisor})
        for _, future in self._in_flight.values():
            future.cancel()

    async def _dispatch(self, number: int) -> None:
        """Send one request to the child, once; a child that is not ready gets it when it is."""
        if self._ready and number in self._in_flight and number not in self._sent:
            self._sent.add(number)
            assert self._child is not None
            await self._child.send(
                {
                    "type": "request",
                    "number": number,
                    "request": request_to_wire(self._in_flight[number][0]),
                }
            )

    async def _take_back(self, numbers: Iterable[int]) -> None:
        """Forget what of `numbers` has no answer yet, and spare the child the work."""
        for number in numbers:
            forgotten = self._in_flight.pop(number, None)
            if forgotten and number in self._sent and self._child:
                await self._child.send({"type": "abort", "number": number})

    async def _supervise(self) -> None:
        """Keep a child serving until the engine closes, fails, or dies too often in a row."""
        deaths = 0
        try:
            while True:
                answered = await self._serve_until_death()
                deaths = 1 if answered else deaths + 1
                assert self._child is not None
                cause = self._child.cause()
                if deaths > self._settings.max_restarts:
                    raise ChildError(
                        f"The engine died {deaths} times in a row: {cause}",
                        where=f"{self._module}, checkpoint {self._checkpoint.path}",
                        remedy="less memory_gib, max_batch or max_model_len if it ran out of "
                        "memory; else see the log",
                    )
                self.num_restarts += 1
                self._notify(
                    f"The engine died and is restarted ({deaths} of {self._settings.max_restarts} "
                    f"times in a row, {len(self._in_flight)} requests are sent again): {cause}"
                )
        except FactoryError as failure:
            self._fail(failure)
        except Exception as error:
            self._fail(FactoryError(f"The engine's supervisor failed: {error!r}"))
            raise
        finally:
            self._ready = False
            self._ending = True
            if self._child:
                await self._child.stop()

    async def _serve_until_death(self) -> bool:
        """Run one child until it dies; whether it answered any request."""
        answered = False
        self._ready = False
        self._sent.clear()
        self._child = await Child.start(self._module, threads=self._settings.threads, log=self._log)
        await self._child.send(
            {
                "type": "open",
                "path": self._checkpoint.path,
                "settings": asdict(self._settings),
            }
        )
        while message := await self._child.receive():
            if message["type"] == "ready":
                await self._on_ready(message)
            elif message["type"] == "notice":
                self._notify(message["text"])
            else:
                answered = True
                self._on_reply(message)
        return answered

    async def _on_ready(self, message: dict[str, Any]) -> None:
        if message["fingerprint"] != self._checkpoint.fingerprint:
            raise ModelError(
                f"The weights of checkpoint {self._checkpoint.id} have changed: their fingerprint "
                f"is {message['fingerprint']}, recorded is {self._checkpoint.fingerprint}",
                where=self._checkpoint.path,
                remedy="restore the folder, or register it as another checkpoint",
            )
        self.info = message["info"]
        self._ready = True
        self._first_ready.set()
        for number in list(self._in_flight):
            await self._dispatch(number)

    def _on_reply(self, message: dict[str, Any]) -> None:
        entry = self._in_flight.pop(message["number"], None)
        if entry and not entry[1].done():
            entry[1].set_result(reply_from_wire(message["reply"]))

    def _fail(self, failure: FactoryError) -> None:
        self._failure = failure
        for _, future in self._in_flight.values():
            if not future.done():
                future.set_exception(failure)
        self._in_flight.clear()
