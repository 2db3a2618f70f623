"""The steps of a trajectory with the tools that they call, judged, and as the agent's own turns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from factory.codes.trie import FINISH as FINISH_ID
from factory.domain.canon import to_json
from factory.domain.records import Call, Message, Tool, Verdict
from factory.judge.rulebook import Rulebook
from factory.judge.verdicts import check_calls
from factory.lessons.catalogue import Catalogue, make_tool, names_of
from factory.lessons.records import Document, LessonStep
from factory.score.toolbench.agent import Names
from factory.score.toolbench.data import standard_name
from factory.score.toolbench.turns import (
    FINISH,
    FINISH_DOCUMENT,
    Turns,
    action_name,
    documentation_of,
    key_of,
    shown_response,
)
from factory.train.examples import calls_text, placeholder


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A step whose tool is known."""

    step: LessonStep
    tool: Tool | None
    """None is Finish, or a tool that nobody gave."""
    arguments: dict[str, Any]
    """By the names that the tool's document has."""

    @property
    def is_finish(self) -> bool:
        return self.step.call.name == FINISH.api


def find_given(documents: Iterable[Document], catalogue: Catalogue) -> tuple[Tool, ...]:
    """The tools that a row gives; an API that the catalogue describes too as that has it."""
    own = (make_tool(document) for document in documents)
    tools = [_known(tool, catalogue) or tool for tool in own if tool is not None]
    return tuple({tool.id: tool for tool in tools}.values())


def _known(tool: Tool, catalogue: Catalogue) -> Tool | None:
    """The same API of the same service: ToolBench's functions tell less than its documents."""
    return catalogue.find(names_of(tool)[-1]) if key_of(tool.document).tool else None


def find_moves(
    steps: Sequence[LessonStep], given: Sequence[Tool], catalogue: Catalogue
) -> tuple[Move, ...]:
    """The steps with their tools: of those given, else of the catalogue."""
    own = Catalogue(given)

    def find(call: Call) -> Tool | None:
        if call.name == FINISH.api:
            return None
        wanted = call.arguments
        return own.find(call.name, wanted) or catalogue.find(call.name, wanted)

    return tuple(_make_move(step, find(step.call)) for step in steps)


def _make_move(step: LessonStep, tool: Tool | None) -> Move:
    """ToolBench's functions have the standard names of parameters, its documents their own."""
    known = tool.arguments["properties"] if tool else {}
    own = {standard_name(name): name for name in reversed(known)}
    arguments = {
        name if name in known else own.get(name, name): value
        for name, value in step.call.arguments.items()
    }
    return Move(step=step, tool=tool, arguments=arguments)


def judge_moves(
    moves: Sequence[Move], given: Sequence[Tool], rulebook: Rulebook
) -> tuple[Verdict, ...]:
    """What the rules find about each call; paths tell the step, `$[2].arguments.day`."""
    found: list[Verdict] = []
    for place, move in enumerate(moves):
        if move.is_finish:
            continue
        name = move.tool.name if move.tool else move.step.call.name
        text = calls_text([Call(name=name, arguments=move.arguments)])
        tools = [move.tool] if move.tool else given
        verdicts = check_calls(text, tools, rulebook=rulebook, subject="sample:0")
        found += (replace(v, path=v.path.replace("$[0]", f"$[{place}]", 1)) for v in verdicts)
    return tuple(found)


def agent_chat(
    query: str, moves: Sequence[Move], given: Sequence[Tool], turns: Turns, *, by_code: bool
) -> tuple[Message, ...]:
    """The trajectory as the agent has it (§3.4), word for word.

    Actions are codes, whose places hold tool ids, or names. A step without a thought has an empty
    one, which is not learnt.
    """
    keys = tuple(key_of(tool.document) for tool in given)
    chat = [*turns.open(query, () if by_code else Names(keys).listing)]

    def say(text: str, is_learnt: bool) -> None:
        chat.append(Message(role="assistant", content=text, loss=is_learnt and bool(text)))

    for move in moves:
        silent, tool = move.step.silent, move.tool
        say(move.step.thought.strip(), "thought" not in silent)
        chat.append(turns.ask_action())
        if by_code:
            action = placeholder(tool.id if tool else FINISH_ID)
        else:
            action = action_name(key_of(tool.document) if tool else FINISH)
        say(action, "action" not in silent)
        chat.append(turns.ask_input(documentation_of(tool.document) if tool else FINISH_DOCUMENT))
        say(to_json(move.arguments), "input" not in silent)
        if not move.is_finish:
            chat.append(Message(role="user", content=shown_response(move.step.response)))
    return tuple(chat)
