"""Reading the ledger: sql, rejects, show, status. All work while a round runs."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from factory.cli.opening import open_ledger
from factory.cli.terminal import (
    clean,
    err,
    escape,
    out,
    out_indented,
    print_table,
    write_json,
)
from factory.failures import InputError

if TYPE_CHECKING:
    from factory.store.database import Ledger, Rows

Json = Annotated[bool, typer.Option("--json", help="One JSON object a row.")]
Csv = Annotated[bool, typer.Option("--csv", help="CSV with a header.")]

SCREEN_ROWS = 1000
"""Rows of a table on the screen unless --limit says otherwise."""

LISTING_WIDTH = 400
"""Characters of a view's columns in the list of views."""

VIEWS_QUERY = """
select table_name as view, string_agg(column_name, ', ' order by ordinal_position) as columns
from information_schema.columns
where table_catalog = 'memory' and table_schema = 'main'
group by 1 order by 1
"""


CODES_QUERY = """
select tool_id, codebook_version, code, resolved_by, error, ood
from tool_code
where tool_id in (select unnest(?))
qualify row_number() over (partition by tool_id order by codebook_version desc, round desc) = 1
order by tool_id
"""
"""Each tool's code in the latest codebook that has one."""


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command(rich_help_panel="Ask")(sql)
    app.command(rich_help_panel="Ask")(rejects)
    app.command(rich_help_panel="Ask")(show)
    app.command(rich_help_panel="Ask")(status)


def sql(
    query: Annotated[str, typer.Argument(help="One SELECT; without it: the views.")] = "",
    as_json: Json = False,
    as_csv: Csv = False,
    limit: Annotated[
        int | None,
        typer.Option(
            help=f"Rows at most, 0 is all; {SCREEN_ROWS} unless told, all for --json and --csv.",
            min=0,
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds at most.")] = 60.0,
) -> None:
    """Query the ledger with SQL, read-only, also while a round runs.

    factory sql "select reason, count(*) from rejected group by 1 order by 2 desc"

    factory sql "select * from round_yield" --json
    """
    if limit is None:
        limit = 0 if as_json or as_csv else SCREEN_ROWS
    rows = open_ledger().query(query or VIEWS_QUERY, limit=limit or None, timeout_seconds=timeout)
    if as_json:
        _write_records(rows)
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(rows.columns)
        writer.writerows(rows.rows)
    else:
        print_table(rows.columns, rows.rows, width=80 if query else LISTING_WIDTH)
    _tell_more(rows)


def _write_records(rows: Rows) -> None:
    for record in rows.records():
        write_json(record)


def _tell_more(rows: Rows) -> None:
    if rows.more:
        err(f"[yellow]only the first {len(rows.rows)} rows; --limit 0 gives all[/]")


def rejects(
    round_number: Annotated[int, typer.Option("--round", help="Round; 0 is the latest.")] = 0,
    reason: Annotated[str, typer.Option(help="List the samples that fell for this reason.")] = "",
    text: Annotated[str, typer.Option(help="Only queries that contain this text.")] = "",
    limit: Annotated[int, typer.Option(help="Samples listed at most; 0 is all.", min=0)] = 20,
    as_json: Json = False,
) -> None:
    """Why samples fell: counts by reason with an example each, or the samples of one reason.

    factory rejects

    factory rejects --reason wrong_type --limit 5
    """
    ledger = open_ledger()
    number = round_number or latest_round(ledger)
    pattern = f"%{text}%"
    if reason:
        rows = ledger.query(
            """
            select query_id, rule, path, message, query
            from rejected
            where round = ? and reason = ? and query ilike ?
            order by query_id
            """,
            [number, reason, pattern],
            limit=limit or None,
        )
    else:
        rows = ledger.query(
            """
            select reason,
                   count(*) as samples,
                   round(100.0 * count(*) / sum(count(*)) over (), 1) as percent,
                   min(stage) as stage,
                   min_by(query_id, query_id) as example,
                   min_by(message, query_id) as message
            from rejected
            where round = ? and query ilike ?
            group by reason
            order by samples desc, reason
            """,
            [number, pattern],
        )
    if as_json:
        _write_records(rows)
    elif not rows.rows:
        out(f"round {number}: nothing was rejected" + (f" for {escape(reason)}" if reason else ""))
    elif reason:
        _print_fallen(rows)
    else:
        _print_reasons(rows)
    _tell_more(rows)


def _print_reasons(rows: Rows) -> None:
    """A line a reason, and under it what was said of the example."""
    head = f"{'reason':<24}{'samples':>8}{'percent':>9}  {'stage':<6}  example"
    out(f"[bold]{head}[/]")
    for reason, samples, percent, stage, example, message in rows.rows:
        line = f"{clean(reason):<24}{samples:>8}{percent:>9.1f}  {clean(stage):<6}  "
        out(escape(line) + escape(example))
        out_indented(message)


def _print_fallen(rows: Rows) -> None:
    """A paragraph a sample: where it fell, what was asked and what was said."""
    for query_id, rule, path, message, query in rows.rows:
        out(f"[bold]{escape(query_id)}[/]  [red]{escape(rule)}[/]  {escape(path)}")
        out_indented(query, style="dim")
        out_indented(message)


def latest_round(ledger: Ledger) -> int:
    """Number of the latest round. Raises InputError where there is none."""
    rows = ledger.query("select max(round) from round").rows
    if rows[0][0] is None:
        raise InputError("the ledger holds no round yet", remedy="factory round --n 64")
    return int(rows[0][0])


def show(
    query_id: Annotated[str, typer.Argument(help="A query's id, or the start of it.")],
    as_json: Json = False,
) -> None:
    """One sample, whole: query, tools, codes, every answer, the vote and the verdicts.

    factory show q_3b1f
    """
    ledger = open_ledger()
    found = ledger.query(
        "select distinct query_id from draw where starts_with(query_id, ?) order by 1", [query_id]
    ).rows
    if len(found) != 1:
        some = ", ".join(row[0] for row in found[:5])
        raise InputError(
            f"{len(found)} queries have an id that starts with {query_id!r}",
            where=some,
            remedy='factory sql "select query_id, query from rejected limit 10" lists some',
        )
    record = sample_record(ledger, found[0][0])
    if as_json:
        write_json(record)
    else:
        _print_sample(record)


def sample_record(ledger: Ledger, query_id: str) -> dict[str, Any]:
    """Everything the ledger holds of one query, by table; `tool_code` is its tools' codes."""
    record: dict[str, Any] = {}
    for table in ("draw", "query", "generation", "vote", "verdict", "sample"):
        rows = ledger.query(f"select * from {table} where query_id = ?", [query_id])
        record[table] = rows.records()
    ids = {tool["id"] for sample in record["sample"] for tool in json.loads(sample["tools_json"])}
    record["tool_code"] = ledger.query(CODES_QUERY, [sorted(ids)]).records()
    return record


def _print_sample(record: dict[str, Any]) -> None:
    out_indented(record["query"][0]["text"], 0, "bold")
    out(f"[dim]{record['draw'][0]['query_id']}  from {escape(record['query'][0]['source'])}[/]")
    codes = {row["tool_id"]: row for row in record["tool_code"]}
    for sample in record["sample"]:
        color = {"accepted": "green", "rejected": "red"}.get(sample["status"], "yellow")
        why = f": {escape(sample['reason'])}" if sample["reason"] else ""
        out(f"[{color}]{sample['status']}[/] in round {sample['round']}{why}")
        if sample["message"]:
            out_indented(sample["message"])
        for tool in json.loads(sample["tools_json"]):
            out(f"[bold]tool[/] {escape(tool['id'])}  {_describe_code(codes.get(tool['id']))}")
            out_indented(json.dumps(tool["document"], ensure_ascii=False))
        for call in json.loads(sample["calls_json"]):
            out("[bold]call[/]")
            out_indented(json.dumps(call, ensure_ascii=False))
    for vote in record["vote"]:
        out(
            f"[bold]vote[/] {vote['votes']} of {vote['num_samples']} agree, "
            f"margin {vote['margin']:.2f}, entropy {vote['entropy']:.2f} bits, "
            f"decided by: {escape(vote['decided_by'])}"
        )
    _print_generations(record)
    others = [v for v in record["verdict"] if not v["subject"].startswith("sample:")]
    if others:
        out("[bold]other verdicts[/]")
        _print_verdicts(others)


def _describe_code(row: dict[str, Any] | None) -> str:
    if row is None:
        return "[dim]no code[/]"
    return f"{escape(row['code'])}  [dim]codebook {row['codebook_version']}[/]"


def _print_generations(record: dict[str, Any]) -> None:
    """Every raw answer with its class, and the verdicts about it."""
    vote = record["vote"][0] if record["vote"] else None
    classes = json.loads(vote["classes_json"]) if vote else []
    for generation in sorted(record["generation"], key=_generation_order):
        number = generation["sample_index"]
        is_call = generation["stage"] == "calls"
        group = f"  class {classes[number]}" if is_call and number < len(classes) else ""
        mark = "  [green]<- winner[/]" if is_call and vote and vote["winner"] == number else ""
        out(
            f"[bold]{generation['stage']} {number}[/]{group}  "
            f"[dim]{generation['num_tokens']} tokens, {generation['finish_reason']}, "
            f"logprob {generation['logprob']:.2f}[/]{mark}"
        )
        out_indented(generation["text"])
        if is_call:
            _print_verdicts(v for v in record["verdict"] if v["subject"] == f"sample:{number}")


def _generation_order(generation: dict[str, Any]) -> tuple[int, str, int]:
    stages = ("tools", "propose", "retrieve", "calls")
    return stages.index(generation["stage"]), generation["subject"], generation["sample_index"]


def _print_verdicts(verdicts: Iterable[dict[str, Any]]) -> None:
    for verdict in verdicts:
        color = "red" if verdict["severity"] == "reject" else "yellow"
        out(
            f"    [{color}]{escape(verdict['reason'])}[/] {escape(verdict['subject'])} "
            f"at {escape(verdict['path'])}"
        )
        out_indented(verdict["message"], 6)


def status(as_json: Json = False) -> None:
    """Rounds so far: yield, scores, the model in use, and what is running.

    factory status
    """
    ledger = open_ledger()
    yields = ledger.query("select * from round_yield order by round")
    if as_json:
        _write_records(yields)
        return
    if not yields.rows:
        out("no round yet: `factory round --n 64` starts one")
        return
    print_table(yields.columns, yields.rows)
    out()
    lineage = ledger.query(
        "select checkpoint_id, parent_id, round, promoted, home_before, home_after "
        "from lineage order by round"
    )
    print_table(lineage.columns, lineage.rows)
    from factory import history

    this = history.open_round(ledger)
    if this is not None:
        pending = len(history.pending_queries(ledger, this.number))
        out(
            f"\nround {this.number} is open: {pending} queries without a sample; done: "
            f"{', '.join(sorted(this.stages_done))}. `factory round` continues it."
        )
