"""Share and precision of the labels that a round keeps, by how its answers vote.

    factory round --n 1000 --set calls.more=10 --set vote.minimum=5 \\
      --set 'vote.bar=["reject","call/ungrounded_value"]' --set train.min_accepted=1000000
    python -m bench.labels .

Judges the last round of a workspace again, once for each way to vote, and compares what it accepts
with the right labels, which the home world has; nothing is written. A round that was sampled as
above, untrained, asked more answers wherever five did not agree, so that every row of the table is
of the same answers. Intervals are Wilson's, 95 %.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from bench.table import Cell, print_machine, print_table
from factory.judge.rulebook import Rulebook
from factory.ledger import history
from factory.ledger.database import Ledger
from factory.round.ablation import count_right
from factory.round.rejudge import rejudge
from factory.score.estimates import wilson
from factory.workspace.folder import Workspace
from factory.workspace.recipe import load_recipe
from factory.workspace.settings import load_settings

BAR = '["reject", "call/ungrounded_value"]'
WAYS: dict[str, dict[str, str]] = {
    "published: most votes win": {"plurality": "true"},
    "majority (the default)": {},
    "majority, rejects barred": {"bar": '["reject"]'},
    "majority, invented values barred": {"bar": '["call/ungrounded_value"]'},
    "majority, both barred": {"bar": BAR},
    "4 of 5": {"minimum": "4"},
    "4 of 5, both barred": {"minimum": "4", "bar": BAR},
    "5 of 5": {"minimum": "5"},
    "5 of 5, both barred": {"minimum": "5", "bar": BAR},
}
"""Ways to vote on the first answers."""
SHARES = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Of all answers, what must agree where more were asked for."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("workspace", type=Path, help="folder of a workspace")
    workspace = Workspace(parser.parse_args().workspace.resolve())
    print_machine("duckdb")
    ledger = Ledger(workspace.state)
    with ledger.read() as past:
        number = history.last_round(past)
        sql = """
            select max(sample_index) filter (subject = '') + 1,
                   coalesce(max(sample_index) filter (subject = 'more') + 1, 0),
                   count(distinct query_id) filter (subject = 'more')
            from generation where round = ? and stage = 'calls'
            """
        first, most, asked = past.query(sql, [number]).rows[0]
    columns = ("vote", "kept, %", "right of kept, %", "from", "to", "right of all, %")
    # All of all answers cannot agree where the first do not: more are asked for in vain.
    only = {"more": str(most)} if most else {}
    rows = [_row(workspace, ledger, number, name, way | only) for name, way in WAYS.items()]
    print_table(f"{first} answers a request, round {number}", columns, rows)
    if not most:
        return
    rows = [
        _row(
            workspace,
            ledger,
            number,
            f"{minimum} of {first}, else {int(share * most) + 1} of {most}",
            {"minimum": str(minimum), "bar": BAR, "more": str(int(share * most) + 1)},
        )
        for minimum in range(first // 2 + 1, first + 1)
        for share in SHARES
    ]
    title = (
        f"{most - first} more where those do not agree (asked for {asked} requests), both barred"
    )
    print_table(title, columns, rows)


def _row(
    workspace: Workspace, ledger: Ledger, number: int, name: str, way: Mapping[str, str]
) -> list[Cell]:
    settings = load_settings(workspace)
    none = {"minimum": "0", "plurality": "false", "bar": "[]"}
    flags = {f"vote.{key}": value for key, value in {**none, **way}.items()}
    given = load_recipe(workspace, settings.recipe, {**flags, "calls.more": "256"})
    again = rejudge(workspace, ledger, Rulebook.load(workspace, settings.rules), number, given)
    with ledger.read(also=again.rows) as past:
        right = count_right(past, number) or 0
    kept, drawn = again.counts.get("accepted", 0), sum(again.counts.values())
    low, high = wilson(right, kept)
    return [name, 100 * kept / drawn, 100 * right / kept, low, high, 100 * right / drawn]


if __name__ == "__main__":
    main()
