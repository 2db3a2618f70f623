"""The benches: each is a command that says how it is run; what they print through."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest
from workspaces import ROOT

from bench.schemas import REASONS, SHARED, compare
from bench.table import best_seconds, machine_line, peak_rss_mib, print_table

BENCHES = sorted(
    path
    for path in (ROOT / "bench").glob("*.py")
    if path.stem not in ("__init__", "table", "backbone", "pretended", "instant", "raw")
)


@pytest.mark.parametrize("path", BENCHES, ids=lambda path: path.stem)
def test_a_bench_says_how_it_is_run_and_has_a_main(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert f"python -m bench.{path.stem}" in (ast.get_docstring(tree) or "")
    assert "main" in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_machine_line_names_cores_and_versions() -> None:
    line = machine_line("duckdb", "no-such-package")
    assert line.startswith(f"{len(os.sched_getaffinity(0))} cores, ")
    assert "duckdb 2." in line and "no-such-package (not installed)" in line


def test_tables_align_numbers_and_print_ratios(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("bare", 1_234_567.8, 40, None), ("with everything on", 2.5, 7, 0.125)]
    print_table("rows a second", ("way", "rows/s", "MB", "ratio"), [*rows, ("x", 0.01, 0, 12.34)])
    assert capsys.readouterr().out == (
        "\nrows a second\n"
        "  way                    rows/s  MB  ratio\n"
        "  bare                1,234,568  40\n"
        "  with everything on        2.5   7  0.12x\n"
        "  x                        0.01   0  12.3x\n"
    )


def test_measures_are_positive() -> None:
    ran = []
    assert best_seconds(lambda: ran.append(sum(range(1000))), repeats=4) > 0
    assert len(ran) == 4 and peak_rss_mib() > 1


@pytest.mark.skipif(not (ROOT / SHARED[1]).exists(), reason=f"no {SHARED[1]}")
def test_verdicts_on_openapi_differ_from_plain_ones_for_known_reasons_alone() -> None:
    compared = compare(ROOT / SHARED[1])
    assert compared.found.keys() <= REASONS.keys()
    assert compared.tools > 100 and compared.right > compared.tools
