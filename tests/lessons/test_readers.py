"""Every format of labelled rows: told by its keys, read into one record, or a reason."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from workspaces import ROOT

from factory.domain.canon import to_json
from factory.domain.failures import InputError
from factory.domain.records import Call
from factory.ledger.database import Ledger
from factory.lessons.files import read_lessons
from factory.lessons.readers import READERS, read_row
from factory.lessons.records import Lesson
from factory.report.export import Format, export

DATA = ROOT.parent / "shared" / "data"
BOAT = {
    "name": "book_boat",
    "description": "Book a boat for one day.",
    "parameters": {
        "type": "object",
        "properties": {"day": {"type": "string", "description": "The day."}},
        "required": ["day"],
    },
}
DOCUMENT = {
    "name": "book_boat",
    "description": "Book a boat for one day.",
    "arguments": {
        "type": "dict",
        "properties": {"day": {"type": "string", "description": "The day."}},
        "required": ["day"],
    },
}
NOT_JSON = {"name": "sail", "description": "Sail.", "arguments": {
    "type": "dict", "properties": {"knots": {"type": "float", "default": float("nan")}},
}}  # fmt: skip
QUERY = "Book me a boat for Sunday"
CALL = {"name": "book_boat", "arguments": {"day": "Sunday"}}
OPENAI_CALL = {"function": {"name": "book_boat", "arguments": '{"day": "Sunday"}'}}
HERMES = f"<tool_call>\n{to_json(CALL)}\n</tool_call>"
TOOLBENCH = {"tool_name": "Boats", "api_name": "book_boat", "api_description": "Book a boat."}
USER, ASSISTANT = {"role": "user", "content": QUERY}, {"role": "assistant", "content": ""}
HUMAN = {"from": "human", "value": QUERY}

ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "query of bfcl": (
        "bfcl",
        {
            "query": QUERY,
            "function": [BOAT],
            "ground_truth": [{"book_boat": {"day": ["Sunday"]}}],
        },
    ),
    "toolalpaca": (
        "toolalpaca",
        {
            "request": {
                "input": QUERY,
                "actions": [{"Action": "book_boat", "Action_Input": '{"day": "Sunday"}'}],
            },
            "functions": [BOAT],
        },
    ),
    "plain": ("plain", {"query": QUERY, "tools": [BOAT], "calls": [CALL]}),
    "xlam": ("plain", {"query": QUERY, "tools": to_json([BOAT]), "answers": to_json([CALL])}),
    "trl": (
        "messages",
        {
            "messages": [USER, ASSISTANT | {"tool_calls": [OPENAI_CALL]}],
            "tools": to_json([{"type": "function", "function": BOAT}]),
        },
    ),
    "openai, parts": (
        "messages",
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": QUERY}]},
                {"role": "assistant", "tool_calls": [OPENAI_CALL]},
            ],
            "tools": [{"type": "function", "function": BOAT}],
        },
    ),
    "sharegpt": (
        "conversations",
        {
            "conversations": [HUMAN, {"from": "function_call", "value": to_json(CALL)}],
            "tools": to_json([BOAT]),
        },
    ),
    "hermes": (
        "conversations",
        {
            "conversations": [
                {"from": "system", "value": f"Call these. <tools>\n[{to_json(BOAT)}]\n</tools>"},
                HUMAN,
                {"from": "gpt", "value": HERMES},
                {"from": "tool", "value": "done"},
                {"from": "gpt", "value": "It is booked."},
            ],
        },
    ),
    "toolace": (
        "conversations",
        {
            "system": f"Here is a list of functions in JSON format:\n[{to_json(BOAT)}]\nAnd so on.",
            "conversations": [
                {"from": "user", "value": QUERY},
                {"from": "assistant", "value": '[book_boat(day="Sunday")]'},
            ],
        },
    ),
    "glaive": (
        "glaive",
        {
            "system": f"SYSTEM: You have these functions -\n{json.dumps(BOAT, indent=1)}\n",
            "chat": f"USER: {QUERY}\n\n\nASSISTANT: <functioncall> "
            '{"name": "book_boat", "arguments": \'{"day": "Sunday"}\'} <|endoftext|>\n\n\n'
            'FUNCTION RESPONSE: {"ok": true}\n\n\nASSISTANT: Booked. <|endoftext|>',
        },
    ),
    "bfcl": (
        "bfcl",
        {
            "id": "simple_0",
            "question": [[USER]],
            "function": [BOAT],
            "ground_truth": [{"book_boat": {"day": ["Sunday", "sunday"], "note": [""]}}],
        },
    ),
    "seal-tools": (
        "seal-tools",
        {
            "query": QUERY,
            "calling": [{"api": "book_boat", "parameters": {"day": "Sunday"}, "responses": []}],
        },
    ),
    "callnavi": (
        "callnavi",
        {
            "question": [USER],
            "ground_truth": {"API": ["book_boat"], "parameters": [{"day": "Sunday"}]},
        },
    ),
    "sgd": (
        "sgd",
        {
            "services": ["Boats_1"],
            "turns": [
                {"speaker": "USER", "utterance": QUERY, "frames": []},
                {
                    "speaker": "SYSTEM",
                    "utterance": "Done.",
                    "frames": [
                        {"service_call": {"method": "book_boat", "parameters": {"day": "Sunday"}}}
                    ],
                },
            ],
        },
    ),
    "snips": (
        "snips",
        {"book_boat": [{"data": [{"text": f"{QUERY[:-6]}"}, {"text": "Sunday", "entity": "day"}]}]},
    ),
    "apibank": (
        "apibank",
        {
            "instruction": "Generate an API request.\nAPI descriptions:\n"
            '{"name": "book_boat", "description": "Book.", "input_parameters": '
            '{"day": {"type": "str", "description": "The day."}}, "output_parameters": {}}',
            "input": f"{QUERY}\nGenerate API Request: ",
            "expected_output": "API-Request: [book_boat(day='Sunday')]",
        },
    ),
    "parquet": (
        "parquet",
        {
            "query": QUERY,
            "tools_json": to_json([{"id": "t_1", "document": DOCUMENT}]),
            "calls_json": to_json([CALL]),
        },
    ),
}


def read_one(row: object) -> Lesson:
    (lesson,) = read_row(row, "f:1")[1]
    return lesson


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_every_format_gives_the_request_the_tool_and_the_call(name: str) -> None:
    reader, row = ROWS[name]
    assert read_row(row, "f:1")[0] == reader
    lesson = read_one(row)
    assert lesson.query == QUERY and lesson.names == ("book_boat",)
    assert lesson.calls == (Call(name="book_boat", arguments={"day": "Sunday"}),)
    if name not in ("seal-tools", "callnavi", "sgd"):  # whose documents other files have
        (document,) = lesson.documents
        assert document["name"] == "book_boat" and "day" in document["arguments"]["properties"]


def test_every_reader_has_a_row() -> None:
    tried = {reader for reader, _ in ROWS.values()}
    others = {"answer tree", "toolllama", "toolgen", "transcripts"}  # test_trajectories
    assert READERS.keys() - tried == {"toolbench", "needed", "document", *others}


@pytest.mark.parametrize(
    "row",
    [
        {"query": QUERY, "tools": [BOAT]},
        {"query": QUERY, "api_list": [TOOLBENCH], "relevant APIs": [["Boats", "book_boat"]]},
        {"query": QUERY, "tool": [{"tool_name": "Boats&&book_boat"}]},
        {"query": QUERY, "tool": ["book_boat"]},
        {"query": QUERY, "tools": [BOAT], "answers": " "},
        {"query": QUERY, "tools": [BOAT], "answers": "null", "answer": ""},
        ROWS["parquet"][1] | {"calls_json": "[]"},
    ],
)
def test_a_request_may_come_with_its_tools_alone(row: dict[str, Any]) -> None:
    lesson = read_one(row)
    assert lesson.calls is None and lesson.names[0].split("&&")[-1] == "book_boat"


@pytest.mark.parametrize(
    "row",
    [
        {"query": QUERY, "tools": [BOAT], "calls": []},
        {"query": QUERY, "tools": [BOAT], "answer": "Which boat?"},
        {"conversations": [HUMAN, {"from": "gpt", "value": "Which boat?"}], "tools": [BOAT]},
        {"messages": [USER, {"role": "assistant", "content": "Which boat?"}], "tools": [BOAT]},
    ],
)
def test_an_answer_may_call_nothing(row: dict[str, Any]) -> None:
    lesson = read_one(row)
    assert lesson.calls == () and lesson.answer in ("", "Which boat?")


@pytest.mark.parametrize("text", [HERMES, to_json([CALL]), 'book_boat(day="Sunday")'])
@pytest.mark.parametrize("name", ["answer", "output"])
def test_an_answer_that_calls_is_a_call(text: str, name: str) -> None:
    lesson = read_one({"query": QUERY, "tools": [BOAT], name: text})
    assert lesson.calls == (Call(name="book_boat", arguments={"day": "Sunday"}),)
    assert lesson.answer == "" and lesson.names == ("book_boat",)


def test_what_follows_the_first_answer_is_kept() -> None:
    for name in ("hermes", "glaive"):
        speakers = [turn.speaker for turn in read_one(ROWS[name][1]).turns]
        assert speakers == ["user", "assistant", "tool", "assistant"]


@pytest.mark.parametrize("row", [BOAT, DOCUMENT, {"document_content": to_json(DOCUMENT)}])
def test_a_document_is_a_lesson_without_request(row: dict[str, Any]) -> None:
    assert read_one(row) == Lesson(where="f:1", documents=(DOCUMENT,))


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        ([], "a row is an object, not a list"),
        ({"prompt": [USER], "chosen": [], "rejected": []}, "no reader knows a row with the keys"),
        ({"query": " ", "tools": [BOAT]}, "the request is empty"),
        ({"query": QUERY, "tools": [BOAT], "calls": ["go"]}, "its calls cannot be read"),
        ({"query": QUERY, "tools": [BOAT], "calls": "go"}, "is no list of calls"),
        (
            {"query": QUERY, "tools": [BOAT], "calls": [{"name": "f", "arguments": "{"}]},
            "its calls cannot be read",
        ),
        ({"query": QUERY, "tools": [{"description": "?"}], "calls": []}, "has no name"),
        ({"messages": [ASSISTANT, USER], "tools": [BOAT]}, "begins with assistant, user"),
        ({"messages": [USER], "tools": [BOAT]}, "begins with user: a request and its answer"),
        ({"messages": [USER, USER, ASSISTANT]}, "begins with user, user"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "the unknown role"),
        ({"messages": [USER, ASSISTANT]}, "neither tools nor calls"),
        ({"messages": "x"}, "no list of messages"),
        ({"tools": [BOAT], "talk": [USER, ASSISTANT]}, "no reader knows"),
        ({"prompt": QUERY, "function": BOAT}, "no reader knows"),
        ({"function": BOAT, "ground_truth": []}, "no reader knows"),
        ({"tools": []}, "neither a request nor a document"),
        (NOT_JSON, "NaN"),
        ({"id": "a", "ground_truth": [{"sail": {"knots": [float("nan")]}}]}, "NaN"),
        ({"query": QUERY, "tools": [NOT_JSON]}, "NaN"),
        ({"messages": [USER, ASSISTANT | {"content": None}], "tools": [BOAT]}, "answer is empty"),
        (
            {"messages": [USER, ASSISTANT | {"tool_calls": "null"}], "tools": [BOAT]},
            "answer is empty",
        ),
        ({"query": QUERY, "tools": [BOAT], "answer": "<tool_call>{"}, "cannot be read"),
        ({"query": QUERY, "tools": [BOAT], "calls": [], "output": HERMES}, "its answer calls"),
        ({"chat": "USER: x\nASSISTANT: <functioncall> {no} "}, "property name"),
        ({"question": [[USER], [USER]], "function": [BOAT], "ground_truth": []}, "2 turns"),
        ({"question": QUERY, "ground_truth": {"API": ["a", "b"], "parameters": [{}]}}, "2 APIs"),
        ({"query": QUERY, "api_list": [TOOLBENCH]}, "which of its APIs are relevant"),
        ({"query": QUERY, "calling": [{"api": "book_boat"}]}, "looks like seal-tools, and is not"),
        ({"services": [], "turns": [{}]}, "looks like sgd, and is not"),
    ],
)
def test_a_row_that_cannot_be_used_has_a_reason(row: object, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        read_row(row, "f:1")


def write_lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(to_json(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_good_rows_are_used_beside_bad_ones_with_their_places(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", ROWS["plain"][1], {"odd": 1}, BOAT)
    path.write_text(path.read_text() + "{broken\n")
    found = read_lessons([path])
    assert [each.where for each in found.items] == ["rows.jsonl:1", "rows.jsonl:3"]
    assert [each.where for each in found.bad] == ["rows.jsonl:2", "rows.jsonl:4"]
    assert found.formats == {"plain": 1, "document": 1}


def test_questions_find_their_answers_in_another_file(tmp_path: Path) -> None:
    row = ROWS["bfcl"][1]
    question = {key: part for key, part in row.items() if key != "ground_truth"}
    (tmp_path / "possible_answer").mkdir()
    write_lines(
        tmp_path / "simple.json",
        question,
        question | {"id": "simple_1"},
        question | {"id": "irrelevance_0"},
    )
    answers = [{"id": name, "ground_truth": row["ground_truth"]} for name in ("simple_0", "lost_9")]
    write_lines(tmp_path / "possible_answer" / "simple.json", *answers)
    found = read_lessons([tmp_path])
    assert [each.calls for each in found.items] == [
        (Call(name="book_boat", arguments={"day": "Sunday"}),),
        (),
    ]
    assert {each.cause for each in found.bad} == {
        "no file has the answer of the question simple_1",
        "no file has the question of the answer lost_9",
    }


def test_halves_of_like_named_files_belong_together(tmp_path: Path) -> None:
    row = ROWS["bfcl"][1]
    question = {key: part for key, part in row.items() if key != "ground_truth"}
    (tmp_path / "answers").mkdir()
    for name, day in (("a", "Sunday"), ("b", "Monday")):
        write_lines(tmp_path / f"{name}.json", question)
        truth = [{"book_boat": {"day": [day]}}]
        write_lines(
            tmp_path / "answers" / f"{name}.json", {"id": "simple_0", "ground_truth": truth}
        )
    found = read_lessons([tmp_path])
    days = [call.arguments["day"] for each in found.items for call in each.calls or ()]
    assert days == ["Sunday", "Monday"] and not found.bad
    for name in "ab":
        (tmp_path / f"{name}.json").rename(tmp_path / f"question_{name}.json")
    crossed = read_lessons([tmp_path])
    assert not crossed.items and len(crossed.bad) == 4
    assert all("differ: a.json:1, b.json:1" in each.cause for each in crossed.bad)


def test_a_folder_is_read_with_all_its_tables(tmp_path: Path) -> None:
    plain = {"query": QUERY, "tools": to_json([BOAT]), "calls": to_json([CALL])}
    for name, delimiter in (("x.CSV", ","), ("x.tsv", "\t")):
        with (tmp_path / name).open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, plain, delimiter=delimiter)
            writer.writeheader()
            writer.writerow(plain)
    calls = [CALL, {"name": "sail", "arguments": {"knots": 3}}]
    rows = [{"query": QUERY, "tools": [BOAT], "calls": [call]} for call in calls]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "x.PARQUET")
    found = read_lessons([tmp_path])
    read = [{"name": c.name, "arguments": c.arguments} for x in found.items for c in x.calls or ()]
    assert sorted(map(to_json, read)) == sorted(map(to_json, [*calls, CALL, CALL]))
    assert not found.bad


def test_a_train_split_of_toolbench_names_the_documents_of_each_request(tmp_path: Path) -> None:
    api = TOOLBENCH | {"required_parameters": []}
    corpus = "".join(f"{n}\t{json.dumps(json.dumps(api))}\n".replace('\\"', '""') for n in (1, 2))
    (tmp_path / "corpus.tsv").write_text("docid\tdocument_content\n" + corpus)
    (tmp_path / "qrels.train.tsv").write_text("7\t0\t1\t1\n7\t0\t2\t0\n8\t0\t9\t1\n9\t0\t2\t1\n")
    (tmp_path / "qrels.test.tsv").write_text("1\t0\t1\t1\n")
    quoted = f'7\t"{QUERY} ""Belle"""\n'
    (tmp_path / "train.query.txt").write_text(f"{quoted}{quoted}8\tAnother\n")
    (tmp_path / "test.query.txt").write_text("1\tNot to be taught\n")
    found = read_lessons([tmp_path])
    *documents, asked = found.items
    assert len(documents) == 1 and not any(each.query for each in documents)
    assert (asked.query, asked.calls, asked.names) == (
        f'{QUERY} "Belle"', None, ("Boats&&book_boat",),
    )  # fmt: skip
    assert [each.where for each in found.bad] == [
        "qrels.train.tsv:3",
        "train.query.txt:3",
        "qrels.train.tsv",
    ]


def test_the_test_requests_of_toolbenchs_folder_are_not_taught(tmp_path: Path) -> None:
    api = TOOLBENCH | {"required_parameters": []}
    rows = [
        {"query_id": n, "query": text, "api_list": [api], "relevant APIs": [["Boats", "book_boat"]]}
        for n, text in enumerate(("Taught", "Of the test"))
    ]
    for name in ("instruction", "test_query_ids"):
        (tmp_path / name).mkdir()
    (tmp_path / "instruction" / "G1_query.json").write_text(to_json(rows))
    (tmp_path / "test_query_ids" / "G1_instruction.json").write_text("[1]")
    (tmp_path / "instruction" / "G2_query.json").write_text(to_json(rows))
    write_lines(tmp_path / "own.jsonl", ROWS["plain"][1])
    found = read_lessons([tmp_path])
    assert [each.query for each in found.items] == ["", "Taught", QUERY]
    (unknown,) = found.bad
    assert unknown.where == "G2_query.json" and "no list says" in unknown.cause


def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no data"):
        read_lessons([tmp_path])
    with pytest.raises(InputError, match="cannot read"):
        read_lessons([tmp_path / "absent.jsonl"])
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="cannot read"):
        read_lessons([tmp_path])


ARGUMENTS = ['{"x": 5.0, "y": [1, 2.5]}', '{"x": {"b": null, "a": []}}', '{"x": "naïve \\"q\\""}']


@pytest.mark.parametrize(
    ("to", "suffix"),
    [*((to, "jsonl") for to in ("trl", "openai", "sharegpt", "xlam")), ("parquet", "parquet")],
)
def test_what_export_writes_is_read_back(tmp_path: Path, to: Format, suffix: str) -> None:
    ledger = Ledger(tmp_path)
    document = DOCUMENT | {"arguments": {"type": "dict", "properties": {"x": {"type": "any"}}}}
    texts = [f'[{{"name": "book_boat", "arguments": {text}}}]' for text in ARGUMENTS]
    common = {"round": 1, "judgement": 1, "status": "accepted"}
    tools = to_json([{"id": "t_1", "document": document}])
    rows = [
        common | {"query_id": f"q_{n}", "tools_json": tools, "calls_json": text}
        for n, text in enumerate(texts)
    ]
    queries = [{"query_id": f"q_{n}", "text": QUERY} for n in range(len(texts))]
    ledger.append({"query": queries, "sample": rows})  # type: ignore[typeddict-item]
    export(ledger, to, tmp_path / f"out.{suffix}")
    found = read_lessons([tmp_path / f"out.{suffix}"])
    written = [
        [{"name": c.name, "arguments": c.arguments} for c in x.calls or ()] for x in found.items
    ]
    assert [to_json(calls) for calls in written] == texts and not found.bad
    assert {each.query for each in found.items} == {QUERY}
    assert {each.documents[0]["name"] for each in found.items} == {"book_boat"}


@pytest.mark.parametrize(
    ("path", "documents", "lessons", "bad"),
    [
        ("seal_tools/Seal-Tools_Dataset/tool.jsonl", 4076, 0, 0),
        ("seal_tools/Seal-Tools_Dataset/dev.jsonl", 0, 700, 0),
        ("callnavi/Dataset/Questions", 0, 723, 6),
        ("sgd/train", 53, 1589, 0),
        ("snips_nlu/2017-06-custom-intent-engines/RateBook/train_RateBook.json", 0, 300, 0),
        ("stabletoolbench/test_instruction", 0, 215, 0),
        ("stabletoolbench/corpus.jsonl", 2479, 0, 0),
        ("toolbench_openbmb/history/data_retriever_G1_demo_corpus.tsv", 7, 0, 0),
        ("toolbench_openbmb/history/data_retriever_G1_demo_qrels.train.tsv", 5, 1, 0),
        ("toolsense/realistic_retrieval.jsonl", 0, 140, 0),
        ("metatool/dataset/data/multi_tool_query_golden.json", 0, 497, 0),
        ("mcp_servers/servers.jsonl", 1008, 0, 0),
    ],
)
def test_real_files(path: str, documents: int, lessons: int, bad: int) -> None:
    if not (DATA / path).exists():
        pytest.skip(f"../shared/data/{path} is not here")
    found = read_lessons([DATA / path])
    asked = [each for each in found.items if each.query]
    assert (len(found.items) - len(asked), len(asked), len(found.bad)) == (documents, lessons, bad)
