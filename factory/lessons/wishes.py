"""Calls that somebody may want made, drawn from accepted samples and from tools of the catalogue.

A model that has learnt to write a request from the calls that answer it (examples of kind `ask`)
is shown them: so samples come about whose answer is known before their request is. Values are those
that other requests gave for a parameter of the same name, a choice of its schema, or numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor
from random import Random
from typing import Any

from factory.domain.canon import canonical_json
from factory.domain.records import Call, Candidate, Tool
from factory.judge.calls import find_unsaid, find_unused
from factory.lessons.harder import MOST_DISTRACTORS, Stock, another
from factory.tools.words import read_type

ASK = "ask"
"""Way of making a sample, beside those of factory.lessons.harder."""
_IN_VAIN = 200
"""Draws in a row without a new wish after which there are no more."""
_OPTIONAL = 0.6
"""How often an optional parameter of a catalogue's tool is given."""
_FAR = 0.5
"""How often the calls are of other tools than an accepted sample's, where there are any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Calls, and the tools on offer. Example: Wish(tools=(Tool(…),), calls=(Call(…),))."""

    tools: tuple[Tool, ...]
    calls: tuple[Call, ...]
    origins: tuple[str, ...] = ()
    """Id of the request that wants the same of the same tools with other values; empty where the
    tools are the catalogue's."""

    @property
    def names(self) -> list[str]:
        """Of the tools that are called."""
        return list(dict.fromkeys(call.name for call in self.calls))


def draw_wishes(rng: Random, stock: Stock) -> Iterator[Wish]:
    """Wishes, none of which wants what another or a sample of the stock does, until _IN_VAIN draws
    in a row give no new one.

    The same random numbers and stock give the same.
    """
    shapes = [sample.calls for sample in stock.usable] or [_ONE]
    tools = [tool for tool in stock.catalogue if _can_draw(tool, stock)]
    seen = {_key(sample.calls) for sample in stock.samples}
    left = _IN_VAIN if stock.usable or tools else 0
    while left:
        if tools and (not stock.usable or rng.random() < _FAR):
            wish = _of_others(rng, rng.choice(shapes), tools, stock)
        else:
            wish = _like(rng, rng.choice(stock.usable), stock)
        if wish is None or (key := _key(wish.calls)) in seen:
            left -= 1
            continue
        seen.add(key)
        left = _IN_VAIN
        yield wish


def _key(calls: Sequence[Call]) -> str:
    return canonical_json([[call.name, call.arguments] for call in calls])


_ONE = (Call(name="", arguments={}),)


def why_unfit(wish: Wish, text: str) -> tuple[str, str] | None:
    """Reason and message for which a request does not ask for the calls: values that it does not
    say, or numbers that they do not have; None where it may.

    Whether it does, only an answer to it can tell.
    """
    if unsaid := find_unsaid(wish.calls, text):
        return "unsaid", f"it does not say {', '.join(unsaid)}"
    # Numbers alone: a request may greet somebody by name.
    if unused := [marked for marked in find_unused(wish.calls, text) if marked[0].isdigit()]:
        return "unasked", f"no call has {', '.join(unused)}"
    return None


def _like(rng: Random, sample: Candidate, stock: Stock) -> Wish | None:
    """Other values of the same kind in a sample's calls."""
    schemas = {tool.name: tool.arguments["properties"] for tool in sample.tools}
    calls = tuple(
        replace(
            call,
            arguments={
                name: _draw(rng, schemas[call.name], name, stock, like=value)
                if _has_values(schemas[call.name], name, stock)
                else value
                for name, value in call.arguments.items()
            },
        )
        for call in sample.calls
    )
    if calls == sample.calls or not _differ(calls):
        return None
    return Wish(tools=sample.tools, calls=calls, origins=(sample.query.id,))


def _of_others(
    rng: Random, shape: Sequence[Call], tools: Sequence[Tool], stock: Stock
) -> Wish | None:
    """As many calls of as many tools as a sample has, of other tools, near ones beside them."""
    names = list(dict.fromkeys(call.name for call in shape))
    if len(tools) < len(names):
        return None
    chosen = dict(zip(names, rng.sample(tools, len(names)), strict=True))
    given = {name: _choose_parameters(rng, tool, stock) for name, tool in chosen.items()}
    calls = []
    for call in shape:
        tool = chosen[call.name]
        values = {n: _draw(rng, tool.arguments["properties"], n, stock) for n in given[call.name]}
        calls.append(Call(name=tool.name, arguments=values))
    called = {tool.name: tool for tool in chosen.values()}
    if len(called) < len(names) or not _differ(calls):
        return None
    near = {t.name: t for tool in called.values() for t in stock.near(tool, 12)}
    others = [tool for name, tool in near.items() if name not in called]
    most = rng.choice(range(MOST_DISTRACTORS + 1))
    offered = [*called.values(), *rng.sample(others, min(len(others), most))]
    return Wish(tools=tuple(rng.sample(offered, len(offered))), calls=tuple(calls))


def _differ(calls: Sequence[Call]) -> bool:
    return len({_key([call]) for call in calls}) == len(calls)


# -- values --------------------------------------------------------------------------------------


def _can_draw(tool: Tool, stock: Stock) -> bool:
    """Whether values are known for all that the tool requires, and for anything."""
    properties = tool.arguments["properties"]
    known = {name for name in properties if _has_values(properties, name, stock)}
    return bool(known) and known.issuperset(tool.arguments.get("required", []))


def _choose_parameters(rng: Random, tool: Tool, stock: Stock) -> list[str]:
    """The required ones and some others, in the document's order; at least one."""
    properties = tool.arguments["properties"]
    required = set(tool.arguments.get("required", []))
    known = [name for name in properties if _has_values(properties, name, stock)]
    chosen = [name for name in known if name in required or rng.random() < _OPTIONAL]
    return chosen or [rng.choice(known)]


def _kind(properties: Mapping[str, Any], name: str) -> str:
    """The JSON type of a parameter; "" where it may be several."""
    schema = properties[name]
    kind = (read_type(schema.get("type")) or {}).get("type")
    return kind if isinstance(kind, str) else ""


def _texts(properties: Mapping[str, Any], name: str, stock: Stock) -> Sequence[Any]:
    """Choices of a parameter, or texts that are known for it."""
    schema = properties[name]
    items = schema.get("items")
    if isinstance(items, dict) and isinstance(items.get("enum"), list):
        return list(items["enum"])
    examples = schema.get("examples")
    return stock.others(properties, name) or (examples if isinstance(examples, list) else ())


def _has_values(properties: Mapping[str, Any], name: str, stock: Stock) -> bool:
    kind = _kind(properties, name)
    if isinstance(choices := properties[name].get("enum"), list) and not choices:
        return False
    if kind in ("integer", "number", "boolean"):
        return True
    wanted = {"string": 1, "array": 2}.get(kind)
    return wanted is not None and len(_texts(properties, name, stock)) >= wanted


def _draw(
    rng: Random, properties: Mapping[str, Any], name: str, stock: Stock, like: Any = None
) -> Any:
    """A value for a parameter that has some, another than `like` where there is one."""
    kind, schema = _kind(properties, name), properties[name]
    choices = schema.get("enum")
    if kind == "boolean":
        return rng.random() < 0.5
    if kind in ("integer", "number") and not isinstance(choices, list):
        known = [value for value in stock.numbers.get(name, ()) if _is_of(kind, value)]
        base = like if like is not None else rng.choice(known) if known else None
        if base is None or {"minimum", "maximum"} & schema.keys():
            return _number(rng, kind, schema)
        return another(rng, base, ())
    texts = _texts(properties, name, stock)
    if kind == "array":
        wanted = len(like) if isinstance(like, list) else rng.choice((2, 2, 3))
        return rng.sample(texts, min(len(texts), wanted))
    return rng.choice([text for text in texts if text != like] or texts)


def _is_of(kind: str, value: float) -> bool:
    return isinstance(value, int) == (kind == "integer")


def _number(rng: Random, kind: str, schema: Mapping[str, Any]) -> int | float:
    """A number within its bounds, of two digits where it has none."""
    low, high = (_bound(schema.get(key)) for key in ("minimum", "maximum"))
    if low is None:
        low = 2 if high is None or high >= 2 else high - 97
    if high is None or high < low:
        high = max(99, low + 97)
    if kind == "integer":
        return rng.randint(ceil(low), max(ceil(low), floor(high)))
    return min(high, max(low, round(rng.uniform(low, high), 1)))


def _bound(value: object) -> int | float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
