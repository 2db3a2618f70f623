"""The agent's chat, turn by turn: what it is asked, and what its answers mean (algorithms §3.4).

The agent and the examples that it is trained on make their turns here, from the same templates, so
that a trained text is the prompt that the agent will see.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from factory.domain.jsontext import parse_strict
from factory.domain.records import Message
from factory.score.toolbench.data import ApiKey, environment_name
from factory.score.toolbench.virtual import to_response
from factory.workspace.prompts import Prompts

MAX_TURNS = 16
"""Steps of an attempt (§3.4)."""
MAX_RESPONSE = 1024
"""Characters of an API's response that the agent sees (§3.4)."""
EXCUSES = ("i'm sorry", "i’m sorry", "apologize")
"""In a final answer they count as giving up (§3.4)."""
FINISH = ApiKey("", "Finish")
"""The action that ends a trajectory."""
FINISH_DOCUMENT: Mapping[str, Any] = {
    "name": "Finish",
    "description": "Ends the task: with an answer for the user, or by giving up to start again.",
    "required": [
        {
            "name": "return_type",
            "type": "string",
            "description": "give_answer or give_up_and_restart",
        }
    ],
    "optional": [
        {
            "name": "final_answer",
            "type": "string",
            "description": "What the user is told, whole; needed with give_answer",
        }
    ],
}
FINISH_TOOL: Mapping[str, Any] = {
    "name": "Finish",
    "arguments": {
        "type": "dict",
        "properties": {
            "return_type": {"type": "string", "enum": ["give_answer", "give_up_and_restart"]},
            "final_answer": {"type": "string"},
        },
        "required": ["return_type"],
    },
}
"""What FINISH_DOCUMENT says, as a tool's document."""


@dataclass(frozen=True, slots=True)
class Turns:
    """The agent's prompts. Example: Turns(Prompts(workspace, TEMPLATES)).ask_action()."""

    templates: Prompts

    def open(self, query: str, listing: Sequence[str]) -> tuple[Message, ...]:
        """How an attempt begins; `listing` are the names of the tools, none where codes do."""
        system = self.templates.render("agent", tools=list(listing))
        return Message(role="system", content=system), Message(role="user", content=query)

    def ask_action(self) -> Message:
        return Message(role="user", content=self.templates.render("action"))

    def ask_input(self, documentation: Mapping[str, Any]) -> Message:
        text = self.templates.render("input", documentation=documentation)
        return Message(role="user", content=text)


TEMPLATES = "eval/toolbench"
"""Where the agent's prompts are."""
TURNS_VERSION = 2
"""Count it up where an equal request could be asked otherwise: scores of another version are made
again. 2 documents a tool as training does, in the factory's own dialect."""


def gt_head(names: Sequence[str]) -> str:
    """How the first thought begins where the tools at hand are named (§3.4)."""
    return f"I am using one of the following tools: [{', '.join(names)}]. " if names else ""


_HEAD = re.compile(r"I am using one of the following tools: \[[^\]]*\]\. ?")


def without_head(thought: str) -> str:
    """A thought without that beginning, which the agent is given and does not write."""
    return _HEAD.sub("", thought, count=1) if _HEAD.match(thought) else thought


def action_name(key: ApiKey) -> str:
    """What an agent without codes calls an API, or FINISH."""
    return environment_name(key) if key.tool else key.api


def documentation_of(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Name, description, required and optional parameters of a tool document (§3.4)."""
    arguments = document["arguments"]
    properties, required = arguments["properties"], arguments.get("required", [])
    parts = {name: {"name": name, **schema} for name, schema in properties.items()}
    return {
        "name": document["name"],
        "description": document.get("description", ""),
        "required": [part for name, part in parts.items() if name in required],
        "optional": [part for name, part in parts.items() if name not in required],
    }


def key_of(document: Mapping[str, Any]) -> ApiKey:
    """Whose API a tool document is; one's own tools belong to nobody."""
    return ApiKey(str(document.get("tool_name", "")), str(document["name"]))


def shown_response(text: str) -> str:
    """A recorded response as the agent sees it: {error, response}, its first characters.

    One that was cut when it was recorded, as ToolBench's are, ends where it was cut.
    """
    for whole, closing in ((text, ""), (_DANGLING.sub("", text), _CLOSING)):
        try:
            value = json.loads(whole + closing)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and {"error", "response"} <= value.keys():
            return to_response(value, "cache").text.removesuffix(closing)[:MAX_RESPONSE]
    was_cut = text.startswith('{"error": ')
    return (text if was_cut else to_response({"response": text}, "cache").text)[:MAX_RESPONSE]


_CLOSING = '"}'
_DANGLING = re.compile(r"(?:\\(?:u[0-9a-f]{0,3})?)?(?:\.\.\.)?\Z", re.IGNORECASE)
"""What ToolBench writes where it cuts, and an escape that it cuts in two."""


class Ending(NamedTuple):
    """What an input of Finish says."""

    return_type: str
    final_answer: str
    reason: str
    """Empty where the user is told something; gave_up, or finish_json."""


def read_ending(text: str) -> Ending:
    """How an attempt ends that calls Finish with this input."""
    try:
        arguments = parse_strict(text)
        return_type = str(arguments["return_type"])
        answer = str(arguments.get("final_answer", ""))
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return Ending("", "", "finish_json")
    excuse = any(excuse in answer.lower() for excuse in EXCUSES)
    gave_up = return_type != "give_answer" or excuse
    return Ending(return_type, answer, "gave_up" if gave_up else "")


def is_repeat(text: str, others: Sequence[str]) -> bool:
    """Whether an input was given before, blanks aside."""
    return "".join(text.split()) in ("".join(each.split()) for each in others)
