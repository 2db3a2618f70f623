"""Labelled requests: ToolBench's training split, lines of one's own, and what cannot be used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from workspaces import ROOT

from factory.domain.failures import InputError
from factory.lab.trials.division import divide
from factory.lab.trials.labels import FROM_THE_TEST, fewer, load_labels
from factory.score.toolbench.data import ApiKey, load_toolbench, to_tool

HISTORY = ROOT.parent / "shared" / "data" / "toolbench_openbmb" / "history"
LAMP = {
    "name": "switch",
    "description": "Switch a lamp.",
    "parameters": {"type": "object", "properties": {"room": {"type": "string"}}},
}
KETTLE = {"name": "boil", "description": "Boil water.", "parameters": {"type": "object"}}


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def ask(query: str, *tools: Any, **more: Any) -> dict[str, Any]:
    return {"query": query, "tools": list(tools), **more}


def test_lines_of_ones_own_name_tools_by_name_or_id(tmp_path: Path) -> None:
    docs = write_lines(tmp_path / "docs.jsonl", [LAMP, KETTLE])
    plain = load_labels(
        docs,
        [write_lines(tmp_path / "train.jsonl", [ask("light", "switch")])],
        [write_lines(tmp_path / "test.jsonl", [ask("tea", "boil")])],
    )
    (lamp, kettle) = plain.bench.documents
    (tool,) = [to_tool(document) for document in plain.bench.documents[kettle]]
    assert tool is not None and tool.name == "boil"
    assert (lamp, kettle) == (ApiKey("", "switch"), ApiKey("", "boil"))
    rows = [ask("tea", tool.id), {"query": "light", "tool": "switch", "split": "evening"}]
    test = write_lines(tmp_path / "more" / "test.jsonl", rows)
    labels = load_labels(docs, [tmp_path / "train.jsonl"], [test, tmp_path / "test.jsonl"])
    assert [(q.split, q.text, set(q.relevant)) for q in labels.bench.queries] == [
        ("test", "tea", {kettle}),
        ("evening", "light", {lamp}),
        ("test", "tea", {kettle}),
    ]
    assert len({query.id for query in labels.bench.queries}) == 3
    assert labels.learnt is not None and labels.learnt[0].relevant == {lamp}
    assert labels.bad == () and labels.notes == ()
    # What a retriever reads of such a document has its parameters.
    assert "room" in labels.bench.documents[lamp][0].text


def test_a_folder_of_documents_tells_namesakes_apart(tmp_path: Path) -> None:
    services = [{**api(n, "switch"), "required_parameters": []} for n in ("Home", "Street")]
    write_lines(tmp_path / "docs" / "a.jsonl", services)
    write_lines(tmp_path / "docs" / "b.json", [{**KETTLE, "description": "Make tea."}, KETTLE])
    rows = [ask("x", "switch"), ask("x", "Home&&switch"), ask("x", ["Street", "switch"])]
    test = write_lines(tmp_path / "test.jsonl", [*rows, ask("x", "boil")])
    labels = load_labels(tmp_path / "docs", (), [test])
    assert len(labels.bench.documents) == 4
    assert [query.relevant for query in labels.bench.queries] == [
        {ApiKey("Home", "switch")},
        {ApiKey("Street", "switch")},
    ]
    assert [line.where for line in labels.bad] == ["test.jsonl:1", "test.jsonl:4"]
    assert "2 tools are called 'switch'" in labels.bad[0].cause
    assert labels.learnt is None and FROM_THE_TEST in labels.notes


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        (ask("light", "swich"), "no document describes the tool 'swich'"),
        (ask("light", "boil", "swich"), "no document describes the tool 'swich'"),
        (ask("light", 7), "no document describes the tool 7"),
        (ask(" ", "boil"), "needs a text under 'query'"),
        (ask("light"), "needs names or ids of tools"),
        ({"query": "light"}, "needs names or ids of tools"),
        (["light"], "is an object, not a list"),
        ("{oops", "not JSON"),
    ],
)
def test_a_line_that_cannot_be_used_is_counted(tmp_path: Path, row: Any, cause: str) -> None:
    docs = write_lines(tmp_path / "docs.jsonl", [LAMP, KETTLE])
    test = write_lines(tmp_path / "test.jsonl", [ask("tea", "boil"), row])
    labels = load_labels(docs, (), [test])
    (line,) = labels.bad
    assert line.where == "test.jsonl:2" and cause in line.cause
    assert len(labels.bench.queries) == 1


def test_a_split_without_requests_is_an_error(tmp_path: Path) -> None:
    docs = write_lines(tmp_path / "docs.jsonl", [LAMP])
    good = write_lines(tmp_path / "good.jsonl", [ask("light", "switch")])
    bad = write_lines(tmp_path / "bad.jsonl", [ask("light", "gone")])
    with pytest.raises(InputError, match=r"no request to ask: no document .* \(bad.jsonl:1\)"):
        load_labels(docs, [good], [bad])
    with pytest.raises(InputError, match="no request to learn"):
        load_labels(docs, [bad], [good])
    with pytest.raises(InputError, match="documents without requests"):
        load_labels(docs, [good])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no tool documents are here"):
        load_labels(tmp_path / "empty", (), [good])


def test_fewer_requests_are_some_of_more(tmp_path: Path) -> None:
    docs = write_lines(tmp_path / "docs.jsonl", [LAMP])
    rows = [ask(f"light {n}", "switch", split=f"s{n % 2}") for n in range(12)]
    file = write_lines(tmp_path / "x.jsonl", rows)
    labels = load_labels(docs, [file], [file])
    two, three = (fewer(labels, asked=n, learnt=2 * n) for n in (2, 3))
    assert [q.split for q in two.bench.queries].count("s0") == 2 and len(two.bench.queries) == 4
    assert {q.id for q in two.bench.queries} < {q.id for q in three.bench.queries}
    assert two.learnt is not None and three.learnt is not None and len(two.learnt) == 4
    assert {q.id for q in two.learnt} < {q.id for q in three.learnt}
    assert fewer(labels) == labels


# ToolBench's training split ---------------------------------------------------------------


def api(tool: str, name: str) -> dict[str, Any]:
    return {"category_name": "Home", "tool_name": tool, "api_name": name, "api_description": name}


APIS = [api("Lamp", "on"), api("Lamp", "off"), api("Kettle", "boil")]


def write_retriever(folder: Path) -> Path:
    """G1 with a test and a training split; one line names no document."""
    base = folder / "retrieval" / "G1"
    documents = [f"{number}\t{json.dumps(each)}" for number, each in enumerate(APIS, 1)]
    quoted = [line.replace('"', '""').replace("\t", '\t"') + '"' for line in documents]
    write_lines(base / "corpus.tsv", ["docid\tdocument_content", *quoted])
    write_lines(base / "test.query.txt", ["7\tmake tea"])
    write_lines(base / "qrels.test.tsv", ["7\t0\t3\t1"])
    write_lines(base / "train.query.txt", ["1\tlights on", "1\tlights on", "2\tx", "3\ttea"])
    qrels = ["1\t0\t1\t1", "1\t0\t2\t1", "2\t0\t9\t1", "3\t0\t3\t1", "3\t0\t1\t0"]
    write_lines(base / "qrels.train.tsv", qrels)
    return folder


def test_the_retrievers_training_files_are_learnt_and_its_test_is_asked(tmp_path: Path) -> None:
    labels = load_labels(write_retriever(tmp_path))
    assert [query.id for query in labels.bench.queries] == ["I1-Inst/7"]
    assert labels.learnt is not None
    assert [(query.id, query.relevant) for query in labels.learnt] == [
        ("I1-Train/1", {ApiKey("Lamp", "on"), ApiKey("Lamp", "off")}),
        ("I1-Train/3", {ApiKey("Kettle", "boil")}),
    ]
    assert [line.where.rsplit("/", 1)[1] for line in labels.bad] == [
        "qrels.train.tsv:3",
        "train.query.txt:3",
    ]
    assert "no document 9" in labels.bad[0].cause
    assert FROM_THE_TEST not in labels.notes
    assert divide(labels).asked == labels.bench


def write_instructions(folder: Path, tools: Mapping[int, list[list[str]]], tested: Any) -> Path:
    rows = [
        {"query": f"q{n}", "query_id": n, "api_list": APIS, "relevant APIs": relevant}
        for n, relevant in tools.items()
    ]
    write_lines(folder / "instruction" / "G2_query.json", [json.dumps(rows)])
    if tested is not None:
        ids = folder / "test_query_ids" / "G2_category_test_query_ids.json"
        write_lines(ids, [json.dumps(tested)])
    return folder


def test_instruction_files_are_learnt_but_for_the_tests_ids(tmp_path: Path) -> None:
    tools = {1: [["Lamp", "on"]], 2: [["Kettle", "boil"]], 3: [["Lamp", "gone"]]}
    labels = load_labels(write_instructions(tmp_path, tools, {"2": 0}))
    assert labels.learnt is not None
    assert [query.id for query in labels.learnt] == ["I2-Train/1"]
    (line,) = labels.bad
    assert line.where.endswith("G2_query.json#2") and "describes 'gone' of 'Lamp'" in line.cause


def test_without_ids_nobody_knows_what_may_be_learnt(tmp_path: Path) -> None:
    folder = write_instructions(tmp_path, {1: [["Lamp", "on"]]}, None)
    assert load_labels(folder).learnt is None
    with pytest.raises(InputError, match="no labelled requests of ToolBench to learn"):
        load_toolbench(folder, split="train")


def test_own_lines_stand_for_toolbenchs_requests(tmp_path: Path) -> None:
    folder = write_retriever(tmp_path)
    train = write_lines(tmp_path / "mine.jsonl", [ask("bright", "Lamp&&on"), ask("x", "Lamp")])
    labels = load_labels(folder, [train])
    assert labels.learnt is not None and [query.text for query in labels.learnt] == ["bright"]
    assert [query.id for query in labels.bench.queries] == ["I1-Inst/7"]
    assert [line.where for line in labels.bad] == ["mine.jsonl:2"]
    asked = load_labels(folder, (), [train])
    assert [query.text for query in asked.bench.queries] == ["bright"]
    assert asked.learnt is not None and len(asked.learnt) == 2


def test_openbmbs_own_training_split_loads(tmp_path: Path) -> None:
    if not HISTORY.exists():
        pytest.skip(f"real data are not here: {HISTORY}")
    base = tmp_path / "retrieval" / "G1"
    base.mkdir(parents=True)
    for name in ("corpus.tsv", "qrels.train.tsv", "train.query.txt"):
        text = (HISTORY / f"data_retriever_G1_demo_{name}").read_text(encoding="utf-8")
        (base / name).write_text(text, encoding="utf-8")
    (query,) = load_toolbench(tmp_path, split="train").queries
    assert query.id == "I1-Train/1" and len(query.relevant) == 2
