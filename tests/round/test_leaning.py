"""Drawing where the model is weak: which requests are taken before others, and why."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from conftest_models import tiny_model
from workspaces import make_workspace

from factory.cli.monitor import PlainMonitor
from factory.domain.canon import query_id
from factory.domain.records import Query
from factory.ledger import history
from factory.ledger.database import Ledger
from factory.ledger.history import Fate
from factory.ledger.rows import stage_row
from factory.round.factory import load_factory
from factory.round.leaning import lean, weigh
from factory.round.start import start
from factory.workspace.recipe import load_recipe
from factory.workspace.settings import load_settings

FATES = [
    Fate("q_ferry", "Which ferry leaves Oslo tomorrow?", 1.0, "vote_tie"),
    Fate("q_boat", "Which ferry takes a car to Kiel?", 1.0, "wrong_type"),
    Fate("q_table", "Book a table for four people", 0.0, "votes"),
    Fate("q_room", "Book a room for two people", 0.4, "votes"),
    *(Fate(f"q_{n}", f"Tell me joke number{'x' * n} please", 0.0, "votes") for n in range(8)),
]


def asked(*texts: str) -> list[Query]:
    return [Query(id=query_id(text), text=text, source="test") for text in texts]


FRESH = asked(
    "Book a table for six people",
    "Sing a song",
    "Is there a ferry to Kiel on Monday?",
    "Book a room for six people",
    "Does the ferry take dogs?",
    "Tell me a joke please",
)


def test_requests_are_as_weak_as_those_they_are_like() -> None:
    found = weigh(FRESH, FATES)
    weakness = {place: leaning.weakness for place, leaning in found.items()}
    assert weakness.keys() == {0, 2, 3, 4}
    assert weakness[2] > weakness[3] > weakness[0] > 0 and weakness[4] > weakness[3]
    assert all(0 < value < 1 for value in weakness.values())
    assert found[2].reason == "like q_boat (wrong_type)"
    assert found[3].reason == "like q_room (votes)"


@pytest.mark.parametrize(
    ("count", "share", "places", "weak"),
    [
        (2, 0.0, [0, 1], []),
        (2, 0.5, [0, 2], [2]),
        (3, 0.5, [0, 2, 4], [2, 4]),
        (4, 1.0, [0, 2, 3, 4], [0, 2, 3, 4]),
        (6, 1.0, [0, 1, 2, 3, 4, 5], [0, 2, 3, 4]),
        (9, 0.2, [0, 1, 2, 3, 4, 5], [2]),
    ],
)
def test_a_share_is_the_weakest_and_the_rest_the_first(
    count: int, share: float, places: list[int], weak: list[int]
) -> None:
    drawn, reasons = lean(FRESH, count, share, FATES)
    assert drawn == [FRESH[place] for place in places]
    assert reasons.keys() == {FRESH[place].id for place in weak}
    assert lean(FRESH, count, share, FATES) == (drawn, reasons)


def test_where_nothing_failed_all_are_drawn_in_order() -> None:
    good = [fate._replace(weakness=0.0) for fate in FATES]
    assert lean(FRESH, 2, 1.0, good) == (FRESH[:2], {})
    assert lean(FRESH, 2, 1.0, []) == (FRESH[:2], {})


def test_a_round_draws_what_is_like_the_failures_of_the_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = make_workspace(tmp_path / "ws")
    tiny_model(workspace.root / "model")
    text = workspace.marker.read_text(encoding="utf-8")
    workspace.marker.write_text(text.replace("rounds/seed", "model"), encoding="utf-8")
    recipe = load_recipe(workspace, "cpu", {"draw.weak": "0.5"})
    settings = load_settings(workspace)
    factory = load_factory(workspace, settings, recipe, PlainMonitor(), FRESH)
    now = datetime.now(UTC)
    common = {"round": 1, "judgement": 1, "stage": "vote", "finished_at": now}
    rows = {
        "round": [{"round": 1, "recipe_name": "cpu", "recipe_json": "{}", "started_at": now}],
        "judgement": [{"round": 1, "judgement": 1}],
        "stage": [stage_row(1, "gate", now)],
        "query": [{"query_id": f.query_id, "text": f.text, "source": "test"} for f in FATES],
        "draw": [{"round": 1, "position": n, "query_id": f.query_id} for n, f in enumerate(FATES)],
        "vote": [
            {"round": 1, "judgement": 1, "query_id": f.query_id, "margin": 1 - f.weakness}
            for f in FATES
        ],
        "sample": [
            common
            | {
                "query_id": f.query_id,
                "status": "accepted" if f.weakness < 1 else "rejected",
                "reason": "" if f.weakness < 1 else f.reason,
                "tools_json": "[]",
                "calls_json": "[]",
            }
            for f in FATES
        ],
    }
    Ledger(workspace.state).append(rows)  # type: ignore[arg-type]
    found = history.recent_fates(factory.ledger, 2, 3)
    assert [(f.query_id, f.reason) for f in found] == [(f.query_id, f.reason) for f in FATES]
    assert [f.weakness for f in found] == pytest.approx([f.weakness for f in FATES])
    assert history.recent_fates(factory.ledger, 1, 3) == []
    this = start(factory, 2)
    assert this.number == 2
    sql = "select query_id, chosen from draw where round = 2 order by position"
    assert factory.ledger.query(sql).rows == [
        (FRESH[0].id, ""),
        (FRESH[2].id, "like q_boat (wrong_type)"),
    ]
    told = capsys.readouterr().err
    assert "draw.weak: 1 of 2 requests are drawn because they are like ones that failed" in told
