"""Bounding a query: by its deadline, by Ctrl-C, and which of the two it was."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import duckdb
import pytest

from factory.domain.failures import InputError
from factory.ledger.database import Ledger
from factory.ledger.interrupt import interrupted_after

ENDLESS = "select count(*) from range(100000000000) a(x), range(1000) b where a.x % 7 = 3"


def lose(_number: int, _frame: FrameType | None) -> None:
    """What Python makes of a Ctrl-C that comes while it runs a weak reference's callback."""


@contextmanager
def ctrl_c_handled_by(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """A shell's background job ignores Ctrl-C, and so would the tests in one."""
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_deadline_is_no_ctrl_c(tmp_path: Path) -> None:
    ended = pytest.raises(duckdb.InterruptException)
    with duckdb.connect() as con, ended, interrupted_after(con, 0.05):
        con.execute(ENDLESS)
    with pytest.raises(InputError, match=r"took longer than 0\.05 s"):
        Ledger(tmp_path).query(ENDLESS, timeout_seconds=0.05)


@pytest.mark.parametrize("seconds", [None, 600.0])
def test_ctrl_c_is_no_deadline(tmp_path: Path, seconds: float | None) -> None:
    with ctrl_c_handled_by(lose), Ledger(tmp_path).read() as past:
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            past.query(ENDLESS, timeout_seconds=seconds)
        timer.join()


def test_another_signal_moves_no_deadline() -> None:
    before = signal.signal(signal.SIGUSR1, lose)
    done = threading.Event()

    def disturb() -> None:
        while not done.wait(0.02):
            os.kill(os.getpid(), signal.SIGUSR1)

    disturber = threading.Thread(target=disturb)
    disturber.start()
    try:
        ended = pytest.raises(duckdb.InterruptException)
        with duckdb.connect() as con, ended, interrupted_after(con, 0.2):
            con.execute(ENDLESS)
    finally:
        done.set()
        disturber.join()
        signal.signal(signal.SIGUSR1, before)


# Between a socket's making and its name Python has no place for a `finally`.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_nothing_is_left_wherever_ctrl_c_comes() -> None:
    """Neither a wake-up descriptor of a closed socket nor a thread: the next query is whole."""
    heard: list[int] = []

    def hear(number: int, _frame: FrameType | None) -> None:
        heard.append(number)
        raise KeyboardInterrupt

    with ctrl_c_handled_by(hear), duckdb.connect() as con:
        for step in range(60):
            heard.clear()
            timer = threading.Timer(step / 10000, os.kill, (os.getpid(), signal.SIGINT))
            try:
                timer.start()
                with con.cursor() as own, interrupted_after(own, 600):
                    own.execute(ENDLESS)
            except (KeyboardInterrupt, RuntimeError):
                assert heard
            assert signal.set_wakeup_fd(-1) == -1
        assert con.execute("select 1").fetchall() == [(1,)]
    for thread in threading.enumerate():
        if "watch" in thread.name:
            thread.join(30)
            assert not thread.is_alive()
