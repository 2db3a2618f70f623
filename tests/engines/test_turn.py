"""What chat templates write around an answer: TRL's own, and small ones of each kind."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from conftest_models import make_tokenizer

from factory.codes.trie import Trie
from factory.domain.failures import ModelError
from factory.domain.records import Example, Message, Request, Sampling
from factory.engines.chat import Chat
from factory.engines.turn import Turn, end_ids, read_turn
from factory.train.encoding import Encoded, encode, encode_all
from factory.train.examples import placeholder
from factory.train.trainer import _code_positions, _code_weight
from factory.workspace.chat_template import read_templates, shows_tools

TRL = Path(str(find_spec("trl").origin)).parent / "chat_templates"  # type: ignore[union-attr]
TEMPLATES = sorted(TRL.glob("*.jinja"))
MARK = re.compile(r"<[|｜/]?[\w▁|]+[|｜]?>")
"""What templates write as tokens of their own: `<|im_end|>`, `</think>`, `<turn|>`."""
ENDS = (
    "<EOS> <|END_OF_TURN_TOKEN|> <|im_end|> <end_of_turn> <turn|> <|eot_id|> <|eot|> <|return|> "
    "<｜end▁of▁sentence｜> <end_of_utterance>"
).split()
UNLEARNABLE = {
    "deepseek": "differently",
    "nemotron": "differently",
    "glm4moe.jinja": "without an end-of-turn",
    "idefics3": "leaves out",
    "smolvlm": "leaves out",
    "llava": "refuses a chat",
}
"""TRL's templates that take no text, or that render an answer elsewhere than after the prompt."""
LEAD_INS = {
    "qwen3.jinja": "<think>\n\n</think>\n\n",
    "qwen3_5_think.jinja": "\n</think>\n\n",
    "glm4moe_training.jinja": "\n<think></think>\n",
    "gptoss.jinja": "<|channel|>final<|message|>",
    "muse_glimmer.jinja": " to=user<|message|>",
    "qwen2_5.jinja": "",
    "llama3.jinja": "",
}
TOKENS = ("<a_0>", "<a_1>", "<b_0>", "<b_1>")
CODES = {"t_1": "<a_1><b_0>", "t_2": "3 1 4", "t_3": "get_weather"}
"""Of every layout: tokens of their own, digits, a name."""


class Names:
    """A codebook of three tools."""

    def code_text(self, tool_id: str) -> str:
        return CODES[tool_id]


def make_folder(folder: Path, template: str, ends: list[str], marks: list[str]) -> Path:
    """A model folder without the model: tokenizer, template and generation config."""
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens(
        {"bos_token": "<BOS>", "eos_token": "<EOS>", "additional_special_tokens": marks}
    )
    tokenizer.add_tokens(list(TOKENS))
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    listed = {"eos_token_id": tokenizer.convert_tokens_to_ids(ends)}
    (folder / "generation_config.json").write_text(json.dumps(listed))
    return folder


def open_folder(folder: Path) -> tuple[Chat, Any, Turn]:
    """What serves the folder, its tokenizer and its turn as training reads it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    listed = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    return Chat(folder), tokenizer, read_turn(tokenizer, end_ids(tokenizer.eos_token_id, listed))


def make_own(folder: Path, template: str) -> tuple[Chat, Any, Turn]:
    """A template of these tests."""
    return open_folder(
        make_folder(folder, template, ["<end>"], ["<user>", "<bot>", "<end>", "<tail>", "<t>"])
    )


def messages(*texts: str, system: str = "") -> tuple[Message, ...]:
    """A chat in which user and assistant take turns."""
    head = [Message(role="system", content=system)] if system else []
    roles = ("user", "assistant")
    return (
        *head,
        *(Message(role=roles[n % 2], content=text) for n, text in enumerate(texts)),  # type: ignore[arg-type]
    )


def ask(chat: tuple[Message, ...], **more: Any) -> Request:
    return Request(id="r", messages=chat, sampling=Sampling(), **more)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_training_and_requests_have_the_same_ids_in_every_template(
    path: Path, tmp_path: Path
) -> None:
    template = path.read_text()
    marks = sorted({mark for mark in MARK.findall(template) if mark not in ("<pad>", "<bos>")})
    own = {"<|user|>"} if path.stem.startswith("glm4moe") else set()
    ends = [mark for mark in ENDS if mark in [*marks, "<EOS>"]] + sorted(own)
    chat, tokenizer, turn = open_folder(make_folder(tmp_path / "m", template, ends, marks))
    expected = next((text for key, text in UNLEARNABLE.items() if path.name.startswith(key)), None)
    if expected:
        assert turn.fault is not None and expected in str(turn.fault)
        assert turn.lead_ids == ()
        with pytest.raises(ModelError):
            encode("invoke", messages("a", "b"), tokenizer, turn)
        return
    assert turn.fault is None and turn.stop is not None and turn.stop in chat.end_ids
    assert turn.closing_ids[-1] in tokenizer.convert_tokens_to_ids(ends)
    assert turn.lead_in == LEAD_INS.get(path.name, turn.lead_in)
    takes_system = path.stem not in ("gemma", "gemma_training")
    shapes = [messages("Where?"), messages("Where?", "Which day?", "Friday")]
    shapes += [messages("Where?", system="Be brief.")] if takes_system else []
    spelt = {tool: tokenizer.encode(text) for tool, text in CODES.items()}
    trie = Trie.build(list(spelt.values()), list(spelt), turn.stop)
    for shape in shapes:
        prompt_ids = chat.encode(ask(shape))
        for tool in CODES:
            answer = Message(role="assistant", content=placeholder(tool))
            example = Example(kind="retrieve", messages=(*shape, answer), origin="t")
            made = encode_all(
                [example],
                codes=Names(),
                outliers=frozenset(),
                tokenizer=tokenizer,
                turn=turn,
                max_length=10_000,
            )
            assert (made.num_kept, made.dropped) == (1, {})
            *_, last = made.examples
            num_answer = len(spelt[tool]) + len(turn.closing_ids)
            if len(made.examples) > 1 or len(shape) < 3:
                assert list(last.input_ids[:-num_answer]) == prompt_ids
            assert list(last.input_ids[-num_answer:]) == spelt[tool] + list(turn.closing_ids)
            *earlier, code = [c for part in made.examples for c in part.contents]
            assert trie.lookup(code) == tool and turn.stop not in code
            assert [tokenizer.decode(list(c)) for c in earlier] == [
                m.content for m in shape if m.role == "assistant"
            ]


def test_the_lead_in_of_qwen3_is_what_it_writes_where_thinking_is_off(tmp_path: Path) -> None:
    for path in TEMPLATES:
        if not path.stem.startswith("qwen3"):
            continue
        folder = make_folder(tmp_path / path.stem, path.read_text(), ["<|im_end|>"], ["<|im_end|>"])
        _, tokenizer, turn = open_folder(folder)
        user = [{"role": "user", "content": "Hi"}]
        options = {"tokenize": False, "add_generation_prompt": True}
        prompt = tokenizer.apply_chat_template(user, **options)
        unthinking = tokenizer.apply_chat_template(user, **options, enable_thinking=False)
        start = "<|im_start|>assistant"
        assert unthinking.rpartition(start)[2] == (prompt + turn.lead_in).rpartition(start)[2]


TURNS = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<user>{{ m['content'] }}<end>"
    "{% else %}<bot>ANSWER{% endif %}{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
)


def answering(answer: str) -> str:
    """A template that renders assistant turns like this."""
    return TURNS.replace("ANSWER", answer)


def test_a_template_without_a_lead_in_leaves_every_prompt_as_it_is(tmp_path: Path) -> None:
    chat, tokenizer, turn = make_own(tmp_path, answering("{{ m['content'] }}<end>"))
    assert (turn.lead_in, turn.lead_ids, turn.closing) == ("", (), "<end>")
    assert turn.ends == chat.end_ids == set(tokenizer.convert_tokens_to_ids(["<end>", "<EOS>"]))
    assert chat.encode(ask(messages("a"))) == tokenizer.encode("<user>a<end><bot>")


def test_a_blank_before_an_answer_is_left_to_its_first_word(tmp_path: Path) -> None:
    chat, tokenizer, turn = make_own(tmp_path, answering(" {{ m['content'] }}<end>"))
    assert (turn.lead_in, turn.fault) == ("", None)
    (encoded,) = encode("invoke", messages("a", "3 1"), tokenizer, turn)
    assert tokenizer.decode(encoded.input_ids) == "<user>a<end><bot>3 1<end>"
    assert chat.encode(ask(messages("a"))) == list(encoded.input_ids[: -len(encoded.target_ids)])


def test_an_answer_ends_with_the_first_token_after_it(tmp_path: Path) -> None:
    """Also where the template has another one before the end of the turn, as cohere2 does."""
    chat, tokenizer, turn = make_own(tmp_path, answering("{{ m['content'] }}<tail><end>"))
    assert turn.stop == tokenizer.convert_tokens_to_ids("<tail>") and turn.stop in chat.end_ids
    (encoded,) = encode("invoke", messages("a", "b"), tokenizer, turn)
    assert tokenizer.decode(encoded.target_ids) == "b<tail><end>"
    (forged,) = encode("invoke", messages("a", "b<tail>c"), tokenizer, turn)
    assert tokenizer.decode(forged.target_ids) == "b<tail>c<tail><end>"
    assert forged.target_ids.count(turn.stop) == 1


def test_an_answer_with_a_word_that_ends_turns_is_not_learnt(tmp_path: Path) -> None:
    """A plain word of the vocabulary: no other tokens spell it."""
    _, tokenizer, turn = make_own(tmp_path, answering("{{ m['content'] }}<end>"))
    (word,) = tokenizer.encode("3")
    turn = replace(turn, ends=turn.ends | {word})
    assert encode("invoke", messages("a", "b 4"), tokenizer, turn)
    assert encode("invoke", messages("a", "b 3"), tokenizer, turn) == []


def test_white_space_before_the_end_of_a_turn_is_not_learnt(tmp_path: Path) -> None:
    _, tokenizer, turn = make_own(tmp_path, answering("{{ m['content'] }}\n<end>\n"))
    assert (turn.closing, turn.fault) == ("<end>", None)
    (encoded,) = encode("invoke", messages("a", "b"), tokenizer, turn)
    assert tokenizer.decode(encoded.target_ids) == "b<end>"


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ("{{ m['content'] }} Over.<end>", "' Over.<end>'"),
        ("{{ m['content'] }}", "without an end-of-turn token"),
        ("<end>", "leaves out the text"),
        ("{{ raise_exception('no') }}", "refuses a chat: no"),
    ],
)
def test_a_template_that_no_answer_can_be_learnt_in_is_refused_for_training_only(
    tmp_path: Path, answer: str, fault: str
) -> None:
    chat, tokenizer, turn = make_own(tmp_path, answering(answer))
    assert turn.stop is None and turn.lead_in == ""
    with pytest.raises(ModelError) as failure:
        encode("invoke", messages("a", "b"), tokenizer, turn)
    assert fault in str(failure.value) and failure.value.remedy
    assert chat.encode(ask(messages("a"))) == tokenizer.encode("<user>a<end><bot>")


LAST_THINKS = "{% if loop.last %}<t>\n\n{% endif %}{{ m['content'] }}<end>"
"""As Qwen3: only the last turn keeps its empty thought."""


def test_turns_that_are_rendered_otherwise_later_are_learnt_one_by_one(tmp_path: Path) -> None:
    chat, tokenizer, turn = make_own(tmp_path, answering(LAST_THINKS))
    turns = messages("Where?", "Oslo", "When?", "Friday", "Sure?", "Yes")
    rows = encode("invoke", turns, tokenizer, turn)
    assert [tokenizer.decode(row.target_ids) for row in rows] == [
        f"<t>\n\n{text}<end>" for text in ("Oslo", "Friday", "Yes")
    ]
    for number, row in enumerate(rows):
        prompt_ids = chat.encode(ask(turns[: 2 * number + 1]))
        content_ids = tokenizer.encode(turns[2 * number + 1].content)
        assert list(row.input_ids) == [*prompt_ids, *content_ids, *turn.closing_ids]


SHARES = (
    "{% for m in messages %}{% if m.role == 'user' %}<user>{{ m.content }}<bot>"
    "{% else %}<t>{{ m.content }}<end>{% endif %}{% endfor %}"
)
"""Writes a token before answers that answers have too, and nothing between two of them."""


def test_a_code_weighs_more_even_where_the_template_writes_its_tokens(tmp_path: Path) -> None:
    _, tokenizer, turn = make_own(tmp_path, SHARES.replace("<t>", "<a_0>"))
    chat = messages("Where?", "a<a_0>b")
    chat = (*chat, Message(role="assistant", content="<a_0>"))
    chat = tuple(replace(message, codes=True) for message in chat)
    (row,) = encode("code", chat, tokenizer, turn)
    assert tokenizer.decode(row.target_ids) == "<a_0>a<a_0>b<end><a_0><a_0><end>"
    assert [tokenizer.decode(list(content)) for content in row.contents] == ["a<a_0>b", "<a_0>"]
    spelt = replace(row, is_code=True)
    ((*positions,), none) = _code_positions([spelt, row], set())
    assert [row.labels[1:][i] for i in positions] == [t for c in row.contents for t in c]
    assert none == []
    end = tokenizer.convert_tokens_to_ids("<end>")
    assert [row.labels[1:][i] for i in _code_positions([row], {end})[0]] == [end, end]


def test_codes_get_their_share_as_long_as_none_weighs_more_than_another_example() -> None:
    def example(num_labels: int) -> Encoded:
        ids = tuple(range(num_labels))
        return Encoded(kind="code", input_ids=ids, labels=ids, spans=())

    one_of_four = [example(2), *[example(30)] * 3], [[0, 1], [], [], []]
    assert _code_weight(*one_of_four, code_share=0.25) == pytest.approx(15)
    assert _code_weight(*one_of_four, code_share=0.5) == pytest.approx(15)
    assert _code_weight(*one_of_four, code_share=0.1) == pytest.approx(5)
    assert _code_weight(*one_of_four, code_share=0.0) == 1
    assert _code_weight([example(5)], [[0]], code_share=0.01) == 1


def test_an_example_of_several_rows_counts_once_and_is_kept_or_dropped_whole(
    tmp_path: Path,
) -> None:
    _, tokenizer, turn = make_own(tmp_path, answering(LAST_THINKS))
    texts = ("Where?", placeholder("t_1"), "And " * 30, placeholder("t_2"))
    example = Example(kind="retrieve", messages=messages(*texts), origin="t")

    def run(max_length: int) -> Any:
        return encode_all(
            [example],
            codes=Names(),
            outliers=frozenset(),
            tokenizer=tokenizer,
            turn=turn,
            max_length=max_length,
        )

    made = run(1000)
    assert (len(made.examples), made.num_kept) == (2, 1)
    assert all(row.is_code for row in made.examples)
    long = max(len(row.input_ids) for row in made.examples)
    short = run(long - 1)
    assert (short.examples, short.num_kept, short.dropped) == ([], 0, {"retrieve/too_long": 1})


def test_a_request_with_the_templates_own_tools_may_be_answered_by_a_call(tmp_path: Path) -> None:
    """The lead-in stays where calls follow it too, and goes where they name another channel."""
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    for name, call, num in (
        ("after", "<t>{% if m.tool_calls %}CALL{% endif %}{{ m['content'] }}<end>", 1),
        ("beside", "{% if m.tool_calls %}CALL{% else %}<t>{% endif %}{{ m['content'] }}<end>", 0),
    ):
        template = "{% for t in tools or [] %}<tail>{% endfor %}" + answering(call)
        chat, tokenizer, turn = make_own(tmp_path / name, template)
        assert turn.lead_in == "<t>"
        prompt_ids = tokenizer.encode("<user>a<end><bot>")
        assert chat.encode(ask(messages("a"))) == [*prompt_ids, *turn.lead_ids]
        assert chat.encode(ask(messages("a"), tools=(tool,))) == [
            *tokenizer.encode("<tail>"),
            *prompt_ids,
            *turn.lead_ids[:num],
        ]
        assert chat.encode(Request(id="raw", prompt="ab", sampling=Sampling())) == (
            tokenizer.encode("ab")
        )


IF_SYSTEM = (
    "{% if tools and messages[0].role == 'system' %}{{ tools | tojson(indent=2) }}{% endif %}"
)
"""Shows tools in some chats only."""


def test_a_template_that_leaves_out_the_tools_of_a_request_is_refused(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    turns = answering("{% generation %}{{ m['content'] }}{% endgeneration %}<end>")
    system = ask(messages("a", system="b"), tools=(tool,))
    for name, head, num_shown in (
        ("silent", "", 0),
        ("named", "{# no tools #}{% set known = tools %}", 0),
        ("some", IF_SYSTEM, 1),
        ("all", "{{ tools }}", 2),
    ):
        chat, tokenizer, _ = make_own(folder := tmp_path / name, head + turns)
        for number, request in enumerate((system, ask(messages("a"), tools=(tool,)))):
            if number < num_shown:
                assert "look" in tokenizer.decode(chat.encode(request)), name
                continue
            with pytest.raises(ModelError, match="leaves out the tools") as failure:
                chat.encode(request)
            assert str(folder) in str(failure.value) and "--prompt own" in str(failure.value)
            assert chat.encode(replace(request, tools=()))
        assert shows_tools(read_templates(folder)) == (num_shown == 2), "as the gate asks"


def test_templates_show_tools_as_the_tokenizer_renders_them(tmp_path: Path) -> None:
    from jinja2 import TemplateError

    tool = {
        "type": "function",
        "function": {
            "name": "look",
            "description": "Look.",
            "parameters": {"type": "object", "properties": {}},
        },
    }
    asked = [{"role": "user", "content": "Hello"}]
    shown = set()
    tokenizer = make_tokenizer()
    for path in (path for path in TEMPLATES if not path.stem.endswith("_training")):
        tokenizer.chat_template = path.read_text("utf-8")
        try:
            given, without = (
                tokenizer.apply_chat_template(
                    asked, tools=tools, tokenize=False, add_generation_prompt=True
                )
                for tools in ([tool], None)
            )
        except (TemplateError, TypeError):
            continue
        assert shows_tools(tokenizer.chat_template) == (given != without), path.stem
        shown |= {path.stem} if given != without else set()
    assert {"qwen3", "llama3_2"} & shown and "gemma" not in shown
    both = {"default": "{{ messages }}", "tool_use": "{{ tools }}"}
    for number, template in enumerate((both, both | {"tool_use": "{{ messages }}"})):
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder := tmp_path / str(number))
        assert shows_tools(read_templates(folder)) == shows_tools(template) == (not number)
    inline = tmp_path / "inline"
    inline.mkdir()
    for written in ("{{ tools }}", [{"name": n, "template": t} for n, t in both.items()]):
        (inline / "tokenizer_config.json").write_text(json.dumps({"chat_template": written}))
        assert shows_tools(read_templates(inline))
