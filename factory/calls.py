"""Query and tools to n sampled calls: the invocation prompt (ToolDev Fig. 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from factory.canon import derive_seed
from factory.prompts import Prompts
from factory.recipe import Recipe
from factory.records import Constraint, Message, Query, Request, Sampling, Tool


def invocation_messages(
    query: str, documents: Sequence[dict[str, Any]], prompts: Prompts
) -> tuple[Message, ...]:
    """The chat that asks for calls (P-INVOKE); `results` are not shown (Fig. 5)."""
    shown = [
        {"name": d["name"], "description": d.get("description", ""), "arguments": d["arguments"]}
        for d in documents
    ]
    return (
        Message(role="system", content=prompts.render("calls/system", tools=shown)),
        Message(role="user", content=prompts.render("calls/invoke", query=query)),
    )


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
