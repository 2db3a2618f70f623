"""Examples: what each kind shows and asks for, replay, files, and the loss mask."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from conftest_models import tiny_model

from factory.codes.trie import FINISH
from factory.domain.canon import query_id, tool_id
from factory.domain.failures import ContentError, InputError, ModelError
from factory.domain.records import IGNORED, Call, Example, Message, Query, Role, Tool
from factory.engines.turn import Turn, read_turn
from factory.train.encoding import encode, encode_all, render
from factory.train.examples import (
    calls_text,
    code_example,
    example_from_json,
    example_to_json,
    examples_from_sample,
    placeholder,
    read_examples,
    select_replay,
    tools_of,
    unique_examples,
    write_examples,
)
from factory.workspace.folder import Workspace, shipped_root
from factory.workspace.prompts import Prompts

CODES = ("<a_0>", "<a_1>", "<b_0>", "<b_1>")


def make_tool(name: str) -> Tool:
    document = {
        "name": name,
        "description": f"Do {name}.",
        "arguments": {
            "type": "dict",
            "properties": {"city": {"type": "string", "description": "The city."}},
            "required": ["city"],
        },
        "results": {"type": "dict", "properties": {}},
    }
    return Tool(id=tool_id(document), document=document)


TOOLS = tuple(make_tool(name) for name in ("get_weather", "find_hotel", "rent_car", "buy_map"))
TEXT = "Weather in Oslo and in Bergen?"
QUERY = Query(id=query_id(TEXT), text=TEXT, source="test")
CALLS = tuple(Call(name="get_weather", arguments={"city": city}) for city in ("Oslo", "Bergen"))


class Names:
    """A codebook of two tools."""

    def code_text(self, tool_id: str) -> str:
        return {TOOLS[0].id: "<a_1><b_0>", TOOLS[1].id: "<a_0><b_1>"}[tool_id]


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return Prompts.load(Workspace(shipped_root()))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    from transformers import AutoTokenizer

    folder = tiny_model(tmp_path_factory.mktemp("model"), extra_tokens=CODES)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def sample(prompts: Prompts) -> list[Example]:
    return examples_from_sample(
        query=QUERY, tools=TOOLS, calls=CALLS, prompts=prompts, round_number=3
    )


def adapt_example(prompts: Prompts) -> Example:
    return Example(
        kind="adapt",
        messages=(
            Message(role="system", content=prompts.render("tools/system")),
            Message(role="user", content=prompts.render("tools/adapt", description="Do it.")),
            Message(role="assistant", content='<tools>\n{"name": "do_it"}\n</tools>'),
        ),
        origin="seed/1",
    )


def by_kind(examples: list[Example]) -> dict[str, Example]:
    return {example.kind: example for example in examples}


def test_a_tool_is_unlearnt_where_all_its_code_examples_were_left_out(
    sample: list[Example],
    prompts: Prompts,
    tokenizer,  # type: ignore[no-untyped-def]
) -> None:
    far, coded, uncoded = TOOLS[0], TOOLS[1], TOOLS[2]
    documents = [code_example(tool, prompts, "r1/t") for tool in (far, coded, uncoded)]
    short = replace(
        documents[1], messages=(Message(role="user", content="x"), documents[1].messages[1])
    )

    def leave_out(examples: list[Example], max_length: int = 4096) -> list[str]:
        return encode_all(
            examples,
            codes=Names(),
            outliers=frozenset({far.id}),
            tokenizer=tokenizer,
            turn=read_turn(tokenizer, frozenset({tokenizer.eos_token_id})),
            max_length=max_length,
        ).unlearnt

    assert leave_out([*sample, *documents]) == sorted({far.id, uncoded.id})
    assert leave_out(documents[1:2]) == []
    assert leave_out(documents[1:2], max_length=20) == [coded.id]
    assert leave_out([documents[1], short], max_length=20) == []


def test_a_sample_gives_each_kind_once_per_called_tool(sample: list[Example]) -> None:
    assert [example.kind for example in sample] == ["gen", "invoke", "code", "retrieve"]
    assert {example.origin for example in sample} == {f"r3/{QUERY.id}"}
    assert all(example.messages[-1].role == "assistant" for example in sample)


def test_gen_asks_for_the_called_tools_and_two_others_in_order(sample: list[Example]) -> None:
    gen = by_kind(sample)["gen"]
    lines = gen.messages[-1].content.split("\n")
    assert (lines[0], lines[-1]) == ("<tools>", "</tools>")
    assert [json.loads(line) for line in lines[1:-1]] == [tool.document for tool in TOOLS[:3]]
    assert gen.messages[1].content.endswith(TEXT)


def test_gen_leaves_out_uncalled_tools_that_the_model_did_not_write(prompts: Prompts) -> None:
    hotel = (Call(name="find_hotel", arguments={"city": "Oslo"}),)
    examples = examples_from_sample(
        query=QUERY,
        tools=TOOLS,
        written=TOOLS[2:3],
        calls=hotel,
        prompts=prompts,
        round_number=1,
    )
    text = by_kind(examples)["gen"].messages[-1].content
    assert [json.loads(line)["name"] for line in text.split("\n")[1:-1]] == [
        "rent_car",
        "find_hotel",
    ]


def test_invoke_shows_every_candidate_without_results_and_answers_in_blocks(
    sample: list[Example],
) -> None:
    system, user, answer = by_kind(sample)["invoke"].messages
    assert all(f'"name": "{tool.name}"' in system.content for tool in TOOLS)
    assert '"results"' not in system.content
    assert user.content == TEXT
    assert answer.content == (
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Bergen"}}\n</tool_call>'
    )


def test_calls_keep_letters_as_they_are() -> None:
    assert "Tromsø" in calls_text([Call(name="f", arguments={"city": "Tromsø"})])


def test_code_and_retrieve_name_the_called_tool_only(sample: list[Example]) -> None:
    kinds = by_kind(sample)
    assert tools_of(kinds["code"]) == tools_of(kinds["retrieve"]) == [TOOLS[0].id]
    assert kinds["code"].messages[0].content.startswith("Tool Name: get_weather.")
    assert kinds["retrieve"].messages[0].content == TEXT


def test_codes_are_rendered_in_the_answers_of_coded_kinds_only(sample: list[Example]) -> None:
    kinds = by_kind(sample)
    assert render(kinds["code"], Names())[-1].content == "<a_1><b_0>"
    text = f"What is {placeholder(TOOLS[0].id)}?"
    for kind in ("invoke", "retrieve"):
        odd = Example(
            kind=kind,
            messages=(
                Message(role="user", content=text),
                Message(role="assistant", content="yes"),
            ),
            origin="t",
        )
        assert render(odd, Names()) == odd.messages


def test_repeated_chats_are_kept_once(sample: list[Example]) -> None:
    again = [Example(kind=e.kind, messages=e.messages, origin="r9/q_other") for e in sample]
    assert unique_examples([*sample, *again]) == sample


def seed_set(count: int, origin: str) -> list[Example]:
    return [
        Example(
            kind="invoke",
            messages=(
                Message(role="user", content=f"{origin} {number}"),
                Message(role="assistant", content="ok"),
            ),
            origin=f"{origin}/{number}",
        )
        for number in range(count)
    ]


def test_replay_takes_shares_and_does_not_depend_on_order() -> None:
    seeds, earlier = seed_set(100, "seed"), seed_set(50, "r1")
    mix = {"share": 0.4, "limit": 1000, "history": 0.2, "seed": 5}
    chosen = select_replay(seeds, earlier, **mix)
    assert sum(e.origin.startswith("seed") for e in chosen) == 40
    assert sum(e.origin.startswith("r1") for e in chosen) == 10
    assert select_replay(seeds[::-1], earlier[::-1], **mix) == chosen
    assert select_replay(seeds, earlier, **{**mix, "seed": 6}) != chosen
    assert len(select_replay(seeds, earlier, **{**mix, "limit": 7})) == 17
    assert select_replay([], [], **mix) == []


def test_files_hold_examples_exactly(tmp_path: Path, sample: list[Example]) -> None:
    odd = Message(role="assistant", content="line\u2028separator and a lone \ud800 surrogate")
    examples = [*sample, Example(kind="gen", messages=(odd,), origin="seed/1")]
    path = tmp_path / "examples.jsonl"
    assert write_examples(path, examples) == len(examples)
    assert read_examples(path) == examples
    assert [example_from_json(example_to_json(e), "here") for e in examples] == examples


def test_a_replay_row_needs_messages_only() -> None:
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    example = example_from_json(row, "mine.jsonl:1")
    assert (example.kind, example.origin) == ("invoke", "mine.jsonl:1")


@pytest.mark.parametrize("arguments", ['{"day": "Sunday"}', {"day": "Sunday"}])
def test_listed_calls_are_learnt_as_the_text_of_calls(arguments: object) -> None:
    called = {"function": {"name": "book_boat", "arguments": arguments}}
    answer = {"role": "assistant", "content": "", "tool_calls": [called]}
    example = example_from_json({"messages": [{"role": "user", "content": "a"}, answer]}, "f:1")
    call = Call(name="book_boat", arguments={"day": "Sunday"})
    assert example.messages[-1].content == calls_text([call])


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[1]",
        '{"messages": "hello"}',
        '{"messages": [{"role": "user", "content": "a"}]}',
        '{"messages": [{"role": "assistant", "content": "a", "loss": false}]}',
        '{"messages": [{"role": "assistant", "content": "a", "loss": "no"}]}',
        '{"messages": [{"role": "bot", "content": "a"}]}',
        '{"messages": [{"role": "assistant", "content": 3}]}',
        '{"kind": "poem", "messages": [{"role": "assistant", "content": "a"}]}',
        '{"messages": [{"role": "assistant", "content": " "}]}',
        '{"messages": [{"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]}]}',
        '{"messages": [{"role": "assistant", "content": "a"}], "tools": "[{}]"}',
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "replay.jsonl"
    path.write_text("\n" + line + "\n")
    with pytest.raises(ContentError) as failure:
        read_examples(path)
    assert "replay.jsonl:2" in failure.value.where


def test_a_missing_file_is_the_users(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        read_examples(tmp_path / "none.jsonl")


def turn_of(tokenizer) -> Turn:  # type: ignore[no-untyped-def]
    return read_turn(tokenizer, frozenset({tokenizer.eos_token_id}))


def test_loss_is_on_the_answer_and_its_end_of_turn_exactly(
    prompts: Prompts, sample: list[Example], tokenizer
) -> None:  # type: ignore[no-untyped-def]
    examples = [*sample, adapt_example(prompts)]
    assert {example.kind for example in examples} == {"adapt", "gen", "code", "retrieve", "invoke"}
    for example in examples:
        messages = render(example, Names())
        (encoded,) = encode(example.kind, messages, tokenizer, turn_of(tokenizer))
        target = tokenizer.decode(encoded.target_ids)
        assert target == messages[-1].content + tokenizer.eos_token
        whole = tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in messages], tokenize=False
        )
        assert tokenizer.decode(encoded.input_ids) == whole
        assert 0 < len(encoded.target_ids) < len(encoded.labels)
        pairs = zip(encoded.input_ids, encoded.labels, strict=True)
        assert all(label in (IGNORED, token) for token, label in pairs)


def random_sample(rng: random.Random, prompts: Prompts) -> list[Example]:
    """Examples of a sample whose texts hold digits, quotes, escapes and other scripts."""

    def word() -> str:
        return "".join(rng.choices('abz Z09_-"\\/{}[]<>:,.\n\té€ø漢字🙂', k=rng.randint(1, 12)))

    tools = [make_tool(word()) for _ in range(rng.randint(1, 4))]
    calls = [Call(name=rng.choice(tools).name, arguments={"city": word()}) for _ in range(2)]
    query = Query(id="q_random", text=word(), source="test")
    examples = examples_from_sample(
        query=query, tools=tools, calls=calls, prompts=prompts, round_number=1
    )
    return [*examples, adapt_example(prompts)]


class Reserved:
    """A codebook that has a code for Finish, and no tools."""

    def code_text(self, tool_id: str) -> str:
        return {FINISH: "<a_9>"}[tool_id]


def test_a_supplied_trajectory_may_end_with_finish() -> None:
    turns = ("user", "Done."), ("assistant", "{{tool:<<Finish>>}}"), ("user", "{{tool:<<Finish>>}}")
    messages = tuple(Message(role=role, content=text) for role, text in turns)  # type: ignore[arg-type]
    example = Example(kind="retrieve", messages=messages, origin="t")
    assert [m.content for m in render(example, Reserved())] == ["Done.", "<a_9>", turns[2][1]]


def conversation(*turns: tuple[Role, str, bool]) -> Example:
    messages = tuple(Message(role=role, content=text, loss=loss) for role, text, loss in turns)
    return Example(kind="trajectory", messages=messages, origin="t")


def test_a_trajectory_learns_its_turns_but_those_without_loss(tokenizer) -> None:  # type: ignore[no-untyped-def]
    code = placeholder(TOOLS[0].id)
    example = conversation(
        ("user", "How is Oslo?", True),
        ("assistant", "I look it up.", True),
        ("user", "Generate the action.", True),
        ("assistant", code, True),
        ("tool", f"an answer with {code}", True),
        ("assistant", "A thought of no use.", False),
        ("user", "And?", True),
        ("assistant", "Cold.", True),
    )
    messages = render(example, Names())
    assert [m.content for m in messages][3:5] == ["<a_1><b_0>", f"an answer with {code}"]
    (encoded,) = encode("trajectory", messages, tokenizer, turn_of(tokenizer))
    end = tokenizer.eos_token
    assert tokenizer.decode(encoded.target_ids) == f"I look it up.{end}<a_1><b_0>{end}Cold.{end}"
    whole = tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in messages], tokenize=False
    )
    assert tokenizer.decode(encoded.input_ids) == whole
    assert tools_of(example) == [TOOLS[0].id]
    row = json.loads(json.dumps(example_to_json(example)))
    assert example_from_json(row, "here") == example
    assert [m.get("loss") for m in row["messages"]] == [None] * 5 + [False, None, None]
    loud = replace(example, messages=tuple(replace(m, loss=True) for m in example.messages))
    assert unique_examples([example, loud]) == [example, loud]


def test_a_trajectory_without_codes_needs_none(tokenizer) -> None:  # type: ignore[no-untyped-def]
    plain = conversation(("user", "Hello?", True), ("assistant", "Hello.", True))
    coded = conversation(("user", "Hello?", True), ("assistant", placeholder("t_1"), True))
    found = encode_all(
        [plain, coded],
        codes=None,
        outliers=frozenset(),
        tokenizer=tokenizer,
        turn=turn_of(tokenizer),
        max_length=4096,
    )
    assert found.num_kept == 1 and found.dropped == {"trajectory/no_codebook": 1}


class AnyName:
    """Gives every tool the same code."""

    def code_text(self, tool_id: str) -> str:
        return "<a_1><b_1>"


def test_the_mask_is_exact_on_fifty_random_samples(prompts: Prompts, tokenizer) -> None:  # type: ignore[no-untyped-def]
    rng = random.Random(0)
    seen: Counter[str] = Counter()
    for _ in range(50):
        for example in random_sample(rng, prompts):
            messages = render(example, AnyName())
            (encoded,) = encode(example.kind, messages, tokenizer, turn_of(tokenizer))
            assert tokenizer.decode(encoded.target_ids) == messages[-1].content + "<|end|>"
            seen[example.kind] += 1
    assert min(seen.values()) >= 50 and len(seen) == 5


def test_every_assistant_turn_carries_loss(tokenizer) -> None:  # type: ignore[no-untyped-def]
    messages = [
        Message(role=role, content=text)
        for role, text in (
            ("user", "Book it."),
            ("assistant", "How many?"),
            ("user", "4"),
            ("assistant", "Done."),
        )
    ]
    (encoded,) = encode("invoke", messages, tokenizer, turn_of(tokenizer))
    assert tokenizer.decode(encoded.target_ids) == "How many?<|end|>Done.<|end|>"


def test_the_prompt_is_what_a_server_sees(sample: list[Example], tokenizer) -> None:  # type: ignore[no-untyped-def]
    for example in sample:
        messages = render(example, Names())
        (encoded,) = encode(example.kind, messages, tokenizer, turn_of(tokenizer))
        served = tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in messages[:-1]],
            tokenize=True,
            add_generation_prompt=True,
            return_dict=False,
        )
        num_prompt = len(encoded.input_ids) - len(encoded.target_ids)
        assert list(encoded.input_ids[:num_prompt]) == served


def test_text_after_the_end_of_turn_is_not_learnt(tokenizer, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(
        tokenizer, "chat_template", tokenizer.chat_template.replace("'<|end|>'", "'<|end|>\n'")
    )
    messages = (Message(role="user", content="a"), Message(role="assistant", content="b"))
    (encoded,) = encode("invoke", messages, tokenizer, turn_of(tokenizer))
    assert tokenizer.decode(encoded.target_ids) == "b<|end|>"
    assert tokenizer.decode(encoded.input_ids).endswith("b<|end|>")


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages | length }}{{ messages[-1]['content'] }}<|end|>",
        "{% for m in messages %}{{ m['content'] }}{% endfor %}",
    ],
)
def test_a_template_that_cannot_be_masked_is_refused(tokenizer, monkeypatch, template) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(tokenizer, "chat_template", template)
    messages = (Message(role="user", content="a"), Message(role="assistant", content="b"))
    with pytest.raises(ModelError):
        encode("invoke", messages, tokenizer, turn_of(tokenizer))


def test_what_cannot_be_learnt_whole_is_dropped_and_counted(
    sample: list[Example], tokenizer
) -> None:  # type: ignore[no-untyped-def]
    unknown = Example(
        kind="code",
        messages=(
            Message(role="user", content="doc"),
            Message(role="assistant", content=placeholder("t_none")),
        ),
        origin="t",
    )
    forged = Example(
        kind="invoke",
        messages=(
            Message(role="user", content="q"),
            Message(role="assistant", content="early<|end|>late"),
        ),
        origin="t",
    )
    halved = Example(
        kind="gen",
        messages=(
            Message(role="user", content="half of a pair: \ud83d"),
            Message(role="assistant", content="ok"),
        ),
        origin="t",
    )
    unasked = Example(
        kind="gen", messages=(Message(role="assistant", content="an answer first"),), origin="t"
    )
    given = [*sample, unknown, forged, halved, unasked]
    turn = turn_of(tokenizer)
    lengths = {
        e.kind: len(encode(e.kind, render(e, Names()), tokenizer, turn)[0].input_ids)
        for e in sample
    }

    def run(max_length: int, codes: Names | None, outliers: frozenset[str] = frozenset()):  # type: ignore[no-untyped-def]
        result = encode_all(
            given,
            codes=codes,
            outliers=outliers,
            tokenizer=tokenizer,
            turn=turn_of(tokenizer),
            max_length=max_length,
        )
        assert len(result.examples) == result.num_kept
        assert result.num_kept + result.dropped.total() == len(given)
        return result

    whole = run(max(lengths.values()), Names())
    *learnt, text = whole.examples
    assert [e.kind for e in learnt] == [e.kind for e in sample]
    assert tokenizer.decode(text.target_ids) == "early<|end|>late<|end|>"
    assert text.target_ids.count(tokenizer.eos_token_id) == 1
    assert whole.dropped == {
        "code/no_code": 1,
        "gen/not_unicode": 1,
        "gen/no_question": 1,
    }

    short = run(lengths["invoke"] - 1, Names())
    assert short.dropped["invoke/too_long"] == 1
    assert all(len(e.input_ids) < lengths["invoke"] for e in short.examples)

    uncoded = run(10_000, None)
    assert uncoded.dropped["code/no_codebook"] == 2
    assert uncoded.dropped["retrieve/no_codebook"] == 1

    far = run(10_000, Names(), outliers=frozenset({TOOLS[0].id}))
    assert (far.dropped["code/ood_code"], far.dropped["retrieve/ood_code"]) == (1, 1)
