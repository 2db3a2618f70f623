"""The virtual API server: answers calls from a cache, else has a local model play the API (§5.2).

Live RapidAPI needs keys and changes by the day; this needs neither. StableToolBench's cache of real
responses is read as it is (`<category>/<tool>/<api>.json`) and comes first, whoever plays the rest;
what a model makes up is kept in a file of the workspace, so that a second run meets the same world.
It belongs to the model and the prompt that made it: another judge makes up its own.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from factory.domain.canon import canonical_json, derive_seed, digest
from factory.domain.failures import ContentError
from factory.domain.records import UNANSWERED, Message, Request, Sampling
from factory.engines.base import Engine
from factory.score.asking import parse_text
from factory.score.base import read_json, read_text
from factory.score.toolbench.data import ApiDocument, ApiKey
from factory.workspace.prompts import Prompts

MAX_EXAMPLES = 5
"""Real responses of an API that the simulating model is shown."""
Source = Literal["cache", "simulated", "absent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiResponse:
    """What a call came back with. Example: ApiResponse(error="", response="18.4", …)."""

    error: str
    """Empty, or what went wrong."""
    response: str
    source: Source
    """A recorded response, one that a model made up, or none known."""

    @property
    def text(self) -> str:
        """As the agent sees it."""
        return json.dumps({"error": self.error, "response": self.response}, ensure_ascii=False)


class _Maker(NamedTuple):
    """A call, and what made up its response."""

    key: str
    """Canonical JSON of the API's key and the arguments."""
    model: str
    """The checkpoint's id."""
    prompt: str
    """Hash of the rendered prompt; empty in rows that are older than it."""


class VirtualApi:
    """Answers calls. Example: VirtualApi(templates, engine=engine, own=state / "apis.jsonl")."""

    def __init__(
        self,
        templates: Prompts,
        *,
        cache: Path | None = None,
        engine: Engine | None = None,
        own: Path | None = None,
        max_tokens: int = 1024,
    ) -> None:
        """`cache` is StableToolBench's folder of recorded responses; `engine` plays the APIs that
        it does not know (None leaves them without an answer), with `max_tokens` a response; what
        models made up is read from the file `own`, and appended. Raises ContentError where that is
        damaged.
        """
        self._templates, self._cache, self._engine = templates, cache, engine
        self._own, self._max_tokens = own, max_tokens
        self._recorded: dict[ApiKey, dict[str, ApiResponse]] = {}
        self._made_up: dict[str, asyncio.Future[ApiResponse]] = {}
        self._kept = _read_own(own) if own is not None and own.exists() else {}

    async def call(self, document: ApiDocument, arguments: Mapping[str, Any]) -> ApiResponse:
        """The response to one call; equal calls get equal responses."""
        text = canonical_json(dict(arguments))
        recorded = self._load(document).get(text)
        if recorded is not None:
            return recorded
        if self._engine is None:
            message = "the API did not answer: no response is recorded for this call"
            return ApiResponse(error=message, response="", source="absent")
        key = canonical_json([*document.key, text])
        if key not in self._made_up:
            work = self._simulate(self._engine, document, arguments, key)
            self._made_up[key] = asyncio.ensure_future(work)
        return await self._made_up[key]

    def _load(self, document: ApiDocument) -> Mapping[str, ApiResponse]:
        """Recorded responses of an API by canonical arguments."""
        if self._cache is None:
            return {}
        if document.key not in self._recorded:
            found = next((p for p in _cache_files(self._cache, document) if p.is_file()), None)
            self._recorded[document.key] = {} if found is None else _read_cache(found)
        return self._recorded[document.key]

    async def _simulate(
        self, engine: Engine, document: ApiDocument, arguments: Mapping[str, Any], key: str
    ) -> ApiResponse:
        """What the engine's model answered to this prompt before, else what it answers now.

        A row without a prompt was written before prompts were: it counts for its model. Where the
        engine gives no answer, nothing is kept, and a later run asks again.
        """
        examples = list(self._load(document).items())[:MAX_EXAMPLES]
        prompt = self._templates.render(
            "simulate",
            api=document.document,
            examples=[{"input": k, "output": v.text} for k, v in examples],
            arguments=dict(arguments),
        )
        maker = _Maker(key, engine.checkpoint.id, digest(prompt))
        kept = self._kept.get(maker) or self._kept.get(maker._replace(prompt=""))
        if kept is not None:
            return kept
        request = Request(
            id=f"simulate/{key}",
            messages=(Message(role="user", content=prompt),),
            sampling=Sampling(max_tokens=self._max_tokens, seed=derive_seed("simulate", key)),
            logprob=False,
        )
        (reply,) = await engine.sample([request])
        completion = reply.completions[0]
        if completion.finish_reason in UNANSWERED:
            message = f"the API did not answer: its simulator says {completion.finish_reason}"
            return ApiResponse(error=message, response="", source="absent")
        made_up = _read_response(completion.text)
        if self._own is not None:
            self._own.parent.mkdir(parents=True, exist_ok=True)
            row = {**maker._asdict(), **asdict(made_up)}
            with self._own.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        return made_up


def _cache_files(cache: Path, document: ApiDocument) -> list[Path]:
    """Where StableToolBench keeps an API's responses: names as they are, or standardised."""
    names = (document.category, *document.key)
    plain = [re.sub(r"[^0-9a-zA-Z]+", "_", name).strip("_") for name in names]
    variants = [names, plain, [plain[0], *(name.lower() for name in plain[1:])]]
    return [
        cache / category / tool / f"{api}.json"
        for category, tool, api in variants
        if not {"/", "\\"} & set(category + tool + api) and ".." not in (category, tool)
    ]


def _read_cache(file: Path) -> dict[str, ApiResponse]:
    """{arguments: response}; arguments are written as JSON or as Python prints a dict."""
    try:
        table = read_json(file)
        found = {}
        for written, value in table.items():
            arguments = parse_text(written or "{}")
            if isinstance(arguments, dict):
                found[canonical_json(arguments)] = to_response(value, "cache")
        return found
    except (ValueError, AttributeError, RecursionError) as error:
        raise ContentError(f"not a file of recorded responses: {error}", where=str(file)) from error


def _read_response(text: str) -> ApiResponse:
    """A model's answer: the JSON object it was asked for, else the text as it is."""
    found = re.search(r"\{.*\}", text, re.DOTALL)
    try:
        value = json.loads(found.group()) if found else None
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict) and "response" in value:
        return to_response(value, "simulated")
    return ApiResponse(error="", response=text.strip(), source="simulated")


def to_response(value: Any, source: Source) -> ApiResponse:
    """A response of whatever form: {error, response}, or what an API said."""
    if not isinstance(value, dict):
        value = {"response": value}
    body = value.get("response", "")
    return ApiResponse(
        error=str(value.get("error") or ""),
        response=body if isinstance(body, str) else json.dumps(body, ensure_ascii=False),
        source=source,
    )


def _read_own(file: Path) -> dict[_Maker, ApiResponse]:
    found = {}
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        try:
            row = json.loads(line)
            found[_Maker(row["key"], row["model"], row.get("prompt", ""))] = ApiResponse(
                error=row["error"], response=row["response"], source="simulated"
            )
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ContentError(
                f"not a kept response: {error}",
                where=f"{file}:{number}",
                remedy="delete the line: the response is then made up again",
            ) from error
    return found
