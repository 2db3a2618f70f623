"""The child that embeds texts for EmbSim: mean states of a causal model, or sentence-transformers.

A causal model's embedding is the one that codes are fitted on (factory.codes.vocabulary). A folder
with a `modules.json` is loaded with sentence-transformers, which knows its pooling.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from factory.codes.arrays import Floats
from factory.codes.vocabulary import embed_documents, embed_with
from factory.engines.chat import load_tokenizer
from factory.engines.child import Channel, run_child
from factory.engines.loading import load_model


def embed_texts(folder: Path, texts: Sequence[str]) -> Floats:
    """(N, D) embeddings; a blank text is embedded as a dot. Raises MissingError where
    sentence-transformers is needed and not installed.
    """
    texts = [text if text.strip() else "." for text in texts]
    if (folder / "modules.json").exists():
        return embed_with(folder, texts)
    return embed_documents(load_model(folder), load_tokenizer(folder), texts)


def main(channel: Channel, arguments: list[str]) -> None:
    """Embed what the first message holds and write it to its `out` as a NumPy file."""
    job = channel.receive()
    if job is not None:
        np.save(job["out"], embed_texts(Path(job["folder"]), job["texts"]).astype(np.float32))
        channel.send({"type": "done"})


if __name__ == "__main__":
    run_child(main)
