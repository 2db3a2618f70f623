"""Query to tool documents: the generation prompt (ToolDev Fig. 7) and what it asks for."""

from __future__ import annotations

from factory.canon import derive_seed
from factory.prompts import Prompts
from factory.recipe import Recipe
from factory.records import Message, Query, Request, Sampling


def generation_messages(query: str, prompts: Prompts) -> tuple[Message, ...]:
    """The chat that asks for tools that solve `query` (P-GEN)."""
    return (
        Message(role="system", content=prompts.render("tools/system")),
        Message(role="user", content=prompts.render("tools/generate", query=query)),
    )


def tools_request(query: Query, round_number: int, recipe: Recipe, prompts: Prompts) -> Request:
    """One sample of candidate tools at the recipe's temperature (algorithms §1.4)."""
    return Request(
        id=f"{query.id}/tools",
        messages=generation_messages(query.text, prompts),
        sampling=Sampling(
            temperature=recipe.tools.temperature,
            max_tokens=recipe.tools.max_tokens,
            seed=derive_seed(recipe.seed, round_number, query.id, "tools"),
        ),
    )
