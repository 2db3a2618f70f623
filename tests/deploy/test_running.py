"""A server's place, and which servers of a workspace run."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from workspaces import make_workspace, run_factory

from factory.cli.main import _end
from factory.deploy.running import (
    ServerPlan,
    find_port,
    find_running,
    is_healthy,
    need_vllm,
    noted,
)
from factory.deploy.served import VARIABLE, Served
from factory.domain.failures import BusyError, InputError, MissingError

SERVED = Served(folder="/ws/r1", workspace="/ws", scratch="/tmp/x")


def plan(port: int, host: str = "127.0.0.1") -> ServerPlan:
    return ServerPlan(served=SERVED, names=("r1",), host=host, port=port)


def test_a_port_is_found_or_named_as_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BusyError, match=f"port {port} of 127.0.0.1 is in use"):
            find_port("127.0.0.1", port)
        assert find_port("127.0.0.1", 0) != port
        assert not is_healthy(plan(find_port("127.0.0.1", 0)))
    with pytest.raises(InputError, match="nobody can listen"):
        find_port("192.0.2.1", 8000)


@pytest.mark.parametrize("missing", ["vllm", "torch"])
def test_without_vllm_nothing_is_served_and_the_remedies_are_named(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setattr("factory.deploy.running.is_installed", lambda package: package != missing)
    with pytest.raises(MissingError, match=f"^{missing} is not installed") as caught:
        need_vllm()
    assert caught.value.exit_code == 3
    for remedy in ("pip install", "keeps to no trie and no schema", "factory export model"):
        assert remedy in caught.value.remedy


def test_an_address_is_one_that_can_be_reached_from_here() -> None:
    assert plan(8000).url == "http://127.0.0.1:8000/v1"
    assert plan(8000, "0.0.0.0").url == "http://127.0.0.1:8000/v1"
    assert plan(8000, "::1").url == "http://[::1]:8000/v1"


def test_a_server_is_noted_while_it_runs(tmp_path: Path) -> None:
    with noted(tmp_path, plan(8000), "r1-06ca78"):
        (found,) = find_running(tmp_path)
        assert (found.checkpoint, found.folder, found.by_code) == ("r1-06ca78", "/ws/r1", True)
    assert find_running(tmp_path) == []


def test_a_note_of_a_server_that_was_killed_goes(tmp_path: Path) -> None:
    with noted(tmp_path, plan(8000), "r1"):
        note = tmp_path / "served" / "8000.json"
        note.write_text(json.dumps(json.loads(note.read_text("utf-8")) | {"pid": 2**22 + 1}))
        assert find_running(tmp_path) == [] and not note.exists()


def test_a_note_that_cannot_be_read_is_left(tmp_path: Path) -> None:
    """It may be one of another version, or be no note."""
    note = tmp_path / "served" / "8000.json"
    note.parent.mkdir()
    for text in ("", '{"pid": 1}', json.dumps({"pid": "x"})):
        note.write_text(text, encoding="utf-8")
        assert find_running(tmp_path) == [] and note.exists()


def test_a_server_of_another_user_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, number: int) -> None:
        raise PermissionError

    with noted(tmp_path, plan(8000), "r1"):
        monkeypatch.setattr("os.kill", refuse)
        assert [each.checkpoint for each in find_running(tmp_path)] == ["r1"]
        assert [path.name for path in (tmp_path / "served").iterdir()] == ["8000.json"]


@pytest.mark.parametrize(("command", "goes_on"), [("serve", False), ("round", True)])
def test_what_is_stopped_says_what_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, goes_on: bool
) -> None:
    monkeypatch.setattr("sys.argv", ["factory", command])
    with pytest.raises(SystemExit):
        _end(130)
    assert ("`factory round` continues" in capsys.readouterr().err) == goes_on


def test_what_is_served_crosses_an_environment() -> None:
    assert Served.from_environment(SERVED.environment()) == SERVED
    assert SERVED.environment().keys() == {VARIABLE}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--checkpoint", "r7"], "there is no checkpoint 'r7'"),
        (["--checkpoint", "http://127.0.0.1:1/v1#x"], "served already"),
        (["--record", "log.txt"], "transcripts are JSON lines"),
        (["--record", "/proc/none/log.jsonl"], "transcripts cannot be written"),
        (["--api-key", "schlüssel"], "letters that no header carries"),
    ],
)
def test_what_cannot_be_served_is_said(tmp_path: Path, options: list[str], said: str) -> None:
    folder = make_workspace(tmp_path / "ws").root
    assert said in run_factory("serve", *options, "--port", "0", cwd=folder, code=2).stderr
