"""JSON bound by a tool's schema: whatever the logits say, the judge of calls has nothing to say."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest_models import code_names, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.codes.trie import Trie
from factory.domain.canon import tool_id
from factory.domain.failures import MissingError
from factory.domain.jsontext import JsonTextError, parse_strict
from factory.domain.records import Call, Constraint, Tool
from factory.engines.callform import Unsupported
from factory.engines.chat import Chat
from factory.engines.constrain import (
    BatchRows,
    Bound,
    bind,
    constraint_to_wire,
    guide_to_wire,
    mask_on_cpu,
    mask_on_device,
)
from factory.engines.forest import Forest
from factory.engines.grammar import (
    Grammars,
    Writer,
    arguments_grammar,
    calls_grammar,
    load_grammars,
    read_documents,
)
from factory.judge.calls import judge_call
from factory.judge.reading import parse_calls
from factory.tools.formats import FORMATS

MAX_TOKENS = 250


def make_tool(properties: dict[str, Any], required: Sequence[str] = (), name: str = "f") -> Tool:
    arguments = {"type": "dict", "properties": properties, "required": list(required)}
    document = {"name": name, "description": "…", "arguments": arguments}
    return Tool(id=tool_id(document), document=document)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tokenizer with its grammars: a folder, an encoder and a decoder."""
    from transformers import AutoTokenizer

    codes = [token for level in code_names(2, 3) for token in level]
    folder = tiny_model(tmp_path_factory.mktemp("tiny"), extra_tokens=codes)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    size = len(tokenizer) + 5
    return SimpleNamespace(
        folder=str(folder),
        chat=Chat(folder),
        tokenizer=tokenizer,
        size=size,
        end=tokenizer.eos_token_id,
        grammars=load_grammars(str(folder), size),
    )


def encode(served: Any, text: str) -> list[int]:
    ids: list[int] = served.tokenizer.encode(text, add_special_tokens=False)
    return ids


def sample(served: Any, bounds: Sequence[Bound], seed: int) -> list[tuple[list[int], bool]]:
    """Tokens of each row by random logits under its bound, and whether it came to its end."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    habit_RV = 2 * torch.randn(len(bounds), served.size, generator=generator)
    outputs: list[list[int]] = [[] for _ in bounds]
    rows = BatchRows(
        Forest(habit_RV.device), dict(enumerate(zip(bounds, outputs, strict=True))), len(bounds)
    )
    ended = [False] * len(bounds)
    for _ in range(MAX_TOKENS):
        logits_RV = habit_RV + 3 * torch.randn(habit_RV.shape, generator=generator)
        rows.apply(logits_RV)
        assert logits_RV.isfinite().any(1).all()
        for row, token in enumerate(logits_RV.argmax(1).tolist()):
            if not ended[row]:
                outputs[row].append(token)
                ended[row] = token == served.end
        if all(ended):
            break
    return list(zip(outputs, ended, strict=True))


def bound_by(served: Any, constraint: Constraint) -> Bound:
    wire = constraint_to_wire(constraint, served.chat, native=False)
    bound = bind(wire, served.folder, served.size)
    assert bound is not None
    return bound


def findings(text: str, tool: Tool) -> list[Any]:
    return list(
        judge_call(Call(name=tool.name, arguments=parse_strict(text)), 0, {tool.name: tool})
    )


WORDS = ("int", "integer", "float", "number", "str", "bool", "any", "list[int]", "List[str]")
SCALARS: list[dict[str, Any]] = [
    *({"type": word} for word in (*WORDS, "tuple[int, str]", "dict[str, float]", "int | null")),
    *({"type": "string", "format": name} for name in (*FORMATS, "city")),
    {"type": "string", "enum": ["é", 'a"b', "日本\n"]},
    {"type": "integer", "enum": [1, -5]},
    {"enum": [True, None, "x", [1, {"k": 2}]]},
    {"type": "integer", "minimum": 3, "maximum": 11},
    {"type": "float", "exclusiveMinimum": 0.25},
    {"type": "integer", "nullable": True},
    {"type": "string", "minLength": 2, "maxLength": 3},
    {"type": "string", "pattern": "^[A-Z]{3}-[0-9]+$"},
    {"type": "date", "format": "date", "pattern": "^2"},
    {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "bool"}}]},
    {"type": "dict", "properties": {}},
]


def nested(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    listed = inner.map(lambda item: {"type": "array", "items": item, "minItems": 1, "maxItems": 2})
    return listed | objects(inner)


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from(["a", "b c", 'q"', "ü", "\n"]), max_size=3, unique=True))
    required = [name for name in names if draw(st.booleans())]
    properties = {name: draw(inner) for name in names}
    return {"type": "dict", "properties": properties, "required": required}


@settings(max_examples=40)
@given(
    st.lists(
        objects(st.recursive(st.sampled_from(SCALARS), nested, max_leaves=4)),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 2**20),
)
def test_no_judge_finds_fault_with_arguments_under_their_schema(
    served: Any, schemas: list[dict[str, Any]], seed: int
) -> None:
    tools = [make_tool(schema["properties"], schema["required"]) for schema in schemas]
    bounds = [bound_by(served, Constraint(tools=(tool.document,))) for tool in tools]
    for tool, (tokens, ended) in zip(tools, sample(served, bounds, seed), strict=True):
        text = served.tokenizer.decode(tokens[:-1] if ended else tokens)
        if ended:
            try:
                assert findings(text, tool) == [], (text, tool.arguments)
            except JsonTextError as error:
                assert "appears twice" in str(error) and '"dict' in json.dumps(tool.arguments)
        else:
            assert len(tokens) == MAX_TOKENS


def test_most_answers_come_to_their_end(served: Any) -> None:
    """The property above would hold of a grammar that never closes."""
    tool = make_tool({"n": {"type": "int"}, "on": {"type": "bool"}}, ["n"])
    bounds = [bound_by(served, Constraint(tools=(tool.document,))) for _ in range(12)]
    assert sum(ended for _, ended in sample(served, bounds, 0)) >= 11


def test_calls_are_those_of_the_tools_at_hand(served: Any) -> None:
    tools = [
        make_tool({"n": {"type": "int"}}, ["n"], name="count"),
        make_tool({}, name="stop"),
        make_tool({"on": {"type": "bool"}}, name="lights"),
    ]
    by_name = {tool.name: tool for tool in tools}
    documents = tuple(tool.document for tool in tools)
    seen = set()
    for seed in range(25):
        bound = bound_by(served, Constraint(tools=documents, form="calls"))
        ((tokens, ended),) = sample(served, [bound], seed)
        if not ended:
            continue
        parsed = parse_calls(served.tokenizer.decode(tokens[:-1]))
        assert parsed.calls and not (parsed.failure or parsed.repaired or parsed.extra_text)
        for call in parsed.calls:
            seen.add(call.name)
            assert not list(judge_call(call, 0, by_name))
    assert seen == set(by_name)


ANSWERS = ['{"people": 4, "day": "Fri é"}', '{"people":4,"day":""}']


@pytest.mark.parametrize("text", ANSWERS)
def test_the_end_is_allowed_exactly_where_the_json_is_whole(served: Any, text: str) -> None:
    tool = make_tool({"people": {"type": "int"}, "day": {"type": "str"}}, ["people", "day"])
    writer, grammar = Writer(served.grammars), arguments_grammar(tool.document)
    tokens = encode(served, text)
    for length in range(len(tokens) + 1):
        allowed = allowed_after(served.grammars, writer.follow(grammar, tokens[:length]))
        assert (served.end in allowed) == (length == len(tokens))
        assert length == len(tokens) or tokens[length] in allowed


def allowed_after(grammars: Grammars, matcher: Any) -> set[int]:
    bits = grammars.mask([matcher])[0]
    return {n for n in range(grammars.vocabulary) if bits[n // 8] >> n % 8 & 1}


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 30)), min_size=1, max_size=12))
def test_a_writer_is_where_its_tokens_say_whatever_it_saw_before(
    served: Any, visits: list[tuple[int, int]]
) -> None:
    """Preempted, moved, taken back: each visit shows some prefix of one of two answers."""
    tool = make_tool({"people": {"type": "int"}, "day": {"type": "str"}}, ["people", "day"])
    grammar, writer = arguments_grammar(tool.document), Writer(served.grammars)
    for answer, length in visits:
        tokens = encode(served, ANSWERS[answer])[:length]
        rolled = allowed_after(served.grammars, writer.follow(grammar, tokens))
        assert rolled == allowed_after(
            served.grammars, Writer(served.grammars).follow(grammar, tokens)
        )


def test_tokens_that_the_grammar_does_not_allow_leave_only_the_end(served: Any) -> None:
    writer = Writer(served.grammars)
    matcher = writer.follow(arguments_grammar(make_tool({}).document), encode(served, "{}}"))
    assert allowed_after(served.grammars, matcher) == {served.end}


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"not": {"type": "integer"}}, "not"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"type": "string", "pattern": "(?=x)y"}, "look-around"),
        ({"type": "integer", "minimum": 4, "maximum": 3}, "nsatisfiable"),
    ],
)
def test_a_schema_without_a_grammar_is_refused_with_its_cause(
    served: Any, schema: dict[str, Any], why: str
) -> None:
    tool = make_tool({"a": schema}, ["a"])
    with pytest.raises(Unsupported, match=why):
        served.grammars.start(arguments_grammar(tool.document))
    with pytest.raises(Unsupported, match=why):
        served.grammars.start(
            calls_grammar([make_tool({}, name="g").document, tool.document], served.chat.own_form)
        )


PIECES = (
    "<",
    "<t",
    "<tool",
    "<tool_call",
    ">",
    "<tool_call>",
    "</tool_call>",
    "<tools>",
    "\n",
    "é",
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=6).map("".join))
def test_an_answer_in_words_is_any_but_one_in_which_a_call_begins(served: Any, text: str) -> None:
    tool = make_tool({"a": {"type": "int"}}, ["a"])
    matcher = served.grammars.start(
        calls_grammar([tool.document], served.chat.own_form, words=True)
    )
    tokens = encode(served, text)
    fits = matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()
    assert fits == ("<tool_call>" not in text)
    if not fits:
        assert (read := parse_calls(text)).failure or read.calls


def test_loose_keywords_leave_the_rest_of_the_schema_in_force(served: Any) -> None:
    items = {"type": "array", "items": {"type": "int"}, "uniqueItems": True, "minItems": 2}
    tool = make_tool({"a": items, "b": {"type": "float", "multipleOf": 0.1}}, ["a", "b"])
    bound = bound_by(served, Constraint(tools=(tool.document,)))
    rules = set()
    for seed in range(20):
        ((tokens, ended),) = sample(served, [bound], seed)
        if ended:
            text = served.tokenizer.decode(tokens[:-1])
            rules |= {finding.rule for finding in findings(text, tool)}
    assert rules == {"call/constraint_violation"}


@pytest.fixture(scope="module")
def catalogue(served: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Four tools with codes of two tokens, saved as a codebook's files are."""
    folder = tmp_path_factory.mktemp("codes")
    tools = [
        make_tool({"n": {"type": "int"}}, ["n"], name="count"),
        make_tool({}, name="stop"),
        make_tool({"x": {"not": {"type": "int"}}}, ["x"], name="odd"),
    ]
    names = code_names(2, 3)
    pairs = [(names[0][0], names[1][1]), (names[0][0], names[1][2]), (names[0][1], names[1][0])]
    codes = [tuple(served.tokenizer.convert_tokens_to_ids(list(pair))) for pair in pairs]
    ids = [tool.id for tool in tools]
    unknown = tuple(served.tokenizer.convert_tokens_to_ids([names[0][2], names[1][0]]))
    trie = Trie.build([*codes, unknown], [*ids, "t_unknown"], served.end)
    trie.save(folder / "trie.npz")
    lines = [json.dumps({"tool_id": tool.id, "document": tool.document}) for tool in tools]
    (folder / "tools.jsonl").write_text("\n".join(lines), "utf-8")
    (close,) = encode(served, "\n")
    wire = guide_to_wire(str(folder / "trie.npz"), (), (), close, str(folder / "tools.jsonl"))
    return SimpleNamespace(tools=tools, codes=codes, unknown=unknown, wire=wire, close=close)


def test_after_a_code_come_the_arguments_of_its_tool(served: Any, catalogue: Any) -> None:
    by_code = dict(zip(catalogue.codes, catalogue.tools, strict=True))
    seen = set()
    for seed in range(40):
        bounds = [bind(catalogue.wire, served.folder, served.size) for _ in range(2)]
        for tokens, ended in sample(served, [bound for bound in bounds if bound], seed):
            code, rest = tuple(tokens[:2]), tokens[3:]
            assert tokens[2] == catalogue.close
            tool = by_code.get(code)
            seen.add(tool.name if tool else "")
            if tool is None or tool.name == "odd":
                assert rest == [served.end]
            elif ended:
                assert findings(served.tokenizer.decode(rest[:-1]), tool) == []
    assert seen == {"count", "stop", "odd", ""}


def test_rows_of_one_batch_do_not_touch_each_other(served: Any, catalogue: Any) -> None:
    """A code with arguments, known arguments and a free row: each as it would be alone."""
    import torch

    count = catalogue.tools[0]
    known = bound_by(served, Constraint(tools=(count.document,)))
    coded = bind(catalogue.wire, served.folder, served.size)
    assert coded is not None
    begun = encode(served, '{"n": 1')
    outputs = [[*catalogue.codes[0]], [*catalogue.codes[0], catalogue.close, *begun], begun, begun]
    logits = torch.randn(4, served.size)
    rows = {0: (coded, outputs[0]), 2: (known, outputs[2])}
    rows[1] = (bind(catalogue.wire, served.folder, served.size) or coded, outputs[1])
    BatchRows(Forest(logits.device), rows, 4).apply(logits)
    allowed = [set(row.isfinite().nonzero()[:, 0].tolist()) for row in logits]
    assert allowed[0] == {catalogue.close}
    assert allowed[1] == allowed[2] >= set(encode(served, "0123456789}"))
    assert served.end not in allowed[1]
    assert len(allowed[3]) == served.size


def test_masks_are_the_same_on_the_cpu_and_on_a_device(served: Any) -> None:
    import torch

    tool = make_tool({"people": {"type": "int"}}, ["people"])
    tokens, grammar = encode(served, ANSWERS[0]), arguments_grammar(tool.document)
    matchers = [Writer(served.grammars).follow(grammar, tokens[:length]) for length in (0, 3, 5)]
    bits, rows = served.grammars.mask(matchers), (4, 0, 2)
    logits = torch.randn(5, served.size)
    expected, found = logits.clone(), logits.clone()
    mask_on_cpu(expected, rows, bits)
    mask_on_device(found, rows, bits)
    assert torch.equal(found, expected) and torch.equal(found[[1, 3]], logits[[1, 3]])
    for row, matcher in zip(rows, matchers, strict=True):
        allowed = set(found[row].isfinite().nonzero()[:, 0].tolist())
        assert allowed == allowed_after(served.grammars, matcher)


def test_a_missing_library_names_its_command(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingError, match="llguidance") as caught:
        Grammars(Path(served.folder), served.size)
    assert "tool-factory[train]" in caught.value.remedy


def test_a_changed_catalogue_is_read_again(served: Any, catalogue: Any, tmp_path: Path) -> None:
    path = tmp_path / "tools.jsonl"
    for stamp, word in enumerate(("int", "str")):
        tool = make_tool({"n": {"type": word}}, ["n"])
        path.write_text(json.dumps({"tool_id": "t", "document": tool.document}), "utf-8")
        os.utime(path, (stamp, stamp))
        assert read_documents(str(path)).grammar("t") == arguments_grammar(tool.document)
