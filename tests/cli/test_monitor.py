"""Progress: the live lines and the plain ones tell stage, rate and what is left."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from factory.cli import monitor as module
from factory.cli.card import sparkline
from factory.cli.terminal import escape
from factory.domain.plaintext import clean, shorten


def drive(monitor: module.LiveMonitor | module.PlainMonitor) -> None:
    with monitor:
        monitor.stage("sample", 10)
        for done in range(11):
            monitor.progress(done, f"{done} [accepted]")
        monitor.note("the engine died: signal 9")
        monitor.stage("train")
        monitor.progress(3, "loss 0.5", 30)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=160, soft_wrap=True, highlight=False)
    monkeypatch.setattr(module, "stderr", console)
    monkeypatch.setattr(module, "PLAIN_SECONDS", 0.0)
    return text


@pytest.mark.parametrize("kind", [module.LiveMonitor, module.PlainMonitor])
def test_monitors_show_stages_notes_and_details(
    screen: io.StringIO, kind: type[module.LiveMonitor | module.PlainMonitor]
) -> None:
    drive(kind())
    text = screen.getvalue()
    for part in ("sample", "10 [accepted]", "the engine died: signal 9", "train", "loss 0.5"):
        assert part in text, part


def test_terminal_gets_one_monitor_and_a_file_the_other(
    screen: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(module.make_monitor(), module.LiveMonitor)
    monkeypatch.setattr(module, "stderr", Console(file=io.StringIO()))
    assert isinstance(module.make_monitor(), module.PlainMonitor)


def test_text_of_a_model_cannot_steer_the_terminal() -> None:
    assert clean("a\x1b[31mb\x07\u202ec\ud800") == "a\\x1b[31mb\\x07\\u202ec\\ud800"
    assert escape("[red]x[/]") == "\\[red]x\\[/]"
    assert shorten("a\n b " + "c" * 50, 10) == "a b ccccc…"


def test_sparkline_follows_its_values() -> None:
    assert sparkline([3.0, 2.0, 1.0]) == "█▅▁"
    assert len(sparkline([float(n) for n in range(1000)])) == 16
    assert sparkline([]) == ""
