"""Judging stored samples again: check."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from dataclasses import asdict
from typing import Annotated

import typer

from factory.cli.chosen import open_recipe
from factory.cli.opening import open_ledger, open_workspace
from factory.cli.terminal import err, escape, out, out_indented, write_json
from factory.domain.failures import InputError
from factory.judge.cases import check_content
from factory.judge.rulebook import Rulebook
from factory.ledger.history import finished_rounds, lessons
from factory.ledger.lock import WorkspaceLock
from factory.round.rejudge import JudgementChange, Rejudgement, rejudge
from factory.workspace.prompts import Prompts
from factory.workspace.settings import load_settings


def check(
    round_number: Annotated[int, typer.Option("--round", help="Round; 0 is the latest.")] = 0,
    every: Annotated[bool, typer.Option("--all", help="Every finished round, in order.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the differences, append nothing.")
    ] = False,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="A value of the vote, e.g. vote.minimum=2")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a change.")] = False,
) -> None:
    """Judge a round's stored answers again with today's rules; no model is asked.

    The result is appended as the round's judgement that counts from then on, and what is accepted
    or rejected otherwise than before is listed. What was trained stays as it was.

    factory check --dry-run

    factory check --round 1 --set vote.minimum=2
    """
    workspace, ledger = open_workspace(), open_ledger()
    settings = load_settings(workspace)
    rulebook = Rulebook.load(workspace, settings.rules)
    check_content(Prompts.load(workspace), rulebook)
    given = open_recipe(workspace, settings, overrides=overrides)
    flags = [key for key, origin in given.origins.items() if origin == "flag"]
    if foreign := [key for key in flags if not key.startswith("vote.")]:
        raise InputError(
            f"{foreign[0]} does not change how stored answers are judged",
            remedy="only vote.minimum and vote.plurality do",
        )
    with nullcontext() if dry_run else WorkspaceLock(workspace.state):
        finished = finished_rounds(ledger)
        judged = [number for number in finished if number not in lessons(ledger)]
        if not judged and not round_number:
            raise InputError("no round has answers of a model yet", remedy="factory round --n 64")
        for number in judged if every else [round_number or judged[-1]]:
            result = rejudge(workspace, ledger, rulebook, number, given)
            if not dry_run:
                ledger.append(result.rows)
                ledger.fold()
            if as_json:
                for change in result.changes:
                    write_json({"round": number, "judgement": result.judgement} | asdict(change))
            else:
                _print_result(result, rulebook.sha, dry_run)
            if not result.codes_judged:
                err(f"[dim]round {number}: proposed codes are not judged, no codebook is there[/]")


def _print_result(result: Rejudgement, rules_sha: str, dry_run: bool) -> None:
    kept = "nothing appended" if dry_run else f"appended as judgement {result.judgement}"
    statuses = ("accepted", "rejected", "unjudged")
    counts = " + ".join(f"{result.counts.get(status, 0)} {status}" for status in statuses)
    out(f"[bold]round {result.number}[/]  rules {escape(rules_sha)}, {kept}")
    out(f"  {sum(result.counts.values())} samples = {counts}; {len(result.changes)} changed")
    groups = Counter(map(_group, result.changes))
    for group, count in sorted(groups.items(), key=lambda item: (-item[1], item[0])):
        before, after = group
        out(f"  [bold]{count:>6}[/]  {escape(before)} → {escape(after)}")
        example = next(change for change in result.changes if _group(change) == group)
        out(f"          {escape(example.query_id)}")
        out_indented(example.query, 10, "dim")
        if example.message:
            out_indented(example.message, 10)
    if result.changes and not dry_run:
        of = f"where round = {result.number} and judgement = {result.judgement}"
        out(f'  factory sql "select * from judgement_change {of}"')


def _group(change: JudgementChange) -> tuple[str, str]:
    """What it was and what it is now, with the reason."""
    before = f"{change.status_before} {change.reason_before}".strip()
    return before, f"{change.status_after} {change.reason_after}".strip()
