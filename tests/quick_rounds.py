"""Rounds of recorded answers over one workspace, each with a ledger of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from conftest_models import tiny_model
from workspaces import make_workspace

from factory.cli.monitor import PlainMonitor
from factory.domain.records import Query
from factory.engines.replay import ReplayEngine
from factory.ledger.database import Ledger
from factory.round.calibration import calibrate
from factory.round.factory import Factory, load_factory
from factory.round.gate import decide
from factory.round.judging import judge
from factory.round.sampling import sample
from factory.round.start import resume
from factory.score.base import Scorable
from factory.score.keeper import Keeper
from factory.workspace.folder import Workspace
from factory.workspace.recipe import load_recipe
from factory.workspace.settings import load_settings


def make_untrained(folder: Path) -> Workspace:
    """A workspace whose model is a tiny random one."""
    workspace = make_workspace(folder)
    model = tiny_model(workspace.root / "model")
    text = workspace.marker.read_text(encoding="utf-8")
    workspace.marker.write_text(text.replace("rounds/seed", model.name), encoding="utf-8")
    return workspace


class Notes(PlainMonitor):
    """What a user is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)


def open_factory(
    empty: Workspace,
    folder: Path,
    pool: Sequence[Query] | None = None,
    overrides: dict[str, str] | None = None,
    **values: int,
) -> Factory:
    """A factory with a ledger of its own; `values` are keys of the recipe itself."""
    settings = load_settings(empty)
    given_values = {"codes.coder": '"none"', **(overrides or {})}
    given_values |= {key: str(value) for key, value in values.items()}
    resolved = load_recipe(empty, settings.recipe, given_values)
    factory = load_factory(empty, settings, resolved, Notes(), pool)
    folder.mkdir(exist_ok=True)
    return replace(factory, ledger=Ledger(folder))


def run_sampling(
    factory: Factory, engine: ReplayEngine, benchmarks: Mapping[str, Scorable] | None = None
) -> Factory:
    """The open round up to the end of sampling; with other benchmarks than its recipe loads."""
    factory, this = resume(factory, factory.ledger)
    if benchmarks is not None:
        factory = replace(factory, benchmarks=benchmarks)
    assert this is not None
    keeper = Keeper(factory.setup, this.checkpoint, (), lambda num_engines: engine)
    factory = asyncio.run(calibrate(factory, this, keeper))
    asyncio.run(sample(factory, this, keeper))
    return factory


def finish(factory: Factory) -> None:
    factory, this = resume(factory, factory.ledger)
    assert this is not None
    judge(factory, this)
    decide(factory, this, "not trained: a test")


def told(factory: Factory) -> list[str]:
    assert isinstance(factory.monitor, Notes)
    return factory.monitor.told


def rows_of(ledger: Ledger, sql: str) -> list[Any]:
    return list(ledger.query(sql).rows)


def facts(ledger: Ledger) -> dict[str, Any]:
    ((detail,),) = rows_of(ledger, "select detail_json from stage where stage = 'sample'")
    return dict(json.loads(detail))
