"""`factory export`: what rounds accepted, as a file for another trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from factory.cli.opening import open_ledger
from factory.cli.terminal import err_some, escape, escape_line, note, out
from factory.report.export import export as write_file

MAX_LEFT_OUT_SHOWN = 5


def export(
    to: Annotated[
        Literal["trl", "dpo", "openai", "sharegpt", "xlam", "parquet"],
        typer.Argument(metavar="FORMAT", help="trl, dpo, openai, sharegpt, xlam or parquet."),
    ],
    path: Annotated[
        Path, typer.Argument(metavar="OUT", help="A .jsonl file; .parquet for trl, dpo, parquet.")
    ],
    round_number: Annotated[int, typer.Option("--round", help="Round; 0 is all.", min=0)] = 0,
    limit: Annotated[int, typer.Option(help="Lines at most; 0 is all.", min=0)] = 0,
    pairs: Annotated[int, typer.Option(help="dpo: pairs of one query at most.", min=1)] = 1,
    made: Annotated[
        bool, typer.Option("--made", help="Also what rounds made of accepted samples; not in dpo.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over an existing file.")] = False,
) -> None:
    """Write accepted samples for TRL, OpenAI, ShareGPT or xLAM, or losing answers for DPO.

    In dpo the winning answer stands against the losing class that a rule rejects, else the largest.
    Call arguments are JSON text, so that Arrow keeps every byte.

    factory export trl accepted.jsonl

    factory export dpo pairs.parquet --round 3
    """
    done = write_file(
        open_ledger(),
        to,
        path,
        round_number=round_number,
        limit=limit,
        pairs=pairs,
        made=made,
        force=force,
    )
    unit = "pair" if to == "dpo" else "sample"
    out(f"{escape(path)}: {done.num_lines} {unit}{'s' * (done.num_lines != 1)}")
    if done.num_made and to != "dpo":
        note(f"{done.num_made} samples that rounds made of accepted ones are not in it: --made")
    causes = [f"[yellow]left out[/] {escape_line(cause)}" for cause in done.left_out]
    err_some(causes, MAX_LEFT_OUT_SHOWN)
    if done.left_out:
        raise typer.Exit(1)
