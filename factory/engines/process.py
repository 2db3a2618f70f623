"""The parent's engine: one child process serves all requests and is restarted when it dies.

Requests in flight are kept until they are answered. When the child dies, the unanswered ones go
to a new one under the same seeds, so a death changes no sample (algorithms A50). Requests that
were part of `max_restarts` deaths are suspects: they go first, one at a time, and one that kills
the child alone is answered with ENGINE_DIED.

Until something has been answered, each request that an exception ended is a suspect at once. The
same exception over two of them, each alone, is the engine's own fault, and it stops.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from factory.domain.failures import ChildError, FactoryError, ModelError
from factory.domain.records import ENGINE_DIED, UNANSWERED, Checkpoint, Reply, Request
from factory.engines.base import Closing, check_request, unanswered
from factory.engines.child import Child
from factory.engines.early import Early, Seat
from factory.engines.wire import reply_from_wire
from factory.workspace.identity import differing
from factory.workspace.settings import EngineSection

DEATHS_PER_RESTART = 4
"""The engine gives up after this many times `max_restarts` deaths in all."""
NEED_LESS = (
    "set less max_batch, max_model_len, memory_gib (CPU) or gpu_memory (GPU) in factory.toml "
    "[engine], or end what else uses the memory (`nvidia-smi`, `free -g`); then run it again"
)
"""Remedy of an engine whose memory ran out."""
MEND = "mend what the log says, then run it again"
"""Remedy of any other that died."""
LOADING_RESTARTS = 1
"""Deaths in a row, before the model is loaded, that are survived: the next would be the same."""


@dataclass(slots=True)
class Pending:
    """A request without an answer."""

    request: Request
    future: asyncio.Future[Reply] = field(default_factory=asyncio.Future)
    """Where its reply goes."""
    deaths: int = 0
    """Children that died while they had it."""
    cause: str = ""
    """Of the last of these deaths."""


class ProcessEngine(Closing):
    """An Engine in a child process; `factory.engines.opening.open_engine` makes one."""

    def __init__(
        self,
        module: str,
        checkpoint: Checkpoint,
        *,
        settings: EngineSection,
        log: Path,
        notify: Callable[[str], None],
        gpus: Sequence[str] = (),
        early: Early | None = None,
    ) -> None:
        """`gpus` are those that the child sees; without any, it sees what the command does. The
        first child is one of `early`, where that has started one for this seat.
        """
        self.checkpoint = checkpoint
        self._seat = Seat(module, settings.threads, log, tuple(gpus))
        self._early = early
        self._settings = settings
        self._notify = notify
        self._child: Child | None = None
        self._ready = False
        self._numbers = itertools.count()
        self._in_flight: dict[int, Pending] = {}
        self._unsent: deque[int] = deque()
        self._sent: set[int] = set()
        self._suspects: set[int] = set()
        self._has_answered = False
        self.parts: Mapping[str, str] = {}
        """What the model was when it was first loaded."""
        self._alone: dict[int, str] = {}
        """Requests that ended the child alone before any answer, and by which exception."""
        self._held: set[int] = set()
        """Requests that are given up once something else is answered, or nothing else is left."""
        self._supervisor: asyncio.Task[None] | None = None
        self._ending = False
        self._failure: FactoryError | None = None
        self._first_ready: asyncio.Event = asyncio.Event()
        self.num_restarts = 0
        """Deaths survived so far."""

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

    async def sample(self, requests: Sequence[Request]) -> list[Reply]:
        """Replies in the order of `requests`; cancelling the call takes them back.

        Raises InputError, before any is sampled, for one that asks for what no engine can do, and
        the FactoryError by which the child failed for good.
        """
        if self._failure:
            raise self._failure
        for request in requests:
            check_request(request)
        submitted = {next(self._numbers): Pending(request) for request in requests}
        self._in_flight |= submitted
        self._unsent += submitted
        try:
            await self._dispatch()
            return await asyncio.gather(*(pending.future for pending in submitted.values()))
        finally:
            await self._take_back(submitted)

    async def close(self) -> None:
        """End the child; calls still waiting are cancelled."""
        self._failure = self._failure or ChildError("The engine is closed")
        if self._supervisor:
            if not self._ending:
                self._supervisor.cancel()
            await asyncio.wait({self._supervisor})
        for pending in self._in_flight.values():
            pending.future.cancel()

    async def _dispatch(self) -> None:
        """Send what waits, once the child is ready; nothing beside a suspect."""
        while self._ready and self._unsent and not (self._suspects and self._sent):
            number = self._unsent.popleft()
            if number in self._in_flight:
                self._sent.add(number)
                assert self._child is not None
                request = asdict(self._in_flight[number].request)
                await self._child.send({"type": "request", "number": number, "request": request})

    async def _take_back(self, numbers: Iterable[int]) -> None:
        """Forget what of `numbers` has no answer yet, and spare the child the work."""
        for number in numbers:
            was_sent = number in self._sent
            if self._forget(number) and was_sent and self._child:
                await self._child.send({"type": "abort", "number": number})
        self._settle()
        await self._dispatch()

    def _forget(self, number: int) -> Pending | None:
        self._sent.discard(number)
        self._suspects.discard(number)
        self._held.discard(number)
        return self._in_flight.pop(number, None)

    async def _supervise(self) -> None:
        """Keep a child serving until the engine closes, fails, or dies too often."""
        deaths = loading_deaths = 0
        limit = self._settings.max_restarts
        try:
            while True:
                await self._serve_until_death()
                assert self._child is not None
                cause = self._child.cause()
                deaths += 1
                loading_deaths = 0 if self._ready else loading_deaths + 1
                if loading_deaths > min(LOADING_RESTARTS, limit):
                    raise self._too_often(f"{loading_deaths} times while it loaded", cause)
                if deaths > DEATHS_PER_RESTART * limit:
                    raise self._too_often(f"{deaths} times", cause)
                if self._is_own_fault():
                    raise self._too_often(
                        f"over each request that it was given, {deaths} times", cause
                    )
                self._blame(cause)
                self.num_restarts = deaths
                self._notify(
                    f"The engine died and is restarted (death {deaths}, {len(self._in_flight)} "
                    f"requests are sent again): {cause}"
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

    def _too_often(self, times: str, cause: str) -> ChildError:
        assert self._child is not None
        return ChildError(
            f"The engine died {times}: {cause}",
            where=f"{self._seat.module}, checkpoint {self.checkpoint.path}",
            remedy=NEED_LESS if self._child.ran_out_of_memory else MEND,
        )

    def _is_own_fault(self) -> bool:
        """Whether two requests, each alone, met the same exception, and none was ever answered."""
        assert self._child is not None
        if self._has_answered or not self._child.raised or len(self._sent) != 1:
            return False
        (number,) = self._sent
        self._alone[number] = self._child.raised
        return [*self._alone.values()].count(self._child.raised) > 1

    def _blame(self, cause: str) -> None:
        """Count the death for what the child had, and queue it again with suspects in front."""
        assert self._child is not None
        limit = self._settings.max_restarts
        is_probed = bool(self._child.raised) and not self._has_answered
        for number in list(self._sent):
            pending = self._in_flight[number]
            pending.deaths += 1
            pending.cause = cause
            if pending.deaths > limit:
                # It was a suspect, hence alone.
                self._suspects.discard(number)
                self._held.add(number)
            elif pending.deaths >= limit or is_probed:
                self._suspects.add(number)
        self._sent.clear()
        self._unsent = deque(sorted(self._in_flight.keys() - self._held, key=self._turn_of))
        self._settle()

    def _turn_of(self, number: int) -> tuple[bool, int, int]:
        """Suspects first; of these the one that was part of the fewest deaths."""
        is_suspect = number in self._suspects
        return not is_suspect, self._in_flight[number].deaths if is_suspect else 0, number

    def _settle(self, answered: bool = False) -> None:
        """Give up what is held, where the engine has answered another or has nothing else to do."""
        if answered or self._in_flight.keys() <= self._held:
            for number in sorted(self._held):
                self._give_up(number)

    def _note_answer(self) -> None:
        """The engine answers: what killed it was at fault, and only suspects are asked alone."""
        if not self._has_answered:
            self._has_answered = True
            limit = self._settings.max_restarts
            self._suspects = {n for n in self._suspects if self._in_flight[n].deaths >= limit}
        self._settle(answered=True)

    def _give_up(self, number: int) -> None:
        """Answer the request that kills the child."""
        pending = self._forget(number)
        assert pending is not None
        if not pending.future.done():
            lines = pending.cause.splitlines()
            fault = " ".join(
                ["it ended the engine:", lines[0], *(x.strip() for x in lines[1:][-1:])]
            )
            pending.future.set_result(unanswered(pending.request, ENGINE_DIED, fault=fault))
        self._notify(
            f"Request {pending.request.id} stays unanswered: the engine died {pending.deaths} "
            "times over it, at last with no other request"
        )

    async def _serve_until_death(self) -> None:
        """Run one child until it dies; it was `_ready` if it had loaded the model."""
        self._ready = False
        started = await self._early.take(self._seat) if self._early else None
        self._child = started or await self._seat.start_child()
        await self._child.send(
            {
                "type": "open",
                **asdict(self.checkpoint),
                "settings": self._settings.model_dump(),
                "logs": str(self._seat.log.parent),
            }
        )
        while message := await self._child.receive():
            if message["type"] == "ready":
                await self._on_ready(message)
            elif message["type"] == "notice":
                self._notify(message["text"])
            else:
                pending = self._forget(message["number"])
                reply = reply_from_wire(message["reply"])
                if pending and not pending.future.done():
                    pending.future.set_result(reply)
                if reply.completions[0].finish_reason not in UNANSWERED:
                    self._note_answer()
                self._settle()
                await self._dispatch()

    async def _on_ready(self, message: dict[str, Any]) -> None:
        if message["fingerprint"] != self.checkpoint.fingerprint:
            raise ModelError(
                f"The weights of checkpoint {self.checkpoint.id} have changed: their fingerprint "
                f"is {message['fingerprint']}, recorded is {self.checkpoint.fingerprint}",
                where=self.checkpoint.path,
                remedy="restore the folder, or begin a round from it as it is: `factory round "
                "--abandon` gives back the requests that have no answer",
            )
        self.parts = self.parts or message["parts"]
        if changed := differing(self.parts, message["parts"]):
            raise ModelError(
                f"the {' and the '.join(changed)} of checkpoint {self.checkpoint.id} changed while "
                "it was served",
                where=self.checkpoint.path,
                remedy="undo the edit and run it again; answers of one run are those of one model",
            )
        self._ready = True
        self._first_ready.set()
        await self._dispatch()

    def _fail(self, failure: FactoryError) -> None:
        self._failure = failure
        for pending in self._in_flight.values():
            if not pending.future.done():
                pending.future.set_exception(failure)
        self._in_flight.clear()
