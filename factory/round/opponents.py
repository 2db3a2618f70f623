"""Whom the gate lets a new checkpoint meet, and what must be scored first for that.

On calls: the parent, the best checkpoint of the lineage by the same ruler, and the model that was
given, in the factory's prompt and, where its template shows tools, in chat. On abstention: the
parent, and the best at it. Where the parent or the best is served in another form of calls than the
new checkpoint, it is met as it is served too. The model that was given answers the gate's set
twice, once in its life: what differs between the two passes is noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from factory.domain.records import Checkpoint, Form, ItemScore
from factory.ledger import history
from factory.ledger.database import Source
from factory.ledger.history import OpenRound
from factory.ledger.lineage import Ruler, base_checkpoint, descendants, find_best, models_of
from factory.ledger.tables import NoiseRow
from factory.round.factory import Factory
from factory.score.calls.kind import Benchmark
from factory.score.estimates import paired_delta
from factory.score.gate import Measure, Opponent, Role
from factory.score.keeper import identity_sha
from factory.workspace.chat_template import read_templates, shows_tools
from factory.workspace.models import form_of
from factory.workspace.recipe import Recipe
from factory.workspace.settings import Settings

HOME_SETS = ("home-dev", "home-abstain")
GATE_SAYS_LITTLE = (
    "the gate asks {}, the made-up world of the embedded model, which says little about this "
    "one: `factory eval new NAME FILE --split dev` makes a dev set of your own requests, "
    "`factory teach FILE --dev 0.1` holds one out; score.dev names it"
)


def doubt_of_gate(settings: Settings, recipe: Recipe) -> str:
    """What a model that is not the embedded one is to be told of its gate; empty where nothing."""
    asked = [name for name in (recipe.score.dev, recipe.score.abstain) if name in HOME_SETS]
    if not asked or settings.model == Settings().model:
        return ""
    return GATE_SAYS_LITTLE.format(" and ".join(asked))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """An opponent that may lack scores, with the sets that it is to have been asked."""

    role: Role
    checkpoint: Checkpoint
    sets: tuple[Benchmark, ...]
    twice: Benchmark | None = None
    """The set that it is to answer a second time; None where its noise is known."""
    served_in: Form | None = None
    """As an Opponent has it."""


def gate_sets(factory: Factory) -> dict[Measure, Benchmark]:
    """The gate's own sets, by what they measure."""
    score = factory.recipe.score
    named: dict[Measure, str] = {"calls": score.dev, "abstention": score.abstain}
    found = {measure: factory.benchmarks.get(name) for measure, name in named.items()}
    return {measure: dev for measure, dev in found.items() if isinstance(dev, Benchmark)}


def ruler_of(factory: Factory, dev: Benchmark) -> Ruler:
    """What scores on a set must have in common today."""
    return Ruler(dev.name, dev.basis(factory.setup))


def find_rivals(factory: Factory, this: OpenRound, past: Source) -> list[Rival]:
    """The model that was given and the best one so far, as the gate will want their scores; the
    parent where it is to be asked in another form than the round began in.

    The parent at most where it began under another model, and descends from neither.
    """
    sets = gate_sets(factory)
    rivals: list[Rival] = []
    served_in = _other_form(factory, this.checkpoint)
    if sets and (served_in or factory.prompts.form != factory.recipe.calls.asked):
        parent = _whole(factory, this.checkpoint)
        asked = tuple(sets.values())
        rivals.append(Rival(role="parent", checkpoint=parent, sets=asked, served_in=served_in))
    dev, base = sets.get("calls"), _base(factory, past)
    if dev is None or this.checkpoint.id not in descendants(past, base):
        return rivals
    if factory.recipe.score.base:
        model = identity_sha(factory.setup, base)
        noise = history.measured_noise(past, base.id, *ruler_of(factory, dev), model)
        asked = tuple(_as_base_is_asked(factory, dev, base))
        twice = dev if noise is None and dev in asked else None
        rivals.append(Rival(role="base", checkpoint=base, sets=asked, twice=twice))
    best = _whole(factory, find_best(past, base).checkpoint)
    if best.id != base.id or all(dev not in rival.sets for rival in rivals if rival.role == "base"):
        rivals.append(Rival(role="best", checkpoint=best, sets=(dev,)))
    if best.id != this.checkpoint.id and (served_in := _other_form(factory, best)):
        rivals.append(Rival(role="best", checkpoint=best, sets=(dev,), served_in=served_in))
    return rivals


def find_opponents(factory: Factory, this: OpenRound, past: Source) -> Iterator[Opponent]:
    """Every meeting that decides: the parent on calls first."""
    for measure, dev in gate_sets(factory).items():
        met: dict[tuple[str, str, Form | None], Opponent] = {}
        for role, checkpoint, asked, form in _candidates(factory, this, past, measure, dev):
            key = (checkpoint.id, asked.name, form)
            met[key] = Opponent(
                measure=measure,
                roles=(*(met[key].roles if key in met else ()), role),
                checkpoint=checkpoint,
                asked=asked,
                served_in=form,
            )
        yield from met.values()


def _candidates(
    factory: Factory, this: OpenRound, past: Source, measure: Measure, dev: Benchmark
) -> Iterator[tuple[Role, Checkpoint, Benchmark, Form | None]]:
    base, ruler = _base(factory, past), ruler_of(factory, dev)
    yield "parent", this.checkpoint, dev, None
    if served_in := _other_form(factory, this.checkpoint):
        yield "parent", this.checkpoint, dev, served_in
    if this.checkpoint.id not in descendants(past, base):
        return
    models = models_of(factory.workspace, factory.settings.engine)
    yield "best", find_best(past, base, ruler, models).checkpoint, dev, None
    if measure == "calls":
        former = find_best(past, base).checkpoint
        if not history.is_scored(past, former.id, *ruler):
            # Scored by another ruler only, and it could not be scored again: nothing is compared.
            yield "best", former, dev, None
        if served_in := _other_form(factory, former):
            yield "best", former, dev, served_in
        for asked in _as_base_is_asked(factory, dev, base):
            yield "base", base, asked, None


def _other_form(factory: Factory, checkpoint: Checkpoint) -> Form | None:
    """The form in which a checkpoint is served, where it is not the one that is asked in."""
    form = form_of(factory.workspace.root / checkpoint.path)
    return None if form == factory.prompts.form else form


def _as_base_is_asked(factory: Factory, dev: Benchmark, base: Checkpoint) -> Iterator[Benchmark]:
    for prompt in factory.recipe.score.base:
        if prompt == dev.prompt:
            yield dev
        elif prompt == "own":
            yield dev.narrow(prompt="own")
        elif dev.is_native(factory.prompts):
            continue  # it is in chat already
        elif shows_tools(read_templates(Path(base.path)), where=base.path):
            yield dev.narrow(prompt="chat", syntax="auto")


def _base(factory: Factory, past: Source) -> Checkpoint:
    return base_checkpoint(factory.workspace, factory.settings, past, exact=False)


def _whole(factory: Factory, checkpoint: Checkpoint) -> Checkpoint:
    return replace(checkpoint, path=str(factory.workspace.root / checkpoint.path))


def turned(dev: Benchmark) -> Benchmark:
    """The same questions in another order: other ones share a batch in the second pass."""
    return replace(dev, items=dev.items[::-1])


def noise_row(
    number: int,
    base: Checkpoint,
    ruler: Ruler,
    dev: Benchmark,
    first: Sequence[ItemScore],
    second: Sequence[ItemScore],
) -> NoiseRow:
    """How far two passes of one model may lie apart: the 95 % interval of their difference."""
    delta = paired_delta(first, second, dev.weights)
    marks = {item.item: item.mark for item in first}
    return {
        "checkpoint_id": base.id,
        "benchmark": ruler.benchmark,
        "basis": ruler.basis,
        "points": max(abs(delta.low), abs(delta.high)),
        "num_changed": sum(marks[item.item] != item.mark for item in second),
        "num_items": len(second),
        "round": number,
        "measured_at": datetime.now(UTC),
    }
