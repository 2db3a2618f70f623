"""Middleware of vLLM's server (`--middleware`): chats become what the model was trained on.

It stands before `/v1/chat/completions` and changes requests; answers are vLLM's own, streams too.
The prompt goes along in tokens, so that it is the one that sampling and scoring ask, control tokens
in others' texts included (factory.engines.chat). A call that has to be made is bound by a grammar
of the tools' schemas, which factory.engines.processors keeps to.

Without tools in a request, its tool is named first: the query alone is the prompt that a code is
trained on, and a call is asked for in another prompt, which shows the tool. So that is two requests
to the engine, the second written once the first is answered; no logits processor can put a document
into a prompt that is being decoded. Both go through the same server, its keys, limits and metrics.

vLLM asks for its key below a few addresses alone; here it is asked for at all but OPEN. What takes
time is done in a thread, so that streams of others go on meanwhile.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import os
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from factory.deploy.asked import FORMS, AskedChat, Document, own_chat, read_asked
from factory.deploy.binding import check_bound, told_unbound
from factory.deploy.catalogue import Coded, ServedCatalogue
from factory.deploy.served import Served
from factory.deploy.transcripts import TranscriptFile
from factory.domain.canon import to_json
from factory.domain.failures import FactoryError, InputError
from factory.domain.records import Message, Request, Sampling
from factory.engines.callform import Unsupported
from factory.engines.chat import Chat
from factory.engines.constrain import GRAMMAR, GUIDE, guide_to_wire
from factory.engines.grammar import calls_grammar
from factory.tools.dialects import to_openai
from factory.workspace.folder import Workspace
from factory.workspace.models import form_of
from factory.workspace.prompts import Prompts

Event = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

T = TypeVar("T")

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
OPEN = frozenset({"/health", "/ping", "/metrics", "/version"})
"""Answered without a key: they say nothing of the model, and ask it nothing."""
KEY = "VLLM_API_KEY"
"""Environment variable in which vLLM's server, and this one, find the key."""
MOST_BYTES = 8 << 20
"""Of a request's body."""
NO_KEY = 'a key is asked for: send it as "Authorization: Bearer KEY"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Instead:
    """A response that is sent in place of the model's: a refusal, or a step's that failed."""

    status: int
    body: bytes


class Gateway:
    """ASGI middleware, which vLLM makes with the app that it wraps."""

    def __init__(self, app: App) -> None:
        served = Served.from_environment()
        folder = Path(served.folder)
        self._app = app
        self._served = served
        self._key = os.environ[KEY].encode() if served.keyed else b""
        self._chat = Chat(folder)
        self._most_letters = served.max_length * max(map(len, self._chat.tokenizer.get_vocab()))
        # One, since a tokenizer is not made for several.
        self._thread = ThreadPoolExecutor(1, "gateway")
        prompts = Prompts.load(Workspace.locate(Path(served.workspace)))
        self._prompts = replace(prompts, form=form_of(folder))
        self._form, self._unbound = self._chat.own_form, ""
        if self._prompts.form == "native":
            try:
                self._form = self._chat.native_form
            except Unsupported as error:
                self._unbound = str(error)
        self._catalogue = ServedCatalogue(folder, Path(served.scratch)) if served.by_code else None
        self._transcripts = TranscriptFile(Path(served.record)) if served.record else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, rewritten where it is a chat."""
        path = str(scope.get("path", "")).removeprefix(scope.get("root_path", ""))
        if not self._may_ask(scope, path):
            await _turn_away(scope, receive, send)
            return
        if scope["type"] != "http" or scope["method"] != "POST" or path != CHAT:
            await self._app(scope, receive, send)
            return
        content = await _read(receive)
        if content is None:
            return
        if len(content) > MOST_BYTES:
            await _send(send, _refuse(f"the request is longer than {MOST_BYTES} bytes", 413))
            return
        changed = await self._change(scope, receive, content)
        if isinstance(changed, Instead):
            await _send(send, changed)
            return
        body, wire = changed
        tap = self._tap(send, body) if self._transcripts else send
        await self._app(_resized(scope, len(wire)), _replay(wire, receive), tap)

    def _may_ask(self, scope: Scope, path: str) -> bool:
        """Whether this caller may be answered here; of anyone else nothing is read."""
        is_request = scope["type"] in ("http", "websocket") and scope.get("method") != "OPTIONS"
        if not self._key or not is_request or path.rstrip("/") in OPEN:
            return True
        sent = next((value for key, value in scope["headers"] if key == b"authorization"), b"")
        scheme, _, key = sent.partition(b" ")
        return bool(scheme.lower() == b"bearer") and hmac.compare_digest(key, self._key)

    async def _apart(self, work: Callable[[], T]) -> T:
        """What the work gives, done beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _change(
        self, scope: Scope, receive: Receive, content: bytes
    ) -> tuple[dict[str, Any], bytes] | Instead:
        """The body that vLLM gets, also as it is sent, or what is answered in its place."""
        try:
            body, asked = await self._apart(partial(_parse, content))
            documents, bound = asked.documents, self._bound(asked, asked.bound)
            if asked.choice == "none":
                documents = ()
            elif asked.is_open and (coded := await self._apart(self._coded)) is not None:
                found = await self._find(scope, receive, body, asked, coded)
                if isinstance(found, Instead):
                    return found
                documents, bound = found[0], self._bound(asked, found[1])
                body["tools"] = [to_openai(document) for document in documents] or None
                body["tool_choice"] = "required" if bound else "auto" if documents else None
            body = await self._apart(partial(self._rewrite, body, asked, documents, bound))
            return body, await self._apart(lambda: json.dumps(body).encode())
        except FactoryError as error:
            return _refuse(" ".join(filter(None, (error.what, error.remedy))))
        except (ValueError, RecursionError) as error:
            return _refuse(f"the request cannot be read: {error}")

    def _bound(self, asked: AskedChat, bound: tuple[Document, ...]) -> tuple[Document, ...]:
        """What binds the answer. Raises InputError where something has to and nothing can."""
        if not bound or not self._unbound:
            return bound
        if asked.choice in ("required", "named") or asked.strict:
            raise InputError(
                f"no grammar can bind the calls of this model: {self._unbound}; ask with "
                'tool_choice "auto", and without strict'
            )
        return ()

    def _coded(self) -> Coded | None:
        return self._catalogue.current() if self._catalogue else None

    async def _find(
        self, scope: Scope, receive: Receive, body: dict[str, Any], asked: AskedChat, coded: Coded
    ) -> tuple[tuple[Document, ...], tuple[Document, ...]] | Instead:
        """The catalogue's tools for a request that has none, and those that bind its answer.

        Once something was called, these are the tools that were, and the answer may be in words.
        """
        if asked.named:
            named = tuple(coded.named({asked.named}))
            if not named:
                raise InputError(f"tool_choice names {asked.named!r}, no tool of the catalogue")
            return named, named
        if not asked.query:
            called = tuple(coded.named(asked.called))
            if asked.choice != "required":
                return called, ()
            if not called:
                raise InputError(
                    'tool_choice is "required", and nothing is asked for: end with a message of '
                    "the role user that is not empty, or bring tools"
                )
            return called, called
        picked = await self._pick(scope, receive, body, asked, coded)
        if isinstance(picked, Instead):
            return picked
        return (picked,), () if asked.choice == "auto" else (picked,)

    async def _pick(
        self, scope: Scope, receive: Receive, body: dict[str, Any], asked: AskedChat, coded: Coded
    ) -> Document | Instead:
        """The tool that the model names by code for the query, greedily under the trie."""
        asking = {
            "model": body.get("model"),
            "prompt": await self._apart(partial(self._encode_query, asked.query)),
            "max_tokens": coded.longest,
            "temperature": 0,
            "stop_token_ids": sorted(self._chat.end_ids),
            "return_token_ids": True,
            "vllm_xargs": {GUIDE: json.dumps(guide_to_wire(coded.path, (), (), None)[GUIDE])},
        }
        answer = await self._ask(scope, receive, COMPLETION, json.dumps(asking).encode())
        if answer.status != 200:
            return answer
        (choice,) = json.loads(answer.body)["choices"]
        document = coded.tool_of(choice["token_ids"])
        if document is None:
            return _refuse(f"the model named no tool by code: {choice['text']!r}", 500)
        return document

    def _rewrite(
        self,
        body: dict[str, Any],
        asked: AskedChat,
        documents: Sequence[Document],
        bound: Sequence[Document],
    ) -> dict[str, Any]:
        """The body with its prompt in tokens, what ends an answer, and what binds it."""
        prompt_ids = self._encode(own_chat(asked, documents, self._prompts))
        ends = {*self._chat.end_ids, *(body.get("stop_token_ids") or ())}
        more: dict[str, Any] = {
            "kv_transfer_params": {"prompt_token_ids": prompt_ids},
            "stop_token_ids": sorted(ends),
        }
        if bound:
            once = asked.choice == "named" or body.get("parallel_tool_calls") is False
            # Two grammars may have no token in common.
            more |= dict.fromkeys(FORMS)
            try:
                grammar = calls_grammar(bound, self._form, once=once, words=asked.may_speak)
                more["vllm_xargs"] = {**(body.get("vllm_xargs") or {}), GRAMMAR: grammar}
                check_bound(more["vllm_xargs"], self._served)
            except Unsupported as error:
                raise InputError(told_unbound(error)) from error
            except ValueError as error:
                raise InputError(str(error)) from error
            if self._prompts.form == "native":
                # A parser of vLLM's reads the calls, and would bring a grammar of its own.
                shown = [to_openai(document) for document in documents]
                more |= {"tools": shown, "tool_choice": "auto", "parallel_tool_calls": True}
        return body | more

    def _encode_query(self, query: str) -> list[int]:
        """The prompt that a code is trained on."""
        text = self._prompts.render("codes/retrieve", query=query)
        return self._encode([Message(role="user", content=text)])

    def _encode(self, messages: Sequence[Message]) -> list[int]:
        """Raises InputError, before anything is encoded, for what no window of tokens can hold."""
        letters = sum(len(m.content) + len(to_json(m.tools)) for m in messages)
        if letters > self._most_letters > 0:
            raise InputError(
                f"this model's maximum context length is {self._served.max_length} tokens, and the "
                f"messages have {letters} letters: ask with fewer"
            )
        request = Request(id="a request", messages=tuple(messages), sampling=Sampling())
        return self._chat.encode(request)

    async def _ask(self, scope: Scope, receive: Receive, path: str, wire: bytes) -> Instead:
        """What vLLM answers to a request of ours, in the caller's name."""
        parts, status = list[bytes](), 0

        async def keep(event: Event) -> None:
            nonlocal status
            status = event.get("status", status)
            parts.append(event.get("body", b""))

        asking = _resized({**scope, "path": path, "raw_path": path.encode()}, len(wire))
        await self._app(asking, _replay(wire, receive), keep)
        return Instead(status=status or 499, body=b"".join(parts))

    def _tap(self, send: Send, body: dict[str, Any]) -> Send:
        """`send` that keeps a whole good answer as a transcript."""
        parts, status = list[bytes](), 0

        async def keep(event: Event) -> None:
            nonlocal status
            await send(event)
            status = event.get("status", status)
            parts.append(event.get("body", b""))
            is_last = event["type"] == "http.response.body" and not event.get("more_body")
            if is_last and status == 200 and self._transcripts is not None:
                try:
                    self._transcripts.add(body, b"".join(parts))
                except OSError as error:
                    logging.getLogger(__name__).error("a transcript is not written: %s", error)

        return keep


def _parse(content: bytes) -> tuple[dict[str, Any], AskedChat]:
    """A body, and the chat in it. Raises InputError."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the body is no JSON: {error}") from error
    if not isinstance(body, dict):
        raise InputError("the body is no JSON object")
    return body, read_asked(body)


async def _read(receive: Receive) -> bytes | None:
    """A request's body, of one that is too long a little more than may be; None where the caller
    left."""
    content, more = bytearray(), True
    while more and len(content) <= MOST_BYTES:
        event = await receive()
        if event["type"] == "http.disconnect":
            return None
        content += event.get("body", b"")
        more = event.get("more_body", False)
    return bytes(content)


def _replay(content: bytes, receive: Receive) -> Receive:
    """`receive` that gives this body first, then what the caller does: leave, in the end."""
    events = [{"type": "http.request", "body": content, "more_body": False}]

    async def again() -> Event:
        return events.pop() if events else await receive()

    return again


def _resized(scope: Scope, size: int) -> Scope:
    """The scope of a request with another body."""
    headers = [(key, value) for key, value in scope["headers"] if key != b"content-length"]
    return {**scope, "headers": [*headers, (b"content-length", str(size).encode())]}


def _refuse(what: str, status: int = 400) -> Instead:
    kind = "AuthenticationError" if status == 401 else "BadRequestError"
    error = {"message": what, "type": kind, "param": None, "code": status}
    return Instead(status=status, body=json.dumps({"error": error}).encode())


async def _turn_away(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a caller without the key."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": NO_KEY})
    else:
        await _send(send, _refuse(NO_KEY, 401))


async def _send(send: Send, answer: Instead) -> None:
    headers = [(b"content-type", b"application/json")]
    headers.append((b"content-length", str(len(answer.body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
