"""Child process of test_child.py: does what each message says."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from factory.domain.failures import ModelError
from factory.engines.child import Channel, run_child


class OutOfMemoryError(RuntimeError):
    """Has the name of PyTorch's."""


def prepare(message: dict[str, Any]) -> dict[str, Any]:
    """Say which thread reads, and fail where the message asks for it."""
    if message["do"] == "fail":
        raise ModelError("unreadable", where=threading.current_thread().name, remedy="none")
    return {**message, "value": [message["value"], threading.current_thread().name]}


def main(channel: Channel, arguments: list[str]) -> None:
    channel.send(
        {"type": "hello", "arguments": arguments, "threads": os.environ["OMP_NUM_THREADS"]}
    )
    while message := channel.receive():
        match message["do"]:
            case "echo":
                channel.send({"type": "echo", "value": message["value"]})
            case "prepare":
                channel.prepare = prepare
                channel.send({"type": "preparing"})
            case "grandchild":
                sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
                channel.send({"type": "pid", "pid": sleeper.pid})
            case "fail":
                raise ModelError("weights are gone", where="/models/x", remedy="fetch them")
            case "crash":
                raise RuntimeError("a bug in the child")
            case "exit":
                print("some last words", flush=True)
                os._exit(7)
            case "die":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "take":
                resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
                bytearray(1 << 40)
            case "wrap":
                try:
                    raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
                except OutOfMemoryError as error:
                    raise ValueError("the engine core failed") from error
            case "abort":
                print("terminate called after throwing an instance of 'std::bad_alloc'")
                print("\n".join("a frame" for _ in range(20)), flush=True)
                os.abort()
            case "hang":
                time.sleep(600)
    print("the channel is closed", flush=True)


if __name__ == "__main__":
    run_child(main)
