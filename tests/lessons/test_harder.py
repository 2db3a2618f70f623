"""What is made of accepted samples is right by construction, and harder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

import pytest

from factory.domain.canon import query_id, tool_id
from factory.domain.records import Call, Candidate, Query, Tool
from factory.judge.answers import ParsedCalls
from factory.judge.rulebook import Rulebook
from factory.judge.verdicts import check_calls, first_reject
from factory.lab.home import words
from factory.lab.home.world import catalogue_specs, document, fresh_item
from factory.lessons.frames import Frames
from factory.lessons.harder import ABSTAINING, WAYS, Made, Stock, Way, make
from factory.lessons.joints import Joints
from factory.lessons.phrases import Phrases
from factory.lessons.said import Answered, keeps_values, written
from factory.lessons.words import Words
from factory.train.examples import calls_text
from factory.workspace.folder import Workspace, shipped_root


def _sample(number: int) -> Candidate:
    item = fresh_item(number)
    return Candidate(
        query=Query(id=query_id(item.query), text=item.query, source=f"home:{number}"),
        tools=tuple(Tool(id=tool_id(each), document=each) for each in item.tools),
        calls=tuple(Call(**call) for call in item.calls),
    )


SAMPLES = [_sample(number) for number in range(150)]
REQUESTS = [fresh_item(number).query for number in range(400)]
CATALOGUE = [Tool(id=tool_id(d), document=d) for d in map(document, catalogue_specs())]
BY_ID = {sample.query.id: sample for sample in SAMPLES}
PLACES = ("Osaka", "Turin", "Alba Longa", "Cairo", "Reykjavik", "Harare")
KEEPING = [way for way in WAYS if way not in ABSTAINING]


def _make(way: Way, seed: int = 0, samples: Sequence[Candidate] = SAMPLES) -> list[Made]:
    made = make(way, Random(seed), Stock(samples, CATALOGUE, REQUESTS, REQUESTS[150:]), 60)
    return list(made)


@pytest.fixture(scope="module")
def rulebook() -> Rulebook:
    return Rulebook.load(Workspace(shipped_root()), {})


@pytest.mark.parametrize("way", WAYS)
def test_the_same_numbers_make_the_same(way: Way) -> None:
    first = _make(way)
    assert first == _make(way)
    assert first != _make(way, seed=1)
    # A value can be taken out only where the words are known that bring it in.
    assert len(first) == 60 if way != "missing" else len(first) > 20


@pytest.mark.parametrize("way", WAYS)
def test_no_two_are_one_request_with_the_same_tools(way: Way) -> None:
    made = [each.candidate for each in _make(way)]
    assert len({(c.query.id, frozenset(t.id for t in c.tools)) for c in made}) == len(made)


@pytest.mark.parametrize("way", KEEPING)
def test_calls_that_are_made_break_no_rule(way: Way, rulebook: Rulebook) -> None:
    for made in (each.candidate for each in _make(way)):
        text = calls_text(made.calls)
        found = check_calls(
            ParsedCalls(text=text, calls=made.calls),
            made.tools,
            rulebook=rulebook,
            query=made.query.text,
        )
        assert first_reject(found) is None, (made, found)
        assert not [v for v in found if v.reason == "ungrounded_value"], (made, found)


def test_join_asks_for_what_both_ask() -> None:
    for made in _make("join"):
        first, second = (BY_ID[origin] for origin in made.origins)
        text = made.candidate.query.text
        assert all(keeps_values(each.query.text, text, each.calls) for each in (first, second))
        assert made.candidate.calls == first.calls + second.calls


@pytest.mark.parametrize("way", ["values", "words"])
def test_values_change_in_request_and_calls_alike(way: Way) -> None:
    for made in _make(way):
        (origin,) = (BY_ID[each] for each in made.origins)
        pairs = zip(origin.calls, made.candidate.calls, strict=True)
        changed = [
            (old.arguments[name], new.arguments[name])
            for old, new in pairs
            for name in old.arguments
            if old.arguments[name] != new.arguments[name]
        ]
        assert changed
        assert made.candidate.query.text != origin.query.text
        assert all(written(new) in made.candidate.query.text for _, new in changed)


def test_words_are_those_of_requests_and_of_none() -> None:
    known = {word.casefold() for text in REQUESTS for word in re.findall(r"\w+", text)}
    topics = [
        word
        for made in _make("words")
        for call in made.candidate.calls
        for word in str(call.arguments.get("topic", "")).split()
    ]
    invented = [word for word in topics if word not in known]
    assert 0.2 < len(invented) / len(topics) < 0.8


@pytest.mark.parametrize(
    ("value", "form"),
    [
        ("zinc mine", "[a-z]{3,} [a-z]{3,}"),
        ("Ann Bellamy", "Ann [A-Z][a-z]{3,}"),
        ("UNESCO", "[A-Z]{4,}"),
        ("clara@desert.com", "[a-z]{4,}@[a-z]{4,}[.]com"),
        ("AR-6675", "[A-Z]{2}-[1-9]{4}"),
        ("March 18", "March 18"),
        ("https://desert.com/page", "https://desert.com/page"),
        ("22:30", "22:30"),
        ("Zürich", "[A-Z][a-z]{3,}"),
    ],
)
def test_a_value_keeps_its_form_in_other_words(value: str, form: str) -> None:
    answered = [
        Answered(f"A trip to {city}.", (Call(name="go", arguments={"to": city}),))
        for city in PLACES
    ]
    spelt = Words(answered, ["Tell me of tangerine and quarry."])
    told = {spelt.respell(Random(seed), value) for seed in range(30)}
    assert all(re.fullmatch(form, each) for each in told), told
    assert told == {value} if value == form else len(told) > 9


def test_words_that_tell_a_request_are_no_values() -> None:
    answered = [
        Answered(f"Travel with {city}.", (Call(name="go", arguments={"to": city}),))
        for city in PLACES
    ]
    spelt = Words(answered, [f"Travel with {city}, thanks." for city in PLACES])
    assert {spelt.respell(Random(seed), "word") for seed in range(50)}.isdisjoint(
        {"with", "travel"}
    )


def test_words_are_invented_of_pieces_that_no_request_holds() -> None:
    spelt = Words((), ["Ask for a quarry or a mine."] * 20, ("quarr", "mi", "zorb", "flim"))
    told = " ".join(spelt.respell(Random(seed), "word") for seed in range(200))
    assert told.count("zorb") > 3 * (told.count("quarr") - told.count("quarry"))
    assert told.count("flim") > 3 * told.count("mi")


def test_a_value_that_a_schema_lists_keeps_its_words() -> None:
    seat = _answer("A seat at the window to Osaka.", seat="window", to="Osaka")
    (tool,) = seat.tools
    tool.document["arguments"]["properties"]["seat"]["enum"] = ["window", "aisle"]
    made_ones = _all("words", [seat])
    assert made_ones
    for made in made_ones:
        assert made.calls[0].arguments["seat"] == "window"
        assert made.calls[0].arguments["to"] != "Osaka"


def test_distractors_stand_beside_what_is_called() -> None:
    for made in _make("distractors"):
        (origin,) = (BY_ID[each] for each in made.origins)
        assert {tool.id for tool in made.candidate.tools} > {tool.id for tool in origin.tools}
        assert made.candidate.calls == origin.calls


def test_renamed_tools_tell_what_they_do_by_their_documents() -> None:
    for made in _make("rename"):
        (origin,) = (BY_ID[each] for each in made.origins)
        names = {tool.name for tool in made.candidate.tools}
        assert names.isdisjoint(tool.name for tool in origin.tools)
        assert [list(call.arguments.values()) for call in made.candidate.calls] == [
            list(call.arguments.values()) for call in origin.calls
        ]


def test_a_withheld_tool_is_not_there() -> None:
    for made in _make("withheld"):
        (origin,) = (BY_ID[each] for each in made.origins)
        called = {call.name for call in origin.calls}
        assert called.isdisjoint(tool.name for tool in made.candidate.tools)
        assert made.candidate.tools and made.candidate.answer and not made.candidate.calls


def test_a_missing_value_is_required_and_was_taken_out_of_the_request() -> None:
    for made in _make("missing"):
        (origin,) = (BY_ID[each] for each in made.origins)
        (call,), text = origin.calls, made.candidate.query.text
        (tool,) = (tool for tool in origin.tools if tool.name == call.name)
        gone = [
            name
            for name, value in call.arguments.items()
            if written(value) and written(value) not in text
        ]
        assert len(gone) == 1 and gone[0] in tool.arguments["required"], (text, call)
        assert gone[0].replace("_", " ") in made.candidate.answer
        assert made.candidate.tools == origin.tools and made.candidate.calls == ()
        assert set(re.findall(r"\w+", text)) < set(re.findall(r"\w+", origin.query.text))


@pytest.mark.parametrize(
    ("text", "name", "left"),
    [
        ("Book a table in Rome at 7.", "city", "Book a table at 7."),
        ("Book a table in Rome at 7.", "time", "Book a table in Rome."),
        ("Book a table at 7 in Rome, thanks.", "city", "Book a table at 7, thanks."),
        ("Book a table in Rome and at 7.", "city", None),
        ("Book a table in Rome and at 7.", "time", None),
        ("In Rome, Rome at 7.", "city", None),
        ("Book a table Rome at 7.", "city", None),
        ("Book a table in Rome at 7.", "guests", None),
    ],
)
def test_a_value_is_cut_with_the_words_that_bring_it_in(
    text: str, name: str, left: str | None
) -> None:
    nouns = ("a seat", "the hall", "one room", "two beds", "my turn", "her desk")
    cities = ("Oslo", "Bonn", "Lima", "Kyoto", "Quito", "Hanoi")
    told = [
        Answered(f"Keep {noun} {said}.", (_booking(city, hour),))
        for hour, (noun, city) in enumerate(zip(nouns, cities, strict=True), 20)
        for said in (f"in {city} at {hour}", f"at {hour} in {city}")
    ]
    assert Phrases(told, []).cut(text, (_booking("Rome", 7),), name) == left


def _booking(city: str, hour: int) -> Call:
    return Call(name="book", arguments={"city": city, "time": hour})


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_made_of_nothing(way: Way) -> None:
    assert _make(way, samples=[]) == []


def test_a_way_that_does_not_fit_gives_less() -> None:
    lonely = list(make("join", Random(0), Stock(SAMPLES[:1], ()), 5))
    assert lonely == []
    assert list(make("distractors", Random(0), Stock(SAMPLES[:1], ()), 5)) == []


# -- frames --------------------------------------------------------------------------------------


def _frames(answered: int = 150) -> Frames:
    told = [Answered(sample.query.text, sample.calls) for sample in SAMPLES[:answered]]
    return Frames(REQUESTS, told, REQUESTS[answered:])


def test_frames_are_read_from_the_requests_alone() -> None:
    known = {(frame.opening, frame.closing) for frame in _frames().known}
    assert {
        ("Help me", ", thanks."),
        ("We have to", " soon."),
        ("Hello, I hope to", "."),
        ("Is it possible to", "?"),
    } <= known
    assert not [opening for opening, _ in known if "book" in opening or "find" in opening]


def test_a_request_keeps_what_it_asks() -> None:
    frames, rng = _frames(), Random(0)
    for sample in SAMPLES:
        told = frames.retell(rng, sample.query.text)
        if told is None:
            continue
        assert told != sample.query.text
        for call in sample.calls:
            for value in call.arguments.values():
                if isinstance(value, str) and value in sample.query.text:
                    assert value in told


def test_frames_in_which_the_model_fails_come_most() -> None:
    things = [f"w{number}" for number in range(30)]
    solved = [f"Give me {thing} now." for thing in things]
    failed = [f"Would you hand over {thing}, friend?" for thing in things]
    frames = Frames(
        [*solved, *failed],
        [Answered(text, (Call(name="x", arguments={}),)) for text in solved],
        failed,
    )
    assert frames.known == {
        ("Give me", " now."): 1,
        ("Would you hand over", ", friend?"): 31,
    }
    assert frames.retell(Random(0), "Give me w3 now.") == "Would you hand over w3, friend?"


def test_a_handful_of_requests_has_no_frames() -> None:
    frames = Frames(["Book a table.", "Where am I?"], [], [])
    assert frames.retell(Random(0), "Book a table.") is None
    assert frames.retell(Random(0), "") is None


# -- joints ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def joints() -> Joints:
    samples = [_sample(number) for number in range(900)]
    failed = [fresh_item(number).query for number in range(900, 1200)]
    return Joints([Answered(each.query.text, each.calls) for each in samples], failed)


def test_what_joins_calls_is_read_from_answered_requests(joints: Joints) -> None:
    told = {True: words.NEXT_SAME, False: words.NEXT_OTHER}
    for same, by_style in told.items():
        known = {joint.rstrip() for style in by_style.values() for joint in style}
        assert set(joints.of(same=same)) == known


def test_a_request_goes_on_in_other_words(joints: Joints) -> None:
    text = "Book a table in Rome for 4 people, and later on call a taxi to Porto."
    calls = (
        Call(name="book_table", arguments={"city": "Rome", "people": 4}),
        Call(name="call_taxi", arguments={"destination": "Porto"}),
    )
    first, last = "Book a table in Rome for 4 people", " call a taxi to Porto."
    told = {joints.retell(Random(seed), text, calls) for seed in range(60)}
    assert told == {
        f"{first}{joint}{last}" for joint in joints.of(same=False) if joint != ", and later on"
    }


def test_words_that_the_model_fails_in_join_most() -> None:
    samples = [_sample(number) for number in range(900)]
    answered = [Answered(each.query.text, each.calls) for each in samples]
    failed = [one.text for one in answered if ", and after that" in one.text] * 9
    joints = Joints(answered, failed)
    drawn = [joints.draw(Random(seed), same=False) for seed in range(60)]
    assert drawn.count(", and after that") > 20


def test_calls_without_order_have_no_joint(joints: Joints) -> None:
    text = "Book a table in Rome and then call a taxi to Porto."
    calls = (
        Call(name="call_taxi", arguments={"destination": "Porto"}),
        Call(name="book_table", arguments={"city": "Rome"}),
    )
    assert joints.retell(Random(0), text, calls) is None
    assert joints.retell(Random(0), "Book a table.", calls[1:]) is None
    assert Joints((), ()).draw(Random(0), same=True) is None


# -- phrases -------------------------------------------------------------------------------------


def _phrases(failed: Sequence[str] = ()) -> Phrases:
    many = [_sample(number) for number in range(600)]
    return Phrases([Answered(sample.query.text, sample.calls) for sample in many], failed)


def test_phrases_of_a_parameter_are_read_from_answered_requests() -> None:
    phrases = _phrases()
    assert {("somewhere in", ""), ("located in", ""), ("in", "")} <= set(phrases.of("city"))
    assert ("that takes", " minutes") in phrases.of("minutes")
    assert not [words for words, _ in phrases.of("city") if "and" in words.split()]


def test_a_value_is_brought_in_by_other_words() -> None:
    phrases, rng = _phrases(), Random(0)
    call = Call(name="book_table", arguments={"city": "Rome", "minutes": 90})
    told = {
        phrases.retell(rng, "Book a table in Rome lasting 90 minutes.", (call,)) for _ in range(60)
    }
    assert "Book a table somewhere in Rome that takes 90 minutes." in told
    assert all(text and "Rome" in text and "90" in text for text in told)


def test_words_in_which_the_model_fails_come_most() -> None:
    call = Call(name="book_table", arguments={"city": "Rome"})
    failed = ["Book a seat somewhere in Oslo."] * 5000
    told = [
        _told
        for phrases in [_phrases(failed)]
        for _ in range(40)
        if (_told := phrases.retell(Random(_), "Book a table in Rome.", (call,)))
    ]
    assert told.count("Book a table somewhere in Rome.") >= 35


def test_without_answers_there_are_no_phrases() -> None:
    call = Call(name="book_table", arguments={"city": "Rome"})
    assert Phrases([], []).retell(Random(0), "Book a table in Rome.", (call,)) is None


# -- what others' requests hold ------------------------------------------------------------------


def _answer(text: str, **arguments: object) -> Candidate:
    properties = {name: {"type": "string"} for name in arguments}
    document = {
        "name": "act",
        "description": "Acts.",
        "arguments": {"type": "dict", "properties": properties, "required": []},
    }
    return Candidate(
        query=Query(id=query_id(text), text=text, source="x"),
        tools=(Tool(id=tool_id(document), document=document),),
        calls=(Call(name="act", arguments=dict(arguments)),),
    )


def _all(way: Way, samples: Sequence[Candidate]) -> list[Candidate]:
    requests = [sample.query.text for sample in samples]
    return [
        made.candidate
        for seed in range(20)
        for made in make(way, Random(seed), Stock(samples, (), requests), 20)
    ]


def test_a_value_within_another_stays_as_it_is() -> None:
    samples = [
        _answer("Add an event Meeting with Bob now.", title="Meeting with Bob", attendee="Bob"),
        _answer("Add an event Lunch for Alexandra now.", title="Lunch", attendee="Alexandra"),
    ]
    for made in _all("values", samples):
        for value in made.calls[0].arguments.values():
            assert value in made.query.text


def test_no_frame_holds_a_value() -> None:
    goods = "tea coffee rice milk bread sugar salt soap wine beer corn fish".split()
    samples = [
        _answer(f"Tell me what {good} costs in euros.", item=good, currency="euros")
        if n % 3
        else _answer(f"Tell me what {good} costs.", item=good)
        for n, good in enumerate(goods)
    ] + [_answer(f"I wonder what {good} costs.", item=good) for good in goods]
    made = _all("frames", samples)
    assert made
    for each in made:
        said = "euros" in each.query.text
        assert said == ("currency" in each.calls[0].arguments), each.query.text


def test_joined_requests_keep_a_name_that_one_begins_with() -> None:
    names = "Ann Bela Cora Dora Enna Fay".split()
    samples = [_answer(f"{name} wants the saw.", who=name) for name in names]
    samples += [_answer(f"Would you call {name} now.", who=name, when="now") for name in names]
    for made in _all("join", samples):
        assert all(call.arguments["who"] in made.query.text for call in made.calls)


def test_a_value_that_begins_a_request_keeps_its_case() -> None:
    places = "Alba Bela Cima Dora Enna Fano Gela Husum".split()
    samples = [_answer(f"Please {place} tonight.", place=place) for place in places]
    samples += [_answer(f"Would you {place} tonight.", place=place) for place in places]
    for each in [*_all("frames", samples), *_all("phrases", samples)]:
        assert str(each.calls[0].arguments["place"]) in each.query.text


@pytest.mark.parametrize("value", [250000.0, 1e6, 12.75, -3.5, 5.0, -5, 77])
def test_numbers_are_the_same_in_request_and_call(value: float) -> None:
    text = f"Transfer {repr(value).removesuffix('.0')} now."
    for made in _all("values", [_answer(text, amount=value)]):
        new = made.calls[0].arguments["amount"]
        assert f"Transfer {repr(new).removesuffix('.0')} now." == made.query.text
        assert (new < 0) == (value < 0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "arguments",
    [
        {"type": "dict", "properties": {"x": True}, "required": []},
        {"type": "dict", "properties": {"x": {"type": "string"}}, "required": None},
        {"type": "dict"},
    ],
)
def test_odd_documents_and_foreign_calls_are_passed_over(
    way: Way, arguments: dict[str, object]
) -> None:
    document = {"name": "act", "description": "Acts on a table.", "arguments": arguments}
    odd = Tool(id=tool_id(document), document=document)
    query = Query(id="q_1", text="Act on x.", source="x")
    foreign = Candidate(
        query=Query(id="q_2", text="Book a taxi to Rome.", source="x"),
        tools=SAMPLES[0].tools,
        calls=(Call(name="order_taxi", arguments={"to": "Rome"}),),
    )
    samples = [
        Candidate(query=query, tools=(odd,), calls=(Call(name="act", arguments={"x": "x"}),)),
        foreign,
        *SAMPLES[:5],
    ]
    for made in make(way, Random(0), Stock(samples, [odd], REQUESTS), 20):
        assert {"q_1", "q_2"}.isdisjoint(made.origins)
