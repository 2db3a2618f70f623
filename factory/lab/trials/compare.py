"""Which codes suit these tools? Every coder under one budget, scored on requests kept aside.

The comparison of SGTC's Tables 3, 9 and 10 on one's own model and tools: each trial starts from the
same checkpoint without codes, gives the tools their codes, learns document → code and request →
code for the same number of epochs (a factory training, TRL in a child), and is asked for the tools
of the requests that training did not see, by beam search under the trie. Tools that were held out
get a code of the finished codebook before that, without training. BM25 and embeddings search the
same documents. What language costs is measured beside it (ToolWeaver's point): perplexity of a
plain text before and after.
"""

from __future__ import annotations

import re
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from factory.codes.saving import load_codebook
from factory.codes.trie import Trie
from factory.domain.canon import COMPRESS_PROMPT, ENCODE_PROMPT, canonical_json, derive_seed, digest
from factory.domain.failures import FactoryError, InputError
from factory.domain.records import Example, Pair, Progress
from factory.engines.perplexity import measure_perplexity
from factory.engines.retrieve import Retriever
from factory.lab.trials.division import Divided
from factory.lab.trials.keeping import Deadline, Report, run_trials
from factory.lab.trials.rankings import (
    rank_baselines,
    rankings_path,
    read_rankings,
    write_rankings,
)
from factory.lab.trials.variants import Variant
from factory.score.toolbench.ranking import BM25, ByCode, EmbSim, RetrievalResult, evaluate
from factory.train.examples import (
    code_example,
    example_to_json,
    own_words,
    retrieve_example,
    write_examples,
)
from factory.train.job import TrainingJob, TrainingSetup, code_values, write_pairs, write_tools
from factory.train.preview import CodingJob, add_codes
from factory.train.run import run_training
from factory.workspace.folder import Workspace
from factory.workspace.models import fingerprint
from factory.workspace.prompts import Prompts
from factory.workspace.recipe import CodesSection, StageSection, TrainSection, vary
from factory.workspace.settings import EngineSection

EpochsT = TypeVar("EpochsT", TrainSection, StageSection)
FORMAT = 3
"""Of what a trial is: ranked lists are kept since 2, the way of first rows is told since 3."""
FITTING = ("giving codes", "iteration", "compressing", "moving the gist tokens")
"""How the phases start in which codes are made and no example is learnt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is compared, on what, with how much work."""

    model: Path
    """Checkpoint that every trial starts from; it has no codes."""
    labelled: Divided
    """Documents, and labelled requests."""
    text: str
    """Plain text whose perplexity is measured; empty is none."""
    out: Path
    """Folder of the checkpoints, of `trials.jsonl`, where finished trials are kept, and of their
    ranked lists."""
    workspace: Path
    """Whose prompts are used."""
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each variant is tried with each."""
    setup: TrainingSetup = field(default_factory=TrainingSetup)
    """Arithmetic and seed of compression; the rest is the trial's."""
    described: bool = False
    """Each tool's own words are learnt as a request too: for tools of which few are asked for."""
    threads: int = 1
    """CPU threads of each child."""
    seconds: float | None = None
    """After so many no trial is started any more; None is no bound."""
    discard: bool = False
    """Whether a finished trial's checkpoints are deleted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """What became of the tools that were held out. Example: Added(num_tools=20, far=0.05)."""

    num_tools: int
    """Those that have a code now."""
    far: float | None = None
    """Share of them that is out of the codebook's distribution (A38); None without any."""
    reason: str = ""
    """Why they have none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One variant with one seed."""

    variant: str
    seed: int
    """Of its codes and its training."""
    values: Mapping[str, Mapping[str, float]]
    """Percent by split of the asked requests (and `mean`) and metric."""
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
    """Of what decided it (digest_trials); its ranked lists are rankings/<digest>.jsonl."""
    wall: float = 0.0
    """Seconds of everything: fitting, training, adding, asking, measuring."""
    phases: Mapping[str, float] = field(default_factory=dict)
    """Seconds by what was done."""
    decoding: Sequence[float] = ()
    """Seconds of the search for the asked requests: reading them, then each token of the codes."""
    added: Mapping[str, Any] | None = None
    """The tools that were held out (Added); None where none were."""

    @property
    def fitting(self) -> float:
        """Seconds of compression, embedding and fitting."""
        return sum(s for name, s in self.phases.items() if name.startswith(FITTING))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a comparison came to."""

    trials: tuple[Trial, ...]
    """Those of the plan that are there, in its order."""
    found: Mapping[str, RetrievalResult]
    """Their ranked lists by digest."""
    baselines: tuple[RetrievalResult, ...]
    failed: Mapping[str, FactoryError]
    """What stopped a trial, by its name."""
    unstarted: int
    """Trials that were not started any more."""


async def compare(plan: Plan, baselines: Sequence[BM25 | EmbSim], report: Report) -> Outcome:
    """Run every trial that `plan.out` does not have yet, and the baselines.

    Returned are the trials of this plan, in its order; `plan.out` keeps those of others too. A
    trial that fails is told of, and the others go on. Raises what the baselines raise.
    """
    deadline = Deadline(plan.seconds)
    _refuse_too_few(plan)
    marks = digest_trials(plan)
    found: dict[str, RetrievalResult] = {}
    before: list[float | None] = []

    def read(row: dict[str, Any]) -> Trial | None:
        lists = read_rankings(rankings_path(plan.out, row["digest"]), plan.labelled)
        if lists is None:
            return None
        found[row["digest"]] = lists
        return Trial(**row)

    async def run(mark: str) -> Trial:
        if not before:
            before.append(await _perplexity(plan, plan.model))
        trial, found[mark] = await _try(plan, *marks[mark], mark, before[0])
        return trial

    ranked = await rank_baselines(baselines, plan.labelled, plan.out)
    course = await run_trials(
        {mark: f"{variant.name}, seed {seed}" for mark, (variant, seed) in marks.items()},
        plan.out,
        read,
        run,
        report,
        deadline=deadline,
        discard=(lambda mark: _discard(plan, *marks[mark], mark)) if plan.discard else None,
    )
    return Outcome(
        trials=tuple(course.trials[mark] for mark in marks if mark in course.trials),
        found={mark: found[mark] for mark in marks if mark in course.trials},
        baselines=tuple(ranked),
        failed=course.failed,
        unstarted=course.unfinished,
    )


def _refuse_too_few(plan: Plan) -> None:
    num_tools = len(plan.labelled.tools)
    for variant in plan.variants:
        if num_tools < variant.codes.min_tools:
            raise InputError(
                f"{num_tools} tools are learnt, and codes are made of {variant.codes.min_tools}",
                remedy="give more documents, hold out fewer, or --set codes.min_tools=2",
            )


def digest_trials(plan: Plan) -> dict[str, tuple[Variant, int]]:
    """Each variant with each seed, by what its result is known by; by seed, in the plan's order.

    Over what a training is known by (TrainingJob.digest), and what is measured of it: the weights,
    prompts, examples, tools, requests, text and settings.
    """
    workspace, labelled = Workspace(plan.workspace), plan.labelled
    prompts = Prompts.load(workspace)
    examples = make_examples(labelled, prompts, described=plan.described)
    basis = [
        FORMAT,
        fingerprint(plan.model),
        *(prompts.sha(name) for name in (ENCODE_PROMPT, COMPRESS_PROMPT, "codes/retrieve")),
        [example_to_json(example) for example in examples],
        [[*key, *ids] for key, ids in labelled.ids.items()],
        [tool.id for tool in labelled.held_out],
        [
            [query.id, query.split, query.text, sorted(query.relevant)]
            for query in labelled.asked.queries
        ],
        plan.text,
    ]
    shared = digest(canonical_json(basis), 32)
    embedders = {variant.codes.embedder for variant in plan.variants} - {""}
    weights = {name: fingerprint(workspace.model_folder(name)) for name in embedders}

    def known(variant: Variant) -> dict[str, Any]:
        """With the sections of its training; the setup's own are another's."""
        setup = replace(
            plan.setup,
            train=variant.train,
            stages=variant.stages,
            seed=0,
            codes=CodesSection(),
            version=1,
        )
        return {
            "name": variant.name,
            "codes": code_values(variant.codes, plan.setup.gist_seed, version=1),
            "rows": variant.codes.first_rows,
            "training": setup.values(),
            "trainings": variant.trainings,
        }

    return {
        digest(
            canonical_json([shared, weights.get(variant.codes.embedder), known(variant), seed])
        ): (variant, seed)
        for seed in plan.seeds
        for variant in plan.variants
    }


class _Clock:
    """Seconds by what is done, as a training's phases and their owner say."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._name, self._since = "", time.monotonic()

    def __call__(self, text: str) -> None:
        """What is done from now on: `compressing documents, epoch 3, …` goes on with the first."""
        now = time.monotonic()
        if self._name:
            self.seconds[self._name] += now - self._since
        self._name, self._since = re.sub(r" \d+", "", text.split(",")[0]), now

    def stage(self, name: str, total: int | None = None) -> None: ...

    def progress(self, done: int, detail: str = "", total: int | None = None) -> None: ...

    def note(self, text: str) -> None: ...


async def _try(
    plan: Plan, variant: Variant, seed: int, mark: str, before: float | None
) -> tuple[Trial, RetrievalResult]:
    """Train, add what was held out, retrieve, measure."""
    start, clock = time.monotonic(), _Clock()
    parent, seconds, losses = plan.model, 0.0, list[float]()
    for number in range(variant.trainings):
        out = _folder(plan, variant, seed, mark, number)
        result = await run_training(
            _make_job(plan, variant, seed, number, parent, out),
            threads=plan.threads,
            log=out.with_suffix(".log"),
            on_progress=_ignore,
            on_phase=clock,
            max_restarts=0,
            notify=lambda text: None,
        )
        parent, seconds = result.path, seconds + result.seconds
        losses = [step.loss for step in result.log]
    clock("adding tools")
    added = await _add(plan, parent, clock) if plan.labelled.held_out else None
    clock("asking")
    retrieved, decoding = await _retrieve(plan, parent, variant)
    clock("perplexity")
    after = await _perplexity(plan, parent)
    clock("")
    write_rankings(rankings_path(plan.out, mark), retrieved, plan.labelled)
    trial = Trial(
        variant=variant.name,
        seed=seed,
        values=retrieved.table(),
        codes=_describe(parent, _pairs(plan.labelled)),
        loss=float(np.mean(losses[-max(1, len(losses) // 10) :])),
        perplexity=None if before is None or after is None else (before, after),
        seconds=seconds,
        digest=mark,
        wall=round(time.monotonic() - start, 1),
        phases={name: round(value, 2) for name, value in clock.seconds.items()},
        decoding=[round(value, 3) for value in decoding],
        added=asdict(added) if added else None,
    )
    return trial, retrieved


def _ignore(progress: Progress) -> None:
    """Progress that nobody sees."""


def _folder(plan: Plan, variant: Variant, seed: int, mark: str, number: int) -> Path:
    name = re.sub(r"[^\w=+-]+", "_", variant.name)[:80]
    return plan.out / f"{name}-{seed}-{mark}-{number}"


def _discard(plan: Plan, variant: Variant, seed: int, mark: str) -> None:
    for number in range(variant.trainings):
        shutil.rmtree(_folder(plan, variant, seed, mark, number), ignore_errors=True)


async def _add(plan: Plan, checkpoint: Path, clock: _Clock) -> Added:
    """Give the tools that were held out codes, as `factory codes add` does."""
    codebook = load_codebook(checkpoint)
    assert codebook is not None
    if codebook.coder.name == "atomic":
        return Added(num_tools=0, reason="an atomic code is a token that only training can write")
    tools = plan.labelled.held_out
    fresh = [tool for tool in tools if tool.id not in codebook]
    if fresh:
        job = CodingJob(workspace=plan.workspace, checkpoint=checkpoint, tools=fresh)
        try:
            await add_codes(
                job,
                threads=plan.threads,
                log=checkpoint.with_suffix(".add.log"),
                monitor=clock,
                before_writing=lambda: None,
            )
        except InputError as error:  # no code is left for all of them
            return Added(num_tools=0, reason=error.what)
    grown = load_codebook(checkpoint)
    assert grown is not None
    far = sum(tool.id in grown.outliers for tool in tools)
    return Added(num_tools=len(tools), far=far / len(tools))


async def _retrieve(
    plan: Plan, checkpoint: Path, variant: Variant
) -> tuple[RetrievalResult, Sequence[float]]:
    """What a trial's checkpoint finds for the requests it has not seen; Trial.decoding."""
    prompts = Prompts.load(Workspace(plan.workspace))
    opened = await Retriever.open(
        checkpoint,
        settings=EngineSection(threads=plan.threads, max_model_len=variant.train.max_length),
        log=checkpoint.with_suffix(".retrieve.log"),
    )
    async with opened as search:
        retriever = ByCode(
            name=variant.name,
            search=search,
            coded=search.tool_ids,
            prompt=lambda query: prompts.render("codes/retrieve", query=query),
        )
        return await evaluate(retriever, plan.labelled.asked), search.seconds


def _make_job(
    plan: Plan, variant: Variant, seed: int, number: int, parent: Path, out: Path
) -> TrainingJob:
    """The trial's training as files beside its checkpoint; the first one has the tools."""
    prompts, labelled = Prompts.load(Workspace(plan.workspace)), plan.labelled
    work = out.with_suffix(".job")
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
            train=_share(variant.train, variant.trainings),
            stages=tuple(_share(stage, variant.trainings) for stage in variant.stages),
            codes=vary(variant.codes, recode_every=1 if number else 0),
            seed=derive_seed(seed, number, "compare") % 2**31,
            version=number + 1,
        ),
    )


def _share(section: EpochsT, trainings: int) -> EpochsT:
    return vary(section, epochs=section.epochs / trainings) if section.epochs else section


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
            retrieve_example(own_words(tool), tool.id, prompts, "compare/described")
            for tool in labelled.tools
        ]
    return examples


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
