"""What a round may and may not change once it is open, on the ledger alone: no engine runs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from conftest_models import tiny_model
from test_scoring import mark, write_bfcl
from workspaces import ROOT, make_workspace

from factory import history
from factory.canon import query_id
from factory.cli.monitor import PlainMonitor
from factory.evaluate import store
from factory.failures import ContentError, InputError, MissingError, ModelError, RecipeError
from factory.recipe import load_recipe, load_settings
from factory.records import Checkpoint, Query
from factory.round import Factory, load_factory
from factory.workspace import Workspace

POOL = [Query(id=query_id(f"ask {n}"), text=f"ask {n}", source=f"q:{n}") for n in range(9)]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = make_workspace(tmp_path / "ws")
    model = tiny_model(workspace.root / "model")
    text = workspace.marker.read_text(encoding="utf-8")
    workspace.marker.write_text(text.replace("rounds/seed", model.name), encoding="utf-8")
    return workspace


def open_factory(workspace: Workspace, overrides: Mapping[str, str] | None = None) -> Factory:
    settings = load_settings(workspace)
    resolved = load_recipe(workspace, settings.recipe, overrides or {})
    return load_factory(workspace, settings, resolved, PlainMonitor(), POOL)


def end_round(factory: Factory, this: history.OpenRound, made: Checkpoint | None = None) -> None:
    rows = {}
    if made is not None:
        row = {
            "checkpoint_id": made.id,
            "round": this.number,
            "parent_id": this.checkpoint.id,
            "path": made.path,
            "fingerprint": made.fingerprint,
            "promoted": True,
        }
        rows = {"checkpoint": [row]}
    factory._finish(this.number, "gate", datetime.now(UTC), rows, {"reason": "test"})


def test_open_round_is_found_with_its_queries(workspace: Workspace) -> None:
    factory = open_factory(workspace)
    this = factory._start(4)
    again = open_factory(workspace)._resume()
    assert again == this
    assert [q.text for q in history.pending_queries(factory.ledger, 1)] == [
        f"ask {n}" for n in range(4)
    ]


def test_next_round_draws_others_and_says_when_the_pool_ends(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    factory = open_factory(workspace)
    end_round(factory, factory._start(6))
    second = factory._start(6)
    assert len(history.pending_queries(factory.ledger, second.number)) == 3
    assert "has 3 fresh queries, not 6" in capsys.readouterr().err
    end_round(factory, second)
    with pytest.raises(InputError, match="pool is empty"):
        factory._start(1)
    assert history.open_round(factory.ledger) is None


def test_empty_pool_of_a_file_is_not_the_home_world(workspace: Workspace) -> None:
    factory = replace(open_factory(workspace), pool=[])
    with pytest.raises(InputError, match="pool is empty"):
        factory._start(1)


def test_flags_mend_training_of_an_open_round_but_not_sampling(workspace: Workspace) -> None:
    open_factory(workspace)._start(2)
    given = {"train.micro_batch_size": "1", "calls.n": "9", "score.tolerance": "5"}
    given |= {"codes.levels": "3", "codes.keep": "7"}
    factory = open_factory(workspace, given)
    factory._resume()
    assert factory.recipe.train.micro_batch_size == 1
    assert factory.recipe.score.tolerance == 5
    assert factory.recipe.calls.n == 5
    assert factory.recipe.codes.levels == 3
    assert factory.recipe.codes.keep == 1


def test_changed_rules_stop_an_open_round_until_undone_or_abandoned(workspace: Workspace) -> None:
    open_factory(workspace)._start(2)
    mine = workspace.root / "prompts/calls/invoke.j2"
    mine.parent.mkdir(parents=True)
    mine.write_text("Please: {{ query }}", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        open_factory(workspace)._resume()
    assert "--abandon" in caught.value.remedy
    assert open_factory(workspace).abandon() == 1
    assert open_factory(workspace)._resume() is None
    with pytest.raises(InputError, match="no round is open"):
        open_factory(workspace).abandon()


def test_recipe_that_this_version_cannot_read(workspace: Workspace) -> None:
    factory = open_factory(workspace)
    factory._start(2)
    row = factory.ledger.query("select * from round").records()[0]
    end_round(factory, history.open_round(factory.ledger) or pytest.fail())
    factory.ledger.append(
        {
            "round": [
                {k: v for k, v in row.items() if k not in ("started_at", "round", "recipe_json")}
                | {"round": 2, "recipe_json": '{"gone": 1}'}
            ],
            "judgement": [{"round": 2, "judgement": 1}],
        }
    )
    with pytest.raises(RecipeError, match="gone"):
        open_factory(workspace)._resume()


def test_moved_workspace_and_model_go_on(workspace: Workspace, tmp_path: Path) -> None:
    factory = open_factory(workspace)
    this = factory._start(2)
    trained = history.checkpoint_folder(workspace.state, 1)
    shutil.copytree(workspace.root / "model", trained)
    made = Checkpoint(
        id="r1-abc", path=factory._relative(str(trained)), fingerprint=this.checkpoint.fingerprint
    )
    end_round(factory, this, made)
    moved = Workspace(tmp_path / "elsewhere")
    workspace.root.rename(moved.root)
    second = open_factory(moved)._start(2)
    assert second.checkpoint.id == "r1-abc"
    assert Path(second.checkpoint.path) == history.checkpoint_folder(moved.state, 1)
    again = open_factory(moved)._resume()
    assert again is not None and again.checkpoint == second.checkpoint


def test_promoted_checkpoint_of_another_base_is_not_used(workspace: Workspace) -> None:
    factory = open_factory(workspace)
    end_round(factory, factory._start(2), Checkpoint(id="r1-abc", path="x", fingerprint="y"))
    other = Checkpoint(id="other-123456", path="/o", fingerprint="z")
    assert history.promoted_checkpoint(factory.ledger, other) == other


def test_lost_checkpoint_of_a_trained_round_is_named(workspace: Workspace) -> None:
    import asyncio

    factory = open_factory(workspace)
    this = replace(factory._start(2), stages_done=frozenset({"train", "sample"}))
    with pytest.raises(ModelError):
        asyncio.run(factory._train(this))


def test_scores_of_other_prompts_do_not_count(workspace: Workspace) -> None:
    factory = open_factory(workspace)
    dev = factory.benchmarks["home-dev"]
    basis = factory._basis(dev)
    longer = replace(factory, resolved=load_recipe(workspace, "cpu", {"score.max_tokens": "100"}))
    assert longer._basis(dev) != basis
    factory.ledger.append(
        {"score": [{"checkpoint_id": "c", "benchmark": "home-dev", "basis": basis}]}
    )
    assert history.is_scored(factory.ledger, "c", "home-dev", basis)
    assert not history.is_scored(factory.ledger, "c", "home-dev", longer._basis(dev))


def test_test_set_cannot_gate(workspace: Workspace) -> None:
    with pytest.raises(ContentError, match="test set"):
        open_factory(workspace, {"score.dev": '"home"'})


def test_the_gate_weighs_a_change_as_the_dev_set_weighs_its_score(
    workspace: Workspace, tmp_path: Path
) -> None:
    """A checkpoint that gains where ToolDev's average looks, and loses where it does not."""
    text = (ROOT / "eval/bfcl.toml").read_text(encoding="utf-8")
    data = f'questions = "{write_bfcl(tmp_path / "bfcl")}"'
    text = text.replace('package = "bfcl_eval"\nquestions = "data"', data)
    (workspace.root / "eval/mine.toml").write_text(text.replace('split = "test"', 'split = "dev"'))
    factory = open_factory(workspace, {"score.dev": '"mine"'})
    dev, this = factory.benchmarks["mine"], factory._start(1)
    made = replace(this.checkpoint, id="r1")
    for checkpoint, right in (
        (this.checkpoint, {"irrelevance", "live_irrelevance", "live_relevance"}),
        (made, {"live_multiple"}),
    ):
        items = [mark(item, item.category in right) for item in dev.items]
        store(factory, 1, checkpoint.id, dev, items, factory._basis(dev))
    decision = factory._decide(this, made)
    assert decision.promote
    gained = f"{50 * 1037 / 1335:.1f}"
    assert f"mine rose from 0.0 to {gained} (+{gained} points, 95 %" in decision.reason


def test_answers_must_leave_room_for_a_prompt(workspace: Workspace) -> None:
    with pytest.raises(RecipeError, match="max_model_len"):
        open_factory(workspace, {"calls.max_tokens": "99999"})


def test_big_model_is_not_fully_fine_tuned(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("factory.round.MAX_FULL_BYTES", 1000)
    with pytest.raises(MissingError, match="all weights"):
        open_factory(workspace)._start(1)
