"""The vote: keys, classes, winners (algorithms §9.2, checks 5 and 6)."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.domain.canon import tool_id
from factory.domain.records import Call, Tool
from factory.judge.keys import make_key
from factory.judge.parsed import MAX_BLOCKS, ParsedCalls
from factory.judge.reading import parse_calls
from factory.judge.vote import vote

settings.register_profile("factory", deadline=None, derandomize=True)
settings.load_profile("factory")


def make_tool(name: str, required: list[str], **properties: dict[str, Any]) -> Tool:
    document = {
        "name": name,
        "description": "A tool for the tests.",
        "arguments": {"type": "dict", "properties": properties, "required": required},
    }
    return Tool(id=tool_id(document), document=document)


BOOK = make_tool(
    "book",
    ["people"],
    people={"type": "integer"},
    city={"type": "string"},
    room={"type": "string", "default": "main"},
    price={"type": "float"},
    tags={"type": "array", "items": {"type": "string"}},
    sizes={"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
    place={"type": "dict", "properties": {"floor": {"type": "int"}, "name": {"type": "str"}}},
)
CANCEL = make_tool("cancel", [], id={"type": "string"})
TOOLS = [BOOK, CANCEL]


def canonical_key(calls: Sequence[Call], tools: Sequence[Tool]) -> str:
    return make_key(calls, {tool.name: tool for tool in tools}).text


def loose_key(calls: Sequence[Call], tools: Sequence[Tool]) -> str:
    return make_key(calls, {tool.name: tool for tool in tools}, loose=True).text


def write(*calls: dict[str, Any]) -> str:
    """An answer that makes these calls to `book` (or the tool named by `_tool`)."""
    blocks = []
    for call in calls:
        arguments = {name: value for name, value in call.items() if name != "_tool"}
        body = {"name": call.get("_tool", "book"), "arguments": arguments}
        blocks.append(f"<tool_call>{json.dumps(body)}</tool_call>")
    return "\n".join(blocks)


BROKEN = '<tool_call>{"name": "book"'
NONE = "No tool fits."
FOUR, FIVE, SIX = write({"people": 4}), write({"people": 5}), write({"people": 6})
SEVEN, EIGHT = write({"people": 7}), write({"people": 8})
FOUR_FLOAT, FOUR_TEXT = write({"people": 4.0}), write({"people": "4"})
IN_ORDER = write({"people": 4, "city": "Oslo"})
OUT_OF_ORDER = write({"city": "Oslo", "people": 4})
BOTH, SWAPPED = write({"people": 4}, {"people": 5}), write({"people": 5}, {"people": 4})
TWICE = write({"people": 4}, {"people": 4})
CHAIN = write({"people": 4}, {"_tool": "cancel", "id": "API_call_0"})
CHAIN_SWAPPED = write({"_tool": "cancel", "id": "API_call_0"}, {"people": 4})

# samples, winner, votes, decided_by, reason
TABLE: list[tuple[str, list[str], int | None, int, str, str]] = [
    ("unanimous", [FOUR] * 5, 0, 5, "strict", ""),
    ("three of five", [FIVE, FOUR, FOUR, SIX, FOUR], 1, 3, "strict", ""),
    ("argument order", [IN_ORDER, OUT_OF_ORDER, IN_ORDER, FIVE, SIX], 0, 3, "strict", ""),
    ("5 and 5.0: an int represents", [FOUR_FLOAT, FOUR_FLOAT, FOUR, FIVE, SIX], 2, 3, "strict", ""),
    ("5.0 only still wins", [FOUR_FLOAT] * 3 + [FIVE, SIX], 0, 3, "strict", ""),
    (
        "default given and left out",
        [write({"people": 4, "room": "main"}), FOUR, FOUR, FIVE, SIX],
        1,
        3,
        "strict",
        "",
    ),
    (
        "default kept by the representative",
        [write({"people": 4, "room": "main"})] * 3 + [FIVE, SIX],
        0,
        3,
        "strict",
        "",
    ),
    ("call order", [BOTH, SWAPPED, BOTH, FIVE, SIX], 0, 3, "strict", ""),
    ("duplicates count", [TWICE, FOUR, FOUR, FIVE, SIX], None, 2, "none", "vote_below_min"),
    ("duplicates agree", [TWICE, TWICE, TWICE, FOUR, FIVE], 0, 3, "strict", ""),
    ("text is no number", [FOUR_TEXT, FOUR_TEXT, FOUR, FOUR, FIVE], None, 2, "none", "vote_tie"),
    ("2-2-1", [FOUR, FOUR, FIVE, FIVE, SIX], None, 2, "none", "vote_tie"),
    ("all differ", [FOUR, FIVE, SIX, SEVEN, EIGHT], None, 1, "none", "vote_below_min"),
    ("2-1-1-1", [FOUR, FOUR, FIVE, SIX, SEVEN], None, 2, "none", "vote_below_min"),
    ("invalid majority", [BROKEN, BROKEN, BROKEN, FOUR, FOUR], None, 2, "none", "vote_below_min"),
    ("invalid only", [BROKEN] * 5, None, 1, "none", "vote_below_min"),
    (
        "no call majority",
        [NONE, "", "None at all.", FOUR, FOUR],
        None,
        3,
        "strict",
        "no_call_majority",
    ),
    (
        "loose key decides",
        [write({"people": 4, "city": city}) for city in ("New York", "new-york", "NEW YORK")]
        + [FIVE, SIX],
        2,
        3,
        "loose",
        "",
    ),
    (
        "results in order",
        [CHAIN, CHAIN, CHAIN_SWAPPED, FIVE, SIX],
        None,
        2,
        "none",
        "vote_below_min",
    ),
    (
        "white space and null",
        [
            write({"people": 4, "city": " New  York"}),
            write({"people": 4, "city": "New York"}),
            write({"people": 4, "city": "New York", "price": None}),
            FIVE,
            SIX,
        ],
        0,
        3,
        "strict",
        "",
    ),
]


@pytest.mark.parametrize(
    ("samples", "winner", "votes", "decided_by", "reason"),
    [row[1:] for row in TABLE],
    ids=[row[0] for row in TABLE],
)
def test_table_of_votes(
    samples: list[str], winner: int | None, votes: int, decided_by: str, reason: str
) -> None:
    result = vote(samples, TOOLS)
    assert result.num_samples == 5
    assert (result.winner, result.votes) == (winner, votes)
    assert (result.decided_by, result.reason) == (decided_by, reason)
    assert len(TABLE) == 20


def test_margin_entropy_and_classes() -> None:
    result = vote([FIVE, FOUR, FOUR, SIX, FOUR], TOOLS)
    assert result.classes == (1, 0, 0, 2, 0)
    assert result.margin == pytest.approx(0.4)
    assert result.entropy == pytest.approx(1.3709505944546687)
    assert vote([FOUR] * 5, TOOLS).entropy == 0


@pytest.mark.parametrize(
    ("num_samples", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (7, 4), (8, 5)]
)
def test_minimum_is_a_strict_majority(num_samples: int, needed: int) -> None:
    others = [write({"people": 10 + index}) for index in range(num_samples)]
    enough = [FOUR] * needed + others[: num_samples - needed]
    assert vote(enough, TOOLS).winner == 0
    if needed > 1:
        too_few = [FOUR] * (needed - 1) + others[: num_samples - needed + 1]
        assert vote(too_few, TOOLS).winner is None


def test_plurality_takes_the_largest_class_but_no_tie() -> None:
    assert vote([FOUR, FOUR, FIVE, SIX, SEVEN], TOOLS, plurality=True).winner == 0
    assert vote([FOUR, BROKEN, BROKEN, BROKEN, BROKEN], TOOLS, plurality=True).winner is None
    assert vote([FOUR, FOUR, FIVE, FIVE], TOOLS, plurality=True).reason == "vote_tie"


def test_no_samples_and_one_unreadable_sample() -> None:
    assert vote([], TOOLS).reason == "vote_below_min"
    assert vote([BROKEN], TOOLS).reason == "vote_below_min"


def test_representative_is_frequent_then_probable() -> None:
    with_default = write({"people": 4, "room": "main"})
    samples = [with_default, FOUR, FIVE, with_default, FOUR]
    assert vote(samples, TOOLS, logprobs=[-1.0, -2.0, 0.0, -3.0, -4.0]).winner == 0
    assert vote(samples, TOOLS, logprobs=[-1.0, -0.5, 0.0, -3.0, -4.0]).winner == 1
    assert vote([with_default, FOUR, FOUR], TOOLS, logprobs=[-1.0, -9.0, -9.0]).winner == 1


def test_sample_with_extra_keys_does_not_represent_a_clean_class() -> None:
    extra = '<tool_call>{"name": "book", "arguments": {"people": 4}, "id": 1}</tool_call>'
    assert vote([extra, extra, FOUR], TOOLS).winner == 2


def test_unique_items_are_a_set_and_other_arrays_a_list() -> None:
    def key(**arguments: Any) -> str:
        return canonical_key([Call(name="book", arguments={"people": 1, **arguments})], TOOLS)

    assert key(sizes=[1, 2]) == key(sizes=[2, 1.0])
    assert key(tags=["a", "b"]) != key(tags=["b", "a"])
    assert key(place={"floor": 1, "name": "x"}) == key(place={"name": "x", "floor": 1.0})


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1, 1.0, True),
        (1e2, 100, True),
        (0.1, 0.10, True),
        (10**22, 1e22, True),
        (10**23, 1e23, True),
        (-0.0, 0, True),
        (True, 1, False),
        (1, "1", False),
        (None, "null", False),
        ("a b", "a\u00a0\tb", True),
        ("\u00e9", "e\u0301", True),
        ("Oslo", "oslo", False),
        ([1], [1.0], True),
        ({"a": 1}, {"a": 1.0}, True),
        ([], {}, False),
    ],
)
def test_values_that_share_a_key(one: Any, other: Any, same: bool) -> None:
    keys = {canonical_key([Call(name="f", arguments={"a": value})], []) for value in (one, other)}
    assert (len(keys) == 1) is same


def test_loose_key_is_that_of_bfcl() -> None:
    def key(text: str) -> str:
        return loose_key([Call(name="cancel", arguments={"id": text})], TOOLS)

    assert key("New York, N.Y.") == key("new york-NY*^_") == key("New York NY")
    assert key("room-5") == key("Room 5") and key("e-mail") == key("E mail")
    assert key("it's") == key('it"s')
    assert key("Oslo!") != key("Oslo")


CODE = "if x:\n    y()\nz()"
APART = [
    ("2024-1-12", "2024-11-2"),
    ("2024-01-12", "20240112"),
    ("12.50", "1250"),
    ("12,50", "1250"),
    ("12 50", "1250"),
    ("-5", "5"),
    ("(-5)", "(5)"),
    (".5", "5"),
    ("-.5", ".5"),
    ("1/2", "12"),
    ("2^3", "2*3"),
    ("x-1", "x1"),
    ("x-y", "xy"),
    ("a*b", "a/b"),
    ("-rf", "rf"),
    ("5 - 3", "5 3"),
    ("1, 23", "12, 3"),
    (CODE, "if x:\n    y()\n    z()"),
    (CODE, "if x: y() z()"),
    ("    f()\ng()", "f()\ng()"),
]


@pytest.mark.parametrize(("one", "other"), APART)
def test_no_key_makes_one_value_of_two(one: str, other: str) -> None:
    for key in (canonical_key, loose_key):
        keys = {key([Call(name="cancel", arguments={"id": text})], TOOLS) for text in (one, other)}
        assert len(keys) == 2


@pytest.mark.parametrize(
    ("one", "other"), [(CODE, CODE.replace("\n", " \r\n") + "\n"), ("a  b ", "a b")]
)
def test_line_ends_and_outer_white_space_are_no_difference(one: str, other: str) -> None:
    keys = {
        canonical_key([Call(name="cancel", arguments={"id": text})], TOOLS) for text in (one, other)
    }
    assert len(keys) == 1


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)
ARGUMENTS = st.dictionaries(
    st.sampled_from(["people", "city", "room", "price", "tags", "place", "x"]), VALUES, max_size=5
)


@given(ARGUMENTS, st.randoms(use_true_random=False))
def test_argument_order_never_matters(arguments: dict[str, Any], rng: random.Random) -> None:
    names = list(arguments)
    rng.shuffle(names)
    shuffled = {name: arguments[name] for name in names}
    assert canonical_key([Call(name="book", arguments=arguments)], TOOLS) == canonical_key(
        [Call(name="book", arguments=shuffled)], TOOLS
    )


@given(st.lists(ARGUMENTS, max_size=4), st.randoms(use_true_random=False))
def test_calls_are_a_multiset(all_arguments: list[dict[str, Any]], rng: random.Random) -> None:
    calls = [Call(name="book", arguments=arguments) for arguments in all_arguments]
    shuffled = rng.sample(calls, len(calls))
    assert canonical_key(calls, TOOLS) == canonical_key(shuffled, TOOLS)
    if calls:
        assert canonical_key(calls, TOOLS) != canonical_key([*calls, calls[0]], TOOLS)


@given(st.integers(-(10**15), 10**15), st.sampled_from(["people", "price", "x"]))
def test_whole_numbers_share_a_key_with_their_floats(number: int, name: str) -> None:
    def key(value: float | str) -> str:
        return canonical_key([Call(name="book", arguments={name: value})], TOOLS)

    assert key(number) == key(float(number))
    assert key(number) != key(number + 1)
    assert key(number) != key(str(number))


@given(ARGUMENTS)
def test_a_default_is_the_same_as_nothing(arguments: dict[str, Any]) -> None:
    without = {name: value for name, value in arguments.items() if name != "room"}
    with_default = {**without, "room": "main"}
    assert canonical_key([Call(name="book", arguments=without)], TOOLS) == canonical_key(
        [Call(name="book", arguments=with_default)], TOOLS
    )


@given(ARGUMENTS)
def test_keys_survive_writing_and_reading(arguments: dict[str, Any]) -> None:
    """What is stored as JSON text and read back has the same key."""
    call = Call(name="book", arguments=arguments)
    again = Call(name="book", arguments=json.loads(json.dumps(arguments)))
    assert canonical_key([call], TOOLS) == canonical_key([again], TOOLS)


def test_keys_are_stable() -> None:
    """Stored keys of old rounds stay comparable."""
    call = Call(name="book", arguments={"price": 2.50, "people": 4.0, "city": " a  b"})
    assert canonical_key([call], TOOLS) == '[["book",{"city":"a b","people":4,"price":2.5}]]'


def test_order_of_samples_never_changes_the_winner() -> None:
    """Check 6: 1,000 shuffles, one winner text."""
    with_default = write({"people": 4, "room": "main"})
    pool = [
        [FOUR, FOUR_FLOAT, with_default, FIVE, BROKEN],
        [IN_ORDER, OUT_OF_ORDER, OUT_OF_ORDER, IN_ORDER, FIVE],
        [BOTH, SWAPPED, TWICE, BOTH, SWAPPED],
        [FOUR, FOUR, FIVE, FIVE, NONE],
        [f"Sure. {FOUR}", FOUR, f"{FOUR} Done.", FIVE, NONE],
    ]
    rng = random.Random(0)
    for samples in pool:
        scored = list(zip(samples, [-1.0, -2.0, -1.0, -2.0, -1.0], strict=True))
        winners = set()
        for _ in range(200):
            rng.shuffle(scored)
            result = vote([s for s, _ in scored], TOOLS, logprobs=[p for _, p in scored])
            text = None if result.winner is None else scored[result.winner][0]
            winners.add((text, result.votes, result.margin, result.reason, result.decided_by))
        assert len(winners) == 1


@settings(max_examples=200)
@given(
    st.lists(
        st.sampled_from([FOUR, FOUR_FLOAT, FOUR_TEXT, FIVE, NONE, BROKEN]), min_size=1, max_size=7
    ),
    st.randoms(use_true_random=False),
    st.booleans(),
)
def test_votes_depend_on_content_only(
    samples: list[str], rng: random.Random, plurality: bool
) -> None:
    shuffled = rng.sample(samples, len(samples))
    one, other = (vote(order, TOOLS, plurality=plurality) for order in (samples, shuffled))
    assert (one.votes, one.margin, one.reason) == (other.votes, other.margin, other.reason)
    assert one.entropy == pytest.approx(other.entropy)
    assert (one.winner is None) == (other.winner is None)
    if one.winner is not None and other.winner is not None:
        assert samples[one.winner] == shuffled[other.winner]
        assert one.reason == "" and one.classes[one.winner] == 0


def test_reading_keeps_order_and_flags() -> None:
    parsed = parse_calls(f"Sure! {BOTH} done")
    assert [call.arguments["people"] for call in parsed.calls or ()] == [4, 5]
    assert parsed.extra_text == "Sure! done"
    assert not parsed.failure


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no_tool_call"),
        ("It is sunny.", "no_tool_call"),
        ('{"name": "f", "arguments": {}}', "call_json"),
        (BROKEN, "call_json"),
        ("<tool_call></tool_call>", "call_json"),
        ("<tool_call>f(x=1)</tool_call>", "call_json"),
        ('<tool_call>{"name": "f", "arguments": {"a": NaN}}</tool_call>', "call_json"),
        ('<tool_call>{"name": "f", "arguments": {"a": -Infinity}}</tool_call>', "call_json"),
        ('<tool_call>{"name": "f", "arguments": {"a": 1e400}}</tool_call>', "call_json"),
        ('<tool_call>{"name": "f", "arguments": {"a": 1, "a": 1}}</tool_call>', "call_json"),
        ('<tool_call>{"name": "f", "arguments": {"a": "\\udc00"}}</tool_call>', "call_json"),
        ('<tool_call>{"name": "f", "arguments": {"a": "\udc00"}}</tool_call>', "call_json"),
        ('<tool_call>{"name": "f"}</tool_call>', "call_keys"),
        ('<tool_call>{"name": "f", "arguments": []}</tool_call>', "call_keys"),
        ('<tool_call>{"name": "f", "arguments": "{"}</tool_call>', "call_json"),
        ('<tool_call>{"name": 1, "arguments": {}}</tool_call>', "call_keys"),
        ("<tool_call>[]</tool_call>", "call_keys"),
        ("<tool_call>{}</tool_call>" * (MAX_BLOCKS + 5), "call_keys"),
        (f"{FOUR}" * (MAX_BLOCKS + 5), "call_json"),
        ("<tool_call>" + "[" * 10_000 + "]" * 10_000 + "</tool_call>", "call_json"),
        ("<tool_call>" + '{"a":' * 100_000 + "</tool_call>", "call_json"),
        ("<tool_call>" + "9" * 200_000 + "</tool_call>", "call_json"),
        ("<tool_call>" * 90_000, "call_json"),
        ('<tool_call>"' * 80_000, "call_json"),
        ('<tool_call>"\\"' * 60_000 + "</tool_call>" * 1000, "call_json"),
        ("<tool_call>" + "'" * 900_000 + "</tool_call>", "call_json"),
        ("<tool_call>" + "," * 900_000 + "</tool_call>", "call_json"),
        ("<tool_call>" + ", " * 400_000 + "}</tool_call>", "call_json"),
        ("x" * 3_000_000, "call_json"),
        ("so {a" * 17 + " " * 400_000 + "b", "no_tool_call"),
        ("so {'a" * 17 + '{"name": 1, ' * 30_000, "call_json"),
        ("f (</think>" * 40_000 + "[1, 1, " * 40_000, "no_tool_call"),
        ('[1, "</think>' * 40_000, "no_tool_call"),
        ("```\n" + "f()\n" * 100_000, "call_json"),
        (
            "<tool_call>{" + ", ".join(f'"{n % 60_000}": 1' for n in range(60_001)) + "}",
            "call_json",
        ),
    ],
)
def test_hostile_and_broken_answers(text: str, reason: str) -> None:
    parsed = parse_calls(text)
    assert parsed.failure == reason
    assert 0 < len(parsed.message) < 400
    assert parsed.message.isprintable()
    assert (parsed.calls == ()) == (reason == "no_tool_call")


def test_a_long_run_of_blanks_in_a_value_is_folded_at_once() -> None:
    blanks = " " * 300_000
    texts = [write({"people": 1, "city": f"a{end}\n{blanks}b"}) for end in (blanks, "", "\t")]
    assert vote(texts, [BOOK]).votes == 3


def test_repair_mends_quotes_and_trailing_commas_only() -> None:
    parsed = parse_calls(
        """<tool_call>{'name': 'f', "arguments": {'a': 'it\\'s "x"', 'b': [1, 2,],}}</tool_call>"""
    )
    assert parsed.repaired
    assert parsed.calls == (Call(name="f", arguments={"a": 'it\'s "x"', "b": [1, 2]}),)
    assert parse_calls("<tool_call>{name: f, arguments: {}}</tool_call>").failure == "call_json"
    assert (
        parse_calls("<tool_call>{'name': 'f', 'arguments': {'a': True}}</tool_call>").calls is None
    )


def test_a_closing_tag_inside_a_string_closes_nothing() -> None:
    text = write({"people": 1, "city": "a </tool_call> b"})
    assert parse_calls(text).calls == (
        Call(name="book", arguments={"people": 1, "city": "a </tool_call> b"}),
    )


@given(st.text(max_size=60), st.text(max_size=60))
def test_reading_never_fails(before: str, inside: str) -> None:
    parsed = parse_calls(f"{before}<tool_call>{inside}</tool_call>")
    assert isinstance(parsed, ParsedCalls)
    assert parsed.failure or parsed.calls


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), VALUES, max_size=4))
def test_what_is_written_is_read(arguments: dict[str, Any]) -> None:
    body = json.dumps({"name": "f", "arguments": arguments})
    assert parse_calls(f"<tool_call>{body}</tool_call>").calls == (
        Call(name="f", arguments=arguments),
    )


@pytest.mark.parametrize(
    ("samples", "barred", "winner", "votes", "reason"),
    [
        ([FOUR, FOUR, FOUR, FIVE, SIX], {3, 4}, 0, 3, ""),
        ([FOUR, FOUR, FOUR, FIVE, SIX], {0}, None, 2, "vote_below_min"),
        ([FOUR, FOUR, FOUR, FIVE, FIVE], {0, 1, 2}, None, 2, "vote_below_min"),
        ([FOUR, FOUR, FIVE, FIVE, SIX], {4}, None, 2, "vote_tie"),
        ([FOUR] * 5, {0, 1, 2, 3, 4}, None, 0, "vote_below_min"),
        ([NONE, NONE, NONE, FOUR, FOUR], {3, 4}, None, 3, "no_call_majority"),
    ],
)
def test_barred_samples_do_not_vote_and_count_in_n(
    samples: list[str], barred: set[int], winner: int | None, votes: int, reason: str
) -> None:
    result = vote(samples, TOOLS, barred=barred)
    assert (result.num_samples, result.winner) == (5, winner)
    assert (result.votes, result.reason) == (votes, reason)
    assert {i for i, number in enumerate(result.classes) if number < 0} == barred
    assert len(set(result.classes)) == len({n for n in result.classes if n >= 0}) + len(barred)


@settings(max_examples=200)
@given(
    st.lists(st.sampled_from([FOUR, FOUR_FLOAT, FIVE, NONE, BROKEN]), min_size=1, max_size=7),
    st.sets(st.integers(0, 6)),
)
def test_a_barred_sample_is_as_one_that_says_something_else_each_time(
    samples: list[str], barred: set[int]
) -> None:
    """Barring cannot make a winner that had too few votes, and no barred answer wins."""
    barred &= set(range(len(samples)))
    result = vote(samples, TOOLS, barred=barred)
    assert result.winner is None or result.winner not in barred
    scattered = [BROKEN if i in barred else text for i, text in enumerate(samples)]
    other = vote(scattered, TOOLS)
    assert (result.winner is None) == (other.winner is None)
    if result.winner is not None:
        assert result.votes == other.votes and result.margin >= other.margin


# -- what the loose key joins ------------------------------------------------------------------

CALENDAR = make_tool("note", ["text"], text={"type": "string"})


def both_notes(first: str, second: str) -> tuple[str, str]:
    one, other = (Call(name="note", arguments={"text": text}) for text in (first, second))
    return loose_key([one], [CALENDAR]), loose_key([other], [CALENDAR])


def is_one_class(first: str, second: str) -> bool:
    one, other = both_notes(first, second)
    return one == other


@given(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9))
def test_whole_numbers_in_texts_are_joined_only_where_they_are_equal(a: int, b: int) -> None:
    assert is_one_class(f"pay {a} now", f"Pay {b} now.") == (a == b)


@given(
    st.decimals(-(10**6), 10**6, places=2),
    st.decimals(-(10**6), 10**6, places=2),
)
def test_decimals_in_texts_are_joined_only_where_they_are_equal(a: object, b: object) -> None:
    assert is_one_class(f"{a} EUR", f"{b} EUR") == (str(a) == str(b))


@given(st.dates(), st.dates(), st.sampled_from(["%Y-%m-%d", "%d/%m/%Y", "%d.%m.%Y"]))
def test_dates_in_texts_are_joined_only_where_they_are_equal(a: Any, b: Any, form: str) -> None:
    assert is_one_class(a.strftime(form), b.strftime(form)) == (a == b)


@given(st.integers(1, 2999), st.integers(1, 12), st.integers(1, 28), st.integers(1, 12))
def test_dates_without_leading_zeros_never_run_together(
    year: int, month: int, day: int, other: int
) -> None:
    """2024-1-12 is not 2024-11-2."""
    first, second = f"{year}-{month}-{day}", f"{year}-{month}{day // 10 or ''}-{other}"
    assert not is_one_class(first, second) or first == second


@given(st.lists(st.sampled_from(["a", "b"]), min_size=2, max_size=4), st.integers(1, 3))
def test_indents_of_lines_are_values(lines: list[str], index: int) -> None:
    at = index % len(lines) or 1
    moved = [*lines[:at], f"    {lines[at]}", *lines[at + 1 :]]
    assert not is_one_class("\n".join(lines), "\n".join(moved))


@given(st.lists(st.from_regex("[a-z]{1,8}", fullmatch=True), min_size=1, max_size=5))
def test_case_and_a_closing_stop_are_ways_of_writing(words: list[str]) -> None:
    text = " ".join(words)
    assert is_one_class(text, text.upper()) and is_one_class(text, f"{text}.")


@given(
    st.lists(st.from_regex("[a-z]{1,8}", fullmatch=True), min_size=1, max_size=4, unique=True),
    st.from_regex("[a-z]{1,8}", fullmatch=True),
)
def test_another_word_is_another_value(words: list[str], word: str) -> None:
    other = [*words[:-1], word]
    same = "".join(words) == "".join(other)
    assert is_one_class(" ".join(words), " ".join(other)) <= same
