"""A model for a benchmark: a folder, a checkpoint of the ledger, or a server on the network."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import fields
from pathlib import Path

from factory import history
from factory.engines.base import (
    Engine,
    EngineSettings,
    check_model_folder,
    fingerprint,
    open_engine,
)
from factory.failures import InputError
from factory.recipe import Settings, free_threads
from factory.records import Checkpoint
from factory.store.database import Ledger
from factory.workspace import Workspace


def is_address(model: str) -> bool:
    """Whether a model is named by the address of its server."""
    return model.startswith(("http://", "https://"))


def find_model(workspace: Workspace, settings: Settings, model: str) -> Checkpoint:
    """The checkpoint of a model folder, of an id in the ledger (`r3`, or its whole id), or of ""
    (the one that the next round starts from).

    Raises InputError, ModelError.
    """
    folder = Path(model).expanduser()
    if not model:
        base = base_checkpoint(workspace, settings)
        found = history.promoted_checkpoint(Ledger(workspace.state), base)
        folder = workspace.root / found.path
    elif not folder.is_dir():
        stored = history.stored_checkpoint(Ledger(workspace.state), model)
        if stored is None:
            raise InputError(
                f"there is no checkpoint {model!r}, and no such folder",
                where=str(workspace.root),
                remedy='factory sql "select checkpoint_id from lineage" lists the checkpoints',
            )
        folder = workspace.root / stored.path
    check_model_folder(folder)
    return make_checkpoint(folder.name, folder.resolve(), fingerprint(folder))


def base_checkpoint(workspace: Workspace, settings: Settings) -> Checkpoint:
    """The model of the settings, as the checkpoint that starts the lineage."""
    folder = workspace.model_folder(settings.model)
    check_model_folder(folder)
    return make_checkpoint(folder.name, folder.resolve(), fingerprint(folder))


def make_checkpoint(name: str, folder: Path, mark: str) -> Checkpoint:
    """A checkpoint whose id tells apart other weights under the same name."""
    return Checkpoint(id=f"{name}-{mark.split(':')[-1][:6]}", path=str(folder), fingerprint=mark)


def engine_settings(settings: Settings, threads: int = 0) -> EngineSettings:
    """What the settings say of engines; `threads` overrides theirs where it is not 0."""
    known = {field.name for field in fields(EngineSettings)}
    values = {key: v for key, v in settings.engine.model_dump().items() if key in known}
    return EngineSettings(
        **{**values, "threads": threads or settings.engine.threads or free_threads()}
    )


@contextlib.asynccontextmanager
async def serve(
    workspace: Workspace,
    settings: Settings,
    model: str,
    *,
    notify: Callable[[str], None],
    allow_public: bool = False,
) -> AsyncIterator[Engine]:
    """An engine on `model`, closed at the end: see `find_model`, or `http://host:port/v1#name`.

    Raises FactoryError where it cannot be served.
    """
    engine: Engine
    if is_address(model):
        from factory.engines.http import HttpEngine

        url, _, name = model.partition("#")
        if not name:
            raise InputError(
                "the address does not say which model",
                where=model,
                remedy=f"add its name as the server knows it: {url}#NAME",
            )
        engine = HttpEngine(url, name, allow_public=allow_public)
    else:
        checkpoint = find_model(workspace, settings, model)
        engine = await open_engine(
            settings.engine.backend,
            checkpoint,
            settings=engine_settings(settings),
            log_folder=workspace.state / "logs" / "eval",
            notify=notify,
        )
    try:
        yield engine
    finally:
        await engine.close()
