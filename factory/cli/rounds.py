"""`factory round`: make a round, show what it would do, end an open one."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from factory.cli.card import print_card
from factory.cli.chosen import (
    describe_best,
    find_best,
    load_settings_with,
    open_recipe,
    split_overrides,
)
from factory.cli.data import note_masked, report_bad_lines
from factory.cli.monitor import PlainMonitor, make_monitor
from factory.cli.opening import open_ledger, open_workspace
from factory.cli.options import AirGap, DryRun, Mask, Model, Overrides, Recipe, Threads
from factory.cli.terminal import err, escape, note, out, print_table
from factory.domain.failures import FactoryError, InputError
from factory.engines.trainable import check_planned
from factory.ledger import history
from factory.ledger.database import Ledger, Source
from factory.ledger.history import open_round
from factory.ledger.lineage import base_checkpoint, next_checkpoint
from factory.ledger.lock import WorkspaceLock
from factory.lessons.logs import BadLines, Pool, read_pool
from factory.report.page import write_reports
from factory.round.calibration import calibration_set
from factory.round.factory import load_factory
from factory.round.form import settle_form
from factory.round.opponents import doubt_of_gate
from factory.round.round import run_round
from factory.round.start import abandon
from factory.train.curriculum import unlearnt_tools
from factory.train.memory import check_training, memory_of, num_processes
from factory.workspace import airgap
from factory.workspace.folder import Workspace
from factory.workspace.machine import device_memory
from factory.workspace.recipe import Resolved, load_stored_recipe
from factory.workspace.settings import SELF, Settings, load_settings


def make_round(
    num_queries: Annotated[
        int, typer.Option("--n", help="Queries to draw; 0: the recipe's.", min=0, max=10**9)
    ] = 0,
    accept: Annotated[
        int, typer.Option(help="Draw until so many samples are accepted.", min=0, max=10**9)
    ] = 0,
    budget: Annotated[
        int, typer.Option(help="Queries to draw for --accept at most; 0: four each.", min=0)
    ] = 0,
    queries: Annotated[
        list[Path] | None, typer.Option(help="Files with requests; self: the model writes them.")
    ] = None,
    field: Annotated[str, typer.Option(help="Key of the request in the files.")] = "",
    mask: Mask = False,
    recipe: Recipe = "",
    model: Model = "",
    overrides: Overrides = None,
    threads: Threads = 0,
    rounds: Annotated[int, typer.Option(help="Rounds in a row, the open one included.", min=1)] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Only continue an open round.")] = False,
    abandon: Annotated[
        bool, typer.Option("--abandon", help="End the open round as it is.")
    ] = False,
    dry_run: DryRun = False,
    air_gap: AirGap = False,
) -> None:
    """Run one round: sample, vote, judge, train, score, gate. Continues an open one.

    The next round starts from the latest promoted checkpoint; other commands take the best so far.

    factory round --n 64

    factory round --n 2000 --rounds 3

    factory round --accept 5000 --budget 15000

    factory round --n 200 --queries requests.jsonl --set calls.n=7
    """
    workspace = open_workspace()
    if air_gap:
        airgap.enter()
    engine, values = split_overrides(overrides)
    settings = load_settings_with(workspace, model, threads, engine)
    wanted = [f"{key}={n}" for key, n in (("accept", accept), ("budget", budget)) if n]
    resolved = open_recipe(workspace, settings, recipe, [*values, *wanted])
    if num_queries and resolved.recipe.accept:
        raise InputError(
            "--n draws so many requests, --accept as many as it takes",
            remedy="give one of them; --budget bounds --accept, --set accept=0 ends a recipe's",
        )
    if abandon:
        _abandon(workspace, settings, resolved)
        return
    files, writes = _find_requests(workspace, settings, queries)
    pool = _NOTHING if writes else None
    with open_ledger().read() as past:
        drawn, more = history.drawn_ids(past), _drawn_by_open_round(past)
    if files and (more or not resume):
        most = more + rounds * (num_queries or resolved.recipe.most_drawn)
        pool = read_pool(files, field, wanted=most, drawn=drawn, mask=mask)
        _report_pool(pool, mask)
    if dry_run:
        _print_plan(workspace, settings, resolved, num_queries, pool, writes)
        return
    outcomes = [
        _run(
            workspace,
            settings,
            resolved,
            pool,
            num_queries,
            resume and not number,
            writes=writes,
            keep_model=bool(model),
        )
        for number in range(rounds)
    ]
    if rounds > 1:
        with open_ledger().read() as past:
            out(f"\n[bold]best[/]  {describe_best(find_best(past))}")
    if (pool is not None and pool.bad) or not any(outcomes):
        raise typer.Exit(1)


_NOTHING = Pool(queries=(), size=0, files=0, bad=BadLines(), masked=Counter(), masked_rows=0)
"""Where only the model writes requests."""


def _find_requests(
    workspace: Workspace, settings: Settings, given: list[Path] | None
) -> tuple[list[Path], bool]:
    """The files with requests, and whether the model writes some where they give too few."""
    named = given or [workspace.root / name for name in settings.queries if name != SELF]
    writes = Path(SELF) in given if given else SELF in settings.queries
    return [file for file in named if file != Path(SELF)], writes


def _drawn_by_open_round(past: Source) -> int:
    """Queries that the open round may still draw to accept what it wants."""
    this = open_round(past)
    if this is None or "sample" in this.stages_done:
        return 0
    recipe = load_stored_recipe(this.recipe_name, this.recipe_json).recipe
    return recipe.most_drawn if recipe.accept else 0


def _report_pool(pool: Pool, mask: bool) -> None:
    """What could not be read, what comes from logs, and what was masked."""
    report_bad_lines(tuple(pool.bad))
    if pool.bad.total > len(pool.bad):
        note(f"{pool.bad.total} lines are bad in all")
    tools, calls = pool.num_logged
    if tools:
        note(
            f"{tools} of the requests to draw come with tools of their log and {calls} with calls: "
            "candidates, not labels"
        )
    if mask:
        note_masked(pool.masked, pool.masked_rows, pool.size, "requests")


def _run(
    workspace: Workspace,
    settings: Settings,
    resolved: Resolved,
    pool: Pool | None,
    num_queries: int,
    resume: bool,
    *,
    writes: bool,
    keep_model: bool,
) -> bool:
    with WorkspaceLock(workspace.state), make_monitor() as monitor:
        factory = load_factory(
            workspace,
            settings,
            resolved,
            monitor,
            pool.queries if pool is not None else None,
            pool_size=pool.size if pool is not None else 0,
            writes=writes,
            keep_model=keep_model,
        )
        factory.ledger.fold()
        if resume and open_round(factory.ledger) is None:
            raise InputError("no round is open", remedy="factory round --n 64 starts one")
        result = asyncio.run(run_round(factory, num_queries or None))
    show_result(workspace, factory.ledger, result.number)
    return result.promoted


def show_result(workspace: Workspace, ledger: Ledger, number: int) -> None:
    """Write the pages of a finished round and print its card."""
    try:
        write_reports(workspace, ledger, number)
    except (FactoryError, OSError) as error:
        # A round is not failed by what befalls its report.
        err(f"[yellow]note:[/] no report: {escape(error)}; `factory report` writes it")
    print_card(ledger, number, workspace)
    if airgap.mode():
        tried = airgap.attempts()
        out(f"[bold]network[/]  {escape(tried)}")
        for line in tried.tried:
            out(f"  {escape(line)}")


def _abandon(workspace: Workspace, settings: Settings, resolved: Resolved) -> None:
    with WorkspaceLock(workspace.state):
        factory = load_factory(workspace, settings, resolved, make_monitor())
        number = abandon(factory)
    given_back = history.count_given_back(factory.ledger, number)
    again = f"; {given_back} requests without an answer may be drawn again" if given_back else ""
    out(f"round {number} is ended; its samples stay in the ledger{again}")


def _print_plan(
    workspace: Workspace,
    settings: Settings,
    resolved: Resolved,
    num_queries: int,
    pool: Pool | None,
    writes: bool,
) -> None:
    """What a round would do, every knob with its origin; loads the content, starts nothing."""
    factory = load_factory(workspace, settings, resolved, PlainMonitor(), writes=writes)
    resolved = factory.resolved
    with factory.ledger.read() as past:
        if (this := open_round(past)) is not None:
            parent = this.checkpoint
        else:
            base = base_checkpoint(workspace, factory.settings, past)
            parent = next_checkpoint(workspace, past, base, factory.monitor.note)
        unlearnt = unlearnt_tools(past, parent.id, resolved.recipe)
    factory = asyncio.run(settle_form(factory, workspace.root / parent.path))
    resolved = factory.resolved
    check_planned(workspace.root / parent.path, factory.prompts, settings.engine)
    wanted = resolved.recipe.accept
    origin = resolved.origins.get("accept" if wanted else "num_queries", "default")
    number = str(num_queries or resolved.recipe.num_queries)
    if wanted and not num_queries:
        number = f"until {wanted} are accepted, {resolved.recipe.most_drawn} at most"
    out(f"workspace  {escape(workspace.root)}")
    out(f"round      {f'{this.number}, continued' if this else 'a new one'}")
    is_named = this is not None or settings.model == load_settings(workspace).model
    kept = "" if is_named else " (flag; a new round writes it into factory.toml)"
    out(f"model      {escape(parent.id)}  {escape(parent.path)}{kept}")
    out(
        f"queries    {number} ({'flag' if num_queries else escape(origin)}) from "
        + (f"{pool.size} in {pool.files} files" if pool is not None else "the home world")
        + (", the others written by the model" if writes else "")
    )
    if unlearnt:
        out(
            f"documents  {len(unlearnt)} of imported tools to learn by heart, "
            f"{resolved.recipe.train.documents} a round at most (train.documents)"
        )
    engine = factory.settings.engine
    backend = f"{engine.backend} of {engine.inner}" if engine.backend == "ray" else engine.backend
    out(f"engine     {backend}, {engine.threads} threads")
    check_training(resolved.recipe)
    device, memory = device_memory()
    takes = memory_of(
        resolved.recipe,
        Path(parent.path),
        gpu=device == "GPU",
        dtype=settings.engine.dtype,
    )
    processes = num_processes(resolved.recipe.train)
    on = f" on each of {processes} GPUs" if processes > 1 and device == "GPU" else ""
    has = f", of {memory / 2**30:.1f} of the {device}" if memory else ""
    out(f"memory     {takes}{on}{has}")
    names = [f"{each.name} ({len(each.items)})" for each in factory.benchmarks.values()]
    out(f"benchmarks {', '.join(names)}")
    if (dev := calibration_set(factory)) is not None:
        wanted_share = f"{resolved.recipe.vote.precision:.0%} right labels"
        out(f"vote       its minimum is set on {dev.name} ({len(dev.items)}) for {wanted_share}")
    if doubt := doubt_of_gate(settings, resolved.recipe):
        out(f"gate       {escape(doubt)}")
    out()
    print_table(("knob", "value", "from"), list(resolved.lines()))
