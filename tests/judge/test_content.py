"""Every shipped prompt and rule, walked: it loads and does what the file beside it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from workspaces import ROOT, make_workspace

from factory.domain.failures import ContentError
from factory.judge.cases import check_content, run_cases
from factory.judge.rulebook import Rulebook
from factory.workspace.folder import Workspace
from factory.workspace.prompts import Prompts

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


def test_encoding_a_document_without_a_description() -> None:
    example = json.loads(
        (ROOT / "prompts" / "codes" / "encode.example.json").read_text(encoding="utf-8")
    )
    document = example["input"]["tool"]
    expected = example["output"].replace(document.pop("description"), "", 1)
    prompts = Prompts.load(WORKSPACE)
    assert prompts.render("codes/encode", tool=document) == expected
    assert prompts.render("codes/encode", tool={**document, "description": None}) == expected


def test_encoding_an_api_of_toolbench_is_toolgens_line() -> None:
    document = {
        "tool_name": "Kettle",
        "name": "boil",
        "description": "Boil water.",
        "arguments": {},
    }
    text = Prompts.load(WORKSPACE).render("codes/encode", tool=document)
    assert text == (
        "Tool Name: Kettle. Tool Description: None. Api Name: boil Api Description: Boil water."
    )


def test_compressing_leaves_missing_fields_out() -> None:
    """A19, down to a document of a name alone."""
    example = json.loads(
        (ROOT / "prompts" / "codes" / "compress.example.json").read_text(encoding="utf-8")
    )
    document, lines = example["input"]["tool"], example["output"].split("\n")
    prompts = Prompts.load(WORKSPACE)
    for key, line in (("category_name", 0), ("description", 2), ("arguments", 2)):
        document.pop(key) if key != "arguments" else document[key]["properties"].clear()
        del lines[line]
        assert prompts.render("codes/compress", tool=document) == "\n".join(lines)
    assert lines == ["Tool: Money", "API: convert"]
    blank = {"name": "f", "description": " ", "arguments": {}}
    assert prompts.render("codes/compress", tool=blank) == "Tool: f"


def check_files(folder: Path, files: dict[str, str]) -> None:
    workspace = make_workspace(folder / "ws", files)
    check_content(Prompts.load(workspace), Rulebook.load(workspace, {"call/extra_text": "off"}))


def test_shipped_content_is_good(tmp_path: Path) -> None:
    check_content(Prompts.load(WORKSPACE), Rulebook.load(WORKSPACE, {}))
    check_files(tmp_path, {})


TOO_MANY = (
    'reason = "too_many_tools"\nseverity = "reject"\nwhy = "A long list."\n[limits]\n{limit}\n'
)
GOOD_CASE = '{"accept": true, "documents": [7]}\n'


@pytest.mark.parametrize(
    ("files", "where"),
    [
        ({"prompts/tools/generate.j2": "{{ qery }}"}, "prompts/tools/generate.j2"),
        ({"prompts/tools/generate.j2": "{{ query + 1 }}"}, "prompts/tools/generate.j2"),
        ({"prompts/tools/generate.j2": "{{ 1 / (query | int) }}"}, "prompts/tools/generate.j2"),
        ({"prompts/calls/system.j2": "{{ tools[3].name }}"}, "prompts/calls/system.j2"),
        ({"prompts/tools/system.example.json": "{"}, "prompts/tools/system.example.json"),
        ({"prompts/tools/system.example.json": "[]"}, "prompts/tools/system.example.json"),
        ({"rules/tool/too_many_tools.toml": TOO_MANY.format(limit="")}, "too_many_tools.toml"),
        ({"rules/tool/tool_not_object.cases.jsonl": GOOD_CASE}, "cases.jsonl:1"),
    ],
)
def test_bad_content_is_named_before_it_is_used(
    tmp_path: Path, files: dict[str, str], where: str
) -> None:
    with pytest.raises(ContentError) as caught:
        check_files(tmp_path, files)
    assert where in caught.value.where and str(tmp_path) in caught.value.where


def test_own_templates_and_limits_are_tried_on_shipped_examples(tmp_path: Path) -> None:
    files = {
        "prompts/tools/generate.j2": "Which tools answer this: {{ query }}?",
        "rules/tool/too_many_tools.toml": TOO_MANY.format(limit="max_tools = 40"),
    }
    check_files(tmp_path, files)
