"""Retrieval: metrics against reference formulas, ToolBench's layouts, baselines on real data."""

from __future__ import annotations

import asyncio
import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest_models import tiny_model
from hypothesis import given
from hypothesis import strategies as st
from workspaces import ROOT

from factory.codes.growing import fit_codebook
from factory.codes.saving import save_codebook
from factory.domain.failures import ContentError, FactoryError, InputError
from factory.engines.retrieve import Retriever
from factory.score.toolbench.data import (
    SPLITS,
    ApiDocument,
    ApiKey,
    environment_name,
    keys_of_tools,
    load_toolbench,
    read_document,
    to_tool,
)
from factory.score.toolbench.ranking import (
    BM25,
    CUTOFFS,
    METRICS,
    SETTINGS,
    ByCode,
    EmbSim,
    RetrievalResult,
    evaluate,
    gains,
    measure,
    ndcg,
    ndcg_hits,
)
from factory.score.toolbench.toolsense import load_toolsense
from factory.workspace.settings import EngineSection

STABLE = ROOT.parent / "shared" / "data" / "stabletoolbench"
SENSE_DATA = ROOT.parent / "shared" / "data" / "toolsense"
OPENBMB = ROOT.parent / "shared" / "data" / "toolbench_openbmb"


def needs(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"real data are not here: {path}")
    return path


# Metrics ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ranked", "relevant", "k", "textbook", "hits"),
    [
        ("a", "ab", 5, 0.6131, 1.0),
        ("xa", "abc", 5, 0.2961, 0.6309),
        ("xyz", "ab", 5, 0.0, 0.0),
        ("", "a", 5, 0.0, 0.0),
        ("ab", "ab", 5, 1.0, 1.0),
        ("ba", "ab", 3, 1.0, 1.0),
        ("a", "abc", 5, 0.4693, 1.0),
        ("xxa", "a", 3, 0.5, 0.5),
        ("xxxa", "a", 3, 0.0, 0.0),
        ("axb", "ab", 3, 0.9197, 0.9197),
        ("a", "abcdef", 1, 1.0, 1.0),
        ("ayyb", "ab", 5, 0.8772, 0.8772),
    ],
)
def test_ndcg_by_hand(ranked: str, relevant: str, k: int, textbook: float, hits: float) -> None:
    # x and y are tools nobody wants; each place of the list is a tool of its own.
    tools = [f"{tool}{place}" if tool in "xy" else tool for place, tool in enumerate(ranked)]
    marks = gains(tools, set(relevant))
    assert ndcg(marks, len(relevant), k) == pytest.approx(textbook, abs=1e-4)
    assert ndcg_hits(marks, k) == pytest.approx(hits, abs=1e-4)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[int], set[int]]:
    ranked = draw(st.lists(st.integers(0, 40), unique=True, min_size=2, max_size=30))
    relevant = draw(st.sets(st.integers(0, 40), min_size=1, max_size=8))
    return ranked, relevant


@given(cases())
def test_textbook_metrics_are_those_of_trec_eval(case: tuple[list[int], set[int]]) -> None:
    ir = pytest.importorskip("ir_measures", reason="no ir_measures: pip install ir-measures")
    ranked, relevant = case
    ours = measure(ranked, relevant)
    run = [ir.ScoredDoc("q", str(tool), -float(place)) for place, tool in enumerate(ranked)]
    qrels = [ir.Qrel("q", str(tool), 1) for tool in relevant]
    names = {f"ndcg@{k}": ir.nDCG @ k for k in CUTOFFS}
    names |= {f"recall@{k}": ir.R @ k for k in CUTOFFS} | {"mrr": ir.RR}
    theirs = ir.calc_aggregate(list(names.values()), qrels, run)
    for name, measured in names.items():
        assert ours[name] == pytest.approx(theirs[measured], abs=1e-9), name


@given(cases())
def test_hits_only_ndcg_is_that_of_the_returned_list(case: tuple[list[int], set[int]]) -> None:
    from sklearn.metrics import ndcg_score

    ranked, relevant = case
    truth = np.array([[float(tool in relevant) for tool in ranked]])
    scores = np.array([[-float(place) for place in range(len(ranked))]])
    for k in CUTOFFS:
        theirs = float(ndcg_score(truth, scores, k=k))
        assert measure(ranked, relevant)[f"ndcg_hits@{k}"] == pytest.approx(theirs, abs=1e-9)


@given(cases())
def test_metrics_stay_in_bounds_and_agree_at_one(case: tuple[list[int], set[int]]) -> None:
    values = measure(*case)
    assert tuple(values) == METRICS
    assert all(0 <= value <= 1 + 1e-12 for value in values.values())
    assert values["ndcg@1"] == values["ndcg_hits@1"]
    assert all(values[f"ndcg_hits@{k}"] >= values[f"ndcg@{k}"] - 1e-12 for k in CUTOFFS)
    assert all(values[f"hit@{k}"] == (values[f"recall@{k}"] > 0) for k in CUTOFFS)


def test_an_answer_that_names_no_tool_takes_a_rank_and_a_repeated_one_does_not() -> None:
    assert gains([None, None, "a"], {"a"}) == [0, 0, 1]
    assert gains(["x", "x", "a", "a"], {"a"}) == [0, 1]


# Loading ----------------------------------------------------------------------------------


def api(tool: str, name: str, description: str) -> dict[str, Any]:
    return {
        "category_name": "Home",
        "tool_name": tool,
        "api_name": name,
        "api_description": description,
        "required_parameters": [],
        "optional_parameters": [],
    }


APIS = [
    api("Lamp", "on", "Switch a lamp on."),
    api("Lamp", "off", "Switch a lamp off."),
    api("Kettle", "boil", "Boil water for tea."),
]


def write_retriever(folder: Path, *, split_files: bool = True) -> Path:
    """A folder with the retriever's files of G1 and G3, quoted as pandas does."""
    for group, queries in {"G1": {"7": "make tea please"}, "G3": {"7": "light and tea"}}.items():
        base = folder / "retrieval" / group
        base.mkdir(parents=True)
        with (base / "corpus.tsv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, delimiter="\t")
            writer.writerow(["docid", "document_content"])
            for docid, document in [*enumerate(APIS, 1), (3, APIS[2])]:
                if group == "G3" or document["tool_name"] == "Kettle":
                    writer.writerow([docid, json.dumps(document)])
        name = f"test_{group}_instruction" if split_files else "test"
        pairs = {"G1": ["3"], "G3": ["1", "3"]}[group]
        (base / f"{name}.query.txt").write_text(
            "".join(f"{qid}\t{text}\n" for qid, text in queries.items() for _ in pairs)
        )
        (base / "qrels.test.tsv").write_text("".join(f"7\t0\t{docid}\t1\n" for docid in pairs))
    return folder


@pytest.mark.parametrize("split_files", [True, False])
def test_the_retrievers_files_load(tmp_path: Path, split_files: bool) -> None:
    bench = load_toolbench(write_retriever(tmp_path, split_files=split_files))
    assert bench.splits == ("I1-Inst", "I3-Inst")
    assert [query.id for query in bench.queries] == ["I1-Inst/7", "I3-Inst/7"]
    assert bench.queries[1].relevant == {ApiKey("Lamp", "on"), ApiKey("Kettle", "boil")}
    assert bench.domains["I1"] == {ApiKey("Kettle", "boil")}
    assert len(bench.search_space(None)) == 3
    assert len(bench.search_space("I1")) == 1
    assert bool(bench.notes) is not split_files


def test_query_files_lists_of_ids_and_tool_files_load(tmp_path: Path) -> None:
    (tmp_path / "instruction").mkdir()
    rows = [
        {"query": f"q{n}", "query_id": n, "api_list": APIS[:2], "relevant APIs": [["Lamp", "on"]]}
        for n in range(4)
    ]
    (tmp_path / "instruction" / "G1_query.json").write_text(json.dumps(rows))
    (tmp_path / "test_query_ids").mkdir()
    for name, number in {"G1_tool": 1, "G1_category": 2}.items():
        file = tmp_path / "test_query_ids" / f"{name}_test_query_ids.json"
        file.write_text(json.dumps({str(number): 0}))
    tools = tmp_path / "toolenv" / "tools" / "Home"
    tools.mkdir(parents=True)
    kettle = {"tool_name": "Kettle", "api_list": [{"name": "boil", "description": "Boil."}]}
    (tools / "kettle.json").write_text(json.dumps(kettle))
    bench = load_toolbench(tmp_path)
    found = {query.split: query.id for query in bench.queries if query.split != "I1-Inst"}
    assert found == {"I1-Tool": "I1-Tool/1", "I1-Cat": "I1-Cat/2"}
    assert bench.documents[ApiKey("Kettle", "boil")][0].category == "Home"
    assert load_toolbench(tmp_path, ["I1-Cat"]).splits == ("I1-Cat",)


def test_a_tool_keeps_its_category_which_is_no_part_of_its_id() -> None:
    filed = [read_document({**APIS[0], "category_name": name}, "") for name in ("Home", "Food")]
    bare = read_document({k: v for k, v in APIS[0].items() if k != "category_name"}, "")
    home, food, none = (to_tool(document) for document in (*filed, bare))
    assert [tool.document.get("category_name") for tool in (home, food, none)] == [
        "Home",
        "Food",
        None,
    ]
    assert home.id == food.id == none.id
    assert to_tool(read_document(APIS[1], "")).id != home.id


def test_one_api_with_two_descriptions_is_one_tool(tmp_path: Path) -> None:
    other = {**APIS[2], "api_description": "Heats water."}
    lines = [json.dumps(document) for document in (*APIS, other)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    (tmp_path / "test_instruction").mkdir()
    row = {"query": "boil water", "query_id": 1, "relevant APIs": [["Kettle", "boil"]]}
    (tmp_path / "test_instruction" / "G1_instruction.json").write_text(json.dumps([row]))
    bench = load_toolbench(tmp_path)
    assert len(bench.search_space(None)) == 4
    result = asyncio.run(evaluate(bm25(), bench))
    assert result.queries[0].ranked.count(ApiKey("Kettle", "boil")) == 1
    assert result.table()["I1-Inst"]["ndcg@5"] == 100


@pytest.mark.parametrize(
    ("path", "text", "where"),
    [
        ("corpus.jsonl", '{"tool_name": "a", "api_name": "b"}\noops', "corpus.jsonl:2"),
        ("corpus.jsonl", '{"tool_name": "a"}', "corpus.jsonl:1"),
        ("test_instruction/G1_instruction.json", '[{"query": 5}]', "G1_instruction.json#0"),
        (
            "test_instruction/G1_instruction.json",
            '[{"query": "x", "relevant APIs": [["a"]]}]',
            "G1_instruction.json#0",
        ),
        ("test_instruction/G1_instruction.json", "{}", "G1_instruction.json"),
        ("retrieval/G1/corpus.tsv", "docid\tdocument_content\n1\toops", "corpus.tsv:2"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, path: str, text: str, where: str) -> None:
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(text)
    with pytest.raises(ContentError) as error:
        load_toolbench(tmp_path)
    assert error.value.where.endswith(where)


def test_a_document_that_a_qrel_names_must_be_in_the_corpus(tmp_path: Path) -> None:
    write_retriever(tmp_path)
    (tmp_path / "retrieval" / "G1" / "qrels.test.tsv").write_text("7\t0\t99\t1\n")
    with pytest.raises(ContentError, match="qrels"):
        load_toolbench(tmp_path)


def test_a_folder_without_toolbench_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no labelled requests"):
        load_toolbench(tmp_path)
    with pytest.raises(InputError, match="no split"):
        load_toolbench(tmp_path, ["I9"])


def test_a_request_without_a_relevant_api_is_left_out_and_said(tmp_path: Path) -> None:
    rows = [
        {"query": "one", "query_id": 1, "api_list": APIS, "relevant APIs": []},
        {"query": "two", "query_id": 2, "api_list": APIS, "relevant APIs": [["Lamp", "gone"]]},
    ]
    (tmp_path / "test_instruction").mkdir()
    (tmp_path / "test_instruction" / "G2_category.json").write_text(json.dumps(rows))
    bench = load_toolbench(tmp_path)
    assert [query.id for query in bench.queries] == ["I2-Cat/2"]
    assert any("I2-Cat/1" in note for note in bench.notes)
    assert any("1 relevant APIs have no document" in note for note in bench.notes)


def test_openbmbs_own_examples_load(tmp_path: Path) -> None:
    history = needs(OPENBMB) / "history"
    base = tmp_path / "retrieval" / "G1"
    base.mkdir(parents=True)
    for name in ("corpus.tsv", "qrels.test.tsv", "test.query.txt"):
        text = (history / f"data_retriever_G1_demo_{name}").read_text(encoding="utf-8")
        (base / name).write_text(text, encoding="utf-8")
    bench = load_toolbench(tmp_path)
    assert [len(query.relevant) for query in bench.queries] == [2, 3]
    assert len(bench.search_space("I1")) == 5
    queries = load_toolbench(OPENBMB / "data_example")
    assert {query.split for query in queries.queries} == {"I1-Inst", "I2-Inst", "I3-Inst"}


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (ApiKey("Lamp 2000", "Switch On!"), "switch_on_for_lamp_2000"),
        (ApiKey("9gag", "id"), "is_id_for_get_9gag"),
        (ApiKey("T" * 80, "api"), "t" * 64),
    ],
)
def test_environment_names(key: ApiKey, name: str) -> None:
    assert environment_name(key) == name


# ToolSense --------------------------------------------------------------------------------


def sense(number: int, complexity: str, *names: str) -> dict[str, Any]:
    tools = [{"tool_name": name, "api_description": f"{name}."} for name in names]
    analyzed = [*tools, {"tool_name": "Clock&&ring", "api_description": "Rings."}]
    row = {"sample_id": f"s{number}", "query": f"request {number}", "complexity": complexity}
    return {**row, "tool": tools if len(tools) > 1 else tools[0], "analyzed_tools": analyzed}


SENSE = [
    sense(1, "hard", "Lamp&&on", "Kettle&&boil", "Gone&&away"),
    sense(2, "easy", "Kettle&&boil"),
    sense(3, "medium", "Gone&&away"),
]
BAD_SENSE = ["oops", "[]", '{"query": "x"}', json.dumps(sense(4, "easy", "Kettle"))]


def write_sense(folder: Path) -> Path:
    lines = [*map(json.dumps, SENSE), *BAD_SENSE]
    (folder / "realistic_retrieval.jsonl").write_text("\n".join(lines))
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, APIS)))
    return folder


def test_requests_of_toolsense_are_asked_of_a_corpus(tmp_path: Path) -> None:
    write_sense(tmp_path)
    for corpus in (tmp_path, tmp_path / "corpus.jsonl"):
        bench = load_toolsense(tmp_path, corpus, described=False)
        assert [query.id for query in bench.queries] == ["easy/s2", "hard/s1"]
        assert bench.queries[1].relevant == {ApiKey("Lamp", "on"), ApiKey("Kettle", "boil")}
        assert (bench.splits, bench.pools, len(bench.documents)) == (("easy", "hard"), {}, 3)
        left = [note for note in bench.notes if "left out" in note]
        assert left == [
            "1 of 7 lines are left out: not JSON (realistic_retrieval.jsonl:4)",
            "1 of 7 lines are left out: a request is an object with a text under 'query' "
            "(realistic_retrieval.jsonl:5)",
            "1 of 7 lines are left out: its complexity is none of easy, medium, hard "
            "(realistic_retrieval.jsonl:6)",
            "1 of 7 lines are left out: a tool of it is not named Tool&&API "
            "(realistic_retrieval.jsonl:7)",
            "1 of 7 lines are left out: none of its tools is in the corpus "
            "(realistic_retrieval.jsonl:3)",
        ]
        assert "1 relevant APIs have no document and are not asked for" in bench.notes
    whole = load_toolsense(tmp_path / "realistic_retrieval.jsonl", tmp_path)
    assert [query.split for query in whole.queries] == ["easy", "medium", "hard"]
    assert len(whole.queries[2].relevant) == 3 and len(whole.documents) == 5
    assert "2 of 5 APIs are described by the requests alone" in whole.notes
    assert to_tool(whole.documents[ApiKey("Gone", "away")][0]).name == "away"
    assert load_toolsense(tmp_path, None, ["hard"]).splits == ("hard",)


def test_a_request_of_toolsense_that_is_there_twice_is_a_bad_line(tmp_path: Path) -> None:
    write_sense(tmp_path)
    rows = [sense(2, "easy", "Kettle&&boil"), sense(2, "hard", "Lamp&&on", "Kettle&&boil")]
    (tmp_path / "realistic_retrieval.jsonl").write_text("\n".join(map(json.dumps, rows)))
    bench = load_toolsense(tmp_path, tmp_path)
    assert [query.id for query in bench.queries] == ["easy/s2"]
    assert bench.notes[0] == (
        "1 of 2 lines are left out: a line before has its sample_id (realistic_retrieval.jsonl:2)"
    )


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"splits": ["tough"]}, "no complexity 'tough'"),
        ({"corpus": None, "described": False}, "no labelled requests of ToolSense"),
        ({"corpus": Path("tool_docs")}, "no API documents of ToolBench"),
        ({"data": Path("tool_docs")}, "cannot be read"),
    ],
)
def test_a_toolsense_that_cannot_be_asked_says_why(
    tmp_path: Path, change: dict[str, Any], what: str
) -> None:
    write_sense(tmp_path)
    (tmp_path / "tool_docs").mkdir()
    given = {"data": tmp_path, "corpus": tmp_path}
    given |= {k: tmp_path / v if isinstance(v, Path) else v for k, v in change.items()}
    with pytest.raises(FactoryError, match=what):
        load_toolsense(**given)


def test_the_shared_toolsense_is_mostly_of_other_tools_than_the_shared_corpus() -> None:
    file = needs(SENSE_DATA) / "realistic_retrieval.jsonl"
    strict = load_toolsense(file, needs(STABLE), described=False)
    assert len(strict.queries) == 22 and len(strict.documents) == 2479
    assert "118 of 140 lines are left out: none of its tools is in the corpus" in strict.notes[0]
    whole = load_toolsense(file, STABLE)
    assert {split: sum(q.split == split for q in whole.queries) for split in whole.splits} == {
        "easy": 37,
        "medium": 58,
        "hard": 45,
    }
    assert sum(len(query.relevant) for query in whole.queries) == 435


# Baselines --------------------------------------------------------------------------------


def bm25(depth: int = 100) -> BM25:
    pytest.importorskip("bm25s", reason="no bm25s: pip install 'tool-factory[eval]'")
    return BM25(depth)


ROUGH = {
    "I1-Inst": (0.69, 0.62, 0.66),
    "I1-Tool": (0.58, 0.56, 0.58),
    "I1-Cat": (0.58, 0.51, 0.55),
    "I2-Inst": (0.62, 0.54, 0.57),
    "I2-Cat": (0.52, 0.41, 0.44),
    "I3-Inst": (0.57, 0.41, 0.44),
}
"""Textbook NDCG@1, 3, 5 of a plain BM25 over all 765 requests of StableToolBench."""


def test_bm25_on_stabletoolbench_scores_as_is_known() -> None:
    """215 of the 765 requests are here: a split may be off by three standard errors."""
    bench = load_toolbench(needs(STABLE))
    assert len(bench.queries) == 215
    assert len(bench.documents) == 2479
    assert bench.splits == tuple(SPLITS)
    table = asyncio.run(evaluate(bm25(), bench)).table()
    for split, expected in ROUGH.items():
        found = [table[split][f"ndcg@{k}"] / 100 for k in CUTOFFS]
        assert found == pytest.approx(list(expected), abs=0.20), split
    mean = [table["mean"][f"ndcg@{k}"] / 100 for k in CUTOFFS]
    assert mean == pytest.approx(list(np.mean(list(ROUGH.values()), axis=0)), abs=0.08)


def test_in_domain_is_easier_than_multi_domain() -> None:
    bench = load_toolbench(needs(STABLE))
    multi, in_domain = (asyncio.run(evaluate(bm25(), bench, setting)) for setting in SETTINGS)
    assert in_domain.table()["mean"]["ndcg@5"] > multi.table()["mean"]["ndcg@5"]
    for result in in_domain.queries:
        assert set(result.ranked) <= bench.domains[result.query.group]


def test_a_short_list_raises_hits_only_and_nothing_else() -> None:
    bench = load_toolbench(needs(STABLE))
    long, short = (asyncio.run(evaluate(bm25(depth), bench)).table() for depth in (100, 5))
    for metric in ("ndcg@5", "recall@5"):
        assert long["mean"][metric] == pytest.approx(short["mean"][metric])
    assert short["mean"]["ndcg_hits@5"] > long["mean"]["ndcg_hits@5"] + 1


class Fixed:
    """A retriever that returns what it was given."""

    name = "fixed"
    depth = 2

    def __init__(self, ranked: list[ApiKey | None]) -> None:
        self._ranked = ranked

    async def rank(
        self, queries: Sequence[str], space: Sequence[ApiDocument]
    ) -> list[list[ApiKey | None]]:
        return [self._ranked for _ in queries]


def test_a_list_beyond_its_depth_is_cut(tmp_path: Path) -> None:
    bench = load_toolbench(write_retriever(tmp_path))
    tea = ApiKey("Kettle", "boil")
    result = asyncio.run(evaluate(Fixed([None, tea, ApiKey("Lamp", "on")]), bench))
    assert result.queries[1].ranked == (None, tea)
    assert result.table()["I3-Inst"]["mrr"] == 50
    assert result.table()["mean"]["recall@5"] == 75
    with pytest.raises(ValueError, match="setting"):
        asyncio.run(evaluate(Fixed([]), bench, "elsewhere"))


def test_embeddings_of_a_checkpoint_find_the_same_words(tmp_path: Path) -> None:
    bench = load_toolbench(write_retriever(tmp_path))
    model = tiny_model(tmp_path / "model")
    retriever = EmbSim(folder=model, threads=1, log=tmp_path / "embed.log", depth=3)
    space = bench.search_space(None)
    ranked = asyncio.run(retriever.rank([document.text for document in space], space))
    assert [tools[0] for tools in ranked] == [document.key for document in space]
    assert all(len(tools) == 3 for tools in ranked)


def test_a_checkpoint_finds_tools_by_code(tmp_path: Path) -> None:
    """Only coded tools of the searched space come back, five at most; twins are told apart."""
    from transformers import AutoTokenizer

    apis = [api(f"Lamp {n // 6}", f"api {n}", f"Switch lamp {n}.") for n in range(12)]
    twin = {**apis[0], "tool_name": "Twin"}
    keys = [ApiKey(each["tool_name"], each["api_name"]) for each in [*apis, twin]]
    rows = [
        {
            "query": f"lamp {n}",
            "query_id": n,
            "api_list": [apis[n], apis[n + 1]],
            "relevant APIs": [keys[n]],
        }
        for n in range(4)
    ]
    (tmp_path / "test_instruction").mkdir()
    (tmp_path / "test_instruction" / "G1_instruction.json").write_text(json.dumps(rows))
    lines = [json.dumps(each) for each in [*apis, twin, api("New", "uncoded", "Not yet.")]]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    bench = load_toolbench(tmp_path)
    tools = [to_tool(bench.documents[key][0]) for key in keys]
    assert len({tool.id for tool in tools}) == len(tools)
    vectors = np.random.default_rng(0).normal(size=(len(tools), 16)).astype(np.float32)
    codebook = fit_codebook(tools, vectors, seed=1)
    folder = tmp_path / "model"
    tiny_model(folder, extra_tokens=[token for level in codebook.tokens for token in level])
    save_codebook(codebook, folder, AutoTokenizer.from_pretrained(folder))

    async def run() -> list[RetrievalResult]:
        settings = EngineSection(threads=1, max_model_len=256)
        log = tmp_path / "retrieve.log"
        async with await Retriever.open(folder, settings=settings, log=log) as search:
            coded = frozenset(codebook.tool_ids)
            system = ByCode(name="m", search=search, coded=coded, prompt=lambda query: query)
            assert await system.rank(["x"], bench.documents[ApiKey("New", "uncoded")]) == [[]]
            return [await evaluate(system, bench, setting) for setting in SETTINGS]

    multi, in_domain = asyncio.run(run())
    for each in multi.queries:
        assert len(set(each.ranked)) == 5 and set(each.ranked) <= set(keys)
    for each in in_domain.queries:
        assert set(each.ranked) == bench.domains["I1"]
        assert each.values["recall@5"] == 1


def test_a_sentence_transformers_folder_embeds(tmp_path: Path) -> None:
    pytest.importorskip(
        "sentence_transformers",
        reason="no sentence-transformers: pip install 'tool-factory[eval]'",
    )
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    from factory.engines.embedding import embed_texts

    words = Transformer(str(tiny_model(tmp_path / "model")))
    model = SentenceTransformer(modules=[words, Pooling(words.get_embedding_dimension())])
    model.save(str(tmp_path / "sentences"))
    vectors_ND = embed_texts(tmp_path / "sentences", ["boil water", "", "boil water"])
    assert vectors_ND.shape == (3, 64)
    assert np.allclose(vectors_ND[0], vectors_ND[2], atol=1e-5)
    assert math.isfinite(float(vectors_ND[1].sum()))


def test_a_document_that_makes_no_tool_is_passed_over() -> None:
    document = {"tool_name": "T", "api_name": "a", "api_description": "Does it."}
    good = ApiDocument(key=ApiKey("T", "a"), document=document)
    bad = ApiDocument(key=ApiKey("T", "b"), document={"required_parameters": 5})
    assert to_tool(bad) is None
    assert list(keys_of_tools([bad, good]).values()) == [good.key]
