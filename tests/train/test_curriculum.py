"""What a round teaches: documents that its lineage has not learnt, and no codes where none are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from test_codes import make_embeddings, make_tools
from workspaces import ROOT

from factory.codes.codebook import Codebook
from factory.codes.growing import add_tools, fit_codebook
from factory.domain.failures import RecipeError
from factory.domain.records import Call, Candidate, Checkpoint, Example, Message, Query, Tool
from factory.ledger.database import Ledger
from factory.ledger.rows import checkpoint_row, example_row, tool_rows
from factory.train.curriculum import (
    documents_to_learn,
    named_together,
    own_examples,
    taught_by,
    train_setup,
    unlearnt_tools,
)
from factory.train.examples import code_example, placeholder, tools_of, turned_round
from factory.workspace.folder import Workspace, shipped_root
from factory.workspace.prompts import Prompts
from factory.workspace.recipe import MakeSection, Recipe, StageSection, load_recipe

TOOLS = make_tools(6)
QUERY = Query(id="q_1", text="Find one.", source="test")


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return Prompts.load(Workspace(shipped_root()))


def read_recipe(name: str = "cpu", **values: str) -> Recipe:
    overrides = {key.replace("__", "."): value for key, value in values.items()}
    return load_recipe(Workspace(ROOT), name, overrides).recipe


def end_round(
    ledger: Ledger, number: int, parent: str | None, examples: Sequence[Example], promoted: bool
) -> None:
    now = datetime.now(UTC)
    made = Checkpoint(id=f"r{number}", path=f"r{number}", fingerprint=f"f{number}")
    ledger.append(
        {
            "checkpoint": [checkpoint_row(made, number, parent, promoted, "", now)],
            "example": [example_row(number, example) for example in examples],
        }
    )


def test_a_lineage_learns_each_imported_document_once(tmp_path: Path, prompts: Prompts) -> None:
    """Round 2 was held back, round 4 has no checkpoint: what they taught is not learnt."""
    ledger, recipe = Ledger(tmp_path), read_recipe()
    early, late = TOOLS[3:], TOOLS[:2]
    ledger.append({"tool": tool_rows(0, early, "early.jsonl")})
    ledger.append({"tool": tool_rows(0, late, "late.jsonl")})
    ledger.append({"tool": tool_rows(1, TOOLS[2:4], "round")})
    imported = [*sorted(early, key=lambda t: t.id), *sorted(late, key=lambda t: t.id)]
    by_heart = {tool.id: code_example(tool, prompts, f"r/{tool.id}") for tool in imported}
    a, b, c, d, e = imported
    gen = replace(by_heart[e.id], kind="gen")
    end_round(ledger, 0, None, (), promoted=True)
    end_round(ledger, 1, "r0", [by_heart[a.id], gen], promoted=True)
    end_round(ledger, 2, "r1", [by_heart[b.id]], promoted=False)
    end_round(ledger, 3, "r1", [by_heart[c.id]], promoted=True)
    ledger.append({"example": [example_row(4, by_heart[d.id])]})
    assert unlearnt_tools(ledger, "r3", recipe) == [b, d, e]
    assert unlearnt_tools(ledger, "r2", recipe) == [c, d, e]
    assert unlearnt_tools(ledger, "r1", recipe) == [b, c, d, e]
    assert (
        unlearnt_tools(ledger, "r0", recipe)
        == unlearnt_tools(ledger, "another", recipe)
        == imported
    )
    assert unlearnt_tools(ledger, "r3", read_recipe("tooldev")) == []


def test_outliers_wait_and_the_first_of_the_rest_are_learnt() -> None:
    points = make_embeddings(40)
    codebook = fit_codebook(make_tools(40), points)
    grown = add_tools(codebook, make_tools(1, start=40), 9 * points[:1])
    codebook, (far,) = grown.codebook, grown.added
    assert far.ood
    waiting = [far.tool, *TOOLS]
    assert documents_to_learn(waiting, codebook, read_recipe()) == TOOLS
    few = read_recipe(train__documents="2")
    assert documents_to_learn(waiting, codebook, few) == TOOLS[:2]
    assert documents_to_learn(waiting, None, few) == waiting[:2]
    assert documents_to_learn(waiting, None, read_recipe(train__documents="0")) == []
    with pytest.raises(RecipeError, match="documents"):
        read_recipe(train__documents="-1")


def make_own(
    recipe: Recipe, prompts: Prompts, documents: Sequence[Tool], codebook: Codebook | None = None
) -> list[Example]:
    """Round 3's examples of one answer that calls the last of five tools."""
    calls = (Call(name=TOOLS[4].name, arguments={}),)
    sample = Candidate(query=QUERY, tools=tuple(TOOLS[:5]), calls=calls)
    return own_examples([sample], documents, codebook, prompts, recipe, 3)


def test_a_document_is_an_example_beside_those_of_answers(prompts: Prompts) -> None:
    examples = make_own(read_recipe(), prompts, TOOLS[4:])
    assert [example.kind for example in examples] == ["gen", "invoke", "code", "retrieve", "code"]
    assert [tools_of(example) for example in examples if example.kind == "code"] == [
        [TOOLS[4].id],
        [TOOLS[5].id],
    ]
    assert examples[-1].origin == f"r3/{TOOLS[5].id}"
    assert examples[-1].messages[-1].content == placeholder(TOOLS[5].id)
    assert make_own(read_recipe(), prompts, []) == examples[:-1]


def test_tooldev_teaches_no_codes_and_all_tools_of_a_request(prompts: Prompts) -> None:
    """Eq. 4-6: writing T and calling; Eq. 3: all of T."""
    recipe = read_recipe("tooldev")
    (gen, invoke) = make_own(recipe, prompts, [])
    assert (gen.kind, invoke.kind) == ("gen", "invoke")
    assert [tool.name in gen.messages[-1].content for tool in TOOLS] == [True] * 5 + [False]
    called = make_own(read_recipe("base"), prompts, [])[0].messages[-1].content
    assert [tool.name in called for tool in TOOLS[:5]] == [True, True, False, False, True]
    assert make_own(read_recipe("base"), prompts, [])[1] == invoke
    assert not train_setup(recipe, 1, "auto", 1).codes.are_made
    replayed = [*make_own(read_recipe("base"), prompts, TOOLS), gen]
    assert taught_by(recipe, replayed) == [replayed[0], invoke, gen]
    assert taught_by(read_recipe("base"), replayed) == replayed


def test_chats_and_the_labels_of_one_request_name_tools_together() -> None:
    """A trajectory names each pair once; a document's code names one tool."""

    def chat(kind: str, asked: str, *ids: str) -> Example:
        turns = [Message(role="user", content=asked)]
        for tool_id in ids:
            turns.append(Message(role="assistant", content=f"Action: {placeholder(tool_id)}"))
            turns.append(Message(role="user", content="{}"))
        turns = turns[: 2 * len(ids)]
        return Example(kind=kind, messages=tuple(turns), origin="seed")  # type: ignore[arg-type]

    examples = [
        chat("retrieve", "trip", "t_2", "t_1", "t_2", "t_3"),
        chat("retrieve", "hotel", "t_4"),
        chat("retrieve", "hotel", "t_1"),
        chat("code", "document", "t_9"),
        chat("retrieve", "other", "t_5"),
    ]
    pairs = [(pair.a, pair.b, pair.weight) for pair in named_together(examples)]
    assert pairs == [
        (a, b, 1.0) for a, b in (("t_1", "t_2"), ("t_1", "t_3"), ("t_2", "t_3"), ("t_1", "t_4"))
    ]


def test_calls_are_turned_round_where_requests_are_written(prompts: Prompts) -> None:
    tool = TOOLS[0]
    call = Call(name=tool.name, arguments={"city": "Bergen"})
    sample = Candidate(query=QUERY, tools=tuple(TOOLS[:3]), calls=(call,))

    def kinds(**values: str) -> list[Example]:
        recipe = read_recipe(codes__coder="none", **values)
        return own_examples([sample], [], None, prompts, recipe, 1)

    assert [example.kind for example in kinds()] == ["gen", "invoke"]
    (invoke, ask) = kinds(make__ask="0.5")[1:]
    assert (invoke.kind, ask.kind) == ("invoke", "ask") and kinds(train__ask="true")[-1] == ask
    question, answer = ask.messages
    assert answer.content == QUERY.text and '{"city": "Bergen"}' in question.content
    assert tool.name in question.content and TOOLS[1].name not in question.content
    # What replay has is turned round from its text alone.
    assert turned_round(invoke, prompts) == ask
    others = (replace(invoke, kind="trajectory"), replace(invoke, messages=invoke.messages[1:]))
    said = replace(invoke, messages=(*invoke.messages[:2], replace(answer, content="No.")))
    foreign = replace(invoke, messages=(Message(role="system", content="{"), *invoke.messages[1:]))
    for example in (*others, said, foreign, ask):
        assert turned_round(example, prompts) is None


def test_calls_turned_round_are_taught_with_calls_unless_a_stage_names_them() -> None:
    def kinds(*stages: StageSection, ask: float = 0.5) -> list[tuple[str, ...]]:
        recipe = Recipe(stage=stages, make=MakeSection(ask=ask))
        return [stage.kinds for stage in train_setup(recipe, 1, "auto", 1).stages]

    find, call = StageSection(kinds=("code",)), StageSection(kinds=("gen", "invoke"))
    assert kinds(find, call) == [("code",), ("gen", "invoke", "ask")]
    assert kinds(find, call, ask=0) == [("code",), ("gen", "invoke")]
    named = StageSection(name="ask", kinds=("ask",))
    assert kinds(named, call) == [("ask",), ("gen", "invoke")]
