"""Opening a workspace for a command: the nearest factory.toml, its ledger, its content."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from factory.cli.terminal import err, escape
from factory.workspace.folder import Workspace

if TYPE_CHECKING:
    from factory.domain.records import Checkpoint
    from factory.ledger.database import Ledger, Source


def open_workspace() -> Workspace:
    """The workspace of the current folder. Raises InputError."""
    return Workspace.locate(Path.cwd())


def open_ledger() -> Ledger:
    """The ledger of the current folder's workspace."""
    from factory.ledger.database import Ledger

    return Ledger(open_workspace().state)


def open_checkpoint(folder: Path | None) -> Path:
    """The named model folder, else that of the checkpoint which the next round starts from."""
    from factory.workspace.models import check_model_folder

    folder = (folder or Path(open_next().path)).expanduser().resolve()
    check_model_folder(folder)
    return folder


def open_next() -> Checkpoint:
    """The checkpoint that the next round starts from. Raises FactoryError without one."""
    with open_ledger().read() as past:
        return find_next(past)


def find_next(past: Source) -> Checkpoint:
    """The same, asked where a reader is open."""
    from factory.ledger.lineage import base_checkpoint, next_checkpoint
    from factory.workspace.settings import load_settings

    workspace = open_workspace()
    base = base_checkpoint(workspace, load_settings(workspace), past, exact=False)
    return next_checkpoint(workspace, past, base, note)


def note(text: str) -> None:
    """Something that the user should know, beside the answer."""
    err(f"[yellow]note:[/] {escape(text)}")
