"""API-Bank: calls that dialogues are due."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from factory.domain.canon import canonical_json, digest
from factory.domain.failures import ContentError, InputError, MissingError
from factory.domain.jsontext import show
from factory.domain.records import Call, Checkpoint, Completion, ItemScore, Message
from factory.engines.base import Engine
from factory.engines.child import Child
from factory.judge.parsed import TRUNCATED
from factory.score.asking import CUT_BY, ask_all, explain_ending, grade, greedy, parse_text
from factory.score.base import Asked, Setup, find_data, make_item, read_json
from factory.score.calls.decode import Reading, decode, decode_beside
from factory.score.calls.judging import UNREADABLE_CALL
from factory.score.card import Average, Scorecard, make_card
from factory.score.definition import Definition, first_of_each
from factory.workspace.folder import Workspace


class ApiBankDefinition(Definition):
    """eval/<name>.toml of the kind `apibank`."""

    kind: Literal["apibank"]
    data: str = ""
    """API-Bank's folder (DAMO-ConvAI/api-bank)."""
    simulate: bool = False
    """Execute calls in its simulator, or compare arguments."""
    limit: int = Field(0, ge=0)
    """Turns of each level; 0 is all."""
    max_tokens: int = Field(256, gt=0)
    syntax: Reading = "auto"
    """Calls that are read besides its own `[Name(key='value')]`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiBank(Asked):
    """API-Bank's Call and Retrieve+Call."""

    definition: ApiBankDefinition
    folder: Path
    """The benchmark's, which has the simulator."""
    turns: tuple[DueCall, ...]
    """Points of dialogues where a call is due."""

    @classmethod
    def load(cls, workspace: Workspace, name: str, definition: ApiBankDefinition) -> ApiBank:
        folder = find_data(workspace, definition.data, name)
        turns = tuple(
            first_of_each(load_apibank(folder), definition.limit, lambda turn: turn.category)
        )
        return cls(
            stem=name,
            title=definition.title,
            split=definition.split,
            items=tuple(
                make_item(x.category, x.id, x.dialogue, {x.expected.name: x.expected.arguments})
                for x in turns
            ),
            definition=definition,
            folder=folder,
            turns=turns,
        )

    def basis(self, setup: Setup) -> str:
        asked = [[x.id, x.category, x.instruction, x.dialogue] for x in self.turns]
        expected = [[x.expected.name, x.expected.arguments] for x in self.turns]
        of = self.definition
        parts = [asked, expected, of.simulate, of.max_tokens]
        return digest(canonical_json(parts if of.syntax == "official" else [*parts, of.syntax]))

    @property
    def asked(self) -> Mapping[str, str | int]:
        return {"syntax": self.definition.syntax, "max_tokens": self.definition.max_tokens}

    async def score(self, setup: Setup, checkpoint: Checkpoint, engine: Engine) -> list[ItemScore]:
        return await score_apibank(
            engine,
            self.turns,
            simulator=self.folder.resolve() if self.definition.simulate else None,
            log=setup.log("apibank"),
            max_tokens=self.definition.max_tokens,
            syntax=self.definition.syntax,
            progress=setup.progress,
        )

    def card(self, items: Sequence[ItemScore]) -> Scorecard:
        return make_card(self.ordered(items), [Average("tooldev", "overall", TOOLDEV)])


LEVELS = {"Call": "level-1-api.json", "Retrieve+Call": "level-2-api.json"}
"""Categories with their files."""
TOOLDEV = dict.fromkeys(LEVELS, 0.5)
"""Weights of ToolDev's score: the mean of both (§7.4)."""
FOLDERS = (".", "json_test_data", "test-data")
_CALL = re.compile(r"\[(\w+)\((.*)\)\]", re.DOTALL)
_LOOSE_ARGUMENT = re.compile(
    r"(?<!\w)(\w++)\s*=\s*(?:'([^']*)'|\"([^\"]*)\"|(\[[^\]]*\])|([^,\s)]+))"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DueCall:
    """A point of a dialogue where a call is due. Example: DueCall(id="Calculator-1#0", …)."""

    id: str
    """File and number."""
    category: str
    """Call or Retrieve+Call."""
    instruction: str
    """The task, with the descriptions of the APIs."""
    dialogue: str
    """What was said and called so far."""
    expected: Call
    """The call that is due; argument values as written, in text."""


def load_apibank(folder: Path) -> tuple[DueCall, ...]:
    """All turns of both levels. Raises InputError without any, ContentError with file and item."""
    turns: list[DueCall] = []
    for category, name in LEVELS.items():
        found = [folder / base / name for base in FOLDERS if (folder / base / name).is_file()]
        for file in found[:1]:
            turns += _read_level(file, category)
    if not turns:
        raise InputError(
            "no turns of API-Bank here",
            where=str(folder),
            remedy=f"give the folder with {' and '.join(LEVELS.values())} (DAMO-ConvAI/api-bank)",
        )
    return tuple(turns)


def _read_level(file: Path, category: str) -> list[DueCall]:
    rows = read_json(file)
    if not isinstance(rows, list):
        raise ContentError("must be a JSON list of turns", where=str(file))
    turns = []
    seen: dict[str, int] = {}
    for number, row in enumerate(rows):
        where = f"{file}#{number}"
        keys = ("file", "instruction", "input", "expected_output")
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in keys):
            raise ContentError(f"a turn needs {', '.join(keys)}", where=where)
        expected = parse_call(row["expected_output"])
        if expected is None:
            raise ContentError("expected_output holds no [Name(key='value', …)]", where=where)
        name = f"{row['file'].removesuffix('.jsonl')}#{row.get('id', number)}"
        seen[name] = seen.get(name, 0) + 1
        turns.append(
            DueCall(
                id=name if seen[name] == 1 else f"{name}.{seen[name]}",
                category=category,
                instruction=row["instruction"].strip(),
                dialogue=row["input"].strip(),
                expected=expected,
            )
        )
    return turns


def parse_call(text: str) -> Call | None:
    """The call `[Name(key='value', …)]` in a text, values as text; None without one.

    Quoted values lose their quotes, others stay as written: `[Add(a=1, b=[2])]` has "1" and "[2]".
    """
    found = _CALL.search(text)
    if found is None:
        return None
    name, inside = found.groups()
    try:
        tree = ast.parse(f"f({inside})", mode="eval").body
        if not isinstance(tree, ast.Call) or tree.args:
            raise ValueError("arguments need names")
        arguments = {
            str(keyword.arg): _as_text(keyword.value, f"f({inside})") for keyword in tree.keywords
        }
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        arguments = {
            match[1]: next(group for group in match.groups()[1:] if group is not None)
            for match in _LOOSE_ARGUMENT.finditer(inside)
        }
    return Call(name=name, arguments=arguments)


def read_call(text: str, expected: Call, syntax: Reading) -> Call | None:
    """The call of an answer: in API-Bank's form, else the only one that `decode` finds.

    A decoded value that is the expected one is spelt as that, another as Python prints it: what is
    due was written as text.
    """
    if (official := parse_call(text)) is not None:
        return official
    calls = decode_beside(text, syntax)
    if len(calls) != 1:
        return None
    arguments = {
        key: _spell(value, expected.arguments.get(key)) for key, value in calls[0].arguments.items()
    }
    return Call(name=calls[0].name, arguments=arguments)


def _spell(value: Any, due: Any) -> str:
    if isinstance(value, str):
        return value
    meant = parse_text(due) if isinstance(due, str) else None
    return str(due) if type(meant) is type(value) and meant == value else str(value)


def _as_text(node: ast.expr, source: str) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return ast.get_source_segment(source, node) or ""


async def score_apibank(
    engine: Engine,
    turns: Sequence[DueCall],
    *,
    simulator: Path | None = None,
    log: Path | None = None,
    max_tokens: int = 256,
    syntax: Reading = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[ItemScore]:
    """Each turn graded; `simulator` is API-Bank's folder, `log` takes its output.

    Raises MissingError where the simulator cannot be started.
    """
    requests = []
    for turn in turns:
        task = Message(role="system", content=turn.instruction)
        chat = (task, Message(role="user", content=turn.dialogue))
        requests.append(greedy(f"apibank/{turn.category}/{turn.id}", chat, max_tokens))
    replies = await ask_all(engine, requests, progress)
    grades = [
        explain_ending(judge_answer(turn, reply.completions[0], syntax), reply)
        for turn, reply in zip(turns, replies, strict=True)
    ]
    if simulator is None:
        return grades
    assert log is not None
    return await _simulate(simulator, log, turns, grades, syntax)


def judge_answer(turn: DueCall, completion: Completion, syntax: Reading) -> ItemScore:
    """One answer by comparing arguments as written."""
    answer = completion.text
    call, expected = read_call(answer, turn.expected, syntax), turn.expected
    reason, message = "", ""
    if call is None:
        reason, message = _explain_none(completion, syntax)
    elif call.name != expected.name:
        reason = "wrong_tool"
        message = f"calls {show(call.name)} where {show(expected.name)} is expected"
    elif call.arguments != expected.arguments:
        reason = "wrong_value"
        message = f"{show(call.arguments)} where {show(expected.arguments)} is expected"
    return grade(
        item=turn.id,
        category=turn.category,
        value=float(not reason),
        reason=reason,
        message=message,
        answer=answer,
    )


def _explain_none(completion: Completion, syntax: Reading) -> tuple[str, str]:
    """Why an answer has not the one call that is due: cut, not to be read, or without it."""
    parsed = decode(completion.text, "auto" if syntax == "official" else syntax)
    if not parsed.calls and (limit := CUT_BY.get(completion.finish_reason)):
        return TRUNCATED, f"the answer reached {limit}"
    if parsed.calls is None and parsed.failure == TRUNCATED:
        return TRUNCATED, parsed.message
    if parsed.calls is None:
        return UNREADABLE_CALL, f"a call that cannot be read: {parsed.message}"
    if len(parsed.calls) > 1:
        return "several_calls", f"{len(parsed.calls)} calls where one is due"
    other = " in API-Bank's own form" if parsed.calls else ""
    return "no_tool_call", f"the answer holds no call{other}"


async def _simulate(
    folder: Path,
    log: Path,
    turns: Sequence[DueCall],
    grades: Sequence[ItemScore],
    syntax: Reading,
) -> list[ItemScore]:
    """Grades again where a call to the right API was made: both calls are executed."""
    child = await Child.start("factory.score.apibank_simulator", str(folder), threads=1, log=log)
    try:
        found = []
        for turn, each in zip(turns, grades, strict=True):
            call = read_call(each.answer, turn.expected, syntax)
            if call is not None and call.name == turn.expected.name:
                message = {"name": call.name, "given": call.arguments}
                await child.send({**message, "expected": turn.expected.arguments})
                verdict = await child.receive()
                if verdict is None:
                    raise MissingError(
                        f"API-Bank's simulator died: {child.cause()}",
                        where=str(folder),
                        remedy="install what its requirements.txt names, or leave it out",
                    )
                each = _regrade(each, verdict)
            found.append(each)
        return found
    finally:
        await child.stop()


def _regrade(before: ItemScore, verdict: dict[str, Any]) -> ItemScore:
    right = bool(verdict["correct"])
    return replace(
        before,
        correct=right,
        value=float(right),
        reason="" if right else "wrong_result",
        message="" if right else str(verdict["message"]),
    )
