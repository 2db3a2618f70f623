"""`factory rejects`: why samples fell, counted by reason or one by one."""

from __future__ import annotations

import difflib
import fnmatch
from typing import Annotated

import typer

from factory.cli.opening import open_ledger, open_workspace
from factory.cli.sql import Json, tell_more, write_records
from factory.cli.terminal import escape_line, inline, out, out_indented
from factory.domain.failures import InputError
from factory.domain.plaintext import shorten
from factory.judge.rulebook import Rulebook
from factory.ledger.database import Rows, Source
from factory.ledger.history import last_round
from factory.workspace.settings import load_settings

FALLEN = """
select rejected.*
from (
  select * exclude agreement from rejected where not $made
  union all
  select round, query_id, query, stage, reason, rule, path, message
  from made where $made and status = 'rejected'
) as rejected
left join (
  select round, query_id, tools_json, calls_json
  from sample join latest_judgement using (round, judgement)
) as found using (round, query_id)
where round = $round
  and ($reason = '' or reason = $reason)
  and ($rule = '' or rule glob $rule)
  and contains(lower(query), lower($text))
  and ($tool = ''
    or list_contains(json_extract_string(tools_json, '$[*].document.name'), $tool)
    or list_contains(json_extract_string(calls_json, '$[*].name'), $tool)
    or query_id in (
      select query_id from generation
      where round = $round and stage = 'tools' and contains(text, '"' || $tool || '"')))
"""
"""Samples that fell. One has a tool that was a candidate, was called, or stands in the answer."""

COUNTS = f"""
select reason,
       count(*) as samples,
       round(100.0 * count(*) / sum(count(*)) over (), 1) as percent,
       min(stage) as stage,
       min_by(query_id, query_id) as example,
       min_by(message, query_id) as message
from ({FALLEN})
group by reason
order by samples desc, reason
"""

LISTED = f"select query_id, rule, path, message, query from ({FALLEN}) order by query_id"


def rejects(
    round_number: Annotated[int, typer.Option("--round", help="Round; 0 is the latest.")] = 0,
    reason: Annotated[str, typer.Option(help="List the samples that fell for this reason.")] = "",
    rule: Annotated[str, typer.Option(help="List those that fell by this rule: call/* too.")] = "",
    tool: Annotated[str, typer.Option(help="Only samples with this tool, written or found.")] = "",
    text: Annotated[str, typer.Option(help="Only queries that contain this text.")] = "",
    samples: Annotated[
        bool, typer.Option("--samples", help="List samples instead of counting.")
    ] = False,
    made: Annotated[
        bool, typer.Option("--made", help="Samples that the round made of accepted ones instead.")
    ] = False,
    limit: Annotated[int, typer.Option(help="Rows at most; 0 is all.", min=0)] = 20,
    as_json: Json = False,
) -> None:
    """Why samples fell: counts by reason with an example each, or the samples one by one.

    factory rejects

    factory rejects --rule "call/*" --text euro --limit 5
    """
    is_list = bool(reason or rule or samples)
    filters = {"reason": reason, "rule": rule, "tool": tool, "text": text}
    with open_ledger().read() as past:
        number = _find_round(past, round_number) if round_number else latest_round(past)
        _check_known(past, "rule", rule)
        _check_known(past, "reason", reason)
        wanted = {"round": number, "made": made, **filters}
        rows = past.query(LISTED if is_list else COUNTS, wanted, limit=limit or None)
    if as_json:
        write_records(rows)
    elif not rows.rows:
        chosen = ", ".join(f"{name} {value}" for name, value in filters.items() if value)
        with_filters = f" with {escape_line(chosen)}" if chosen else ""
        out(f"round {number}: nothing was rejected{with_filters}")
    elif is_list:
        _print_fallen(rows)
    else:
        _print_reasons(rows)
    if rows.more:
        tell_more(len(rows.rows))


def latest_round(past: Source) -> int:
    """Number of the latest round. Raises InputError where there is none."""
    if number := last_round(past):
        return number
    raise InputError("the ledger holds no round yet", remedy="factory round --n 64")


def _find_round(past: Source, number: int) -> int:
    """The number of a round that is there. Raises InputError."""
    latest = latest_round(past)
    if 1 <= number <= latest:
        return number
    raise InputError(f"there is no round {number}", remedy=f"--round 1 to --round {latest}")


def _check_known(past: Source, column: str, wanted: str) -> None:
    """Raises InputError for a rule (or pattern) or reason that neither rules nor ledger know."""
    if not wanted:
        return
    workspace = open_workspace()
    rules = Rulebook.load(workspace, load_settings(workspace).rules).rules.values()
    known = {rule.id if column == "rule" else rule.reason for rule in rules}
    rows = past.query(f"select distinct {column} from verdict union select {column} from sample")
    known |= {str(name) for (name,) in rows.rows if name}
    if wanted in known or (column == "rule" and fnmatch.filter(known, wanted)):
        return
    near = difflib.get_close_matches(wanted, sorted(known), n=1, cutoff=0.0)
    raise InputError(
        f"no {column} is called {wanted}",
        where=f"--{column} {wanted}",
        remedy=f"did you mean {near[0]}? `factory rules` lists all",
    )


def _print_reasons(rows: Rows) -> None:
    """A line a reason, and under it what was said of the example."""
    head = f"{'reason':<24}{'samples':>8}{'percent':>9}  {'stage':<6}  example"
    out(f"[bold]{head}[/]")
    for reason, samples, percent, stage, example, message in rows.rows:
        line = f"{inline(reason):<24}{samples:>8}{percent:>9.1f}  {inline(stage):<6}  "
        out(escape_line(line) + escape_line(example))
        out_indented(message)


def _print_fallen(rows: Rows) -> None:
    """A paragraph a sample: where it fell, what was asked and what was said."""
    for query_id, rule, path, message, query in rows.rows:
        out(f"[bold]{escape_line(query_id)}[/]  [red]{escape_line(rule)}[/]  {escape_line(path)}")
        out_indented(shorten(query, 600), style="dim")
        out_indented(shorten(message, 600))
