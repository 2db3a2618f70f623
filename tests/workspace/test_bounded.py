"""Files that are no such file, are too deep or do not end: each is named, in seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from workspaces import make_workspace

from factory.domain import bounded
from factory.domain.failures import ContentError, ModelError, RecipeError
from factory.judge.rulebook import Rulebook
from factory.score.base import read_json
from factory.score.loading import load
from factory.score.toolbench.judge import read_predictions
from factory.score.toolbench.virtual import VirtualApi
from factory.train.memory import training_memory
from factory.workspace import architecture
from factory.workspace.chat_template import read_templates
from factory.workspace.prompts import Prompts
from factory.workspace.recipe import TrainSection, load_recipe, parse_value
from factory.workspace.settings import load_settings

DEEP_TOML = "x = " + "[" * 100_000
DEEP_JSON = "[" * 1_000_000


@pytest.mark.parametrize(
    ("path", "text", "read"),
    [
        ("rounds/mine.toml", DEEP_TOML, lambda ws: load_recipe(ws, "mine", [])),
        ("eval/mine.toml", DEEP_TOML, lambda ws: load(ws, "mine")),
        ("factory.toml", DEEP_TOML, load_settings),
        ("rules/call/mine.toml", DEEP_TOML, lambda ws: Rulebook.load(ws, load_settings(ws).rules)),
        ("prompts/calls/invoke.example.json", DEEP_JSON, lambda ws: Prompts(ws).check()),
        ("data.json", DEEP_JSON, lambda ws: read_json(ws.root / "data.json")),
        (
            "config.json",
            DEEP_JSON,
            lambda ws: training_memory(ws.root, TrainSection(), gpu=False, halves=False),
        ),
        ("converted.json", DEEP_JSON, lambda ws: read_predictions(ws.root / "converted.json")),
        ("tokenizer_config.json", DEEP_JSON, lambda ws: read_templates(ws.root)),
    ],
)
def test_a_file_that_is_too_deep_is_named(
    path: str, text: str, read: Callable[..., object], tmp_path: Path
) -> None:
    workspace = make_workspace(tmp_path / "ws")
    file = workspace.root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")
    with pytest.raises((ContentError, RecipeError, ModelError), match="nested too deep") as error:
        read(workspace)
    assert Path(path).name in error.value.where


def test_a_kept_response_that_is_too_deep_is_named(tmp_path: Path) -> None:
    own = tmp_path / "apis.jsonl"
    own.write_text(DEEP_JSON, "utf-8")
    with pytest.raises(ContentError, match="not a kept response") as error:
        VirtualApi(Prompts(make_workspace(tmp_path / "ws")), own=own)
    assert error.value.where == f"{own}:1"


def test_a_value_that_is_too_deep_is_refused() -> None:
    with pytest.raises(RecipeError, match="not a TOML value") as error:
        parse_value("train.epochs", "[" * 100_000)
    assert len(str(error.value)) < 500


def test_what_does_not_end_is_read_to_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ContentError, match="longer than 16 MiB") as error:
        bounded.read_text(Path("/dev/zero"))
    assert error.value.where == "/dev/zero"
    with pytest.raises(ContentError, match="longer than 64 MiB"):
        bounded.read_text(Path("/dev/zero"), most=bounded.DATA)
    with pytest.raises(ContentError, match="Is a directory"):
        bounded.read_text(Path("/dev"))


def test_a_million_layers_are_not_counted_out() -> None:
    config = {"model_type": "llama", "num_hidden_layers": 10**6}
    fault = architecture.find_fault(config, {"model.embed_tokens.weight": (9, 4)})
    assert "tells of 1000000 layers" in fault


def test_a_plain_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"a": [1]}))
    assert read_json(tmp_path / "a.json") == {"a": [1]}
