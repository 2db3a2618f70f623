"""`factory teach`: labelled data in, a checkpoint out."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from factory.cli.chosen import load_settings_with, open_recipe, split_overrides
from factory.cli.data import note_masked
from factory.cli.monitor import PlainMonitor, make_monitor
from factory.cli.opening import open_workspace
from factory.cli.options import DryRun, Mask, Model, Overrides, Recipe, Threads
from factory.cli.rounds import show_result
from factory.cli.terminal import escape_line, note, out
from factory.domain.failures import InputError
from factory.engines.trainable import check_planned
from factory.ledger.history import OpenRound, open_round
from factory.ledger.lock import WorkspaceLock
from factory.lessons.files import read_lessons
from factory.lessons.judging import JudgedRow
from factory.round.factory import load_factory
from factory.round.form import settle_form
from factory.round.round import run_round
from factory.round.teach import LessonPlan, parent_of, plan_lesson, run_lesson
from factory.train.examples import teaches_calls


def teach(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Files of labelled rows or documents, or folders.")
    ] = None,
    dev: Annotated[
        float, typer.Option(help="Share of the requests to hold out by their tools.", min=0, max=1)
    ] = 0.0,
    labelled: Annotated[
        bool,
        typer.Option("--labelled", help="Take the calls of traces as right: people checked them."),
    ] = False,
    mask: Mask = False,
    recipe: Recipe = "",
    model: Model = "",
    overrides: Overrides = None,
    threads: Threads = 0,
    dry_run: DryRun = False,
) -> None:
    """Teach labelled rows and tool documents: judge, train, score, gate. Continues an open lesson.

    factory teach labelled.jsonl --dry-run

    factory teach tools.jsonl labelled.jsonl --dev 0.1 --set train.epochs=2
    """
    workspace = open_workspace()
    engine, values = split_overrides(overrides)
    settings = load_settings_with(workspace, model, threads, engine)
    resolved = open_recipe(workspace, settings, recipe, values)
    lessons = read_lessons(paths, labelled=labelled, mask=mask) if paths else None
    monitor = PlainMonitor() if dry_run else make_monitor()
    with WorkspaceLock(workspace.state), monitor:
        factory = load_factory(workspace, settings, resolved, monitor, keep_model=bool(model))
        factory.ledger.fold()
        plan = None
        if (this := open_round(factory.ledger)) is not None:
            _check_open(this, dry_run)
            note("the open lesson is continued with the rows it began with")
        elif lessons is None:
            raise InputError("no lesson is open, and no file is named", remedy="factory teach FILE")
        else:
            plan = plan_lesson(factory, lessons, dev)
            _print_plan(plan)
            if mask:
                note_masked(plan.lessons.masked, plan.lessons.masked_rows, len(plan.lessons.items))
            _check_examples(plan)
            if dry_run:
                parent = Path(parent_of(factory).path)
                calls = teaches_calls(plan.examples)
                factory = asyncio.run(settle_form(factory, parent, teaches=calls))
                check_planned(parent, factory.prompts, factory.settings.engine)
                raise typer.Exit(1 if plan.left_out else 0)
        running = run_lesson(factory, plan) if plan else run_round(factory)
        result = asyncio.run(running)
    show_result(workspace, factory.ledger, result.number)
    if plan and plan.questions:
        out(f"next: factory round --set score.dev={plan.dev}")
    if not result.promoted or (plan and plan.left_out):
        raise typer.Exit(1)


def _check_open(this: OpenRound, dry_run: bool) -> None:
    """Raises InputError for an open round that is no lesson."""
    if not this.is_lesson or dry_run:
        kind = "a lesson" if this.is_lesson else "a round"
        raise InputError(
            f"round {this.number}, {kind}, is not finished",
            remedy="finish it with `factory round`, or end it: `factory round --abandon`",
        )


def _check_examples(plan: LessonPlan) -> None:
    if not plan.examples:
        raise InputError(
            "nothing is left to teach", remedy="the lines above say why each row was left out"
        )


def _print_plan(plan: LessonPlan) -> None:
    """What was read, what it teaches, and what is left out with the reasons."""
    formats = ", ".join(f"{count} {name}" for name, count in sorted(plan.lessons.formats.items()))
    out(f"read       {formats or 'nothing'}, {len(plan.lessons.bad)} unreadable")
    rows = [row.lesson for row in plan.accepted]
    calls = sum(bool(lesson.calls) for lesson in rows)
    silent = sum(lesson.calls == () for lesson in rows)
    paths = sum(bool(lesson.steps) for lesson in rows)
    named = len(rows) - calls - silent - paths
    out(
        f"teaches    {len(rows)} requests ({calls} with calls, {silent} that call nothing, "
        f"{named} that name their tools, {paths} solved in steps), {len(plan.documents)} documents"
    )
    kinds = Counter(example.kind for example in plan.examples)
    listed = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    out(f"examples   {listed or 'none'}; replay comes on top")
    if plan.questions:
        tools = len({n for each in plan.questions for gold in each.ground_truth for n in gold})
        out(f"dev        {len(plan.questions)} requests of {tools} tools: eval/{plan.dev}.toml")
    if plan.lessons.joined:
        note(f"{plan.lessons.joined} rows are the beginning of another one, and taught with it")
    if plan.unstaged:
        note(
            f"{plan.unstaged} conversations are not taught as a whole: the recipe has no stage of "
            "kind trajectory"
        )
    _print_rules("held out", plan.held_out)
    _print_rules("in part", plan.in_part)
    _print_rules("left out", plan.left_out)


def _print_rules(title: str, rows: Sequence[JudgedRow]) -> None:
    """Rules with their number of rows, each with its first row."""
    if not rows:
        return
    out(f"{title:<10} {len(rows)} rows")
    causes = [(row, row.sample.cause) for row in rows]
    counts = Counter(cause.rule for _, cause in causes if cause)
    first = {cause.rule: (row, cause) for row, cause in reversed(causes) if cause}
    for rule, count in counts.most_common():
        row, cause = first[rule]
        out(
            escape_line(
                f"  {count:>6}  {rule:<26} {row.lesson.where} {cause.path}: {cause.message}"
            )
        )
