"""What stands around the calls of an answer, as a grammar has it: ours, or a chat template's own.

A template is asked, not known: it renders answers of one, two and three calls whose names and
arguments nothing else holds, and what lies between these is its form. Arguments are JSON there, or
stand one by one between tags, as Qwen 3.5 and GLM write them: texts as they are, the rest as JSON.
A tag that the tokenizer reads as one token is that token in a grammar: a model is trained on it,
and letters that spell the tag are other tokens.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from factory.codes.literal import MARKER
from factory.engines.turn import Turn, cut_answer, leads_to_calls
from factory.engines.written import render_called

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NAME, _QUOTED = "Zq7Tool{}", 'Zq7"Tool'
_TEXT = {"zq7key": "Zq7Text"}
_BOTH: dict[str, Any] = {**_TEXT, "zq7more": 40177}
_JSON_SLOT = re.compile(r'Zq7Tool\d|\{"zq7key": ?"Zq7Text"\}')
_TAGGED_SLOT = re.compile(
    "Zq7Tool[0-9]|" + "|".join(str(x) for pair in _BOTH.items() for x in pair)
)
_IDENT, _FIRST_IDENT = re.compile(r"call0000\d"), "call00000"
_ANY_IDENT = "/[a-zA-Z0-9]{9}/"
"""Of a call, where a template writes one: what Mistral's ask for."""
_JSON_BEGUN = r"\{[ \n]*\""


class Unsupported(Exception):
    """What makes no grammar: a tool's schema, or a template's form; str() says which and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tagged:
    """What stands around arguments that are written one by one."""

    start: str
    """Up to an argument's name."""
    middle: str
    """From there to its value."""
    until: str
    """Letters that no text among the values holds: all that follows a value."""
    head: str
    """Those of them that stand before the first token that is a tag."""
    end: str
    """The others, as a grammar has them."""


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
    tagged: Tagged | None = None
    """Where arguments are not written as JSON; what stands before the first and after the last of
    them belongs to `middle` and to `between` and `closing`."""

    def write_name(self, name: str) -> str:
        """Of a tool, or of a tagged argument. Unsupported where it would not be read back."""
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
    in which arguments follow a name, as JSON or one by one.
    """
    if turn.fault is not None:
        raise Unsupported(turn.fault.what)
    if not leads_to_calls(tokenizer, turn):
        raise Unsupported("the chat template begins answers that call otherwise than others")
    found = _json_parts(tokenizer, turn) or _tagged_parts(tokenizer, turn)
    if found is None:
        raise Unsupported("no form of calls can be told from what the chat template writes")
    (opening, middle, between, closing), tagged = found
    marks = [*_tags(tokenizer).findall(opening), *([opening.strip()] if tagged else [])]
    return CallForm(
        opening=_spell(tokenizer, opening),
        middle=_spell(tokenizer, middle),
        between=_spell(tokenizer, between),
        closing=_spell(tokenizer, closing),
        sign=pattern_of(marks[0]) if marks else _JSON_BEGUN,
        in_json=_QUOTED.replace('"', r"\"") in _write(tokenizer, turn, [_QUOTED], _TEXT),
        tagged=tagged,
    )


def pattern_of(text: str) -> str:
    """An expression of a grammar that matches these letters alone."""
    return re.escape(text).replace("\\\n", r"\n").replace("/", r"\/")


_Parts = tuple[str, str, str, str]
"""Opening, middle, between and closing, as the template writes them."""


def _json_parts(
    tokenizer: PreTrainedTokenizerBase, turn: Turn
) -> tuple[_Parts, Tagged | None] | None:
    one, two, three = (_around(tokenizer, turn, count, _TEXT, _JSON_SLOT) for count in (1, 2, 3))
    if one is None or len(one) != 3:
        return None
    opening, middle, closing = one
    between = two[2] if two else ""
    repeated = [opening, *[middle, between] * 2, middle, closing]
    if [two, three] != [[*repeated[:3], *repeated[5:]], repeated]:
        between = ""
    return (opening, middle, between, closing), None


def _tagged_parts(
    tokenizer: PreTrainedTokenizerBase, turn: Turn
) -> tuple[_Parts, Tagged | None] | None:
    """Every split of what stands between two arguments will do that says what stands before the
    first, after the last, and where there is none.
    """
    none, one, both = (_around(tokenizer, turn, 1, given) for given in ({}, _TEXT, _BOTH))
    if none is None or one is None or both is None:
        return None
    (opening, empty), (_, first, middle, last) = none, one
    between_two = both[3]
    backwards = zip(first[::-1], between_two[::-1], strict=False)
    pairs = takewhile(lambda pair: pair[0] == pair[1], backwards)
    start = "".join(letter for letter, _ in pairs)[::-1]
    end = between_two.removesuffix(start)
    name_end, closing = first.removesuffix(start), last.removeprefix(end)
    if (
        one != [opening, first, middle, last]
        or both != [opening, first, middle, between_two, middle, last]
        or not (start and end and last.startswith(end) and empty == name_end + closing)
    ):
        return None
    two, three = (_around(tokenizer, turn, count, _TEXT) for count in (2, 3))
    between = two[3] if two else ""
    repeated = [opening, *[first, middle, between] * 2, first, middle, last]
    if [two, three] != [[*repeated[:4], *repeated[7:]], repeated] or not between.startswith(end):
        between = end
    tag = _tags(tokenizer).search(end)
    head = end[: tag.start()] if tag else end
    tagged = Tagged(
        start=_spell(tokenizer, start),
        middle=_spell(tokenizer, middle),
        until=end,
        head=head,
        end=_spell(tokenizer, end.removeprefix(head)),
    )
    return (opening, name_end, between.removeprefix(end), closing), tagged


def _around(
    tokenizer: PreTrainedTokenizerBase,
    turn: Turn,
    count: int,
    arguments: dict[str, Any],
    slot: re.Pattern[str] = _TAGGED_SLOT,
) -> list[str] | None:
    """What an answer with so many calls has around their names and arguments; None where it does
    not hold them one after the other.
    """
    names = [_NAME.format(number) for number in range(count)]
    written = _write(tokenizer, turn, names, arguments)
    each = [str(x) for pair in arguments.items() for x in pair]
    if slot is _JSON_SLOT:
        each = [json.dumps(arguments, separators=(",", ":"))]
    slots = [found.replace(": ", ":") for found in slot.findall(written)]
    if slots != [x for name in names for x in (name, *each)]:
        return None
    return [_IDENT.sub(_FIRST_IDENT, part) for part in slot.split(written)]


def _write(
    tokenizer: PreTrainedTokenizerBase, turn: Turn, names: list[str], arguments: dict[str, Any]
) -> str:
    """An answer that calls these, between prompt and end; empty where there is none."""
    calls = [(name, arguments) for name in names]
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
