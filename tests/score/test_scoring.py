"""BFCL's data, its prompts and judgements, scorecards, and scores outside a round."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bfcl_oracle import INSTALL, data_folder
from tokenizers import Tokenizer
from workspaces import ROOT, make_workspace, run_factory

from factory.cli.monitor import PlainMonitor
from factory.cli.score import _print_card
from factory.domain.canon import to_json
from factory.domain.failures import ContentError, InputError, MissingError, ModelError
from factory.domain.records import Call, Checkpoint, Completion, ItemScore, Message, Reply, Request
from factory.engines.chat import Chat
from factory.engines.replay import ReplayEngine
from factory.ledger import history, lineage
from factory.ledger.lineage import find_checkpoint
from factory.score.base import Scorable, Setup
from factory.score.calls.bfcl import OVERALL, gold_calls
from factory.score.calls.judging import judge
from factory.score.calls.kind import Benchmark, make_request, score_basis
from factory.score.estimates import summarise
from factory.score.items import Item
from factory.score.keeper import find_missing
from factory.workspace.folder import Workspace
from factory.workspace.prompts import Prompts
from factory.workspace.settings import load_settings

SIZES = {
    "simple_python": 400,
    "simple_java": 100,
    "simple_javascript": 50,
    "multiple": 200,
    "parallel": 200,
    "parallel_multiple": 200,
    "live_simple": 258,
    "live_multiple": 1053,
    "live_parallel": 16,
    "live_parallel_multiple": 24,
    "irrelevance": 240,
    "live_irrelevance": 884,
    "live_relevance": 16,
}
OLD_NAMES = {"simple_python": "simple", "simple_java": "java", "simple_javascript": "javascript"}
TYPES = {"simple_java": "String", "simple_javascript": "String"}
JUDGES = {
    "simple_java": "java",
    "simple_javascript": "javascript",
    "live_relevance": "any_call",
    **dict.fromkeys(("irrelevance", "live_irrelevance"), "no_call"),
}
PROMPTS = Prompts.load(Workspace(ROOT))


def write_lines(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_bfcl(folder: Path, *, old: bool = False, count: int = 2) -> Path:
    """Two questions of each category in today's layout, or in that of September 2024."""
    for category in SIZES:
        name = OLD_NAMES.get(category, category) if old else category
        file = f"BFCL_v{3 if old else 4}_{name}.json"
        function = {
            "name": "book.table",
            "description": "Book a table.",
            "parameters": {
                "type": "dict",
                "properties": {
                    "city": {"type": TYPES.get(category, "string"), "description": "Where."}
                },
                "required": ["city"],
            },
        }
        ids = [f"{name}_{n}" for n in range(count)]
        if old and category == "live_relevance":
            ids = [f"{name}_0"] * count
        questions = [
            {
                "id": item,
                "question": [[{"role": "user", "content": f"Book in Rome, {item}."}]],
                "function": [] if category == "live_irrelevance" else [function],
            }
            for item in ids
        ]
        write_lines(folder / file, questions)
        if JUDGES.get(category) not in ("no_call", "any_call"):
            gold = [{"book.table": {"city": ["Rome"]}}]
            answers = [{"id": item, "ground_truth": gold} for item in ids]
            write_lines(folder / "possible_answer" / file, answers)
    return folder


@pytest.fixture
def bfcl(tmp_path: Path) -> Benchmark:
    return Benchmark.load(Workspace(ROOT), "bfcl", write_bfcl(tmp_path / "bfcl"))


# Data


def test_the_installed_package_is_read_whole() -> None:
    if data_folder() is None:
        pytest.skip(f"no bfcl_eval: {INSTALL}")
    benchmark = Benchmark.load(Workspace(ROOT), "bfcl")
    sizes = {name: len(benchmark.narrow(categories=(name,)).items) for name in SIZES}
    assert sizes == SIZES
    ceilings = {line.name: line.ceiling for line in benchmark.card(all_wrong(benchmark)).categories}
    below = {name: value for name, value in ceilings.items() if value != 100}
    assert below == {
        "simple_java": pytest.approx(89.0),
        "parallel_multiple": pytest.approx(99.0),
        "live_simple": pytest.approx(100 * 256 / 258),
        "live_multiple": pytest.approx(100 * 1050 / 1053),
    }


@pytest.mark.parametrize("old", [False, True])
def test_both_layouts_load(tmp_path: Path, old: bool) -> None:
    benchmark = Benchmark.load(Workspace(ROOT), "bfcl", write_bfcl(tmp_path, old=old))
    assert benchmark.categories == tuple(SIZES)
    assert {item.category: item.judge for item in benchmark.items} == {
        name: JUDGES.get(name, "python") for name in SIZES
    }
    assert len({item.id for item in benchmark.items}) == 2 * len(SIZES)


def test_a_missing_package_names_the_command_that_installs_it(tmp_path: Path) -> None:
    text = (ROOT / "eval" / "bfcl.toml").read_text("utf-8").replace("bfcl_eval", "bfcl_nowhere")
    workspace = make_workspace(tmp_path / "ws", {"eval/bfcl.toml": text})
    with pytest.raises(MissingError, match="bfcl_nowhere") as caught:
        Benchmark.load(workspace, "bfcl")
    assert INSTALL in caught.value.remedy and "--data" in caught.value.remedy


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ContentError, match="BFCL_v4_simple_python"):
        Benchmark.load(Workspace(ROOT), "bfcl", tmp_path / "nowhere")


def test_a_part_has_a_name_of_its_own(bfcl: Benchmark) -> None:
    part = bfcl.narrow(categories=("multiple", "irrelevance"), limit=1, prompt="chat")
    assert part.name == "bfcl[multiple+irrelevance,limit=1,prompt=chat]"
    assert [item.category for item in part.items] == ["multiple", "irrelevance"]
    assert bfcl.narrow() == bfcl
    assert bfcl.narrow(syntax="auto").name == "bfcl"
    with pytest.raises(ContentError, match="no category 'simple'") as caught:
        bfcl.narrow(categories=("simple",))
    assert "simple_python" in caught.value.remedy


# Prompts


def item_of(benchmark: Benchmark, category: str) -> Item:
    return next(item for item in benchmark.items if item.category == category)


def test_other_languages_are_shown_as_literals_in_strings(bfcl: Benchmark) -> None:
    (shown,) = item_of(bfcl, "simple_java").shown
    assert shown["parameters"]["properties"]["city"] == {
        "type": "string",
        "description": "Where. Written as Java code of type String, in a string.",
    }
    assert shown["description"] == "Book a table. A Java function."
    assert item_of(bfcl, "simple_python").shown == list(item_of(bfcl, "simple_python").functions)


def test_own_prompt_keeps_the_chat_before_the_query(bfcl: Benchmark) -> None:
    item = replace(
        item_of(bfcl, "simple_python"),
        messages=(
            Message(role="system", content="Today is Monday."),
            Message(role="user", content="Hello."),
            Message(role="assistant", content="Hi."),
            Message(role="user", content="One."),
            Message(role="user", content="Two."),
        ),
    )
    own = make_request(bfcl, item, PROMPTS)
    assert [message.role for message in own.messages] == ["system", "user", "assistant", "user"]
    assert own.messages[0].content.endswith("\n\nToday is Monday.")
    assert own.messages[-1].content == "One.\n\nTwo."
    assert not own.tools
    chat = make_request(replace(bfcl, prompt="chat"), item, PROMPTS)
    assert [message.role for message in chat.messages] == ["system", "user", "assistant", "user"]
    assert chat.messages[0].content == "Today is Monday."
    assert chat.tools[0]["function"]["parameters"]["type"] == "object"


def test_json_schema_words(bfcl: Benchmark) -> None:
    nested = {"type": "array", "items": {"type": "tuple", "items": {"type": "any"}}}
    properties = {"x": {"type": "float"}, "type": nested, "o": {"type": "dict", "properties": {}}}
    function = {"name": "f", "parameters": {"type": "dict", "properties": properties}}
    (tool,) = replace(item_of(bfcl, "multiple"), functions=(function,)).openai_tools
    assert tool["function"]["parameters"]["properties"] == {
        "x": {"type": "number"},
        "type": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}},
        "o": {"type": "object", "properties": {}},
    }


def test_the_chat_template_gets_the_tools(bfcl: Benchmark, tmp_path: Path) -> None:
    from conftest_models import tiny_model

    folder = tiny_model(tmp_path / "model")
    names = "{% for tool in tools or [] %}{{ tool.function.name }}{% endfor %}"
    (folder / "chat_template.jinja").write_text(names + "|{{ messages[0].content }}")
    request = make_request(replace(bfcl, prompt="chat"), item_of(bfcl, "multiple"), PROMPTS)
    chat = Chat(folder)
    assert chat.decode(chat.encode(request)) == "book.table|Book in Rome, multiple_0."
    assert chat.decode(chat.encode(replace(request, tools=()))).startswith("|")


def test_the_usual_adds_nothing_to_a_basis_but_how_answers_are_read() -> None:
    """Scores of benchmarks that are asked as ever stay valid until answers are read otherwise."""
    home = Benchmark.load(Workspace(ROOT), "home")
    from factory.domain.canon import canonical_json, digest

    items = [[i.id, i.query, i.functions, i.ground_truth] for i in home.items]
    shas = [PROMPTS.sha(name) for name in ("calls/system", "calls/invoke")]
    assert score_basis(home, PROMPTS) == digest(canonical_json([items, shas, 512, {"reading": 2}]))


def test_a_basis_tells_ways_of_asking_apart(bfcl: Benchmark) -> None:
    first = bfcl.items[0]
    others = [
        bfcl,
        replace(bfcl, prompt="chat"),
        replace(bfcl, syntax="json"),
        replace(bfcl, items=(replace(first, judge="any_call"), *bfcl.items[1:])),
        replace(bfcl, items=(replace(first, messages=first.turn * 2), *bfcl.items[1:])),
    ]
    assert len({score_basis(each, PROMPTS) for each in others}) == len(others)


# Limits


def test_how_long_an_answer_may_be_is_the_benchmarks(bfcl: Benchmark, tmp_path: Path) -> None:
    """Whatever recipe the workspace has; another limit is another score under another name."""
    assert (bfcl.max_tokens, bfcl.asked["max_tokens"]) == (1024, 1024)
    short = bfcl.narrow(max_tokens=192)
    assert short.name == "bfcl[max_tokens=192]"
    assert make_request(short, item_of(bfcl, "multiple"), PROMPTS).sampling.max_tokens == 192
    assert score_basis(short, PROMPTS) != score_basis(bfcl, PROMPTS)
    assert bfcl.narrow(max_tokens=1024) == bfcl
    table = (ROOT / "eval/home.toml").read_text(encoding="utf-8")
    own = table.replace("max_tokens = 512", "max_tokens = 99")
    none = own.replace("max_tokens = 99", "")
    workspace = make_workspace(tmp_path / "ws", {"eval/home.toml": own, "eval/no.toml": none})
    assert Benchmark.load(workspace, "home").max_tokens == 99
    assert Benchmark.load(workspace, "no").max_tokens == 512


def write_calls(calls: Sequence[Call]) -> str:
    return "".join(
        f"<tool_call>\n{to_json({'name': c.name, 'arguments': c.arguments})}\n</tool_call>"
        for c in calls
    )


def test_limits_hold_the_longest_gold() -> None:
    """As the seed's tokenizer, of few words, writes it, and with half as much again to spare."""
    tokenizer = Tokenizer.from_file(str(ROOT / "rounds/seed/tokenizer.json"))
    names = ["home", "home-dev", *(["bfcl"] if data_folder() else [])]
    for benchmark in (Benchmark.load(Workspace(ROOT), name) for name in names):
        labels = [
            write_calls(gold_calls(item.ground_truth, item.functions, item.language))
            for item in benchmark.items
        ]
        longest = max(len(found.ids) for found in tokenizer.encode_batch(labels))
        assert 1.5 * longest < benchmark.max_tokens, (benchmark.name, longest)


# Judgement


CALL = '<tool_call>{"name": "book.table", "arguments": {"city": "Rome"}}</tool_call>'
OTHER = CALL.replace("Rome", "Oslo")
BROKEN = CALL[:-20]
REPAIRED = CALL.replace('"Rome"', "'Rome'")

# (category, answer, finish reason, correct, reason)
JUDGED = [
    ("simple_java", CALL, "stop", True, ""),
    ("simple_javascript", CALL, "stop", True, ""),
    ("simple_java", OTHER, "stop", False, "wrong_value"),
    ("simple_java", CALL.replace('"Rome"', "5"), "stop", False, "wrong_type"),
    ("live_relevance", OTHER, "stop", True, ""),
    ("live_relevance", "No.", "stop", False, "no_tool_call"),
    ("live_relevance", BROKEN, "stop", False, "call_json"),
    ("live_relevance", BROKEN, "length", False, "truncated"),
    ("live_relevance", BROKEN, "context_full", False, "truncated"),
    ("irrelevance", "No.", "stop", True, ""),
    ("irrelevance", "", "stop", True, ""),
    ("irrelevance", CALL, "stop", False, "unwanted_call"),
    ("irrelevance", BROKEN, "stop", False, "unreadable_call"),
    ("irrelevance", BROKEN, "length", False, "truncated"),
    ("irrelevance", REPAIRED, "stop", False, "unreadable_call"),
    ("irrelevance", "I think", "length", False, "truncated"),
    ("irrelevance", "<think>The user", "stop", False, "truncated"),
    ("irrelevance", "<think>The user", "context_full", False, "truncated"),
    ("irrelevance", "<function_calls><x>y</x></function_calls>", "stop", False, "unreadable_call"),
    ("live_relevance", "I think", "length", False, "truncated"),
    ("simple_java", "<think>The user", "length", False, "truncated"),
    ("irrelevance", "<tool_call", "stop", False, "unreadable_call"),
    ("irrelevance", "", "prompt_too_long", False, "prompt_too_long"),
    ("live_irrelevance", "", "engine_died", False, "engine_died"),
]


@pytest.mark.parametrize(("category", "text", "finish", "correct", "reason"), JUDGED)
def test_judgement(
    bfcl: Benchmark, category: str, text: str, finish: str, correct: bool, reason: str
) -> None:
    completion = Completion(text=text, token_ids=(), finish_reason=finish, logprob=0.0)
    reply = Reply(request_id="r", completions=(completion,), num_prompt_tokens=9)
    found = judge(item_of(bfcl, category), reply, "auto")
    assert (found.correct, found.reason) == (correct, reason)
    assert bool(found.message) is bool(reason)
    if text in (CALL, OTHER):
        assert found.calls and found.calls[0].name == "book.table"


@pytest.mark.parametrize(
    ("finish", "limit"), [("length", "max_tokens"), ("context_full", "engine.max_model_len")]
)
def test_a_cut_answer_names_what_cut_it(bfcl: Benchmark, finish: str, limit: str) -> None:
    completion = Completion(text=BROKEN, token_ids=(), finish_reason=finish, logprob=0.0)
    reply = Reply(request_id="r", completions=(completion,), num_prompt_tokens=9)
    found = judge(item_of(bfcl, "live_relevance"), reply, "auto")
    assert found.message == f"the answer reached {limit}"
    assert found.detail == {"cut": limit}


# Scorecards


def all_wrong(benchmark: Benchmark) -> list[ItemScore]:
    return [mark(item, False) for item in benchmark.items]


def mark(item: Item, correct: bool, reason: str = "") -> ItemScore:
    return ItemScore(
        item=item.id, category=item.category, correct=correct, reason=reason, message="", answer=""
    )


def test_averages_stand_side_by_side(bfcl: Benchmark) -> None:
    right = {"simple_python", "live_multiple", "irrelevance", "live_irrelevance"}
    items = [
        mark(item, False, "unreadable_call")
        if item.id == "irrelevance_0"
        else mark(item, item.category in right)
        for item in bfcl.items
    ]
    card = bfcl.card(items[::-1])
    assert [line.name for line in card.categories] == list(SIZES)
    named = {(line.scheme, line.name): line for line in card.averages}
    value = {key: line.estimate.value for key, line in named.items() if line.estimate}
    assert value[("tooldev", "non_live")] == pytest.approx(100 / 12)
    assert value[("tooldev", "live")] == pytest.approx(100 * 1037 / 1335)
    assert value[("tooldev", "overall")] == pytest.approx(50 / 12 + 50 * 1037 / 1335)
    assert value[("leaderboard", "non_live")] == pytest.approx(100 / 12)
    assert value[("leaderboard", "live")] == pytest.approx(25)
    assert value[("leaderboard", "irrelevance")] == 75
    assert named[("leaderboard", "irrelevance")].official == 100
    assert value[("leaderboard", "relevance")] == 0
    missing = named[("leaderboard", "overall")]
    assert missing.estimate is None
    assert missing.missing == ("multi_turn (30 %), agentic (40 %)",)
    assert summarise("bfcl", "r1", items, OVERALL).value == pytest.approx(
        value[("tooldev", "overall")]
    )


def test_a_card_counts_the_answers_that_a_limit_cut(
    bfcl: Benchmark, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = {"multiple_0": "max_tokens", "live_simple_1": "max_tokens"}
    limits["multiple_1"] = "engine.max_model_len"
    items = [
        replace(mark(item, False), detail={"cut": limits[item.id]} if item.id in limits else {})
        for item in bfcl.items
    ]
    card = bfcl.card(items)
    assert card.cut == (("max_tokens", 2), ("engine.max_model_len", 1))
    counts = {line.title: line.cut for line in (*card.categories, *card.averages)}
    assert (counts["multiple"], counts["parallel"], counts["live_simple"]) == (2, 0, 1)
    assert (counts["tooldev: non_live"], counts["tooldev: overall"]) == (2, 3)
    _print_card(None, card)
    shown = capsys.readouterr().out
    assert "cut answers    2 at max_tokens, 1 at engine.max_model_len" in shown
    assert not bfcl.change(items, items).cut


def test_single_calls_are_marked_beside_the_item(capsys: pytest.CaptureFixture[str]) -> None:
    home = Benchmark.load(Workspace(ROOT), "home").narrow(categories=("parallel",), limit=3)
    due = [gold_calls(item.ground_truth, item.functions) for item in home.items]
    given = [due[0], due[1][:-1], ()]
    items = []
    for item, calls in zip(home.items, given, strict=True):
        completion = Completion(
            text=write_calls(calls), token_ids=(), finish_reason="stop", logprob=0.0
        )
        reply = Reply(request_id="r", completions=(completion,), num_prompt_tokens=9)
        items.append(judge(item, reply))
    part = 2 * (len(due[1]) - 1) / (2 * len(due[1]) - 1)
    assert [item.detail["exact"] for item in items] == [1, part, 0]
    card = home.card(items)
    assert [(line.metric, line.num_items) for line in card.per_call] == [("named", 3), ("exact", 3)]
    values = [line.estimate.value for line in card.per_call if line.estimate]
    assert values == pytest.approx([100 * (1 + part) / 3] * 2)
    _print_card(None, card)
    assert f"single calls   named {values[0]:.1f} [" in capsys.readouterr().out
    changes = [line.estimate for line in home.change(items, items).per_call]
    assert [change and change.value for change in changes] == [0, 0]


def test_a_part_names_what_its_averages_lack(bfcl: Benchmark) -> None:
    part = bfcl.narrow(categories=("multiple", "irrelevance"))
    card = part.card(all_wrong(part))
    lines = {(line.scheme, line.name): line for line in card.averages}
    assert lines[("mean", "overall")].estimate is not None
    assert "simple_python" in lines[("tooldev", "non_live")].missing
    assert lines[("leaderboard", "irrelevance")].missing == ("live_irrelevance",)


# Scores outside a round


def make_setup(folder: Path) -> Setup:
    workspace = make_workspace(folder / "ws")
    return Setup.load(workspace, load_settings(workspace), PlainMonitor())


def store_items(
    setup: Setup,
    number: int,
    system: str,
    benchmark: Scorable,
    items: Sequence[ItemScore],
    basis: str,
) -> None:
    """Keep items as if they had been scored now."""
    (missing,) = find_missing(setup, system, [(benchmark, basis)], again=True)
    setup.ledger.append(missing.rows(number, system, items))
    setup.ledger.fold()


def find(setup: Setup, wanted: str) -> Checkpoint:
    return find_checkpoint(setup.workspace, setup.settings, setup.ledger, wanted)


def answer_gold(benchmark: Benchmark, wrong: frozenset[str] = frozenset()) -> Any:
    texts = {}
    for item in benchmark.items:
        calls = gold_calls(item.ground_truth, item.functions, item.language)
        blocks = [json.dumps({"name": c.name, "arguments": c.arguments}) for c in calls]
        text = "".join(f"<tool_call>{block}</tool_call>" for block in blocks)
        if item.judge == "any_call":
            text = CALL
        texts[f"score/{benchmark.name}/{item.id}"] = "[f(" if item.id in wrong else text

    def answer(request: Request) -> list[str]:
        return [texts[request.id]]

    return answer


def store(setup: Setup, benchmark: Benchmark, checkpoint: Checkpoint, wrong: set[str]) -> None:
    engine = ReplayEngine(answer_gold(benchmark, frozenset(wrong)), checkpoint=checkpoint)
    items = asyncio.run(benchmark.score(setup, checkpoint, engine))
    number = lineage.round_of(setup.ledger, checkpoint.id) or 0
    store_items(setup, number, checkpoint.id, benchmark, items, benchmark.basis(setup))


def test_rows_compare_a_checkpoint_with_its_parent(bfcl: Benchmark, tmp_path: Path) -> None:
    setup = make_setup(tmp_path)
    base = find(setup, "")
    store(setup, bfcl, base, {"multiple_0", "simple_0"})
    child = Checkpoint(id="r1-abc", path=base.path, fingerprint="sha256:child")
    row = {
        "checkpoint_id": child.id,
        "round": 1,
        "parent_id": base.id,
        "path": "",
        "promoted": True,
    }
    setup.ledger.append({"checkpoint": [row | {"fingerprint": child.fingerprint}]})
    store(setup, bfcl, child, {"multiple_1", "irrelevance_0"})
    ask = setup.ledger.query
    assert ask("select distinct round from score order by 1").rows == [(0,), (1,)]
    assert ask(
        "select before, after from round_delta where benchmark = 'bfcl' and round = 1 "
        "and category = 'multiple'"
    ).rows == [(50.0, 50.0)]
    flips = ask("select item, flip, reason, query, gold_json from item_flip order by item").rows
    assert [flip[:3] for flip in flips] == [
        ("irrelevance_0", "wrong", "unreadable_call"),
        ("multiple_0", "right", ""),
        ("multiple_1", "wrong", "call_python"),
    ]
    assert flips[1][3] == "Book in Rome, multiple_0."
    assert json.loads(flips[1][4]) == [{"book.table": {"city": ["Rome"]}}]
    stored = ask(
        "select reason, calls_json from item_score where checkpoint_id = 'r1-abc' "
        "and item in ('irrelevance_0', 'simple_java_0') order by item"
    ).rows
    assert stored[0] == ("unreadable_call", "")
    assert json.loads(stored[1][1]) == [{"name": "book.table", "arguments": {"city": "Rome"}}]
    assert ask("select count(*) from benchmark_item").rows == [(len(bfcl.items),)]


def test_averages_are_rows_with_the_cards_intervals(bfcl: Benchmark, tmp_path: Path) -> None:
    setup = make_setup(tmp_path)
    base = Checkpoint(id="base", path="base", fingerprint="base")
    store(setup, bfcl, base, {"multiple_0", "live_simple_0", "live_irrelevance_1"})
    sql = "select category, value, low, high, num_items from score where category like '%: %'"
    stored = {name: values for name, *values in setup.ledger.query(sql).rows}
    items = history.load_items(setup.ledger, base.id, "bfcl", bfcl.basis(setup))
    shown = {line.title: line for line in bfcl.card(items).averages if line.estimate}
    del shown["tooldev: overall"]  # the row of category `overall`
    assert stored == {name: [*x.estimate, x.num_items] for name, x in shown.items() if x.estimate}
    assert {"tooldev: non_live", "tooldev: live", "leaderboard: live"} <= stored.keys()
    assert stored["tooldev: live"][0] < 100
    assert stored["leaderboard: non_live"][0] == pytest.approx(87.5)
    stored_home = setup.ledger.query("select count(*) from score where benchmark = 'home'").rows
    assert stored_home == [(0,)]


def test_checkpoints_are_found_by_id_name_and_folder(tmp_path: Path) -> None:
    setup = make_setup(tmp_path)
    base = find(setup, "")
    rows = [
        {"checkpoint_id": name, "round": 1, "path": ".factory/x", "fingerprint": name}
        for name in ("r1-abc", "r12-abc", "twin-1", "twin-2")
    ]
    setup.ledger.append({"checkpoint": rows})
    found = find(setup, "r1")
    assert (found.id, found.path) == ("r1-abc", str(setup.workspace.root / ".factory/x"))
    assert find(setup, "r12-abc").id == "r12-abc"
    assert find(setup, base.path).fingerprint == base.fingerprint
    with pytest.raises(InputError, match="any of twin-1, twin-2"):
        find(setup, "twin")
    with pytest.raises(InputError, match="no checkpoint 'r7'"):
        find(setup, "r7")
    with pytest.raises(ModelError):
        find(setup, str(tmp_path))
    with pytest.raises(InputError, match="which model"):
        find(setup, "http://127.0.0.1:1/v1")


@pytest.mark.slow
def test_score_command_measures_once_and_shows_published_rows(tmp_path: Path) -> None:
    folder = make_workspace(tmp_path / "ws").root
    data = str(write_bfcl(tmp_path / "bfcl"))
    arguments = ("score", "bfcl", "--data", data, "--category", "simple_python")
    arguments = (*arguments, "--category", "irrelevance", "--threads", "1")
    first = run_factory(*arguments, cwd=folder).stdout
    assert "scored now" in first and "official" in first
    assert "published: ToolDev (ToolACE-DEV, arXiv 2505.07512), Table 1" in first
    assert "measured here" in first
    record = json.loads(run_factory(*arguments, "--json", cwd=folder).stdout)
    assert (record["benchmark"], record["items"]) == ("bfcl[simple_python+irrelevance]", 4)
    assert [line["name"] for line in record["categories"]] == ["simple_python", "irrelevance"]
    assert record["published"][0]["kind"] == "published"
    assert "from the ledger" in run_factory(*arguments, cwd=folder).stdout
    missing = run_factory(
        "score", "bfcl", "--category", "nowhere", "--data", data, cwd=folder, code=2
    )
    assert "no category 'nowhere'" in missing.stderr
