"""Finding tools by their codes: retrieve."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from factory.cli.chosen import open_checkpoint
from factory.cli.data import report_bad_lines
from factory.cli.opening import open_workspace
from factory.cli.options import Threads
from factory.cli.terminal import err, escape, out, print_table, write_json
from factory.domain.failures import InputError
from factory.domain.plaintext import shorten
from factory.domain.records import Query
from factory.engines.retrieve import Retrieved, Retriever
from factory.engines.serving import engine_settings
from factory.tools.sources import read_queries
from factory.workspace.prompts import Prompts
from factory.workspace.settings import EngineSection, load_settings

MAX_SHOWN = 100
"""Queries whose tools are shown to a person; --json writes all."""


def retrieve(
    query: Annotated[str, typer.Argument(help="A request in a person's words.")] = "",
    k: Annotated[int, typer.Option("-k", help="Tools to find.", min=1)] = 5,
    queries: Annotated[Path | None, typer.Option(help="A file with requests.")] = None,
    field: Annotated[str, typer.Option(help="Key of the request in the file.")] = "",
    checkpoint: Annotated[
        str, typer.Option(help="Id (r2) or model folder with codes; default: the best so far.")
    ] = "",
    beams: Annotated[int, typer.Option(help="Branches kept at each step; 0: k.", min=0)] = 0,
    exact: Annotated[
        bool, typer.Option("--exact", help="Widen the beam until no better tool can be missed.")
    ] = False,
    threads: Threads = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a query.")] = False,
) -> None:
    """Find the tools a checkpoint names for a request, most likely first, with their codes.

    factory retrieve "Book a table for four on Friday" -k 5

    factory retrieve --queries requests.jsonl --json --exact
    """
    workspace = open_workspace()
    settings = load_settings(workspace)
    num_bad = 0
    if bool(query) == (queries is not None):
        raise InputError("give one request, or --queries FILE", remedy="factory retrieve --help")
    asked = [Query(id="", text=query, source="")]
    if queries is not None:
        imported = read_queries(queries, field)
        asked, num_bad = list(imported.items), report_bad_lines(imported.bad)
    folder, engine = open_checkpoint(checkpoint), engine_settings(settings, threads)
    prompts, log = Prompts.load(workspace), workspace.state / "logs" / "retrieve.log"
    texts = [prompts.render("codes/retrieve", query=each.text) for each in asked]
    found = asyncio.run(_retrieve(folder, engine, log, texts, k, beams or k, exact))
    for each, retrieved in zip(asked, found, strict=True):
        if as_json:
            write_json(_record(each, retrieved))
    if not as_json:
        _show(asked, found)
    if num_bad or any(retrieved.reason for retrieved in found):
        raise typer.Exit(1)


async def _retrieve(
    folder: Path,
    engine: EngineSection,
    log: Path,
    texts: list[str],
    k: int,
    beams: int,
    exact: bool,
) -> list[Retrieved]:
    def tell(done: int) -> None:
        if len(texts) > 1:
            err(f"[dim]{done} of {len(texts)} queries[/]")

    async with await Retriever.open(folder, settings=engine, log=log) as retriever:
        return await retriever.retrieve(texts, k=k, beams=beams, exact=exact, progress=tell)


def _record(query: Query, retrieved: Retrieved) -> dict[str, object]:
    return {
        "query_id": query.id or None,
        "query": query.text,
        "exact": retrieved.exact,
        "reason": retrieved.reason or None,
        "tools": [
            {
                "tool_id": hit.tool.id,
                "name": hit.tool.name,
                "code": hit.code,
                "score": round(hit.score, 6),
            }
            for hit in retrieved.hits
        ],
    }


def _show(queries: list[Query], found: list[Retrieved]) -> None:
    for query, retrieved in list(zip(queries, found, strict=True))[:MAX_SHOWN]:
        if len(queries) > 1:
            out(f"[bold]{escape(shorten(query.text, 100))}[/]")
        if retrieved.reason:
            out(f"  nothing searched: {escape(retrieved.reason)}")
            continue
        rows = [(hit.tool.name, hit.score, hit.code, hit.tool.id) for hit in retrieved.hits]
        print_table(("tool", "score", "code", "tool_id"), rows)
    if len(queries) > MAX_SHOWN:
        err(f"… and {len(queries) - MAX_SHOWN} more: --json writes all")
    num_open = sum(not retrieved.exact and not retrieved.reason for retrieved in found)
    if num_open:
        err(
            f"[dim]in {num_open} of {len(found)} answers the beam may have missed a tool; "
            "--exact rules that out[/]"
        )
