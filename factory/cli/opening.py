"""Opening a workspace for a command: the nearest factory.toml, its ledger, its content."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from factory.workspace import Workspace

if TYPE_CHECKING:
    from factory.store.database import Ledger


def open_workspace() -> Workspace:
    """The workspace of the current folder. Raises InputError."""
    return Workspace.locate(Path.cwd())


def open_ledger() -> Ledger:
    """The ledger of the current folder's workspace."""
    from factory.store.database import Ledger

    return Ledger(open_workspace().state)
