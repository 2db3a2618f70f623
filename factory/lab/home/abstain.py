"""Requests of the home world that are to be answered without a call: eval/home/abstain.

Either no tool on offer can do what is asked, or nothing is asked that a tool could do, or the right
tool is there and the request leaves out a value that it requires.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from factory.lab.home.words import Parameter, Split, listed
from factory.lab.home.world import (
    Spec,
    Style,
    document,
    draw_distractor,
    draw_spec,
    draw_use,
    pairs,
    tell,
)

Lack = Literal["missing_tool", "no_tool", "missing_value"]
LACKS: tuple[Lack, ...] = ("missing_tool", "no_tool", "missing_value")
TALK = (
    "What does the word {word} mean?",
    "Thanks, {name}, you were a great help.",
    "Tell me a joke about {word}.",
    "How do you spell {word}?",
    "Is {place} larger than {other}?",
    "Write two lines about {word} and {place}.",
    "Good morning, my name is {name}.",
    "Why do people like {place} so much?",
    "Say {word} backwards, please.",
    "What rhymes with {word}?",
    "Could you explain {word} to a child?",
    "I am glad that {place} is behind me.",
    "What would you call a cat from {place}?",
    "Hello, {name} says that {word} is boring.",
    "Give me another word for {word}.",
    "That was all for today, {name}.",
)
"""What no tool is needed for; values are the split's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuietItem:
    """A request that calls for no call."""

    query: str
    tools: tuple[dict[str, Any], ...]
    """The documents on offer."""
    category: Lack


def quiet_items(split: Split, per_category: int, seed: str = "") -> list[QuietItem]:
    """So many of each category, no request twice, half of them in fresh wordings."""
    rng = Random(f"home abstain {split}{seed}")
    items: dict[str, QuietItem] = {}
    for category in LACKS:
        wanted = len(items) + per_category
        while len(items) < wanted:
            style: Style = "seed" if len(items) % 2 else "fresh"
            item = _draw(rng, split, category, style)
            items.setdefault(item.query, item)
    return list(items.values())


def _draw(rng: Random, split: Split, category: Lack, style: Style) -> QuietItem:
    spec = draw_spec(rng, rng.choice(pairs(split)), num_kinds=rng.choice((2, 3)))
    while not (needed := [kind.name for kind in spec.kinds if _is_needed(kind)]):
        spec = draw_spec(rng, rng.choice(pairs(split)), num_kinds=rng.choice((2, 3)))
    told = [kind.name for kind in spec.kinds]
    offered: list[Spec] = []
    if category == "missing_value":
        told.remove(rng.choice(needed))
        offered.append(spec)
    rng.shuffle(told)
    query = tell(rng, (draw_use(rng, spec, split, tuple(told)),), style)
    if category == "no_tool":
        query = _talk(rng, split)
    wanted = rng.choice((1, 2, 3))
    while len(offered) < wanted:
        other = draw_distractor(rng, split, spec, aliased=False)
        if other.noun != spec.noun and other.name not in {one.name for one in offered}:
            offered.append(other)
    rng.shuffle(offered)
    return QuietItem(query=query, tools=tuple(map(document, offered)), category=category)


def _is_needed(kind: Parameter) -> bool:
    """Whether a request without its value lacks something; a boolean left out may mean no."""
    return not kind.optional and kind.value != "boolean"


def _talk(rng: Random, split: Split) -> str:
    place, other = rng.sample(listed("places", split), 2)
    return rng.choice(TALK).format(
        word=rng.choice(listed("words", split)),
        name=rng.choice(listed("first_names", split)),
        place=place,
        other=other,
    )
