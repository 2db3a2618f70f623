"""Conversations of every notation as turns, and the first exchange of one as a lesson."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from factory.domain.canon import to_json
from factory.domain.jsontext import parse_strict, show
from factory.domain.records import Call
from factory.lessons.records import Document, Lesson
from factory.score.calls.decode import decode
from factory.tools.dialects import read_dialect
from factory.tools.sources import request_text

Speaker = Literal["system", "user", "assistant", "tool"]
ROLES: Mapping[str, Speaker] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "function_call"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "function_response"), "tool"),
}
"""Words of OpenAI, ShareGPT, LlamaFactory and Hermes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """What one speaker says."""

    speaker: Speaker
    text: str
    calls: tuple[Call, ...] = ()
    """Those of the assistant."""


def read_turns(messages: object) -> list[Utterance]:
    """The turns of a list of messages. Raises ValueError with the message's place."""
    if not isinstance(messages, list) or not messages:
        raise ValueError("the conversation is no list of messages")
    return [_read_turn(message, number) for number, message in enumerate(messages, 1)]


def _read_turn(message: object, number: int) -> Utterance:
    if not isinstance(message, dict):
        raise ValueError(f"message {number} is a {type(message).__name__}, not an object")
    word = str(message.get("role", message.get("from")))
    if word not in ROLES:
        raise ValueError(f"message {number} has the unknown role {show(word)}")
    text = _read_text(message.get("content", message.get("value")), number)
    if ROLES[word] != "assistant":
        return Utterance(speaker=ROLES[word], text=text)
    listed = message.get("tool_calls") or message.get("function_call")
    if listed and (calls := read_calls(listed)):
        return Utterance(speaker="assistant", text=text, calls=calls)
    if word == "function_call":
        return Utterance(speaker="assistant", text="", calls=read_calls(text))
    try:
        calls, said = read_answer(text)
    except ValueError as error:
        raise ValueError(f"message {number}: {error}") from error
    return Utterance(speaker="assistant", text=said, calls=calls)


def _read_text(content: object, number: int) -> str:
    """A message's text: a text, OpenAI's list of parts, or nothing."""
    if content is None:
        return ""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "\n".join(part for part in parts if isinstance(part, str))
    if not isinstance(content, str):
        raise ValueError(f"message {number} holds a {type(content).__name__}, not a text")
    return content.strip()


def read_answer(text: str) -> tuple[tuple[Call, ...], str]:
    """The calls of an answer in any syntax, or what it says instead. Raises ValueError."""
    parsed = decode(text, "auto")
    if parsed.calls is None:
        raise ValueError(f"its answer has a call that cannot be read: {parsed.message}")
    return parsed.calls, "" if parsed.calls else text


def read_calls(value: object) -> tuple[Call, ...]:
    """Calls of {name, arguments} objects, OpenAI's wrapper around them, or JSON text of these.

    Arguments are an object or its JSON text. Raises ValueError.
    """
    text = value if isinstance(value, str) else to_json(value)
    parsed = decode(text, "json")
    if parsed.calls is None:
        raise ValueError(f"its calls cannot be read: {parsed.message}")
    if not parsed.calls and text.strip() not in ("", "[]", "null"):
        raise ValueError(f"its calls cannot be read: {show(text)} is no list of calls")
    return parsed.calls


def read_documents(value: object) -> tuple[Document, ...]:
    """Tool documents of any dialect, alone or in a list, or as JSON text. Raises ValueError.

    Bounded as a model's are: no NaN, at most 64 levels deep.
    """
    if isinstance(value, str):
        value = parse_strict(value) if value.strip() else []
    if value is None:
        return ()
    listed = value if isinstance(value, list) else [value]
    documents = tuple(document for each in listed for document in read_dialect(each))
    for document in documents:
        parse_strict(to_json(document))
    return documents


def find_documents(text: str) -> tuple[Document, ...]:
    """Tool documents in the text of a system message, wherever they begin (Hermes, ToolACE)."""
    found: list[Document] = []
    for value in _find_json(text):
        for each in value if isinstance(value, list) else [value]:
            try:
                found += read_documents(each)
            except ValueError:
                continue  # the form of a call, or an example of an answer
    return tuple(found)


_DECODER = json.JSONDecoder()


def _find_json(text: str) -> Iterator[Any]:
    """Objects, and lists of objects, that stand in a text one after the other."""
    position = 0
    while True:
        starts = [at for mark in "{[" if (at := text.find(mark, position)) >= 0]
        if not starts:
            return
        try:
            value, position = _DECODER.raw_decode(text, min(starts))
        except (ValueError, RecursionError):
            position = min(starts) + 1
            continue
        if isinstance(value, dict) or (value and all(isinstance(each, dict) for each in value)):
            yield value


def first_exchange(
    turns: Sequence[Utterance],
    documents: tuple[Document, ...],
    where: str,
    names: tuple[str, ...] = (),
) -> Lesson:
    """A conversation's first request with its answer. Raises ValueError."""
    system = [turn.text for turn in turns if turn.speaker == "system"]
    said = [turn for turn in turns if turn.speaker != "system"]
    speakers = [turn.speaker for turn in said[:2]]
    if speakers != ["user", "assistant"]:
        order = ", ".join(speakers) or "nobody"
        raise ValueError(f"it begins with {order}: a request and its answer are wanted")
    request, answer = said[:2]
    given = documents or find_documents("\n".join(system))
    if not given and not answer.calls:
        raise ValueError("it has neither tools nor calls")
    if not answer.calls and not answer.text:
        raise ValueError("the answer is empty: it neither calls nor says anything")
    return Lesson(
        where=where,
        query=request_text(request.text),
        documents=given,
        names=names or tuple(dict.fromkeys(call.name for call in answer.calls)),
        calls=answer.calls,
        answer=answer.text,
        turns_left=len(said) - 2,
    )
