"""`factory rules`: the rules in force, and their own cases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from factory.cli.opening import open_workspace
from factory.cli.terminal import err, escape, out, print_table, write_json
from factory.domain.failures import InputError
from factory.judge.cases import run_cases
from factory.judge.rulebook import Rulebook
from factory.workspace.folder import Workspace, shipped_root
from factory.workspace.settings import load_settings


def rules(
    action: Annotated[str, typer.Argument(help="`test` is --test.", show_default=False)] = "",
    test: Annotated[bool, typer.Option("--test", help="Run every rule's own cases.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a rule.")] = False,
) -> None:
    """List the rules with severity, file and why; --test runs the cases beside them.

    factory rules

    factory rules --test
    """
    workspace = open_workspace()
    rulebook = Rulebook.load(workspace, load_settings(workspace).rules)
    if action not in ("", "test"):
        raise InputError(f"rules can be listed and tested, not {action!r}", remedy="factory rules")
    if not (test or action):
        _list_rules(rulebook, workspace, as_json)
        return
    failures = run_cases(rulebook)
    for failure in failures:
        err(f"[red]failed[/] {escape(failure.where)} {escape(failure.message)}")
    out(f"{len(rulebook.rules)} rules, {len(failures)} failed cases")
    if failures:
        raise typer.Exit(1)


def _list_rules(rulebook: Rulebook, workspace: Workspace, as_json: bool) -> None:
    columns = ("rule", "reason", "severity", "why", "file")
    rows = [
        (
            rule.id,
            rule.reason,
            rule.severity if rule.active else "off",
            rule.why,
            _show_source(rule.sql_source or rule.source, workspace),
        )
        for _, rule in sorted(rulebook.rules.items())
    ]
    if not as_json:
        print_table(columns, rows, width=120)
    for row in rows if as_json else ():
        write_json(dict(zip(columns, row, strict=True)))


def _show_source(source: str, workspace: Workspace) -> str:
    """A file below the workspace's root, else among the shipped ones."""
    file = Path(source)
    if file.is_relative_to(workspace.root):
        return file.relative_to(workspace.root).as_posix()
    return f"shipped {file.relative_to(shipped_root()).as_posix()}"
