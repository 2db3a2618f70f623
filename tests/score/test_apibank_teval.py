"""API-Bank and T-Eval on files of their formats, written here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from workspaces import make_workspace

from factory.cli.monitor import PlainMonitor
from factory.domain.canon import canonical_json, digest
from factory.domain.failures import ContentError, InputError, MissingError
from factory.domain.records import (
    PROMPT_TOO_LONG,
    Call,
    Completion,
    FinishReason,
    ItemScore,
    Reply,
    Request,
)
from factory.engines.base import unanswered
from factory.engines.replay import ReplayEngine
from factory.score import apibank, teval
from factory.score.asking import grade
from factory.score.base import Setup
from factory.score.calls.decode import Reading
from factory.score.estimates import combine, group_marks
from factory.score.loading import load
from factory.workspace.settings import load_settings


def write_calls(syntax: str, *calls: tuple[str, dict[str, Any]]) -> str:
    """Calls as a family of models writes them."""
    rows = [json.dumps({"name": name, "arguments": values}) for name, values in calls]
    match syntax:
        case "hermes":
            return "\n".join(f"<tool_call>\n{row}\n</tool_call>" for row in rows)
        case "json":
            return f"[{', '.join(rows)}]" if len(rows) > 1 else rows[0]
        case "llama":
            return "".join(f"<function={n}>{json.dumps(v)}</function>" for n, v in calls)
        case "mistral":
            return f"[TOOL_CALLS] [{', '.join(rows)}]"
        case _:
            texts = (f"{n}({', '.join(f'{k}={v!r}' for k, v in of.items())})" for n, of in calls)
            return ", ".join(texts) if len(calls) == 1 else f"[{', '.join(texts)}]"


SYNTAXES = ("hermes", "json", "python", "llama", "mistral")


def means_of(items: Sequence[ItemScore]) -> dict[str, float]:
    """Percent by category."""
    return {name: 100 * float(marks.mean()) for name, marks in group_marks(items).items()}


# API-Bank ---------------------------------------------------------------------------------

DESCRIPTION = '{"name": "SetLamp", "input_parameters": {"room": {"type": "str"}}}'


def turn(number: int, expected: str, **changes: Any) -> dict[str, Any]:
    return {
        "file": "SetLamp-level-1-1.jsonl",
        "id": number,
        "instruction": f"\nGenerate an API request.\nAPI descriptions:\n{DESCRIPTION}",
        "input": "User: Light in the hall.\nGenerate API Request:\n",
        "expected_output": f"API-Request: [{expected}]",
        **changes,
    }


CALLS = ["SetLamp(room='hall', level='high')", "Sum(a=1, b=[2, 3])"]
SEARCH = ["ToolSearcher(keywords='lamp')"]


def write_apibank(folder: Path, base: str = ".") -> Path:
    (folder / base).mkdir(parents=True, exist_ok=True)
    levels = {"level-1-api.json": CALLS, "level-2-api.json": SEARCH}
    for name, expected in levels.items():
        rows = [turn(number, call) for number, call in enumerate(expected)]
        (folder / base / name).write_text(json.dumps(rows))
    return folder


@pytest.mark.parametrize("base", [".", "json_test_data", "test-data"])
def test_apibank_loads(tmp_path: Path, base: str) -> None:
    turns = apibank.load_apibank(write_apibank(tmp_path, base))
    assert [each.category for each in turns] == ["Call", "Call", "Retrieve+Call"]
    assert turns[0].expected == Call(name="SetLamp", arguments={"room": "hall", "level": "high"})
    assert turns[0].id == "SetLamp-level-1-1#0"
    assert "SetLamp" in turns[0].instruction


def test_apibank_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no turns"):
        apibank.load_apibank(tmp_path)
    file = tmp_path / "level-1-api.json"
    for text, where in (
        ("{", str(file)),
        ("{}", str(file)),
        (json.dumps([turn(0, "x()"), {"file": 1}]), f"{file}#1"),
        (json.dumps([turn(0, "no call")]), f"{file}#0"),
    ):
        file.write_text(text)
        with pytest.raises(ContentError) as error:
            apibank.load_apibank(tmp_path)
        assert error.value.where == where


@pytest.mark.parametrize(
    ("text", "name", "arguments"),
    [
        ("API-Request: [A(x='1', y=\"it's\")]", "A", {"x": "1", "y": "it's"}),
        ("Sure! [A()] done", "A", {}),
        ("[A(x=1, y=-2.5, z=True)]", "A", {"x": "1", "y": "-2.5", "z": "True"}),
        ("[A(x=['a', 'b'])]", "A", {"x": "['a', 'b']"}),
        ("[A(x='a, b=c', y='(d)')]", "A", {"x": "a, b=c", "y": "(d)"}),
        ("[A(x='it's broken', y='2')]", "A", {"x": "it", "y": "2"}),
        ("[A(x=2023-01-02)]", "A", {"x": "2023-01-02"}),
    ],
)
def test_apibank_calls_are_read(text: str, name: str, arguments: dict[str, str]) -> None:
    assert apibank.parse_call(text) == Call(name=name, arguments=arguments)


@pytest.mark.parametrize("text", ["", "A(x='1')", "[A]", "[A(x='1')", "[]"])
def test_what_is_no_call_of_apibank(text: str) -> None:
    assert apibank.parse_call(text) is None


@given(st.text(max_size=80))
def test_reading_a_call_never_fails(text: str) -> None:
    apibank.parse_call(text)
    apibank.parse_call(f"[A({text})]")


def answer_with(*answers: str) -> ReplayEngine:
    table = iter(answers)
    return ReplayEngine(lambda _: [next(table)])


def score_apibank(folder: Path, engine: ReplayEngine, **options: Any) -> list[ItemScore]:
    turns = apibank.load_apibank(folder)
    return asyncio.run(apibank.score_apibank(engine, turns, **options))


def test_apibank_grades(tmp_path: Path) -> None:
    engine = answer_with(
        "API-Request: [SetLamp(level='high', room='hall')]", "[Sum(a=1, b=[2])]", "I would search"
    )
    grades = score_apibank(write_apibank(tmp_path), engine)
    assert [grade.reason for grade in grades] == ["", "wrong_value", "no_tool_call"]
    assert means_of(grades) == {"Call": 50, "Retrieve+Call": 0}
    assert combine(group_marks(grades), apibank.TOOLDEV).value == 25
    assert [m.role for m in engine.requests[0].messages] == ["system", "user"]


@pytest.mark.parametrize(
    ("answer", "ending", "syntax", "reason"),
    [
        ("I would search.", "stop", "auto", "no_tool_call"),
        ("I would sear", "length", "auto", "truncated"),
        ("<think>Which one", "stop", "auto", "truncated"),
        ("[SetLamp(level='high', ro", "length", "auto", "truncated"),
        ("[SetLamp(level='high', ro", "stop", "auto", "unreadable_call"),
        ('<tool_call>{"name": "SetLamp", </tool_call>', "stop", "auto", "unreadable_call"),
        ("<tool_call>SetLamp high</tool_call>", "stop", "hermes", "unreadable_call"),
        ("<tool_call>SetLamp high</tool_call>", "stop", "official", "unreadable_call"),
        ('{"name": "SetLamp", "arguments": {}}', "stop", "official", "no_tool_call"),
        ('{"name": "A", "arguments": {}}\n' * 2, "stop", "auto", "several_calls"),
        ('{"name": "SetLamp", "arguments": {}}', "length", "auto", "wrong_value"),
    ],
)
def test_apibank_tells_broken_and_cut_answers_from_wrong_ones(
    tmp_path: Path, answer: str, ending: FinishReason, syntax: Reading, reason: str
) -> None:
    due = apibank.load_apibank(write_apibank(tmp_path))[0]
    completion = Completion(text=answer, token_ids=(), finish_reason=ending, logprob=0)
    found = apibank.judge_answer(due, completion, syntax)
    assert (found.correct, found.reason) == (False, reason)
    assert found.message and found.answer == answer


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_apibank_reads_a_right_call_in_every_writing(tmp_path: Path, syntax: str) -> None:
    right = [
        ("SetLamp", {"level": "high", "room": "hall"}),
        ("Sum", {"a": 1, "b": [2, 3]}),
        ("ToolSearcher", {"keywords": "lamp"}),
    ]
    folder = write_apibank(tmp_path)

    def reasons(*answers: str, **options: Any) -> list[str]:
        return [each.reason for each in score_apibank(folder, answer_with(*answers), **options)]

    texts = [write_calls(syntax, call) for call in right]
    assert reasons(*texts) == ["", "", ""]
    assert reasons(*texts, syntax=syntax) == ["", "", ""]
    assert reasons(*texts, syntax="official") == ["no_tool_call"] * 3
    wrong = [("SetLamp", {"level": "low"}), ("Sum", {"a": True, "b": [2, 3]}), ("Lamps", {})]
    assert reasons(*(write_calls(syntax, call) for call in wrong)) == [
        "wrong_value",
        "wrong_value",
        "wrong_tool",
    ]
    assert reasons(texts[0], texts[1], write_calls(syntax, right[2], right[0]))[2] != ""


def test_other_readings_are_other_scores(tmp_path: Path) -> None:
    """What was kept before such answers were read is that of the official reading."""
    folders = {"apibank": tmp_path / "bank", "teval": tmp_path / "teval"}
    write_apibank(folders["apibank"])
    write_teval(folders["teval"])
    workspace = make_workspace(tmp_path / "ws")
    setup = Setup.load(workspace, load_settings(workspace), PlainMonitor())
    for name, folder in folders.items():
        kinds = [
            load(workspace, name, {"data": str(folder), "syntax": syntax})
            for syntax in ("official", *SYNTAXES, "auto")
        ]
        assert len({kind.basis(setup) for kind in kinds}) == len(kinds)
        assert kinds[0].name == f"{name}[syntax=official]"
        assert kinds[0].asked["syntax"] == "official"
    bank = load(workspace, "apibank", {"data": str(folders["apibank"]), "syntax": "official"})
    assert isinstance(bank, apibank.ApiBank)
    asked = [[x.id, x.category, x.instruction, x.dialogue] for x in bank.turns]
    expected = [[x.expected.name, x.expected.arguments] for x in bank.turns]
    assert bank.basis(setup) == digest(canonical_json([asked, expected, False, 256]))


def test_what_the_engine_never_answered_is_said(tmp_path: Path) -> None:
    class Short(ReplayEngine):
        async def sample(self, requests: Sequence[Request]) -> list[Reply]:
            return [unanswered(request, PROMPT_TOO_LONG, 9000) for request in requests]

    engine = Short(lambda _: [""])
    turns = apibank.load_apibank(write_apibank(tmp_path / "bank"))
    items = teval.load_teval(write_teval(tmp_path / "data"))
    for grades in (
        asyncio.run(apibank.score_apibank(engine, turns)),
        asyncio.run(teval.score_teval(engine, items, None)),
    ):
        assert {each.reason for each in grades} == {PROMPT_TOO_LONG}
        assert not any(each.correct for each in grades)


def test_apibanks_score_is_the_mean_of_two_levels() -> None:
    grades = [
        grade(item=str(n), category=category, value=float(n < right))
        for category, right, total in (("Call", 9, 12), ("Retrieve+Call", 1, 4))
        for n in range(total)
    ]
    assert combine(group_marks(grades), apibank.TOOLDEV).value == 50


SIMULATOR = """
class SetLamp:
    def __init__(self, lamps):
        self.lamps = lamps

    def call(self, room, level):
        if room not in self.lamps:
            raise KeyError(room)
        return {"input": {"room": room}, "output": level.lower(), "exception": None}

    def check_api_call_correctness(self, given, expected):
        return given["output"] == expected["output"]


class ToolManager:
    def __init__(self):
        self.tools = {"SetLamp": SetLamp({"hall": 0})}

    def api_call(self, name, **arguments):
        return self.tools[name].call(**arguments)

    def init_tool(self, name):
        return self.tools[name]
"""


def test_apibanks_simulator_has_the_last_word(tmp_path: Path) -> None:
    folder = write_apibank(tmp_path / "bank")
    (folder / "tool_manager.py").write_text(SIMULATOR)
    rows = [turn(n, CALLS[0]) for n in range(5)]
    (folder / "level-1-api.json").write_text(json.dumps(rows))
    engine = answer_with(
        "[SetLamp(room='hall', level='HIGH')]",
        "[SetLamp(room='attic', level='high')]",
        "[SetLamp(room='hall', speed='high')]",
        "[Other(room='hall')]",
        write_calls("hermes", ("SetLamp", {"room": "hall", "level": "HIGH"})),
        "nothing",
    )
    options = {"simulator": folder, "log": tmp_path / "simulator.log"}
    grades = score_apibank(folder, engine, **options)
    assert [grade.reason for grade in grades] == [
        "",
        "wrong_result",
        "wrong_result",
        "wrong_tool",
        "",
        "no_tool_call",
    ]
    assert "KeyError" in grades[1].message
    assert "TypeError" in grades[2].message


def test_a_simulator_that_does_not_start_is_named(tmp_path: Path) -> None:
    folder = write_apibank(tmp_path / "bank")
    (folder / "tool_manager.py").write_text("import a_package_that_nobody_has")
    engine = answer_with(*["[SetLamp(room='hall', level='high')]"] * 3)
    with pytest.raises(MissingError, match="a_package_that_nobody_has"):
        score_apibank(folder, engine, simulator=folder, log=tmp_path / "simulator.log")


# T-Eval -----------------------------------------------------------------------------------

PROMPT = [
    {"role": "system", "content": "You have access to the following API: Home.lamp, Home.heat"},
    {"role": "function", "content": "earlier result"},
    {"role": "user", "content": "Light and warmth in the hall."},
]
PLAN = [
    {"id": 0, "prev": [], "name": "Home.lamp", "args": {"room": "hall"}},
    {"id": 1, "prev": [0], "name": "Home.heat", "args": {"room": "hall"}},
    {"id": 2, "prev": [1], "name": "FinishAction", "args": {}},
]
NEXT = {"thought": "Light first.", "name": "Home.lamp", "args": {"room": "hall", "level": 2}}


def write_teval(folder: Path, version: str = "_v2") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    meta = {"prompt_type": "str", "API_list": ["Home.lamp", "Home.heat"]}
    rows: dict[str, dict[str, Any]] = {
        "plan_json": {"ground_truth": PLAN},
        "plan_str": {"ground_truth": PLAN, "meta": meta},
        "retrieve_str": {"ground_truth": NEXT},
        "understand_str": {"ground_truth": {**NEXT, "args": "hall"}},
        "reason_retrieve_understand_json": {"ground_truth": json.dumps(NEXT)},
    }
    for stem, row in rows.items():
        table = {"q1": {"origin_prompt": PROMPT, **row}}
        (folder / f"{stem}{version}.json").write_text(json.dumps(table))
    return folder


GOOD = {
    "plan_json": json.dumps(PLAN),
    "plan_str": "1. Use Home.lamp to light the hall.\n2. Use Home.heat to warm it.",
    "retrieve_str": "Home.lamp",
    "understand_str": "'hall'",
    "retrieve+understand_json": f"```json\n{json.dumps(NEXT)}\n```",
}


def by_task(answers: dict[str, str]) -> ReplayEngine:
    def answer(request: Request) -> Sequence[str]:
        return [answers[request.id.split("/")[1]]]

    return ReplayEngine(answer)


def score_teval(
    folder: Path, answers: dict[str, str], embed: Any = None, **options: Any
) -> dict[str, float]:
    items = teval.load_teval(folder)
    return means_of(asyncio.run(teval.score_teval(by_task(answers), items, embed, **options)))


@pytest.mark.parametrize("version", ["_v2", "_v1", "_v2_subset", ""])
def test_teval_loads_and_good_answers_get_full_marks(tmp_path: Path, version: str) -> None:
    async def same(texts: Sequence[str]) -> Any:
        """Equal for lines that tell of the same tool."""
        return np.array([[("lamp" in t) or ("hall" in t), "heat" in t] for t in texts], np.float32)

    folder = write_teval(tmp_path / "data", version)
    items = teval.load_teval(tmp_path)
    assert [message.role for message in items[0].messages] == ["system", "user", "user"]
    means = score_teval(folder, GOOD)
    # The arguments of a plan in plain text are a whole line: equal only by embeddings.
    assert means.pop("plan_str") < 100
    assert means.pop("plan_strict_str") < 100
    assert set(means.values()) == {100}
    assert len(means) == 6
    assert score_teval(folder, GOOD, same)["retrieve_json"] == 100


@pytest.mark.parametrize(
    ("task", "answer", "category", "value"),
    [
        ("plan_json", json.dumps(PLAN[:1]), "plan_strict_json", 2 / 3),
        ("plan_json", json.dumps([{**PLAN[1], "id": 0}, {**PLAN[0], "id": 1}]), "plan_json", 0.5),
        ("plan_json", json.dumps([{**PLAN[0], "name": "x"}]), "plan_json", 2 / 3),
        ("plan_json", json.dumps([{**PLAN[0], "name": "x"}]), "plan_strict_json", 0),
        ("plan_json", "I plan nothing", "plan_json", 0),
        ("plan_json", str(PLAN), "plan_json", 1),
        ("plan_json", json.dumps([{"name": "Home.lamp"}]), "plan_json", 0),
        ("plan_json", json.dumps([PLAN[2]]), "plan_json", 0),
        ("plan_str", "Wait.", "plan_str", 0),
        ("retrieve_str", "Use Home.lamp, not Home.heat", "retrieve_str", 0),
        ("retrieve_str", "I use Home.lamp", "retrieve_str", 1),
        ("retrieve_str", "Home.lamp, then FinishAction", "retrieve_str", 0),
        ("understand_str", "the hall", "understand_str", 0),
        ("retrieve+understand_json", '{"name": "Home.heat", "args": {}}', "retrieve_json", 0),
        ("retrieve+understand_json", '{"args": {"level": "2"}}', "understand_json", 0.5),
        ("retrieve+understand_json", "{broken", "understand_json", 0),
        ("retrieve+understand_json", "[1]", "retrieve_json", 0),
    ],
)
def test_teval_grades(tmp_path: Path, task: str, answer: str, category: str, value: float) -> None:
    folder = write_teval(tmp_path)
    for syntax in ("auto", "official"):
        means = score_teval(folder, {**GOOD, task: answer}, syntax=syntax)
        assert means[category] == pytest.approx(100 * value)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_teval_reads_right_calls_in_every_writing(tmp_path: Path, syntax: str) -> None:
    plan = write_calls(syntax, *((row["name"], row["args"]) for row in PLAN[:2]))
    step = write_calls(syntax, ("Home.lamp", {"room": "hall", "level": 2}))
    answers = {
        **dict.fromkeys(("plan_json", "plan_str"), plan),
        **dict.fromkeys(("retrieve_str", "retrieve+understand_json"), step),
        "understand_str": write_calls(syntax, ("Home.lamp", {"room": "hall"})),
    }
    folder = write_teval(tmp_path)
    assert set(score_teval(folder, answers).values()) == {100}
    official = score_teval(folder, answers, syntax="official")
    assert official["plan_json"] == official["understand_json"] == official["understand_str"] == 0
    wrong = write_calls(syntax, ("Home.heat", {"room": "Home.lamp", "level": 2}))
    means = score_teval(folder, dict.fromkeys(GOOD, wrong))
    assert (means["retrieve_str"], means["retrieve_json"]) == (0, 0)
    assert (means["understand_str"], means["understand_json"]) == (0, 50)


def test_arguments_whose_truth_is_an_object_are_read_alone_or_in_a_call(tmp_path: Path) -> None:
    folder = write_teval(tmp_path)
    table = {"q1": {"origin_prompt": PROMPT, "ground_truth": NEXT}}
    (folder / "understand_str_v2.json").write_text(json.dumps(table))
    for answer, value in (
        (json.dumps(NEXT["args"]), 100),
        (json.dumps({"room": "hall", "name": "x", "arguments": {}}), 50),
        (write_calls("hermes", ("Home.lamp", NEXT["args"])), 100),
        (write_calls("json", ("Home.lamp", {"room": "hall"})), 50),
        ("hall", 0),
    ):
        assert score_teval(folder, {**GOOD, "understand_str": answer})["understand_str"] == value


def test_what_is_cut_is_said_of_every_kind(tmp_path: Path) -> None:
    class Cut(ReplayEngine):
        async def sample(self, requests: Sequence[Request]) -> list[Reply]:
            return [
                replace(reply, completions=(replace(reply.completions[0], finish_reason="length"),))
                for reply in await super().sample(requests)
            ]

    turns = apibank.load_apibank(write_apibank(tmp_path / "bank"))
    items = teval.load_teval(write_teval(tmp_path / "data"))
    for grades in (
        asyncio.run(apibank.score_apibank(Cut(lambda _: ["I would"]), turns)),
        asyncio.run(teval.score_teval(Cut(lambda _: ["I would"]), items, None)),
    ):
        assert {each.detail["cut"] for each in grades} == {"max_tokens"}


def test_tevals_score_is_the_mean_of_three_means() -> None:
    """GPT-4-Turbo's 87.8, 88.9 and 85.8 make the 87.50 of ToolDev's Table 2."""
    published = {"plan": 87.8, "retrieve": 88.9, "understand": 85.8}
    grades = [
        grade(item="1", category=f"{task}_{form}", value=(value + shift) / 100)
        for task, value in published.items()
        for form, shift in (("str", -3.0), ("json", 3.0))
    ]
    marks = group_marks(grades)
    found = {name: combine(marks, weights).value for name, weights in teval.TOOLDEV.items()}
    assert {task: round(found[task], 6) for task in published} == published
    assert found["overall"] == pytest.approx(87.50)


@pytest.mark.parametrize(
    ("given_", "truth", "value"),
    [
        ({}, {}, 1),
        ({"a": 1}, {}, 0),
        ({}, {"a": 1}, 0),
        ({"a": "1", "b": 2}, {"a": 1, "c": 3}, 0.5),
        (None, {"a": 1}, 0),
    ],
)
def test_shares_of_arguments(given_: Any, truth: Any, value: float) -> None:
    assert teval.arguments_share(given_, truth) == value


def plan(names: str) -> list[teval.Planned]:
    return [teval.Planned(name=name, arguments="") for name in names]


@given(st.text("abc", max_size=7), st.text("abc", max_size=7))
def test_plans_of_distinct_calls_match_as_their_common_subsequence(a: str, b: str) -> None:
    a, b = "".join(dict.fromkeys(a)), "".join(dict.fromkeys(b))
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1, j + 1] = (
                table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
            )
    expected = 2 * table[-1, -1] / (len(a) + len(b)) if a and b else 0
    assert teval.plan_f1(plan(a), plan(b), {}, strict=True) == pytest.approx(expected)


def test_similar_calls_match_above_the_threshold() -> None:
    vectors = {"lamp": np.array([1.0, 0.0]), "light": np.array([0.9, np.sqrt(0.19)])}
    ours, theirs = [teval.Planned(name="light", arguments="x")], plan("")
    theirs = [teval.Planned(name="lamp", arguments="x")]
    assert teval.plan_f1(ours, theirs, vectors, strict=True) == 1  # 0.75 · 0.9 + 0.25
    theirs = [teval.Planned(name="lamp", arguments="y")]
    assert teval.plan_f1(ours, theirs, vectors, strict=True) == 0  # 0.675 is too little


def test_teval_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no questions"):
        teval.load_teval(tmp_path)
    file = tmp_path / "retrieve_str_v2.json"
    for text, where in (
        ("{", str(file)),
        ("[]", str(file)),
        ('{"q": {"ground_truth": {}}}', f"{file}#q"),
        ('{"q": 1}', f"{file}#q"),
        (json.dumps({"q": {"origin_prompt": PROMPT, "ground_truth": "text"}}), f"{file}#q"),
    ):
        file.write_text(text)
        with pytest.raises(ContentError) as error:
            teval.load_teval(tmp_path)
        assert error.value.where == where
