"""Two engines that Ray keeps on this machine, with a real (tiny, random) model and vLLM."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from conftest_models import CHAT_TEMPLATE, tiny_model
from workspaces import ROOT, descendants

from factory.domain.failures import MissingError
from factory.domain.records import Checkpoint, Message, Reply, Request, Sampling
from factory.engines.opening import open_engine
from factory.engines.process import ProcessEngine
from factory.workspace.models import fingerprint
from factory.workspace.settings import EngineSection

pytest.importorskip("ray", reason="no ray: requirements/ray.lock")
pytestmark = pytest.mark.slow

ONE = EngineSection(backend="vllm", threads=1, max_model_len=256, memory_gib=0.06, dtype="float32")
TWO = ONE.model_copy(update={"backend": "ray", "inner": "vllm", "replicas": 2, "threads": 2})
REQUESTS = [
    Request(
        id=f"r{number}",
        messages=(Message(role="user", content=f"how warm is it in town {number}?"),),
        sampling=Sampling(n=1 + number % 3, seed=number * 17, max_tokens=40),
    )
    for number in range(48)
]


def actors() -> list[int]:
    return [pid for pid, line in descendants(os.getpid()) if line.startswith("ray::EngineActor")]


def listening(pids: set[int]) -> set[str]:
    """Addresses, in the kernel's own spelling, at which these processes wait for connections."""
    links = (link for pid in pids for link in Path(f"/proc/{pid}/fd").glob("*"))
    sockets = {os.readlink(link) for link in links if link.is_symlink()}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text("ascii").splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                found.add(fields[1].partition(":")[0])
    return found


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}


def test_two_engines_answer_as_one_also_when_one_is_killed(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "tiny")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    notes: list[str] = []

    async def serve(
        settings: EngineSection, body: Callable[[ProcessEngine], Awaitable[None]]
    ) -> None:
        checkpoint = Checkpoint(id="tiny", path=str(folder), fingerprint=fingerprint(folder))
        async with await open_engine(
            checkpoint, settings=settings, log_folder=tmp_path / "logs", notify=notes.append
        ) as engine:
            assert isinstance(engine, ProcessEngine)
            await body(engine)

    expected: list[Reply] = []

    async def ask(engine: ProcessEngine) -> None:
        expected.extend(await engine.sample(REQUESTS))

    async def kill(engine: ProcessEngine) -> None:
        assert await engine.sample(REQUESTS) == expected
        assert listening({pid for pid, _ in descendants(os.getpid())}) <= LOOPBACK

        first, second = actors()
        sampling = asyncio.create_task(engine.sample(REQUESTS))
        await asyncio.sleep(0.05)
        os.kill(first, signal.SIGKILL)
        assert await sampling == expected
        async with asyncio.timeout(120):
            while len(actors()) < 2 or first in actors():
                await asyncio.sleep(0.05)
        assert second in actors() and engine.num_restarts == 0

    asyncio.run(serve(ONE, ask))
    asyncio.run(serve(TWO, kill))
    assert any("engine 1 died and is replaced" in note or "engine 2 died" in note for note in notes)


def test_a_cluster_that_does_not_answer_is_named_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_model(tmp_path / "tiny")
    checkpoint = Checkpoint(id="tiny", path=str(folder), fingerprint=fingerprint(folder))
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = f"127.0.0.1:{gone.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    opening = open_engine(checkpoint, settings=TWO, log_folder=tmp_path, notify=print)
    with pytest.raises(MissingError, match="Ray does not answer") as caught:
        asyncio.run(opening)
    assert caught.value.where == f"RAY_ADDRESS = {address}"


NO_ROOM = """
import sys, tempfile
from pathlib import Path
tempfile.tempdir = sys.argv[1]
from factory.domain.failures import MissingError
from factory.engines import ray as child

def refuse(**options):
    global folder
    folder = Path(options["_temp_dir"]).parent
    assert len(str(folder)) <= child.MAX_FOLDER and (folder / ".factory-scratch").exists()
    raise OSError("no room")

child.ray.init = refuse
opening = {"id": "", "path": "", "fingerprint": "", "logs": "", "settings": {"threads": 1}}
try:
    child.Cluster(opening, None)
except MissingError as error:
    print(error.what, folder.exists())
"""


def test_sockets_are_in_a_short_folder_that_goes_with_the_cluster(tmp_path: Path) -> None:
    temporary = tmp_path / "a folder whose path is too long for sockets"
    temporary.mkdir()
    command = [sys.executable, "-c", NO_ROOM, str(temporary)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.stdout == "Ray does not start: no room False\n", done.stderr
