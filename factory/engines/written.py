"""Calls as a tokenizer's chat template writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from factory.engines.turn import write_call

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ASKED = {"role": "user", "content": "How will the weather be?"}
_PLACE = {"city": {"type": "string"}, "zip": {"type": "array"}}
_TYPES: dict[str, Any] = {
    "city": {"type": "string"},
    "days": {"type": "integer"},
    "to": {"type": "object", "properties": _PLACE},
    "warm": {"type": "boolean"},
    "note": {"type": ["string", "null"]},
    "at": {"type": "number"},
}
"""Of the arguments of KINDS (factory.engines.native): parsers of values between tags go by them."""
_PARAMETERS = {"type": "object", "properties": _TYPES}
_WEATHER = {"name": "get_weather", "description": "Weather.", "parameters": _PARAMETERS}
TOOLS = [{"type": "function", "function": _WEATHER}]
"""What is on offer."""


def write_calls(
    tokenizer: PreTrainedTokenizerBase, calls: Sequence[tuple[str, dict[str, Any]]]
) -> str:
    """What the template writes between its generation prompt and the end of an answer that calls;
    empty where it leaves the calls out, or refuses them.
    """
    rendered = render_called(tokenizer, calls)
    if rendered is None:
        return ""
    asked, text = rendered
    start = len(asked) if text.startswith(asked) else len(_common(asked, text))
    written = text[start:].rstrip()
    for end in sorted(tokenizer.all_special_tokens, key=len, reverse=True):
        written = written.removesuffix(end).rstrip()
    return written if calls[0][0] in written else ""


def render_called(
    tokenizer: PreTrainedTokenizerBase, calls: Sequence[tuple[str, dict[str, Any]]]
) -> tuple[str, str] | None:
    """A prompt, and that with an answer that calls; None where the template refuses either."""
    called = [
        write_call(f"call{number:05d}", name, arguments)
        for number, (name, arguments) in enumerate(calls)
    ]
    answer = {"role": "assistant", "content": "", "tool_calls": called}
    try:
        return (
            _render(tokenizer, [_ASKED], answer_next=True),
            _render(tokenizer, [_ASKED, answer], answer_next=False),
        )
    except (TemplateError, TypeError, ValueError):
        return None


def _render(
    tokenizer: PreTrainedTokenizerBase, chat: list[dict[str, Any]], *, answer_next: bool
) -> str:
    return str(
        tokenizer.apply_chat_template(
            chat, tools=TOOLS, add_generation_prompt=answer_next, tokenize=False
        )
    )


def _common(one: str, other: str) -> str:
    """What both begin with."""
    pairs = zip(one, other, strict=False)
    length = next((place for place, (a, b) in enumerate(pairs) if a != b), len(one))
    return one[:length]
