"""What an engine is: the protocol that every sampler fulfils, and the requests it may be asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol, Self

from factory.domain.failures import InputError
from factory.domain.records import Checkpoint, Completion, Constraint, FinishReason, Reply, Request


class Engine(Protocol):
    """A model that samples. Any number of `sample` calls at once share its batches."""

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint it serves."""

    async def sample(self, requests: Sequence[Request]) -> list[Reply]:
        """Replies in the order of `requests`; the same request gets the same reply."""

    async def close(self) -> None:
        """Free the model; later calls of `sample` are an error."""


class Closing(ABC):
    """`async with` for what is to be closed at the end."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @abstractmethod
    async def close(self) -> None:
        """Free what is held."""


def check_request(request: Request) -> None:
    """Raise InputError unless the request is one that every engine can answer."""
    sampling = request.sampling
    for name, allowed, fits in (
        ("n", "at least 1", sampling.n >= 1),
        ("temperature", "from 0 to 2", 0 <= sampling.temperature <= 2),
        ("top_k", "0 (off) or more", sampling.top_k >= 0),
        ("top_p", "above 0 and at most 1", 0 < sampling.top_p <= 1),
        ("max_tokens", "at least 1", sampling.max_tokens >= 1),
        ("seed", "from 0 to 2**63 - n", 0 <= sampling.seed <= 2**63 - sampling.n),
    ):
        if not fits:
            raise InputError(
                f"{name} must be {allowed}, not {getattr(sampling, name)}",
                where=request.id,
                remedy=f"change {name} in the recipe",
            )
    if bool(request.messages) == (request.prompt is not None):
        raise InputError("A request needs either messages or a prompt", where=request.id)
    if request.tools and request.prompt is not None:
        raise InputError("Tools go with messages: a raw prompt has no template", where=request.id)
    if request.constraint is not None and (fault := _find_fault(request.constraint)):
        raise InputError(f"The constraint {fault}", where=request.id)
    if sampling.beam and not (request.constraint and request.constraint.is_one_code):
        raise InputError("A beam needs a trie that binds the whole answer", where=request.id)


def _find_fault(constraint: Constraint) -> str:
    """What is wrong with a constraint; empty if nothing is."""
    if bool(constraint.trie) == bool(constraint.tools):
        return "needs either a trie or tools"
    if constraint.tools and (constraint.only or constraint.after or constraint.until):
        return "of tools has no code to bound"
    if constraint.form == "arguments" and len(constraint.tools) > 1:
        return "is on the arguments of one tool, not of several"
    if constraint.documents and (not constraint.until or constraint.after):
        return "on arguments after a code needs `until`, and a code that starts the answer"
    return ""


def unanswered(
    request: Request, finish_reason: FinishReason, num_prompt_tokens: int = 0, fault: str = ""
) -> Reply:
    """The reply to a request that cannot be sampled: n completions without tokens."""
    empty = Completion(text="", token_ids=(), finish_reason=finish_reason, logprob=0.0, fault=fault)
    return Reply(
        request_id=request.id,
        completions=(empty,) * request.sampling.n,
        num_prompt_tokens=num_prompt_tokens,
    )
