"""Small cases from what people meet, where the folder of them is."""

from __future__ import annotations

import pytest
from workspaces import ROOT

from bench.cases import SHARED, find_cases

FOLDER = ROOT / SHARED
KINDS = ("calls", "documents", "pairs", "votes", "labelled")


@pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no cases in {FOLDER}")
def test_every_case_comes_out_as_it_must() -> None:
    cases = [case for case in find_cases(FOLDER) if case.kind in KINDS]
    assert {case.kind for case in cases} == set(KINDS)
    assert [case for case in cases if not case.is_right] == []
