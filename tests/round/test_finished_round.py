"""What a round leaves that was killed four times: its books, and what the pages say of a round."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from pages import BLOCKS, make_shell, pages_that_run, run_blocks
from real_round import FinishedRound, ask, check_books, make_quick_workspace, run_and_kill

NUM_QUERIES = 64
"""So many that five samples of some accepted request disagree, whose losers are exported."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished_round(tmp_path_factory: pytest.TempPathFactory) -> FinishedRound:
    """One real round for all tests that only look at what a round leaves."""
    workspace = make_quick_workspace(tmp_path_factory.mktemp("round") / "ws")
    return run_and_kill(workspace, NUM_QUERIES)


def test_killed_again_and_again_it_still_finishes(finished_round: FinishedRound) -> None:
    workspace, card = finished_round
    assert "round 1" in card
    check_books(workspace, 1, NUM_QUERIES)
    (row,) = ask(workspace, "select count(*) as n from checkpoint where round = 1")
    assert row["n"] == 1
    assert not list((workspace / ".factory").rglob("*.tmp"))


@pytest.mark.parametrize("page", pages_that_run("round"))
def test_commands_after_a_round_do_what_a_page_shows(
    page: str, tmp_path: Path, finished_round: FinishedRound
) -> None:
    workspace = tmp_path / "ws"
    shutil.copytree(finished_round.workspace, workspace)
    run_blocks(page, "round", workspace, make_shell(tmp_path))


def test_the_card_of_readme_has_the_lines_of_a_card(finished_round: FinishedRound) -> None:
    """Its numbers are those of one machine; its parts are those of every card."""
    (shown,) = (block.text for block in BLOCKS["README.md"] if "--n 64" in block.text)
    heads = re.compile(r"^(?:  )?([a-z]+)", re.MULTILINE)
    card = shown[shown.index("\nround 1") :]
    wanted = [word for word in heads.findall(card) if not word.startswith("home")]
    found = heads.findall(finished_round.card)
    assert [word for word in wanted if word not in found] == []
