"""Choose the engine that serves a checkpoint, and open it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from factory.domain.failures import InputError, MissingError
from factory.domain.records import Checkpoint
from factory.engines.process import ProcessEngine
from factory.workspace.models import INSTALL, check_model_folder, is_installed
from factory.workspace.settings import EngineSection

BACKENDS = {"vllm": "factory.engines.vllm", "transformers": "factory.engines.transformers"}
"""Module that a backend's child process runs."""


def choose_backend(backend: str, notify: Callable[[str], None]) -> str:
    """The backend to use for `vllm`, `transformers` or `auto`. Raises InputError for any other,
    MissingError where its package is not installed.
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
    checkpoint: Checkpoint,
    *,
    settings: EngineSection,
    log_folder: Path,
    notify: Callable[[str], None],
) -> ProcessEngine:
    """Start a child that serves `checkpoint` and wait until it is ready.

    `async with await open_engine(checkpoint, settings=…, …) as engine: …`

    The child's output goes to `engine-<backend>.log` in `log_folder`; `notify` is told once what a
    person should know (a slow backend, a restart and its cause). `threads` are at least 1.

    Raises ModelError for a folder that cannot be served or whose weights have another fingerprint
    than `checkpoint`, ChildError for a child that died too often, and what choose_backend raises.
    """
    chosen = choose_backend(settings.backend, notify)
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
