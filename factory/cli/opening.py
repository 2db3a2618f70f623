"""Opening a workspace for a command: the nearest factory.toml, its ledger, its content."""

from __future__ import annotations

from pathlib import Path

from factory.store.database import Ledger
from factory.workspace import Workspace


def open_workspace() -> Workspace:
    """The workspace of the current folder. Raises InputError."""
    return Workspace.locate(Path.cwd())


def open_ledger() -> Ledger:
    """The ledger of the current folder's workspace."""
    return Ledger(open_workspace().state)
