"""Grammars of calls as a chat template writes them: what they take, what they refuse, and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from conftest_models import make_tokenizer, tiny_model
from families import NAMES, TAGGED, TRL, family, family_tokenizer

from factory.domain.records import Call, Constraint, Message, Reply, Request, Sampling, Tool
from factory.engines.callform import CallForm, Unsupported
from factory.engines.chat import Chat
from factory.engines.constrain import BatchRows, Bound, bind, constraint_to_wire
from factory.engines.forest import Forest
from factory.engines.grammar import calls_grammar, load_grammars
from factory.engines.transformers import TransformersBackend
from factory.engines.written import write_calls
from factory.judge.calls import judge_call
from factory.judge.reading import parse_calls
from factory.workspace.settings import EngineSection

CITY = {"type": "string", "enum": ["Oslo", 'Tromsø "north"\n<b>']}
WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "The weather.",
    "arguments": {
        "type": "dict",
        "properties": {"city": CITY, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["city"],
    },
}
LOOK: dict[str, Any] = {
    "name": "look",
    "description": "Look.",
    "arguments": {"type": "dict", "properties": {"up": {"type": "boolean"}}, "required": []},
}
TOOLS = (WEATHER, LOOK)
KNOWN = {tool["name"]: frozenset({"city"} & {*tool["arguments"]["properties"]}) for tool in TOOLS}
"""Arguments that are texts."""
OSLO, TROMSØ = {"city": "Oslo", "days": 2}, {"city": 'Tromsø "north"\n<b>'}
Calls = list[tuple[str, dict[str, Any]]]


class Model(NamedTuple):
    name: str
    folder: str
    chat: Chat

    def write(self, *calls: tuple[str, dict[str, Any]]) -> str:
        """An answer, as it follows the prompt."""
        text = write_calls(self.chat.tokenizer, calls)
        return text.removeprefix("<think>").lstrip().removeprefix("</think>\n\n")

    def ids(self, text: str) -> list[int]:
        found: list[int] = self.chat.tokenizer.encode(text, add_special_tokens=False)
        return found

    def takes(
        self,
        text: str | list[int],
        form: CallForm | None = None,
        tools: Sequence[dict[str, Any]] = TOOLS,
        **more: bool,
    ) -> bool:
        """Whether the text, or these tokens, are an answer of the grammar."""
        grammar = calls_grammar(tools, form or self.chat.native_form, **more)
        matcher = load_grammars(self.folder, len(self.chat.tokenizer)).start(grammar)
        ids = self.ids(text) if isinstance(text, str) else text
        return bool(matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting())


Make = Callable[[str], Model]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    def made(name: str) -> Model:
        folder = tmp_path_factory.mktemp(name)
        family_tokenizer(name).save_pretrained(folder)
        return Model(name, str(folder), Chat(folder))

    return made


@pytest.fixture(scope="module", params=(*NAMES, TAGGED))
def model(request: pytest.FixtureRequest, make: Make) -> Model:
    return make(request.param)


def test_what_the_template_writes_is_taken(model: Model) -> None:
    answers: list[Calls] = [
        [("get_weather", OSLO)],
        [("get_weather", TROMSØ)],
        [("look", {})],
        [("look", {"up": True})],
    ]
    for calls in answers:
        assert model.takes(model.write(*calls)), calls
        assert model.takes(model.write(*calls), once=True)
    several: Calls = [("get_weather", OSLO), ("look", {}), ("get_weather", TROMSØ)]
    if text := model.write(*several):
        assert model.takes(text) and not model.takes(text, once=True)
    else:
        assert model.name == "llama", "whose template refuses an answer with two calls"
        assert not model.chat.native_form.between


def test_what_is_no_call_of_the_tools_is_refused(model: Model) -> None:
    right = model.write(("get_weather", OSLO))
    wrong: Calls = [
        ("get_whether", OSLO),
        ("get_weather", {"city": "Bergen"}),
        ("get_weather", {"days": 2}),
        ("get_weather", {"city": "Oslo", "days": 10}),
        ("get_weather", {"city": "Oslo", "hours": 2}),
        ("look", OSLO),
    ]
    for call in wrong:
        assert not model.takes(model.write(call)), call
    bare = right.replace('"Oslo"', "Oslo").replace("\n2\n", "\n2.5\n")
    for text in ("", "Oslo.", right[:-1], right + "!", "!" + right, bare):
        assert not model.takes(text), text


def test_tags_are_the_tokens_that_a_model_is_trained_on(make: Make) -> None:
    for name, tag in (("qwen", "<tool_call>"), ("mistral", "[TOOL_CALLS]")):
        model = make(name)
        text = model.write(("look", {}))
        spelled = [token for letter in tag for token in model.ids(letter)]
        assert len(model.ids(tag)) == 1 and text.startswith(tag)
        assert not model.takes(spelled + model.ids(text.removeprefix(tag)))
    own = '<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call>'
    model = make("qwen")
    assert model.takes(own, model.chat.own_form)
    assert not model.takes([*spelled, *model.ids(own)[1:]], model.chat.own_form)


def test_words_are_taken_where_they_will_do_and_call_nothing(model: Model) -> None:
    call = model.write(("get_weather", OSLO))
    for text in ("", "It rains.", "a < b, [c]", "{} and { x }"):
        assert model.takes(text, words=True) and (not text or not model.takes(text))
    assert model.takes(call, words=True)
    for text in (f"It rains. {call}", model.write(("look", {"up": 1})), f"{call} Done."):
        assert not model.takes(text, words=True), text


def test_a_name_that_a_template_would_break_is_refused(model: Model) -> None:
    odd = {**LOOK, "name": 'look "up"'}
    with pytest.raises(Unsupported, match="cannot write the name"):
        calls_grammar([odd], model.chat.native_form)
    assert 'look \\\\\\"up\\\\\\"' in calls_grammar([odd], model.chat.own_form)


@pytest.mark.parametrize(
    ("template", "end", "why"),
    [
        ("qwen2_5_vl", "<|im_end|>", "no form of calls can be told"),
        ("gptoss", "<|return|>", "begins answers that call otherwise"),
        ("glm4moe", "<|user|>", "ends an assistant turn without"),
    ],
)
def test_a_template_without_such_a_form_is_told(
    template: str, end: str, why: str, tmp_path: Path
) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"eos_token": end})
    tokenizer.chat_template = (TRL / f"{template}.jinja").read_text("utf-8")
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(Unsupported, match=why):
        _ = Chat(tmp_path).native_form


def tool_with(schema: dict[str, Any]) -> dict[str, Any]:
    return {**LOOK, "arguments": {"type": "dict", "properties": {"x": schema}, "required": ["x"]}}


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"type": "string", "maxLength": 3}, "a\nb", "abcd"),
        ({"type": "string"}, 'a </p>\n"quoted" / 5', "a\n</parameter"),
        ({"type": "string", "format": "date"}, "2026-12-01", "2026-13-01"),
        ({"type": "string", "nullable": True}, "null", "a\n</parameter"),
        ({"type": "array", "items": {"type": "string"}}, '["a\\n</parameter>"]', "a"),
        ({"enum": [1, True]}, "true", "false"),
        ({"anyOf": [{"type": "string", "maxLength": 3}, {"type": "null"}]}, "abc", "abcd"),
        ({"anyOf": [{"type": "integer"}, {"type": "boolean"}]}, "true", "a"),
    ],
)
def test_a_value_between_tags_is_a_text_or_json(
    make: Make, schema: dict[str, Any], right: str, wrong: str
) -> None:
    model, tool = make(TAGGED), tool_with(schema)
    before, after = model.write(("look", {"x": "Zq7"})).split("Zq7")
    assert model.takes(before + right + after, tools=[tool])
    assert not model.takes(before + wrong + after, tools=[tool])


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "string", "pattern": "^a"}, "pattern of a text between tags"),
        ({"type": ["string", "integer"]}, "may be a text or not"),
        ({}, "may be a text or not"),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, "may be a text or not"),
    ],
)
def test_a_value_that_tags_leave_open_is_told(make: Make, schema: Any, why: str) -> None:
    form = make(TAGGED).chat.native_form
    with pytest.raises(Unsupported, match=rf"look\.x: .*{why}"):
        calls_grammar([tool_with(schema)], form)
    both = {"anyOf": [{"required": ["x"]}, {"required": ["y"]}]}
    tool = {**LOOK, "arguments": {**LOOK["arguments"], **both}}
    with pytest.raises(Unsupported, match="look: anyOf of arguments between tags"):
        calls_grammar([tool], form)


def test_whatever_the_logits_say_the_calls_are_read_and_right(model: Model) -> None:
    """As an engine samples: the request is native, so its constraint is."""
    chat, size = model.chat, len(model.chat.tokenizer)
    message = Message(role="system", content="", tools=TOOLS)
    constraint = Constraint(tools=TOOLS, form="calls")
    request = Request(id="r", messages=(message,), sampling=Sampling(), constraint=constraint)
    wire = constraint_to_wire(constraint, chat, native=request.is_native)
    tools = {tool["name"]: Tool(id=tool["name"], document=tool) for tool in TOOLS}
    ended, several = 0, 0
    for seed in range(30):
        bound = bind(wire, model.folder, size)
        assert bound is not None
        output = _sample(bound, size, seed, chat.end_ids)
        if output[-1] not in chat.end_ids:
            continue
        read = parse_calls(chat.decode(output, marked=True), KNOWN, syntax="auto")
        assert read.calls, read
        for call in read.calls:
            assert not list(judge_call(Call(name=call.name, arguments=call.arguments), 0, tools))
        ended, several = ended + 1, several + (len(read.calls) > 1)
    assert ended > 5 and (several > 0) == (model.name != "llama")


def test_an_engine_binds_what_is_asked_natively(tmp_path: Path) -> None:
    """As a round asks with `calls.constrain`."""
    parts = family(TAGGED)
    tokens = (*parts.special, parts.end, *parts.words)
    folder = tiny_model(tmp_path, extra_tokens=tokens, max_positions=4096)
    family_tokenizer(TAGGED).save_pretrained(folder)
    request = Request(
        id="r",
        messages=(
            Message(role="system", content="", tools=TOOLS),
            Message(role="user", content="Look."),
        ),
        sampling=Sampling(n=4, temperature=2.0, seed=1, max_tokens=400),
        constraint=Constraint(tools=TOOLS, form="calls"),
    )
    backend = TransformersBackend(folder, EngineSection(threads=1, max_model_len=4096))
    replies = list[Reply]()
    backend.add(0, request, backend.chat.encode(request))
    while backend.is_busy:
        backend.step(lambda _, reply: replies.append(reply))
    ended = [one for one in replies[0].completions if one.finish_reason == "stop"]
    assert ended
    for one in ended:
        calls = parse_calls(one.text, KNOWN, syntax="auto").calls
        assert calls and {call.name for call in calls} <= {"get_weather", "look"}


def _sample(bound: Bound, size: int, seed: int, ends: frozenset[int]) -> list[int]:
    generator, output = torch.Generator().manual_seed(seed), list[int]()
    rows = BatchRows(Forest(torch.device("cpu")), {0: (bound, output)}, 1)
    while len(output) < 400 and (not output or output[-1] not in ends):
        logits_RV = 3 * torch.randn(1, size, generator=generator)
        rows.apply(logits_RV)
        output.append(int(logits_RV.argmax()))
    return output
