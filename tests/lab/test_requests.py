"""Requests that a model writes for tools: what is kept, why the others are not, and going on."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest_models import tiny_model
from workspaces import ROOT, make_workspace, run_factory

from factory.codes.saving import load_codebook
from factory.domain.canon import tool_id
from factory.domain.failures import ContentError, InputError
from factory.domain.records import PROMPT_TOO_LONG, Reply, Request, Tool
from factory.engines.replay import ReplayEngine
from factory.judge.rulebook import Rulebook
from factory.lab import requests
from factory.lab.requests import (
    Journal,
    RequestPlan,
    State,
    by_codes,
    by_words,
    make_judge,
    output_rows,
    write_requests,
)
from factory.score.loading import load
from factory.tools.dialects import read_dialect
from factory.workspace.folder import Workspace
from factory.workspace.prompts import Prompts

WORKSPACE = Workspace(ROOT)
PROMPTS = Prompts.load(WORKSPACE)
HOME = load(WORKSPACE, "home")


def make_tool(name: str, description: str, *parameters: str) -> Tool:
    properties = {key: {"type": "string", "description": f"The {key}."} for key in parameters}
    document = {
        "name": name,
        "description": description,
        "arguments": {"type": "dict", "properties": properties, "required": []},
    }
    return Tool(id=tool_id(document), document=document)


ASKED = HOME.items[0].query
KETTLE = make_tool("boil_water", "Boil water in a kettle.", "cups")
TRAIN = make_tool("book_train", "Reserve a seat in a train.", "station")
HELD_OUT = make_tool("held_out", ASKED)
TOOLS = (KETTLE, TRAIN, HELD_OUT, make_tool("sing", "Sing a song.", "title"))
PLAN = RequestPlan(tools=TOOLS[:3], per_tool=4, tries=2, seed=5)
ANSWERS = {
    KETTLE.id: [
        '1. "Boil me two cups of water!"\n\nI hope this helps.',
        "boil me two cups of water",
        "Call boil_water for me.",
        "Boil [number] cups of water.",
        "Fill the kettle, please.",
        "Which station does the train leave from?",
        "",
    ],
    TRAIN.id: [
        "Reserve a seat in a train to Bergen.",
        "A seat in the train to Ulm, please.",
        "Is there a seat left in a train?",
        "From which station do trains leave?",
    ],
    HELD_OUT.id: [ASKED, "Seats, water and songs: nothing of all this."],
}


def answer(request: Request) -> Sequence[str]:
    tool, number = request.id.split("/")
    return [ANSWERS[tool][int(number) % len(ANSWERS[tool])]]


class Cut(ReplayEngine):
    """Cuts what the kettle's last answer would be, and has no room for one prompt."""

    async def sample(self, requests: Sequence[Request]) -> list[Reply]:
        replies = await super().sample(requests)
        reasons: dict[str, Any] = {
            f"{KETTLE.id}/5": "length",
            f"{HELD_OUT.id}/3": PROMPT_TOO_LONG,
        }
        return [
            replace(
                reply,
                completions=tuple(
                    replace(one, finish_reason=reasons.get(reply.request_id, one.finish_reason))
                    for one in reply.completions
                ),
            )
            for reply in replies
        ]


def run(engine: ReplayEngine, path: Path, plan: RequestPlan = PLAN) -> State:
    journal = Journal(path, {"plan": [tool.id for tool in plan.tools]})
    state = journal.load()
    asyncio.run(
        write_requests(
            plan,
            engine=engine,
            prompts=PROMPTS,
            find=by_words(TOOLS, 1),
            judge=make_judge(Rulebook.load(WORKSPACE, {}), [HOME]),
            journal=journal,
            state=state,
        )
    )
    return state


def test_every_answer_is_kept_or_has_its_reason(tmp_path: Path) -> None:
    engine = Cut(answer)
    state = run(engine, tmp_path / "journal")
    assert len(state.rows) == len(engine.requests) == state.answers.total()
    outcomes = {(row.tool_id, row.number): row.reason for row in state.rows}
    assert [outcomes[KETTLE.id, number] for number in range(7)] == [
        "",
        "duplicate_query",
        "names_tool",
        "blank_left",
        "",
        "cut",
        "empty",
    ]
    # Nothing is asked for that is there already.
    assert [outcomes.get((TRAIN.id, number)) for number in range(5)] == ["", "", "", "", None]
    held_out = [outcomes[HELD_OUT.id, number] for number in range(8)]
    assert held_out[:4] == ["eval_overlap", "not_found", "eval_overlap", PROMPT_TOO_LONG]
    assert not state.kept[HELD_OUT.id]
    assert len({request.sampling.seed for request in engine.requests}) == len(engine.requests)
    rows = list(output_rows(state, TOOLS))
    kept = [line for is_kept, line in rows if is_kept]
    assert kept[0] == {
        "query": "Boil me two cups of water!",
        "tools": [KETTLE.id],
        "name": "boil_water",
        "rank": 1,
        "answer": 0,
    }
    others = [line for is_kept, line in rows if not is_kept]
    assert len(kept) + len(others) == len(state.rows) and all(line["reason"] for line in others)
    lost = next(line for line in others if line["reason"] == "not_found")
    assert lost["rank"] == 0 and lost["detail"].startswith("t_")


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "CHUNK", 1)
    whole = run(Cut(answer), tmp_path / "whole").rows
    path, left = tmp_path / "killed", 6

    def until(request: Request) -> Sequence[str]:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return answer(request)

    with pytest.raises(KeyboardInterrupt):
        run(Cut(until), path)
    text = path.read_text("utf-8")
    path.write_text(text + text.splitlines()[-1][:40], encoding="utf-8")
    engine = Cut(answer)
    assert run(engine, path).rows == whole
    assert 0 < len(engine.requests) < len(whole)
    assert path.read_text("utf-8") == (tmp_path / "whole").read_text("utf-8")
    with pytest.raises(InputError, match="other tools, options, prompt or model"):
        run(Cut(answer), tmp_path / "whole", replace(PLAN, tools=TOOLS[:2]))


def test_tools_are_found_by_the_codes_of_a_model() -> None:
    codebook = load_codebook(ROOT / "rounds" / "seed")
    assert codebook is not None
    tools = [entry.tool for entry in codebook.tools[:6]]
    codes = [codebook.code_text(tool.id) for tool in tools]
    engine = ReplayEngine(lambda request: [codes[2], codes[0]])
    make = by_codes(tools, 3, codebook=codebook, prompts=PROMPTS)
    found = asyncio.run(make(engine)(["Book a table.", "Sing!"]))
    assert found == [[tools[2].id, tools[0].id]] * 2
    (asked, _) = engine.requests
    assert asked.sampling.beam and asked.sampling.n == 3 and asked.constraint is not None
    assert set(asked.constraint.only) == {tool.id for tool in tools}
    with pytest.raises(InputError, match="1 of 7 tools have no code") as refused:
        by_codes([*tools, KETTLE], 3, codebook=codebook, prompts=PROMPTS)
    assert "factory codes add" in refused.value.remedy


def test_a_document_may_lack_what_no_rule_asks_of_it(tmp_path: Path) -> None:
    bare = {"name": "f", "arguments": {"type": "dict"}}
    assert PROMPTS.render(requests.PROMPT, tool=bare).endswith("Tool: f. ")
    assert requests.document_text(Tool(id="t", document=bare)) == "f. "
    silent = RequestPlan(tools=[Tool(id="t", document=bare)], per_tool=2, tries=1)
    engine = ReplayEngine(lambda request: [""])
    assert [row.reason for row in run(engine, tmp_path / "x", silent).rows] == ["empty"] * 2


def test_a_round_goes_on_whatever_becomes_of_this_prompt(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "ws", {"prompts/requests/write.j2": "{{ tool.name }}!"})
    own = Prompts.load(workspace)
    assert own.render(requests.PROMPT, tool=KETTLE.document) == "boil_water!"
    assert own.set_sha() == PROMPTS.set_sha()


def test_examples_are_turns_before_the_question_and_no_answers(tmp_path: Path) -> None:
    examples = requests.read_examples(WORKSPACE)
    said = [text for _, texts in examples for text in texts]
    assert len(set(said)) == len(said) and all(len(texts) > 1 for _, texts in examples)
    for document, _ in examples:
        assert [tool_id(read) for read in read_dialect(document)] == [tool_id(document)]
    engine = ReplayEngine(lambda request: [request.messages[1].content])
    state = run(engine, tmp_path / "x", RequestPlan(tools=TOOLS[:1], per_tool=2, tries=1))
    assert [message.role for message in engine.requests[0].messages] == [
        *("user", "assistant") * len(examples),
        "user",
    ]
    assert "boil_water" in engine.requests[0].messages[-1].content
    assert [row.text for row in state.rows] == examples[0][1][:2]
    judge = make_judge(Rulebook.load(WORKSPACE, {}), [])
    assert judge({"copied": said[0]}, said)["copied"][0] == "duplicate_query"
    own = make_workspace(tmp_path / "ws", {requests.EXAMPLES: '{"tool": {}, "requests": []}\n'})
    with pytest.raises(ContentError, match="not an example") as refused:
        requests.read_examples(own)
    assert refused.value.where.endswith("examples.jsonl:1")


def write_tools(workspace: Workspace) -> None:
    lines = [json.dumps(tool.document) + "\n" for tool in TOOLS]
    (workspace.root / "tools.jsonl").write_text("".join([*lines, "{}\n"]), encoding="utf-8")


def test_tools_without_codes_are_refused_before_a_model_is_asked(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "ws")
    write_tools(workspace)
    done = run_factory(
        "codes", "requests", "tools.jsonl", "--by", "codes", cwd=workspace.root, code=2
    )
    assert "4 of 4 tools have no code" in done.stderr and "factory codes add" in done.stderr


@pytest.mark.slow
def test_the_command_with_a_model_and_an_embedder(tmp_path: Path) -> None:
    workspace = make_workspace(
        tmp_path / "ws", {"factory.toml": '[engine]\nbackend = "transformers"\nthreads = 1\n'}
    )
    write_tools(workspace)
    plain = str(tiny_model(tmp_path / "plain", max_positions=1024))
    options = ("--by", plain, "-k", "4", "--limit", "3", "--per-tool", "3", "--tries", "1")

    def command(*more: str) -> str:
        name = ("codes", "requests", "tools.jsonl", "--model", plain, "--out", "out/asked.jsonl")
        # It ends with 1 for the bad line.
        return run_factory(*name, *options, *more, cwd=workspace.root, code=1).stdout

    refused = run_factory(
        "codes", "requests", "tools.jsonl", "--by", "nobody", cwd=workspace.root, code=2
    )
    assert "nothing finds tools by 'nobody'" in refused.stderr
    assert "0 requests for 0 of 3 tools" in command("--minutes", "0.0001")
    shown = command()
    kept, others = (
        [
            json.loads(line)
            for line in (workspace.root / "out" / name).read_text("utf-8").splitlines()
        ]
        for name in ("asked.jsonl", "asked-rejected.jsonl")
    )
    assert len(kept) + len(others) == 9 and f"{len(kept)} requests for" in shown
    assert all(1 <= line["rank"] <= 4 and "reason" not in line for line in kept)
    asked = Counter(line["tools"][0] for line in kept + others)
    assert len(asked) == 3 and set(asked.values()) == {3}
    assert asked.keys() <= {tool.id for tool in TOOLS}
    before = (workspace.root / "out" / "asked.jsonl").read_bytes()
    assert "going on" not in shown and command().count("requests for") == 1
    assert (workspace.root / "out" / "asked.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("2.5 cups of flour in grams?", "2.5 cups of flour in grams?"),
        ("-5 degrees Celsius in Fahrenheit?", "-5 degrees Celsius in Fahrenheit?"),
        ('Play the song "Hello"', 'Play the song "Hello"'),
        ('2) "Boil some water."', "Boil some water."),
        ("Request: boil water", "boil water"),
    ],
)
def test_marks_of_lists_and_quotes_around_all_go_and_nothing_else(
    answer: str, text: str, tmp_path: Path
) -> None:
    plan = RequestPlan(tools=TOOLS[:1], per_tool=1, tries=1)
    (row,) = run(ReplayEngine(lambda request: [answer]), tmp_path / "x", plan).rows
    assert row.text == text
