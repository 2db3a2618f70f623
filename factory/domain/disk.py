"""What mends a file that the system refuses, as far as it says why."""

from __future__ import annotations

import errno

_LOCKS = (
    ("file locks are not supported", "lock is held in PID 0", "no locks available"),
    "put the workspace on a disk with file locks: a local one, or a share mounted with them",
)
_FULL = (("no space left", "disk quota exceeded"), "free some space (`df -h`)")
_DENIED = (
    ("permission denied", "operation not permitted", "read-only file system"),
    "mend its permissions, or take a place that you can write to",
)
_OPEN_FILES = (("too many open files",), "raise the limit of open files (`ulimit -n`)")
_TOO_LARGE = (("file too large",), "raise the limit of a file's size (`ulimit -f`)")
_SIGNS = (_LOCKS, _FULL, _DENIED, _OPEN_FILES, _TOO_LARGE)
_NUMBERS = {
    errno.ENOLCK: _LOCKS,
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EROFS: _DENIED,
    errno.EMFILE: _OPEN_FILES,
    errno.ENFILE: _OPEN_FILES,
    errno.EFBIG: _TOO_LARGE,
}
CHECK = "check that the path exists, is yours, and that its disk works"
"""Remedy where the system says something else."""


def no_locks(error: BaseException) -> bool:
    """Whether a file cannot be locked at all; one that another process has locked can be."""
    return disk_remedy(error) == _LOCKS[1]


def disk_remedy(error: BaseException) -> str:
    """By the number of a system's error, else by the system's words, which libraries pass on.

    >>> disk_remedy(OSError(errno.ENOSPC, "No space left on device"))
    'free some space (`df -h`)'
    """
    if isinstance(error, OSError) and error.errno in _NUMBERS:
        return _NUMBERS[error.errno][1]
    text = str(error).lower()
    return next((what for signs, what in _SIGNS if any(x.lower() in text for x in signs)), CHECK)
