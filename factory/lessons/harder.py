"""Labels for what a model cannot do yet: accepted samples made harder, each right by construction.

A vote only keeps what a model can do already. What is made of it here asks for more, and its answer
follows from how it was made: the words in which other requests begin and end, two requests joined
to one, other values put in request and calls, near tools beside the ones to call, tools and
parameters called by other names, parameters that the request says nothing of. And requests that
nothing can be called for: the tool withheld, or a value taken out that the call requires.

Nothing here asks a model. What comes out is judged by the same rules as what is sampled.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from heapq import nsmallest
from itertools import chain
from math import log
from random import Random
from typing import Any, Literal, TypeVar, get_args

from factory.domain.canon import query_id, tool_id
from factory.domain.records import Call, Candidate, Query, Tool
from factory.lessons.frames import Frames
from factory.lessons.joints import Joints
from factory.lessons.phrases import Phrases
from factory.lessons.said import Answered, find_values, keeps_values, written
from factory.lessons.words import Words, is_free

T = TypeVar("T", str, int | float)
Way = Literal[
    "frames",
    "phrases",
    "joints",
    "join",
    "values",
    "words",
    "distractors",
    "rename",
    "optional",
    "withheld",
    "missing",
]
WAYS: tuple[Way, ...] = get_args(Way)
ABSTAINING: frozenset[Way] = frozenset({"withheld", "missing"})
"""Ways whose right answer calls nothing."""
NEEDS_CATALOGUE: frozenset[Way] = frozenset({"distractors", "withheld"})
"""Ways that take tools from the catalogue."""

MOST_DISTRACTORS = 3
_COMMON = 500
"""Tools that share a word, from which on it tells nothing; or a fiftieth of all."""
_ATTEMPTS = 4
"""Draws for each sample wanted; most fail because a sample does not lend itself."""
_LETTERS = "abcdefghkmnpqrstuvwxyz"
JOINTS = ("{} {}", "{}\n{}", "{} Also: {}", "{} And then: {}", "First: {} Second: {}")
"""How two requests are told in one, where the pool does not say how."""


Tell = Callable[[Random, str, Sequence[Call], "Stock"], str | None]
"""A request's text told otherwise; None where that cannot be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """One sample that was made. Example: Made(way="join", origins=("q_1…", "q_2…"), …)."""

    way: Way
    origins: tuple[str, ...]
    """Ids of the requests that it was made from."""
    candidate: Candidate


def make(way: Way, rng: Random, stock: Stock, count: int) -> Iterator[Made]:
    """At most `count` samples made in one way, no two of one request with the same tools.

    Fewer where the stock does not give more. The same random numbers and stock give the same.
    """
    seen: set[tuple[str, tuple[str, ...]]] = set()
    for _ in range(_ATTEMPTS * count if stock.usable else 0):
        if len(seen) >= count:
            return
        made = _MAKERS[way](rng, rng.choice(stock.usable), stock)
        if made is None:
            continue
        key = (made.candidate.query.id, tuple(sorted(t.id for t in made.candidate.tools)))
        if key not in seen:
            seen.add(key)
            yield made


class Stock:
    """What samples are made from, in any number of ways: what it learns of them it learns once.

    `requests` are all that were drawn, `failed` those of them that the model has no accepted answer
    to: `frames` and `phrases` need them. `pieces` of the model's vocabulary spell `words`.
    """

    def __init__(
        self,
        samples: Sequence[Candidate],
        catalogue: Sequence[Tool],
        requests: Sequence[str] = (),
        failed: Sequence[str] = (),
        pieces: Sequence[str] = (),
    ) -> None:
        self.samples = samples
        self.usable = [sample for sample in samples if _is_sound(sample)]
        """Those that can be taken apart."""
        self.catalogue = [tool for tool in catalogue if _is_plain(tool)]
        self._requests = requests
        self._failed = failed
        self._pieces = pieces
        self._near: dict[tuple[str, int], list[Tool]] = {}

    @cached_property
    def _answered(self) -> list[Answered]:
        return [Answered(sample.query.text, sample.calls) for sample in self.samples]

    @cached_property
    def frames(self) -> Frames:
        """How the requests begin and end."""
        return Frames(self._requests, self._answered, self._failed)

    @cached_property
    def phrases(self) -> Phrases:
        """In which words they bring in a value."""
        return Phrases(self._answered, self._failed)

    @cached_property
    def joints(self) -> Joints:
        """In which words they go on to the next call."""
        return Joints(self._answered, self._failed)

    @cached_property
    def words(self) -> Words:
        """Words that a value may be made of."""
        return Words(self._answered, self._failed, self._pieces)

    @cached_property
    def tools(self) -> tuple[Tool, ...]:
        """The catalogue's and the samples', each once."""
        shown = chain(self.catalogue, *(sample.tools for sample in self.usable))
        return tuple({tool.id: tool for tool in shown}.values())

    @cached_property
    def values(self) -> Mapping[str, tuple[str, ...]]:
        """Texts that were given for a parameter, by its name, in the order of the samples."""
        return _by_name(
            (name, text)
            for name, value in self._arguments()
            for text in (value if isinstance(value, list) else [value])
            if isinstance(text, str)
        )

    @cached_property
    def numbers(self) -> Mapping[str, tuple[int | float, ...]]:
        """Numbers that were given for a parameter, by its name, in the order of the samples."""
        return _by_name(
            (name, value)
            for name, value in self._arguments()
            if isinstance(value, int | float) and not isinstance(value, bool)
        )

    def _arguments(self) -> Iterator[tuple[str, Any]]:
        for sample in self.samples:
            for call in sample.calls:
                yield from call.arguments.items()

    def others(self, properties: Mapping[str, Any], name: str) -> Sequence[str]:
        """Texts that a parameter takes: of its enum, else what others of its name were given."""
        choices = properties.get(name, {}).get("enum")
        return choices if isinstance(choices, list) else self.values.get(name, ())

    @cached_property
    def _by_word(self) -> Mapping[str, tuple[int, ...]]:
        places: defaultdict[str, list[int]] = defaultdict(list)
        for place, tool in enumerate(self.tools):
            for word in _words_of(tool):
                places[word].append(place)
        return {word: tuple(found) for word, found in places.items()}

    def near(self, tool: Tool, most: int) -> list[Tool]:
        """Other tools by the words they share with this one, rare words counting more."""
        if (known := self._near.get((tool.id, most))) is not None:
            return known
        scores: defaultdict[int, float] = defaultdict(float)
        for word in sorted(_words_of(tool)):
            places = self._by_word.get(word, ())
            if len(places) > max(_COMMON, len(self.tools) // 50):
                continue
            for place in places:
                scores[place] += log(1 + len(self.tools) / len(places))
        others = (place for place in scores if self.tools[place].name != tool.name)
        ranked = nsmallest(most, others, key=lambda place: (-scores[place], place))
        self._near[tool.id, most] = found = [self.tools[place] for place in ranked]
        return found


# -- ways that keep the calls --------------------------------------------------------------------


def _frames(rng: Random, sample: Candidate, stock: Stock) -> Made | None:
    """The request as others begin and end, most of all those that the model fails in."""
    text = _framed(rng, sample.query.text, sample.calls, stock)
    return None if text is None else _made("frames", (sample,), text, sample.tools, sample.calls)


def _phrases(rng: Random, sample: Candidate, stock: Stock) -> Made | None:
    """Values brought in by the words of other requests."""
    text = stock.phrases.retell(rng, sample.query.text, sample.calls)
    if text is None:
        return None
    text = _sometimes(rng, text, sample.calls, stock, _joined, _framed)
    return _made("phrases", (sample,), text, sample.tools, sample.calls)


def _joints(rng: Random, sample: Candidate, stock: Stock) -> Made | None:
    """The request goes on to its next call as others do."""
    text = _joined(rng, sample.query.text, sample.calls, stock)
    if text is None:
        return None
    text = _sometimes(rng, text, sample.calls, stock, _phrased, _framed)
    return _made("joints", (sample,), text, sample.tools, sample.calls)


def _join(rng: Random, first: Candidate, stock: Stock) -> Made | None:
    """Two requests told in one: the tools of both, the calls one after the other."""
    second = rng.choice(stock.samples)
    if second.query.id == first.query.id or not _is_sound(second):
        return None
    tools, calls = _unite(first.tools, second.tools), first.calls + second.calls
    if tools is None or len(calls) > 4:
        return None
    texts = first.query.text.strip(), second.query.text.strip()
    joint = stock.joints.draw(rng, same=False)
    text = joint and stock.frames.join(texts[0], joint, texts[1])
    if text is None or not all(
        keeps_values(each.query.text, text, each.calls) for each in (first, second)
    ):
        text = rng.choice(JOINTS).format(*texts)
    text = _sometimes(rng, text, calls, stock, _phrased, _framed)
    return _made("join", (first, second), text, _shuffled(rng, tools), calls)


def _framed(rng: Random, text: str, calls: Sequence[Call], stock: Stock) -> str | None:
    told = stock.frames.retell(rng, text)
    return told if told is not None and keeps_values(text, told, calls) else None


def _phrased(rng: Random, text: str, calls: Sequence[Call], stock: Stock) -> str | None:
    return stock.phrases.retell(rng, text, calls)


def _joined(rng: Random, text: str, calls: Sequence[Call], stock: Stock) -> str | None:
    return stock.joints.retell(rng, text, calls)


def _sometimes(rng: Random, text: str, calls: Sequence[Call], stock: Stock, *tells: Tell) -> str:
    """The text told otherwise, in each of these ways for every other request."""
    for tell in tells:
        if rng.random() < 0.5:
            text = tell(rng, text, calls, stock) or text
    return text


def _values(rng: Random, sample: Candidate, stock: Stock) -> Made | None:
    """Other values of the same kind, in the request and in the calls."""

    def renew(value: Any, name: str, properties: Mapping[str, Any]) -> Any:
        return another(rng, value, stock.others(properties, name))

    return _with_values("values", sample, renew)


def _words(rng: Random, sample: Candidate, stock: Stock) -> Made | None:
    """Values in other words and digits, in the request and in the calls."""

    def respelt(value: Any, name: str, properties: Mapping[str, Any]) -> Any:
        schema: Mapping[str, Any] = properties.get(name, {})
        if isinstance(value, str):
            return stock.words.respell(rng, value) if is_free(schema) else None
        if isinstance(value, int | float) and not isinstance(value, bool):
            return another(rng, value, ())
        texts = isinstance(value, list) and all(isinstance(each, str) for each in value)
        if not texts or not is_free(schema) or not is_free(schema.get("items", {})):
            return None
        return [stock.words.respell(rng, each) for each in value]

    return _with_values("words", sample, respelt)


def _with_values(
    way: Way, sample: Candidate, renew: Callable[[Any, str, Mapping[str, Any]], Any]
) -> Made | None:
    """The sample with what `renew` makes of a value, its parameter's name and all properties of the
    tool; None from it keeps a value.
    """
    schemas = {tool.name: tool.arguments.get("properties", {}) for tool in sample.tools}
    text, calls = sample.query.text, list(sample.calls)
    for place in reversed(find_values(text, calls)):
        call = calls[place.call]
        new = renew(call.arguments[place.name], place.name, schemas[call.name])
        if new is not None and written(new) not in text:
            text = text[: place.start] + written(new) + text[place.end :]
            calls[place.call] = replace(call, arguments={**call.arguments, place.name: new})
    if text == sample.query.text:
        return None
    return _made(way, (sample,), text, sample.tools, tuple(calls))


def _distractors(rng: Random, sample: Candidate, stock: Stock) -> Made | None:
    """Near tools beside those that are called."""
    names = {tool.name for tool in sample.tools}
    called = {call.name for call in sample.calls}
    around = rng.choice([tool for tool in sample.tools if tool.name in called])
    near = [tool for tool in stock.near(around, 12) if tool.name not in names]
    chosen = {tool.name: tool for tool in rng.sample(near, min(len(near), MOST_DISTRACTORS))}
    if not chosen:
        return None
    tools = _shuffled(rng, (*sample.tools, *chosen.values()))
    return _made("distractors", (sample,), sample.query.text, tools, sample.calls)


def _rename(rng: Random, sample: Candidate, stock: Stock) -> Made | None:
    """Tools and parameters called by names that say nothing: what they do, documents tell."""
    tools: dict[str, Tool] = {}
    renamed: dict[str, tuple[str, dict[str, str]]] = {}
    for tool in sample.tools:
        name = f"{rng.choice(('fn', 'tool', 'action', 'op'))}_{rng.randrange(10, 1000)}"
        properties = tool.arguments.get("properties", {})
        keys = {key: f"{rng.choice(_LETTERS)}{place}" for place, key in enumerate(properties)}
        arguments = {
            **tool.arguments,
            "properties": {keys[key]: schema for key, schema in properties.items()},
            "required": [keys.get(key, key) for key in tool.arguments.get("required", [])],
        }
        tools[name] = _tool({**tool.document, "name": name, "arguments": arguments})
        renamed[tool.name] = (name, keys)
    if len(tools) < len(sample.tools):
        return None
    calls = []
    for call in sample.calls:
        name, keys = renamed[call.name]
        if not call.arguments.keys() <= keys.keys():
            return None
        arguments = {keys[key]: value for key, value in call.arguments.items()}
        calls.append(Call(name=name, arguments=arguments))
    text = sample.query.text
    return _made("rename", (sample,), text, _shuffled(rng, tuple(tools.values())), tuple(calls))


def _optional(rng: Random, sample: Candidate, stock: Stock) -> Made | None:
    """Parameters of other tools that the request gives no value for, none of them required."""
    tools = tuple(_widen(rng, tool, stock) or tool for tool in sample.tools)
    if tools == sample.tools:
        return None
    return _made("optional", (sample,), sample.query.text, tools, sample.calls)


# -- ways whose answer is no call ----------------------------------------------------------------


def _withheld(rng: Random, sample: Candidate, stock: Stock) -> Made | None:
    """The tools that are needed are not there, near ones are."""
    called = {call.name for call in sample.calls}
    left = [tool for tool in sample.tools if tool.name not in called]
    needed = [tool for tool in sample.tools if tool.name in called]
    near = {tool.name: tool for one in needed for tool in stock.near(one, 12)[4:]}
    others = [tool for name, tool in near.items() if name not in called]
    chosen = {t.name: t for t in (*left, *rng.sample(others, min(len(others), 2)))}
    if not chosen:
        return None
    verb = needed[0].name.replace("_", " ")
    answer = f"None of the tools I have can do this: {verb}."
    tools = _shuffled(rng, tuple(chosen.values()))
    return _made("withheld", (sample,), sample.query.text, tools, (), answer)


def _missing(rng: Random, sample: Candidate, stock: Stock) -> Made | None:
    """A value that the tool requires is taken out of the request: the answer asks for it.

    The words that bring it in go with it, so that nothing says it under another name.
    """
    if len(sample.calls) != 1:
        return None
    (call,) = sample.calls
    tool = next(tool for tool in sample.tools if tool.name == call.name)
    given = [name for name in tool.arguments.get("required", []) if name in call.arguments]
    for name in rng.sample(given, len(given)):
        text = stock.phrases.cut(sample.query.text, sample.calls, name)
        if text is not None:
            answer = f"Which {name.replace('_', ' ')} do you want?"
            return _made("missing", (sample,), text, sample.tools, (), answer)
    return None


_MAKERS: Mapping[Way, Callable[[Random, Candidate, Stock], Made | None]] = {
    "frames": _frames,
    "phrases": _phrases,
    "joints": _joints,
    "join": _join,
    "values": _values,
    "words": _words,
    "distractors": _distractors,
    "rename": _rename,
    "optional": _optional,
    "withheld": _withheld,
    "missing": _missing,
}


# -- parts ---------------------------------------------------------------------------------------


def _made(
    way: Way,
    of: Sequence[Candidate],
    text: str,
    tools: Sequence[Tool],
    calls: tuple[Call, ...],
    answer: str = "",
) -> Made:
    origins = tuple(sample.query.id for sample in of)
    query = Query(id=query_id(text), text=text, source=f"made: {way} of {', '.join(origins)}")
    candidate = Candidate(query=query, tools=tuple(tools), calls=calls, answer=answer)
    return Made(way=way, origins=origins, candidate=candidate)


def _by_name(given: Iterable[tuple[str, T]]) -> dict[str, tuple[T, ...]]:
    """The values of each name, each once, in their order."""
    found: defaultdict[str, dict[T, None]] = defaultdict(dict)
    for name, value in given:
        found[name][value] = None
    return {name: tuple(values) for name, values in found.items()}


def _unite(first: Sequence[Tool], second: Sequence[Tool]) -> tuple[Tool, ...] | None:
    """The tools of both; None where two of them have one name."""
    united = {tool.id: tool for tool in (*first, *second)}
    names = {tool.name for tool in united.values()}
    return tuple(united.values()) if len(names) == len(united) else None


def _shuffled(rng: Random, tools: Sequence[Tool]) -> tuple[Tool, ...]:
    return tuple(rng.sample(tools, len(tools)))


def _words_of(tool: Tool) -> frozenset[str]:
    text = f"{tool.name} {tool.document.get('description', '')}"
    return frozenset(re.findall(r"[^\W_]+", text.casefold()))


def _widen(rng: Random, tool: Tool, stock: Stock) -> Tool | None:
    """The tool with an optional parameter of a near tool; None where that has none that is new."""
    own = tool.arguments.get("properties", {})
    known = {str(schema.get("description", "")) for schema in own.values()} | own.keys()
    for other in rng.sample(near := stock.near(tool, 8), len(near)):
        theirs = other.arguments.get("properties", {})
        new = {
            name: schema
            for name, schema in theirs.items()
            if name not in known
            and str(schema.get("description", "")) not in known
            and schema.get("type") != "boolean"
        }
        if new:
            name = rng.choice(sorted(new))
            properties = {**own, name: new[name]}
            order = rng.sample(sorted(properties), len(properties))
            arguments = {
                **tool.arguments,
                "properties": {key: properties[key] for key in order},
            }
            return _tool({**tool.document, "arguments": arguments})
    return None


def another(rng: Random, value: Any, others: Sequence[str]) -> str | int | float | None:
    """A number of as many digits, or another text that was given for such a parameter."""
    if isinstance(value, int):
        digits = len(str(abs(value)))
        number = rng.randrange(10 ** (digits - 1), 10**digits)
        return -number if value < 0 else number
    if isinstance(value, float):
        decimals = len(written(value).partition(".")[2])
        return round(value * rng.uniform(0.5, 2.0), decimals)
    others = [text for text in others if text != value] if isinstance(value, str) else []
    return rng.choice(others) if others else None


def _is_sound(sample: Candidate) -> bool:
    """Whether it calls what it shows, as documents say, so that it can be taken apart."""
    known = {tool.name: tool for tool in sample.tools if _is_plain(tool)}
    return (
        bool(sample.calls)
        and len(known) == len(sample.tools)
        and all(
            call.name in known
            and call.arguments.keys() <= known[call.name].arguments["properties"].keys()
            for call in sample.calls
        )
    )


def _is_plain(tool: Tool) -> bool:
    """Whether its parameters are told one by one."""
    properties = tool.arguments.get("properties")
    return (
        isinstance(properties, dict)
        and all(isinstance(schema, dict) for schema in properties.values())
        and isinstance(tool.arguments.get("required", []), list)
    )


def _tool(document: dict[str, Any]) -> Tool:
    return Tool(id=tool_id(document), document=document)
