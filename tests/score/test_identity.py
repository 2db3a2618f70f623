"""A model is everything that decides an answer: what of it changed is named and scored again."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from test_scoring import find, make_setup, mark
from workspaces import ROOT

from factory.cli.monitor import PlainMonitor
from factory.domain.records import Checkpoint
from factory.ledger import history
from factory.score.base import Setup
from factory.score.calls.kind import Benchmark
from factory.score.keeper import Missing, find_missing, identity_of
from factory.workspace.identity import differing, identify
from factory.workspace.settings import EngineSection

TEMPLATE = "chat_template.jinja"


class Notes(PlainMonitor):
    """A monitor that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def a_model(folder: Path) -> Path:
    shutil.copytree(ROOT / "rounds/seed", folder)
    return folder


def add(name: str, text: str = " ") -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        with (folder / name).open("a", encoding="utf-8") as file:
            file.write(text)

    return change


def set_key(name: str, key: str, value: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        table = json.loads((folder / name).read_text("utf-8"))
        (folder / name).write_text(json.dumps(table | {key: value}), encoding="utf-8")

    return change


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (add(TEMPLATE), "chat template"),
        (set_key("tokenizer_config.json", "chat_template", "{{ 1 }}"), "chat template"),
        (add("additional_chat_templates/tool_use.jinja"), "chat template"),
        (set_key("tokenizer_config.json", "add_bos_token", True), "tokenizer"),
        (add("tokenizer.json"), "tokenizer"),
        (add("merges.txt"), "tokenizer"),
        (set_key("generation_config.json", "temperature", 0.3), "generation settings"),
        (set_key("config.json", "rope_theta", 5.0), "config"),
        (add("codes/tools.jsonl"), "codes"),
    ],
)
def test_every_file_that_decides_an_answer_is_part_of_a_model(
    tmp_path: Path, change: Callable[[Path], None], part: str
) -> None:
    folder = a_model(tmp_path / "model")
    before = identify(folder)
    assert identify(folder).sha == before.sha
    (folder / "README.md").write_text("nobody answers by this", encoding="utf-8")
    assert identify(folder).sha == before.sha
    change(folder)
    after = identify(folder)
    assert after.sha != before.sha and after.changed > before.changed
    assert differing(before.parts | {part: before.parts.get(part, "")}, after.parts) == [part]


def test_settings_are_part_of_a_model_too(tmp_path: Path) -> None:
    folder = a_model(tmp_path / "model")
    here = identify(folder, engine=EngineSection(backend="transformers"))
    half = identify(folder, engine=EngineSection(backend="transformers", dtype="float16"))
    other = identify(folder, engine=EngineSection(backend="vllm"))
    assert differing(here.parts, half.parts) == ["dtype"]
    assert differing(here.parts, other.parts) == ["backend"]
    wide = identify(folder, engine=EngineSection(backend="transformers", max_model_len=8192))
    assert wide.sha != here.sha and wide.parts == here.parts | {"max_model_len": "8192"}
    either = (here.sha, other.sha)
    assert identify(folder, engine=EngineSection()).sha in either


def a_setup(tmp_path: Path) -> tuple[Setup, Notes, Benchmark]:
    notes = Notes()
    setup = replace(make_setup(tmp_path), monitor=notes)
    return setup, notes, Benchmark.load(setup.workspace, "home").narrow(limit=2)


def lacking(setup: Setup, model: Checkpoint, benchmark: Benchmark) -> tuple[Missing, ...]:
    return find_missing(setup, model.id, [(benchmark, "basis")], of=model)


def keep(setup: Setup, missing: Missing, model: Checkpoint, is_right: bool) -> None:
    items = [mark(item, is_right) for item in missing.benchmark.items]
    setup.ledger.append(missing.rows(0, model.id, items))
    setup.ledger.fold()


def test_a_mended_template_is_scored_again_and_named(tmp_path: Path) -> None:
    """A folder with a wrong template was scored; mended, it kept that score before the gate."""
    setup, notes, home = a_setup(tmp_path)
    model = find(setup, str(a_model(tmp_path / "model")))
    (first,) = lacking(setup, model, home)
    keep(setup, first, model, is_right=False)
    assert lacking(setup, model, home) == () and notes.notes == []

    add(TEMPLATE, "{# mended #}")(Path(model.path))
    assert find(setup, model.path) == model  # its weights name it
    (second,) = lacking(setup, model, home)
    assert len(notes.notes) == 1
    assert notes.notes[0].startswith(
        f"{model.id} is scored again on home[limit=2]: its chat template changed since it was"
    )
    keep(setup, second, model, is_right=True)
    items = history.load_items(setup.ledger, model.id, home.name, "basis")
    assert len(items) == len(home.items) and all(item.correct for item in items)
    kept = setup.ledger.query("select count(*), count(distinct identity) from item_score").rows
    assert kept == [(2 * len(home.items), 2)]
    assert lacking(setup, model, home) == ()

    engine = setup.settings.engine.model_copy(update={"dtype": "float16"})
    half = replace(setup, settings=setup.settings.model_copy(update={"engine": engine}))
    assert len(lacking(half, model, home)) == 1 and "its dtype changed since" in notes.notes[-1]


def test_a_wider_window_is_scored_again_and_named(tmp_path: Path) -> None:
    """It is the remedy for cut answers, and the score of the narrow one was taken."""
    setup, notes, home = a_setup(tmp_path)
    model = find(setup, str(a_model(tmp_path / "model")))
    (first,) = lacking(setup, model, home)
    keep(setup, first, model, is_right=False)

    def served(length: int) -> Setup:
        engine = setup.settings.engine.model_copy(update={"max_model_len": length})
        return replace(setup, settings=setup.settings.model_copy(update={"engine": engine}))

    for length in (8192, 2048):
        (missing,) = lacking(served(length), model, home)
        assert "its max_model_len changed since" in notes.notes[-1]
        keep(served(length), missing, model, is_right=True)
        assert lacking(served(length), model, home) == ()
    assert len(lacking(setup, model, home)) == 1 and len(notes.notes) == 3
    assert find(served(8192), model.path) == model


def test_a_score_of_an_older_version_counts_while_no_file_was_written_since(
    tmp_path: Path,
) -> None:
    setup, notes, home = a_setup(tmp_path)
    model = find(setup, str(a_model(tmp_path / "model")))
    (missing,) = lacking(setup, model, home)
    old = replace(missing, identity=None, parts={})
    keep(setup, old, model, is_right=True)
    assert lacking(setup, model, home) == ()
    time.sleep(0.05)
    add(TEMPLATE)(Path(model.path))
    past = time.time() - 9999
    os.utime(Path(model.path) / TEMPLATE, (past, past))  # as rsync and tar leave it
    assert len(lacking(setup, model, home)) == 1
    assert "its folder changed since it was scored" in notes.notes[-1]


def test_a_copy_with_another_template_is_another_model(tmp_path: Path) -> None:
    """Two folders of one's weights and other templates differed by +0.00 points."""
    setup, _, home = a_setup(tmp_path)
    first = find(setup, str(a_model(tmp_path / "model")))
    (missing,) = lacking(setup, first, home)
    rows = missing.rows(0, first.id, [mark(item, True) for item in home.items])
    given: Any = {
        "checkpoint_id": first.id, "round": 0, "parent_id": None, "path": first.path,
        "fingerprint": first.fingerprint, "promoted": True, "reason": "",
        "made_at": datetime.now(UTC) - timedelta(1),
    }  # fmt: skip
    setup.ledger.append({**rows, "checkpoint": [given]})
    same = find(setup, str(a_model(tmp_path / "same")))
    assert (same.id, same.path) == (first.id, str(tmp_path / "same"))
    for folder in (tmp_path / "other", tmp_path / "deeper" / "model"):
        add(TEMPLATE, "{# other #}")(a_model(folder))
        other = find(setup, str(folder))
        assert other.fingerprint == first.fingerprint and other.id != first.id
        assert other.id.startswith(f"{folder.name}-")
        assert len(lacking(setup, other, home)) == 1
    (tmp_path / "model").rename(tmp_path / "moved")
    assert find(setup, str(tmp_path / "moved")).id == first.id


def test_a_server_has_no_identity(tmp_path: Path) -> None:
    setup, _, _ = a_setup(tmp_path)
    server = Checkpoint(id="http://x/v1#m", path="http://x/v1#m", fingerprint="unknown")
    assert identity_of(setup, server) is None
