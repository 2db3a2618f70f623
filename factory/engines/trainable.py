"""Whether a model can be trained, found before a round samples with it: `check_trainable`."""

from __future__ import annotations

from pathlib import Path

from factory.domain.failures import MissingError
from factory.engines.child import ask_once
from factory.engines.scratch import Scratch
from factory.workspace.models import INSTALL, check_model_folder, is_installed


async def check_trainable(folder: Path) -> None:
    """Raise ModelError unless answers can be learnt in the model's template by a class of
    transformers; in about a second. MissingError, ChildError where that cannot be found out.
    """
    if not is_installed("transformers"):
        raise MissingError("transformers is not installed", remedy=INSTALL["transformers"])
    check_model_folder(folder)
    with Scratch() as logs:
        await ask_once(
            "factory.engines.trainable_child",
            {"folder": str(folder)},
            work="the check of the model",
            threads=1,
            log=logs / "check.log",
        )
