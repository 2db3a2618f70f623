"""Tool documents of every dialect: one document inside, whatever they come in."""

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
    find_dialect,
    read_dialect,
    to_document,
    to_function,
)
from factory.tools.schema import JSON_SCHEMA, TOOLDEV, respell
from factory.tools.words import WORDS, read_type

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
WRITTEN["anthropic"] = {
    ("input_schema" if key == "parameters" else key): part
    for key, part in WRITTEN["function"].items()
}
WRITTEN["gemini"] = {
    ("parametersJsonSchema" if key == "parameters" else key): part
    for key, part in WRITTEN["function"].items()
}
WRITTEN["bedrock"] = {
    "toolSpec": WRITTEN["mcp"] | {"inputSchema": {"json": WRITTEN["mcp"]["inputSchema"]}}
}
WRITTEN["langchain"] = {
    "name": "f",
    "description": "Does this and that.",
    "args": {"a": {"type": "string", **A}, "b": {"type": "number", **B}},
}
WRITTEN["cohere"] = {
    "name": "f",
    "description": "Does this and that.",
    "parameter_definitions": {
        "a": {"type": "str", "required": True, **A},
        "b": {"type": "float", "required": False, **B},
    },
}
WRITTEN["table"] = {key.removeprefix("api_"): part for key, part in WRITTEN["seal-tools"].items()}


@pytest.mark.parametrize("name", WRITTEN)
def test_every_dialect_says_the_same(name: str) -> None:
    assert find_dialect(WRITTEN[name]) == name
    required = DOCUMENT["arguments"]["required"] if name != "taskbench" else []
    arguments = {**DOCUMENT["arguments"], "required": required}
    assert read_dialect(WRITTEN[name]) == ({**DOCUMENT, "arguments": arguments},)


@pytest.mark.parametrize(
    ("name", "schema", "results"),
    [
        ("tooldev", "arguments", "results"),
        ("bfcl", "parameters", "response"),
        ("function", "parameters", "responses"),
        ("mcp", "inputSchema", "outputSchema"),
        ("seal-tools", "parameters", "responses"),
        ("table", "parameters", "returnParameter"),
    ],
)
def test_results_and_nested_schemas_are_carried(name: str, schema: str, results: str) -> None:
    point = {"type": "dict", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    points = {"type": "array", "items": point, "description": "Points."}
    arguments = {"type": "dict", "properties": {"points": points}, "required": []}
    whole = {"type": "dict", "properties": {"ok": {"type": "boolean"}}}
    for found in (whole, whole["properties"]):
        value = {**WRITTEN[name], schema: arguments, results: found}
        document = {**DOCUMENT, "arguments": arguments, "results": whole}
        assert read_dialect(value) == (document,)


def test_what_a_dialect_says_besides_is_left_behind() -> None:
    value = {**WRITTEN["seal-tools"], "field": "Chemistry", "parameters": {"a": {"type": "char"}}}
    (document,) = read_dialect(value)
    assert document["arguments"]["properties"] == {"a": {"type": "string"}}
    assert document.keys() == DOCUMENT.keys()


def test_an_api_of_toolbench_says_whose_it_is() -> None:
    """In a tool's file the service stands at the top; every way to write it is read."""
    service = {"tool_name": "Kettle", "tool_description": "Hot water.", "category_name": "Food"}
    api = {**WRITTEN["toolbench"], **service}
    document = {**DOCUMENT, **service}
    lists = ({**service, "api_list": [WRITTEN["toolbench"]]}, {"api_list": [api]})
    for whole in (api, *lists, document):
        assert read_dialect(whole) == (document,)
    assert to_function(document) == WRITTEN["bfcl"]


def test_the_apis_that_a_request_of_toolsense_names_are_toolbenchs() -> None:
    service = {"tool_name": "Kettle&&boil", "tool_description": "Hot.", "api_description": "Boils."}
    other = {**service, "tool_name": "Kettle&&k&&l"}
    for needed in (service, [service]):
        found = read_dialect({"query": "Tea!", "tool": needed, "analyzed_tools": [other]})
        assert [each["name"] for each in found] == ["boil", "k&&l"]
        assert found[0] == {
            "name": "boil",
            "description": "Boils.",
            "arguments": {"type": "dict", "properties": {}, "required": []},
            "tool_name": "Kettle",
            "tool_description": "Hot.",
        }
    with pytest.raises(ValueError, match="not named Tool&&API"):
        read_dialect({"tool": {"tool_name": "Kettle"}, "analyzed_tools": []})


def test_toolbench_defaults_get_their_type() -> None:
    parts = [
        {"name": "n", "type": "NUMBER", "description": "", "default": "10"},
        {"name": "b", "type": "BOOLEAN", "description": "", "default": "false"},
        {"name": "s", "type": "STRING", "description": "", "default": "10"},
        {"name": "w", "type": "NUMBER", "description": "", "default": "ten"},
        {"name": "e", "type": "ENUM", "description": "", "default": ""},
    ]
    value = {"api_name": "f", "required_parameters": [], "optional_parameters": parts}
    properties = read_dialect(value)[0]["arguments"]["properties"]
    found = {name: part.get("default") for name, part in properties.items()}
    assert found == {"n": 10, "b": False, "s": "10", "w": "ten", "e": None}


@pytest.mark.parametrize("kind", ["object", "dict", "OBJECT"])
def test_a_tool_without_arguments_has_none(kind: str) -> None:
    for parameters in ({"type": kind}, {"type": kind, "properties": None}, {}, None, []):
        value = {"name": "f", "parameters": parameters}
        none = {"type": "dict", "properties": {}, "required": []}
        assert read_dialect(value)[0]["arguments"] == none


@pytest.mark.parametrize("name", ["type", "properties", "items", "required"])
def test_an_argument_may_have_a_keyword_for_a_name(name: str) -> None:
    part = {"type": "string", "description": "Where."}
    whole = {"type": "object", "properties": {name: part}, "required": [name]}
    for value in (
        {"api_name": "f", "parameters": {name: part}, "required": [name]},
        {"name": "f", "parameters": {name: part, "p": part}, "required": [name]},
        {"name": "f", "parameters": whole},
    ):
        (document,) = read_dialect(value)
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


@pytest.mark.parametrize("words", [JSON_SCHEMA, TOOLDEV])
def test_spellings_mean_what_they_say(words: dict[str, str]) -> None:
    for kind, word in words.items():
        assert read_type(word) == ({"type": kind} if kind else {}) or not word


@pytest.mark.parametrize("word", [*WORDS, "List[int]", "dict[str, float]", "int | None", ["a"]])
def test_words_mean_the_same_in_every_spelling(word: Any) -> None:
    meaning = respell({"type": word})
    for words in (JSON_SCHEMA, TOOLDEV):
        assert respell(respell({"type": word}, words)) == meaning


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
def test_what_was_read_reads_the_same_again(key: str, value: dict[str, Any]) -> None:
    value = {key: "f"} | value
    try:
        documents = read_dialect(value)
    except ValueError:
        return
    for document in documents:
        assert read_dialect(document) == (document,)


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


# source: values, dialects, values refused
SOURCES: dict[str, tuple[Any, set[str], int]] = {
    "Seal-Tools": (
        lambda: each("seal_tools/Seal-Tools_Dataset/tool.jsonl"),
        {"seal-tools"},
        0,
    ),
    "StableToolBench corpus": (
        lambda: each("stabletoolbench/corpus.jsonl"),
        {"toolbench"},
        0,
    ),
    "StableToolBench queries": (
        lambda: each("stabletoolbench/test_instruction/*.json"),
        {"toolbench-tool"},
        0,
    ),
    "ToolBench queries": (
        lambda: each("toolbench_openbmb/data_example/instruction/G*.json"),
        {"toolbench-tool"},
        0,
    ),
    "ToolBench answers (OpenAI functions)": (answer_functions, {"function"}, 0),
    "CallNavi (JSON Schema)": (
        lambda: each("callnavi/Dataset/APISchema/*.json"),
        {"function"},
        101,
    ),
    "CallNavi (words by name)": (
        callnavi_apis,
        {"table", "bfcl"},
        98,
    ),
    "TaskBench": (
        taskbench_nodes,
        {"taskbench"},
        0,
    ),
    "MetaTool": (
        lambda: each("metatool/dataset/plugin_info.json"),
        {"plugin"},
        0,
    ),
    "SGD": (sgd_services, {"sgd"}, 0),
    "ToolSense": (lambda: each("toolsense/realistic_retrieval.jsonl"), {"toolsense"}, 0),
    "BFCL": (bfcl_functions, {"bfcl"}, 0),
}
COUNTS = {"Seal-Tools": 4076, "StableToolBench corpus": 2479, "BFCL": 9476, "SGD": 156}


@pytest.mark.parametrize("source", SOURCES)
def test_every_document_of_a_source_is_read(source: str) -> None:
    find_values, dialects, num_refused = SOURCES[source]
    values = list(find_values())
    if not values:
        pytest.skip(f"needs the public data sets at {DATA}")
    refused, found = 0, Counter[str]()
    for value in values:
        try:
            documents = read_dialect(value)
        except ValueError:
            refused += 1
            continue
        found[find_dialect(value)] += 1
        for document in documents:
            assert read_dialect(document) == (document,)
    assert len(values) == COUNTS.get(source, len(values))
    assert (set(found), refused) == (dialects, num_refused)


def test_functions_of_bfcl_come_back_whole() -> None:
    for function in bfcl_functions():
        again = to_function(to_document(function))
        assert json.dumps(again) == json.dumps(function)


def test_a_row_of_toolbenchs_corpus_is_its_document() -> None:
    assert find_dialect(row := {"docid": "1", "document_content": json.dumps(DOCUMENT)}) == "corpus"
    assert read_dialect(row) == (DOCUMENT,)
    for content in (5, "{", '{"description": "?"}'):
        with pytest.raises(ValueError):
            read_dialect({"document_content": content})


def test_every_dialect_is_tested() -> None:
    named = set().union(*(source[1] for source in SOURCES.values()))
    assert named | WRITTEN.keys() | {"corpus", "smolagents"} == DIALECTS.keys()
