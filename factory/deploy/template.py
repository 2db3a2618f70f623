"""A chat template that asks for calls in our own prompt, for servers that know nothing of ours.

It is the model's own template with a head before it, which makes of `messages` and `tools` the chat
that a model was trained on: tools in the system's message, calls in their tags, responses in a turn
of the user. What it cannot do is marking control tokens in others' texts, and spelling types other
than by their words: a schema that is plain JSON Schema is shown as in rounds.
"""

from __future__ import annotations

import re
from pathlib import Path

TYPES = (("object", "dict"), ("number", "float"))
"""JSON Schema's words that our documents spell otherwise."""
_SPELT = "".join(f""" | replace('"type": "{word}"', '"type": "{ours}"')""" for word, ours in TYPES)
HEAD, FIT = (Path(__file__).with_name(f"tools_{name}.j2") for name in ("head", "fit"))
"""What stands before the model's own template; and the part of that for a template without a place
for the system's message (factory.engines.turn.fit_roles)."""


def own_template(original: str, system: str, invoke: str, *, knows_system: bool) -> str:
    """The model's template with our head.

    Args:
        original: of the model.
        system: source of prompts/calls/system.j2, which sees `tools`.
        invoke: source of prompts/calls/invoke.j2, which sees `query`.
        knows_system: whether the original has a place for a system message.
    """
    parts = {
        "SYSTEM": embedded(system),
        "INVOKE": embedded(invoke),
        "FIT": "" if knows_system else FIT.read_text("utf-8"),
    }
    head = HEAD.read_text("utf-8").removesuffix("\n")
    places = re.compile(r"\b(?:SYSTEM|INVOKE)\b|^FIT", re.MULTILINE)
    return places.sub(lambda hit: parts[hit[0]], head) + original


def embedded(source: str) -> str:
    """A prompt's source inside a template of transformers: blanks at its ends stay, `json` is
    written by `tojson` in our words for types.
    """
    text = re.sub(r"\|\s*json\b", lambda _: "| tojson" + _SPELT, source.removesuffix("\n"))
    return "{{- '' }}" + text + "{{ '' -}}"
