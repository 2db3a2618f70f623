"""The replay engine: recorded answers in place of a model. What unit tests and examples use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from factory.domain.failures import InputError
from factory.domain.records import Checkpoint, Completion, Reply, Request
from factory.engines.base import Closing, check_request

NO_MODEL = Checkpoint(id="replay", path="", fingerprint="sha256:replay")
"""The checkpoint of recorded answers."""

Answers = Mapping[str, Sequence[str]] | Callable[[Request], Sequence[str]]
"""The n texts of a request, by request id or computed from the request."""


class ReplayEngine(Closing):
    """An Engine that answers from a table or a function, in process and without a model.

    Example: ReplayEngine({"r1/q_3b/calls": ["[]"] * 5}). One text answers all n samples.
    """

    def __init__(self, answers: Answers, checkpoint: Checkpoint = NO_MODEL) -> None:
        self._answers = answers
        self.checkpoint = checkpoint
        self.requests: list[Request] = []
        """Every request so far, in order of arrival."""

    async def sample(self, requests: Sequence[Request]) -> list[Reply]:
        """Recorded replies; tokens are counted as words and log-probabilities are 0. Raises
        InputError where a request has no recorded answer, or another number of them than n, and
        for one that no engine can answer.
        """
        for request in requests:
            check_request(request)
        return [self._reply(request) for request in requests]

    async def close(self) -> None:
        """Nothing to free."""

    def _reply(self, request: Request) -> Reply:
        self.requests.append(request)
        texts, n = self._texts(request), request.sampling.n
        if request.sampling.beam:
            n = min(n, len(texts))
        elif len(texts) == 1:
            texts = tuple(texts) * n
        if len(texts) != n:
            raise InputError(f"{len(texts)} recorded answers, {n} asked for", where=request.id)
        prompt = request.prompt or " ".join(message.content for message in request.messages)
        return Reply(
            request_id=request.id,
            completions=tuple(_complete(text) for text in texts),
            num_prompt_tokens=len(prompt.split()),
        )

    def _texts(self, request: Request) -> Sequence[str]:
        if callable(self._answers):
            return self._answers(request)
        if request.id not in self._answers:
            raise InputError(
                "No answer is recorded for this request",
                where=request.id,
                remedy="add it to the recorded answers",
            )
        return self._answers[request.id]


def _complete(text: str) -> Completion:
    return Completion(
        text=text, token_ids=tuple(range(len(text.split()))), finish_reason="stop", logprob=0.0
    )
