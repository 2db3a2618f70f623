"""Which codes suit these tools? Every coder under one budget, scored on requests kept aside.

The comparison of SGTC's Tables 3 and 10 on one's own model and tools: each trial starts from the
same checkpoint without codes, gives all tools their codes, learns document → code and request →
code for the same number of epochs (a factory training, TRL in a child), and is asked for the tools
of the requests that training did not see, by beam search under the trie. BM25 and the base model's
embeddings search the same documents. What language costs is measured beside it (ToolWeaver's
point): perplexity of a plain text before and after.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any

import numpy as np

from factory.codes.saving import load_codebook
from factory.codes.trie import Trie
from factory.domain.canon import COMPRESS_PROMPT, ENCODE_PROMPT, canonical_json, derive_seed, digest
from factory.domain.records import Example, Pair, Tool
from factory.engines.perplexity import measure_perplexity
from factory.engines.retrieve import Retriever
from factory.score.toolbench.data import ApiKey, ToolBench, ToolQuery, to_tool
from factory.score.toolbench.ranking import ByCode, Ranker, RetrievalResult, evaluate
from factory.train.examples import (
    code_example,
    example_to_json,
    retrieve_example,
    write_examples,
)
from factory.train.job import TrainingJob, TrainingSetup, code_values, write_pairs, write_tools
from factory.train.run import run_training
from factory.workspace.folder import Workspace
from factory.workspace.models import fingerprint
from factory.workspace.prompts import Prompts
from factory.workspace.recipe import CodesSection, GistSection, vary
from factory.workspace.settings import EngineSection

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to make codes. Example: Variant(name="residual", codes=CodesSection())."""

    name: str
    codes: CodesSection
    trainings: int = 1
    """Trainings that share the epochs; codes are made anew before each but the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is compared, on what, with how much work."""

    model: Path
    """Checkpoint that every trial starts from; it has no codes."""
    bench: ToolBench
    """Documents, and labelled requests."""
    text: str
    """Plain text whose perplexity is measured; empty is none."""
    out: Path
    """Folder of the checkpoints and of `trials.jsonl`, where finished trials are kept."""
    workspace: Path
    """Whose prompts are used."""
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each variant is tried with each."""
    setup: TrainingSetup = field(default_factory=TrainingSetup)
    """The budget; its codes, their version and its seed are the trial's."""
    held_out: float = 1 / 3
    """Share of each split's requests that training does not see."""
    described: bool = False
    """Each tool's own words are learnt as a request too: for tools of which few are asked for."""
    threads: int = 1
    """CPU threads of each child."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One variant with one seed."""

    variant: str
    seed: int
    """Of its codes and its training."""
    values: Mapping[str, Mapping[str, float]]
    """Percent by split of the held-out requests (and `mean`) and metric."""
    codes: Mapping[str, Any]
    """The codebook in figures, with new_tokens, mean_length and longest in tokens, and the shares
    of all pairs and of those used together whose codes start alike."""
    loss: float
    """Mean of the last tenth of the steps, in nats."""
    perplexity: tuple[float, float] | None
    """Of the text, before and after."""
    seconds: float
    """Of training alone."""
    digest: str
    """Of what decided it (digest_trials)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Divided:
    """The tools and requests of a plan, divided."""

    tools: tuple[Tool, ...]
    """Every document as a tool, in the benchmark's order."""
    ids: Mapping[ApiKey, tuple[str, ...]]
    """Ids of the documents of each API."""
    learnt: tuple[ToolQuery, ...]
    """Requests that are trained on."""
    asked: ToolBench
    """The benchmark with the held-out requests only."""


def divide(bench: ToolBench, held_out: float) -> Divided:
    """Tools of all documents, and requests divided by a hash of their ids, split by split."""
    tools = {
        key: tuple(tool for document in documents if (tool := to_tool(document)))
        for key, documents in bench.documents.items()
    }
    order: dict[str, list[ToolQuery]] = {}
    for query in sorted(bench.queries, key=lambda query: derive_seed("held out", query.id)):
        order.setdefault(query.split, []).append(query)
    kept = {
        query.id
        for queries in order.values()
        for query in queries[: max(1, round(held_out * len(queries)))]
    }
    return Divided(
        tools=tuple(tool for several in tools.values() for tool in several),
        ids={key: tuple(tool.id for tool in several) for key, several in tools.items() if several},
        learnt=tuple(query for query in bench.queries if query.id not in kept),
        asked=replace(bench, queries=tuple(q for q in bench.queries if q.id in kept)),
    )


async def compare(
    plan: Plan, baselines: Sequence[Ranker], report: Report
) -> tuple[list[Trial], list[RetrievalResult]]:
    """Run every trial that `plan.out` does not have yet, and the baselines.

    Returned are the trials of this plan, in its order; `plan.out` keeps those of others too.
    Raises what training and scoring raise; finished trials are kept.
    """
    plan.out.mkdir(parents=True, exist_ok=True)
    labelled = divide(plan.bench, plan.held_out)
    found = [await evaluate(baseline, labelled.asked) for baseline in baselines]
    path = plan.out / "trials.jsonl"
    marks = digest_trials(plan, labelled)
    rows = _read_trials(path, report) if path.exists() else []
    kept = {row["digest"]: Trial(**row) for row in rows if row.get("digest") in marks.values()}
    if kept:
        report(f"{len(kept)} of {len(marks)} trials are known and not run again: {path}")
    if len(rows) > len(kept):
        others = len(rows) - len(kept)
        report(f"left alone, not asked for here: {others} other trials of {path}")
    before = await _perplexity(plan, plan.model) if len(kept) < len(marks) else None
    for (variant, seed), mark in marks.items():
        if mark not in kept:
            report(f"{variant.name}, seed {seed}")
            kept[mark] = await _try(plan, labelled, variant, seed, mark, before)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(kept[mark])) + "\n")
    return [kept[mark] for mark in marks.values()], found


def _read_trials(path: Path, report: Report) -> list[dict[str, Any]]:
    """Kept trials. A line that was cut short is ended, told of, and its trial run again."""
    text, rows = path.read_text("utf-8", errors="replace"), []
    if text and not text.endswith("\n"):
        path.write_text(text + "\n", "utf-8")
    for number, line in enumerate(text.splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            report(f"no trial, left alone: {path}:{number}")
    return rows


def digest_trials(plan: Plan, labelled: Divided) -> dict[tuple[Variant, int], str]:
    """Identity of each variant's result with each seed, by seed and in the plan's order.

    Over what a training is known by (TrainingJob.digest), and what is measured of it: the weights,
    prompts, examples, tools, requests, text and settings.
    """
    workspace = Workspace(plan.workspace)
    prompts = Prompts.load(workspace)
    examples = make_examples(labelled, prompts, described=plan.described)
    basis = [
        fingerprint(plan.model),
        *(prompts.sha(name) for name in (ENCODE_PROMPT, COMPRESS_PROMPT, "codes/retrieve")),
        [example_to_json(example) for example in examples],
        [[*key, *ids] for key, ids in labelled.ids.items()],
        [
            [query.id, query.split, query.text, sorted(query.relevant)]
            for query in labelled.asked.queries
        ],
        replace(plan.setup, seed=0, codes=CodesSection(), version=1).values(),  # the trial's count
        plan.text,
    ]
    shared = digest(canonical_json(basis), 32)
    embedders = {variant.codes.embedder for variant in plan.variants} - {""}
    weights = {name: fingerprint(workspace.model_folder(name)) for name in embedders}

    def known(variant: Variant) -> dict[str, Any]:
        codes = code_values(variant.codes, plan.setup.gist_seed, version=1)
        return {"name": variant.name, "codes": codes, "trainings": variant.trainings}

    return {
        (variant, seed): digest(
            canonical_json([shared, weights.get(variant.codes.embedder), known(variant), seed])
        )
        for seed in plan.seeds
        for variant in plan.variants
    }


async def _try(
    plan: Plan, labelled: Divided, variant: Variant, seed: int, mark: str, before: float | None
) -> Trial:
    """Train, retrieve, measure."""
    parent, seconds, losses = plan.model, 0.0, []
    for number in range(variant.trainings):
        out = plan.out / f"{variant.name.replace(' ', '_')}-{seed}-{mark}-{number}"
        job = _make_job(plan, variant, seed, number, parent, out, labelled)
        result = await run_training(
            job,
            threads=plan.threads,
            log=out.with_suffix(".log"),
            on_progress=lambda progress: None,
            on_phase=lambda text: None,
            max_restarts=0,
            notify=lambda text: None,
        )
        parent, seconds = result.path, seconds + result.seconds
        losses = [step.loss for step in result.log]
    retrieved = await _retrieve(plan, parent, labelled)
    after = await _perplexity(plan, parent)
    return Trial(
        variant=variant.name,
        seed=seed,
        values=retrieved.table(),
        codes=_describe(parent, _pairs(labelled)),
        loss=float(np.mean(losses[-max(1, len(losses) // 10) :])),
        perplexity=None if before is None or after is None else (before, after),
        seconds=seconds,
        digest=mark,
    )


async def _retrieve(plan: Plan, checkpoint: Path, labelled: Divided) -> RetrievalResult:
    """The tools that a trial's checkpoint finds for the requests it has not seen."""
    prompts = Prompts.load(Workspace(plan.workspace))
    opened = await Retriever.open(
        checkpoint,
        settings=EngineSection(threads=plan.threads, max_model_len=plan.setup.train.max_length),
        log=checkpoint.with_suffix(".retrieve.log"),
    )
    async with opened as search:
        retriever = ByCode(
            name=checkpoint.name,
            search=search,
            coded=search.tool_ids,
            prompt=lambda query: prompts.render("codes/retrieve", query=query),
        )
        return await evaluate(retriever, labelled.asked)


def _make_job(
    plan: Plan, variant: Variant, seed: int, number: int, parent: Path, out: Path, labelled: Divided
) -> TrainingJob:
    """The trial's training as files beside its checkpoint; the first one has the tools."""
    prompts, work = Prompts.load(Workspace(plan.workspace)), out.with_suffix(".job")
    examples, tools = work / "examples.jsonl", work / "new_tools.jsonl"
    work.mkdir(parents=True, exist_ok=True)
    write_examples(examples, make_examples(labelled, prompts, described=plan.described))
    write_tools(tools, () if number else labelled.tools)
    write_pairs(work / "pairs.jsonl", _pairs(labelled))
    return TrainingJob(
        checkpoint=parent,
        out=out,
        examples=examples,
        new_tools=tools,
        workspace=plan.workspace,
        setup=replace(
            plan.setup,
            train=vary(plan.setup.train, epochs=plan.setup.train.epochs / variant.trainings),
            codes=vary(variant.codes, recode_every=1 if number else 0),
            seed=derive_seed(seed, number, "compare") % 2**31,
            version=number + 1,
        ),
    )


def make_examples(labelled: Divided, prompts: Prompts, *, described: bool = False) -> list[Example]:
    """Document → code of every tool, and request → code of each tool of the learnt requests.

    Of an API with several documents the first one's code stands for it in requests (A36). With
    `described`, a request in the words of each document besides.
    """
    examples = [code_example(tool, prompts, "compare") for tool in labelled.tools]
    examples += [
        retrieve_example(query.text, labelled.ids[key][0], prompts, f"compare/{query.id}")
        for query in labelled.learnt
        for key in sorted(query.relevant)
        if key in labelled.ids
    ]
    if described:
        examples += [
            retrieve_example(_describe_tool(tool), tool.id, prompts, "compare/described")
            for tool in labelled.tools
        ]
    return examples


def _describe_tool(tool: Tool) -> str:
    """What a document says of its tool, without schema: its names and its description."""
    parts = (tool.document.get("tool_name", ""), tool.name, tool.document.get("description", ""))
    return " ".join(" ".join(map(str, parts)).replace("_", " ").split())


def _pairs(labelled: Divided) -> list[Pair]:
    """Tools that answer one learnt request together: the graph of ToolWeaver's loss (A21)."""
    return [
        Pair(a=first, b=second, weight=1.0)
        for query in labelled.learnt
        for first, second in combinations(
            sorted(labelled.ids[key][0] for key in query.relevant if key in labelled.ids), 2
        )
    ]


def _describe(checkpoint: Path, pairs: Sequence[Pair]) -> dict[str, Any]:
    """The checkpoint's codebook in figures, its codes' cost in tokens, and how many start alike."""
    codebook = load_codebook(checkpoint)
    assert codebook is not None
    codes = {tool_id: code for code, tool_id in Trie.load(codebook.trie_path).codes()}
    lengths = [len(code) for code in codes.values()]
    sizes = Counter(code[0] for code in codes.values())
    together = {(pair.a, pair.b) for pair in pairs}
    alike = sum(comb(size, 2) for size in sizes.values())
    alike_together = sum(codes[a][0] == codes[b][0] for a, b in together)
    num_pairs = comb(len(codes), 2)
    return {
        **codebook.summary(),
        "new_tokens": sum(map(len, codebook.tokens)),
        "mean_length": sum(lengths) / len(lengths),
        "longest": max(lengths),
        "start_alike": alike / num_pairs if num_pairs else None,
        "start_alike_if_used_together": alike_together / len(together) if together else None,
    }


async def _perplexity(plan: Plan, folder: Path) -> float | None:
    """Of the plan's text, windows overlapping."""
    if not plan.text:
        return None
    found = await measure_perplexity(
        folder, plan.text, threads=plan.threads, log=plan.out / "perplexity.log", strides=(512,)
    )
    return found[0].value


def standard_variants(codes: CodesSection) -> dict[str, Variant]:
    """The papers' coders and ablations by name, in the sizes of `codes`."""
    gist = codes.gist if codes.gist.views else GistSection(views=2)
    whole = vary(codes, gist=GistSection())
    residual = vary(whole, coder="residual")
    quantized = vary(whole, coder="quantized")
    flat = ("atomic", "numeric", "hierarchical", "semantic")
    made: dict[str, CodesSection] = {
        **{name: vary(whole, coder=name) for name in flat},
        "residual": residual,
        "residual, gist": vary(residual, gist=gist),
        "residual, post-guided": residual,
        "residual, post-guided body": vary(residual, gist=gist, post_guided="body"),
        "residual, random rows": vary(residual, reframe=False),
        "quantized": quantized,
        "quantized, no graph": vary(quantized, quantized=vary(quantized.quantized, graph=0.0)),
    }
    return {
        name: Variant(name=name, codes=codes, trainings=2 if "post-guided" in name else 1)
        for name, codes in made.items()
    }
