"""A lesson in the form of a model's own template: taught, known by its checkpoint, scored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest_models import make_tokenizer, tiny_model
from families import as_family, family
from real_round import ask
from workspaces import make_workspace, run_factory

from factory.workspace.models import form_of

SETTINGS = """
recipe = "cpu"
model = "{model}"

[engine]
backend = "transformers"
threads = 1
max_model_len = 4096
"""
KNOBS = (
    *("--set", "codes.coder=none", "--set", "score.benchmarks=[]", "--set", 'score.dev=""'),
    *("--set", "train.min_accepted=1", "--set", "train.max_length=4096"),
)


@pytest.mark.slow
def test_a_lesson_is_taught_and_scored_in_the_templates_form(tmp_path: Path) -> None:
    parts = family("qwen")
    tokens = (*parts.special, parts.end, *parts.words)
    model = tiny_model(tmp_path / "model", extra_tokens=tokens, max_positions=4096)
    as_family(make_tokenizer(), "qwen").save_pretrained(model)
    settings = SETTINGS.format(model=model)
    workspace = make_workspace(tmp_path / "ws", {"factory.toml": settings}).root
    run_factory("home", "rows.jsonl", "--requests", "12", "--documents", "0", cwd=workspace)
    teach = ["teach", "rows.jsonl", *KNOBS, "--set", "calls.form=auto"]
    done = run_factory(*teach, cwd=workspace)
    assert "calls.form is auto: native" in done.stdout + done.stderr
    assert "in the form of the model's own chat template" in done.stdout
    rows = ask(workspace, "select messages_json from example where kind = 'invoke'")
    assert len(rows) == 12
    for row in rows:
        system, user, answer = json.loads(row["messages_json"])
        assert system["tools"] and not system["content"] and user["content"]
        assert answer["calls"] and not answer["content"]
    assert form_of(workspace / ".factory" / "checkpoints" / "r1") == "native"
    run_factory("score", "home", "--checkpoint", "r1", "--limit", "1", cwd=workspace)
    assert num_rulers(workspace) == 1
    run_factory("score", "home", "--checkpoint", str(model), "--limit", "1", cwd=workspace)
    assert num_rulers(workspace) == 2, "a score in another form is another ruler's"


def num_rulers(workspace: Path) -> int:
    """In how many ways the benchmark has been asked."""
    sql = "select count(distinct sha) as n from ruler where part = 'prompt' and benchmark <> ''"
    (row,) = ask(workspace, sql)
    return int(row["n"])


@pytest.mark.slow
def test_native_is_refused_where_the_template_has_no_form(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "ws").root
    run_factory("home", "rows.jsonl", "--requests", "12", "--documents", "0", cwd=workspace)
    native = ["--set", "calls.form=native"]
    refused = run_factory("round", "--n", "4", *native, "--dry-run", cwd=workspace, code=2)
    assert "has no form of calls" in refused.stderr and "calls.form=own" in refused.stderr
    kept = run_factory("round", "--n", "4", "--set", "calls.form=auto", "--dry-run", cwd=workspace)
    assert "calls.form is auto: own" in kept.stdout + kept.stderr
