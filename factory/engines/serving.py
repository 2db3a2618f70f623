"""A model for a benchmark: a folder, a checkpoint of the ledger, or a server on the network."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from factory.domain.records import Checkpoint
from factory.engines.base import Engine
from factory.engines.early import Early
from factory.engines.http import TIMEOUT_SECONDS, HttpEngine
from factory.engines.opening import open_engine
from factory.ledger.lineage import is_address
from factory.workspace.folder import Workspace
from factory.workspace.machine import free_threads
from factory.workspace.models import check_model_folder
from factory.workspace.settings import EngineSection, Settings


def engine_settings(settings: Settings, threads: int = 0, num_engines: int = 1) -> EngineSection:
    """What the settings say of engines; `threads` overrides theirs where it is not 0.

    The share of a GPU's memory is split among `num_engines` that are open at once.
    """
    return settings.engine.model_copy(
        update={
            "threads": threads or settings.engine.threads or free_threads(),
            "gpu_memory": settings.engine.gpu_memory / num_engines,
        }
    )


@contextlib.asynccontextmanager
async def serve(
    workspace: Workspace,
    settings: Settings,
    checkpoint: Checkpoint,
    *,
    notify: Callable[[str], None],
    allow_public: bool = False,
    num_engines: int = 1,
    log_folder: Path | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
    early: Early | None = None,
) -> AsyncIterator[Engine]:
    """An engine on a checkpoint of `find_checkpoint`, one of `num_engines` here, closed at the end.

    `log_folder` is where its output goes; by default among the logs of scores. `timeout_seconds`
    is for one answer of a server. `early` may have started the engine's children. Raises
    FactoryError where it cannot be served, and at the end for a server that gave no answer at all.
    """
    engine: Engine
    if is_address(checkpoint.path):
        url, _, name = checkpoint.path.partition("#")
        engine = HttpEngine(url, name, allow_public=allow_public, timeout_seconds=timeout_seconds)
        if engine.caution:
            notify(engine.caution)
    else:
        check_model_folder(Path(checkpoint.path))
        engine = await open_engine(
            checkpoint,
            settings=engine_settings(settings, num_engines=num_engines),
            log_folder=log_folder or workspace.state / "logs" / "score",
            notify=notify,
            early=early,
        )
    try:
        yield engine
        check_answered(engine)
    finally:
        await engine.close()


def check_answered(engine: Engine) -> None:
    """Raise MissingError where a server was asked since the last check and gave no answer."""
    if isinstance(engine, HttpEngine):
        engine.check_answered()
