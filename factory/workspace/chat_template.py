"""Whether a chat template shows the tools that it is given: asked without a tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

from factory.domain.bounded import parse_json, read_text
from factory.domain.failures import ModelError
from factory.workspace.templates import BoundedEnvironment, Unbounded

Templates = str | Mapping[str, str] | None
"""A model's chat template, or its several by name, as transformers' tokenizers have them."""

_ASKED = ({"role": "user", "content": "Hello"},)
_LOOK = {
    "name": "look",
    "description": "Look.",
    "parameters": {"type": "object", "properties": {}, "required": []},
}
_TOOLS = ({"type": "function", "function": _LOOK},)


def read_templates(folder: Path) -> dict[str, str]:
    """The chat templates of a model folder by name; files win over the tokenizer's config."""
    files = {path.stem: path for path in folder.glob("additional_chat_templates/*.jinja")}
    if (path := folder / "chat_template.jinja").exists():
        files["default"] = path
    config = folder / "tokenizer_config.json"
    if files or not config.exists():
        return {name: read_text(path, error=ModelError) for name, path in files.items()}
    table = parse_json(read_text(config, error=ModelError), str(config), ModelError)
    inline = table.get("chat_template") or {}
    if isinstance(inline, str):
        return {"default": inline}
    if isinstance(inline, list):
        return {each["name"]: each["template"] for each in inline}
    return dict(inline)


def shows_tools(
    templates: Templates,
    messages: Sequence[Mapping[str, Any]] = _ASKED,
    tools: Sequence[Mapping[str, Any]] = _TOOLS,
    *,
    where: str = "",
) -> bool:
    """Whether the messages are rendered otherwise with the tools than without.

    What cannot be rendered here but names tools counts as showing them: the tokenizer will tell.
    Raises ModelError, which names `where`, for a template that takes too much time or memory.
    Example: shows_tools(read_templates(folder)).
    """
    named = {"default": templates} if isinstance(templates, str) else templates or {}
    text = named.get("tool_use", named.get("default", ""))
    if "tools" not in text:
        return False
    try:
        given, without = (
            _compile(text).render(messages=messages, tools=each, add_generation_prompt=True)
            for each in (list(tools), None)
        )
    except Unbounded as error:
        raise ModelError(
            f"The model's chat template {error}", where=where, remedy="use another chat template"
        ) from error
    except (TemplateError, TypeError, ValueError, LookupError, AttributeError):
        return True
    return given != without


class _Generation(Extension):
    """The tag by which templates mark what is generated; it writes nothing."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@lru_cache(maxsize=8)
def _compile(text: str) -> Template:
    """A template with what transformers lends one."""
    environment = BoundedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: form}
    return environment.from_string(text)


def _to_json(value: object, **options: Any) -> str:
    return json.dumps(value, **{"ensure_ascii": False} | options)


def _refuse(message: str) -> None:
    raise TemplateError(message)
