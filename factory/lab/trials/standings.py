"""What a comparison of codes came to: tables and records, beside the published ranking.

Two readings of NDCG are told apart by name (factory.score.toolbench.ranking): READ_AS says which.
At 1 they are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from factory.lab.trials.compare import Trial
from factory.score.published import load_published
from factory.score.toolbench.data import SPLITS
from factory.score.toolbench.ranking import CUTOFFS, RetrievalResult
from factory.workspace.folder import Workspace

COLUMNS: Mapping[str, str] = {
    **{f"ndcg@{k}": f"textbook@{k}" for k in CUTOFFS},
    **{f"ndcg_hits@{k}": f"hits-only@{k}" for k in CUTOFFS},
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
    "residual": "SGTC",
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
)
"""What a reader of the first tables must know."""
CODES_COLUMNS = (
    "codes", "new tokens", "length", "longest", "collisions", "moved", "start alike, %",
    "if used together, %", "perplexity", "after",
)  # fmt: skip

Cell = str | int | None
Values = Mapping[str, Mapping[str, float]]
"""Percent by split (of a published table: by variant) and metric."""


class Spread(NamedTuple):
    """Mean and standard deviation over seeds. Example: str(Spread(71.3, 0.8)) == "71.3 ±0.8"."""

    mean: float
    sd: float | None
    """None of a single value."""

    def __str__(self) -> str:
        return f"{self.mean:,.1f}" + ("" if self.sd is None else f" ±{self.sd:,.1f}")


class TrialTable(NamedTuple):
    """What print_table takes."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]]
    """None is an empty cell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How one way to find tools did."""

    name: str
    """The variant, or the baseline."""
    trials: tuple[Trial, ...]
    """The variant's, by seed; none of a baseline."""
    values: Mapping[str, Mapping[str, Spread]]
    """Percent by split, `toolbench` (mean of ToolBench's splits), `mean` of all, and metric."""
    published: Mapping[str, float]
    """Percent by metric; empty where the published table has no such row."""

    def figure(self, name: str, scale: float = 1.0) -> Spread | None:
        """One figure of the codebooks; None where none was measured."""
        return spread(scale * t.codes[name] for t in self.trials if t.codes.get(name) is not None)

    @property
    def perplexity(self) -> tuple[Spread, Spread] | None:
        """Of the plain text before and after training; None where none was given."""
        known = [trial.perplexity for trial in self.trials if trial.perplexity]
        before, after = (spread(pair[at] for pair in known) for at in (0, 1))
        return (Spread(before.mean, None), after) if before and after else None

    def to_json(self) -> dict[str, Any]:
        """Everything in the tables and more, with the single trials."""
        names = (
            "new_tokens", "mean_length", "longest", "collisions_before", "moved", "start_alike",
            "start_alike_if_used_together",
        )  # fmt: skip
        figures = {name: value for name in names if (value := self.figure(name))}
        before, after = self.perplexity or (None, None)
        return {
            "codes": self.name,
            "seeds": [trial.seed for trial in self.trials],
            "values": {
                split: {metric: value._asdict() for metric, value in row.items()}
                for split, row in self.values.items()
            },
            "figures": {name: value._asdict() for name, value in figures.items()},
            "perplexity_before": before.mean if before else None,
            "perplexity_after": after._asdict() if after else None,
            "published": dict(self.published),
            "trials": [asdict(trial) for trial in self.trials],
        }


def spread(values: Iterable[float]) -> Spread | None:
    """Their mean and standard deviation; None of no values."""
    found = list(values)
    if not found:
        return None
    return Spread(float(np.mean(found)), float(np.std(found)) if len(found) > 1 else None)


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


def rank(
    trials: Sequence[Trial],
    baselines: Sequence[RetrievalResult],
    published: Values,
) -> list[Standing]:
    """Every variant in the order of its first trial, then the baselines."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(trial.variant, []).append(trial)
    variants = [
        Standing(
            name=name,
            trials=tuple(tried),
            values=_spreads([trial.values for trial in tried]),
            published=published.get(name, {}),
        )
        for name, tried in groups.items()
    ]
    others = [
        Standing(name=b.system, trials=(), values=_spreads([b.table()]), published={})
        for b in baselines
    ]
    return [*variants, *others]


def _spreads(tables: Sequence[Values]) -> dict[str, dict[str, Spread]]:
    """Over the seeds, by split and metric."""
    full = [_with_toolbench(table) for table in tables]
    return {
        split: {
            metric: found for metric in row if (found := spread(t[split][metric] for t in full))
        }
        for split, row in full[0].items()
    }


def _with_toolbench(table: Values) -> Values:
    """The table with the mean of ToolBench's splits as `toolbench`."""
    splits = [row for name, row in table.items() if name in SPLITS]
    if not splits:
        return table
    mean = {metric: float(np.mean([row[metric] for row in splits])) for metric in splits[0]}
    return {**table, "toolbench": mean}


def make_tables(standings: Sequence[Standing]) -> list[TrialTable]:
    """One of retrieval for ToolBench's splits together and for each other set; then the codes."""
    num_seeds = max(len(standing.trials) for standing in standings)
    over = f", mean ±sd over {num_seeds} seeds" if num_seeds > 1 else ""
    sets = [split for split in standings[0].values if split not in (*SPLITS, "mean")]
    retrieval = [
        TrialTable(
            f"NDCG and recall on held-out requests of {split}, percent{over}",
            ("codes", *COLUMNS.values(), "published hits-only@1/3/5"),
            [_retrieval_row(standing, split) for standing in standings],
        )
        for split in sets
    ]
    rows = [_codes_row(standing) for standing in standings if standing.trials]
    return [*retrieval, TrialTable(f"what the codes are and cost{over}", CODES_COLUMNS, rows)]


def _retrieval_row(standing: Standing, split: str) -> tuple[Cell, ...]:
    row = standing.values[split]
    published = "/".join(f"{value:.1f}" for value in standing.published.values())
    return (standing.name, *(str(row[metric]) for metric in COLUMNS), published or None)


def _codes_row(standing: Standing) -> tuple[Cell, ...]:
    measured = (
        standing.figure("mean_length"),
        max(trial.codes["longest"] for trial in standing.trials),
        standing.figure("collisions_before"),
        standing.figure("moved"),
        standing.figure("start_alike", 100),
        standing.figure("start_alike_if_used_together", 100),
        *(standing.perplexity or (None, None)),
    )
    cells = (str(value) if isinstance(value, Spread) else value for value in measured)
    return (standing.name, standing.trials[0].codes["new_tokens"], *cells)
