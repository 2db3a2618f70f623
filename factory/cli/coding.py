"""Giving tools codes without training: codes fit, codes add."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from factory.cli.chosen import open_checkpoint, open_recipe
from factory.cli.codes import Checkpoint, print_advice, print_figures
from factory.cli.data import find_fault, note_rules, report_bad_lines
from factory.cli.monitor import make_monitor
from factory.cli.opening import open_ledger, open_workspace
from factory.cli.options import Documents, Overrides, Recipe
from factory.cli.sql import Json
from factory.cli.terminal import err, escape, out, print_table, write_json
from factory.codes.config import uses_pairs
from factory.codes.graph import join_pairs
from factory.codes.saving import load_codebook
from factory.deploy.arriving import changeable_codes, give_codes
from factory.domain.failures import InputError
from factory.domain.records import Pair, Tool
from factory.engines.serving import engine_settings
from factory.ledger import history
from factory.ledger.database import Source
from factory.ledger.lock import WorkspaceLock
from factory.score.loading import load_benchmarks, plain_text
from factory.tools.labels import Label, pair_up, read_asked, read_together
from factory.tools.sources import read_tools
from factory.train.curriculum import (
    called_together,
    named_together,
    need_codes,
    seed_examples,
    train_setup,
)
from factory.train.preview import CodingJob, Preview, fit_codes
from factory.workspace.folder import Workspace
from factory.workspace.settings import load_settings


def fit(
    files: Documents = None,
    checkpoint: Checkpoint = "",
    recipe: Recipe = "",
    overrides: Overrides = None,
    to: Annotated[
        Path | None, typer.Option("--out", help="Write the model with these codes there.")
    ] = None,
    together: Annotated[
        list[Path] | None,
        typer.Option(
            "--pairs", help="JSON lines of tools that are used together; quantized codes."
        ),
    ] = None,
    requests: Annotated[
        list[Path] | None,
        typer.Option(help="JSON lines of {query, tools}: what codes are to tell apart."),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Where the picture goes; default: .factory/codes.svg")
    ] = None,
    as_json: Json = False,
) -> None:
    """Fit codes to tools, and see what they are like before anything is trained on them.

    Nothing is changed. With --out, the model is written with its new code tokens and their first
    rows, as a folder that `model` in factory.toml can name.

    factory codes fit --set codes.coder=quantized

    factory codes fit my_apis.jsonl --set codes.size=64 --out models/coded

    factory codes fit --set codes.coder=quantized --pairs together.jsonl

    factory codes fit --requests asked.jsonl
    """
    workspace = open_workspace()
    settings = load_settings(workspace)
    resolved = open_recipe(workspace, settings, recipe, overrides)
    codes = need_codes(resolved.recipe)
    folder = open_checkpoint(checkpoint)
    if to is not None and to.exists() and any(to.iterdir()):
        raise InputError("the folder is not empty", where=str(to), remedy="name a new one")
    given, num_bad = _read_files(workspace, files or [])
    with open_ledger().read() as past:
        this = history.open_round(past)
        number = this.number if this else history.last_round(past) + 1
        tools = given if files else known_tools(past, folder)
        pairs: list[Pair] = []
        if uses_pairs(codes):
            labels, num_wrong = _read_pairs(together or [], tools)
            num_bad += num_wrong
            named = named_together(seed_examples(workspace, settings))
            labelled, answered = _called(past, tools, number)
            pairs = join_pairs([*labels, *named, *labelled], answered)
        elif together:
            raise InputError(
                f"these {codes.coder} codes look at no pairs of tools",
                where=", ".join(map(str, together)),
                remedy="--set codes.coder=quantized, with codes.quantized.graph above 0",
            )
    if len(tools) < 2:
        raise InputError(
            f"codes are fitted to 2 tools or more, not to {len(tools)}",
            where=", ".join(map(str, files or [])),
            remedy="give more documents, or mend the bad lines: factory codes fit my_apis.jsonl",
        )
    asked, num_wrong = _read_asked(requests or [], tools)
    num_bad += num_wrong
    job = CodingJob(
        workspace=workspace.root,
        checkpoint=folder,
        tools=tools,
        asked=asked,
        by_id=bool(files),
        setup=train_setup(resolved.recipe, number, settings.engine.dtype, version=1),
        pairs=pairs,
        out=to,
        plain=plain_text(load_benchmarks(workspace, resolved.recipe), resolved.recipe),
    )
    threads, log = engine_settings(settings).threads, _log(workspace)
    with make_monitor() as monitor:
        preview = asyncio.run(fit_codes(job, threads=threads, log=log, monitor=monitor))
    if as_json:
        write_json(
            {
                **preview.figures,
                "advice": preview.advice,
                "neighbours": preview.neighbours,
                "asked": preview.asked,
                "apart": [kept._asdict() for kept in preview.apart],
            }
        )
    else:
        _print_preview(preview)
    target = picture or workspace.state / "codes.svg"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(preview.picture, encoding="utf-8")
    if not as_json:
        out(f"picture  {escape(target)}")
    if to is not None and not as_json:
        out(f"model    {escape(to)}")
    if num_bad:
        raise typer.Exit(1)


def _print_preview(preview: Preview) -> None:
    print_figures(preview.figures)
    print_advice(preview.advice)
    if preview.neighbours:
        columns = ("tool", "code", "nearest by positions that differ")
        print_table(columns, preview.neighbours, width=120)
    if preview.apart:
        _print_apart(preview)


def _print_apart(preview: Preview) -> None:
    """One line a number of dimensions, one column a shape of codes."""
    whole, these, *others = preview.apart
    codes = [kept for kept in others if kept.levels]
    shapes = sorted({(kept.size, kept.levels) for kept in codes})
    found = {(kept.dims, kept.size, kept.levels): f"{kept.found:.1%}" for kept in others}
    columns = ("dims", "PCA", *(f"{levels} x {size}" for size, levels in shapes))
    rows = [
        (dims, *(found.get((dims, *shape), "") for shape in [(0, 0), *shapes]))
        for dims in sorted({kept.dims for kept in others})
    ]
    out("[bold]what these codes can still tell apart[/]")
    out(f"  found first, of {escape(preview.asked)}:")
    shape = f"{these.dims} dims, {these.levels} x {these.size}"
    out(
        f"  by whole embeddings ({whole.dims} dims) {whole.found:.1%}, "
        f"by these codes ({shape}) [bold]{these.found:.1%}[/]"
    )
    out("  by residual codes of other shapes (levels x codes.size), and by PCA without codes:")
    print_table(columns, rows)


def add(
    files: Annotated[list[Path], typer.Argument(help="JSON lines or JSON arrays.")],
    checkpoint: Checkpoint = "",
) -> None:
    """Give the tools of a file codes in a checkpoint of this workspace, without training.

    They can be retrieved from then on; the next rounds learn their documents by heart
    (train.documents). Nothing that had a code gets another one. `factory add-tools` only notes
    them, for the next training to code and learn.

    factory codes add my_apis.jsonl
    """
    workspace = open_workspace()
    settings = load_settings(workspace)
    # A recipe that makes no codes would never teach these.
    need_codes(open_recipe(workspace, settings).recipe)
    with WorkspaceLock(workspace.state):
        ledger, folder = open_ledger(), open_checkpoint(checkpoint)
        changeable_codes(workspace, ledger, folder)
        tools, num_bad = _read_files(workspace, files)
        with make_monitor() as monitor:
            fresh, codebook = give_codes(
                workspace,
                ledger,
                folder,
                tools,
                source=files[0].name,
                threads=engine_settings(settings).threads,
                monitor=monitor,
            )
    rows = [
        (e.tool.name, codebook.text_of(e.code), e.resolved_by, "yes" if e.ood else "")
        for e in (codebook.entry_of(tool.id) for tool in fresh)
    ]
    print_table(("tool", "code", "came to it by", "far"), rows)
    err(f"{len(fresh)} tools coded, {len(tools) - len(fresh)} had codes, {num_bad} bad")
    if num_bad:
        raise typer.Exit(1)


def _read_files(workspace: Workspace, files: Sequence[Path]) -> tuple[list[Tool], int]:
    """The tools of the files, judged, each once; how many lines are bad."""
    imported = [read_tools(file, find_fault) for file in files]
    num_bad = sum(report_bad_lines(each.bad) for each in imported)
    note_rules([tool for each in imported for tool in each.items], workspace)
    return list({tool.id: tool for each in imported for tool in each.items}.values()), num_bad


def _read_pairs(files: Sequence[Path], tools: Sequence[Tool]) -> tuple[list[Pair], int]:
    """The pairs of the files' labels; how many lines are bad."""
    read = [read_together(file, tools) for file in files]
    num_bad = sum(report_bad_lines(each.bad) for each in read)
    return pair_up(label for each in read for label in each.items), num_bad


def _read_asked(files: Sequence[Path], tools: Sequence[Tool]) -> tuple[list[Label], int]:
    """The requests of the files; how many lines are bad. Raises InputError where all are."""
    read = [read_asked(file, tools) for file in files]
    num_bad = sum(report_bad_lines(each.bad) for each in read)
    found = [label for each in read for label in each.items]
    if files and not found:
        raise InputError(
            "no line is a request for one of these tools",
            where=", ".join(map(str, files)),
            remedy='a line is {"query": "…", "tools": ["…"]}, with their names or ids',
        )
    return found, num_bad


def known_tools(past: Source, folder: Path | None) -> list[Tool]:
    """The tools that a checkpoint has codes of, then the imported ones."""
    codebook = load_codebook(folder) if folder else None
    coded = [entry.tool for entry in codebook.tools] if codebook is not None else []
    return list({tool.id: tool for tool in (*coded, *history.imported_tools(past))}.values())


def _called(past: Source, tools: Sequence[Tool], number: int) -> history.CalledPairs:
    """Which tools accepted answers call together, as round `number` would be trained."""
    called, written = history.called_pairs(past, number), history.written_tools(past)
    accepted = history.accepted_samples(past, number)
    each = (called_together(pairs, written, accepted, tools, None) for pairs in called)
    return history.CalledPairs(*each)


def _log(workspace: Workspace) -> Path:
    return workspace.state / "logs" / "codes.log"
