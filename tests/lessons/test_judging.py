"""Labelled rows judged before they teach, the dev set, and the examples that are made of them."""

from __future__ import annotations

from typing import Any

import pytest
from workspaces import make_workspace

from factory.domain.failures import InputError
from factory.domain.records import Candidate, HeldOut
from factory.judge.rulebook import Rulebook
from factory.lessons.examples import lesson_examples
from factory.lessons.files import _join
from factory.lessons.judging import JudgedLessons, JudgedRow, judge_lessons
from factory.lessons.readers import read_row
from factory.lessons.records import Lessons
from factory.lessons.split import hold_out
from factory.score.loading import load
from factory.tools.rowfiles import BadLine
from factory.workspace.folder import Workspace
from factory.workspace.prompts import Prompts
from factory.workspace.recipe import Recipe


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("lessons") / "ws")


@pytest.fixture(scope="module")
def rulebook(workspace: Workspace) -> Rulebook:
    return Rulebook.load(workspace)


def tool(name: str, **changes: Any) -> dict[str, Any]:
    properties = {"day": {"type": "string", "description": "The day that it is for."}}
    return {
        "name": name,
        "description": f"Do what {name} does for one day.",
        "parameters": {"type": "object", "properties": properties, "required": ["day"]},
    } | changes


def row(query: str, *names: str, day: object = "Sunday", **changes: Any) -> dict[str, Any]:
    return {
        "query": query,
        "tools": [tool(name) for name in names],
        "calls": [{"name": name, "arguments": {"day": day}} for name in names],
    } | changes


def judge(
    rulebook: Rulebook, *rows: dict[str, Any], held_out: tuple[HeldOut, ...] = ()
) -> JudgedLessons:
    items = [x for n, each in enumerate(rows, 1) for x in read_row(each, f"f:{n}")[1]]
    bad: list[BadLine] = []
    lessons = Lessons(items=tuple(_join(items, bad)), bad=tuple(bad), formats={})
    return judge_lessons(lessons, (), rulebook=rulebook, held_out=held_out)


def causes(rows: tuple[JudgedRow, ...]) -> list[str]:
    return [each.rule for each in rows]


def examples_of(
    judged: JudgedLessons, rulebook: Rulebook, workspace: Workspace, coder: str = "residual"
) -> list[tuple[str, str]]:
    """Kind and answer of each example."""
    labelled: list[Candidate] = [x.sample.candidate for x in judged.requests if x.is_accepted]
    made = lesson_examples(
        labelled,
        [each for x in judged.documents for each in x.tools],
        rulebook=rulebook,
        prompts=Prompts.load(workspace),
        recipe=Recipe.model_validate({"codes": {"coder": coder}}),
        number=1,
    )
    return [(each.kind, each.messages[-1].content) for each in made]


def test_calls_are_judged_against_the_tools_that_come_with_them(rulebook: Rulebook) -> None:
    judged = judge(
        rulebook,
        row("Book a boat for Sunday", "book_boat"),
        row("Book a ship for Sunday", "book_ship", day=7),
        row("Book a raft for Sunday", "book_raft", tools=[tool("book_sail")]),
        row("Book a tub for Sunday", "book_tub", tools=[]),
    )
    assert causes(judged.requests) == [
        "",
        "call/wrong_type",
        "call/unknown_tool",
        "call/unknown_tool",
    ]
    fallen = judged.requests[1].sample
    assert fallen.stage == "calls" and fallen.cause
    assert fallen.cause.path == "$[0].arguments.day" and "7 is an integer" in fallen.cause.message


def test_named_tools_are_looked_up_among_documents(rulebook: Rulebook) -> None:
    api = {"tool_name": "Boats", "api_name": "book_boat", "api_description": "Book a boat."}
    api |= {"required_parameters": []}
    other = api | {"tool_name": "Ships"}
    judged = judge(
        rulebook,
        tool("sail"),
        api,
        other,
        {"query": "Sail on Sunday", "calling": [{"api": "sail", "parameters": {"day": "Sunday"}}]},
        {"query": "Get me a ship", "tool": ["Ships&&book_boat"]},
        {"query": "Get me a plane", "tool": ["Planes&&book"]},
    )
    assert causes(judged.requests) == ["", "", "row/no_document"]
    (ship,) = judged.requests[1].tools
    assert ship.document["tool_name"] == "Ships"


def test_a_rows_own_document_comes_before_a_namesake(rulebook: Rulebook) -> None:
    own = tool("book_boat", description="Book a boat as this row has it.")
    judged = judge(rulebook, tool("book_boat"), {"query": "A boat, please", "tools": [own]})
    (found,) = judged.requests[0].tools
    assert found.document["description"] == own["description"]


def test_a_tool_is_found_under_its_full_name(rulebook: Rulebook) -> None:
    asked = {"query": "A boat, please", "tool": ["Boats&&book", "Ships&&book"]}
    api = {"tool_name": "Boats", "api_name": "book", "api_description": "Book.",
           "required_parameters": []}  # fmt: skip
    judged = judge(rulebook, api, asked)
    assert causes(judged.requests) == ["row/no_document"]
    assert judged.requests[0].sample.cause and "Ships" in judged.requests[0].sample.cause.message


def test_named_tools_are_wanted_also_where_nothing_is_called(rulebook: Rulebook) -> None:
    judged = judge(rulebook, {"query": "Sing to me", "tools": ["sail"], "calls": []})
    assert causes(judged.requests) == ["row/no_document"]


def test_the_same_label_twice_falls_and_the_same_words_with_other_tools_do_not(
    rulebook: Rulebook,
) -> None:
    judged = judge(
        rulebook,
        row("Book it for Sunday", "book_boat"),
        row("Book it for  sunday", "book_boat"),
        row("Book it for Sunday", "book_ship"),
        tool("sail"),
        tool("sail"),
    )
    assert causes(judged.requests) == ["", "round/duplicate_query", ""]
    assert judged.requests[1].sample.cause and "f:1" in judged.requests[1].sample.cause.message
    assert len({each.query.id for each in judged.requests}) == 3
    assert len(judged.documents) == 1


def test_questions_of_a_benchmark_are_taught_by_no_rules_setting(workspace: Workspace) -> None:
    home = load(workspace, "home")
    item = home.items[0]
    labelled = {
        "query": item.query,
        "tools": list(item.functions),
        "calls": [
            {"name": name, "arguments": {key: values[0] for key, values in allowed.items()}}
            for gold in item.ground_truth
            for name, allowed in gold.items()
        ],
    }
    strict = judge(Rulebook.load(workspace), labelled, held_out=(home,))
    assert causes(strict.requests) == ["round/eval_overlap"]
    off = Rulebook.load(workspace, {"round/eval_overlap": "off", "round/eval_overlap_tool": "off"})
    assert causes(judge(off, labelled, held_out=(home,)).requests) == ["round/eval_overlap"]
    near = {"query": f"{item.query} please", "tools": [], "calls": []}
    bare = judge(Rulebook.load(workspace), near, held_out=(home,))
    assert causes(bare.requests) == ["round/eval_overlap"]
    document = judge(Rulebook.load(workspace), dict(item.functions[0]), held_out=(home,))
    assert causes(document.documents) == ["round/eval_overlap_tool"]
    assert not document.documents[0].tools


def test_a_document_that_a_rule_rejects_is_coded_and_not_written(
    rulebook: Rulebook, workspace: Workspace
) -> None:
    bare = tool("book_boat", description="")
    judged = judge(rulebook, bare, tool("sail"))
    assert causes(judged.documents) == ["tool/desc_missing", ""]
    made = examples_of(judged, rulebook, workspace)
    assert [kind for kind, _ in made] == ["code", "adapt", "code"]
    assert [kind for kind, _ in examples_of(judged, rulebook, workspace, "none")] == ["adapt"]
    shown = judge(rulebook, row("Book a boat for Sunday", "book_boat", tools=[bare]))
    kinds = [kind for kind, _ in examples_of(shown, rulebook, workspace)]
    assert causes(shown.requests) == [""] and kinds == ["invoke", "code", "retrieve"]


def test_a_label_gives_the_examples_of_an_accepted_sample(
    rulebook: Rulebook, workspace: Workspace
) -> None:
    labelled = row("Book a boat for Sunday", "book_boat")
    labelled["tools"].append(tool("sail"))
    made = dict(examples_of(judge(rulebook, labelled), rulebook, workspace))
    assert set(made) == {"gen", "invoke", "code", "retrieve"}
    assert '"name": "book_boat"' in made["invoke"] and made["invoke"].startswith("<tool_call>")
    assert "sail" not in made["gen"], "a tool that is only offered is not to be written"


def test_labels_without_calls(rulebook: Rulebook, workspace: Workspace) -> None:
    named = judge(rulebook, {"query": "A boat, please", "tools": [tool("book_boat")]})
    kinds = [kind for kind, _ in examples_of(named, rulebook, workspace)]
    assert kinds == ["gen", "code", "retrieve"]
    silent = judge(rulebook, row("Sing", "book_boat", calls=[], answer="I cannot sing."))
    (one,) = silent.requests
    assert one.is_accepted and one.lesson.calls == () and one.lesson.answer == "I cannot sing."


def names_called(rows: list[JudgedRow]) -> set[str]:
    return {call.name for each in rows for call in each.sample.candidate.calls}


def test_no_tool_of_the_dev_set_is_taught(rulebook: Rulebook) -> None:
    rows = [row(f"Do number {n}", f"tool_{n % 12}", f"tool_{n % 7}") for n in range(60)]
    documents = [tool(f"tool_{n}") for n in range(12)]
    judged = judge(rulebook, *rows, *documents)
    split = hold_out(judged, 0.1, "taught-1", seed=0)
    taught = [each for each in split.taught.requests if each.is_accepted]
    assert taught and len(split.questions) == round(
        0.1 * sum(x.is_accepted for x in judged.requests)
    )
    assert not names_called(taught) & split.tools
    left = {each.tools[0].name for each in split.taught.documents if each.tools}
    assert left and not left & split.tools
    assert {each.rule for each in split.taught.requests} <= {
        "", "row/held_out", "row/held_out_tool", "call/duplicate_call",
    }  # fmt: skip
    again = hold_out(judged, 0.1, "taught-1", seed=0)
    assert again.questions == split.questions


def test_every_row_with_the_words_of_a_question_is_held_out(rulebook: Rulebook) -> None:
    rows = [row(f"Do number {n // 2}", f"tool_{n}") for n in range(24)]
    judged = judge(rulebook, *rows)
    split = hold_out(judged, 0.25, "taught-1", seed=0)
    asked = {each.query for each in split.questions}
    assert len(asked) == len(split.questions) == 6
    taught = [each for each in split.taught.requests if each.is_accepted]
    assert taught and not asked & {each.query.text for each in taught}


def test_no_question_is_one_the_model_was_trained_on(rulebook: Rulebook) -> None:
    judged = judge(rulebook, *(row(f"Do number {n}", f"tool_{n}") for n in range(12)))
    trained = frozenset(each.query.id for each in judged.requests[2:])
    split = hold_out(judged, 0.5, "taught-1", 0, trained)
    assert {each.query for each in split.questions} == {"Do number 0", "Do number 1"}


@pytest.mark.parametrize("share", [0.001, 1.0])
def test_a_share_that_leaves_nothing_is_an_error(rulebook: Rulebook, share: float) -> None:
    judged = judge(rulebook, *(row(f"Do number {n}", f"tool_{n}") for n in range(6)))
    with pytest.raises(InputError, match="leaves no request to"):
        hold_out(judged, share, "taught-1", seed=0)


def test_one_tool_cannot_be_split(rulebook: Rulebook) -> None:
    judged = judge(rulebook, *(row(f"Do number {n}", "book_boat") for n in range(6)))
    with pytest.raises(InputError, match="of 1 tools"):
        hold_out(judged, 0.5, "taught-1", seed=0)
