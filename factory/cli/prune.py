"""`factory prune`: remove checkpoints that nothing needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from factory.cli.chosen import open_recipe
from factory.cli.opening import open_workspace
from factory.cli.options import DryRun, Recipe
from factory.cli.terminal import out, print_table
from factory.deploy.running import find_running
from factory.ledger.database import Ledger
from factory.ledger.lock import WorkspaceLock
from factory.round.pruning import FOLDER, remove, survey, told
from factory.workspace.settings import load_settings


def prune(
    keep: Annotated[
        list[str] | None, typer.Option(help="A checkpoint to keep too, by id or name.")
    ] = None,
    recipe: Recipe = "",
    dry_run: DryRun = False,
) -> None:
    """Remove checkpoints that nothing needs: neither the best, nor a parent, nor named.

    The ledger keeps their rows. Kept are those that the next round or an open one starts from, the
    best on the recipe's dev benchmark, any that a file of the workspace, or --keep, names, and any
    that is served.

    factory prune --dry-run

    factory prune --keep r3
    """
    workspace = open_workspace()
    settings = load_settings(workspace)
    resolved = open_recipe(workspace, settings, recipe, None)
    with WorkspaceLock(workspace.state):
        made = workspace.state.resolve() / FOLDER
        served = [
            server.checkpoint
            for server in find_running(workspace.state)
            if Path(server.folder).is_relative_to(made)
        ]
        with Ledger(workspace.state).read() as past:
            names = [*(keep or ()), *served]
            found = survey(workspace, settings, past, resolved.recipe.score.dev, names)
        if not found:
            out("no round has made a checkpoint")
            return
        rows = [(each.path.name, told(each.size), each.why or "is removed") for each in found]
        print_table(("checkpoint", "size", "why"), rows)
        unneeded = [each for each in found if not each.why]
        freed = sum(each.size for each in unneeded) if dry_run else remove(unneeded)
    done = "would be removed" if dry_run else "removed"
    out(f"{len(unneeded)} of {len(found)} checkpoints {done}, {told(freed)}")
