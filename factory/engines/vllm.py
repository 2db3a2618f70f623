"""The vLLM child: `python -m factory.engines.vllm`, started by `factory.engines.process`.

All requests in flight share vLLM's continuous batch and prefix cache, the n samples of one prompt
share its prefill. The engine runs inside this process. Settings and their reasons: on the CPU,
chunked prefill breaks per-request seeds and blocks of 32 tokens let short prompts be cached.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from factory.domain.failures import ModelError
from factory.domain.records import ENGINE_DIED, PROMPT_TOO_LONG, SCHEMA_UNSUPPORTED, Reply, Request
from factory.engines.base import describe_unsupported, unanswered
from factory.engines.chat import Chat
from factory.engines.child import Channel, run_child
from factory.engines.constrain import bind, constraint_to_wire
from factory.engines.grammar import Unsupported
from factory.engines.processors import vllm_processor, vllm_slot_processor
from factory.engines.wire import reply_to_wire, request_from_wire
from factory.workspace.models import fingerprint
from factory.workspace.settings import EngineSection

MIN_BATCHED_TOKENS = 4096
"""Prompt tokens that one step may prefill, if the model's length is less."""


class Server:
    """vLLM's engine, fed from the channel and answering to it."""

    def __init__(self, channel: Channel, folder: Path, settings: EngineSection) -> None:
        self._channel = channel
        self._folder = folder
        self._chat = Chat(folder)
        self._engine = _load(folder, settings)
        config = self._engine.vllm_config.model_config
        self._max_model_len: int = config.max_model_len
        self._vocabulary: int = config.get_vocab_size()
        self._pending: dict[str, Request] = {}
        self._has_refused = False
        self.info = _info(self._engine)
        self._reading_chat = Chat(folder)
        """The reading thread's own: a tokenizer serves one thread."""
        channel.prepare = self._read

    def serve(self) -> None:
        """Step the engine as long as there is work, else wait; returns when the channel closes."""
        while True:
            message = self._channel.receive(block=not self._engine.has_unfinished_requests())
            while message is not None:
                self._accept(message)
                message = self._channel.receive(block=False)
            if self._channel.closed:
                return
            for output in self._engine.step():
                if output.finished:
                    self._answer(output)

    def _read(self, message: dict[str, Any]) -> dict[str, Any]:
        """Tokenise a request, in the channel's thread: the engine steps meanwhile."""
        if message["type"] == "abort":
            return message
        request = request_from_wire(message["request"])
        prompt_ids = self._reading_chat.encode(request)
        return {**message, "request": request, "prompt_ids": prompt_ids}

    def _accept(self, message: dict[str, Any]) -> None:
        from vllm.exceptions import VLLMClientError

        number = str(message["number"])
        if message["type"] == "abort":
            if self._pending.pop(number, None):
                self._engine.abort_request([number])
            return
        request, prompt_ids = message["request"], message["prompt_ids"]
        if len(prompt_ids) >= self._max_model_len:
            self._send(number, unanswered(request, PROMPT_TOO_LONG, len(prompt_ids)))
            return
        try:
            params = self._params(request, len(prompt_ids))
            self._engine.add_request(number, {"prompt_token_ids": prompt_ids}, params)
        except (ValueError, VLLMClientError) as error:
            self._refuse(number, request, error)
            return
        except Unsupported as error:
            self._channel.send({"type": "notice", "text": describe_unsupported(request, error)})
            self._send(number, unanswered(request, SCHEMA_UNSUPPORTED, len(prompt_ids)))
            return
        self._pending[number] = request

    def _refuse(self, number: str, request: Request, error: Exception) -> None:
        """Leave a request unanswered; the log has every refusal, the parent is told of one."""
        text = f"vLLM refuses request {request.id}, which stays unanswered: {error}"
        print(text, flush=True)
        if not self._has_refused:
            self._channel.send({"type": "notice", "text": text})
            self._has_refused = True
        self._send(number, unanswered(request, ENGINE_DIED))

    def _params(self, request: Request, num_prompt_tokens: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = request.sampling
        extra = None
        if request.constraint:
            extra = constraint_to_wire(request.constraint, self._chat.bounds(request.constraint))
            bind(extra, str(self._folder), self._vocabulary)
        return SamplingParams(
            n=1 if sampling.temperature == 0 else sampling.n,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            max_tokens=min(sampling.max_tokens, self._max_model_len - num_prompt_tokens),
            seed=sampling.seed,
            stop_token_ids=sorted(self._chat.end_ids),
            logprobs=0 if request.logprob else None,
            detokenize=False,
            extra_args=extra,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _answer(self, output: Any) -> None:
        request = self._pending.pop(output.request_id, None)
        if request is None:
            return
        completions = tuple(
            self._chat.completion(
                request,
                list(one.token_ids),
                str(one.finish_reason),
                float(one.cumulative_logprob or 0.0),
            )
            for one in sorted(output.outputs, key=lambda one: int(one.index))
        )
        if len(completions) < request.sampling.n:
            # Greedy: vLLM samples it once.
            completions *= request.sampling.n
        reply = Reply(
            request_id=request.id,
            completions=completions,
            num_prompt_tokens=len(output.prompt_token_ids),
        )
        self._send(output.request_id, reply)

    def _send(self, number: str, reply: Reply) -> None:
        self._channel.send({"type": "reply", "number": int(number), "reply": reply_to_wire(reply)})


def _stay_eager_on_cpu() -> None:
    """Without a GPU, keep torch.compile off: it would want a C++ compiler and 20 s, for no gain.

    vLLM compiles a helper of its log-probabilities even with enforce_eager. The variable is read
    when torch's compiler is first imported, hence before vLLM is.
    """
    import torch

    if not torch.cuda.is_available():
        os.environ["TORCHDYNAMO_DISABLE"] = "1"


def _load(folder: Path, settings: EngineSection) -> Any:
    """Start vLLM on the CPU or a GPU, as its build has it."""
    from transformers import AutoConfig
    from vllm.engine.arg_utils import EngineArgs
    from vllm.exceptions import VLLMError
    from vllm.platforms import current_platform
    from vllm.v1.engine.llm_engine import LLMEngine

    on_cpu = current_platform.is_cpu()
    try:
        own_limit = getattr(
            AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config(),
            "max_position_embeddings",
            settings.max_model_len,
        )
        length = min(settings.max_model_len, own_limit)
        arguments: dict[str, Any] = {
            "model": str(folder),
            "dtype": settings.dtype,
            "max_model_len": length,
            "max_num_seqs": settings.max_batch,
            "skip_tokenizer_init": True,
            # A multimodal model's own input processor would need the tokenizer.
            "language_model_only": True,
            "disable_log_stats": True,
            "use_tqdm_on_load": False,
            "logits_processors": [
                vllm_slot_processor() if _has_slots(on_cpu) else vllm_processor()
            ],
        }
        if on_cpu:
            arguments |= {
                "enforce_eager": True,
                "block_size": 32,
                "enable_chunked_prefill": False,
                "max_num_batched_tokens": max(length, MIN_BATCHED_TOKENS),
                "kv_cache_memory_bytes": int(settings.memory_gib * 2**30),
            }
        else:
            arguments |= {"gpu_memory_utilization": settings.gpu_memory}
        return LLMEngine.from_engine_args(EngineArgs(**arguments))
    except (ValueError, OSError, VLLMError) as error:
        raise ModelError(
            f"vLLM cannot serve this model: {error}",
            where=str(folder),
            remedy="for memory, change max_model_len or "
            f"{'memory_gib' if on_cpu else 'gpu_memory or max_batch'} in factory.toml [engine]; "
            'else set backend = "transformers" there',
        ) from error


def _has_slots(on_cpu: bool) -> bool:
    """Whether vLLM serves with Model Runner V2, whose logits processors are of another kind."""
    import vllm.envs

    return not on_cpu and bool(vllm.envs.VLLM_USE_V2_MODEL_RUNNER)


def _info(engine: Any) -> dict[str, Any]:
    import vllm

    config = engine.vllm_config
    return {
        "backend": "vllm",
        "version": vllm.__version__,
        "device": str(config.device_config.device_type),
        "dtype": str(config.model_config.dtype).removeprefix("torch."),
        "max_model_len": config.model_config.max_model_len,
        "vocabulary": config.model_config.get_vocab_size(),
    }


def main(channel: Channel, arguments: list[str]) -> None:
    """Load the model the first message names, say so, and serve."""
    opening = channel.receive()
    if opening is None:
        return
    folder = Path(opening["path"])
    os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")
    _stay_eager_on_cpu()
    server = Server(channel, folder, EngineSection(**opening["settings"]))
    channel.send({"type": "ready", "fingerprint": fingerprint(folder), "info": server.info})
    server.serve()


if __name__ == "__main__":
    run_child(main)
