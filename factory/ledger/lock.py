"""One round at a time: a lock on the workspace that ends with the process that took it."""

from __future__ import annotations

import fcntl
import os
from datetime import UTC, datetime
from pathlib import Path

from factory.domain.disk import disk_remedy
from factory.domain.failures import BusyError, DiskError
from factory.ledger.place import LOCK, check_copy, mark


class WorkspaceLock:
    """Held from `with WorkspaceLock(workspace.state):` to its end, or to the end of the process,
    `kill -9` included.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        self._descriptor = -1

    def __enter__(self) -> WorkspaceLock:
        """Take the lock. Raises BusyError if a process has it, DiskError if it cannot be made,
        InputError in a copy of a workspace that was in use.
        """
        assert self._descriptor < 0, "taken already"
        check_copy(self.path.parent)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise self._unusable(error) from error
        try:
            # flock, not lockf: it belongs to this descriptor, which child programs do not inherit.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.truncate(descriptor, 0)
            held = f"{os.getpid()} {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC\n".encode()
            os.write(descriptor, held)
            os.write(descriptor, mark(descriptor))
            os.fsync(descriptor)  # a share has its time of it now, not when it writes it
        except OSError as error:
            holder = os.read(descriptor, 100).partition(b"\n")[0].decode()
            os.close(descriptor)
            is_held = isinstance(error, BlockingIOError)
            raise (self._busy(holder) if is_held else self._unusable(error)) from error
        self._descriptor = descriptor
        return self

    def __exit__(self, *_: object) -> None:
        os.truncate(self._descriptor, 0)
        os.close(self._descriptor)
        self._descriptor = -1

    def _busy(self, holder: str) -> BusyError:
        pid, _, since = holder.partition(" ")
        who = f"process {pid}, since {since}" if since else "another process"
        return BusyError(
            f"this workspace is in use by {who}",
            where=str(self.path),
            remedy=f"wait for it, or end it with `kill {pid or 'PID'}`; a round continues later",
        )

    def _unusable(self, error: OSError) -> DiskError:
        return DiskError(
            f"the workspace cannot be locked: {error.strerror or error}",
            where=str(self.path),
            remedy=disk_remedy(error),
        )
