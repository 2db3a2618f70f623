"""The home world: deterministic, split without overlap, and the shipped benchmark is its output."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import combinations, islice
from random import Random
from typing import Any, Literal

import pytest

from factory.lab.home import words
from factory.lab.home.abstain import LACKS, quiet_items
from factory.lab.home.files import benchmark_files, dev_quiet_items, quiet_files, write_benchmark
from factory.lab.home.world import (
    CATEGORIES,
    FreshItem,
    catalogue_specs,
    dev_items,
    document,
    draw_item,
    fresh_item,
    home_items,
    home_stream,
    pairs,
)
from factory.score.calls.kind import Benchmark
from factory.workspace.folder import Workspace, shipped_root

TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str, "integer": int, "float": float, "boolean": bool, "array": list,
}  # fmt: skip


def seed_items(count: int, split: Literal["seed", "novel", "wild"] = "seed") -> list[FreshItem]:
    rng = Random(3)
    return [
        draw_item(rng, split, CATEGORIES[number % 4], split, catalogue=number % 2 == 0)
        for number in range(count)
    ]


def every_item() -> list[FreshItem]:
    return [
        *seed_items(400),
        *seed_items(400, "novel"),
        *(fresh_item(n) for n in range(400)),
        *home_items(),
        *dev_items(),
    ]


def names(items: list[FreshItem]) -> set[str]:
    return {tool["name"] for item in items for tool in (*item.tools, *item.used)}


def open_values(items: list[FreshItem]) -> set[object]:
    """Values that a split owns: strings outside enumerations and numbers from ten on."""
    closed = {choice for kind in words.PARAMETERS.values() for choice in kind.choices}
    found: set[object] = set()
    for item in items:
        for call in item.calls:
            for value in call["arguments"].values():
                parts = value if isinstance(value, list) else [value]
                found.update(part for part in parts if not isinstance(part, bool))
    return {v for v in found if v not in closed and not (isinstance(v, int | float) and v < 10)}


def test_splits_share_no_tool_and_no_open_value() -> None:
    seed = [*seed_items(2000), *seed_items(2000, "novel"), *seed_items(2000, "wild")]
    fresh = [fresh_item(number) for number in range(2000)]
    for left, right in combinations((seed, fresh, home_items(), dev_items()), 2):
        assert not names(left) & names(right)
        assert not open_values(left) & open_values(right)
    for one, other in combinations(("seed", "fresh", "home", "dev"), 2):
        assert {pair[1:] for pair in pairs(one)}.isdisjoint(pair[1:] for pair in pairs(other))


def test_word_lists_of_splits_are_disjoint() -> None:
    for name in words.WORD_LISTS:
        lists = [set(words.listed(name, split)) for split in ("seed", "fresh", "home", "dev")]
        assert sum(map(len, lists)) == len(set().union(*lists)), name


def check_call(call: dict[str, Any], tools: tuple[dict[str, Any], ...]) -> None:
    tool = next(tool for tool in tools if tool["name"] == call["name"])
    properties = tool["arguments"]["properties"]
    assert set(tool["arguments"]["required"]) <= set(call["arguments"]) <= set(properties)
    for name, value in call["arguments"].items():
        assert isinstance(value, TYPES[properties[name]["type"]])
        assert "enum" not in properties[name] or value in properties[name]["enum"]
        assert isinstance(value, bool) == (properties[name]["type"] == "boolean")


def test_gold_calls_fit_their_tools_and_values_stand_in_the_request() -> None:
    for item in every_item():
        for call in item.calls:
            check_call(call, item.tools)
            for value in call["arguments"].values():
                if not isinstance(value, bool):
                    parts = value if isinstance(value, list) else [value]
                    assert all(str(part) in item.query for part in parts), item.query


def test_categories_have_their_shape() -> None:
    for item in every_item():
        called = [call["name"] for call in item.calls]
        assert len({tool["name"] for tool in item.tools}) == len(item.tools)
        match item.category:
            case "simple":
                assert len(called) == len(item.tools) == 1
            case "multiple":
                assert len(called) == 1 and 2 <= len(item.tools) <= 4
            case "parallel":
                assert len(called) > 1 and len(set(called)) == len(item.tools) == 1
            case "parallel_multiple":
                assert len(set(called)) == 2 and 2 <= len(item.tools) <= 4
        assert len({json.dumps(call, sort_keys=True) for call in item.calls}) == len(item.calls)


def test_documents_describe_every_parameter() -> None:
    for tool in map(document, catalogue_specs()):
        assert list(tool) == ["name", "description", "arguments", "results"]
        arguments = tool["arguments"]
        assert arguments["type"] == "dict" and arguments["required"]
        for schema in arguments["properties"].values():
            assert schema["type"] in TYPES and schema["description"]
            assert ("items" in schema) == (schema["type"] == "array")


def test_the_catalogue_has_four_hundred_names_of_the_seed_split() -> None:
    catalogue = catalogue_specs()
    assert len({spec.name for spec in catalogue}) == len(catalogue) == 400
    assert catalogue == catalogue_specs()
    assert {(spec.domain, spec.verb, spec.noun) for spec in catalogue} <= set(pairs("seed"))


def test_fresh_requests_are_an_endless_stream_without_repeats() -> None:
    queries = list(islice(home_stream(), 3000))
    assert queries[5:15] == list(islice(home_stream(), 5, 15))
    assert len({query.text for query in queries}) == 3000


def test_the_development_set_is_no_part_of_the_benchmark() -> None:
    home, dev = ({item.query for item in items} for items in (home_items(), dev_items()))
    assert len(home) == 200 and len(dev) == 400 and not home & dev


@pytest.mark.parametrize("folder", ["", "dev"])
def test_shipped_benchmark_is_what_the_generator_writes(folder: str) -> None:
    items = dev_items() if folder else home_items()
    for path, text in benchmark_files(items).items():
        shipped = shipped_root() / "eval" / "home" / folder / path
        assert shipped.read_text(encoding="utf-8") == text, path


def test_requests_without_a_call_lack_what_their_kind_says() -> None:
    items = dev_quiet_items()
    assert Counter(item.category for item in items) == dict.fromkeys(LACKS, 40)
    assert len({item.query for item in items} - {item.query for item in dev_items()}) == 120
    tools = {pair[1:] for pair in pairs("dev")}
    for item in items:
        nouns = [tool["description"].partition(" by ")[0].split(" ", 2)[2] for tool in item.tools]
        assert len(item.tools) in (1, 2, 3)
        assert {
            (tool["name"].split("_")[0], noun) for tool, noun in zip(item.tools, nouns, strict=True)
        } <= tools
        named = [noun for noun in nouns if re.search(rf"\b{noun}\b", item.query)]
        assert bool(named) == (item.category == "missing_value") or item.category == "no_tool"


def test_shipped_requests_without_a_call_are_what_the_generator_writes(tmp_path: Any) -> None:
    for path, text in quiet_files(dev_quiet_items()).items():
        shipped = shipped_root() / "eval" / "home" / "abstain" / path
        assert shipped.read_text(encoding="utf-8") == text, path
    benchmark = Benchmark.load(Workspace(shipped_root()), "home-abstain")
    assert benchmark.split == "dev" and len(benchmark.items) == 120
    assert {item.judge for item in benchmark.items} == {"no_call"}
    assert quiet_items("home", 2, " 7") != quiet_items("home", 2, " 8")


def test_benchmark_answers_list_what_may_be_omitted(tmp_path: Any) -> None:
    write_benchmark(tmp_path)
    questions = (tmp_path / "home_multiple.json").read_text().splitlines()
    answers = (tmp_path / "possible_answer" / "home_multiple.json").read_text().splitlines()
    for question, answer in zip(map(json.loads, questions), map(json.loads, answers), strict=True):
        assert question["id"] == answer["id"]
        schemas = {f["name"]: f["parameters"] for f in question["function"]}
        for call in answer["ground_truth"]:
            ((name, allowed),) = call.items()
            assert set(schemas[name]["required"]) <= set(allowed)
            omitted = {key for key, values in allowed.items() if values == [""]}
            assert not omitted & set(schemas[name]["required"])
