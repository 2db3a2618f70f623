"""Child process of test_engines.py: speaks the engines' protocol, without a model.

The prompt says: `die`, `die once FILE`, `crash`, `fail`, `never`, `where`, else it is answered. A
model folder with the file `dies` ends it with that exit code while it loads; `loads` there gets a
byte for each start.
"""

from __future__ import annotations

import os
import signal
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from factory.domain.failures import ModelError
from factory.domain.records import Completion, Reply, Request
from factory.engines.child import Channel, run_child
from factory.engines.wire import request_from_wire
from factory.workspace.identity import identify


def answer(request: Request) -> Reply:
    """Texts that tell the prompt and the seed."""
    return Reply(
        request_id=request.id,
        completions=tuple(
            Completion(
                text=f"{request.prompt} {request.sampling.seed + index}",
                token_ids=(1, 2),
                finish_reason="stop",
                logprob=-1.5,
            )
            for index in range(request.sampling.n)
        ),
        num_prompt_tokens=3,
    )


def act(channel: Channel, message: dict[str, Any]) -> None:
    request = request_from_wire(message["request"])
    prompt = request.prompt or ""
    if prompt == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif prompt.startswith("die once"):
        marker = Path(prompt.removeprefix("die once "))
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    elif prompt == "crash":
        raise RuntimeError(f"cannot compute {request.id}")
    elif prompt == "fail":
        raise ModelError("the trie is gone", remedy="make it")
    elif prompt == "never":
        return
    elif prompt == "where":
        gpus, threads = os.environ["CUDA_VISIBLE_DEVICES"], os.environ["OMP_NUM_THREADS"]
        request = replace(request, prompt=f"{gpus} of {threads} threads")
    reply = asdict(answer(request))
    channel.send({"type": "reply", "number": message["number"], "reply": reply})


def main(channel: Channel, arguments: list[str]) -> None:
    opening = channel.receive()
    assert opening is not None
    folder = Path(opening["path"])
    with (folder / "loads").open("a") as loads:
        loads.write(".")
    if (folder / "dies").exists():
        os._exit(int((folder / "dies").read_text()))
    channel.send({"type": "notice", "text": "loading"})
    parts = identify(folder).parts
    channel.send({"type": "ready", "fingerprint": parts["weights"], "parts": parts})
    while message := channel.receive():
        if message["type"] == "abort":
            (folder / f"aborted-{message['number']}").touch()
        else:
            act(channel, message)


if __name__ == "__main__":
    run_child(main)
