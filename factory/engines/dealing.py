"""Requests dealt to engines that may die: each to the one with the least to do, until it is full.

What an engine has been given and has not answered is asked again of another, under the same seeds,
so neither the number of engines nor a death changes a sample. The rest waits here.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Any, Protocol

from factory.domain.failures import ChildError, ModelError
from factory.engines.actor import Numbered
from factory.engines.child import Channel
from factory.engines.process import DEATHS_PER_RESTART, LOADING_RESTARTS
from factory.engines.replicas import together
from factory.workspace.identity import differing

PAUSE_SECONDS = 0.004
"""Of each engine, how long more is waited for before it is given or taken: however many there are,
they take at most 250 calls of each kind a second from the process that deals."""


def read_messages(
    channel: Channel, accept: Callable[[list[dict[str, Any]]], None]
) -> asyncio.Future[None]:
    """Hand on what comes through a channel, from a thread to this loop. The future is done once the
    channel is closed, or has the exception by which a message could not be read."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def read() -> None:
        try:
            while (message := channel.receive()) is not None:
                messages = [message]
                while (more := channel.receive(block=False)) is not None:
                    messages.append(more)
                loop.call_soon_threadsafe(accept, messages)
        except Exception as error:
            loop.call_soon_threadsafe(ended.set_exception, error)
        else:
            loop.call_soon_threadsafe(ended.set_result, None)

    threading.Thread(target=read, name="requests", daemon=True).start()
    return ended


class Lost(Exception):
    """An engine died; str() says why."""


class Hired(Protocol):
    """An engine that has loaded its model: factory.engines.actor.EngineActor as others see it.

    Each method raises Lost once it is dead.
    """

    parts: Mapping[str, str]
    """Of its model."""

    async def give(self, requests: Sequence[Numbered], dropped: Sequence[int]) -> None: ...

    async def take(self, pause: float) -> tuple[list[Numbered], list[str]]: ...


@dataclass(slots=True)
class Desk:
    """The place of one engine, which others take after it."""

    number: int
    held: dict[int, int] = field(default_factory=dict)
    """Samples wanted of each request that the engine here has, or is about to be given."""
    load: int = 0
    """Their sum."""
    given: list[int] = field(default_factory=list)
    """Requests that the engine has not been told of."""
    dropped: list[int] = field(default_factory=list)
    """Requests that nobody waits for any more, and that it does not know of."""
    news: asyncio.Event = field(default_factory=asyncio.Event)
    is_open: bool = False
    """Whether an engine works here."""
    fruitless: int = 0
    """Deaths here since the last answer."""

    def drop(self, number: int) -> bool:
        """Forget a request; whether it was here."""
        samples = self.held.pop(number, None)
        self.load -= samples or 0
        return samples is not None


class Dealer:
    """Deals numbered requests to `replicas` engines, and sends their messages on.

    Example: await Dealer(hire, replicas=8, room=512, max_restarts=3, send=channel.send).run()
    """

    def __init__(
        self,
        hire: Callable[[int], Awaitable[Hired]],
        *,
        replicas: int,
        room: int,
        max_restarts: int,
        send: Callable[[dict[str, Any]], None],
    ) -> None:
        """`hire` gives the engine of a place. `room` is how many samples an engine has at a time;
        more wait for whichever is free first. `send` takes `ready`, `reply` and `notice`."""
        self._hire = hire
        self._room = room
        self._max_restarts = max_restarts
        self._send = send
        self._pause = PAUSE_SECONDS * replicas
        self._desks = [Desk(number) for number in range(1, replicas + 1)]
        self._left = {desk.number for desk in self._desks}
        """Places that are not given up."""
        self._requests: dict[int, dict[str, Any]] = {}
        """Without an answer, whoever has them."""
        self._waiting: list[int] = []
        """A heap: what was asked first goes first, also after a death."""
        self._deaths: Counter[int] = Counter()
        """Of each unanswered request, engines that died while they had it."""
        self._parts: Mapping[str, str] = {}
        self._is_ready = False

    async def run(self) -> None:
        """Deal until cancelled. Raises what `hire` raises, and ChildError for too many deaths."""
        await together([self._keep(desk) for desk in self._desks])

    def accept(self, messages: Sequence[dict[str, Any]]) -> None:
        """Take requests, and take others back."""
        for message in messages:
            number = int(message["number"])
            if message["type"] == "request":
                self._requests[number] = message["request"]
                heappush(self._waiting, number)
            elif self._requests.pop(number, None) is not None:
                self._take_back(number)
        self._deal()

    def _take_back(self, number: int) -> None:
        for desk in self._desks:
            if desk.drop(number):
                if number in desk.given:
                    desk.given.remove(number)
                else:
                    desk.dropped.append(number)
                    desk.news.set()
        self._deaths.pop(number, None)

    async def _keep(self, desk: Desk) -> None:
        """One engine after another at one place, until too many died there without an answer."""
        while True:
            try:
                engine = await self._hire(desk.number)
                self._open(desk, engine)
                await together([self._give(desk, engine), self._take(desk, engine)])
            except Lost as lost:
                if not self._mourn(desk, str(lost)):
                    return
            finally:
                desk.is_open = False

    def _open(self, desk: Desk, engine: Hired) -> None:
        self._parts = self._parts or engine.parts
        if changed := differing(self._parts, engine.parts):
            raise ModelError(
                f"engine {desk.number} has another {' and '.join(changed)} than the first",
                remedy="give all nodes the same folder; answers of one run are those of one model",
            )
        desk.is_open = True
        self._tell_ready()
        self._deal()

    def _tell_ready(self) -> None:
        """At the first engine: the others may wait for room for as long as the work takes."""
        if not self._is_ready:
            self._is_ready = True
            parts = dict(self._parts)
            self._send({"type": "ready", "fingerprint": parts["weights"], "parts": parts})

    def _deal(self) -> None:
        desks = [desk for desk in self._desks if desk.is_open]
        while self._waiting and desks:
            desk = min(desks, key=lambda desk: desk.load)
            if desk.load >= self._room:
                return
            number = heappop(self._waiting)
            if number in self._requests:
                samples = int(self._requests[number]["sampling"]["n"])
                desk.held[number] = samples
                desk.load += samples
                desk.given.append(number)
                desk.news.set()

    async def _give(self, desk: Desk, engine: Hired) -> None:
        while True:
            await desk.news.wait()
            await asyncio.sleep(self._pause)
            desk.news.clear()
            given, dropped = desk.given, desk.dropped
            desk.given, desk.dropped = [], []
            await engine.give([(number, self._requests[number]) for number in given], dropped)

    async def _take(self, desk: Desk, engine: Hired) -> None:
        while True:
            finished, notices = await engine.take(self._pause)
            for text in notices:
                self._send({"type": "notice", "text": f"engine {desk.number}: {text}"})
            for number, reply in finished:
                if desk.drop(number):
                    del self._requests[number]
                    self._deaths.pop(number, None)
                    desk.fruitless = 0
                    self._send({"type": "reply", "number": number, "reply": reply})
            self._deal()

    def _mourn(self, desk: Desk, cause: str) -> bool:
        """Give what an engine had to others; whether its place gets another one."""
        held, desk.held, desk.load = desk.held, {}, 0
        desk.given, desk.dropped, desk.is_open = [], [], False
        self._waiting += held
        heapify(self._waiting)
        self._deaths.update(held)
        desk.fruitless += 1
        again = f"{len(held)} requests are asked again"
        if desk.fruitless <= min(LOADING_RESTARTS, self._max_restarts):
            self._notice(f"engine {desk.number} died and is replaced, {again}: {cause}")
        else:
            self._left.discard(desk.number)
            if not self._left:
                raise ChildError(
                    f"each engine died {desk.fruitless} times without an answer, at last: {cause}",
                    remedy="mend what the log says, then run it again",
                )
            left = f"{len(self._left)} of {len(self._desks)} engines are left"
            self._notice(
                f"engine {desk.number} died again and is given up, {again}: {cause}; {left}"
            )
        limit = DEATHS_PER_RESTART * max(1, self._max_restarts)
        if worst := [number for number in held if self._deaths[number] > limit]:
            raise ChildError(
                f"{limit + 1} engines died over request {self._requests[worst[0]]['id']}: {cause}",
                remedy="mend what the log says, then run it again",
            )
        self._deal()
        return desk.number in self._left

    def _notice(self, text: str) -> None:
        self._send({"type": "notice", "text": text})
