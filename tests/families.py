"""Chat templates of model families with the tokens that they write, on the tokenizer of tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import trl
from conftest_models import make_tokenizer

TRL = Path(trl.__file__).parent / "chat_templates"
MISTRAL = """\
{{- bos_token }}
{%- for message in messages %}
{%- if message.role == 'user' %}
{%- if tools and (messages | selectattr('role', 'equalto', 'user') | list)[-1] == message %}
{{- '[AVAILABLE_TOOLS]' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}
{%- endif %}
{{- '[INST]' + message.content + '[/INST]' }}
{%- elif message.role == 'tool' %}
{{- '[TOOL_RESULTS]{"content": ' + (message.content | tojson) + ', "call_id": "' }}
{{- message.tool_call_id + '"}[/TOOL_RESULTS]' }}
{%- elif message.tool_calls %}
{{- '[TOOL_CALLS][' }}
{%- for call in message.tool_calls %}
{%- if call.id | length != 9 %}{{ raise_exception('ids have nine letters') }}{% endif %}
{{- '{"name": "' + call.function.name + '", "arguments": ' }}
{{- (call.function.arguments | tojson) + ', "id": "' + call.id + '"}' }}
{{- '' if loop.last else ', ' }}
{%- endfor %}
{{- ']' + eos_token }}
{%- elif message.role == 'assistant' %}
{{- message.content + eos_token }}
{%- else %}{{ raise_exception('no place for ' + message.role) }}
{%- endif %}
{%- endfor %}
"""
"""In the format of Mistral's third tokenizer: no place for a system message, calls in one list."""


class Family(NamedTuple):
    """A chat template, what of it are tokens, and the one that ends a turn."""

    template: str
    special: tuple[str, ...]
    end: str
    words: tuple[str, ...] = ()
    """Tokens that a model is to write, which are not flagged as special."""


def _read(name: str) -> str:
    return (TRL / f"{name}.jinja").read_text("utf-8")


def family(name: str) -> Family:
    """One of NAMES, or TAGGED."""
    if name == "mistral":
        marks = "[INST] [/INST] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_CALLS] [TOOL_RESULTS]"
        return Family(MISTRAL, ("<s>", *marks.split(), "[/TOOL_RESULTS]"), "</s>")
    if name == "llama":
        heads = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|python_tag|>")
        return Family(_read("llama3_1"), heads, "<|eot_id|>")
    tags = ("<tool_call>", "</tool_call>", "<think>", "</think>")
    template = _read("qwen3_8" if name == TAGGED else "qwen3")
    return Family(template, ("<|im_start|>",), "<|im_end|>", tags)


NAMES = ("qwen", "llama", "mistral")
TAGGED = "tagged"
"""Qwen's later template, which writes each argument between tags."""


def as_family(tokenizer: Any, name: str) -> Any:
    """The tokenizer with a family's template and tokens."""
    from tokenizers import AddedToken

    template, special, end, words = family(name)
    tokenizer.add_tokens([AddedToken(each, special=True) for each in (*special, end)])
    tokenizer.add_tokens([AddedToken(each, special=False) for each in words])
    tokenizer.eos_token = end
    tokenizer.bos_token = special[0] if name in ("llama", "mistral") else None
    tokenizer.chat_template = template
    return tokenizer


def family_tokenizer(name: str) -> Any:
    """The tests' tokenizer, dressed so."""
    return as_family(make_tokenizer(), name)
