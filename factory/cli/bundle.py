"""`factory bundle`: all that a machine without a network needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from factory.cli.terminal import escape, note, out
from factory.round.bundle import bundle as write_bundle
from factory.round.pruning import size_of, told


def bundle(
    folder: Annotated[Path, typer.Argument(help="A folder that is not there yet.")],
    lock: Annotated[str, typer.Option(help="Whose wheels: cpu or gpu.")] = "cpu",
) -> None:
    """Copy the checkout and the wheels of its pins, to install where there is no network.

    factory bundle ../offline
    """
    write_bundle(folder, lock=lock, notify=note)
    out(f"{told(size_of(folder))} in {escape(folder.resolve())}; its README.md says how to install")
