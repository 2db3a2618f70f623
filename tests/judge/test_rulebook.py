"""The rules as files: every case holds, broken files are told by name."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from factory.domain.failures import ContentError
from factory.judge.cases import judge_case, run_cases
from factory.judge.rulebook import DOCUMENT_SCHEMA, Case, Rulebook
from factory.judge.verdicts import check_calls, check_document
from factory.workspace.folder import Workspace, shipped_root
from factory.workspace.recipe import RuleSetting, load_recipe

SHIPPED = Workspace(shipped_root())
RULEBOOK = Rulebook.load(SHIPPED)
REASONS = {
    "no_tools_tag",
    "tools_json",
    "tool_not_object",
    "name_missing",
    "name_illegal",
    "name_duplicate_in_set",
    "desc_missing",
    "desc_short",
    "args_not_dict",
    "prop_type_unknown",
    "prop_desc_missing",
    "array_without_items",
    "required_unknown",
    "enum_type_mismatch",
    "default_type_mismatch",
    "schema_invalid",
    "too_many_tools",
    "too_many_params",
    "query_leak",
    "no_tool_call",
    "call_json",
    "call_keys",
    "unknown_tool",
    "unknown_argument",
    "missing_required",
    "wrong_type",
    "enum_violation",
    "array_item_type",
    "object_nested_schema",
    "duplicate_call",
    "too_many_calls",
    "ungrounded_value",
    "unused_value",
    "truncated",
    "extra_text",
    "vote_below_min",
    "vote_tie",
    "no_call_majority",
    "code_not_in_trie",
    "constraint_violation",
    "eval_overlap",
    "near_duplicate_tool",
    "duplicate_tool",
    "duplicate_query",
    "near_duplicate_query",
    "tool_crowding",
    "wording_crowding",
    "unused_word",
    "control_token",
}
"""Algorithms §1.5, those of a whole round (A43, A44), and one for keywords it has no word for."""


SHOWN = re.compile(r'["{\[\d]|null|true|false|NaN|Infinity|surrogate|empty')
"""A value, or the word for one that cannot be shown."""


def write(folder: Path, path: str, text: str) -> Workspace:
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_text(text, encoding="utf-8")
    return Workspace(folder)


def test_every_case_holds() -> None:
    assert [f"{failure.where}: {failure.message}" for failure in run_cases(RULEBOOK)] == []


@pytest.mark.parametrize("rule_id", sorted(RULEBOOK.rules))
def test_every_rule_is_explained_and_has_cases(rule_id: str) -> None:
    rule = RULEBOOK.rules[rule_id]
    counts = Counter(case.accept for case in RULEBOOK.cases if case.rule == rule_id)
    assert counts[False] >= 3
    assert counts[True] >= 1
    assert len(rule.why) > 20 and rule.why.endswith(".")


def test_every_verdict_has_a_path_and_shows_what_it_objects_to() -> None:
    for case in RULEBOOK.cases:
        if not case.accept:
            found = [v for v in judge_case(case, RULEBOOK) if v.rule == case.rule]
            assert all(v.path.startswith("$") and v.reason in REASONS for v in found)
            assert all(SHOWN.search(v.message) for v in found), found
            assert all(v.message.isprintable() and len(v.message) < 400 for v in found)


def test_accepted_cases_are_clean() -> None:
    """What one rule lets pass, no other rule rejects."""
    for case in RULEBOOK.cases:
        if case.accept:
            found = [v for v in judge_case(case, RULEBOOK) if v.severity == "reject"]
            assert not found, case.where


def test_every_reason_code_has_a_rule() -> None:
    assert {rule.reason for rule in RULEBOOK.rules.values()} == REASONS


def test_only_noted_rules_are_warnings() -> None:
    warnings = {rule.id for rule in RULEBOOK.rules.values() if rule.severity == "warn"}
    assert warnings == {
        *("call/repaired_json", "call/ungrounded_value", "call/extra_text", "call/duplicate_call"),
        "call/unused_value",
        *("round/duplicate_tool", "round/near_duplicate_tool", "round/unused_word"),
        *("tool/control_token", "round/control_token"),
    }


@pytest.mark.parametrize(("setting", "severities"), [("off", []), ("warn", ["warn"])])
def test_settings_switch_rules(setting: RuleSetting, severities: list[str]) -> None:
    rulebook = Rulebook.load(SHIPPED, {"call/no_tool_call": setting})
    assert [v.severity for v in check_calls("Hello.", [], rulebook=rulebook)] == severities
    assert rulebook.sha != RULEBOOK.sha
    assert run_cases(rulebook) == []


def test_a_recipe_switches_rules_where_factory_toml_does_not() -> None:
    tooldev = load_recipe(SHIPPED, "tooldev", {}).recipe.rules
    under = RULEBOOK.under(tooldev)
    assert under.rules["call/duplicate_call"].severity == "reject"
    assert under.sha not in ("", RULEBOOK.sha) and under.under(tooldev).sha == under.sha
    assert under.under({}) is RULEBOOK.under({}) is RULEBOOK
    mine = Rulebook.load(SHIPPED, {"call/duplicate_call": "off"})
    assert mine.under(tooldev) is mine and not mine.rules["call/duplicate_call"].active
    with pytest.raises(ContentError, match="no rule call/duplicate_cal"):
        RULEBOOK.under({"call/duplicate_cal": "off"})


def test_unknown_setting_names_the_nearest_rule() -> None:
    with pytest.raises(ContentError) as caught:
        Rulebook.load(SHIPPED, {"call/wrong_typ": "off"})
    assert "call/wrong_type" in caught.value.remedy


def test_workspace_file_replaces_a_shipped_rule(tmp_path: Path) -> None:
    text = 'reason = "extra_text"\nseverity = "reject"\nwhy = "We want calls and nothing else."\n'
    rulebook = Rulebook.load(write(tmp_path, "rules/call/extra_text.toml", text))
    assert rulebook.rules["call/extra_text"].severity == "reject"
    assert rulebook.rules["call/extra_text"].source.startswith(str(tmp_path))
    assert rulebook.sha != RULEBOOK.sha


def test_workspace_schema_changes_the_limits(tmp_path: Path) -> None:
    schema = json.loads(SHIPPED.find(DOCUMENT_SCHEMA).read_text(encoding="utf-8"))
    schema["properties"]["description"]["minLength"] = 40
    rulebook = Rulebook.load(write(tmp_path, DOCUMENT_SCHEMA, json.dumps(schema)))
    assert any(failure.rule == "tool/desc_short" for failure in run_cases(rulebook))


def test_references_of_a_workspace_schema_hold_in_circles_too(tmp_path: Path) -> None:
    schema = json.loads(SHIPPED.find(DOCUMENT_SCHEMA).read_text(encoding="utf-8"))
    again = {"$ref": "#/$defs/argument", "x-rule": "tool/schema_invalid", "maxProperties": 2}
    schema["$defs"]["argument"]["properties"]["items"] = again
    rulebook = Rulebook.load(write(tmp_path, DOCUMENT_SCHEMA, json.dumps(schema)))
    items: dict[str, Any] = {"type": "array", "items": {"type": "string", "enum": ["a"], "x": 1}}
    part = {"type": "array", "description": "Those.", "items": items}
    arguments = {"type": "dict", "properties": {"a": part}}
    document = {"name": "f", "description": "To find what is lost.", "arguments": arguments}
    found = [(v.rule, v.path) for v in check_document(document, rulebook=rulebook)]
    inside = "$.arguments.properties.a.items"
    assert found == [
        ("tool/prop_desc_missing", f"{inside}.description"),
        ("tool/prop_desc_missing", f"{inside}.items.description"),
        ("tool/schema_invalid", f"{inside}.items"),
    ]


@pytest.mark.parametrize(
    ("path", "text", "what"),
    [
        ("rules/call/a.toml", "reason = ", "not valid TOML"),
        ("rules/call/a.toml", 'reason = "a"\nseverity = "reject"', "why"),
        ("rules/call/a.toml", 'reason = "a"\nseverity = "maybe"\nwhy = "b"', "severity"),
        ("rules/call/a.toml", 'reason = "a"\nseverity = "warn"\nwhy = "b"\nx = 1', "x"),
        ("rules/other/a.toml", 'reason = "a"\nseverity = "warn"\nwhy = "b"', "rules/other"),
        ("rules/call/wrong_type.cases.jsonl", "{", "not valid JSON"),
        ("rules/call/wrong_type.cases.jsonl", "{}", "accept"),
        ("rules/call/a.cases.jsonl", '{"accept": true}', "without a rule"),
        (DOCUMENT_SCHEMA, "{", "not valid JSON"),
        (DOCUMENT_SCHEMA, '{"type": 7}', "not a JSON Schema"),
        (DOCUMENT_SCHEMA, '{"type": "object", "x-rule": "tool/nam_missing"}', "no rule"),
        (DOCUMENT_SCHEMA, '{"$ref": "https://example.com/a.json"}', "$ref"),
        (DOCUMENT_SCHEMA, '{"$ref": "#"}', "$ref"),
        (DOCUMENT_SCHEMA, '{"pattern": "(?=a)"}', "pattern"),
    ],
)
def test_broken_files_are_told(tmp_path: Path, path: str, text: str, what: str) -> None:
    with pytest.raises(ContentError) as caught:
        Rulebook.load(write(tmp_path, path, text))
    assert what in str(caught.value)
    assert path.rsplit("/", 1)[1] in caught.value.where or "rules/" in caught.value.where


@pytest.mark.parametrize(
    ("rule", "content", "what"),
    [
        ("tool/name_missing", {"nonsense": 1}, "nonsense: unknown key"),
        ("tool/name_missing", {"query": "a"}, "`documents` or `text`"),
        ("call/wrong_type", {"calls": ["f"]}, "calls.0: Input should be a valid dictionary"),
        ("vote/vote_tie", {"plurality": True}, "samples: Field required"),
        ("code/code_not_in_trie", {"code": "a", "valid": 1}, "valid: Input should be a valid bool"),
        ("round/duplicate_query", {"candidates": [{"text": "a"}]}, "candidates.0.text: unknown"),
    ],
)
def test_a_case_with_strange_keys_is_told(rule: str, content: dict[str, Any], what: str) -> None:
    case = Case(rule=rule, accept=True, content=content, where="a.cases.jsonl:7")
    with pytest.raises(ContentError, match=re.escape(what)) as caught:
        judge_case(case, RULEBOOK)
    assert caught.value.where == "a.cases.jsonl:7"
    assert "its keys are" in caught.value.remedy
