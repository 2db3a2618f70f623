"""Requests for tools, written by a model: codes requests."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from factory.cli.chosen import open_recipe
from factory.cli.coding import known_tools
from factory.cli.data import report_bad_lines
from factory.cli.monitor import make_monitor
from factory.cli.opening import open_ledger, open_workspace
from factory.cli.options import AllowPublic, Documents
from factory.cli.terminal import err, escape, note, out, print_table
from factory.codes.saving import load_codebook
from factory.domain.canon import derive_seed
from factory.domain.failures import InputError
from factory.domain.monitor import Monitor
from factory.domain.records import Checkpoint, Tool
from factory.engines.base import Engine
from factory.engines.serving import serve
from factory.judge.rulebook import Rulebook
from factory.lab.requests import (
    EXAMPLES,
    PROMPT,
    Find,
    Journal,
    RequestPlan,
    State,
    by_codes,
    by_embeddings,
    by_words,
    make_judge,
    missing,
    output_rows,
    write_requests,
)
from factory.ledger.lineage import find_checkpoint, is_address
from factory.score.loading import load_benchmarks, load_held_out
from factory.tools.sources import read_tools
from factory.workspace.folder import Workspace, file_sha
from factory.workspace.machine import free_threads
from factory.workspace.prompts import Prompts
from factory.workspace.settings import Settings, load_settings


def requests(
    files: Documents = None,
    to: Annotated[
        Path, typer.Option("--out", help="Requests that are kept; the others go beside.")
    ] = Path("requests.jsonl"),
    per_tool: Annotated[int, typer.Option(help="Requests wanted of each tool.", min=1)] = 10,
    tries: Annotated[int, typer.Option(help="Times to ask for what is missing.", min=1)] = 2,
    limit: Annotated[
        int, typer.Option(help="Tools to ask for, drawn by the seed; 0: all.", min=0)
    ] = 0,
    by: Annotated[
        str, typer.Option(help="What finds tools: bm25, codes, or an embedder's folder.")
    ] = "bm25",
    k: Annotated[int, typer.Option("-k", help="The tool is among so many found.", min=1)] = 10,
    model: Annotated[
        str, typer.Option(help="Checkpoint id, folder or address#NAME; default: the best so far.")
    ] = "",
    minutes: Annotated[
        float, typer.Option(help="Stop then; run it again to go on. 0: never.", min=0)
    ] = 0,
    temperature: Annotated[float, typer.Option(help="Of the answers.", min=0, max=2)] = 0.8,
    seed: Annotated[int, typer.Option(help="Of the answers and of --limit.")] = 0,
    allow_public: AllowPublic = False,
) -> None:
    """Have a model write requests for tools, from their documents.

    A request is kept if the tool is found back by it among all tools, and if it repeats neither
    another one nor a benchmark. --out gets lines of {query, tools}, as `factory codes compare`
    learns them; every other answer goes beside, with its reason. A killed run goes on where it was.

    factory codes requests my_apis.jsonl --per-tool 10 --out requests.jsonl
    """
    deadline = time.monotonic() + 60 * minutes if minutes else None
    workspace = open_workspace()
    settings = load_settings(workspace)
    recipe = open_recipe(workspace, settings).recipe
    prompts, rulebook = Prompts.load(workspace), Rulebook.load(workspace, settings.rules)
    benchmarks = {**load_held_out(workspace), **load_benchmarks(workspace, recipe)}
    with open_ledger().read() as past:
        writer = find_checkpoint(workspace, settings, past, model, note)
        num_bad, tools = _read(files or [])
        if not files:
            folder = None if is_address(writer.path) else Path(writer.path)
            tools = known_tools(past, folder)
    if not tools:
        raise InputError(
            "there are no tools to ask for",
            where=", ".join(map(str, files or [])),
            remedy="name a file: factory codes requests my_apis.jsonl",
        )
    chosen = sorted(tools, key=lambda tool: derive_seed(seed, "asked for", tool.id))[
        : limit or None
    ]
    plan = RequestPlan(
        tools=chosen, per_tool=per_tool, tries=tries, temperature=temperature, seed=seed
    )
    known_by = {
        "tools": sorted(tool.id for tool in tools),
        "asked": [tool.id for tool in chosen],
        "plan": [per_tool, tries, temperature, seed, by, k],
        "prompt": [prompts.sha(PROMPT), file_sha(workspace.find(EXAMPLES))],
        "rules": rulebook.sha,
        "benchmarks": {name: len(each.items) for name, each in benchmarks.items()},
        "model": writer.fingerprint,
    }
    finder = _finder(by, k, tools, workspace, settings, writer, prompts)
    journal = Journal(to.with_name(f"{to.name}.journal"), known_by)
    state = journal.load()
    if state.rows:
        err(f"going on after {len(state.rows)} answers")

    async def run(monitor: Monitor) -> bool:
        """Whether all was asked before the deadline."""
        monitor.stage("start engine")
        async with serve(
            workspace, settings, writer, notify=monitor.note, allow_public=allow_public
        ) as engine:
            monitor.stage("write requests", per_tool * len(chosen))
            try:
                async with asyncio.timeout_at(_at(deadline)):
                    await write_requests(
                        plan,
                        engine=engine,
                        prompts=prompts,
                        find=finder(engine),
                        judge=make_judge(rulebook, list(benchmarks.values())),
                        journal=journal,
                        state=state,
                        progress=lambda done, total: monitor.progress(done, "kept", total),
                    )
            except TimeoutError:
                return False
        return True

    started, done = time.monotonic(), True
    try:
        if missing(plan, state):
            with make_monitor() as monitor:
                done = asyncio.run(run(monitor))
    finally:
        rejected = _write(to, state, tools)
    _tell(state, chosen, to, rejected, time.monotonic() - started)
    if not done:
        note(f"{minutes:g} minutes are over: run the command again to go on")
    if num_bad:
        raise typer.Exit(1)


def _read(files: Sequence[Path]) -> tuple[int, list[Tool]]:
    """How many lines cannot be read, and the tools, each once; no rule judges them."""
    imported = [read_tools(file) for file in files]
    num_bad = sum(report_bad_lines(each.bad) for each in imported)
    return num_bad, list({tool.id: tool for each in imported for tool in each.items}.values())


def _at(deadline: float | None) -> float | None:
    """The deadline on the clock of the running loop."""
    if deadline is None:
        return None
    return asyncio.get_running_loop().time() + deadline - time.monotonic()


def _finder(
    by: str,
    k: int,
    tools: Sequence[Tool],
    workspace: Workspace,
    settings: Settings,
    writer: Checkpoint,
    prompts: Prompts,
) -> Callable[[Engine], Find]:
    """What finds tools, once the writer's engine is there. Raises InputError, MissingError."""
    if by == "bm25":
        find = by_words(tools, k)
    elif by == "codes":
        codebook = None if is_address(writer.path) else load_codebook(Path(writer.path))
        if codebook is None:
            raise InputError(
                "this model has no codes to find tools by",
                where=writer.path,
                remedy="--model FOLDER of a checkpoint with codes, or --by bm25",
            )
        return by_codes(tools, k, codebook=codebook, prompts=prompts)
    elif (folder := Path(by).expanduser().resolve()).is_dir():
        find = by_embeddings(
            tools,
            k,
            folder=folder,
            threads=settings.engine.threads or free_threads(),
            log=workspace.state / "logs" / "requests.log",
        )
    else:
        raise InputError(f"nothing finds tools by {by!r}", remedy="--by bm25, codes or a folder")
    return lambda _: find


def _write(to: Path, state: State, tools: Sequence[Tool]) -> Path:
    """Kept requests, and beside them the others; the path of these."""
    rejected = to.with_name(f"{to.stem}-rejected{to.suffix}")
    rows = list(output_rows(state, tools))
    for path, wanted in ((to, True), (rejected, False)):
        lines = [
            json.dumps(line, ensure_ascii=False) + "\n" for kept, line in rows if kept is wanted
        ]
        half = path.with_name(f"{path.name}.tmp")
        half.write_text("".join(lines), encoding="utf-8")
        half.replace(path)
    return rejected


def _tell(state: State, chosen: Sequence[Tool], to: Path, rejected: Path, seconds: float) -> None:
    total = len(state.rows)
    reasons = Counter(row.reason or "kept" for row in state.rows)
    rows = [(reason, count, f"{count / total:.1%}") for reason, count in reasons.most_common()]
    print_table(("outcome", "answers", "share"), rows)
    kept = state.kept.total()
    with_any = sum(state.kept[tool.id] > 0 for tool in chosen)
    out(
        f"{kept} requests for {with_any} of {len(chosen)} tools, {kept / len(chosen):.1f} a tool; "
        f"{seconds:.0f} s"
    )
    out(f"kept      {escape(to)}")
    out(f"rejected  {escape(rejected)}")
