"""Importers: real files load, broken lines are named, nothing is dropped silently."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from workspaces import ROOT

from factory.domain.failures import InputError
from factory.domain.records import Query
from factory.round.start import draw
from factory.tools.sources import read_queries, read_tools

DATA = ROOT.parent / "shared" / "data"


def needs(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"real data are not here: {path}")
    return path


@pytest.mark.parametrize("domain", ["multimedia", "huggingface", "dailylifeapis"])
def test_taskbench_requests_all_load(domain: str) -> None:
    path = needs(DATA / "taskbench" / "taskbench" / f"data_{domain}" / "user_requests.json")
    imported = read_queries(path)
    lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    assert len(imported.items) + len(imported.bad) == len(lines)
    assert not imported.bad
    assert all(query.text and query.source.startswith(path.name) for query in imported.items)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.jsonl", '{"query": "one"}\n\n{"query": "two"}\n', ["one", "two"]),
        ("a.json", '["one", "two"]', ["one", "two"]),
        ("a.json", '{"id": 1, "user_request": "one"}\n{"user_request": "two"}', ["one", "two"]),
        ("a.txt", "one\n{two}\n", ["one", "{two}"]),
        ("a.csv", "id,text\n1,one\n2,two\n", ["one", "two"]),
        ("a.tsv", "id\ttext\n1\tone\n", ["one"]),
        ("a.csv", 'id,text\r\n1,"one, or\r\nmore"\r\n\r\n2,two\r\n', ["one, or\nmore", "two"]),
        ("a.json", '\n{\n  "query": "one"\n}\n', ["one"]),
        ("a.JSONL", '"one"\n"two"\n', ["one", "two"]),
        ("a.jsonl", '[{"query": "one"}, {"query": "two"}]', ["one", "two"]),
        ("a.log", '{"query": "one"}\n{"query": "two"}\n', ["one", "two"]),
        ("a", '[\n"one",\n"two"\n]', ["one", "two"]),
        ("a.txt", "12\n[sic] one\n", ["12", "[sic] one"]),
    ],
)
def test_formats(tmp_path: Path, name: str, text: str, expected: list[str]) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    imported = read_queries(tmp_path / name)
    assert [query.text for query in imported.items] == expected
    assert not imported.bad


def test_bad_lines_have_place_and_cause(tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text(
        '{"query": "good"}\n{"query": \n{"other": "x"}\n{"query": 5}\n{"query": "  "}\n'
        + '"'
        + "[" * 100_000
        + "\n"
        + "[" * 100_000
        + "\n",
        encoding="utf-8",
    )
    imported = read_queries(file)
    assert [query.text for query in imported.items] == ["good"]
    assert [bad.where for bad in imported.bad] == [f"q.jsonl:{n}" for n in range(2, 8)]
    assert "other" in imported.bad[1].cause


def test_json_lines_stay_json_whatever_the_first_line_is(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    for first in ("oops", "[oops", "12"):
        file.write_text(f'{first}\n{{"query": "one"}}\n{{"query": "two"}}\n', encoding="utf-8")
        imported = read_queries(file)
        assert [query.text for query in imported.items] == ["one", "two"]
        assert [bad.where for bad in imported.bad] == ["a.jsonl:1"]
    file.with_suffix(".json").write_text('["one",\n', encoding="utf-8")
    with pytest.raises(InputError, match="not a JSON array"):
        read_queries(file.with_suffix(".json"))


def test_other_names_are_json_where_most_lines_are(tmp_path: Path) -> None:
    file = tmp_path / "a.data"
    file.write_text('oops\n{"query": "one"}\n{"query": "two"}\n', encoding="utf-8")
    imported = read_queries(file)
    assert [query.text for query in imported.items] == ["one", "two"]
    assert [bad.where for bad in imported.bad] == ["a.data:1"]


def test_broken_csv_lines_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    text = 'id,text\n1,one\n2,"two\n3,three\n4,four, more\n5,"five" x\n6,six,\n'
    file.write_text(text + f'7,"{"x" * 140_000}"\n8,eight\n', encoding="utf-8")
    imported = read_queries(file)
    assert [query.text for query in imported.items] == ["one", "three", "six", "eight"]
    assert [bad.where for bad in imported.bad] == [f"a.csv:{n}" for n in (3, 5, 6, 8)]
    file.write_text('id,"text\n1,one\n', encoding="utf-8")
    with pytest.raises(InputError, match="header"):
        read_queries(file)


def test_half_a_surrogate_pair_is_a_bad_line(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"query": "a\\ud800"}\n', encoding="utf-8")
    assert "surrogate" in read_queries(tmp_path / "q.jsonl").bad[0].cause


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("q.txt", "caf\xe9\none\n"),
        ("q.jsonl", '{"query": "caf\xe9"}\n{"query": "one"}\n'),
        ("q.json", '[{"query": "caf\xe9"}, {"query": "one"}]'),
        ("q.csv", "id,text\n1,caf\xe9\n2,one\n"),
    ],
)
def test_a_line_that_is_not_utf8_is_a_bad_line(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="latin-1")
    imported = read_queries(tmp_path / name)
    assert [query.text for query in imported.items] == ["one"]
    assert [line.cause for line in imported.bad] == ["not UTF-8: save the file as UTF-8"]
    (tmp_path / name).write_text(text.replace("\xe9", "\ufffd"), encoding="utf-8-sig")
    assert len(read_queries(tmp_path / name).items) == 2
    (tmp_path / name).write_text(text, encoding="utf-16")
    with pytest.raises(InputError, match="UTF-16"):
        read_queries(tmp_path / name)


def test_field_is_chosen(tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text('{"query": "no", "ask": "yes"}\n', encoding="utf-8")
    assert read_queries(file, "ask").items[0].text == "yes"
    assert "missing" in read_queries(file, "missing").bad[0].cause


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        read_queries(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="no requests"):
        read_queries(tmp_path / "empty.jsonl")


@pytest.mark.parametrize(
    ("part", "cause"),
    [
        ('{"type": "number", "default": NaN}', "JSON"),
        ('{"type": "number", "default": 1e999}', "JSON"),
        ('{"a":' * 100 + "1" + "}" * 100, "nested"),
        ('{"description": "\\ud800"}', "surrogate"),
    ],
)
def test_unusable_values_cost_one_tool(tmp_path: Path, part: str, cause: str) -> None:
    file = tmp_path / "tools.jsonl"
    frame = '{"name": "%s", "parameters": {"type": "object", "properties": {"x": %s}}}\n'
    file.write_text(frame % ("f", part) + frame % ("g", "{}"), encoding="utf-8")
    imported = read_tools(file)
    assert [tool.name for tool in imported.items] == ["g"]
    assert imported.bad[0].where == "tools.jsonl:1" and cause in imported.bad[0].cause


def test_faults_found_by_the_caller_are_bad_lines(tmp_path: Path) -> None:
    file = tmp_path / "tools.jsonl"
    file.write_text('{"name": "f"}\n{"name": "g"}\n', encoding="utf-8")
    imported = read_tools(file, lambda document: "no f" if document["name"] == "f" else "")
    assert [tool.name for tool in imported.items] == ["g"]
    assert [(bad.where, bad.cause) for bad in imported.bad] == [("tools.jsonl:1", "no f")]


def test_seal_tools_all_load() -> None:
    path = needs(DATA / "seal_tools" / "Seal-Tools_Dataset" / "tool.jsonl")
    imported = read_tools(path)
    assert len(imported.items) >= 4000 and not imported.bad
    assert all("results" in json.loads(json.dumps(tool.document)) for tool in imported.items[:50])


def make_query(number: int) -> Query:
    return Query(id=f"q_{number}", text=str(number), source="test")


def test_draw_takes_each_query_once() -> None:
    pool = [make_query(number % 7) for number in range(20)]
    first = draw(pool, 3, set())
    second = draw(pool, 10, {query.id for query in first})
    assert [query.id for query in first] == ["q_0", "q_1", "q_2"]
    assert [query.id for query in second] == ["q_3", "q_4", "q_5", "q_6"]
    with pytest.raises(InputError, match="pool is empty"):
        draw(pool, 1, {f"q_{number}" for number in range(7)})
