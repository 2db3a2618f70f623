"""A workspace and its files: init, eject, diff."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from factory.cli.opening import open_workspace
from factory.cli.terminal import escape, out, write
from factory.workspace.scaffold import diff as diff_file
from factory.workspace.scaffold import eject as eject_file
from factory.workspace.scaffold import init_workspace

FilePath = Annotated[str, typer.Argument(help="A path, e.g. prompts/tools/system.j2")]


def init(folder: Annotated[Path, typer.Argument(help="A new or existing folder.")]) -> None:
    """Make a workspace: settings, .gitignore and folders for your own files.

    factory init ~/my-factory
    """
    workspace = init_workspace(folder)
    out(f"{escape(workspace.root)} is a workspace now.")
    out("Edit factory.toml (your model, your query files), then: cd there && factory round --n 64")


def eject(path: FilePath) -> None:
    """Copy one shipped file into the workspace, to edit it.

    factory eject prompts/calls/system.j2
    """
    out(f"edit {escape(eject_file(open_workspace(), path))}")


def diff(path: FilePath) -> None:
    """Show how your copy of a file differs from the shipped one.

    factory diff prompts/calls/system.j2
    """
    write(diff_file(open_workspace(), path))
