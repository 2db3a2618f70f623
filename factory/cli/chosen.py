"""What a command works with: what its options name, else what factory.toml does."""

from __future__ import annotations

import os
from pathlib import Path

from factory.cli.opening import open_ledger, open_workspace
from factory.cli.terminal import escape, note
from factory.domain.failures import InputError, RecipeError
from factory.domain.records import Checkpoint
from factory.ledger.database import Source
from factory.ledger.lineage import (
    Best,
    base_checkpoint,
    best_checkpoint,
    find_checkpoint,
    is_address,
    next_checkpoint,
)
from factory.workspace.checking import check_table
from factory.workspace.folder import Workspace
from factory.workspace.models import check_model_folder
from factory.workspace.recipe import Resolved, load_recipe, parse_value
from factory.workspace.settings import Settings, load_settings


def open_checkpoint(wanted: str) -> Path:
    """The folder of a checkpoint by its id (`r2`) or folder, else of the best one so far."""
    with open_ledger().read() as past:
        if not wanted:
            path = find_best(past).checkpoint.path
        elif is_address(wanted):
            raise InputError("the codes of a server's model cannot be read", where=wanted)
        else:
            workspace = open_workspace()
            path = find_checkpoint(workspace, load_settings(workspace), past, wanted).path
    folder = Path(path).expanduser().resolve()
    check_model_folder(folder)
    return folder


def find_best(past: Source) -> Best:
    """The best checkpoint so far, which commands take. Raises FactoryError without one."""
    workspace = open_workspace()
    settings = load_settings(workspace)
    base = base_checkpoint(workspace, settings, past, exact=False)
    return best_checkpoint(workspace, settings, past, base, note)


def find_next(past: Source) -> Checkpoint:
    """The checkpoint that the next round starts from. Raises FactoryError without one."""
    workspace = open_workspace()
    base = base_checkpoint(workspace, load_settings(workspace), past, exact=False)
    return next_checkpoint(workspace, past, base)


def describe_best(best: Best) -> str:
    """`r2-1a2b3c  home-dev 54.2  /…/r2`: the best checkpoint with the score that says so."""
    score = "" if best.value is None else f"  {best.benchmark} {best.value:.1f}"
    return f"{escape(best.checkpoint.id)}{escape(score)}  {escape(best.checkpoint.path)}"


def open_recipe(
    workspace: Workspace, settings: Settings, name: str = "", overrides: list[str] | None = None
) -> Resolved:
    """The named recipe, else that of factory.toml, with the values of --set."""
    resolved = load_recipe(workspace, name or settings.recipe, parse_overrides(overrides))
    for sentence in resolved.retired:
        note(sentence)
    return resolved


def split_overrides(pairs: list[str] | None) -> tuple[list[str], list[str]]:
    """The values of --set that are the engine's (`engine.replicas=4`), and those of the recipe."""
    ours: list[str] = []
    recipes: list[str] = []
    for pair in pairs or []:
        (ours if pair.strip().startswith("engine.") else recipes).append(pair)
    return ours, recipes


def load_settings_with(
    workspace: Workspace, model: str, threads: int, overrides: list[str] | None = None
) -> Settings:
    """factory.toml with what flags say; `overrides` are those of split_overrides."""
    settings = load_settings(workspace)
    if overrides:
        values = {key: parse_value(key, text) for key, text in parse_overrides(overrides).items()}
        table = settings.model_dump(mode="json")
        table["engine"] |= {key.removeprefix("engine."): value for key, value in values.items()}
        settings = check_table(Settings, table, "--set and factory.toml", error=RecipeError)
    if model:
        settings = settings.model_copy(update={"model": _name(workspace, model)})
    if threads:
        engine = settings.engine.model_copy(update={"threads": threads})
        settings = settings.model_copy(update={"engine": engine})
    return settings


def _name(workspace: Workspace, model: str) -> str:
    """The flag's model as factory.toml names it: one inside the workspace moves with it."""
    folder = Path(os.path.abspath(Path(model).expanduser()))
    if not folder.exists() and workspace.model_folder(model).exists():
        return model
    inside = folder.is_relative_to(workspace.root)
    return folder.relative_to(workspace.root).as_posix() if inside else str(folder)


def parse_overrides(pairs: list[str] | None) -> dict[str, str]:
    """`key=value` pairs by key. Raises RecipeError."""
    overrides = {}
    for pair in pairs or []:
        key, separator, value = pair.partition("=")
        if not separator:
            remedy = "write it as --set train.epochs=2"
            raise RecipeError(f"--set {pair} has no value", remedy=remedy)
        overrides[key.strip()] = value.strip()
    return overrides
