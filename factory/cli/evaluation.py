"""The benchmarks themselves: eval new, eval list."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from factory.cli.data import report_bad_lines
from factory.cli.opening import open_ledger, open_workspace
from factory.cli.terminal import escape, note, out, print_table, write_json
from factory.ledger import history
from factory.score.definition import read_definition
from factory.score.labelled import from_samples, read_ids, read_labelled, write_benchmark
from factory.score.loading import defined, find_fault, kind_of


def new(
    name: Annotated[str, typer.Argument(help="Its name: eval/NAME.toml.")],
    file: Annotated[Path, typer.Argument(help="Labelled requests, or ids of accepted ones.")],
    title: Annotated[str, typer.Option(help="One line for people.")] = "",
    split: Annotated[
        Literal["test", "dev"],
        typer.Option(help="test is only reported; dev may decide promotion."),
    ] = "test",
) -> None:
    """Make a benchmark of labelled requests, which no round then trains on.

    FILE has rows of question, function and ground_truth as BFCL writes them, [] where no call is
    right; or one query id a line, of accepted samples that you have read and found right (`factory
    show ID`).

    factory eval new my-apis labelled.jsonl

    factory eval new confirmed ids.txt --split dev
    """
    workspace = open_workspace()
    if ids := read_ids(file):
        ledger = open_ledger()
        rounds = range(1, history.last_round(ledger) + 1)
        samples = [each for number in rounds for each in history.accepted_samples(ledger, number)]
        items, bad = from_samples(ids, samples, history.trained_queries(ledger))
    else:
        items, bad = read_labelled(file)
    num_bad = report_bad_lines(tuple(bad))
    made = write_benchmark(workspace, name, title or name, split, items)
    out(f"eval/{escape(name)}.toml: {len(made.items)} items, {num_bad} bad lines")
    if again := len(items) - len(made.items):
        note(f"{again} rows ask the same of the same functions as another one, and count once")
    for category in made.categories:
        count = sum(item.category == category for item in made.items)
        out(f"  {category:<18} {count}")
    out(f"next: factory score {escape(name)}")
    if num_bad:
        raise typer.Exit(1)


def list_benchmarks(
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines.")] = False,
) -> None:
    """List the benchmarks of eval/ with their kind, and what each lacks before it can be scored.

    factory eval list
    """
    workspace = open_workspace()
    columns, rows = ("benchmark", "kind", "title", "fault"), []
    for name in defined(workspace):
        title = str(read_definition(workspace, name).get("title", ""))
        rows.append((name, kind_of(workspace, name), title, find_fault(workspace, name)))
    if as_json:
        for row in rows:
            write_json(dict(zip(columns, row, strict=True)))
        return
    print_table(
        ("benchmark", "kind", "ready", "title"),
        [(name, kind, "no" if fault else "yes", title) for name, kind, title, fault in rows],
    )
    for name, _, _, fault in rows:
        if fault:
            out(f"[dim]{escape(name)}: {escape(fault)}[/]")
