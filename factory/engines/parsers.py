"""vLLM's tool parsers, tried on calls as a model's chat template writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.tool_parsers.abstract_tool_parser import ToolParserManager

from factory.domain.jsontext import JsonTextError, parse_strict
from factory.engines.chat import load_tokenizer
from factory.engines.child import Channel, run_child
from factory.engines.written import TOOLS, write_calls

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PARSERS = (
    *("hermes", "llama3_json", "mistral", "qwen3_xml", "glm45", "deepseek_v3", "pythonic"),
    *("phi4_mini_json", "granite", "xlam", "internlm"),
)
"""Names for `--tool-call-parser`, the first that loses least is taken."""


def main(channel: Channel, arguments: list[str]) -> None:
    """Answer the one question: a model's folder, and kinds of calls as [name, arguments]."""
    if (told := channel.receive()) is not None:
        parser, lost = find_parser(load_tokenizer(Path(told["folder"])), told["kinds"])
        channel.send({"parser": parser, "lost": lost})


def find_parser(
    tokenizer: PreTrainedTokenizerBase, kinds: Mapping[str, Sequence[Any]]
) -> tuple[str, list[str]]:
    """The parser that reads most kinds of calls back, and the kinds that it loses; no name where
    none reads any. `kinds` are calls as [name, arguments].
    """
    written = {kind: write_calls(tokenizer, calls) for kind, calls in kinds.items()}
    best, least = "", [*kinds]
    for name in PARSERS:
        lost = [
            kind
            for kind, text in written.items()
            if _read(name, tokenizer, text) != [[*call] for call in kinds[kind]]
        ]
        if len(lost) < len(least):
            best, least = name, lost
        if not least:
            break
    return best, least


def _read(name: str, tokenizer: PreTrainedTokenizerBase, text: str) -> list[list[Any]] | None:
    """The calls that a parser finds; None where it is not for this tokenizer, or fails."""
    try:
        request = ChatCompletionRequest(
            model="model", messages=[{"role": "user", "content": "Hello"}], tools=TOOLS
        )
        parser = ToolParserManager.get_tool_parser(name)(tokenizer, request.tools)
        found = parser.extract_tool_calls(text, request)
        return [
            [call.function.name, parse_strict(call.function.arguments)] for call in found.tool_calls
        ]
    except (AttributeError, ImportError, JsonTextError, LookupError, RuntimeError, TypeError,
            ValueError):  # fmt: skip
        return None


if __name__ == "__main__":
    run_child(main)
