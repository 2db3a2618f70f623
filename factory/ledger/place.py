"""A workspace's folder where it was when a command began: not moved since, and no torn copy."""

from __future__ import annotations

import os
import weakref
from pathlib import Path

from factory.domain.failures import DiskError, InputError

LOCK = "lock"
"""In the state folder: which process works there, since when; then which file it is."""


class FixedFolder:
    """A folder that is written to by its path. Example: FixedFolder(workspace.root).check()."""

    def __init__(self, folder: Path) -> None:
        """Held open, so that its number on the disk stays its own; it need not be there yet."""
        self._folder = folder
        self._descriptor = -1
        if folder.is_dir():
            self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            weakref.finalize(self, os.close, self._descriptor)

    def check(self) -> None:
        """Raise DiskError where the path leads to another folder, or to none, by now."""
        if self._descriptor < 0:
            return
        try:
            is_there = os.path.samestat(os.stat(self._folder), os.fstat(self._descriptor))
        except FileNotFoundError:
            is_there = False
        if not is_there:
            raise DiskError(
                "the workspace was moved or removed while this command worked in it",
                where=str(self._folder),
                remedy="run the command again where the workspace is now: it goes on there",
            )


def mark(lock: Path, number: int) -> bytes:
    """What a lock's file says of itself: its number on the disk and where it is.

    >>> mark(Path("/a/.factory/lock"), 98765)
    b'98765 /a/.factory/lock'
    """
    return b"%d %s" % (number, os.fsencode(lock.absolute()))


def check_copy(state: Path) -> None:
    """Raise InputError for a copy of a state folder that was made while a command worked there.

    Its ledger file and segments may be of two moments, and rows that moved from these to that in
    between are in neither. The lock's file tells: it says which file it is and where; a copy is
    another file in another place. One that was only moved, or mounted again, is not both.
    """
    lock = state / LOCK
    try:
        said = lock.read_bytes().partition(b"\n")[2]
        own = mark(lock, lock.stat().st_ino)
    except OSError:
        return
    if said and {*said.split(b" ", 1)}.isdisjoint(own.split(b" ", 1)):
        raise InputError(
            "this workspace was copied while a command worked in it, or after one was killed; its "
            "ledger may lack rows",
            where=str(state),
            remedy="copy it with `factory backup FOLDER` where it is from; if nothing worked there "
            f"while it was copied, remove {lock}",
        )
