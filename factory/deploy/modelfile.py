"""Ollama's Modelfile: our prompt in Go's templates, between the marks of the model's own.

Ollama takes tools for known, and reads calls, where its template ranges over `.Tools` and writes
calls of earlier turns. It writes schemas its own way: a prompt there is not ours to the token.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from factory.workspace.prompts import Prompts

_SCHEMA = {"type": "dict", "properties": {}, "required": []}
_PROBES = [{"name": f"zq7{letter}", "description": "d", "arguments": _SCHEMA} for letter in "abc"]
_TOOL = (
    '{"name": {{ json .Function.Name }}, "description": {{ json .Function.Description }}, '
    '"arguments": {{ json .Function.Parameters }}}'
)


def make_modelfile(
    pieces: Mapping[str, str], ends: Iterable[str], weights: str, prompts: Prompts
) -> str:
    """The Modelfile of a GGUF file beside it.

    `pieces` are what the model's template writes around texts (factory.deploy.packing_child),
    `ends` the texts of the tokens that end an answer.
    """
    head, between, tail = _split(prompts)
    mark = {name: _text(piece) for name, piece in pieces.items()}
    tools = (
        f"{{{{- if .Tools }}}}{_text(head)}"
        f"{{{{ range $i, $_ := .Tools }}}}{{{{ if $i }}}}{_text(between)}{{{{ end }}}}{_TOOL}"
        f"{{{{ end }}}}{_text(tail)}{{{{ end }}}}"
        '{{ if and .Tools .System }}{{ "\\n\\n" }}{{ end }}{{ .System }}'
    )
    template = (
        f"{{{{- if or .System .Tools }}}}{mark['start']}{tools}{mark['user']}"
        f"{{{{ else }}}}{mark['alone']}{{{{ end }}}}"
        "{{ $first := true }}{{ range .Messages }}"
        '{{ if eq .Role "user" }}'
        f"{{{{ if not $first }}}}{mark['more']}{{{{ end }}}}{{{{ .Content }}}}"
        '{{ else if eq .Role "tool" }}'
        f'{mark["more"]}{{{{ "<tool_response>\\n" }}}}{{{{ .Content }}}}'
        '{{ "\\n</tool_response>" }}'
        '{{ else if eq .Role "assistant" }}'
        f"{mark['answer']}{{{{ .Content }}}}{{{{ range $i, $_ := .ToolCalls }}}}"
        '{{ if $i }}{{ "\\n" }}{{ end }}{{ "<tool_call>\\n" }}'
        '{"name": {{ json .Function.Name }}, "arguments": {{ json .Function.Arguments }}}'
        '{{ "\\n</tool_call>" }}{{ end }}{{ end }}'
        '{{ if ne .Role "system" }}{{ $first = false }}{{ end }}{{ end }}'
        f"{mark['next']}"
    )
    lines = [f"FROM ./{weights}", f'TEMPLATE """{template}"""']
    lines += [f"PARAMETER stop {json.dumps(end)}" for end in ends]
    return "\n".join(lines) + "\n"


def _split(prompts: Prompts) -> tuple[str, str, str]:
    """The prompt before its tools, between two of them, and after: told by three of a kind."""
    text = prompts.render("calls/system", tools=_PROBES)
    shown = [json.dumps(probe) for probe in _PROBES]
    head, _, rest = text.partition(shown[0])
    between, _, rest = rest.partition(shown[1])
    return head, between, rest.partition(shown[2])[2]


def _text(text: str) -> str:
    """A text as an action of a Go template that writes it, whatever is in it."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""
