"""Child processes: sampling and training each run in one, so the command never imports torch.

A child is `python -m <module>` joined to its parent by a socket pair that carries one JSON object
a line, both ways. Its output goes to a log file, since vLLM prints to stdout. It dies with its
parent, also with one that is killed. Its expected failures cross the socket as the same class;
anything else is a death with a cause (exit code or signal, and the log's last lines).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.domain import failures
from factory.domain.exhausted import OUT_OF_MEMORY, is_out_of_memory
from factory.domain.limits import die_with_parent
from factory.engines.scratch import Scratch
from factory.workspace import airgap

_SETTINGS = """
    DO_NOT_TRACK=1 HF_HUB_DISABLE_TELEMETRY=1 RAY_USAGE_STATS_ENABLED=0
    VLLM_DO_NOT_TRACK=1 VLLM_NO_USAGE_STATS=1
    HF_DATASETS_OFFLINE=1 HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 VLLM_HOST_IP=127.0.0.1
    HF_HUB_DISABLE_PROGRESS_BARS=1 PYTHONUNBUFFERED=1 PYTHONWARNINGS=ignore
    TORCH_CPP_LOG_LEVEL=ERROR TRANSFORMERS_VERBOSITY=error VLLM_LOGGING_LEVEL=ERROR
    PYTHONHASHSEED=0 PYTHONSAFEPATH=1 TOKENIZERS_PARALLELISM=false
    VLLM_CPU_OMP_THREADS_BIND=nobind VLLM_ENABLE_V1_MULTIPROCESSING=0
"""
CHILD_ENV: dict[str, str] = dict(setting.split("=") for setting in _SETTINGS.split())
"""What every child's environment sets: no network, no telemetry, no stray output, one process."""
LAUNCHED = re.compile(
    "(LOCAL_|GROUP_|ROLE_|NODE_)?(RANK|WORLD_SIZE)|MASTER_(ADDR|PORT)|FORCE_COLOR|CLICOLOR_FORCE|"
    "(OMPI|PMI|PMIX|MV2|MPI|PRTE|HYDRA|TORCHELASTIC|ACCELERATE|FSDP|DEEPSPEED|SMDATAPARALLEL)_.*"
)
"""What a cluster's launcher leaves for its own processes, by which a library in a child would wait
for ranks that do not exist, and what colours a log."""

CHANNEL_FD = "FACTORY_CHANNEL_FD"
PARENT_PID = "FACTORY_PARENT_PID"
MAX_LINE_BYTES = 1 << 30
SMALLER = "give it more memory: end what else uses it (`nvidia-smi`, `free -g`), or a smaller model"
"""Remedy of a child whose memory ran out, and that has no setting for it."""
STOP_SECONDS = 5.0
"""How long a child may take to end by itself once its channel is closed."""


def child_environment(threads: int, gpus: Sequence[str] = ()) -> dict[str, str]:
    """The environment of a child that may use `threads` CPU threads, and these GPUs if any are
    named; not its launcher's, should the command be one process of several."""
    inherited = {key: value for key, value in os.environ.items() if not LAUNCHED.fullmatch(key)}
    environment = {**inherited, **CHILD_ENV, "OMP_NUM_THREADS": str(threads)}
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    root = Path(__file__).resolve().parents[2]
    if root.name not in ("site-packages", "dist-packages"):
        paths = [environment.get("PYTHONPATH", ""), str(root)]
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return environment


def _encode(message: dict[str, Any]) -> bytes:
    """One line of ASCII JSON: a lone surrogate in a model's text survives it."""
    return json.dumps(message, ensure_ascii=True, separators=(",", ":")).encode("ascii") + b"\n"


@dataclass(slots=True, eq=False)
class Child:
    """The parent's end of a child process. Start one with `await Child.start(...)`."""

    _process: subprocess.Popen[bytes]
    _reader: asyncio.StreamReader
    _writer: asyncio.StreamWriter
    _log: Path
    _log_start: int
    _scratch: Scratch
    raised: str = ""
    """The exception that it ended by and where that was raised; empty where there was none."""

    @classmethod
    async def start(
        cls, module: str, *args: str, threads: int, log: Path, gpus: Sequence[str] = ()
    ) -> Child:
        """Run `python -m module args…`; its stdout and stderr are appended to the file `log`; its
        temporary files go to a folder that ends with it."""
        log.parent.mkdir(parents=True, exist_ok=True)
        ours, theirs = socket.socketpair()
        scratch = Scratch()
        environment = child_environment(threads, gpus) | scratch.environment()
        environment[CHANNEL_FD] = str(theirs.fileno())
        environment[PARENT_PID] = str(os.getpid())
        with theirs, log.open("ab") as output:
            log_start = output.tell()
            process = subprocess.Popen(
                [sys.executable, "-m", *airgap.launcher(), module, *args],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
                env=environment,
                # Ctrl-C is the parent's to handle, and a stop ends the child's own children too.
                start_new_session=True,
            )
        try:
            reader, writer = await asyncio.open_connection(sock=ours, limit=MAX_LINE_BYTES)
        except BaseException:
            process.kill()
            process.wait()
            scratch.close()
            raise
        return cls(process, reader, writer, log, log_start, scratch)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    async def send(self, message: dict[str, Any]) -> None:
        """Send one message; to a dead child it is lost, and `receive` says None."""
        with contextlib.suppress(ConnectionError):
            self._writer.write(_encode(message))
            await self._writer.drain()

    async def receive(self) -> dict[str, Any] | None:
        """The next message; None once the child is dead (then `cause` says why). Raises the child's
        own FactoryError where it failed with one.
        """
        try:
            line = await self._reader.readline()
        except ConnectionError:
            line = b""
        if not line.endswith(b"\n"):
            await self._end(STOP_SECONDS)
            return None
        message: dict[str, Any] = json.loads(line)
        if message.get("type") == "failure":
            raise _failure(message)
        if message.get("type") == "raised":
            self.raised = message["where"]
            await self.stop()
            return None
        return message

    async def stop(self) -> None:
        """Close the channel, which asks the child to end, and kill what does not."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
        await self._end(STOP_SECONDS)

    async def kill(self) -> None:
        self._writer.close()
        await self._end(0.0)

    @property
    def killed_by(self) -> signal.Signals | None:
        """The signal that ended the child; None where it ended by itself, or still runs."""
        code = self._process.poll()
        return signal.Signals(-code) if code is not None and code < 0 else None

    @property
    def ran_out_of_memory(self) -> bool:
        """Whether the child said so, a library in C++ did, or the system killed it."""
        code = self._process.poll()
        if code == -signal.SIGABRT:
            return "std::bad_alloc" in self._tail()
        return code in (OUT_OF_MEMORY, -signal.SIGKILL)

    def cause(self) -> str:
        """Why the child died: signal by name or exit code, with the log's last lines."""
        code = self._process.poll()
        if code is None:
            how = "still running"
        elif killer := self.killed_by:
            how = f"killed by {killer.name}"
            if killer == signal.SIGKILL:
                how += " (often the system's out-of-memory killer)"
            elif self.ran_out_of_memory:
                how += " (out of memory)"
        else:
            how = f"exit code {code}" + (" (out of memory)" if code == OUT_OF_MEMORY else "")
        lines = self._last_lines()
        return how + (f"; {self._log} ends with:\n{lines}" if lines else f"; log {self._log}")

    def _tail(self) -> str:
        try:
            with self._log.open("rb") as log:
                log.seek(max(self._log_start, self._log.stat().st_size - 16384))
                return log.read().decode("utf-8", "replace")
        except FileNotFoundError:  # moved with its workspace
            return ""

    def _last_lines(self, count: int = 6, width: int = 200) -> str:
        lines = self._tail().rstrip().splitlines()
        return "\n".join("  " + line[:width] for line in lines[-count:] if line.strip())

    async def _end(self, patience_seconds: float) -> None:
        """Wait for the process to end, then end its whole session by force."""
        deadline = time.monotonic() + patience_seconds
        while self._process.poll() is None and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        while self._process.poll() is None:
            await asyncio.sleep(0.01)
        self._scratch.close()
        self._writer.close()


async def ask_once(
    module: str, question: dict[str, Any], *, work: str, threads: int, log: Path
) -> dict[str, Any]:
    """The answer of a child that ends with it, to a question about its `folder`.

    Raises ChildError where `work` died, and the child's own failures.
    """
    child = await Child.start(module, threads=threads, log=log)
    try:
        await child.send(question)
        if (answer := await child.receive()) is None:
            raise failures.ChildError(
                f"{work} died: {child.cause()}",
                where=question["folder"],
                remedy=SMALLER if child.ran_out_of_memory else "",
            )
        return answer
    finally:
        await child.stop()


def _failure(message: dict[str, Any]) -> failures.FactoryError:
    kind = getattr(failures, str(message["class"]), None)
    if not (isinstance(kind, type) and issubclass(kind, failures.FactoryError)):
        kind = failures.FactoryError
    return kind(message["what"], where=message["where"], remedy=message["remedy"])


class Channel:
    """The child's end: blocking `send`, and `receive` from a queue that a thread fills."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._messages: queue.SimpleQueue[dict[str, Any] | Exception | None] = queue.SimpleQueue()
        self.prepare: Callable[[dict[str, Any]], dict[str, Any]] = lambda message: message
        """What the reading thread does with each message: work beside that of `receive`'s caller.
        What it raises is raised by `receive`, in the message's place."""
        self.closed = False
        """The parent has closed the channel or died, and `receive` has said so."""
        threading.Thread(target=self._read, name="channel", daemon=True).start()

    @classmethod
    def from_env(cls) -> Channel:
        """The channel a parent's `Child.start` left, InputError where none did; from here on the
        child dies with its parent.
        """
        if CHANNEL_FD not in os.environ:
            raise failures.InputError(
                "This module is a worker process of the factory, not a command",
                remedy="run `factory --help`",
            )
        die_with_parent(int(os.environ.pop(PARENT_PID)))
        connection = socket.socket(fileno=int(os.environ.pop(CHANNEL_FD)))
        connection.set_inheritable(False)
        return cls(connection)

    def send(self, message: dict[str, Any]) -> None:
        """Send one message; blocks while the parent is slow to read."""
        with self._lock:
            self._connection.sendall(_encode(message))

    def receive(self, block: bool = True, timeout: float | None = None) -> dict[str, Any] | None:
        """The next message. None: the channel is closed, or nothing came in `timeout` seconds (not
        blocking: nothing waits)."""
        if self.closed:
            return None
        try:
            message = self._messages.get(block=block, timeout=timeout)
        except queue.Empty:
            return None
        if isinstance(message, Exception):
            raise message
        self.closed = message is None
        return message

    def drain(self, seconds: float) -> None:
        """Wait until the parent closes: ending over unread messages would lose what was sent."""
        deadline = time.monotonic() + seconds
        while not self.closed and (left := deadline - time.monotonic()) > 0:
            # What nobody reads any more may be unreadable too.
            with contextlib.suppress(Exception):
                self.receive(timeout=left)

    def _read(self) -> None:
        with contextlib.suppress(ConnectionError), self._connection.makefile("rb") as stream:
            for line in stream:
                try:
                    self._messages.put(self.prepare(json.loads(line)))
                except Exception as error:
                    # It belongs to the thread that receives.
                    self._messages.put(error)
        self._messages.put(None)
        # Where the system has no death signal, a busy child still ends soon after its parent.
        time.sleep(2 * STOP_SECONDS)
        os._exit(1)


def run_child(main: Callable[[Channel, list[str]], None]) -> None:
    """Run a child's `main(channel, arguments)`; its failures go to the parent by their class."""
    channel = Channel.from_env()
    try:
        main(channel, sys.argv[1:])
    except failures.FactoryError as failure:
        told = {"what": failure.what, "where": failure.where, "remedy": failure.remedy}
        channel.send({"type": "failure", "class": type(failure).__name__, **told})
        channel.drain(STOP_SECONDS)
        _exit(failure.exit_code)
    except BrokenPipeError:
        _exit(1)
    except BaseException as error:
        traceback.print_exc()
        with contextlib.suppress(Exception):
            channel.send({"type": "raised", "where": place_of(error)})
            channel.drain(STOP_SECONDS)
        _exit(OUT_OF_MEMORY if is_out_of_memory(error) else 1)
    _exit(0)


def place_of(error: BaseException) -> str:
    """An exception's class and the line that raised it: what two of one fault have in common.

    >>> place_of(ValueError("never raised"))
    'ValueError'
    """
    frames = traceback.extract_tb(error.__traceback__)
    return type(error).__name__ + (f" {frames[-1].filename}:{frames[-1].lineno}" if frames else "")


def _exit(code: int) -> None:
    """End at once: engines hang now and then in their own clean-up, and nothing is left to do."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
