"""A labelled conversation as the ledger keeps it: turns and tools, before any prompt is made of it.

`factory export` writes these for other trainers, and the reader `messages` reads them back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from factory.domain.records import Call, Tool
from factory.lessons.judging import JudgedRow
from factory.lessons.moves import Move
from factory.lessons.records import PARTS, Part, Utterance
from factory.lessons.steps import as_function
from factory.score.toolbench.turns import (
    FINISH,
    FINISH_DOCUMENT,
    FINISH_TOOL,
    action_name,
    key_of,
    shown_response,
)

Turn = dict[str, Any]


def kept_conversation(row: JudgedRow) -> dict[str, Any] | None:
    """The tools of a row and its turns; None where it is no conversation.

    A turn is {role, content, calls}; an assistant's that is not learnt has `loss` false, one of
    which only parts are not learnt names them as `silent`. A trajectory ends with Finish, which is
    among its tools, and calls APIs as the agent names them.
    """
    tools = row.given or row.tools
    if row.moves:
        finish = {**FINISH_TOOL, "description": FINISH_DOCUMENT["description"]}
        functions = [*(as_function(tool.document) for tool in tools), finish]
        turns = [_said("user", row.lesson.query), *_turns_of_moves(row.moves)]
        return {"tools": functions, "turns": turns}
    if row.lesson.turns:
        return keep_turns(tools, row.lesson.turns)
    return None


def keep_turns(tools: Iterable[Tool], turns: Iterable[Utterance]) -> dict[str, Any]:
    """A conversation's tools and turns, as kept_conversation gives them."""
    kept = [_turn_of(turn) for turn in turns]
    return {"tools": [tool.document for tool in tools], "turns": kept}


def _said(role: str, text: str, calls: Iterable[Call] = ()) -> Turn:
    called = [{"name": call.name, "arguments": call.arguments} for call in calls]
    return {"role": role, "content": text} | ({"calls": called} if called else {})


def _turn_of(turn: Utterance) -> Turn:
    return _said(turn.speaker, turn.text, turn.calls) | ({} if turn.loss else {"loss": False})


def _turns_of_moves(moves: Sequence[Move]) -> Iterable[Turn]:
    for move in moves:
        thought = move.step.thought.strip()
        call = Call(name=_name_of(move.tool), arguments=move.arguments)
        turn = _said("assistant", thought, [call])
        written: tuple[Part, ...] = PARTS if thought else PARTS[1:]
        silent = [part for part in written if part in move.step.silent]
        if silent:
            turn |= {"loss": False} if len(silent) == len(written) else {"silent": silent}
        yield turn
        if not move.is_finish:
            text = move.step.response
            # Readers take blanks off both ends; as the agent sees it, it has none.
            yield _said("tool", text if text == text.strip() else shown_response(text))


def _name_of(tool: Tool | None) -> str:
    return action_name(key_of(tool.document) if tool else FINISH)
