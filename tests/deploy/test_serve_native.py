"""`factory serve` of a checkpoint that calls in its template's form: bound, whatever it would say.

The model is random, so that a call that fits its schema is the grammar's doing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from conftest_models import make_tokenizer, tiny_model
from families import as_family, family
from served_model import ServedModel, names, serving
from workspaces import make_workspace

from factory.domain.jsontext import parse_strict
from factory.domain.records import Call, Tool
from factory.judge.calls import judge_call
from factory.tools.dialects import read_dialect

pytestmark = pytest.mark.slow

SETTINGS = """
[engine]
backend = "vllm"
threads = 1
max_model_len = 4096
memory_gib = 0.06
"""
QUERY = "How will the weather be?"
SCHEMAS: dict[str, dict[str, Any]] = {
    "get_weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "enum": ["Oslo", 'Tromsø "north"\n<b>']},
            "days": {"type": "integer", "minimum": 1, "maximum": 9},
        },
        "required": ["city"],
    },
    "look": {"type": "object", "properties": {"up": {"type": "boolean"}}, "required": ["up"]},
}


def tools(*, strict: bool = False) -> list[dict[str, Any]]:
    more = {"strict": True} if strict else {}
    return [
        {"type": "function", "function": {"name": name, "parameters": schema, **more}}
        for name, schema in SCHEMAS.items()
    ]


TOOLS = {
    document["name"]: Tool(id=document["name"], document=document)
    for tool in tools()
    for document in read_dialect(tool)
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedModel]:
    folder, parts = tmp_path_factory.mktemp("native"), family("qwen")
    tokens = (*parts.special, parts.end, *parts.words)
    model = tiny_model(folder / "model", extra_tokens=tokens, max_positions=4096)
    as_family(make_tokenizer(), "qwen").save_pretrained(model)
    (model / "training.json").write_text('{"form": "native"}', encoding="utf-8")
    workspace = make_workspace(folder / "ws", {"factory.toml": SETTINGS}).root
    with serving(workspace, "--checkpoint", str(model), last="asked") as running:
        yield running


def check(choice: dict[str, Any]) -> list[str]:
    """The names of an answer that calls, and nothing else, each under its schema."""
    message = choice["message"]
    assert choice["finish_reason"] == "tool_calls" and not message.get("content"), choice
    for call in message["tool_calls"]:
        function = call["function"]
        read = Call(name=function["name"], arguments=parse_strict(function["arguments"]))
        assert not list(judge_call(read, 0, TOOLS)), read
    return names(choice)


def test_calls_of_a_random_model_fit_where_they_are_bound(served: ServedModel) -> None:
    named = {"type": "function", "function": {"name": "look"}}
    for stream in (False, True):
        asked = {"temperature": 2, "n": 8, "max_tokens": 300, "stream": stream, "seed": 1}
        more = asked | {"tools": tools(), "tool_choice": "required"}
        one = served.choices(QUERY, **more, parallel_tool_calls=False)
        assert {name for choice in one for name in check(choice)} == {*SCHEMAS}
        assert all(len(check(choice)) == 1 for choice in one)
        free = [c for c in served.choices(QUERY, **more) if c["finish_reason"] != "length"]
        assert max(len(check(choice)) for choice in free) > 1
        for choice in served.choices(QUERY, **asked | {"tools": tools(), "tool_choice": named}):
            assert check(choice) == ["look"]


def test_a_strict_call_fits_and_a_free_one_does_not(served: ServedModel) -> None:
    status, body = served.ask("/tokenize", {"model": "factory", "prompt": "<tool_call>"})
    assert status == 200, body
    (tag,) = json.loads(body)["tokens"]
    for stream in (False, True):
        asked = {"temperature": 2, "n": 8, "max_tokens": 300, "stream": stream, "seed": 1}
        asked["logit_bias"] = {str(tag): 50}  # it begins a call, and nothing keeps it in one
        for choice in served.choices(QUERY, **asked | {"max_tokens": 60}, tools=tools()):
            assert choice["finish_reason"] != "tool_calls"
        bound = served.choices(QUERY, **asked, tools=tools(strict=True), parallel_tool_calls=False)
        assert all(len(check(choice)) == 1 for choice in bound)
    said = served.choices(QUERY, temperature=2, n=8, seed=1, tools=tools(strict=True))
    assert any(choice["message"]["content"] for choice in said), "words will do"
