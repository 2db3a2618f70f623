"""ToolBench's requests solved with virtual APIs and judged: SoPR and SoWR."""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import Field

from factory.codes.saving import load_codebook
from factory.domain.bounded import DATA, read_text
from factory.domain.canon import canonical_json, digest, to_json
from factory.domain.failures import ContentError
from factory.domain.records import Checkpoint, ItemScore
from factory.engines.base import Engine
from factory.engines.serving import engine_settings, serve
from factory.ledger.database import Ledger
from factory.ledger.lineage import find_checkpoint, is_address, models_of
from factory.score.base import Asked, Setup, check_path, resolve
from factory.score.card import POOLED, Average, Scorecard, by_requests, make_card
from factory.score.kept import keeping
from factory.score.published import PublishedTable
from factory.score.toolbench.agent import (
    TEMPERATURES,
    ActionSpace,
    Agent,
    Codes,
    Decode,
    Names,
    Setting,
    Trajectory,
)
from factory.score.toolbench.data import (
    ToolBench,
    ToolBenchDefinition,
    ToolQuery,
    make_items,
    toolbench_sha,
)
from factory.score.toolbench.judge import (
    CREDIT,
    NUM_RUNS,
    RULES_VERSION,
    Judge,
    Status,
    outcome,
    pass_rate,
    read_predictions,
    to_converted,
    to_prediction,
)
from factory.score.toolbench.ranking import BM25, EmbSim, Ranker
from factory.score.toolbench.turns import TEMPLATES, TURNS_VERSION
from factory.score.toolbench.virtual import VirtualApi
from factory.workspace.folder import Workspace
from factory.workspace.models import fingerprint
from factory.workspace.prompts import Prompts

WORDS = "bm25"
"""The retriever that is no model."""


class CompletionDefinition(ToolBenchDefinition):
    """eval/<name>.toml of the kind `completion`."""

    kind: Literal["completion"]
    judge: str = ""
    """Judges, and plays APIs that no cache knows: checkpoint id, folder, http://host:port/v1#NAME."""
    setting: Setting = "retrieval"
    """gt: only the right tools are at hand."""
    reference: str = ""
    """Converted answers to win against; empty is no SoWR."""
    cache: str = ""
    """StableToolBench's tool_response_cache."""
    runs: int = Field(NUM_RUNS, ge=1)
    """Evaluator runs."""
    constrain_inputs: bool = False
    """Bind the agent's inputs to the tools' schemas; the paper binds its actions only."""
    decode: Decode = "sample"
    """How the agent's codes are decoded; `beam` is the papers'."""
    constrain: bool = True
    """Bind codes to the trie of the tools at hand; without it a code may be no tool's."""
    retry: bool = True
    """Try again, hotter, where the agent gives up."""
    retriever: str = Field(WORDS, min_length=1)
    """Gives a model without codes its names, with `retrieval`: bm25, or an embedder's folder."""
    top: int = Field(5, ge=1)
    """Names that it gives."""
    allow_public_host: bool = False
    """Whether the judge's address may be public."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCompletion(Asked):
    """ToolBench's requests, solved with virtual APIs and judged: SoPR and SoWR."""

    definition: CompletionDefinition
    bench: ToolBench
    data_sha: str
    """Hash of requests and documents."""
    find_judge: Callable[[Setup], Checkpoint] = field(repr=False, compare=False)

    @classmethod
    def load(
        cls, workspace: Workspace, name: str, definition: CompletionDefinition
    ) -> TaskCompletion:
        bench = definition.load_data(workspace, name)
        if not definition.judge:
            raise ContentError(
                f"{name} has no judge",
                where=f"eval/{name}.toml",
                remedy='judge = "http://127.0.0.1:8000/v1#NAME" in it, or a model folder or '
                f"checkpoint id; once: factory score {name} --set judge=r1",
            )
        if definition.decode == "beam" and not definition.constrain:
            raise ContentError(
                f"{name}: a beam searches a trie, and constrain = false takes it off",
                where=f"eval/{name}.toml",
                remedy='decode = "sample", or constrain = true',
            )
        if (folder := resolve(workspace, definition.judge)).is_dir():
            definition = definition.model_copy(update={"judge": str(folder)})
        check_path(workspace, definition.reference, name, "reference")
        check_path(workspace, definition.cache, name, "cache")
        if definition.retriever != WORDS:
            check_path(workspace, definition.retriever, name, "retriever")
        kinds = ("SoPR", "SoWR") if definition.reference else ("SoPR",)
        return cls(
            stem=name,
            title=definition.title,
            split=definition.split,
            items=make_items(kinds, bench),
            definition=definition,
            bench=bench,
            data_sha=toolbench_sha(bench),
            find_judge=_find_once(definition.judge),
        )

    @property
    def notes(self) -> tuple[str, ...]:
        return self.bench.notes

    def basis(self, setup: Setup) -> str:
        templates, of = Prompts(setup.workspace, TEMPLATES), self.definition
        names = ("agent", "action", "input", "simulate", "judge_answer", "judge_trajectory")
        shas = [templates.sha(name) for name in (*names, "judge_pair")]
        files = [_files_sha(resolve(setup.workspace, x)) for x in (of.cache, of.reference) if x]
        decoded = [of.decode] if of.decode != "sample" else []
        switched = [[key, False] for key in ("constrain", "retry") if not getattr(of, key)]
        listed: list[object] = []
        if of.setting == "retrieval":
            folder = resolve(setup.workspace, of.retriever)
            listed = ["names", WORDS if of.retriever == WORDS else fingerprint(folder), of.top]
        asked = [self.data_sha, of.setting, of.constrain_inputs, of.runs]
        asked += [*decoded, *switched, *listed]
        judged = [_mark(setup, self.find_judge(setup)), RULES_VERSION, TURNS_VERSION]
        return digest(canonical_json([*asked, *judged, shas, files]))

    @property
    def asked(self) -> Mapping[str, str]:
        of = self.definition
        switches = {"constrain": of.constrain, "retry": of.retry}
        listed = {"retriever": Path(of.retriever).name, "top": str(of.top)}
        return {
            "setting": of.setting,
            "decode": of.decode,
            **{key: "on" if value else "off" for key, value in switches.items()},
            **(listed if of.setting == "retrieval" else {}),
        }

    def num_engines(self, setup: Setup, checkpoint: Checkpoint) -> int:
        """Two where the judge is another model, unless a server holds one of them."""
        judge = self.find_judge(setup)
        here = {_mark(setup, x) for x in (judge, checkpoint) if not is_address(x.path)}
        return max(1, len(here))

    def _open_judge(
        self, setup: Setup, checkpoint: Checkpoint, engine: Engine
    ) -> contextlib.AbstractAsyncContextManager[Engine]:
        """The judge's engine: the checkpoint's own where that is the judge."""
        judge = self.find_judge(setup)
        if _mark(setup, judge) == _mark(setup, checkpoint):
            return contextlib.nullcontext(engine)
        return serve(
            setup.workspace,
            setup.settings,
            judge,
            notify=setup.notify,
            allow_public=self.definition.allow_public_host,
            num_engines=self.num_engines(setup, checkpoint),
            timeout_seconds=self.patience.timeout_seconds,
        )

    async def score(self, setup: Setup, checkpoint: Checkpoint, engine: Engine) -> list[ItemScore]:
        of, workspace = self.definition, setup.workspace
        templates, state = Prompts(workspace, TEMPLATES), workspace.state / "toolbench"
        wanted = None
        if of.reference:
            known = read_predictions(resolve(workspace, of.reference))
            numbers = {query.id: query.id.split("/")[1] for query in self.bench.queries}
            wanted = {key: known[number] for key, number in numbers.items() if number in known}
        async with self._open_judge(setup, checkpoint, engine) as opened:
            judging = keeping(opened, setup.kept)
            apis = VirtualApi(
                templates,
                cache=resolve(workspace, of.cache) if of.cache else None,
                engine=judging,
                own=state / "made_up.jsonl",
            )
            documents = self.bench.documents
            agent = Agent(
                engine=engine,
                templates=templates,
                apis=apis,
                documents=documents,
                constrain_inputs=of.constrain_inputs,
                decode=of.decode,
                temperatures=TEMPERATURES if of.retry else TEMPERATURES[:1],
            )
            actions = await self._actions(setup, checkpoint, state / "tries")
            num_done = 0

            async def solve(query: ToolQuery) -> Trajectory:
                nonlocal num_done
                made = await agent.solve(query, actions(query), of.setting)
                num_done += 1
                setup.progress(num_done, len(self.bench.queries))
                return made

            made = {x.query_id: x for x in await asyncio.gather(*map(solve, self.bench.queries))}
            judged = await Judge(engine=judging, templates=templates).evaluate(
                [query.id for query in self.bench.queries],
                {key: to_prediction(each) for key, each in made.items()},
                wanted,
                of.runs,
            )
        return [
            self._judge(query, made[query.id], [run[query.id] for run in judged.statuses])
            for query in self.bench.queries
        ] + [
            _judge_pair(query, judged.votes.get(query.id, ()))
            for query in (self.bench.queries if wanted is not None else ())
        ]

    async def _actions(
        self, setup: Setup, checkpoint: Checkpoint, folder: Path
    ) -> Callable[[ToolQuery], ActionSpace]:
        """How the agent names tools: by code where its checkpoint has codes, else by name."""
        served, of = is_address(checkpoint.path), self.definition
        codebook = None if served else load_codebook(Path(checkpoint.path))
        if codebook is None:
            if of.decode == "beam":
                setup.notify(
                    f"{checkpoint.id} has no codes that a beam could search and names tools in "
                    "free text: train a round, or give the checkpoint's folder for its address"
                )
            return await self._names(setup)
        codes = Codes.of(codebook, self.bench.documents, folder=folder)
        if not any(key in codes for key in self.bench.documents):
            setup.notify(
                f"{checkpoint.id} has no code for any API of {self.name} and can only finish: "
                "factory add-tools them, and train a round"
            )

        def at_hand(query: ToolQuery) -> Codes:
            found = codes if of.setting == "retrieval" else codes.only(sorted(query.relevant))
            return found if of.constrain else replace(found, constraint=None)

        return at_hand

    async def _names(self, setup: Setup) -> Callable[[ToolQuery], ActionSpace]:
        """The names that are listed: those a retriever finds, or the relevant ones with gt."""
        of, queries = self.definition, self.bench.queries
        if of.setting == "gt":
            return lambda query: Names(tuple(sorted(query.relevant)))
        retriever: Ranker = BM25(of.top)
        if of.retriever != WORDS:
            retriever = EmbSim(
                folder=resolve(setup.workspace, of.retriever),
                threads=engine_settings(setup.settings).threads,
                log=setup.log("embed"),
                depth=of.top,
            )
        space = self.bench.search_space(None)
        ranked = await retriever.rank([query.text for query in queries], space)
        found = {
            query.id: tuple(key for key in keys if key is not None)
            for query, keys in zip(queries, ranked, strict=True)
        }
        return lambda query: Names(found[query.id])

    def _judge(self, query: ToolQuery, made: Trajectory, statuses: Sequence[Status]) -> ItemScore:
        """One request solved or not; its mark is the mean credit of the judge's runs."""
        mark = statistics.fmean(CREDIT[status] for status in statuses)
        worst = min(statuses, key=lambda status: (CREDIT[status], status == "Unjudged"))
        return ItemScore(
            item=f"SoPR/{query.id}",
            category=f"SoPR {query.split}",
            correct=mark == 1,
            value=mark,
            reason="" if mark == 1 else made.reason or worst.lower(),
            message=f"judged {', '.join(statuses)}",
            answer=to_json(to_converted(made, self.bench.documents)),
            detail={
                **self.asked,
                "statuses": statuses,
                "attempts": made.attempts,
                "actions": len(made.steps),
                "no_tool": sum(step.key is None for step in made.steps),
            },
        )

    def card(self, items: Sequence[ItemScore]) -> Scorecard:
        ordered = self.ordered(items)
        counts = Counter(item.category for item in ordered)
        means = []
        for kind in ("SoPR", "SoWR"):
            names = [name for name in self.categories if name.startswith(kind)]
            if names:
                shares = by_requests({name: counts[name] for name in names})
                means.append(Average("mean", kind, dict.fromkeys(names, 1 / len(names))))
                means.append(Average("by requests", kind, shares))
                for pool, splits in self.bench.pools.items():
                    of_pool = {f"{kind} {split}": counts[f"{kind} {split}"] for split in splits}
                    means.append(Average(POOLED.strip(), f"{kind} {pool}", by_requests(of_pool)))
        notes = {
            name: _note([x.detail for x in ordered if x.category == name])
            for name in self.categories
        }
        return make_card(ordered, means, notes=notes)

    def answers(self, items: Sequence[ItemScore]) -> Mapping[str, Any]:
        """By request, in StableToolBench's converted form, and whether the judge found it solved.

        Of a test nothing may be taught: each says whose question it is.
        """
        asked = {"benchmark": self.name, "split": self.split}
        return {
            item.item.removeprefix("SoPR/"): {
                **json.loads(item.answer),
                **asked,
                "solved": item.correct,
            }
            for item in items
            if item.answer
        }

    def beside(self, table: PublishedTable, card: Scorecard) -> Mapping[str, float]:
        lines = [(line.name.removesuffix("-Inst"), line.estimate) for line in card.categories]
        if "pooled" in table.split:
            pools = (line for line in card.averages if line.scheme == POOLED.strip())
            lines = [(line.name, line.estimate) for line in pools]
        return {name: estimate.value for name, estimate in lines if estimate}


def _find_once(wanted: str) -> Callable[[Setup], Checkpoint]:
    """The model of that name, looked for when it is needed: its weights are hashed once only."""
    known: list[Checkpoint] = []

    def find(setup: Setup) -> Checkpoint:
        if not known:
            ledger = Ledger(setup.workspace.state)
            known.append(find_checkpoint(setup.workspace, setup.settings, ledger, wanted))
        return known[0]

    return find


def _mark(setup: Setup, checkpoint: Checkpoint) -> str:
    """What tells a judge from another: all that its folder and settings are, or its address."""
    model = models_of(setup.workspace, setup.settings.engine)(checkpoint)
    return checkpoint.fingerprint if model is None else model.sha


def _judge_pair(query: ToolQuery, votes: Sequence[Any]) -> ItemScore:
    """One request won against the reference or not."""
    found = outcome(votes)
    words = {"candidate": "", "tie": "tie", "reference": "lost", "unjudged": "unjudged"}
    return ItemScore(
        item=f"SoWR/{query.id}",
        category=f"SoWR {query.split}",
        correct=found == "candidate",
        value=float(found == "candidate"),
        reason=words[found],
        message=f"votes for {', '.join(votes) or 'nobody'}",
        answer="",
        detail={"votes": votes},
    )


def _note(details: Sequence[Mapping[str, Any]]) -> str:
    """The spread of the judge's runs (SoPR), or why pairs are not won (SoWR); what was not read."""
    if "votes" in details[0]:
        counts = Counter(outcome(each["votes"]) for each in details)
        votes = [vote for each in details for vote in each["votes"]]
        return (
            f"{counts['tie']} tied, {counts['reference']} lost, {counts['unjudged']} unjudged of "
            f"{len(details)}; {votes.count('unjudged')} of {len(votes)} votes unread"
        )
    ids = [str(number) for number in range(len(details))]
    runs = [
        {key: cast(Status, each["statuses"][run]) for key, each in zip(ids, details, strict=True)}
        for run in range(len(details[0]["statuses"]))
    ]
    rate = pass_rate(runs, ids)
    num_unjudged = sum(list(run.values()).count("Unjudged") for run in runs)
    num_actions, num_free = (sum(x.get(key, 0) for x in details) for key in ("actions", "no_tool"))
    return (
        f"{num_unjudged} of {len(runs) * len(ids)} judgements unread; std {rate.std:.2f}; "
        f"runs {', '.join(f'{share:.2f}' for share in rate.runs)}"
        + (f"; {num_free} of {num_actions} actions name no tool at hand" if num_free else "")
    )


def _files_sha(path: Path) -> str:
    """Hash of a file's bytes, or of the names and sizes of a folder's files."""
    if path.is_file():
        return digest(read_text(path, most=DATA))
    files = sorted(each for each in path.rglob("*") if each.is_file())
    return digest(canonical_json([[str(f.relative_to(path)), f.stat().st_size] for f in files]))
