"""Labelled rows without names, addresses, numbers and keys (factory.tools.masking)."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

from factory.domain.canon import to_json
from factory.domain.records import Call
from factory.lessons.records import Lesson
from factory.tools.masking import Masker


def mask_lesson(lesson: Lesson) -> tuple[Lesson, Counter[str]]:
    """The row with one pseudonym for each private value, and how many of each kind it had.

    A value has the same in its request, its calls, what was said and answered, and its tools.
    """
    masker = Masker()
    for document in lesson.documents:
        masker.keep(document)
    said = [*(lesson.calls or ()), *(call for turn in lesson.turns for call in turn.calls)]
    for call in (*said, *(step.call for step in lesson.steps)):
        masker.learn(call.arguments)

    def mask_call(call: Call) -> Call:
        return replace(call, arguments=masker.mask(call.arguments))

    fault = lesson.fault
    made = replace(
        lesson,
        query=masker.mask(lesson.query),
        calls=None if lesson.calls is None else tuple(map(mask_call, lesson.calls)),
        answer=masker.mask(lesson.answer),
        turns=tuple(
            replace(
                each, text=_mask_said(each.text, masker), calls=tuple(map(mask_call, each.calls))
            )
            for each in lesson.turns
        ),
        steps=tuple(
            replace(
                each,
                thought=masker.mask(each.thought),
                call=mask_call(each.call),
                response=_mask_said(each.response, masker),
            )
            for each in lesson.steps
        ),
        documents=tuple(masker.mask_document(document) for document in lesson.documents),
        fault=fault and replace(fault, message=masker.mask(fault.message)),
    )
    return made, masker.counts


def _mask_said(text: str, masker: Masker) -> str:
    """What was said or came back; JSON stays JSON, its numbers numbers."""
    if text[:1] not in ("{", "["):
        return str(masker.mask(text))
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return str(masker.mask(text))
    masker.learn(value)
    masked = masker.mask(value)
    return text if masked == value else to_json(masked)
