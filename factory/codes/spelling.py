"""How codes read as text, and in the ids of a tokenizer.

`<a_12>` is number 12 of the first position, `<b_5>` number 5 of the second, and so on; a coder of
another layout writes digits (`0 1 7`) or a name.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from factory.codes.arrays import REMEDY, Code
from factory.codes.base import Coder, Layout
from factory.domain.bounded import DATA, parse_json, read_text
from factory.domain.failures import InputError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CODE_TOKEN = re.compile(r"<[a-z]_\d+>")


def code_tokens(positions: int, size: int) -> list[list[str]]:
    """Tokens of each position: [["<a_0>", …], ["<b_0>", …], …].

    Raises:
        InputError: more positions than letters.
    """
    if positions > len(string.ascii_lowercase):
        raise InputError(
            f"a code of {positions} positions: there are letters for 26",
            where="codes",
            remedy="lower [codes] levels or raise size",
        )
    return [
        [f"<{letter}_{number}>" for number in range(size)]
        for letter in string.ascii_lowercase[:positions]
    ]


@dataclass(frozen=True, eq=False)
class Spelling:
    """How the codes of one coder read. Example: make_spelling(coder).write((1, 7, 0))."""

    layout: Layout
    tokens: list[list[str]]
    """Code tokens by position; none where codes read as digits or names."""

    def write(self, code: Code) -> str:
        """A code as the model writes it."""
        match self.layout:
            case "tokens":
                return "".join(
                    self.tokens[position][number] for position, number in enumerate(code)
                )
            case "digits":
                return " ".join(map(str, code))
            case "name":
                return bytes(code).decode("utf-8", "replace")

    def read(self, text: str) -> Code | None:
        """The code that a text spells, and nothing else; else None."""
        match self.layout:
            case "tokens":
                return self._read_tokens("".join(text.split()))
            case "digits":
                digits = text.split()
                good = digits and all(d in "0123456789" and len(d) == 1 for d in digits)
                return tuple(map(int, digits)) if good else None
            case "name":
                return tuple(text.strip().encode("utf-8", "replace")) or None

    def _read_tokens(self, tight: str) -> Code | None:
        tokens = CODE_TOKEN.findall(tight)
        places = [self._places.get(token) for token in tokens]
        code = tuple(place[1] for i, place in enumerate(places) if place and place[0] == i)
        whole = len(code) == len(tokens) == len(self.tokens) and tight == "".join(tokens)
        return code if whole else None

    @cached_property
    def _places(self) -> dict[str, tuple[int, int]]:
        """Position and number of each token."""
        return {
            token: (position, number)
            for position, level in enumerate(self.tokens)
            for number, token in enumerate(level)
        }

    def token_ids(self, vocabulary: Mapping[str, int], where: str) -> list[list[int]]:
        """Ids of the code tokens by position. ModelError where the vocabulary lacks one."""
        for token in (token for position in self.tokens for token in position):
            if token not in vocabulary:
                raise _lacks(token, where)
        return [[vocabulary[token] for token in position] for position in self.tokens]

    def encode(
        self, codes: Sequence[Code], tokenizer: PreTrainedTokenizerBase, where: str
    ) -> list[Code]:
        """Codes in token ids. ModelError where the tokenizer, found at `where`, lacks a token."""
        if self.tokens:
            ids = self.token_ids(tokenizer.get_vocab(), where)
            return [tuple(ids[place][number] for place, number in enumerate(c)) for c in codes]
        texts = map(self.write, codes)
        return [tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]


def make_spelling(coder: Coder) -> Spelling:
    """How a coder's codes read, with the sizes it has now."""
    tokens = coder.layout == "tokens"
    return Spelling(coder.layout, code_tokens(len(coder.sizes), max(coder.sizes)) if tokens else [])


def refuse_other_tokens(token_ids: Mapping[str, int], checkpoint: Path) -> None:
    """ModelError where a checkpoint's tokenizer has other code tokens than its codebook."""
    vocabulary = read_vocabulary(checkpoint)
    for token, number in token_ids.items():
        if token not in vocabulary:
            raise _lacks(token, str(checkpoint))
        if vocabulary[token] != number:
            raise ModelError(
                f"the code token {token} has id {vocabulary[token]} in the tokenizer "
                f"but {number} in the codebook",
                where=str(checkpoint),
                remedy=REMEDY,
            )


def _lacks(token: str, where: str) -> ModelError:
    return ModelError(
        f"the model's vocabulary lacks the code token {token}",
        where=where,
        remedy="use the tokenizer that was saved with this checkpoint, or remove its codes folder "
        "to start without codes (the next round fits new ones)",
    )


def read_vocabulary(checkpoint: Path) -> Mapping[str, int]:
    """Ids of the added tokens of a model folder, read without loading its tokenizer.

    Raises:
        ModelError: the folder has no readable tokenizer.json.
    """
    path = checkpoint / "tokenizer.json"
    try:
        text = read_text(path, most=DATA, error=ModelError)
        content = parse_json(text, str(path), ModelError)
        return {token["content"]: token["id"] for token in content["added_tokens"]}
    except (ModelError, KeyError, TypeError) as error:
        raise ModelError(
            f"cannot read the tokenizer: {str(error).partition(chr(10))[0]}",
            where=str(path),
            remedy="save the model with its tokenizer (tokenizer.save_pretrained) into one folder",
        ) from error
