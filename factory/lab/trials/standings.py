"""What a comparison of codes came to: tables and records, beside the published ranking.

Two readings of NDCG are told apart by name (factory.score.toolbench.ranking): READ_AS says which.
At 1 they are the same. A request's mark is its mean over the seeds, and an interval is a bootstrap
over requests (factory.score.estimates), one of a change paired by request. Requests count the same,
but in the set `toolbench`: that is the papers' mean of splits, drawn anew split by split.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from factory.lab.trials.compare import Outcome, Trial
from factory.lab.trials.division import GROUPS, Divided, Group
from factory.lab.trials.tables import Cell, Spread, TrialTable, cell, spread, to_record
from factory.score.estimates import Estimate, combine
from factory.score.published import load_published
from factory.score.toolbench.data import SPLITS, ToolQuery
from factory.score.toolbench.ranking import CUTOFFS, METRICS, QueryResult, RetrievalResult
from factory.workspace.folder import Workspace

ALL = "all"
"""All requests that are asked."""
TOGETHER = "toolbench"
"""The set of ToolBench's splits, whose mean is the papers' figure."""
WITH_INTERVAL = ("ndcg@1", "ndcg@5", "recall@5")
COLUMNS: Mapping[str, str] = {
    **{f"ndcg@{k}": f"textbook@{k}" for k in CUTOFFS},
    **{f"ndcg_hits@{k}": f"hits-only@{k}" for k in CUTOFFS[1:]},
    "recall@5": "recall@5",
}
"""Metrics of the table, and how it calls them."""
RANKING = "Tokenisation and retrieval, multi-domain"
"""Title of the published table (SGTC, Table 3)."""
PUBLISHED_AS: Mapping[str, str] = {
    "numeric": "Numerical",
    "hierarchical": "Hierarchical",
    "semantic": "Semantic",
    "atomic": "Atomic",
    "sgtc": "SGTC",
}
"""Variants by the names of its rows."""
MISPLACED: Mapping[str, Mapping[str, str]] = {
    "Numerical": {"I3 NDCG@1": "I1 NDCG@5", "I1 NDCG@5": "I2 NDCG@5", "I2 NDCG@5": "I3 NDCG@1"}
}
"""Columns of a row whose cells a misprint has put into other columns, and which (A18)."""
READ_AS = (
    "textbook: NDCG whose ideal ranking holds all relevant tools; hits-only: NDCG whose ideal "
    "holds those returned, as ToolGen and SGTC publish it",
    "published: hits-only NDCG of Llama-3-8B on ToolBench, mean of I1, I2 and I3 (SGTC, Table 3)",
    "in brackets: 95 % of a bootstrap over requests, each request's mark its mean over the seeds",
    "seen: tools that learnt requests need; document only: learnt by heart, asked for by no learnt "
    "request; held out: in no fit and no training, coded by the finished codebook",
)
"""What a reader of the first tables must know."""
CODES_COLUMNS = (
    "codes", "new tokens", "length", "longest", "collisions", "moved", "start alike, %",
    "if used together, %", "perplexity", "after", "fitting, s", "training, min", "all, min",
)  # fmt: skip

Values = Mapping[str, Mapping[str, float]]
"""Percent by split (of a published table: by variant) and metric."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Standing:
    """How one way to find tools did."""

    name: str
    """The variant, or the baseline."""
    trials: tuple[Trial, ...]
    """The variant's, by seed; none of a baseline."""
    found: tuple[RetrievalResult, ...]
    """The ranked lists of each trial, or the baseline's."""
    published: Mapping[str, float]
    """Percent by metric; empty where the published table has no such row."""

    @cached_property
    def marks(self) -> dict[str, dict[str, float]]:
        """From 0 to 1 by request and metric, mean over the seeds."""
        by_request: dict[str, list[Mapping[str, float]]] = {}
        for result in self.found:
            for each in result.queries:
                by_request.setdefault(each.query.id, []).append(each.values)
        return {
            name: {metric: float(np.mean([v[metric] for v in several])) for metric in METRICS}
            for name, several in by_request.items()
        }

    def over_seeds(self, metric: str) -> Spread | None:
        """In percent, of the mean of the splits."""
        return spread(result.table()["mean"][metric] for result in self.found)

    def estimate(
        self, metric: str, queries: Iterable[ToolQuery], *, by_split: bool = False
    ) -> Estimate | None:
        """In percent, of requests or of splits that count the same; None of no requests."""
        return _estimate({q: self.marks[q.id][metric] for q in queries}, by_split=by_split)

    def share_found(self, labelled: Divided, group: Group) -> Estimate | None:
        """Percent of a request's tools of a group that are among the first five."""
        marks = {}
        for query in labelled.asked.queries:
            if wanted := labelled.relevant_in(query, group):
                first = [each.ranked[:5] for each in self._lists[query.id]]
                marks[query] = float(np.mean([len(wanted & {*found}) for found in first]))
                marks[query] /= len(wanted)
        return _estimate(marks)

    @cached_property
    def _lists(self) -> dict[str, list[QueryResult]]:
        lists: dict[str, list[QueryResult]] = {}
        for result in self.found:
            for each in result.queries:
                lists.setdefault(each.query.id, []).append(each)
        return lists

    def figure(self, name: str, scale: float = 1.0) -> Spread | None:
        """One figure of the codebooks; None where none was measured."""
        return spread(scale * t.codes[name] for t in self.trials if t.codes.get(name) is not None)

    @property
    def far(self) -> Spread | None:
        """Percent of the tools held out that are far from all codes."""
        shares = [trial.added["far"] for trial in self.trials if trial.added]
        return spread(100 * share for share in shares if share is not None)

    @property
    def perplexity(self) -> tuple[Spread, Spread] | None:
        """Of the plain text before and after training; None where none was given."""
        known = [trial.perplexity for trial in self.trials if trial.perplexity]
        before, after = (spread(pair[at] for pair in known) for at in (0, 1))
        return (Spread(before.mean, None), after) if before and after else None

    def to_json(self, labelled: Divided, against: Standing | None = None) -> dict[str, Any]:
        """Everything in the tables and more, with the single trials."""
        names = (
            "new_tokens", "mean_length", "longest", "collisions_before", "moved", "start_alike",
            "start_alike_if_used_together",
        )  # fmt: skip
        asked = labelled.asked.queries
        figures = {name: value for name in names if (value := self.figure(name))}
        before, after = self.perplexity or (None, None)
        depth = max((len(trial.decoding) for trial in self.trials), default=0)
        deep = [trial.decoding for trial in self.trials if len(trial.decoding) == depth]
        times = {
            "fitting": spread(trial.fitting for trial in self.trials),
            "training": spread(trial.seconds for trial in self.trials),
            "all": spread(trial.wall for trial in self.trials),
        }
        return {
            "codes": self.name,
            "seeds": [trial.seed for trial in self.trials],
            "values": {
                name: self._to_json(queries, METRICS, by_split=name == TOGETHER)
                for name, queries in _sets(labelled).items()
            },
            "groups": {
                group: {
                    "share_found@5": to_record(self.share_found(labelled, group)),
                    "splits": {
                        name: self._to_json(of_group, WITH_INTERVAL)
                        for name, queries in [*_sets(labelled).items(), (ALL, asked)]
                        if (of_group := [q for q in queries if labelled.group_of(q) == group])
                    },
                }
                for group in GROUPS
            },
            "over_seeds": {
                metric: value._asdict() for metric in METRICS if (value := self.over_seeds(metric))
            },
            "change": {
                metric: to_record(change(against, self, metric, asked)) for metric in WITH_INTERVAL
            }
            if against and against is not self
            else None,
            "against": against.name if against and against is not self else None,
            "far": self.far._asdict() if self.far else None,
            "figures": {name: value._asdict() for name, value in figures.items()},
            "perplexity_before": before.mean if before else None,
            "perplexity_after": after._asdict() if after else None,
            "seconds": {name: value._asdict() for name, value in times.items() if value},
            "decoding": [float(np.mean(seconds)) for seconds in zip(*deep, strict=True)],
            "published": dict(self.published),
            "trials": [asdict(trial) for trial in self.trials],
        }

    def _to_json(
        self, queries: Sequence[ToolQuery], metrics: Sequence[str], *, by_split: bool = False
    ) -> dict[str, Any]:
        estimates = {m: to_record(self.estimate(m, queries, by_split=by_split)) for m in metrics}
        return {"num_requests": len(queries), **estimates}


def change(
    before: Standing, after: Standing, metric: str, queries: Iterable[ToolQuery]
) -> Estimate | None:
    """`after` less `before` on the same requests, in points; None of no requests."""
    marks = {q: after.marks[q.id][metric] - before.marks[q.id][metric] for q in queries}
    return _estimate(marks)


def _estimate(marks: Mapping[ToolQuery, float], *, by_split: bool = False) -> Estimate | None:
    splits: dict[str, list[float]] = {}
    for query, mark in marks.items():
        splits.setdefault(query.split if by_split else ALL, []).append(mark)
    if not splits:
        return None
    groups = {split: np.array(values, dtype=np.float64) for split, values in splits.items()}
    return combine(groups, dict.fromkeys(groups, 1 / len(groups)))


def load_ranking(workspace: Workspace) -> dict[str, dict[str, float]]:
    """Hits-only NDCG in percent by variant and metric, mean of I1, I2 and I3 (SGTC, Table 3).

    Cells that the source misplaces are read in their places (A18).
    """
    rows = {
        row.model: dict(zip(table.columns, row.values, strict=True))
        for table in load_published(workspace, "toolbench")
        if table.title == RANKING
        for row in table.rows
    }
    ranking: dict[str, dict[str, float]] = {}
    for variant, model in PUBLISHED_AS.items():
        moved, cells = MISPLACED.get(model, {}), rows.get(model, {})
        for k in CUTOFFS:
            names = [f"{group} NDCG@{k}" for group in ("I1", "I2", "I3")]
            found = [cells.get(moved.get(name, name)) for name in names]
            known = [value for value in found if value is not None]
            if len(known) == len(names):
                ranking.setdefault(variant, {})[f"ndcg_hits@{k}"] = float(np.mean(known))
    return ranking


def rank(outcome: Outcome, published: Values) -> list[Standing]:
    """Every variant in the order of its first trial, then the baselines."""
    groups: dict[str, list[Trial]] = {}
    for trial in outcome.trials:
        groups.setdefault(trial.variant, []).append(trial)
    variants = [
        Standing(
            name=name,
            trials=tuple(tried),
            found=tuple(outcome.found[trial.digest] for trial in tried),
            published=published.get(name, {}),
        )
        for name, tried in groups.items()
    ]
    others = [
        Standing(name=b.system, trials=(), found=(b,), published={}) for b in outcome.baselines
    ]
    return [*variants, *others]


def _sets(labelled: Divided) -> dict[str, list[ToolQuery]]:
    """The asked requests by split, and those of ToolBench's splits together."""
    sets: dict[str, list[ToolQuery]] = {}
    for query in labelled.asked.queries:
        sets.setdefault(query.split, []).append(query)
    published = [query for split in SPLITS for query in sets.get(split, ())]
    return {**sets, TOGETHER: published} if published else sets


def make_tables(
    standings: Sequence[Standing], labelled: Divided, against: Standing | None = None
) -> list[TrialTable]:
    """Retrieval by set and by group, changes against one of them, and the codes."""
    num_seeds = max((len(standing.trials) for standing in standings), default=0)
    over = f", mean over {num_seeds} seeds" if num_seeds > 1 else ""
    tables = [
        TrialTable(
            f"NDCG and recall on {len(queries)} requests of {name}, "
            f"{'mean of splits, ' if name == TOGETHER else ''}percent{over}",
            ("codes", *COLUMNS.values(), "published hits-only@1/3/5"),
            [_retrieval_row(each, queries, by_split=name == TOGETHER) for each in standings],
        )
        for name, queries in _sets(labelled).items()
        if name not in SPLITS
    ]
    tables += [table for group in GROUPS for table in _group_table(standings, labelled, group)]
    if against is not None and len(standings) > 1:
        tables.append(_change_table(standings, labelled, against))
    spread_over = f", mean ±sd over {num_seeds} seeds" if num_seeds > 1 else ""
    rows = [_codes_row(standing) for standing in standings if standing.trials]
    costs = TrialTable(f"what the codes are and cost{spread_over}", CODES_COLUMNS, rows)
    return [*tables, costs] if rows else tables


def _retrieval_row(
    standing: Standing, queries: Sequence[ToolQuery], *, by_split: bool
) -> tuple[Cell, ...]:
    published = "/".join(f"{value:.1f}" for value in standing.published.values())
    cells = (
        cell(
            standing.estimate(metric, queries, by_split=by_split), bare=metric not in WITH_INTERVAL
        )
        for metric in COLUMNS
    )
    return (standing.name, *cells, published or None)


def _group_table(
    standings: Sequence[Standing], labelled: Divided, group: Group
) -> list[TrialTable]:
    """Requests whose tools are all of a group, with NDCG@1 by split; none where none has any."""
    asked = labelled.asked.queries
    some = [query for query in asked if labelled.relevant_in(query, group)]
    whole = [query for query in asked if labelled.group_of(query) == group]
    if not some:
        return []
    splits = {name: [q for q in whole if q.split == name] for name in {q.split: 0 for q in whole}}
    far = group == "held out"
    return [
        TrialTable(
            f"tools {group}: {len(whole)} requests need only such, {len(some)} some, percent",
            (
                "codes",
                "textbook@1",
                "textbook@5",
                f"of {len(some)}: such tools in 5",
                *(["far from all codes"] if far else []),
                *(f"@1 {name} ({len(of)})" for name, of in splits.items() if len(splits) > 1),
            ),
            [
                (
                    standing.name,
                    cell(standing.estimate("ndcg@1", whole)),
                    cell(standing.estimate("ndcg@5", whole)),
                    cell(standing.share_found(labelled, group)),
                    *([str(standing.far) if standing.far else None] if far else []),
                    *(
                        cell(standing.estimate("ndcg@1", of), bare=True)
                        for of in splits.values()
                        if len(splits) > 1
                    ),
                )
                for standing in standings
            ],
        )
    ]


def _change_table(
    standings: Sequence[Standing], labelled: Divided, against: Standing
) -> TrialTable:
    """What each has more than one of them, on the same requests."""
    asked = labelled.asked.queries
    wholes = {group: [q for q in asked if labelled.group_of(q) == group] for group in GROUPS}
    wholes = {group: queries for group, queries in wholes.items() if queries}
    return TrialTable(
        f"against {against.name} on the same requests, points of textbook NDCG",
        ("codes", "@1", "@5", *(f"@5, {group}" for group in wholes)),
        [
            (
                standing.name,
                *(cell(change(against, standing, m, asked)) for m in ("ndcg@1", "ndcg@5")),
                *(cell(change(against, standing, "ndcg@5", of)) for of in wholes.values()),
            )
            for standing in standings
            if standing is not against
        ],
    )


def _codes_row(standing: Standing) -> tuple[Cell, ...]:
    trials = standing.trials
    measured = (
        standing.figure("mean_length"),
        max(trial.codes["longest"] for trial in trials),
        standing.figure("collisions_before"),
        standing.figure("moved"),
        standing.figure("start_alike", 100),
        standing.figure("start_alike_if_used_together", 100),
        *(standing.perplexity or (None, None)),
        spread(trial.fitting for trial in trials),
        spread(trial.seconds / 60 for trial in trials),
        spread(trial.wall / 60 for trial in trials),
    )
    cells = (str(value) if isinstance(value, Spread) else value for value in measured)
    return (standing.name, trials[0].codes["new_tokens"], *cells)
