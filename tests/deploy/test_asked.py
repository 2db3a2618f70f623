"""Chats of OpenAI's API in the words in which models are trained to be asked."""

from __future__ import annotations

from typing import Any

import pytest
from workspaces import ROOT

from factory.deploy.asked import own_chat, read_asked
from factory.domain.failures import InputError
from factory.domain.records import Call, Tool
from factory.lessons.examples import call_chat
from factory.lessons.records import Utterance
from factory.score.calls.kind import Benchmark, make_request
from factory.tools.dialects import to_openai
from factory.workspace.folder import Workspace
from factory.workspace.prompts import Prompts

WORKSPACE = Workspace.locate(ROOT)
PROMPTS = Prompts.load(WORKSPACE)


def tool(name: str, **more: Any) -> dict[str, Any]:
    properties = {"people": {"type": "integer"}}
    schema = {"type": "object", "properties": properties, "required": ["people"]}
    function = {"name": name, "description": "Book.", "parameters": schema}
    return {"type": "function", "function": function | more}


def body(*contents: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text} for text in contents], **more}


@pytest.mark.parametrize("name", ["home", "home-dev", "home-abstain"])
def test_a_benchmarks_question_comes_out_as_it_is_scored(name: str) -> None:
    """Message for message, from the tools as OpenAI's API has them."""
    benchmark = Benchmark.load(WORKSPACE, name)
    for item in benchmark.items:
        messages = [message.to_json() for message in item.turn]
        asked = read_asked({"messages": messages, "tools": item.openai_tools})
        wanted = make_request(benchmark, item, PROMPTS).messages
        assert own_chat(asked, asked.documents, PROMPTS) == wanted, item.id


def test_rules_of_the_system_follow_the_tools_as_in_scoring() -> None:
    item = Benchmark.load(WORKSPACE, "home").items[0]
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    asked = read_asked({"messages": messages, "tools": item.openai_tools})
    system, user = own_chat(asked, asked.documents, PROMPTS)
    assert system.content.endswith("</tool_call>\n\nBe brief.")
    assert user.content == "Hi"


def test_a_conversation_with_calls_comes_out_as_one_is_taught() -> None:
    call = {"name": "book_table", "arguments": '{"people": 4}'}
    messages = [
        {"role": "user", "content": "A table for 4"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "a", "type": "function", "function": call}],
        },
        {"role": "tool", "tool_call_id": "a", "content": "done"},
        {"role": "assistant", "content": "Booked."},
        {"role": "user", "content": [{"type": "text", "text": "And for 5"}]},
    ]
    asked = read_asked({"messages": messages, "tools": [tool("book_table")]})
    turns = [
        Utterance(speaker="user", text="A table for 4"),
        Utterance(
            speaker="assistant", text="", calls=(Call(name="book_table", arguments={"people": 4}),)
        ),
        Utterance(speaker="tool", text="done"),
        Utterance(speaker="assistant", text="Booked."),
        Utterance(speaker="user", text="And for 5"),
    ]
    tools = [Tool(id="t_1", document=document) for document in asked.documents]
    wanted = call_chat("A table for 4", tools, turns, PROMPTS, is_taught=False)
    assert own_chat(asked, asked.documents, PROMPTS) == wanted
    assert asked.called == {"book_table"} and asked.query == "And for 5"


def test_a_response_is_the_last_turn() -> None:
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "tool", "tool_call_id": "a", "content": "42"},
    ]
    asked = read_asked({"messages": messages})
    assert asked.query == ""
    (message,) = own_chat(asked, (), PROMPTS)
    assert message.content == "Hi\n\n<tool_response>\n42\n</tool_response>"


def answered(*ids: str | None, called: tuple[str | None, ...] = ("c1", "c2")) -> dict[str, Any]:
    """A conversation in which two tools are called, and what answers which call."""
    calls = [
        {"type": "function", "function": {"name": name, "arguments": "{}"}}
        | ({"id": ident} if ident else {})
        for ident, name in zip(called, ("get_price", "get_stock"), strict=True)
    ]
    responses = [
        {"role": "tool", "content": f"{number}: {ident}"}
        | ({"tool_call_id": ident} if ident else {})
        for number, ident in enumerate(ids)
    ]
    said = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": None, "tool_calls": calls},
    ]
    return {"messages": [*said, *responses]}


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        (answered("c1", "c2"), ["0: c1", "1: c2"]),
        (answered("c2", "c1"), ["1: c1", "0: c2"]),
        (answered("c1"), ["0: c1"]),
        (answered(None, None), ["0: None", "1: None"]),
        (answered("c2", "c1", called=(None, None)), ["0: c2", "1: c1"]),
    ],
)
def test_responses_are_in_the_order_of_the_calls_that_they_name(
    asked: dict[str, Any], wanted: list[str]
) -> None:
    turns = read_asked(asked).turns
    assert [turn.text for turn in turns if turn.speaker == "tool"] == wanted
    if len(wanted) == 2:
        native = own_chat(read_asked(asked), (), Prompts(WORKSPACE, form="native"))
        assert [message.content for message in native if message.role == "tool"] == wanted


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (("c1", "c9"), r"messages\[3\].tool_call_id: 'c9' is no call that waits"),
        (("c1", "c1"), r"messages\[3\].tool_call_id: 'c1' is no call that waits"),
        (("c1", None), r"messages\[3\].tool_call_id: None is no call that waits"),
        (("c1", "c2", "c1"), r"messages\[4\].tool_call_id: 'c1' is no call that waits"),
        (("c2",), r"messages\[2\]: 'c1' has no response, and a later call has"),
    ],
)
def test_a_response_to_no_call_that_waits_is_refused(
    ids: tuple[str | None, ...], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        read_asked(answered(*ids))


def test_who_has_to_be_called() -> None:
    tools = [tool("book_table"), tool("book_room")]
    named = {"type": "function", "function": {"name": "book_room"}}
    names = {
        str(choice): [each["name"] for each in read_asked(body("x", **choice, tools=tools)).bound]
        for choice in ({}, {"tool_choice": "auto"}, {"tool_choice": "required"})
    }
    assert list(names.values()) == [[], [], ["book_table", "book_room"]]
    asked = read_asked(body("x", tools=tools, tool_choice=named))
    assert [each["name"] for each in asked.bound] == ["book_room"] and not asked.may_speak
    strict = read_asked(body("x", tools=[tool("book_table", strict=True)]))
    assert strict.bound and strict.may_speak
    silent = read_asked(body("x", tools=[tool("book_table", strict=True)], tool_choice="none"))
    assert silent.bound == ()
    assert not read_asked(body("x", tools=[*tools, tool("other", strict=True)])).bound


def test_a_document_of_the_catalogue_is_read_back_as_it_is() -> None:
    (document,) = read_asked(body("x", tools=[tool("book_table")])).documents
    assert read_asked(body("x", tools=[to_openai(document)])).documents == (document,)
    assert document["arguments"]["type"] == "dict"
    assert to_openai(document) == tool("book_table")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({}, "messages: a list"),
        ({"messages": [{"role": "system", "content": "x"}]}, "nobody asks"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "'robot' is no role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "holds 'image_url': this model is asked in text alone",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "text": "x"}]}]},
            "holds 'image_url': this model is asked in text alone",
        ),
        ({"messages": [{"role": [], "content": "x"}]}, "[] is no role"),
        (body("x", tools=[tool("a"), tool("a")]), "'a' is given 2 times"),
        (body("x", tools=[{"type": "web_search"}]), "tools[0] cannot be read"),
        (body("x", tools={}), "tools: a list"),
        (body("x", tool_choice="always"), "tool_choice"),
        (
            body("x", tools=[tool("a")], tool_choice={"function": {"name": "b"}}),
            "tool_choice names 'b', which is none of the tools",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}]},
            "messages[0].tool_calls",
        ),
    ],
)
def test_what_cannot_be_asked_is_named(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        read_asked(wrong)
    assert said in caught.value.what
