"""Text as text: what others wrote never becomes a control token.

A tokenizer takes the letters `<|im_end|>` for the token that ends a turn, whoever wrote them: a
tool document could end the system's turn and forge an answer. So every text that a chat template is
given is marked first, with a sign inside each control token that it spells. What the template puts
out with a sign inside is read as letters; what has none inside, the template wrote.

Where nothing is marked the model's tokenizer reads the text, as ever. Else its copy does, which
has the same tokens with the same ids, flags and merges, but calls the control tokens by names that
nobody can know: letters that spell one are then letters, and merge with their neighbours.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from jinja2 import TemplateError

from factory.codes.spelling import CODE_TOKEN
from factory.domain.failures import ModelError

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerBase

_SIGN = "\x7f"
"""Neither JSON nor a template's filters change it; few texts hold one."""
_INSIDE, _ITSELF = f"{_SIGN}0", f"{_SIGN}1"
"""Inside what spells a control token; and the sign where a text itself has it."""
_SIGNS = re.compile(f"{_SIGN}([01])")
MARKER = re.compile(r"[<\[]\S*\w\S*[>\]]")
"""What a token that opens or closes a turn looks like, where it is not flagged as special."""
_PROBES = ("Zq7System", "Zq7User", "Zq7Answer", "Zq7More")
_TAGS = frozenset({"<tools>", "</tools>", "<tool_call>", "</tool_call>"})
"""What the factory's own prompts write and ask for; some models have them as special tokens."""
_BRACKETS = 3
"""Letters at either end of a control token that a template may write around a name."""
_KEYWORDS = frozenset(
    {"type", "function", "name", "description", "parameters", "arguments", "properties"}
    | {"required", "items", "enum", "default", "results", "object", "dict", "string", "integer"}
    | {"number", "float", "boolean", "array", "list", "null", "any"}
)
"""Words of tool documents that templates look for."""


class TextEncoder:
    """Encodes for one tokenizer. Example: encoder_of(tokenizer).encode("<|im_end|>")."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ends: Iterable[int] = ()) -> None:
        self._tokenizer = tokenizer
        fast = getattr(tokenizer, "is_fast", False)
        self._backend: Tokenizer | None = tokenizer.backend_tokenizer if fast else None
        if self._backend is not None:
            self._backend.encode_special_tokens = tokenizer.split_special_tokens
        controls = find_controls(tokenizer, frozenset(ends))
        self.controls = {token.content: number for number, token in controls.items()}
        """Ids of the tokens that no text of others may become, by what they look like."""
        named = [token for token in controls.values() if not CODE_TOKEN.fullmatch(token.content)]
        codes = [CODE_TOKEN.pattern] if len(named) < len(controls) else []
        self._named, self._all = _pattern(named), _pattern(named, *codes)
        self._whole = _pattern(named, *codes, whole=True)
        self._folded = self._fold(named)
        self._inner = {
            token.content[cut:-cut]
            for token in named
            for cut in range(1, _BRACKETS + 1)
            if len(token.content) > 2 * cut
        } - _KEYWORDS

    def encode(self, text: str) -> list[int]:
        """Ids of a text that somebody wrote, without any control token."""
        return self.ids(self.mark(text))

    def mark(self, text: str, *, codes: bool = False) -> str:
        """The text as a template may have it; the same text where it spells no control token.

        With `codes` code tokens in it are meant: they stay tokens.
        """
        pattern = self._named if codes else self._all
        hidden = self._folded is not None and self._hides(text)
        if _SIGN not in text and not hidden and not pattern.search(text):
            return text
        marked = pattern.sub(_break, text.replace(_SIGN, _ITSELF))
        return re.sub(r"\S", _break, marked, count=1) if hidden else marked

    def mark_tools(self, value: Any) -> Any:
        """A JSON value with every text in it marked, names and keys too.

        Some templates write brackets around names, `<` and `>`: a name that would be a control
        token then is marked as well.
        """
        if isinstance(value, str):
            return _break(value) if value in self._inner else self.mark(value)
        if isinstance(value, Mapping):
            return {self.mark_tools(key): self.mark_tools(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.mark_tools(each) for each in value]
        return value

    def ids(self, text: str) -> list[int]:
        """Ids of a text in which what others wrote is marked."""
        if _SIGN not in text:
            return self.read(text)
        text, signs = _take_out(text)
        if not signs:
            return self.read(text)
        parts, done = [], 0
        for hit in self._whole.finditer(text):
            start, end = hit.span()
            signed = bisect_right(signs, start) != bisect_right(signs, end)
            if not signed and hit.group() in self.controls:
                parts += [text[done:start], hit.group()]
                done = end
        parts.append(text[done:])
        if self._backend is None:
            return self._read_parts(parts)
        renamed, names = self._renamed
        parts[1::2] = [names[part] for part in parts[1::2]]
        return _ids(renamed, "".join(parts))

    def read(self, text: str, *, special: bool = False) -> list[int]:
        """What the tokenizer's `encode` gives: ids of a text that is all meant. With `special` also
        those that the tokenizer puts around a text.
        """
        if self._backend is None:
            return list(self._tokenizer.encode(text, add_special_tokens=special))
        return _ids(self._backend, text, special=special)

    def _read_parts(self, parts: Sequence[str]) -> list[int]:
        """The same of a tokenizer written in Python: what lies between control tokens is read part
        by part, without any added token."""
        ids: list[int] = []
        for place, part in enumerate(parts):
            if place % 2:
                ids.append(self.controls[part])
            elif part:
                options = {"add_special_tokens": False, "split_special_tokens": True}
                ids += self._tokenizer.encode(part, **options)
        return ids

    @cached_property
    def _renamed(self) -> tuple[Tokenizer, Mapping[str, str]]:
        """The copy, and what it calls the control tokens. Raises ModelError where it has others."""
        from tokenizers import Tokenizer

        assert self._backend is not None
        names = {content: _unknown_name() for content in self.controls}
        state = json.loads(self._backend.to_str())
        rename(state, names)
        copy = Tokenizer.from_str(json.dumps(state))
        copy.encode_special_tokens = self._backend.encode_special_tokens
        for content, number in self.controls.items():
            if copy.token_to_id(names[content]) != number:
                raise ModelError(
                    f"the tokenizer cannot read {content!r} as text: its id is not {number} alone",
                    where=self._tokenizer.name_or_path,
                    remedy="save it again with save_pretrained of a current transformers",
                )
        return copy, names

    def _fold(self, tokens: Iterable[AddedToken]) -> re.Pattern[str] | None:
        """What finds the tokens that a tokenizer finds in other writings too, as `<PAD>` of `<pad>`
        where it lowers all letters."""
        if self._backend is None or self._backend.normalizer is None:
            return None
        fold = self._backend.normalizer.normalize_str
        folded = {fold(token.content).strip("▁ ") for token in tokens if token.normalized}
        return re.compile("|".join(map(re.escape, folded - {""}))) if folded - {""} else None

    def _hides(self, text: str) -> bool:
        assert self._backend is not None and self._folded is not None
        return bool(self._folded.search(self._backend.normalizer.normalize_str(text)))


def encoder_of(
    tokenizer: PreTrainedTokenizerBase, ends: frozenset[int] = frozenset()
) -> TextEncoder:
    """The encoder of a tokenizer as it is now; `ends` are the tokens that end its model's turns."""
    template = tokenizer.chat_template
    return _make(tokenizer, ends, len(tokenizer), template if isinstance(template, str) else None)


@lru_cache(maxsize=4)
def _make(
    tokenizer: PreTrainedTokenizerBase, ends: frozenset[int], size: int, template: str | None
) -> TextEncoder:
    return TextEncoder(tokenizer, ends)


def find_controls(
    tokenizer: PreTrainedTokenizerBase, ends: frozenset[int]
) -> dict[int, AddedToken]:
    """The added tokens that do something: special ones, code tokens, those that end a turn, and
    those that the chat template writes around one.

    Others, such as the `<tool_call>` of many models, are words: a model is asked to write them.
    The tags of our prompts are always words.
    """
    added = tokenizer.added_tokens_decoder
    special = () if tokenizer.split_special_tokens else {n for n, t in added.items() if t.special}
    around = _around_turns(tokenizer, [t.content for t in added.values() if not t.special])
    return {
        number: token
        for number, token in added.items()
        if token.content not in ("", *_TAGS)
        and (
            number in special
            or number in ends
            or token.content in around
            or CODE_TOKEN.fullmatch(token.content)
        )
    }


def _around_turns(tokenizer: PreTrainedTokenizerBase, contents: Iterable[str]) -> set[str]:
    """Those of these tokens that the chat template writes next to a turn of a user's or system's.

    DeepSeek's are not flagged as special. What stands before an answer is its head, and may be a
    word of the model's, such as `<think>`.
    """
    tokens = [content for content in contents if MARKER.fullmatch(content)]
    if not tokens or not tokenizer.chat_template:
        return set()
    find = re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))))
    roles = ("system", "user", "assistant", "user")
    chat = [{"role": r, "content": c} for r, c in zip(roles, _PROBES, strict=True)]
    for said in (chat, chat[1:]):
        try:
            text = str(tokenizer.apply_chat_template(said, tokenize=False))
        except (TemplateError, TypeError, ValueError):
            continue
        pieces = [find.findall(piece) for piece in re.split("|".join(_PROBES), text)]
        if len(pieces) <= len(said):
            continue
        after = {piece[0] for piece in pieces[1:] if piece}
        before = {piece[-1] for piece in (*pieces[:-3], pieces[-2]) if piece}
        return after | before
    return set()


def rename(state: dict[str, Any], names: Mapping[str, str]) -> None:
    """Call added tokens of a tokenizer's state by other names; all added tokens keep their ids.

    They become entries of the vocabulary where they were none, since ids are given by it.
    """
    for token in state["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    ids = {token["content"]: token["id"] for token in state["added_tokens"]}
    model = state["model"]
    if isinstance(model["vocab"], dict):
        vocabulary = {names.get(piece, piece): n for piece, n in model["vocab"].items()}
        model["vocab"] = vocabulary | ids
    else:
        rows = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
        more = {number: content for content, number in ids.items() if number >= len(rows)}
        for number in range(len(rows), max(more, default=-1) + 1):
            rows.append([more.get(number) or _unknown_name(), 0.0])
        model["vocab"] = rows
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        pairs = (m.split(" ", 1) if isinstance(m, str) else m for m in model["merges"])
        model["merges"] = [[a, b] for a, b in pairs if names.keys().isdisjoint((a, b, a + b))]


def _pattern(tokens: Iterable[AddedToken], *more: str, whole: bool = False) -> re.Pattern[str]:
    """What finds the tokens, of those that begin alike the longest; with `whole` none in a word
    that a tokenizer does not find there.
    """
    parts = [
        rf"(?<!\w){re.escape(token.content)}(?!\w)"
        if whole and token.single_word
        else re.escape(token.content)
        for token in sorted(tokens, key=lambda token: len(token.content), reverse=True)
    ]
    return re.compile("|".join([*more, *parts]) or r"(?!)")


def _ids(backend: Tokenizer, text: str, *, special: bool = False) -> list[int]:
    """Without the offsets, which take most of the time of `encode`."""
    if backend.truncation or backend.padding:
        backend.no_truncation()
        backend.no_padding()
    (encoding,) = backend.encode_batch_fast([text], add_special_tokens=special)
    return list(encoding.ids)


def _break(hit: re.Match[str] | str) -> str:
    """A text with the sign after its first letter."""
    text = hit if isinstance(hit, str) else hit.group()
    return text[0] + _INSIDE + text[1:]


def _take_out(text: str) -> tuple[str, list[int]]:
    """A marked text without signs, and the places in it before which one stood."""
    parts, places, done, length = list[str](), list[int](), 0, 0
    for hit in _SIGNS.finditer(text):
        parts.append(text[done : hit.start()])
        length += len(parts[-1])
        if hit[0] == _ITSELF:
            parts.append(_SIGN)
            length += 1
        else:
            places.append(length)
        done = hit.end()
    return "".join([*parts, text[done:]]), places


def _unknown_name() -> str:
    """Sixteen letters of Linear A, which no normaliser changes and nobody can guess."""
    return "".join(chr(0x10600 + byte) for byte in uuid4().bytes)
