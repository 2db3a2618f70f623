"""Training examples of the seed model, drawn from the home world's seed split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from random import Random
from typing import Literal

from factory.domain.canon import tool_id
from factory.domain.records import Call, Example, ExampleKind, Message, Tool
from factory.lab.home import world
from factory.lab.home.world import FreshItem, Spec, draw_item
from factory.train.examples import (
    adapt_example,
    calls_text,
    encode_text,
    placeholder,
    tools_text,
)
from factory.workspace.folder import Workspace, shipped_root
from factory.workspace.prompts import Prompts, generation_messages, invocation_messages

SeedSplit = Literal["seed", "novel", "wild"]
"""Splits that train the seed model: without, with some, and with many invented words."""
GEN_SHARE, ADAPT_SHARE = 0.35, 0.10
"""Shares of two kinds in the first phase; the rest is `invoke`."""
CODE_SHARE = 0.15
"""Share of `code`, and of `retrieve`, in the second phase (algorithms §8)."""
OTHER_TOOL_SHARE = 0.25
"""How often a gen target keeps one tool of the sample that is not called (algorithms A2)."""
CATALOGUE_SHARE = 0.67
"""Share of invoke examples whose tools are a catalogue's rather than made for the request."""


def shipped_prompts() -> Prompts:
    """The prompt templates that ship with the factory."""
    return Prompts.load(Workspace(root=shipped_root()))


def make_gen(prompts: Prompts, rng: Random, item: FreshItem, origin: str) -> Example:
    """Request to documents (ToolDev Eq. 3): the called tools, at times one more (A2)."""
    documents = list(item.used)
    names = {document["name"] for document in documents}
    others = [document for document in item.tools if document["name"] not in names]
    if others and rng.random() < OTHER_TOOL_SHARE:
        documents.append(others[0])
    asked = generation_messages(item.query, prompts)
    return _example("gen", origin, asked, tools_text(documents))


def make_adapt(prompts: Prompts, item: FreshItem, origin: str) -> Example:
    """Description to document (ToolDev Eq. 1)."""
    document = item.tools[0]
    return adapt_example(Tool(id=tool_id(document), document=document), prompts, origin)


def make_invoke(prompts: Prompts, item: FreshItem, origin: str) -> Example:
    """Tools and request to calls (ToolDev Eq. 2)."""
    calls = [Call(name=call["name"], arguments=call["arguments"]) for call in item.calls]
    shown = invocation_messages(item.query, item.tools, prompts)
    return _example("invoke", origin, shown, calls_text(calls))


def make_code(prompts: Prompts, tool: Tool, origin: str) -> Example:
    """Document to its code (ToolGen's memorisation)."""
    asked = (Message(role="user", content=encode_text(tool, prompts)),)
    return _example("code", origin, asked, placeholder(tool.id))


def make_retrieve(prompts: Prompts, rng: Random, spec: Spec, origin: str) -> Example:
    """Request to the code of the tool it needs (SGTC's retrieval loss)."""
    query = world.tell(rng, (world.draw_use(rng, spec, "seed"),), "seed")
    asked = (Message(role="user", content=prompts.render("codes/retrieve", query=query)),)
    return _example("retrieve", origin, asked, placeholder(tool_id(world.document(spec))))


def _example(kind: ExampleKind, origin: str, asked: tuple[Message, ...], answer: str) -> Example:
    messages = (*asked, Message(role="assistant", content=answer))
    return Example(kind=kind, messages=messages, origin=origin)


def catalogue_tools() -> list[Tool]:
    """The initial tool pool as records."""
    return [_to_tool(spec) for spec in world.catalogue_specs()]


def _to_tool(spec: Spec) -> Tool:
    found = world.document(spec)
    return Tool(id=tool_id(found), document=found)


def seed_examples(rng: Random, prompts: Prompts, split: SeedSplit = "seed") -> Iterator[Example]:
    """Endless examples of kinds gen, adapt and invoke."""
    for number in count():
        category, share = rng.choice(world.CATEGORIES), rng.random()
        origin = f"seed/{number}"
        if share < GEN_SHARE:
            item = draw_item(rng, split, category, split, catalogue=False)
            yield make_gen(prompts, rng, item, origin)
        elif share < GEN_SHARE + ADAPT_SHARE:
            item = draw_item(rng, split, "simple", split, catalogue=False)
            yield make_adapt(prompts, item, origin)
        else:
            catalogue = rng.random() < CATALOGUE_SHARE
            item = draw_item(rng, split, category, split, catalogue=catalogue)
            yield make_invoke(prompts, item, origin)


def coded_examples(
    rng: Random, prompts: Prompts, specs: Sequence[Spec], split: SeedSplit
) -> Iterator[Example]:
    """Endless examples of all five kinds; code and retrieve are about the given tools."""
    for example in seed_examples(rng, prompts, split):
        share, spec = rng.random(), rng.choice(specs)
        if share < CODE_SHARE:
            yield make_code(prompts, _to_tool(spec), example.origin)
        elif share < 2 * CODE_SHARE:
            yield make_retrieve(prompts, rng, spec, example.origin)
        else:
            yield example
