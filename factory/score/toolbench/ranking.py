"""Finding the right tools for a request: NDCG in both readings, recall, MRR, and two baselines.

`ndcg@k` is the textbook's: the ideal ranking holds all relevant tools. `ndcg_hits@k` is what the
ToolGen family publishes: its ideal ranking holds only the relevant tools that were returned, so
one tool found of three scores 1.0 instead of 0.47 (algorithms §0.1, §7.1). Both are always named;
NDCG@1 is the same in both. Several relevant tools gain 1 each, their order does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np

from factory.domain.failures import MissingError
from factory.engines.child import ask_once
from factory.engines.retrieve import Retriever
from factory.score.toolbench.data import ApiDocument, ApiKey, ToolBench, ToolQuery, keys_of_tools
from factory.workspace.models import is_installed

CUTOFFS = (1, 3, 5)
METRICS = (
    *(f"{kind}@{k}" for kind in ("ndcg", "ndcg_hits", "recall", "hit") for k in CUTOFFS),
    "mrr",
)
"""What is measured of each request, from 0 to 1; a hit is one relevant tool at least."""
SETTINGS = ("multi-domain", "in-domain")
"""Search all APIs, or those of the request's group (§2.8)."""
BASELINE_DEPTH = 100
"""Tools that a baseline returns; generative systems return their 5 beams (§7.1)."""


Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryResult:
    """One request measured."""

    query: ToolQuery
    ranked: tuple[ApiKey | None, ...]
    """What was returned, best first."""
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalResult:
    """One system in one setting over all requests."""

    system: str
    setting: str
    """One of SETTINGS."""
    depth: int
    """Tools it returned at most."""
    queries: tuple[QueryResult, ...]
    """Every request of the benchmark."""

    def table(self) -> dict[str, dict[str, float]]:
        """Percent by split and metric, with the mean of the splits as `mean`."""
        splits: dict[str, list[QueryResult]] = {}
        for result in self.queries:
            splits.setdefault(result.query.split, []).append(result)
        rows = {
            split: {m: 100 * float(np.mean([r.values[m] for r in results])) for m in METRICS}
            for split, results in splits.items()
        }
        mean = {m: float(np.mean([row[m] for row in rows.values()])) for m in METRICS}
        return {**rows, "mean": mean}


# Metrics ----------------------------------------------------------------------------------


def gains(ranked: Iterable[Hashable], relevant: Set[Any]) -> list[int]:
    """1 for a relevant tool, 0 for another or none, by rank; a tool named again is passed over."""
    seen: set[Hashable] = set()
    marks = []
    for tool in ranked:
        if tool is None or tool not in seen:
            marks.append(int(tool in relevant))
            seen.add(tool)
    return marks


def dcg(marks: Sequence[int], k: int) -> float:
    """Σ rel_i / log2(i + 1) over the first k ranks."""
    return sum(mark / math.log2(rank + 1) for rank, mark in enumerate(marks[:k], start=1))


def ndcg(marks: Sequence[int], num_relevant: int, k: int) -> float:
    """Textbook NDCG@k: the ideal is min(num_relevant, k) relevant tools in front."""
    return dcg(marks, k) / dcg([1] * num_relevant, k)


def ndcg_hits(marks: Sequence[int], k: int) -> float:
    """NDCG@k of the ToolGen family: the ideal is the returned list's own hits in front."""
    return dcg(marks, k) / dcg([1] * sum(marks), k) if any(marks) else 0.0


def measure(ranked: Iterable[Hashable], relevant: Set[Any]) -> dict[str, float]:
    """METRICS of one returned list; ValueError without a relevant tool."""
    if not relevant:
        raise ValueError("a request without a relevant tool cannot be measured")
    marks, count = gains(ranked, relevant), len(relevant)
    first = marks.index(1) + 1 if any(marks) else math.inf
    return {
        **{f"ndcg@{k}": ndcg(marks, count, k) for k in CUTOFFS},
        **{f"ndcg_hits@{k}": ndcg_hits(marks, k) for k in CUTOFFS},
        **{f"recall@{k}": sum(marks[:k]) / count for k in CUTOFFS},
        **{f"hit@{k}": float(any(marks[:k])) for k in CUTOFFS},
        "mrr": 1 / first,
    }


async def evaluate(
    retriever: Ranker, bench: ToolBench, setting: str = "multi-domain"
) -> RetrievalResult:
    """Rank every request in one setting. A list longer than the retriever's depth is cut."""
    if setting not in SETTINGS:
        raise ValueError(f"no setting {setting!r}")
    found: dict[str, tuple[ApiKey | None, ...]] = {}
    groups = [None] if setting == "multi-domain" else list(bench.domains)
    for group in groups:
        queries = [query for query in bench.queries if group in (None, query.group)]
        if not queries:
            continue
        ranked = await retriever.rank([q.text for q in queries], bench.search_space(group))
        for query, tools in zip(queries, ranked, strict=True):
            found[query.id] = tuple(tools[: retriever.depth])
    return RetrievalResult(
        system=retriever.name,
        setting=setting,
        depth=retriever.depth,
        queries=tuple(
            QueryResult(
                query=query, ranked=found[query.id], values=measure(found[query.id], query.relevant)
            )
            for query in bench.queries
        ),
    )


# Baselines --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BM25:
    """Words in common, weighted by rarity: bm25s with its usual k1 = 1.5, b = 0.75."""

    depth: int = BASELINE_DEPTH
    """Tools to return at most; those without a word in common are not returned."""

    @property
    def name(self) -> str:
        return "BM25"

    async def rank(
        self, queries: Sequence[str], space: Sequence[ApiDocument]
    ) -> list[list[ApiKey | None]]:
        """Best first. Raises MissingError where bm25s is not installed."""
        index = WordIndex([document.text for document in space])
        keys = [document.key for document in space]
        return [
            [*best(scores_N, keys, self.depth, above=0.0)] for scores_N in index.scores(queries)
        ]


class WordIndex:
    """BM25 over texts. Raises MissingError where bm25s is not installed."""

    def __init__(self, texts: Sequence[str]) -> None:
        if not is_installed("bm25s"):
            raise MissingError("bm25s is not installed", remedy="pip install 'tool-factory[eval]'")
        import bm25s

        self._index = bm25s.BM25()
        self._index.index(_words(texts), show_progress=False)
        self._nothing_N = np.zeros(len(texts), np.float32)

    def scores(self, queries: Sequence[str]) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
        """Of all texts for each query; 0 without a word in common."""
        return [
            self._index.get_scores(words) if words else self._nothing_N for words in _words(queries)
        ]


def _words(texts: Sequence[str]) -> list[list[str]]:
    import bm25s

    words: list[list[str]] = bm25s.tokenize(list(texts), return_ids=False, show_progress=False)
    return words


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbSim:
    """Cosine of embeddings from a local model: a causal model's, or sentence-transformers'."""

    folder: Path
    """A checkpoint, or a sentence-transformers folder (it has a modules.json)."""
    threads: int
    """CPU threads of the child that embeds."""
    log: Path
    """Where the child's output goes."""
    depth: int = BASELINE_DEPTH
    """Tools to return at most."""

    @property
    def name(self) -> str:
        return f"EmbSim ({self.folder.name})"

    async def rank(
        self, queries: Sequence[str], space: Sequence[ApiDocument]
    ) -> list[list[ApiKey | None]]:
        """Best first. Raises MissingError, ModelError, ChildError."""
        texts = [*(document.text for document in space), *queries]
        vectors_ND = await embed(self.folder, texts, threads=self.threads, log=self.log)
        unit_ND = vectors_ND / np.maximum(np.linalg.norm(vectors_ND, axis=1, keepdims=True), 1e-12)
        documents_ND, queries_QD = unit_ND[: len(space)], unit_ND[len(space) :]
        keys = [document.key for document in space]
        return [[*best(documents_ND @ query_D, keys, self.depth)] for query_D in queries_QD]


async def embed(
    folder: Path, texts: Sequence[str], *, threads: int, log: Path
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(N, D) embeddings of texts, made in a child process that ends with the work."""
    out = log.with_suffix(".npy")
    await ask_once(
        "factory.engines.embedding",
        {"folder": str(folder), "texts": list(texts), "out": str(out)},
        work="the embedding process",
        threads=threads,
        log=log,
    )
    vectors_ND: np.ndarray[Any, np.dtype[np.float32]] = np.load(out)
    out.unlink()
    return vectors_ND


@dataclass(frozen=True, slots=True, kw_only=True)
class ByCode:
    """A checkpoint that names tools by code under its trie, as ToolGen and SGTC retrieve."""

    name: str
    search: Retriever
    coded: frozenset[str]
    """Ids of the tools that have a code; others cannot be found."""
    prompt: Callable[[str], str]
    """The user message that asks for a query's tool."""
    depth: int = 5
    """Beams, all of them returned (§3.5)."""

    async def rank(
        self, queries: Sequence[str], space: Sequence[ApiDocument]
    ) -> list[list[ApiKey | None]]:
        """Best first. Nothing is found where none of these APIs has a code."""
        keys = {t: key for t, key in keys_of_tools(space).items() if t in self.coded}
        if not keys:
            return [[] for _ in queries]
        prompts = [self.prompt(query) for query in queries]
        found = await self.search.retrieve(prompts, k=self.depth, only=sorted(keys))
        return [[keys[hit.tool.id] for hit in each.hits] for each in found]


Ranker: TypeAlias = BM25 | EmbSim | ByCode
"""Ranks tools for requests, at most `depth` of them (`ndcg_hits` depends on it), best first; None
is an answer that names no tool, which takes a rank."""


def best(
    scores_N: np.ndarray[Any, np.dtype[np.float32]],
    keys: Sequence[Key],
    depth: int,
    above: float = -math.inf,
) -> list[Key]:
    """The `depth` best keys of those scored, each once, by its best place; ties in their order."""
    ranked: dict[Key, None] = {}
    for place in np.argsort(-scores_N, kind="stable"):
        if len(ranked) == depth or scores_N[place] <= above:
            break
        ranked.setdefault(keys[place])
    return list(ranked)
