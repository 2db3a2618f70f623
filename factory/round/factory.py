"""A workspace opened for a round: all content is loaded and checked before any model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from factory.domain.failures import InputError, RecipeError
from factory.domain.monitor import Monitor
from factory.domain.records import Form, Query
from factory.engines.serving import engine_settings
from factory.judge.cases import check_content
from factory.judge.rulebook import Rulebook
from factory.ledger.database import Ledger
from factory.ledger.rows import stage_row
from factory.ledger.tables import Batch
from factory.score.base import Scorable, Setup
from factory.score.loading import load_benchmarks, load_held_out
from factory.workspace.folder import Workspace
from factory.workspace.prompts import Prompts
from factory.workspace.recipe import Recipe, Resolved, vary
from factory.workspace.settings import SELF, Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Factory:
    """What every step of a round works with. It never changes: `resume` gives another one."""

    workspace: Workspace
    settings: Settings
    """factory.toml; `engine.threads` is settled."""
    resolved: Resolved
    """The recipe in force."""
    prompts: Prompts
    rulebook: Rulebook
    ledger: Ledger
    """Not held open: each step reads one snapshot."""
    monitor: Monitor
    pool: Sequence[Query] | None
    """Queries of the user's files; None is the home world's stream."""
    pool_size: int
    """How many requests the files have, of which the pool may keep only those to draw."""
    benchmarks: Mapping[str, Scorable]
    """Every benchmark of the recipe, the gate's dev set included."""
    held_out: Mapping[str, Scorable]
    """Benchmarks that nothing is trained on although no recipe scores them."""
    writes: bool = False
    """Whether the model writes requests where the pool has too few."""
    keep_model: bool = False
    """Whether a new round writes the model, which a flag gave, into factory.toml."""

    @property
    def recipe(self) -> Recipe:
        return self.resolved.recipe

    def under(self, resolved: Resolved) -> Factory:
        """The same with another recipe, whose form of calls its prompts have."""
        prompts = replace(self.prompts, form=resolved.recipe.calls.asked)
        return replace(self, resolved=resolved, prompts=prompts)

    def asking(self, form: Form | None) -> Factory:
        """The same with prompts that ask for calls in this form; None leaves theirs."""
        return self if form is None else replace(self, prompts=replace(self.prompts, form=form))

    @property
    def all_benchmarks(self) -> tuple[Scorable, ...]:
        """Everything that no sample may hold."""
        return tuple({**self.held_out, **self.benchmarks}.values())

    @property
    def content_sha(self) -> str:
        """Of what one judgement of samples rests on: prompts and rules."""
        return f"{self.prompts.set_sha()} {self.rulebook.sha}"

    @property
    def setup(self) -> Setup:
        """What scoring works with."""
        return Setup(
            workspace=self.workspace,
            settings=self.settings,
            prompts=self.prompts,
            ledger=self.ledger,
            monitor=self.monitor,
        )

    def log_folder(self, number: int) -> Path:
        """Where the children of a round write what they print."""
        folder = self.workspace.state / "logs" / f"r{number}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def finish(
        self,
        number: int,
        stage: str,
        started: datetime,
        rows: Batch | None = None,
        detail: Mapping[str, object] | None = None,
    ) -> None:
        """Write a stage's rows and its end in one append: a kill leaves both or neither."""
        self.ledger.append({**(rows or {}), "stage": [stage_row(number, stage, started, detail)]})
        self.ledger.fold()


def check_room(workspace: Workspace, settings: Settings, resolved: Resolved) -> None:
    """Raise RecipeError where the longest answer leaves no room for a prompt."""
    if resolved.recipe.longest_answer >= settings.engine.max_model_len:
        raise RecipeError(
            f"max_tokens {resolved.recipe.longest_answer} leaves no room for a prompt in "
            f"engine.max_model_len {settings.engine.max_model_len}",
            where=f"recipe {resolved.name} and {workspace.marker}",
            remedy="raise engine.max_model_len in factory.toml, or lower max_tokens",
        )


def load_factory(
    workspace: Workspace,
    settings: Settings,
    resolved: Resolved,
    monitor: Monitor,
    pool: Sequence[Query] | None = None,
    *,
    pool_size: int = 0,
    writes: bool = False,
    keep_model: bool = False,
) -> Factory:
    """Load and check all content; `writes` has the recipe teach to write requests.

    Raises FactoryError with the file that is broken.
    """
    if writes:
        recipe = vary(resolved.recipe, train=vary(resolved.recipe.train, ask=True))
        origins = {"train.ask": f'queries = "{SELF}"', **resolved.origins}
        resolved = replace(resolved, recipe=recipe, origins=origins)
    prompts = replace(Prompts.load(workspace), form=resolved.recipe.calls.asked)
    rulebook = Rulebook.load(workspace, settings.rules).under(resolved.recipe.rules)
    check_content(prompts, rulebook)
    rulebook.check_bar(resolved.recipe.vote.bar)
    check_room(workspace, settings, resolved)
    for name in settings.chat if resolved.recipe.make.chat else ():
        if not (workspace.root / name).is_file():
            raise InputError(
                "there is no such file of requests that need no tool",
                where=str(workspace.root / name),
                remedy="mend `chat` of factory.toml, or --set make.chat=0",
            )
    return Factory(
        workspace=workspace,
        settings=settings.model_copy(update={"engine": engine_settings(settings)}),
        resolved=resolved,
        prompts=prompts,
        rulebook=rulebook,
        ledger=Ledger(workspace.state, on_busy=monitor.note),
        monitor=monitor,
        pool=pool,
        pool_size=pool_size,
        writes=writes,
        benchmarks=load_benchmarks(workspace, resolved.recipe),
        held_out=load_held_out(workspace, resolved.recipe),
        keep_model=keep_model,
    )
