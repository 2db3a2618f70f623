"""Requests and replies as an engine's process and its parent read them from JSON lines.

What they write is `dataclasses.asdict` of either.
"""

from __future__ import annotations

from typing import Any

from factory.domain.records import Completion, Constraint, Message, Reply, Request, Sampling


def request_from_wire(wire: dict[str, Any]) -> Request:
    constraint = wire["constraint"] and {
        key: tuple(value) if key in ("only", "tools") else value
        for key, value in wire["constraint"].items()
    }
    return Request(
        id=wire["id"],
        sampling=Sampling(**wire["sampling"]),
        messages=tuple(Message.from_json(message) for message in wire["messages"]),
        prompt=wire["prompt"],
        constraint=Constraint(**constraint) if constraint else None,
        tools=tuple(wire["tools"]),
        logprob=wire["logprob"],
    )


def reply_from_wire(wire: dict[str, Any]) -> Reply:
    return Reply(
        request_id=wire["request_id"],
        completions=tuple(
            Completion(**{**completion, "token_ids": tuple(completion["token_ids"])})
            for completion in wire["completions"]
        ),
        num_prompt_tokens=wire["num_prompt_tokens"],
    )
