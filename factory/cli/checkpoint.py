"""Which model folder a command reads: the one it names, else that of the next round."""

from __future__ import annotations

from pathlib import Path

from factory.cli.opening import open_ledger, open_workspace
from factory.cli.terminal import note
from factory.domain.records import Checkpoint
from factory.ledger.database import Source
from factory.ledger.lineage import base_checkpoint, next_checkpoint
from factory.workspace.models import check_model_folder
from factory.workspace.settings import load_settings


def open_checkpoint(folder: Path | None) -> Path:
    """The named model folder, else that of the checkpoint which the next round starts from."""
    if folder is None:
        with open_ledger().read() as past:
            folder = Path(find_next(past).path)
    folder = folder.expanduser().resolve()
    check_model_folder(folder)
    return folder


def find_next(past: Source) -> Checkpoint:
    """The checkpoint that the next round starts from. Raises FactoryError without one."""
    workspace = open_workspace()
    base = base_checkpoint(workspace, load_settings(workspace), past, exact=False)
    return next_checkpoint(workspace, past, base, note)
