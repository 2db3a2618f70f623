"""Answers of a scoring that is not finished: a stopped one goes on with what is missing.

Each answer is a line on disk as soon as it is given, whatever the kind of the benchmark: an engine
that keeps stands before the one that answers. Once the score is in the ledger, they go.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from factory.domain.canon import digest
from factory.domain.records import ENGINE_DIED, Checkpoint, Reply, Request
from factory.engines.base import Engine
from factory.engines.wire import reply_from_wire
from factory.ledger.lineage import is_address

FOLDER = "scoring"
"""In the workspace's state."""


class KeptAnswers:
    """The answers of one scoring. Example: see Keeper.score."""

    def __init__(self, state: Path, what: Sequence[str], of: Sequence[str]) -> None:
        """`what` is scored; answers of another model or basis (`of`) are forgotten."""
        name = digest("\0".join(what), 16)
        self._file = state / FOLDER / f"{name}-{digest(chr(0).join(of), 16)}.jsonl"
        for other in self._file.parent.glob(f"{name}-*.jsonl"):
            if other != self._file:
                other.unlink(missing_ok=True)
        self._known: dict[str, deque[Reply]] = defaultdict(deque)
        self.num_known = 0
        """Answers that an earlier run has left."""
        text = self._file.read_bytes() if self._file.exists() else b""
        self._whole = text[: text.rfind(b"\n") + 1]
        for line in self._whole.splitlines():
            row = json.loads(line)
            self._known[row["key"]].append(reply_from_wire(row["reply"]))
            self.num_known += 1
        if len(self._whole) < len(text):  # it was killed while it wrote the last one
            self._file.write_bytes(self._whole)

    def take(self, key: str) -> Reply | None:
        """An answer that is kept, once."""
        return self._known[key].popleft() if self._known.get(key) else None

    def keep(self, key: str, reply: Reply) -> None:
        """Keep an answer; what an engine did not answer is asked again."""
        if all(each.finish_reason == ENGINE_DIED for each in reply.completions):
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"key": key, "reply": asdict(reply)}, separators=(",", ":"))
        with self._file.open("ab") as file:
            file.write(line.encode("ascii") + b"\n")

    def forget(self) -> None:
        """The score is in the ledger, or all is to be asked again."""
        self._file.unlink(missing_ok=True)
        self._known.clear()
        self.num_known = 0


class KeepingEngine:
    """An Engine that asks another what is not kept."""

    def __init__(self, engine: Engine, kept: KeptAnswers) -> None:
        self._engine, self._kept = engine, kept

    @property
    def checkpoint(self) -> Checkpoint:
        return self._engine.checkpoint

    async def sample(self, requests: Sequence[Request]) -> list[Reply]:
        """Replies in the order of `requests`."""
        keys = [self._key(request) for request in requests]
        replies = [self._kept.take(key) for key in keys]
        asked = [place for place, reply in enumerate(replies) if reply is None]
        if asked:
            answers = await self._engine.sample([requests[place] for place in asked])
            for place, reply in zip(asked, answers, strict=True):
                self._kept.keep(keys[place], reply)
                replies[place] = reply
        return [reply for reply in replies if reply is not None]

    async def close(self) -> None:
        await self._engine.close()

    def _key(self, request: Request) -> str:
        of = self._engine.checkpoint
        return digest(json.dumps([of.id, of.fingerprint, asdict(request)], sort_keys=True), 24)


def keeping(engine: Engine, kept: KeptAnswers | None) -> Engine:
    """The engine before which kept answers stand; as it is where nothing is kept, or it does.

    Nothing is kept of an address: another model may stand behind it when the scoring goes on.
    """
    if kept is None or isinstance(engine, KeepingEngine) or is_address(engine.checkpoint.path):
        return engine
    return KeepingEngine(engine, kept)
