"""Tool documents of every dialect: one document inside, the same value when written back."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workspaces import ROOT

from factory.tools.dialects import (
    DIALECTS,
    Reading,
    find_dialect,
    read_dialect,
    write_dialect,
    write_documents,
)
from factory.tools.schema import SPELLINGS, WORDS, read_type, respell

settings.register_profile("factory", deadline=None, derandomize=True)
settings.load_profile("factory")

DATA = ROOT.parent / "shared" / "data"

DOCUMENT: dict[str, Any] = {
    "name": "f",
    "description": "Does this and that.",
    "arguments": {
        "type": "dict",
        "properties": {
            "a": {"type": "string", "description": "Where."},
            "b": {"type": "float", "description": "How much.", "default": 2},
        },
        "required": ["a"],
    },
}
A, B = {"description": "Where."}, {"description": "How much.", "default": 2}
WRITTEN: dict[str, Any] = {
    "tooldev": DOCUMENT,
    "bfcl": {
        "name": "f",
        "description": "Does this and that.",
        "parameters": DOCUMENT["arguments"],
    },
    "function": {
        "name": "f",
        "description": "Does this and that.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "string", **A}, "b": {"type": "number", **B}},
            "required": ["a"],
        },
    },
    "seal-tools": {
        "api_name": "f",
        "api_description": "Does this and that.",
        "parameters": {"a": {"type": "str", **A}, "b": {"type": "float", **B}},
        "required": ["a"],
    },
    "toolbench": {
        "api_name": "f",
        "api_description": "Does this and that.",
        "required_parameters": [{"name": "a", "type": "STRING", "default": "", **A}],
        "optional_parameters": [{"name": "b", "type": "NUMBER", **B}],
    },
    "taskbench": {
        "id": "f",
        "desc": "Does this and that.",
        "parameters": [
            {"name": "a", "type": "string", "desc": "Where."},
            {"name": "b", "type": "number", "desc": "How much.", "default": 2},
        ],
    },
}
WRITTEN["openai"] = {"type": "function", "function": WRITTEN["function"]}
WRITTEN["mcp"] = {
    ("inputSchema" if key == "parameters" else key): part
    for key, part in WRITTEN["function"].items()
}
WRITTEN["table"] = {key.removeprefix("api_"): part for key, part in WRITTEN["seal-tools"].items()}


@pytest.mark.parametrize("name", WRITTEN)
def test_every_dialect_says_the_same(name: str) -> None:
    assert find_dialect(WRITTEN[name]) == name
    reading = read_dialect(WRITTEN[name])
    required = DOCUMENT["arguments"]["required"] if name != "taskbench" else []
    arguments = {**DOCUMENT["arguments"], "required": required}
    assert reading.documents == ({**DOCUMENT, "arguments": arguments},)
    assert reading.rest == ()
    assert write_documents([DOCUMENT], name) == WRITTEN[name]


@pytest.mark.parametrize(
    "name", [name for name in WRITTEN if name not in ("taskbench", "toolbench")]
)
def test_results_and_nested_schemas_are_carried(name: str) -> None:
    point = {"type": "dict", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    points = {"type": "array", "items": point, "description": "Points."}
    document = {
        **DOCUMENT,
        "arguments": {"type": "dict", "properties": {"points": points}, "required": []},
        "results": {"type": "dict", "properties": {"ok": {"type": "boolean"}}},
    }
    value = write_documents([document], name)
    assert read_dialect(value) == Reading(documents=(document,), dialect=name, rest=())


def test_what_a_dialect_says_besides_is_the_rest() -> None:
    value = {**WRITTEN["seal-tools"], "field": "Chemistry", "parameters": {"a": {"type": "char"}}}
    reading = read_dialect(value)
    assert reading.documents[0]["arguments"]["properties"] == {"a": {"type": "string"}}
    assert {change.path: change.value for change in reading.rest} == {
        ("field",): "Chemistry",
        ("parameters", "a", "type"): "char",
    }
    assert write_dialect(reading) == value


def test_an_edited_document_is_written_with_its_rest() -> None:
    value = {**WRITTEN["toolbench"], "method": "GET"}
    reading = read_dialect(value)
    reading.documents[0]["description"] = "Does more."
    assert write_dialect(reading) == {**value, "api_description": "Does more."}
    reading.documents[0]["arguments"] = {"type": "dict", "properties": {}, "required": []}
    assert write_dialect(reading)["required_parameters"] == []


def test_an_api_of_toolbench_says_whose_it_is() -> None:
    """In a tool's file the service stands at the top; every way to write it comes back whole."""
    service = {"tool_name": "Kettle", "tool_description": "Hot water.", "category_name": "Food"}
    api = {**WRITTEN["toolbench"], **service}
    (document,) = read_dialect(api).documents
    assert document == {**DOCUMENT, **service}
    assert read_dialect(api).rest == () and write_documents([document], "toolbench") == api
    for whole in ({**service, "api_list": [WRITTEN["toolbench"]]}, {"api_list": [api]}):
        assert read_dialect(whole).documents == (document,)
        assert write_dialect(read_dialect(whole)) == whole
    assert read_dialect(document).documents == (document,)
    assert write_documents([document], "openai") == WRITTEN["openai"]


def test_toolbench_defaults_get_their_type() -> None:
    parts = [
        {"name": "n", "type": "NUMBER", "description": "", "default": "10"},
        {"name": "b", "type": "BOOLEAN", "description": "", "default": "false"},
        {"name": "s", "type": "STRING", "description": "", "default": "10"},
        {"name": "w", "type": "NUMBER", "description": "", "default": "ten"},
        {"name": "e", "type": "ENUM", "description": "", "default": ""},
    ]
    value = {"api_name": "f", "required_parameters": [], "optional_parameters": parts}
    reading = read_dialect(value)
    properties = reading.documents[0]["arguments"]["properties"]
    found = {name: part.get("default") for name, part in properties.items()}
    assert found == {"n": 10, "b": False, "s": "10", "w": "ten", "e": None}
    assert write_dialect(reading) == value


@pytest.mark.parametrize("kind", ["object", "dict", "OBJECT"])
def test_a_tool_without_arguments_has_none(kind: str) -> None:
    for parameters in ({"type": kind}, {"type": kind, "properties": None}, {}, None, []):
        value = {"name": "f", "parameters": parameters}
        reading = read_dialect(value)
        none = {"type": "dict", "properties": {}, "required": []}
        assert reading.documents[0]["arguments"] == none
        assert write_dialect(reading) == value


@pytest.mark.parametrize("name", ["type", "properties", "items", "required"])
def test_an_argument_may_have_a_keyword_for_a_name(name: str) -> None:
    part = {"type": "string", "description": "Where."}
    whole = {"type": "object", "properties": {name: part}, "required": [name]}
    for value in (
        {"api_name": "f", "parameters": {name: part}, "required": [name]},
        {"name": "f", "parameters": {name: part, "p": part}, "required": [name]},
        {"name": "f", "parameters": whole},
    ):
        (document,) = read_dialect(value).documents
        assert document["arguments"]["properties"][name] == part
        assert document["arguments"]["required"] == [name]


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        (7, "not a int"),
        ({}, "no name"),
        ({"name": " "}, "no name"),
        ({"name": "f", "parameters": ["a"]}, "a list, not an object"),
        ({"name": "f", "parameters": {"type": "array", "items": {"type": "string"}}}, "an array"),
    ],
)
def test_what_is_no_tool_is_told(value: Any, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        read_dialect(value)


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings_mean_what_they_say(name: str) -> None:
    """ToolBench has one word for both kinds of numbers; every other word comes back."""
    for kind, word in SPELLINGS[name].items():
        wanted = "number" if (name, kind) == ("toolbench", "integer") else kind
        assert read_type(word) == ({"type": wanted} if wanted else {}) or not word


@pytest.mark.parametrize("word", [*WORDS, "List[int]", "dict[str, float]", "int | None", ["a"]])
def test_words_mean_the_same_in_every_spelling(word: Any) -> None:
    meaning = respell({"type": word}, SPELLINGS["json-schema"])
    for name, words in SPELLINGS.items():
        if name != "toolbench":
            again = respell(respell({"type": word}, words), SPELLINGS["json-schema"])
            assert again == meaning


NAMES = ["name", "api_name", "description", "parameters", "arguments", "required", "type", "p"]
NAMES += ["properties", "items", "desc", "required_parameters", "default", "function", "results"]
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5)
    ),
    max_leaves=10,
)


@settings(max_examples=200)
@given(st.sampled_from(["api_name", "name", "id"]), st.dictionaries(st.sampled_from(NAMES), JSON))
def test_whatever_is_read_is_written_back(key: str, value: dict[str, Any]) -> None:
    value = {key: "f"} | value
    try:
        reading = read_dialect(value)
    except ValueError:
        return
    assert same(write_dialect(reading), value)


def same(one: object, other: object) -> bool:
    """Equal as JSON: 1, 1.0 and true are three values, the order of keys means nothing."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_lines(path: Path) -> list[Any]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.strip()]


def bfcl_functions() -> Iterator[Any]:
    spec = find_spec("bfcl_eval")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("bfcl-eval is not installed")
    folder = Path(spec.submodule_search_locations[0]) / "data"
    files = [*folder.glob("*.json"), *folder.glob("multi_turn_func_doc/*.json")]
    for path in [*files, *folder.glob("unused_datasets/question/*.json")]:
        if path.name != "BFCL_v4_format_sensitivity.json":  # A list of ids, no questions.
            for row in read_lines(path):
                yield from row.get("function", [row] if "parameters" in row else [])


def answer_functions() -> Iterator[Any]:
    for path in DATA.glob("toolbench_openbmb/data_example/answer/*/*.json"):
        yield from read_json(path)["answer_generation"]["function"]


def sgd_services() -> Iterator[Any]:
    for path in (DATA / "sgd").rglob("schema.json"):
        yield from read_json(path)


def callnavi_apis() -> Iterator[Any]:
    for path in DATA.glob("callnavi/Dataset/APIs/*.json"):
        for rows in read_json(path).values():
            yield from rows


def each(pattern: str) -> Iterator[Any]:
    for path in sorted(DATA.glob(pattern)):
        yield from read_lines(path) if path.suffix == ".jsonl" else read_json(path)


def taskbench_nodes() -> Iterator[Any]:
    for path in DATA.glob("taskbench/taskbench/*/tool_desc.json"):
        yield from read_json(path)["nodes"]


# source: values, dialects, values refused, keys of the rest that are not spellings or defaults
SOURCES: dict[str, tuple[Any, set[str], int, set[str]]] = {
    "Seal-Tools": (
        lambda: each("seal_tools/Seal-Tools_Dataset/tool.jsonl"),
        {"seal-tools"},
        0,
        {"field", "example"},
    ),
    "StableToolBench corpus": (
        lambda: each("stabletoolbench/corpus.jsonl"),
        {"toolbench"},
        0,
        {"method", "template_response"},
    ),
    "StableToolBench queries": (
        lambda: each("stabletoolbench/test_instruction/*.json"),
        {"toolbench-tool"},
        0,
        {"query", "query_id", "relevant APIs", "method", "template_response"},
    ),
    "ToolBench queries": (
        lambda: each("toolbench_openbmb/data_example/instruction/G*.json"),
        {"toolbench-tool"},
        0,
        {"query", "query_id", "relevant APIs", "method", "template_response"},
    ),
    "ToolBench answers (OpenAI functions)": (answer_functions, {"function"}, 0, set()),
    "CallNavi (JSON Schema)": (
        lambda: each("callnavi/Dataset/APISchema/*.json"),
        {"function"},
        101,
        {"$schema", "response", "returnParameter", "properties", "required"},
    ),
    "CallNavi (words by name)": (
        callnavi_apis,
        {"table", "bfcl"},
        98,
        {"response", "returnParameter", "properties", "required", "parameters"},
    ),
    "TaskBench": (
        taskbench_nodes,
        {"taskbench"},
        0,
        {"parameters", "input-type", "output-type"},
    ),
    "MetaTool": (
        lambda: each("metatool/dataset/plugin_info.json"),
        {"plugin"},
        0,
        {"name_for_human", "description_for_human"},
    ),
    "SGD": (sgd_services, {"sgd"}, 0, {"service_name", "description", "slots", "intents"}),
    "BFCL": (bfcl_functions, {"bfcl"}, 0, set()),
}
COUNTS = {"Seal-Tools": 4076, "StableToolBench corpus": 2479, "BFCL": 9476, "SGD": 156}


@pytest.mark.parametrize("source", SOURCES)
def test_every_document_of_a_source_comes_back(source: str) -> None:
    """All of them, with a rest of named keys, spellings (`type`) and ToolBench's text defaults."""
    find_values, dialects, num_refused, keys = SOURCES[source]
    values = list(find_values())
    if not values:
        pytest.skip(f"needs the public data sets at {DATA}")
    refused, found, rest = 0, Counter[str](), set[str]()
    for value in values:
        try:
            reading = read_dialect(value)
        except ValueError:
            refused += 1
            continue
        found[reading.dialect] += 1
        assert same(write_dialect(reading), value), value
        rest |= {find_key(change.path, keys) for change in reading.rest}
    assert len(values) == COUNTS.get(source, len(values))
    assert (set(found), refused) == (dialects, num_refused)
    twice = {"required_parameters", "optional_parameters"}  # The same name in a list two times.
    assert rest - {"type", "default", "items", "prefixItems"} - twice <= keys


def find_key(path: tuple[str | int, ...], keys: set[str]) -> str:
    """The named key a change lies under, else the last one."""
    words = [str(part) for part in path if isinstance(part, str)]
    return next((word for word in words if word in keys), words[-1])


def test_every_dialect_is_tested() -> None:
    named = set().union(*(source[1] for source in SOURCES.values()))
    assert named | WRITTEN.keys() == DIALECTS.keys()
