"""`factory serve`: a checkpoint behind OpenAI's API, by vLLM's own server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from factory.cli.chosen import load_settings_with
from factory.cli.opening import open_ledger, open_workspace
from factory.cli.options import Threads
from factory.cli.terminal import escape, note, out
from factory.codes.saving import load_codebook
from factory.deploy.running import ServerPlan, find_port, need_vllm, noted, run_server
from factory.deploy.served import Served
from factory.deploy.transcripts import TranscriptFile
from factory.domain.failures import BusyError, InputError
from factory.domain.records import Checkpoint
from factory.engines.http import KEY_VARIABLE, check_key
from factory.engines.kernels import check_heads
from factory.engines.scratch import Scratch
from factory.engines.serving import engine_settings
from factory.ledger import history
from factory.ledger.lineage import find_checkpoint, is_address
from factory.workspace.folder import Workspace
from factory.workspace.models import check_model_folder
from factory.workspace.settings import Settings

BEST = "best"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Hosts that nobody else reaches."""


def serve(
    checkpoint: Annotated[str, typer.Option(help="best, an id (r2) or a model folder.")] = BEST,
    host: Annotated[str, typer.Option(help="Where to listen; loopback unless told.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: one that is free.", min=0, max=65535)] = 8000,
    api_key: Annotated[
        str, typer.Option(help="Key that clients must send.", envvar=[KEY_VARIABLE, "VLLM_API_KEY"])
    ] = "",
    no_codes: Annotated[
        bool, typer.Option("--no-codes", help="Answer requests without tools in words.")
    ] = False,
    record: Annotated[
        Path | None, typer.Option(help="Append transcripts to this .jsonl file.")
    ] = None,
    threads: Threads = 0,
) -> None:
    """Serve a checkpoint behind OpenAI's API, by vLLM's own server, until Ctrl-C.

    With tools in a request, calls of these come back; without, the model picks one of its catalogue
    by code. /health and /metrics are vLLM's.

    factory serve

    factory serve --checkpoint r2 --host 0.0.0.0 --api-key "$KEY" --record served.jsonl
    """
    workspace = open_workspace()
    settings = load_settings_with(workspace, "", threads)
    check_key(api_key, "--api-key")
    need_vllm()
    found = _find(workspace, settings, checkpoint)
    folder = Path(found.path).resolve()
    codebook = None if no_codes else load_codebook(folder)
    port = find_port(host, port)
    if record is not None:
        record = _check_record(record.expanduser().resolve())
    if host not in LOOPBACK and not api_key:
        note(f"{host} is open to others, and no key is asked for: --api-key KEY")
    scratch = Scratch()
    plan = ServerPlan(
        served=Served(
            folder=str(folder),
            workspace=str(workspace.root),
            scratch=str(scratch.path),
            record=str(record or ""),
            keyed=bool(api_key),
            by_code=codebook is not None and len(codebook) > 0,
        ),
        names=tuple(dict.fromkeys((found.id, found.id.rpartition("-")[0] or found.id, "factory"))),
        host=host,
        port=port,
        api_key=api_key,
    )
    log = workspace.state / "logs" / f"serve-{port}.log"
    out(f"[bold]{escape(found.id)}[/]  {escape(folder)}")
    out(f"  log     {escape(log)}")

    def tell(pid: int) -> None:
        count = len(codebook) if plan.served.by_code and codebook is not None else 0
        without = f"one of {count} tools, picked by code" if count else "an answer in words"
        out(f"  ready   {plan.url}  (process {pid}; Ctrl-C ends it)")
        out(f"  models  {escape(', '.join(plan.names))}")
        out("  asked with tools: calls of these; without: " + without)
        if plan.served.record:
            out(f"  record  {escape(plan.served.record)}")

    try:
        with noted(workspace.state, plan, found.id):
            asyncio.run(run_server(plan, engine_settings(settings), log, tell))
    finally:
        scratch.close()


def _check_record(path: Path) -> Path:
    """The file of transcripts, which can be appended to. Raises InputError."""
    if path.suffix != ".jsonl":
        raise InputError("transcripts are JSON lines", where=str(path), remedy="end it in .jsonl")
    try:
        TranscriptFile(path)
    except OSError as error:
        raise InputError(
            f"transcripts cannot be written: {error.strerror or error}",
            where=str(path),
            remedy="name a file that can be: --record served.jsonl",
        ) from error
    return path


def _find(workspace: Workspace, settings: Settings, wanted: str) -> Checkpoint:
    """The checkpoint that is to be served. Raises BusyError for one that is being trained."""
    if is_address(wanted):
        raise InputError("this model is served already", where=wanted)
    with open_ledger().read() as past:
        this = history.open_round(past)
        if this is not None and wanted == f"r{this.number}":
            raise BusyError(
                f"the checkpoint of round {this.number} is being made",
                where=str(workspace.state),
                remedy="serve the best one so far: --checkpoint best; or let the round end first: "
                "`factory status`",
            )
        found = find_checkpoint(workspace, settings, past, "" if wanted == BEST else wanted, note)
    check_model_folder(Path(found.path))
    check_heads(Path(found.path), settings.engine)
    return found
