"""python -m bench.retrieved: the tools that a round retrieves, drawn or searched with a beam.

Two rounds of the same fresh requests of the home world, the same seed and the same model with codes
differ in `codes.decode` alone. A retrieved tool is relevant where the request's gold answer calls
one of its name; many a request needs a tool that has no code, so the share is also given of those
whose tools have one. `called` is the share of retrieved tools that the winning answer of an
accepted sample calls. Intervals (95 %) are a bootstrap over requests, of the difference a paired
one. Then the requests for codes alone, all in flight at once, by each engine. Without --model the
embedded model is asked; a checkpoint of your own: --model .factory/checkpoints/r1. With --out the
rounds are kept, and go on where a killed bench left them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np

from bench.table import Cell, print_machine, print_table
from factory.codes.saving import SavedCodebook, load_codebook
from factory.domain.canon import query_id
from factory.domain.records import Checkpoint, Constraint, Message, Request, Sampling
from factory.engines.opening import open_engine
from factory.lab.home.world import fresh_item
from factory.ledger import history
from factory.ledger.database import Ledger
from factory.score.estimates import Estimate, combine
from factory.workspace.folder import MARKER, Workspace, shipped_root
from factory.workspace.models import fingerprint
from factory.workspace.prompts import Prompts
from factory.workspace.scaffold import init_workspace
from factory.workspace.settings import EngineSection

FIRST = 100_000
"""Number of the first request: no round gets so far in the home world's stream."""
Decode = Literal["sample", "beam"]


class Figures(NamedTuple):
    """Marks from 0 to 1 by request."""

    first: dict[str, float]
    """Whether the likeliest tool found is relevant."""
    all: dict[str, float]
    """Share of the tools found that are."""
    coded: dict[str, float]
    """`all` of the requests whose tools have a code."""
    found: dict[str, float]
    """Share of these requests' relevant tools that are found."""
    called: dict[str, float]
    """Share of the tools found that are called, in accepted samples."""
    accepted: dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=shipped_root() / "rounds" / "seed")
    parser.add_argument("--n", type=int, default=200, help="requests")
    parser.add_argument("--retrieve", type=int, default=4, help="codes.retrieve")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where the rounds' workspaces are kept")
    parser.add_argument("--engines", nargs="*", default=["vllm", "transformers"], help="to time")
    options = parser.parse_args()
    model = options.model.resolve()
    print_machine("vllm", "torch", "transformers")
    codebook = load_codebook(model)
    if codebook is None:
        sys.exit(f"{model} has no codes: run a round, or give a checkpoint of one")
    gold = {
        query_id(item.query): (item.query, frozenset(call["name"] for call in item.calls))
        for item in map(fresh_item, range(FIRST, FIRST + options.n))
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.out or Path(temporary)
        run = partial(run_round, model, gold, codebook, options.retrieve, options.seed)
        ways = {decode: run(folder / decode, decode) for decode in get_args(Decode)}
        rows: list[list[Cell]] = []
        for name in Figures._fields:
            one, other = (getattr(ways[decode], name) for decode in ("sample", "beam"))
            change = {key: other[key] - one[key] for key in other if key in one}
            rows.append([name, *map(show, (one, other, change)), len(other)])
        columns = ("percent of", "sample", "beam", "beam - sample", "requests")
        print_table(f"{options.n} requests, {options.retrieve} codes each", columns, rows)
        texts = [text for text, _ in gold.values()]
        timing = time_all(model, codebook, texts, options.retrieve, folder, options.engines)
        timed = asyncio.run(timing)
    print_table(
        "ms a request for codes alone, all in flight at once, best of 3",
        ("engine", "sample", "beam", "ratio"),
        timed,
    )


def run_round(
    model: Path,
    gold: dict[str, tuple[str, frozenset[str]]],
    codebook: SavedCodebook,
    retrieve: int,
    seed: int,
    folder: Path,
    decode: Decode,
) -> Figures:
    """One round that does not train, and what it retrieved."""
    workspace = Workspace(folder) if (folder / MARKER).exists() else init_workspace(folder)
    ledger = Ledger(workspace.state)
    if history.last_round(ledger) and history.open_round(ledger) is None:
        return read_round(ledger, gold, codebook)
    lines = [json.dumps({"query": text}) + "\n" for text, _ in gold.values()]
    (folder / "requests.jsonl").write_text("".join(lines), encoding="utf-8")
    values = {
        "codes.decode": decode,
        "codes.retrieve": retrieve,
        "seed": seed,
        "train.min_accepted": 10**9,
        "score.benchmarks": "[]",
        "score.dev": "''",
    }
    command = [sys.executable, "-m", "factory", "round", "--model", str(model)]
    command += ["--queries", "requests.jsonl", "--n", str(len(gold))]
    command += [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if "not trained" not in done.stdout:
        sys.exit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    return read_round(ledger, gold, codebook)


def read_round(
    ledger: Ledger, gold: dict[str, tuple[str, frozenset[str]]], codebook: SavedCodebook
) -> Figures:
    retrieved: dict[str, list[str]] = {key: [] for key in gold}
    sql = "select query_id, text from generation where stage = 'retrieve' order by logprob desc"
    for key, text in ledger.query(sql).rows:
        tool = codebook.tool_of(text)
        if tool is not None and tool.name not in retrieved[key]:
            retrieved[key].append(tool.name)
    accepted = dict(ledger.query("select query_id, calls_json from accepted").rows)
    known = {entry.tool.name for entry in codebook.tools}
    figures = Figures({}, {}, {}, {}, {}, {})
    for key, (_, names) in gold.items():
        figures.accepted[key] = float(key in accepted)
        # A request that fell before it was asked for codes has none.
        if not (found := retrieved[key]):
            continue
        figures.first[key] = float(found[0] in names)
        figures.all[key] = float(np.mean([name in names for name in found]))
        if coded := names & known:
            figures.coded[key] = figures.all[key]
            figures.found[key] = len(coded & set(found)) / len(coded)
        if key in accepted:
            called = {call["name"] for call in json.loads(accepted[key])}
            figures.called[key] = float(np.mean([name in called for name in found]))
    return figures


def show(marks: dict[str, float]) -> str:
    if not marks:
        return ""
    estimate: Estimate = combine({"": np.array(list(marks.values()))}, {"": 1.0})
    return f"{estimate.value:.1f} [{estimate.low:.1f}, {estimate.high:.1f}]"


async def time_all(
    model: Path,
    codebook: SavedCodebook,
    texts: Sequence[str],
    retrieve: int,
    logs: Path,
    backends: Sequence[Literal["vllm", "transformers"]],
) -> list[list[Cell]]:
    """ms a request by engine and way, with their ratio."""
    prompts = Prompts.load(Workspace(shipped_root()))
    rows: list[list[Cell]] = []
    for backend in backends:
        async with await open_engine(
            Checkpoint(id="bench", path=str(model), fingerprint=fingerprint(model)),
            settings=EngineSection(backend=backend, threads=1),
            log_folder=logs,
            notify=print,
        ) as engine:
            best = []
            for decode in get_args(Decode):
                sampling = Sampling(
                    n=retrieve,
                    temperature=float(decode == "sample"),
                    max_tokens=codebook.num_levels + 1,
                    beam=decode == "beam",
                )
                requests = [
                    Request(
                        id=str(number),
                        messages=(
                            Message(
                                role="user", content=prompts.render("codes/retrieve", query=text)
                            ),
                        ),
                        sampling=sampling,
                        constraint=Constraint(trie=str(codebook.trie_path)),
                    )
                    for number, text in enumerate(texts)
                ]
                seconds = []
                for _ in range(3):
                    started = time.perf_counter()
                    await engine.sample(requests)
                    seconds.append(time.perf_counter() - started)
                best.append(min(seconds) * 1000 / len(texts))
            rows.append([backend, *best, best[1] / best[0]])
    return rows


if __name__ == "__main__":
    main()
