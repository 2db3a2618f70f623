"""What losing answers teach: pairs that part at the first wrong call, and calls that are mended."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from factory.domain.records import Call, Candidate, Query, Tool
from factory.ledger.losing import Losing, rank_losing
from factory.lessons.failures import make_repairs, preference_examples, split_pair
from factory.train.examples import calls_text
from factory.workspace.folder import Workspace, shipped_root
from factory.workspace.prompts import Prompts

PROMPTS = Prompts.load(Workspace(shipped_root()))


def tool(name: str) -> Tool:
    arguments = {"type": "dict", "properties": {"x": {"type": "integer", "description": "X."}}}
    document = {"name": name, "description": name, "arguments": arguments}
    return Tool(id=f"t_{name}", document=document)


def calls(*said: str) -> tuple[Call, ...]:
    """`a1` is a call of the tool a with 1."""
    return tuple(Call(name=each[0], arguments={"x": int(each[1:])}) for each in said)


def sample(*said: str) -> Candidate:
    query = Query(id="q_1", text="Do a, b and c", source="test")
    return Candidate(query=query, tools=tuple(map(tool, "abc")), calls=calls(*said))


def pair(right: Sequence[str], wrong: Sequence[str]) -> tuple[list[str], list[str]] | None:
    found = split_pair(sample(*right), calls_text(calls(*wrong)))
    if found is None:
        return None
    one, other = ([f"{c.name}{c.arguments['x']}" for c in each] for each in found)
    return one, other


def test_pairs_part_at_the_first_wrong_call() -> None:
    assert pair(["a1", "b2"], ["a1", "b3"]) == (["a1", "b2"], ["a1", "b3"])
    # The right answer in the order of the wrong one, and the call of the same tool opposite.
    assert pair(["a1", "b2", "c3"], ["c3", "b9", "a1"]) == (["c3", "b2", "a1"], ["c3", "b9", "a1"])
    assert pair(["a1"], ["b1"]) == (["a1"], ["b1"])
    assert pair(["a1", "b2"], ["a1"]) == (["a1", "b2"], ["a1"])
    assert pair(["a1"], ["a1", "b2"]) == (["a1"], ["a1", "b2"])
    assert pair(["a1", "a1"], ["a1", "a2"]) == (["a1", "a1"], ["a1", "a2"])
    assert pair(["a1"], ["a1"]) is None
    assert split_pair(sample("a1"), "I cannot do that.") is None
    assert split_pair(sample("a1"), "<tool_call>{") is None


def test_a_pair_is_a_chat_whose_last_answer_has_no_loss() -> None:
    losing = {"q_1": [Losing("No.", 2, "", ""), Losing(calls_text(calls("a2")), 1, "", "")]}
    (example,) = preference_examples([sample("a1")], losing, PROMPTS, 3)
    assert (example.kind, example.origin) == ("dpo", "r3/q_1")
    assert [message.role for message in example.messages] == [
        *("system", "user", "assistant", "assistant"),
    ]
    assert [message.loss for message in example.messages] == [True, True, True, False]
    assert [m.content for m in example.messages[2:]] == [
        calls_text(calls("a1")),
        calls_text(calls("a2")),
    ]
    assert preference_examples([sample("a1")], {"q_2": losing["q_1"]}, PROMPTS, 3) == []


def test_only_what_a_rule_rejects_is_mended() -> None:
    bad = calls_text(calls("a2"))
    losing = {
        "q_1": [Losing("<tool_call>{", 1, "no JSON", "$"), Losing(bad, 1, "is wrong", "$[0]")],
    }
    ((made, turns),) = make_repairs(Random(0), [sample("a1")], losing, PROMPTS, 5)
    assert made.calls == calls("a1") and made.query.source == "made: repair of q_1"
    assert [turn.speaker for turn in turns] == ["user", "assistant", "tool", "assistant"]
    assert [(m.role, m.loss) for m in made.chat[2:]] == [
        *(("assistant", False), ("user", True), ("assistant", True)),
    ]
    assert made.chat[2].content == bad and "is wrong (at $[0])" in made.chat[3].content
    outvoted = {"q_1": [Losing(bad, 1, "", "")]}
    assert not list(make_repairs(Random(0), [sample("a1")], outvoted, PROMPTS, 5))
    assert not list(make_repairs(Random(0), [sample("a1")], losing, PROMPTS, 0))


def test_losing_classes_stand_by_how_surely_they_are_wrong() -> None:
    classes = [0, 1, 1, 2, 0, 3]
    assert rank_losing(classes, 0, range(6), ()) == [1, 3, 5]
    assert rank_losing(classes, 0, range(6), [5]) == [5, 1, 3]
    assert rank_losing(classes, 0, [0, 2, 5], ()) == [2, 5]
    assert rank_losing([0, 0], 0, range(2), ()) == []
    assert rank_losing([0, 1], 0, range(4), [3]) == [1]
