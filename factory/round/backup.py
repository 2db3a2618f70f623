"""A copy of a workspace that a round can go on from, made while another one runs there."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from factory.domain.failures import DiskError, InputError
from factory.ledger.database import Ledger
from factory.workspace.folder import Workspace

UNFINISHED = shutil.ignore_patterns("*.tmp", "*.job", "lock")
"""In the state folder: what is being written, and who writes it."""


def back_up(workspace: Workspace, target: Path) -> None:
    """Copy a workspace to a folder that is not there yet, whatever works in it meanwhile.

    The ledger is copied while a reader has it, so that nothing moves in it, and first: what a row
    speaks of is there before the row. A model outside of the workspace is not copied. Raises
    InputError for a target that is there or inside of the workspace, DiskError.
    """
    target = target.resolve()
    if target.exists():
        raise InputError(
            "there is something already", where=str(target), remedy="name a new folder"
        )
    if target.is_relative_to(workspace.root):
        raise InputError(
            "the copy would be inside of the workspace", where=str(target), remedy="name another"
        )
    part = target.with_name(f"{target.name}.part")
    if part.exists():
        raise InputError(
            "there is something already where the copy is written first",
            where=str(part),
            remedy="remove it if a copy was broken off there, or name another folder",
        )
    try:
        _copy_ledger(workspace, part / workspace.state.name)
        _copy(workspace.root, part)
        part.rename(target)
    except (OSError, shutil.Error) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise DiskError(
            f"the workspace cannot be copied: {error}",
            where=str(target),
            remedy="free some space there (`df -h`), or name a folder that is yours",
        ) from error


def _copy_ledger(workspace: Workspace, state: Path) -> None:
    """The file and what is not folded into it, as they are at one moment."""
    ledger = Ledger(workspace.state)
    state.mkdir(parents=True)
    with ledger.read():
        segments = workspace.state / "segments"
        if segments.exists():
            shutil.copytree(segments, state / segments.name, ignore=UNFINISHED)
        if ledger.file.exists():
            shutil.copy2(ledger.file, state)


def _copy(root: Path, target: Path) -> None:
    """All else; what goes while it is copied was unfinished."""
    state = Workspace(root).state
    held = {str(state / name) for name in ("ledger.duckdb", "segments")}

    def leave_out(folder: str, names: list[str]) -> set[str]:
        copied = {name for name in names if str(Path(folder, name)) in held}
        return copied | (UNFINISHED(folder, names) if Path(folder).is_relative_to(state) else set())

    def copy(source: str, to: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.copy2(source, to, follow_symlinks=False)

    shutil.copytree(
        root, target, symlinks=True, ignore=leave_out, copy_function=copy, dirs_exist_ok=True
    )
