"""The plain transformers child, for machines that vLLM has no build for.

Same protocol and constraints as the vLLM child, slower; a seed gives other samples than there.
Requests are sampled in batches of left-padded prompts. Every sample draws from its own generator,
so it does not depend on the batch it shares, beyond the last bits of the arithmetic.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from transformers import DynamicCache

from factory.codes.trie import Trie
from factory.domain.failures import ModelError
from factory.domain.records import (
    PROMPT_TOO_LONG,
    Completion,
    Constraint,
    FinishReason,
    Reply,
    Request,
)
from factory.engines.base import unanswered
from factory.engines.beam import BeamSearch
from factory.engines.chat import Chat
from factory.engines.child import run_child
from factory.engines.constrain import BatchRows, Bound, bind, constraint_to_wire
from factory.engines.forest import Forest
from factory.engines.loading import load_served, served_length
from factory.engines.server import Answer, Backend, serve
from factory.workspace.settings import EngineSection

KEEP_SHARE = 0.75
"""A batch is packed once less than this share of its rows is unfinished."""


@dataclass(slots=True, kw_only=True)
class Job:
    """A request being sampled."""

    number: int
    """Its number on the channel."""
    request: Request
    prompt_ids: list[int]
    done: dict[int, Completion] = field(default_factory=dict)
    """Finished samples by index."""

    @property
    def num_rows(self) -> int:
        """Sequences it takes: greedy needs one however many are asked for."""
        sampling = self.request.sampling
        return 1 if sampling.temperature == 0 and not sampling.beam else sampling.n

    @property
    def kind(self) -> tuple[Constraint | None, int] | None:
        """Jobs alike go into one batch: None is sampled, else the trie and width of a beam."""
        sampling = self.request.sampling
        return (self.request.constraint, sampling.n) if sampling.beam else None


@dataclass(slots=True, kw_only=True)
class Row:
    """One sequence of a batch."""

    job: Job
    index: int
    """Which of the job's samples."""
    generator: torch.Generator
    bound: Bound | None
    """What it may write, if it is constrained."""
    max_tokens: int
    token_ids: list[int] = field(default_factory=list)
    """New tokens so far."""
    logprob: float = 0.0
    finished: bool = False


class TransformersBackend(Backend):
    """A model, and the requests that wait for it. A batch that runs takes no more of them."""

    def __init__(self, folder: Path, settings: EngineSection) -> None:
        self.chat = Chat(folder)
        self._folder = str(folder)
        self._model = load_served(folder, settings)
        self._device: torch.device = self._model.device
        self.max_model_len = served_length(self._model.config, settings)
        self._max_rows = settings.max_batch
        self._vocabulary = int(self._model.get_input_embeddings().weight.shape[0])
        self._forest = Forest(self._device)
        self._waiting: deque[Job] = deque()
        self._beam_over = lru_cache(maxsize=8)(self._make_beam)

    @property
    def is_busy(self) -> bool:
        return bool(self._waiting)

    def add(self, number: int, request: Request, prompt_ids: list[int]) -> None:
        # Unsupported is raised here rather than when the batch has begun.
        bound = self._bind(request)
        if request.sampling.beam:
            assert bound is not None and bound.guide is not None
            self._beam_over(bound.guide.trie)
        self._waiting.append(Job(number=number, request=request, prompt_ids=prompt_ids))

    def abort(self, number: int) -> None:
        self._waiting = deque(job for job in self._waiting if job.number != number)

    def step(self, answer: Answer) -> None:
        if self._waiting:
            jobs = self._next_batch()
            (self._search if jobs[0].request.sampling.beam else self._sample)(jobs, answer)

    def _next_batch(self) -> list[Job]:
        """The first jobs that wait and share its kind, up to `max_batch` rows."""
        kind, num_rows, taken = self._waiting[0].kind, 0, dict[int, Job]()
        for job in self._waiting:
            if job.kind != kind:
                continue
            num_rows += job.num_rows
            if taken and num_rows > self._max_rows:
                break
            taken[job.number] = job
        self._waiting = deque(job for job in self._waiting if job.number not in taken)
        return list(taken.values())

    def _make_beam(self, trie: Trie) -> BeamSearch:
        try:
            return BeamSearch(self._model, trie)
        except ModelError as error:
            raise ModelError(
                error.what,
                where=error.where,
                remedy='set backend = "vllm" in factory.toml [engine], which searches with any '
                'model, or decode = "sample" ([codes] of the recipe, or the benchmark\'s)',
            ) from error

    def _search(self, jobs: list[Job], answer: Answer) -> None:
        """The likeliest codes of jobs that share a trie."""
        bound, width = self._bind(jobs[0].request), jobs[0].request.sampling.n
        assert bound is not None and bound.guide is not None
        trie = bound.guide.trie
        search = self._beam_over(trie)
        fitting = [job for job in jobs if search.fits(len(job.prompt_ids), width)]
        for job in jobs:
            if job not in fitting:
                num_tokens = len(job.prompt_ids)
                answer(job.number, unanswered(job.request, PROMPT_TOO_LONG, num_tokens))
        prompts = [job.prompt_ids for job in fitting]
        rankings = search.search(prompts, k=width, beams=width)
        for job, ranking in zip(fitting, rankings, strict=True):
            codes = [((*found.code, trie.end), found.score) for found in ranking.codes]
            answer(job.number, self.chat.found(job.request, codes, len(job.prompt_ids)))

    def _sample(self, jobs: list[Job], answer: Answer) -> None:
        """Sample a batch of jobs to its end and answer each as soon as it is complete."""
        rows = [self._row(job, index) for job in jobs for index in range(job.num_rows)]
        cache = DynamicCache(config=self._model.config)
        ids_RT, mask_RT = self._left_pad([job.prompt_ids for job in jobs])
        with torch.inference_mode():
            logits_RV = self._forward(ids_RT, mask_RT, cache)
            # All prompts are prefilled once; their n samples start from copies of the cache.
            parents = [place for place, job in enumerate(jobs) for _ in range(job.num_rows)]
            logits_RV, mask_RT = self._select(parents, logits_RV, mask_RT, cache)
            while True:
                next_R = self._choose(rows, logits_RV)
                for row in rows:
                    if self._completes(row):
                        answer(row.job.number, self._reply(row.job))
                unfinished = [place for place, row in enumerate(rows) if not row.finished]
                if not unfinished:
                    return
                if len(unfinished) < KEEP_SHARE * len(rows):
                    rows = [rows[place] for place in unfinished]
                    next_R, mask_RT = self._select(unfinished, next_R, mask_RT, cache)
                mask_RT = torch.nn.functional.pad(mask_RT, (0, 1), value=1)
                logits_RV = self._forward(next_R[:, None], mask_RT, cache)

    def _row(self, job: Job, index: int) -> Row:
        sampling = job.request.sampling
        generator = torch.Generator(device=self._device)
        generator.manual_seed(sampling.seed + index)
        return Row(
            job=job,
            index=index,
            generator=generator,
            bound=self._bind(job.request),
            max_tokens=min(sampling.max_tokens, self.max_model_len - len(job.prompt_ids)),
        )

    def _bind(self, request: Request) -> Bound | None:
        if request.constraint is None:
            return None
        wire = constraint_to_wire(request.constraint, self.chat, native=request.is_native)
        return bind(wire, self._folder, self._vocabulary)

    def _left_pad(self, prompts: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Prompts as (R, T) ids and mask; pads stand on the left, where the mask is 0."""
        width = max(len(prompt) for prompt in prompts)
        filler = min(self.chat.end_ids)
        ids = [[filler] * (width - len(prompt)) + prompt for prompt in prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        return torch.tensor(ids, device=self._device), torch.tensor(mask, device=self._device)

    def _forward(self, ids_RT: Tensor, mask_RT: Tensor, cache: DynamicCache) -> Tensor:
        """(R, V) float32 logits of the last position; `cache` grows by the given tokens."""
        # Finished rows run on until the batch is packed, hence the upper bound.
        last = self.max_model_len - 1
        positions_RT = (mask_RT.cumsum(1) - 1).clamp(0, last)[:, -ids_RT.shape[1] :]
        output = self._model(
            input_ids=ids_RT,
            attention_mask=mask_RT,
            position_ids=positions_RT,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1].float()

    def _select(
        self, places: list[int], values: Tensor, mask_RT: Tensor, cache: DynamicCache
    ) -> tuple[Tensor, Tensor]:
        """The given rows of values, mask and (in place) cache."""
        chosen = torch.tensor(places, device=self._device)
        cache.reorder_cache(chosen)
        return values[chosen], mask_RT[chosen]

    def _choose(self, rows: list[Row], logits_RV: Tensor) -> Tensor:
        """Sample the next token of every row; finished rows get one that nobody reads."""
        logprobs_RV = logits_RV.log_softmax(-1)
        bound = {
            place: (row.bound, row.token_ids)
            for place, row in enumerate(rows)
            if row.bound and not row.finished
        }
        if bound:
            BatchRows(self._forest, bound, len(rows)).apply(logits_RV)
        next_R = draw(logits_RV, rows)
        chosen_R = logprobs_RV.gather(1, next_R[:, None])[:, 0]
        for row, token, logprob in zip(rows, next_R.tolist(), chosen_R.tolist(), strict=True):
            if not row.finished:
                row.token_ids.append(token)
                row.logprob += logprob
        return next_R

    def _completes(self, row: Row) -> bool:
        """Close a row at an end token or at its length; whether it was the last of its job."""
        ended = row.token_ids[-1] in self.chat.end_ids
        if row.finished or not (ended or len(row.token_ids) >= row.max_tokens):
            return False
        row.finished = True
        job = row.job
        reason: FinishReason = "stop" if ended else "length"
        job.done[row.index] = self.chat.completion(job.request, row.token_ids, reason, row.logprob)
        return len(job.done) == job.num_rows

    def _reply(self, job: Job) -> Reply:
        completions = tuple(job.done[index] for index in sorted(job.done))
        return Reply(
            request_id=job.request.id,
            completions=completions * (job.request.sampling.n // job.num_rows),
            num_prompt_tokens=len(job.prompt_ids),
        )


def draw(logits_RV: Tensor, rows: list[Row]) -> Tensor:
    """(R) next tokens: temperature, top-k, top-p, then an exponential race.

    argmax p / q with q ~ Exp(1) samples from p; each row's q comes from its own generator.
    """
    samplings = [row.job.request.sampling for row in rows]
    device, size = logits_RV.device, logits_RV.shape[1]
    greedy_R = torch.tensor([s.temperature == 0 for s in samplings], device=device)
    heat_R = torch.tensor([s.temperature or 1.0 for s in samplings], device=device)
    scaled_RV = logits_RV / heat_R[:, None]
    if any(s.top_k or s.top_p < 1 for s in samplings):
        top_k_R = torch.tensor([min(s.top_k or size, size) for s in samplings], device=device)
        top_p_R = torch.tensor([s.top_p for s in samplings], device=device)
        _cut(scaled_RV, top_k_R, top_p_R)
    race_RV = torch.ones_like(scaled_RV)
    for place, row in enumerate(rows):
        if not row.finished and row.job.request.sampling.temperature:
            race_RV[place].exponential_(generator=row.generator)
    sampled_R = (scaled_RV.softmax(-1) / race_RV).argmax(-1)
    return torch.where(greedy_R, logits_RV.argmax(-1), sampled_R)


def _cut(logits_RV: Tensor, top_k_R: Tensor, top_p_R: Tensor) -> None:
    """Set to -inf, in place, what top-k and then top-p leave out; the best token always stays."""
    sorted_RV, order_RV = logits_RV.sort(-1)
    least_R1 = sorted_RV.gather(1, (sorted_RV.shape[1] - top_k_R)[:, None])
    sorted_RV.masked_fill_(sorted_RV < least_R1, float("-inf"))
    tail_RV = sorted_RV.softmax(-1).cumsum(-1) <= 1 - top_p_R[:, None]
    tail_RV[:, -1] = False
    sorted_RV.masked_fill_(tail_RV, float("-inf"))
    logits_RV.scatter_(1, order_RV, sorted_RV)


if __name__ == "__main__":
    run_child(lambda channel, _: serve(channel, TransformersBackend))
