"""A model for a benchmark: a folder, a checkpoint of the ledger, or a server on the network."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import fields, replace
from datetime import UTC, datetime
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


def find_checkpoint(
    workspace: Workspace,
    settings: Settings,
    wanted: str,
    notify: Callable[[str], None] | None = None,
) -> Checkpoint:
    """The one checkpoint that a command means by a word.

    Args:
        workspace: whose ledger knows the ids.
        settings: of the workspace.
        wanted: "" is the one that the next round starts from; an id of the ledger, whole or its
            name (`r3`); a model folder; or `http://host:port/v1#name`, whose address is the path.
        notify: is told where that is of another model than the latest round.

    Raises InputError, ModelError.
    """
    if is_address(wanted):
        url, _, name = wanted.partition("#")
        if not name:
            raise InputError(
                "the address does not say which model",
                where=wanted,
                remedy=f"add its name as the server knows it: {url}#NAME",
            )
        return Checkpoint(id=wanted, path=wanted, fingerprint=wanted)
    ledger = Ledger(workspace.state)
    if not wanted:
        base = base_checkpoint(workspace, settings, ledger)
        return next_checkpoint(workspace, ledger, base, notify)
    found = history.find_checkpoints(ledger, wanted)
    if len(found) > 1:
        ids = ", ".join(checkpoint.id for checkpoint in found)
        raise InputError(f"{wanted} may be any of {ids}", remedy="give the whole id")
    if found:
        return replace(found[0], path=str(workspace.root / found[0].path))
    folder = Path(wanted).expanduser().resolve()
    if not folder.exists():
        raise InputError(
            f"there is no checkpoint {wanted!r}, and no such folder",
            where=str(workspace.root),
            remedy='factory sql "select checkpoint_id from lineage" lists the checkpoints',
        )
    check_model_folder(folder)
    mark = fingerprint(folder)
    known = history.find_checkpoints(ledger, mark)
    return (
        replace(known[0], path=str(folder)) if known else make_checkpoint(folder.name, folder, mark)
    )


def next_checkpoint(
    workspace: Workspace,
    ledger: Ledger,
    base: Checkpoint,
    notify: Callable[[str], None] | None = None,
) -> Checkpoint:
    """What every command goes on with unless a flag names another: the latest promoted descendant
    of factory.toml's model (`base`), or that model itself.

    `notify` is told where the latest round was of another model.
    """
    found = history.promoted_checkpoint(ledger, base)
    if notify is not None and (other := history.round_of_another(ledger, base)):
        notify(
            f"the latest round, {other[0]}, was of {other[1]}; factory.toml names another model, "
            f"so {found.id} is used ({found.path})"
        )
    return replace(found, path=str(workspace.root / found.path))


def base_checkpoint(
    workspace: Workspace, settings: Settings, ledger: Ledger, *, exact: bool = True
) -> Checkpoint:
    """The model of the settings, as the checkpoint that starts the lineage.

    A folder that was moved or renamed keeps its id. Without `exact`, the weights of a known folder
    are not read where they are older than its row.
    """
    folder = workspace.model_folder(settings.model)
    check_model_folder(folder)
    path = folder.resolve()
    known = None if exact else history.given_fingerprint(ledger, str(path), _changed(path))
    mark = known or fingerprint(path)
    made = make_checkpoint(folder.name, path, mark)
    names = history.given_names(ledger, str(path), mark)
    return replace(made, id=names[0]) if names else made


def _changed(folder: Path) -> datetime:
    """When a weight file of the folder was written last."""
    files = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
    return datetime.fromtimestamp(max(file.stat().st_mtime for file in files), UTC)


def make_checkpoint(name: str, folder: Path, mark: str) -> Checkpoint:
    """A checkpoint whose id tells apart other weights under the same name."""
    return Checkpoint(id=f"{name}-{mark.split(':')[-1][:6]}", path=str(folder), fingerprint=mark)


def engine_settings(settings: Settings, threads: int = 0, num_engines: int = 1) -> EngineSettings:
    """What the settings say of engines; `threads` overrides theirs where it is not 0.

    The share of a GPU's memory is split among `num_engines` that are open at once.
    """
    known = {field.name for field in fields(EngineSettings)}
    values = {key: v for key, v in settings.engine.model_dump().items() if key in known}
    return EngineSettings(
        **{
            **values,
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
) -> AsyncIterator[Engine]:
    """An engine on a checkpoint of `find_checkpoint`, one of `num_engines` here, closed at the end.

    Raises FactoryError where it cannot be served.
    """
    engine: Engine
    if is_address(checkpoint.path):
        from factory.engines.http import HttpEngine

        url, _, name = checkpoint.path.partition("#")
        engine = HttpEngine(url, name, allow_public=allow_public)
    else:
        check_model_folder(Path(checkpoint.path))
        engine = await open_engine(
            settings.engine.backend,
            checkpoint,
            settings=engine_settings(settings, num_engines=num_engines),
            log_folder=workspace.state / "logs" / "score",
            notify=notify,
        )
    try:
        yield engine
    finally:
        await engine.close()
