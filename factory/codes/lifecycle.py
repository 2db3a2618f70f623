"""The codebook of a checkpoint: which tool has which code, and how a new one gets its own.

A checkpoint's `codes/` folder holds

    codebook.json   coder, version, code tokens with their ids, and what the fit reported
    coder.npz       the coder's arrays
    tools.jsonl     one line a tool: tool_id, code, resolved_by, error, ood, document
    trie.npz        the codes of all tools, in token ids
    grammar.npz     the codes a model may propose for a new document, in token ids

fit → add → refresh → save after training; load → code_text, parse, tool_of while sampling. Loading
and looking up need numpy only. A codebook's version changes when its tools are given other codes,
not when tools are added or the coder follows the model into another space.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from factory.canon import canonical_json
from factory.codes.assign import Assignment, ResolvedBy, Taken, resolve
from factory.codes.base import REMEDY, Code, Coder, Encoding, Floats, Ints, as_NVD
from factory.codes.residual import ResidualCoder, choose_shape
from factory.codes.trie import Trie
from factory.codes.vocabulary import (
    add_code_tokens,
    code_tokens,
    initialise_rows,
    read_vocabulary,
)
from factory.failures import ModelError
from factory.records import Tool

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FOLDER = "codes"
"""Name of a codebook's folder in a checkpoint."""
FORMAT = 1
"""Version of codebook.json."""
OUTLIER_PERCENTILE = 99.0
"""A new tool farther out than this share of the known ones is marked (A38)."""
CODERS: Mapping[str, type[ResidualCoder]] = {ResidualCoder.name: ResidualCoder}
"""Coders by the recipe's word."""

_TOKEN = re.compile(r"<[a-z]_\d+>")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCode:
    """A tool and its code. Example: ToolCode(tool=Tool(id="t_91…", …), code=(1, 7, 0), …)."""

    tool: Tool
    """The tool."""
    code: Code
    """Number at each position."""
    resolved_by: ResolvedBy
    """How it came to this code (factory.codes.assign)."""
    error: float
    """Distance to the first position's centroid when the code was given."""
    ood: bool
    """Too far out for this codebook: the code stands, but is not trained on (A38)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What fitting, adding and refreshing found."""

    collisions_before: int
    """Tools beyond the first on one nearest code, when the codebook was fitted."""
    moved: int
    """Tools that are not on their nearest code, those added later included."""
    penalty: float
    """Mean of what moving cost, over the moved tools of the fit, in the coder's distance."""
    usage_entropy: tuple[float, ...]
    """Bits of each position's use over all tools; log2 of its size is even use."""
    outlier_error: float
    """OUTLIER_PERCENTILE of the tools' first-position errors, in the coder's present space."""
    reencoded: float
    """Share of tools whose nearest code, in the coder's present space, is the stored one."""


class Codebook:
    """Tools with their codes, and the coder that gave them.

    Example: Codebook.load(Path("checkpoints/r1")).tool_of("<a_1><b_7><c_0>").name.
    """

    def __init__(
        self,
        coder: Coder,
        tools: Sequence[ToolCode],
        report: Report,
        *,
        version: int = 1,
        folder: Path | None = None,
    ) -> None:
        self.coder = coder
        """What gives codes to documents."""
        self.report = report
        """What fitting, adding and refreshing found."""
        self.version = version
        """Changes when known tools are given other codes."""
        self.tokens = code_tokens(len(coder.sizes), max(coder.sizes))
        """Code tokens by position."""
        self._folder = folder
        self._tools = {entry.tool.id: entry for entry in tools}
        self._ids = {entry.code: entry.tool.id for entry in tools}
        self._numbers = {
            token: (position, number)
            for position, level in enumerate(self.tokens)
            for number, token in enumerate(level)
        }

    @property
    def num_levels(self) -> int:
        """Tokens of a code."""
        return len(self.coder.sizes)

    @property
    def tools(self) -> tuple[ToolCode, ...]:
        """All tools, in the order they came in."""
        return tuple(self._tools.values())

    @property
    def tool_ids(self) -> tuple[str, ...]:
        """Ids of all tools, in the order they came in."""
        return tuple(self._tools)

    @property
    def outliers(self) -> frozenset[str]:
        """Ids of the tools that wait for the next codebook (A38)."""
        return frozenset(entry.tool.id for entry in self.tools if entry.ood)

    @property
    def trie_path(self) -> Path:
        """The saved trie of all tools' codes."""
        return self._saved("trie.npz")

    @property
    def grammar_path(self) -> Path:
        """The saved grammar of codes that a model may propose for a new document."""
        return self._saved("grammar.npz")

    def __len__(self) -> int:
        return len(self._tools)

    def __contains__(self, tool_id: str) -> bool:
        return tool_id in self._tools

    def code_of(self, tool_id: str) -> Code:
        """A tool's code. KeyError for a tool without one."""
        return self._tools[tool_id].code

    def code_text(self, tool_id: str) -> str:
        """A tool's code tokens as text, `<a_1><b_7><c_0>`. KeyError for a tool without a code."""
        return self.text_of(self.code_of(tool_id))

    def text_of(self, code: Code) -> str:
        """The tokens of a code as text."""
        return "".join(self.tokens[position][number] for position, number in enumerate(code))

    def parse(self, text: str) -> Code | None:
        """The code that a text spells, one token per position and nothing else; else None."""
        tight = "".join(text.split())
        found = _TOKEN.findall(tight)
        places = [self._numbers.get(token) for token in found]
        code = tuple(place[1] for i, place in enumerate(places) if place and place[0] == i)
        whole = len(code) == len(found) == self.num_levels and tight == "".join(found)
        return code if whole else None

    def tool_of(self, text: str) -> Tool | None:
        """The tool that a text names by its code; None for no code and for a free one."""
        code = self.parse(text)
        tool_id = self._ids.get(code) if code is not None else None
        return None if tool_id is None else self._tools[tool_id].tool

    def add(
        self,
        tools: Sequence[Tool],
        embeddings: Floats,
        accepted_at: Sequence[str] | None = None,
    ) -> list[ToolCode]:
        """Give new tools codes without fitting again (A38), one after the other.

        The order is (accepted-at, id), whatever the order of the arguments, so the same tools get
        the same codes on repetition, in one call or in several in that order. Tools that have a
        code keep it.

        Args:
            tools: N tools.
            embeddings: (N, D) or (N, V, D), from the model that the coder was last refreshed for.
            accepted_at: N sortable times; without them all count as accepted at once.

        Returns:
            N entries, in the order of the arguments.

        Raises:
            InputError: no code is left.
        """
        embeddings_NVD = as_NVD(embeddings)
        taken = Taken(self._ids)
        new = _Newcomers.ordered(tools, embeddings_NVD, accepted_at)
        for row, tool in enumerate(new.tools):
            if tool.id not in self:
                self._add_one(new.only(row), taken)
        self.report = replace(
            self.report,
            moved=sum(entry.resolved_by != "nearest" for entry in self.tools),
            usage_entropy=_usage_entropy(self._codes_NP(), self.coder.sizes),
        )
        return [self._tools[tool.id] for tool in tools]

    def _add_one(self, new: _Newcomers, taken: Taken) -> None:
        encoding = self.coder.encode(new.embeddings_NVD)
        assignment = resolve(self.coder, new.embeddings_NVD, encoding.codes_NP, taken)
        entry = _entries(new, encoding, assignment, self.report.outlier_error)[0]
        self._tools[entry.tool.id] = entry
        self._ids[entry.code] = entry.tool.id

    def refresh(self, embeddings: Floats) -> float:
        """Follow the model into the space it has after training; every tool keeps its code.

        Args:
            embeddings: (N, D) or (N, V, D) of `self.tools`, in that order.

        Returns:
            The share of tools whose nearest code is still the stored one.
        """
        embeddings_NVD = as_NVD(embeddings)
        if len(embeddings_NVD) != len(self):
            raise ValueError(f"{len(self)} tools, {len(embeddings_NVD)} embeddings")
        codes_NP = self._codes_NP()
        self.coder.refresh(embeddings_NVD, codes_NP)
        encoding = self.coder.encode(embeddings_NVD)
        share = float((encoding.codes_NP == codes_NP).all(axis=1).mean())
        known = np.array([not entry.ood for entry in self.tools])
        self.report = replace(
            self.report, reencoded=share, outlier_error=_outlier_error(encoding.error_N[known])
        )
        return share

    def install(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        embeddings: Floats,
    ) -> list[list[int]]:
        """Add the code tokens to a model and its tokenizer, with rows made of their members.

        Args:
            model: causal model whose width is that of the embeddings.
            tokenizer: its tokenizer.
            embeddings: (N, D) or (N, V, D) of `self.tools`, in that order.

        Returns:
            Token ids by position.
        """
        ids = add_code_tokens(tokenizer, model, self.tokens)
        initialise_rows(model, ids, self.coder.rows(as_NVD(embeddings), self._codes_NP()))
        return ids

    def summary(self) -> dict[str, Any]:
        """A codebook in figures: what the ledger keeps of it."""
        return {
            "version": self.version,
            "coder": self.coder.name,
            "levels": self.num_levels,
            "size": max(self.coder.sizes),
            "num_tools": len(self),
            "collisions_before": self.report.collisions_before,
            "moved": self.report.moved,
            "penalty": self.report.penalty,
            "outlier_error": self.report.outlier_error,
            "reencoded": self.report.reencoded,
            "usage_entropy": float(np.mean(self.report.usage_entropy)),
            "sha": self.sha(),
        }

    def sha(self) -> str:
        """SHA-256 over the code tokens and every tool's code, in the order they came in."""
        codes = [[entry.tool.id, *entry.code] for entry in self.tools]
        text = canonical_json({"tokens": self.tokens, "version": self.version, "codes": codes})
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    def save(self, checkpoint: Path, tokenizer: PreTrainedTokenizerBase) -> None:
        """Write `codes/` into a checkpoint folder, in the ids of the tokenizer saved beside it.

        Raises:
            ModelError: the tokenizer lacks a code token or an end-of-turn token.
        """
        vocabulary: Mapping[str, int] = tokenizer.get_vocab()
        ids = _ids_of(self.tokens, vocabulary, str(checkpoint))
        if tokenizer.eos_token_id is None:
            raise ModelError(
                "the tokenizer has no end-of-turn token",
                where=str(checkpoint),
                remedy="set eos_token in the model's tokenizer_config.json",
            )
        end = int(tokenizer.eos_token_id)
        folder = checkpoint / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        self._trie(ids, end).save(folder / "trie.npz")
        self._grammar(ids, end).save(folder / "grammar.npz")
        self.coder.save(folder / "coder.npz")
        lines = [json.dumps(_to_json(entry)) + "\n" for entry in self.tools]
        (folder / "tools.jsonl").write_text("".join(lines), encoding="utf-8")
        head = {
            "format": FORMAT,
            "coder": self.coder.name,
            "version": self.version,
            "levels": self.num_levels,
            "size": max(self.coder.sizes),
            "end": end,
            "token_ids": {
                token: number
                for names, numbers in zip(self.tokens, ids, strict=True)
                for token, number in zip(names, numbers, strict=True)
            },
            "report": asdict(self.report),
        }
        (folder / "codebook.json").write_text(json.dumps(head, indent=1) + "\n", encoding="utf-8")
        self._folder = folder

    @classmethod
    def load(cls, checkpoint: Path | str) -> Codebook | None:
        """The codebook of a checkpoint folder, or None if it has none.

        Raises:
            ModelError: a file is missing or damaged, or the tokenizer lacks the code tokens.
        """
        folder = Path(checkpoint) / FOLDER
        if not folder.is_dir():
            return None
        try:
            head = json.loads((folder / "codebook.json").read_text(encoding="utf-8"))
            lines = (folder / "tools.jsonl").read_text(encoding="utf-8").splitlines()
            tools = [_from_json(json.loads(line)) for line in lines]
            report = _report(head["report"])
            version, name, token_ids = head["version"], head["coder"], head["token_ids"]
            if head["format"] != FORMAT or name not in CODERS:
                raise ValueError(f"format {head['format']} with coder {name!r} is not known here")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"cannot read the codebook: {error}", where=str(folder), remedy=REMEDY
            ) from error
        _refuse_other_tokens(token_ids, Path(checkpoint))
        coder = CODERS[name].load(folder / "coder.npz")
        return cls(coder, tools, report, version=version, folder=folder)

    def _saved(self, name: str) -> Path:
        if self._folder is None:
            raise ValueError("the codebook has not been saved")
        return self._folder / name

    def _codes_NP(self) -> Ints:
        return np.array([entry.code for entry in self.tools], dtype=np.int32)

    def _trie(self, ids: Sequence[Sequence[int]], end: int) -> Trie:
        token_ids_PK = np.array(ids, dtype=np.int32)
        codes_NP = token_ids_PK[np.arange(self.num_levels), self._codes_NP()]
        return Trie.build(codes_NP, [entry.tool.id for entry in self.tools], end)

    def _grammar(self, ids: Sequence[Sequence[int]], end: int) -> Trie:
        """A proposal starts with a number that some tool has (A39); the rest is free."""
        in_use = sorted({entry.code[0] for entry in self.tools})
        return Trie.grammar([[ids[0][number] for number in in_use], *ids[1:]], end)


def fit_codebook(
    tools: Sequence[Tool],
    embeddings: Floats,
    *,
    size: int = 512,
    levels: int | None = None,
    seed: int = 0,
    dims: int = 32,
    version: int = 1,
    accepted_at: Sequence[str] | None = None,
) -> Codebook:
    """A codebook of these tools, each with a code of its own.

    Args:
        tools: N tools, at least 2; of equal ids the first is kept (A25(1)).
        embeddings: (N, D) or (N, V, D).
        size: numbers of a position at most; capped at N // 8 (A14).
        levels: levels of an embedding; None or 0 is as many as leave 20 codes a tool (A27).
        seed: of k-means.
        dims: dimensions that PCA keeps at most.
        version: of the codebook.
        accepted_at: N sortable times; tools come in by (accepted-at, id).

    Raises:
        InputError: more tools than codes, or more positions than letters.
    """
    new = _Newcomers.ordered(tools, as_NVD(embeddings), accepted_at)
    num_tools, views, _ = new.embeddings_NVD.shape
    if num_tools < 2:
        raise ValueError(f"{num_tools} tools are too few for a codebook")
    shape = choose_shape(num_tools, size, levels, views)
    coder = ResidualCoder(levels=shape.levels, size=shape.size, dims=dims)
    encoding = coder.fit(new.embeddings_NVD, seed=seed)
    assignment = resolve(coder, new.embeddings_NVD, encoding.codes_NP, Taken())
    moved_N = np.array([how != "nearest" for how in assignment.resolved_by])
    report = Report(
        collisions_before=num_tools - len(np.unique(encoding.codes_NP, axis=0)),
        moved=assignment.moved,
        penalty=float(assignment.penalty_N[moved_N].mean()) if moved_N.any() else 0.0,
        usage_entropy=_usage_entropy(assignment.codes_NP, coder.sizes),
        outlier_error=_outlier_error(encoding.error_N),
        reencoded=float(1 - moved_N.mean()),
    )
    entries = _entries(new, encoding, assignment, float("inf"))
    return Codebook(coder, entries, report, version=version)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Newcomers:
    """Tools in the order in which they get their codes, each once."""

    tools: list[Tool]
    embeddings_NVD: Floats

    @classmethod
    def ordered(
        cls,
        tools: Sequence[Tool],
        embeddings_NVD: Floats,
        accepted_at: Sequence[str] | None,
    ) -> _Newcomers:
        """Sort by (accepted-at, id) (A38); of equal ids the first is kept (A25(1))."""
        times = accepted_at or [""] * len(tools)
        if not len(tools) == len(embeddings_NVD) == len(times):
            raise ValueError(
                f"{len(tools)} tools, {len(embeddings_NVD)} embeddings, {len(times)} times"
            )
        first = {tool.id: row for row, tool in reversed(list(enumerate(tools)))}
        order = sorted(first.values(), key=lambda row: (times[row], tools[row].id))
        return cls(
            tools=[tools[row] for row in order],
            embeddings_NVD=embeddings_NVD[order],
        )

    def only(self, row: int) -> _Newcomers:
        """One of them."""
        one = slice(row, row + 1)
        return _Newcomers(tools=self.tools[one], embeddings_NVD=self.embeddings_NVD[one])


def _entries(
    new: _Newcomers, encoding: Encoding, assignment: Assignment, outlier_error: float
) -> list[ToolCode]:
    rows = zip(
        new.tools,
        assignment.codes_NP,
        assignment.resolved_by,
        encoding.error_N,
        strict=True,
    )
    return [
        ToolCode(
            tool=tool,
            code=tuple(int(number) for number in code),
            resolved_by=how,
            error=float(error),
            ood=bool(error > outlier_error),
        )
        for tool, code, how, error in rows
    ]


def _outlier_error(error_N: Floats) -> float:
    return float(np.percentile(error_N, OUTLIER_PERCENTILE)) if len(error_N) else 0.0


def _usage_entropy(codes_NP: Ints, sizes: Sequence[int]) -> tuple[float, ...]:
    entropies = []
    for numbers_N, size in zip(codes_NP.T, sizes, strict=True):
        share_K = np.bincount(numbers_N, minlength=size) / len(numbers_N)
        used = share_K[share_K > 0]
        entropies.append(float(-(used * np.log2(used)).sum()) + 0.0)
    return tuple(entropies)


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
    return ToolCode(
        tool=Tool(id=row["tool_id"], document=row["document"]),
        code=tuple(row["code"]),
        resolved_by=row["resolved_by"],
        error=row["error"],
        ood=row["ood"],
    )


def _report(row: dict[str, Any]) -> Report:
    return Report(**{**row, "usage_entropy": tuple(row["usage_entropy"])})


def _ids_of(
    tokens: Sequence[Sequence[str]], vocabulary: Mapping[str, int], where: str
) -> list[list[int]]:
    for token in (token for position in tokens for token in position):
        if token not in vocabulary:
            raise _lacks(token, where)
    return [[vocabulary[token] for token in position] for position in tokens]


def _refuse_other_tokens(token_ids: Mapping[str, int], checkpoint: Path) -> None:
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
