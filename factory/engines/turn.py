"""What a chat template writes around an answer, found by rendering one (A48).

Many templates write something between the generation prompt and an answer: Qwen3 an empty thought,
gpt-oss the channel. That lead-in is part of every prompt of ours, in training, where it carries
loss so that a server with the plain template gets it from the model, and in every request, so that
what binds an answer from its first token on binds it where training has it. Prompt, lead-in,
content and closing are tokenised apart, hence alike in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from jinja2 import TemplateError

from factory.domain.failures import ModelError
from factory.domain.plaintext import encodable
from factory.domain.records import Message
from factory.tools.dialects import to_openai

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from factory.codes.literal import TextEncoder

PROBE = "Zq7Answer"
"""An answer that no template holds."""
_ASKED = {"role": "user", "content": "Hello"}
_NO_PARAMETERS = {"type": "object", "properties": {}}
_LOOK = {"name": "look", "description": "Look.", "parameters": _NO_PARAMETERS}
_TOOL = {"type": "function", "function": _LOOK}
_CALL = {"type": "function", "function": {"name": "look", "arguments": {}}}
_CALLED = {"role": "assistant", "content": "", "tool_calls": [_CALL]}


@dataclass(frozen=True, slots=True)
class Turn:
    """What stands around an answer. Example: read_turn(tokenizer, ends).lead_in == "<think>…"."""

    lead_in: str
    """From the generation prompt to the answer, but for blanks, which are its first word's."""
    lead_ids: tuple[int, ...]
    closing: str
    """From the answer to the end-of-turn token, which is the last of it."""
    closing_ids: tuple[int, ...]
    stop: int | None
    """The token after an answer: cohere2's is not yet the end of its turn. None with a fault."""
    ends: frozenset[int]
    """Tokens that end an answer: those of the model, and `stop`."""
    fault: ModelError | None
    """Why no answer can be learnt in this template; None where it can."""


def end_ids(eos_token_id: int | None, listed: int | Sequence[int] | None) -> frozenset[int]:
    """The tokens that end a turn: the tokenizer's, and those of the generation config, in which
    -1 stands for none."""
    more = [listed] if isinstance(listed, int) else listed or []
    return frozenset(token for token in (eos_token_id, *more) if token is not None and token >= 0)


def read_turn(tokenizer: PreTrainedTokenizerBase, ends: frozenset[int]) -> Turn:
    """What the tokenizer's chat template writes around an answer.

    Requests in a template with a fault stay as they are: it has no lead-in here.
    """
    try:
        lead_in, closing = _read(tokenizer, ends)
    except ModelError as fault:
        return Turn("", (), "", (), None, ends, fault)
    lead_ids = tokenizer.encode(lead_in, add_special_tokens=False) if lead_in else []
    closing_ids = tokenizer.encode(closing, add_special_tokens=False)
    stop = closing_ids[0]
    return Turn(lead_in, tuple(lead_ids), closing, tuple(closing_ids), stop, ends | {stop}, None)


def turn_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Turn:
    """The same of a loaded transformers model, which ends turns as its generation config says."""
    listed = model.generation_config.eos_token_id
    return read_turn(tokenizer, end_ids(tokenizer.eos_token_id, listed))


def _read(tokenizer: PreTrainedTokenizerBase, ends: frozenset[int]) -> tuple[str, str]:
    """Lead-in and closing. ModelError where no answer can be learnt in the template."""
    prompt = render(tokenizer, [_ASKED], answer_next=True)
    answer = {"role": "assistant", "content": PROBE}
    before, text, after = render(tokenizer, [_ASKED, answer], answer_next=False).rpartition(PROBE)

    def refuse(what: str, remedy: str) -> ModelError:
        where, template = tokenizer.name_or_path, "edit its chat_template.jinja so that"
        return ModelError(f"The chat template {what}", where=where, remedy=f"{template} {remedy}")

    if not text:
        raise refuse("leaves out the text of an answer", "it shows an assistant's content")
    if not before.startswith(prompt):
        raise refuse(
            f"renders a prompt differently once it is answered: {prompt[-40:]!r} is not in "
            f"{before[-40:]!r}",
            "the generation prompt is what stands before an answer",
        )
    texts = [text for end in sorted(ends) if (text := tokenizer.decode([end]))]
    places = [(place, text) for text in texts if (place := after.find(text)) >= 0]
    if not places:
        raise refuse(
            f"ends an assistant turn without an end-of-turn token: {after!r} has none of {texts}",
            "it does, or list the token that ends a turn in generation_config.json as eos_token_id",
        )
    place, end = min(places)
    closing = (after[:place] if after[:place].strip() else "") + end
    ids = tokenizer.encode(closing, add_special_tokens=False)
    if ids[-1] not in ends or ids[0] not in ends | tokenizer.added_tokens_decoder.keys():
        raise refuse(
            f"writes text between an answer and its end-of-turn token: {closing!r}",
            "the end-of-turn token follows the content",
        )
    return before[len(prompt) :].rstrip(" "), closing


def cut_answer(tokenizer: PreTrainedTokenizerBase, turn: Turn, text: str) -> tuple[str, str] | None:
    """What stands before the first token that ends an answer, and that token; None without one."""
    ends = [end for token in turn.ends if (end := tokenizer.decode([token])) and end in text]
    if not ends:
        return None
    end = min(ends, key=text.find)
    return text.partition(end)[0], end


def leads_to_calls(tokenizer: PreTrainedTokenizerBase, turn: Turn) -> bool:
    """Whether the lead-in leaves open that an answer calls a tool in the template's own form.

    gpt-oss and others name another channel or recipient there: with tools of the template's, the
    model has to write the lead-in itself.
    """

    if not turn.lead_in:
        return True
    write = partial(tokenizer.apply_chat_template, tools=[_TOOL], tokenize=False)
    try:
        called = str(write([_ASKED, _CALLED], add_generation_prompt=False))
        return called.startswith(str(write([_ASKED], add_generation_prompt=True)) + turn.lead_in)
    except (TemplateError, TypeError):
        # It knows no calls, or not in this form.
        return True


def as_template(
    messages: Sequence[Message], encoder: TextEncoder
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Messages, and tools, as a chat template takes them: what others wrote is marked.

    Calls have the ids of nine letters that Mistral's templates ask for; responses are those of the
    calls before them, in their order.
    """
    chat: list[dict[str, Any]] = []
    tools: list[dict[str, Any]] = []
    waiting: list[tuple[str, str]] = []
    count = 0
    for message in messages:
        tools += map(to_openai, message.tools)
        if message.tools and not message.content:
            continue
        text = encoder.mark(encodable(message.content), codes=message.codes)
        row: dict[str, Any] = {"role": message.role, "content": text}
        if message.calls:
            names = [encoder.mark_tools(call.name) for call in message.calls]
            waiting = [(f"call{count + n:05d}", name) for n, name in enumerate(names)]
            count += len(waiting)
            row["tool_calls"] = [
                write_call(ident, name, encoder.mark_tools(call.arguments))
                for (ident, name), call in zip(waiting, message.calls, strict=True)
            ]
        elif message.role == "tool" and waiting:
            row["tool_call_id"], row["name"] = waiting.pop(0)
        chat.append(row)
    return chat, encoder.mark_tools(tools)


def write_call(ident: str, name: str, arguments: dict[str, Any] | str) -> dict[str, Any]:
    """One of a message's `tool_calls`, as chat templates take it, or with JSON as the API does."""
    return {
        "id": ident,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def fit_roles(
    tokenizer: PreTrainedTokenizerBase, chat: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The chat as the tokenizer's template takes it: where it has no place for a system message,
    as Gemma 2's and Mistral's have none, that text opens the first user's turn."""
    if not chat or chat[0]["role"] != "system" or _knows_system(tokenizer):
        return chat
    system, *others = chat
    if not others or others[0]["role"] != "user":
        return [{**system, "role": "user"}, *others]
    text = "\n\n".join(part for part in (system["content"], others[0]["content"]) if part)
    return [{**others[0], "content": text}, *others[1:]]


_SYSTEM_KNOWN: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[object, bool]] = WeakKeyDictionary()
"""By tokenizer, its template and whether that has a place for a system message."""


def _knows_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    template = tokenizer.chat_template
    known = _SYSTEM_KNOWN.get(tokenizer)
    if known is None or known[0] != template:
        chat = [{"role": "system", "content": PROBE}, _ASKED]
        try:
            shown = PROBE in str(tokenizer.apply_chat_template(chat, tokenize=False))
        except (TemplateError, TypeError, ValueError):
            shown = False
        _SYSTEM_KNOWN[tokenizer] = known = (template, shown)
    return known[1]


def written_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens that the chat template writes around texts of the roles that it knows."""
    said = {"role": "assistant", "content": PROBE}
    others = {role: {"role": role, "content": PROBE} for role in ("system", "tool")}
    found: set[int] = set()
    for chat in ([others["system"], _ASKED], [_ASKED, said], [_ASKED, said, others["tool"]]):
        with suppress(ModelError):
            text = render(tokenizer, chat, answer_next=True)
            found.update(tokenizer.encode(text, add_special_tokens=False))
    return frozenset(found)


def render(
    tokenizer: PreTrainedTokenizerBase,
    chat: list[dict[str, Any]],
    *,
    answer_next: bool,
    tools: Sequence[dict[str, Any]] = (),
) -> str:
    """The chat as text, with or without a generation prompt. ModelError where it is refused."""
    chat = fit_roles(tokenizer, chat)
    try:
        return str(
            tokenizer.apply_chat_template(
                chat,
                tools=list(tools) or None,
                tokenize=False,
                add_generation_prompt=answer_next,
            )
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise ModelError(
            f"The model's chat template refuses a chat: {error}",
            where=tokenizer.name_or_path,
            remedy="use only roles that the model knows, or another chat template",
        ) from error
