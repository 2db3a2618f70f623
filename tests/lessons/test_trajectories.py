"""Whole conversations: read from every form, judged, and trained as the agent has them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest_models import code_names, tiny_model
from workspaces import ROOT, make_workspace

from factory.codes.growing import fit_codebook
from factory.codes.saving import SavedCodebook, save_codebook
from factory.domain.canon import to_json
from factory.domain.records import Example, HeldOut, Message, Request
from factory.engines.chat import Chat, load_tokenizer
from factory.engines.replay import ReplayEngine
from factory.engines.turn import read_turn
from factory.judge.rulebook import Rulebook
from factory.lessons.examples import call_chat, lesson_examples
from factory.lessons.files import read_lessons
from factory.lessons.judging import JudgedLessons, JudgedRow, judge_lessons
from factory.lessons.moves import agent_chat
from factory.lessons.readers import read_row
from factory.lessons.records import Lesson, Lessons
from factory.lessons.split import hold_out
from factory.score.loading import load
from factory.score.toolbench.agent import ActionSpace, Agent, Codes, Names, Trajectory
from factory.score.toolbench.data import ApiKey, ToolQuery, read_document, to_tool
from factory.score.toolbench.judge import to_converted
from factory.score.toolbench.turns import MAX_RESPONSE, TEMPLATES, Turns, shown_response
from factory.score.toolbench.virtual import VirtualApi
from factory.tools.rowfiles import BadLine
from factory.train.encoding import encode, render
from factory.train.examples import example_from_json, example_to_json
from factory.workspace.folder import Workspace
from factory.workspace.prompts import Prompts
from factory.workspace.recipe import Recipe

DATA = ROOT.parent / "shared" / "data"
AGENT = Prompts(Workspace(ROOT), TEMPLATES)
PROMPTS = Prompts(Workspace(ROOT))
RULEBOOK = Rulebook.load(Workspace(ROOT), {"round/duplicate_query": "off"})


def make_api(tool: str, api: str) -> dict[str, Any]:
    return {
        "category_name": "Home",
        "tool_name": tool,
        "api_name": api,
        "api_description": f"{api} with the {tool}.",
        "required_parameters": [
            {"name": "id", "type": "STRING", "description": "Which one", "default": "a"}
        ],
        "optional_parameters": [
            {"name": "Cups", "type": "NUMBER", "description": "Fill grade, ½ too", "default": ""}
        ],
    }


APIS = [make_api(f"Stove {n // 4}", f"Boil {n}") for n in range(12)]
DOCUMENTS = {document.key: (document,) for document in (read_document(x, "here") for x in APIS)}
BOIL, BAKE = ApiKey("Stove 0", "Boil 0"), ApiKey("Stove 0", "Boil 1")
QUERY = "Boil two cups of water, “hot”, on stove a."
THOUGHT = "First the water.\n\nThen we see."
FINAL = {"return_type": "give_answer", "final_answer": "It boils at 100 °C."}
RESPONSES = (
    {"error": "", "response": "{'état': 'warm'}" + "·" * MAX_RESPONSE},
    {"error": "no such stove", "response": ""},
)
NAMES = ("boil_0_for_stove_0", "boil_1_for_stove_0")
INPUTS: tuple[dict[str, Any], ...] = ({"id": "a", "Cups": 2}, {"id": "b"})
STANDARD = ({"is_id": "a", "cups": 2}, {"is_id": "b"})
"""As ToolBench's functions name the same parameters."""


def call(name: str, arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": json.dumps(arguments)}


def function(api: int) -> dict[str, Any]:
    """What ToolBench makes of an API of APIS."""
    said = f"Boil {api} with the Stove 0."
    properties = {
        "is_id": {"type": "string", "description": "Which one", "example_value": "a"},
        "cups": {"type": "number", "description": "Fill grade, ½ too"},
    }
    return {
        "name": NAMES[api],
        "description": 'This is the subfunction for tool "stove_0", you can use this tool.'
        f'The description of this function is: "{said}"',
        "parameters": {
            "type": "object", "properties": properties, "required": ["is_id"], "optional": ["cups"],
        },
    }  # fmt: skip


FUNCTIONS = [function(0), function(1), {"name": "Finish", "description": "End.", "parameters": {}}]
AGAIN = {"role": "user", "content": "This is not the first time you try this task, and so on."}
TURNS = [
    {"role": "system", "content": "You are AutoGPT."},
    {"role": "user", "content": f"\n{QUERY}\nBegin!\n"},
    {"role": "assistant", "content": THOUGHT},
    {"role": "assistant", "content": None, "function_call": call(NAMES[0], STANDARD[0])},
    {"role": "function", "name": NAMES[0], "content": json.dumps(RESPONSES[0])},
    AGAIN,
    {"role": "assistant", "content": None, "function_call": call(NAMES[1], STANDARD[1])},
    {"role": "function", "name": NAMES[1], "content": json.dumps(RESPONSES[1])},
    {"role": "assistant", "content": "Done.", "function_call": call("Finish", FINAL)},
]
TREE = {
    "answer_generation": {
        "valid_data": True,
        "query": QUERY,
        "function": FUNCTIONS,
        "train_messages": [TURNS[:4], TURNS],
    }
}


def react(thought: str, name: str, arguments: Any) -> dict[str, str]:
    value = f"\nThought: {thought}\nAction: {name}\nAction Input: {json.dumps(arguments, indent=1)}"
    return {"from": "assistant", "value": value}


TOOLLLAMA = {
    "id": f"Step 8: {QUERY}",
    "conversations": [
        {"from": "system", "value": f"You are AutoGPT. Use the following APIs: {FUNCTIONS!r}"},
        {"from": "user", "value": f"\n{QUERY}\nBegin!\n"},
        react(THOUGHT, NAMES[0], STANDARD[0]),
        {"from": "function", "value": json.dumps(RESPONSES[0])},
        {"from": "user", "value": AGAIN["content"]},
        react("", NAMES[1], STANDARD[1]),
        {"from": "function", "value": json.dumps(RESPONSES[1])},
        react("Done.", "Finish", FINAL),
    ],
}


def said(role: str, content: str, loss: bool | None = None) -> dict[str, Any]:
    return {"role": role, "content": content, "loss": role == "assistant" if loss is None else loss}


def documentation(token: str, api: dict[str, Any]) -> dict[str, Any]:
    shown = {"name": token, "description": api["api_description"]}
    shown |= {key: api[f"{key}_parameters"] for key in ("required", "optional")}
    return said("user", f"Please give the input. Here is the documentation: {shown}")


TOKENS = ("<<Stove 0&&Boil 0>>", "<<Stove 0&&Boil 1>>")
TOOLGEN = {
    "conversations": [
        said("system", "You are an AutoGPT. 1. Generate an action token."),
        said("user", f"\n{QUERY}\nBegin!\n"),
        said("assistant", THOUGHT),
        said("user", "Generate the action."),
        said("assistant", TOKENS[0]),
        documentation(TOKENS[0], APIS[0]),
        said("assistant", json.dumps(INPUTS[0])),
        said("tool", json.dumps(RESPONSES[0])),
        said("assistant", TOKENS[1]),
        documentation(TOKENS[1], APIS[1]),
        said("assistant", json.dumps(INPUTS[1])),
        said("tool", json.dumps(RESPONSES[1])),
        said("assistant", "Done."),
        said("user", "Please generate the action."),
        said("assistant", "<<Finish>>"),
        said("user", "Please give the input. Here is the documentation: {}"),
        said("assistant", json.dumps(FINAL)),
    ]
}
MESSAGES = {
    "messages": [
        {"role": "user", "content": QUERY},
        {
            "role": "assistant",
            "content": THOUGHT,
            "tool_calls": [
                {"id": str(n), "function": call(NAMES[n], STANDARD[n])} for n in range(2)
            ],
        },
        *(
            {"role": "tool", "tool_call_id": str(n), "content": json.dumps(RESPONSES[n])}
            for n in (1, 0)
        ),
        {
            "role": "assistant",
            "content": "Done.",
            "tool_calls": [{"id": "2", "function": call("Finish", FINAL)}],
        },
    ],
    "tools": [{"type": "function", "function": each} for each in FUNCTIONS],
}


def transcript(*nodes: tuple[str, Any], **more: Any) -> dict[str, Any]:
    tree: list[dict[str, Any]] = []
    for role, message in reversed(nodes):
        tree = [{"role": role, "message": message, "next": tree}]
    return {"query": QUERY, "available_tools": APIS[:2], "answer": {"answer_details": tree}} | more


def called(n: int) -> tuple[str, str]:
    made = {"name": NAMES[n], "arguments": to_json(INPUTS[n]), "response": to_json(RESPONSES[n])}
    return "tool", str(made)


FINISHED = "tool", str({"name": "Finish", "arguments": to_json(FINAL), "response": ""})
NODES = (("user", QUERY), ("assistant", THOUGHT), called(0), called(1), ("assistant", "Done."))
FORMS: dict[str, dict[str, Any]] = {
    "answer tree": TREE,
    "toolllama": TOOLLLAMA,
    "toolgen": TOOLGEN,
    "transcripts": {"I1-Inst/7": transcript(*NODES, FINISHED)},
    "messages": MESSAGES,
}


def read_one(row: object) -> Lesson:
    (lesson,) = read_row(row, "f:1")[1]
    return lesson


def judge(*rows: Any, held_out: tuple[HeldOut, ...] = ()) -> JudgedLessons:
    items = [x for n, each in enumerate(rows, 1) for x in read_row(each, f"f:{n}")[1]]
    lessons = Lessons(items=tuple(items), bad=tuple[BadLine](), formats={})
    return judge_lessons(lessons, (), rulebook=RULEBOOK, held_out=held_out)


def judge_one(*rows: Any) -> JudgedRow:
    return judge(*rows).requests[-1]


def chat_of(row: JudgedRow, *, by_code: bool) -> tuple[Message, ...]:
    return agent_chat(row.lesson.query, row.moves, row.given, Turns(AGENT), by_code=by_code)


def test_every_form_is_the_same_steps_of_the_agent() -> None:
    for name, form in FORMS.items():
        assert read_row(form, "f:1")[0] == name
        lesson = read_one(form)
        assert (lesson.query, lesson.calls, lesson.fault) == (QUERY, None, None), name
        assert [step.thought for step in lesson.steps] == [THOUGHT, "", "Done."], name
    rows = judge(*APIS, *FORMS.values()).requests
    assert len(rows) == len(FORMS)
    for row in rows:
        assert row.is_accepted, row.sample.cause
        assert [move.arguments for move in row.moves] == [*INPUTS, FINAL]
        assert [tool.document["tool_name"] for tool in row.tools] == ["Stove 0", "Stove 0"]
        assert chat_of(row, by_code=True) == chat_of(rows[0], by_code=True)


def test_tools_that_no_catalogue_has_are_those_of_the_row() -> None:
    for row in judge(*FORMS.values()).requests:
        assert row.is_accepted and len(row.tools) == 2, row.sample.cause
        chat = chat_of(row, by_code=False)
        assert [chat[n].content for n in (4, 10)] == list(NAMES)
        assert f"{NAMES[0]}, {NAMES[1]}, Finish" in chat[0].content


@pytest.fixture(scope="module")
def codebook(tmp_path_factory: pytest.TempPathFactory) -> SavedCodebook:
    """A codebook of all APIs, beside a model whose tokenizer has its tokens."""
    folder = tmp_path_factory.mktemp("coded")
    tools = [to_tool(several[0]) for several in DOCUMENTS.values()]
    vectors = np.random.default_rng(0).normal(size=(len(tools), 16)).astype(np.float32)
    made = fit_codebook([tool for tool in tools if tool], vectors, seed=1)
    names = code_names(made.num_levels, max(made.coder.sizes))
    tiny_model(folder, extra_tokens=[token for level in names for token in level])
    return save_codebook(made, folder, load_tokenizer(folder))


def recorded(folder: Path) -> Path:
    """RESPONSES as StableToolBench records them."""
    for key, given, response in zip((BOIL, BAKE), INPUTS, RESPONSES, strict=True):
        file = folder / "Home" / key.tool / f"{key.api}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({json.dumps(given): response}))
    return folder


def play(answers: Sequence[str], actions: ActionSpace, cache: Path) -> tuple[Any, list[Request]]:
    """The agent on the request, with these answers one after the other."""
    left = iter(answers)
    engine = ReplayEngine(lambda request: [next(left)])
    agent = Agent(
        engine=engine,
        templates=AGENT,
        apis=VirtualApi(AGENT, cache=cache),
        documents=DOCUMENTS,
        temperatures=(0.0,),
    )
    query = ToolQuery(id="I1/1", split="I1", text=QUERY, relevant=frozenset((BOIL, BAKE)))
    return asyncio.run(agent.solve(query, actions)), engine.requests


@pytest.mark.parametrize("by_code", [True, False])
def test_the_agents_prompts_and_answers_are_the_trained_ones_token_for_token(
    codebook: SavedCodebook, tmp_path: Path, by_code: bool
) -> None:
    model = codebook.trie_path.parent.parent
    row = judge_one(*APIS, TREE)
    example = Example(kind="trajectory", messages=chat_of(row, by_code=by_code), origin="t")
    trained = render(example, codebook)
    answers = [message for message in trained if message.role == "assistant"]
    actions: ActionSpace = Names((BOIL, BAKE))
    if by_code:
        actions = Codes.of(codebook, DOCUMENTS, folder=tmp_path / "tries")
    texts = [message.content for message in answers]
    made, requests = play(texts, actions, recorded(tmp_path / "cache"))
    assert (made.final_answer, made.reason) == (FINAL["final_answer"], "")
    assert [step.key for step in made.steps[:2]] == [BOIL, BAKE]
    assert len(made.steps[0].response) == MAX_RESPONSE and "no such stove" in made.steps[1].response

    chat, tokenizer = Chat(model), load_tokenizer(model)
    turn = read_turn(tokenizer, chat.end_ids)
    encoded = encode("trajectory", trained, tokenizer, turn)
    learnt = [
        (list(part.input_ids[:start]), list(part.input_ids[start:stop]))
        for part in encoded
        for start, stop in part.spans
    ]
    sent = [
        (chat.encode(request), tokenizer.encode(answer.content, add_special_tokens=False))
        for request, answer in zip(requests, answers, strict=True)
        if answer.loss
    ]
    assert learnt == sent
    assert [answer.content for answer in answers if not answer.loss] == [""]
    assert len(sent) == 8 and (codebook.code_text(row.tools[0].id) in texts) is by_code


@pytest.mark.parametrize(
    ("recorded", "shown"),
    [
        ('{"error": "", "response": "caf\\u00e9"}', '{"error": "", "response": "café"}'),
        ('{"error": null, "response": {"a": 1}}', '{"error": "", "response": "{\\"a\\": 1}"}'),
        ('{"error": "", "response": "caf\\u00e9 au...', '{"error": "", "response": "café au'),
        ('{"error": "", "response": "caf\\u00...', '{"error": "", "response": "caf'),
        ('{"error": "", "response": "a\\\\\\"b\\...', '{"error": "", "response": "a\\\\\\"b'),
        ('{"error": "", "response": "a\\\\...', '{"error": "", "response": "a\\\\...'),
        ("warm", '{"error": "", "response": "warm"}'),
        ('{"status": 5}', '{"error": "", "response": "{\\"status\\": 5}"}'),
    ],
)
def test_a_response_is_shown_as_the_agent_sees_it(recorded: str, shown: str) -> None:
    assert shown_response(recorded) == shown


def test_a_turn_without_loss_stays_without() -> None:
    silent = [dict(message) for message in TOOLGEN["conversations"]]
    for place in (2, 4, 10):
        silent[place] = silent[place] | {"loss": False}
    chat = chat_of(judge_one({"conversations": silent}), by_code=True)
    learnt = [message.loss for message in chat if message.role == "assistant"]
    assert learnt == [False, False, True, False, True, False, True, True, True]


def test_what_the_agent_leaves_behind_is_read_back_and_taught(tmp_path: Path) -> None:
    chat = chat_of(judge_one(*APIS, TREE), by_code=False)
    texts = [message.content for message in chat if message.role == "assistant"]
    texts[0] = f"I am using one of the following tools: [{', '.join(NAMES)}]. {texts[0]}"
    made, _ = play(texts, Names((BOIL, BAKE)), recorded(tmp_path))
    saved = json.loads(to_json(to_converted(made, DOCUMENTS)))
    given_up: Trajectory = replace(made, steps=made.steps[:1])
    row, *others = judge(
        {"mine/1": saved | {"benchmark": "mine", "split": "dev", "solved": True}},
        {"mine/1": saved | {"benchmark": "toolbench-completion", "split": "test"}},
        {"mine/1": saved | {"solved": False}},
        {"mine/1": to_converted(given_up, DOCUMENTS)},
    ).requests
    assert row.is_accepted, row.sample.cause
    assert chat_of(row, by_code=False) == chat
    rules = [other.rule for other in others]
    assert rules == ["round/eval_overlap", "row/unsolved", "row/unfinished"]


def test_of_branches_the_one_that_answers_is_read() -> None:
    row = transcript(*NODES)
    (root,) = row["answer"]["answer_details"]
    give_up = {"name": "Finish", "arguments": '{"return_type": "give_up_and_restart"}'}
    branch = {"role": "tool", "message": str(give_up), "next": []}
    root["next"] = [branch, *root["next"]]
    last = root["next"][1]
    while last["next"]:
        (last,) = last["next"]
    last["next"] = [{"role": FINISHED[0], "message": FINISHED[1], "next": []}]
    assert len(read_one({"1": row}).steps) == 3


def with_turns(*turns: dict[str, Any]) -> dict[str, Any]:
    made = TREE["answer_generation"] | {"train_messages": [list(turns)]}
    return {"answer_generation": made}


def finish(**arguments: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "function_call": call("Finish", arguments)}


def step(n: int, **arguments: Any) -> list[dict[str, Any]]:
    made = call(NAMES[n], {"is_id": "a"} | arguments)
    return [
        {"role": "assistant", "content": None, "function_call": made},
        {"role": "function", "content": "plain words"},
    ]


HEAD, ENDED = TURNS[:2], TURNS[-1]
HALLUCINATED = {"role": "assistant", "function_call": call("invalid_function_name", {})}


LEFT_OUT: list[tuple[dict[str, Any], str, str]] = [
    (with_turns(*HEAD, *step(0)), "row/unfinished", "no Finish after 1 steps"),
    (with_turns(*HEAD, *step(0), finish(x=1)), "row/unfinished", "no return_type"),
    (with_turns(), "row/unfinished", "none of its branches ends with Finish"),
    (
        with_turns(*HEAD, *step(0), finish(return_type="give_up_and_restart")),
        "row/gave_up",
        "give_up_and_restart",
    ),
    (
        with_turns(*HEAD, *step(0), finish(return_type="give_answer", final_answer="I’m sorry")),
        "row/gave_up",
        "sorry",
    ),
    (with_turns(*HEAD, *step(0), *step(1), *step(0), ENDED), "row/repeated", "step 3 calls"),
    (
        with_turns(*HEAD, *(t for n in range(16) for t in step(0, cups=n)), ENDED),
        "row/too_many_steps",
        "17 steps",
    ),
    (with_turns(*HEAD, *step(0, cups="two"), ENDED), "call/wrong_type", "two"),
    (with_turns(*HEAD, *step(0, is_id=None), ENDED), "call/wrong_type", "null"),
    (with_turns(*HEAD, *step(0, kettle=1), ENDED), "call/unknown_argument", "kettle"),
    (
        with_turns(*HEAD, HALLUCINATED, step(0)[1], ENDED),
        "call/unknown_tool",
        "invalid_function_name",
    ),
]


def test_a_path_that_the_agent_could_not_end_well_is_left_out() -> None:
    judged = judge(*(row for row, _, _ in LEFT_OUT)).requests
    for row, (_, rule, message) in zip(judged, LEFT_OUT, strict=True):
        assert row.rule == rule and row.sample.cause, message
        assert message in row.sample.cause.message
        if rule.startswith("call/"):
            assert row.sample.cause.path.startswith("$[0]")


def toolgen(*turns: dict[str, Any]) -> dict[str, Any]:
    return {"conversations": [said("user", QUERY), *turns]}


def chat(*messages: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": QUERY}, *messages], "tools": FUNCTIONS[:2]}


CALLS = {"role": "assistant", "tool_calls": [{"function": call(NAMES[0], {"is_id": "a"})}]}
ANSWERED = {"role": "tool", "content": "warm"}
SAYS = {"role": "assistant", "content": "It boils."}
ASKS = {"role": "user", "content": "And now?"}


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        (with_turns(TURNS[0], ENDED), "does not begin with a request"),
        (with_turns(*HEAD, ENDED, *step(0)), "goes on after Finish"),
        (with_turns(*HEAD, *step(0), ASKS, ENDED), "is no part of a step"),
        (with_turns(*HEAD, step(0)[0], ENDED), "1 calls, 0 of them are answered"),
        ({"answer_generation": {"query": QUERY}}, "looks like answer tree, and is not"),
        (
            with_turns(*HEAD, {"role": "assistant", "function_call": {"name": "x"}}),
            "its calls cannot be read",
        ),
        ({"conversations": [*TOOLLLAMA["conversations"][:2], react("x", "", {})]}, "no input"),
        (
            {"conversations": [{"from": "assistant", "value": "x\nAction Input: {}"}]},
            "has no Action",
        ),
        (
            {
                "conversations": [
                    {"from": "assistant", "value": "Thought: x\nAction: f\nAction Input: {no"}
                ]
            },
            "the input of f is no JSON",
        ),
        (toolgen(said("assistant", TOKENS[0]), said("assistant", "{no")), "is no JSON"),
        (toolgen(said("assistant", TOKENS[0]), said("assistant", "[1]")), "is no input"),
        (
            toolgen(said("user", "And?"), said("assistant", TOKENS[0])),
            "is no part of a step",
        ),
        (
            {"conversations": [said("user", "Tool Name: x."), said("assistant", TOKENS[0])]},
            "a document to memorise",
        ),
        (chat(SAYS, ANSWERED, SAYS), "message 3 (tool) follows message 2, which calls nothing"),
        (chat(SAYS, ASKS, ASKS), "message 4 (user) follows message 3 (user)"),
        (chat(SAYS, SAYS), "message 3 (assistant) follows message 2 (assistant)"),
        (chat(CALLS, ANSWERED, {"role": "assistant", "content": " "}), "the answer is empty"),
    ],
)
def test_a_conversation_that_cannot_be_one_has_a_reason(row: dict[str, Any], cause: str) -> None:
    with pytest.raises(ValueError) as error:
        read_row(row, "f:1")
    assert cause in str(error.value)


def test_a_transcript_that_cannot_be_read_leaves_the_others() -> None:
    broken = transcript(("tool", "no call"))
    first, second = judge({"1": broken, "2": transcript(*NODES, FINISHED)}).requests
    assert (first.rule, second.rule) == ("row/unreadable", "")
    assert first.sample.cause and "node 1 is no call" in first.sample.cause.message


def test_toolgens_retrieval_rows_name_a_tool() -> None:
    lesson = read_one({"conversations": [said("user", QUERY), said("assistant", TOKENS[0])]})
    assert (lesson.query, lesson.names, lesson.calls) == (QUERY, ("Stove 0&&Boil 0",), None)


def test_the_beginnings_of_a_path_are_taught_with_it(tmp_path: Path) -> None:
    turns = TOOLLLAMA["conversations"]
    rows = [{"id": "x", "conversations": turns[:end]} for end in (3, 6, 8)]
    other = [turns[0], turns[1], react("x", NAMES[1], STANDARD[0])]
    path = tmp_path / "toolllama_G123_dfs_train.json"
    path.write_text(json.dumps([*rows, {"id": "y", "conversations": other}]))
    found = read_lessons([path])
    assert (found.joined, found.formats) == (2, {"toolllama": 4})
    assert [len(each.steps) for each in found.items] == [3, 1]


def test_the_trees_of_toolbenchs_tests_are_not_taught(tmp_path: Path) -> None:
    asked = [(1, QUERY), (2, "Another request"), (3, "One of the test")]
    rows = [
        {
            "query_id": number, "query": text, "api_list": APIS[:2],
            "relevant APIs": [["Stove 0", "Boil 0"]],
        }
        for number, text in asked
    ]  # fmt: skip
    for name in ("instruction", "test_query_ids", "answer/G1_answer"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "instruction" / "G1_query.json").write_text(to_json(rows))
    (tmp_path / "test_query_ids" / "G1_instruction.json").write_text("[3]")
    for number, text in (asked[0], asked[2]):
        tree = {"answer_generation": TREE["answer_generation"] | {"query": text}}
        file = tmp_path / "answer" / "G1_answer" / f"{number}_ChatGPT_DFS_woFilter_w2.json"
        file.write_text(json.dumps(tree))
    found = read_lessons([tmp_path])
    steps = [lesson for lesson in found.items if lesson.steps]
    assert [lesson.fault.rule if lesson.fault else "" for lesson in steps] == [
        "",
        "round/eval_overlap",
    ]
    assert found.formats == {"answer tree": 2, "toolbench split": 4}


def test_a_trajectory_teaches_itself_and_the_tools_that_it_calls() -> None:
    row = judge_one(*APIS, TREE)
    labelled = replace(row.sample.candidate, chat=chat_of(row, by_code=True))
    made = lesson_examples(
        [labelled], [], rulebook=RULEBOOK, prompts=PROMPTS, recipe=Recipe(), number=1
    )
    kinds = [example.kind for example in made]
    assert sorted(kinds) == ["code", "code", "gen", "retrieve", "retrieve", "trajectory"]
    whole = made[kinds.index("trajectory")]
    assert whole.messages == labelled.chat
    assert example_from_json(json.loads(to_json(example_to_json(whole))), "here") == whole


CHAT = chat(
    CALLS | {"tool_calls": [*CALLS["tool_calls"], {"function": call(NAMES[1], {"is_id": "b"})}]},
    ANSWERED,
    {"role": "tool", "content": "cold"},
    SAYS,
    ASKS,
    CALLS,
    ANSWERED,
    SAYS | {"content": "Still.", "weight": 0},
    ASKS,
)


def taught(row: JudgedRow) -> list[Example]:
    chat = call_chat(
        row.lesson.query,
        row.given or row.tools,
        row.lesson.turns,
        PROMPTS,
        is_taught=not row.is_silent,
    )
    candidate = replace(row.sample.candidate, chat=chat)
    return lesson_examples(
        [candidate], [], rulebook=RULEBOOK, prompts=PROMPTS, recipe=Recipe(), number=1
    )


def test_of_a_chat_every_answer_with_loss_is_taught_once() -> None:
    examples = {each.kind: each for each in taught(judge_one(CHAT))}
    invoke, whole = examples["invoke"].messages, examples["trajectory"].messages
    assert whole[:3] == (*invoke[:2], replace(invoke[2], loss=False))
    assert whole[2].content.count("<tool_call>") == 2
    responses = "<tool_response>\nwarm\n</tool_response>\n<tool_response>\ncold\n</tool_response>"
    assert [m.content for m in whole if m.role == "user"] == [
        QUERY, responses, "And now?", "<tool_response>\nwarm\n</tool_response>",
    ]  # fmt: skip
    learnt = [(m.content, m.loss) for m in whole[3:] if m.role == "assistant"]
    assert [loss for _, loss in learnt] == [True, True, False]
    assert learnt[0][0] == "It boils." and learnt[1][0].startswith("<tool_call>")
    assert whole[-1].content == "Still.", "what nobody answers is not shown"


def test_a_first_answer_without_loss_is_no_example() -> None:
    row = judge_one(chat(CALLS | {"loss": False}, ANSWERED, SAYS))
    (example,) = taught(row)
    assert example.kind == "trajectory"
    assert [m.loss for m in example.messages if m.role == "assistant"] == [False, True]


def test_a_chat_of_one_answer_is_no_conversation() -> None:
    assert not read_one(chat(CALLS)).turns and not read_one(chat(CALLS, ANSWERED)).turns


def test_later_calls_are_judged_too() -> None:
    wrong = {"role": "assistant", "tool_calls": [{"function": call(NAMES[0], {"is_id": 5})}]}
    row = judge_one(chat(CALLS, ANSWERED, wrong))
    assert row.rule == "call/wrong_type" and row.sample.cause
    assert row.sample.cause.path == "$.messages[3][0].arguments.is_id"
    other = {"role": "assistant", "tool_calls": [{"function": call("sail", {})}]}
    assert judge_one(chat(SAYS, ASKS, other)).rule == "row/no_document"
    assert judge_one(chat(CALLS, ANSWERED, other)).rule == "call/unknown_tool"


def test_a_question_of_a_benchmark_is_found_in_any_turn(tmp_path: Path) -> None:
    home = load(make_workspace(tmp_path / "ws"), "home")
    question = {"role": "user", "content": home.items[0].query}
    for rows in (chat(SAYS, question, SAYS), chat(SAYS, question | {"content": QUERY}, SAYS)):
        asks = rows["messages"][2] is question
        (row,) = judge(rows, held_out=(home,)).requests
        assert (row.rule == "round/eval_overlap") is asks
    tree = {"answer_generation": TREE["answer_generation"] | {"query": home.items[0].query}}
    (row,) = judge(tree, held_out=(home,)).requests
    assert row.rule == "round/eval_overlap"


def test_no_tool_of_the_dev_set_is_called_in_a_later_turn() -> None:
    rows = [
        {"query": f"Do number {n}", "tools": [function(n % 2)],
         "calls": [{"name": NAMES[n % 2], "arguments": {"is_id": "a"}}]}
        for n in range(8)
    ]  # fmt: skip
    split = hold_out(judge(*rows, CHAT, TREE), 0.1, "taught-1", seed=0)
    assert [row.rule for row in split.taught.requests[-2:]] == ["row/held_out_tool"] * 2


def test_real_answer_trees() -> None:
    folder = DATA / "toolbench_openbmb" / "data_example" / "answer"
    if not folder.exists():
        pytest.skip("../shared/data/toolbench_openbmb is not here")
    found = read_lessons([folder])
    assert (len(found.items), len(found.bad)) == (15, 0)
    judged = judge_lessons(found, (), rulebook=RULEBOOK, held_out=())
    rules = [row.rule for row in judged.requests]
    counts = {rule: rules.count(rule) for rule in set(rules)}
    assert counts == {"": 5, "row/gave_up": 6, "row/repeated": 2, "row/unfinished": 2}


def test_nothing_is_taught_after_finish() -> None:
    turns = TOOLGEN["conversations"]
    fault = read_one({"conversations": [*turns, *turns[3:]]}).fault
    assert fault is not None and fault.message == "it goes on after Finish"


def test_a_response_may_be_an_object() -> None:
    made = {"name": NAMES[0], "arguments": to_json(INPUTS[0]), "response": RESPONSES[0]}
    nodes = (NODES[0], NODES[1], ("tool", made), *NODES[3:], FINISHED)
    assert read_one({"1": transcript(*nodes)}) == read_one({"1": transcript(*NODES, FINISHED)})


def test_no_question_is_made_of_an_answer_without_loss() -> None:
    silent = [chat(CALLS | {"loss": False}, ANSWERED, SAYS) | {"id": n} for n in range(2)]
    rows = [
        {"query": f"Do number {n}", "tools": [function(n % 2)],
         "calls": [{"name": NAMES[n % 2], "arguments": {"is_id": "a"}}]}
        for n in range(4)
    ]  # fmt: skip
    split = hold_out(judge(*rows, *silent), 0.5, "taught-1", seed=0)
    assert split.questions and all(each.ground_truth for each in split.questions)


def test_a_name_that_was_cut_stays_as_calls_have_it() -> None:
    name = "_of_all_the_movies_by_x_and_year_for_imdb_movie_database_service"
    said = (
        'This is the subfunction for tool "imdb_movie_database_service", you can use this tool.'
        'The description of this function is: "Lists movies."'
    )
    parameters = {"type": "object", "properties": {}, "required": [], "optional": []}
    function = {"name": name, "description": said, "parameters": parameters}
    step = {
        "role": "assistant",
        "content": "I look.",
        "tool_calls": [{"id": "1", "function": call(name, {})}],
    }
    answered = {"role": "tool", "tool_call_id": "1", "content": json.dumps(RESPONSES[0])}
    row = {
        "messages": [MESSAGES["messages"][0], step, answered, MESSAGES["messages"][-1]],
        "tools": [{"type": "function", "function": each} for each in (function, FUNCTIONS[-1])],
    }
    lesson = read_one(row)
    assert [each["name"] for each in lesson.documents] == [name] and lesson.names == (name,)
    assert judge_one(row).is_accepted
