"""Whether a model can be trained, found before a round samples with it: `check_trainable`.

The child reads tokenizer and config, not the weights. It keeps torch out, which would take most of
its time.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any, cast

from factory.domain.failures import ChildError, MissingError, ModelError
from factory.engines.chat import Chat
from factory.engines.child import Channel, Child, run_child
from factory.workspace.models import INSTALL, check_model_folder, is_installed

OTHER_MODEL = "take a model that AutoModelForCausalLM loads; this one can be scored (factory score)"


async def check_trainable(folder: Path) -> None:
    """Raise ModelError unless answers can be learnt in the model's template by a class of
    transformers; in about a second. MissingError, ChildError where that cannot be found out.
    """
    if not is_installed("transformers"):
        raise MissingError("transformers is not installed", remedy=INSTALL["transformers"])
    check_model_folder(folder)
    with tempfile.TemporaryDirectory() as logs:
        log = Path(logs) / "check.log"
        child = await Child.start("factory.engines.trainable", str(folder), threads=1, log=log)
        try:
            if await child.receive() is None:
                what = f"the check of the model died: {child.cause()}"
                raise ChildError(what, where=str(folder))
        finally:
            await child.stop()


def find_class(folder: Path) -> None:
    """Raise ModelError where transformers has no causal language model for the folder's config."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError, KeyError) as error:
        raise ModelError(
            f"transformers cannot read this model's config: {error}",
            where=str(folder),
            remedy=OTHER_MODEL,
        ) from error
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ModelError(
            f"transformers trains no language model of the type {config.model_type!r}",
            where=str(folder / "config.json"),
            remedy=OTHER_MODEL,
        )


def main(channel: Channel, arguments: list[str]) -> None:
    """Say that the folder of the argument can be trained, or fail with why not."""
    cast(dict[str, Any], sys.modules)["torch"] = None
    folder = Path(arguments[0])
    try:
        fault = Chat(folder).fault
        find_class(folder)
    except ImportError:
        # It needs torch to be read: training will tell.
        fault = None
    if fault is not None:
        raise fault
    channel.send({"type": "done"})


if __name__ == "__main__":
    run_child(main)
