"""The messages that ask for tools and for calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from factory.domain.records import Message
from factory.workspace.prompts import Prompts


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


def generation_messages(query: str, prompts: Prompts) -> tuple[Message, ...]:
    """The chat that asks for tools that solve `query` (P-GEN)."""
    return (
        Message(role="system", content=prompts.render("tools/system")),
        Message(role="user", content=prompts.render("tools/generate", query=query)),
    )
