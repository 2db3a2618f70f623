"""The child that deals requests to engines on many GPUs: `python -m factory.engines.ray`.

It joins the cluster that RAY_ADDRESS names, else starts one on this machine that listens on the
loopback device alone and ends with this process. Ray carries messages and restarts nothing here:
what dies is replaced by factory/engines/dealing.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import secrets
import socket
import tempfile
from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

# Before Ray is imported, which reads them then. Beside what it needs it starts a reporter of usage
# and one of metrics: neither may speak to anyone.
os.environ.update(
    RAY_USAGE_STATS_ENABLED="0",
    RAY_enable_metrics_collection="0",
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
)
if not os.environ.get("RAY_ADDRESS"):
    # Its parts meet at the loopback device, not only on the systems of the first name, and take no
    # work from other users. It would ask which cloud this is, reports or not (get_cloud_from_…): a
    # proxy that nobody serves has the answer. The system's own killer of processes is enough, and a
    # busy machine starts workers slowly.
    os.environ.update(
        http_proxy="http://127.0.0.1:9",
        no_proxy="127.0.0.1,localhost",
        RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN=secrets.token_hex(32),
        RAY_memory_monitor_refresh_ms="0",
        RAY_worker_register_timeout_seconds="600",
    )

# isort: split
import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from factory.domain.failures import ChildError, FactoryError, MissingError
from factory.engines.actor import (
    EngineActor,
    Node,
    Numbered,
    find_fault,
    look_at_node,
    room_for_engines,
)
from factory.engines.child import STOP_SECONDS, Channel, run_child
from factory.engines.dealing import Dealer, Lost, read_messages
from factory.engines.scratch import Scratch
from factory.workspace.machine import package_sha, visible_gpus
from factory.workspace.models import INSTALL
from factory.workspace.settings import EngineSection

ADDRESS = os.environ.get("RAY_ADDRESS", "")
"""Of a cluster that exists; empty is one of this process."""
STORE_BYTES = 80 << 20
"""Ray's shared memory on a machine that is alone: requests travel without it."""
MAX_FOLDER = 35
"""Longest path of a folder for Ray's sockets, to which it adds 70 characters of 107."""
KNOCK_SECONDS = 10.0
"""How long the head of a cluster may take to answer."""
SLOW_SECONDS = 60.0
"""After so long without a free GPU, a person is told what is waited for."""
AnyT = TypeVar("AnyT")


def connect(replicas: int, folder: str) -> None:
    """Join a cluster, or start one with room for so many engines and files in this folder. Raises
    MissingError."""
    quiet = {"log_to_driver": False, "configure_logging": False, "include_dashboard": False}
    alone = {"num_cpus": replicas, "object_store_memory": STORE_BYTES, "_temp_dir": f"{folder}/ray"}
    try:
        if ADDRESS:
            _knock(ADDRESS)
            ray.init(address=ADDRESS, log_to_driver=False, configure_logging=False)
        else:
            ray.init(address="local", **quiet, **alone)
    except (RayError, RuntimeError, ConnectionError, ValueError, OSError) as error:
        raise MissingError(
            f"Ray does not {'answer' if ADDRESS else 'start'}: {error}",
            where=f"RAY_ADDRESS = {ADDRESS}" if ADDRESS else folder,
            remedy="`ray status` there says what runs; the same Ray and Python on each node"
            if ADDRESS
            else "see engine-ray.log among the round's logs, or set another engine.backend",
        ) from error


def _knock(address: str) -> None:
    """Raise OSError where nobody answers at `host:port`, which Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "//" not in host:
        socket.create_connection((host, int(port)), KNOCK_SECONDS).close()


class RayEngine:
    """An EngineActor in another process, with its model loaded."""

    def __init__(self, handle: Any, parts: Mapping[str, str]) -> None:
        self._handle = handle
        self.parts = parts

    async def give(self, requests: Sequence[Numbered], dropped: Sequence[int]) -> None:
        await answer_of(self._handle.give.remote(requests, dropped))

    async def take(self, pause: float) -> tuple[list[Numbered], list[str]]:
        return await answer_of(self._handle.take.remote(pause))


async def answer_of(reference: Awaitable[AnyT]) -> AnyT:
    """What a call of Ray gives. Raises Lost for an actor that died, or whose engine did, and the
    actor's own FactoryError."""
    try:
        return await reference
    except RayActorError as error:
        raise Lost(str(error).replace("\n", " ")) from error
    except RayTaskError as error:
        if isinstance(error.cause, ChildError):
            raise Lost(str(error.cause)) from error
        if isinstance(error.cause, FactoryError):
            raise error.cause from error
        raise


class Cluster:
    """The engines that Ray keeps for one checkpoint."""

    def __init__(self, opening: dict[str, Any], channel: Channel) -> None:
        settings = EngineSection(**opening["settings"])
        self._channel = channel
        self._checkpoint = {key: opening[key] for key in ("id", "path", "fingerprint")}
        self.folder = Path(opening["path"])
        self._logs = Path(opening["logs"])
        self._package = package_sha()
        self._handles: dict[int, Any] = {}
        with contextlib.ExitStack() as joining:
            folder = tempfile.gettempdir()
            if len(folder) > MAX_FOLDER:
                folder = str(joining.enter_context(Scratch("/tmp")))
            joining.callback(ray.shutdown)
            connect(settings.replicas or max(settings.threads, len(visible_gpus())), folder)
            self.replicas = self._count_engines(settings)
            self._joined = joining.pop_all()
        self._settings = settings.model_dump() | {
            "backend": settings.inner,
            "replicas": 0,
            "inner": "auto",
            "threads": max(1, settings.threads // self.replicas),
        }

    def _count_engines(self, settings: EngineSection) -> int:
        """Raises MissingError where the cluster has no room for those that are asked for."""
        self._gpus = settings.tensor_parallel if ray.cluster_resources().get("GPU") else 0
        room = room_for_engines(ray.nodes(), self._gpus)
        wanted = settings.replicas or (room if ADDRESS or self._gpus else settings.threads)
        if not 0 < wanted <= room:
            raise MissingError(
                f"{wanted} engines on {self._gpus or 'no'} GPUs each are asked for; the "
                f"cluster has room for {room}",
                where="factory.toml [engine]",
                remedy="lower engine.replicas or engine.tensor_parallel, or add nodes; the GPUs of "
                "an engine are of one node, and it takes a core there",
            )
        return wanted

    async def check_nodes(self) -> None:
        """Look at each node that may get an engine. Raises what find_fault says of them."""
        wanted = "GPU" if self._gpus else "CPU"
        nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get(wanted)]
        look = ray.remote(look_at_node)
        looks = []
        for node in nodes:
            here = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
            options = look.options(num_cpus=0, scheduling_strategy=here, max_retries=0)
            looks.append(self._look(node, options.remote(self._checkpoint["path"])))
        found = await asyncio.gather(*looks)
        if fault := find_fault(found, self._checkpoint["path"], self._package):
            raise fault

    async def _look(self, node: Mapping[str, Any], reference: Awaitable[Node]) -> Node:
        name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        try:
            return dataclasses.replace(await reference, name=name)
        except RayError as error:
            raise MissingError(
                f"node {name} cannot run this package: {str(error).strip().splitlines()[-1]}",
                where="tool-factory",
                remedy=INSTALL["ray"],
            ) from error

    async def hire(self, number: int) -> RayEngine:
        """A new actor with the model loaded, in place of the one that this place had."""
        self._dismiss(number)
        options = {
            "num_gpus": self._gpus,
            "num_cpus": 1,
            "scheduling_strategy": "SPREAD",
            "max_restarts": 0,
        }
        handle = self._handles[number] = ray.remote(EngineActor).options(**options).remote()
        logs = str(self._logs / f"engine-{number}")
        opened = handle.open.remote(self._checkpoint, self._settings, logs, self._package)
        told = asyncio.create_task(self._tell_slow(number, handle))
        try:
            return RayEngine(handle, await answer_of(opened))
        finally:
            told.cancel()

    async def _tell_slow(self, number: int, handle: Any) -> None:
        """Say so where the cluster has no room for an actor."""
        begun = handle.__ray_ready__.remote()
        done, _ = await asyncio.wait({asyncio.ensure_future(_quietly(begun))}, timeout=SLOW_SECONDS)
        if not done:
            text = f"engine {number} waits for room on the cluster: `ray status` says who has it"
            self._channel.send({"type": "notice", "text": text})

    def _dismiss(self, number: int) -> None:
        if handle := self._handles.pop(number, None):
            ray.kill(handle)

    async def close(self) -> None:
        """End all engines, so that their GPUs are free, and leave the cluster."""
        closing = [_quietly(handle.close.remote()) for handle in self._handles.values()]
        if closing:
            tasks = [asyncio.ensure_future(each) for each in closing]
            await asyncio.wait(tasks, timeout=STOP_SECONDS / 2)
        for number in list(self._handles):
            self._dismiss(number)
        self._joined.close()


async def _quietly(reference: Awaitable[object]) -> None:
    try:
        await reference
    except RayError:
        return


async def deal(channel: Channel, opening: dict[str, Any], of: type[Cluster]) -> None:
    """Deal what comes through the channel, until it closes."""
    cluster = of(opening, channel)
    try:
        if ADDRESS:
            await cluster.check_nodes()
        dealer = Dealer(
            cluster.hire,
            replicas=cluster.replicas,
            room=2 * int(opening["settings"]["max_batch"]),
            max_restarts=int(opening["settings"]["max_restarts"]),
            send=channel.send,
        )

        ended, dealing = read_messages(channel, dealer.accept), asyncio.create_task(dealer.run())
        await asyncio.wait({ended, dealing}, return_when=asyncio.FIRST_COMPLETED)
        dealing.cancel()
        await asyncio.wait({dealing})
        for each in (ended, dealing):
            if each.done() and not each.cancelled():
                each.result()
    finally:
        await cluster.close()


def serve(channel: Channel, of: type[Cluster] = Cluster) -> None:
    """Serve the model that the first message names by many engines."""
    if (opening := channel.receive()) is not None:
        asyncio.run(deal(channel, opening, of))


if __name__ == "__main__":
    run_child(lambda channel, _: serve(channel))
