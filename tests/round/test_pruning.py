"""`factory prune`: what is kept and why, and what killed trainings left."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from workspaces import make_workspace, run_factory

from factory.ledger.database import Ledger
from factory.ledger.lineage import base_checkpoint
from factory.round.pruning import CheckpointUse, survey, sweep
from factory.workspace.folder import Workspace
from factory.workspace.settings import load_settings

NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Seven rounds: 4 is the latest promoted, 2 the best, 6 of an abandoned round, 7 open."""
    made = make_workspace(tmp_path / "ws", {"rounds/mine.toml": 'base = "checkpoints/r1"\n'})
    settings = load_settings(made)
    ledger = Ledger(made.state)
    with ledger.read() as past:
        base = base_checkpoint(made, settings, past)
    rows: list[dict[str, object]] = [
        {"checkpoint_id": base.id, "round": 0, "path": base.path, "fingerprint": base.fingerprint}
    ]
    rows[0] |= {"promoted": True, "made_at": NOON}
    scores: list[dict[str, object]] = []
    parent = base.id
    for number in (1, 2, 3, 4, 5):
        name = f"r{number}-{number:06x}"
        path = f".factory/checkpoints/r{number}"
        is_promoted = number < 5
        rows.append(
            {
                "checkpoint_id": name, "round": number, "parent_id": parent, "path": path,
                "fingerprint": f"sha256:{number:06x}", "promoted": is_promoted, "made_at": NOON,
            }
        )  # fmt: skip
        scores.append(
            {
                "checkpoint_id": name, "round": number, "benchmark": "home-dev", "basis": "b",
                "category": "overall", "value": 90.0 if number == 2 else 10.0 * number,
                "scored_at": NOON,
            }
        )  # fmt: skip
        parent = name if is_promoted else parent
    open_round = {"round": 7, "checkpoint_id": "r4-000004", "recipe_json": "{}", "started_at": NOON}
    ledger.append(
        {
            "checkpoint": rows,
            "score": scores,
            "round": [open_round],
            "judgement": [{"round": 7, "judgement": 1}],
        }  # type: ignore[typeddict-item]
    )
    for number in range(1, 8):
        folder = made.state / "checkpoints" / f"r{number}"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"x" * (number << 20))
    return made


def why(kept: list[CheckpointUse]) -> dict[str, str]:
    return {each.path.name: each.why for each in kept}


def test_what_nothing_needs_is_removed_and_the_rest_says_why(workspace: Workspace) -> None:
    with Ledger(workspace.state).read() as past:
        found = survey(workspace, load_settings(workspace), past, "home-dev")
    assert why(found) == {
        "r1": "rounds/mine.toml names it",
        "r2": "the best on home-dev",
        "r3": "",
        "r4": "the next round starts from it",
        "r5": "",
        "r6": "",
        "r7": "round 7 is open",
    }
    assert [each.size >> 20 for each in found] == [1, 2, 3, 4, 5, 6, 7]
    folder = workspace.state / "checkpoints"
    dry = run_factory("prune", "--dry-run", "--keep", "r5", cwd=workspace.root).stdout
    assert "2 of 7 checkpoints would be removed, 9.0 MiB" in dry and "--keep" in dry
    assert len(list(folder.iterdir())) == 7
    run_factory("prune", "--keep", "r8", cwd=workspace.root, code=2)
    done = run_factory("prune", "--keep", "r5", cwd=workspace.root).stdout
    assert "2 of 7 checkpoints removed, 9.0 MiB" in done
    assert sorted(path.name for path in folder.iterdir()) == ["r1", "r2", "r4", "r5", "r7"]


@pytest.mark.parametrize("name", ["r3", "r3-000003", "sha256:000003", "http://r#r3"])
def test_a_judge_by_its_name_is_kept(workspace: Workspace, name: str) -> None:
    file = workspace.root / "eval" / "mine.toml"
    file.parent.mkdir(exist_ok=True)
    more = '# --before r6\nother = "x/r5 r50 r5-0"\n'
    file.write_text(f'{more}judge = "{name}"\n', encoding="utf-8")
    with Ledger(workspace.state).read() as past:
        found = why(survey(workspace, load_settings(workspace), past, "home-dev"))
    assert found["r3"] == "eval/mine.toml names it"
    assert found["r5"] == found["r6"] == ""


def test_what_killed_trainings_left_is_swept_and_nothing_else(workspace: Workspace) -> None:
    folder = workspace.state / "checkpoints"
    for name in ("r7.tmp", "r7.job", "r12.tmp", "mine.tmp", "r3.jobs"):
        (folder / name / "inner").mkdir(parents=True)
    before = {path.name for path in folder.iterdir()}
    sweep(workspace.state)
    assert before - {path.name for path in folder.iterdir()} == {"r7.tmp", "r7.job", "r12.tmp"}
    for path in (folder / "r7.tmp", folder / "r7.job"):
        path.mkdir()
    run_factory("round", "--abandon", cwd=workspace.root)
    assert not (folder / "r7.tmp").exists() and not (folder / "r7.job").exists()
    assert (folder / "mine.tmp").exists()


def test_without_checkpoints_it_says_so(tmp_path: Path) -> None:
    root = make_workspace(tmp_path / "ws").root
    assert "no round has made a checkpoint" in run_factory("prune", cwd=root).stdout
