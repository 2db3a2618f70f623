"""Whether a model can be trained, found before a round samples with it: `check_trainable`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from factory.domain.failures import ChildError, MissingError
from factory.engines.child import Child
from factory.workspace.models import INSTALL, check_model_folder, is_installed


async def check_trainable(folder: Path) -> None:
    """Raise ModelError unless answers can be learnt in the model's template by a class of
    transformers; in about a second. MissingError, ChildError where that cannot be found out.
    """
    if not is_installed("transformers"):
        raise MissingError("transformers is not installed", remedy=INSTALL["transformers"])
    check_model_folder(folder)
    with tempfile.TemporaryDirectory() as logs:
        log = Path(logs) / "check.log"
        child = await Child.start(
            "factory.engines.trainable_child", str(folder), threads=1, log=log
        )
        try:
            if await child.receive() is None:
                what = f"the check of the model died: {child.cause()}"
                raise ChildError(what, where=str(folder))
        finally:
            await child.stop()
