"""Tools, requests and gold calls of the home world, drawn from a random.Random.

A tool is a verb, a noun and some parameter kinds. A request names the verb and the noun and gives
a phrase for each argument, so that the document follows from the request (verb and noun make the
name, phrases make the parameters) and the call follows from both. Splits share verbs, parameter
kinds and sentence structure, never a verb-noun pair or an open value.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import count, pairwise
from random import Random
from typing import Any, Literal

from factory.domain.canon import query_id
from factory.domain.records import Query
from factory.lab.home import words
from factory.lab.home.words import DOMAINS, PARAMETERS, Domain, Parameter, Split, listed

Category = Literal["simple", "multiple", "parallel", "parallel_multiple"]
Style = Literal["seed", "novel", "wild", "fresh"]
Pairing = tuple[Domain, str, str]
"""A domain, one of its verbs, and a noun."""
CATEGORIES: tuple[Category, ...] = ("simple", "multiple", "parallel", "parallel_multiple")
MONTHS = (
    "January February March April May June July August September October November December"
).split()
MODULUS = 14
"""Numbers, dates and times of a split share their remainders modulo this."""
REMAINDERS: dict[Split, tuple[int, ...]] = {
    "seed": (0, 1, 2, 3, 7, 8, 9, 10),
    "novel": (0, 1, 2, 3, 7, 8, 9, 10),
    "wild": (0, 1, 2, 3, 7, 8, 9, 10),
    "fresh": (4, 5, 11, 12),
    "home": (6,),
    "dev": (13,),
}
UNTRAINED: tuple[Split, ...] = ("fresh", "home", "dev")
"""Splits that do not train the seed model."""
INVENTED: dict[Split, float] = {"seed": 0.35, "novel": 0.6, "wild": 0.75}
"""Share of invented words among a split's open values."""
INVENTED_NOUNS: dict[Split, float] = {"novel": 0.4, "wild": 0.5}
"""Share of invented nouns among a split's tools."""
INVENTED_WORDINGS: dict[Style, float] = {"novel": 0.4, "wild": 0.6}
"""Share of phrases, frames and joints that a style garbles."""
SELF_EVIDENT = frozenset({"date", "time", "code", "email", "title"})
"""Values that tell their parameter by their shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What a tool is. Example: Spec(domain=dining, verb="book", noun="table", kinds=(city,))."""

    domain: Domain
    verb: str
    noun: str
    kinds: tuple[Parameter, ...]
    """Parameter kinds, in document order."""
    aliased: bool = False
    """Whether the document uses the kinds' alias keys."""

    @property
    def name(self) -> str:
        return f"{self.verb}_{self.noun.replace(' ', '_')}"

    def key(self, kind: Parameter) -> str:
        """The property name that this tool has for a parameter kind."""
        return kind.alias if self.aliased else kind.name


@dataclass(frozen=True, slots=True, kw_only=True)
class FreshItem:
    """A request with its gold answer. Used to measure rounds, never to label them."""

    query: str
    tools: tuple[dict[str, Any], ...]
    """Candidate tool documents, distractors included."""
    calls: tuple[dict[str, Any], ...]
    """Gold calls: {"name": …, "arguments": {…}}."""
    category: Category
    used: tuple[dict[str, Any], ...]
    """Documents that follow from the request alone: the called tools, with exactly the parameters
    it mentions, in its order."""


# -- splits --------------------------------------------------------------------------------------


def split_of(verb: str, noun: str) -> Split:
    """The split that a verb and a noun of one domain belong to, when the noun is shared."""
    share = int(hashlib.sha256(f"{verb} {noun}".encode()).hexdigest()[:8], 16) % 20
    if share < 13:
        return "seed"
    return "fresh" if share < 17 else "home" if share < 19 else "dev"


@cache
def pairs(split: Split) -> tuple[Pairing, ...]:
    """All tools that a split may have, in a fixed order."""
    found = [
        (domain, verb, noun)
        for domain in DOMAINS
        for noun in domain.nouns
        for verb in domain.verbs
        if split_of(verb, noun) == ("seed" if split in INVENTED_NOUNS else split)
    ]
    for domain in DOMAINS:
        own = {
            "fresh": domain.fresh_nouns,
            "home": domain.held_nouns[:-1],
            "dev": domain.held_nouns[-1:],
        }
        found += [(domain, domain.verbs[0], noun) for noun in own.get(split, ())]
    return tuple(found)


@cache
def _allowed(low: int, high: int, split: Split) -> tuple[int, ...]:
    """Numbers of a span that a split may use; numbers below ten are everybody's."""
    remainders = REMAINDERS[split]
    return tuple(n for n in range(low, high + 1) if n < 10 or n % MODULUS in remainders)


# -- values --------------------------------------------------------------------------------------

_ONSETS = "b c d f g h j k l m n p r s t v w z br cr dr gr kl pr st tr ch sh th".split()
_VOWELS = "a e i o u ai ea io ou".split()
_CODAS = ["", "", "", "n", "r", "l", "s", "m", "t", "x", "nd", "rk"]


def invent_word(rng: Random) -> str:
    """A pronounceable word that means nothing: seed values that can only be copied."""
    return "".join(
        rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS)
        for _ in range(rng.choice((1, 2, 2, 3)))
    )


@cache
def _seed_words() -> tuple[str, ...]:
    """All words of the seed split, lower case."""
    lists = ("words", "first_names", "last_names", "places", "companies")
    found = [word for name in lists for word in listed(name, "seed")]
    found += [word for _, verb, noun in pairs("seed") for word in (verb, *noun.split())]
    found += [word for kind in PARAMETERS.values() for word in kind.description.split()]
    return tuple(word.lower().strip(".") for word in dict.fromkeys(found) if " " not in word)


def patch_word(rng: Random) -> str:
    """One to three pieces of seed words: any piece of a word may follow any other."""
    pieces = []
    for _ in range(rng.choice((1, 2, 2, 3))):
        word = rng.choice(_seed_words())
        start = rng.randrange(len(word))
        pieces.append(word[start : start + rng.randint(1, 5)])
    patched = "".join(pieces)
    return patched if len(patched) > 2 else patched + invent_word(rng)


def mash_words(rng: Random) -> str:
    """The head of one seed word and the tail of another: looks like a word, means nothing."""
    pool = [word for name in ("words", "last_names", "companies") for word in listed(name, "seed")]
    head, tail = rng.choice(pool).lower(), rng.choice(pool).lower()
    return head[: rng.randint(2, len(head))] + tail[rng.randint(0, len(tail) - 2) :]


@cache
def _untrained_values() -> frozenset[str]:
    """Listed values of the splits that do not train the seed model, lower case."""
    lists = [listed(name, split) for name in words.WORD_LISTS for split in UNTRAINED]
    return frozenset(word.lower() for several in lists for word in several)


def _invent_any(rng: Random, split: Split) -> str:
    if split == "wild" and rng.random() < 0.5:
        return patch_word(rng)
    if split in INVENTED_NOUNS and rng.random() < 0.6:
        return mash_words(rng)
    return invent_word(rng)


def invent(rng: Random, split: Split) -> str:
    """A word that no other split lists; `novel` has two ways to make one, `wild` three."""
    while (word := _invent_any(rng, split)) in _untrained_values():
        pass
    return word


def _open_word(rng: Random, split: Split, name: str) -> str:
    """A word of a list or an invented one, capital where it names someone or something."""
    if split in INVENTED and rng.random() < INVENTED[split]:
        word = invent(rng, split)
        return word if name == "words" else word.capitalize()
    return rng.choice(listed(name, split))


def _date(rng: Random, split: Split) -> str:
    month = rng.randrange(12)
    days = [day for day in range(1, 29) if (day + month) % MODULUS in REMAINDERS[split]]
    return f"{MONTHS[month]} {rng.choice(days)}"


def _time(rng: Random, split: Split) -> str:
    slots = [slot for slot in range(24, 92) if slot % MODULUS in REMAINDERS[split]]
    hour, quarter = divmod(rng.choice(slots), 4)
    return f"{hour}:{quarter * 15:02d}"


def _code(rng: Random, split: Split) -> str:
    letters = "".join(rng.choice("ABCDEFGHKLMNPRSTVWXZ") for _ in range(2))
    return f"{letters}-{rng.choice(_allowed(1000, 9999, split))}"


def _phrase(rng: Random, split: Split) -> str:
    return " ".join(_open_word(rng, split, "words") for _ in range(rng.choice((2, 2, 3))))


def _several(rng: Random, split: Split, name: str) -> list[str]:
    """Two or three different words."""
    wanted = rng.choice((2, 2, 3))
    chosen: dict[str, None] = {}
    while len(chosen) < wanted:
        chosen[_open_word(rng, split, name)] = None
    return list(chosen)


def _tenths(rng: Random, kind: Parameter, split: Split) -> float:
    """A number with one decimal that is not .0; the split decides its tenths' remainder."""
    while True:
        tenths = rng.randrange(kind.low * 10 + 1, kind.high * 10)
        if tenths % 10 and tenths % MODULUS in REMAINDERS[split]:
            return tenths / 10


def draw_value(rng: Random, kind: Parameter, split: Split) -> Any:
    """A JSON value for a parameter kind."""
    match kind.value:
        case "places" | "companies":
            return _open_word(rng, split, kind.value)
        case "languages" | "rooms":
            return rng.choice(listed(kind.value, split))
        case "person":
            parts = (_open_word(rng, split, name) for name in ("first_names", "last_names"))
            return " ".join(parts)
        case "date":
            return _date(rng, split)
        case "time":
            return _time(rng, split)
        case "code":
            return _code(rng, split)
        case "email":
            name = _open_word(rng, split, "first_names").lower()
            return f"{name}@{_open_word(rng, split, 'words')}.com"
        case "title" | "phrase":
            return _phrase(rng, split)
        case "integer":
            return rng.choice(_allowed(kind.low, kind.high, split))
        case "float":
            return _tenths(rng, kind, split)
        case "enum":
            return rng.choice(kind.choices)
        case "boolean":
            return rng.random() < 0.5
        case "words":
            return _several(rng, split, "words")
        case "people":
            return _several(rng, split, "first_names")


def _fillers(rng: Random, most: int, invented: float = 0.0) -> list[str]:
    """Up to `most` words without meaning, a share of them invented."""
    return [
        invent_word(rng) if rng.random() < invented else rng.choice(words.FILLERS)
        for _ in range(rng.randint(0, most))
    ]


def pad(rng: Random, phrase: str) -> str:
    """Put words without meaning in front of a phrase."""
    neutral = (rng.choice(words.NEUTRAL) for _ in range(rng.choice((1, 1, 2, 3))))
    return " ".join([*neutral, phrase])


def garble(rng: Random, kind: Parameter, phrase: str, style: Style) -> str:
    """Replace or drop words of a phrase that do not tell its parameter, and add some."""
    parts = phrase.split(" ")
    if style == "wild" and rng.random() < 0.6:
        return pad(rng, phrase)
    if kind.value not in SELF_EVIDENT and words.UNITS.isdisjoint(parts):
        return phrase
    found: list[str] = []
    for part in parts:
        if "{}" in part or part in words.UNITS or rng.random() < 0.3:
            found.append(part)
        else:
            found += _fillers(rng, 1)
    return " ".join([*_fillers(rng, 1), *found, *_fillers(rng, 1)])


def say(rng: Random, kind: Parameter, value: Any, style: Style) -> str:
    """The phrase that gives `value` for `kind`."""
    phrases = kind.fresh if style == "fresh" else kind.phrases
    if kind.value == "boolean":
        return phrases[0] if value else phrases[1]
    if style in INVENTED_WORDINGS and rng.random() < INVENTED_WORDINGS[style]:
        phrases = (garble(rng, kind, rng.choice(phrases), style),)
    return rng.choice(phrases).format(_and(value) if isinstance(value, list) else value)


def _and(parts: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last


# -- documents -----------------------------------------------------------------------------------


def article(noun: str) -> str:
    """The noun with its indefinite article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _schema(kind: Parameter) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": kind.type, "description": kind.description}
    if kind.choices:
        schema["enum"] = list(kind.choices)
    if kind.type == "array":
        schema["items"] = {"type": "string"}
    return schema


def _results(spec: Spec) -> dict[str, Any]:
    if spec.verb in words.MATCHING_VERBS:
        found = {"type": "array", "description": "What was found.", "items": {"type": "string"}}
        return {"matches": found}
    return {"confirmation": {"type": "string", "description": "Confirmation code."}}


def document(spec: Spec) -> dict[str, Any]:
    """The tool document in the ToolDev dialect (algorithms §1.3)."""
    labels = _and([kind.label for kind in spec.kinds])
    return {
        "name": spec.name,
        "description": f"{spec.verb.capitalize()} {article(spec.noun)} by {labels}.",
        "arguments": {
            "type": "dict",
            "properties": {spec.key(kind): _schema(kind) for kind in spec.kinds},
            "required": [spec.key(kind) for kind in spec.kinds if not kind.optional],
        },
        "results": {"type": "dict", "properties": _results(spec)},
    }


# -- requests ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """One call of one tool in a request."""

    spec: Spec
    """The tool as the candidates show it."""
    values: dict[str, Any]
    """Value by kind name, in the order the request mentions them."""

    @property
    def call(self) -> dict[str, Any]:
        """The gold call, arguments in document order."""
        arguments = {
            self.spec.key(kind): self.values[kind.name]
            for kind in self.spec.kinds
            if kind.name in self.values
        }
        return {"name": self.spec.name, "arguments": arguments}


def draw_spec(
    rng: Random, pair: Pairing, *, num_kinds: int | None = None, aliased: bool = False
) -> Spec:
    """One to four kinds of its domain, at least one of them required."""
    domain, verb, noun = pair
    wanted = num_kinds or rng.choice((1, 2, 2, 3, 3, 4))
    while True:
        names = rng.sample(domain.parameters, min(wanted, len(domain.parameters)))
        kinds = tuple(PARAMETERS[name] for name in names)
        if not all(kind.optional for kind in kinds):
            return Spec(domain=domain, verb=verb, noun=noun, kinds=kinds, aliased=aliased)


def draw_use(rng: Random, spec: Spec, split: Split, order: tuple[str, ...] | None = None) -> Use:
    """Values for all required kinds and most optional ones, mentioned in a random order."""
    mentioned = [kind for kind in spec.kinds if not kind.optional or rng.random() < 0.7]
    rng.shuffle(mentioned)
    if order is not None:
        mentioned = [PARAMETERS[name] for name in order]
    return Use(spec=spec, values={kind.name: draw_value(rng, kind, split) for kind in mentioned})


def _phrases(rng: Random, use: Use, style: Style) -> str:
    return " ".join(say(rng, PARAMETERS[name], value, style) for name, value in use.values.items())


def _clause(rng: Random, use: Use, style: Style) -> str:
    noun = rng.choice((article(use.spec.noun), article(use.spec.noun), f"the {use.spec.noun}"))
    return f"{use.spec.verb} {noun} {_phrases(rng, use, style)}"


def tell(rng: Random, uses: tuple[Use, ...], style: Style) -> str:
    """The request for some uses, in order; uses of one tool in a row share verb and noun."""
    known: Style = "fresh" if style == "fresh" else "seed"
    text = _clause(rng, uses[0], style)
    for before, use in pairwise(uses):
        same = use.spec == before.spec
        joint = rng.choice((words.NEXT_SAME if same else words.NEXT_OTHER)[known])
        if style == "wild" and rng.random() < INVENTED_WORDINGS[style]:
            joint = rng.choice((" and ", ", and ")) + pad(rng, "")
        text += joint + (_phrases if same else _clause)(rng, use, style)
    frame = rng.choice(words.FRAMES[known])
    if style in INVENTED_WORDINGS and rng.random() < INVENTED_WORDINGS[style]:
        frame = " ".join([*_fillers(rng, 5, 0.3), "{act}", *_fillers(rng, 1)]) + rng.choice(".?")
    return frame.format(act=text, Act=text[0].upper() + text[1:])


def _draw_pair(rng: Random, pool: tuple[Pairing, ...], split: Split) -> Pairing:
    """One of the pool; some splits put invented nouns in."""
    domain, verb, noun = rng.choice(pool)
    if split in INVENTED_NOUNS and rng.random() < INVENTED_NOUNS[split]:
        noun = " ".join(invent(rng, split) for _ in range(rng.choice((1, 1, 1, 2))))
        while split == "wild" and (verb, noun) in _untrained_pairs():
            noun = invent(rng, split)
    return domain, verb, noun


@cache
def _untrained_pairs() -> frozenset[tuple[str, str]]:
    """(verb, noun) of the splits that do not train the seed model."""
    return frozenset((verb, noun) for split in UNTRAINED for _, verb, noun in pairs(split))


def draw_distractor(rng: Random, split: Split, near: Spec, aliased: bool) -> Spec:
    """Another tool of the split, of the same domain in two draws of three."""
    pool = pairs(split)
    if rng.random() < 0.67:
        pool = tuple(pair for pair in pool if pair[0].name == near.domain.name)
    return draw_spec(rng, _draw_pair(rng, pool, split), aliased=aliased)


def _draw_specs(rng: Random, split: Split, category: Category, aliased: bool) -> list[Spec]:
    """The called tools of an item: two for parallel_multiple, else one."""
    several = category in ("parallel", "parallel_multiple")
    chosen: list[Spec] = []
    while len(chosen) < (2 if category == "parallel_multiple" else 1):
        num_kinds = rng.choice((1, 2, 2, 3)) if several else None
        pair = _draw_pair(rng, pairs(split), split)
        spec = draw_spec(rng, pair, num_kinds=num_kinds, aliased=aliased)
        if spec.name not in {other.name for other in chosen}:
            chosen.append(spec)
    return chosen


def _draw_uses(rng: Random, specs: list[Spec], category: Category, split: Split) -> list[Use]:
    """One use a tool; parallel ones repeat the tool, with the same parameters mentioned."""
    uses = [draw_use(rng, spec, split) for spec in specs]
    repeats = 0
    if category == "parallel":
        repeats = rng.choice((1, 1, 1, 2))
    elif category == "parallel_multiple" and rng.random() < 0.15:
        repeats = 1
    for _ in range(repeats):
        again = draw_use(rng, specs[-1], split, order=tuple(uses[-1].values))
        if all(again.values != use.values for use in uses if use.spec == again.spec):
            uses.append(again)
    return uses


def _mentioned_spec(use: Use) -> Spec:
    """The tool that follows from the request alone."""
    kinds = tuple(PARAMETERS[name] for name in use.values)
    return replace(use.spec, kinds=kinds, aliased=False)


def draw_item(
    rng: Random, split: Split, category: Category, style: Style, *, catalogue: bool
) -> FreshItem:
    """One request with candidates and gold calls.

    With `catalogue` the called tools may have parameters that the request leaves out, another
    order and alias keys; without, they are exactly those that follow from the request.
    """
    aliased = catalogue and rng.random() < 0.25
    while True:
        uses = _draw_uses(rng, _draw_specs(rng, split, category, aliased), category, split)
        if category != "parallel" or len(uses) > 1:
            break
    if not catalogue:
        uses = [Use(spec=_mentioned_spec(use), values=use.values) for use in uses]
    called = list({use.spec.name: use.spec for use in uses}.values())
    wanted = {"multiple": rng.choice((1, 2, 3)), "parallel_multiple": rng.choice((0, 1, 2))}
    candidates = list(called)
    while len(candidates) < len(called) + wanted.get(category, 0):
        other = draw_distractor(rng, split, called[0], aliased)
        if other.name not in {spec.name for spec in candidates}:
            candidates.append(other)
    rng.shuffle(candidates)
    mentioned = {use.spec.name: _mentioned_spec(use) for use in uses}
    return FreshItem(
        query=tell(rng, tuple(uses), style),
        tools=tuple(document(spec) for spec in candidates),
        calls=tuple(use.call for use in uses),
        category=category,
        used=tuple(document(spec) for spec in mentioned.values()),
    )


# -- the sets ------------------------------------------------------------------------------------


def catalogue_specs() -> list[Spec]:
    """The initial tool pool: 400 seed tools of different names."""
    rng = Random("home catalogue")
    return [draw_spec(rng, pair) for pair in rng.sample(pairs("seed"), 400)]


def fresh_item(number: int) -> FreshItem:
    """The request of a number, with its gold answer; requests of rounds are these, in order."""
    rng = Random(f"home fresh {number}")
    category = rng.choice(CATEGORIES)
    return draw_item(rng, "fresh", category, rng.choice(("seed", "fresh")), catalogue=False)


def _held_items(split: Split, per_category: int, seed: str = "") -> list[FreshItem]:
    rng = Random(f"home items {split}{seed}")
    return [
        draw_item(rng, split, category, "seed" if number % 2 else "fresh", catalogue=True)
        for category in CATEGORIES
        for number in range(per_category)
    ]


def home_items() -> list[FreshItem]:
    """The benchmark: 50 items a category, half of them in fresh wordings."""
    return _held_items("home", 50)


def dev_items() -> list[FreshItem]:
    """The development set of the gate: 100 items a category."""
    return _held_items("dev", 100)


def other_home_items(per_category: int, seed: int) -> list[FreshItem]:
    """More items of the benchmark's tools and values, by another seed of its generator."""
    return _held_items("home", per_category, f" {seed}")


HOME_SOURCE = "home:"
"""How the source of its queries begins."""


def home_stream() -> Iterator[Query]:
    """The home world's fresh queries, without end."""
    for number in count():
        text = fresh_item(number).query
        yield Query(id=query_id(text), text=text, source=f"{HOME_SOURCE}{number}")
