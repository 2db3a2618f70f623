"""Scoring one checkpoint on a benchmark of any kind: score."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from factory.cli.chosen import load_settings_with, parse_overrides
from factory.cli.monitor import make_monitor
from factory.cli.opening import open_workspace
from factory.cli.options import AllowPublic, Threads
from factory.cli.proving import score_through
from factory.cli.terminal import escape, out, print_table, write_json
from factory.deploy.proving import SHOWN_LIMIT
from factory.domain.records import Checkpoint
from factory.ledger.lineage import find_checkpoint
from factory.ledger.lock import WorkspaceLock
from factory.score.base import Scorable, Setup
from factory.score.card import POOLED, Line, Scorecard, count_unanswered
from factory.score.evaluate import Measured, evaluate, evaluate_baseline
from factory.score.loading import changeable_keys, load
from factory.score.published import PublishedTable, load_published
from factory.workspace.recipe import parse_value

LINES = ("categories", "averages", "details", "per_call")
"""Of a card."""
REASONS_SHOWN = 8
"""Reasons listed on the screen."""
AVERAGES = ("non_live", "live", "overall")
"""Columns of a published table that the screen shows, where it has them."""
Cells = list[tuple[object, ...]]
Systems = list[tuple[Measured, Scorecard]]
"""The checkpoint, the one before it if any, and baselines, each with what its items say."""
Style = Literal["own", "chat"]
Syntax = Literal["hermes", "json", "python", "llama", "mistral", "auto", "official"]


def score(
    name: Annotated[
        str, typer.Argument(metavar="BENCHMARK", help="A file of eval/: home, bfcl, toolbench.")
    ],
    checkpoint: Annotated[
        str,
        typer.Option(
            help="Id (r3), model folder, http://host:port/v1#NAME; default: the best so far."
        ),
    ] = "",
    before: Annotated[str, typer.Option(help="Another one to compare it with, likewise.")] = "",
    category: Annotated[
        list[str] | None, typer.Option(help="Only these categories, or splits of ToolBench.")
    ] = None,
    through: Annotated[
        str, typer.Option(help="A server of it: http://host:port/v1#NAME; 1 where it is off.")
    ] = "",
    limit: Annotated[
        int | None, typer.Option(help="Items of each category; 0 is all.", min=0)
    ] = None,
    prompt: Annotated[
        Style | None, typer.Option(help="own prompt, or the model's chat template with its tools.")
    ] = None,
    syntax: Annotated[Syntax | None, typer.Option(help="How calls are written.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder or file of the data.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="A key of its definition, e.g. judge=r1")
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Write the answers as JSON.")] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Ask the model, whatever the ledger has.")
    ] = False,
    allow_public: AllowPublic = False,
    threads: Threads = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Score a checkpoint on a benchmark of any kind, with intervals and published rows beside.

    What was scored before is read from the ledger. `factory eval list` names the benchmarks.

    factory score home --limit 10

    factory score bfcl --checkpoint r3 --prompt chat

    factory score toolbench --data ToolBench/data --category I1-Inst

    factory score toolbench-completion --data StableToolBench --set judge=r1 --limit 20

    factory score home --checkpoint r3 --through http://127.0.0.1:8000/v1#r3
    """
    workspace = open_workspace()
    keys = changeable_keys(workspace, name)
    given = {key: parse_value(key, value) for key, value in parse_overrides(changes).items()}
    flags = {
        next((key for key in ("categories", "splits") if key in keys), "category"): category,
        "limit": SHOWN_LIMIT if limit is None and through else limit,
        "prompt": prompt,
        "syntax": syntax,
        "data": str(data.expanduser().resolve()) if data else None,
        "allow_public_host": allow_public if "allow_public_host" in keys else None,
    }
    benchmark = load(workspace, name, {**given, **{k: v for k, v in flags.items() if v}})
    tables = list(load_published(workspace, name))
    settings = load_settings_with(workspace, "", threads)
    with WorkspaceLock(workspace.state), make_monitor() as monitor:
        setup = Setup.load(workspace, settings, monitor)
        setup.ledger.fold()
        for note in benchmark.notes:
            monitor.note(note)
        if through:
            score_through(
                setup,
                benchmark,
                checkpoint,
                through,
                allow_public=allow_public,
                again=again,
                as_json=as_json,
            )
            return
        measured = asyncio.run(_measure(setup, benchmark, checkpoint, before, allow_public, again))
    if save is not None:
        answers = benchmark.answers(measured[0].items)
        save.write_text(json.dumps(answers, ensure_ascii=False), encoding="utf-8")
    systems = [(each, benchmark.card(each.items)) for each in measured]
    change = None
    if before and benchmark.unit == "percent":
        change = benchmark.change(measured[1].items, measured[0].items)
    if as_json:
        write_json(_to_record(benchmark, systems, change, tables))
    else:
        _print_all(benchmark, systems, change, tables)


async def _measure(
    setup: Setup,
    benchmark: Scorable,
    checkpoint: str,
    before: str,
    allow_public: bool,
    again: bool,
) -> list[Measured]:
    """The checkpoint, the one before it if any, and the benchmark's baselines."""
    wanted = [checkpoint, before] if before else [checkpoint]
    with setup.ledger.read() as past:
        found = [
            find_checkpoint(setup.workspace, setup.settings, past, each, setup.notify)
            for each in wanted
        ]
    if told := tell_forms(setup, benchmark, found):
        setup.notify(told)
    measured = [
        await evaluate(setup, benchmark, each, allow_public=allow_public, again=again)
        for each in found
    ]
    baselines = benchmark.baselines(setup)
    return measured + [await evaluate_baseline(setup, benchmark, each) for each in baselines]


def tell_forms(setup: Setup, benchmark: Scorable, asked: Sequence[Checkpoint]) -> str:
    """What is to be known of checkpoints that are asked in two forms of calls; empty of one."""
    setups = {each.id: setup.of(each) for each in asked}
    if len({each.prompts.form for each in setups.values()}) == 1:
        return ""
    if len({benchmark.basis(each) for each in setups.values()}) == 1:
        return ""
    forms = ", ".join(f"{name} in {each.prompts.form} form" for name, each in setups.items())
    return f"each is asked as it is served: {forms}; the change is that of model and form together"


def _to_record(
    benchmark: Scorable, systems: Systems, change: Scorecard | None, tables: list[PublishedTable]
) -> dict[str, object]:
    """Everything on the screen and more, as one object."""
    first, *others = [
        {
            "system": each.system,
            "kind": each.kind,
            **_answered(benchmark, each),
            **_card_record(card),
        }
        for each, card in systems
    ]
    changed = None if change is None else {"from": systems[1][0].system, **_card_record(change)}
    return {
        "benchmark": benchmark.name,
        "checkpoint": first["system"],
        "kind": "measured",
        "unit": benchmark.unit,
        **benchmark.asked,
        "items": len(systems[0][0].items),
        **{key: first[key] for key in ("unanswered", "complete", *LINES, "reasons", "cut")},
        "others": others,
        "change": changed,
        "published": [
            {**table.model_dump(exclude={"values"}), "rows": [row._asdict() for row in table.rows]}
            for table in tables
        ],
    }


def _answered(benchmark: Scorable, measured: Measured) -> dict[str, object]:
    """How many items have no answer, and whether too many for the score to be complete."""
    num_unanswered = sum(count_unanswered(measured.items).values())
    share = 1 - num_unanswered / max(1, len(measured.items))
    complete = share >= benchmark.patience.min_answered
    return {"unanswered": num_unanswered, "complete": complete}


def _print_answered(benchmark: Scorable, measured: Measured) -> None:
    """Which items have no answer, if any."""
    if not (counts := count_unanswered(measured.items)):
        return
    found = _answered(benchmark, measured)
    reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items())
    out(
        f"no answer      {found['unanswered']} of {len(measured.items)} items of "
        f"{escape(measured.system)}: {reasons}"
    )
    if not found["complete"]:
        out(
            f"[red]incomplete[/]     less than {100 * benchmark.patience.min_answered:g} % of the "
            "items have an answer: take it for no score (min_answered)"
        )


def _card_record(card: Scorecard) -> dict[str, object]:
    parts = {name: getattr(card, name) for name in LINES}
    records = {name: [_line_record(line) for line in lines] for name, lines in parts.items()}
    return {**records, "reasons": dict(card.reasons), "cut": dict(card.cut)}


def _line_record(line: Line) -> dict[str, object]:
    record = asdict(line)
    del record["estimate"], record["weights"]
    return record | (line.estimate._asdict() if line.estimate else {"value": None})


def _print_all(
    benchmark: Scorable, systems: Systems, change: Scorecard | None, tables: list[PublishedTable]
) -> None:
    """The screen, from the head to what may be asked next."""
    first, first_card = systems[0]
    _print_head(benchmark, first)
    if first_card.details:
        _print_details(systems, change)
    else:
        for each, card in systems:
            _print_card(each if len(systems) > 1 else None, card)
        if change is not None:
            _print_change(systems[1][0], change)
    for each, _ in systems:
        _print_answered(benchmark, each)
    for table in tables:
        _print_published(benchmark, systems, table)
    _print_questions(benchmark, first)


def _print_head(benchmark: Scorable, measured: Measured) -> None:
    source = "scored now" if measured.is_new else "from the ledger"
    asked = "".join(f", {key} {value}" for key, value in benchmark.asked.items())
    out(
        f"[bold]{escape(benchmark.name)}[/]  {escape(measured.system)}  "
        f"{len(measured.items)} items{asked}, {benchmark.unit}, {source}"
    )


def _print_card(measured: Measured | None, card: Scorecard) -> None:
    """Categories and averages; `measured` names whose they are where there are several."""
    lines = [*card.categories, *card.averages]
    extra = {
        name: [getattr(line, name) for line in lines]
        for name in ("ceiling", "official", "note")
        if any(getattr(line, name) not in (None, "") for line in lines)
    }
    if card.cut:
        extra["cut"] = [line.cut for line in lines]
    rows: Cells = []
    for number, line in enumerate(lines):
        cells = (
            ("", "", "incomplete")
            if line.estimate is None
            else (line.num_items, f"{line.estimate.value:.2f}", _interval(line))
        )
        rest = (_cell(values[number]) for values in extra.values())
        rows.append((line.title, *cells, *rest))
    head = measured.system if measured else ""
    print_table((head, "items", "score", "95 % interval", *extra), rows)
    _print_missing(card)
    if "official" in extra:
        out(
            "  [dim]official: BFCL's count, to which calls that cannot be read and answers that "
            "were cut are abstentions too[/]"
        )
    if card.cut:
        cut = ", ".join(f"{count} at {limit}" for limit, count in card.cut)
        out(f"cut answers    {cut}: what they would have gone on to say is not judged")
    if card.per_call:
        shares = ", ".join(
            f"{line.metric} {line.estimate.value:.1f} {_interval(line)}"
            for line in card.per_call
            if line.estimate
        )
        out(f"single calls   {shares}")
    if card.reasons:
        shown = ", ".join(f"{count} {reason}" for reason, count in card.reasons[:REASONS_SHOWN])
        out(f"wrong because  {escape(shown)}")


def _print_missing(card: Scorecard) -> None:
    for line in card.averages:
        if line.missing:
            out(f"  [dim]{escape(line.title)} needs {escape(', '.join(line.missing))}[/]")


def _interval(line: Line, sign: str = "") -> str:
    if line.estimate is None:
        return ""
    return f"[{line.estimate.low:{sign}.1f}, {line.estimate.high:{sign}.1f}]"


def _cell(value: object) -> object:
    return f"{value:.2f}" if isinstance(value, float) else value or ""


def _print_details(systems: Systems, change: Scorecard | None) -> None:
    """Each measure in each setting, by split and in the mean: every system, and what changed."""
    first, first_card = systems[0]
    shown = [(x.system, x.kind, card, "") for x, card in systems]
    if change is not None:
        shown.insert(2, ("change", "points", change, "+"))
    lines = [line for line in first_card.details if not line.scheme.endswith(POOLED)]
    names = list(dict.fromkeys(line.name for line in lines))
    rows: Cells = []
    for setting, metric in dict.fromkeys((line.scheme, line.metric) for line in lines):
        for system, kind, card, sign in shown:
            cells = {
                x.name: f"{x.estimate.value:{sign}.1f} {_interval(x, sign)}"
                for x in card.details
                if x.estimate and (x.scheme, x.metric) == (setting, metric)
            }
            rows.append((setting, metric, system, kind, *(cells.get(name, "") for name in names)))
    out()
    print_table(("setting", "metric", "system", "kind", *names), rows)
    if change is not None:
        out(f"  [dim]change: from {escape(systems[1][0].system)}, on the same items[/]")
    out(
        "  [dim]ndcg is the textbook's; ndcg_hits, which the papers publish, ranks only what was "
        "returned: 5 tools by code, 100 by a baseline[/]"
    )
    if len(lines) < len(first_card.details):
        out("  [dim]pooled splits: beside the published rows, and --json[/]")
    reasons = ", ".join(f"{count} {reason}" for reason, count in first_card.reasons)
    out(f"{escape(first.system)}: no full mark because  {escape(reasons or 'of nothing')}")


def _print_change(before: Measured, change: Scorecard) -> None:
    """What each category and average of a card changed by."""
    rows: Cells = [
        (line.title, line.num_items, f"{line.estimate.value:+.2f}", _interval(line, "+"))
        for line in (*change.categories, *change.averages)
        if line.estimate
    ]
    out()
    out(f"change from {escape(before.system)} in points, on the same items")
    print_table(("", "items", "change", "95 % interval"), rows)
    _print_missing(change)


def _print_published(benchmark: Scorable, systems: Systems, table: PublishedTable) -> None:
    """A table with the measured values of the same columns above it."""
    out()
    out(f"[bold]{escape(table.title)}[/], {escape(table.metric)}")
    out(f"  [dim]{table.kind}: {escape(table.source)}, {table.date}; {escape(table.split)}[/]")
    if table.note:
        out(f"  [dim]{escape(table.note)}[/]")
    shown = [name for name in table.columns if name in AVERAGES] or list(table.columns)
    at = [table.columns.index(name) for name in shown]
    rows: Cells = []
    for each, card in systems:
        values = benchmark.beside(table, card)
        own = (f"{values[name]:.2f}" if name in values else "" for name in shown)
        rows.append(("measured here", each.system, *own))
    for row in table.rows:
        found = ("" if (v := row.values[n]) is None else f"{v:.2f}" for n in at)
        rows.append((table.kind, row.model, *found))
    print_table(("kind", "model", *shown), rows)
    if len(shown) < len(table.columns):
        out("  [dim]its other columns: --json[/]")


def _print_questions(benchmark: Scorable, measured: Measured) -> None:
    of = f"where benchmark = '{benchmark.name}' and checkpoint_id = '{measured.system}'"
    if benchmark.unit == "percent":
        queries = [
            f"select item, reason, message, answer from latest_item {of} and not correct limit 5",
            f"select flip, item, query, gold_json, answer from item_flip {of}",
        ]
    else:
        queries = [f"select category, before, after, delta from round_delta {of}"]
    out()
    out("[bold]ask next[/]")
    for query in queries:
        out(f'  factory sql "{escape(query)}"')
