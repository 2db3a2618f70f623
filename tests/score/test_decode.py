"""Calls out of answers: every syntax, what is no call, and hostile text."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.domain.records import Call
from factory.judge.answers import Syntax
from factory.judge.reading import parse_calls
from factory.score.calls.decode import decode

SYNTAXES: tuple[Syntax, ...] = get_args(Syntax)

F = Call(name="f", arguments={"a": 1, "b": "x"})
G = Call(name="g.h", arguments={})
ONE = '{"name": "f", "arguments": {"a": 1, "b": "x"}}'
TWO = '{"name": "g.h", "arguments": {}}'

# (syntax, text, calls); each is also what `auto` reads.
READABLE: list[tuple[Syntax, str, list[Call]]] = [
    ("hermes", f"<tool_call>\n{ONE}\n</tool_call>\n<tool_call>{TWO}</tool_call>", [F, G]),
    ("hermes", f"I will call it. <tool_call>{ONE}</tool_call>", [F]),
    ("json", ONE, [F]),
    ("json", f"[{ONE}, {TWO}]", [F, G]),
    ("json", f"{ONE}\n{TWO}", [F, G]),
    ("json", f"```json\n[{ONE}]\n```", [F]),
    ("json", f"```\n{ONE}```", [F]),
    ("json", '{"name": "f", "parameters": {"a": 1, "b": "x"}}', [F]),
    ("json", f'[{{"type": "function", "function": {ONE}}}]', [F]),
    ("json", '{"function": {"name": "f", "arguments": "{\\"a\\": 1, \\"b\\": \\"x\\"}"}}', [F]),
    ("python", '[f(a=1, b="x"), g.h()]', [F, G]),
    ("python", "f(a=1, b='x')", [F]),
    ("python", '```python\n[f(a=1, b="x")]\n```', [F]),
    ("python", "[f(\n  a=1,\n  b='''x''',\n)]", [F]),
    (
        "python",
        '[get weather(city="Oslo")]',
        [Call(name="get weather", arguments={"city": "Oslo"})],
    ),
    ("python", "[a/b-c:d(x=1)]", [Call(name="a/b-c:d", arguments={"x": 1})]),
    ("llama", f"<|python_tag|>{ONE}; {TWO}<|eom_id|>", [F, G]),
    ("llama", '{"name": "f", "parameters": {"a": 1, "b": "x"}}; ' + TWO, [F, G]),
    ("llama", '<function=f>{"a": 1, "b": "x"}</function><function=g.h>{}</function>', [F, G]),
    ("llama", '<|python_tag|>f(a=1, b="x")', [F]),
    ("mistral", f"[TOOL_CALLS] [{ONE}, {TWO}]", [F, G]),
    ("mistral", f"[{ONE}]", [F]),
    ("mistral", '[TOOL_CALLS]f[ARGS]{"a": 1, "b": "x"}[TOOL_CALLS]g.h[ARGS]{}', [F, G]),
    ("mistral", '[TOOL_CALLS]f[CALL_ID]abc123[ARGS]{"a": 1, "b": "x"}', [F]),
    ("mistral", 'f{"a": 1, "b": "x"}g.h{}', [F, G]),
]


@pytest.mark.parametrize(("syntax", "text", "calls"), READABLE)
@pytest.mark.parametrize("thinking", ["", "<think>\nCall f(a=2)?\n</think>\n\n"])
def test_calls_are_read(syntax: Syntax, text: str, calls: list[Call], thinking: str) -> None:
    found = decode(text, syntax)
    assert found.calls == tuple(calls)
    found = decode(thinking + text, "auto")
    assert (found.calls, found.failure) == (tuple(calls), "")
    assert found.text == thinking + text


PLAIN = [
    "",
    "   ",
    "I cannot help with that.",
    "[]",
    "[ ]",
    "[1] says so.",
    "It is f (x).",
    "x = 1",
]


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("text", PLAIN)
def test_plain_text_calls_nothing(syntax: Syntax, text: str) -> None:
    found = decode(text, syntax)
    assert (found.calls, found.failure) == ((), "no_tool_call"), found
    assert found.message
    assert found.kind == "abstention"


# (syntax, text, words of the message)
BROKEN: list[tuple[Syntax, str, str]] = [
    ("hermes", "<tool_call>{'name'</tool_call>", ""),
    ("json", ONE[:-1], "text ends"),
    ("json", '[{"name": "f"}]', "the key arguments is missing"),
    ("json", '[{"arguments": {}}]', "the key name is missing"),
    ("json", '{"name": "f", "arguments": {"a": NaN}}', "NaN"),
    ("json", '{"name": "f", "arguments": {"a": 1, "a": 2}}', "twice"),
    ("json", '{"name": "f", "arguments": "{"}', "text ends"),
    ("json", "[" + ",".join([ONE] * 300) + "]", "more than 256 calls"),
    ("json", '{"a":' * 100 + "1" + "}" * 100, "nested deeper"),
    ("python", "[f(a=1)", "not closed"),
    ("python", "[f(a=1), 2]", "is no call"),
    ("python", "f(1)", "without a name"),
    ("python", "f(**{'a': 1})", "without a name"),
    ("python", "f(a=1)(b=2)", "follows the calls"),
    ("python", "f(a=1) + g(b=2)", "follows the calls"),
    ("python", "f(a=1, a=2)", "an argument twice"),
    ("python", "f(a=)", "cannot be read"),
    ("python", "f(a='\\ud800')", "surrogate"),
    ("python", "f(a=" + "9" * 5000 + ")", "cannot be read"),
    ("python", "f(a=" + "(" * 200 + ")", "nested deeper"),
    ("python", "f(a='" + "x" * 30_000 + "')", "at most 20000"),
    ("python", "[" + ",".join(["f()"] * 300) + "]", "more than 256"),
    ("llama", '<function=f>{"a": 1}', "not whole"),
    ("llama", "<function=f>a=1</function>", ""),
    ("llama", f"{ONE}; nothing", ""),
    ("mistral", "[TOOL_CALLS] none", "no call stands"),
    ("mistral", "[TOOL_CALLS] [{", ""),
    ("mistral", 'f{"a": 1', "the text ends"),
    ("mistral", 'f{"a": 1} and more', "follows the calls"),
]


@pytest.mark.parametrize(("syntax", "text", "words"), BROKEN)
def test_a_broken_call_is_a_failure_and_no_abstention(
    syntax: Syntax, text: str, words: str
) -> None:
    for chosen in (syntax, "auto"):
        found = decode(text, chosen)  # type: ignore[arg-type]
        assert found.calls is None, found.calls
        assert found.failure in ("call_json", "call_keys", "call_python")
        assert words in found.message
        assert len(found.message) < 400 and found.message.isprintable()
    assert decode(text, "auto").kind != "abstention"


def test_an_unfinished_tag_is_no_abstention() -> None:
    for text in ("<tool_call", "<tool_call {", '<tool_call>{"name": "f"', "Well: <tool_call>"):
        assert decode(text, "auto").kind != "abstention"
        assert decode(text, "auto").failure in ("call_json", "call_keys")


def test_python_values() -> None:
    text = (
        "f(i=-1, x=-2.5, s='a' 'b', t=True, n=None, j=[true, false, null], l=[1, (2, 3)], "
        "d={'k': [1]}, v=other.name, c=datetime(2020, 1, 1), e=1 + 2, u={1: 2})"
    )
    found = decode(text, "python").calls
    assert found == (
        Call(
            name="f",
            arguments={
                "i": -1,
                "x": -2.5,
                "s": "ab",
                "t": True,
                "n": None,
                "j": [True, False, None],
                "l": [1, [2, 3]],
                "d": {"k": [1]},
                "v": "other.name",
                "c": "datetime(2020, 1, 1)",
                "e": "1 + 2",
                "u": "{1: 2}",
            },
        ),
    )
    assert decode("f(big=1e999)", "python").failure == "call_python"


def test_nothing_is_evaluated(capfd: pytest.CaptureFixture[str]) -> None:
    text = "f(a=__import__('os').system('echo evaluated'), b=[print('evaluated')], c=lambda: 1/0)"
    found = decode(text, "python").calls
    assert found is not None and found[0].arguments["b"] == ["print('evaluated')"]
    assert "evaluated" not in capfd.readouterr().out


HOSTILE = [
    "f(a=" + "-" * 15_000 + "1)",
    "f(a=" + "+".join("1" * 9_000) + ")",
    "f(a=" + "x." * 9_000 + "y)",
    "f(a=" + "not " * 4_000 + "y)",
    "f(a=" + "lambda: " * 2_000 + "y, 1)",
    "f(a=" + "[" * 15_000,
    "f(" * 9_000,
    "f" * 900_000 + "(",
    "f " * 400_000 + "(",
    "f(a='" + "\\" * 19_000,
    "f(a=\0)",
    "[" * 900_000,
    "{" * 900_000,
    "<function=" * 90_000,
    "<function=f>" * 70_000,
    "<tool_call>" * 80_000,
    "[TOOL_CALLS]" * 80_000,
    "f{" * 400_000,
    "f{}" * 300_000,
    "```" * 300_000,
    "<think>" * 140_000,
    "[TOOL_CALLS]f[ARGS]{" + '"' * 900_000,
    "\ud800" * 1000,
    "x" * 2_000_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_read_at_once(text: str) -> None:
    """Patterns that backtrack, or a parser without bounds, would not come back from these."""
    for syntax in SYNTAXES:
        found = decode(text, syntax)
        assert found.failure and found.message.isprintable()


@given(st.text(alphabet="f(a=1,'\")[]{}:;<|>\\ \n-TOOL_CALLS/thinkcuo._", max_size=60))
def test_any_text_is_read_without_raising(text: str) -> None:
    for syntax in SYNTAXES:
        found = decode(text, syntax)
        assert (found.calls is None) <= bool(found.failure)


@given(st.text(max_size=200))
def test_hermes_is_read_as_the_vote_reads_it(text: str) -> None:
    wrapped = f"<tool_call>{text}</tool_call>"
    assert decode(wrapped, "hermes") == parse_calls(wrapped)
