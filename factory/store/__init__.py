"""The ledger: one DuckDB file and the segments it has not taken in yet; the workspace lock."""

from factory.store.database import Ledger, Rows
from factory.store.lock import WorkspaceLock

__all__ = ["Ledger", "Rows", "WorkspaceLock"]
