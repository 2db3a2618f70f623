"""The console script. What it runs is imported inside, so that Ctrl-C has its answer at once.

A scheduler's SIGTERM and a closed terminal's SIGHUP end a command as Ctrl-C does. They have a
handler also because the first process of a container has no other way to hear them.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from importlib import import_module
from types import FrameType
from typing import NoReturn

SIGNAL_CODE = 128
"""And a signal's number: what a shell reports of a program that it ended."""
STOPPED_CODE = SIGNAL_CODE + signal.SIGINT
STOPPED = "stopped; nothing is lost: the same command goes on\n"
STOPPED_ROUND = "stopped; nothing is lost: `factory round` continues where it was\n"
STOPPED_AS = {
    **dict.fromkeys(("round", "teach"), STOPPED_ROUND),
    "serve": "stopped: nothing is served any more; `factory serve` starts anew\n",
}
"""What is said of a command that has another way to go on, by its name."""


def run() -> None:
    ended_by = _hear()
    try:
        code = import_module("factory.cli.app").call()
    except KeyboardInterrupt:
        code = STOPPED_CODE
    if code == STOPPED_CODE:
        _end(SIGNAL_CODE + ended_by[-1])
    sys.exit(code)


def _hear() -> list[int]:
    """Let SIGTERM and SIGHUP do what Ctrl-C does; what has come last stands last in the list.

    A signal that whoever started the command has chosen to ignore stays ignored (nohup).
    """
    heard: list[int] = [signal.SIGINT]

    def stop(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None):
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, stop)
    return heard


def _end(code: int) -> NoReturn:
    """Say how to go on, where there is still a terminal to say it to."""
    with suppress(OSError):
        sys.stderr.write(STOPPED_AS.get("".join(sys.argv[1:2]), STOPPED))
        sys.stderr.flush()
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(code)
