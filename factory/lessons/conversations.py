"""Conversations of every notation as turns, and what is asked, called and answered in one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any

from factory.domain.canon import to_json
from factory.domain.jsontext import parse_strict, show
from factory.domain.records import Call
from factory.lessons.records import PARTS, Document, Lesson, Part, Speaker, Utterance
from factory.lessons.steps import is_finish, make_trajectory
from factory.score.calls.decode import decode
from factory.tools.dialects import read_dialect
from factory.tools.sources import request_text

ROLES: Mapping[str, Speaker] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "function_call"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "function_response"), "tool"),
}
"""Words of OpenAI, ShareGPT, LlamaFactory and Hermes."""
MAX_SHARED = 65_536
"""Characters of a row's tools that are looked up among those of the last rows."""


def read_turns(messages: object) -> list[Utterance]:
    """The turns of a list of messages; what an assistant thinks before it calls is one with it.

    Where some message keeps its calls apart, as OpenAI does, no text is searched for calls. Raises
    ValueError with the message's place.
    """
    if not isinstance(messages, list) or not messages:
        raise ValueError("the conversation is no list of messages")
    apart = any(isinstance(each, dict) and _listed_calls(each) for each in messages)
    turns: list[Utterance] = []
    for number, message in enumerate(_in_order(messages), 1):
        turn = _read_turn(message, number, apart)
        if turns and _thinks(turns[-1]) and turn.speaker == "assistant" and turn.calls:
            thought = turns.pop()
            text = "\n".join(filter(None, (thought.text, turn.text)))
            turn = replace(turn, text=text, loss=thought.loss and turn.loss)
        turns.append(turn)
    return turns


def _thinks(turn: Utterance) -> bool:
    return turn.speaker == "assistant" and not turn.calls


def _listed_calls(message: Mapping[str, Any]) -> Any:
    return message.get("tool_calls") or message.get("function_call")


def call_ids(message: object) -> list[object]:
    """The ids of the calls that a message lists, None for one without."""
    listed = message.get("tool_calls") if isinstance(message, dict) else None
    calls = listed if isinstance(listed, list) else []
    return [call.get("id") if isinstance(call, dict) else None for call in calls]


def answered_call(message: object, ids: Sequence[object]) -> int:
    """Which of the calls with these ids a message says to answer: its place, or -1."""
    named = message.get("tool_call_id") if isinstance(message, dict) else None
    return ids.index(named) if named is not None and named in ids else -1


def _in_order(messages: Sequence[Any]) -> list[Any]:
    """Responses that name the calls they answer, in the order of these."""
    ordered: list[Any] = []
    answers: list[Any] = []
    ids: list[object] = []
    for message in messages:
        if answered_call(message, ids) >= 0:
            answers.append(message)
            continue
        ordered += [*sorted(answers, key=partial(answered_call, ids=ids)), message]
        answers, ids = [], call_ids(message)
    return ordered + sorted(answers, key=partial(answered_call, ids=ids))


def _read_turn(message: object, number: int, apart: bool) -> Utterance:
    if not isinstance(message, dict):
        raise ValueError(f"message {number} is a {type(message).__name__}, not an object")
    word = str(message.get("role", message.get("from")))
    if word not in ROLES:
        raise ValueError(f"message {number} has the unknown role {show(word)}")
    text = _read_text(message.get("content", message.get("value")), number)
    turn = Utterance(speaker=ROLES[word], text=text, number=number)
    if turn.speaker != "assistant":
        return turn
    turn = replace(
        turn,
        loss=message.get("loss", True) is not False and message.get("weight") != 0,
        silent=_read_silent(message.get("silent") or (), number),
    )
    try:
        if (listed := _listed_calls(message)) and (calls := read_calls(listed)):
            return replace(turn, calls=calls)
        if word == "function_call":
            thought, text = split_thought(text)
            return replace(turn, text=thought, calls=read_calls(text))
        calls, said = ((), text) if apart else read_answer(text)
    except ValueError as error:
        raise ValueError(f"message {number}: {error}") from error
    return replace(turn, text=said, calls=calls)


def _read_silent(names: object, number: int) -> frozenset[Part]:
    """Parts of an agent's turn without loss, as `factory export` writes them."""
    listed = names if isinstance(names, list | tuple) else [names]
    if unknown := [name for name in listed if name not in PARTS]:
        raise ValueError(f"message {number} has {show(unknown[0])}, no part of a turn, as silent")
    return frozenset(part for part in PARTS if part in listed)


_THOUGHT = re.compile(r"<think>\n(.*?)\n</think>\n\n(.*)", re.DOTALL)


def split_thought(text: str) -> tuple[str, str]:
    """What LlamaFactory's `function_call` thinks before it calls, and its calls."""
    found = _THOUGHT.fullmatch(text)
    return (found[1].strip(), found[2]) if found else ("", text)


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
    try:
        given = _Given(text=to_json(value), value=value)
    except (TypeError, ValueError, RecursionError):  # nothing that JSON can write
        return _read_documents(value)
    return _read_again(given) if len(given.text) <= MAX_SHARED else _read_documents(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """Tools as a row has them, equal by their text."""

    text: str
    value: Any = field(compare=False)


@lru_cache(maxsize=64)
def _read_again(given: _Given) -> tuple[Document, ...]:
    """Rows of a log have the same tools over and over: they are read once, and share them."""
    return _read_documents(given.value)


def _read_documents(value: Any) -> tuple[Document, ...]:
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


def read_lesson(
    turns: Sequence[Utterance],
    documents: tuple[Document, ...],
    where: str,
) -> Lesson:
    """A conversation as a lesson: its first request with the answer, and all that follows.

    One that ends with a call of Finish is an agent's trajectory. Raises ValueError.
    """
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
    _check_order(said)
    if any(map(is_finish, said)):
        return make_trajectory(said, given, where)
    last = max(place for place, turn in enumerate(said) if turn.speaker == "assistant")
    called = [call.name for turn in said for call in turn.calls]
    return Lesson(
        where=where,
        query=request_text(request.text),
        documents=given,
        names=tuple(dict.fromkeys(called)),
        calls=answer.calls,
        answer="" if answer.calls else answer.text,
        turns=tuple(said[: last + 1]) if last > 1 or not answer.loss else (),
    )


def _check_order(turns: Sequence[Utterance]) -> None:
    """Raises ValueError for an order that no conversation has, and for an empty answer."""
    for before, turn in pairwise(turns):
        follows = f"message {turn.number} ({turn.speaker}) follows message {before.number}"
        is_answered = before.speaker == "assistant" and before.calls
        if turn.speaker == "tool" and not (before.speaker == "tool" or is_answered):
            raise ValueError(f"{follows}, which calls nothing")
        if turn.speaker == before.speaker != "tool":
            raise ValueError(f"{follows} ({before.speaker})")
        if turn.speaker == "assistant" and not turn.calls and not turn.text:
            raise ValueError(
                f"message {turn.number}: the answer is empty: it neither calls nor says anything"
            )
