"""A process of its own in which set rules run: the system ends it where DuckDB does not.

DuckDB looks for an interrupt between its steps: one call of a scalar function may run for minutes
and take any memory, and a round must outlive a user's SELECT. The tables go there as Arrow
streams, findings come back as lines; factory.judge.bench_child is the other end.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa

from factory.domain.limits import QUERY_BYTES
from factory.domain.plaintext import shorten
from factory.judge.rulebook import Rule

LIMITS: dict[str, str | bool | int | float | list[str]] = {"memory_limit": "4GB", "threads": 2}
"""Of DuckDB, as far as it counts."""
MEMORY_BYTES = QUERY_BYTES
"""Address space of the child beyond what it needs for the tables, and for its threads."""
GRACE_SECONDS = 1.0
"""From a rule's deadline, at which DuckDB is interrupted, to the child's end."""
_LESS = "join fewer rows, e.g. on bands, or compare shorter texts"


class Unfinished(Exception):
    """A rule that did not come to its end."""

    def __init__(self, what: str, remedy: str = _LESS, *, was_ended: bool = False) -> None:
        super().__init__(what)
        self.remedy = remedy
        self.was_ended = was_ended
        """Whether its process was ended, which may not be the rule's fault."""


class Bench:
    """Runs set rules in a child, which starts at the first of them and serves many rounds.

    Example: with closing(Bench()) as bench: judge_round(rules, candidates, …, bench=bench)
    """

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close
        self._read = b""

    def close(self) -> None:
        """End the child."""
        self._end()
        self._log.close()

    def run(
        self, tables: Mapping[str, pa.Table], rules: Sequence[Rule], most: int, seconds: float
    ) -> Iterator[tuple[Rule, list[str], list[list[str]]]]:
        """Each rule with the columns and rows of its answer, sorted; of rows at most one more than
        `most`. Raises Unfinished for the rule that comes next, and ends the child.
        """
        done = False
        try:
            self._send(tables, rules, most, seconds)
            for rule in rules:
                end = time.monotonic() + seconds + GRACE_SECONDS
                rows: list[list[str]] = []
                columns = self._receive(end, seconds)["columns"]
                while batch := self._receive(end, seconds)["rows"]:
                    rows += batch
                yield rule, columns, rows
            done = True
        finally:
            if not done:
                self._end()

    def _send(
        self, tables: Mapping[str, pa.Table], rules: Sequence[Rule], most: int, seconds: float
    ) -> None:
        child = self._child = self._child or self._start()
        assert child.stdin is not None
        asked = {
            "tables": list(tables),
            "rules": [{"sql": rule.sql, "limits": rule.limits} for rule in rules],
            "most": most,
            "seconds": seconds,
            "memory": MEMORY_BYTES,
        }
        try:
            child.stdin.write(json.dumps(asked).encode() + b"\n")
            for table in tables.values():
                with pa.ipc.new_stream(child.stdin, table.schema) as stream:
                    stream.write_table(table)
            child.stdin.flush()
        except OSError:
            raise self._ended() from None
        self._receive(None, seconds)

    def _start(self) -> subprocess.Popen[bytes]:
        self._read = b""
        module = "factory.judge.bench_child"
        return subprocess.Popen(
            [sys.executable, "-m", module, str(os.getpid()), json.dumps(LIMITS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=os.environ | {"PYTHONSAFEPATH": "1"},
            # Ctrl-C is the parent's to handle.
            start_new_session=True,
        )

    def _receive(self, end: float | None, seconds: float) -> dict[str, Any]:
        """The child's next message. Raises Unfinished where it tells of that, is late or ends."""
        assert self._child is not None and self._child.stdout is not None
        source = self._child.stdout.fileno()
        while b"\n" not in self._read:
            left = None if end is None else end - time.monotonic()
            if left is not None and (left <= 0 or not select.select([source], [], [], left)[0]):
                raise Unfinished(f"took longer than {seconds:g} s and was stopped")
            if not (chunk := os.read(source, 1 << 16)):
                raise self._ended()
            self._read += chunk
        line, _, self._read = self._read.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        if "late" in message:
            raise Unfinished(f"took longer than {seconds:g} s and was stopped")
        if "memory" in message:
            raise Unfinished(f"needs more than {LIMITS['memory_limit']} of memory")
        if "error" in message:
            raise Unfinished(f"cannot be run: {message['error']}", "mend it")
        return message

    def _ended(self) -> Unfinished:
        """What is said of a child that ended by itself, or was ended."""
        assert self._child is not None
        code = self._child.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        if -code in (signal.SIGKILL, signal.SIGTERM):
            what = f"was ended by {how}, which somebody sent, or the kernel for want of memory"
            remedy = f"run the command again; where that ends alike, {_LESS}"
            return Unfinished(what, remedy, was_ended=True)
        self._log.seek(0)
        says = self._log.read()[-2000:].decode("utf-8", "replace").strip().rpartition("\n")[2]
        told = f": {shorten(says, 200)}" if says else ""
        return Unfinished(f"ended its process ({how}{told}): it may need more memory than there is")

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):  # what was not sent is for nobody
                pipe.close()
