"""In which form a round's calls are asked for, settled by its model's chat template.

A round keeps the form that it began with; what it samples, teaches and scores is all in that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from factory.domain.failures import RecipeError
from factory.domain.records import Example, Form
from factory.engines.native import KINDS, render_calls
from factory.judge.reading import parse_calls
from factory.round.factory import Factory
from factory.train.examples import teaches_calls
from factory.workspace.models import DONE_FILE, form_of
from factory.workspace.recipe import CallsSection, vary

PLAIN = "one call"
"""Of KINDS: a template that does not write even this has no form of calls."""


async def settle_form(factory: Factory, folder: Path, *, teaches: bool = True) -> Factory:
    """The factory with `calls.form` as the model in `folder` can have it; says what `auto` became,
    and where calls are taught (`teaches`) in another form than a round before taught them in.

    Raises RecipeError where the form is to be native and the template has none, and where calls are
    to be bound and no grammar can be made of the template's.
    """
    factory = await _settled(factory, folder)
    if teaches and (told := tell_change(folder, factory.recipe.calls.asked)):
        factory.monitor.note(told)
    return factory


def tell_change(folder: Path, form: Form) -> str:
    """What is to be known of a round in this form, where its parent was taught in the other."""
    if not (folder / DONE_FILE).exists() or (taught := form_of(folder)) == form:
        return ""
    return (
        f"the parent was taught in {taught} form; this round teaches {form} (calls.form): earlier "
        f"examples that call in {taught} form are not replayed; --set calls.form={taught} stays "
        "with that form"
    )


def form_to_teach(asked: Form, examples: Sequence[Example], parent: Path) -> Form:
    """The form in which what these examples make of `parent` calls: where none of them teaches
    calls, the one that it has.
    """
    return asked if teaches_calls(examples) else form_of(parent)


async def _settled(factory: Factory, folder: Path) -> Factory:
    wanted = factory.recipe.calls.form
    if wanted == "own":
        return factory
    texts, unbound = await render_calls(folder)
    form = choose_form(wanted, texts, folder)
    calls = factory.recipe.calls
    if form == "native":
        check_bindable(calls, unbound, folder)
    if wanted == "auto":
        why = "writes calls" if form == "native" else _fault(texts)
        factory.monitor.note(f"calls.form is auto: {form}, since the chat template {why}")
    if form == "native" and (lost := lost_kinds(texts)):
        factory.monitor.note(
            f"the chat template loses {', '.join(lost)}: samples with such are not learnt"
        )
    recipe = vary(factory.recipe, calls=vary(calls, form=form))
    return factory.under(replace(factory.resolved, recipe=recipe))


def choose_form(
    wanted: Literal["own", "native", "auto"], texts: Mapping[str, str], folder: Path
) -> Form:
    """The form of a model whose template writes KINDS as `texts`. Raises RecipeError as above."""
    has_none = wanted != "own" and PLAIN in lost_kinds(texts)
    if has_none and wanted == "native":
        raise RecipeError(
            f"calls.form is native, and the model's chat template {_fault(texts)}",
            where=str(folder),
            remedy="--set calls.form=own, or auto, which is own where a template has no form",
        )
    return "own" if wanted == "own" or has_none else "native"


def check_bindable(calls: CallsSection, unbound: str, folder: Path) -> None:
    """Raise RecipeError where native calls are to be bound, and `unbound` says why none can be."""
    if unbound and "schema" in (calls.constrain, calls.more_constrain):
        raise RecipeError(
            f"schemas are to bind native calls, and no grammar can: {unbound}",
            where=str(folder),
            remedy="calls.constrain and calls.more_constrain = none, or --set calls.form=own",
        )


def _fault(texts: Mapping[str, str]) -> str:
    return "writes calls that are not read back" if texts[PLAIN] else "has no form of calls"


def lost_kinds(texts: Mapping[str, str]) -> list[str]:
    """The kinds of calls that are not read back out of what a template writes for them."""
    return [
        name
        for name, calls in KINDS.items()
        if parse_calls(texts[name], syntax="auto").calls != calls
    ]
