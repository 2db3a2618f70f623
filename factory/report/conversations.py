"""Whole conversations, and an agent's trajectories, as lines of each format.

`factory teach` keeps them (factory.lessons.keeping) and reads back what is written here. A thought
before a call is the content of its message; in ShareGPT it stands in LlamaFactory's <think> tags
before the calls, which are a message of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from factory.domain.canon import to_json
from factory.score.calls.decode import decode

Turn = Mapping[str, Any]
Line = dict[str, Any]
CLOSED = "\n</think>\n\n"
_SPEAKERS = {"user": "human", "assistant": "gpt", "tool": "observation"}


def _calls(turn: Turn) -> list[Line]:
    """A turn's calls, arguments as text."""
    return [
        {"name": call["name"], "arguments": to_json(call["arguments"])}
        for call in turn.get("calls", ())
    ]


def _learnt(turn: Turn) -> Line:
    """What says which parts of a turn are learnt, where not all are."""
    return {key: turn[key] for key in ("loss", "silent") if key in turn}


def to_trl(turns: Sequence[Turn]) -> Line:
    """`messages`; keys that say what is learnt are not TRL's, and are left alone by it."""
    return {"messages": [_message(turn) | _learnt(turn) for turn in turns]}


def _message(turn: Turn) -> Line:
    called = [{"type": "function", "function": call} for call in _calls(turn)]
    return {"role": turn["role"], "content": turn["content"], "tool_calls": called or None}


def to_openai(turns: Sequence[Turn]) -> Line:
    """`messages` as the API takes them. Raises ValueError for what it does not know."""
    messages: list[Line] = []
    waiting: list[str] = []
    count = 0
    for turn in turns:
        message: Line = {"role": turn["role"], "content": turn["content"]}
        if "silent" in turn:
            raise ValueError("a turn of which only a part is learnt")
        if called := _calls(turn):
            if waiting:
                raise ValueError("a call without a response")
            waiting = [f"call_{count + place}" for place in range(len(called))]
            count += len(called)
            message["tool_calls"] = [
                {"id": name, "type": "function", "function": call}
                for name, call in zip(waiting, called, strict=True)
            ]
        elif turn["role"] == "tool":
            if not waiting:
                raise ValueError("more responses than calls")
            message["tool_call_id"] = waiting.pop(0)
        elif waiting:
            raise ValueError("a call without a response")
        messages.append(message | ({"weight": 0} if "loss" in turn else {}))
    several = any(len(turn.get("calls", ())) > 1 for turn in turns)
    return {"messages": messages, "parallel_tool_calls": several}


def to_sharegpt(turns: Sequence[Turn]) -> Line:
    """`conversations`. Raises ValueError for a text that would be read as another turn."""
    return {"conversations": [_share(turn) | _learnt(turn) for turn in turns]}


def _share(turn: Turn) -> Line:
    text = turn["content"]
    called = [to_json(call) for call in turn.get("calls", ())]
    if not called:
        if turn["role"] == "assistant" and decode(text, "auto").calls != ():
            raise ValueError("an answer that says nothing but a call")
        return {"from": _SPEAKERS[turn["role"]], "value": text}
    value = called[0] if len(called) == 1 else f"[{', '.join(called)}]"
    if CLOSED in text + value:
        raise ValueError("a text that closes a thought")
    thought = f"<think>\n{text}{CLOSED}" if text else ""
    return {"from": "function_call", "value": thought + value}


BUILDERS: Mapping[str, Callable[[Sequence[Turn]], Line]] = {
    "trl": to_trl,
    "openai": to_openai,
    "sharegpt": to_sharegpt,
}
