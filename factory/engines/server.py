"""The child that serves a model: one loop, whatever samples.

A back end is a module that a child runs (factory.engines.vllm, factory.engines.transformers): it
loads the model and steps it. What is here reads requests from the channel, refuses what no back end
can answer, and sends the replies; `factory.engines.process` is the other end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from factory.domain.failures import ChildError
from factory.domain.records import (
    ENGINE_DIED,
    PROMPT_TOO_LONG,
    SCHEMA_UNSUPPORTED,
    Message,
    Reply,
    Request,
)
from factory.engines.base import unanswered
from factory.engines.callform import Unsupported
from factory.engines.chat import Chat
from factory.engines.child import Channel
from factory.engines.fitting import check_fitting
from factory.engines.wire import request_from_wire
from factory.workspace.identity import identify
from factory.workspace.settings import EngineSection

Answer = Callable[[int, Reply], None]
"""Takes the reply to the request of a number."""


REFUSALS = 2
"""So many requests refused in the same words, and none taken: the engine refuses them all."""
HOLD_SECONDS = 0.5
"""How long a refusal waits for another request, before anything is taken."""


class Refused(Exception):
    """A request that the back end does not take; str() says why."""


class Backend(ABC):
    """A loaded model, and the requests that it samples. Requests have a number on the channel."""

    reads_ahead = False
    """Whether requests are tokenised in the channel's thread while the model steps.

    Where a new request cannot join the batch that runs, it is better that the first batch waits for
    what has come with it.
    """
    chat: Chat
    max_model_len: int
    """Prompt and answer together, in tokens."""

    @property
    @abstractmethod
    def is_busy(self) -> bool:
        """Whether a step has something to do."""

    @abstractmethod
    def add(self, number: int, request: Request, prompt_ids: list[int]) -> None:
        """Take a request. Raises Refused, and Unsupported where its schema makes no grammar."""

    @abstractmethod
    def abort(self, number: int) -> None:
        """Forget a request, if it is still here."""

    @abstractmethod
    def step(self, answer: Answer) -> None:
        """Sample on, and answer each request as soon as it is complete."""


class Server:
    """A back end between the messages of a channel."""

    def __init__(self, channel: Channel, folder: Path, backend: Backend) -> None:
        self._channel = channel
        self._folder = folder
        self._backend = backend
        self._has_taken = False
        self._refusals: Counter[str] = Counter()
        self._held: list[tuple[int, Reply]] = []
        self._reading_chat = backend.chat
        if backend.reads_ahead:
            # The reading thread's own: a tokenizer serves one thread.
            self._reading_chat = Chat(folder)
            channel.prepare = self._read

    def serve(self) -> None:
        """Step as long as there is work, else wait; returns when the channel closes.

        What is refused before anything is taken is answered once nothing else comes.
        """
        while True:
            wait = HOLD_SECONDS if self._held else None
            message = self._channel.receive(block=not self._backend.is_busy, timeout=wait)
            if message is None and not (self._backend.is_busy or self._channel.closed):
                self._release()
            while message is not None:
                self._accept(message if self._backend.reads_ahead else self._read(message))
                message = self._channel.receive(block=False)
            if self._channel.closed:
                return
            self._backend.step(self._send)

    def _read(self, message: dict[str, Any]) -> dict[str, Any]:
        """Tokenise a request."""
        if message["type"] == "abort":
            return message
        request = request_from_wire(message["request"])
        prompt_ids = self._reading_chat.encode(request)
        return {**message, "request": request, "prompt_ids": prompt_ids}

    def _accept(self, message: dict[str, Any]) -> None:
        number = int(message["number"])
        if message["type"] == "abort":
            self._backend.abort(number)
            return
        request, prompt_ids = message["request"], message["prompt_ids"]
        room = request.sampling.max_tokens if request.sampling.beam else 1
        if len(prompt_ids) + room > self._backend.max_model_len:
            self._send(number, unanswered(request, PROMPT_TOO_LONG, len(prompt_ids)))
            return
        try:
            self._backend.add(number, request, prompt_ids)
            self._has_taken = True
            self._release()
        except Refused as error:
            self._refuse(request, str(error))
            reply = unanswered(request, ENGINE_DIED, len(prompt_ids), str(error))
            self._held.append((number, reply))
            if self._has_taken:
                self._release()
        except Unsupported as error:
            text = f"request {request.id} stays unanswered, its schema makes no grammar: {error}"
            self._channel.send({"type": "notice", "text": text})
            self._send(number, unanswered(request, SCHEMA_UNSUPPORTED, len(prompt_ids)))

    def _refuse(self, request: Request, why: str) -> None:
        """The log has every refusal, the parent is told of one.

        Raises ChildError where the engine has taken no request and refuses them in the same words.
        """
        text = f"the engine refuses request {request.id}, which stays unanswered: {why}"
        print(text, flush=True)
        self._refusals[why] += 1
        if not self._has_taken and self._refusals[why] == REFUSALS:
            raise ChildError(
                f"the engine refuses every request: {why}",
                where=str(self._folder),
                remedy="mend what it names in the model's folder or factory.toml [engine]",
            )
        if self._refusals.total() == 1:
            self._channel.send({"type": "notice", "text": text})

    def _release(self) -> None:
        for number, reply in self._held:
            self._send(number, reply)
        self._held.clear()

    def _send(self, number: int, reply: Reply) -> None:
        self._channel.send({"type": "reply", "number": number, "reply": asdict(reply)})


def serve(channel: Channel, load: Callable[[Path, EngineSection], Backend]) -> None:
    """Load the model that the first message names, say so, and serve it."""
    opening = channel.receive()
    if opening is None:
        return
    folder = Path(opening["path"])
    check_fitting(folder, [(Message(role="user", content="Hello"),)], training=False)
    backend = load(folder, EngineSection(**opening["settings"]))
    server = Server(channel, folder, backend)
    parts = identify(folder).parts
    channel.send({"type": "ready", "fingerprint": parts["weights"], "parts": parts})
    server.serve()
