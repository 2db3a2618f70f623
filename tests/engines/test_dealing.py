"""Requests dealt to engines that die, with real children that have no model, and without Ray."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from test_engines import ask, write_folder
from workspaces import ROOT

from factory.domain.failures import ChildError, FactoryError, MissingError, ModelError
from factory.domain.records import Checkpoint, Request
from factory.engines import opening
from factory.engines.actor import (
    EngineActor,
    Node,
    Numbered,
    find_fault,
    look_at_node,
    room_for_engines,
)
from factory.engines.dealing import Dealer, Lost
from factory.engines.wire import reply_from_wire
from factory.workspace.machine import package_sha
from factory.workspace.models import fingerprint
from factory.workspace.settings import EngineSection

SETTINGS = EngineSection(backend="transformers", threads=1, max_model_len=128).model_dump()


class Near:
    """An actor of this process, which can be killed as one of another."""

    def __init__(self, actor: EngineActor, parts: dict[str, str]) -> None:
        self.actor = actor
        self.parts = parts
        self.num_given: list[int] = []
        self.dropped: list[int] = []
        self._dead = asyncio.Event()

    def kill(self) -> None:
        self._dead.set()

    async def give(self, requests: Sequence[Numbered], dropped: Sequence[int]) -> None:
        self.num_given.append(len(requests))
        self.dropped += dropped
        await self._unless_dead(self.actor.give(requests, dropped))

    async def take(self, pause: float) -> tuple[list[Numbered], list[str]]:
        return await self._unless_dead(self.actor.take(pause))

    async def _unless_dead(self, work: Awaitable[Any]) -> Any:
        """The answer, or Lost as soon as the actor is killed."""
        working = asyncio.ensure_future(work)
        dead = asyncio.ensure_future(self._dead.wait())
        await asyncio.wait({working, dead}, return_when=asyncio.FIRST_COMPLETED)
        dead.cancel()
        if working.done() and not self._dead.is_set():
            return working.result()
        working.cancel()
        raise Lost("it was killed")


class Table:
    """A dealer with engines in this process, and what it has sent."""

    def __init__(self, folder: Path, replicas: int, room: int = 512, max_restarts: int = 2) -> None:
        self.folder = folder
        self.engines: dict[int, list[Near]] = {}
        self.barred: set[int] = set()
        self.sent: list[dict[str, Any]] = []
        self.dealer = Dealer(
            self._hire,
            replicas=replicas,
            room=room,
            max_restarts=max_restarts,
            send=self.sent.append,
        )

    async def _hire(self, number: int) -> Near:
        if number in self.barred:
            raise Lost("the GPU fell off the bus")
        actor = EngineActor()
        checkpoint = Checkpoint(id="c", path=str(self.folder), fingerprint=fingerprint(self.folder))
        logs = str(self.folder.parent / f"engine-{number}")
        parts = await actor.open(asdict(checkpoint), SETTINGS, logs, package_sha())
        self.engines.setdefault(number, []).append(near := Near(actor, parts))
        return near

    async def until(self, told: Callable[[], object]) -> None:
        async with asyncio.timeout(60):
            while not told():
                await asyncio.sleep(0.01)

    @property
    def is_ready(self) -> bool:
        return any(message["type"] == "ready" for message in self.sent)

    @property
    def texts(self) -> dict[int, str]:
        replies = [message for message in self.sent if message["type"] == "reply"]
        return {
            message["number"]: reply_from_wire(message["reply"]).completions[0].text
            for message in replies
        }

    def accept(self, *requests: Request, start: int = 0) -> None:
        self.dealer.accept(
            [
                {"type": "request", "number": number, "request": asdict(request)}
                for number, request in enumerate(requests, start)
            ]
        )


def with_table(table: Table, body: Callable[[Table], Awaitable[None]]) -> None:
    """Run the test while the dealer deals, then end its engines."""

    async def run() -> None:
        dealing = asyncio.create_task(table.dealer.run())
        testing = asyncio.ensure_future(body(table))
        try:
            await asyncio.wait({dealing, testing}, return_when=asyncio.FIRST_COMPLETED)
            (dealing if dealing.done() and not testing.done() else testing).result()
        finally:
            dealing.cancel()
            testing.cancel()
            await asyncio.gather(dealing, testing, return_exceptions=True)
            for near in (near for nears in table.engines.values() for near in nears):
                await near.actor.close()

    asyncio.run(run())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.setitem(opening.BACKENDS, "transformers", "child_engine")
    return write_folder(tmp_path / "model")


def test_engines_share_the_requests_and_a_killed_one_loses_none(folder: Path) -> None:
    """The engine of place 1 is killed while it has what it never answers; so it is asked again."""
    requests = [ask(f"fine {number}", seed=number) for number in range(40)]

    async def body(table: Table) -> None:
        await table.until(lambda: all(desk.is_open for desk in table.dealer._desks))
        once = folder.parent / "once"
        table.accept(*requests, ask(f"die once {once}", seed=3))
        await table.until(lambda: len(table.texts) == 41)
        assert table.texts == {
            **{number: f"fine {number} {number}" for number in range(40)},
            40: f"die once {once} 3",
        }
        assert sum(table.engines[1][0].num_given) in (20, 21)  # each has half of them
        table.accept(ask("never"), ask("never"), start=50)
        await table.until(lambda: all(desk.held for desk in table.dealer._desks))
        table.engines[1][0].kill()
        await table.until(lambda: len(table.engines[1]) == 2)
        table.accept(*requests, start=100)
        await table.until(lambda: len(table.texts) == 81)

    table = Table(folder, replicas=2)
    with_table(table, body)
    notices = [message["text"] for message in table.sent if message["type"] == "notice"]
    killed = "engine 1 died and is replaced, 1 requests are asked again: it was killed"
    assert killed in notices and any("The engine died and is restarted" in text for text in notices)
    assert [len(table.engines[number]) for number in (1, 2)] == [2, 1]


def test_an_engine_has_only_so_much_at_a_time_and_aborts_reach_it(folder: Path) -> None:
    async def body(table: Table) -> None:
        await table.until(lambda: table.is_ready)
        table.accept(*[ask("never", n=2) for _ in range(6)])
        (desk,) = table.dealer._desks
        assert (desk.load, len(desk.held)) == (4, 2)
        await table.until(lambda: table.engines[1][0].num_given)
        table.dealer.accept([{"type": "abort", "number": number} for number in (0, 4, 5)])
        assert (desk.load, set(desk.held)) == (4, {1, 2})
        await table.until(lambda: table.engines[1][0].dropped == [0])
        table.dealer.accept([{"type": "abort", "number": number} for number in (1, 2, 3)])
        assert not table.dealer._requests and not desk.load
        table.accept(ask("last", n=2), start=9)
        await table.until(lambda: table.texts == {9: "last 0"})

    with_table(Table(folder, replicas=1, room=3), body)


def test_work_begins_with_the_first_engine_and_others_come_as_there_is_room(folder: Path) -> None:
    async def body(table: Table) -> None:
        await table.until(lambda: table.is_ready)
        table.accept(ask("fine"))
        await table.until(lambda: table.texts)
        assert list(table.engines) == [1]
        table.room_for_second.set()
        await table.until(lambda: all(desk.is_open for desk in table.dealer._desks))
        table.accept(ask("fine"), ask("fine"), start=1)
        await table.until(lambda: len(table.texts) == 3)
        assert table.engines[2][0].num_given == [1]

    class Full(Table):
        room_for_second = asyncio.Event()

        async def _hire(self, number: int) -> Near:
            if number == 2:
                await self.room_for_second.wait()
            return await super()._hire(number)

    table = Full(folder, replicas=2)
    with_table(table, body)
    assert [message["type"] for message in table.sent].count("ready") == 1


def test_gpus_of_an_engine_are_of_one_node() -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 16.0, "GPU": 3.0}},
        {"Alive": True, "Resources": {"CPU": 16.0, "GPU": 3.0}},
        {"Alive": True, "Resources": {"CPU": 4.0}},
        {"Alive": False, "Resources": {"CPU": 16.0, "GPU": 8.0}},
    ]
    assert [room_for_engines(nodes, each) for each in (0, 1, 2, 3, 4)] == [36, 6, 2, 2, 0]


def test_a_place_where_engines_die_is_given_up(folder: Path) -> None:
    async def body(table: Table) -> None:
        table.barred.add(2)
        await table.until(lambda: table.is_ready)
        table.accept(ask("fine"))
        await table.until(lambda: table.texts)
        table.barred.add(1)
        table.engines[1][0].kill()
        await asyncio.sleep(10)

    table = Table(folder, replicas=2)
    with pytest.raises(ChildError, match=r"each engine died 2 times without an answer.*fell off"):
        with_table(table, body)
    notices = [message["text"] for message in table.sent if message["type"] == "notice"]
    assert any(text.startswith("engine 2 died again and is given up") for text in notices)
    assert any(text.endswith("1 of 2 engines are left") for text in notices)


def test_engines_of_other_models_and_failures_of_the_model_end_it(folder: Path) -> None:
    class Other(Table):
        async def _hire(self, number: int) -> Near:
            near = await super()._hire(number)
            near.parts = {**near.parts, "config": str(number)}
            return near

    async def wait(table: Table) -> None:
        await asyncio.sleep(30)

    with pytest.raises(ModelError, match="has another config than the first"):
        with_table(Other(folder, replicas=2), wait)

    async def fail(table: Table) -> None:
        await table.until(lambda: table.is_ready)
        table.accept(ask("fail"))
        await asyncio.sleep(30)

    with pytest.raises(ModelError, match="the trie is gone"):
        with_table(Table(folder, replicas=1), fail)


def test_what_nodes_lack_is_said_of_each(folder: Path) -> None:
    here = look_at_node(str(folder))
    assert here.name == socket.gethostname()  # no resolver is asked
    assert here.has_folder and here.package == package_sha()

    def fault(*nodes: Node) -> FactoryError | None:
        return find_fault(nodes, str(folder), package_sha())

    assert fault(here, here) is None
    far = dataclasses.replace(here, name="gpu-7 (10.0.0.7)", has_folder=False)
    lacking = fault(here, far)
    assert isinstance(lacking, ModelError) and lacking.where == str(folder)
    assert lacking.what == "1 of 2 nodes lack the model's folder: gpu-7 (10.0.0.7)"
    old = fault(here, dataclasses.replace(here, name="gpu-7", package="0ld"))
    assert isinstance(old, MissingError) and old.what.endswith(": gpu-7 has 0ld")
    versions = {**here.versions, "torch": "1.0"}
    other = fault(here, dataclasses.replace(here, name="gpu-7", versions=versions))
    assert isinstance(other, MissingError) and "gpu-7 has 1.0" in other.what

    checkpoint = asdict(Checkpoint(id="c", path=str(folder), fingerprint="sha256:0"))
    with pytest.raises(MissingError, match="another version of this package"):
        asyncio.run(EngineActor().open(checkpoint, SETTINGS, str(folder), "0ld"))


READ_ODD = """
import asyncio, os, socket
from factory.engines.child import Channel
from factory.engines.dealing import read_messages

async def read():
    ours, theirs = socket.socketpair()
    ours.sendall(b'{"number": \\n')
    try:
        await read_messages(Channel(theirs), print)
    except ValueError as error:
        print(str(error).split(":")[0], flush=True)
        os._exit(0)

asyncio.run(read())
"""


def test_what_cannot_be_read_is_a_failure_and_nobody_waits_for_it(folder: Path) -> None:
    checkpoint = asdict(Checkpoint(id="c", path=str(folder), fingerprint=fingerprint(folder)))

    async def ask_odd() -> None:
        actor = EngineActor()
        await actor.open(checkpoint, SETTINGS, str(folder.parent / "engine"), package_sha())
        try:
            await actor.give([(7, {"id": "no messages"})], ())
            async with asyncio.timeout(30):
                await actor.take(0.0)
        finally:
            await actor.close()

    with pytest.raises(ChildError, match=r"request 7: KeyError .*wire\.py"):
        asyncio.run(ask_odd())

    # A channel ends its process soon after the other side is gone.
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", READ_ODD], env=env, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "Expecting value\n", done.stderr
