"""The parent's end of a server: its place, its start, and which servers of a workspace run."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import http.client
import json
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from factory.deploy.served import Served
from factory.domain.failures import BusyError, ChildError, InputError, MissingError
from factory.engines.child import SMALLER, Child
from factory.engines.opening import check_loopback
from factory.workspace.models import INSTALL, is_installed
from factory.workspace.settings import EngineSection

LOOK_SECONDS = 0.2
"""Between two looks whether the server is ready."""
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}
"""Where a server is reached from here that listens on every interface."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPlan:
    """A server to be. Example: ServerPlan(served=…, names=("r1",), host="::1", port=8000)."""

    served: Served
    names: tuple[str, ...]
    """What clients may call the model; answers have the first."""
    host: str
    port: int
    api_key: str = ""

    @property
    def url(self) -> str:
        """Its address, from here."""
        host = EVERYWHERE.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningServer:
    """A server of a workspace that runs. Example: find_running(workspace.state)[0].folder."""

    pid: int
    checkpoint: str
    folder: str
    url: str
    by_code: bool


def need_vllm() -> None:
    """Raise MissingError where vLLM is not installed: there is no other server to plug into."""
    for package in ("vllm", "torch"):
        if not is_installed(package):
            raise MissingError(
                f"{package} is not installed, and a checkpoint is served by vLLM's server",
                remedy=INSTALL["vllm"].partition(", or")[0] + "; `transformers serve` keeps to no "
                "trie and no schema of ours; what any server can take: factory export model",
            )
    check_loopback()


def find_port(host: str, port: int) -> int:
    """The port, or a free one for 0. Raises BusyError where it is in use, InputError where nobody
    may listen there.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise BusyError(
                f"port {port} of {host} is in use",
                remedy=f"end what listens there, or take another one: --port {port + 1}; "
                "--port 0 finds one that is free",
            ) from error
        raise InputError(
            f"nobody can listen on {host}, port {port}: {error.strerror or error}",
            remedy="--host 127.0.0.1 --port 8000",
        ) from error


async def run_server(
    plan: ServerPlan, settings: EngineSection, log: Path, on_ready: Callable[[int], None]
) -> None:
    """Serve until the caller is cancelled; `on_ready` hears the server's process once it answers.

    Raises ChildError where the server dies, and its own failures.
    """
    child = await Child.start("factory.deploy.server_child", threads=settings.threads, log=log)
    try:
        told = {name: getattr(plan, name) for name in ("names", "host", "port", "api_key")}
        served, engine = asdict(plan.served), settings.model_dump()
        await child.send({**told, "served": served, "settings": engine})
        ended = asyncio.ensure_future(child.receive())
        while not ended.done() and not await asyncio.to_thread(is_healthy, plan):
            await asyncio.wait([ended], timeout=LOOK_SECONDS)
        if not ended.done():
            on_ready(child.pid)
        await ended
        raise ChildError(
            f"the server ended: {child.cause()}",
            where=plan.url,
            remedy=SMALLER if child.ran_out_of_memory else "mend what the log says",
        )
    finally:
        await child.stop()


def is_healthy(plan: ServerPlan) -> bool:
    """Whether vLLM's /health says so."""
    connection = http.client.HTTPConnection(
        EVERYWHERE.get(plan.host, plan.host), plan.port, timeout=5
    )
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextlib.contextmanager
def noted(state: Path, plan: ServerPlan, checkpoint: str) -> Iterator[None]:
    """A note in the workspace's state that this process serves, while it does."""
    note = state / "served" / f"{plan.port}.json"
    note.parent.mkdir(parents=True, exist_ok=True)
    running = RunningServer(
        pid=os.getpid(),
        checkpoint=checkpoint,
        folder=plan.served.folder,
        url=plan.url,
        by_code=plan.served.by_code,
    )
    partial = note.with_suffix(".tmp")
    partial.write_text(json.dumps(asdict(running)), encoding="utf-8")
    os.replace(partial, note)
    try:
        yield
    finally:
        note.unlink(missing_ok=True)


def find_running(state: Path) -> list[RunningServer]:
    """The servers of a workspace that run; notes of those that were killed are removed."""
    found = []
    for note in sorted((state / "served").glob("*.json")):
        try:
            running = RunningServer(**json.loads(note.read_text("utf-8")))
            with contextlib.suppress(PermissionError):  # it runs, as another user
                os.kill(running.pid, 0)
            found.append(running)
        except ProcessLookupError:
            note.unlink(missing_ok=True)
        except (OSError, ValueError, TypeError):  # gone meanwhile, or no note of ours
            continue
    return found
