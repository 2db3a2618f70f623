"""Every shipped prompt and rule, walked: it loads and does what the file beside it says."""

from __future__ import annotations

import json

import pytest
from workspaces import ROOT

from factory.check import run_cases
from factory.failures import ContentError
from factory.prompts import Prompts
from factory.rulebook import Rulebook
from factory.workspace import Workspace

WORKSPACE = Workspace(ROOT)
PROMPTS = sorted(
    path.removeprefix("prompts/").removesuffix(".j2")
    for path, _ in WORKSPACE.walk("prompts", ".j2")
)


@pytest.mark.parametrize("name", PROMPTS)
def test_prompt_renders_its_example(name: str) -> None:
    file = ROOT / "prompts" / f"{name}.example.json"
    example = json.loads(file.read_text(encoding="utf-8"))
    assert Prompts.load(WORKSPACE).render(name, **example["input"]) == example["output"]


@pytest.mark.parametrize("name", PROMPTS)
def test_prompt_needs_every_variable(name: str) -> None:
    example = json.loads((ROOT / "prompts" / f"{name}.example.json").read_text(encoding="utf-8"))
    for variable in example["input"]:
        rest = {key: value for key, value in example["input"].items() if key != variable}
        with pytest.raises(ContentError, match=variable):
            Prompts.load(WORKSPACE).render(name, **rest)


def test_rules_do_what_their_cases_say() -> None:
    rulebook = Rulebook.load(WORKSPACE, {})
    assert [f"{failure.where}: {failure.message}" for failure in run_cases(rulebook)] == []


def test_every_rule_has_cases_it_must_pass_and_must_reject() -> None:
    rulebook = Rulebook.load(WORKSPACE, {})
    for rule in rulebook.rules:
        kinds = {case.accept for case in rulebook.cases if case.rule == rule}
        assert kinds == {True, False}, rule
