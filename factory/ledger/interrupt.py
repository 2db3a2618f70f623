"""What may run long in DuckDB ends at a deadline, or as the command does at Ctrl-C."""

from __future__ import annotations

import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import duckdb

STOPPING = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
"""Signals that end a command; Python tells of those alone that have a handler."""
AGAIN_SECONDS = 0.05
"""Between two interrupts: one that comes between two steps of a query is forgotten."""
GRACE_SECONDS = 1.0
"""From a deadline to the end of a process that is here for one query alone."""
_ends: list[bool] = []


def end_at_deadlines() -> None:
    """Let the system end this process (SIGALRM) where DuckDB goes on after a deadline."""
    _ends.append(True)


@contextmanager
def interrupted_after(con: duckdb.DuckDBPyConnection, seconds: float | None) -> Iterator[None]:
    """Interrupt what runs on the connection after some seconds (None is never), or by Ctrl-C.

    Python learns of a signal when DuckDB returns, which may be after minutes; its wake-up
    descriptor at once. Raises duckdb.InterruptException for the deadline and KeyboardInterrupt for
    Ctrl-C, also where Python's own was lost in a callback.
    """
    if _ends and seconds is not None:
        signal.setitimer(signal.ITIMER_REAL, seconds + GRACE_SECONDS)
    told, tell = socket.socketpair()
    tell.setblocking(False)
    stopped = threading.Event()
    end = None if seconds is None else time.monotonic() + seconds

    def watch() -> None:
        wait = seconds
        with told:
            while True:
                heard = told.recv(64) if select.select([told], [], [], wait)[0] else None
                if heard == b"":
                    return
                if heard and not STOPPING.isdisjoint(heard):
                    stopped.set()
                if stopped.is_set() or (end is not None and time.monotonic() >= end):
                    wait = AGAIN_SECONDS
                    with suppress(duckdb.ConnectionException):  # closed by whoever was stopped
                        con.interrupt()
                elif end is not None:
                    wait = max(0.0, end - time.monotonic())

    watcher = threading.Thread(target=watch, daemon=True)
    is_main = threading.current_thread() is threading.main_thread()
    others = -1
    try:
        # Inside, because Ctrl-C may come at once, and the descriptor must not outlive its socket.
        if is_main and (others := signal.set_wakeup_fd(tell.fileno())) != -1:
            signal.set_wakeup_fd(others)
        watcher.start()
        yield
    except duckdb.InterruptException as error:
        if stopped.is_set():
            raise KeyboardInterrupt from error
        raise
    finally:
        if _ends:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if is_main:
            signal.set_wakeup_fd(others)
        tell.close()
        if watcher.is_alive():
            watcher.join()
