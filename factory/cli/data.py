"""Bringing one's own data: add."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from factory.cli.opening import open_ledger, open_workspace
from factory.cli.terminal import err_some, escape, note, out
from factory.domain.jsontext import json_path
from factory.domain.records import Tool
from factory.judge.documents import find_unusable
from factory.judge.rulebook import Rulebook
from factory.judge.verdicts import check_document, first_reject
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
    as candidates from then on. A given catalogue is taken as it is: what the rules would reject of
    a model is said, and only what can be neither coded nor called is left out.

    factory add-tools my_apis.jsonl
    """
    workspace = open_workspace()
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
            note_rules(imported.items, workspace)
        ledger.fold()
    if num_bad:
        raise typer.Exit(1)


def find_fault(document: dict[str, Any]) -> str:
    """Why a document can be neither coded nor called; empty where it can."""
    fault = find_unusable(document)
    return f"tool_unusable at {json_path(fault.path)}: {fault.message}" if fault else ""


def note_rules(tools: Sequence[Tool], workspace: Workspace) -> None:
    """Say what the workspace's rules have against tools that are taken all the same."""
    rulebook = Rulebook.load(workspace, load_settings(workspace).rules)
    rejects = (first_reject(check_document(tool.document, rulebook=rulebook)) for tool in tools)
    reasons = Counter(reject.reason for reject in rejects if reject is not None)
    if reasons:
        listed = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        note(f"{reasons.total()} documents break rules for those that a model writes: {listed}")


def report_bad_lines(bad: tuple[BadLine, ...]) -> int:
    """Print lines that were not imported; how many there are."""
    lines = [f"[yellow]bad line[/] {escape(line.where)}: {escape(line.cause)}" for line in bad]
    err_some(lines, MAX_BAD_LINES_SHOWN)
    return len(bad)
