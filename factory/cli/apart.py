"""A user's query in a process of its own, which the system ends where DuckDB does not.

DuckDB looks for an interrupt between its steps: one call of a scalar function may run for minutes
and take any memory. The child goes on with the command; its parent waits, and does nothing else.
"""

from __future__ import annotations

import os
import signal
import sys

import typer

from factory.domain.failures import InputError
from factory.domain.limits import QUERY_BYTES, die_with_parent, limit_memory
from factory.ledger.interrupt import end_at_deadlines

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def go_on_apart(timeout: float) -> None:
    """Return in a child that lives no longer than this command, and has hard limits.

    Raises typer.Exit in the parent, with the child's exit code; InputError where the system ended
    it; KeyboardInterrupt where a signal stopped either.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        die_with_parent(parent)
        heard = [each for each in STOPPING if signal.getsignal(each) is not signal.SIG_IGN]
        for number in (*heard, signal.SIGALRM):
            # By the system, at once: Python would have to wait for DuckDB.
            signal.signal(number, signal.SIG_DFL)
        end_at_deadlines()
        limit_memory(QUERY_BYTES)
        return
    try:
        # It stays a child: a signal that comes as it ends finds it there to kill.
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        raise typer.Exit(code)
    if -code in STOPPING:
        signal.raise_signal(-code)
        raise KeyboardInterrupt
    if -code == signal.SIGALRM:
        raise InputError(
            f"the query took longer than {timeout:g} s and was stopped",
            remedy="narrow it with `where round = …` or `limit …`, or allow more time",
        )
    raise InputError(
        f"the query was ended by {signal.Signals(-code).name}",
        remedy="it may have needed more memory than there is: narrow it",
    )
