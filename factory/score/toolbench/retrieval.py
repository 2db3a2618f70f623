"""Retrieval of ToolBench's APIs: checkpoints by code, beside BM25 and embeddings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from factory.codes.saving import load_codebook
from factory.domain.canon import canonical_json, digest, to_json
from factory.domain.records import Checkpoint, ItemScore
from factory.engines.retrieve import Retriever
from factory.engines.serving import engine_settings
from factory.score.base import Baseline, SelfServed, Setup, check_path, find_data, resolve
from factory.score.card import POOLED, Average, Line, Scorecard, by_requests, make_card
from factory.score.estimates import combine
from factory.score.items import Item
from factory.score.published import PublishedTable
from factory.score.toolbench.data import (
    ApiKey,
    ToolBench,
    ToolBenchDefinition,
    keys_of_tools,
    make_items,
    toolbench_sha,
)
from factory.score.toolbench.ranking import (
    BM25,
    CUTOFFS,
    METRICS,
    ByCode,
    EmbSim,
    Ranker,
    evaluate,
    measure,
)
from factory.score.toolbench.toolsense import load_toolsense
from factory.workspace.folder import Workspace
from factory.workspace.models import fingerprint

SearchSetting = Literal["multi-domain", "in-domain"]
HEADLINE = "ndcg@5"
"""The measure of retrieval that is an item's mark: the textbook's."""


class RankedDefinition(ToolBenchDefinition):
    """What definitions have in common whose requests are answered by a list of tools."""

    depth: int = Field(5, ge=1, le=256)
    """Beams, and tools that are named; 5 in the papers (§3.5, §7.1)."""
    bm25: bool = True
    embedders: tuple[str, ...] = ()
    """Folders of models whose embeddings are compared: EmbSim."""

    @property
    def searched(self) -> tuple[SearchSetting, ...]:
        """The settings in which each request is asked."""
        return ("multi-domain",)


class RetrievalDefinition(RankedDefinition):
    """eval/<name>.toml of the kind `retrieval`."""

    kind: Literal["retrieval"]
    settings: tuple[SearchSetting, ...] = Field(("multi-domain", "in-domain"), min_length=1)

    @property
    def searched(self) -> tuple[SearchSetting, ...]:
        return self.settings


class ToolSenseDefinition(RankedDefinition):
    """eval/<name>.toml of the kind `toolsense`."""

    kind: Literal["toolsense"]
    corpus: str = ""
    """Documents to search: a corpus.jsonl, or a folder of ToolBench's or StableToolBench's."""
    described: bool = True
    """Search APIs too that only the requests' own lines describe."""

    def read(self, workspace: Workspace, name: str) -> ToolBench:
        data = find_data(workspace, self.data, name)
        check_path(workspace, self.corpus, name, "corpus")
        corpus = resolve(workspace, self.corpus) if self.corpus else None
        return load_toolsense(data, corpus, self.splits, described=self.described)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieval(SelfServed):
    """Requests over ToolBench's APIs, answered by the codes of the tools that they need."""

    definition: RankedDefinition
    bench: ToolBench
    data_sha: str
    """Hash of requests and documents."""

    @classmethod
    def load(cls, workspace: Workspace, name: str, definition: RankedDefinition) -> Retrieval:
        bench = definition.load_data(workspace, name)
        for embedder in definition.embedders:
            check_path(workspace, embedder, name, "embedders")
        return cls(
            stem=name,
            title=definition.title,
            split=definition.split,
            items=make_items(definition.searched, bench),
            definition=definition,
            bench=bench,
            data_sha=toolbench_sha(bench),
        )

    @property
    def notes(self) -> tuple[str, ...]:
        return self.bench.notes

    def basis(self, setup: Setup) -> str:
        shown = setup.prompts.sha("codes/retrieve")
        return self._basis(["code", shown, self.definition.depth])

    def _basis(self, system: list[object]) -> str:
        return digest(canonical_json([self.data_sha, self.definition.searched, system]))

    async def score(self, setup: Setup, checkpoint: Checkpoint) -> list[ItemScore]:
        folder = Path(checkpoint.path)
        codebook = load_codebook(folder)
        coded: Set[ApiKey] = set()
        if codebook is not None:
            known = frozenset(entry.tool.id for entry in codebook.tools)
            coded = {
                key
                for key, documents in self.bench.documents.items()
                if not known.isdisjoint(keys_of_tools(documents))
            }
        if not coded:
            setup.notify(
                f"{checkpoint.id} has no code for any API of {self.name} and finds none: "
                "factory add-tools them, and train a round"
            )
            return self._judge({}, coded)
        search = await Retriever.open(
            folder, settings=engine_settings(setup.settings), log=setup.log("retrieve")
        )
        async with search:
            retriever = ByCode(
                name=checkpoint.id,
                search=search,
                coded=search.tool_ids,
                prompt=lambda query: setup.prompts.render("codes/retrieve", query=query),
                depth=self.definition.depth,
            )
            return await self.rank(retriever, coded)

    async def rank(self, retriever: Ranker, coded: Set[ApiKey] | None = None) -> list[ItemScore]:
        """Every request in every setting; `coded` are the APIs that can be found at all."""
        found: dict[str, tuple[ApiKey | None, ...]] = {}
        for setting in self.definition.searched:
            result = await evaluate(retriever, self.bench, setting)
            found |= {f"{setting}/{each.query.id}": each.ranked for each in result.queries}
        return self._judge(found, coded)

    def _judge(
        self, found: Mapping[str, tuple[ApiKey | None, ...]], coded: Set[ApiKey] | None
    ) -> list[ItemScore]:
        return [judge_ranking(item, found.get(item.id, ()), coded) for item in self.items]

    def baselines(self, setup: Setup) -> Sequence[Baseline]:
        made = [self._baseline(BM25(), ["BM25"])]
        for name in self.definition.embedders:
            folder = resolve(setup.workspace, name)
            similar = EmbSim(
                folder=folder,
                threads=engine_settings(setup.settings).threads,
                log=setup.log("embed"),
            )
            made.append(self._baseline(similar, ["EmbSim", fingerprint(folder)]))
        return made if self.definition.bm25 else made[1:]

    def _baseline(self, retriever: Ranker, system: list[object]) -> Baseline:
        return Baseline(
            name=retriever.name, basis=self._basis(system), score=lambda: self.rank(retriever)
        )

    def card(self, items: Sequence[ItemScore]) -> Scorecard:
        ordered, alike = self.ordered(items), self.bench.overall == "all"
        counts = Counter(item.category for item in ordered)
        groups: list[tuple[str, str, dict[str, float]]] = []
        means = []
        for setting in self.definition.searched:
            names = {split: f"{setting} {split}" for split in self.bench.splits}
            of = {name: counts[name] for name in names.values()}
            weights = by_requests(of) if alike else dict.fromkeys(of, 1 / len(of))
            means.append(Average("by requests" if alike else "mean", setting, weights))
            groups += [(setting, split, {name: 1.0}) for split, name in names.items()]
            groups.append((setting, self.bench.overall, weights))
            for pool, splits in self.bench.pools.items():
                pooled = by_requests({names[split]: counts[names[split]] for split in splits})
                groups.append((f"{setting}{POOLED}", pool, pooled))
        measured = {
            (metric, name): np.array([x.detail[metric] for x in of_category])
            for name in counts
            for of_category in [[item for item in ordered if item.category == name]]
            for metric in METRICS
            if all(metric in x.detail for x in of_category)
        }
        details = [
            Line(
                name=name,
                scheme=scheme,
                metric=metric,
                estimate=combine({each: measured[metric, each] for each in weights}, weights),
                num_items=sum(counts[each] for each in weights),
            )
            for metric in METRICS
            for scheme, name, weights in groups
            if all((metric, each) in measured for each in weights)
        ]
        return replace(make_card(ordered, means), details=tuple(details))

    def beside(self, table: PublishedTable, card: Scorecard) -> Mapping[str, float]:
        """Published figures are of `ndcg_hits`; `I1 NDCG@3` is that of I1-Inst, or of the pool."""
        setting = "in-domain" if "in-domain" in table.split else "multi-domain"
        if "pooled" in table.split:
            setting += POOLED
        values = {}
        for line in card.details:
            if line.scheme == setting and line.metric.startswith("ndcg_hits") and line.estimate:
                column = f"{line.name.removesuffix('-Inst')} NDCG@{line.metric[-1]}"
                values[column] = line.estimate.value
        return values


def judge_ranking(
    item: Item, ranked: Sequence[ApiKey | None], coded: Set[ApiKey] | None
) -> ItemScore:
    """One returned list; its mark is HEADLINE, all METRICS are its detail."""
    relevant = set(item.ground_truth)
    values = measure(ranked, relevant)
    num_found = sum(tool in relevant for tool in dict.fromkeys(ranked[: CUTOFFS[-1]]))
    mark = values[HEADLINE]
    if mark == 1:
        reason = ""
    elif coded is not None and not relevant & coded:
        reason = "no_code"
    elif num_found == len(relevant):
        reason = "ranked_low"
    else:
        reason = "partly_found" if num_found else "not_found"
    return ItemScore(
        item=item.id,
        category=item.category,
        correct=mark == 1,
        value=mark,
        reason=reason,
        message=f"{num_found} of {len(relevant)} relevant tools in the first {CUTOFFS[-1]}",
        answer=to_json(ranked[: CUTOFFS[-1]]),
        detail=values,
    )
