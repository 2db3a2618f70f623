"""Reading the ledger: sql, rejects, show, status. All work while a round runs."""

from __future__ import annotations

import csv
import json
import sys
from typing import Annotated, Any

import typer

from factory.cli.opening import open_ledger
from factory.cli.terminal import escape, out, print_table, shorten, stdout
from factory.failures import InputError
from factory.store.database import Ledger, Rows

Json = Annotated[bool, typer.Option("--json", help="One JSON object a row.")]
Csv = Annotated[bool, typer.Option("--csv", help="CSV with a header.")]

VIEWS_QUERY = """
select table_name as view, string_agg(column_name, ', ' order by ordinal_position) as columns
from information_schema.columns
where table_name in (select view_name from duckdb_views() where not internal)
group by 1 order by 1
"""


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
    limit: Annotated[int, typer.Option(help="Rows at most; 0 is all.")] = 1000,
    timeout: Annotated[float, typer.Option(help="Seconds at most.")] = 60.0,
) -> None:
    """Query the ledger with SQL, read-only, also while a round runs.

    factory sql "select reason, count(*) from rejected group by 1 order by 2 desc"

    factory sql "select * from round_yield" --json
    """
    rows = open_ledger().query(query or VIEWS_QUERY, limit=limit, timeout_seconds=timeout)
    _print_rows(rows, as_json=as_json, as_csv=as_csv)


def _print_rows(rows: Rows, *, as_json: bool = False, as_csv: bool = False) -> None:
    if as_json:
        for row in rows.rows:
            record = dict(zip(rows.columns, row, strict=True))
            stdout.print(json.dumps(record, default=str), markup=False)
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(rows.columns)
        writer.writerows(rows.rows)
    else:
        print_table(rows.columns, rows.rows)


def rejects(
    round_number: Annotated[int, typer.Option("--round", help="Round; 0 is the latest.")] = 0,
    reason: Annotated[str, typer.Option(help="List the samples that fell for this reason.")] = "",
    text: Annotated[str, typer.Option(help="Only queries that contain this text.")] = "",
    limit: Annotated[int, typer.Option(help="Samples listed at most.")] = 20,
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
            limit=limit,
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
    if not rows.rows and not as_json:
        out(f"round {number}: nothing was rejected" + (f" for {escape(reason)}" if reason else ""))
        return
    _print_rows(rows, as_json=as_json)


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
        stdout.print(json.dumps(record, default=str, ensure_ascii=False), markup=False)
    else:
        _print_sample(record)


def sample_record(ledger: Ledger, query_id: str) -> dict[str, Any]:
    """Everything the ledger holds of one query, by table."""
    record: dict[str, Any] = {}
    for table in ("draw", "query", "generation", "vote", "verdict", "sample"):
        rows = ledger.query(f"select * from {table} where query_id = ?", [query_id])
        record[table] = [dict(zip(rows.columns, row, strict=True)) for row in rows.rows]
    return record


def _print_sample(record: dict[str, Any]) -> None:
    out(f"[bold]{escape(record['query'][0]['text'])}[/]")
    out(f"[dim]{record['draw'][0]['query_id']}  from {escape(record['query'][0]['source'])}[/]")
    for sample in record["sample"]:
        color = {"accepted": "green", "rejected": "red"}.get(sample["status"], "yellow")
        why = (
            f"  {escape(sample['reason'])}: {escape(sample['message'])}" if sample["reason"] else ""
        )
        out(f"[{color}]{sample['status']}[/] in round {sample['round']}{why}")
        _print_documents("tools", sample["tools_json"])
        _print_documents("calls", sample["calls_json"])
    classes = json.loads(record["vote"][0]["classes_json"]) if record["vote"] else []
    for vote in record["vote"]:
        out(
            f"[bold]vote[/]  {vote['votes']} of {vote['num_samples']} agree, "
            f"margin {vote['margin']:.2f}, entropy {vote['entropy']:.2f} bits, "
            f"decided by the {escape(vote['decided_by'])} key"
        )
    verdicts = record["verdict"]
    for generation in sorted(record["generation"], key=_generation_order):
        number = generation["sample_index"]
        is_call = generation["stage"] == "calls"
        group = f"  class {classes[number]}" if is_call and number < len(classes) else ""
        winner = bool(group) and record["vote"][0]["winner"] == number
        mark = " [green]<- winner[/]" if winner else ""
        out(
            f"[bold]{generation['stage']} {number}[/]{group}  "
            f"[dim]{generation['num_tokens']} tokens, {generation['finish_reason']}, "
            f"log-probability {generation['logprob']:.2f}[/]{mark}"
        )
        out("  " + escape(generation["text"]).replace("\n", "\n  "))
        if is_call:
            _print_verdicts(v for v in verdicts if v["subject"] == f"sample:{number}")
    others = [v for v in verdicts if not v["subject"].startswith("sample:")]
    if others:
        out("[bold]other verdicts[/]")
        _print_verdicts(others)


def _why(sample: dict[str, Any]) -> str:
    return f"  {escape(sample['reason'])}: {escape(sample['message'])}" if sample["reason"] else ""


def _generation_order(generation: dict[str, Any]) -> tuple[int, str, int]:
    stages = ("tools", "propose", "retrieve", "calls")
    return stages.index(generation["stage"]), generation["subject"], generation["sample_index"]


def _print_documents(title: str, text: str) -> None:
    for value in json.loads(text):
        out(f"  [bold]{title[:-1]}[/] {escape(json.dumps(value, ensure_ascii=False))}")


def _print_verdicts(verdicts: Any) -> None:
    for verdict in verdicts:
        color = "red" if verdict["severity"] == "reject" else "yellow"
        out(
            f"    [{color}]{escape(verdict['reason'])}[/] {escape(verdict['subject'])} at "
            f"{escape(verdict['path'])}: {escape(verdict['message'])}"
        )


def status(as_json: Json = False) -> None:
    """Rounds so far: yield, scores, the model in use, and what is running.

    factory status
    """
    ledger = open_ledger()
    yields = ledger.query("select * from round_yield order by round")
    if as_json:
        _print_rows(yields, as_json=True)
        return
    if not yields.rows:
        out("no round yet: `factory round --n 64` starts one")
        return
    print_table(yields.columns, yields.rows)
    out()
    lineage = ledger.query("select * from lineage order by round")
    print_table(lineage.columns, [[shorten(cell, 24) for cell in row] for row in lineage.rows])
    from factory import history

    this = history.open_round(ledger)
    if this is not None:
        pending = len(history.pending_queries(ledger, this.number))
        out(
            f"\nround {this.number} is open: {pending} queries without a sample; done: "
            f"{', '.join(sorted(this.stages_done))}. `factory round` continues it."
        )
