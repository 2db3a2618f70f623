"""Transcripts of agents, whose conversations stand in a file event by event."""

from __future__ import annotations

from collections.abc import Iterator

from factory.tools.logs import AskedTurn, Event

MAX_SESSIONS = 256
"""Transcripts that may be open at once in a file; of more the one begun first is closed."""


class Transcripts:
    """Events of a file, session by session, as requests with what followed them."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[str, AskedTurn]] = {}

    def add(self, event: Event, where: str) -> Iterator[tuple[str, AskedTurn]]:
        """Take an event; the requests that it ends, each with the place where it began."""
        for message in event.messages:
            if message["role"] == "user":
                if (before := self._open.pop(event.session, None)) is not None:
                    yield before
                asked = AskedTurn(text=message["content"], answer=[], tools=[])
                self._open[event.session] = where, asked
            elif event.session in self._open:
                self._open[event.session][1].answer.append(message)
        if len(self._open) > MAX_SESSIONS:
            yield self._open.pop(next(iter(self._open)))

    def close(self) -> Iterator[tuple[str, AskedTurn]]:
        """What is open at the end of the file."""
        yield from self._open.values()
        self._open.clear()
