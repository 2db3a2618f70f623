"""Options that several commands have, worded once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Recipe = Annotated[str, typer.Option(help="Recipe; default: factory.toml's.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="A recipe value, e.g. train.epochs=2")
]
Model = Annotated[
    str, typer.Option(help="Model folder, kept in factory.toml; default: the one there.")
]
Threads = Annotated[int, typer.Option(help="CPU threads; 0: free cores.", min=0)]
Discard = Annotated[
    bool, typer.Option("--discard", help="Delete the checkpoints of finished trials.")
]
Mask = Annotated[
    bool, typer.Option("--mask", help="Put names, addresses, numbers and keys out of it first.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan, do nothing.")]
AirGap = Annotated[
    bool, typer.Option("--airgap", help="Run where nothing but this machine can be reached.")
]
Documents = Annotated[
    list[Path] | None, typer.Argument(help="Tool documents; default: those known here.")
]
AllowPublic = Annotated[
    bool, typer.Option("--allow-public-host", help="Let requests leave your network.")
]
