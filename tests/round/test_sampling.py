"""One query from text to verdict, on recorded answers: every way it can go is one sample row."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from workspaces import ROOT

from factory.codes.saving import SavedCodebook, load_codebook
from factory.domain.canon import query_id
from factory.domain.records import (
    CONTEXT_FULL,
    PROMPT_TOO_LONG,
    SCHEMA_UNSUPPORTED,
    Completion,
    Query,
    Reply,
    Request,
)
from factory.engines.base import unanswered
from factory.engines.replay import ReplayEngine
from factory.judge.rulebook import Rulebook
from factory.judge.sample import Judgement
from factory.ledger.database import Ledger
from factory.ledger.tables import Batch
from factory.round.asking import Asking
from factory.round.sampler import find_namesakes, sample_query
from factory.workspace.folder import Workspace
from factory.workspace.prompts import Prompts
from factory.workspace.recipe import Recipe

WORKSPACE = Workspace(ROOT)
TEXT = "Book a table for 4 people in Lisbon."
DOCUMENT = {
    "name": "book_table",
    "description": "Book a table at a restaurant.",
    "arguments": {
        "type": "dict",
        "properties": {
            "people": {"type": "integer", "description": "Number of people."},
            "city": {"type": "string", "description": "City of the restaurant."},
        },
        "required": ["people"],
    },
    "results": {
        "type": "dict",
        "properties": {"booking": {"type": "string", "description": "Number of the booking."}},
    },
}
TOOLS = f"<tools>\n{json.dumps(DOCUMENT)}\n</tools>"


def call(**arguments: object) -> str:
    body = json.dumps({"name": "book_table", "arguments": arguments})
    return f"<tool_call>\n{body}\n</tool_call>"


RIGHT = call(people=4, city="Lisbon")


def run(
    engine: ReplayEngine, *, recipe: Recipe | None = None, codebook: SavedCodebook | None = None
) -> Batch:
    recipe = recipe or Recipe()
    judgement = Judgement(
        rulebook=Rulebook.load(WORKSPACE, {}), vote=recipe.vote, round_number=1, number=1
    )
    asking = Asking(
        query=Query(id=query_id(TEXT), text=TEXT, source="test:1"),
        round_number=1,
        engine=engine,
        prompts=Prompts.load(WORKSPACE),
        recipe=recipe,
        codebook=codebook,
    )
    sample = asyncio.run(sample_query(judgement, asking.query, asking))
    return {**sample.rows(judgement, datetime.now(UTC)), "generation": asking.generations}


def answer(tools: str, calls: Sequence[str]) -> Callable[[Request], Sequence[str]]:
    return lambda request: [tools] if request.id.endswith("/tools") else calls


def outcome(tools: str, calls: Sequence[str], **options: Any) -> dict[str, Any]:
    rows = run(ReplayEngine(answer(tools, calls)), **options)
    (sample,) = rows["sample"]
    return dict(sample)


def test_calls_are_bound_to_the_schemas_where_the_recipe_says_so() -> None:
    recipe = Recipe.model_validate({"calls": {"constrain": "schema"}})
    engine = ReplayEngine(answer(TOOLS, [RIGHT] * 5))
    rows = run(engine, recipe=recipe)
    constraint = engine.requests[-1].constraint
    assert constraint is not None and constraint.form == "calls"
    assert constraint.tools == (DOCUMENT,)
    kept = [json.loads(str(row["sampling_json"])) for row in rows["generation"]]
    assert [row.get("constrain") for row in kept] == [None, *["schema"] * 5]
    assert all(request.constraint is None for request in engine.requests[:-1])


@pytest.mark.parametrize("decode", ["sample", "beam"])
def test_tools_are_retrieved_as_the_recipe_decodes(decode: str) -> None:
    codebook = load_codebook(ROOT / "rounds" / "seed")
    assert codebook is not None
    likeliest, *others = [codebook.text_of(entry.code) for entry in codebook.tools[:3]]

    def tell(request: Request) -> Sequence[str]:
        kind = request.id.split("/")[1]
        found = [likeliest, *others, likeliest] if decode == "sample" else [likeliest, *others]
        return {"tools": [TOOLS], "retrieve": found, "propose": [likeliest]}.get(kind, [RIGHT])

    engine = ReplayEngine(tell)
    recipe = Recipe.model_validate({"codes": {"decode": decode, "retrieve": 4, "keep": 1}})
    rows = run(engine, recipe=recipe, codebook=codebook)
    (asked,) = (request for request in engine.requests if request.id.endswith("/retrieve"))
    assert asked.constraint is not None and asked.constraint.is_one_code
    assert (asked.sampling.beam, asked.sampling.n) == (decode == "beam", 4)
    assert asked.sampling.temperature == (0.0 if decode == "beam" else 1.0)
    kept = [row for row in rows["generation"] if row["stage"] == "retrieve"]
    assert [row["text"] for row in kept] == list(tell(asked))
    said = {json.loads(str(row["sampling_json"])).get("decode") for row in kept}
    assert said == {"beam" if decode == "beam" else None}
    calling = next(request for request in engine.requests if request.id.endswith("/calls"))
    shown = " ".join(message.content for message in calling.messages)
    assert codebook.tools[0].tool.name in shown


def test_a_retrieved_namesake_is_noted_and_shadows_nobody() -> None:
    codebook = load_codebook(ROOT / "rounds" / "seed")
    assert codebook is not None
    first, second, *_ = (entry.tool for entry in codebook.tools)
    assert find_namesakes([first, second, first], [first]) == []
    renamed = replace(second, document={**second.document, "name": first.name})
    assert find_namesakes([first, renamed, renamed], [first]) == [renamed]
    code = codebook.text_of(codebook.tools[0].code)
    written = f"<tools>\n{json.dumps({**DOCUMENT, 'name': first.name})}\n</tools>"
    called = RIGHT.replace("book_table", first.name)

    def tell(request: Request) -> Sequence[str]:
        kind = request.id.split("/")[1]
        return {"tools": [written], "retrieve": [code], "propose": [code]}.get(kind, [called])

    recipe = Recipe.model_validate({"codes": {"retrieve": 1, "keep": 1}})
    rows = run(ReplayEngine(tell), recipe=recipe, codebook=codebook)
    (noted,) = [v for v in rows["verdict"] if v["reason"] == "name_taken"]
    assert (noted["severity"], noted["subject"]) == ("warn", f"code:{first.id}")
    assert first.name in str(noted["message"])
    (sample,) = rows["sample"]
    assert sample["num_tools"] == 1 and sample["status"] == "accepted"


def test_calls_are_asked_freely_where_a_schema_makes_no_grammar() -> None:
    class Refusing(ReplayEngine):
        async def sample(self, requests: Sequence[Request]) -> list[Reply]:
            return [
                unanswered(request, SCHEMA_UNSUPPORTED)
                if request.constraint
                else (await super(Refusing, self).sample([request]))[0]
                for request in requests
            ]

    recipe = Recipe.model_validate({"calls": {"constrain": "schema"}})
    rows = run(Refusing(answer(TOOLS, [RIGHT] * 5)), recipe=recipe)
    (sample,) = rows["sample"]
    assert sample["status"] == "accepted"
    assert not any("constrain" in str(row["sampling_json"]) for row in rows["generation"])


def test_agreement_is_accepted_with_every_raw_output() -> None:
    rows = run(ReplayEngine(answer(TOOLS, [RIGHT] * 4 + [call(people=5)])))
    (sample,) = rows["sample"]
    assert (sample["status"], sample["reason"], sample["agreement"]) == ("accepted", "", 0.8)
    assert json.loads(str(sample["calls_json"]))[0]["arguments"] == {"people": 4, "city": "Lisbon"}
    stages = [(g["stage"], g["sample_index"]) for g in rows["generation"]]
    assert stages == [("tools", 0), *(("calls", index) for index in range(5))]
    assert rows["vote"][0]["winner"] == 0


@pytest.mark.parametrize(
    ("tools", "calls", "stage", "reason"),
    [
        ("no tags at all", [RIGHT] * 5, "tools", "no_tools_tag"),
        ("<tools>\n{broken\n</tools>", [RIGHT] * 5, "tools", "tools_json"),
        (TOOLS, ["sorry"] * 5, "vote", "no_call_majority"),
        (TOOLS, [RIGHT, RIGHT, call(people=1), call(people=1), "?"], "vote", "vote_tie"),
        (TOOLS, [RIGHT, RIGHT, call(people=1), call(people=2), "?"], "vote", "vote_below_min"),
        (TOOLS, [call(people="4")] * 5, "calls", "wrong_type"),
        (TOOLS, [call(city="Lisbon")] * 5, "calls", "missing_required"),
        (TOOLS, [call(people=4, table=1)] * 5, "calls", "unknown_argument"),
        (TOOLS, [RIGHT.replace("book_table", "book_room")] * 5, "calls", "unknown_tool"),
    ],
)
def test_rejections_carry_stage_and_reason(
    tools: str, calls: Sequence[str], stage: str, reason: str
) -> None:
    sample = outcome(tools, calls)
    assert (sample["status"], sample["stage"], sample["reason"]) == ("rejected", stage, reason)
    assert sample["message"] and sample["rule"]


def test_the_same_call_twice_is_warned_of_and_accepted() -> None:
    rows = run(ReplayEngine(answer(TOOLS, [RIGHT + "\n" + RIGHT] * 5)))
    assert {v["severity"] for v in rows["verdict"] if v["reason"] == "duplicate_call"} == {"warn"}
    assert rows["sample"][0]["status"] == "accepted"


def test_all_samples_are_judged_not_only_the_winner() -> None:
    rows = run(ReplayEngine(answer(TOOLS, [RIGHT] * 3 + [call(people="4")] * 2)))
    subjects = {v["subject"] for v in rows["verdict"] if v["reason"] == "wrong_type"}
    assert subjects == {"sample:3", "sample:4"}
    assert rows["sample"][0]["status"] == "accepted"


def test_plurality_and_minimum_come_from_the_recipe() -> None:
    calls = [RIGHT, RIGHT, call(people=1), call(people=2), call(people=3)]
    assert outcome(TOOLS, calls)["reason"] == "vote_below_min"
    plural = Recipe.model_validate({"vote": {"plurality": True}})
    assert outcome(TOOLS, calls, recipe=plural)["status"] == "accepted"
    strict = Recipe.model_validate({"vote": {"minimum": 5}})
    assert outcome(TOOLS, [RIGHT] * 4 + ["?"], recipe=strict)["status"] == "rejected"


BAR = Recipe.model_validate({"vote": {"bar": ["reject", "call/ungrounded_value"]}})
INVENTED, FOREIGN = call(people=7, city="Lisbon"), RIGHT.replace("book_table", "book_room")


@pytest.mark.parametrize(
    ("calls", "free", "barred"),
    [
        ([RIGHT, RIGHT, call(people="4"), FOREIGN, "?"], "vote_below_min", "vote_below_min"),
        ([RIGHT, RIGHT, RIGHT, INVENTED, INVENTED], "", ""),
        ([FOREIGN, FOREIGN, FOREIGN, RIGHT, RIGHT], "unknown_tool", "vote_below_min"),
        ([INVENTED] * 3 + [RIGHT] * 2, "", "vote_below_min"),
        (["?", "?", "?", RIGHT, RIGHT], "no_call_majority", "no_call_majority"),
    ],
)
def test_what_breaks_a_rule_or_is_invented_has_no_vote_where_the_recipe_bars_it(
    calls: Sequence[str], free: str, barred: str
) -> None:
    assert outcome(TOOLS, calls)["reason"] == free
    assert outcome(TOOLS, calls, recipe=BAR)["reason"] == barred


def test_why_a_sample_did_not_vote_stays_in_the_ledger() -> None:
    calls = [RIGHT, RIGHT, INVENTED, FOREIGN, call(people="4")]
    rows = run(ReplayEngine(answer(TOOLS, calls)), recipe=BAR)
    classes = json.loads(str(rows["vote"][0]["classes_json"]))
    assert [number < 0 for number in classes] == [False, False, True, True, True]
    assert (rows["vote"][0]["votes"], rows["vote"][0]["margin"]) == (2, 0.4)
    found = {(v["subject"], v["reason"]) for v in rows["verdict"]}
    assert found >= {
        ("sample:2", "ungrounded_value"), ("sample:3", "unknown_tool"), ("sample:4", "wrong_type"),
    }  # fmt: skip
    assert "3 had no vote (vote.bar)" in str(rows["sample"][0]["message"])


def test_plurality_among_those_that_may_vote() -> None:
    plural = Recipe.model_validate({"vote": {"plurality": True, "bar": ["reject"]}})
    assert outcome(TOOLS, [FOREIGN] * 4 + [RIGHT], recipe=plural)["status"] == "accepted"


FIVE_AND_TEN = Recipe.model_validate({"calls": {"more": 10}})
SPLIT = [RIGHT, RIGHT, call(people=1), call(people=2), "?"]


def tell_more(first: Sequence[str], more: Sequence[str]) -> Callable[[Request], Sequence[str]]:
    def tell(request: Request) -> Sequence[str]:
        return {"tools": [TWO_TOOLS], "calls": first, "more": more}[request.id.split("/")[1]]

    return tell


TWO_TOOLS = (
    f"<tools>\n{json.dumps(DOCUMENT)}\n{json.dumps({**DOCUMENT, 'name': 'other'})}\n</tools>"
)


@pytest.mark.parametrize(
    ("more", "vote", "status", "votes"),
    [
        ([RIGHT] * 6 + ["?"] * 4, {}, "accepted", 8),  # a strict majority of 15
        ([RIGHT] * 5 + ["?"] * 5, {}, "rejected", 7),
        ([RIGHT] * 7 + ["?"] * 3, {"minimum": 3}, "accepted", 9),  # three of five of fifteen
        ([RIGHT] * 6 + ["?"] * 4, {"minimum": 3}, "rejected", 8),
        ([RIGHT] * 6 + ["?"] * 4, {"minimum": 3, "more": 8}, "accepted", 8),
        ([call(people=4, city="Porto")] * 10, {}, "accepted", 10),
    ],
)
def test_more_answers_are_asked_for_where_none_wins(
    more: Sequence[str], vote: dict[str, int], status: str, votes: int
) -> None:
    recipe = Recipe.model_validate({"calls": {"more": 10}, "vote": vote})
    rows = run(ReplayEngine(tell_more(SPLIT, more)), recipe=recipe)
    (sample,), (counted,) = rows["sample"], rows["vote"]
    assert (sample["status"], counted["votes"], counted["num_samples"]) == (status, votes, 15)
    calls = [row for row in rows["generation"] if row["stage"] == "calls"]
    assert [row["sample_index"] for row in calls] == list(range(15))
    assert [row["subject"] for row in calls] == [""] * 5 + ["more"] * 10
    assert len({row["seed"] for row in calls}) == 15
    subjects = {str(v["subject"]) for v in rows["verdict"] if v["reason"] == "no_tool_call"}
    assert subjects == {f"sample:{i}" for i, text in enumerate([*SPLIT, *more]) if text == "?"}


@pytest.mark.parametrize(
    ("constrain", "order"), [("none", "reversed"), ("schema", "same"), ("schema", "reversed")]
)
def test_more_answers_are_drawn_otherwise(constrain: str, order: str) -> None:
    settings = {"more": 3, "more_temperature": 1.3, "more_constrain": constrain}
    recipe = Recipe.model_validate({"calls": {**settings, "more_order": order}})
    engine = ReplayEngine(tell_more(SPLIT, [RIGHT] * 3))
    rows = run(engine, recipe=recipe)
    first, again = engine.requests[-2:]
    assert (again.sampling.n, again.sampling.temperature) == (3, 1.3)
    assert first.sampling.temperature == 0.7 and first.constraint is None
    assert (again.constraint is not None) == (constrain == "schema")
    shown = [
        [request.messages[0].content.index(f'"{name}"') for name in ("book_table", "other")]
        for request in (first, again)
    ]
    assert shown[0] == sorted(shown[0])
    assert (shown[1] == sorted(shown[1])) == (order == "same")
    told = [json.loads(str(r["sampling_json"])) for r in rows["generation"] if r["subject"]]
    assert [each["temperature"] for each in told] == [1.3] * 3
    assert rows["sample"][0]["agreement"] == 5 / 8


@pytest.mark.parametrize(
    "first", [[RIGHT] * 3 + ["?"] * 2, ["?"] * 3 + [RIGHT] * 2, [call(people="4")] * 5]
)
def test_no_more_answers_are_asked_for_where_one_wins_or_most_call_nothing(
    first: Sequence[str],
) -> None:
    engine = ReplayEngine(tell_more(first, []))
    rows = run(engine, recipe=FIVE_AND_TEN)
    assert [r.id.split("/")[1] for r in engine.requests] == ["tools", "calls"]
    assert rows["vote"][0]["num_samples"] == 5


def test_barred_answers_may_ask_for_more() -> None:
    recipe = Recipe.model_validate({"calls": {"more": 10}, "vote": {"bar": ["reject"]}})
    first = [call(people="4")] * 3 + [RIGHT] * 2
    rows = run(ReplayEngine(tell_more(first, [RIGHT] * 10)), recipe=recipe)
    assert rows["sample"][0]["status"] == "accepted" and rows["vote"][0]["votes"] == 12


def test_votes_of_more_are_bounded() -> None:
    with pytest.raises(ValueError, match=r"vote\.more must not exceed"):
        Recipe.model_validate({"calls": {"more": 2}, "vote": {"more": 8}})


class ShortEngine(ReplayEngine):
    """A model whose context the invocation prompt does not fit."""

    async def sample(self, requests: Sequence[Request]) -> list[Reply]:
        replies = await super().sample(requests)
        if not requests[0].id.endswith("/calls"):
            return replies
        empty = Completion(text="", token_ids=(), finish_reason=PROMPT_TOO_LONG, logprob=0.0)
        return [
            Reply(request_id=r.request_id, completions=(empty,) * 5, num_prompt_tokens=9000)
            for r in replies
        ]


def test_prompt_that_does_not_fit_is_unjudged() -> None:
    rows = run(ShortEngine(answer(TOOLS, [RIGHT] * 5)))
    sample = rows["sample"][0]
    assert (sample["status"], sample["reason"]) == ("unjudged", PROMPT_TOO_LONG)
    assert "max_model_len" in str(sample["message"])


class FullEngine(ReplayEngine):
    """A model whose window cuts its second answer with calls, and whose limit cuts its third."""

    async def sample(self, requests: Sequence[Request]) -> list[Reply]:
        (reply,) = await super().sample(requests)
        if requests[0].id.endswith("/calls"):
            completions = list(reply.completions)
            for index, reason in ((1, CONTEXT_FULL), (2, "length")):
                completions[index] = replace(completions[index], finish_reason=reason)
            reply = replace(reply, completions=tuple(completions))
        return [reply]


def test_an_answer_cut_by_the_window_is_not_called_too_long() -> None:
    rows = run(FullEngine(answer(TOOLS, [RIGHT] * 5)))
    cut = {v["subject"]: v["message"] for v in rows["verdict"] if v["reason"] == "truncated"}
    assert cut == {
        "sample:1": f"cut after {len(RIGHT)} characters, where it met engine.max_model_len",
        "sample:2": f"cut after {len(RIGHT)} characters, at the limit of new tokens",
    }


def test_rows_fit_the_ledger(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(run(ReplayEngine(answer(TOOLS, [RIGHT] * 5))))
    assert ledger.query("select count(*) from generation").rows == [(6,)]
    ledger.append({"draw": [{"round": 1, "position": 0, "query_id": query_id(TEXT)}]})
    assert ledger.query("select accepted, unjudged from round_yield").rows == [(1, 0)]


def test_seeds_differ_between_queries_and_stages_but_not_between_runs() -> None:
    def seeds() -> list[int]:
        engine = ReplayEngine(answer(TOOLS, [RIGHT] * 5))
        run(engine)
        return [request.sampling.seed for request in engine.requests]

    first, second = seeds(), seeds()
    assert first == second and len(set(first)) == len(first)
