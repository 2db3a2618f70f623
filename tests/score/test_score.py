"""Benchmarks, scores, intervals and the gate."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from factory.domain.failures import ChildError, ContentError
from factory.domain.records import Call, Checkpoint, Completion, ItemScore, Reply, Request, Score
from factory.engines.replay import ReplayEngine
from factory.ledger.history import LanguageKept
from factory.score.calls.bfcl import check_ast, gold_calls
from factory.score.calls.judging import judge
from factory.score.calls.kind import Benchmark, make_request
from factory.score.estimates import Estimate, paired_delta, subtract, summarise
from factory.score.gate import Decision, gate, hold_without_language
from factory.score.items import Item
from factory.tools.dialects import to_document
from factory.workspace.folder import Workspace, shipped_root
from factory.workspace.prompts import Prompts

DEFINITION = """
title = "Tables and lamps"
split = "dev"
questions = "tiny"
prefix = "tiny_"
categories = ["simple", "parallel"]
"""
BOOK = {
    "name": "book_table",
    "description": "Book a table.",
    "parameters": {
        "type": "dict",
        "properties": {
            "people": {"type": "integer", "description": "How many."},
            "parameters": {"type": "string", "description": "A name that is also a key."},
        },
        "required": ["people"],
    },
}
CHECKPOINT = Checkpoint(id="r1", path="/models/r1", fingerprint="sha256:1")


def question(number: int, category: str, *functions: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"{category}_{number}",
        "question": [[{"role": "user", "content": f"Book a table for {number}."}]],
        "function": list(functions) or [BOOK],
    }


def answer(number: int, category: str) -> dict[str, Any]:
    gold = [{"book_table": {"people": [number]}}]
    if category == "parallel":
        gold.append({"book_table": {"people": [number + 1]}})
    return {"id": f"{category}_{number}", "ground_truth": gold}


def write_lines(file: Path, rows: Sequence[object]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A workspace with the benchmark `tiny`: 4 simple and 2 parallel items."""
    (tmp_path / "factory.toml").write_text("")
    for category, count in (("simple", 4), ("parallel", 2)):
        folder = tmp_path / "eval" / "tiny"
        name = f"tiny_{category}.json"
        write_lines(folder / name, [question(n, category) for n in range(count)])
        write_lines(folder / "possible_answer" / name, [answer(n, category) for n in range(count)])
    (tmp_path / "eval" / "tiny.toml").write_text(DEFINITION)
    return Workspace(tmp_path)


def write_answer(calls: Sequence[Call]) -> str:
    """Calls as a model writes them."""
    blocks = [json.dumps({"name": call.name, "arguments": call.arguments}) for call in calls]
    return "\n".join(f"<tool_call>\n{block}\n</tool_call>" for block in blocks)


def gold_answers(benchmark: Benchmark) -> dict[str, list[str]]:
    """The right answer to every request of a benchmark."""
    return {
        f"score/{benchmark.name}/{item.id}": [write_answer(gold_calls(item.ground_truth))]
        for item in benchmark.items
    }


def marks(category: str, text: str) -> list[ItemScore]:
    """Item scores from a string of 1 (right) and 0."""
    return [
        ItemScore(
            item=f"{category}_{n}",
            category=category,
            correct=mark == "1",
            reason="",
            message="",
            answer="",
        )
        for n, mark in enumerate(text)
    ]


# Benchmarks


def test_load(workspace: Workspace) -> None:
    benchmark = Benchmark.load(workspace, "tiny")
    assert (benchmark.name, benchmark.split) == ("tiny", "dev")
    assert benchmark.categories == ("simple", "parallel")
    assert [item.id for item in benchmark.items[3:5]] == ["simple_3", "parallel_0"]
    item = benchmark.items[0]
    assert item.query == "Book a table for 0."
    assert item.documents[0]["arguments"] == BOOK["parameters"]


def test_messages_before_the_user_join_the_query(workspace: Workspace) -> None:
    first = question(0, "simple")
    first["question"] = [
        [{"role": "system", "content": "Today is Monday."}, {"role": "user", "content": "Book."}]
    ]
    rows = [first, *(question(n, "simple") for n in range(1, 4))]
    write_lines(workspace.root / "eval/tiny/tiny_simple.json", rows)
    assert Benchmark.load(workspace, "tiny").items[0].query == "Today is Monday.\n\nBook."


def test_absolute_questions_folder(workspace: Workspace, tmp_path: Path) -> None:
    moved = (tmp_path / "eval" / "tiny").rename(tmp_path / "elsewhere")
    definition = DEFINITION.replace('"tiny"', json.dumps(str(moved)))
    (tmp_path / "eval" / "tiny.toml").write_text(definition)
    assert len(Benchmark.load(workspace, "tiny").items) == 6


def test_a_function_is_a_document_by_another_word() -> None:
    document = to_document(BOOK)
    assert list(document) == ["name", "description", "arguments"]
    assert "parameters" in document["arguments"]["properties"]
    assert list(document.values()) == list(BOOK.values())


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ('split = "dev"', 'split = "train"', "split"),
        ('split = "dev"', "", "split"),
        ('title = "', 'titel = "', "titel"),
        ('["simple", "parallel"]', "[]", "categories"),
        ('["simple", "parallel"]', '["simple", "live"]', "no such file"),
        ("title", "title title", "not valid TOML"),
    ],
)
def test_broken_definition(workspace: Workspace, old: str, new: str, what: str) -> None:
    assert old in DEFINITION
    (workspace.root / "eval" / "tiny.toml").write_text(DEFINITION.replace(old, new))
    with pytest.raises(ContentError, match=what):
        Benchmark.load(workspace, "tiny")


def break_question(**changes: Any) -> Callable[[Path], None]:
    """Change the keys of question 2 of the file; None takes the key away."""

    def apply(folder: Path) -> None:
        row = question(1, "simple") | changes
        kept = {key: value for key, value in row.items() if value is not None}
        write_lines(folder / "tiny_simple.json", [question(0, "simple"), kept])

    return apply


def break_answer(ground_truth: object) -> Callable[[Path], None]:
    """Put another gold in line 2 of the answers."""

    def apply(folder: Path) -> None:
        rows = [answer(n, "simple") for n in range(4)]
        rows[1]["ground_truth"] = ground_truth
        write_lines(folder / "possible_answer" / "tiny_simple.json", rows)

    return apply


def break_text(text: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / "tiny_simple.json").write_text(text)

    return apply


def function_with(**parameters: Any) -> list[dict[str, Any]]:
    return [BOOK | {"parameters": {"type": "dict", "properties": {}} | parameters}]


@pytest.mark.parametrize(
    ("damage", "what", "line"),
    [
        (break_question(id=None), "'id' must be", 2),
        (break_question(id="simple_99"), "question simple_99 has no answer", 2),
        (break_question(id="simple_0"), "two questions have the id simple_0", 0),
        (break_question(question=[]), "'question' must be", 2),
        (break_question(question=["Book a table"]), "'question' must be", 2),
        (break_question(question=[[], []]), "2 turns", 2),
        (break_question(function=[]), "'function' must be", 2),
        (break_question(function=["book"]), "a function must be an object", 2),
        (break_question(function=[{"parameters": {}}]), "'name' must be", 2),
        (break_question(function=[{"name": "f"}]), "'parameters' must be", 2),
        (break_question(function=[{"name": "f", "parameters": {"type": "dict"}}]), "'prop", 2),
        (break_question(function=function_with(properties={"x": {}})), "x: None is no BFCL", 2),
        (
            break_question(function=function_with(properties={"x": {"type": "number"}})),
            "x: 'number' is no BFCL type",
            2,
        ),
        (
            break_question(
                function=function_with(
                    properties={"x": {"type": "array", "items": {"type": "String"}}}
                )
            ),
            "x: 'String' is no BFCL type",
            2,
        ),
        (break_question(function=function_with(required=["x"])), "'required' names", 2),
        (break_answer([]), "'ground_truth' must be", 2),
        (break_answer([{"a": {}, "b": {}}]), "an expected call must be", 2),
        (break_answer([{"ring_up": {}}]), "expects 'ring_up', which is not offered", 2),
        (break_answer([{"book_table": {"people": 4}}]), "no list of allowed values", 2),
        (break_text("\n"), "no questions", 0),
        (break_text('{"id": 1}\n{"id": '), "'id' must be", 1),
        (break_text("{\n"), "not valid JSON", 1),
        (break_text("[" * 100_000), "not valid JSON", 1),
        (break_text("[1]\n"), "must be a JSON object", 1),
    ],
)
def test_broken_questions(
    workspace: Workspace, damage: Callable[[Path], None], what: str, line: int
) -> None:
    damage(workspace.root / "eval" / "tiny")
    with pytest.raises(ContentError, match=what) as caught:
        Benchmark.load(workspace, "tiny")
    assert not line or caught.value.where.endswith(f"tiny_simple.json:{line}")


def test_missing_benchmark(workspace: Workspace) -> None:
    with pytest.raises(ContentError, match=r"no such file: eval/nowhere\.toml"):
        Benchmark.load(workspace, "nowhere")


@pytest.mark.parametrize(("name", "split"), [("home", "test"), ("home-dev", "dev")])
def test_shipped_benchmarks_accept_their_gold(name: str, split: str) -> None:
    benchmark = Benchmark.load(Workspace(shipped_root()), name)
    assert benchmark.split == split
    assert benchmark.categories == ("simple", "multiple", "parallel", "parallel_multiple")
    for item in benchmark.items:
        calls = gold_calls(item.ground_truth)
        assert check_ast(calls, item.functions, item.ground_truth).correct, item.id


# Scores


def run_score(
    benchmark: Benchmark, workspace: Workspace, answers: dict[str, list[str]]
) -> tuple[Score, list[ItemScore]]:
    engine = ReplayEngine(answers, checkpoint=CHECKPOINT)
    items = asyncio.run(benchmark.ask(engine, Prompts.load(workspace)))
    return benchmark.summary(CHECKPOINT.id, items), items


def test_right_answers_score_100(workspace: Workspace) -> None:
    benchmark = Benchmark.load(workspace, "tiny")
    total, items = run_score(benchmark, workspace, gold_answers(benchmark))
    assert total == Score(
        benchmark="tiny",
        checkpoint="r1",
        value=100.0,
        low=100.0,
        high=100.0,
        categories={"simple": 100.0, "parallel": 100.0},
        num_items=6,
    )
    assert [item.item for item in items] == [item.id for item in benchmark.items]
    assert {item.reason for item in items} == {""}


def test_wrong_answers_say_why(workspace: Workspace) -> None:
    benchmark = Benchmark.load(workspace, "tiny")
    answers = gold_answers(benchmark) | {
        "score/tiny/simple_0": ["I cannot help."],
        "score/tiny/simple_1": [write_answer([Call(name="book_table", arguments={"people": 9})])],
        "score/tiny/parallel_0": ["<tool_call>\n{'name': 'book_table'\n</tool_call>"],
    }
    total, items = run_score(benchmark, workspace, answers)
    reasons = {item.item: item.reason for item in items if not item.correct}
    assert reasons == {
        "simple_0": "no_tool_call",
        "simple_1": "wrong_value",
        "parallel_0": "call_json",
    }
    assert all(item.message for item in items if not item.correct)
    assert items[0].answer == "I cannot help."
    assert total.categories == {"simple": 50.0, "parallel": 50.0}
    assert total.low < total.value == 50.0 < total.high


def make_reply(text: str, finish_reason: str) -> Reply:
    completion = Completion(text=text, token_ids=(), finish_reason=finish_reason, logprob=0.0)
    return Reply(request_id="score/tiny/simple_4", completions=(completion,), num_prompt_tokens=9)


RIGHT_TEXT = write_answer([Call(name="book_table", arguments={"people": 4})])


@pytest.mark.parametrize(
    ("text", "finish_reason", "reason"),
    [
        (RIGHT_TEXT, "stop", ""),
        (RIGHT_TEXT + "\nDone.", "stop", ""),
        ("", "prompt_too_long", "prompt_too_long"),
        (RIGHT_TEXT[:40], "length", "truncated"),
        (RIGHT_TEXT.replace("4}", "4,}"), "stop", "call_json"),
        ("", "stop", "no_tool_call"),
    ],
)
def test_judge(text: str, finish_reason: str, reason: str) -> None:
    item = Item(
        id="simple_4",
        category="simple",
        query="Book a table for 4.",
        functions=(BOOK,),
        ground_truth=({"book_table": {"people": [4]}},),
    )
    found = judge(item, make_reply(text, finish_reason))
    assert (found.correct, found.reason) == (not reason, reason)
    assert (found.item, found.category, found.answer) == ("simple_4", "simple", text)


def test_request_is_greedy_and_shows_the_documents(workspace: Workspace) -> None:
    benchmark = Benchmark.load(workspace, "tiny").narrow(max_tokens=64)
    request = make_request(benchmark, benchmark.items[1], Prompts.load(workspace))
    assert (request.sampling.n, request.sampling.temperature) == (1, 0.0)
    assert request.sampling.max_tokens == 64
    system, user = request.messages
    assert json.dumps(to_document(BOOK)) in system.content
    assert user.content == "Book a table for 1."


class MeetingEngine:
    """Replies only once all expected requests are in flight; request `broken` fails."""

    def __init__(self, inner: ReplayEngine, expected: int, broken: str = "") -> None:
        self.inner = inner
        self.expected = expected
        self.broken = broken
        self.num_cancelled = 0
        self.met = asyncio.Event()

    @property
    def checkpoint(self) -> Checkpoint:
        return self.inner.checkpoint

    async def sample(self, requests: Sequence[Request]) -> list[Reply]:
        if requests[0].id == self.broken:
            raise ChildError("the sampling child died 4 times")
        self.expected -= len(requests)
        if not self.expected:
            self.met.set()
        try:
            await asyncio.wait_for(self.met.wait(), timeout=10)
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        return await self.inner.sample(requests)

    async def close(self) -> None:
        await self.inner.close()


def test_all_items_are_in_flight_at_once(workspace: Workspace) -> None:
    benchmark = Benchmark.load(workspace, "tiny")
    heard: list[tuple[int, int]] = []

    async def run() -> Score:
        inner = ReplayEngine(gold_answers(benchmark), checkpoint=CHECKPOINT)
        items = await benchmark.ask(
            MeetingEngine(inner, len(benchmark.items)),
            Prompts.load(workspace),
            progress=lambda done, all_items: heard.append((done, all_items)),
        )
        return benchmark.summary(CHECKPOINT.id, items)

    assert asyncio.run(run()).value == 100.0
    assert heard == [(done, 6) for done in range(1, 7)]


def test_a_dead_engine_ends_the_scoring(workspace: Workspace) -> None:
    benchmark = Benchmark.load(workspace, "tiny")

    async def run() -> int:
        inner = ReplayEngine(gold_answers(benchmark), checkpoint=CHECKPOINT)
        engine = MeetingEngine(inner, len(benchmark.items), broken="score/tiny/parallel_1")
        with pytest.raises(ChildError):
            await benchmark.ask(engine, Prompts.load(workspace))
        return engine.num_cancelled

    assert asyncio.run(run()) == 5


def test_summary_is_the_mean_of_categories() -> None:
    total = summarise("tiny", "r1", marks("simple", "1110") + marks("parallel", "0" * 20))
    assert total.categories == {"simple": 75.0, "parallel": 0.0}
    assert total.value == 37.5
    assert total.num_items == 24


def test_interval_is_that_of_the_binomial() -> None:
    """For one category the bootstrap is binomial resampling: sd = sqrt(p (1 - p) / n)."""
    total = summarise("tiny", "r1", marks("simple", "10" * 200))
    assert total.high - total.low == pytest.approx(2 * 1.96 * 2.5, rel=0.08)
    assert total == summarise("tiny", "r1", marks("simple", "10" * 200))


def test_an_interval_does_not_depend_on_the_order_of_items() -> None:
    items = [*marks("simple", "1101000"), *marks("parallel", "01100"), *marks("multiple", "100")]
    forth, back = (summarise("tiny", "r1", order) for order in (items, items[::-1]))
    assert (forth.value, forth.low, forth.high) == (back.value, back.low, back.high)


def test_stratified_interval_is_narrower_than_its_categories() -> None:
    items = [item for name in ("a", "b", "c", "d") for item in marks(name, "10" * 50)]
    total = summarise("tiny", "r1", items)
    assert total.high - total.low == pytest.approx(2 * 1.96 * 5.0 / 2, rel=0.08)


def test_paired_delta() -> None:
    before = marks("simple", "1100") + marks("parallel", "00")
    after = marks("simple", "1110") + marks("parallel", "10")
    delta = paired_delta(before, after[::-1])
    assert delta.value == pytest.approx((25.0 + 50.0) / 2)
    assert delta.low <= delta.value <= delta.high
    assert paired_delta(before, before) == (0.0, 0.0, 0.0)
    weights = {"simple": 0.9, "parallel": 0.1}
    scores = [summarise("tiny", "r", items, weights).value for items in (before, after)]
    assert paired_delta(before, after, weights).value == pytest.approx(27.5)
    assert scores[1] - scores[0] == pytest.approx(27.5)


def test_paired_delta_is_narrower_than_two_intervals() -> None:
    before = marks("simple", "10" * 100)
    after = [replace(item, correct=True) if n < 10 else item for n, item in enumerate(before)]
    delta = paired_delta(before, after)
    assert delta.value == pytest.approx(2.5)
    assert delta.high - delta.low < 6 < summarise("t", "r", before).high - 50


def test_paired_delta_needs_the_same_items() -> None:
    with pytest.raises(ValueError, match="same items"):
        paired_delta(marks("simple", "10"), marks("simple", "101"))


def test_only_numbers_that_both_have_change() -> None:
    """The rest of the details stays; a number alone, or beside another kind of value, goes."""
    (item,) = marks("simple", "1")
    was = {"both": 1, "null": None, "true": True, "gone": 3, "text": "a"}
    now = {"both": 4.5, "null": 2, "true": 1, "new": 3, "text": "b", "none": None, "flag": True}
    before, after = (replace(item, detail=each) for each in (was, now))
    (found,) = subtract([before], [after])
    kept = {"both": 3.5, "text": "b", "none": None, "flag": True}
    assert found.detail == kept and found.mark == 0


# The gate


def make_score(value: float, benchmark: str = "home-dev") -> Score:
    return Score(
        benchmark=benchmark, checkpoint="r1", value=value, low=value, high=value, num_items=120
    )


@pytest.mark.parametrize(
    ("after", "promote", "words"),
    [
        (52.0, True, "home-dev rose from 50.0 to 52.0 (+2.0 points, 95 % interval "),
        (50.0, True, "home-dev stayed the same, from 50.0 to 50.0"),
        (49.5, True, "fell from 50.0 to 49.5 (-0.5 points"),
        (49.0, True, "within the tolerance of 1 points"),
        (48.9, False, "more than the tolerance of 1 points"),
        (0.0, False, "fell from 50.0 to 0.0"),
    ],
)
def test_gate(after: float, promote: bool, words: str) -> None:
    delta = Estimate(after - 50.0, after - 53.0, after - 47.0)
    decision = gate(make_score(50.0), make_score(after), delta, tolerance=1.0)
    assert decision.promote is promote
    assert words in decision.reason


@pytest.mark.parametrize(
    ("kept", "limit", "promote", "reason"),
    [
        (
            LanguageKept(14.6, 18.3, since=1, first=1),
            1.25,
            False,
            "perplexity of plain text rose from 14.6 to 18.3, more than 1.25 times "
            "(score.language); else: home-dev rose",
        ),
        (LanguageKept(14.6, 18.2, since=1, first=1), 1.25, True, "home-dev rose"),
        (LanguageKept(14.6, 1e27, since=4, first=1), 0.0, True, "home-dev rose"),
        (None, 0.0, True, "home-dev rose"),
        (
            None,
            1.25,
            True,
            "home-dev rose; perplexity of plain text was not measured, so score.language decided "
            "nothing",
        ),
        (
            LanguageKept(14.6, 18.2, since=4, first=1),
            1.25,
            True,
            "home-dev rose; perplexity of plain text is compared with that before round 4: before "
            "round 1, the lineage's first, this text was not read",
        ),
    ],
)
def test_a_checkpoint_that_lost_its_language_is_held(
    kept: LanguageKept | None, limit: float, promote: bool, reason: str
) -> None:
    decision = hold_without_language(Decision(True, "home-dev rose"), kept, limit)
    assert decision == Decision(promote, reason)


def test_a_decision_to_hold_names_the_round_that_language_is_compared_with() -> None:
    kept = LanguageKept(1.0, 2.0, since=4, first=1)
    held, reason = hold_without_language(Decision(True, "home-dev rose"), kept, 1.5)
    assert not held
    assert "before round 4" in reason and reason.endswith("not read; else: home-dev rose")


def test_gate_compares_one_benchmark() -> None:
    with pytest.raises(ValueError, match="home"):
        gate(make_score(1.0, "home"), make_score(1.0), Estimate(0, 0, 0), tolerance=1.0)
