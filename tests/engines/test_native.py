"""Calls as chat templates write them, and whether they are read back."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from conftest_models import CHAT_TEMPLATE, make_tokenizer
from families import NAMES, TAGGED, family_tokenizer
from transformers import AutoTokenizer

from factory.domain.failures import EnvironmentError_, RecipeError
from factory.engines.native import KINDS, ServerParser, find_server_parser
from factory.engines.written import write_calls
from factory.round.doctor import tell_of_calls
from factory.round.form import choose_form
from factory.workspace.models import is_installed

assert AutoTokenizer, "with torch, before a child's module is imported that does without"
trl = pytest.importorskip("trl")
TEMPLATES = Path(trl.__file__).parent / "chat_templates"


def written(template: str) -> dict[str, str]:
    """Each kind of calls by a template."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    return {
        name: write_calls(tokenizer, [(call.name, call.arguments) for call in calls])
        for name, calls in KINDS.items()
    }


def test_a_template_without_calls_says_nothing() -> None:
    texts = written(CHAT_TEMPLATE)
    assert set(texts.values()) == {""}
    assert "own form alone" in tell_of_calls(texts)


def test_what_a_template_writes_is_read_back() -> None:
    texts = written((TEMPLATES / "qwen3.jinja").read_text("utf-8"))
    call = json.loads(texts["one call"].partition("<tool_call>")[2].partition("</tool_call>")[0])
    assert call == {"name": "get_weather", "arguments": {"city": "Oslo", "days": 2}}
    assert tell_of_calls(texts) == f"{len(KINDS)} kinds are read back from its own template"


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("gptoss", "two calls"),  # it writes the first alone
        ("llama3_1", "two calls"),  # it refuses them
        ("qwen3_5_nothink", "nested values"),  # null is written as None
    ],
)
def test_what_a_template_loses_is_named(name: str, lost: str) -> None:
    texts = written((TEMPLATES / f"{name}.jinja").read_text("utf-8"))
    with pytest.raises(EnvironmentError_) as caught:
        tell_of_calls(texts)
    assert caught.value.what.endswith(f" {lost} are not read back")


def test_native_needs_a_form_and_auto_takes_what_there_is(tmp_path: Path) -> None:
    none = written(CHAT_TEMPLATE)
    with pytest.raises(RecipeError, match="has no form of calls") as caught:
        choose_form("native", none, tmp_path)
    assert "calls.form=own" in caught.value.remedy
    assert choose_form("auto", none, tmp_path) == "own"
    qwen = written((TEMPLATES / "qwen3.jinja").read_text("utf-8"))
    assert choose_form("auto", qwen, tmp_path) == choose_form("native", qwen, tmp_path) == "native"
    assert choose_form("own", qwen, tmp_path) == "own"


def test_what_a_server_loses_is_named() -> None:
    texts = written((TEMPLATES / "qwen3.jinja").read_text("utf-8"))
    assert tell_of_calls(texts, ServerParser("hermes", ())).endswith("by vLLM's parser hermes too")
    with pytest.raises(EnvironmentError_, match=r"nested values are not read back by vLLM"):
        tell_of_calls(texts, ServerParser("hermes", ("nested values",)))


@pytest.mark.slow
@pytest.mark.parametrize("name", (*NAMES, TAGGED))
def test_vllm_has_a_parser_for_each_family(name: str, tmp_path: Path) -> None:
    """Asked as `factory doctor` does, in a process of its own: vLLM warns where it is imported."""
    if not is_installed("vllm"):
        pytest.skip("vllm is not installed: requirements/cpu.lock")
    family_tokenizer(name).save_pretrained(tmp_path)
    found = asyncio.run(find_server_parser(tmp_path))
    assert found is not None
    readers = {"qwen": "hermes", "llama": "llama3_json", "mistral": "mistral", TAGGED: "qwen3_xml"}
    assert found.name == readers[name]
    assert found.lost == (("two calls",) if name == "llama" else ())  # which its template refuses
