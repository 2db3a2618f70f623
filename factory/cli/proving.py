"""`factory score … --through URL`: a checkpoint here beside the server where it stands."""

from __future__ import annotations

import asyncio

from factory.cli.terminal import escape, out, print_table, write_json
from factory.deploy.proving import Proof, prove
from factory.domain.failures import GateError, InputError
from factory.domain.plaintext import shorten
from factory.ledger.lineage import find_checkpoint, is_address
from factory.score.base import Scorable, Setup
from factory.score.calls.kind import Benchmark

SHOWN = 20
"""Items that a person is shown; --json writes all."""


def score_through(
    setup: Setup,
    benchmark: Scorable,
    checkpoint: str,
    url: str,
    *,
    allow_public: bool,
    again: bool,
    as_json: bool,
) -> None:
    """Print the score here, through the server, and what differs.

    Raises GateError where the difference is beyond the server's noise.
    """
    if not isinstance(benchmark, Benchmark):
        raise InputError(
            "what goes through a server and back are calls",
            where=f"eval/{benchmark.name}.toml",
            remedy="a benchmark of the kind calls, such as home or bfcl",
        )
    if not is_address(url) or is_address(checkpoint):
        raise InputError(
            "--through is a server's address, and --checkpoint what it serves",
            where=url,
            remedy="factory score home --checkpoint r2 --through http://127.0.0.1:8000/v1#r2",
        )
    with setup.ledger.read() as past:
        here, there = (
            find_checkpoint(setup.workspace, setup.settings, past, each, setup.notify)
            for each in (checkpoint, url)
        )
    proving = prove(setup, benchmark, here, there, allow_public=allow_public, again=again)
    proof = asyncio.run(proving)
    if as_json:
        write_json(_to_record(proof))
    else:
        _print(benchmark, proof)
    if not proof.holds:
        raise GateError(
            f"through the server the score is {proof.change.value:+.1f} points off, more than "
            f"its noise of {proof.floor:.1f}",
            where=url,
            remedy="look at the items: another template, parser or precision gives others; "
            "`factory serve` and `factory export model` have those of the training",
        )


def _print(benchmark: Benchmark, proof: Proof) -> None:
    num_items = len(proof.here.items)
    out(f"[bold]{escape(benchmark.name)}[/]  {num_items} items, here and through the server")
    rows = [
        (each.system, f"{benchmark.summary(each.system, each.items).value:.2f}")
        for each in (proof.here, proof.there)
    ]
    print_table(("asked", "score"), rows)
    change = proof.change
    out(
        f"difference     {change.value:+.2f} points, 95 % interval {change.low:+.1f} to "
        f"{change.high:+.1f}; noise of the server {proof.floor:.2f}"
    )
    out(
        f"items          {len(proof.flips)} judged otherwise, {proof.reworded} judged alike with "
        "other calls or words"
    )
    if proof.flips:
        cells = [
            (
                flip.here.item,
                flip.here.reason or "right",
                flip.there.reason or "right",
                "" if flip.steady else "otherwise once more",
                shorten(flip.there.answer, 60),
            )
            for flip in proof.flips[:SHOWN]
        ]
        print_table(("item", "here", "there", "asked again", "answer there"), cells)
    if len(proof.flips) > SHOWN:
        out(f"… and {len(proof.flips) - SHOWN} more: --json writes all")


def _to_record(proof: Proof) -> dict[str, object]:
    return {
        "here": proof.here.system,
        "there": proof.there.system,
        "items": len(proof.here.items),
        "change": proof.change._asdict(),
        "noise": proof.floor,
        "holds": proof.holds,
        "reworded": proof.reworded,
        "differ": [
            {
                "item": flip.here.item,
                "here": {"reason": flip.here.reason, "answer": flip.here.answer},
                "there": {"reason": flip.there.reason, "answer": flip.there.answer},
                "steady": flip.steady,
            }
            for flip in proof.flips
        ],
    }
