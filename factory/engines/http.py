"""An engine behind HTTP: any OpenAI-compatible server on the user's own machine or network.

The address is resolved once and must not be public unless that is allowed; requests then go to the
address that was checked, past proxies and redirects. Such a server has no tries, so it cannot
serve constrained requests: it judges, simulates and answers.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from factory.domain.failures import InputError, MissingError
from factory.domain.records import (
    CONTEXT_FULL,
    ENGINE_DIED,
    PROMPT_TOO_LONG,
    Checkpoint,
    Completion,
    FinishReason,
    Reply,
    Request,
)
from factory.engines.base import Closing, check_request, unanswered
from factory.workspace.models import is_installed

if TYPE_CHECKING:
    import httpx

MAX_TRIES = 4
"""A request that meets a busy or restarting server is sent so often."""
FIRST_WAIT_SECONDS = 0.5
"""Before the second try; doubled each time."""
TIMEOUT_SECONDS = 600.0
"""For one answer."""
_TOOLS_REMEDY = (
    "; a server that takes no tools needs an option for it (vLLM: --enable-auto-tool-choice "
    "--tool-call-parser NAME), or --prompt own"
)
TRY_AGAIN = frozenset({429, 500, 502, 503, 504})
"""Status codes of a server that may answer later."""


class HttpEngine(Closing):
    """An Engine over a server's `/chat/completions` and `/completions`.

    Example: async with HttpEngine("http://127.0.0.1:8000/v1", "judge") as engine: …

    A request's n samples are n calls with seeds seed … seed+n-1, since not all servers know `n`;
    `top_k` is sent where it is on and is then the server's to know.
    """

    def __init__(
        self, url: str, model: str, *, allow_public: bool = False, max_in_flight: int = 32
    ) -> None:
        """Check the address. Raises what `resolve` raises, and MissingError without httpx."""
        if not is_installed("httpx"):
            raise MissingError("httpx is not installed", remedy="pip install 'tool-factory[http]'")
        import httpx

        host = urlsplit(url).hostname or ""
        address = resolve(url, allow_public=allow_public)
        base = httpx.URL(url.rstrip("/") + "/")
        self._client = httpx.AsyncClient(
            base_url=base.copy_with(host=address),
            headers={"Host": base.netloc.decode("ascii")},
            timeout=httpx.Timeout(TIMEOUT_SECONDS, connect=10.0),
            limits=httpx.Limits(max_connections=max_in_flight),
            trust_env=False,
            follow_redirects=False,
        )
        self._extensions = {"sni_hostname": host} if base.scheme == "https" else {}
        self._slots = asyncio.Semaphore(max_in_flight)
        self._url = url
        self.checkpoint = Checkpoint(id=model, path=url, fingerprint="unknown")
        """The model as the server calls it; nobody can tell its weights' fingerprint."""

    async def close(self) -> None:
        await self._client.aclose()

    async def sample(self, requests: Sequence[Request]) -> list[Reply]:
        """Replies in the order of `requests`.

        A prompt that the server finds too long, and one that it keeps failing on, is answered by
        completions without tokens (PROMPT_TOO_LONG, ENGINE_DIED). Raises InputError for a request
        with a constraint or one that the server refuses, MissingError where it does not answer.
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

    async def _reply(self, request: Request) -> Reply:
        count = 1 if request.sampling.temperature == 0 else request.sampling.n
        tries = await asyncio.gather(*(self._ask(request, index) for index in range(count)))
        for reason in tries:
            if isinstance(reason, str):
                return unanswered(request, reason)
        answers = [answer for answer in tries if not isinstance(answer, str)]
        completions = tuple(_completion(answer, request) for answer in answers)
        usage = answers[0].get("usage") or {}
        return Reply(
            request_id=request.id,
            completions=completions * (request.sampling.n // count),
            num_prompt_tokens=int(usage.get("prompt_tokens") or 0),
        )

    async def _ask(self, request: Request, index: int) -> dict[str, Any] | FinishReason:
        """The server's answer for one sample, or the finish reason of none."""
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
            path, body["prompt"] = "completions", request.prompt
            if request.logprob:
                body["logprobs"] = 1
        else:
            path, body["logprobs"] = "chat/completions", request.logprob
            body["messages"] = [{"role": m.role, "content": m.content} for m in request.messages]
            if request.tools:
                body["tools"] = list(request.tools)
        async with self._slots:
            response = await self._post(path, body)
        if response.status_code in TRY_AGAIN:
            return ENGINE_DIED
        if response.status_code != 200:
            if _is_too_long(response):
                return PROMPT_TOO_LONG
            raise InputError(
                f"the server refuses: {response.status_code} {response.text[:300]}",
                where=f"{self._url}, {request.id}",
                remedy="check the address (it usually ends in /v1) and the model's name there"
                + (_TOOLS_REMEDY if request.tools else ""),
            )
        return _read_answer(response, f"{self._url}, {request.id}")

    async def _post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        """The response, after waiting for a server that is busy or away."""
        import httpx

        wait, response = FIRST_WAIT_SECONDS, None
        for attempt in range(MAX_TRIES):
            if attempt:
                await asyncio.sleep(wait)
                wait *= 2
            try:
                response = await self._client.post(path, json=body, extensions=self._extensions)
            except httpx.TransportError as error:
                cause = error
                continue
            if response.status_code not in TRY_AGAIN:
                return response
        if response is not None:
            return response
        raise MissingError(
            f"the server does not answer: {type(cause).__name__} {cause}",
            where=self._url,
            remedy="start it, or correct the address",
        )


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


def _is_too_long(response: httpx.Response) -> bool:
    says = re.search("context[ _]length|context size", response.text, re.IGNORECASE)
    return response.status_code in (400, 413, 422) and says is not None


def _read_answer(response: httpx.Response, where: str) -> dict[str, Any]:
    """The JSON object with at least one choice that says something. Raises InputError."""
    try:
        answer: dict[str, Any] = response.json()
        answer["choices"][0]["finish_reason"]
        _said(answer["choices"][0])
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"not an answer of an OpenAI-compatible server: {response.text[:200]!r}", where=where
        ) from error
    return answer


def _said(choice: dict[str, Any]) -> str:
    """The text of a choice; of a content in parts, that of its text parts."""
    text = choice.get("text")
    if text is None:
        text = (choice.get("message") or {}).get("content") or ""
    if isinstance(text, list):
        return "".join(part["text"] for part in text if part["type"] == "text")
    if not isinstance(text, str):
        raise TypeError(type(text).__name__)
    return text


def _completion(answer: dict[str, Any], request: Request) -> Completion:
    """One choice; token ids are only known from servers that tell them.

    Calls that the server tells apart are written after the text, in Hermes' tags: what it gives as
    arguments stands there as it is, so that what is no JSON cannot be read.
    """
    choice = answer["choices"][0]
    message = choice.get("message") or {}
    calls = [call for call in message.get("tool_calls") or () if isinstance(call, dict)]
    if isinstance(message.get("function_call"), dict):
        calls.append({"function": message["function_call"]})
    return Completion(
        text="\n".join(filter(None, (_said(choice), *map(_write_call, calls)))),
        token_ids=tuple(choice.get("token_ids") or ()),
        finish_reason=_finish_reason(answer, request),
        logprob=_logprob(choice) if request.logprob else 0.0,
        calls_apart=bool(calls),
    )


def _write_call(call: dict[str, Any]) -> str:
    function = call.get("function")
    function = function if isinstance(function, dict) else {}
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    name = json.dumps(function.get("name"), ensure_ascii=False)
    return (
        f'<tool_call>\n{{"name": {name}, "arguments": {arguments.strip() or "{}"}}}\n</tool_call>'
    )


def _finish_reason(answer: dict[str, Any], request: Request) -> FinishReason:
    """`length` before `max_tokens` means that the window is full; a filter gives no answer."""
    reason = answer["choices"][0]["finish_reason"]
    if reason == "length":
        used = (answer.get("usage") or {}).get("completion_tokens")
        is_full = isinstance(used, int) and 0 < used < request.sampling.max_tokens
        return CONTEXT_FULL if is_full else "length"
    return ENGINE_DIED if reason in ("content_filter", "error", "abort") else "stop"


def _logprob(choice: dict[str, Any]) -> float:
    """Of a chat's tokens, or of a raw prompt's."""
    found = choice.get("logprobs") or {}
    tokens = [token["logprob"] for token in found.get("content") or ()]
    return float(sum(tokens or [each for each in found.get("token_logprobs") or () if each]))
