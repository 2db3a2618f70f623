"""Rounds that are killed at random moments of every stage, then resumed to their end.

A round on the embedded model runs undisturbed first. Then the same round is made again and again;
each is ended a few times, by SIGKILL or SIGTERM of the command or SIGKILL of one of its children,
at a random moment of a stage drawn by chance, and at last resumed. What must hold: every request
has one sample and no generation twice, answers and weights are those of the undisturbed round, no
process outlives the command, and neither the workspace nor the temp folder keeps anything of it.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.campaign.running import Finding, Records, Running, ask, make_quick, same, start
from factory.workspace.models import is_installed

SECONDS = 1800.0
"""The longest that one command may take."""
GRACE = 20.0
"""How many seconds a process may outlive its command longer than the longest stage takes: one that
is still loading its libraries sees afterwards that the command is gone."""
_SHOWN = re.compile(r"(?m)^(\S.*) …$")
_NUMBERS = re.compile(r"(?<= )\S*\d\S*|\(.*\)")
CHILD = "SIGKILL of a child"
HOWS = ("SIGKILL", "SIGKILL", "SIGTERM", CHILD)


@dataclass(slots=True, kw_only=True)
class Disturbed:
    """What came of one disturbed round."""

    seed: int
    backend: str
    kills: list[tuple[str, str]] = field(default_factory=list)
    """Stage and how, of each."""
    codes: list[int] = field(default_factory=list)
    """Exit codes of commands that SIGTERM ended."""
    requests: int = 0
    lost: int = 0
    twice: int = 0
    answers_equal: bool = False
    weights_equal: bool = False
    orphans: int = 0
    leftovers: list[str] = field(default_factory=list)
    again: int = 0
    """Commands that a killed child ended, as its error says: they are run again."""
    seconds: float = 0.0
    failed: str = ""
    """The end of the output, where a command ended by itself as it should not."""


def shown_stages(text: str) -> list[str]:
    """Stages in the order in which they were announced, without what differs by round."""
    return [_NUMBERS.sub("", stage).strip() for stage in _SHOWN.findall(text)]


def facts(workspace: Path) -> dict[str, Any]:
    """What must be equal: the fingerprint of the weights, and each request's sample."""
    (weights,) = ask(workspace, "select list(fingerprint) as f from checkpoint where round = 1")
    samples = ask(
        workspace,
        "select query_id, status, calls_json, reason from sample where round = 1 order by all",
    )
    return {"weights": weights["f"], "samples": samples}


def leftovers(workspace: Path, temp: Path) -> list[str]:
    """What a command that ended well should not have left."""
    state = workspace / ".factory"
    found = [path for pattern in ("*.tmp", "*.job") for path in state.rglob(pattern)]
    found += (state / "segments").glob("*")
    found += (path for path in temp.iterdir() if not path.name.startswith("torchinductor"))
    return [path.name for path in found]


def backend_of(number: int) -> str:
    """The engine of a disturbed round: vLLM of each fourth, since starting it takes most of a kill
    and what is kept and resumed is the command's.
    """
    return "vllm" if number % 4 == 3 and is_installed("vllm") else "transformers"


class Rounds:
    """Disturbed rounds of one engine beside one that was not."""

    def __init__(self, folder: Path, num_queries: int, backend: str) -> None:
        self._folder = folder
        self._backend = backend
        self._temp = folder / "t"
        self._temp.mkdir(parents=True, exist_ok=True)
        self._arguments = ("round", "--n", str(num_queries))
        self.stages: list[str] = []
        self.seconds: dict[str, float] = {}
        self.wanted: dict[str, Any] = {}

    def run_undisturbed(self) -> None:
        """Make the round that the others are compared with. Raises AssertionError if it fails."""
        workspace = self._folder / f"undisturbed-{self._backend}"
        log = self._folder / f"{workspace.name}.log"
        if not log.exists() or not is_done(workspace):  # else of an earlier part of the campaign
            shutil.rmtree(workspace, ignore_errors=True)
            running = self._start(make_quick(workspace, self._backend))
            assert running.wait(SECONDS) == 0, running.text()
        text = log.read_text(encoding="utf-8")
        self.stages = list(dict.fromkeys(shown_stages(text)))
        for name, seconds in re.findall(r"(?m)^  (\S.*): ([\d.]+) s$", text):
            stage = _NUMBERS.sub("", name).strip()
            self.seconds[stage] = max(self.seconds.get(stage, 0.0), float(seconds))
        self.wanted = facts(workspace)

    def disturb(self, seed: int, num_kills: int, deadline: float) -> Disturbed:
        """One round with so many kills, fewer where the time is over, then run to its end."""
        rng = random.Random(seed)
        workspace = make_quick(self._folder / f"round{seed}", self._backend)
        started, result = time.monotonic(), Disturbed(seed=seed, backend=self._backend)
        running = self._start(workspace)
        may_kill_child, seen = True, set[str]()
        while len(result.kills) < num_kills and time.monotonic() < deadline:
            if not self._wait_for(running, rng.choice(self._ahead(seen)), rng):
                if not self._ended_by_child(running, result):
                    break
                running, may_kill_child = self._start(workspace), True
                continue
            how = rng.choice(HOWS if may_kill_child else HOWS[:-1])
            may_kill_child = self._kill(running, how, rng, result)
            seen |= set(shown_stages(running.text()))
            if may_kill_child:
                result.orphans += running.orphans(GRACE + max(self.seconds.values()))
                if is_done(workspace):
                    break
                running = self._start(workspace)
        running.wait(SECONDS)
        if self._ended_by_child(running, result):
            running = self._start(workspace)
        self._finish(workspace, running, result)
        result.seconds = round(time.monotonic() - started, 1)
        shutil.rmtree(workspace)
        return result

    def _ahead(self, seen: set[str]) -> list[str]:
        """Stages that come soon: those that each start has, the last one seen and the next ones."""
        last = max((self.stages.index(name) for name in seen if name in self.stages), default=0)
        return [*self.stages[:3], *self.stages[last : last + 3]]

    def _start(self, workspace: Path) -> Running:
        log = workspace.parent / f"{workspace.name}.log"
        return start(workspace, *self._arguments, log=log, temp=self._temp)

    def _wait_for(self, running: Running, stage: str, rng: random.Random) -> bool:
        """Wait until a random moment of the stage; False where the command ends before."""
        while stage not in shown_stages(running.text()):
            if running.process.poll() is not None:
                return False
            time.sleep(0.02)
        time.sleep(rng.random() * self.seconds.get(stage, 1.0))
        return running.process.poll() is None

    def _ended_by_child(self, running: Running, result: Disturbed) -> bool:
        """Whether a command ended since the child that was killed last is not started again."""
        is_so = running.process.poll() == 3 and bool(result.kills) and result.kills[-1][1] == CHILD
        result.again += is_so
        return is_so

    def _kill(self, running: Running, how: str, rng: random.Random, result: Disturbed) -> bool:
        """End the command, or one of its children; whether the command has ended."""
        stage = shown_stages(running.text())[-1]
        children = [pid for pid in running.pids() if pid != running.process.pid]
        if how == CHILD and children:
            result.kills.append((stage, how))
            kill(rng.choice(children))
            return False
        how = "SIGKILL" if how == CHILD else how
        result.kills.append((stage, how))
        running.process.send_signal(signal.Signals[how])
        code = running.wait(SECONDS)
        if how == "SIGTERM":
            result.codes.append(code)
        return True

    def _finish(self, workspace: Path, running: Running, result: Disturbed) -> None:
        """Let the command end, and see what there is."""
        if running.wait(SECONDS) != 0 and not is_done(workspace):
            result.failed = running.text()[-800:]
        result.orphans += running.orphans(GRACE + max(self.seconds.values()))
        found = facts(workspace)
        (books,) = ask(workspace, BOOKS)
        result.requests, result.lost, result.twice = books["drawn"], books["lost"], books["twice"]
        result.weights_equal = found["weights"] == self.wanted["weights"]
        result.answers_equal = found["samples"] == self.wanted["samples"]
        result.leftovers = leftovers(workspace, self._temp)


BOOKS = """
    select (select count(*) from draw where round = 1) as drawn,
      (select count(*) from draw where round = 1 and query_id not in
        (select query_id from sample where round = 1)) as lost,
      (select count(*) - count(distinct query_id) from sample where round = 1)
      + (select count(*) - count(distinct (query_id, stage, subject, sample_index))
         from generation where round = 1) as twice
"""


def is_done(workspace: Path) -> bool:
    """Whether the first round is at its end."""
    (row,) = ask(workspace, "select count(*) as n from stage where round = 1 and stage = 'gate'")
    return bool(row["n"])


def kill(pid: int) -> None:
    """SIGKILL for a process that may be gone."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def run_kills(
    folder: Path, records: Records, *, num_kills: int, num_queries: int, deadline: float, seed: int
) -> tuple[list[Finding], Counter[tuple[str, str]]]:
    """Disturb rounds until there are so many kills, those of `records` included."""
    done = sum(len(row["kills"]) for row in records.rows)
    engines: dict[str, Rounds] = {}
    while done < num_kills and time.monotonic() < deadline:
        number = seed + len(records.rows)
        if (backend := backend_of(number)) not in engines:
            engines[backend] = Rounds(folder, num_queries, backend)
            engines[backend].run_undisturbed()
        result = engines[backend].disturb(number, min(8, num_kills - done), deadline)
        records.add(asdict(result))
        done += len(result.kills)
    return list(_findings(records.rows)), Counter(
        (stage, how) for row in records.rows for stage, how in row["kills"]
    )


def _findings(rows: Sequence[dict[str, Any]]) -> Iterator[Finding]:
    kills, requests = sum(len(row["kills"]) for row in rows), sum(row["requests"] for row in rows)
    yield Finding(what="kills, rounds", wanted="", found=f"{kills}, {len(rows)}", is_right=True)
    spent = sum(row["seconds"] for row in rows) / max(1, kills)
    yield Finding(what="seconds a kill", wanted="", found=f"{spent:.0f}", is_right=True)
    yield Finding(what="requests drawn", wanted="", found=str(requests), is_right=True)
    for name in ("lost", "twice", "orphans"):
        yield same(f"{name}", 0, sum(row[name] for row in rows))
    for name in ("answers_equal", "weights_equal"):
        equal = sum(row[name] for row in rows)
        yield same(f"rounds with {name.replace('_', ' ')}", f"{len(rows)}", f"{equal}")
    left = Counter(
        re.sub(r"[0-9a-f]{6,}|\d+", "N", name) for row in rows for name in row["leftovers"]
    )
    yield same("leftovers", {}, dict(left))
    yield same("commands that failed by themselves", 0, sum(bool(row["failed"]) for row in rows))
    codes = sorted({code for row in rows for code in row["codes"]})
    yield Finding(
        what="exit codes after SIGTERM", wanted="143", found=str(codes), is_right={*codes} <= {143}
    )
