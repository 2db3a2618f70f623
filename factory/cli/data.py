"""Bringing one's own data: add."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from factory.cli.opening import open_ledger, open_workspace
from factory.cli.terminal import err_some, escape, out
from factory.judge.rulebook import Rulebook
from factory.judge.verdicts import check_document
from factory.ledger.history import imported_ids
from factory.ledger.lock import WorkspaceLock
from factory.ledger.rows import tool_rows
from factory.tools.sources import BadLine, read_tools
from factory.workspace.folder import Workspace
from factory.workspace.settings import load_settings

MAX_BAD_LINES_SHOWN = 20


def add_tools(
    files: Annotated[list[Path], typer.Argument(help="JSON lines or JSON arrays.")],
) -> None:
    """Import tool documents: OpenAI, BFCL, ToolBench, ToolDev and similar formats.

    They get codes in the next training, which learns their documents by heart, and are retrieved
    as candidates from then on. The rules judge them as they judge the model's own: one that a rule
    rejects is reported and left out.

    factory add-tools my_apis.jsonl
    """
    workspace = open_workspace()
    find_fault = fault_finder(workspace)
    with WorkspaceLock(workspace.state):
        ledger = open_ledger()
        known = imported_ids(ledger)
        num_bad = 0
        for file in files:
            imported = read_tools(file, find_fault)
            fresh = {tool.id: tool for tool in imported.items if tool.id not in known}
            known |= fresh.keys()
            ledger.append({"tool": tool_rows(0, fresh.values(), file.name)})
            out(
                f"{escape(file.name)}: {len(fresh)} tools added, "
                f"{len(imported.items) - len(fresh)} known already, {len(imported.bad)} bad"
            )
            num_bad += report_bad_lines(imported.bad)
        ledger.fold()
    if num_bad:
        raise typer.Exit(1)


def fault_finder(workspace: Workspace) -> Callable[[dict[str, Any]], str]:
    """What the workspace's rules have against a tool document; empty: nothing."""
    rulebook = Rulebook.load(workspace, load_settings(workspace).rules)

    def find_fault(document: dict[str, Any]) -> str:
        verdicts = check_document(document, rulebook=rulebook)
        rejects = [verdict for verdict in verdicts if verdict.severity == "reject"]
        more = f"; {len(rejects) - 3} more" if len(rejects) > 3 else ""
        return "; ".join(f"{v.reason} at {v.path}: {v.message}" for v in rejects[:3]) + more

    return find_fault


def report_bad_lines(bad: tuple[BadLine, ...]) -> int:
    """Print lines that were not imported; how many there are."""
    lines = [f"[yellow]bad line[/] {escape(line.where)}: {escape(line.cause)}" for line in bad]
    err_some(lines, MAX_BAD_LINES_SHOWN)
    return len(bad)
