"""`factory doctor`: what a round needs, and how to mend what is missing."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from factory.cli.opening import open_workspace
from factory.cli.options import AirGap
from factory.cli.terminal import escape, out, write_json
from factory.round.doctor import examine
from factory.workspace import airgap


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a check.")] = False,
    air_gap: AirGap = False,
) -> None:
    """Check everything that a round needs, and say how to mend what is missing.

    factory doctor
    """
    workspace = open_workspace()
    if air_gap:
        airgap.enter()
    bad = False
    colors = {"ok": "green", "warn": "yellow", "bad": "red"}
    for finding in examine(workspace):
        bad |= finding.state == "bad"
        if as_json:
            write_json(asdict(finding))
            continue
        color = colors[finding.state]
        out(f"[{color}]{finding.state:<4}[/] [bold]{finding.name:<9}[/] {escape(finding.detail)}")
        if finding.remedy:
            out(f"               [green]{escape(finding.remedy)}[/]")
    if bad:
        raise typer.Exit(3)
