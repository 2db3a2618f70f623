"""Servers that answer badly, each asked through HttpEngine with a short timeout.

A mode is what a connection gets, byte by byte, past any library that would mend it. Each is asked
twice: beside good answers, where its own request must end with a reason and the others with their
answers, and alone, where the work must end by the server's error (exit code 3), not by ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from bench.campaign.running import Finding
from factory.domain.failures import FactoryError
from factory.domain.records import ENGINE_DIED, Message, Reply, Request, Sampling
from factory.engines.http import HttpEngine

TIMEOUT_SECONDS = 5.0
"""What the definition of a benchmark would say."""
MOST_SECONDS = 60.0
"""Tries, their waits and the timeout, on a machine that has much else to do."""
GOOD = {"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}]}
BAD = "1"
"""Content of the request that a mode answers, where others are answered well."""

Mode = Callable[[asyncio.StreamWriter], Awaitable[None]]


def head(status: str = "200 OK", **headers: object) -> bytes:
    """A response's head."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"HTTP/1.1 {status}", "Connection: close", *lines, "", ""]).encode()


def whole(body: bytes, status: str = "200 OK", **headers: object) -> bytes:
    """A response with its length."""
    return head(status, Content_Length=len(body), **headers) + body


def said(**changes: object) -> bytes:
    """A good answer, but for the changes in its choice."""
    return whole(json.dumps({"choices": [{**GOOD["choices"][0], **changes}]}).encode())


def sends(content: bytes) -> Mode:
    """The mode that sends just this and closes."""

    async def mode(writer: asyncio.StreamWriter) -> None:
        writer.write(content)
        await writer.drain()

    return mode


def drips(before: bytes, part: bytes, pause: float) -> Mode:
    """The mode that sends `part` for ever, with a pause after each."""

    async def mode(writer: asyncio.StreamWriter) -> None:
        writer.write(before)
        while True:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)

    return mode


BOMB = gzip.compress(b" " * (1 << 28))
MODES: dict[str, Mode] = {
    "hangs": drips(b"", b"", 1.0),
    "hangs after the head": drips(head(Content_Length=100), b"", 1.0),
    "drips its head": drips(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n", 0.2),
    "drips its body": drips(head(Content_Length=10**6), b" ", 0.2),
    "never ends": drips(head(), b" " * (1 << 16), 0.01),
    "never ends its chunks": drips(head(Transfer_Encoding="chunked"), b"10000\r\n" + b" " * 65536
                                   + b"\r\n", 0.01),
    "head without end": drips(b"HTTP/1.1 200 OK\r\nX: ", b"a" * 4096, 0.01),
    "closes at once": sends(b""),
    "cut body": sends(head(Content_Length=1000) + b"{"),
    "broken chunk": sends(head(Transfer_Encoding="chunked") + b"zz\r\n{}\r\n"),
    "not HTTP": sends(b"220 mail.example ready\r\n"),
    "a status that is none": sends(whole(b"{}", "999 What")),
    "a length that is none": sends(head(Content_Length="many") + b"{}"),
    "HTML": sends(whole(b"<html>Sign in</html>", Content_Type="text/html")),
    "empty": sends(whole(b"")),
    "no content": sends(head("204 No Content")),
    "redirects to itself": sends(whole(b"", "301 Moved", Location="/v1/chat/completions")),
    "null": sends(whole(b"null")),
    "list": sends(whole(json.dumps([GOOD]).encode())),
    "deep JSON": sends(whole(b"[" * 500_000)),
    "a number of 5000 digits": sends(whole(b'{"choices": ' + b"9" * 5000 + b"}")),
    "invalid UTF-8": sends(whole(b'{"choices": [{"message": {"content": "\xff"}}]}')),
    "no choices": sends(whole(b'{"choices": []}')),
    "choices of null": sends(whole(b'{"choices": [null]}')),
    "an error with status 200": sends(whole(b'{"error": {"message": "model is loading"}}')),
    "content of numbers": sends(said(message={"content": [1, 2]})),
    "tool calls of text": sends(said(message={"content": None, "tool_calls": "f()"})),
    "logprobs of text": sends(said(logprobs={"content": [{"logprob": "x"}]})),
    "filtered": sends(said(finish_reason="content_filter")),
    "gzip that is none": sends(whole(b"{}", Content_Encoding="gzip")),
    "gzip bomb": sends(whole(BOMB, Content_Encoding="gzip")),
    "busy": sends(whole(b"later", "503 Service Unavailable")),
    "refuses": sends(whole(b"no such model", "400 Bad Request")),
    "fails": sends(whole(b"CUDA out of memory", "500 Internal Server Error")),
}  # fmt: skip


@contextlib.asynccontextmanager
async def serving(mode: Mode, always: bool) -> AsyncIterator[str]:
    """A server with the mode, `always` or for the request BAD alone; its address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
            start = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(start.split(b"content-length:")[1].split(b"\r\n")[0])
            asked = json.loads(await reader.readexactly(length))["messages"][0]["content"]
            good = sends(whole(json.dumps(GOOD).encode()))
            await (mode if always or asked == BAD else good)(writer)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()


def ask_for(number: int) -> Request:
    """A request whose content is its number."""
    return Request(
        id=f"q{number}",
        messages=(Message(role="user", content=str(number)),),
        sampling=Sampling(max_tokens=16),
        logprob=True,
    )


async def ask(mode: Mode, always: bool) -> list[Reply] | FactoryError:
    """Three requests to a server of this mode, and what came of them."""
    async with (
        serving(mode, always) as url,
        HttpEngine(url, "m", timeout_seconds=TIMEOUT_SECONDS) as engine,
    ):
        try:
            replies = await engine.sample([ask_for(number) for number in range(3)])
            engine.check_answered()
        except FactoryError as error:
            return error
    return replies


async def try_mode(name: str, mode: Mode) -> Finding:
    """What a mode does beside good answers, and alone."""
    started = time.monotonic()
    try:
        beside, alone = await asyncio.gather(ask(mode, False), ask(mode, True))
    except Exception as error:  # what the command would call our bug
        found = f"our bug: {type(error).__name__}: {error}"
        return Finding(what=name, wanted="a reason, exit 3", found=found[:110], is_right=False)
    seconds = time.monotonic() - started
    told = f"exit {alone.exit_code}" if isinstance(alone, FactoryError) else "a score"
    reason = "no reason"
    if isinstance(beside, list):
        texts = [reply.completions[0].text for reply in beside]
        bad = beside[int(BAD)].completions[0]
        if texts == ["yes", "", "yes"] and bad.finish_reason == ENGINE_DIED:
            reason = bad.fault or reason
    is_right = told == "exit 3" and reason != "no reason" and seconds < MOST_SECONDS
    found = f"{told}, {seconds:.0f} s: {reason}"
    return Finding(what=name, wanted="a reason, exit 3", found=found[:110], is_right=is_right)


def run_servers() -> list[Finding]:
    """All modes, some at once: most of their time is waiting."""

    async def run() -> list[Finding]:
        slots = asyncio.Semaphore(4)

        async def take(name: str, mode: Mode) -> Finding:
            async with slots:
                return await try_mode(name, mode)

        return await asyncio.gather(*(take(name, mode) for name, mode in MODES.items()))

    return asyncio.run(run())
