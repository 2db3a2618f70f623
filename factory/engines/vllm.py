"""The vLLM child: `python -m factory.engines.vllm`, started by `factory.engines.process`.

All requests in flight share vLLM's continuous batch and prefix cache, the n samples of one prompt
share its prefill. The engine runs inside this process. Settings and their reasons: on the CPU,
chunked prefill breaks per-request seeds and blocks of 32 tokens let short prompts be cached.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from factory.domain.failures import ModelError
from factory.domain.records import Reply, Request
from factory.engines.branching import Beam
from factory.engines.chat import Chat
from factory.engines.child import run_child
from factory.engines.constrain import Bound, bind, constraint_to_wire
from factory.engines.loading import served_length
from factory.engines.server import Answer, Backend, Refused, serve
from factory.workspace.settings import EngineSection

# Before vLLM is imported, which compiles helpers then. Without a GPU torch.compile stays off: even
# with enforce_eager, a helper of the log-probabilities wants a C++ compiler and 20 s, for no gain.
os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")
# The workers of tensor_parallel: a fork would copy the channel's thread in the middle of its work.
os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
if not torch.cuda.is_available():
    os.environ["TORCHDYNAMO_DISABLE"] = "1"

# isort: split
import vllm.envs
from vllm import RequestOutput, SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.exceptions import VLLMClientError, VLLMError
from vllm.platforms import current_platform
from vllm.sampling_params import MAX_LOGPROB_TOKEN_IDS, RequestOutputKind
from vllm.v1.engine.llm_engine import LLMEngine

from factory.engines.processors import TrieProcessor, TrieSlotProcessor

MIN_BATCHED_TOKENS = 4096
"""Prompt tokens that one step may prefill, if the model's length is less."""


@dataclass(slots=True, kw_only=True)
class Search:
    """A beam under way: each token of a code is a request of its own, on the prompt's cache."""

    number: int
    request: Request
    prompt_ids: list[int]
    beam: Beam
    told: list[dict[int, float]] = field(default_factory=list)
    """What is known after each branch."""
    waiting: dict[str, int] = field(default_factory=dict)
    """Requests in flight, and the branch that each is about."""


class VllmBackend(Backend):
    """vLLM's engine. Its batch takes requests at every step."""

    reads_ahead = True

    def __init__(self, folder: Path, settings: EngineSection) -> None:
        self.chat = Chat(folder)
        self._folder = str(folder)
        self._engine = load_engine(folder, settings)
        config = self._engine.vllm_config.model_config
        self.max_model_len: int = config.max_model_len
        self._vocabulary: int = config.get_vocab_size()
        self._pending: dict[str, Request] = {}
        self._searches: dict[int, Search] = {}

    @property
    def is_busy(self) -> bool:
        return bool(self._engine.has_unfinished_requests())

    def add(self, number: int, request: Request, prompt_ids: list[int]) -> None:
        try:
            extra, bound = self._bind(request)
            if request.sampling.beam:
                self._start(number, request, prompt_ids, bound)
                return
            params = self._params(request, len(prompt_ids), extra)
            self._engine.add_request(str(number), {"prompt_token_ids": prompt_ids}, params)
        except (ValueError, VLLMClientError) as error:
            raise Refused(f"vLLM: {error}") from error
        self._pending[str(number)] = request

    def abort(self, number: int) -> None:
        if self._pending.pop(str(number), None):
            self._engine.abort_request([str(number)])
        if search := self._searches.pop(number, None):
            self._engine.abort_request(list(search.waiting))

    def step(self, answer: Answer) -> None:
        for output in self._engine.step():
            request = self._pending.pop(output.request_id, None) if output.finished else None
            if request is not None:
                answer(int(output.request_id), self._reply(request, output))
            elif search := self._searches.get(int(output.request_id.partition("/")[0])):
                self._go_on(search, output, answer)

    def _start(
        self, number: int, request: Request, prompt_ids: list[int], bound: Bound | None
    ) -> None:
        assert bound is not None and bound.guide is not None
        beam = Beam(bound.guide.trie, request.sampling.n)
        search = Search(number=number, request=request, prompt_ids=prompt_ids, beam=beam)
        self._ask(search)
        self._searches[number] = search

    def _ask(self, search: Search) -> None:
        """Ask for what the beam wants to know; vLLM tells of so many tokens a request."""
        asked = search.beam.asked()
        search.told = [{} for _ in asked]
        for branch, (code, token_ids) in enumerate(asked):
            for start in range(0, len(token_ids), MAX_LOGPROB_TOKEN_IDS):
                part = token_ids[start : start + MAX_LOGPROB_TOKEN_IDS]
                name = f"{search.number}/{len(code)}/{branch}/{start}"
                params = SamplingParams(
                    temperature=0,
                    max_tokens=1,
                    logprob_token_ids=part,
                    detokenize=False,
                    output_kind=RequestOutputKind.FINAL_ONLY,
                )
                prompt = {"prompt_token_ids": [*search.prompt_ids, *code]}
                self._engine.add_request(name, prompt, params)
                search.waiting[name] = branch

    def _go_on(self, search: Search, output: RequestOutput, answer: Answer) -> None:
        branch = search.waiting.pop(output.request_id)
        (logprobs,) = output.outputs[0].logprobs
        search.told[branch] |= {token: float(one.logprob) for token, one in logprobs.items()}
        if search.waiting:
            return
        search.beam.take(search.told)
        self._ask(search)
        if search.waiting:
            return
        del self._searches[search.number]
        codes = [((*code, search.beam.end), score) for score, code in search.beam.found]
        answer(search.number, self.chat.found(search.request, codes, len(search.prompt_ids)))

    def _bind(self, request: Request) -> tuple[dict[str, Any] | None, Bound | None]:
        """A constraint as vLLM's processor takes it; refuses here what that could not bind."""
        if request.constraint is None:
            return None, None
        extra = constraint_to_wire(request.constraint, self.chat, native=request.is_native)
        return extra, bind(extra, self._folder, self._vocabulary)

    def _params(
        self, request: Request, num_prompt_tokens: int, extra: dict[str, Any] | None
    ) -> SamplingParams:
        sampling = request.sampling
        return SamplingParams(
            n=1 if sampling.temperature == 0 else sampling.n,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            max_tokens=min(sampling.max_tokens, self.max_model_len - num_prompt_tokens),
            seed=sampling.seed,
            stop_token_ids=sorted(self.chat.end_ids),
            logprobs=0 if request.logprob else None,
            detokenize=False,
            extra_args=extra,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _reply(self, request: Request, output: RequestOutput) -> Reply:
        completions = tuple(
            self.chat.completion(
                request,
                list(one.token_ids),
                one.finish_reason,
                float(one.cumulative_logprob or 0.0),
            )
            for one in sorted(output.outputs, key=lambda one: int(one.index))
        )
        return Reply(
            request_id=request.id,
            # Greedy: vLLM samples it once.
            completions=completions * (request.sampling.n // len(completions)),
            num_prompt_tokens=len(output.prompt_token_ids),
        )


def engine_options(folder: Path, settings: EngineSection) -> dict[str, Any]:
    """How vLLM serves the model, on the CPU or on GPUs, as fields of its EngineArgs.

    `data_parallel` is not among them: each copy is an engine of its own (engines/replicas.py).
    """
    on_cpu = current_platform.is_cpu()
    length = served_length(AutoConfig.from_pretrained(folder, local_files_only=True), settings)
    options: dict[str, Any] = {
        "model": without_brackets(folder),
        "dtype": settings.dtype,
        "max_model_len": length,
        "max_num_seqs": settings.max_batch,
        "tensor_parallel_size": settings.tensor_parallel,
        # A multimodal model's own input processor would need the tokenizer.
        "language_model_only": True,
        "use_tqdm_on_load": False,
    }
    if on_cpu:
        options |= {
            "enforce_eager": True,
            "block_size": 32,
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(length, MIN_BATCHED_TOKENS),
            "kv_cache_memory_bytes": int(settings.memory_gib * 2**30),
        }
    else:
        options |= {"gpu_memory_utilization": settings.gpu_memory}
    return options


def engine_arguments(folder: Path, settings: EngineSection) -> EngineArgs:
    """The arguments of an engine inside this process, which is asked in tokens."""
    slots = _has_slots(current_platform.is_cpu())
    return EngineArgs(
        **engine_options(folder, settings),
        skip_tokenizer_init=True,
        disable_log_stats=True,
        logits_processors=[TrieSlotProcessor if slots else TrieProcessor],
    )


def without_brackets(folder: Path) -> str:
    """A path to the folder that vLLM finds: it takes brackets in one for a pattern of names.

    It is that of an open directory, by which this process and its workers know the folder.
    """
    if not set(str(folder)) & set("[]*?"):
        return str(folder)
    return f"/proc/{os.getpid()}/fd/{os.open(folder, os.O_RDONLY | os.O_DIRECTORY)}"


def load_engine(folder: Path, settings: EngineSection) -> LLMEngine:
    """Start vLLM. Raises ModelError with vLLM's reason where it does not serve the model so."""
    try:
        return LLMEngine.from_engine_args(engine_arguments(folder, settings))
    except (ValueError, OSError, VLLMError) as error:
        raise ModelError(
            f"vLLM cannot serve this model: {error}",
            where=str(folder),
            remedy="for memory, change max_model_len or "
            f"{_memory_keys()} in factory.toml [engine]; "
            'else set backend = "transformers" there',
        ) from error


def _memory_keys() -> str:
    return "memory_gib" if current_platform.is_cpu() else "gpu_memory or max_batch"


def _has_slots(on_cpu: bool) -> bool:
    """Whether vLLM serves with Model Runner V2, whose logits processors are of another kind."""
    return not on_cpu and bool(vllm.envs.VLLM_USE_V2_MODEL_RUNNER)


if __name__ == "__main__":
    run_child(lambda channel, _: serve(channel, VllmBackend))
