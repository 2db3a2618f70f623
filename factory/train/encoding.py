"""Examples to token ids with a loss mask, rendered by the model's own chat template."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from factory.codes.literal import encoder_of
from factory.domain.canon import to_json
from factory.domain.failures import ModelError
from factory.domain.plaintext import is_unicode
from factory.domain.records import IGNORED, Call, Example, ExampleKind, Message
from factory.engines.turn import Turn, as_template, cut_answer, leads_to_calls
from factory.engines.turn import render as render_chat
from factory.judge.parsed import text_arguments
from factory.judge.reading import parse_calls
from factory.train.examples import CODED_KINDS, PLACEHOLDER, answers, names_by_code, tools_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DropReason = Literal[
    "no_stage",
    "too_long",
    "no_codebook",
    "no_code",
    "ood_code",
    "special_token",
    "not_unicode",
    "not_native",
    "no_question",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """One example, or some turns of it, in token ids."""

    kind: ExampleKind
    input_ids: tuple[int, ...]
    """The chat, (L,)."""
    labels: tuple[int, ...]
    """The same ids where there is loss, IGNORED elsewhere, (L,)."""
    spans: tuple[tuple[int, int], ...]
    """Where each answer is, (start, stop), without what the template writes around it."""
    is_code: bool = False
    """Whether its answers are codes and nothing else."""
    rejected: tuple[int, ...] = ()
    """Of kind dpo: the answer that loses, as the chat's own is at its end."""
    example: int = 0
    """Of which example of the input, counted from 0."""

    @property
    def target_ids(self) -> list[int]:
        """The ids that carry loss."""
        return [label for label in self.labels if label != IGNORED]

    @property
    def length(self) -> int:
        """Tokens of the chat, with the longer answer where there are two."""
        return len(self.input_ids) + max(0, len(self.rejected) - len(self.target_ids))

    @property
    def contents(self) -> list[tuple[int, ...]]:
        """The ids of each answer."""
        return [self.input_ids[start:stop] for start, stop in self.spans]


@dataclass(slots=True, kw_only=True)
class EncodedSet:
    """What a training run sees, and what it does not and why."""

    examples: list[Encoded] = field(default_factory=list)
    """In order of the input; one may be several, each with other turns."""
    num_kept: int = 0
    """Examples that these are."""
    dropped: Counter[str] = field(default_factory=Counter)
    """`<kind>/<reason>` to a number of examples; kept + dropped = given."""
    unlearnt: list[str] = field(default_factory=list)
    """Ids of the tools whose code examples were all dropped."""

    def explain_empty(self) -> tuple[str, str]:
        """What to say where nothing is left to train on, and what to do about it."""
        reasons = {key.rpartition("/")[2] for key in self.dropped}
        what = f"no example can be trained on: {dict(self.dropped)}"
        if "not_native" in reasons:
            what += "; the chat template refuses or changes the calls of those that are not_native"
        remedies = [text for reason, text in _REMEDIES.items() if reason in reasons]
        return what, ", or ".join([*remedies, "accept more samples"])


_REMEDIES: dict[DropReason, str] = {
    "not_native": "--set calls.form=own, in which every template can be taught",
    "too_long": "raise train.max_length",
    "no_stage": "name their kinds in a [[stage]]",
}


class NotNativeError(Exception):
    """A chat template that leaves calls out, refuses them, or writes others than it is given."""


class CodeNames(Protocol):
    """What is needed of factory.codes.codebook.Codebook."""

    def code_text(self, tool_id: str) -> str:
        """The code tokens of a tool as text; KeyError for a tool without a code."""
        ...


def render(example: Example, codes: CodeNames | None) -> tuple[Message, ...]:
    """The chat with codes in place of placeholders.

    Only assistant texts of code, retrieve and trajectory examples hold placeholders; the same
    characters in a query are just text. Raises LookupError where a tool has no code.
    """
    if not names_by_code(example):
        return example.messages
    if codes is None:
        raise LookupError("no codebook")
    names = codes
    return tuple(
        replace(
            m,
            content=PLACEHOLDER.sub(lambda hit: names.code_text(hit[1]), m.content),
            codes=PLACEHOLDER.search(m.content) is not None,
        )
        if m.role == "assistant"
        else m
        for m in example.messages
    )


def encode(
    kind: ExampleKind, messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, turn: Turn
) -> list[Encoded]:
    """Token ids and labels; loss on assistant texts and what the template has around them.

    Prompt, lead-in, answer and closing are tokenised apart, since that is how a server sees them,
    and control tokens in messages are letters, as in requests (factory.codes.literal). Where the
    template renders earlier turns otherwise once there are more, each turn after which it does is a
    chat of its own (ToolGen's turn split). None at all where a text holds a word of the vocabulary
    that ends turns and would be cut there.

    In the native form an answer is what the template writes of it, if its calls can be read back.

    Raises ModelError for a chat template that no answer can be learnt in, NotNativeError for calls
    that it does not write as they are, in the prompt too.
    """
    if turn.fault is not None:
        raise turn.fault
    encoder = encoder_of(tokenizer, turn.ends)
    chat, tools = as_template(messages, encoder)
    ahead = len(messages) - len(chat)
    native = bool(tools) or any(message.calls for message in messages)
    write = partial(_render_native if native else render_chat, tokenizer, tools=tools)
    known = _text_arguments(messages)
    rows: list[tuple[list[int], list[int], list[tuple[int, int]]]] = []
    done: str | None = None
    for index, message in enumerate(messages):
        if message.role != "assistant" or not message.loss:
            continue
        place = index - ahead
        prompt = write(chat[:place], answer_next=True)
        answer = _Answer(
            turn.lead_in, turn.lead_ids, chat[place]["content"], turn.closing, turn.closing_ids
        )
        if native:
            text = write(chat[: place + 1], answer_next=False)
            leads = _leads(tokenizer, turn, str(tokenizer.chat_template))
            answer = _take_answer(tokenizer, turn, prompt, text, leads=leads)
            called = chat[place].get("tool_calls", ())
            if called and not _is_read_back(answer.content, called, known):
                raise NotNativeError(answer.content)
        if done is None or not prompt.startswith(done):
            rows.append(([], [], []))
            done = ""
        prompt_ids = encoder.ids(prompt[len(done) :])
        content_ids = encoder.ids(answer.content)
        if not turn.ends.isdisjoint(content_ids):
            return []
        answer_ids = [*answer.lead_ids, *content_ids, *answer.closing_ids]
        input_ids, labels, spans = rows[-1]
        start = len(input_ids) + len(prompt_ids) + len(answer.lead_ids)
        spans.append((start, start + len(content_ids)))
        input_ids += prompt_ids + answer_ids
        labels += [IGNORED] * len(prompt_ids) + answer_ids
        done = prompt + answer.lead_in + answer.content + answer.closing
    return [
        Encoded(kind=kind, input_ids=tuple(input_ids), labels=tuple(labels), spans=tuple(spans))
        for input_ids, labels, spans in rows
    ]


class _Answer(NamedTuple):
    """What follows a prompt, as factory.engines.turn tells its parts."""

    lead_in: str
    lead_ids: tuple[int, ...]
    content: str
    """What others wrote in it is marked."""
    closing: str
    closing_ids: tuple[int, ...]


def _render_native(
    tokenizer: PreTrainedTokenizerBase,
    chat: list[dict[str, Any]],
    *,
    tools: Sequence[dict[str, Any]],
    answer_next: bool,
) -> str:
    """A chat with calls in the template's own form. Raises NotNativeError where it is refused."""
    try:
        return render_chat(tokenizer, chat, answer_next=answer_next, tools=tools)
    except ModelError as error:
        raise NotNativeError(error.what) from error


def _take_answer(
    tokenizer: PreTrainedTokenizerBase, turn: Turn, prompt: str, text: str, *, leads: bool
) -> _Answer:
    """The answer at the end of a rendered chat. Raises NotNativeError where none follows `prompt`
    up to a token that ends it; `leads` says that requests have the lead-in in the prompt.
    """
    lead_in = turn.lead_in if leads else ""
    rest = text.removeprefix(prompt + lead_in)
    found = cut_answer(tokenizer, turn, rest)
    if len(rest) == len(text) or found is None:
        raise NotNativeError(text[-200:])
    content, end = found
    closing, closing_ids = turn.closing, turn.closing_ids
    if not rest.startswith(closing, len(content)):
        closing, closing_ids = end, tuple(tokenizer.encode(end, add_special_tokens=False))
    return _Answer(lead_in, turn.lead_ids if lead_in else (), content, closing, closing_ids)


@lru_cache(maxsize=4)
def _leads(tokenizer: PreTrainedTokenizerBase, turn: Turn, template: str) -> bool:
    return leads_to_calls(tokenizer, turn)


def _is_read_back(
    text: str, called: Sequence[dict[str, Any]], known: dict[str, frozenset[str]]
) -> bool:
    """Whether a text holds these calls and no others."""
    wanted = tuple(Call(**each["function"]) for each in called)
    return parse_calls(text, known, syntax="auto").calls == wanted


def _text_arguments(messages: Sequence[Message]) -> dict[str, frozenset[str]]:
    known: dict[str, frozenset[str]] = {}
    for tool in (tool for message in messages for tool in message.tools):
        known |= text_arguments(tool["name"], tool["arguments"].get("properties"))
    return known


def encode_all(
    examples: Iterable[Example],
    *,
    codes: CodeNames | None,
    outliers: frozenset[str],
    tokenizer: PreTrainedTokenizerBase,
    turn: Turn,
    max_length: int,
    limits: Mapping[ExampleKind, int] | None = None,
) -> EncodedSet:
    """Render and tokenise; what cannot be learnt whole is dropped, not trimmed, and counted (A49).

    `limits` are the kinds that are taught, each with its longest example in place of `max_length`.
    `outliers` are tools whose documents lie far from the codebook: they wait for the next one
    instead of being learnt (A38).
    """
    result = EncodedSet()
    learnt, left = set[str](), set[str]()
    for number, example in enumerate(examples):
        longest = max_length if limits is None else limits.get(example.kind, 0)
        encoded: list[Encoded] | DropReason = "no_stage"
        if longest:
            encoded = _encode_one(
                example, codes, outliers, lambda k, m: encode(k, m, tokenizer, turn)
            )
        if isinstance(encoded, list) and any(e.length > longest for e in encoded):
            encoded = "too_long"
        if example.kind == "code":
            (learnt if isinstance(encoded, list) else left).update(tools_of(example))
        if isinstance(encoded, list):
            result.examples += [replace(part, example=number) for part in encoded]
            result.num_kept += 1
        else:
            result.dropped[f"{example.kind}/{encoded}"] += 1
    result.unlearnt = sorted(left - learnt)
    return result


def _encode_one(
    example: Example,
    codes: CodeNames | None,
    outliers: frozenset[str],
    tokenise: Callable[[ExampleKind, Sequence[Message]], list[Encoded]],
) -> list[Encoded] | DropReason:
    if names_by_code(example):
        if codes is None:
            return "no_codebook"
        if not outliers.isdisjoint(tools_of(example)):
            return "ood_code"
    try:
        messages = render(example, codes)
    except LookupError:
        return "no_code"
    if not all(is_unicode(text) for message in messages for text in _texts(message)):
        return "not_unicode"
    if messages[0].role == "assistant":
        return "no_question"
    try:
        encoded = tokenise(example.kind, messages)
        if example.kind != "dpo":
            other = encoded
        else:
            other = tokenise("dpo", (*messages[:-2], replace(messages[-1], loss=True)))
    except NotNativeError:
        return "not_native"
    if example.kind == "dpo":
        pairs = zip(encoded, other, strict=False)
        return [replace(a, rejected=tuple(b.target_ids)) for a, b in pairs] or "special_token"
    is_code = _is_code(example)
    return [replace(part, is_code=is_code) for part in encoded] or "special_token"


def _texts(message: Message) -> Iterable[str]:
    """All that a message holds."""
    native = message.calls or message.tools
    return (to_json(message.to_json()),) if native else (message.content,)


def _is_code(example: Example) -> bool:
    return example.kind in CODED_KINDS and all(map(PLACEHOLDER.fullmatch, answers(example)))
