"""The vote's minimum from the model's own calibration: `vote.precision` of a recipe.

Before a round samples, the model answers a labelled dev set as it will answer the round's requests:
n answers each, drawn, judged and voted on alike. For each number of votes the labels that would be
kept are counted, and those that are right. The least number whose labels are right often enough is
the round's minimum: Wilson's lower bound of their share, one-sided 90 %, must be at least what is
wanted. The bound is of all labels kept from that number on, as a round keeps them. The curve is the
detail of the stage `calibrate`, and what the same model, questions and settings gave is not asked
again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from factory.domain.canon import canonical_json, digest, query_id, tool_id
from factory.domain.failures import InputError, RecipeError
from factory.domain.records import Query, Tool
from factory.engines.base import Engine
from factory.judge.sample import Judgement, Trail
from factory.ledger import history
from factory.ledger.history import OpenRound
from factory.round.asking import asking_for
from factory.round.factory import Factory
from factory.score.calls.judging import judge
from factory.score.calls.kind import Benchmark
from factory.score.estimates import wilson
from factory.score.items import Item
from factory.score.keeper import Keeper
from factory.workspace.recipe import Recipe, Resolved, VoteSection, vary

Z = 1.2816
"""Of the one-sided 90 % bound."""
ANY_ROUND = 0
"""Round number that its seeds come from: another round's calibration is the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """What a minimum keeps of the dev set. Example: Level(votes=4, kept=143, right=125, low=83)."""

    votes: int
    kept: int
    right: int
    low: float
    """Lower bound of the share of right ones, in percent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DevAnswer:
    """What a dev item gave. Example: DevAnswer(votes=4, margin=0.6, kept={2: True, 3: True, …})."""

    votes: int
    """Of the largest class of its first answers."""
    margin: float
    kept: dict[int, bool]
    """By minimum at which its label is kept: whether it is right."""


def calibration_set(factory: Factory) -> Benchmark | None:
    """The labelled requests that the minimum is chosen on; None where the recipe gives it itself.

    Raises RecipeError where it names none.
    """
    vote, score = factory.recipe.vote, factory.recipe.score
    if not vote.precision:
        return None
    named = factory.benchmarks.get(score.dev) if not vote.dev else factory.held_out.get(vote.dev)
    if not isinstance(named, Benchmark) or not _items(named):
        raise RecipeError(
            "vote.precision needs labelled requests that calls answer, and the recipe names none",
            where=f"recipe {factory.resolved.name}",
            remedy="vote.dev or score.dev names a dev set, which `factory eval new NAME FILE "
            "--split dev` makes of labelled rows; or give the votes: --set vote.precision=0",
        )
    return named


async def calibrate(factory: Factory, this: OpenRound, model: Keeper) -> Factory:
    """The factory with the vote's minimum that the model's calibration gives."""
    dev = calibration_set(factory)
    if dev is None or this.is_lesson or "sample" in this.stages_done:
        return factory
    known = history.calibrated(factory.ledger, this.number)
    if known is None:
        started, key = datetime.now(UTC), _key(factory, this, dev)
        known = history.known_calibration(factory.ledger, key)
        if known is None:
            engine = await model.engine()
            factory.monitor.stage(f"calibrate the vote on {dev.name}", len(_items(dev)))
            answered = await _ask_all(factory, engine, dev)
            curve = _count(answered, candidates(factory.recipe))
            known = {"key": key, "from": this.number, "benchmark": dev.name, **curve}
        levels = [Level(**level) for level in known["levels"]]
        minimum, reached = choose_minimum(levels, factory.recipe.vote.precision)
        known |= {
            "wanted": factory.recipe.vote.precision,
            "minimum": minimum,
            "reached": reached,
        }
        factory.finish(this.number, history.CALIBRATE, started, detail=known)
    strictest = Level(**known["levels"][-1])
    if not known["reached"]:
        factory.monitor.note(
            f"no number of votes reaches vote.precision {known['wanted']:g} on {dev.name}: "
            f"{strictest.votes} votes keep {strictest.kept}, of which {strictest.right} are right "
            f"(at least {strictest.low:.0f} %); they are the minimum. More answers (calls.n) may "
            "reach it"
        )
    vote = vary(factory.recipe.vote, minimum=int(known["minimum"]))
    return replace(
        factory, resolved=replace(factory.resolved, recipe=vary(factory.recipe, vote=vote))
    )


def settled_vote(resolved: Resolved, known: Mapping[str, Any] | None) -> VoteSection:
    """The vote of a round that is judged again, by its calibration.

    Raises InputError where the round was not calibrated.
    """
    vote = resolved.recipe.vote
    if not vote.precision:
        return vote
    if known is None:
        raise InputError(
            "the round was not calibrated: no precision of its votes is known",
            remedy="make a round with vote.precision, or give the votes: --set vote.minimum=4",
        )
    levels = [Level(**level) for level in known["levels"]]
    return vary(vote, minimum=choose_minimum(levels, vote.precision)[0])


def choose_minimum(levels: Sequence[Level], precision: float) -> tuple[int, bool]:
    """The least votes whose labels are right often enough; else the most, and that they are not."""
    for level in levels:
        if level.kept and level.low >= 100 * precision:
            return level.votes, True
    return levels[-1].votes, False


def _items(dev: Benchmark) -> list[Item]:
    """Items that can be asked as a round asks: one message, and no calls in other languages."""
    return [i for i in dev.items if len(i.turn) == 1 and i.judge in ("python", "no_call")]


def _key(factory: Factory, this: OpenRound, dev: Benchmark) -> str:
    """Hash of what a calibration depends on."""
    recipe = factory.recipe
    own = replace(dev, prompt="own", syntax="hermes")
    parts = [
        *(
            this.identity or this.checkpoint.fingerprint,
            own.basis(factory.setup),
            factory.content_sha,
            recipe.seed,
        ),
        *(recipe.calls.known_by(), recipe.vote.bar, recipe.vote.more),
    ]
    return digest(canonical_json(parts), 16)


async def _ask_all(factory: Factory, engine: Engine, dev: Benchmark) -> list[DevAnswer]:
    window, done = asyncio.Semaphore(factory.recipe.window), 0

    async def ask(item: Item) -> DevAnswer:
        nonlocal done
        async with window:
            answered = await _ask(factory, engine, item)
        done += 1
        factory.monitor.progress(done, "")
        return answered

    tasks = [asyncio.ensure_future(ask(item)) for item in _items(dev)]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _ask(factory: Factory, engine: Engine, item: Item) -> DevAnswer:
    """One dev item, asked and voted on as a round's request with these tools."""
    query = Query(id=query_id(item.query), text=item.query, source=item.id)
    tools = tuple(Tool(id=tool_id(each), document=each) for each in item.documents)
    asking = asking_for(factory, ANY_ROUND, engine, query)
    trails = {votes: _trail(factory, query, votes) for votes in candidates(factory.recipe)}
    reply, more = await asking.call(tools), None
    wanting = {votes: trail.wants_more(tools, reply) for votes, trail in trails.items()}
    if asking.has_more and any(wanting.values()):
        more = await asking.call_more(tools)
    kept, first = {}, _trail(factory, query, 1).judge_calls(tools, reply).vote
    for votes, trail in trails.items():
        used = more if wanting[votes] else None
        sample = trail.judge_calls(tools, reply, used)
        if sample.status == "accepted" and sample.vote is not None:
            completions = (*reply.completions, *(used.completions if used else ()))
            won = replace(reply, completions=(completions[sample.vote.winner or 0],))
            kept[votes] = judge(item, won).correct
    return DevAnswer(
        votes=first.votes if first else 0, margin=first.margin if first else 0.0, kept=kept
    )


def candidates(recipe: Recipe) -> range:
    """Numbers of votes that may be the minimum: one of several answers is no agreement."""
    return range(min(2, recipe.calls.n), recipe.calls.n + 1)


def _trail(factory: Factory, query: Query, votes: int) -> Trail:
    judgement = Judgement(
        rulebook=factory.rulebook,
        vote=vary(factory.recipe.vote, minimum=votes),
        round_number=ANY_ROUND,
        number=1,
        form=factory.prompts.form,
    )
    return Trail(judgement=judgement, query=query)


def _count(answered: Sequence[DevAnswer], asked: Sequence[int]) -> dict[str, Any]:
    """The curve: by minimum, and by votes and margin of the first answers."""
    levels = []
    for votes in asked:
        rights = [each.kept[votes] for each in answered if votes in each.kept]
        low, _ = wilson(sum(rights), len(rights), Z)
        levels.append(Level(votes=votes, kept=len(rights), right=sum(rights), low=low))
    margins = Counter((each.votes, round(each.margin, 4)) for each in answered)
    right = Counter(
        (each.votes, round(each.margin, 4)) for each in answered if any(each.kept.values())
    )
    return {
        "items": len(answered),
        "levels": [asdict(level) for level in levels],
        "margins": [
            {"votes": votes, "margin": margin, "items": count, "right": right[votes, margin]}
            for (votes, margin), count in sorted(margins.items())
        ],
    }
