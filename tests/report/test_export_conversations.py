"""Conversations and trajectories that were taught: exported, and read back as what they taught."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from workspaces import ROOT

from factory.domain.canon import to_json
from factory.domain.records import Message
from factory.judge.rulebook import Rulebook
from factory.ledger.database import Ledger
from factory.lessons.examples import call_chat
from factory.lessons.files import read_lessons
from factory.lessons.judging import JudgedRow, judge_lessons
from factory.lessons.keeping import kept_conversation
from factory.lessons.moves import agent_chat
from factory.report.conversations import to_openai
from factory.report.export import Export, Format, export
from factory.score.toolbench.turns import TEMPLATES, Turns
from factory.workspace.folder import Workspace
from factory.workspace.prompts import Prompts

PROMPTS = Prompts(Workspace(ROOT))
AGENT = Turns(Prompts(Workspace(ROOT), TEMPLATES))
RULEBOOK = Rulebook.load(Workspace(ROOT), {"round/duplicate_query": "off"})
APIS: list[dict[str, Any]] = [
    {
        "tool_name": 'Stove "1"',
        "api_name": f"Boil {n}",
        "api_description": f'Boil "{n}" cups of water on the stove.',
        "required_parameters": [{"name": "id", "type": "STRING", "description": "Which plate."}],
        "optional_parameters": [{"name": "Cups", "type": "NUMBER", "description": "How many ½."}],
    }
    for n in range(3)
]
OWN = {
    "name": "bake_bread",
    "description": "Bake a bread of so many grams in the oven.",
    "parameters": {
        "type": "object",
        "properties": {
            "grams": {"type": "number", "description": "How heavy it is."},
            "kind": {"type": "string", "description": "Of which flour."},
        },
        "required": ["grams"],
    },
}
FINAL = {"return_type": "give_answer", "final_answer": "Both are hot, “really”."}
NAMES = ("boil_0_for_stove_1", "boil_1_for_stove_1")


def said(role: str, content: str, loss: bool | None = None) -> dict[str, Any]:
    return {"role": role, "content": content, "loss": role == "assistant" if loss is None else loss}


def called(*calls: tuple[str, Any], **more: Any) -> dict[str, Any]:
    listed = [{"function": {"name": name, "arguments": to_json(given)}} for name, given in calls]
    return {"role": "assistant", "content": "", "tool_calls": listed} | more


def documentation(n: int) -> dict[str, Any]:
    api = APIS[n]
    shown = {"name": f"<<{api['tool_name']}&&{api['api_name']}>>"}
    shown |= {"description": api["api_description"]}
    shown |= {key: api[f"{key}_parameters"] for key in ("required", "optional")}
    return said("user", f"Please give the input. Here is the documentation: {shown}")


TRAJECTORY = {
    "messages": [
        {"role": "user", "content": "Boil water on two plates, “hot”"},
        called(
            (NAMES[0], {"is_id": "a", "cups": 2.0}),
            (NAMES[1], {"is_id": "é"}),
            content="First both.\n\nThen we see.",
        ),
        {"role": "tool", "content": '{"error": "", "response": "warm"}'},
        {"role": "tool", "content": 'plain "words" \\ and 10 % more'},
        called(("Finish", FINAL), content="Done."),
    ]
}
SILENT = {
    "conversations": [
        said("user", "Boil water on one plate of the stove"),
        said("assistant", "A thought that is not learnt.", False),
        said("assistant", '<<Stove "1"&&Boil 0>>'),
        documentation(0),
        said("assistant", '{"id": "b", "Cups": 1}'),
        said("tool", '{"error": "", "response": "hot"}'),
        said("assistant", '<<Stove "1"&&Boil 1>>', False),
        documentation(1),
        said("assistant", '{"id": "c"}', False),
        said("tool", '{"error": "no such plate", "response": ""}'),
        said("assistant", "<<Finish>>"),
        said("user", "Please give the input. Here is the documentation: {}"),
        said("assistant", to_json(FINAL)),
    ]
}
CHAT = {
    "tools": [{"type": "function", "function": OWN}],
    "messages": [
        {"role": "user", "content": "Bake two breads"},
        called(("bake_bread", {"grams": 500.0}), ("bake_bread", {"grams": 5, "kind": "rye"})),
        {"role": "tool", "content": "baked"},
        {"role": "tool", "content": '{"state": "burnt"}'},
        {"role": "assistant", "content": "One of them is burnt.", "loss": False},
        {"role": "user", "content": "Then bake it again, “please”"},
        called(("bake_bread", {"grams": 5, "kind": "rye"}), content="Once more."),
        {"role": "tool", "content": "baked"},
        {"role": "assistant", "content": "Now both are good."},
    ],
}


def judge(*rows: Mapping[str, Any], folder: Path) -> tuple[JudgedRow, ...]:
    file = folder / "rows.jsonl"
    file.write_text("".join(to_json(row) + "\n" for row in rows), encoding="utf-8")
    return judge_file(file)


def judge_file(*files: Path) -> tuple[JudgedRow, ...]:
    lessons = read_lessons(files)
    assert not lessons.bad
    rows = judge_lessons(lessons, (), rulebook=RULEBOOK, held_out=()).requests
    assert all(row.is_accepted for row in rows), [row.sample.cause for row in rows]
    return rows


def chats(rows: Sequence[JudgedRow], *, by_code: bool) -> list[tuple[Message, ...]]:
    """What the rows teach, message by message, tools and losses too."""
    return [
        agent_chat(row.lesson.query, row.moves, row.given, AGENT, by_code=by_code)
        if row.moves
        else call_chat(
            row.lesson.query, row.given or row.tools, row.lesson.turns, PROMPTS, is_taught=True
        )
        for row in rows
    ]


def kept(rows: Sequence[JudgedRow], folder: Path) -> Ledger:
    """A ledger as a lesson of the rows leaves it."""
    ledger = Ledger(folder / "state")
    batch: dict[str, list[dict[str, Any]]] = {"query": [], "sample": [], "generation": []}
    for row in rows:
        key = {"query_id": row.query.id, "round": 1}
        batch["query"].append({"query_id": row.query.id, "text": row.query.text})
        tools = [{"id": tool.id, "document": tool.document} for tool in row.tools]
        calls = [{"name": x.name, "arguments": x.arguments} for x in row.sample.candidate.calls]
        made = {"tools_json": to_json(tools), "calls_json": to_json(calls), "judgement": 1}
        batch["sample"].append(key | made | {"status": "accepted"})
        batch["generation"].append(key | {"stage": "conversation", "text": "[]"})
        if conversation := kept_conversation(row):
            batch["generation"].append(key | {"stage": "turns", "text": to_json(conversation)})
    ledger.append(batch)  # type: ignore[arg-type]
    return ledger


def write(
    rows: Sequence[JudgedRow], to: Format, tmp_path: Path, suffix: str
) -> tuple[Path, Export]:
    out = tmp_path / f"out.{suffix}"
    return out, export(kept(rows, tmp_path), to, out, force=True)


@pytest.mark.parametrize(
    ("to", "suffix"), [("trl", "jsonl"), ("trl", "parquet"), ("sharegpt", "jsonl")]
)
def test_what_was_taught_is_read_back_word_for_word(
    to: Format, suffix: str, tmp_path: Path
) -> None:
    rows = judge(*APIS, TRAJECTORY, SILENT, CHAT, folder=tmp_path)
    out, done = write(rows, to, tmp_path, suffix)
    assert (done.num_lines, done.left_out) == (3, [])
    catalogue = tmp_path / "apis.jsonl"
    catalogue.write_text("".join(to_json(api) + "\n" for api in APIS))
    again = {row.lesson.query: row for row in judge_file(catalogue, out)}
    back = [again[row.lesson.query] for row in rows]
    for by_code in (True, False):
        assert chats(back, by_code=by_code) == chats(rows, by_code=by_code)
    assert [row.tools for row in back[:2]] == [row.tools for row in rows[:2]]
    alone = {row.lesson.query: row for row in judge_file(out)}
    names = [tool.document["tool_name"] for tool in alone[rows[0].lesson.query].tools]
    assert names == ["stove_1", "stove_1"]


def test_openais_lines_answer_each_call_by_its_id(tmp_path: Path) -> None:
    rows = judge(*APIS, TRAJECTORY, SILENT, CHAT, folder=tmp_path)
    out, done = write(rows, "openai", tmp_path, "jsonl")
    (cause,) = done.left_out
    assert (
        cause == f"{rows[1].query.id}: its conversation has a turn of which only a part is learnt"
    )
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        asked = [call["id"] for m in line["messages"] for call in m.get("tool_calls", ())]
        given = [m["tool_call_id"] for m in line["messages"] if m["role"] == "tool"]
        finish = [m for m in line["messages"] if "Finish" in to_json(m.get("tool_calls"))]
        assert len(set(asked)) == len(asked) and asked[: len(asked) - len(finish)] == given
        assert set(line) == {"messages", "tools", "parallel_tool_calls"}
        keys = {key for message in line["messages"] for key in message}
        assert keys <= {"role", "content", "tool_calls", "tool_call_id", "weight"}
    by_query = {line["messages"][0]["content"]: line for line in lines}
    weights = [m.get("weight") for m in by_query[rows[2].lesson.query]["messages"]]
    assert weights == [None, None, None, None, 0, None, None, None, None]
    back = {row.lesson.query: row for row in judge_file(out)}
    chat = chats([back[rows[2].lesson.query]], by_code=False)
    assert chat == chats(rows[2:], by_code=False)


def test_calls_before_the_responses_to_earlier_ones_are_not_openais() -> None:
    """The API wants each call answered before the assistant speaks again."""
    call = {"role": "assistant", "content": "", "calls": [{"name": "f", "arguments": {}}]}
    answer = {"role": "tool", "content": "5"}
    assert len(to_openai([call, answer, call])["messages"]) == 3
    with pytest.raises(ValueError, match="a call without a response"):
        to_openai([call, call, answer, answer])


def test_what_a_format_cannot_hold_is_left_out_by_name(tmp_path: Path) -> None:
    closing = json.loads(to_json(TRAJECTORY))
    closing["messages"][1]["content"] = "one\n</think>\n\ntwo"
    says_call = json.loads(to_json(CHAT))
    says_call["messages"][-1]["content"] = "[bake_bread(grams=5)]"
    rows = judge(*APIS, closing, says_call, folder=tmp_path)
    with pytest.raises(Exception, match=r"all samples \(2\) were left out: q_\w+: its"):
        write(rows, "sharegpt", tmp_path, "jsonl")
    (tmp_path / "trl").mkdir()
    _, done = write(rows, "trl", tmp_path / "trl", "jsonl")
    assert (done.num_lines, done.left_out) == (2, [])
    catalogue = judge_file(tmp_path / "rows.jsonl")
    assert [row.lesson.turns for row in catalogue] == [row.lesson.turns for row in rows]
    (tmp_path / "xlam").mkdir()
    _, done = write(rows, "xlam", tmp_path / "xlam", "jsonl")
    assert done.num_lines == 1 and done.left_out == [
        f"{rows[0].query.id}: xlam has no trajectories"
    ]


def test_a_trajectory_that_an_earlier_version_taught_is_named(tmp_path: Path) -> None:
    rows = judge(*APIS, TRAJECTORY, CHAT, folder=tmp_path)
    ledger = kept([], tmp_path)
    common = {"round": 1, "query_id": "q_1", "judgement": 1, "status": "accepted"}
    sample = common | {"tools_json": "[]", "calls_json": "[]"}
    row = {"round": 1, "query_id": "q_1", "stage": "conversation", "text": "[]"}
    ledger.append({"sample": [sample], "generation": [row]})  # type: ignore[typeddict-item]
    kept(rows, tmp_path)
    done = export(ledger, "trl", tmp_path / "out.jsonl")
    assert done.num_lines == 2
    (cause,) = done.left_out
    assert "teach it once more" in cause


@pytest.mark.parametrize("silent", [["thinking"], "no", [3]])
def test_a_part_that_no_turn_has_is_a_reason(silent: object, tmp_path: Path) -> None:
    row = json.loads(to_json(CHAT))
    row["messages"][1]["silent"] = silent
    file = tmp_path / "rows.jsonl"
    file.write_text(to_json(row) + "\n", encoding="utf-8")
    (bad,) = read_lessons([file]).bad
    assert "no part of a turn" in bad.cause
