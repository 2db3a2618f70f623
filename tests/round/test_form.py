"""A round whose parent was taught in another form of calls, and one that teaches none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from workspaces import ROOT

from factory.domain.failures import RecipeError
from factory.domain.records import Call, Example, Form, Query, Tool
from factory.round.form import check_bindable, form_to_teach, tell_change
from factory.train.examples import code_example, examples_from_sample, teaches_calls
from factory.workspace.folder import Workspace
from factory.workspace.models import DONE_FILE
from factory.workspace.prompts import Prompts
from factory.workspace.recipe import CallsSection

DOCUMENT = {
    "name": "get_weather",
    "description": "The weather.",
    "arguments": {"type": "dict", "properties": {}},
}
TOOL = Tool(id="t_weather", document=DOCUMENT)


def taught(folder: Path, form: Form) -> Path:
    """A checkpoint of a round in this form, as far as it says so."""
    (folder / DONE_FILE).write_text(f'{{"form": "{form}"}}', encoding="utf-8")
    return folder


def calling(form: Form) -> list[Example]:
    return examples_from_sample(
        query=Query(id="q_1", text="How is the weather?", source="test"),
        tools=[TOOL],
        calls=[Call(name="get_weather", arguments={})],
        prompts=replace(Prompts.load(Workspace(ROOT)), form=form),
        round_number=1,
        written=[TOOL],
    )


def test_what_teaches_no_calls_leaves_the_form_of_the_parent(tmp_path: Path) -> None:
    documents = [code_example(TOOL, Prompts.load(Workspace(ROOT)), "r1/t_weather")]
    parent = taught(tmp_path, "native")
    assert not teaches_calls(documents)
    assert form_to_teach("own", documents, parent) == "native"
    assert form_to_teach("own", [*documents, *calling("own")], parent) == "own"
    assert form_to_teach("native", [*documents, *calling("native")], parent) == "native"
    assert form_to_teach("native", documents, taught(tmp_path, "own")) == "own"


def test_a_template_without_a_grammar_binds_nothing(tmp_path: Path) -> None:
    why = "no form of calls can be told from what the chat template writes"
    check_bindable(CallsSection(form="native"), why, tmp_path)
    for key in ("constrain", "more_constrain"):
        bound = CallsSection.model_validate({"form": "native", key: "schema"})
        check_bindable(bound, "", tmp_path)
        with pytest.raises(RecipeError, match=why):
            check_bindable(bound, why, tmp_path)


@pytest.mark.parametrize(("before", "now"), [("native", "own"), ("own", "native")])
def test_a_change_of_form_is_told(tmp_path: Path, before: Form, now: Form) -> None:
    assert tell_change(tmp_path, now) == "", "a model that was given was taught by no round"
    parent = taught(tmp_path, before)
    told = f"the parent was taught in {before} form; this round teaches {now} (calls.form)"
    assert tell_change(parent, now).startswith(told)
    assert tell_change(parent, now).endswith(f"--set calls.form={before} stays with that form")
    assert tell_change(parent, before) == ""
