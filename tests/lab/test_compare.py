"""Comparing codes: what is kept aside, what is learnt, and a real trial."""

from __future__ import annotations

import asyncio
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from conftest_models import tiny_model
from workspaces import ROOT

from factory.codes.growing import changed, fit_codebook
from factory.codes.saving import save_codebook
from factory.domain.canon import COMPRESS_PROMPT, ENCODE_PROMPT, canonical_json, digest
from factory.lab.trials.compare import (
    Plan,
    Trial,
    _describe,
    _make_job,
    digest_trials,
    divide,
    make_examples,
    standard_variants,
)
from factory.lab.trials.compare import compare as run_compare
from factory.score.toolbench.data import ToolBench, ToolQuery, read_document
from factory.score.toolbench.ranking import BM25, METRICS
from factory.train.curriculum import train_setup
from factory.train.job import TrainingSetup
from factory.workspace.folder import Workspace
from factory.workspace.prompts import Prompts
from factory.workspace.recipe import CodesSection, TrainSection, load_recipe, vary

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
    variants = standard_variants(CodesSection(size=8))
    assert {"atomic", "numeric", "hierarchical", "semantic", "residual", "quantized"} <= set(
        variants
    )
    assert variants["residual, gist"].codes.gist.views == 2
    assert variants["residual"].codes.gist.views == 0
    assert not variants["residual, random rows"].codes.reframe
    assert variants["residual, post-guided"].trainings == 2
    body = variants["residual, post-guided body"]
    assert (body.trainings, body.codes.post_guided) == (2, "body") and body.codes.gist.views == 2
    assert {v.codes.post_guided for v in variants.values() if v is not body} == {"appendix"}
    assert variants["quantized, no graph"].codes.quantized.graph == 0
    assert variants["quantized"].codes.quantized.graph > 0


def test_one_code_has_no_pair_that_starts_alike(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tools = divide(make_bench(), 1 / 3).tools
    shares = []
    both = fit_codebook(tools[:2], None, CodesSection(coder="atomic"))
    for number in (1, 2):
        book = changed(both, tools=both.tools[:number], finish=None)
        folder = tmp_path / str(number)
        tiny_model(folder, extra_tokens=[token for level in book.tokens for token in level])
        save_codebook(book, folder, AutoTokenizer.from_pretrained(folder))
        shares.append(_describe(folder, ())["start_alike"])
    assert shares == [None, 0]


def make_plan(folder: Path, **values: Any) -> Plan:
    """Two variants with one seed, on a tiny model."""
    variants = standard_variants(CodesSection(size=8, min_tools=2))
    plan = Plan(
        model=tiny_model(folder / "model"),
        bench=make_bench(),
        text="please book the hotel and find the museum for me",
        out=folder / "out",
        workspace=ROOT,
        variants=(variants["residual"], variants["numeric"]),
        seeds=(0,),
        setup=TrainingSetup(
            train=TrainSection(
                method="full", epochs=2, batch_size=8, micro_batch_size=8, max_length=256
            )
        ),
    )
    return replace(plan, **values)


def make_trial(variant: str, seed: int, ndcg: float, **values: Any) -> Trial:
    """A finished trial whose every metric is `ndcg`, hits-only ones 10 more, recall 20 more."""
    more = {"ndcg": 0, "ndcg_hits": 10, "recall": 20}
    metrics = {m: ndcg + more.get(m.split("@")[0], 0) for m in METRICS}
    codes = {
        "new_tokens": 24,
        "mean_length": 3.5,
        "longest": 4,
        "collisions_before": 2 * seed,
        "moved": 3,
        "start_alike": 0.25,
        "start_alike_if_used_together": None,
    }
    trial = Trial(
        variant=variant,
        seed=seed,
        values={"I1-Inst": metrics, "mean": metrics},
        codes=codes,
        loss=1.5,
        perplexity=None,
        seconds=2.0,
        digest="",
    )
    return replace(trial, **values)


def edited_workspace(folder: Path, prompt: str) -> Path:
    """A workspace with one prompt changed."""
    shutil.copytree(ROOT / "prompts", folder / "prompts")
    path = folder / "prompts" / f"{prompt}.j2"
    path.write_text("Now: " + path.read_text(encoding="utf-8"), encoding="utf-8")
    return folder


def digests(plan: Plan) -> list[str]:
    return list(digest_trials(plan, divide(plan.bench, plan.held_out)).values())


def test_a_trial_is_known_by_everything_that_decides_it(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    first = digests(plan)
    assert first == digests(plan) == digests(replace(plan, out=tmp_path / "x", threads=2))
    residual = plan.variants[0]
    shorter = replace(plan.bench, queries=plan.bench.queries[:-1])
    fewer = dict(list(plan.bench.documents.items())[:-1])
    others = [
        replace(plan, model=tiny_model(tmp_path / "other", seed=1)),
        replace(plan, bench=shorter),
        replace(plan, bench=replace(plan.bench, documents=fewer)),
        replace(plan, text=""),
        replace(plan, described=True),
        replace(plan, held_out=0.5),
        replace(plan, seeds=(1,)),
        replace(plan, setup=replace(plan.setup, train=vary(plan.setup.train, epochs=3))),
        replace(plan, variants=(replace(residual, codes=vary(residual.codes, size=4)),)),
        replace(plan, variants=(replace(residual, trainings=2),)),
        *(
            replace(plan, workspace=edited_workspace(tmp_path / str(number), name))
            for number, name in enumerate((ENCODE_PROMPT, COMPRESS_PROMPT, "codes/retrieve"))
        ),
    ]
    found = [first, *map(digests, others)]
    assert len({mark for marks in found for mark in marks}) == sum(map(len, found))
    # The recipe's own seed and codes are no part of a trial: it has its own.
    numeric = CodesSection(coder="numeric")
    assert first == digests(
        replace(plan, setup=replace(plan.setup, seed=7, codes=numeric, version=2))
    )


@pytest.mark.parametrize(
    ("recipe", "trials", "jobs"),
    [
        ("cpu", "0d2a5f57a7d9", "2d1dcbe3a505"),
        ("base", "e388a29c9935", "e79bf75f8aeb"),
        ("sgtc", "27a76da6b3c8", "88e1bc0b879e"),
        ("toolgen", "c6abb9447e67", "6c897604716b"),
        ("toolweaver", "15c644cb7a6d", "143354020188"),
    ],
)
def test_finished_trials_are_known_by_what_they_were_stored_with(
    recipe: str, trials: str, jobs: str, tmp_path: Path
) -> None:
    """All variants of two seeds, and the trainings that they are made of."""
    for name in ("encode", "compress", "retrieve"):
        path = tmp_path / "prompts" / "codes" / f"{name}.j2"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}: {{{{ tool.name if tool is defined else query }}}}")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    resolved = load_recipe(Workspace(ROOT), recipe, {}).recipe
    variants = standard_variants(resolved.codes)
    plan = Plan(
        model=tmp_path / "model",
        bench=make_bench(),
        text="a text",
        out=tmp_path / "trials",
        workspace=tmp_path,
        variants=tuple(variants.values()),
        seeds=(0, 1),
        setup=train_setup(resolved, 0, "float32", version=1),
    )
    labelled = divide(plan.bench, plan.held_out)
    assert digest(canonical_json(digests(plan))) == trials
    made = [
        _make_job(plan, variant, 1, number, plan.model, tmp_path / "trial", labelled).digest()
        for variant in plan.variants
        for number in range(variant.trainings)
    ]
    assert digest(canonical_json(made)) == jobs


def test_only_trials_of_the_plan_are_returned_and_none_is_lost(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, text="")
    plan.out.mkdir()
    marks = digests(plan)
    trials = [
        make_trial("numeric", 0, 40, digest=marks[1]),
        make_trial("residual", 0, 99, digest="of another model"),
        make_trial("residual", 0, 50, digest=marks[0]),
        make_trial("residual", 1, 60, digest="of another seed"),
    ]
    rows = [asdict(trial) for trial in trials]
    del rows[1]["digest"]  # as it was written before trials had one
    kept = "".join(json.dumps(row) + "\n" for row in rows)
    (plan.out / "trials.jsonl").write_text(kept, encoding="utf-8")
    said: list[str] = []
    found, _ = asyncio.run(run_compare(plan, [], said.append))
    assert [(trial.variant, trial.values["mean"]["ndcg@1"]) for trial in found] == [
        ("residual", 50),
        ("numeric", 40),
    ]
    assert "2 of 2 trials are known" in said[0] and "2 other trials of" in said[1]
    assert (plan.out / "trials.jsonl").read_text(encoding="utf-8") == kept


@pytest.mark.slow
def test_a_trial_is_trained_scored_and_kept(tmp_path: Path) -> None:
    said: list[str] = []
    variants = standard_variants(CodesSection(size=8, min_tools=2))
    chosen = replace(variants["residual, post-guided"], name="twice")
    plan = make_plan(tmp_path, variants=(chosen,))
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
    assert len(said) == 2 and "not run again" in said[1]
    longer = replace(plan, variants=(replace(chosen, trainings=1),), described=True, text="")
    (other,), _ = asyncio.run(run_compare(longer, [], said.append))
    assert other.digest != trial.digest and other.codes["version"] == 1
    assert "not asked for here: 1 other trials" in said[2] and said[3] == "twice, seed 0"
    with (plan.out / "trials.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"variant": "cut sho')
    (back,), _ = asyncio.run(run_compare(plan, [], said.append))
    assert back.values == trial.values
    assert any(line.startswith("no trial, left alone") for line in said)
    assert (plan.out / "trials.jsonl").read_text(encoding="utf-8").endswith("cut sho\n")
