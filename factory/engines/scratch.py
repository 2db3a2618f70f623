"""Folders for temporary files: what a killed command leaves in one, the next command removes.

Libraries in a child leave files in the temp folder (vLLM's `vllm_dist_*`) whenever they are ended
by force. So each child gets a temp folder of its own, which its command removes. A command holds a
lock on those that it made; one without a lock is of a command that was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

PREFIX = "factory-"
MARK = ".factory-scratch"
"""File in each of them: another's folder of such a name is nobody's to remove."""
MAX_PATH = 60
"""Longest path of a child's temp folder: libraries put sockets there, whose paths may have 107
characters, and add up to 45."""


class Scratch:
    """A folder of this process, gone when it is closed, or swept after the process was killed.

    Example: with Scratch() as folder: (folder / "check.log").touch()
    """

    def __init__(self, base: str = "") -> None:
        """Make the folder in `base`, else in the temp folder, after those of killed commands are
        removed there. Raises OSError."""
        base = base or tempfile.gettempdir()
        sweep(base)
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
            self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            with contextlib.suppress(OSError):  # a share without locks: nobody sweeps there
                fcntl.flock(self._lock, fcntl.LOCK_EX)
            if self.path.exists():
                (self.path / MARK).touch()
                return
            os.close(self._lock)  # swept between the two lines above

    def environment(self) -> dict[str, str]:
        """The variables by which a child puts its temporary files here; what it compiles is kept.

        There are none where the path is too long for sockets.
        """
        if len(str(self.path)) > MAX_PATH:
            return {}
        compiled = self.path.parent / f"torchinductor_{os.getuid()}"
        kept = os.environ.get("TORCHINDUCTOR_CACHE_DIR", str(compiled))
        return {"TMPDIR": str(self.path), "TORCHINDUCTOR_CACHE_DIR": kept}

    def close(self) -> None:
        """Remove the folder; again, it does nothing."""
        if self._lock >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.close()


@cache
def sweep(base: str) -> None:
    """Remove the folders in `base` that killed commands of this user left; once in a process."""
    for path in Path(base).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(lock).st_uid == os.getuid() and (path / MARK).is_file():
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)
