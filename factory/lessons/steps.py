"""Trajectories: the steps of an agent, out of turns that call one tool after the other.

Only a path that our own agent could have gone is taught, as ToolLLM's data keep only those that
solve the request: it ends with Finish and an answer, repeats no call and takes no more steps than
an attempt has (algorithms §3.4).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from factory.domain.canon import to_json
from factory.domain.jsontext import show
from factory.domain.records import Call
from factory.lessons.records import PARTS, Document, Fault, Lesson, LessonStep, Utterance
from factory.score.toolbench.data import ApiKey, environment_name
from factory.score.toolbench.turns import (
    FINISH,
    MAX_TURNS,
    action_name,
    is_repeat,
    key_of,
    read_ending,
)
from factory.tools.sources import request_text

_BEGIN = "Begin!"
"""What ToolBench writes below a request."""
_AGAIN = "This is not the first time you try this task"
"""How ToolBench's search asks for another branch: our agent is never asked that."""


def is_retry(turn: Utterance) -> bool:
    """Whether a turn asks for another branch."""
    return turn.speaker == "user" and turn.text.lstrip().startswith(_AGAIN)


def is_finish(turn: Utterance) -> bool:
    """Whether a turn ends a trajectory."""
    return any(call.name == FINISH.api for call in turn.calls)


def make_trajectory(
    turns: Sequence[Utterance], documents: tuple[Document, ...], where: str
) -> Lesson:
    """The lesson of an agent's conversation: request, then calls and responses by turns.

    Raises ValueError where it is none.
    """
    said = [turn for turn in turns if turn.speaker != "system" and not is_retry(turn)]
    if not said or said[0].speaker != "user":
        raise ValueError("it does not begin with a request")
    steps: list[LessonStep] = []
    asked, *rest = said
    while rest:
        turn = rest.pop(0)
        if turn.speaker != "assistant":
            raise ValueError(f"message {turn.number} ({turn.speaker}) is no part of a step")
        if steps and steps[-1].call.name == FINISH.api:
            raise ValueError(f"message {turn.number}: it goes on after Finish")
        responses = []
        while rest and rest[0].speaker == "tool":
            responses.append(rest.pop(0).text)
        steps += _steps_of(turn, responses, is_last=not rest)
    return lesson_of(where, asked.text, documents, steps)


def _steps_of(turn: Utterance, responses: list[str], *, is_last: bool) -> list[LessonStep]:
    """One step a call; a turn's thought comes before its first."""
    wanted = sum(call.name != FINISH.api for call in turn.calls)
    if len(responses) < wanted and not is_last:
        raise ValueError(
            f"message {turn.number} makes {wanted} calls, {len(responses)} of them are answered"
        )
    silent = turn.silent if turn.loss else frozenset(PARTS)
    answers = iter(responses)
    return [
        LessonStep(
            thought="" if place else turn.text,
            call=call,
            response="" if call.name == FINISH.api else next(answers, ""),
            silent=silent,
        )
        for place, call in enumerate(turn.calls)
    ]


def lesson_of(
    where: str, query: str, documents: tuple[Document, ...], steps: Sequence[LessonStep]
) -> Lesson:
    """The lesson of a trajectory, with what keeps it from being taught. Raises ValueError."""
    text = request_text(query.strip().removesuffix(_BEGIN))
    names = dict.fromkeys(step.call.name for step in steps if step.call.name != FINISH.api)
    return Lesson(
        where=where,
        query=text,
        documents=tuple(_as_api(each) for each in documents if each["name"] != FINISH.api),
        names=tuple(names),
        steps=tuple(steps),
        fault=_find_fault(steps),
    )


_SUBFUNCTION = re.compile(
    r'This is the subfunction for tool "(?P<tool>.*?)", you can use this tool\.'
    r'(?:The description of this function is: "(?P<text>.*)"\s*)?',
    re.DOTALL,
)


def _as_api(document: Document) -> Document:
    """A function that ToolBench made of an API is that API again, by its standard names."""
    said = _SUBFUNCTION.fullmatch(str(document.get("description")))
    ending = f"_for_{said['tool']}" if said else ""
    if said is None or not document["name"].endswith(ending):
        return document
    schema = document["arguments"]
    api = document["name"].removesuffix(ending)
    if environment_name(ApiKey(said["tool"], api)) != document["name"]:
        return document  # cut to 64 characters: calls name it as it stands
    return {
        "name": api,
        "description": said["text"] or "",
        "arguments": {key: part for key, part in schema.items() if key != "optional"},
        "tool_name": said["tool"],
    }


def as_function(document: Mapping[str, Any]) -> dict[str, Any]:
    """An API as the function that ToolBench makes of it, which `_as_api` reads; parameters keep
    their names. Any other tool as it is.
    """
    key = key_of(document)
    if not key.tool:
        return dict(document)
    service = environment_name(key._replace(api="x")).removeprefix("x_for_")
    said = f'This is the subfunction for tool "{service}", you can use this tool.'
    if text := document.get("description"):
        said += f'The description of this function is: "{text}"'
    named = {"name": action_name(key), "description": said}
    return named | {"arguments": document["arguments"]}


def _find_fault(steps: Sequence[LessonStep]) -> Fault | None:
    """Why our agent would not end well on these steps; None where it would."""
    if not steps or steps[-1].call.name != FINISH.api:
        return Fault(rule="row/unfinished", message=f"no Finish after {len(steps)} steps")
    if any(step.call.name == FINISH.api for step in steps[:-1]):
        return Fault(rule="row/unfinished", message="it goes on after Finish")
    end = read_ending(to_json(steps[-1].call.arguments))
    if end.reason == "finish_json":
        message = f"Finish has no return_type in {show(steps[-1].call.arguments)}"
        return Fault(rule="row/unfinished", message=message)
    if end.reason:
        told = show(end.final_answer or end.return_type)
        return Fault(rule="row/gave_up", message=f"it gives up: {told}")
    if len(steps) > MAX_TURNS:
        message = f"{len(steps)} steps, the agent takes {MAX_TURNS} at most"
        return Fault(rule="row/too_many_steps", message=message)
    return _find_repeat([step.call for step in steps])


def _find_repeat(calls: Sequence[Call]) -> Fault | None:
    for place, call in enumerate(calls):
        before = [to_json(each.arguments) for each in calls[:place] if each.name == call.name]
        if is_repeat(to_json(call.arguments), before):
            message = f"step {place + 1} calls {call.name} as a step before: the agent ends there"
            return Fault(rule="row/repeated", message=message)
    return None
