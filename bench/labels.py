"""Share and precision of the labels that a round keeps, by how its answers vote.

    factory round --n 1000 --set calls.more=10 --set vote.minimum=5 \\
      --set 'vote.bar=["reject","call/ungrounded_value"]' --set train.min_accepted=1000000
    python -m bench.labels .

Judges the samples of the last round again, once for each way to vote, and compares what the rules
about single samples accept with the right labels, which the home world has; nothing is written. A
round that was sampled as above, untrained, asked more answers wherever five did not agree, so that
every row of the table is of the same answers. Intervals are Wilson's, 95 %.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.table import Cell, print_machine, print_table
from factory.domain.canon import query_id
from factory.domain.records import Call, Candidate
from factory.judge.keys import make_key
from factory.judge.rulebook import Rulebook
from factory.judge.sample import Judgement
from factory.lab.home.world import FreshItem, fresh_item
from factory.ledger import history
from factory.ledger.database import Ledger
from factory.round.rejudge import Recorded, judge_again, read_samples
from factory.score.estimates import wilson
from factory.workspace.folder import Workspace
from factory.workspace.recipe import VoteSection

BAR = ["reject", "call/ungrounded_value"]
WAYS: dict[str, dict[str, Any]] = {
    "published: most votes win": {"plurality": True},
    "majority (the default)": {},
    "majority, rejects barred": {"bar": ["reject"]},
    "majority, invented values barred": {"bar": ["call/ungrounded_value"]},
    "majority, both barred": {"bar": BAR},
    "4 of 5": {"minimum": 4},
    "4 of 5, both barred": {"minimum": 4, "bar": BAR},
    "5 of 5": {"minimum": 5},
    "5 of 5, both barred": {"minimum": 5, "bar": BAR},
}
"""Ways to vote on the first answers."""
ITEMS: dict[str, FreshItem] = {}
"""Right labels by query id."""
SHARES = (0.5, 0.6, 0.8)
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
        rulebook = Rulebook.load(workspace)
        recorded = read_samples(past, number, rulebook, None)
    for item in map(fresh_item, range(4 * len(recorded))):
        ITEMS[query_id(item.query)] = item
    columns = ("vote", "kept, %", "right of kept, %", "from", "to", "right of all, %")
    # All of all answers cannot agree where the first do not: more are asked for in vain.
    only = {"more": most}
    rows = [_row(recorded, rulebook, name, way | only) for name, way in WAYS.items()]
    print_table(f"{first} answers a request, {len(recorded)} requests", columns, rows)
    if not most:
        return
    rows = [
        _row(
            recorded,
            rulebook,
            f"{minimum} of {first}, else {needed} of {most}",
            {"minimum": minimum, "bar": BAR, "more": needed},
        )
        for minimum in range(first // 2 + 1, first + 1)
        for needed in sorted({int(share * most) + 1 for share in SHARES})
    ]
    title = f"{most - first} more where those do not agree ({asked} requests), both barred"
    print_table(title, columns, rows)


def _row(
    recorded: Sequence[Recorded], rulebook: Rulebook, name: str, way: Mapping[str, Any]
) -> list[Cell]:
    section = VoteSection.model_validate(way)
    judgement = Judgement(rulebook=rulebook, vote=section, round_number=1, number=1)
    samples = asyncio.run(judge_again(recorded, judgement, {}))
    labels = [sample.candidate for sample in samples if sample.status == "accepted"]
    right = sum(map(_is_right, labels))
    low, high = wilson(right, len(labels))
    kept, drawn = len(labels), len(recorded)
    return [name, 100 * kept / drawn, 100 * right / max(1, kept), low, high, 100 * right / drawn]


def _is_right(label: Candidate) -> bool:
    """Whether a label is that of its request in the home world."""
    tools = {tool.name: tool for tool in label.tools}
    wanted = [Call(**row) for row in ITEMS[label.query.id].calls]
    return make_key(label.calls, tools).text == make_key(wanted, tools).text


if __name__ == "__main__":
    main()
