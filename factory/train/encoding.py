"""Examples to token ids with a loss mask, rendered by the model's own chat template."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Protocol

from factory.codes.literal import encoder_of
from factory.domain.plaintext import is_unicode
from factory.domain.records import IGNORED, Example, ExampleKind, Message
from factory.engines.turn import Turn
from factory.engines.turn import render as render_chat
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

    Raises ModelError for a chat template that no answer can be learnt in.
    """
    if turn.fault is not None:
        raise turn.fault
    encoder = encoder_of(tokenizer, turn.ends)
    texts = [encoder.mark(message.content, codes=message.codes) for message in messages]
    chat = [{"role": m.role, "content": text} for m, text in zip(messages, texts, strict=True)]
    rows: list[tuple[list[int], list[int], list[tuple[int, int]]]] = []
    done: str | None = None
    for index, message in enumerate(messages):
        if message.role != "assistant" or not message.loss:
            continue
        prompt = render_chat(tokenizer, chat[:index], answer_next=True)
        if done is None or not prompt.startswith(done):
            rows.append(([], [], []))
            done = ""
        prompt_ids = encoder.ids(prompt[len(done) :])
        content_ids = encoder.ids(texts[index])
        if not turn.ends.isdisjoint(content_ids):
            return []
        answer_ids = [*turn.lead_ids, *content_ids, *turn.closing_ids]
        input_ids, labels, spans = rows[-1]
        start = len(input_ids) + len(prompt_ids) + len(turn.lead_ids)
        spans.append((start, start + len(content_ids)))
        input_ids += prompt_ids + answer_ids
        labels += [IGNORED] * len(prompt_ids) + answer_ids
        done = prompt + turn.lead_in + texts[index] + turn.closing
    return [
        Encoded(kind=kind, input_ids=tuple(input_ids), labels=tuple(labels), spans=tuple(spans))
        for input_ids, labels, spans in rows
    ]


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
    if not all(is_unicode(message.content) for message in messages):
        return "not_unicode"
    if messages[0].role == "assistant":
        return "no_question"
    encoded = tokenise(example.kind, messages)
    if example.kind == "dpo":
        other = tokenise("dpo", (*messages[:-2], replace(messages[-1], loss=True)))
        pairs = zip(encoded, other, strict=False)
        return [replace(a, rejected=tuple(b.target_ids)) for a, b in pairs] or "special_token"
    is_code = _is_code(example)
    return [replace(part, is_code=is_code) for part in encoded] or "special_token"


def _is_code(example: Example) -> bool:
    return example.kind in CODED_KINDS and all(map(PLACEHOLDER.fullmatch, answers(example)))
