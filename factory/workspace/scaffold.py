"""New workspaces, and copies of shipped files to edit in one."""

from __future__ import annotations

import difflib
import shutil
from pathlib import Path

from factory.domain.failures import InputError
from factory.workspace.folder import CONTENT_FOLDERS, MARKER, Workspace, shipped_root

GITIGNORE = "/.factory/\n"


def init_workspace(folder: Path) -> Workspace:
    """Make `folder` a workspace: the settings file, a .gitignore, four empty folders.

    Raises InputError where it is one already; other files in it stay as they are.
    """
    if (folder / MARKER).exists():
        raise InputError(f"{folder} is a workspace already", where=str(folder / MARKER))
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file", remedy="name a folder")
    for name in CONTENT_FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(shipped_root() / MARKER, folder / MARKER)
    ignore = folder / ".gitignore"
    if not ignore.exists():
        ignore.write_text(GITIGNORE, encoding="utf-8")
    return Workspace(folder.resolve())


def eject(workspace: Workspace, path: str) -> Path:
    """Copy one shipped file into the workspace for editing. Raises InputError, ContentError."""
    source = workspace.find(path)
    folders = (*CONTENT_FOLDERS, "plans")
    if Path(path).parts[:1] not in [(folder,) for folder in folders]:
        raise InputError(
            f"{path} is no content to edit",
            remedy=f"name a file below {', '.join(f'{folder}/' for folder in folders)}",
        )
    target = workspace.root / path
    if target.exists():
        raise InputError(f"{path} is in the workspace already", where=str(target))
    if not source.is_file():
        raise InputError(f"{path} is a folder", remedy="name one file of it")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return target


def diff(workspace: Workspace, path: str) -> str:
    """Unified diff of the shipped file against the workspace's own; empty where equal."""
    mine, shipped = workspace.root / path, shipped_root() / path
    for file in (mine, shipped):
        if not file.is_file():
            raise InputError(
                f"no such file: {file}", remedy="both a shipped and an own file differ"
            )
    return "".join(
        difflib.unified_diff(
            shipped.read_text(encoding="utf-8").splitlines(keepends=True),
            mine.read_text(encoding="utf-8").splitlines(keepends=True),
            f"shipped/{path}",
            path,
        )
    )
