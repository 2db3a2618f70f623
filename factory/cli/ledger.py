"""What the ledger says: the commands that read it, also while a round runs."""

from __future__ import annotations

import typer

from factory.cli.opening import open_ledger
from factory.cli.rejects import rejects
from factory.cli.show import show
from factory.cli.sql import Json, sql, write_records
from factory.cli.terminal import out, print_table


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    for command in (sql, rejects, show, status):
        app.command(rich_help_panel="Ask")(command)


def status(as_json: Json = False) -> None:
    """Rounds so far: yield, scores, the model in use, and what is running.

    factory status
    """
    ledger = open_ledger()
    yields = ledger.query("select * from round_yield order by round")
    if as_json:
        write_records(yields)
        return
    if not yields.rows:
        out("no round yet: `factory round --n 64` starts one")
        return
    print_table(yields.columns, yields.rows)
    out()
    lineage = ledger.query(
        "select checkpoint_id, parent_id, round, promoted, home_before, home_after "
        "from lineage order by round"
    )
    print_table(lineage.columns, lineage.rows)
    from factory import history

    this = history.open_round(ledger)
    if this is not None:
        pending = len(history.pending_queries(ledger, this.number))
        out(
            f"\nround {this.number} is open: {pending} queries without a sample; done: "
            f"{', '.join(sorted(this.stages_done))}. `factory round` continues it."
        )
