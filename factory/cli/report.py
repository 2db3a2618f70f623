"""report: rounds as pages for a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from factory.cli.opening import open_ledger, open_workspace
from factory.cli.rejects import latest_round
from factory.cli.terminal import escape, out
from factory.report.page import write_reports, write_round


def report(
    round_number: Annotated[
        int, typer.Option("--round", help="Round; 0 is the latest.", min=0)
    ] = 0,
    out_path: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="A folder, or a file (….html) for the round's page alone; .factory/reports.",
            show_default=False,
        ),
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
) -> None:
    """Write a round as one HTML page, and one over all rounds beside it; prints the path.

    factory report

    factory report --round 3 --out round3.html --open
    """
    workspace, ledger = open_workspace(), open_ledger()
    number = round_number or latest_round(ledger)
    if out_path is not None and out_path.suffix == ".html":
        page = write_round(workspace, ledger, number, out_path)
    else:
        page = write_reports(workspace, ledger, number, out_path)
    out(escape(page))
    if open_page:
        typer.launch(page.resolve().as_uri())
