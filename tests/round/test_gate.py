"""Whom a new checkpoint meets at the gate, on the ledger alone: no engine but recorded answers."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from test_scoring import answer_gold, mark, store_items
from workspaces import ROOT, make_workspace

from factory.cli.chosen import find_best as best_of_workspace
from factory.cli.monitor import PlainMonitor
from factory.cli.score import tell_forms
from factory.cli.status import status
from factory.domain.failures import ContentError
from factory.domain.records import Checkpoint, Request
from factory.engines.replay import ReplayEngine
from factory.ledger import history, lineage
from factory.ledger.history import OpenRound
from factory.ledger.lineage import Ruler, find_best, find_checkpoint
from factory.round.factory import Factory, load_factory
from factory.round.gate import decide, weigh
from factory.round.opponents import doubt_of_gate, find_rivals, gate_sets, ruler_of
from factory.round.scoring import score_opponents
from factory.score.calls import kind
from factory.score.calls.kind import Benchmark, make_request
from factory.score.keeper import Keeper, find_missing
from factory.workspace.folder import Workspace
from factory.workspace.recipe import load_recipe
from factory.workspace.settings import load_settings, name_model

DEV = (ROOT / "eval/home-dev.toml").read_text(encoding="utf-8")
FILES = {"eval/home-dev.toml": DEV.replace("max_tokens = ", "limit = 10\nmax_tokens = ")}
"""Forty questions: one is 2.5 points."""
TOLERANCE = {"score.tolerance": "3"}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path / "ws", FILES)


def open_factory(workspace: Workspace, overrides: Mapping[str, str] = TOLERANCE) -> Factory:
    settings = load_settings(workspace)
    resolved = load_recipe(workspace, settings.recipe, overrides)
    return load_factory(workspace, settings, resolved, PlainMonitor(), [])


def dev_of(factory: Factory) -> Benchmark:
    return gate_sets(factory)["calls"]


def base_of(factory: Factory) -> Checkpoint:
    return lineage.base_checkpoint(factory.workspace, factory.settings, factory.ledger)


def keep(factory: Factory, name: str, num_right: int, dev: Benchmark | None = None) -> None:
    """A checkpoint's score, its first answers right."""
    dev = dev or dev_of(factory)
    items = [mark(item, place < num_right) for place, item in enumerate(dev.items)]
    store_items(factory.setup, 0, name, dev, items, dev.basis(factory.setup))


def round_of(number: int, parent: Checkpoint) -> OpenRound:
    return OpenRound(
        number=number, recipe_name="cpu", recipe_json="{}", content_sha="", checkpoint=parent,
        judgement=1, stages_done=frozenset(),
    )  # fmt: skip


def made(factory: Factory, number: int, num_right: int) -> Checkpoint:
    """What a round has trained, scored."""
    folder = history.checkpoint_folder(factory.workspace.state, number)
    shutil.copytree(ROOT / "rounds/seed", folder)
    keep(factory, f"r{number}-abc", num_right)
    return Checkpoint(id=f"r{number}-abc", path=str(folder), fingerprint=f"sha256:{number}")


def run_rounds(factory: Factory, base_right: int, *num_right: int) -> list[str]:
    """A lineage: base and what each round trained; the reasons, with + where it was promoted."""
    parent = base_of(factory)
    keep(factory, parent.id, base_right)
    reasons = []
    for number, right in enumerate(num_right, 1):
        trained = made(factory, number, right)
        result = decide(factory, round_of(number, parent), trained)
        parent = trained if result.promoted else parent
        reasons.append("+" * result.promoted + result.reason)
    return reasons


def test_small_falls_do_not_pile_up(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    factory = open_factory(workspace)
    rose, fell, held = run_rounds(factory, 20, 30, 29, 28)
    assert rose.startswith("+home-dev rose from 50.0 to 75.0")
    assert fell.startswith("+home-dev fell from 75.0 to 72.5 (-2.5 points")
    assert held.startswith("home-dev fell from 75.0 of r1-abc, the best so far, to 70.0 (-5.0")
    assert "more than the tolerance of 3 points; else: home-dev fell from 72.5 to 70.0" in held
    rows = factory.ledger.query(
        "select opponent, opponent_id, verdict from gate order by round"
    ).rows
    base = base_of(factory).id
    assert rows == [
        ("parent, best, base", base, "passed"),
        *(("parent, best", "r1-abc", "passed"), ("base", base, "passed")),
        *(("parent", "r2-abc", "passed"), ("best", "r1-abc", "held"), ("base", base, "passed")),
    ]
    # Commands take the best; the next round starts from what is in force.
    monkeypatch.chdir(workspace.root)
    with factory.ledger.read() as past:
        best = best_of_workspace(past)
        assert (best.checkpoint.id, best.benchmark, best.value) == ("r1-abc", "home-dev", 75.0)
        named = find_checkpoint(workspace, factory.settings, past, "")
        assert named == best.checkpoint and Path(named.path).is_dir()
        assert lineage.next_checkpoint(workspace, past, base_of(factory)).id == "r2-abc"
    factory.ledger.append({"round": [{"round": 1, "checkpoint_id": base}]})
    status()
    shown = capsys.readouterr().out.replace("\n", " ")
    assert "best  r1-abc  home-dev 75.0  /" in shown and "next  r2-abc  /" in shown


def test_a_score_of_what_a_checkpoint_is_no_more_makes_it_not_the_best(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    factory = open_factory(workspace)
    run_rounds(factory, 20, 30, 29)
    monkeypatch.chdir(workspace.root)
    told = []
    for number in (0, 1, 2):
        if number:
            folder = history.checkpoint_folder(workspace.state, number)
            with (folder / "chat_template.jinja").open("a") as template:
                template.write("{# mended #}")
        with factory.ledger.read() as past:
            best = best_of_workspace(past)
            told.append((best.checkpoint.id, best.value))
            rivals = find_rivals(factory, round_of(3, base_of(factory)), past)
            assert "r1-abc" in [rival.checkpoint.id for rival in rivals], "to be scored again"
    assert told == [("r1-abc", 75.0), ("r2-abc", 72.5), ("r2-abc", None)]


def test_of_equal_scores_the_latest_is_the_best(workspace: Workspace) -> None:
    factory = open_factory(workspace)
    run_rounds(factory, 20, 20, 12)
    assert find_best(factory.ledger, base_of(factory)).checkpoint.id == "r1-abc"


def test_a_round_held_back_does_not_change_what_is_best(workspace: Workspace) -> None:
    """It was asked in another form, in which the model that was given is the better one."""
    own = open_factory(workspace)
    run_rounds(own, 20, 30)
    native = open_factory(workspace, TOLERANCE | {"calls.form": "native"})
    base, best = base_of(native), find_best(own.ledger, base_of(own))
    keep(native, base.id, 28)
    keep(native, "r1-abc", 10)
    assert not decide(native, round_of(2, best.checkpoint), made(native, 2, 5)).promoted
    assert find_best(own.ledger, base) == best and best.value == 75.0
    assert lineage.last_ruler(own.ledger, base) == (1, ruler_of(own, dev_of(own)))


def test_where_nothing_was_promoted_the_first_ruler_stays(workspace: Workspace) -> None:
    own = open_factory(workspace)
    run_rounds(own, 20, 10)
    native = open_factory(workspace, TOLERANCE | {"calls.form": "native"})
    base = base_of(native)
    keep(native, base.id, 28)
    assert not decide(native, round_of(2, base), made(native, 2, 5)).promoted
    assert find_best(own.ledger, base) == (base, "home-dev", 50.0)


def test_a_parent_of_the_other_form_is_met_as_it_is_served(workspace: Workspace) -> None:
    own = open_factory(workspace)
    run_rounds(own, 20, 38)
    native = open_factory(workspace, TOLERANCE | {"calls.form": "native"})
    base = base_of(native)
    parent = find_best(own.ledger, base_of(own)).checkpoint
    for name in (base.id, parent.id):
        keep(native, name, 5)
    trained = made(native, 2, 10)
    (Path(trained.path) / "training.json").write_text('{"form": "native"}', encoding="utf-8")
    weighed = weigh(native, round_of(2, parent), trained)
    assert not weighed.decision.promote
    told = "home-dev fell from 95.0 of r1-abc, the parent as it is served, in own form, to 25.0"
    assert weighed.decision.reason.startswith(told)
    assert {row["opponent_id"]: row["prompt"] for row in weighed.rows["gate"]}["r1-abc"] == "served"
    (note,) = weighed.notes
    assert "asked home-dev in own form, and this one asks in native form" in note
    better = made(native, 3, 39)
    assert weigh(native, round_of(3, parent), better).decision.promote
    with native.ledger.read() as past:
        served = [x for x in find_rivals(native, round_of(3, parent), past) if x.served_in]
    assert [(x.role, x.checkpoint.id, x.served_in) for x in served] == [("parent", "r1-abc", "own")]


def test_checkpoints_asked_in_two_forms_are_compared_with_a_word(
    workspace: Workspace, tmp_path: Path
) -> None:
    factory = open_factory(workspace)
    dev, base = dev_of(factory), base_of(factory)
    native = Checkpoint(id="r1-abc", path=str(tmp_path), fingerprint="sha256:1")
    assert tell_forms(factory.setup, dev, [native, base]) == ""
    (tmp_path / "training.json").write_text('{"form": "native"}', encoding="utf-8")
    told = tell_forms(factory.setup, dev, [native, base])
    assert f"r1-abc in native form, {base.id} in own form; the change is that of model" in told
    chat = dev.narrow(prompt="chat", syntax="auto")
    assert tell_forms(factory.setup, chat, [native, base]) == "", "it is asked in one way"


def test_without_a_gate_the_latest_promoted_is_the_best(workspace: Workspace) -> None:
    run_rounds(open_factory(workspace), 20, 30)
    factory = open_factory(workspace, {"score.dev": ""})
    parent = find_best(factory.ledger, base_of(factory)).checkpoint
    trained = replace(parent, id="r2-abc", path="gone")
    result = decide(factory, round_of(2, parent), trained)
    assert result.promoted and result.reason == "promoted without a gate: score.dev is empty"
    assert find_best(factory.ledger, base_of(factory)) == (trained, "", None)


def test_the_given_model_is_met_in_its_best_prompt(workspace: Workspace) -> None:
    shutil.copytree(ROOT / "rounds/seed", workspace.root / "mine")
    template = workspace.root / "mine/chat_template.jinja"
    template.write_text(template.read_text(encoding="utf-8") + "{{ tools }}", encoding="utf-8")
    name_model(workspace, "mine")
    factory = open_factory(workspace)
    chat = dev_of(factory).narrow(prompt="chat", syntax="auto")
    keep(factory, base_of(factory).id, 35, chat)
    (held,) = run_rounds(factory, 20, 30)
    assert f"87.5 of {base_of(factory).id}, the model that was given in chat, to 75.0" in held
    assert held.endswith("else: home-dev rose from 50.0 to 75.0 " + held.rpartition("75.0 ")[2])
    own = open_factory(workspace, TOLERANCE | {"score.base": '["own"]'})
    assert weigh(
        own, round_of(1, base_of(own)), replace(base_of(own), id="r1-abc")
    ).decision.promote


def test_a_missing_score_is_no_pass(workspace: Workspace) -> None:
    factory = open_factory(workspace)
    this = round_of(1, base_of(factory))
    trained = replace(this.checkpoint, id="r1-abc")
    keep(factory, trained.id, 40)
    weighed = weigh(factory, this, trained)
    told = f"inconclusive: {this.checkpoint.id}, the parent, has no score on home-dev as it is now"
    assert weighed.decision == (False, told)
    assert {row["verdict"] for row in weighed.rows["gate"]} == {"inconclusive"}


def test_scores_by_another_ruler_are_not_compared(workspace: Workspace) -> None:
    run_rounds(open_factory(workspace), 20, 30, 29)
    prompt = workspace.root / "prompts/calls/system.j2"
    prompt.parent.mkdir(parents=True)
    text = (ROOT / "prompts/calls/system.j2").read_text(encoding="utf-8")
    prompt.write_text(text + "Be brief.", encoding="utf-8")
    factory = open_factory(workspace)
    this = round_of(3, find_checkpoint(workspace, factory.settings, factory.ledger, "r2"))
    trained = made(factory, 3, 20)
    for name in (this.checkpoint.id, base_of(factory).id):
        keep(factory, name, 20)
    weighed = weigh(factory, this, trained)
    assert not weighed.decision.promote
    told = "inconclusive: r1-abc, the best so far, has no score on home-dev as it is now"
    assert told in weighed.decision.reason
    assert weighed.notes == (
        "scores as round 2 made them are not compared: prompt of home-dev changed since; "
        "`factory score home-dev --checkpoint ID` scores a checkpoint again",
    )
    keep(factory, "r1-abc", 21)
    assert "fell from 52.5 of r1-abc" not in weigh(factory, this, trained).decision.reason
    assert weigh(factory, this, trained).decision.promote


def test_what_decides_otherwise_gives_other_scores(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    factory = open_factory(workspace)
    dev, setup = dev_of(factory), factory.setup
    before, parts = dev.basis(setup), dev.ruler(setup)
    monkeypatch.setattr(kind, "READING", kind.READING + 1)
    after = dev.ruler(setup)
    assert dev.basis(setup) != before
    assert [part for part in parts if parts[part] != after[part]] == ["reading"]


def test_an_upgraded_ledger_learns_what_a_basis_is_made_of(workspace: Workspace) -> None:
    """It has the questions of a time when their ruler was not kept."""
    factory = open_factory(workspace)
    dev, setup = dev_of(factory), factory.setup
    ruler = ruler_of(factory, dev)
    (missing,) = find_missing(setup, "r1-abc", [(dev, ruler.basis)])
    items = [mark(item, place % 2 == 0) for place, item in enumerate(dev.items)]
    rows = missing.rows(1, "r1-abc", items)
    factory.ledger.append({"benchmark_item": rows["benchmark_item"], "score": rows["score"]})
    for learnt in (dict(dev.ruler(setup)), {}):
        (missing,) = find_missing(setup, "r2-abc", [(dev, ruler.basis)])
        assert not missing.with_questions and missing.ruler == learnt
        factory.ledger.append({"ruler": missing.rows(2, "r2-abc", items).get("ruler", [])})
    (kept,) = factory.ledger.query("select count(*) from ruler").rows
    assert kept == (len(dev.ruler(setup)),)
    other = replace(dev, max_tokens=600)
    (missing,) = find_missing(setup, "r2-abc", [(other, other.basis(setup))])
    factory.ledger.append({"ruler": missing.rows(3, "r2-abc", items)["ruler"]})
    with factory.ledger.read() as past:
        assert history.what_changed(past, *ruler, other.basis(setup)) == ["max_tokens"]


def test_noise_is_measured_once_and_is_tolerated(workspace: Workspace) -> None:
    """A model that answers some questions otherwise in another order."""
    alone = {"score.collapse.tools": "0", "score.collapse.values": "0"}
    factory = open_factory(workspace, TOLERANCE | alone)
    dev, base = dev_of(factory), base_of(factory)
    gold, asked = answer_gold(dev), list[str]()

    def waver(request: Request) -> Sequence[str]:
        asked.append(request.id)
        return gold(request) if len(asked) <= 36 or len(asked) > 40 else ["No."]

    engine = ReplayEngine(waver, base)
    model = Keeper(factory.setup, base, (), lambda num_engines: engine)
    this = round_of(1, base)
    asyncio.run(score_opponents(factory, this, model))
    assert asked[:40] == asked[:39:-1] and len(asked) == 80
    asyncio.run(score_opponents(factory, this, model))
    assert len(asked) == 80
    (row,) = factory.ledger.query("select * from noise").records()
    assert (row["checkpoint_id"], row["num_changed"], row["num_items"]) == (base.id, 4, 40)
    assert row["points"] > 10
    assert history.measured_noise(factory.ledger, base.id, *ruler_of(factory, dev)) == row["points"]
    trained = made(factory, 1, 33)
    promote, reason = weigh(factory, this, trained).decision
    assert promote and reason.startswith("home-dev fell from 90.0 to 82.5")
    assert reason.endswith("points, the noise between two passes of one model")
    stages = factory.ledger.query("select stage from stage").rows
    assert stages == [("score base: home-dev",), ("score base again: home-dev",)]


def test_the_best_is_scored_where_the_ruler_has_changed(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_rounds(open_factory(workspace), 20, 30, 29)
    longer = FILES["eval/home-dev.toml"].replace("max_tokens = 512", "max_tokens = 600")
    (workspace.root / "eval/home-dev.toml").write_text(longer, encoding="utf-8")
    factory = open_factory(workspace, TOLERANCE | {"score.base": "[]"})

    async def open_replay(checkpoint: Checkpoint, **_: object) -> ReplayEngine:
        return ReplayEngine(answer_gold(dev_of(factory)), checkpoint)

    monkeypatch.setattr("factory.engines.serving.open_engine", open_replay)
    this = round_of(3, find_checkpoint(workspace, factory.settings, factory.ledger, "r2"))
    asyncio.run(score_opponents(factory, this))
    ruler = ruler_of(factory, dev_of(factory))
    assert find_best(factory.ledger, base_of(factory), ruler)[1:] == ("home-dev", 100.0)
    assert history.is_scored(factory.ledger, "r1-abc", *ruler)


def abstention(factory: Factory) -> Benchmark:
    return gate_sets(factory)["abstention"]


def write_abstention(workspace: Workspace, count: int = 20) -> None:
    """Requests that are to be answered without a call."""
    folder = workspace.root / "eval/quiet"
    folder.mkdir(parents=True)
    ask = [[{"role": "user", "content": "Thank you, that was all."}]]
    rows = [{"id": f"quiet_{n}", "question": ask, "function": []} for n in range(count)]
    (folder / "quiet.json").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    text = 'title = "Quiet"\nsplit = "dev"\nquestions = "quiet"\ncategories = ["quiet"]\n'
    judge = '[judge]\nquiet = "no_call"\n'
    (workspace.root / "eval/quiet.toml").write_text(text + judge, encoding="utf-8")


def test_abstention_is_a_score_of_its_own(workspace: Workspace) -> None:
    write_abstention(workspace)
    factory = open_factory(workspace, TOLERANCE | {"score.abstain": '"quiet"'})
    quiet, this = abstention(factory), round_of(1, base_of(factory))
    trained, basis = made(factory, 1, 40), quiet.basis(factory.setup)
    keep(factory, this.checkpoint.id, 20)
    assert "has no score on quiet" in weigh(factory, this, trained).decision.reason

    def answer(name: str, num_right: int) -> None:
        items = [mark(item, place < num_right) for place, item in enumerate(quiet.items)]
        store_items(factory.setup, 0, name, quiet, items, basis)

    answer(this.checkpoint.id, 20)
    answer(trained.id, 18)
    weighed = weigh(factory, this, trained)
    assert weighed.decision.promote
    assert [row["measure"] for row in weighed.rows["gate"]] == ["calls", "abstention"]
    told = weighed.rows["gate"][1]["message"]
    assert told.endswith("more than the tolerance of 3 points, but within its interval")
    lost = replace(trained, id="lost")
    keep(factory, lost.id, 40)
    answer(lost.id, 8)
    promote, reason = weigh(factory, this, lost).decision
    assert not promote
    assert reason.startswith("quiet fell from 100.0 to 40.0 (-60.0 points")
    assert "below its interval; else: home-dev rose" in reason


def test_a_set_of_calls_says_nothing_of_abstention(workspace: Workspace) -> None:
    with pytest.raises(ContentError, match=r"score\.abstain is home-dev, of which some"):
        open_factory(workspace, {"score.abstain": '"home-dev"'})


def test_another_model_is_told_of_its_gate(workspace: Workspace) -> None:
    factory = open_factory(workspace)
    assert doubt_of_gate(factory.settings, factory.recipe) == ""
    other = factory.settings.model_copy(update={"model": "mine"})
    assert "the gate asks home-dev" in doubt_of_gate(other, factory.recipe)
    own = load_recipe(workspace, "cpu", {"score.dev": '"mine"'}).recipe
    assert doubt_of_gate(other, own) == ""


def test_a_ruler_is_of_one_lineage(workspace: Workspace) -> None:
    factory = open_factory(workspace)
    run_rounds(factory, 20, 30)
    other = Checkpoint(id="other-123456", path="/o", fingerprint="z")
    assert find_best(factory.ledger, other) == (other, "", None)
    assert lineage.last_ruler(factory.ledger, base_of(factory)) == (
        1, Ruler("home-dev", dev_of(factory).basis(factory.setup))
    )  # fmt: skip


# A collapse, planted


def answer_by(factory: Factory, name: str, answers: Callable[[Request], Sequence[str]]) -> None:
    """Score a checkpoint on the gate's set by what it answers."""
    dev = dev_of(factory)
    checkpoint = Checkpoint(id=name, path="", fingerprint=name)
    items = asyncio.run(dev.score(factory.setup, checkpoint, ReplayEngine(answers, checkpoint)))
    store_items(factory.setup, 0, name, dev, items, dev.basis(factory.setup))


def test_a_model_that_answers_everything_with_one_tool_is_held(workspace: Workspace) -> None:
    """No score would hold it: the tolerance is all there is."""
    factory = open_factory(workspace, {"score.tolerance": "100"})
    dev, base = dev_of(factory), base_of(factory)
    gold = answer_gold(dev)
    (one,) = gold(make_request(dev, dev.items[0], factory.prompts))
    answer_by(factory, base.id, gold)
    answer_by(factory, "r1-abc", lambda request: [one])
    trained = Checkpoint(id="r1-abc", path="gone", fingerprint="sha256:1")
    result = decide(factory, round_of(1, base), trained)
    assert not result.promoted
    assert result.reason.startswith("collapsed: its answers have 1 different tools called where ")
    assert f"where {base.id} had " in result.reason
    assert "; else: home-dev fell from 100.0 to " in result.reason
    held = factory.ledger.query("select figure from variety where held order by 1").rows
    assert held == [("tools",), ("values",)]
    assert find_best(factory.ledger, base).checkpoint.id == base.id
    limits = {"score.tolerance": "100"} | {f"score.collapse.{name}": "0" for (name,) in held}
    assert weigh(open_factory(workspace, limits), round_of(1, base), trained).decision.promote


def plant(
    factory: Factory,
    number: int,
    texts: Sequence[str],
    tools: Sequence[str],
    *,
    source: str = "home",
    calls: Mapping[str, float] = MappingProxyType({"n": 5, "temperature": 0.7}),
    voted: bool = True,
) -> None:
    """A round that accepted these requests of a source, each answered by a call of its tool."""
    base = base_of(factory).id
    recipe = json.dumps({"calls": dict(calls)})
    rows: dict[str, list[dict[str, object]]] = {
        "round": [
            {"round": number, "checkpoint_id": base, "recipe_json": recipe}
            | {"started_at": datetime(2026, 1, number, tzinfo=UTC)}
        ]
    }
    for place, (text, tool) in enumerate(zip(texts, tools, strict=True)):
        key = {"round": number, "query_id": f"q_{number}_{place}"}
        document = {"name": tool, "description": f"Do what {tool} says.", "arguments": {}}
        call = {"name": tool, "arguments": {"what": f"{text} {place}"}}
        rows.setdefault("draw", []).append(key | {"position": place})
        rows.setdefault("query", []).append(
            {"query_id": key["query_id"], "text": text, "source": f"{source}:{place}"}
        )
        if voted:
            rows.setdefault("vote", []).append(key | {"judgement": 1, "entropy": 1 / number**2})
        rows.setdefault("sample", []).append(
            key
            | {"judgement": 1, "status": "accepted", "stage": "", "reason": "", "agreement": 1.0}
            | {"tools_json": json.dumps([{"id": f"t_{tool}", "document": document}])}
            | {"calls_json": json.dumps([call])}
        )
    factory.ledger.append(rows)


WORDS = "amber birch cedar delta ember fjord grove haven inlet jetty knoll ledge mossy night ochre"
NOUNS = [f"{a}{b}" for a in WORDS.split() for b in ("", "light")]


@pytest.mark.parametrize(
    ("texts", "tools", "reason"),
    [
        (NOUNS[::-1], NOUNS, ""),
        (["Book a table" + "!" * n for n in range(30)], NOUNS, "97% of the requests repeated"),
        (NOUNS[::-1], ["book_table"] * 30, "1 different tools called where round 1 had 30"),
    ],
    ids=["as varied", "one request", "one tool"],
)
def test_a_round_that_was_taught_one_thing_is_held(
    workspace: Workspace, texts: Sequence[str], tools: Sequence[str], reason: str
) -> None:
    factory = open_factory(workspace, {"score.dev": ""})
    base = base_of(factory)
    plant(factory, 1, NOUNS, NOUNS)
    plant(factory, 2, texts, tools)
    trained = Checkpoint(id="r2-abc", path="gone", fingerprint="sha256:2")
    promoted, told = weigh(factory, round_of(2, base), trained).decision
    assert promoted == (not reason)
    assert told.startswith("collapsed: " if reason else "promoted without a gate")
    assert reason in told
    # Nothing is said of a lineage's first round, nor of few samples.
    assert weigh(factory, round_of(1, base), trained).rows["variety"] == []
    plant(factory, 3, texts[:19], tools[:19])
    assert weigh(factory, round_of(3, base), trained).rows["variety"] == []


@pytest.mark.parametrize(
    "changed",
    [
        {"source": "own.jsonl"},
        {"calls": {"n": 3, "temperature": 0.7}},
        {"calls": {"n": 5, "temperature": 0.0}},
    ],
    ids=["own requests", "fewer answers", "another temperature"],
)
def test_rounds_are_compared_with_the_first_of_their_kind(
    workspace: Workspace, changed: dict[str, Any]
) -> None:
    factory = open_factory(workspace, {"score.dev": ""})
    base = base_of(factory)
    trained = Checkpoint(id="r2-abc", path="gone", fingerprint="sha256:2")
    plant(factory, 1, NOUNS, NOUNS)
    plant(factory, 2, NOUNS, ["book_table"] * 30, **changed)
    weighed = weigh(factory, round_of(2, base), trained)
    assert weighed.decision.promote and weighed.rows["variety"] == []
    plant(factory, 3, NOUNS, ["book_table"] * 30, **changed)
    weighed = weigh(factory, round_of(3, base), trained)
    assert weighed.decision.promote
    assert {row["since"] for row in weighed.rows["variety"]} == {"round 2"}
    plant(factory, 4, NOUNS, ["book_table"] * 30)
    assert "where round 1 had 30" in weigh(factory, round_of(4, base), trained).decision.reason


def test_without_votes_there_is_no_figure_of_them(workspace: Workspace) -> None:
    factory = open_factory(workspace, {"score.dev": ""})
    plant(factory, 1, NOUNS, NOUNS)
    plant(factory, 2, NOUNS, NOUNS, voted=False)
    trained = Checkpoint(id="r2-abc", path="gone", fingerprint="sha256:2")
    weighed = weigh(factory, round_of(2, base_of(factory)), trained)
    assert weighed.decision.promote
    told = {row["figure"] for row in weighed.rows["variety"]}
    assert told == {"words", "tools", "values", "repeats"}


def test_imported_tools_begin_another_comparison(workspace: Workspace) -> None:
    factory = open_factory(workspace, {"score.dev": ""})
    trained = Checkpoint(id="r2-abc", path="gone", fingerprint="sha256:2")
    plant(factory, 1, NOUNS, NOUNS)
    tool = {
        "tool_id": "t_own",
        "origin": "own.json",
        "round": 0,
        "added_at": datetime(2026, 1, 2, tzinfo=UTC),
    }
    factory.ledger.append({"tool": [tool]})
    for number in (2, 3):
        plant(factory, number, NOUNS, NOUNS)
        rows = weigh(factory, round_of(number, base_of(factory)), trained).rows["variety"]
        assert {row["since"] for row in rows} == ({"round 2"} if number == 3 else set())
