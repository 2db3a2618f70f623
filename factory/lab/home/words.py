"""The words of the home world: parameter kinds, their wordings and values, and the domains.

All of them are in words.toml. Four splits never share a tool or an open value: `seed` trains the
seed model, `fresh` feeds rounds, `dev` decides which checkpoint is kept, `home` is the benchmark.
Wordings come in two styles, `seed` and `fresh`; requests of the two measured splits use both.

`novel` and `wild` are `seed` with many words invented, nouns and wordings among them: what a model
can only get right by copying, and by reading around a word that it does not know. `wild` has more
of them, made of any pieces of words, and words put into any phrase.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

Split = Literal["seed", "novel", "wild", "fresh", "home", "dev"]
ValueKind = Literal[
    "places", "companies", "languages", "rooms", "person", "date", "time", "code", "email",
    "title", "phrase", "integer", "float", "enum", "boolean", "words", "people",
]  # fmt: skip
"""What a parameter takes: the first four are word lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One kind of parameter. Example: Parameter(name="city", phrases=("in {}",), ...)."""

    name: str
    """Key in a tool's properties."""
    alias: str
    """Another key that catalogue tools may use for it."""
    label: str
    """How a tool's description mentions it."""
    description: str
    """Its description in a tool document."""
    value: ValueKind
    phrases: tuple[str, ...]
    """Seed-style wordings; `{}` stands for the value. Booleans: (true wording, false wording)."""
    fresh: tuple[str, ...]
    """Fresh-style wordings, same form."""
    choices: tuple[str, ...] = ()
    """Enumerated values, in document order."""
    low: int = 0
    """Smallest number; floats are tenths between low and high."""
    high: int = 0
    """Largest number."""
    optional: bool = False
    """Optional by nature: never in `required`."""

    @property
    def type(self) -> str:
        """ToolDev type word: string, integer, float, boolean or array (of strings)."""
        if self.value in ("integer", "float", "boolean"):
            return self.value
        return "array" if self.value in ("words", "people") else "string"


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """A field of life. Example: Domain(name="dining", verbs=("book",), nouns=("table",), ...)."""

    name: str
    verbs: tuple[str, ...]
    """What one does there."""
    parameters: tuple[str, ...]
    """Names of the parameter kinds its tools take."""
    nouns: tuple[str, ...]
    """Nouns whose pairs with the verbs are shared out among the splits."""
    fresh_nouns: tuple[str, ...]
    """Nouns of split `fresh` alone, with the first verb."""
    held_nouns: tuple[str, ...]
    """Nouns of the measured splits alone, with the first verb: the last of them is `dev`'s."""


def _freeze(table: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in table.items()}


_FILE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
PARAMETERS = {
    name: Parameter(**{"name": name, "label": name.replace("_", " "), **_freeze(table)})
    for name, table in _FILE["parameters"].items()
}
DOMAINS = tuple(Domain(name=name, **_freeze(table)) for name, table in _FILE["domains"].items())
MATCHING_VERBS = frozenset(_FILE["matching_verbs"].split())
"""Verbs whose tools return matches; the others return a confirmation."""
FRAMES: dict[str, tuple[str, ...]] = _freeze(_FILE["frames"])
"""Sentence frames by style; `{act}` is verb, noun and parameter phrases."""
NEXT_SAME: dict[str, tuple[str, ...]] = _freeze(_FILE["next_same"])
"""What joins the second call of the same tool."""
NEXT_OTHER: dict[str, tuple[str, ...]] = _freeze(_FILE["next_other"])
"""What joins a call of another tool."""
UNITS = frozenset(_FILE["units"].split())
"""Words of a phrase that tell its parameter; the others around them are only habit."""
FILLERS = tuple(_FILE["fillers"].split())
"""Words that invented wordings are padded with."""
NEUTRAL = tuple(_FILE["neutral"].split())
"""Words that tell nothing, put in front of phrases."""
WORD_LISTS: dict[str, dict[str, str]] = _FILE["lists"]
"""Words of the splits `seed`, `fresh`, and of the measured two (`held`)."""


@cache
def listed(name: str, split: Split) -> tuple[str, ...]:
    """A split's words of WORD_LISTS; every third of the held ones is `dev`'s."""
    held = WORD_LISTS[name]["held"].split()
    chosen = {
        "fresh": WORD_LISTS[name]["fresh"].split(),
        "home": [word for n, word in enumerate(held) if n % 3 != 1],
        "dev": held[1::3],
    }.get(split, WORD_LISTS[name]["seed"].split())
    return tuple(word.replace("_", " ") for word in chosen)
