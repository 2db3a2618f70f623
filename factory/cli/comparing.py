"""`factory codes compare`: every coder trained and scored under one budget."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from factory.cli.chosen import open_recipe
from factory.cli.opening import open_workspace
from factory.cli.sql import Json
from factory.cli.terminal import err, escape, out, print_table, write_json
from factory.codes.saving import load_codebook
from factory.domain.failures import InputError
from factory.lab.trials.compare import Plan, standard_variants
from factory.lab.trials.compare import compare as run_compare
from factory.lab.trials.standings import READ_AS, load_ranking, make_tables, rank
from factory.score.toolbench.data import load_toolbench
from factory.score.toolbench.ranking import BM25, EmbSim, Ranker
from factory.train.curriculum import need_codes, train_setup
from factory.workspace.machine import free_threads
from factory.workspace.settings import load_settings


def compare(
    folder: Annotated[Path, typer.Argument(help="Labelled requests and documents, as ToolBench.")],
    to: Annotated[Path, typer.Option("--out", help="Where trials are kept; they are not rerun.")],
    model: Annotated[
        Path | None, typer.Option(help="Model folder without codes; default: factory.toml's.")
    ] = None,
    only: Annotated[str, typer.Option(help="Variants, separated by semicolons; all.")] = "",
    seeds: Annotated[int, typer.Option(help="Trials of each variant.", min=1)] = 3,
    text: Annotated[
        Path | None, typer.Option(help="Plain text whose perplexity is measured.")
    ] = None,
    described: Annotated[
        bool, typer.Option("--described", help="Learn documents' own words as requests too.")
    ] = False,
    recipe: Annotated[str, typer.Option(help="Recipe; default: factory.toml's.")] = "",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="A value, e.g. train.epochs=3")
    ] = None,
    as_json: Json = False,
) -> None:
    """Which codes suit these tools? Train and score every coder under one budget.

    Each learns the documents and two thirds of the requests, and is asked the rest, beside BM25 and
    the model's own embeddings. Shown are means and spreads over seeds; --json has the trials too.

    factory codes compare data/toolbench --model /models/Qwen3-0.6B --out /tmp/compare
    """
    workspace = open_workspace()
    settings = load_settings(workspace)
    resolved = open_recipe(workspace, settings, recipe, overrides)
    variants = standard_variants(need_codes(resolved.recipe))
    base = model or workspace.model_folder(settings.model)
    _refuse_codes(base)
    chosen = [name.strip() for name in only.split(";")] if only else list(variants)
    for name in chosen:
        if name not in variants:
            known = "; ".join(variants)
            raise InputError(f"no variant {name!r}", remedy=f"the variants are {known}")
    threads = settings.engine.threads or free_threads()
    plan = Plan(
        model=base,
        bench=load_toolbench(folder),
        text=_read_text(text) if text else "",
        out=to,
        workspace=workspace.root,
        variants=tuple(variants[name] for name in chosen),
        seeds=tuple(range(seeds)),
        described=described,
        setup=train_setup(resolved.recipe, 0, settings.engine.dtype, version=1),
        threads=threads,
    )
    to.mkdir(parents=True, exist_ok=True)
    baselines: list[Ranker] = [BM25(), EmbSim(folder=base, threads=threads, log=to / "embed.log")]
    trials, found = asyncio.run(run_compare(plan, baselines, lambda text: err(escape(text))))
    standings = rank(trials, found, load_ranking(workspace))
    if as_json:
        for standing in standings:
            write_json(standing.to_json())
        return
    for table in make_tables(standings):
        out(f"\n[bold]{escape(table.title)}[/]")
        print_table(table.columns, table.rows)
    out()
    for line in READ_AS:
        out(f"[dim]{escape(line)}[/]")


def _refuse_codes(folder: Path) -> None:
    if load_codebook(folder) is not None:
        raise InputError(
            "this model has codes already, and each trial gives it others",
            where=str(folder),
            remedy="name a model that no round has trained: --model FOLDER",
        )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot read the text: {error}", where=str(path), remedy="give a file in UTF-8"
        ) from error
