"""The files of a codebook. A checkpoint's `codes/` folder holds

codebook.json   coder, version, code tokens with their ids, the code reserved for Finish, and what
                the fit reported
coder.npz       the coder's arrays
tools.jsonl     one line a tool: tool_id, code, resolved_by, error, ood, document
trie.npz        the codes of all tools, in token ids
grammar.npz     the codes a model may propose for a new document, in token ids; only where a
                coder's numbers say something of documents

Loading needs numpy only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.codes.arrays import REMEDY, Code
from factory.codes.codebook import Codebook, Report, ToolCode
from factory.codes.config import CODERS
from factory.codes.spelling import refuse_other_tokens
from factory.codes.trie import Trie
from factory.domain.bounded import DATA, parse_json, read_text
from factory.domain.failures import ModelError
from factory.domain.records import Tool

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FOLDER = "codes"
"""Name of a codebook's folder in a checkpoint."""
FORMAT = 1
"""Version of codebook.json."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SavedCodebook(Codebook):
    """A codebook with its files, in the ids of the tokenizer beside them."""

    folder: Path
    longest: int
    """Tokens of the longest code."""
    token_ids: Mapping[str, int]
    """Of the code tokens."""
    finish_ids: Code
    """The code of Finish in token ids."""

    @property
    def num_levels(self) -> int:
        """Tokens of the longest code."""
        return self.longest

    @property
    def trie_path(self) -> Path:
        """The trie of all tools' codes."""
        return self.folder / "trie.npz"

    @property
    def grammar_path(self) -> Path | None:
        """The grammar of codes that a model may propose for a new document.

        None where a code says nothing that a document could tell: there is nothing to propose.
        """
        return self.folder / "grammar.npz" if self.coder.proposes else None

    def spell(self, text: str) -> Code:
        """A code's text in token ids. LookupError for no code, and for digits of no tool."""
        code = self.parse(text)
        if code is None:
            raise LookupError(f"{text!r} is no code")
        if code == self.finish:
            return self.finish_ids
        if self.tokens:
            return tuple(self.token_ids[self.tokens[p][number]] for p, number in enumerate(code))
        return self._spelt[self.text_of(code)]

    @cached_property
    def _spelt(self) -> dict[str, Code]:
        saved = Trie.load(self.trie_path).codes()
        return {self.code_text(tool_id): tokens for tokens, tool_id in saved}


def save_codebook(
    codebook: Codebook, checkpoint: Path, tokenizer: PreTrainedTokenizerBase, end: int | None = None
) -> SavedCodebook:
    """Write `codes/` into a checkpoint folder, in the ids of the tokenizer saved beside it.

    Args:
        codebook: what is written.
        checkpoint: the folder.
        tokenizer: its tokenizer.
        end: the token after a code (factory.engines.turn); None is the tokenizer's eos_token.

    Raises:
        ModelError: the tokenizer lacks a code token or an end-of-turn token.
    """
    spelling, coder = codebook.spelling, codebook.coder
    ids = spelling.token_ids(tokenizer.get_vocab(), str(checkpoint))
    end = tokenizer.eos_token_id if end is None else end
    if end is None:
        raise ModelError(
            "the tokenizer has no end-of-turn token",
            where=str(checkpoint),
            remedy="set eos_token in the model's tokenizer_config.json",
        )
    folder = checkpoint / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    *spelt, finish = spelling.encode(
        [*codebook.codes, codebook.finish or ()], tokenizer, str(checkpoint)
    )
    saved = SavedCodebook(
        **{field.name: getattr(codebook, field.name) for field in fields(Codebook)},
        folder=folder,
        longest=max(map(len, [*spelt, finish])),
        token_ids={
            token: number
            for names, numbers in zip(codebook.tokens, ids, strict=True)
            for token, number in zip(names, numbers, strict=True)
        },
        finish_ids=finish if codebook.finish is not None else (),
    )
    Trie.build(spelt, list(codebook.tool_ids), end).save(saved.trie_path)
    if saved.grammar_path is not None:
        _grammar(codebook.codes, ids, end).save(saved.grammar_path)
    coder.save(folder / "coder.npz")
    lines = [json.dumps(_to_json(entry)) + "\n" for entry in codebook.tools]
    (folder / "tools.jsonl").write_text("".join(lines), encoding="utf-8")
    head = {
        "format": FORMAT,
        "coder": coder.name,
        "version": saved.version,
        "levels": saved.longest,
        "size": max(coder.sizes, default=0),
        "embedder": saved.embedder,
        "views": saved.views,
        "end": end,
        "token_ids": saved.token_ids,
        "finish": saved.finish,
        "finish_ids": saved.finish_ids,
        "report": asdict(saved.report),
    }
    (folder / "codebook.json").write_text(json.dumps(head, indent=1) + "\n", encoding="utf-8")
    return saved


def _grammar(codes: Sequence[Code], ids: Sequence[Sequence[int]], end: int) -> Trie:
    """A proposal starts with a number that some tool has (A39); the rest is free."""
    in_use = sorted({code[0] for code in codes})
    return Trie.grammar([[ids[0][number] for number in in_use], *ids[1:]], end)


def _read(file: Path) -> str:
    return read_text(file, most=DATA, error=ModelError)


def load_codebook(checkpoint: Path | str) -> SavedCodebook | None:
    """The codebook of a checkpoint folder, or None if it has none.

    Raises:
        ModelError: a file is missing or damaged, or the tokenizer lacks the code tokens.
    """
    folder = Path(checkpoint) / FOLDER
    if not folder.is_dir():
        return None
    try:
        head = parse_json(_read(folder / "codebook.json"), "codebook.json", ModelError)
        lines = _read(folder / "tools.jsonl").splitlines()
        tools = tuple(_from_json(parse_json(line, "tools.jsonl", ModelError)) for line in lines)
        report = head["report"]
        report = Report(**{**report, "usage_entropy": tuple(report["usage_entropy"])})
        version, name, token_ids = head["version"], head["coder"], head["token_ids"]
        longest, finish = head["levels"], tuple(head["finish"]) if head.get("finish") else None
        if head["format"] != FORMAT or name not in CODERS:
            raise ValueError(f"format {head['format']} with coder {name!r} is not known here")
    except (ModelError, ValueError, KeyError, TypeError) as error:
        told = str(error).partition("\n")[0]
        raise ModelError(
            f"cannot read the codebook: {told}", where=str(folder), remedy=REMEDY
        ) from error
    refuse_other_tokens(token_ids, Path(checkpoint))
    return SavedCodebook(
        tools=tools,
        coder=CODERS[name].load(folder / "coder.npz"),
        report=report,
        finish=finish,
        version=version,
        embedder=head.get("embedder", ""),
        views=head.get("views", 0),
        folder=folder,
        longest=longest,
        token_ids=token_ids,
        finish_ids=tuple(head.get("finish_ids", ())),
    )


def _to_json(entry: ToolCode) -> dict[str, Any]:
    return {
        "tool_id": entry.tool.id,
        "code": list(entry.code),
        "resolved_by": entry.resolved_by,
        "error": entry.error,
        "ood": entry.ood,
        "document": entry.tool.document,
    }


def _from_json(row: dict[str, Any]) -> ToolCode:
    tool = Tool(id=row["tool_id"], document=row["document"])
    how = {name: row[name] for name in ("resolved_by", "error", "ood")}
    return ToolCode(tool=tool, code=tuple(row["code"]), **how)
