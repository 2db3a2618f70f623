"""Requests of the home world that no tool is needed for, of the fresh split.

Their wordings are others than those of eval/home/abstain, so that what is taught of them is no copy
of what is asked there.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from random import Random

from factory.domain.canon import query_id
from factory.domain.records import Query
from factory.lab.home.words import listed
from factory.lab.home.world import HOME_SOURCE

SMALL_TALK = (
    "I slept badly and dreamt of {word}.",
    "{name} and I had a lovely evening, nothing else to report.",
    "Which is the nicer word, {word} or {second}?",
    "Please sum up in one sentence what {word} is.",
    "Do you think that {place} deserves its name?",
    "My neighbour {name} talks of {place} all day long.",
    "Make a riddle whose answer is {word}.",
    "Is {word} a noun or a verb?",
    "You helped me a lot, see you soon.",
    "What would {name} be called in another language?",
    "Count the letters of {word}.",
    "How would a poet describe {place} in winter?",
)
"""Values are the split's own."""


def talk_stream() -> Iterator[Query]:
    """Requests without end, each of which may come again."""
    for number in count():
        rng = Random(f"home talk {number}")
        word, second = rng.sample(listed("words", "fresh"), 2)
        text = rng.choice(SMALL_TALK).format(
            word=word,
            second=second,
            name=rng.choice(listed("first_names", "fresh")),
            place=rng.choice(listed("places", "fresh")),
        )
        yield Query(id=query_id(text), text=text, source=f"{HOME_SOURCE}talk {number}")
