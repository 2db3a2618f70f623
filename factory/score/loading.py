"""The benchmarks of eval/: a definition names its `kind`, a strict model reads the rest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from factory.domain.failures import ContentError, FactoryError
from factory.domain.plaintext import encodable
from factory.score.apibank import ApiBank, ApiBankDefinition
from factory.score.base import Scorable
from factory.score.calls.kind import Benchmark, Changes
from factory.score.definition import Definition, Patience, check_definition, read_definition
from factory.score.language import Language, LanguageDefinition
from factory.score.memory import Memory, MemoryDefinition
from factory.score.teval import TEval, TEvalDefinition
from factory.score.toolbench.completion import CompletionDefinition, TaskCompletion
from factory.score.toolbench.retrieval import (
    Retrieval,
    RetrievalDefinition,
    ToolSenseDefinition,
)
from factory.workspace.folder import Workspace
from factory.workspace.recipe import Recipe

UNNAMED = frozenset(
    {"data", "judge", "allow_public_host", "bm25", "embedders", "corpus", "retriever"}
)
"""Options that a changed value of leaves the benchmark its name: the basis tells them apart."""
Loader = Callable[[Workspace, str, Any], Scorable]
KINDS: Mapping[str, tuple[type[Definition], Loader]] = {
    "retrieval": (RetrievalDefinition, Retrieval.load),
    "toolsense": (ToolSenseDefinition, Retrieval.load),
    "completion": (CompletionDefinition, TaskCompletion.load),
    "apibank": (ApiBankDefinition, ApiBank.load),
    "teval": (TEvalDefinition, TEval.load),
    "language": (LanguageDefinition, Language.load),
    "memory": (MemoryDefinition, Memory.load),
}
"""Besides `calls`, which is what a definition without a kind is."""


def kind_of(workspace: Workspace, name: str) -> str:
    """The kind of eval/<name>.toml. Raises ContentError."""
    kind = str(read_definition(workspace, name).get("kind", "calls"))
    if kind != "calls" and kind not in KINDS:
        raise ContentError(
            f"no kind of benchmark {kind!r}",
            where=f"eval/{name}.toml",
            remedy=f"the kinds are calls, {', '.join(KINDS)}",
        )
    return kind


def changeable_keys(workspace: Workspace, name: str) -> Collection[str]:
    """The keys of a benchmark's definition that `load` can change."""
    kind = kind_of(workspace, name)
    model = Changes if kind == "calls" else KINDS[kind][0]
    return model.model_fields | Patience.model_fields


def load(workspace: Workspace, name: str, changes: Mapping[str, Any] | None = None) -> Scorable:
    """The benchmark of eval/<name>.toml, with some of its keys changed.

    Raises FactoryError: a broken definition, data that are absent or cannot be judged.
    """
    kind, changes = kind_of(workspace, name), changes or {}
    table = {**read_definition(workspace, name), **changes}
    said = {key: table[key] for key in Patience.model_fields if key in table}
    patience = check_definition(Patience, said, f"eval/{name}.toml")
    changes = {key: value for key, value in changes.items() if key not in Patience.model_fields}
    if kind == "calls":
        return replace(Benchmark.load_changed(workspace, name, changes), patience=patience)
    model, loader = KINDS[kind]
    marks = [f"{key}={_show(changes[key])}" for key in sorted(changes.keys() - UNNAMED)]
    whole = loader(workspace, name, check_definition(model, table, f"eval/{name}.toml"))
    return replace(whole, variant=",".join(marks), patience=patience)


def load_held_out(workspace: Workspace, recipe: Recipe | None = None) -> dict[str, Scorable]:
    """The benchmarks whose definition says `held_out = true`, by name, and the one that the votes
    of a recipe are calibrated on. Raises FactoryError.
    """
    held_out = {
        name: load(workspace, name)
        for name in defined(workspace)
        if read_definition(workspace, name).get("held_out") is True
    }
    if recipe is not None and recipe.vote.precision and (dev := recipe.vote.dev):
        held_out[dev] = held_out.get(dev) or load(workspace, dev)
        _check_decides("vote.dev", held_out[dev])
    return held_out


def defined(workspace: Workspace) -> tuple[str, ...]:
    """The names of all definitions, sorted."""
    return tuple(
        file.stem for path, file in workspace.walk("eval", ".toml") if path.count("/") == 1
    )


def find_fault(workspace: Workspace, name: str) -> str:
    """Why a benchmark cannot be scored yet, with the remedy; empty where it can."""
    try:
        load(workspace, name)
    except FactoryError as error:
        return f"{error.what}: {error.remedy}" if error.remedy else error.what
    return ""


def _show(value: object) -> str:
    return "+".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def load_benchmarks(workspace: Workspace, recipe: Recipe) -> dict[str, Scorable]:
    """The recipe's benchmarks and the gate's own sets, by name."""
    score = recipe.score
    names = dict.fromkeys((*score.benchmarks, score.dev, score.abstain))
    benchmarks = {name: load(workspace, name) for name in names if name}
    for key, name in (("score.dev", score.dev), ("score.abstain", score.abstain)):
        if name:
            _check_decides(key, benchmarks[name])
    return benchmarks


def _check_decides(key: str, dev: Scorable) -> None:
    """Raise ContentError unless the set may decide promotion, as the key wants it to."""
    fault = ""
    if dev.split != "dev":
        fault = f"a {dev.split} set: choosing by it would spoil its score"
    elif not isinstance(dev, Benchmark):
        fault = "which is not answered by calls"
    elif key == "score.abstain" and any(item.judge != "no_call" for item in dev.items):
        fault = "of which some questions are to be answered by a call"
    if fault:
        raise ContentError(
            f"{key} is {dev.name}, {fault}",
            where=f"eval/{dev.name}.toml",
            remedy=f'name a benchmark of calls with split = "dev", or none: --set {key}=""',
        )


def plain_text(benchmarks: Mapping[str, Scorable], recipe: Recipe) -> str:
    """Text that names no tool by code: requests of the gate's own set, else of all benchmarks."""
    dev = benchmarks.get(recipe.score.dev)
    chosen = benchmarks.values() if dev is None else [dev]
    return "\n".join(encodable(item.query) for each in chosen for item in each.items)
