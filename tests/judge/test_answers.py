"""Answers of every family's writing: calls, thoughts, broken and cut ones, abstentions."""

from __future__ import annotations

import json
import time
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workspaces import ROOT

from factory.domain.records import Call, Completion, FinishReason
from factory.judge.answers import Syntax, read_answer
from factory.judge.parsed import ParsedCalls, if_cut
from factory.judge.reading import parse_calls, read_completions
from factory.judge.rulebook import Rulebook
from factory.judge.verdicts import check_calls
from factory.judge.vote import vote
from factory.workspace.folder import Workspace

CASES = ROOT.parent / "shared" / "cases" / "answers.jsonl"
LAMP = Call(name="set_lamp", arguments={"room": "attic", "level": 3})
BELL = Call(name="ring", arguments={})
OBJECT = '{"room": "attic", "level": 3}'
JSON = f'{{"name": "set_lamp", "arguments": {OBJECT}}}'
EMPTY = '{"name": "ring", "arguments": {}}'
PYTHON = "set_lamp(room='attic', level=3)"
XML = (
    "<function=set_lamp>\n<parameter=room>\nattic\n</parameter>\n"
    "<parameter=level>\n3\n</parameter>\n</function>"
)
INVOKED = (
    '<invoke name="set_lamp">\n<parameter name="room">attic</parameter>\n'
    '<parameter name="level">3</parameter>\n</invoke>'
)
PAIRS = (
    "set_lamp\n<arg_key>room</arg_key>\n<arg_value>attic</arg_value>\n"
    "<arg_key>level</arg_key>\n<arg_value>3</arg_value>\n"
)

M3 = "]<]minimax[>["


def m3(name: str, arguments: str) -> str:
    """A call of MiniMax M3's, each of whose tags has its mark before it."""
    return f'{M3}<invoke name="{name}">{arguments}{M3}</invoke>\n'


def k3(name: str, index: int, arguments: str) -> str:
    return f'<|open|>call tool="{name}" index="{index}"<|sep|>{arguments}<|close|>call<|sep|>'


def plamo(name: str, arguments: str) -> str:
    return (
        f"<|plamo:begin_tool_request:plamo|><|plamo:begin_tool_name:plamo|>{name}"
        "<|plamo:end_tool_name:plamo|><|plamo:begin_tool_arguments:plamo|><|plamo:constrain|>json"
        f"<|plamo:msg|>{arguments}<|plamo:end_tool_arguments:plamo|><|plamo:end_tool_request:plamo|>"
    )


M3_CALL = m3("set_lamp", f"{M3}<room>attic{M3}</room>{M3}<level>3{M3}</level>")
K3_CALL = k3(
    "set_lamp",
    1,
    '<|open|>argument key="room" type="string"<|sep|>attic<|close|>argument<|sep|>'
    '<|open|>argument key="level" type="number"<|sep|>3<|close|>argument<|sep|>',
)

ONE = {
    "minimax m3": f"<mm:think>Ring?</mm:think>{M3}<tool_call>\n{M3_CALL}{M3}</tool_call>",
    "kimi k3": f"{EMPTY}?<|close|>think<|sep|><|open|>response<|sep|>On it.<|close|>response<|sep|>"
    f"<|open|>tools<|sep|>{K3_CALL}<|close|>tools<|sep|><|close|>message<|sep|>",
    "kimi k3, without its section": f"<|open|>think<|sep|>Light.<|close|>think<|sep|>{K3_CALL}",
    "plamo 3": "<|plamo:begin_think:plamo|>Light.<|plamo:end_think:plamo|>"
    f"<|plamo:begin_tool_requests:plamo|>{plamo('set_lamp', OBJECT)}"
    "<|plamo:end_tool_requests:plamo|>",
    "deepseek v3": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>set_lamp\n"
    f"```json\n{OBJECT}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "deepseek v3.1": "On it.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>set_lamp<｜tool▁sep｜>"
    f"{OBJECT}<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>",
    "deepseek v3.2": '<｜DSML｜function_calls>\n<｜DSML｜invoke name="set_lamp">\n'
    '<｜DSML｜parameter name="room" string="true">attic</｜DSML｜parameter>\n'
    '<｜DSML｜parameter name="level" string="false">3</｜DSML｜parameter>\n'
    "</｜DSML｜invoke>\n</｜DSML｜function_calls>",
    "deepseek without tokens": f"functionset_lamp\n```json\n{OBJECT}\n```",
    "gpt-oss": "<|channel|>analysis<|message|>They want light: "
    f"{EMPTY}?<|end|><|start|>assistant<|channel|>commentary to=functions.set_lamp "
    f"<|constrain|>json<|message|>{OBJECT}<|call|>",
    "gpt-oss, recipient first": "<|start|>assistant to=functions.set_lamp<|channel|>commentary "
    f"json<|message|>{OBJECT}",
    "gpt-oss, after its start": " to=functions.set_lamp<|channel|>commentary json"
    f"<|message|>{OBJECT}",
    "gpt-oss without tokens": "analysisThey want light.assistantcommentary "
    f"to=functions.set_lamp json{OBJECT}",
    "kimi": "<|tool_calls_section_begin|><|tool_call_begin|>functions.set_lamp:0"
    f"<|tool_call_argument_begin|>{OBJECT}<|tool_call_end|><|tool_calls_section_end|>",
    "kimi without tokens": f"Sure. functions.set_lamp:12{OBJECT}",
    "qwen3-coder": f"Let me.\n<tool_call>\n{XML}\n</tool_call>",
    "qwen3-coder without its tags": XML,
    "seed": f"<seed:think>Light.</seed:think><seed:tool_call>{XML}</seed:tool_call>",
    "glm": f"<think>Light.</think>\n<tool_call>{PAIRS}</tool_call>",
    "glm 4.7": f"<tool_call>{PAIRS}</tool_call>".replace("\n", ""),
    "glm 4": f"set_lamp\n{OBJECT}",
    "longcat": f"<longcat_tool_call>{JSON}</longcat_tool_call>",
    "granite 3.0": f"<|tool_call|>[{JSON}]",
    "granite 3.1": f"<tool_call> [{JSON}]",
    "granite 20b": f"<function_call> {JSON}",
    "granite, thinking": "Here is my thought process: maybe "
    f"{EMPTY}. Here is my response: <|tool_call|>[{JSON}]",
    "functiongemma": "<start_function_call>call:set_lamp{room:<escape>attic<escape>,level:3}"
    "<end_function_call>",
    "functiongemma without tokens": "call:set_lamp{room:attic,level:3}",
    "gemma 4": "<|channel>thought\nRing?<channel|><|tool_call>"
    'call:set_lamp{room:<|"|>attic<|"|>,level:3}<tool_call|>',
    "phi 4": f"functools[{JSON}]",
    "phi 4 mini": f"<|tool_call|>[{JSON}]<|/tool_call|>",
    "lfm2": f"<|tool_call_start|>[{PYTHON}]<|tool_call_end|>Setting it.",
    "llama 4": f"<|python_start|>[{PYTHON}]<|python_end|>",
    "olmo 3": f"<function_calls>\n{PYTHON}\n</function_calls>",
    "jamba": f"<tool_calls>[\n{JSON}\n]</tool_calls>",
    "minimax m1": f"<tool_calls>\n{JSON}\n</tool_calls>",
    "minimax m2": f"<minimax:tool_call>\n{INVOKED}\n</minimax:tool_call>",
    "dots": f"<dots_function_call>{INVOKED}</dots_function_call>",
    "function calls": f"<function_calls>\n{INVOKED}\n</function_calls>",
    "minicpm": f"{INVOKED}".replace("invoke", "function").replace("parameter", "param"),
    "step 3": "<｜tool_calls_begin｜><｜tool_call_begin｜>function<｜tool_sep｜>"
    + INVOKED.replace("<", "<steptml:").replace("<steptml:/", "</steptml:")
    + "<｜tool_call_end｜><｜tool_calls_end｜>",
    "nemotron": f"<TOOLCALL>[{JSON}]</TOOLCALL>",
    "internlm": f"<|action_start|><|plugin|>\n{JSON}<|action_end|>".replace(
        "arguments", "parameters"
    ),
    "command r": '<|START_THINKING|>Light.<|END_THINKING|><|START_ACTION|>[{"tool_call_id": "0", '
    f'"tool_name": "set_lamp", "parameters": {OBJECT}}}]<|END_ACTION|>',
    "lm studio": f"[TOOL_REQUEST]{JSON}[END_TOOL_REQUEST]",
    "mistral": f"[THINK]{EMPTY}[/THINK][TOOL_CALLS]set_lamp[ARGS]{OBJECT}",
    "react": f"Thought: light.\nAction: set_lamp\nAction Input: {OBJECT}",
    "qwen 2 agent": f"✿FUNCTION✿: set_lamp\n✿ARGS✿: {OBJECT}\n✿RESULT✿",
    "tool_code": f"```tool_code\n{PYTHON}\n```",
    "openai": json.dumps(
        {"content": None, "tool_calls": [{"function": {"name": "set_lamp", "arguments": OBJECT}}]}
    ),
    "input": f'{{"type": "tool_use", "name": "set_lamp", "input": {OBJECT}}}',
    "fence after prose": f"I'll do it:\n\n```json\n{JSON}\n```\nThat sets it.",
    "prose around": f"I'll do it.\n{JSON}\nDone!",
    "python after prose": f"I can't wait: [{PYTHON}]",
    "python on its line": f"I'll do it now.\n{PYTHON}\nDone.",
    "python in a fence": f"Here:\n```python\n{PYTHON}\n```",
    "a thought without its beginning": f"Perhaps [ring()] or {EMPTY}.\n</think>\n{JSON}",
    "a broken draft": f'<think>{{"name": "ring", "argu</think>{JSON}',
    "a broken draft without a beginning": f"<tool_call>{{oh</think><tool_call>{JSON}</tool_call>",
    "marked calls count alone": f"As {EMPTY} would not do: <tool_call>{JSON}</tool_call>",
    "two thoughts": f"<think>{EMPTY}</think>Hm.<think>[ring()]</think>[{PYTHON}]",
}


@pytest.mark.parametrize("text", ONE.values(), ids=ONE)
def test_one_call(text: str) -> None:
    assert read_answer(text).calls == (LAMP,), read_answer(text)


TWO = {
    "minimax m3": f"{M3}<tool_call>\n{M3_CALL}{m3('ring', '')}{M3}</tool_call>",
    "kimi k3": f"<|open|>tools<|sep|>{K3_CALL}{k3('ring', 2, '')}<|close|>tools<|sep|>",
    "plamo 3": f"<|plamo:begin_tool_requests:plamo|>{plamo('set_lamp', OBJECT)}"
    f"{plamo('ring', '{}')}<|plamo:end_tool_requests:plamo|>",
    "deepseek": "<｜tool▁calls▁begin｜>"
    + "".join(
        f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{given}<｜tool▁call▁end｜>"
        for name, given in (("set_lamp", OBJECT), ("ring", "{}"))
    )
    + "<｜tool▁calls▁end｜>",
    "gpt-oss": f"<|channel|>commentary to=functions.set_lamp json<|message|>{OBJECT}<|call|>"
    "<|start|>assistant<|channel|>commentary to=functions.ring json<|message|>{}<|call|>",
    "qwen3-coder": f"<tool_call>{XML}</tool_call>\n"
    "<tool_call><function=ring></function></tool_call>",
    "invoked": f'<function_calls>{INVOKED}<invoke name="ring"></invoke></function_calls>',
    "olmo 3": f"<function_calls>{PYTHON}\nring()</function_calls>",
    "minimax": f"<tool_calls>\n{JSON}\n{EMPTY}\n</tool_calls>",
    "hunyuan": f"<tool_calls><tool_call>{JSON}</tool_call>"
    f"<tool_call>{EMPTY}</tool_call></tool_calls>",
    "gemma": "<start_function_call>call:set_lamp{room:<escape>attic<escape>,level:3}"
    "<end_function_call><start_function_call>call:ring{}<end_function_call>",
    "prose between": f"First {JSON}, and then {EMPTY}.",
    "lines": f"So:\n{PYTHON}\nring()\n",
    "semicolon": f"<|python_tag|>{JSON}; {EMPTY}",
}


@pytest.mark.parametrize("text", TWO.values(), ids=TWO)
def test_two_calls(text: str) -> None:
    assert read_answer(text).calls == (LAMP, BELL), read_answer(text)


SAID = ["<tool_call>", "</think>", "<think>", "[TOOL_CALLS]", "<function=x>", "<|channel|>", "`{`"]
SAID += ["<arg_key>", "[f(a=1)]", '{"name": "f", "arguments": {}}', "```", "</tool_call>", "it's"]


@pytest.mark.parametrize("mark", SAID)
def test_a_mark_inside_a_string_is_text(mark: str) -> None:
    text = f"say {mark} and {mark}"
    value = json.dumps({"name": "note", "arguments": {"text": text}})
    writings = [
        value,
        f"Well.\n{value}",
        f"<tool_call>{value}</tool_call>",
        f"[TOOL_CALLS][{value}]",
    ]
    writings += [f"[note(text={text!r})]", f"So:\n[note(text={text!r})]"]
    writings.append(
        f'<|channel|>commentary to=functions.note json<|message|>{{"text": {json.dumps(text)}}}'
    )
    writings.append(
        f"<tool_call><function=note><parameter=text>{text}</parameter></function></tool_call>"
    )
    for written in writings:
        assert read_answer(written).calls == (Call(name="note", arguments={"text": text}),), written


ABSTENTIONS = [
    "",
    "Temperature(s) cannot be set.",
    "Sorry (really), f(x) = 3 is no tool.",
    "Ring me(maybe) at 5.",
    "See [the docs](http://example.org) or [1].",
    'The room has {"level": 3, "on": true} as its state.',
    'Quoted: "<tool_call>" opens a call, and `</think>` ends a thought.',
    "<think>set_lamp(room='x')? No.</think>I cannot.",
    f"<think>{JSON}</think>\nNone of these fits.",
    "```python\nimport os\nprint(end='')\n```",
    "Use plot(x, y, color='red') there.",
    '{"thought": "nothing fits", "tool_calls": []}',
    "[TOOL_CALLS] []",
    "<|channel|>analysis<|message|>No tool.<|end|><|start|>assistant<|channel|>final<|message|>No.",
    "a < b and b > c, so <b>no</b>.",
    "<|open|>response<|sep|>None of these fits.<|close|>response<|sep|><|close|>message<|sep|>",
    f"<|open|>think<|sep|>{K3_CALL}<|close|>think<|sep|>None of these fits.",
    'The tool is {"name": "f", "description": "F.", "parameters": {"properties": {}}}.',
]


@pytest.mark.parametrize("text", ABSTENTIONS)
def test_an_abstention(text: str) -> None:
    found = read_answer(text)
    assert (found.kind, found.failure) == ("abstention", "no_tool_call"), found


UNREADABLE = [
    "<function_calls><unknown>ring</unknown></function_calls>",
    "<tool_use><x/></tool_use>",
    "<tool_call>ring the bell</tool_call>",
    "<|python_tag|>import os",
    '<|channel|>commentary to=python code<|message|>print("x")',
    f"<tool_call>{XML[:-11]}</tool_call>",
    f"<tool_call>{PAIRS[:-14]}",
    "<tool_call>{'name'}</tool_call>",
    f"Sure. {JSON[:-3]}",
    "So: [set_lamp(room='attic', level=)]",
    "<start_function_call>call:f{a:<escape>x}<end_function_call>",
    "<function=f><parameter=a>1</parameter><parameter=a>2</parameter></function>",
    "Action: look\nAction Input: the attic",
    "functools[{]",
    "[set_lamp(",
    "```tool_code\nprint(1)\n```",
    "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0",
    '{"name": "f", "description": "F.", "parameters": {"properties": {}}}',
    f"<think>No.</think>{JSON[:-3]}",
    f"{M3}<tool_call>\n{M3_CALL[:-40]}",
    f"{M3}<tool_call>{m3('f', f'{M3}<a>1{M3}</a>{M3}<a>2{M3}</a>')}{M3}</tool_call>",
    f"<|open|>tools<|sep|>{K3_CALL[:-30]}",
    '<|open|>call index="1"<|sep|><|close|>call<|sep|>',
    f"<|plamo:begin_tool_requests:plamo|>{plamo('f', '{')}",
    f"<|plamo:begin_tool_requests:plamo|>{plamo('f', '{}')[:-70]}",
]


@pytest.mark.parametrize("text", UNREADABLE)
def test_signs_of_a_call_that_cannot_be_read(text: str) -> None:
    found = read_answer(text)
    assert found.kind == "unreadable" and found.calls is None
    assert found.message and found.message.isprintable()


@pytest.mark.parametrize(
    "value",
    [
        f"0x{'f' * 6000}",
        f"-1{'0' * 100}",
        "1e999",
        "-1e999",
        "-True",
        "{'b': 1, 'b': 2}",
    ],
)
def test_values_of_python_that_json_does_not_know(value: str) -> None:
    found = read_answer(f"[f(a={value})]")
    assert (found.calls, found.failure) == (None, "call_python")


def test_sources_of_names_are_cut_out_in_linear_time() -> None:
    before = time.process_time()
    (call,) = read_answer(f"[f(a=[{'b,' * 9000}])]").calls or ()
    assert time.process_time() - before < 1
    assert call.arguments == {"a": ["b"] * 9000}
    (call,) = read_answer("[f(a=['é', é2,\n é3 +\r\n 1\r, d])]").calls or ()
    assert call.arguments == {"a": ["é", "é2", "é3 +\r\n 1", "d"]}


@pytest.mark.parametrize(
    "text",
    [
        "<think>Let me see",
        "<think>a</think><think>b",
        "[THINK]",
        "<mm:think>a",
        "<|open|>think<|sep|>a",
        "<|plamo:begin_think:plamo|>a",
        "<|channel|>analysis<|message|>So",
    ],
)
def test_a_thought_that_never_ends_is_cut(text: str) -> None:
    assert read_answer(text).kind == parse_calls(text).kind == "truncated"


def test_a_limit_makes_no_abstention() -> None:
    assert if_cut(read_answer("I will"), "at max_tokens").kind == "truncated"
    assert if_cut(read_answer(JSON), "at max_tokens").kind == "calls"
    assert if_cut(read_answer(JSON[:-2]), "at max_tokens").kind == "unreadable"


def test_another_syntax_is_unreadable_in_one_that_is_asked_for() -> None:
    for syntax in get_args(Syntax):
        for text in (ONE["kimi"], ONE["functiongemma"], UNREADABLE[0]):
            assert read_answer(text, syntax).kind == (
                "calls" if syntax == "auto" and text in ONE.values() else "unreadable"
            )


def test_unquoted_values_are_what_their_schema_has() -> None:
    text = f"<tool_call>{PAIRS}</tool_call>"
    (call,) = parse_calls(text, {"set_lamp": {"level"}}).calls or ()
    assert call.arguments == {"room": "attic", "level": "3"}
    listed = XML.replace("\n3\n", '\n["a", {"b": null}]\n')
    (call,) = read_answer(listed).calls or ()
    assert call.arguments["level"] == ["a", {"b": None}]
    assert read_answer("<tool_call>ring\n</tool_call>", "hermes", {"ring": ()}).calls == (BELL,)


def test_elements_of_minimax_m3_are_tables_and_lists() -> None:
    items = "".join(f"{M3}<item>{item}{M3}</item>" for item in ("a", "2"))
    table = f"{M3}<tags>{items}{M3}</tags>{M3}<on>true{M3}</on>"
    text = f"{M3}<of>{table}{M3}</of>{M3}<item>see <b>x</b> and </item>{M3}</item>"
    found = read_answer(f"{M3}<tool_call>\n{m3('f', text)}{M3}</tool_call>")
    (call,) = found.calls or ()
    wanted = {"of": {"tags": ["a", 2], "on": True}, "item": "see <b>x</b> and </item>"}
    assert call.arguments == wanted
    assert not found.extra_text
    deep = f"{M3}<a>" * 70 + "1" + f"{M3}</a>" * 70
    assert "nested deeper" in read_answer(m3("f", deep)).message


def test_arguments_of_kimi_k3_are_typed_or_one_json() -> None:
    text = (
        '<|open|>argument key="q&quot;&amp;" type="string"<|sep|> 3 <tool_call> <|close|>argument'
    )
    listed = '<|open|>argument key="l" type="array"<|sep|>[1, "a"]<|close|>argument<|sep|>'
    (call,) = read_answer(k3("a&amp;b", 1, f"{text}<|sep|>{listed}")).calls or ()
    assert call == Call(name="a&b", arguments={'q"&': " 3 <tool_call> ", "l": [1, "a"]})
    texts = {'{"c": 1}': "", '\n {"c": 1} ': "", "[1]": "call_keys"}
    for text, failure in (texts | dict.fromkeys(('"x"', " 12", ""), "call_json")).items():
        whole = f'<|open|>json type="object"<|sep|>{text}<|close|>json<|sep|>'
        found = read_answer(k3("f", 1, whole))
        assert found.failure == failure
        assert found.calls == (None if failure else (Call(name="f", arguments={"c": 1}),))


def test_words_of_an_object() -> None:
    """The one reader of an object takes each family's words in every mark."""
    for name in ("name", "tool_name", "tool"):
        for arguments in ("arguments", "parameters", "args", "input"):
            for values in (json.loads(OBJECT), OBJECT):
                value = json.dumps({name: "set_lamp", arguments: values})
                for text in (
                    value,
                    f"<tool_call>{value}</tool_call>",
                    f"<tool_calls>[{value}]</tool_calls>",
                ):
                    found = read_answer(text)
                    assert found.calls == (LAMP,), found
                    is_own = (name, arguments, type(values)) == ("name", "arguments", dict)
                    assert found.foreign == (() if is_own else (0,))


def cases() -> list[Any]:
    if not CASES.exists():
        return [pytest.param({}, marks=pytest.mark.skip(reason=f"no {CASES}"))]
    with CASES.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [pytest.param(row, id=str(number)) for number, row in enumerate(rows)]


@pytest.mark.parametrize("row", cases())
def test_what_people_met(row: dict[str, Any]) -> None:
    readers = [read_answer]
    if "<tool_call>" in row["text"] and row["read"] == "calls" and '"note"' not in row["text"]:
        readers.append(parse_calls)
    for read in readers:
        found: ParsedCalls = read(row["text"])
        assert found.kind == row["read"], found
        calls = None if found.calls is None else [[c.name, c.arguments] for c in found.calls]
        assert calls == row["calls"]


PIECES = [
    *SAID,
    *ONE.values(),
    "{",
    "}",
    "[",
    "]",
    '"',
    "'",
    "\\",
    "\n",
    " ",
    "f(",
    "a=1",
    ")",
    "<",
    ">",
]
PIECES += [
    "<think>",
    "</think>",
    "<|message|>",
    "<escape>",
    "call:f{a:",
    "Action: f\nAction Input:",
    ";",
]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=25))
def test_any_mixture_is_read_without_raising(pieces: list[str]) -> None:
    for syntax in get_args(Syntax):
        found = read_answer("".join(pieces), syntax)
        assert (found.calls is None) <= bool(found.failure)
        assert found.kind in ("calls", "abstention", "truncated", "unreadable")


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(PIECES), st.sampled_from(PIECES), st.sampled_from(PIECES))
def test_time_is_linear_in_the_text(one: str, two: str, three: str) -> None:
    """A thousand times a mixture costs no second of the processor, at any place of it."""
    text = (one + (two + three) * 40_000)[:60_000]
    for syntax in ("hermes", "auto"):
        before = time.process_time()
        read_answer(text, syntax)  # type: ignore[arg-type]
        assert time.process_time() - before < 2


@given(st.dictionaries(st.text(min_size=1, max_size=5), st.text(max_size=20), max_size=3))
def test_any_text_comes_back_from_every_writing(arguments: dict[str, str]) -> None:
    call = Call(name="f", arguments=arguments)
    value = json.dumps({"name": "f", "arguments": arguments}, ensure_ascii=False)
    given_ = json.dumps(arguments, ensure_ascii=False)
    for text in (
        value,
        f"So: {value}",
        f"<tool_call>{value}</tool_call>",
        f"<tool_calls>[{value}]</tool_calls>",
        f"[TOOL_CALLS]f[ARGS]{given_}",
        f"<|channel|>commentary to=functions.f json<|message|>{given_}",
        f"<｜tool▁call▁begin｜>f<｜tool▁sep｜>{given_}<｜tool▁call▁end｜>",
    ):
        assert read_answer(text).calls == (call,), text


def test_a_cut_answer_is_no_vote_for_calling_nothing() -> None:
    """Nor is a call in another writing: nothing was agreed on."""
    none: tuple[str, FinishReason] = ("None fits.", "stop")
    cut: tuple[str, FinishReason] = ("Let me think", "length")
    died: tuple[str, FinishReason] = ("", "engine_died")
    other: tuple[str, FinishReason] = (ONE["kimi"], "stop")
    for answers, reason in (
        ((none, none, none), "no_call_majority"),
        ((none, cut, cut), "vote_below_min"),
        ((died, died, none), "vote_below_min"),
        ((other, other, none), "vote_below_min"),
    ):
        completions = (
            Completion(text=text, token_ids=(), finish_reason=finish, logprob=0.0)
            for text, finish in answers
        )
        assert vote(read_completions(completions), []).reason == reason
    rulebook = Rulebook.load(Workspace(ROOT))
    for text, finish in (cut, ("<think>So", "stop")):
        found = check_calls(text, [], rulebook=rulebook, finish_reason=finish)
        assert [verdict.reason for verdict in found] == ["truncated"]
