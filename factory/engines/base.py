"""What an engine is: the protocol every sampler fulfils, its settings, and how to open one.

Only children import torch; this module and `factory.engines.process` do not.
"""

from __future__ import annotations

import hashlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from factory.failures import InputError, MissingError, ModelError
from factory.records import (
    Checkpoint,
    Completion,
    Constraint,
    Message,
    Reply,
    Request,
    Sampling,
)

if TYPE_CHECKING:
    from factory.engines.process import ProcessEngine

PROMPT_TOO_LONG = "prompt_too_long"
"""Finish reason of completions whose prompt leaves no room for a new token."""

CONTEXT_FULL = "context_full"
"""Finish reason of answers cut by the model's window before they had `max_tokens`."""

ENGINE_DIED = "engine_died"
"""Finish reason of completions of a request that kills the engine or that it refuses."""

SCHEMA_UNSUPPORTED = "schema_unsupported"
"""Finish reason where a tool's schema was to constrain the answer and no grammar can be made of it.
Whoever asked may ask again without."""

UNANSWERED = frozenset({PROMPT_TOO_LONG, ENGINE_DIED, SCHEMA_UNSUPPORTED})
"""Finish reasons of completions without an answer: nothing can be said of one."""

BACKENDS = {"vllm": "factory.engines.vllm", "transformers": "factory.engines.transformers"}
"""Module that a backend's child process runs."""

INSTALL = {
    "vllm": "pip install 'tool-factory[cpu]' (no GPU) or 'tool-factory[gpu]', "
    "or sample with the transformers backend",
    "transformers": "pip install 'tool-factory[train]'",
}


class Engine(Protocol):
    """A model that samples. Any number of `sample` calls at once share its batches."""

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint it serves."""
        ...

    async def sample(self, requests: Sequence[Request]) -> list[Reply]:
        """Replies in the order of `requests`; the same request gets the same reply."""
        ...

    async def close(self) -> None:
        """Free the model; later calls of `sample` are an error."""
        ...


class Closing(ABC):
    """`async with` for what is to be closed at the end."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @abstractmethod
    async def close(self) -> None:
        """Free what is held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How a child serves a model. Example: EngineSettings(threads=2, max_model_len=2048)."""

    threads: int
    """CPU threads of the child."""
    max_model_len: int
    """Prompt and answer together, in tokens; the model's own limit where that is smaller."""
    memory_gib: float = 1.0
    """KV cache of vLLM on the CPU, in GiB."""
    gpu_memory: float = 0.9
    """Share of the device's memory that vLLM takes on a GPU, weights included."""
    dtype: str = "auto"
    """auto, bfloat16, float16 or float32."""
    max_batch: int = 256
    """Sequences that decode at a time; a request's n samples are never split by transformers."""
    max_restarts: int = 3
    """Deaths a request may be part of; then it is tried once more, alone (see ProcessEngine)."""
    gpu: bool | None = None
    """Use a GPU; None looks for one."""


def fingerprint(folder: Path) -> str:
    """`sha256:…` over the names and bytes of the weight files in `folder`, in name order."""
    total = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        total.update(path.name.encode() + b"\0")
        with path.open("rb") as weights:
            total.update(hashlib.file_digest(weights, "sha256").digest())
    return f"sha256:{total.hexdigest()}"


def check_model_folder(path: Path) -> None:
    """Raise ModelError unless `path` has weights, config, tokenizer and chat template."""
    remedy = "give the folder of a model in Hugging Face format (as save_pretrained writes it)"
    if not path.is_dir():
        raise ModelError("The model folder does not exist", where=str(path), remedy=remedy)
    for what, patterns in {
        "weights": ("*.safetensors", "*.bin"),
        "config.json": ("config.json",),
        "tokenizer": ("tokenizer.json", "tokenizer.model", "vocab.json"),
    }.items():
        if not any(next(path.glob(pattern), None) for pattern in patterns):
            raise ModelError(f"The model folder has no {what}", where=str(path), remedy=remedy)
    if not (path / "chat_template.jinja").exists() and not _has_inline_template(path):
        raise ModelError(
            "The model's tokenizer has no chat template",
            where=str(path),
            remedy="use an instruction-tuned model, or add its chat_template.jinja to the folder",
        )


def _has_inline_template(path: Path) -> bool:
    config = path / "tokenizer_config.json"
    folder = path / "additional_chat_templates"
    return folder.is_dir() or (config.exists() and '"chat_template"' in config.read_text("utf-8"))


def is_installed(package: str) -> bool:
    """Whether `package` could be imported, without importing it."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


def choose_backend(backend: str, notify: Callable[[str], None]) -> str:
    """The backend to use for `vllm`, `transformers` or `auto`.

    Raises:
        InputError: no such backend.
        MissingError: its package is not installed.
    """
    if backend == "auto":
        if is_installed("vllm"):
            return "vllm"
        notify(
            "vLLM is not installed: sampling with plain transformers, which gives the same kind "
            f"of samples several times slower; to mend it: {INSTALL['vllm']}"
        )
        backend = "transformers"
    if backend not in BACKENDS:
        raise InputError(f"There is no engine {backend!r}", remedy="use auto, vllm or transformers")
    for package in (backend, "torch"):
        if not is_installed(package):
            raise MissingError(f"{package} is not installed", remedy=INSTALL[backend])
    return backend


async def open_engine(
    backend: str,
    checkpoint: Checkpoint,
    *,
    settings: EngineSettings,
    log_folder: Path,
    notify: Callable[[str], None],
) -> ProcessEngine:
    """Start a child that serves `checkpoint` and wait until it is ready.

    `async with await open_engine("auto", checkpoint, …) as engine: …`

    Args:
        backend: `vllm`, `transformers` or `auto`.
        checkpoint: its folder; the served weights must have its fingerprint.
        settings: of the child.
        log_folder: where the child's output goes, as `engine-<backend>.log`.
        notify: is told once what a person should know (a slow backend, a restart and its cause).

    Raises:
        ModelError: the folder cannot be served, or its weights have another fingerprint.
        MissingError: the backend is not installed.
        ChildError: the child died too often.
    """
    from factory.engines.process import ProcessEngine

    chosen = choose_backend(backend, notify)
    check_model_folder(Path(checkpoint.path))
    engine = ProcessEngine(
        BACKENDS[chosen],
        checkpoint,
        settings=settings,
        log=log_folder / f"engine-{chosen}.log",
        notify=notify,
    )
    await engine.start()
    return engine


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
    if request.constraint is not None and (fault := _find_fault(request.constraint)):
        raise InputError(f"The constraint {fault}", where=request.id)


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


def unanswered(request: Request, finish_reason: str, num_prompt_tokens: int = 0) -> Reply:
    """The reply to a request that cannot be sampled: n completions without tokens."""
    empty = Completion(text="", token_ids=(), finish_reason=finish_reason, logprob=0.0)
    return Reply(
        request_id=request.id,
        completions=(empty,) * request.sampling.n,
        num_prompt_tokens=num_prompt_tokens,
    )


def describe_unsupported(request: Request, error: Exception) -> str:
    """The notice about a request whose schema cannot constrain its answer."""
    return f"request {request.id} stays unanswered, its schema makes no grammar: {error}"


def request_to_wire(request: Request) -> dict[str, Any]:
    """A request as a JSON object."""
    return asdict(request)


def request_from_wire(wire: dict[str, Any]) -> Request:
    """The inverse of `request_to_wire`."""
    constraint = wire["constraint"] and {
        key: tuple(value) if key in ("only", "tools") else value
        for key, value in wire["constraint"].items()
    }
    return Request(
        id=wire["id"],
        sampling=Sampling(**wire["sampling"]),
        messages=tuple(Message(**message) for message in wire["messages"]),
        prompt=wire["prompt"],
        constraint=Constraint(**constraint) if constraint else None,
        tools=tuple(wire["tools"]),
        logprob=wire["logprob"],
    )


def reply_to_wire(reply: Reply) -> dict[str, Any]:
    """A reply as a JSON object."""
    return asdict(reply)


def reply_from_wire(wire: dict[str, Any]) -> Reply:
    """The inverse of `reply_to_wire`."""
    return Reply(
        request_id=wire["request_id"],
        completions=tuple(
            Completion(**{**completion, "token_ids": tuple(completion["token_ids"])})
            for completion in wire["completions"]
        ),
        num_prompt_tokens=wire["num_prompt_tokens"],
    )
