"""Comparing codes: what is kept aside, what is learnt, and a real trial."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from conftest_models import tiny_model
from workspaces import ROOT

from factory.codes.growing import changed, fit_codebook
from factory.codes.saving import save_codebook
from factory.domain.canon import COMPRESS_PROMPT, ENCODE_PROMPT, canonical_json, digest
from factory.domain.failures import InputError, ModelError
from factory.lab.trials.compare import (
    Plan,
    Trial,
    _describe,
    _make_job,
    digest_trials,
    make_examples,
)
from factory.lab.trials.compare import compare as run_compare
from factory.lab.trials.division import Divided, divide
from factory.lab.trials.labels import Labels
from factory.lab.trials.rankings import rankings_path, write_rankings
from factory.lab.trials.variants import (
    Variant,
    choose_variants,
    parse_sweeps,
    standard_variants,
)
from factory.score.toolbench.data import ApiKey, ToolBench, ToolQuery, read_document
from factory.score.toolbench.ranking import BM25, METRICS, QueryResult, RetrievalResult, measure
from factory.train.curriculum import train_setup
from factory.train.job import TrainingSetup
from factory.workspace.folder import Workspace
from factory.workspace.prompts import Prompts
from factory.workspace.recipe import CodesSection, Recipe, TrainSection, load_recipe, vary

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


def divided(**values: Any) -> Divided:
    return divide(Labels(bench=make_bench()), **values)


def test_requests_are_learnt_or_asked_never_both() -> None:
    bench = make_bench()
    labelled = divided()
    learnt = {query.id for query in labelled.learnt}
    asked = {query.id for query in labelled.asked.queries}
    assert not learnt & asked and learnt | asked == {query.id for query in bench.queries}
    assert len(asked) == 8
    assert divided() == labelled
    assert len({tool.id for tool in labelled.tools}) == len(bench.documents)


def test_given_requests_to_learn_the_others_are_asked_whole() -> None:
    bench = make_bench()
    first, *rest = bench.queries
    own = [replace(query, id=f"mine/{query.id}", text=f"now {query.text}") for query in rest]
    same = replace(first, id="same", text=f"  {first.text} ")
    labelled = divide(Labels(bench=bench, learnt=(same, *own)))
    assert labelled.asked == bench and labelled.learnt == tuple(own)
    assert labelled.notes == (
        "1 of 24 requests to learn are asked in the same words and are left out",
    )
    with pytest.raises(InputError, match="no request is left to learn"):
        divide(Labels(bench=bench, learnt=(same,)))


def test_tools_held_out_are_in_no_fit_and_no_training() -> None:
    labelled = divided(held_out_tools=0.2)
    away = {key for key, group in labelled.groups.items() if group == "held out"}
    # 5 of 24 are wanted: two services of three.
    assert len(away) == 6 and len({key.tool for key in away}) == 2
    held = {tool.id for tool in labelled.held_out}
    assert held == {labelled.ids[key][0] for key in away}
    assert not held & {tool.id for tool in labelled.tools}
    assert not any(query.relevant & away for query in labelled.learnt)
    examples = make_examples(labelled, Prompts.load(Workspace(ROOT)), described=True)
    texts = [message.content for example in examples for message in example.messages]
    assert not any(tool_id in text for tool_id in held for text in texts)
    assert set(labelled.asked.documents) == set(labelled.ids)  # they are searched among all
    assert any("need a tool that is held out" in note for note in labelled.notes)


def test_a_request_is_of_the_group_of_all_its_tools() -> None:
    labelled = divided(held_out_tools=0.2)
    taught = {key for query in labelled.learnt for key in query.relevant}
    for query in labelled.asked.queries:
        groups = {labelled.groups[key] for key in query.relevant}
        assert labelled.group_of(query) == (groups.pop() if len(groups) == 1 else None)
        for key in query.relevant & taught:
            assert key in labelled.relevant_in(query, "seen")
    wanted = {group for query in labelled.asked.queries if (group := labelled.group_of(query))}
    assert wanted == {"seen", "document only", "held out"}


def test_every_document_and_each_tool_of_learnt_requests_is_an_example() -> None:
    labelled = divided()
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


def variants_of(codes: CodesSection) -> dict[str, Variant]:
    return standard_variants(Recipe(codes=codes))


def test_the_variants_differ_in_what_their_names_say() -> None:
    variants = variants_of(CodesSection(size=8))
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
    sgtc, one = variants["sgtc"], variants["sgtc, one iteration"]
    assert (sgtc.codes.iterations, sgtc.codes.gist.merge, sgtc.codes.gist.views) == (2, True, 2)
    assert one.codes == vary(sgtc.codes, iterations=1) and sgtc.codes.reframe
    assert not variants["sgtc, without merge"].codes.gist.merge
    woven = {name: variants[name].codes.quantized for name in variants if "weaver" in name}
    assert {woven["toolweaver"].graph_unit, woven["toolweaver"].sinkhorn} == {"absolute", "all"}
    assert woven["toolweaver, no graph"] == vary(woven["toolweaver"], graph=0.0)
    assert woven["toolweaver, no Sinkhorn"].sinkhorn == "off"
    assert [stage.kinds for stage in variants["toolgen"].stages] == [("code",), ("retrieve",)]
    assert not variants["sgtc, random rows"].codes.reframe


def test_documents_are_compressed_by_the_model_itself_whatever_embedder_is_named() -> None:
    variants = variants_of(CodesSection(embedder="minilm"))
    for name, variant in variants.items():
        compresses = bool(variant.codes.gist.views)
        assert variant.codes.embedder == ("" if compresses else "minilm"), name
        assert compresses == any(word in name for word in ("gist", "body", "sgtc")), name


def test_a_sweep_is_a_variant_for_each_combination() -> None:
    sweeps = parse_sweeps(
        ["codes.quantized.graph=0,0.5", "codes.levels=2,3", "codes.quantized.hidden=[8],[8,4]"]
    )
    found = choose_variants(Recipe(), ["quantized", "atomic"], sweeps)
    names = [variant.name for variant in found]
    assert len(names) == len(set(names)) == 9 and names[-1] == "atomic"
    assert names[1] == "quantized, graph=0, levels=2, hidden=[8, 4]"
    assert found[1].codes.quantized.hidden == (8, 4) and found[1].codes.levels == 2
    trained = choose_variants(Recipe(), ["atomic"], parse_sweeps(["train.epochs=1,4"]))
    assert [variant.train.epochs for variant in trained] == [1, 4]
    words = choose_variants(Recipe(), ["residual"], parse_sweeps(["codes.embedder=one,two"]))
    assert [variant.codes.embedder for variant in words] == ["one", "two"]


def test_first_rows_matter_where_codes_are_tokens_that_get_some() -> None:
    names = ["residual", "residual, random rows", "numeric"]
    rows = parse_sweeps(["codes.rows=mean,scaled"])
    assert [variant.name for variant in choose_variants(Recipe(), names, rows)] == [
        *("residual, rows=mean", "residual, rows=scaled", "residual, random rows", "numeric"),
    ]
    both = rows | parse_sweeps(["codes.reframe=true,false"])
    assert [variant.name for variant in choose_variants(Recipe(), ["residual"], both)] == [
        "residual, rows=mean, reframe=True",
        "residual, reframe=False",
        "residual, rows=scaled, reframe=True",
    ]


def test_fitting_is_what_makes_codes_and_no_training() -> None:
    made = {"giving codes to tools": 1, "compressing documents": 2, "moving the gist tokens": 4}
    other = {"stage of": 8, "training on examples": 16, "loading the model": 32, "asking": 64}
    again = {"iteration of: giving all tools codes anew": 128}
    assert make_trial("sgtc", 0, 50, phases=made | other | again).fitting == 135


@pytest.mark.parametrize(
    ("only", "sweep", "what"),
    [
        (["Atomic"], [], "no variant 'Atomic'"),
        (["atomic"], ["codes.quantized.graph=0,1"], "changes none of atomic"),
        (["atomic"], ["train.epoch=1,2"], "train.epoch: unknown key"),
        (["quantized"], ["codes.quantized.graph=-1"], "greater than or equal to 0"),
        ([], ["train.epochs"], "has no values"),
    ],
)
def test_a_name_or_a_sweep_that_cannot_be_is_refused(
    only: list[str], sweep: list[str], what: str
) -> None:
    with pytest.raises(InputError, match=what):
        choose_variants(Recipe(), only, parse_sweeps(sweep))


def test_one_code_has_no_pair_that_starts_alike(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tools = divided().tools
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
    variants = variants_of(CodesSection(size=8, min_tools=2))
    train = TrainSection(method="full", epochs=2, batch_size=8, micro_batch_size=8, max_length=256)
    plan = Plan(
        model=tiny_model(folder / "model"),
        labelled=divided(),
        text="please book the hotel and find the museum for me",
        out=folder / "out",
        workspace=ROOT,
        variants=tuple(replace(variants[name], train=train) for name in ("residual", "numeric")),
        seeds=(0,),
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
    return list(digest_trials(plan))


def test_a_trial_is_known_by_everything_that_decides_it(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    first = digests(plan)
    assert first == digests(plan) == digests(replace(plan, out=tmp_path / "x", threads=2))
    residual, bench = plan.variants[0], make_bench()
    fewer = dict(list(bench.documents.items())[:-1])
    others = [
        replace(plan, model=tiny_model(tmp_path / "other", seed=1)),
        *(
            replace(plan, labelled=labelled)
            for labelled in (
                divide(Labels(bench=replace(bench, queries=bench.queries[:-1]))),
                divide(Labels(bench=replace(bench, documents=fewer))),
                divided(held_out=0.5),
                divided(held_out_tools=0.2),
            )
        ),
        replace(plan, text=""),
        replace(plan, described=True),
        replace(plan, seeds=(1,)),
        *(
            replace(plan, variants=(other,))
            for other in (
                replace(residual, train=vary(residual.train, epochs=3)),
                replace(residual, codes=vary(residual.codes, size=4)),
                replace(residual, codes=vary(residual.codes, rows="mean")),
                replace(residual, trainings=2),
                replace(residual, stages=variants_of(residual.codes)["toolgen"].stages),
            )
        ),
        *(
            replace(plan, workspace=edited_workspace(tmp_path / str(number), name))
            for number, name in enumerate((ENCODE_PROMPT, COMPRESS_PROMPT, "codes/retrieve"))
        ),
    ]
    found = [first, *map(digests, others)]
    assert len({mark for marks in found for mark in marks}) == sum(map(len, found))
    # What the setup says of training, codes and seed is no part of a trial: it has its own.
    own = TrainingSetup(
        train=vary(residual.train, epochs=9),
        codes=CodesSection(coder="numeric"),
        seed=7,
        version=2,
    )
    assert first == digests(replace(plan, setup=own))


@pytest.mark.parametrize(
    ("recipe", "trials", "jobs"),
    [
        ("cpu", "d161538afaed", "8c8cc2c658db"),
        ("base", "557801a652a1", "cf00726fb5b7"),
        ("sgtc", "3e58e0e1b361", "143ce234b509"),
        ("toolgen", "96d19aaf23c2", "1f01eb6711a3"),
        ("toolweaver", "716c801e54f6", "cc375e9be8d8"),
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
    variants = list(standard_variants(resolved).values())[:11]  # those that were stored
    plan = Plan(
        model=tmp_path / "model",
        labelled=divided(),
        text="a text",
        out=tmp_path / "trials",
        workspace=tmp_path,
        variants=tuple(variants),
        seeds=(0, 1),
        setup=train_setup(resolved, 0, "float32", version=1),
    )
    assert digest(canonical_json(digests(plan))) == trials
    made = [
        _make_job(plan, variant, 1, number, plan.model, tmp_path / "trial").digest()
        for variant in plan.variants
        for number in range(variant.trainings)
    ]
    assert digest(canonical_json(made)) == jobs


def write_lists(plan: Plan, mark: str, places: Sequence[int]) -> RetrievalResult:
    """Ranked lists of a trial in which each request's tool is at a place, from 1; 0 is nowhere."""
    other = next(iter(plan.labelled.ids))
    results = []
    for query, place in zip(plan.labelled.asked.queries, itertools.cycle(places), strict=False):
        found = [ApiKey("none", str(n)) for n in range(place - 1)] + sorted(query.relevant)[:1]
        ranked = tuple(found if place else [other if other not in query.relevant else None])
        results.append(
            QueryResult(query=query, ranked=ranked, values=measure(ranked, query.relevant))
        )
    lists = RetrievalResult(system="trial", setting="multi-domain", depth=5, queries=tuple(results))
    write_rankings(rankings_path(plan.out, mark), lists, plan.labelled)
    return lists


def test_only_trials_of_the_plan_are_returned_and_none_is_lost(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, text="")
    plan.out.mkdir()
    marks = digests(plan)
    lists = {mark: write_lists(plan, mark, [1, place]) for place, mark in enumerate(marks)}
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
    outcome = asyncio.run(run_compare(plan, [], said.append))
    assert [(trial.variant, trial.values["mean"]["ndcg@1"]) for trial in outcome.trials] == [
        ("residual", 50),
        ("numeric", 40),
    ]
    assert outcome.found == lists and not outcome.unstarted and not outcome.failed
    assert "2 of 2 trials are known" in said[0] and "2 other trials of" in said[1]
    assert (plan.out / "trials.jsonl").read_text(encoding="utf-8") == kept
    # Without its lists a trial is no basis for a table; after its time none is started.
    rankings_path(plan.out, marks[0]).unlink()
    outcome = asyncio.run(run_compare(replace(plan, seconds=0), [], said.append))
    assert [trial.variant for trial in outcome.trials] == ["numeric"] and outcome.unstarted == 1


def test_the_lists_of_a_baseline_are_kept(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, text="", variants=())
    (first,) = asyncio.run(run_compare(plan, [BM25()], print)).baselines
    (path,) = (plan.out / "rankings").iterdir()
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert {row["id"] for row in rows} == {query.id for query in plan.labelled.asked.queries}
    assert {row["group"] for row in rows} >= {"seen"}
    for row in rows:
        row["ranked"] = row["ranked"][:1]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (again,) = asyncio.run(run_compare(plan, [BM25()], print)).baselines
    assert all(len(each.ranked) == 1 for each in again.queries)  # read, not ranked anew
    assert again.table()["mean"]["ndcg@1"] == first.table()["mean"]["ndcg@1"]


def test_too_few_tools_for_codes_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    many = vary(plan.variants[0].codes, min_tools=64)
    plan = replace(plan, variants=(replace(plan.variants[0], codes=many),))
    with pytest.raises(InputError, match="24 tools are learnt"):
        asyncio.run(run_compare(plan, [], print))


@pytest.mark.slow
def test_a_trial_is_trained_scored_and_kept(tmp_path: Path) -> None:
    said: list[str] = []
    variants = variants_of(CodesSection(size=8, min_tools=2))
    plan = make_plan(tmp_path, labelled=divided(held_out_tools=0.2))
    chosen = replace(variants["residual, post-guided"], name="twice", train=plan.variants[0].train)
    broken = replace(chosen, name="broken", codes=vary(chosen.codes, embedder=str(tmp_path)))
    plan = replace(plan, variants=(broken, chosen))
    outcome = asyncio.run(run_compare(plan, [BM25()], said.append))
    (trial,), (words,) = outcome.trials, outcome.baselines
    assert said[0] == "broken, seed 0" and said[-1] == "twice, seed 0"
    assert isinstance(outcome.failed["broken, seed 0"], ModelError)
    assert set(trial.values) == {"I1-Inst", "mean"} and 0 <= trial.values["mean"]["ndcg@5"] <= 100
    assert words.table()["mean"]["ndcg@1"] > 50
    assert trial.perplexity is not None and min(trial.perplexity) > 1
    assert trial.codes["new_tokens"] == trial.codes["size"] * trial.codes["levels"]
    assert trial.codes["version"] == 2
    assert 0 < trial.codes["start_alike"] < 1
    assert 0 <= trial.codes["start_alike_if_used_together"] <= 1
    assert trial.added is not None and trial.added["num_tools"] == len(plan.labelled.held_out) == 6
    assert trial.codes["num_tools"] == 24  # those held out have codes now, and can be found
    assert {"training on examples", "adding tools", "asking"} <= set(trial.phases)
    assert len(trial.decoding) == 1 + trial.codes["longest"] and min(trial.decoding) > 0
    assert trial.fitting > 0 and trial.wall > trial.seconds > 0
    plan = replace(plan, variants=(chosen,), discard=True)
    again = asyncio.run(run_compare(plan, [], said.append))
    assert [(t.variant, t.seed, t.values) for t in again.trials] == [("twice", 0, trial.values)]
    assert list(again.found.values()) == list(outcome.found.values())
    assert "not run again" in said[-1]
    longer = replace(plan, variants=(replace(chosen, trainings=1),), described=True, text="")
    (other,) = asyncio.run(run_compare(longer, [], said.append)).trials
    assert other.digest != trial.digest and other.codes["version"] == 1
    assert "not asked for here: 1 other trials" in said[-2] and said[-1] == "twice, seed 0"
    assert not list(plan.out.glob(f"*{other.digest}*/model.safetensors"))
    assert list(plan.out.glob(f"*{trial.digest}*/model.safetensors"))
    with (plan.out / "trials.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"variant": "cut sho')
    (back,) = asyncio.run(run_compare(plan, [], said.append)).trials
    assert back.values == trial.values
    assert any(line.startswith("no trial, left alone") for line in said)
    assert (plan.out / "trials.jsonl").read_text(encoding="utf-8").endswith("cut sho\n")
