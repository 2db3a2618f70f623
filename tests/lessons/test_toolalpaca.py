"""ToolAlpaca's APIs: documents from their OpenAPI text, calls from their actions, reasons else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from workspaces import ROOT

from factory.domain.records import Call
from factory.lessons.files import read_lessons
from factory.lessons.records import Lessons

DATA = ROOT.parent / "shared" / "data" / "toolalpaca" / "data"
BODY = {"type": "object", "properties": {"days": {"type": "integer"}}, "required": ["days"]}
SPEC: dict[str, Any] = {
    "openapi": "3.0.0",
    "paths": {
        "/boats/{name}": {
            "parameters": [{"name": "name", "in": "path", "required": True, "schema": {}}],
            "get": {"operationId": "getBoat", "summary": "Show a boat."},
            "post": {
                "operationId": "bookBoat",
                "description": "Book a boat.",
                "parameters": [
                    {
                        "name": "color",
                        "in": "query",
                        "description": "Which.",
                        "schema": {"type": "string", "enum": ["red", "blue"]},
                    }
                ],
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": {"$ref": "#/components/B"}}},
                },
            },
        }
    },
    "components": {"B": BODY},
}
BOOK = {"Action": "bookBoat", "Action_Input": '{"name": "Belle", "days": 2}'}


def read(folder: Path, **changes: Any) -> Lessons:
    row = {
        "Name": "Boats",
        "Documentation": json.dumps(SPEC),
        "Function_Projection": {"showBoat": ["/boats/{name}", "get"]},
        "Instructions": ["Book the Belle for two days."],
        "Golden_Answers": [[BOOK]],
    } | changes
    file = folder / "apis.json"
    file.write_text(json.dumps([{key: part for key, part in row.items() if part is not None}]))
    return read_lessons([file])


def test_an_api_is_documents_and_requests(tmp_path: Path) -> None:
    found = read(tmp_path)
    assert not found.bad and found.formats == {"document": 2, "toolalpaca": 1}
    show, book, asked = found.items
    assert (show.documents[0]["name"], asked.query) == ("showBoat", "Book the Belle for two days.")
    document = book.documents[0]
    assert (document["name"], document["description"]) == ("bookBoat", "Book a boat.")
    properties = document["arguments"]["properties"]
    assert list(properties) == ["name", "color", "days"]
    assert properties["color"]["enum"] == ["red", "blue"]
    assert properties["color"]["description"] == "Which."
    assert document["arguments"]["required"] == ["name", "days"]
    assert asked.calls == (Call(name="bookBoat", arguments={"name": "Belle", "days": 2}),)
    assert asked.names == ("bookBoat",) and len(asked.documents) == 2
    assert asked.where == "apis.json[1] request 1" and asked.file == "apis.json"


def test_an_instance_is_a_conversation(tmp_path: Path) -> None:
    """The training file logs how a model solved the request, step by step."""
    step = [["bookBoat", BOOK["Action_Input"], "I book it."], "Status Code: 200."]
    broken = [["bookBoat", "{", "I book it."], "Status Code: 400."]
    instances = [
        {"input": "Book the Belle.", "output": "Done.", "intermediate_steps": [step, step]},
        {"input": "Thanks!", "output": "Gladly.", "intermediate_steps": []},
        {"input": "Book it.", "output": "No.", "intermediate_steps": [step, broken]},
    ]
    found = read(tmp_path, Golden_Answers=None, Instances=instances)
    *_, booked, thanked = found.items
    assert booked.calls == (Call(name="bookBoat", arguments={"name": "Belle", "days": 2}),)
    speakers = [turn.speaker for turn in booked.turns]
    assert speakers == ["user", "assistant", "tool", "assistant", "tool", "assistant"]
    assert booked.turns[-1].text == "Done." and booked.turns[2].text == "Status Code: 200."
    assert (thanked.calls, thanked.answer) == ((), "Gladly.")
    assert [x.where for x in found.bad] == ["apis.json[1] request 3"]
    assert "is no JSON" in found.bad[0].cause


def test_a_broken_operation_leaves_the_others(tmp_path: Path) -> None:
    found = read(tmp_path, Documentation=json.dumps(SPEC | {"components": {}}))
    assert [each.query for each in found.items] == ["", "Book the Belle for two days."]
    (bad,) = found.bad
    assert bad.cause.startswith("toolalpaca: POST /boats/{name}: ")


@pytest.mark.parametrize(
    ("changes", "documents", "cause"),
    [
        ({"Golden_Answers": None}, 2, "its 1 requests have no Golden_Answers"),
        ({"Golden_Answers": None, "Instances": []}, 2, "its 1 requests have no Golden_Answers"),
        ({"Golden_Answers": []}, 2, "1 requests and 0 answers"),
        ({"Golden_Answers": [[]]}, 2, "no action answers"),
        ({"Golden_Answers": [[BOOK | {"Action_Input": '{"days": ${days}}'}]]}, 2, "not known yet"),
        ({"Golden_Answers": [[BOOK | {"Action_Input": '{"d": "{day}"}'}]]}, 2, "not known yet"),
        ({"Golden_Answers": [[BOOK | {"Action_Input": {"d": "{day}"}}]]}, 2, "not known yet"),
        ({"Golden_Answers": [[BOOK | {"Action_Input": "{days"}]]}, 2, "is no JSON"),
        ({"Golden_Answers": [[BOOK | {"Action_Input": "[1]"}]]}, 2, "not an object"),
        ({"Golden_Answers": [[{"Act": "x"}]]}, 2, "looks like toolalpaca, and is not"),
        ({"Instructions": [" "]}, 2, "the request is empty"),
        ({"Documentation": "openapi: 3"}, 0, "toolalpaca: "),
        ({"Documentation": "{}"}, 0, "is no OpenAPI"),
    ],
)
def test_what_cannot_be_read_has_a_reason(
    tmp_path: Path, changes: dict[str, Any], documents: int, cause: str
) -> None:
    found = read(tmp_path, **changes)
    assert [bool(each.query) for each in found.items] == [False] * documents
    (bad,) = found.bad
    assert cause in bad.cause


@pytest.mark.parametrize(
    ("name", "documents", "requests", "bad"),
    [
        ("eval_simulated.json", 54, 69, 31),
        ("validation_data.history.json", 54, 0, 10),
        ("public_apis.json", 0, 0, 1),
    ],
)
def test_the_real_files(name: str, documents: int, requests: int, bad: int) -> None:
    if not DATA.exists():
        pytest.skip("../shared/data/toolalpaca is not here")
    found = read_lessons([DATA / name])
    asked = [each for each in found.items if each.query]
    assert (len(found.items) - len(asked), len(asked), len(found.bad)) == (
        documents,
        requests,
        bad,
    )
    called = {call.name for each in asked for call in each.calls or ()}
    known = {document["name"] for each in found.items for document in each.documents}
    assert len(called - known) == (2 if asked else 0)  # getDetails, and an optional action


def test_right_answers_are_taught_and_no_models_own(tmp_path: Path) -> None:
    tried = {"input": "Book it.", "output": "No.", "intermediate_steps": []}
    for instances in ([], [tried]):
        *_, asked = read(tmp_path, Instances=instances).items
        assert asked.query == "Book the Belle for two days." and len(asked.calls) == 1
    empty = BOOK | {"Action_Input": '{"filter": "{}"}'}
    *_, asked = read(tmp_path, Golden_Answers=[[empty]]).items
    assert asked.calls[0].arguments == {"filter": "{}"}
