"""What all tables of trials are made of: cells with intervals, spreads over seeds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from factory.score.estimates import Estimate

Cell = str | int | None


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


def spread(values: Iterable[float]) -> Spread | None:
    """Their mean and standard deviation; None of no values."""
    found = list(values)
    if not found:
        return None
    return Spread(float(np.mean(found)), float(np.std(found)) if len(found) > 1 else None)


def cell(estimate: Estimate | None, *, bare: bool = False, sign: str = "") -> str | None:
    """`71.3 (69.1 to 73.4)`, the value alone where it is `bare`; `sign` is a format's."""
    if estimate is None or bare:
        return None if estimate is None else f"{estimate.value:{sign}.1f}"
    return f"{estimate.value:{sign}.1f} ({estimate.low:{sign}.1f} to {estimate.high:{sign}.1f})"


def to_record(estimate: Estimate | None) -> dict[str, float] | None:
    return None if estimate is None else estimate._asdict()
