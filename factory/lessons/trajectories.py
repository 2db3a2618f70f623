"""Readers of agents' trajectories: each format as the steps that our own agent takes.

answer tree   ToolBench's answer/G?_answer/ID_….json: the path that its search ended with
toolllama     {id, conversations} with Thought, Action and Action Input in one text
toolgen       {conversations: [{role, content, loss}]}: thought, token and input in turns of own
transcripts   {request: {query, answer: {answer_details}}}: `factory score NAME --save`, and what
              StableToolBench's converters write
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from factory.domain.canon import to_json
from factory.domain.jsontext import JsonTextError, parse_strict, show
from factory.domain.records import Call
from factory.lessons.conversations import read_documents, read_turns
from factory.lessons.records import Document, Fault, Lesson, LessonStep, Part, Utterance
from factory.lessons.steps import is_retry, lesson_of, make_trajectory
from factory.score.asking import parse_text
from factory.score.toolbench.turns import FINISH, without_head
from factory.tools.sources import request_text

Row = Mapping[str, Any]

# ToolBench's answer trees -----------------------------------------------------------------


def read_tree(row: Row, where: str) -> Iterator[Lesson]:
    """The path that the search ended with; the branches that it gave up are not taught."""
    made = row["answer_generation"]
    documents = read_documents(made["function"])
    paths = made.get("train_messages") or ()
    if not (paths and paths[-1]) or not made.get("valid_data", True):
        query, fault = request_text(made["query"]), "none of its branches ends with Finish"
        yield Lesson(where=where, query=query, fault=Fault(rule="row/unfinished", message=fault))
        return
    turns = [turn for turn in read_turns(paths[-1]) if not is_retry(turn)]
    asked, *rest = (turn for turn in turns if turn.speaker != "system")
    yield make_trajectory([replace(asked, text=made["query"]), *rest], documents, where)


# ToolLLaMA --------------------------------------------------------------------------------

_REACT = re.compile(
    r"(?P<thought>.*?)^Action:(?P<name>[^\n]*+)\n++Action Input:(?P<input>.*)",
    re.DOTALL | re.MULTILINE,
)
_THOUGHT = re.compile(r"^Thought:[ \t]*", re.MULTILINE)


def is_toolllama(row: Row) -> bool:
    """A chat of which an answer names its action in words."""
    return any(
        _role_of(each) == "assistant" and "\nAction Input:" in _text_of(each)
        for each in _messages(row)
    )


def read_toolllama(row: Row, where: str) -> Iterator[Lesson]:
    """A row is the path up to one of its steps: the longest of a request is taught."""
    turns: list[Utterance] = []
    documents: tuple[Document, ...] = ()
    for number, message in enumerate(_messages(row), 1):
        text, word = _text_of(message), _role_of(message)
        if word == "system":
            documents = documents or read_documents(_listed_functions(text))
        elif word == "assistant":
            turns.append(_read_react(text, number))
        else:
            turns += read_turns([{"role": word, "content": text}])
    numbered = [replace(turn, number=n) for n, turn in enumerate(turns, 1) if not is_retry(turn)]
    yield make_trajectory(numbered, documents, where)


def _read_react(text: str, number: int) -> Utterance:
    found = _REACT.fullmatch(text)
    if found is None:
        raise ValueError(f"message {number} has no Action with its Action Input: {show(text)}")
    call = _make_call(found["name"].strip(" \t"), found["input"], number)
    thought = _THOUGHT.sub("", found["thought"]).strip()
    return Utterance(speaker="assistant", text=thought, calls=(call,))


def _listed_functions(text: str) -> Any:
    """The list that ends a system message, as Python prints it."""
    for found in re.finditer(r"\[\{", text):
        if isinstance(listed := parse_text(text[found.start() :].strip()), list):
            return listed
    return None


# ToolGen ----------------------------------------------------------------------------------

_TOKEN = re.compile(r"<<(?P<name>[^<>]+)>>")
_ASKS_ACTION = re.compile(r"(?:please )?generate the action\.?", re.IGNORECASE)
_ASKS_INPUT = "Please give the input. Here is the documentation:"
_MEMORISED = "Tool Name:"


def is_toolgen(row: Row) -> bool:
    """A chat of which an answer is a tool's token."""
    return any(
        each.get("role") == "assistant" and _TOKEN.fullmatch(_text_of(each).strip())
        for each in _messages(row)
    )


def read_toolgen(row: Row, where: str) -> Iterator[Lesson]:
    """A request with the token of a tool that it needs, or a whole trajectory."""
    messages = [each for each in _messages(row) if each.get("role") != "system"]
    if not messages or messages[0].get("role") != "user":
        raise ValueError("it does not begin with a request")
    asked, *rest = messages
    token = _TOKEN.fullmatch(_text_of(rest[0]).strip()) if len(rest) == 1 else None
    if token is None or token["name"] == FINISH.api:
        steps, documents = _read_steps(rest)
        yield lesson_of(where, _text_of(asked), documents, steps)
    elif _text_of(asked).lstrip().startswith(_MEMORISED):
        raise ValueError(
            "it is a document to memorise, without its parameters: name the catalogue, corpus.tsv"
        )
    else:
        yield Lesson(where=where, query=request_text(_text_of(asked)), names=(token["name"],))


def _read_steps(messages: Sequence[Row]) -> tuple[list[LessonStep], tuple[Document, ...]]:
    """Turns as steps, with the tools whose documentation they show. Raises ValueError."""
    steps: list[LessonStep] = []
    documents: list[Document] = []
    thoughts: list[str] = []
    silent: set[Part] = set()
    name: str | None = None
    expects_action = False
    for number, message in enumerate(messages, 2):
        text, role = _text_of(message).strip(), message.get("role")
        token = _TOKEN.fullmatch(text)
        if text.startswith(_ASKS_INPUT):
            documents += _read_documentation(text.removeprefix(_ASKS_INPUT), name or "")
        elif role == "assistant":
            is_action = bool(token) or expects_action
            part: Part = "input" if name is not None else "action" if is_action else "thought"
            if message.get("loss", True) is False:
                silent.add(part)
            if part == "thought":
                thoughts.append(text)
            elif part == "action":
                name = token["name"] if token else text
            else:
                call, thought = _make_call(str(name), text, number), "\n".join(thoughts)
                steps.append(LessonStep(thought=thought, call=call, silent=frozenset(silent)))
                name, thoughts, silent = None, [], set()
            expects_action = False
        elif role == "user" and _ASKS_ACTION.fullmatch(text):
            expects_action = True
        elif is_retry(Utterance(speaker="user", text=text)):
            continue
        elif not steps or name is not None or thoughts or steps[-1].response:
            raise ValueError(f"message {number} ({role}) is no part of a step: {show(text)}")
        elif steps[-1].call.name != FINISH.api:
            steps[-1] = replace(steps[-1], response=text)
    return steps, tuple(documents)


def _read_documentation(text: str, name: str) -> tuple[Document, ...]:
    """The API that an input turn describes; none where it cannot be read, or is Finish's."""
    said = parse_text(text.strip())
    tool, mark, api = name.partition("&&")
    if not isinstance(said, dict) or not mark:
        return ()
    return read_documents(
        {
            "tool_name": tool,
            "api_name": api,
            "api_description": said.get("description"),
            "required_parameters": said.get("required") or [],
            "optional_parameters": said.get("optional") or [],
        }
    )


# Transcripts ------------------------------------------------------------------------------


def is_transcripts(row: Row) -> bool:
    """A file of converted answers, by request."""
    return bool(row) and all(
        isinstance(each, dict)
        and isinstance(each.get("answer"), dict)
        and "answer_details" in each["answer"]
        for each in row.values()
    )


def read_transcripts(row: Row, where: str) -> Iterator[Lesson]:
    """Each request's path to Finish. A question of a test, or one not solved, is not taught."""
    for request, each in row.items():
        place = f"{where} {request}"
        try:
            yield _read_transcript(each, place)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            fault = Fault(rule="row/unreadable", message=str(error))
            yield Lesson(where=place, query=str(each.get("query") or request), fault=fault)


def _read_transcript(row: Row, where: str) -> Lesson:
    thoughts: list[str] = []
    steps: list[LessonStep] = []
    for number, node in enumerate(_find_path(row["answer"]["answer_details"]), 1):
        if node["role"] == "assistant":
            thoughts.append(without_head(str(node["message"] or "").strip()))
        elif node["role"] == "tool":
            made = node["message"]
            made = parse_text(made) if isinstance(made, str) else made
            if not isinstance(made, dict) or "name" not in made:
                raise ValueError(f"node {number} is no call: {show(node['message'])}")
            call = _make_call(str(made["name"]), made.get("arguments"), number)
            thought = "\n".join(filter(None, thoughts))
            said = "" if call.name == FINISH.api else made.get("response") or ""
            response = said if isinstance(said, str) else to_json(said)
            steps.append(LessonStep(thought=thought, call=call, response=response))
            thoughts = []
    lesson = lesson_of(where, row["query"], read_documents(row.get("available_tools")), steps)
    if row.get("split") == "test":
        message = f"is a question of {row.get('benchmark')}, a test"
        return replace(lesson, fault=Fault(rule="round/eval_overlap", message=message))
    if row.get("solved") is False:
        fault = Fault(rule="row/unsolved", message="its judge did not find it solved")
        return replace(lesson, fault=lesson.fault or fault)
    return lesson


def _find_path(nodes: Sequence[Row]) -> list[Row]:
    """The first path that ends with an answer, else the first of all; parents first."""
    stack: list[list[Row]] = [[node] for node in reversed(nodes)]
    paths = []
    while stack:
        path = stack.pop()
        if following := path[-1].get("next"):
            stack += [[*path, node] for node in reversed(following)]
        else:
            paths.append(path)
    return next((path for path in paths if _answers(path[-1])), paths[0] if paths else [])


def _answers(node: Row) -> bool:
    text = str(node.get("message"))
    return FINISH.api in text and "give_up_and_restart" not in text


# Common -----------------------------------------------------------------------------------


def _messages(row: Row) -> Sequence[Row]:
    listed = row.get("conversations")
    return [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []


def _role_of(message: Row) -> str:
    return str(message.get("from", message.get("role")))


def _text_of(message: Row) -> str:
    text = message.get("value", message.get("content"))
    return text if isinstance(text, str) else ""


def _make_call(name: str, arguments: Any, number: int) -> Call:
    """A call whose arguments are an object or its text. Raises ValueError."""
    text = arguments if isinstance(arguments, str) else to_json(arguments or {})
    try:
        value = parse_strict(text.strip() or "{}")
    except JsonTextError as error:
        raise ValueError(f"message {number}: the input of {name} is no JSON: {error}") from error
    if not name or not isinstance(value, dict):
        raise ValueError(f"message {number}: {show(text)} is no input of a tool: {show(name)}")
    return Call(name=name, arguments=value)
