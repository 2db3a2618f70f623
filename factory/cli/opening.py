"""Opening what a command works on: the nearest factory.toml's workspace and its ledger."""

from __future__ import annotations

from pathlib import Path

from factory.ledger.database import Ledger
from factory.workspace.folder import Workspace


def open_workspace() -> Workspace:
    """The workspace of the current folder. Raises InputError."""
    return Workspace.locate(Path.cwd())


def open_ledger() -> Ledger:
    """The ledger of the current folder's workspace."""
    return Ledger(open_workspace().state)
