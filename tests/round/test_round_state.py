"""What a round may and may not change once it is open, on the ledger alone: no engine runs."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from conftest_models import tiny_model
from test_scoring import mark, store_items, write_bfcl
from workspaces import ROOT, make_workspace

from factory.cli.chosen import load_settings_with, open_checkpoint
from factory.cli.monitor import PlainMonitor
from factory.cli.status import status
from factory.domain.canon import query_id
from factory.domain.failures import (
    ContentError,
    DiskError,
    InputError,
    MissingError,
    ModelError,
    RecipeError,
)
from factory.domain.records import Checkpoint, Query
from factory.engines.trainable import check_trainable
from factory.ledger import history, lineage
from factory.ledger.database import Ledger
from factory.ledger.lineage import find_checkpoint
from factory.round.doctor import _look_at_disk, examine
from factory.round.factory import Factory, load_factory
from factory.round.gate import relative, weigh
from factory.round.round import run_round
from factory.round.sampling import codebook_of
from factory.round.start import abandon, end_replaced, resume, start
from factory.round.training import _write_job, train
from factory.score.loading import load
from factory.train.job import read_pairs
from factory.train.memory import memory_of
from factory.workspace.folder import Workspace
from factory.workspace.recipe import load_recipe
from factory.workspace.settings import load_settings, name_model

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


def resumed(factory: Factory) -> history.OpenRound | None:
    return resume(factory, factory.ledger)[1]


def base_of(factory: Factory) -> Checkpoint:
    return lineage.base_checkpoint(factory.workspace, factory.settings, factory.ledger)


def next_of(factory: Factory) -> Checkpoint:
    return lineage.next_checkpoint(factory.workspace, factory.ledger, base_of(factory))


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
    factory.finish(this.number, "gate", datetime.now(UTC), rows, {"reason": "test"})


def test_open_round_is_found_with_its_queries(workspace: Workspace) -> None:
    factory = open_factory(workspace)
    this = start(factory, 4)
    again = resumed(open_factory(workspace))
    assert again == this
    assert [q.text for q in history.pending_queries(factory.ledger, 1)] == [
        f"ask {n}" for n in range(4)
    ]


def test_a_recipe_without_codes_samples_without_those_of_its_model(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "seeded")
    this = start(open_factory(workspace), 1)
    assert codebook_of(open_factory(workspace), this) is not None
    assert codebook_of(open_factory(workspace, {"codes.coder": "none"}), this) is None


def test_next_round_draws_others_and_says_when_the_pool_ends(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    factory = open_factory(workspace)
    end_round(factory, start(factory, 6))
    second = start(factory, 6)
    assert len(history.pending_queries(factory.ledger, second.number)) == 3
    assert "has 3 fresh queries, not 6" in capsys.readouterr().err
    end_round(factory, second)
    with pytest.raises(InputError, match="pool is empty"):
        start(factory, 1)
    assert history.open_round(factory.ledger) is None


def test_empty_pool_of_a_file_is_not_the_home_world(workspace: Workspace) -> None:
    factory = replace(open_factory(workspace), pool=[])
    with pytest.raises(InputError, match="pool is empty"):
        start(factory, 1)


def test_flags_mend_training_of_an_open_round_but_not_sampling(workspace: Workspace) -> None:
    start(open_factory(workspace), 2)
    given = {"train.micro_batch_size": "1", "calls.n": "9", "score.tolerance": "5"}
    given |= {"codes.levels": "3", "codes.keep": "7"}
    factory = open_factory(workspace, given)
    factory, _ = resume(factory, factory.ledger)
    assert factory.recipe.train.micro_batch_size == 1
    assert factory.recipe.score.tolerance == 5
    assert factory.recipe.calls.n == 5
    assert factory.recipe.codes.levels == 3
    assert factory.recipe.codes.keep == 1


def test_changed_rules_stop_an_open_round_until_undone_or_abandoned(workspace: Workspace) -> None:
    start(open_factory(workspace), 2)
    mine = workspace.root / "prompts/calls/invoke.j2"
    mine.parent.mkdir(parents=True)
    mine.write_text("Please: {{ query }}", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        resumed(open_factory(workspace))
    assert "--abandon" in caught.value.remedy
    assert abandon(open_factory(workspace)) == 1
    assert resumed(open_factory(workspace)) is None
    with pytest.raises(InputError, match="no round is open"):
        abandon(open_factory(workspace))


def sampled(factory: Factory, number: int, query_id: str, status: str, reason: str) -> None:
    """A request of a round with its outcome."""
    sample = {
        "round": number, "judgement": 1, "query_id": query_id, "status": status, "reason": reason,
        "tools_json": "[]", "calls_json": "[]",
    }  # fmt: skip
    answer = {"round": number, "query_id": query_id, "stage": "tools", "text": "an answer"}
    factory.ledger.append({"sample": [sample], "generation": [answer]})


def test_an_abandoned_round_gives_back_what_has_no_answer(workspace: Workspace) -> None:
    """A model folder of git-lfs pointers used up a user's own requests without one answer."""
    factory = open_factory(workspace)
    start(factory, 9)
    assert len(history.drawn_ids(factory.ledger)) == 9
    first, second, third, *_ = (q.id for q in history.pending_queries(factory.ledger, 1))
    sampled(factory, 1, first, "accepted", "")
    sampled(factory, 1, second, "unjudged", "engine_died")
    sampled(factory, 1, third, "rejected", "no_tools_tag")
    assert abandon(open_factory(workspace)) == 1
    assert history.drawn_ids(factory.ledger) == {first, third}
    assert history.count_given_back(factory.ledger, 1) == 7
    this = start(open_factory(workspace), 9)
    again = [q.id for q in history.pending_queries(factory.ledger, this.number)]
    assert len(again) == 7 and second in again and first not in again
    end_round(factory, this)
    assert len(history.drawn_ids(factory.ledger)) == 9


def test_a_round_that_asked_nothing_of_other_weights_begins_anew(
    tmp_path: Path, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pulled"
    shutil.copytree(base_of(open_factory(workspace)).path, folder)
    workspace.marker.write_text(f"model = {json.dumps(str(folder))}\n", encoding="utf-8")
    weights = next(folder.glob("*.safetensors"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-4] + b"\0\0\0\1")
    begun = start(open_factory(workspace), 4)
    weights.write_bytes(whole)
    end_replaced(factory := open_factory(workspace))
    this = start(factory, 4)
    assert (begun.number, this.number) == (1, 2) and this.checkpoint.id != begun.checkpoint.id
    assert "round 1 had asked nothing" in capsys.readouterr().err
    assert {q.id for q in history.pending_queries(factory.ledger, 2)} == {q.id for q in POOL[:4]}


def test_samples_of_one_round_are_of_one_model(tmp_path: Path, workspace: Workspace) -> None:
    folder = tmp_path / "mended"
    shutil.copytree(base_of(open_factory(workspace)).path, folder)
    workspace.marker.write_text(f"model = {json.dumps(str(folder))}\n", encoding="utf-8")
    factory = open_factory(workspace)
    start(factory, 3)
    template = folder / "chat_template.jinja"
    before = template.read_bytes()
    template.write_bytes(before + b"{# mended #}")
    assert resumed(open_factory(workspace)) is not None  # nothing was asked yet
    template.write_bytes(before)
    sampled(factory, 1, history.pending_queries(factory.ledger, 1)[0].id, "accepted", "")
    assert resumed(open_factory(workspace)) is not None
    template.write_bytes(before + b"{# mended #}")
    with pytest.raises(ModelError, match=r"the chat template of .* changed since") as told:
        resumed(open_factory(workspace))
    assert "--abandon" in told.value.remedy


def test_recipe_that_this_version_cannot_read(workspace: Workspace) -> None:
    factory = open_factory(workspace)
    start(factory, 2)
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
        resumed(open_factory(workspace))


def test_moved_workspace_and_model_go_on(workspace: Workspace, tmp_path: Path) -> None:
    factory = open_factory(workspace)
    this = start(factory, 2)
    trained = history.checkpoint_folder(workspace.state, 1)
    shutil.copytree(workspace.root / "model", trained)
    made = Checkpoint(
        id="r1-abc", path=relative(factory, str(trained)), fingerprint=this.checkpoint.fingerprint
    )
    end_round(factory, this, made)
    moved = Workspace(tmp_path / "elsewhere")
    workspace.root.rename(moved.root)
    second = start(open_factory(moved), 2)
    assert second.checkpoint.id == "r1-abc"
    assert Path(second.checkpoint.path) == history.checkpoint_folder(moved.state, 1)
    again = resumed(open_factory(moved))
    assert again is not None and again.checkpoint == second.checkpoint
    end_round(open_factory(moved), again)
    # The model's folder gets another name and place; a copy beside it is a model of its own.
    (moved.root / "model").rename(tmp_path / "renamed")
    name_model(moved, str(tmp_path / "renamed"))
    third = open_factory(moved)
    assert base_of(third).id.startswith("model-")
    assert base_of(third).path == str(tmp_path / "renamed")
    assert next_of(third) == second.checkpoint
    shutil.copytree(tmp_path / "renamed", moved.root / "copy")
    moved.root.rename(workspace.root)
    (tmp_path / "renamed").rename(workspace.root / "model")
    name_model(workspace, "copy")
    copied = open_factory(workspace)
    assert next_of(copied).id.startswith("copy-")


def test_a_model_of_the_flag_goes_on_without_it(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    """As after `factory round --model FOLDER`: no command takes another model."""
    mine = tiny_model(tmp_path / "mine", seed=1)
    settings = load_settings_with(workspace, str(mine), 0)
    factory = replace(open_factory(workspace), settings=settings, keep_model=True)
    this = start(factory, 1)
    assert this.checkpoint.path == str(mine) and load_settings(workspace).model == str(mine)
    assert f"factory.toml names {mine} now" in capsys.readouterr().err.replace("\n", " ")
    made = workspace.state / "checkpoints" / "r1"
    shutil.copytree(mine, made)
    stored = relative(factory, str(made))
    mark = this.checkpoint.fingerprint
    end_round(factory, this, Checkpoint(id="r1-abc", path=stored, fingerprint=mark))
    monkeypatch.chdir(workspace.root)
    capsys.readouterr()

    def check(folder: Path) -> None:
        """Every command takes this folder."""
        settings, ledger = load_settings(workspace), Ledger(workspace.state)
        assert find_checkpoint(workspace, settings, ledger, "", print).path == str(folder)
        assert open_checkpoint(None) == folder
        status()
        assert str(folder) in capsys.readouterr().out.replace("\n", "")
        assert next_of(open_factory(workspace)).path == str(folder)

    check(made)
    assert "note" not in capsys.readouterr().err
    # An edit of factory.toml counts, and is said until a round has used it.
    name_model(workspace, "model")
    check(workspace.root / "model")
    open_checkpoint(None)
    assert "the latest round, 1, was of mine-" in capsys.readouterr().err.replace("\n", " ")
    second = open_factory(workspace)
    end_round(second, start(second, 1))
    assert "the latest round, 1, was of mine-" in capsys.readouterr().err.replace("\n", " ")
    check(workspace.root / "model")
    assert capsys.readouterr().err == ""
    name_model(workspace, str(mine))
    check(made)


def test_other_weights_in_the_same_folder_are_another_model(workspace: Workspace) -> None:
    factory = open_factory(workspace)
    end_round(factory, start(factory, 1), Checkpoint(id="r1-abc", path="x", fingerprint="y"))
    settings, ledger = load_settings(workspace), factory.ledger
    same = lineage.base_checkpoint(workspace, settings, ledger, exact=False)
    assert same == base_of(factory)
    tiny_model(workspace.root / "model", seed=2)
    other = lineage.base_checkpoint(workspace, settings, ledger, exact=False)
    assert other == lineage.base_checkpoint(workspace, settings, ledger) != same
    assert lineage.promoted_checkpoint(ledger, other) == other


def test_a_model_that_cannot_be_trained_is_refused_before_anything_is_drawn(
    workspace: Workspace,
) -> None:
    """DeepSeek-R1's template opens a thought in its generation prompt, which an answer lacks."""
    template = workspace.root / "model" / "chat_template.jinja"
    text = template.read_text(encoding="utf-8")
    opened = "{{ '<|assistant|><think>' }}{% endif %}"
    template.write_text(text.replace("{{ '<|assistant|>' }}{% endif %}", opened))
    factory = open_factory(workspace)
    with pytest.raises(ModelError, match="renders a prompt differently") as caught:
        asyncio.run(run_round(factory, 2))
    assert "chat_template.jinja" in caught.value.remedy
    assert history.last_round(factory.ledger) == 0 and not history.drawn_ids(factory.ledger)
    (finding,) = [check for check in examine(workspace) if check.name == "model"]
    assert finding.state == "bad" and finding.remedy == caught.value.remedy
    # So is an open round, as long as it is to be trained.
    start(factory, 2)
    with pytest.raises(ModelError, match="renders a prompt differently"):
        asyncio.run(run_round(open_factory(workspace), 2))
    template.write_text(text, encoding="utf-8")
    asyncio.run(check_trainable(workspace.root / "model", factory.prompts, factory.settings.engine))


@pytest.mark.parametrize(
    "kind, what", [("vit", "no language model"), ("unheard_of", "cannot read")]
)
def test_a_model_without_a_class_that_trains_is_refused(
    workspace: Workspace, kind: str, what: str
) -> None:
    path = workspace.root / "model" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | {"model_type": kind}), encoding="utf-8")
    factory = open_factory(workspace)
    with pytest.raises(ModelError, match=what) as caught:
        asyncio.run(run_round(factory, 2))
    assert "AutoModelForCausalLM" in caught.value.remedy
    assert history.last_round(factory.ledger) == 0


def test_promoted_checkpoint_of_another_base_is_not_used(workspace: Workspace) -> None:
    factory = open_factory(workspace)
    end_round(factory, start(factory, 2), Checkpoint(id="r1-abc", path="x", fingerprint="y"))
    other = Checkpoint(id="other-123456", path="/o", fingerprint="z")
    assert lineage.promoted_checkpoint(factory.ledger, other) == other


def test_lost_checkpoint_of_a_trained_round_is_named(workspace: Workspace) -> None:
    factory = open_factory(workspace)
    this = replace(start(factory, 2), stages_done=frozenset({"train", "sample"}))
    with pytest.raises(ModelError):
        asyncio.run(train(factory, this))


def test_scores_of_other_prompts_do_not_count(workspace: Workspace) -> None:
    factory = open_factory(workspace)
    dev = factory.benchmarks["home-dev"]
    basis = dev.basis(factory.setup)
    longer = load(workspace, "home-dev", {"max_tokens": 1000})
    other = longer.basis(factory.setup)
    assert other != basis
    row = {"checkpoint_id": "c", "benchmark": "home-dev", "basis": basis}
    factory.ledger.append({"score": [{**row, "scored_at": datetime.now(UTC)}]})
    assert history.is_scored(factory.ledger, "c", "home-dev", basis)
    assert not history.is_scored(factory.ledger, "c", "home-dev", other)


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
    dev, this = factory.benchmarks["mine"], start(factory, 1)
    made = replace(this.checkpoint, id="r1")
    for checkpoint, right in (
        (this.checkpoint, {"irrelevance", "live_irrelevance", "live_relevance"}),
        (made, {"live_multiple"}),
    ):
        items = [mark(item, item.category in right) for item in dev.items]
        store_items(factory.setup, 1, checkpoint.id, dev, items, dev.basis(factory.setup))
    decision = weigh(factory, this, made).decision
    assert decision.promote
    gained = f"{50 * 1037 / 1335:.1f}"
    assert f"mine rose from 0.0 to {gained} (+{gained} points, 95 %" in decision.reason


def test_labelled_rows_cap_the_pairs_of_a_models_own_answers(workspace: Workspace) -> None:
    """A42: three unanimous answers weigh 0.9, and a label of the same tools 0.8, a round later."""
    factory = open_factory(workspace, {"codes.coder": "quantized"})
    this = replace(start(factory, 1), number=2)
    shown = [
        {"id": f"t_{name}", "document": {"name": name, "arguments": {"properties": {}}}}
        for name in "abc"
    ]

    def sample(query: str, called: str, number: int, agreement: float | None) -> dict[str, Any]:
        return {
            "round": number,
            "judgement": 1,
            "query_id": query,
            "status": "accepted",
            "agreement": agreement,
            "tools_json": json.dumps(shown),
            "calls_json": json.dumps([{"name": name, "arguments": {}} for name in called]),
        }

    answers = [sample(f"q{number}", "bc", 2, 1.0) for number in range(3)]
    factory.ledger.append({"sample": [sample("label", "ab", 1, None), *answers]})
    with factory.ledger.read() as past:
        folder = history.checkpoint_folder(workspace.state, 2)
        job = _write_job(factory, this, past, folder, [], [], None, frozenset(), "")
    weights = {pair.a + pair.b: pair.weight for pair in read_pairs(job.pairs)}
    assert weights == {"t_at_b": pytest.approx(0.8), "t_bt_c": pytest.approx(0.8)}


def test_answers_must_leave_room_for_a_prompt(workspace: Workspace) -> None:
    with pytest.raises(RecipeError, match="max_model_len"):
        open_factory(workspace, {"calls.max_tokens": "99999"})


def test_big_model_is_not_fully_fine_tuned(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The figure is in the error; what only the longest examples take is a note."""
    factory = open_factory(workspace)
    model = workspace.model_folder(factory.settings.model)
    needed = memory_of(factory.recipe, model, gpu=False)
    monkeypatch.setattr("factory.round.start.device_memory", lambda: ("machine", needed.fixed - 1))
    with pytest.raises(MissingError, match=r"all weights takes .*GiB at most \(weights"):
        start(factory, 1)


def test_the_doctor_tries_to_write_where_a_round_will(tmp_path: Path) -> None:
    """Nobody may make a file in /proc, whatever its permissions say."""
    workspace = make_workspace(tmp_path / "ws")
    assert "GiB free" in _look_at_disk(workspace)
    with pytest.raises(DiskError, match="cannot be written to"):
        _look_at_disk(Workspace(Path("/proc")))
