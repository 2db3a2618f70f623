"""Servers that answer badly, slowly or never: each is a reason on the request, in time."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import pytest
from bad_server import (
    GOOD,
    BadServer,
    Handler,
    Mode,
    body,
    choice,
    cut_chunks,
    drip,
    drip_headers,
    endless,
    hang,
    message,
    serving,
)

from factory.domain.failures import MissingError
from factory.domain.records import ENGINE_DIED, Message, Reply, Request, Sampling
from factory.engines import http
from factory.engines.http import HttpEngine
from factory.engines.serving import check_answered

pytest.importorskip("httpx", reason="no httpx: pip install 'tool-factory[http]'")


def request(number: int = 0) -> Request:
    return Request(
        id=f"q{number}",
        messages=(Message(role="user", content=str(number)),),
        sampling=Sampling(max_tokens=16),
        logprob=True,
    )


def ask(server: BadServer, count: int = 1, seconds: float = 5.0) -> list[Reply]:
    """Replies to requests that are asked one by one, all in flight, as scoring does."""

    async def run() -> list[Reply]:
        async with HttpEngine(server.url, "m", timeout_seconds=seconds) as engine:
            found = await asyncio.gather(*(engine.sample([request(n)]) for n in range(count)))
            check_answered(engine)
            return [reply for (reply,) in found]

    return asyncio.run(run())


BOMB = gzip.compress(gzip.compress(b" " * (1 << 28)) * 8)
"""Two GB in a few KB, of which the first step is what a client unpacks."""
FLAT_BOMB = gzip.compress(b" " * (1 << 28))

MALFORMED: dict[str, Mode] = {
    "no JSON": body(b"So be it."),
    "HTML": lambda h, _: h.answer(b"<html>Sign in</html>", Content_Type="text/html"),
    "empty": body(b""),
    "list": body([GOOD]),
    "null": body(None),
    "number": body(7),
    "no choices": body({"id": "x"}),
    "choices is null": body({"choices": None}),
    "choices is empty": body({"choices": []}),
    "choices is an object": body({"choices": {"0": 1}}),
    "choices of strings": body({"choices": ["yes"]}),
    "choices of null": body({"choices": [None]}),
    "an error with status 200": body({"error": {"message": "model is loading"}}),
    "no message": body({"choices": [{"finish_reason": "stop"}]}),
    "message is text": choice(message="yes"),
    "no finish_reason": body({"choices": [{"message": {"content": "yes"}}]}),
    "content is a number": message(content=5),
    "content of numbers": message(content=[1, 2]),
    "content of texts": message(content=["yes"]),
    "tool_calls is text": message(content=None, tool_calls="book_table(people=4)"),
    "tool_calls of texts": message(content=None, tool_calls=["book_table"]),
    "tool_calls of nothing": message(content=None, tool_calls=[{"id": "call_1"}]),
    "function_call is text": message(content=None, function_call="book_table"),
    "logprobs is text": choice(logprobs="-1"),
    "logprobs of texts": choice(logprobs={"content": [{"logprob": "x"}]}),
    "logprobs too large": choice(logprobs={"content": [{"logprob": 10**400}]}),
    "invalid UTF-8": body(b'{"choices": [{"message": {"content": "\xff\xfe"}}]}'),
    "deep JSON": body(b"[" * 500_000),
    "a number of 5000 digits": body(b'{"choices": ' + b"9" * 5000 + b"}"),
    "cut JSON": body(json.dumps(GOOD).encode()[:-9]),
    "cut chunks": cut_chunks,
    "cut body": lambda h, _: h.start(Content_Length="1000"),
    "not HTTP": lambda h, _: [h.wfile.write(b"220 mail.example ready\r\n"), None][1],
    "closed at once": lambda h, _: None,
    "204": lambda h, _: h.answer(b"", 204),
    "301 to itself": lambda h, _: h.answer(b"", 301, Location=h.path),
    "307 to an address that is none": lambda h, _: h.answer(b"", 307, Location="http://[::"),
    "gzip that is none": lambda h, _: h.answer(b"{}", Content_Encoding="gzip"),
    "cut gzip": lambda h, _: h.answer(
        gzip.compress(json.dumps(GOOD).encode())[:30], Content_Encoding="gzip"
    ),
    "a packing not asked for": lambda h, _: h.answer(b"{}", Content_Encoding="br"),
    "gzip bomb": lambda h, _: h.answer(FLAT_BOMB, Content_Encoding="gzip"),
    "a bomb in a bomb": lambda h, _: h.answer(BOMB, Content_Encoding="gzip"),
    "endless body": endless,
    "400": lambda h, _: h.answer(b"no such model", 400),
    "filtered": choice(finish_reason="content_filter"),
}


@pytest.fixture(autouse=True)
def without_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "FIRST_WAIT_SECONDS", 0.001)


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_answer_is_a_reason_on_the_request(name: str) -> None:
    """The other requests keep their answers."""

    def mode(handler: Handler, sent: dict[str, Any]) -> None:
        if sent["messages"][0]["content"] == "1":
            MALFORMED[name](handler, sent)
        else:
            body(GOOD)(handler, sent)

    with serving(mode) as server:
        first, bad, last = ask(server, 3)
    assert (first.completions[0].text, last.completions[0].text) == ("yes", "yes")
    assert (bad.completions[0].finish_reason, bad.completions[0].text) == (ENGINE_DIED, "")
    fault = bad.completions[0].fault
    assert 10 < len(fault) < 500 and fault.isprintable(), fault


@pytest.mark.parametrize("name", MALFORMED)
def test_a_server_that_gives_no_other_answer_ends_the_work(name: str) -> None:
    with (
        serving(MALFORMED[name]) as server,
        pytest.raises(MissingError, match="nothing but errors") as error,
    ):
        ask(server, 2)
    assert server.url in str(error.value) and error.value.exit_code == 3


@pytest.mark.parametrize("mode", [hang, drip, drip_headers])
def test_a_hang_and_a_drip_end_at_the_timeout(mode: Mode) -> None:
    with serving(mode) as server, pytest.raises(MissingError, match=r"within 0\.3 s"):
        ask(server, 300, seconds=0.3)
    assert server.num_asked < 100, "once, and not for each request"


def test_a_time_that_ends_between_tries_keeps_what_the_last_one_met(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "FIRST_WAIT_SECONDS", 60.0)

    def mode(handler: Handler, sent: dict[str, Any]) -> None:
        if sent["messages"][0]["content"] == "0":
            body(GOOD)(handler, sent)
        else:
            handler.answer(b"{not JSON", 200)

    with serving(mode) as server:
        good, bad = ask(server, 2, seconds=1.0)
    assert good.completions[0].text == "yes"
    fault = bad.completions[0].fault
    assert "no answer within 1 s; before that, not an answer" in fault and "{not JSON" in fault


@pytest.mark.parametrize(
    "mode",
    [
        message(content=None, tool_calls=None),
        choice(logprobs=None),
        choice(token_ids=["a", -1, 2**70]),
        body({**GOOD, "usage": [1]}),
        body({**GOOD, "usage": {"prompt_tokens": 10**30, "completion_tokens": "many"}}),
        body({**GOOD, "id": 7, "object": None, "model": "another"}),
        choice(index="first", finish_reason=["stop"]),
        lambda h, _: h.answer(gzip.compress(json.dumps(GOOD).encode()), Content_Encoding="gzip"),
    ],
)
def test_what_is_odd_beside_an_answer_is_left_aside(mode: Mode) -> None:
    with serving(mode) as server:
        (reply,) = ask(server)
    assert reply.completions[0].finish_reason == "stop" and not reply.completions[0].fault
    assert reply.completions[0].token_ids == () and reply.num_prompt_tokens == 0


def test_a_server_that_fails_at_times_is_asked_again() -> None:
    tries: dict[str, int] = {}

    def mode(handler: Handler, sent: dict[str, Any]) -> None:
        key = sent["messages"][0]["content"]
        tries[key] = tries.get(key, 0) + 1
        bad = (cut_chunks, MALFORMED["HTML"], lambda h, _: h.answer(b"", 503))[int(key) % 3]
        (bad if tries[key] < 3 else body(GOOD))(handler, sent)

    with serving(mode) as server:
        replies = ask(server, 12)
    assert {reply.completions[0].text for reply in replies} == {"yes"}
    assert set(tries.values()) == {3}


def test_a_server_that_goes_away_for_good_ends_the_work() -> None:
    def mode(handler: Handler, sent: dict[str, Any]) -> None:
        if int(sent["messages"][0]["content"]) < 5:
            body(GOOD)(handler, sent)

    with (
        serving(mode) as server,
        pytest.raises(MissingError, match="nothing but errors: the server does not answer"),
    ):
        ask(server, 300)
