"""The child of factory.engines.trainable: checks a model folder without loading its model."""
# ruff: noqa: E402

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast


@contextmanager
def without_torch() -> Iterator[None]:
    """What is imported here finds no torch, whose own import would take most of this child's time.

    None in sys.modules makes `import torch` an ImportError. transformers asks once, when it is
    imported, whether torch is there; so it does without for good, and the entry can come back.
    """
    modules = cast(dict[str, Any], sys.modules)
    known = {"torch": modules["torch"]} if "torch" in modules else {}
    modules["torch"] = None
    try:
        yield
    finally:
        del modules["torch"]
        modules |= known


with without_torch():
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig  # noqa: F401

from factory.domain.records import Message
from factory.engines.child import Channel, run_child
from factory.engines.fitting import check_fitting


def main(channel: Channel, arguments: list[str]) -> None:
    """Say that the folder of the first message can be trained, or fail with why not."""
    question = channel.receive()
    if question is None:
        return
    chats = [[Message.from_json(message) for message in chat] for chat in question["chats"]]
    looked = whole = 0
    # What needs torch to be read, training will tell of.
    with suppress(ImportError):
        looked, whole = check_fitting(Path(question["folder"]), chats, training=True)
    channel.send({"type": "done", "looked": looked, "whole": whole})


if __name__ == "__main__":
    run_child(main)
