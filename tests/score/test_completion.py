"""Solving with tools: the agent's turns and masks, virtual APIs, SoPR and SoWR."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest_models import code_names, tiny_model
from workspaces import ROOT, make_workspace

from factory.codes import trie as tries
from factory.codes.growing import fit_codebook
from factory.codes.saving import SavedCodebook, save_codebook
from factory.domain.failures import ContentError
from factory.domain.records import PROMPT_TOO_LONG, SCHEMA_UNSUPPORTED, Checkpoint, Request, Tool
from factory.engines.replay import ReplayEngine
from factory.score.toolbench.agent import (
    Agent,
    Codes,
    Decode,
    Names,
    Setting,
    Trajectory,
)
from factory.score.toolbench.data import ApiDocument, ApiKey, ToolQuery, read_document, to_tool
from factory.score.toolbench.judge import (
    Judge,
    Prediction,
    Status,
    Winner,
    outcome,
    pass_rate,
    read_judgement,
    read_predictions,
    to_converted,
    to_prediction,
)
from factory.score.toolbench.turns import FINISH, MAX_RESPONSE
from factory.score.toolbench.virtual import VirtualApi
from factory.tools.schema import read_tool
from factory.workspace.folder import Workspace
from factory.workspace.prompts import Prompts
from factory.workspace.recipe import CoderName, CodesSection

TEMPLATES = Prompts(Workspace(ROOT), "eval/toolbench")
EXAMPLES = sorted((ROOT / "eval").glob("*/*.example.json"))


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name.split(".")[0])
def test_a_template_renders_its_example_and_needs_each_variable(file: Path) -> None:
    example = json.loads(file.read_text(encoding="utf-8"))
    name = file.name.removesuffix(".example.json")
    templates = Prompts(Workspace(ROOT), f"eval/{file.parent.name}")
    assert templates.render(name, **example["input"]) == example["output"]
    for variable in example["input"]:
        rest = {key: value for key, value in example["input"].items() if key != variable}
        with pytest.raises(ContentError):
            templates.render(name, **rest)


def test_every_template_has_an_example_and_may_be_replaced(tmp_path: Path) -> None:
    names = {path.stem for path in (ROOT / "eval").glob("*/*.j2")}
    assert names == {path.name.removesuffix(".example.json") for path in EXAMPLES}
    own = Prompts(
        make_workspace(tmp_path / "ws", {"eval/toolbench/action.j2": "Act."}), "eval/toolbench"
    )
    assert own.render("action") == "Act."
    assert own.sha("action") != TEMPLATES.sha("action")


# The agent --------------------------------------------------------------------------------


def make_document(tool: str, api: str) -> ApiDocument:
    value = {
        "category_name": "Home",
        "tool_name": tool,
        "api_name": api,
        "api_description": f"{api} of {tool}",
        "required_parameters": [{"name": "cups", "type": "NUMBER", "description": "How many"}],
        "optional_parameters": [],
    }
    return read_document(value, "here")


DOCUMENTS = {
    document.key: (document,)
    for document in (make_document(f"Tool {n // 4}", f"api {n}") for n in range(32))
}
KEYS = list(DOCUMENTS)
QUERY = ToolQuery(
    id="I1-Inst/1", split="I1-Inst", text="Boil two cups.", relevant=frozenset(KEYS[:2])
)


@pytest.fixture(scope="module")
def codebook(tmp_path_factory: pytest.TempPathFactory) -> SavedCodebook:
    """A codebook of all but the last API, saved beside a tokenizer that has its tokens."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("coded")
    tools = [to_tool(several[0]) for several in list(DOCUMENTS.values())[:-1]]
    vectors = np.random.default_rng(0).normal(size=(len(tools), 16)).astype(np.float32)
    made = fit_codebook(tools, vectors, seed=1)
    names = code_names(made.num_levels, max(made.coder.sizes))
    tiny_model(folder, extra_tokens=[token for level in names for token in level])
    return save_codebook(made, folder, AutoTokenizer.from_pretrained(folder))


load_trie = lru_cache(tries.Trie.load)


class Sampled:
    """Answers of a random model: constrained turns walk the request's own trie."""

    def __init__(self, codebook: SavedCodebook, seed: int, finish: float = 0.3) -> None:
        head = json.loads((codebook.trie_path.parent / "codebook.json").read_text())
        self._tokens = {number: token for token, number in head["token_ids"].items()}
        self._end = head["end"]
        self._random = random.Random(seed)
        self._finish = finish

    def __call__(self, request: Request) -> Sequence[str]:
        if request.constraint is None:
            documentation = request.messages[-1].content
            if '"name": "Finish"' in documentation:
                return ['{"return_type": "give_answer", "final_answer": "done"}']
            return [json.dumps({"cups": self._random.random()})]
        trie, node, text = load_trie(request.constraint.trie), tries.ROOT, ""
        while (token := self._random.choice(trie.allowed(node).tolist())) != self._end:
            text += self._tokens[token]
            node = trie.step(node, token)
        return [text]


def make_agent(engine: ReplayEngine, **changes: Any) -> Agent:
    agent = Agent(
        engine=engine,
        templates=TEMPLATES,
        apis=VirtualApi(TEMPLATES),
        documents=DOCUMENTS,
        temperatures=(0.0,),
    )
    return replace(agent, **changes)


def solve(agent: Agent, actions: Any, setting: Any = "retrieval") -> Trajectory:
    return asyncio.run(agent.solve(QUERY, actions, setting))


def test_only_the_action_turn_is_constrained(codebook: SavedCodebook, tmp_path: Path) -> None:
    """100 trajectories: the trie is on in every action turn and in no other."""
    codes = Codes.of(codebook, DOCUMENTS, folder=tmp_path)
    num_actions = 0
    for seed in range(100):
        engine = ReplayEngine(Sampled(codebook, seed))
        made = solve(make_agent(engine), codes)
        for request in engine.requests:
            kind = request.id.rsplit("/", 1)[1]
            is_action = request.messages[-1].content == "Generate the action."
            assert (kind == "action") is is_action is (request.constraint is not None)
            num_actions += is_action
        assert all(step.key in DOCUMENTS or step.key == FINISH for step in made.steps)
        roles = [message.role for message in engine.requests[-1].messages]
        assert roles == ["system", *["user", "assistant"] * 50][: len(roles)]
    assert num_actions > 300


def test_the_action_is_the_likeliest_code_of_a_beam_where_that_is_asked_for(
    codebook: SavedCodebook, tmp_path: Path
) -> None:
    codes = Codes.of(codebook, DOCUMENTS, folder=tmp_path)
    likeliest, second = codes.write(KEYS[0]), codes.write(KEYS[1])
    finish = codes.write(FINISH)
    decodes: tuple[Decode, ...] = ("sample", "beam")
    for decode in decodes:
        num_actions = 0

        def answer(request: Request) -> Sequence[str]:
            nonlocal num_actions
            if not request.id.endswith("/action"):
                return [ANSWER]
            num_actions += 1
            best = likeliest if num_actions == 1 else finish
            return [best, second] if request.sampling.beam else [best]

        engine = ReplayEngine(answer)
        made = solve(make_agent(engine, decode=decode, temperatures=(0.6,)), codes)
        assert [step.key for step in made.steps] == [KEYS[0], FINISH]
        for request in engine.requests:
            searched = decode == "beam" and request.id.endswith("/action")
            sampling = request.sampling
            assert (sampling.beam, sampling.n) == (searched, 5 if searched else 1)
            assert sampling.temperature == (0.0 if searched else 0.6)
    engine = ReplayEngine(scripted(thought=["x"], action=["Finish"], input=[ANSWER]))
    assert solve(make_agent(engine, decode="beam"), NAMES).final_answer == "It boils."


def test_inputs_are_bound_to_the_named_tools_schema_where_that_is_asked_for(
    codebook: SavedCodebook, tmp_path: Path
) -> None:
    class Picky(ReplayEngine):
        """Makes no grammar of Finish."""

        async def sample(self, requests: Sequence[Request]) -> list[Any]:
            (reply,) = await super().sample(requests)
            constraint = requests[0].constraint
            if (
                constraint is None
                or not constraint.tools
                or constraint.tools[0]["name"] != "Finish"
            ):
                return [reply]
            none = tuple(
                replace(c, text="", finish_reason=SCHEMA_UNSUPPORTED) for c in reply.completions
            )
            return [replace(reply, completions=none)]

    script = scripted(thought=["Water."], action=[FIRST, "Finish"], input=['{"cups": 2}', ANSWER])
    engine = Picky(script)
    made = solve(make_agent(engine, constrain_inputs=True), NAMES)
    assert made.final_answer == "It boils."
    bound = [request.constraint for request in engine.requests if request.id.endswith("/input")]
    first, finish, again = bound
    assert first is not None and finish is not None and again is None
    assert first.tools == (to_tool(DOCUMENTS[KEYS[0]][0]).document,)
    validator = read_tool(Tool(id="t", document=finish.tools[0])).validator
    assert validator.is_valid(json.loads(ANSWER)) and validator.is_valid(json.loads(GIVE_UP))
    assert not validator.is_valid({"final_answer": "It boils."})


def test_all_coded_tools_and_finish_are_at_hand(codebook: SavedCodebook, tmp_path: Path) -> None:
    codes = Codes.of(codebook, DOCUMENTS, folder=tmp_path)
    trie = load_trie(codes.constraint.trie)
    assert len(trie) == len(DOCUMENTS) == len(codebook) + 1
    assert KEYS[0] in codes
    assert KEYS[-1] not in codes, "it has no code"
    assert codes.read(f" {codes.write(FINISH)}\n") == FINISH
    assert codebook.tool_of(codes.write(FINISH)) is None
    assert codes.read("<a_999>") is None


@pytest.mark.parametrize("coder", ["atomic", "numeric", "semantic"])
def test_finish_has_a_code_of_its_own_in_every_layout(coder: CoderName, tmp_path: Path) -> None:
    """Reserved: decoded under the agent's trie, never under that of the tools."""
    from transformers import AutoTokenizer

    tools = [to_tool(several[0]) for several in DOCUMENTS.values()]
    made = fit_codebook(tools, None, CodesSection(coder=coder))
    names = [token for level in made.tokens for token in level]
    tiny_model(tmp_path / "model", extra_tokens=names)
    made = save_codebook(
        made, tmp_path / "model", AutoTokenizer.from_pretrained(tmp_path / "model")
    )
    codes = Codes.of(made, DOCUMENTS, folder=tmp_path)
    written = codes.write(FINISH)
    wanted = {"atomic": "<a_32>", "numeric": "0 0 0 3 2", "semantic": "Finish"}
    assert written == wanted[coder] and codes.read(written) == FINISH
    assert load_trie(codes.constraint.trie).lookup(made.finish_ids) == written
    assert load_trie(str(made.trie_path)).lookup(made.finish_ids) is None
    few = codes.only(KEYS[:2])
    assert len(load_trie(few.constraint.trie)) == 3 and few.write(FINISH) == written


def test_ground_truth_tools_are_named_and_the_only_ones(
    codebook: SavedCodebook, tmp_path: Path
) -> None:
    codes = Codes.of(codebook, DOCUMENTS, folder=tmp_path).only(sorted(QUERY.relevant))
    seen = set()
    for seed in range(40):
        engine = ReplayEngine(Sampled(codebook, seed))
        made = solve(make_agent(engine), codes, "gt")
        seen |= {step.key for step in made.steps}
        assert made.steps[0].thought.startswith("I am using one of the following tools: [<")
        assert not any("I am using" in step.thought for step in made.steps[1:])
    assert seen == {*QUERY.relevant, FINISH}


def test_a_relevant_tool_without_a_code_is_not_at_hand(
    codebook: SavedCodebook, tmp_path: Path
) -> None:
    codes = Codes.of(codebook, DOCUMENTS, folder=tmp_path)
    head = f"I am using one of the following tools: [{codes.write(KEYS[0])}]. "
    cases: list[tuple[Setting, list[ApiKey], str]] = [
        ("gt", [KEYS[0], KEYS[-1]], head),
        ("gt", [KEYS[-1]], ""),
        ("retrieval", [KEYS[0], KEYS[-1]], ""),
    ]
    for setting, relevant, named in cases:
        agent = make_agent(ReplayEngine(Sampled(codebook, 0)))
        actions = codes.only(sorted(relevant)) if setting == "gt" else codes
        query = replace(QUERY, relevant=frozenset(relevant))
        made = asyncio.run(agent.solve(query, actions, setting))
        assert made.steps[0].thought.partition("{")[0] == named
    assert KEYS[0] in NAMES and KEYS[-1] not in NAMES
    assert FINISH in NAMES and FINISH in codes and FINISH in codes.only([])


def scripted(**turns: Sequence[str]) -> Callable[[Request], Sequence[str]]:
    """Answers by kind of turn, one after the other; the last one repeats."""
    counts = dict.fromkeys(turns, 0)

    def answer(request: Request) -> Sequence[str]:
        kind = request.id.rsplit("/", 1)[1]
        place = min(counts[kind], len(turns[kind]) - 1)
        counts[kind] += 1
        return [turns[kind][place]]

    return answer


NAMES = Names(tuple(KEYS[:3]))
FIRST = NAMES.write(KEYS[0])
ANSWER = '{"return_type": "give_answer", "final_answer": "It boils."}'
GIVE_UP = '{"return_type": "give_up_and_restart"}'


def test_a_trajectory_by_names(tmp_path: Path) -> None:
    script = scripted(thought=["Water."], action=[FIRST, "Finish"], input=['{"cups": 2}', ANSWER])
    engine = ReplayEngine(script)
    made = solve(make_agent(engine), NAMES)
    assert (made.return_type, made.final_answer, made.reason) == ("give_answer", "It boils.", "")
    assert [step.key for step in made.steps] == [KEYS[0], FINISH]
    assert "no response is recorded" in made.steps[0].response
    assert FIRST in engine.requests[0].messages[0].content
    assert '"required": [{"name": "cups"' in engine.requests[2].messages[-1].content


@pytest.mark.parametrize(
    ("turns", "reason", "num_steps"),
    [
        ({"action": ["nonsense"], "input": ["{}"]}, "max_turns", 4),
        ({"action": [FIRST], "input": ['{"cups": 2}', '{ "cups":2 }']}, "repeated", 2),
        ({"action": ["Finish"], "input": [GIVE_UP]}, "gave_up", 1),
        ({"action": ["Finish"], "input": [ANSWER.replace("It", "I'm sorry, it")]}, "gave_up", 1),
        ({"action": ["Finish"], "input": ["done"]}, "finish_json", 1),
        ({"action": ["Finish"], "input": ['["x"]']}, "finish_json", 1),
    ],
)
def test_why_there_is_no_answer(
    turns: Mapping[str, Sequence[str]], reason: str, num_steps: int
) -> None:
    engine = ReplayEngine(scripted(thought=["Hm."], **turns))
    made = solve(make_agent(engine, max_turns=4), NAMES)
    assert (made.reason, len(made.steps)) == (reason, num_steps)
    assert to_prediction(made).final_answer == ""
    assert to_prediction(made).finished is (turns["action"] == ["Finish"])


def test_giving_up_is_tried_again_hotter() -> None:
    script = scripted(thought=["Hm."], action=["Finish"], input=[GIVE_UP, GIVE_UP, ANSWER])
    engine = ReplayEngine(script)
    made = solve(make_agent(engine, temperatures=(0.0, 0.6, 1.0, 1.0)), NAMES)
    assert (made.attempts, made.reason) == (3, "")
    heats = [request.sampling.temperature for request in engine.requests]
    assert heats == [0.0] * 3 + [0.6] * 3 + [1.0] * 3
    assert len({request.sampling.seed for request in engine.requests}) == len(engine.requests)


def test_input_that_is_no_json_reaches_no_api() -> None:
    script = scripted(
        thought=["Hm."], action=[FIRST, FIRST, "Finish"], input=["two cups", "[1]", ANSWER]
    )
    made = solve(make_agent(ReplayEngine(script)), NAMES)
    assert all("cannot be read" in step.response for step in made.steps[:2])
    assert made.reason == ""


class Full(ReplayEngine):
    """Gives no answer to any prompt."""

    async def sample(self, requests: Sequence[Request]) -> list[Any]:
        replies = await super().sample(requests)
        return [
            replace(
                reply,
                completions=tuple(
                    replace(c, text="", finish_reason=PROMPT_TOO_LONG) for c in reply.completions
                ),
            )
            for reply in replies
        ]


def test_an_engine_without_an_answer_ends_the_attempt() -> None:
    made = solve(make_agent(Full(lambda request: [""])), NAMES)
    assert (made.reason, made.steps) == (PROMPT_TOO_LONG, ())


# Virtual APIs -----------------------------------------------------------------------------


def call(api: VirtualApi, key: ApiKey, arguments: Mapping[str, Any]) -> Any:
    return asyncio.run(api.call(DOCUMENTS[key][0], arguments))


@pytest.mark.parametrize(
    "path", ["Home/Tool 0/api 0.json", "Home/Tool_0/api_0.json", "Home/tool_0/api_0.json"]
)
def test_recorded_responses_are_served(tmp_path: Path, path: str) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    recorded = {
        "{'cups': 2, 'hot': True}": {"error": "", "response": {"state": "boiling"}},
        '{"cups": 3}': "plain",
        "": {"error": "no cups", "response": ""},
        "not arguments": {},
    }
    file.write_text(json.dumps(recorded))
    api = VirtualApi(TEMPLATES, cache=tmp_path)
    assert call(api, KEYS[0], {"hot": True, "cups": 2}).response == '{"state": "boiling"}'
    assert call(api, KEYS[0], {"cups": 3}).response == "plain"
    assert call(api, KEYS[0], {}).error == "no cups"
    assert call(api, KEYS[0], {"cups": 9}).source == "absent"
    assert call(api, KEYS[1], {"cups": 3}).source == "absent"


def test_a_damaged_cache_is_named(tmp_path: Path) -> None:
    file = tmp_path / "Home" / "Tool 0" / "api 0.json"
    file.parent.mkdir(parents=True)
    file.write_text("[1]")
    with pytest.raises(ContentError) as error:
        call(VirtualApi(TEMPLATES, cache=tmp_path), KEYS[0], {})
    assert error.value.where == str(file)


def test_what_a_model_makes_up_is_kept(tmp_path: Path) -> None:
    engine = simulator("small", "2")
    own = tmp_path / "kept" / "apis.jsonl"

    async def twice(api: VirtualApi) -> list[Any]:
        calls = (api.call(DOCUMENTS[KEYS[0]][0], {"cups": 2}) for _ in range(2))
        return list(await asyncio.gather(*calls))

    first = asyncio.run(twice(VirtualApi(TEMPLATES, engine=engine, own=own)))
    assert [each.response for each in first] == ['{"cups": 2}'] * 2
    assert len(engine.requests) == 1, "equal calls at once are one"
    second = VirtualApi(TEMPLATES, engine=engine, own=own)
    assert call(second, KEYS[0], {"cups": 2}) == first[0] and len(engine.requests) == 1
    own.write_text(own.read_text() + "oops\n")
    with pytest.raises(ContentError, match="kept") as error:
        VirtualApi(TEMPLATES, own=own)
    assert error.value.where == f"{own}:2"


def simulator(name: str, cups: str) -> ReplayEngine:
    answer = f'Sure: {{"error": "", "response": {{"cups": {cups}}}}}'
    return ReplayEngine(lambda _: [answer], Checkpoint(id=name, path="", fingerprint=name))


def test_a_made_up_response_belongs_to_its_model_and_prompt(tmp_path: Path) -> None:
    own, input_ = tmp_path / "apis.jsonl", {"cups": 2}
    small, large = simulator("small", "2"), simulator("large", "3")

    def respond(engine: ReplayEngine | None, **changes: Any) -> str:
        api = VirtualApi(changes.get("templates", TEMPLATES), engine=engine, own=own)
        return str(call(api, KEYS[0], input_).response)

    assert respond(small) == '{"cups": 2}'
    assert respond(large) == '{"cups": 3}', "another judge plays another world"
    assert respond(small) == '{"cups": 2}' and len(small.requests) == 1
    assert call(VirtualApi(TEMPLATES, own=own), KEYS[0], input_).source == "absent"
    rows = [json.loads(line) for line in own.read_text().splitlines()]
    assert [row["model"] for row in rows] == ["small", "large"]
    # Another prompt asks anew and leaves what was kept.
    prompt = "{{ api | json }} {{ examples | json }} {{ arguments | json }}"
    changed = Prompts(
        make_workspace(tmp_path / "ws", {"eval/toolbench/simulate.j2": prompt}), "eval/toolbench"
    )
    assert respond(small, templates=changed) == '{"cups": 2}' and len(small.requests) == 2
    assert respond(small) == '{"cups": 2}' and len(small.requests) == 2
    # Rows of before prompts were written down are their model's.
    old = [{k: v for k, v in row.items() if k != "prompt"} for row in rows]
    own.write_text("".join(json.dumps(row) + "\n" for row in old))
    assert respond(small) == '{"cups": 2}' and respond(large) == '{"cups": 3}'
    assert (len(small.requests), len(large.requests)) == (2, 1)


def test_what_the_engine_did_not_answer_is_not_kept(tmp_path: Path) -> None:
    own, engine = tmp_path / "apis.jsonl", simulator("small", "2")
    full = Full(lambda _: [""], engine.checkpoint)
    found = call(VirtualApi(TEMPLATES, engine=full, own=own), KEYS[0], {"cups": 2})
    assert (found.source, found.response) == ("absent", "") and PROMPT_TOO_LONG in found.error
    assert not own.exists()
    again = call(VirtualApi(TEMPLATES, engine=engine, own=own), KEYS[0], {"cups": 2})
    assert (again.source, again.response) == ("simulated", '{"cups": 2}')


def test_a_made_up_text_that_is_no_json_is_the_response() -> None:
    api = VirtualApi(TEMPLATES, engine=ReplayEngine(lambda _: [" It boils. "]))
    assert call(api, KEYS[0], {}).response == "It boils."


def test_a_long_response_is_cut_for_the_agent() -> None:
    api = VirtualApi(TEMPLATES, engine=ReplayEngine(lambda _: ["x" * 5000]))
    script = scripted(thought=["Hm."], action=[FIRST, "Finish"], input=["{}", ANSWER])
    made = solve(make_agent(ReplayEngine(script), apis=api), NAMES)
    assert len(made.steps[0].response) == MAX_RESPONSE


# Calculators ------------------------------------------------------------------------------


def statuses(solved: int, total: int) -> dict[str, Status]:
    return {str(n): "Solved" if n < solved else "Unsolved" for n in range(total)}


def test_sgtcs_figures_come_out() -> None:
    """§0.3: SoPR 62.78 is 307 of 489 judgements, SoWR 42.94 is 70 of 163 pairs."""
    ids = [str(n) for n in range(163)]
    rate = pass_rate([statuses(102, 163), statuses(102, 163), statuses(103, 163)], ids)
    assert rate.mean == pytest.approx(100 * 307 / 489)
    assert round(rate.mean, 2) == 62.78
    assert rate.std == pytest.approx(float(np.std(rate.runs)))
    votes: list[Winner]
    won = 0
    for number in range(163):
        votes = ["candidate", "reference", "candidate" if number < 70 else "reference"]
        won += outcome(votes) == "candidate"
    assert round(100 * won / 163, 2) == 42.94


def test_missing_predictions_lower_the_rate() -> None:
    ids = [str(n) for n in range(10)]
    full = statuses(5, 10)
    fewer = {query_id: full[query_id] for query_id in ids[:-2]}
    assert pass_rate([full], ids).mean == pass_rate([fewer], ids).mean == 50
    assert pass_rate([{**full, "9": "Unsure"}], ids).mean == 55
    assert pass_rate([{"0": "Solved", "elsewhere": "Solved"}], ids).mean == 10
    assert outcome(()) == "reference"


@pytest.mark.parametrize(
    ("votes", "found"),
    [
        (("candidate", "reference", "tie"), "tie"),
        (("candidate", "tie", "unjudged"), "candidate"),
        (("unjudged", "reference", "unjudged"), "reference"),
        (("unjudged", "unjudged", "unjudged"), "unjudged"),
        (("candidate", "reference", "unjudged"), "unjudged"),
    ],
)
def test_neither_a_tie_nor_what_was_not_read_is_a_win(
    votes: Sequence[Winner], found: Winner
) -> None:
    assert outcome(votes) == found


# Judging ----------------------------------------------------------------------------------


def prediction(answer: str, finished: bool = True, steps: str = "steps") -> Prediction:
    return Prediction(
        query="Boil two cups.", finished=finished, final_answer=answer, trajectory=steps
    )


def judge(answer: Callable[[Request], Sequence[str]]) -> tuple[Judge, ReplayEngine]:
    engine = ReplayEngine(answer)
    return Judge(engine=engine, templates=TEMPLATES), engine


def status(word: str) -> list[str]:
    return [json.dumps({"reason": "because", "status": word})]


def test_unfinished_and_empty_answers_are_unsolved_without_asking() -> None:
    judging, engine = judge(lambda _: status("Solved"))
    found = asyncio.run(
        judging.solved(
            {"a": prediction("yes"), "b": prediction("yes", finished=False), "c": prediction(" ")}
        )
    )
    assert found == {"a": "Solved", "b": "Unsolved", "c": "Unsolved"}
    assert len(engine.requests) == 1
    assert engine.requests[0].sampling.temperature == 0.2


def test_an_unsure_answer_is_judged_by_its_trajectory() -> None:
    judging, engine = judge(
        lambda request: status("Solved" if "/trajectory/" in request.id else "Unsure")
    )
    assert asyncio.run(judging.solved({"a": prediction("yes")})) == {"a": "Solved"}
    assert "steps" in engine.requests[1].messages[0].content
    judging, _ = judge(lambda _: status("Unsure"))
    assert asyncio.run(judging.solved({"a": prediction("yes")})) == {"a": "Unsure"}


def test_what_cannot_be_read_is_asked_again_and_then_counted_apart() -> None:
    judging, engine = judge(
        lambda request: status("Solved") if request.id.endswith("/2") else ["Solved, I think"]
    )
    assert asyncio.run(judging.solved({"a": prediction("yes")})) == {"a": "Solved"}
    assert len({request.sampling.seed for request in engine.requests}) == 3
    judging, _ = judge(lambda _: ["who knows"])
    result = asyncio.run(judging.evaluate(["a", "b"], {"a": prediction("yes")}))
    assert result.statuses == ({"a": "Unjudged"},) * 3
    assert pass_rate(result.statuses, ["a", "b"]).mean == 0


def test_runs_have_seeds_of_their_own_and_a_spread() -> None:
    judging, engine = judge(
        lambda request: status("Unsolved" if "/1/answer" in request.id else "Solved")
    )
    result = asyncio.run(judging.evaluate(["a"], {"a": prediction("yes")}))
    rate = pass_rate(result.statuses, ["a"])
    assert rate.runs == (100, 0, 100)
    assert rate.std == pytest.approx(47.14, abs=0.01)
    assert len({request.sampling.seed for request in engine.requests}) == 3


def better(word: str) -> list[str]:
    return [json.dumps({"reason": "because", "better": word})]


@pytest.mark.parametrize(
    ("pick", "won"),
    [
        # Prefers the candidate wherever it stands; the reference; always A; nothing readable.
        (lambda r: better("A" if r.id.split("/")[-2] == "ab" else "B"), "candidate"),
        (lambda r: better("B" if r.id.split("/")[-2] == "ab" else "A"), "reference"),
        (lambda r: better("A"), "tie"),
        (lambda r: ["no idea"], "unjudged"),
        # Readable in one order only.
        (lambda r: better("A") if r.id.split("/")[-2] == "ab" else ["no idea"], "unjudged"),
    ],
)
def test_a_pair_is_shown_in_both_orders(
    pick: Callable[[Request], Sequence[str]], won: Winner
) -> None:
    judging, engine = judge(lambda r: pick(r) if r.id.startswith("compare") else status("Solved"))
    ours, theirs = {"a": prediction("ours")}, {"a": prediction("theirs")}
    result = asyncio.run(judging.evaluate(["a"], ours, theirs))
    assert outcome(result.votes["a"]) == won
    assert result.votes["a"].count("unjudged") == (3 if won == "unjudged" else 0)
    pairs = [r for r in engine.requests if r.id.startswith("compare")]
    texts = {r.messages[0].content for r in pairs}
    assert len(texts) == 2, "candidate first, and reference first"


@pytest.mark.parametrize(
    ("ours", "theirs", "winner"),
    [
        ("Solved", "Unsolved", "candidate"),
        ("Unsure", "Solved", "reference"),
        ("Unsure", "Unsolved", "candidate"),
        ("Unsolved", "Unsure", "reference"),
    ],
)
def test_a_better_status_wins_without_asking(ours: str, theirs: str, winner: Winner) -> None:
    judging, engine = judge(lambda r: status(ours if "We" in r.messages[0].content else theirs))
    result = asyncio.run(
        judging.evaluate(["a"], {"a": prediction("We")}, {"a": prediction("They")})
    )
    assert result.votes == {"a": [winner] * 3}
    assert not any(request.id.startswith("compare") for request in engine.requests)


@pytest.mark.parametrize("unread", ["We", "They"])
def test_a_status_that_cannot_be_read_decides_no_pair(unread: str) -> None:
    def answer(request: Request) -> Sequence[str]:
        if request.id.startswith("compare"):
            return better("A" if request.id.split("/")[-2] == "ab" else "B")
        return ["who knows"] if unread in request.messages[0].content else status("Solved")

    judging, _ = judge(answer)
    statuses = judging.evaluate(["a"], {"a": prediction("We")}, {"a": prediction("They")})
    assert asyncio.run(statuses).votes == {"a": ["candidate"] * 3}
    judging, _ = judge(lambda r: ["who knows"] if "/ab/" in r.id else answer(r))
    statuses = judging.evaluate(["a"], {"a": prediction("We")}, {"a": prediction("They")})
    assert asyncio.run(statuses).votes == {"a": ["unjudged"] * 3}


def test_equal_answers_tie_and_missing_ones_lose() -> None:
    judging, _ = judge(lambda _: status("Solved"))
    same = {"a": prediction("same"), "b": prediction("same"), "x": prediction("left aside")}
    result = asyncio.run(judging.evaluate(["a", "b", "c"], {"a": same["a"]}, same))
    assert result.votes == {"a": ["tie"] * 3, "b": ["reference"] * 3}
    assert [outcome(result.votes.get(each, ())) for each in "abc"] == [
        "tie",
        "reference",
        "reference",
    ]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('{"status": "Solved"}', "Solved"),
        ('Not {"status": "Unsolved"}, rather:\n{"reason": "x", "status": "Solved "}', "Solved"),
        ('{"status": "Solved"', None),
        ("Solved", None),
        ('{"other": 1}', None),
    ],
)
def test_reading_a_judgement(text: str, word: str | None) -> None:
    assert read_judgement(text, "status") == word


# Predictions as files ---------------------------------------------------------------------


def test_converted_answers_of_ours_come_back(tmp_path: Path) -> None:
    script = scripted(thought=["Water."], action=[FIRST, "Finish"], input=['{"cups": 2}', ANSWER])
    made = solve(make_agent(ReplayEngine(script)), NAMES)
    file = tmp_path / "ours.json"
    file.write_text(json.dumps({"7": to_converted(made, DOCUMENTS)}))
    found = read_predictions(file)["7"]
    assert found.finished
    assert found.final_answer == "It boils."
    assert "Water." in found.trajectory and "cups" in found.trajectory
    giving_up = replace(made, final_answer="")
    file.write_text(json.dumps({"7": to_converted(giving_up, DOCUMENTS)}))
    assert read_predictions(file)["7"].final_answer == ""


@pytest.mark.parametrize(
    ("final", "last", "finished", "answer"),
    [
        ('{"return_type": "give_answer", "final_answer": "x"}', "Finish", True, "x"),
        ('{"return_type": "give_up_and_restart"}', "Finish", True, ""),
        ("{broken", "Finish", True, "{broken"),
        ("x", "another call", False, "x"),
        (None, "Finish", True, ""),
        ("x", "Finish give_up_and_restart", True, ""),
    ],
)
def test_converted_answers_of_others(
    tmp_path: Path, final: str | None, last: str, finished: bool, answer: str
) -> None:
    details = [{"role": "user", "message": "q", "next": [{"role": "tool", "message": last}]}]
    row = {"query": "q", "answer": {"final_answer": final, "answer_details": details}}
    file = tmp_path / "theirs.json"
    file.write_text(json.dumps({"1": row}))
    found = read_predictions(file)["1"]
    assert (found.finished, found.final_answer) == (finished, answer)


def test_a_file_of_another_form_is_named(tmp_path: Path) -> None:
    file = tmp_path / "theirs.json"
    form, syntax = "converted answers", "not valid JSON"
    for text, why in (
        ("[]", form),
        ('{"1": {"query": "q"}}', form),
        ("{", syntax),
        ('{"1": 5}', form),
    ):
        file.write_text(text)
        with pytest.raises(ContentError, match=why):
            read_predictions(file)
