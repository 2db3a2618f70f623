"""What stands around the calls of an answer, as a grammar has it: ours, or a chat template's own.

A template is asked, not known: it renders answers of one, two and three calls whose names and
arguments nothing else holds, and what lies between these is its form. A tag that the tokenizer
reads as one token is that token in a grammar: a model is trained on it, and letters that spell the
tag are other tokens.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from factory.codes.literal import MARKER
from factory.engines.turn import Turn, cut_answer, leads_to_calls
from factory.engines.written import render_called

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NAME, _QUOTED = "Zq7Tool{}", 'Zq7"Tool'
_SLOT = re.compile(r'Zq7Tool\d|\{"zq7": ?\d\}')
_IDENT, _FIRST_IDENT = re.compile(r"call0000\d"), "call00000"
_ANY_IDENT = "/[a-zA-Z0-9]{9}/"
"""Of a call, where a template writes one: what Mistral's ask for."""
_JSON_BEGUN = r"\{[ \n]*\""


class Unsupported(Exception):
    """What makes no grammar: a tool's schema, or a template's form; str() says which and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallForm:
    """Calls but for their names and arguments, in the words of llguidance's grammars.

    Example: native_form(tokenizer, turn).opening == r'<[151657]> "\n{\"name\": \""'.
    """

    opening: str
    """Up to the first name."""
    middle: str
    """From a name to its arguments."""
    between: str
    """From arguments to the next name; empty where an answer calls once."""
    closing: str
    """From the last arguments to the end."""
    sign: str
    """Of a call: a regular expression that no answer in words has a match of."""
    in_json: bool = True
    """Whether a name is written as JSON escapes it, or as it is."""

    def write_name(self, name: str) -> str:
        """Raises Unsupported for a name that would not be read back."""
        escaped = json.dumps(name, ensure_ascii=False)[1:-1]
        if not self.in_json and not re.fullmatch(r"[\w.:/-]+", name):
            raise Unsupported(f"the chat template cannot write the name {name!r} in a call")
        return quote(escaped)


def quote(text: str) -> str:
    """A text as a grammar has it."""
    return json.dumps(text, ensure_ascii=False)


def own_form(tokenizer: PreTrainedTokenizerBase) -> CallForm:
    """The factory's tags, with the blanks that models write."""
    start, end = (_spell(tokenizer, tag) for tag in ("<tool_call>", "</tool_call>"))
    opening = rf'{start} "\n"? "{{\"name\":" " "? "\""'
    closing = rf'"}}" "\n"? {end}'
    return CallForm(
        opening=opening,
        middle=r'"\"," " "? "\"arguments\":" " "?',
        between=rf'{closing} "\n"? {opening}',
        closing=closing,
        sign="<tool_call>",
    )


def native_form(tokenizer: PreTrainedTokenizerBase, turn: Turn) -> CallForm:
    """The form of the tokenizer's chat template. Raises Unsupported where what it writes shows none
    in which a name and its arguments, as JSON, follow each other.
    """
    if not leads_to_calls(tokenizer, turn):
        raise Unsupported("the chat template begins answers that call otherwise than others")
    one, two, three = (_around(tokenizer, turn, count) for count in (1, 2, 3))
    if one is None:
        raise Unsupported("the chat template writes no name with its arguments as JSON after it")
    opening, middle, closing = one
    between = two[2] if two is not None else ""
    repeated = [opening, *[middle, between] * 2, middle, closing]
    if [two, three] != [[*repeated[:3], *repeated[5:]], repeated]:
        between = ""
    marks = _tags(tokenizer).findall(opening)
    return CallForm(
        opening=_spell(tokenizer, opening),
        middle=_spell(tokenizer, middle),
        between=_spell(tokenizer, between),
        closing=_spell(tokenizer, closing),
        sign=re.escape(marks[0]).replace("/", r"\/") if marks else _JSON_BEGUN,
        in_json=_QUOTED.replace('"', r"\"") in _write(tokenizer, turn, [_QUOTED]),
    )


def _around(tokenizer: PreTrainedTokenizerBase, turn: Turn, count: int) -> list[str] | None:
    """What an answer with so many calls has around their names and arguments; None where it does
    not hold them one after the other.
    """
    names = [_NAME.format(number) for number in range(count)]
    written = _write(tokenizer, turn, names)
    slots = [slot.replace(": ", ":") for slot in _SLOT.findall(written)]
    if slots != [x for n, name in enumerate(names) for x in (name, f'{{"zq7":{n}}}')]:
        return None
    return [_IDENT.sub(_FIRST_IDENT, part) for part in _SLOT.split(written)]


def _write(tokenizer: PreTrainedTokenizerBase, turn: Turn, names: list[str]) -> str:
    """An answer that calls these, between prompt and end; empty where there is none."""
    calls = [(name, {"zq7": number}) for number, name in enumerate(names)]
    asked, text = render_called(tokenizer, calls) or ("", "")
    prompt = asked + turn.lead_in
    found = cut_answer(tokenizer, turn, text.removeprefix(prompt)) if prompt else None
    return found[0] if found is not None and text.startswith(prompt) else ""


def _spell(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """A text in a grammar: tags as tokens, ids of calls as any of them, the rest as letters."""
    tags = _tags(tokenizer)
    parts = []
    for part in re.split(f"({tags.pattern}|{_FIRST_IDENT})", text):
        if part == _FIRST_IDENT:
            parts.append(_ANY_IDENT)
        elif tags.fullmatch(part):
            parts.append(f"<[{tokenizer.convert_tokens_to_ids(part)}]>")
        elif part:
            parts.append(quote(part))
    return " ".join(parts)


def _tags(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """The added tokens that mark something; the embedded model has others, which are words."""
    added = tokenizer.added_tokens_decoder.values()
    marks = {token.content for token in added if token.special or MARKER.fullmatch(token.content)}
    return re.compile(
        "|".join(map(re.escape, sorted(marks - {""}, key=len, reverse=True))) or "(?!)"
    )
