"""Comparing codes: what is kept aside, what is learnt, and a real trial."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from conftest_models import tiny_model
from workspaces import ROOT

from factory.codes.lifecycle import Codebook, CodeConfig, fit_codebook
from factory.compare import Plan, _describe, divide, make_examples, standard_variants
from factory.compare import compare as run_compare
from factory.prompts import Prompts
from factory.scorers.retrieval import BM25
from factory.scorers.toolbench import ToolBench, ToolQuery, read_document
from factory.train import TrainConfig
from factory.workspace import Workspace

PLACES = ("hotel", "flight", "museum", "garden", "library", "theatre", "station", "market")
VERBS = ("book", "find", "cancel")


def make_bench() -> ToolBench:
    """24 APIs in one group, each with a request of its own; every third request needs two."""
    documents = [
        read_document(
            {"tool_name": place, "api_name": verb, "api_description": f"{verb} a {place}"}, "test"
        )
        for place in PLACES
        for verb in VERBS
    ]
    keys = [document.key for document in documents]
    queries = [
        ToolQuery(
            id=f"I1-Inst/{number}",
            split="I1-Inst",
            text=f"please {key.api} the {key.tool} for me",
            relevant=frozenset({key, keys[number - 1]} if number % 3 == 0 else {key}),
        )
        for number, key in enumerate(keys)
    ]
    return ToolBench(
        queries=tuple(queries),
        documents={document.key: (document,) for document in documents},
        domains={"I1": frozenset(keys)},
    )


def test_requests_are_learnt_or_asked_never_both() -> None:
    bench = make_bench()
    labelled = divide(bench, 1 / 3)
    learnt = {query.id for query in labelled.learnt}
    asked = {query.id for query in labelled.asked.queries}
    assert not learnt & asked and learnt | asked == {query.id for query in bench.queries}
    assert len(asked) == 8
    assert divide(bench, 1 / 3) == labelled
    assert len({tool.id for tool in labelled.tools}) == len(bench.documents)


def test_every_document_and_each_tool_of_learnt_requests_is_an_example() -> None:
    labelled = divide(make_bench(), 1 / 3)
    examples = make_examples(labelled, Prompts.load(Workspace(ROOT)))
    kinds = [example.kind for example in examples]
    assert kinds.count("code") == len(labelled.tools)
    assert kinds.count("retrieve") == sum(len(query.relevant) for query in labelled.learnt)
    described = make_examples(labelled, Prompts.load(Workspace(ROOT)), described=True)
    words = described[len(examples) :]
    assert described[: len(examples)] == examples and len(words) == len(labelled.tools)
    assert words[0].messages[0].content == "book book a hotel"
    assert words[0].messages[1] == examples[0].messages[1]
    texts = {example.messages[0].content for example in described}
    assert not texts & {query.text for query in labelled.asked.queries}


def test_the_variants_differ_in_what_their_names_say() -> None:
    variants = standard_variants(CodeConfig(size=8))
    assert {"atomic", "numeric", "hierarchical", "semantic", "residual", "quantized"} <= set(
        variants
    )
    assert variants["residual, gist"].codes.gist is not None
    assert not variants["residual, random rows"].codes.reframe
    assert variants["residual, post-guided"].trainings == 2
    body = variants["residual, post-guided body"]
    assert (body.trainings, body.codes.post_guided) == (2, "body") and body.codes.gist is not None
    assert {v.codes.post_guided for v in variants.values() if v is not body} == {"appendix"}
    assert variants["quantized, no graph"].codes.quantized.graph == 0
    assert variants["quantized"].codes.quantized.graph > 0


def test_one_code_has_no_pair_that_starts_alike(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tools = divide(make_bench(), 1 / 3).tools
    shares = []
    both = fit_codebook(tools[:2], None, CodeConfig(coder="atomic"))
    for number in (1, 2):
        book = Codebook(both.coder, both.tools[:number], both.report, version=1)
        folder = tmp_path / str(number)
        tiny_model(folder, extra_tokens=[token for level in book.tokens for token in level])
        book.save(folder, AutoTokenizer.from_pretrained(folder))
        shares.append(_describe(folder, ())["start_alike"])
    assert shares == [None, 0]


@pytest.mark.slow
def test_a_trial_is_trained_scored_and_kept(tmp_path: Path) -> None:
    said: list[str] = []
    variants = standard_variants(CodeConfig(size=8, min_tools=2))
    chosen = replace(variants["residual, post-guided"], name="twice")
    plan = Plan(
        model=tiny_model(tmp_path / "model"),
        bench=make_bench(),
        text="please book the hotel and find the museum for me",
        out=tmp_path / "out",
        workspace=ROOT,
        variants=(chosen,),
        seeds=(0,),
        train=TrainConfig(
            method="full", epochs=2, batch_size=8, micro_batch_size=8, max_length=256
        ),
    )
    (trial,), (words,) = asyncio.run(run_compare(plan, [BM25()], said.append))
    assert said == ["twice, seed 0"]
    assert set(trial.values) == {"I1-Inst", "mean"} and 0 <= trial.values["mean"]["ndcg@5"] <= 100
    assert words.table()["mean"]["ndcg@1"] > 50
    assert trial.perplexity is not None and min(trial.perplexity) > 1
    assert trial.codes["new_tokens"] == trial.codes["size"] * trial.codes["levels"]
    assert trial.codes["version"] == 2
    assert 0 < trial.codes["start_alike"] < 1
    assert 0 <= trial.codes["start_alike_if_used_together"] <= 1
    again, _ = asyncio.run(run_compare(plan, [], said.append))
    assert [(t.variant, t.seed, t.values) for t in again] == [("twice", 0, trial.values)]
    assert len(said) == 1
