"""How varied a new checkpoint's answers and what it was taught are beside round 1's."""

from __future__ import annotations

from factory.domain.records import Checkpoint
from factory.ledger import history
from factory.ledger.database import Source
from factory.ledger.history import OpenRound
from factory.ledger.lineage import base_checkpoint, descendants
from factory.round.factory import Factory
from factory.round.opponents import gate_sets, ruler_of
from factory.score.variety import (
    FEWEST_SAMPLES,
    Comparison,
    Figure,
    answers_variety,
    compare_all,
    repeated,
    samples_variety,
)


def compare_variety(
    factory: Factory, this: OpenRound, trained: Checkpoint, past: Source
) -> list[Comparison]:
    """The checkpoint's answers to the gate's set, and the samples of the round that made it."""
    base = base_checkpoint(factory.workspace, factory.settings, past, exact=False)
    line = descendants(past, base)
    if this.checkpoint.id not in line:
        return []
    in_force = [each for each in line.values() if each is not None]
    answers = _compare_answers(factory, trained, [*in_force, base], base, past)
    return answers if this.is_lesson else answers + _compare_samples(factory, this, [*line], past)


def _compare_answers(
    factory: Factory, trained: Checkpoint, earlier: list[Checkpoint], base: Checkpoint, past: Source
) -> list[Comparison]:
    """Beside those of the first checkpoint that a round made, else of the model that was given,
    whose words, of a chat model's prose, are no measure.
    """
    dev = gate_sets(factory).get("calls")
    if dev is None:
        return []
    ruler = ruler_of(factory, dev)
    first = next((each for each in earlier if history.is_scored(past, each.id, *ruler)), None)
    answered = history.load_items(past, trained.id, *ruler)
    if first is None or not answered:
        return []
    now, then = (
        _figures(answers_variety(dev, items))
        for items in (answered, history.load_items(past, first.id, *ruler))
    )
    if first.id == base.id:
        del then["words"]
    return compare_all("answers", now, then, first.id, factory.recipe.score.collapse)


def _compare_samples(
    factory: Factory, this: OpenRound, line: list[str], past: Source
) -> list[Comparison]:
    """Beside those of the lineage's first round of the same requests and settings, as many of each.

    Samples of other requests, or drawn otherwise, are more or less varied without any collapse.
    """
    first = history.first_round_like(past, this.number, line)
    if first is None:
        return []
    rounds = (this.number, first)
    samples = [history.accepted_samples(past, number) for number in rounds]
    asked = [history.drawn_texts(past, number) for number in rounds]
    entropies = [history.vote_entropy(past, number) for number in rounds]
    figures: list[dict[Figure, float]] = [{}, {}]
    num_samples, num_asked = min(map(len, samples)), min(map(len, asked))
    for place, found in enumerate(figures):
        if num_samples >= FEWEST_SAMPLES:
            found.update(_figures(samples_variety(samples[place][:num_samples])))
        if num_asked >= FEWEST_SAMPLES:
            found["repeats"] = repeated(asked[place][:num_asked])
            if (entropy := entropies[place]) is not None:
                found["votes"] = entropy
    now, then = figures
    return compare_all("samples", now, then, f"round {first}", factory.recipe.score.collapse)


def _figures(variety: tuple[float, float, float]) -> dict[Figure, float]:
    words, tools, values = variety
    return {"words": words, "tools": tools, "values": values}
