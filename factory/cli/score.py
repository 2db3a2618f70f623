"""Scoring one checkpoint on one benchmark: score."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factory.cli.opening import open_workspace
from factory.cli.terminal import escape, out, print_table, write_json

if TYPE_CHECKING:
    from factory.benchmark import Benchmark
    from factory.evaluate import Measured
    from factory.published import PublishedTable
    from factory.scorecard import Line, Scorecard

REASONS_SHOWN = 8
"""Reasons listed on the screen."""
AVERAGES = ("non_live", "live", "overall")
"""Columns of a published table that the screen shows, where it has them."""
Cells = list[tuple[object, ...]]


class Style(StrEnum):
    """How questions are put."""

    OWN = "own"
    CHAT = "chat"


class SyntaxChoice(StrEnum):
    """How calls are read."""

    HERMES = "hermes"
    JSON = "json"
    PYTHON = "python"
    LLAMA = "llama"
    MISTRAL = "mistral"
    AUTO = "auto"


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command(rich_help_panel="Make")(score)


def score(
    name: Annotated[str, typer.Argument(metavar="BENCHMARK", help="A file of eval/: home, bfcl.")],
    checkpoint: Annotated[
        str, typer.Option(help="Id (r3) or model folder; default: the latest promoted.")
    ] = "",
    category: Annotated[list[str] | None, typer.Option(help="Only these categories.")] = None,
    limit: Annotated[int, typer.Option(help="Items of each category; 0 is all.", min=0)] = 0,
    prompt: Annotated[
        Style | None, typer.Option(help="own prompt, or the model's chat template with its tools.")
    ] = None,
    syntax: Annotated[SyntaxChoice | None, typer.Option(help="How calls are written.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the questions.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: free cores.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Score a checkpoint on a benchmark, with intervals, ceilings and published rows beside.

    What was scored before is read from the ledger.

    factory score home --limit 10

    factory score bfcl --checkpoint r3 --prompt chat
    """
    from factory.benchmark import Benchmark
    from factory.cli.monitor import make_monitor
    from factory.cli.rounds import load_settings_with
    from factory.evaluate import evaluate, find_checkpoint
    from factory.published import load_published
    from factory.recipe import load_recipe
    from factory.round import load_factory
    from factory.scorecard import make_scorecard
    from factory.store.lock import WorkspaceLock

    workspace = open_workspace()
    benchmark = Benchmark.load(workspace, name, data).narrow(
        categories=tuple(category or ()),
        limit=limit,
        prompt=prompt.value if prompt else None,
        syntax=syntax.value if syntax else None,
    )
    tables = load_published(workspace, name)
    settings = load_settings_with(workspace, "", threads)
    resolved = load_recipe(workspace, settings.recipe, {})
    with WorkspaceLock(workspace.state), make_monitor() as monitor:
        factory = load_factory(workspace, settings, resolved, monitor)
        factory.ledger.fold()
        found = find_checkpoint(factory, checkpoint)
        measured = asyncio.run(evaluate(factory, benchmark, found))
    card = make_scorecard(benchmark, measured.items)
    if as_json:
        write_json(_to_record(benchmark, measured, card, tables))
    else:
        _print_card(benchmark, measured, card)
        _print_published(measured, card, tables)
        _print_questions(benchmark, measured)


def _to_record(
    benchmark: Benchmark, measured: Measured, card: Scorecard, tables: Sequence[PublishedTable]
) -> dict[str, object]:
    """Everything on the screen and more, as one object."""
    return {
        "benchmark": benchmark.name,
        "checkpoint": measured.checkpoint.id,
        "kind": "measured",
        "prompt": benchmark.prompt,
        "syntax": benchmark.syntax,
        "items": len(measured.items),
        "categories": [_line_record(line) for line in card.categories],
        "averages": [_line_record(line) for line in card.averages],
        "reasons": dict(card.reasons),
        "published": [asdict(table) for table in tables],
    }


def _line_record(line: Line) -> dict[str, object]:
    record = asdict(line)
    del record["estimate"]
    return record | (line.estimate._asdict() if line.estimate else {"value": None})


def _print_card(benchmark: Benchmark, measured: Measured, card: Scorecard) -> None:
    source = "scored now" if measured.is_new else "from the ledger"
    asked = f"prompt {benchmark.prompt}, syntax {benchmark.syntax}"
    out(
        f"[bold]{escape(benchmark.name)}[/]  {escape(measured.checkpoint.id)}  "
        f"{len(measured.items)} items, {asked}, {source}"
    )
    has_strict = any(line.strict is not None for line in card.categories)
    columns = ("percent right", "items", "score", "95 % interval", "ceiling")
    rows = [_cells(line.name, line, has_strict) for line in card.categories]
    rows += [_cells(f"{line.scheme}: {line.name}", line, has_strict) for line in card.averages]
    print_table((*columns, "strict") if has_strict else columns, rows)
    for line in card.averages:
        if line.missing:
            name = escape(f"{line.scheme}: {line.name}")
            out(f"  [dim]{name} needs {escape(', '.join(line.missing))}[/]")
    if has_strict:
        out(
            "  [dim]strict: answers that neither call nor try to; the official score also counts "
            "calls that cannot be read[/]"
        )
    if card.reasons:
        shown = ", ".join(f"{count} {reason}" for reason, count in card.reasons[:REASONS_SHOWN])
        out(f"wrong because  {escape(shown)}")


def _cells(name: str, line: Line, has_strict: bool) -> tuple[object, ...]:
    if line.estimate is None:
        cells: tuple[object, ...] = (name, "", "", "incomplete", "")
        return (*cells, "") if has_strict else cells
    value, low, high = line.estimate
    ceiling = "" if line.ceiling is None else f"{line.ceiling:.2f}"
    cells = (name, line.num_items, f"{value:.2f}", f"[{low:.1f}, {high:.1f}]", ceiling)
    strict = "" if line.strict is None else f"{line.strict:.2f}"
    return (*cells, strict) if has_strict else cells


def _print_published(measured: Measured, card: Scorecard, tables: Sequence[PublishedTable]) -> None:
    """Each table with the measured values of the same columns above it."""
    values = {line.name: line.estimate.value for line in card.categories if line.estimate}
    for line in card.averages:
        if line.scheme == "tooldev" and line.estimate:
            values[line.name] = line.estimate.value
    if all(f"simple_{word}" in values for word in ("python", "java", "javascript")):
        values["simple"] = sum(v for k, v in values.items() if k.startswith("simple_")) / 3
    for table in tables:
        out()
        out(f"[bold]{escape(table.title)}[/], {escape(table.metric)}")
        out(f"  [dim]{table.kind}: {escape(table.source)}, {table.date}; {escape(table.split)}[/]")
        if table.note:
            out(f"  [dim]{escape(table.note)}[/]")
        shown = [name for name in table.columns if name in AVERAGES] or list(table.columns)
        at = [table.columns.index(name) for name in shown]
        own = (f"{values[name]:.2f}" if name in values else "" for name in shown)
        rows: Cells = [("measured here", measured.checkpoint.id, *own)]
        for row in table.rows:
            cells = ("" if (v := row.values[n]) is None else f"{v:.2f}" for n in at)
            rows.append((table.kind, row.model, *cells))
        print_table(("kind", "model", *shown), rows)
        if len(shown) < len(table.columns):
            out("  [dim]its other columns: --json[/]")


def _print_questions(benchmark: Benchmark, measured: Measured) -> None:
    name, checkpoint = benchmark.name, measured.checkpoint.id
    out()
    out("[bold]ask next[/]")
    for query in (
        f"select item, reason, message, answer from item_score where benchmark = '{name}' "
        f"and checkpoint_id = '{checkpoint}' and not correct limit 5",
        f"select flip, item, query, gold_json, answer from item_flip where benchmark = '{name}' "
        f"and checkpoint_id = '{checkpoint}'",
    ):
        out(f'  factory sql "{escape(query)}"')
