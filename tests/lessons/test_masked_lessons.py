"""Labelled rows and documents with what is private put out of them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from factory.lessons.files import read_lessons
from factory.lessons.records import Lesson
from factory.tools.sources import read_tools

SECRETS = ("ann@example.org", "Ann Smith", "12 Main Street", "4155552671", "415 555 2671")
TOOL: dict[str, Any] = {
    "name": "book_boat",
    "description": "Book a boat. Ask ann@example.org for more.",
    "parameters": {
        "type": "object",
        "properties": {
            "mail": {"type": "string", "description": "Of the guest.", "default": "12 Main Street"},
            "guest_name": {"type": "string", "description": "Who."},
            "phone": {"type": "integer", "description": "As 415 555 2671."},
        },
        "required": ["mail"],
    },
}
ASKED = "A boat for Ann Smith, please: ann@example.org, 415 555 2671"
CALL = {
    "name": "book_boat",
    "arguments": {"mail": "ann@example.org", "guest_name": "Ann Smith", "phone": 4155552671},
}
CHAT = [
    {"role": "user", "content": ASKED},
    {"role": "assistant", "tool_calls": [{"type": "function", "function": CALL}]},
    {"role": "tool", "content": '{"sent_to": "ann@example.org", "call": 4155552671}'},
    {"role": "assistant", "content": "Done: ann@example.org knows. Dear Ann Smith, goodbye."},
]


def write(folder: Path, name: str, *rows: object) -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_one(path: Path) -> tuple[Lesson, Counter[str]]:
    read = read_lessons([path], mask=True)
    assert read.masked_rows == 1
    (lesson,) = read.items
    assert not [secret for secret in SECRETS if secret in repr(lesson)], lesson
    return lesson, Counter(read.masked)


def test_a_value_has_one_pseudonym_in_all_of_a_row(tmp_path: Path) -> None:
    row = {"query": ASKED, "tools": [TOOL], "calls": [CALL]}
    lesson, masked = read_one(write(tmp_path, "r.jsonl", row))
    assert lesson.query == "A boat for NAME_1, please: EMAIL_1, PHONE_1"
    assert lesson.calls is not None
    arguments = lesson.calls[0].arguments
    assert arguments == {"mail": "EMAIL_1", "guest_name": "NAME_1", "phone": 1000000001}
    (document,) = lesson.documents
    assert document["description"] == "Book a boat. Ask EMAIL_1 for more."
    assert document["arguments"]["properties"]["mail"]["default"] == "ADDRESS_1"
    assert masked == {"NAME": 1, "EMAIL": 1, "PHONE": 1, "ADDRESS": 1}


def test_whole_conversations_are_masked_and_json_in_them_stays_json(tmp_path: Path) -> None:
    lesson, _ = read_one(write(tmp_path, "r.jsonl", {"messages": CHAT, "tools": [TOOL]}))
    assert lesson.turns[1].calls[0].arguments["mail"] == "EMAIL_1"
    assert json.loads(lesson.turns[2].text) == {"sent_to": "EMAIL_1", "call": 1000000001}
    assert lesson.turns[3].text == "Done: EMAIL_1 knows. Dear NAME_1, goodbye."


def test_steps_of_an_agent_are_masked(tmp_path: Path) -> None:
    final = {"return_type": "give_answer", "final_answer": "ann@example.org has it."}
    finish = {"name": "Finish", "arguments": final}
    turn = {"role": "assistant", "tool_calls": [{"type": "function", "function": finish}]}
    lesson, _ = read_one(
        write(tmp_path, "r.jsonl", {"messages": [*CHAT[:3], turn], "tools": [TOOL]})
    )
    assert [step.call.arguments.get("mail", "") for step in lesson.steps] == ["EMAIL_1", ""]
    assert lesson.steps[1].call.arguments["final_answer"] == "EMAIL_1 has it."
    assert "EMAIL_1" in lesson.steps[0].response


def test_halves_in_two_files_have_the_same_pseudonyms(tmp_path: Path) -> None:
    question = {"id": "simple_1", "question": [[CHAT[0]]], "function": [TOOL]}
    truth = {"phone": [4155552671], "guest_name": ["Ann Smith"], "mail": ["ann@example.org"]}
    write(tmp_path, "a.json", question)
    write(tmp_path, "b.json", {"id": "simple_1", "ground_truth": [{"book_boat": truth}]})
    lesson, _ = read_one(tmp_path)
    assert lesson.query == "A boat for NAME_1, please: EMAIL_1, PHONE_1"
    assert lesson.calls is not None
    assert lesson.calls[0].arguments["mail"] == "EMAIL_1"


def test_bad_lines_tell_nothing_private(tmp_path: Path) -> None:
    broken = {"messages": [{"role": "ann@example.org", "content": "Hello"}], "tools": [TOOL]}
    path = write(tmp_path, "r.jsonl", broken)
    assert "ann@example.org" in read_lessons([path]).bad[0].cause
    (line,) = read_lessons([path], mask=True).bad
    assert "ann@example.org" not in line.cause
    assert "EMAIL_1" in line.cause


@pytest.mark.parametrize("is_folder", [False, True])
def test_documents_are_masked_and_the_report_says_so(tmp_path: Path, is_folder: bool) -> None:
    plain = {"name": "sing", "description": "Sing a song.", "parameters": {}}
    path = write(tmp_path, "t.jsonl", TOOL, plain)
    read = read_tools(tmp_path if is_folder else path, mask=True)
    assert not [secret for secret in SECRETS if secret in repr(read.items)]
    assert [(change.tool, change.what) for change in read.changes] == [
        ("book_boat", "masked 1 ADDRESS, 1 EMAIL, 1 PHONE")
    ]
    assert (read.masked_rows, read.masked.total()) == (1, 3)
    (document,) = (tool.document for tool in read.items if tool.name == "book_boat")
    assert document["arguments"]["properties"].keys() == TOOL["parameters"]["properties"].keys()
    assert read_tools(path).items[1] == read.items[1]
    broken = {"name": "f", "parameters": {"properties": {}, "required": "ann@example.org"}}
    (line,) = read_tools(write(tmp_path, "u.jsonl", broken), mask=True).bad
    assert "EMAIL_1" in line.cause
