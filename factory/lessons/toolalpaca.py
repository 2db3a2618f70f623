"""ToolAlpaca: one row is an API, with its OpenAPI text, its requests and the actions that answer.

A row becomes rows of its own, a document each and a request each, so that one that cannot be read
takes nothing with it. `Golden_Answers` are calls; the `Instances` of the training file are
conversations, whose actions rest on what the ones before returned.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from factory.domain.canon import to_json
from factory.domain.jsontext import JsonTextError, parse_strict, show
from factory.domain.records import Call
from factory.lessons.conversations import read_documents, read_lesson
from factory.lessons.records import Lesson, LessonRow, Utterance
from factory.tools.containers import Found
from factory.tools.openapi import OpenApi, is_openapi
from factory.tools.sources import request_text

_UNKNOWN = re.compile(r"\$\{|\"\{[^\"{}]+\}\"")
"""A value that an earlier action returns, or none: ${animeId from searchAnime}, "{start date}"."""


def is_api(value: object) -> bool:
    """Whether a row is an API of ToolAlpaca with its requests."""
    return isinstance(value, dict) and {"Documentation", "Instructions"} <= value.keys()


def split_api(row: LessonRow) -> Iterator[LessonRow]:
    """A row for each document of the API and for each of its requests, which names them all.

    Raises ValueError where the API's description cannot be read, or no request has an answer; what
    can be read comes before.
    """
    operations = list(_operations(row.value))
    functions = [found.document for found in operations if found.document]
    for function in functions:
        yield LessonRow(where=f"{row.where} {function['name']}", value=function)
    instances = row.value.get("Instances")
    asked, answers = row.value["Instructions"], row.value.get("Golden_Answers")
    if answers is None and (instances or not asked):
        given = list(instances or ())
    elif answers is None:
        raise ValueError(f"its {len(asked)} requests have no Golden_Answers, and no Instances")
    elif len(asked) != len(answers):
        raise ValueError(f"{len(asked)} requests and {len(answers)} answers")
    else:
        pairs = zip(asked, answers, strict=True)
        given = [{"input": query, "actions": actions} for query, actions in pairs]
    for number, request in enumerate(given, 1):
        value = {"request": request, "functions": functions}
        yield LessonRow(where=f"{row.where} request {number}", value=value)
    if broken := [f"{found.place}: {found.cause}" for found in operations if found.cause]:
        raise ValueError("; ".join(broken))


def is_request(row: Mapping[str, Any]) -> bool:
    """Whether a row is one request of `split_api`."""
    return "functions" in row and isinstance(row.get("request"), dict)


def read_request(row: Mapping[str, Any], where: str) -> Iterator[Lesson]:
    """One request of `split_api`."""
    request, documents = row["request"], read_documents(row["functions"])
    if "intermediate_steps" in request:
        yield read_lesson(list(_read_turns(request)), documents, where)
        return
    calls = tuple(_read_action(each["Action"], each["Action_Input"]) for each in request["actions"])
    if not calls:
        raise ValueError("no action answers the request")
    names = tuple(dict.fromkeys(call.name for call in calls))
    query = request_text(request["input"])
    yield Lesson(where=where, query=query, documents=documents, names=names, calls=calls)


def _read_turns(instance: Mapping[str, Any]) -> Iterator[Utterance]:
    """An instance's steps, [[name, input, log], observation], and what is said in the end."""
    yield Utterance(speaker="user", text=str(instance["input"]), number=1)
    number = 1
    for (name, given, *_), observation in instance["intermediate_steps"]:
        call = _read_action(name, given)
        yield Utterance(speaker="assistant", text="", calls=(call,), number=number + 1)
        yield Utterance(speaker="tool", text=str(observation), number=number + 2)
        number += 2
    yield Utterance(speaker="assistant", text=str(instance["output"]).strip(), number=number + 1)


def _read_action(name: Any, given: Any) -> Call:
    if _UNKNOWN.search(given if isinstance(given, str) else to_json(given)):
        raise ValueError(f"{show(name)} takes a value that is not known yet: {show(given)}")
    try:
        arguments = parse_strict(given) if isinstance(given, str) else given
    except JsonTextError as error:
        raise ValueError(f"the input of {show(name)} is no JSON: {show(given)}") from error
    if not isinstance(arguments, dict):
        raise ValueError(f"the input of {show(name)} is {show(given)}, not an object")
    return Call(name=str(name), arguments=arguments)


def _operations(api: Mapping[str, Any]) -> Iterator[Found]:
    """The operations of the API's OpenAPI text, by the names that its actions use."""
    text = api["Documentation"]
    spec = parse_strict(text) if isinstance(text, str) else text
    if not is_openapi(spec):
        raise ValueError("its Documentation is no OpenAPI")
    projected = api.get("Function_Projection") or {}
    names = {f"{method.upper()} {path}": name for name, (path, method) in projected.items()}
    for found in OpenApi(spec).tools(deprecated=True):
        if found.document and found.place in names:
            found = replace(found, document=found.document | {"name": names[found.place]})
        yield found
