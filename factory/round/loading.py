"""Open a workspace for a round: load and check all content before any model."""

from __future__ import annotations

from collections.abc import Sequence

from factory.domain.failures import RecipeError
from factory.domain.monitor import Monitor
from factory.domain.records import Query
from factory.judge.rulebook import Rulebook
from factory.judge.trial import check_content
from factory.ledger.database import Ledger
from factory.round.round import Factory
from factory.score.loading import load_benchmarks, load_held_out
from factory.workspace.folder import Workspace
from factory.workspace.machine import free_threads
from factory.workspace.prompts import Prompts
from factory.workspace.recipe import Resolved
from factory.workspace.settings import Settings


def load_factory(
    workspace: Workspace,
    settings: Settings,
    resolved: Resolved,
    monitor: Monitor,
    pool: Sequence[Query] | None = None,
    *,
    benchmarks: bool = True,
) -> Factory:
    """Load and check all content, so that a broken file stops before any model is loaded.

    Without `benchmarks` it can run no round, but score what it is given.
    """
    prompts, rulebook = Prompts.load(workspace), Rulebook.load(workspace, settings.rules)
    check_content(prompts, rulebook)
    if resolved.recipe.longest_answer >= settings.engine.max_model_len:
        raise RecipeError(
            f"max_tokens {resolved.recipe.longest_answer} leaves no room for a prompt in "
            f"engine.max_model_len {settings.engine.max_model_len}",
            where=f"recipe {resolved.name} and {workspace.marker}",
            remedy="raise engine.max_model_len in factory.toml, or lower max_tokens",
        )
    return Factory(
        workspace=workspace,
        settings=settings,
        resolved=resolved,
        prompts=prompts,
        rulebook=rulebook,
        ledger=Ledger(workspace.state, on_busy=monitor.note),
        monitor=monitor,
        threads=settings.engine.threads or free_threads(),
        pool=pool,
        benchmarks=load_benchmarks(workspace, resolved.recipe) if benchmarks else {},
        held_out=load_held_out(workspace) if benchmarks else {},
    )
