"""The child of factory.engines.trainable: reads a model's tokenizer and config, not the weights."""
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
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from factory.domain.failures import ModelError
from factory.engines.chat import Chat
from factory.engines.child import Channel, run_child

OTHER_MODEL = "take a model that AutoModelForCausalLM loads; this one can be scored (factory score)"


def find_class(folder: Path) -> None:
    """Raise ModelError where transformers has no causal language model for the folder's config."""
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError, KeyError) as error:
        what = f"transformers cannot read this model's config: {error}"
        raise ModelError(what, where=str(folder), remedy=OTHER_MODEL) from error
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        what = f"transformers trains no language model of the type {config.model_type!r}"
        raise ModelError(what, where=str(folder / "config.json"), remedy=OTHER_MODEL)


def main(channel: Channel, arguments: list[str]) -> None:
    """Say that the folder of the first message can be trained, or fail with why not."""
    question = channel.receive()
    if question is None:
        return
    folder = Path(question["folder"])
    # What needs torch to be read, training will tell of.
    with suppress(ImportError):
        fault = Chat(folder).fault
        find_class(folder)
        if fault is not None:
            raise fault
    channel.send({"type": "done"})


if __name__ == "__main__":
    run_child(main)
