"""`factory backup`: a copy of the workspace, also while a round runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from factory.cli.opening import open_workspace
from factory.cli.terminal import escape, out
from factory.round.backup import back_up
from factory.round.pruning import size_of, told


def backup(
    folder: Annotated[Path, typer.Argument(help="A folder that is not there yet.")],
) -> None:
    """Copy the workspace; a round that runs in it goes on, and can go on in the copy.

    factory backup ../saved
    """
    back_up(open_workspace(), folder)
    out(f"{told(size_of(folder))} in {escape(folder.resolve())}; `factory round` goes on there")
