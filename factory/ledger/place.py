"""A workspace's folder where it was when a command began: not moved since, and no torn copy."""

from __future__ import annotations

import os
import weakref
from pathlib import Path

from factory.domain.failures import DiskError, InputError

LOCK = "lock"
"""In the state folder: which process works there, since when; then which file it is and of when."""

GRACE_NS = 1_000_000_000
"""By how much a disk with a coarse clock may say that a file was changed after it was."""


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


def mark(lock: int) -> bytes:
    """What a lock's file, open for writing, says of itself: its number on the disk, and when its
    entry there was changed, which no program that copies a file can set."""
    found = os.fstat(lock)
    return b"%d %d" % (found.st_ino, found.st_ctime_ns)


def check_copy(state: Path) -> None:
    """Raise InputError for a copy of a state folder that was made while a command worked there.

    Its ledger file and segments may be of two moments, and rows that moved from these to that in
    between are in neither. The lock's file tells: a copy is another file, made later, also where it
    has taken the place and by chance the number of the first. One that was only moved, mounted
    again under other numbers, given to another user or kept in a snapshot is not.
    """
    lock = state / LOCK
    try:
        said, found = lock.read_bytes().partition(b"\n")[2].split(), lock.stat()
        number, changed = map(int, said)
    except (OSError, ValueError):  # none, one at rest, or of a version that said something else
        return
    later = changed + GRACE_NS
    if found.st_ctime_ns > later and (found.st_ino != number or found.st_mtime_ns > later):
        raise InputError(
            "this workspace was copied while a command worked in it, or after one was killed; its "
            "ledger may lack rows",
            where=str(state),
            remedy="copy it with `factory backup FOLDER` where it is from; if nothing worked there "
            f"while it was copied, remove {lock}",
        )
