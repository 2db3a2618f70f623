"""The child of factory.engines.native: renders calls by a tokenizer's chat template."""

from __future__ import annotations

from pathlib import Path

from factory.engines.child import Channel, run_child
from factory.engines.trainable_child import without_torch

with without_torch():
    from factory.engines.chat import load_tokenizer
    from factory.engines.written import write_calls


def main(channel: Channel, arguments: list[str]) -> None:
    """Answer the one question: a model's folder, and kinds of calls as [name, arguments]."""
    if (told := channel.receive()) is None:
        return
    tokenizer = load_tokenizer(Path(told["folder"]))
    channel.send(
        {"texts": {name: write_calls(tokenizer, calls) for name, calls in told["kinds"].items()}}
    )


if __name__ == "__main__":
    run_child(main)
