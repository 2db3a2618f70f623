"""Benchmarks that are no files of eval/: retrieval, completion, language, API-Bank, T-Eval.

Each function loads what it needs first, so that bad data stops before a model is loaded; then
serves the model, asks, and returns what a command prints.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from factory.codes.lifecycle import Codebook
from factory.engines.base import Engine
from factory.failures import InputError
from factory.prompts import Prompts
from factory.recipe import Settings
from factory.retrieve import Retriever as CodeRetriever
from factory.scorers import apibank, teval
from factory.scorers.agent import ActionSpace, Agent, Codes, Names, Setting, Trajectory
from factory.scorers.items import Grade
from factory.scorers.judge import Completion, Judge, read_predictions, to_prediction
from factory.scorers.perplexity import Perplexity, measure_perplexity
from factory.scorers.retrieval import (
    BM25,
    SETTINGS,
    ByCode,
    EmbSim,
    RetrievalResult,
    Retriever,
    embed,
    evaluate,
)
from factory.scorers.templates import Templates
from factory.scorers.toolbench import ToolBench, ToolQuery
from factory.scorers.virtual import VirtualApi
from factory.serving import engine_settings, find_model, serve
from factory.workspace import Workspace

Notify = Callable[[str], None]


async def measure_retrieval(
    workspace: Workspace,
    settings: Settings,
    bench: ToolBench,
    *,
    bm25: bool = True,
    embedders: Sequence[Path] = (),
    by_code: Sequence[str] = (),
) -> list[RetrievalResult]:
    """Every system in both settings; `by_code` names models that find tools by code.

    Raises FactoryError.
    """
    used, log = engine_settings(settings), _log(workspace, "embed")
    retrievers: list[Retriever] = [BM25()] if bm25 else []
    retrievers += [EmbSim(folder=each, threads=used.threads, log=log) for each in embedders]
    prompts = Prompts.load(workspace)

    def ask(query: str) -> str:
        return prompts.render("codes/retrieve", query=query)

    async with contextlib.AsyncExitStack() as stack:
        for model in by_code:
            checkpoint = find_model(workspace, settings, model)
            folder = Path(checkpoint.path)
            search = await CodeRetriever.open(
                folder, settings=used, log=_log(workspace, "retrieve")
            )
            await stack.enter_async_context(search)
            retrievers.append(
                ByCode(name=checkpoint.id, search=search, coded=search.tool_ids, prompt=ask)
            )
        if not retrievers:
            raise InputError(
                "nothing is to rank tools", remedy="--bm25, --embed FOLDER or --by-code MODEL"
            )
        return [
            await evaluate(retriever, bench, setting)
            for retriever in retrievers
            for setting in SETTINGS
        ]


async def measure_language(
    workspace: Workspace, settings: Settings, file: Path, models: Sequence[str]
) -> dict[str, list[Perplexity]]:
    """The perplexity of a file's text under each model, by the model's id."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the text: {error}", where=str(file)) from error
    threads, log = engine_settings(settings).threads, _log(workspace, "language")
    found: dict[str, list[Perplexity]] = {}
    for checkpoint in [find_model(workspace, settings, model) for model in models]:
        if checkpoint.id not in found:
            folder = Path(checkpoint.path)
            found[checkpoint.id] = await measure_perplexity(folder, text, threads=threads, log=log)
    return found


async def measure_apibank(
    workspace: Workspace,
    settings: Settings,
    folder: Path,
    model: str,
    *,
    simulate: bool,
    allow_public: bool,
    notify: Notify,
) -> list[Grade]:
    """Every turn of API-Bank graded, in its own simulator or by arguments."""
    turns = apibank.load_apibank(folder)
    async with serve(
        workspace, settings, model, notify=notify, allow_public=allow_public
    ) as engine:
        return await apibank.score_apibank(
            engine,
            turns,
            simulator=folder.resolve() if simulate else None,
            log=_log(workspace, "apibank"),
        )


async def measure_teval(
    workspace: Workspace,
    settings: Settings,
    folder: Path,
    model: str,
    *,
    embedder: Path | None,
    allow_public: bool,
    notify: Notify,
) -> list[Grade]:
    """Every question of T-Eval graded; without an embedder plans are compared as text."""
    items = teval.load_teval(folder)
    threads, log = engine_settings(settings).threads, _log(workspace, "embed")

    async def embed_texts(texts: Sequence[str]) -> teval.Vectors:
        assert embedder is not None
        return await embed(embedder, texts, threads=threads, log=log)

    async with serve(
        workspace, settings, model, notify=notify, allow_public=allow_public
    ) as engine:
        return await teval.score_teval(engine, items, embed_texts if embedder else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionPlan:
    """Who solves and who judges. Example: CompletionPlan(model="", judge="http://…#judge", …)."""

    model: str
    """The agent's model (factory.serving.serve)."""
    judge: str
    """The judge's; it also plays APIs that no cache knows."""
    setting: Setting
    """Ground-truth tools at hand, or all of the benchmark's."""
    reference: Path | None
    """Converted answers to win against; None is no SoWR."""
    cache: Path | None
    """StableToolBench's recorded responses."""
    limit: int
    """Requests of each split; 0 is all."""
    allow_public: bool
    """Whether an address may be public."""
    constrain_inputs: bool = False
    """Bind the agent's inputs to the tools' schemas; the paper binds its actions only."""


async def measure_completion(
    workspace: Workspace,
    settings: Settings,
    bench: ToolBench,
    plan: CompletionPlan,
    notify: Notify,
) -> tuple[dict[str, Trajectory], dict[str, Completion]]:
    """Trajectories by request, and each split judged; one engine at a time holds a model.

    The judge's engine runs while the agent acts, since it plays the APIs.
    """
    queries = _first(bench.queries, plan.limit)
    reference = read_predictions(plan.reference) if plan.reference else None
    templates = Templates(workspace, "toolbench")
    state = workspace.state / "toolbench"
    async with serve(
        workspace, settings, plan.judge, notify=notify, allow_public=plan.allow_public
    ) as judging:
        apis = VirtualApi(templates, cache=plan.cache, engine=judging, own=state / "made_up.jsonl")
        async with serve(
            workspace, settings, plan.model, notify=notify, allow_public=plan.allow_public
        ) as acting:
            agent = Agent(
                engine=acting,
                templates=templates,
                apis=apis,
                documents=bench.documents,
                constrain_inputs=plan.constrain_inputs,
            )
            choose = _actions(acting, bench, plan.setting, state / "tries")
            made = await asyncio.gather(
                *(agent.solve(query, choose(query), plan.setting) for query in queries)
            )
        trajectories = {each.query_id: each for each in made}
        judge = Judge(engine=judging, templates=templates)
        ours = {key: to_prediction(each) for key, each in trajectories.items()}
        theirs = None
        if reference is not None:
            theirs = {
                query.id: reference[query.id.split("/")[1]]
                for query in queries
                if query.id.split("/")[1] in reference
            }
        results = {
            split: await judge.evaluate([q.id for q in queries if q.split == split], ours, theirs)
            for split in dict.fromkeys(query.split for query in queries)
        }
    return trajectories, results


def _actions(
    engine: Engine, bench: ToolBench, setting: Setting, folder: Path
) -> Callable[[ToolQuery], ActionSpace]:
    """How the agent names tools: by code where its checkpoint has codes, else by name."""
    codebook = Codebook.load(Path(engine.checkpoint.path)) if engine.checkpoint.path else None
    if codebook is None:
        # Names have to be listed: the request's own APIs, the relevant ones alone with gt.
        return lambda query: Names(
            tuple(sorted(query.relevant if setting == "gt" else {*query.offered, *query.relevant}))
        )
    codes = Codes(codebook, bench.documents, folder=folder)
    if setting == "retrieval":
        return lambda query: codes
    return lambda query: codes.only(sorted(query.relevant))


def _first(queries: Sequence[ToolQuery], limit: int) -> list[ToolQuery]:
    """The first `limit` requests of each split; all for 0."""
    counts: dict[str, int] = {}
    kept = []
    for query in queries:
        counts[query.split] = counts.get(query.split, 0) + 1
        if not limit or counts[query.split] <= limit:
            kept.append(query)
    return kept


def _log(workspace: Workspace, name: str) -> Path:
    return workspace.state / "logs" / "eval" / f"{name}.log"
