"""The HTTP engine against a real server on the loopback, and the addresses it refuses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import pytest
from model_server import Server, serving

from factory.domain.failures import InputError, MissingError
from factory.domain.records import (
    ENGINE_DIED,
    PROMPT_TOO_LONG,
    Call,
    Constraint,
    Message,
    Request,
    Sampling,
)
from factory.engines import http
from factory.engines.http import HttpEngine, resolve
from factory.judge.reading import parse_calls

pytest.importorskip("httpx", reason="no httpx: pip install 'tool-factory[http]'")


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that says what it was asked, with the seed."""
    with serving(lambda body: f"{body['messages'][-1]['content']} {body['seed']}") as server:
        yield server


def chat(request_id: str, text: str, **sampling: Any) -> Request:
    return Request(
        id=request_id,
        messages=(Message(role="system", content="s"), Message(role="user", content=text)),
        sampling=Sampling(**sampling),
    )


def ask(server: Server, *requests: Request) -> list[Any]:
    async def run() -> list[Any]:
        async with HttpEngine(server.url, "judge") as engine:
            assert engine.checkpoint.id == "judge"
            return await engine.sample(requests)

    return asyncio.run(run())


def test_samples_come_back_in_order_each_with_its_seed(server: Server) -> None:
    replies = ask(
        server,
        chat("a", "one", n=3, temperature=0.7, top_k=40, seed=5),
        replace(chat("b", "two", n=2, temperature=0.0, seed=1), logprob=False),
    )
    assert [c.text for c in replies[0].completions] == ["one 5", "one 6", "one 7"]
    assert [c.text for c in replies[1].completions] == ["two 1"] * 2
    assert replies[0].completions[0].logprob == -0.75
    assert replies[0].num_prompt_tokens == 7
    assert replies[1].completions[0].logprob == 0, "it is asked for only where it is wanted"
    assert len(server.seen) == 4, "greedy needs one call however many are asked for"
    first = next(body for body in server.seen if body["seed"] == 5)
    assert (first["path"], first["top_k"], first["model"]) == ("/v1/chat/completions", 40, "judge")
    assert first["host"] == server.url.split("/")[2]


def test_earlier_calls_and_their_responses_go_along(server: Server) -> None:
    tool = {"name": "look", "description": "", "arguments": {"type": "dict", "properties": {}}}
    looks = (Call(name="look", arguments={"at": "é"}), Call(name="look", arguments={}))
    said = [
        Message(role="system", content="", tools=(tool,)),
        Message(role="user", content="Look."),
        Message(role="assistant", content="", calls=looks),
        Message(role="tool", content="a wall"),
        Message(role="tool", content="a door"),
        Message(role="assistant", content="", calls=looks[1:]),
        Message(role="tool", content="a key"),
    ]
    ask(server, Request(id="a", messages=tuple(said), sampling=Sampling()))
    (body,) = server.seen
    assert [t["function"]["name"] for t in body["tools"]] == ["look"]
    user, first, *responses, second, last = body["messages"]
    assert user == {"role": "user", "content": "Look."}
    called = [(c["id"], c["function"]["arguments"]) for c in first["tool_calls"]]
    assert [json.loads(arguments) for _, arguments in called] == [{"at": "é"}, {}]
    assert [(m["tool_call_id"], m["content"]) for m in responses] == [
        (called[0][0], "a wall"),
        (called[1][0], "a door"),
    ]
    assert first["content"] is None and first["role"] == "assistant"
    (call,) = second["tool_calls"]
    assert last["tool_call_id"] == call["id"] not in dict(called)


def test_a_key_is_sent_where_there_is_one(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(server, chat("a", "one"))
    monkeypatch.setenv(http.KEY_VARIABLE, "secret")
    ask(server, chat("b", "two"))
    assert [body["key"] for body in server.seen] == [None, "Bearer secret"]


@pytest.mark.parametrize("key", ["schlüssel", "a\r\nHost: x", "a\n", " a", "\x7f"])
def test_a_key_that_no_header_carries_is_named(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv(http.KEY_VARIABLE, key)
    with pytest.raises(InputError, match="letters that no header carries"):
        HttpEngine("http://127.0.0.1:1/v1", "judge")


def test_a_key_that_goes_out_unencrypted_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def caution(url: str) -> str:
        engine = HttpEngine(url, "judge", allow_public=True)
        asyncio.run(engine.close())
        return engine.caution

    assert caution("http://1.1.1.1/v1") == ""
    monkeypatch.setenv(http.KEY_VARIABLE, "secret of 2 words")
    assert "goes to 1.1.1.1 unencrypted" in caution("http://1.1.1.1/v1")
    assert caution("https://1.1.1.1/v1") == caution("http://127.0.0.1:1/v1") == ""


def test_a_raw_prompt_goes_to_completions(server: Server) -> None:
    (reply,) = ask(server, Request(id="p", prompt="abc", sampling=Sampling()))
    assert (reply.completions[0].text, reply.completions[0].finish_reason) == ("cba", "length")
    assert server.seen[0]["path"] == "/v1/completions"


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def call(arguments: object) -> dict[str, Any]:
    called = {"type": "function", "function": {"name": "f", "arguments": arguments}}
    message = {"role": "assistant", "content": None, "tool_calls": [called]}
    return {"message": message, "finish_reason": "tool_calls"}


def test_every_field_of_a_request_is_sent_or_refused() -> None:
    """A field that is added to either record has to be thought of here."""
    sampling = Sampling(n=2, temperature=0.5, top_k=3, top_p=0.9, max_tokens=7, seed=11)
    request = Request(
        id="r", sampling=sampling, messages=chat("", "one").messages, tools=(TOOL,), logprob=True
    )
    sent = {"temperature": 0.5, "top_k": 3, "top_p": 0.9, "max_tokens": 7, "logprobs": True}
    with serving(lambda body: "x") as server:
        ask(server, request)
        assert {body["seed"] for body in server.seen} == {11, 12}, "n and seed"
        for body in server.seen:
            assert sent.items() <= body.items() and body["tools"] == [TOOL]
            assert [m["role"] for m in body["messages"]] == ["system", "user"]
        raw = replace(request, messages=(), tools=(), prompt="abc")
        (reply,) = ask(server, raw)
        assert (server.seen[-1]["prompt"], reply.completions[0].logprob) == ("abc", -1.5)
        number = len(server.seen)
        for refused in (
            replace(raw, tools=(TOOL,)),
            replace(request, constraint=Constraint(tools=({},))),
            replace(request, sampling=replace(sampling, beam=True)),
        ):
            with pytest.raises(InputError):
                ask(server, refused)
        assert len(server.seen) == number, "nothing of it is sent"
    assert {field.name for field in fields(Sampling)} == {
        *("n", "temperature", "top_k", "top_p", "max_tokens", "seed", "beam")
    }
    assert {field.name for field in fields(Request)} == {
        *("id", "sampling", "messages", "prompt", "constraint", "tools", "logprob")
    }


@pytest.mark.parametrize(
    ("choice", "kind", "finish"),
    [
        (call('{"a": 1}'), "calls", "stop"),
        (call({"a": 1}), "calls", "stop"),
        (call('{"a": '), "unreadable", "stop"),
        (call("</tool_call>"), "unreadable", "stop"),
        ({**call('{"a": 1}'), "finish_reason": "length"}, "calls", "length"),
        ({"message": {"content": "So"}, "finish_reason": "length"}, "abstention", "length"),
        (
            {"message": {"content": ""}, "finish_reason": "content_filter"},
            "abstention",
            ENGINE_DIED,
        ),
        ({"message": {"content": "No."}, "finish_reason": "stop"}, "abstention", "stop"),
    ],
)
def test_calls_and_endings_of_a_server_are_read(
    choice: dict[str, Any], kind: str, finish: str
) -> None:
    request = replace(chat("a", "one"), tools=(TOOL,), logprob=False)
    with serving(lambda body: choice) as server:
        ((completion,),) = [reply.completions for reply in ask(server, request)]
    found = parse_calls(completion.text)
    assert (found.kind, completion.finish_reason) == (kind, finish), found
    if kind == "calls":
        assert found.calls == (Call(name="f", arguments={"a": 1}),) and completion.calls_apart


def test_the_text_parts_of_a_content_are_its_text() -> None:
    parts: Any = [{"type": "text", "text": "So "}, {"type": "thinking", "thinking": []}]
    choice = {"message": {"content": [*parts, {"type": "text", "text": "be it."}]}}
    with serving(lambda body: choice | {"finish_reason": "stop"}) as server:
        (reply,) = ask(server, replace(chat("a", "one"), logprob=False))
    assert reply.completions[0].text == "So be it."


def test_a_busy_server_is_asked_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "FIRST_WAIT_SECONDS", 0.001)
    server.statuses = [503, 429]
    (reply,) = ask(server, chat("a", "one"))
    assert reply.completions[0].text == "one 0"
    server.statuses = [500] * 2 * http.MAX_TRIES
    (reply,) = ask(server, chat("a", "one", n=2, temperature=1.0))
    assert {c.finish_reason for c in reply.completions} == {ENGINE_DIED}
    assert len(reply.completions) == 2


def test_a_long_prompt_and_a_refusal_are_reasons(server: Server) -> None:
    server.statuses = [400]
    (reply,) = ask(server, chat("a", "one"))
    assert reply.completions[0].finish_reason == PROMPT_TOO_LONG
    for status in (404, 302):
        server.statuses = [status]
        (reply,) = ask(server, chat("a", "one"))
        assert reply.completions[0].finish_reason == ENGINE_DIED
        assert f"the server refuses: {status}" in reply.completions[0].fault
    assert len(server.seen) == 3, "a redirect is not followed"


def test_constraints_cannot_be_kept(server: Server) -> None:
    with pytest.raises(InputError, match="trie"):
        request = chat("a", "one")
        ask(
            server,
            Request(
                id="c",
                messages=request.messages,
                sampling=request.sampling,
                constraint=Constraint(trie="t"),
            ),
        )


def test_a_server_that_is_away_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "FIRST_WAIT_SECONDS", 0.001)

    async def run() -> None:
        async with HttpEngine("http://127.0.0.1:1/v1", "judge") as engine:
            await asyncio.gather(*(engine.sample([chat("a", "one")]) for _ in range(100)))

    with pytest.raises(MissingError, match="does not answer: ConnectError"):
        asyncio.run(run())


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000/v1",
        "http://localhost/v1",
        "https://192.168.1.7:8000",
        "http://10.1.2.3",
        "http://172.16.0.9",
        "http://100.64.0.1",
        "http://[::1]:8000/v1",
        "http://[fd00::1]/v1",
        "http://[::ffff:127.0.0.1]/",
    ],
)
def test_private_addresses_are_allowed(url: str) -> None:
    assert resolve(url)


@pytest.mark.parametrize(
    "url", ["http://8.8.8.8/v1", "https://[2606:4700::1111]/", "http://[::ffff:8.8.8.8]/v1"]
)
def test_public_addresses_need_a_flag(url: str) -> None:
    with pytest.raises(InputError, match="public address"):
        resolve(url)
    assert resolve(url, allow_public=True)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "127.0.0.1:8000", "http://", "http://a:b/"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="http address"):
        resolve(url)


def test_a_name_is_judged_by_all_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    def both(*_: Any, **__: Any) -> list[Any]:
        return [(2, 1, 6, "", ("127.0.0.1", 80)), (2, 1, 6, "", ("8.8.4.4", 80))]

    monkeypatch.setattr(http.socket, "getaddrinfo", both)
    with pytest.raises(InputError, match=r"8\.8\.4\.4"):
        resolve("http://judge.example/v1")
