"""The workspace and its files: init, doctor, rules, eject, diff."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factory.cli.opening import open_workspace
from factory.cli.terminal import err, escape, out, print_table, write, write_json
from factory.domain.failures import InputError
from factory.workspace.folder import Workspace, shipped_root

if TYPE_CHECKING:
    from factory.judge.rulebook import Rulebook

FilePath = Annotated[str, typer.Argument(help="A path, e.g. prompts/tools/system.j2")]


def init(folder: Annotated[Path, typer.Argument(help="A new or existing folder.")]) -> None:
    """Make a workspace: settings, .gitignore and folders for your own files.

    factory init ~/my-factory
    """
    from factory.workspace.scaffold import init_workspace

    workspace = init_workspace(folder)
    out(f"{escape(workspace.root)} is a workspace now.")
    out("Edit factory.toml (your model, your query files), then: cd there && factory round --n 64")


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a check.")] = False,
) -> None:
    """Check everything that a round needs, and say how to mend what is missing.

    factory doctor
    """
    from factory.round.doctor import examine

    bad = False
    colors = {"ok": "green", "warn": "yellow", "bad": "red"}
    for finding in examine(open_workspace()):
        bad |= finding.state == "bad"
        if as_json:
            record = {
                "name": finding.name,
                "state": finding.state,
                "detail": finding.detail,
                "remedy": finding.remedy,
            }
            write_json(record)
            continue
        color = colors[finding.state]
        out(f"[{color}]{finding.state:<4}[/] [bold]{finding.name:<9}[/] {escape(finding.detail)}")
        if finding.remedy:
            out(f"               [green]{escape(finding.remedy)}[/]")
    if bad:
        raise typer.Exit(3)


def rules(
    action: Annotated[str, typer.Argument(help="`test` is --test.", show_default=False)] = "",
    test: Annotated[bool, typer.Option("--test", help="Run every rule's own cases.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a rule.")] = False,
) -> None:
    """List the rules with severity, file and why; --test runs the cases beside them.

    factory rules

    factory rules --test
    """
    from factory.judge.cases import run_cases
    from factory.judge.rulebook import Rulebook
    from factory.workspace.settings import load_settings

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
    """A line a rule."""
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


def eject(path: FilePath) -> None:
    """Copy one shipped file into the workspace, to edit it.

    factory eject prompts/calls/system.j2
    """
    from factory.workspace.scaffold import eject as eject_file

    out(f"edit {escape(eject_file(open_workspace(), path))}")


def diff(path: FilePath) -> None:
    """Show how your copy of a file differs from the shipped one.

    factory diff prompts/calls/system.j2
    """
    from factory.workspace.scaffold import diff as diff_file

    write(diff_file(open_workspace(), path))
