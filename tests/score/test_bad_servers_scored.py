"""Scores by servers that fail: none of errors alone, and what has no answer is told."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from bad_server import GOOD, Handler, Mode, body, drip, hang, message, serving
from workspaces import make_workspace

from factory.cli.app import app
from factory.domain.failures import ContentError, MissingError
from factory.engines import http
from factory.ledger.database import Ledger
from factory.score.loading import load
from factory.workspace.folder import Workspace

pytest.importorskip("httpx", reason="no httpx: pip install 'tool-factory[http]'")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    made = make_workspace(tmp_path / "ws")
    monkeypatch.chdir(made.root)
    monkeypatch.setattr(http, "FIRST_WAIT_SECONDS", 0.001)
    return made


def score(mode: Mode, *arguments: str) -> None:
    """Twelve items of the home world, four categories of three."""
    with serving(mode) as server:
        common = ("score", "home", "--limit", "3", "--checkpoint", f"{server.url}#m")
        app([*common, "--threads", "1", *arguments], standalone_mode=False)


def rows(workspace: Workspace) -> int:
    counts = [
        Ledger(workspace.state).query(f"select count(*) from {table}").rows[0][0]
        for table in ("score", "item_score")
    ]
    return sum(counts)


@pytest.mark.parametrize(
    "mode",
    [
        lambda h, _: h.answer(b"out of memory", 500),
        lambda h, _: h.answer(b"<html>Sign in</html>"),
        lambda h, _: h.answer(b'{"error": "maximum context length is 8"}', 400),
        message(content=None, tool_calls="look()"),
    ],
)
def test_errors_alone_are_no_score(workspace: Workspace, mode: Mode) -> None:
    with pytest.raises(MissingError, match="nothing but errors") as error:
        score(mode)
    assert error.value.exit_code == 3 and rows(workspace) == 0


@pytest.mark.parametrize("mode", [hang, drip])
def test_a_server_that_hangs_ends_at_the_timeout_of_the_definition(
    workspace: Workspace, mode: Mode
) -> None:
    (workspace.root / "eval").mkdir(exist_ok=True)
    text = workspace.find("eval/home.toml").read_text("utf-8")
    (workspace.root / "eval/home.toml").write_text("timeout_seconds = 0.5\n" + text, "utf-8")
    started = time.monotonic()
    with pytest.raises(MissingError, match=r"within 0\.5 s"):
        score(mode)
    assert time.monotonic() - started < 120 and rows(workspace) == 0


def failing(*failing: int) -> Mode:
    """Fails whenever one of these requests, by the order of their first try, is asked."""
    order: list[str] = []

    def mode(handler: Handler, sent: dict[str, Any]) -> None:
        key = json.dumps(sent["messages"])
        if key not in order:
            order.append(key)
        good = order.index(key) not in failing
        (body(GOOD) if good else body({"error": "overloaded"}))(handler, sent)

    return mode


def test_items_without_an_answer_are_counted_and_too_many_make_a_score_incomplete(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    score(failing(3, 7), "--json")
    found = json.loads(capsys.readouterr().out)
    assert (found["items"], found["unanswered"], found["complete"]) == (12, 2, False)
    score(failing(3, 7))
    shown = " ".join(capsys.readouterr().out.split())
    assert "no answer 2 of 12 items" in shown and "2 engine_died" in shown
    assert "incomplete less than 95 % of the items have an answer" in shown
    score(failing(3), "--set", "min_answered=0.9", "--json")
    found = json.loads(capsys.readouterr().out)
    assert (found["unanswered"], found["complete"]) == (1, True)
    assert found["benchmark"] == "home[limit=3]", "how long one waits is no other benchmark"
    (row,) = (
        Ledger(workspace.state)
        .query("select distinct message from item_score where reason = 'engine_died'")
        .rows
    )
    assert "not an answer of an OpenAI-compatible server" in row[0] and "overloaded" in row[0]
    score(failing(), "--json")
    assert json.loads(capsys.readouterr().out)["complete"]


@pytest.mark.parametrize("change", [{"timeout_seconds": 0}, {"min_answered": 2}])
def test_patience_is_checked(workspace: Workspace, change: dict[str, Any]) -> None:
    for name in ("home", "memory"):
        with pytest.raises(ContentError, match=next(iter(change))):
            load(workspace, name, change)
        assert load(workspace, name, {"timeout_seconds": 7}).patience.timeout_seconds == 7
