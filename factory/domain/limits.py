"""What a child process may take: so much memory, and no longer life than its parent's."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

QUERY_BYTES = 5 << 30
"""Address space for SQL, beyond what its process has: DuckDB's own limit, and its answer."""
THREAD_BYTES = 80 << 20
"""Of each thread: its stack and what the allocator sets aside for it."""
PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent's thread ends, however it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def limit_memory(beyond: int) -> None:
    """Let the address space grow by so much at most, and by what threads set aside."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    has = pages * os.sysconf("SC_PAGE_SIZE")
    wanted = has + beyond + THREAD_BYTES * (os.cpu_count() or 1)
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    if most == resource.RLIM_INFINITY or wanted < most:
        resource.setrlimit(resource.RLIMIT_AS, (wanted, most))
