"""New tools in a checkpoint's codes, without training: they can be named, and called, at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from factory.codes.saving import SavedCodebook, load_codebook
from factory.domain.failures import InputError
from factory.domain.monitor import Monitor
from factory.domain.records import Tool
from factory.ledger import history
from factory.ledger.database import Ledger
from factory.ledger.rows import tool_rows
from factory.score.rows import code_row
from factory.train.preview import CodingJob, add_codes
from factory.workspace.folder import Workspace


def load_codes(folder: Path) -> SavedCodebook:
    """A checkpoint's codebook. Raises InputError where it has none."""
    codebook = load_codebook(folder)
    if codebook is None:
        raise InputError(
            "this model has no codes yet",
            where=str(folder),
            remedy="a round gives them, or `factory codes fit --out FOLDER`",
        )
    return codebook


def changeable_codes(workspace: Workspace, ledger: Ledger, folder: Path) -> SavedCodebook:
    """The codes of a checkpoint that may get more. Raises InputError for any other."""
    root, folder = workspace.root.resolve(), folder.resolve()
    if not folder.is_relative_to(root) or root / "rounds" in folder.parents:
        raise InputError(
            "this model is not the workspace's own, so its codes are left as they are",
            where=str(folder),
            remedy="run a round first, or `factory codes fit --out models/coded` and name that",
        )
    if history.open_round(ledger) is not None:
        remedy = "`factory round` continues it, --abandon ends it"
        raise InputError("a round is open", remedy=remedy)
    codebook = load_codes(folder)
    if codebook.coder.name == "atomic":
        raise InputError(
            "an atomic code is a new token, whose row only training can write",
            where=str(folder),
            remedy="factory add-tools FILE",
        )
    return codebook


def give_codes(
    workspace: Workspace,
    ledger: Ledger,
    folder: Path,
    tools: Sequence[Tool],
    *,
    source: str,
    threads: int,
    monitor: Monitor,
) -> tuple[list[Tool], SavedCodebook]:
    """Give tools codes in a checkpoint, where they have none; those that got one, and all codes.

    The caller holds the workspace's lock. Raises InputError for a checkpoint whose codes may not
    get more or are full, ChildError where the child dies that reads the documents.
    """
    codebook = changeable_codes(workspace, ledger, folder)
    fresh = [tool for tool in tools if tool.id not in codebook]

    def note_tools() -> None:
        imported = history.imported_ids(ledger)
        noted = [tool for tool in tools if tool.id not in imported]
        ledger.append({"tool": tool_rows(0, noted, source)})

    # First what may be repeated: stopped anywhere, the command mends itself when run again.
    if fresh:
        job = CodingJob(workspace=workspace.root, checkpoint=folder, tools=fresh)
        log = workspace.state / "logs" / "codes.log"
        making = add_codes(
            job, threads=threads, log=log, monitor=monitor, before_writing=note_tools
        )
        asyncio.run(making)
        codebook = load_codes(folder)
    else:
        note_tools()
    _note_codes(ledger, codebook, tools)
    return fresh, codebook


def _note_codes(ledger: Ledger, codebook: SavedCodebook, tools: Sequence[Tool]) -> None:
    """Write the tools' codes into the ledger, where it lacks them."""
    sql = "select tool_id from tool_code where codebook_version = ?"
    noted = {row[0] for row in ledger.query(sql, [codebook.version]).rows}
    wanted = {tool.id for tool in tools} - noted
    rows = [code_row(0, codebook, entry) for entry in codebook.tools if entry.tool.id in wanted]
    ledger.append({"tool_code": rows})
    ledger.fold()
