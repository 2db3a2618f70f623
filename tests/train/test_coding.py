"""What a training does about codes: nothing, more of them, the first ones, or all anew."""

from __future__ import annotations

import pytest
from test_codes import make_tools

from factory.codes.codebook import Codebook
from factory.codes.growing import fit_codebook
from factory.train.coding import Fit, Grow, Keep, Recode, plan_codes
from factory.workspace.recipe import CodesSection

ATOMIC = CodesSection(coder="atomic", min_tools=4)


@pytest.fixture(scope="module")
def known() -> Codebook:
    return fit_codebook(make_tools(6), None, ATOMIC)


def test_a_first_codebook_waits_for_enough_tools() -> None:
    assert plan_codes(None, ATOMIC, make_tools(3)) == Keep()
    assert plan_codes(None, ATOMIC, make_tools(4)) == Fit(make_tools(4))


def test_new_tools_get_codes_and_known_ones_keep_theirs(known: Codebook) -> None:
    assert plan_codes(known, ATOMIC, []) == plan_codes(known, ATOMIC, make_tools(6)) == Keep()
    assert plan_codes(known, ATOMIC, make_tools(8)) == Grow(known, make_tools(8)[6:])


def test_codes_of_another_coder_are_made_anew_with_or_without_new_tools(known: Codebook) -> None:
    numeric = CodesSection(coder="numeric")
    for tools in (make_tools(6), make_tools(8)):
        plan = plan_codes(known, numeric, tools)
        assert isinstance(plan, Recode) and plan.new == tools[6:]
        assert plan.reason == "these are atomic codes, the recipe has numeric codes"


def test_a_recipe_without_codes_leaves_everything(known: Codebook) -> None:
    none = CodesSection(coder="none")
    assert plan_codes(known, none, make_tools(8)) == plan_codes(None, none, make_tools(8)) == Keep()
