"""An engine behind HTTP: any OpenAI-compatible server on the user's own machine or network.

The address is resolved once and must not be public unless that is allowed; requests then go to the
address that was checked, past proxies and redirects. Such a server has no tries, so it cannot
serve constrained requests: it judges, simulates and answers.

Whatever it answers with is data: bodies are read up to a size, unpacked as they come, and within
the time given for one answer. What is no answer is a reason on the request; a server that gives
nothing else ends the work.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import math
import os
import re
import socket
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from factory.domain.canon import to_json
from factory.domain.failures import InputError, MissingError
from factory.domain.plaintext import shorten
from factory.domain.records import (
    CONTEXT_FULL,
    ENGINE_DIED,
    PROMPT_TOO_LONG,
    Checkpoint,
    Completion,
    FinishReason,
    Message,
    Reply,
    Request,
)
from factory.engines.base import Closing, check_request, unanswered
from factory.engines.turn import write_call
from factory.tools.dialects import to_openai
from factory.workspace.models import is_installed

if TYPE_CHECKING:
    import httpx

KEY_VARIABLE = "FACTORY_API_KEY"
"""Environment variable with the key that servers are sent."""
_KEY = re.compile("[!-~](?:[ -~]*[!-~])?")
MAX_TRIES = 4
"""A request that meets a busy, restarting or failing server is sent so often."""
FIRST_WAIT_SECONDS = 0.5
"""Before the second try; doubled each time."""
TIMEOUT_SECONDS = 600.0
"""For one answer, with all its tries, unless told."""
BODY_BYTES = 1 << 20
"""Of an answer, unpacked, whatever it says."""
TOKEN_BYTES = 1024
"""More of it for each token that it may have: text, log-probability and what frames them."""
NEVER_ANSWERED = 8
"""Requests that have failed in a row, none before them answered: there is nothing to wait for."""
GONE = 64
"""Requests to a server that did answer, all of which it then left without a response."""
_TOOLS_REMEDY = (
    "; a server that takes no tools needs an option for it (vLLM: --enable-auto-tool-choice "
    "--tool-call-parser NAME), or --prompt own"
)
TRY_AGAIN = frozenset({429, 500, 502, 503, 504})
"""Status codes of a server that may answer later."""


class NoAnswer(Exception):
    """Why there is no answer; str() says it."""

    def __init__(
        self,
        what: str,
        *,
        reason: FinishReason = ENGINE_DIED,
        passes: bool = False,
        is_away: bool = False,
    ) -> None:
        """`passes`: it may be otherwise when asked again; `is_away`: no response at all."""
        super().__init__(what)
        self.reason, self.passes, self.is_away = reason, passes, is_away


class HttpEngine(Closing):
    """An Engine over a server's `/chat/completions` and `/completions`.

    Example: async with HttpEngine("http://127.0.0.1:8000/v1", "judge") as engine: …

    A request's n samples are n calls with seeds seed … seed+n-1, since not all servers know `n`;
    `top_k` is sent where it is on and is then the server's to know.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        allow_public: bool = False,
        max_in_flight: int = 32,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        """Check address and key. Raises what `resolve` and `check_key` raise, and MissingError
        without httpx.
        """
        if not is_installed("httpx"):
            raise MissingError("httpx is not installed", remedy="pip install 'tool-factory[http]'")
        import httpx

        host = urlsplit(url).hostname or ""
        address = resolve(url, allow_public=allow_public)
        key = check_key(os.environ.get(KEY_VARIABLE, ""), KEY_VARIABLE)
        self.caution = ""
        """What the caller should know before it asks; empty is nothing."""
        if key and urlsplit(url).scheme == "http" and _is_public(address):
            self.caution = (
                f"the key in {KEY_VARIABLE} goes to {host} unencrypted, which is no host of your "
                f"network: use https, or unset {KEY_VARIABLE}"
            )
        base = httpx.URL(url.rstrip("/") + "/")
        self._client = httpx.AsyncClient(
            base_url=base.copy_with(host=address),
            headers={
                "Host": base.netloc.decode("ascii"),
                "Accept-Encoding": "gzip",
                **({"Authorization": f"Bearer {key}"} if key else {}),
            },
            timeout=httpx.Timeout(None, connect=10.0),  # the whole answer has a time: _ask
            limits=httpx.Limits(max_connections=max_in_flight),
            trust_env=False,
            follow_redirects=False,
        )
        self._extensions = {"sni_hostname": host} if base.scheme == "https" else {}
        self._slots = asyncio.Semaphore(max_in_flight)
        self._timeout = timeout_seconds
        self._url = url
        self._num_answers = 0
        self._asking: set[asyncio.Task[tuple[Completion, int] | NoAnswer]] = set()
        self._in_a_row: list[NoAnswer] = []
        self._last: tuple[NoAnswer, Request] | None = None
        self.checkpoint = Checkpoint(id=model, path=url, fingerprint="unknown")
        """The model as the server calls it; nobody can tell its weights' fingerprint."""

    async def close(self) -> None:
        """End what is still asked, and the connections."""
        for task in (asking := list(self._asking)):
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        await self._client.aclose()

    async def sample(self, requests: Sequence[Request]) -> list[Reply]:
        """Replies in the order of `requests`.

        A prompt that the server finds too long, and one that it gives no answer to, is answered by
        completions without tokens (PROMPT_TOO_LONG, ENGINE_DIED) that say why. Raises InputError
        for a request with a constraint, MissingError where the server gives no answer at all.
        """
        for request in requests:
            check_request(request)
            if request.constraint is not None:
                raise InputError(
                    "a server behind HTTP cannot keep to a trie or a schema",
                    where=request.id,
                    remedy="serve the checkpoint itself: give its folder in place of the address",
                )
        return list(await asyncio.gather(*map(self._reply, requests)))

    def check_answered(self) -> None:
        """Raise MissingError where it was asked since the last check and gave no answer at all."""
        failed, self._last = self._last, None
        answered, self._num_answers = self._num_answers, 0
        if failed is not None and not answered:
            raise self._no_answers(*failed)

    async def _reply(self, request: Request) -> Reply:
        count = 1 if request.sampling.temperature == 0 else request.sampling.n
        asking = [asyncio.ensure_future(self._ask(request, index)) for index in range(count)]
        self._asking.update(asking)
        for task in asking:
            task.add_done_callback(self._asking.discard)
        tries = await asyncio.gather(*asking)
        for fault in tries:
            if isinstance(fault, NoAnswer):
                return unanswered(request, fault.reason, fault=str(fault))
        answers = [answer for answer in tries if not isinstance(answer, NoAnswer)]
        return Reply(
            request_id=request.id,
            completions=tuple(each for each, _ in answers) * (request.sampling.n // count),
            num_prompt_tokens=answers[0][1],
        )

    async def _ask(self, request: Request, index: int) -> tuple[Completion, int] | NoAnswer:
        """One sample and the number of its prompt's tokens, or why there is none."""
        path, body = self._body(request, index)
        met: list[NoAnswer] = []
        async with self._slots:
            try:
                async with asyncio.timeout(self._timeout):
                    answer = await self._try(path, body, request, met)
            except TimeoutError:
                fault = _too_late(self._timeout, met)
            except NoAnswer as found:
                fault = found
            else:
                self._num_answers += 1
                self._in_a_row.clear()
                return answer
        self._last = fault, request
        if fault.reason == ENGINE_DIED:
            self._in_a_row.append(fault)
            lately = self._in_a_row[-GONE:]
            is_gone = len(lately) == GONE and all(each.is_away for each in lately)
            if is_gone or (not self._num_answers and len(lately) >= NEVER_ANSWERED):
                raise self._no_answers(fault, request)
        return fault

    def _no_answers(self, fault: NoAnswer, request: Request) -> MissingError:
        return MissingError(
            f"the server answers nothing but errors: {fault}",
            where=f"{self._url}, {request.id}",
            remedy="check that it runs, its address (it usually ends in /v1), the model's name "
            "there, and its log" + (_TOOLS_REMEDY if request.is_native else ""),
        )

    def _body(self, request: Request, index: int) -> tuple[str, dict[str, Any]]:
        """The path below the address, and what is sent there for one sample."""
        sampling = request.sampling
        body: dict[str, Any] = {
            "model": self.checkpoint.id,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": sampling.seed + index,
        }
        if sampling.top_k:
            body["top_k"] = sampling.top_k
        if request.prompt is not None:
            body["prompt"] = request.prompt
            if request.logprob:
                body["logprobs"] = 1
            return "completions", body
        body["logprobs"] = request.logprob
        body["messages"] = _as_api(request.messages)
        shown = (to_openai(tool) for m in request.messages for tool in m.tools)
        if tools := [*request.tools, *shown]:
            body["tools"] = tools
        return "chat/completions", body

    async def _try(
        self, path: str, body: dict[str, Any], request: Request, met: list[NoAnswer]
    ) -> tuple[Completion, int]:
        """The answer, after waiting for a server that is busy, away or talks nonsense. NoAnswer.

        What it meets before the last try is added to `met`.
        """
        wait = FIRST_WAIT_SECONDS
        for left in reversed(range(MAX_TRIES)):
            try:
                return read_answer(await self._post(path, body), request)
            except NoAnswer as fault:
                if not fault.passes or not left:
                    raise
                met.append(fault)
            await asyncio.sleep(wait)
            wait *= 2
        raise AssertionError("the last try returns or raises")

    async def _post(self, path: str, body: dict[str, Any]) -> bytes:
        """The body of a response that is one. Raises NoAnswer."""
        import httpx

        most = BODY_BYTES + TOKEN_BYTES * int(body["max_tokens"])
        try:
            async with self._client.stream(
                "POST", path, json=body, extensions=self._extensions
            ) as response:
                content = await _read_body(response, most)
        except httpx.HTTPError as error:
            what = f"the server does not answer: {type(error).__name__} {error}".rstrip()
            raise NoAnswer(what, passes=True, is_away=True) from error
        status = response.status_code
        if status == 200:
            return content
        says = shorten(content.decode("utf-8", "replace"), 300)
        if status in (400, 413, 422) and _TOO_LONG.search(says):
            raise NoAnswer(f"the server finds the prompt too long: {says}", reason=PROMPT_TOO_LONG)
        away = status in TRY_AGAIN
        raise NoAnswer(f"the server refuses: {status} {says}".rstrip(), passes=away, is_away=away)


def _as_api(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as the API has them; responses are to the calls before them, in their order."""
    rows: list[dict[str, Any]] = []
    waiting: list[str] = []
    count = 0
    for message in messages:
        if message.tools and not message.content:
            continue
        row: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.calls:
            waiting = [f"call{count + n:05d}" for n in range(len(message.calls))]
            count += len(waiting)
            row["content"] = message.content or None
            row["tool_calls"] = [
                write_call(ident, call.name, to_json(call.arguments))
                for ident, call in zip(waiting, message.calls, strict=True)
            ]
        elif message.role == "tool" and waiting:
            row["tool_call_id"] = waiting.pop(0)
        rows.append(row)
    return rows


def check_key(key: str, where: str) -> str:
    """The key, if it can stand in a header; empty is none. Raises InputError."""
    if key and not _KEY.fullmatch(key):
        raise InputError(
            "the key has letters that no header carries: a line's end, a blank around it, or one "
            "that is not ASCII",
            where=where,
            remedy="give it as the server knows it, in printable ASCII",
        )
    return key


def _too_late(seconds: float, met: Sequence[NoAnswer]) -> NoAnswer:
    """What is to be said at the end of the time: the last fault, where tries came to one."""
    what = f"the server gave no answer within {seconds:g} s"
    if not met:
        return NoAnswer(what, is_away=True)
    return NoAnswer(f"{what}; before that, {met[-1]}", is_away=met[-1].is_away)


async def _read_body(response: httpx.Response, most: int) -> bytes:
    """The body, unpacked; no more of it than `most` bytes is ever in memory. Raises NoAnswer."""
    coding = response.headers.get("content-encoding", "identity").strip().lower()
    if coding not in _UNPACK:
        raise NoAnswer(f"the server packs its answer as {coding[:40]!r}, which was not asked for")
    unpack = zlib.decompressobj(_UNPACK[coding]) if _UNPACK[coding] else None
    content = bytearray()
    async for chunk in response.aiter_raw():
        try:
            content += unpack.decompress(chunk, most + 1 - len(content)) if unpack else chunk
        except zlib.error as error:
            raise NoAnswer(
                f"the server's answer cannot be unpacked: {error}", passes=True
            ) from error
        if len(content) > most:
            raise NoAnswer(f"the server's answer is longer than {most} bytes")
    return bytes(content)


_UNPACK = {"identity": 0, "": 0, "gzip": 16 + zlib.MAX_WBITS}
"""Window of zlib for a content coding; 0 is none."""
_NO_ANSWER = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What reading an answer of another shape raises."""
_TOO_LONG = re.compile("context[ _]length|context size", re.IGNORECASE)


def resolve(url: str, *, allow_public: bool = False) -> str:
    """The address that `url` stands for: loopback or of a private network unless allowed.

    Raises InputError, or MissingError where the name has no address.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"not an http address: {url!r}", remedy="e.g. http://127.0.0.1:8000/v1")
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        entries = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except ValueError as error:
        raise InputError(f"not an http address: {error}", where=url) from error
    except OSError as error:
        raise MissingError(f"{parts.hostname} has no address: {error}", where=url) from error
    addresses = [str(sockaddr[0]).split("%")[0] for *_, sockaddr in entries]
    public = [address for address in addresses if _is_public(address)]
    if public and not allow_public:
        raise InputError(
            f"{parts.hostname} is {public[0]}, a public address: requests would leave your network",
            where=url,
            remedy="use a server of your own, or allow it: --allow-public-host",
        )
    return addresses[0]


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    return (getattr(ip, "ipv4_mapped", None) or ip).is_global


def read_answer(content: bytes, request: Request) -> tuple[Completion, int]:
    """The sample in a body, and the number of its prompt's tokens. Raises NoAnswer."""
    try:
        answer = json.loads(content)
        choice = answer["choices"][0]
        completion = Completion(
            text=_text(choice),
            token_ids=_token_ids(choice),
            finish_reason=_finish_reason(answer, request),
            logprob=_logprob(choice) if request.logprob else 0.0,
            calls_apart=bool(_calls(choice)),
        )
    except _NO_ANSWER as error:
        says = shorten(content[:1000].decode("utf-8", "replace"), 200)
        why = shorten(f"{type(error).__name__} {error}", 100)
        raise NoAnswer(
            f"not an answer of an OpenAI-compatible server ({why}): {says!r}", passes=True
        ) from error
    if completion.finish_reason == ENGINE_DIED:
        raise NoAnswer(f"the server ended the answer: {shorten(choice['finish_reason'], 40)}")
    return completion, _count(answer.get("usage"), "prompt_tokens")


def _said(choice: dict[str, Any]) -> str:
    """The text of a choice; of a content in parts, that of its text parts."""
    text = choice.get("text")
    if text is None:
        text = choice["message"].get("content") or ""
    if isinstance(text, list):
        return "".join(part["text"] for part in text if part["type"] == "text")
    if not isinstance(text, str):
        raise TypeError(f"its text is of type {type(text).__name__}")
    return text


def _text(choice: dict[str, Any]) -> str:
    """What a choice says. Calls that the server tells apart are written after it, in Hermes' tags:
    what it gives as arguments stands there as it is, so that what is no JSON cannot be read.
    """
    return "\n".join(filter(None, (_said(choice), *map(_write_call, _calls(choice)))))


def _calls(choice: dict[str, Any]) -> list[dict[str, Any]]:
    """The calls that a server tells apart. TypeError where they are no list of objects."""
    message = choice.get("message") or {}
    found = message.get("tool_calls") or []
    calls = [*found] if isinstance(found, list) else [found]
    if message.get("function_call"):
        calls.append({"function": message["function_call"]})
    for call in calls:
        if not isinstance(call, dict) or not isinstance(call.get("function"), dict):
            raise TypeError(f"a call is no object with a function: {shorten(call, 60)}")
    return calls


def _write_call(call: dict[str, Any]) -> str:
    arguments = call["function"].get("arguments")
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    name = json.dumps(call["function"].get("name"), ensure_ascii=False)
    return (
        f'<tool_call>\n{{"name": {name}, "arguments": {arguments.strip() or "{}"}}}\n</tool_call>'
    )


def _token_ids(choice: dict[str, Any]) -> tuple[int, ...]:
    """Only known from servers that tell them."""
    found = choice.get("token_ids") or ()
    return tuple(found) if all(type(each) is int and 0 <= each < 1 << 31 for each in found) else ()


def _finish_reason(answer: dict[str, Any], request: Request) -> FinishReason:
    """`length` before `max_tokens` means that the window is full; a filter gives no answer."""
    reason = answer["choices"][0]["finish_reason"]
    if reason == "length":
        used = _count(answer.get("usage"), "completion_tokens")
        return CONTEXT_FULL if 0 < used < request.sampling.max_tokens else "length"
    return ENGINE_DIED if reason in ("content_filter", "error", "abort") else "stop"


def _count(usage: object, key: str) -> int:
    """A number of tokens, as far as a server tells it; else 0."""
    value = usage.get(key) if isinstance(usage, dict) else None
    return value if type(value) is int and 0 <= value < 1 << 31 else 0


def _logprob(choice: dict[str, Any]) -> float:
    """Of a chat's tokens, or of a raw prompt's."""
    found = choice.get("logprobs") or {}
    tokens = [token["logprob"] for token in found.get("content") or ()]
    total = float(sum(tokens or [each for each in found.get("token_logprobs") or () if each]))
    return total if math.isfinite(total) else 0.0
