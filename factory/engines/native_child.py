"""The child of factory.engines.native: renders calls by a tokenizer's chat template."""

from __future__ import annotations

from pathlib import Path

from factory.engines.child import Channel, run_child
from factory.engines.trainable_child import without_torch

with without_torch():
    from factory.engines.callform import Unsupported
    from factory.engines.chat import Chat
    from factory.engines.written import write_calls


def main(channel: Channel, arguments: list[str]) -> None:
    """Answer the one question: a model's folder, and kinds of calls as [name, arguments]."""
    if (told := channel.receive()) is None:
        return
    chat, unbound = Chat(Path(told["folder"])), ""
    try:
        _ = chat.native_form
    except Unsupported as error:
        unbound = str(error)
    texts = {name: write_calls(chat.tokenizer, calls) for name, calls in told["kinds"].items()}
    channel.send({"texts": texts, "unbound": unbound})


if __name__ == "__main__":
    run_child(main)
