"""`factory backup`: copies made at any stage of a round are rounds that go on to the same end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from conftest_models import tiny_model
from test_rejudge import POOL
from test_whole_round import open_replay, train_nothing
from workspaces import make_workspace, run_factory

from factory.cli.monitor import PlainMonitor
from factory.domain.failures import InputError
from factory.ledger.database import Ledger
from factory.round.backup import back_up
from factory.round.factory import load_factory
from factory.round.round import run_round
from factory.workspace.folder import Workspace
from factory.workspace.recipe import load_recipe
from factory.workspace.settings import load_settings


class CopyingMonitor(PlainMonitor):
    """Backs the workspace up, from a process of its own, where some stages begin."""

    def __init__(self, workspace: Workspace, copies: Path) -> None:
        super().__init__()
        self._workspace, self._copies = workspace, copies
        self.made: dict[str, Path] = {}

    def stage(self, name: str, total: int | None = None) -> None:
        super().stage(name, total)
        if (name := name.split()[0]) in ("score", "sample", "prepare") and name not in self.made:
            self.made[name] = self._copies / str(len(self.made))
            run_factory("backup", str(self.made[name]), cwd=self._workspace.root)


def go_round(workspace: Workspace, monitor: PlainMonitor) -> list[tuple[object, ...]]:
    """Run the round, or what is left of it; its samples."""
    settings = load_settings(workspace)
    recipe = load_recipe(workspace, "cpu", {"train.min_accepted": "1"})
    factory = load_factory(workspace, settings, recipe, monitor, POOL)
    result = asyncio.run(run_round(factory, len(POOL)))
    assert (result.number, result.promoted) == (1, True)
    sql = "select query_id, status, reason, calls_json from sample where round = 1 order by all"
    return list(factory.ledger.query(sql).rows)


@pytest.mark.slow
def test_a_copy_made_while_a_round_runs_goes_on_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = make_workspace(tmp_path / "ws")
    tiny_model(workspace.root / "model")
    text = workspace.marker.read_text(encoding="utf-8")
    workspace.marker.write_text(text.replace("rounds/seed", "model"), encoding="utf-8")
    monkeypatch.setattr("factory.engines.serving.open_engine", open_replay)
    monkeypatch.setattr("factory.round.training.run_training", train_nothing)
    monitor = CopyingMonitor(workspace, tmp_path / "copies")
    wanted = go_round(workspace, monitor)
    assert len(wanted) == len(POOL) and len(monitor.made) == 3
    workspace.root.rename(tmp_path / "aside")
    for name, copy in monitor.made.items():
        if name == "sample":  # put where the workspace was
            copy = copy.rename(workspace.root)
        assert go_round(Workspace(copy), PlainMonitor()) == wanted, name
        assert not list(copy.rglob("*.tmp")) and not (copy.parent / f"{copy.name}.part").exists()


def test_what_is_not_folded_is_in_the_copy_and_what_is_unfinished_is_not(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "ws", {"rounds/mine.toml": "x = 1\n"})
    ledger = Ledger(workspace.state)
    for number in range(3):
        ledger.append({"draw": [{"round": 1, "position": number, "query_id": f"q_{number}"}]})
        if number == 1:
            assert ledger.fold()
    for left in ("checkpoints/r1.tmp/config.json", "checkpoints/r1.job/x", "checkpoints/r1/y"):
        (workspace.state / left).parent.mkdir(parents=True)
        (workspace.state / left).touch()
    (workspace.root / "data").mkdir()
    for name in ("lock", "train.tmp", "a.job"):
        (workspace.root / "data" / name).touch()
    back_up(workspace, tmp_path / "saved")
    copy = Workspace(tmp_path / "saved")
    assert len(list((copy.root / "data").iterdir())) == 3
    assert Ledger(copy.state).query("select count(*) from draw").rows == [(3,)]
    assert (copy.root / "rounds/mine.toml").read_text(encoding="utf-8") == "x = 1\n"
    assert [path.name for path in (copy.state / "checkpoints").iterdir()] == ["r1"]
    for target in (tmp_path / "saved", workspace.root / "rounds" / "saved"):
        with pytest.raises(InputError):
            back_up(workspace, target)


def test_a_folder_where_the_copy_is_written_first_is_not_touched(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "ws")
    (tmp_path / "saved.part").mkdir()
    (tmp_path / "saved.part" / "mine").touch()
    with pytest.raises(InputError, match="something already"):
        back_up(workspace, tmp_path / "saved")
    assert (tmp_path / "saved.part" / "mine").exists()
