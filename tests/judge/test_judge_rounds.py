"""Set rules: what SQL may and may not do, and that the shipped ones find what is planted."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from workspaces import ROOT, make_workspace, run_factory

from factory.domain.canon import query_id, tool_id
from factory.domain.failures import ChildError, ContentError
from factory.domain.records import Call, Candidate, Past, PastQuery, Query, Tool, Verdict
from factory.judge import bench as judging_bench
from factory.judge.bench import Bench
from factory.judge.bench_child import TABLES
from factory.judge.cases import check_content, judge_case
from factory.judge.rulebook import Rule, Rulebook
from factory.judge.sets import _fold_name, _mask, judge_round
from factory.judge.similarity import describe
from factory.judge.wording import Sense, fold_words, read_sense
from factory.lab.home.world import FreshItem, fresh_item, home_items
from factory.score.calls.kind import Benchmark
from factory.score.items import Item
from factory.workspace.folder import Workspace
from factory.workspace.prompts import Prompts

RULEBOOK = Rulebook.load(Workspace(ROOT))
SETS = {name: rule for name, rule in RULEBOOK.rules.items() if rule.sql}


def ask(text: str, tools: Sequence[Tool] = (), calls: Sequence[Call] = ()) -> Candidate:
    query = Query(id=query_id(text), text=text, source="test")
    return Candidate(query=query, tools=tuple(tools), calls=tuple(calls))


def past(*texts: str) -> Past:
    return Past(queries=[PastQuery(round_number=1, id=query_id(t), text=t) for t in texts])


def home_candidates(start: int, count: int) -> list[Candidate]:
    return [make_candidate(fresh_item(number)) for number in range(start, start + count)]


def make_candidate(item: FreshItem) -> Candidate:
    tools = [Tool(id=tool_id(each), document=each) for each in item.tools]
    return ask(item.query, tools, [Call(**call) for call in item.calls])


def _to_function(document: Mapping[str, Any]) -> dict[str, Any]:
    """What to_document makes of it is the document again."""
    return {"parameters" if key == "arguments" else key: value for key, value in document.items()}


def make_benchmark(candidates: Sequence[Candidate]) -> Benchmark:
    items = tuple(
        Item(
            id=str(number),
            category="all",
            query=each.query.text,
            functions=tuple(_to_function(tool.document) for tool in each.tools),
            ground_truth=(),
        )
        for number, each in enumerate(candidates)
    )
    return Benchmark(stem="exam", title="", split="test", items=items)


def own_rule(sql: str, **limits: float) -> dict[str, Rule]:
    rule = Rule(
        id="round/mine",
        reason="mine",
        severity="reject",
        why="A rule of one's own.",
        limits=dict(limits),
        source="mine.toml",
        sql=sql,
        sql_source="mine.sql",
    )
    return {rule.id: rule}


# -- what the shipped rules find -------------------------------------------------------------------


def test_forty_planted_are_found_with_their_reasons_and_clean_ones_are_untouched() -> None:
    """Algorithms §10, check 29: evaluation items and near-duplicates among 200 clean requests."""
    clean, earlier = (home_candidates(start, 200) for start in (0, 2000))
    exam = [make_candidate(item) for item in home_items()]
    benchmark = make_benchmark(exam)
    history = past(*(each.query.text for each in earlier))
    eval_queries = [ask(f"{each.query.text} Thanks!") for each in exam[:10]]
    others = home_candidates(5000, 10)
    eval_tools = [replace(each, tools=exam[20 + n].tools) for n, each in enumerate(others)]
    copies = [ask(f"Please: {each.query.text}") for each in earlier[:10]]
    again = [ask(each.query.text.upper() + " !") for each in clean[:10]]
    everything = [*clean, *eval_queries, *eval_tools, *copies, *again]
    found: dict[str, list[Verdict]] = {}
    for stage in ("draw", "round"):
        for query, verdicts in judge_round(
            SETS, everything, history, [benchmark], stage=stage
        ).items():
            found.setdefault(query, []).extend(v for v in verdicts if v.severity == "reject")
    reasons = {query: {v.reason for v in verdicts} for query, verdicts in found.items() if verdicts}
    expected = {each.query.id: {"eval_overlap"} for each in (*eval_queries, *eval_tools)}
    expected |= {each.query.id: {"near_duplicate_query"} for each in copies}
    expected |= {each.query.id: {"duplicate_query"} for each in again}
    assert reasons == expected
    (verdict,) = found[eval_queries[3].query.id]
    assert "exam/3" in verdict.message
    (verdict,) = found[again[3].query.id]
    assert clean[3].query.id in verdict.message


def test_near_duplicates_are_those_of_all_pairs() -> None:
    rng = random.Random(3)
    earlier = [each.query.text for each in home_candidates(3000, 300)]
    texts = []
    for text in earlier[:120]:
        words = text.split()
        for _ in range(rng.randrange(1, 4)):
            words[rng.randrange(len(words))] = rng.choice(("soon", "blue", "seven"))
        texts.append(" ".join(words))
    candidates = [ask(text) for text in dict.fromkeys(texts)]
    folded = [fold_words(t) for t in (*earlier, *(c.query.text for c in candidates))]
    values, ends = describe(folded)[0]
    senses = [read_sense(words) for words in folded]
    sets = [set(values[a:b].tolist()) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    limit = SETS["round/near_duplicate_query"].limits["min_jaccard"]
    truth = {
        candidate.query.id
        for number, candidate in enumerate(candidates, len(earlier))
        if any(
            len(sets[number] & sets[n]) / len(sets[number] | sets[n]) >= limit
            and _is_same(senses[number], senses[n])
            for n in range(number)
        )
    }
    names = ("round/duplicate_query", "round/near_duplicate_query")
    found = judge_round({name: SETS[name] for name in names}, candidates, past(*earlier), [])
    assert 20 < len(truth) < len(candidates)
    assert set(found) == truth


def _is_same(one: Sense, other: Sense) -> bool:
    return one.marks == other.marks and (
        {*one.units} <= {*other.heard} and {*other.units} <= {*one.heard}
    )


PAIRS = [
    ("Set it to -5 degrees in the freezer", "Set it to 5 degrees in the freezer", False),
    ("Set it to \N{MINUS SIGN}5 in the freezer", "set it to -5 in the freezer!", True),
    (
        "Run 5 km with Ann along the river today",
        "Run 5 miles with Ann along the river today",
        False,
    ),
    (
        "Run 5 km with Ann along the river and back on Sunday in the morning",
        "Run 5km with Ann along the river and back on Sunday in the morning",
        True,
    ),
    ("Wake me at 7:30 in the big bedroom", "Wake me at 7.30 in the big bedroom", False),
    (
        "Wake me in the bedroom beside the garden with my favourite song at 7",
        "Wake me in the bedroom beside the garden with my favourite song at 7, please",
        True,
    ),
    ("Convert 1.5 cups of this to gram", "Convert 15 cups of this to gram", False),
    ("Tell me whether x > 3 in all of the rows", "Tell me whether x < 3 in all of the rows", False),
    ("What is 12 + 4 in the decimal system?", "What is 12 - 4 in the decimal system?", False),
    ("Give the list to the shop in C", "Give the list to the shop in C#", False),
    ("Say I am fine \N{GRINNING FACE} to her", "Say I am fine \N{CRYING FACE} to her", False),
    ("Answer Ann with :) in the group", "Answer Ann with :( in the group", False),
    ("Play some music I have heard today", "Play some music I haven't heard today", False),
    (
        "Don't play the music in the living room and in the bedroom of the children tonight",
        "Do not play the music in the living room and in the bedroom of the children tonight",
        True,
    ),
    ("Book the flight with three stops to Rome", "Book the flight with two stops to Rome", False),
    ("Schalte das Licht in der Küche ein", "Schalte das Licht in der Küche nicht ein", False),
    (
        "お風呂を沸かしてから照明を消してください",
        "お風呂を沸かしてから照明を消さないでください",
        False,
    ),
    ("明天早上七点叫我起床，然后打开灯", "明天早上七点叫我起床然后打开灯。", True),
    ("ปลุกฉันตอนเจ็ดโมงเช้าแล้วเปิดไฟในครัว", "ปลุกฉันตอนเจ็ดโมงเช้าแล้วเปิดไฟในครัวค่ะ", True),
    ("लाल बत्ती को बंद कर दो", "लाल बत्ता को बंद कर दो", False),
]


@pytest.mark.parametrize(("one", "other", "same"), PAIRS)
def test_requests_are_the_same_only_if_they_ask_the_same(one: str, other: str, same: bool) -> None:
    assert _found(one, other) == ([True] * 3 if same else [False] * 3)


def test_pairs_of_the_cases() -> None:
    path = ROOT.parent / "shared" / "cases" / "pairs.jsonl"
    if not path.is_file():
        pytest.skip(f"no {path}")
    for line in path.read_text(encoding="utf-8").splitlines():
        pair = json.loads(line)
        for one, other in (("a", "b"), ("b", "a")):
            assert any(_found(pair[one], pair[other])) is pair["same"], pair


def _found(one: str, other: str) -> list[bool]:
    """Whether the second is a repetition of the first: in a round, in history, of a benchmark."""
    bench = make_benchmark([ask(one)])
    rounds = [
        judge_round(SETS, [ask(one), ask(other)], Past(), []),
        judge_round(SETS, [ask(other)], past(one), []),
        judge_round(SETS, [ask(other)], Past(), [bench], stage="draw"),
    ]
    return [query_id(other) in found for found in rounds]


KINDS = ("hotel", "hostel")


def test_a_near_duplicate_that_other_calls_answer_is_none() -> None:
    texts = [
        f"Please find a {kind} with a pool in the old town of Oslo for the weekend"
        for kind in KINDS
    ]
    one, other = (
        ask(text, calls=[Call(name="find", arguments={"kind": kind})])
        for text, kind in zip(texts, KINDS, strict=True)
    )
    same = replace(other, calls=(Call(name="find", arguments={"kind": "Hotel"}),))
    before = PastQuery(round_number=1, id=one.query.id, text=texts[0], calls=one.calls)
    for history, candidates in ((Past(), [one]), (Past(queries=[before]), [])):
        assert judge_round(SETS, [*candidates, other], history, []) == {}
        found = judge_round(SETS, [*candidates, same], history, [])
        assert [v.reason for v in found[same.query.id]] == ["near_duplicate_query"]


def test_the_first_in_draw_order_is_kept_and_named() -> None:
    texts = ["Play jazz in the kitchen", "play JAZZ in the kitchen.", "Play jazz, in the kitchen"]
    found = judge_round(SETS, [ask(text) for text in texts], Past(), [])
    assert set(found) == {query_id(text) for text in texts[1:]}
    for (verdict,) in found.values():
        assert verdict.reason == "duplicate_query" and query_id(texts[0]) in verdict.message
    assert judge_round(SETS, [ask(text) for text in texts], Past(), []) == found


def test_hostile_texts_are_data() -> None:
    texts = ["", " ", "\ud800", "a\0b", "'; drop table candidate; --", "x" * 300_000, "१२३ 漢字"]
    texts += ["\x1b[31mred", "(" * 1000, "$min_jaccard {} %s"]
    bad = {"name": "'\"\n", "description": None, "arguments": {"properties": {"a": [], "b\0": {}}}}
    tool = Tool(id="t_bad", document=bad)
    call = Call(name="'\"\n", arguments={"a": ["(", {"b": 10**40}], "c": "\ud800"})
    candidates = [ask(text, [tool], [call]) for text in texts]
    judge_round(SETS, candidates, past(*texts), [make_benchmark([ask(t) for t in texts])])


def test_crowding_depends_on_the_variety_of_the_round() -> None:
    def calls(name: str, count: int) -> list[Candidate]:
        tool = Tool(id=f"t_{name}", document={"name": name, "arguments": {"properties": {}}})
        words = [f"{name} {chr(97 + n // 26)}{chr(97 + n % 26)} zz" for n in range(count)]
        return [ask(text, [tool], [Call(name=name, arguments={})]) for text in words]

    rule = {"round/tool_crowding": SETS["round/tool_crowding"]}
    few_tools = [*calls("heat", 60), *calls("light", 60)]
    assert judge_round(rule, few_tools, Past(), []) == {}
    many_tools = [*calls("heat", 60), *(c for n in range(60) for c in calls(f"tool{n}x", 1))]
    found = judge_round(rule, many_tools, Past(), [])
    assert list(found) == [each.query.id for each in calls("heat", 60)[20:]]


@pytest.mark.parametrize(
    ("name", "folded"),
    [
        ("getWeather", "get_weather"),
        ("Get-Weather", "get_weather"),
        ("weather.get_now", "weather_get_now"),
        ("HTTPGet2", "http_get2"),
        ("天気", "天気"),
        ("!", "!"),
    ],
)
def test_names_are_compared_without_their_spelling(name: str, folded: str) -> None:
    assert _fold_name(name) == folded


def test_wording_masks_values_and_numbers() -> None:
    call = Call(name="f", arguments={"city": "New York", "days": 3, "tags": ["a (b)"], "ok": True})
    text = "Is it true: weather in New York for 3 days, a (b), at 7?"
    assert _mask(text, [call]) == "is it true weather in _ for _ days _ at _"


# -- what SQL may do -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "select query_id, content as detail from candidate, read_text('/etc/passwd')",
        "select query_id, 'x' as detail from candidate, 'rules.csv'",
        "select query_id, 'x' as detail from candidate where no_such_column > 1",
        "select query_id, 'x' as detail from no_such_table",
        "select query_id, words::integer as detail from candidate",
        "select query_id from candidate",
        "select query_id, 'x' as detail, 1 as score from candidate",
        "select 'q_other' as query_id, 'x' as detail",
        "select query_id, 'x' as detail from candidate, range(1000000)",
        "with x as (insert into history (words) values ('a') returning words) "
        "select query_id, 'x' as detail from candidate, x",
    ],
)
def test_a_rule_that_cannot_be_run_is_named_with_its_file(sql: str) -> None:
    with pytest.raises(ContentError) as caught:
        judge_round(own_rule(sql), [ask("Play jazz")], Past(), [])
    assert caught.value.where == "mine.sql"
    assert '"round/mine" = "off"' in caught.value.remedy


def test_a_rule_that_takes_too_long_is_stopped() -> None:
    sql = (
        "select query_id, sum(a.range * b.range) as detail "
        "from candidate, range(10000000) a, range(10000000) b group by 1"
    )
    with pytest.raises(ContentError, match=r"longer than 0\.3 s"):
        judge_round(own_rule(sql), [ask("Play jazz")], Past(), [], timeout_seconds=0.3)


def test_a_rule_that_takes_too_much_memory_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(judging_bench.LIMITS, "memory_limit", "50MB")
    sql = "select query_id, list(i) as detail from candidate, range(100000000) t(i) group by 1"
    with pytest.raises(ContentError, match="more than 50MB"):
        judge_round(own_rule(sql), [ask("Play jazz")], Past(), [])


def test_a_rule_is_stopped_inside_one_function_too() -> None:
    """DuckDB looks for an interrupt between its steps alone; the bench serves the next round."""
    long = "repeat('ab', 150000)"
    sql = (
        f"select query_id, levenshtein({long}, {long} || i) as detail from candidate, range(9) t(i)"
    )
    with closing(Bench()) as bench:
        with pytest.raises(ContentError, match=r"longer than 0\.3 s") as caught:
            judge_round(
                own_rule(sql), [ask("Play jazz")], Past(), [], timeout_seconds=0.3, bench=bench
            )
        assert caught.value.where == "mine.sql" and "shorter texts" in caught.value.remedy
        sql = "select query_id, repeat(words, 1000000) as detail from candidate"
        found = judge_round(own_rule(sql), [ask("Play jazz")], Past(), [], bench=bench)
    ((verdict,),) = found.values()
    assert len(verdict.message) == 400 and verdict.message.endswith("…")


def test_a_rule_whose_value_is_too_large_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging_bench, "MEMORY_BYTES", 1 << 28)
    sql = "select query_id, repeat(query, 100000000) as detail from candidate"
    with pytest.raises(ContentError, match="memory"):
        judge_round(own_rule(sql), [ask("Play jazz")], Past(), [])


def test_a_rule_whose_process_is_killed_is_not_blamed() -> None:
    sql = "select query_id, '' as detail from candidate"
    with closing(Bench()) as bench:
        judge_round(own_rule(sql), [ask("Play jazz")], Past(), [], bench=bench)
        (child,) = psutil.Process().children()
        child.kill()
        with pytest.raises(ChildError, match="SIGKILL") as caught:
            judge_round(own_rule(sql), [ask("Play jazz")], Past(), [], bench=bench)
        assert caught.value.remedy.startswith("run the command again")
        judge_round(own_rule(sql), [ask("Play jazz")], Past(), [], bench=bench)


def test_a_rule_sees_its_limits_and_every_documented_table() -> None:
    sql = " union all ".join(
        f"(select '' as query_id, '' as detail from {x} limit 0)" for x in TABLES
    )
    assert judge_round(own_rule(sql), [ask("a")], Past(), []) == {}
    sql = (
        "select query_id, 'calls' as subject, '$[0]' as path, null as detail "
        "from candidate where length(query) > $most"
    )
    found = judge_round(own_rule(sql, most=3), [ask("abc"), ask("abcd")], Past(), [])
    ((verdict,),) = found.values()
    assert (verdict.subject, verdict.path, verdict.message) == (
        "calls",
        "$[0]",
        "A rule of one's own.",
    )


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        ("drop table candidate", "one SELECT"),
        ("select 1; select 2", "SELECT and SELECT"),
        ("", "empty"),
        ("attach 'x.duckdb'", "one SELECT"),
        ("select from where", "not valid SQL"),
        (
            "select query_id, '' as detail from candidate where len(query) > $most",
            "$most is no limit",
        ),
    ],
)
def test_anything_but_one_select_is_refused_when_rules_are_read(
    tmp_path: Path, sql: str, what: str
) -> None:
    toml = 'reason = "mine"\nseverity = "warn"\nwhy = "A rule of my own."\n'
    workspace = make_workspace(
        tmp_path / "ws", {"rules/round/mine.toml": toml, "rules/round/mine.sql": sql}
    )
    with pytest.raises(ContentError, match=what.replace("$", r"\$")) as caught:
        Rulebook.load(workspace)
    assert (
        caught.value.where.endswith("rules/round/mine.sql") and caught.value.remedy
    ) or "valid" in what


@pytest.mark.parametrize("suffix", [".toml", ".sql"])
def test_half_a_set_rule_is_refused(tmp_path: Path, suffix: str) -> None:
    texts = {".toml": 'reason = "m"\nseverity = "warn"\nwhy = "Mine."\n', ".sql": "select 1"}
    workspace = make_workspace(tmp_path / "ws", {f"rules/round/mine{suffix}": texts[suffix]})
    with pytest.raises(ContentError, match="rule round/mine has no"):
        Rulebook.load(workspace)


OWN = {
    "rules/round/shouting.toml": 'reason = "shouting"\nseverity = "reject"\n'
    'why = "We do not train on requests in capitals."\n[limits]\nleast = 5\n',
    "rules/round/shouting.sql": "select query_id, 'all in capitals' as detail from candidate "
    "where query = upper(query) and length(query) >= $least",
    "rules/round/shouting.cases.jsonl": "\n".join(
        json.dumps({"accept": accept, "candidates": [{"query": text}]})
        for accept, text in ((False, "PLAY JAZZ"), (True, "Play jazz"))
    ),
}


def test_a_rule_of_ones_own_is_files_and_nothing_else(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "ws", OWN)
    listed = run_factory("rules", cwd=workspace.root).stdout
    line = next(line for line in listed.splitlines() if "round/shouting" in line)
    assert "reject" in line and "rules/round/shouting.sql" in line
    assert "0 failed cases" in run_factory("rules", "test", cwd=workspace.root).stdout
    rulebook = Rulebook.load(workspace)
    assert rulebook.sha != RULEBOOK.sha
    (file,) = workspace.root.glob("rules/round/shouting.sql")
    file.write_text(OWN["rules/round/shouting.sql"] + " and true", encoding="utf-8")
    assert Rulebook.load(workspace).sha != rulebook.sha
    found = judge_round(rulebook.rules, [ask("PLAY JAZZ"), ask("Stop it")], Past(), [])
    assert [v.reason for v in found[query_id("PLAY JAZZ")]] == ["shouting"]
    warn = Rulebook.load(workspace, {"round/shouting": "warn"})
    found = judge_round(warn.rules, [ask("PLAY JAZZ")], Past(), [])
    assert [v.severity for v in found[query_id("PLAY JAZZ")]] == ["warn"]
    off = Rulebook.load(workspace, {"round/shouting": "off"})
    assert judge_round(off.rules, [ask("PLAY JAZZ")], Past(), []) == {}


def test_a_rule_that_does_not_bind_stops_before_any_model_also_without_cases(
    tmp_path: Path,
) -> None:
    files = {name: text for name, text in OWN.items() if "cases" not in name}
    files["rules/round/shouting.sql"] = "select query_id, textt as detail from candidate"
    workspace = make_workspace(
        tmp_path / "ws", {**files, "rules/round/shouting.toml": OWN["rules/round/shouting.toml"]}
    )
    with pytest.raises(ContentError, match="textt") as caught:
        check_content(Prompts.load(workspace), Rulebook.load(workspace))
    assert caught.value.where.endswith("shouting.sql")


def test_accepted_cases_pass_the_other_set_rules_too() -> None:
    """What one set rule lets pass, no other rejects; limits of a case are for its own rule."""
    twins = {"round/duplicate_query", "round/near_duplicate_query"}
    accepted = [case for case in RULEBOOK.cases if case.rule in SETS and case.accept]
    with closing(Bench()) as bench:
        for case in accepted:
            for name in set(SETS) - (twins if case.rule in twins else set()):
                found = judge_case(replace(case, rule=name), RULEBOOK, bench)
                assert not [v for v in found if v.severity == "reject"], (case.where, name)
