"""Ranked lists of a comparison: kept as files, so that every figure can be computed anew."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from factory.domain.canon import canonical_json, digest
from factory.lab.trials.division import Divided
from factory.score.toolbench.data import ApiKey, toolbench_sha
from factory.score.toolbench.ranking import (
    BM25,
    EmbSim,
    QueryResult,
    RetrievalResult,
    evaluate,
    measure,
)
from factory.train.examples import write_rows
from factory.workspace.models import fingerprint

FOLDER = "rankings"
"""Of the lists, in the folder of the trials."""


def rankings_path(out: Path, mark: str) -> Path:
    """Where the lists of a trial or a baseline are."""
    return out / FOLDER / f"{mark}.jsonl"


def write_rankings(path: Path, found: RetrievalResult, labelled: Divided) -> None:
    """Write one line a request: what it needs, of which group, and what was returned."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = (
        {
            "id": each.query.id,
            "split": each.query.split,
            "group": labelled.group_of(each.query),
            "relevant": sorted(each.query.relevant),
            "ranked": each.ranked,
            "system": found.system,
            "depth": found.depth,
        }
        for each in found.queries
    )
    partial = path.with_suffix(".tmp")
    write_rows(partial, rows)
    partial.rename(path)


def read_rankings(path: Path, labelled: Divided) -> RetrievalResult | None:
    """The lists, measured against the requests that are asked; None where some are not there."""
    if not path.exists():
        return None
    rows = {row["id"]: row for row in map(json.loads, path.read_text("utf-8").splitlines())}
    if any(query.id not in rows for query in labelled.asked.queries):
        return None
    results = []
    for query in labelled.asked.queries:
        ranked = tuple(ApiKey(*key) if key else None for key in rows[query.id]["ranked"])
        values = measure(ranked, query.relevant)
        results.append(QueryResult(query=query, ranked=ranked, values=values))
    first = next(iter(rows.values()))
    return RetrievalResult(
        system=first["system"], setting="multi-domain", depth=first["depth"], queries=tuple(results)
    )


async def rank_baselines(
    baselines: Sequence[BM25 | EmbSim], labelled: Divided, out: Path
) -> list[RetrievalResult]:
    """What the baselines return for the asked requests, searching all documents; kept as files."""
    asked = toolbench_sha(labelled.asked)
    results = []
    for baseline in baselines:
        weights = fingerprint(baseline.folder) if isinstance(baseline, EmbSim) else ""
        path = rankings_path(out, digest(canonical_json([baseline.name, weights, asked])))
        found = read_rankings(path, labelled)
        if found is None:
            found = await evaluate(baseline, labelled.asked)
            write_rankings(path, found, labelled)
        results.append(found)
    return results
