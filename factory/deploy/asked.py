"""A request of OpenAI's chat API in the words in which our models are trained to be asked.

The chat that comes out is the one that a round samples with and a benchmark asks with, message for
message: a system message with the tools, the conversation, responses in turns of the user.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from factory.domain.failures import InputError
from factory.domain.records import Message
from factory.lessons.conversations import answered_call, call_ids, read_calls
from factory.lessons.examples import said_messages
from factory.lessons.records import Speaker, Utterance
from factory.tools.dialects import read_dialect
from factory.workspace.prompts import Prompts, invocation_messages, join_neighbours

Document = dict[str, Any]
Choice = Literal["unset", "none", "auto", "required", "named"]
SPEAKERS: dict[str, Speaker] = {
    **dict.fromkeys(("system", "developer"), "system"),
    "user": "user",
    "assistant": "assistant",
    **dict.fromkeys(("tool", "function"), "tool"),
}
"""Roles of the API."""
IN_TEXT = "<tools>"
"""In a system message: the request brings its tools in our own prompt already."""
FORMS = ("response_format", "structured_outputs")
"""Of a body: what binds an answer in words, by vLLM's own grammar."""
TEXT_PARTS = (None, "text", "input_text", "output_text")
"""Types of a content's part that is text and nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedChat:
    """The body of a `/chat/completions`, read. Example: read_asked({"messages": […]}).choice."""

    turns: tuple[Utterance, ...]
    """The conversation, without messages of the system."""
    rules: tuple[Message, ...]
    """What the system says, in order."""
    documents: tuple[Document, ...]
    """The tools on offer, in the factory's dialect."""
    choice: Choice
    """`tool_choice`."""
    named: str = ""
    """The tool that has to be called, where one is named."""
    strict: bool = False
    """Whether every tool is `strict`: a call, if there is one, keeps to its schema."""
    formed: bool = False
    """Whether words of a form are asked for (FORMS)."""

    @property
    def query(self) -> str:
        """What is asked for now; empty where the last turn is not the user's."""
        last = self.turns[-1]
        return last.text if last.speaker == "user" else ""

    @property
    def called(self) -> frozenset[str]:
        """Names that were called in the conversation so far."""
        return frozenset(call.name for turn in self.turns for call in turn.calls)

    @property
    def brings_text(self) -> bool:
        """Whether the tools stand in the text, as a benchmark of ours asks with `--prompt own`."""
        return any(IN_TEXT in message.content for message in self.rules)

    @property
    def bound(self) -> tuple[Document, ...]:
        """The tools whose schemas bind a call; none where nothing is bound."""
        if self.choice == "none":
            return ()
        if self.choice == "named":
            return tuple(each for each in self.documents if each["name"] == self.named)
        return self.documents if self.choice == "required" or self.strict else ()

    @property
    def is_open(self) -> bool:
        """Whether the answer may call a tool that the request does not bring."""
        if self.documents or self.brings_text or self.choice == "none":
            return False
        return not self.formed or self.choice in ("required", "named")

    @property
    def may_speak(self) -> bool:
        """Whether an answer in words will do where the tools bind."""
        return self.strict and self.choice in ("unset", "auto")


def read_asked(body: Mapping[str, Any]) -> AskedChat:
    """Raises InputError for what no model of ours can be asked."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InputError("messages: a list with one message or more is wanted")
    _check_more(body)
    turns, rules = list[Utterance](), list[Message]()
    for number, message in _in_order_of_calls(messages):
        turn = _read_message(message, f"messages[{number}]")
        if turn.speaker == "system":
            rules.append(Message(role="system", content=turn.text))
        else:
            turns.append(turn)
    if not turns:
        raise InputError("messages: nobody asks anything: a message of the role user is wanted")
    documents = _read_tools(body.get("tools"))
    choice, named = _read_choice(body.get("tool_choice"))
    if named and documents and named not in {each["name"] for each in documents}:
        raise InputError(f"tool_choice names {named!r}, which is none of the tools")
    return AskedChat(
        turns=tuple(turns),
        rules=tuple(rules),
        documents=documents,
        choice=choice,
        named=named,
        strict=bool(documents) and all(map(_is_strict, body["tools"])),
        formed=any(body.get(name) not in (None, {"type": "text"}) for name in FORMS),
    )


def own_chat(
    asked: AskedChat, documents: Sequence[Document], prompts: Prompts
) -> tuple[Message, ...]:
    """The chat that asks for calls of these tools; without any, the conversation alone."""
    said = said_messages(asked.turns, prompts)
    shown = invocation_messages("", documents, prompts)[:1] if documents else ()
    return join_neighbours([*shown, *asked.rules, *said])


def _check_more(body: Mapping[str, Any]) -> None:
    """What is added to and not only passed on."""
    ends, extra = body.get("stop_token_ids") or [], body.get("vllm_xargs") or {}
    if not isinstance(ends, list) or not all(type(each) is int for each in ends):
        raise InputError("stop_token_ids: a list of integers is wanted")
    if not isinstance(extra, dict):
        raise InputError("vllm_xargs: an object is wanted")


def _in_order_of_calls(messages: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """The messages with their places; responses that name the calls they answer, in the order of
    these, since that is how a chat has them. Raises InputError for one that names none that waits.
    """
    waiting: list[object] = []
    for are_responses, group in groupby(enumerate(messages), key=lambda each: _responds(each[1])):
        part = list(group)
        if not are_responses:
            waiting = [ident for _, message in part for ident in call_ids(message)] or waiting
        elif None in waiting or all(m.get("tool_call_id") is None for _, m in part):
            waiting = waiting[len(part) :]  # no ids on one side or the other
        elif waiting:
            called, waiting = waiting, [*waiting]
            for place, message in part:
                if (ident := message.get("tool_call_id")) not in waiting:
                    raise InputError(
                        f"messages[{place}].tool_call_id: {ident!r} is no call that waits for a "
                        f"response; one of {waiting} is wanted"
                    )
                waiting.remove(ident)
            part.sort(key=lambda each: answered_call(each[1], called))
            if waiting != called[len(part) :]:
                raise InputError(
                    f"messages[{part[0][0]}]: {waiting[0]!r} has no response, and a later call has"
                )
        yield from part


def _responds(message: object) -> bool:
    return isinstance(message, dict) and message.get("role") in ("tool", "function")


def _read_message(message: object, where: str) -> Utterance:
    role = message.get("role") if isinstance(message, dict) else message
    if not isinstance(message, dict) or not isinstance(role, str) or role not in SPEAKERS:
        raise InputError(f"{where}: {role!r} is no role; one of {', '.join(SPEAKERS)} is wanted")
    text = _read_text(message.get("content"), where)
    calls = message.get("tool_calls") or ()
    try:
        read = read_calls(calls) if calls else ()
    except ValueError as error:
        raise InputError(f"{where}.tool_calls: {error}") from error
    return Utterance(speaker=SPEAKERS[role], text=text, calls=read)


def _read_text(content: object, where: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    texts = []
    for part in content if isinstance(content, list) else [content]:
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        text = part.get("text") if isinstance(part, dict) else part
        if not isinstance(text, str) or (isinstance(part, dict) and kind not in TEXT_PARTS):
            raise InputError(f"{where} holds {kind!r}: this model is asked in text alone")
        texts.append(text)
    return "\n".join(texts)


def _read_tools(tools: object) -> tuple[Document, ...]:
    if tools is None:
        return ()
    if not isinstance(tools, list):
        raise InputError("tools: a list is wanted")
    documents: list[Document] = []
    for number, tool in enumerate(tools):
        try:
            documents += read_dialect(tool)
        except (ValueError, RecursionError) as error:
            raise InputError(f"tools[{number}] cannot be read: {error}") from error
    counts = Counter(str(document["name"]) for document in documents)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise InputError(
            f"tools: {twice[0]!r} is given {counts[twice[0]]} times, so a call of that name could "
            "be of either; give each tool a name of its own"
        )
    return tuple(documents)


def _is_strict(tool: object) -> bool:
    function = tool.get("function") if isinstance(tool, dict) else None
    return isinstance(function, dict) and function.get("strict") is True


def _read_choice(choice: object) -> tuple[Choice, str]:
    if choice is None:
        return "unset", ""
    if choice in ("none", "auto", "required"):
        return choice, ""
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise InputError(
            'tool_choice: "none", "auto", "required" or '
            '{"type": "function", "function": {"name": …}} is wanted'
        )
    return "named", name
