"""Choose the engine that serves a checkpoint, and open it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

from factory.domain.failures import EnvironmentError_, InputError, MissingError
from factory.domain.records import Checkpoint
from factory.engines.early import Early, Seat
from factory.engines.kernels import check_heads
from factory.engines.process import ProcessEngine
from factory.engines.replicas import Replicas
from factory.workspace.machine import visible_gpus
from factory.workspace.models import INSTALL, check_model_folder, is_installed
from factory.workspace.settings import EngineSection

BACKENDS = {
    "vllm": "factory.engines.vllm",
    "transformers": "factory.engines.transformers",
    "ray": "factory.engines.ray",
}
"""Module that a backend's child process runs."""


def choose_backend(backend: str, notify: Callable[[str], None]) -> str:
    """The backend to use for a name of BACKENDS, or `auto`. Raises InputError for any other,
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
        raise InputError(
            f"There is no engine {backend!r}", remedy="use auto, vllm, transformers or ray"
        )
    for package in (backend, "torch"):
        if not is_installed(package):
            raise MissingError(f"{package} is not installed", remedy=INSTALL[backend])
    return backend


def check_engine(settings: EngineSection, notify: Callable[[str], None]) -> tuple[str, ...]:
    """The backend that these settings come to, and after `ray` that of its engines here; those of a
    cluster are looked at there. Raises what choose_backend and gpus_of_copies raise."""
    chosen = choose_backend(settings.backend, notify)
    gpus_of_copies(settings, chosen)
    if chosen != "ray" or os.environ.get("RAY_ADDRESS"):
        return (chosen,)
    return chosen, choose_backend(settings.inner, notify)


def check_loopback() -> None:
    """Raise EnvironmentError_ where no interface has 127.0.0.1: vLLM and Ray join parts by it."""
    try:
        with socket.socket(type=socket.SOCK_DGRAM) as probe:
            probe.connect(("127.0.0.1", 9))  # finds the way, sends nothing
    except OSError as error:
        raise EnvironmentError_(
            f"vLLM and Ray need the loopback interface, which is down: {error.strerror}",
            where="127.0.0.1",
            remedy='`ip link set lo up` as root, or backend = "transformers" in factory.toml',
        ) from error


def gpus_of_copies(settings: EngineSection, backend: str) -> list[tuple[str, ...]]:
    """The GPUs of each copy of the model; none named where a copy, or Ray, takes what there is.

    Raises InputError for what the backend cannot do, MissingError where there are too few GPUs.
    """
    each, copies = settings.tensor_parallel, settings.data_parallel
    if backend == "ray":
        return [()]
    if each > 1 and backend == "transformers":
        raise InputError(
            "the transformers engine keeps a copy of the model whole, on one device",
            where=f"engine.tensor_parallel = {each}",
            remedy=f"{INSTALL['vllm'].split(', ')[0]}, or set engine.data_parallel instead",
        )
    gpus = visible_gpus()
    if not gpus or each * copies == 1:
        return [()] * copies
    if each * copies > len(gpus):
        raise MissingError(
            f"{copies} copies of the model on {each} GPUs each take {each * copies} GPUs; this "
            f"machine has {len(gpus)}",
            where="factory.toml [engine]",
            remedy="lower engine.tensor_parallel or engine.data_parallel",
        )
    return [gpus[copy * each : (copy + 1) * each] for copy in range(copies)]


async def open_engine(
    checkpoint: Checkpoint,
    *,
    settings: EngineSection,
    log_folder: Path,
    notify: Callable[[str], None],
    early: Early | None = None,
) -> ProcessEngine | Replicas:
    """Start a child that serves `checkpoint`, or several, and wait until it is ready; where `early`
    has started them, it is those.

    `async with await open_engine(checkpoint, settings=…, …) as engine: …`

    The child's output goes to `engine-<backend>.log` in `log_folder`, that of further copies to
    `engine-<backend>-2.log` and on; `notify` is told once what a person should know (a slow
    backend, a restart and its cause). `threads`, at least 1, are shared by the copies.

    Raises ModelError for a folder that cannot be served or whose weights have another fingerprint
    than `checkpoint`, ChildError for a child that died too often, and what choose_backend raises.
    """
    chosen = choose_backend(settings.backend, notify)
    if chosen != "transformers":
        check_loopback()
    check_model_folder(Path(checkpoint.path))
    check_heads(Path(checkpoint.path), settings)
    seats = _seats(settings, chosen, log_folder)
    shared = settings.model_copy(update={"threads": seats[0].threads})
    engines = [
        ProcessEngine(
            seat.module,
            checkpoint,
            settings=shared,
            log=seat.log,
            notify=notify,
            gpus=seat.gpus,
            early=early,
        )
        for seat in seats
    ]
    engine = engines[0] if len(engines) == 1 else Replicas(engines)
    await engine.start()
    return engine


def early_engine(settings: EngineSection, log_folder: Path) -> Early:
    """What starts the children of `open_engine` with these arguments before their model is there.

    Of Ray's engines it starts none: they hold their places for as long as they live.
    """
    chosen = choose_backend(settings.backend, lambda _: None)
    return Early(() if chosen == "ray" else _seats(settings, chosen, log_folder))


def _seats(settings: EngineSection, chosen: str, log_folder: Path) -> list[Seat]:
    """Where each copy is served; they share the threads."""
    copies = gpus_of_copies(settings, chosen)
    threads = max(1, settings.threads // len(copies))
    return [
        Seat(
            BACKENDS[chosen],
            threads,
            log_folder / f"engine-{chosen}{f'-{number}' if number > 1 else ''}.log",
            gpus,
        )
        for number, gpus in enumerate(copies, 1)
    ]
