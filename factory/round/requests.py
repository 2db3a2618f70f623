"""One query's requests to the engine: its tool documents, then its calls."""

from __future__ import annotations

from collections.abc import Sequence

from factory.domain.canon import derive_seed
from factory.domain.records import Constraint, Query, Request, Sampling, Tool
from factory.workspace.messages import generation_messages, invocation_messages
from factory.workspace.prompts import Prompts
from factory.workspace.recipe import Recipe


def calls_request(
    query: Query, tools: Sequence[Tool], round_number: int, recipe: Recipe, prompts: Prompts
) -> Request:
    """n samples of calls by top-k sampling (algorithms §1.4, A4)."""
    calls = recipe.calls
    constraint = None
    if calls.constrain == "schema":
        constraint = Constraint(tools=tuple(tool.document for tool in tools), form="calls")
    return Request(
        id=f"{query.id}/calls",
        messages=invocation_messages(query.text, [tool.document for tool in tools], prompts),
        sampling=Sampling(
            n=calls.n,
            temperature=calls.temperature,
            top_k=calls.top_k,
            top_p=calls.top_p,
            max_tokens=calls.max_tokens,
            seed=derive_seed(recipe.seed, round_number, query.id, "calls"),
        ),
        constraint=constraint,
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
