"""What every bench prints through: the machine line, then tables with ratios.

Example:
    print_machine("duckdb", "pyarrow")
    naive, ours = (best_seconds(run) for run in (run_naive, run_ours))
    print_table(
        "calls judged a second, one core, Seal-Tools dev",
        ("way", "calls/s", "ratio"),
        [("jsonschema.validate", n / naive, None), ("factory.judge", n / ours, naive / ours)],
    )
"""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

Cell = str | int | float | None


def machine_line(*packages: str) -> str:
    """Cores, CPU model, and the versions of Python, tool-factory and `packages`."""
    versions = [f"{name} {_version(name)}" for name in ("tool-factory", *packages)]
    cores = len(os.sched_getaffinity(0))
    parts = [f"{cores} cores", _cpu_model(), f"Python {platform.python_version()}", *versions]
    return ", ".join(parts)


def print_machine(*packages: str) -> None:
    """Print the machine line; the first thing a bench does."""
    print(f"machine: {machine_line(*packages)}", flush=True)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """A title and aligned columns, numbers to the right; None is an empty cell.

    A column whose name ends in `ratio` is printed as multiples: 1.9x.
    """
    texts = [
        [
            _format(cell, is_ratio=column.endswith("ratio"))
            for column, cell in zip(columns, row, strict=True)
        ]
        for row in rows
    ]
    right = [all(not isinstance(row[n], str) for row in rows) for n in range(len(columns))]
    widths = [
        max(map(len, (column, *(row[n] for row in texts)))) for n, column in enumerate(columns)
    ]
    print(f"\n{title}")
    for line in (columns, *texts):
        cells = zip(line, widths, right, strict=True)
        aligned = (t.rjust(width) if is_right else t.ljust(width) for t, width, is_right in cells)
        print("  " + "  ".join(aligned).rstrip(), flush=True)


def best_seconds(
    run: Callable[[], object], repeats: int = 3, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds of the fastest of some runs: what others on the machine disturb least.

    Wall seconds, or CPU seconds with `clock=time.process_time`.
    """
    return min(_seconds(run, clock) for _ in range(repeats))


def peak_rss_mib() -> float:
    """The most memory that this process has had so far, in MiB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _seconds(run: Callable[[], object], clock: Callable[[], float]) -> float:
    started = clock()
    run()
    return clock() - started


def _format(cell: Cell, *, is_ratio: bool) -> str:
    if cell is None:
        return ""
    if isinstance(cell, str):
        return cell
    if is_ratio:
        return f"{cell:.1f}x" if cell >= 1 else f"{cell:.2f}x"
    if isinstance(cell, int) or abs(cell) >= 100:
        return f"{cell:,.0f}"
    return f"{cell:.3g}"


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(not installed)"
