"""Bringing one's own data: add."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from factory.cli.monitor import make_monitor
from factory.cli.opening import open_ledger, open_workspace
from factory.cli.options import Mask
from factory.cli.terminal import err_some, escape, note, out
from factory.deploy.arriving import give_codes
from factory.deploy.running import RunningServer, find_running
from factory.domain.failures import InputError
from factory.domain.jsontext import json_path
from factory.domain.records import Tool
from factory.engines.serving import engine_settings
from factory.engines.toolserver import ask_server
from factory.judge.documents import find_unusable
from factory.judge.rulebook import Rulebook
from factory.judge.verdicts import check_document, first_reject
from factory.ledger.database import Ledger
from factory.ledger.history import imported_ids, imported_names
from factory.ledger.lock import WorkspaceLock
from factory.ledger.rows import tool_rows
from factory.tools.functions import read_functions
from factory.tools.rowfiles import BadLine
from factory.tools.sources import Change, Imported, list_counts, make_tools, read_tools
from factory.workspace.folder import Workspace
from factory.workspace.settings import load_settings

MAX_BAD_LINES_SHOWN = 20
MAX_NAMES_SHOWN = 5


def add_tools(
    files: Annotated[
        list[Path] | None, typer.Argument(help="JSON or YAML: tools, OpenAPI; or a folder.")
    ] = None,
    python: Annotated[
        list[str] | None,
        typer.Option("--python", help="module:function, or module: imported, nothing is called."),
    ] = None,
    mcp: Annotated[
        list[str] | None,
        typer.Option("--mcp", help="An MCP server: its command, or an address of your network."),
    ] = None,
    deprecated: Annotated[
        bool, typer.Option("--deprecated", help="Take deprecated operations of OpenAPI too.")
    ] = False,
    mask: Mask = False,
    report: Annotated[
        bool, typer.Option("--report", help="Print what was changed in each document.")
    ] = False,
) -> None:
    """Import tool documents: OpenAPI, MCP, OpenAI, BFCL, ToolBench and similar formats.

    They get codes in the next training, which learns their documents by heart, and are retrieved
    as candidates from then on; where a checkpoint is served, they get codes in it at once, if these
    need no training. A given catalogue is taken as it is: what the rules would reject of
    a model is said, and only what can be neither coded nor called is left out.

    factory add-tools my_apis.jsonl

    factory add-tools openapi.yaml --report

    factory add-tools --python my_package.tools:book_table

    factory add-tools --mcp "npx -y @modelcontextprotocol/server-filesystem ."
    """
    if not (files or python or mcp):
        raise InputError("no tools are named", remedy="factory add-tools FILE, --python or --mcp")
    workspace = open_workspace()
    with WorkspaceLock(workspace.state):
        ledger = open_ledger()
        known, names = imported_ids(ledger), imported_names(ledger)
        num_bad, given = 0, dict[str, Tool]()
        for name, imported in _read(files or [], python or [], mcp or [], deprecated, mask):
            fresh = {tool.id: tool for tool in imported.items if tool.id not in known}
            known |= fresh.keys()
            given |= {tool.id: tool for tool in imported.items}
            _note_names(fresh.values(), names)
            ledger.append({"tool": tool_rows(0, fresh.values(), name)})
            out(
                f"{escape(name)}: {len(fresh)} tools added, "
                f"{len(imported.items) - len(fresh)} known already, {len(imported.bad)} bad"
            )
            num_bad += report_bad_lines(imported.bad)
            _report(imported.changes, whole=report)
            if mask:
                note_masked(imported.masked, imported.masked_rows, len(imported.items), "documents")
            note_rules(imported.items, workspace)
        ledger.fold()
        for server in find_running(workspace.state):
            _make_callable(workspace, ledger, server, list(given.values()))
    if num_bad:
        raise typer.Exit(1)


def _make_callable(
    workspace: Workspace, ledger: Ledger, server: RunningServer, tools: Sequence[Tool]
) -> None:
    """Give tools codes in the checkpoint that a server serves, or say why that has to wait."""
    if not (server.by_code and tools):
        return
    threads = engine_settings(load_settings(workspace)).threads
    try:
        with make_monitor() as monitor:
            fresh, _ = give_codes(
                workspace,
                ledger,
                Path(server.folder),
                tools,
                source="add-tools",
                threads=threads,
                monitor=monitor,
            )
    except InputError as error:
        note(f"{server.url} cannot call them by code before the next training: {error.what}")
    else:
        out(
            f"{len(fresh)} tools can be called by code now at {server.url}, "
            f"{len(tools) - len(fresh)} could already"
        )


def _read(
    files: Sequence[Path], python: Sequence[str], mcp: Sequence[str], deprecated: bool, mask: bool
) -> Iterator[tuple[str, Imported[Tool]]]:
    """What each source gives, by the name that it is kept under."""
    for file in files:
        yield file.name, read_tools(file, find_fault, deprecated=deprecated, mask=mask)
    for target in python:
        made = read_functions(target)
        module = target.partition(":")[0]
        note(f"{module} was imported, which runs its top level; no function was called")
        rows = ((name, part) for name, part in made if not isinstance(part, str))
        lost = (BadLine(where=name, cause=part) for name, part in made if isinstance(part, str))
        read = make_tools(rows, find_fault, mask=mask)
        yield target, replace(read, bad=(*lost, *read.bad))
    for server in mcp:
        answer = ask_server(server)
        yield (
            str(answer.get("server", server)),
            make_tools([(server, answer)], find_fault, mask=mask),
        )


def _note_names(tools: Iterable[Tool], names: set[str]) -> None:
    """Say which names are borne by several tools; `names` are those before, and get the new."""
    borne = Counter(tool.name for tool in tools)
    shared = sorted(name for name, count in borne.items() if count > 1 or name in names)
    names |= borne.keys()
    if shared:
        listed = ", ".join(shared[:MAX_NAMES_SHOWN])
        more = f" and {len(shared) - MAX_NAMES_SHOWN} more" if len(shared) > MAX_NAMES_SHOWN else ""
        note(
            f"{len(shared)} names are borne by several tools: {listed}{more}. Each is coded, but "
            "only one of a name can be a candidate of a request"
        )


def _report(changes: Sequence[Change], *, whole: bool) -> None:
    """What was not taken as it was written: each of it, or how much there is."""
    if whole:
        for change in changes:
            out(escape("  ".join(filter(None, (change.where, change.tool, change.what)))))
    elif changes:
        num = len({change.where for change in changes})
        note(f"{num} documents were not taken as they were written: --report says what changed")


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


def note_masked(masked: Mapping[str, int], rows: int, total: int, what: str = "rows") -> None:
    """Say how much was put out of what is kept."""
    note(f"masked in {rows} of {total} {what}: {list_counts(masked) or 'nothing'}")


def report_bad_lines(bad: tuple[BadLine, ...]) -> int:
    """Print lines that were not imported; how many there are."""
    lines = [f"[yellow]bad line[/] {escape(line.where)}: {escape(line.cause)}" for line in bad]
    err_some(lines, MAX_BAD_LINES_SHOWN)
    return len(bad)
