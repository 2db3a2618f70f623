"""`factory export`: what rounds accepted, for another trainer; a checkpoint, for another server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Literal

import typer

from factory.cli.opening import open_ledger, open_workspace
from factory.cli.terminal import err_some, escape, escape_line, note, out
from factory.codes.saving import load_codebook
from factory.deploy.modelcard import find_licence, read_history, write_card
from factory.deploy.packing import CHATS, CONVERTER, GGUF, Target, convert, pack
from factory.domain.failures import InputError
from factory.ledger.lineage import find_checkpoint, is_address
from factory.report.export import export as write_file
from factory.workspace.models import check_model_folder, is_installed
from factory.workspace.settings import load_settings

MAX_LEFT_OUT_SHOWN = 5


def export(
    to: Annotated[
        Literal["trl", "dpo", "openai", "sharegpt", "xlam", "parquet", "model"],
        typer.Argument(metavar="FORMAT", help="trl, dpo, openai, sharegpt, xlam, parquet; model."),
    ],
    path: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="A .jsonl file, .parquet for trl, dpo, parquet; a folder for model."
        ),
    ],
    round_number: Annotated[int, typer.Option("--round", help="Round; 0 is all.", min=0)] = 0,
    limit: Annotated[int, typer.Option(help="Lines at most; 0 is all.", min=0)] = 0,
    pairs: Annotated[int, typer.Option(help="dpo: pairs of one query at most.", min=1)] = 1,
    made: Annotated[
        bool, typer.Option("--made", help="Also what rounds made of accepted samples; not in dpo.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over an existing file.")] = False,
    target: Annotated[
        Literal["vllm", "transformers", "ollama", "llama.cpp"],
        typer.Option("--for", help="model: what is to serve it."),
    ] = "vllm",
    checkpoint: Annotated[
        str, typer.Option(help="model: id (r2) or folder; default: the best so far.")
    ] = "",
) -> None:
    """Write accepted samples for TRL, OpenAI, ShareGPT or xLAM, or losing answers for DPO; a model.

    In dpo the winning answer stands against the losing class that a rule rejects, else the largest.
    Call arguments are JSON text, so that Arrow keeps every byte.

    factory export trl accepted.jsonl

    factory export dpo pairs.parquet --round 3

    factory export model ~/models/mine --for ollama
    """
    if to == "model":
        _export_model(path.expanduser().resolve(), target, checkpoint)
        return
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


def _export_model(path: Path, target: Target, wanted: str) -> None:
    """A checkpoint as a folder for another server, with its card."""
    workspace = open_workspace()
    settings = load_settings(workspace)
    with open_ledger().read() as past:
        if is_address(wanted):
            raise InputError("weights cannot be had from a server", where=wanted)
        found = find_checkpoint(workspace, settings, past, wanted, note)
        history = read_history(past, found)
    folder = Path(found.path).resolve()
    check_model_folder(folder)
    log = workspace.state / "logs" / "export.log"
    packed = asyncio.run(pack(workspace, folder, path, target=target, log=log))
    codebook = load_codebook(folder)
    base = Path(workspace.root / history.base.path)
    chats = list(zip(CHATS, packed.same, strict=True))
    write_card(
        path,
        checkpoint=found,
        history=history,
        licence=find_licence(base if base.is_dir() else folder),
        packed=packed,
        target=target,
        chats=chats,
        num_tools=0 if codebook is None else len(codebook),
    )
    out(f"[bold]{escape(found.id)}[/]  {escape(path)}")
    for name, same in chats:
        if not same:
            note(f"{name}: its template writes other tokens there than rounds do; see README.md")
    if not packed.parses:
        note("transformers reads no calls out of its answers: nothing tells where one begins")
    if target in ("ollama", "llama.cpp") and is_installed(CONVERTER):
        convert(path, log)
        out(f"  weights  {escape(path / GGUF)}")
    steps = packed.steps if not (path / GGUF).exists() else packed.steps[2:]
    for step in (*steps, packed.command):
        out(f"  {escape(step)}")
