"""`factory codes compare`: every coder trained and scored under one budget."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from factory.cli.chosen import open_recipe
from factory.cli.data import report_bad_lines
from factory.cli.opening import open_workspace
from factory.cli.options import Discard, Overrides, Recipe
from factory.cli.sql import Json
from factory.cli.terminal import err, escape, out, print_table, write_json
from factory.codes.saving import load_codebook
from factory.domain.failures import FactoryError, InputError
from factory.lab.trials.compare import Plan
from factory.lab.trials.compare import compare as run_compare
from factory.lab.trials.division import Divided, divide
from factory.lab.trials.labels import fewer, load_labels
from factory.lab.trials.standings import READ_AS, Standing, load_ranking, make_tables, rank
from factory.lab.trials.tables import TrialTable
from factory.lab.trials.variants import choose_variants, parse_sweeps
from factory.score.toolbench.ranking import BM25, EmbSim
from factory.train.curriculum import need_codes, train_setup
from factory.workspace.machine import free_threads
from factory.workspace.settings import load_settings

Labelled = Annotated[
    list[Path] | None, typer.Option(help="Lines of {query, tools}; default: the folder's own.")
]


def compare(
    source: Annotated[Path, typer.Argument(help="ToolBench's folder, or tool documents.")],
    to: Annotated[Path, typer.Option("--out", help="Where trials are kept; they are not rerun.")],
    train: Labelled = None,
    test: Labelled = None,
    held_out_tools: Annotated[
        float, typer.Option(help="Share of tools in no fit and no training.", min=0, max=0.9)
    ] = 0.0,
    model: Annotated[
        Path | None, typer.Option(help="Model folder without codes; default: factory.toml's.")
    ] = None,
    only: Annotated[str, typer.Option(help="Variants, separated by semicolons; all.")] = "",
    sweep: Annotated[
        list[str] | None, typer.Option(help="Values, e.g. codes.quantized.graph=0,0.1,1")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Trials of each variant.", min=1)] = 3,
    against: Annotated[
        str, typer.Option(help="What changes are from; default: the first variant.")
    ] = "",
    text: Annotated[
        Path | None, typer.Option(help="Plain text whose perplexity is measured.")
    ] = None,
    described: Annotated[
        bool, typer.Option("--described", help="Learn documents' own words as requests too.")
    ] = False,
    limit: Annotated[int, typer.Option(help="Requests asked of each split; 0 is all.", min=0)] = 0,
    learn: Annotated[int, typer.Option(help="Requests learnt at most; 0 is all.", min=0)] = 0,
    minutes: Annotated[
        float, typer.Option(help="Start no trial after so many; 0 is no bound.", min=0)
    ] = 0,
    discard: Discard = False,
    recipe: Recipe = "",
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Which codes suit these tools? Train and score every coder under one budget.

    Each learns the documents and the requests to learn, and is asked the others, beside BM25 and
    embeddings. Tools held out get their codes afterwards. Intervals are over requests; --json has
    the trials too.

    factory codes compare data/toolbench --model /models/Qwen3-0.6B --out /tmp/compare

    factory codes compare apis.jsonl --train train.jsonl --test test.jsonl --out /tmp/compare
    """
    workspace = open_workspace()
    settings = load_settings(workspace)
    resolved = open_recipe(workspace, settings, recipe, overrides)
    need_codes(resolved.recipe)
    names = [name.strip() for name in only.split(";")] if only else []
    variants = choose_variants(resolved.recipe, names, parse_sweeps(sweep or []))
    base = model or workspace.model_folder(settings.model)
    _refuse_codes(base)
    labels = fewer(load_labels(source, train or (), test or ()), limit, learn)
    report_bad_lines(labels.bad)
    labelled = divide(labels, held_out_tools=held_out_tools)
    _tell(labelled, len(labels.bad), (*labels.notes, *labelled.notes))
    threads = settings.engine.threads or free_threads()
    plan = Plan(
        model=base,
        labelled=labelled,
        text=_read_text(text) if text else "",
        out=to,
        workspace=workspace.root,
        variants=tuple(variants),
        seeds=tuple(range(seeds)),
        described=described,
        setup=train_setup(resolved.recipe, 0, settings.engine.dtype, version=1),
        threads=threads,
        seconds=60 * minutes if minutes else None,
        discard=discard,
    )
    to.mkdir(parents=True, exist_ok=True)
    named = {each.codes.embedder for each in variants} - {""}
    folders = [workspace.model_folder(name) for name in sorted(named)] or [base]
    embedders = [EmbSim(folder=each, threads=threads, log=to / "embed.log") for each in folders]
    baselines: list[BM25 | EmbSim] = [BM25(), *embedders]
    refuse_unknown(against, [each.name for each in (*variants, *baselines)])
    outcome = asyncio.run(run_compare(plan, baselines, lambda told: err(escape(told))))
    standings = rank(outcome, load_ranking(workspace))
    first = find_base(standings, against)
    if as_json:
        for standing in standings:
            write_json(standing.to_json(labelled, first))
    else:
        print_tables(make_tables(standings, labelled, first), READ_AS)
    if first is None:
        err(f"no changes are shown: no trial of {escape(against)} is finished")
    tell_end(outcome.unstarted, outcome.failed)


def print_tables(tables: Sequence[TrialTable], read_as: Sequence[str]) -> None:
    """Tables of trials, and what a reader must know."""
    for table in tables:
        out(f"\n[bold]{escape(table.title)}[/]")
        print_table(table.columns, table.rows)
    out()
    for line in read_as:
        out(f"[dim]{escape(line)}[/]")


def tell_end(unfinished: int, failed: Mapping[str, FactoryError]) -> None:
    """What is left to do, and what failed, for which the command exits with 1."""
    if unfinished:
        err(f"{unfinished} trials are not finished: the same command goes on with them")
    for name, error in failed.items():
        err(f"[red]failed[/] {escape(name)}: {escape(error.what)}")
    if failed:
        raise typer.Exit(1)


def find_base(standings: Sequence[Standing], against: str) -> Standing | None:
    """What changes are from: the first one without a name; None where the named has no trial."""
    named = (each for each in standings if each.name == against)
    return next(named, None) if against else standings[0]


def refuse_unknown(name: str, known: Sequence[str]) -> None:
    """Raise InputError where the row that `--against` names is none of them."""
    if name and name not in known:
        remedy = f"--against one of {'; '.join(known)}"
        raise InputError(f"nothing here is called {name!r}", remedy=remedy)


def _tell(labelled: Divided, num_bad: int, notes: Sequence[str]) -> None:
    err(
        f"{len(labelled.tools)} documents and {len(labelled.learnt)} requests are learnt, "
        f"{len(labelled.held_out)} documents held out, {len(labelled.asked.queries)} requests "
        f"asked, {num_bad} bad lines"
    )
    for note in notes:
        err(f"[yellow]note[/] {escape(note)}")


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
