"""Calls that a request is to be written for: what rules accept, and what its request must say."""

from __future__ import annotations

from itertools import islice
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_harder import CATALOGUE, SAMPLES

from factory.domain.canon import tool_id
from factory.domain.records import Call, Candidate, Query, Tool
from factory.judge.rulebook import Rulebook
from factory.judge.verdicts import check_calls, first_reject
from factory.lessons.harder import Stock
from factory.lessons.wishes import Wish, draw_wishes, why_unfit
from factory.train.examples import calls_text
from factory.workspace.folder import Workspace, shipped_root

STOCK = Stock(SAMPLES, CATALOGUE)
RULEBOOK = Rulebook.load(Workspace(shipped_root()), {})


def make_tool(name: str, required: list[str], /, **properties: dict[str, object]) -> Tool:
    document = {
        "name": name,
        "description": f"{name} of something.",
        "arguments": {"type": "dict", "properties": properties, "required": required},
    }
    return Tool(id=tool_id(document), document=document)


@given(seed=st.integers(0, 2**20))
@settings(max_examples=20, deadline=None)
def test_wishes_break_no_rule_and_differ(seed: int) -> None:
    wishes = list(islice(draw_wishes(Random(seed), STOCK), 20))
    assert wishes == list(islice(draw_wishes(Random(seed), STOCK), 20)) and len(wishes) == 20
    assert len({calls_text(w.calls) for w in wishes}) == 20
    by_id = {sample.query.id: sample for sample in SAMPLES}
    for wish in wishes:
        found = check_calls(calls_text(wish.calls), wish.tools, rulebook=RULEBOOK)
        assert first_reject(found) is None, (wish, found)
        if wish.origins:
            (origin,) = (by_id[each] for each in wish.origins)
            assert wish.tools == origin.tools and wish.calls != origin.calls
            assert wish.names == list(dict.fromkeys(call.name for call in origin.calls))
    assert {bool(wish.origins) for wish in wishes} == {True, False}


def test_a_catalogue_alone_gives_wishes_where_its_schemas_give_values() -> None:
    length = {"type": "integer", "description": "Minutes.", "minimum": 30, "maximum": 32}
    room = {"type": "string", "description": "Which.", "enum": ["attic", "cellar"]}
    day = {"type": "string", "description": "When.", "examples": ["Monday"]}
    name = {"type": "string", "description": "Whose."}
    heat = make_tool("heat_room", ["room", "minutes"], room=room, minutes=length, name=name)
    clean = make_tool("clean_room", ["day"], day=day)
    unknown = make_tool("greet", ["name"], name=name)
    bare = make_tool("stop", [])
    stock = Stock((), [heat, clean, unknown, bare])
    wishes = list(islice(draw_wishes(Random(1), stock), 5))
    assert len(wishes) == 5
    assert {call.name for wish in wishes for call in wish.calls} == {"heat_room", "clean_room"}
    for wish in wishes:
        (call,) = wish.calls
        assert wish.origins == () and call.name in {tool.name for tool in wish.tools}
        if call.name == "heat_room":
            assert call.arguments["room"] in room["enum"]
            assert 30 <= call.arguments["minutes"] <= 32 and "name" not in call.arguments
        else:
            assert call.arguments == {"day": "Monday"}
    assert list(draw_wishes(Random(1), Stock((), [unknown, bare]))) == []


@pytest.mark.parametrize(
    ("kind", "bounds"),
    [
        ("integer", {"minimum": 1000}),
        ("integer", {"maximum": 1}),
        ("integer", {"minimum": 0.5, "maximum": 3.5}),
        ("float", {"minimum": 0.15, "maximum": 0.19}),
    ],
)
def test_numbers_stay_within_their_bounds(kind: str, bounds: dict[str, float]) -> None:
    schema = {"type": kind, "description": "How much.", **bounds}
    stock = Stock((), [make_tool("heat_room", ["much"], much=schema)])
    drawn = [w.calls[0].arguments["much"] for w in islice(draw_wishes(Random(1), stock), 3)]
    low, high = bounds.get("minimum", -1e9), bounds.get("maximum", 1e9)
    assert all(low <= each <= high for each in drawn)
    assert len(set(drawn)) > 1 or kind == "float"


def test_a_parameter_without_a_choice_gives_no_wish() -> None:
    schema = {"type": "integer", "description": "How much.", "enum": []}
    stock = Stock((), [make_tool("heat_room", ["much"], much=schema)])
    assert list(draw_wishes(Random(1), stock)) == []


def test_lists_and_choices_stay_of_their_kind() -> None:
    tags = {"type": "array", "description": "Words.", "items": {"type": "string"}}
    level = {"type": "integer", "description": "How much.", "enum": [1, 5]}
    tool = make_tool("tag", ["tags", "level"], tags=tags, level=level)
    samples = [
        Candidate(
            query=Query(id=f"q_{place}", text=f"Tag it {a}, {b} and 1", source="test"),
            tools=(tool,),
            calls=(Call(name="tag", arguments={"tags": [a, b], "level": 1}),),
        )
        for place, (a, b) in enumerate([("red", "big"), ("old", "wet")])
    ]
    for wish in islice(draw_wishes(Random(2), Stock(samples, [])), 8):
        for call in wish.calls:
            assert call.arguments["level"] in (1, 5)
            assert len(set(call.arguments["tags"])) == 2
            assert set(call.arguments["tags"]) <= {"red", "big", "old", "wet"}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("A table for 4 at Da Mario tonight, with Ann and Bo, no smoking, 1,200.50 at most", None),
        ("a TABLE for 4 at da mario, with ann and bo, 1200.5", None),
        ("A table for 14 at Da Mario, with Ann and Bo, 1200.5", ("unsaid", "it does not say 4")),
        (
            "A table for 4 at Mario's, with Ann, 1200.5",
            ("unsaid", 'it does not say "Da Mario", "Bo"'),
        ),
        ("A table for -4 at Da Mario, with Ann and Bo, 1200.5", ("unsaid", "it does not say 4")),
        (
            "A table for 4 at Da Marionette, with Ann and Bo, 1200.5",
            ("unsaid", 'it does not say "Da Mario"'),
        ),
        (
            "A table for 4 at Da Mario, with Ann and Bo, 1200.5, at 8 or 9.5",
            ("unasked", "no call has 8, 9.5"),
        ),
    ],
)
def test_a_request_says_every_value_of_its_calls_and_no_other_number(
    text: str, fault: tuple[str, str] | None
) -> None:
    arguments = {"people": 4, "place": "Da Mario", "with": ["Ann", "Bo"], "smoking": False}
    call = Call(name="book_table", arguments={**arguments, "price": 1200.5})
    assert why_unfit(Wish(tools=(), calls=(call,)), text) == fault
