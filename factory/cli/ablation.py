"""`factory ablate`: the variants of a plan from one parent, scored after each step."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from factory.cli.chosen import load_settings_with, parse_overrides
from factory.cli.comparing import print_tables, refuse_unknown, tell_end
from factory.cli.monitor import make_monitor
from factory.cli.opening import open_workspace
from factory.cli.options import Discard, Threads
from factory.cli.sql import Json
from factory.cli.terminal import err, escape, out, write_json
from factory.domain.canon import to_json
from factory.domain.failures import InputError
from factory.lab.ablation.plan import (
    PARENT,
    AblationPlan,
    Settled,
    differing,
    load_plan,
    settle,
)
from factory.lab.ablation.standings import (
    READ_AS,
    Ablated,
    describe_row,
    make_ablation_tables,
)
from factory.ledger.lock import WorkspaceLock
from factory.round.ablation import Ablation, ablate, check_parents, prepare
from factory.score.published import PublishedTable, load_published
from factory.workspace.folder import Workspace


def run_ablation(
    plan: Annotated[str, typer.Argument(help="A plan's file, or its name in plans/.")],
    to: Annotated[Path, typer.Option("--out", help="Where trials are kept; they are not rerun.")],
    model: Annotated[
        str, typer.Option(help="Model folder of the parent; default: the plan's.")
    ] = "",
    only: Annotated[str, typer.Option(help="Variants, separated by semicolons; all.")] = "",
    seeds: Annotated[int, typer.Option(help="Trials of each variant; 0: the plan's.", min=0)] = 0,
    against: Annotated[
        str, typer.Option(help="The variant that changes are from; default: the plan's.")
    ] = "",
    minutes: Annotated[
        float, typer.Option(help="Start no step after so many; 0 is no bound.", min=0)
    ] = 0,
    discard: Discard = False,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="A recipe value for every variant.")
    ] = None,
    threads: Threads = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the variants, run nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """What does each part do? Run a plan's variants from one parent, scored after each step.

    Each variant and seed has a workspace of its own below --out. A killed command goes on where it
    was. Intervals are over items, changes paired by item.

    factory ablate learning --out /tmp/learning

    factory ablate mine.toml --out /tmp/mine --seeds 1 --only "base;no vote" --against base
    """
    workspace = open_workspace()
    settings = load_settings_with(workspace, "", threads)
    loaded = load_plan(workspace, plan)
    values = parse_overrides(overrides)
    settled = settle(loaded, workspace, settings, model=model, values=values)
    variants = _choose(settled, only)
    refuse_unknown(loaded.against, [PARENT, *(each.name for each in settled)])
    known = [PARENT, *(each.name for each in variants)]
    refuse_unknown(against, known)
    name = against or (loaded.against if loaded.against in known else PARENT)
    published = _published(workspace, loaded)
    monitor = make_monitor()
    seconds = 60 * minutes if minutes else None
    with WorkspaceLock(to), monitor:
        ablation = prepare(
            loaded, variants, workspace, settings, to, monitor,
            seeds=seeds, seconds=seconds, discard=discard,
        )  # fmt: skip
        _tell(ablation)
        check_parents(ablation)
        if dry_run:
            return
        ran = asyncio.run(ablate(ablation, monitor, lambda told: err(escape(told))))
    base = next((row for row in ran.rows if row.settled and row.name == name), None)
    _show(ran.rows, ablation, published, base, as_json)
    if name != PARENT and (base is None or not base.trials):
        err(f"no changes are shown against {escape(name)}: no trial of it is finished")
    tell_end(ran.unfinished, ran.failed)


def _choose(variants: Sequence[Settled], only: str) -> list[Settled]:
    """Those that `--only` names."""
    names = [name.strip() for name in only.split(";")] if only else []
    known = {each.name: each for each in variants}
    for name in names:
        if name not in known:
            raise InputError(f"no variant {name!r}", remedy=f"the variants are {'; '.join(known)}")
    return [known[name] for name in names] or list(variants)


def _published(workspace: Workspace, plan: AblationPlan) -> list[PublishedTable]:
    """The published tables that the plan names."""
    tables = {table.title: table for table in load_published(workspace)}
    for title in plan.published:
        if title not in tables:
            raise InputError(
                f"no published table is called {title!r}",
                where="eval/published/",
                remedy=f"the titles are {'; '.join(tables)}",
            )
    return [tables[title] for title in plan.published]


def _tell(ablation: Ablation) -> None:
    """The plan as it is settled: what each variant does, and in which keys they differ."""
    variants = ablation.variants
    err(f"[bold]{escape(ablation.plan.title)}[/]")
    for settled, own in zip(variants, differing(variants), strict=True):
        told = [f"{key}={to_json(v)}" for key, v in own.items() if key != "stage"]
        if "stage" in own:
            told.append(_name_stages(own["stage"]))
        if off := sum(setting == "off" for setting in settled.rules.values()):
            told.append(f"{off} rules off")
        err(f"  {escape(settled.name)}: {escape('; '.join((settled.does, *told)))}")
    scored = ", ".join(f"{each.name} ({len(each.items)})" for each in ablation.benchmarks.values())
    err(
        f"from {escape(', '.join(each.model for each in ablation.parents))}; scored: "
        f"{escape(scored)}; {len({trial.digest for trial in ablation.trials})} trials"
    )


def _name_stages(stages: Sequence[Mapping[str, Any]]) -> str:
    """`stages calling, all`: those that are not left out."""
    kept = [each for each in stages if each.get("epochs") != 0]
    names = (each["name"] or "+".join(each["kinds"]) for each in kept)
    return f"stages {', '.join(names)}" if kept else "no stages"


def _show(
    rows: Sequence[Ablated],
    ablation: Ablation,
    published: Sequence[PublishedTable],
    against: Ablated | None,
    as_json: bool,
) -> None:
    if as_json:
        for row in rows:
            if row.trials:
                write_json(describe_row(row, ablation.benchmarks, against))
        return
    tables = make_ablation_tables(rows, ablation.benchmarks, published, against)
    if not tables:
        err("nothing is finished, so there is no table")
        return
    out(f"[bold]{escape(ablation.plan.title)}[/]")
    print_tables(tables, READ_AS)
