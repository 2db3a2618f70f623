"""What the ledger says: the commands that read it, also while a round runs."""

from __future__ import annotations

import typer

from factory.cli.export import export
from factory.cli.rejects import rejects
from factory.cli.report import report
from factory.cli.show import show
from factory.cli.sql import sql
from factory.cli.status import status


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    for command in (sql, rejects, show, status, report, export):
        app.command(rich_help_panel="Ask")(command)
