"""The child of factory.engines.native: renders calls by a tokenizer's chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from factory.engines.child import Channel, run_child
from factory.engines.trainable_child import without_torch

with without_torch():
    from factory.engines.chat import load_tokenizer

_ASKED = {"role": "user", "content": "How will the weather be?"}
_PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
_WEATHER = {"name": "get_weather", "description": "Weather.", "parameters": _PARAMETERS}
_TOOLS = [{"type": "function", "function": _WEATHER}]


def main(channel: Channel, arguments: list[str]) -> None:
    """Answer the one question: a model's folder, and kinds of calls as [name, arguments]."""
    if (told := channel.receive()) is None:
        return
    tokenizer = load_tokenizer(Path(told["folder"]))
    channel.send(
        {"texts": {name: write_calls(tokenizer, calls) for name, calls in told["kinds"].items()}}
    )


def write_calls(tokenizer: Any, calls: list[tuple[str, dict[str, Any]]]) -> str:
    """What the template writes between its generation prompt and the end of an answer that calls.

    Ids of nine letters are what Mistral's templates ask for.
    """
    called = [
        {
            "id": f"call0000{number}",
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }
        for number, (name, arguments) in enumerate(calls)
    ]
    answer = {"role": "assistant", "content": "", "tool_calls": called}
    try:
        asked = _render(tokenizer, [_ASKED], answer_next=True)
        text = _render(tokenizer, [_ASKED, answer], answer_next=False)
    except (TemplateError, TypeError, ValueError):
        return ""
    start = len(asked) if text.startswith(asked) else len(_common(asked, text))
    written = text[start:].rstrip()
    for end in sorted(tokenizer.all_special_tokens, key=len, reverse=True):
        written = written.removesuffix(end).rstrip()
    return written if calls[0][0] in written else ""


def _render(tokenizer: Any, chat: list[dict[str, Any]], *, answer_next: bool) -> str:
    return str(
        tokenizer.apply_chat_template(
            chat, tools=_TOOLS, add_generation_prompt=answer_next, tokenize=False
        )
    )


def _common(one: str, other: str) -> str:
    """What both begin with."""
    pairs = zip(one, other, strict=False)
    length = next((place for place, (a, b) in enumerate(pairs) if a != b), len(one))
    return one[:length]


if __name__ == "__main__":
    run_child(main)
