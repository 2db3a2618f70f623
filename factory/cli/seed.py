"""`factory seed`: the embedded model, trained from scratch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from factory.cli.terminal import err, escape
from factory.lab.seed.training import train_seed


def seed(
    folder: Annotated[Path, typer.Argument(help="Where the model goes.")],
    steps: Annotated[int, typer.Option(help="Training steps; 0 is the full run.", min=0)] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads.", min=1)] = 1,
) -> None:
    """Train the embedded model from scratch on the home world; an hour or two on a CPU.

    factory seed /tmp/seed --steps 200
    """
    train_seed(folder, steps=steps or None, threads=threads, report=lambda text: err(escape(text)))
