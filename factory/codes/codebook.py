"""The codebook of a checkpoint: which tool has which code, and how a new one gets its own.

A checkpoint's `codes/` folder holds

    codebook.json   coder, version, code tokens with their ids, the code reserved for Finish, and
                    what the fit reported
    coder.npz       the coder's arrays
    tools.jsonl     one line a tool: tool_id, code, resolved_by, error, ood, document
    trie.npz        the codes of all tools, in token ids
    grammar.npz     the codes a model may propose for a new document, in token ids; only where a
                    coder's numbers say something of documents

fit → add → refresh → save after training; load → code_text, parse, tool_of while sampling. Loading
and looking up need numpy only. A codebook's version changes when its tools are given other codes
(`recode`), not when tools are added or the coder follows the model into another space. Texts are
stored with tool ids, so what an old round learnt reads the same from its own checkpoint's codes.

One code ends a trajectory instead of naming a tool (Finish, §3.4). No tool gets it, and it is not
in the trie of all tools, so retrieval cannot return it. In texts its id is FINISH.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from factory.codes.arrays import REMEDY, Code, Floats, Ints, as_NVD
from factory.codes.base import Assignment, Coder, OnProgress, ResolvedBy, Taken, silent
from factory.codes.config import CodeConfig
from factory.codes.flat import AtomicCoder, HierarchicalCoder, NumericCoder, SemanticCoder
from factory.codes.graph import build_graph
from factory.codes.levels import LevelCoder, mean_rows
from factory.codes.quantized import QuantizedCoder
from factory.codes.residual import ResidualCoder
from factory.codes.trie import FINISH, Trie
from factory.codes.vocabulary import (
    add_code_tokens,
    code_tokens,
    embed_names,
    initialise_rows,
    read_vocabulary,
)
from factory.domain.canon import canonical_json
from factory.domain.failures import ModelError
from factory.domain.records import CodeAlias, Pair, Tool

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


FOLDER = "codes"
"""Name of a codebook's folder in a checkpoint."""


FORMAT = 1
"""Version of codebook.json."""


OUTLIER_PERCENTILE = 99.0
"""A new tool farther out than this share of the known ones is marked (A38)."""


RECODE_NEW, RECODE_MOVED, RECODE_OUTLIERS = 0.10, 0.05, 0.02
"""Shares of tools that came after the fit, that came off their nearest code since, and that are far
out, above which codes that may be made anew are made anew (A41)."""


LOADERS: Mapping[str, Callable[[Path], Coder]] = {
    coder.name: coder.load
    for coder in (
        AtomicCoder,
        NumericCoder,
        HierarchicalCoder,
        SemanticCoder,
        ResidualCoder,
        QuantizedCoder,
    )
}
"""How a saved coder is read, by the recipe's word for it."""


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
    fitted: int = 0
    """Tools that the codebook was fitted on; 0 where that was not recorded."""
    age: int = 0
    """Trainings since the fit."""


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
        embedder: str = "",
        views: int = 0,
        finish: Code | None = None,
        finish_ids: Code = (),
        folder: Path | None = None,
        longest: int = 0,
    ) -> None:
        self.coder = coder
        """What gives codes to documents."""
        self.report = report
        """What fitting, adding and refreshing found."""
        self.version = version
        """Changes when known tools are given other codes."""
        self.embedder = embedder
        """What embeds the documents (CodeConfig.embedder)."""
        self.views = views
        """Gist states of a document; 0 where it was not compressed (CodeConfig.views)."""
        self.finish = finish
        """The code of Finish; None where it was made without, or none was left."""
        self.finish_ids = finish_ids
        """The same in token ids, once the codebook was saved."""
        self.tokens: list[list[str]] = []
        """Code tokens by position; none where codes read as digits or names."""
        self._folder = folder
        self._longest = longest
        self._tools = {entry.tool.id: entry for entry in tools}
        self._ids = {entry.code: entry.tool.id for entry in tools}
        self._numbers: dict[str, tuple[int, int]] = {}
        self._fresh: list[set[int]] = []
        self._name_tokens()

    def _name_tokens(self) -> None:
        """Code tokens for the coder's present sizes."""
        if self.coder.layout != "tokens":
            return
        self.tokens = code_tokens(len(self.coder.sizes), max(self.coder.sizes))
        self._numbers = {
            token: (position, number)
            for position, level in enumerate(self.tokens)
            for number, token in enumerate(level)
        }

    @property
    def num_levels(self) -> int:
        """Tokens of the longest code; for digits and names known once the codebook was saved."""
        return len(self.tokens) or self._longest or max(map(len, self._ids), default=0)

    @property
    def needs_documents(self) -> bool:
        """Whether adding tools and refreshing take embeddings of documents."""
        return self.coder.reads_documents

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
    def grammar_path(self) -> Path | None:
        """The saved grammar of codes that a model may propose for a new document.

        None where a code says nothing that a document could tell: there is nothing to propose.
        """
        return self._saved("grammar.npz") if isinstance(self.coder, LevelCoder) else None

    def __len__(self) -> int:
        return len(self._tools)

    def __contains__(self, tool_id: str) -> bool:
        return tool_id in self._tools

    def code_of(self, tool_id: str) -> Code:
        """A tool's code. KeyError for a tool without one."""
        return self._tools[tool_id].code

    def code_text(self, tool_id: str) -> str:
        """A tool's code tokens as text, `<a_1><b_7><c_0>`. KeyError for a tool without a code."""
        if tool_id == FINISH and self.finish is not None:
            return self.text_of(self.finish)
        return self.text_of(self.code_of(tool_id))

    def text_of(self, code: Code) -> str:
        """A code as the model writes it."""
        match self.coder.layout:
            case "tokens":
                return "".join(
                    self.tokens[position][number] for position, number in enumerate(code)
                )
            case "digits":
                return " ".join(map(str, code))
            case "name":
                return bytes(code).decode("utf-8", "replace")

    def parse(self, text: str) -> Code | None:
        """The code that a text spells, and nothing else; else None."""
        match self.coder.layout:
            case "tokens":
                return self._parse_tokens("".join(text.split()))
            case "digits":
                digits = text.split()
                good = digits and all(d in "0123456789" and len(d) == 1 for d in digits)
                return tuple(map(int, digits)) if good else None
            case "name":
                return tuple(text.strip().encode("utf-8", "replace")) or None

    def _parse_tokens(self, tight: str) -> Code | None:
        found = _TOKEN.findall(tight)
        places = [self._numbers.get(token) for token in found]
        code = tuple(place[1] for i, place in enumerate(places) if place and place[0] == i)
        whole = len(code) == len(found) == len(self.tokens) and tight == "".join(found)
        return code if whole else None

    def tool_of(self, text: str) -> Tool | None:
        """The tool that a text names by its code; None for no code and for a free one."""
        code = self.parse(text)
        tool_id = self._ids.get(code) if code is not None else None
        return None if tool_id is None else self._tools[tool_id].tool

    def similar(self, tool_id: str, limit: int) -> list[tuple[ToolCode, int]]:
        """The tools whose codes differ least from a tool's, with the positions that differ.

        KeyError for a tool without a code. ValueError where codes say nothing of documents.
        """
        if not self.needs_documents:
            raise ValueError(f"{self.coder.name} codes say nothing of documents")
        code = self.code_of(tool_id)
        found = [
            (entry, _hamming(code, entry.code)) for entry in self.tools if entry.tool.id != tool_id
        ]
        return sorted(found, key=lambda pair: (pair[1], pair[0].tool.id))[:limit]

    def add(
        self,
        tools: Sequence[Tool],
        embeddings: Floats | None = None,
        accepted_at: Sequence[str] | None = None,
    ) -> list[ToolCode]:
        """Give new tools codes without fitting again (A38), one after the other.

        The order is (accepted-at, id), whatever the order of the arguments, so the same tools get
        the same codes on repetition, in one call or in several in that order. Tools that have a
        code keep it.

        Args:
            tools: N tools.
            embeddings: (N, D) or (N, V, D), from the model that the coder was last refreshed for;
                None where the coder reads no documents.
            accepted_at: N sortable times; without them all count as accepted at once.

        Returns:
            N entries, in the order of the arguments.

        Raises:
            InputError: no code is left.
        """
        taken = self._taken()
        new = _Newcomers.ordered(tools, self._documents(embeddings, len(tools)), accepted_at)
        for row, tool in enumerate(new.tools):
            if tool.id not in self:
                self._add_one(new.only(row), taken)
        self.report = replace(
            self.report,
            moved=sum(entry.resolved_by != "nearest" for entry in self.tools),
            usage_entropy=_usage_entropy(self.coder, self._codes()),
        )
        return [self._tools[tool.id] for tool in tools]

    def _taken(self) -> Taken:
        """Codes that no further tool may get."""
        return Taken([*self._ids, *([] if self.finish is None else [self.finish])])

    def _add_one(self, new: _Newcomers, taken: Taken) -> None:
        given = self.coder.assign(new.names, new.embeddings_NVD, taken)
        entry = _entries(new, given, self.report.outlier_error)[0]
        self._tools[entry.tool.id] = entry
        self._ids[entry.code] = entry.tool.id
        if self.tokens and len(self.tokens[0]) < self.coder.sizes[0]:
            self._name_tokens()
            self._fresh = self._fresh or [set()]
            self._fresh[0].add(entry.code[0])

    def _documents(self, embeddings: Floats | None, num_tools: int) -> Floats:
        if embeddings is None and not self.needs_documents:
            return np.zeros((num_tools, 1, 0))
        if embeddings is None:
            raise ValueError(f"the coder {self.coder.name} needs embeddings of the documents")
        return as_NVD(embeddings)

    def refresh(self, embeddings: Floats | None, *, seed: int = 0) -> float:
        """Follow the model into the space it has after training; every tool keeps its code.

        Args:
            embeddings: (N, D) or (N, V, D) of `self.tools`, in that order; None where training
                does not move them.
            seed: of what learns anew.

        Returns:
            The share of tools whose nearest code is still the stored one.
        """
        report = replace(self.report, age=self.report.age + 1)
        if embeddings is not None:
            embeddings_NVD = as_NVD(embeddings)
            if len(embeddings_NVD) != len(self):
                raise ValueError(f"{len(self)} tools, {len(embeddings_NVD)} embeddings")
            self.coder.refresh(embeddings_NVD, self._codes(), seed=seed)
            nearest_N = self.coder.nearest(embeddings_NVD, self._codes())
            known = np.array([not entry.ood for entry in self.tools])
            error_N = self._first_errors(embeddings_NVD)[known]
            report = replace(
                report, reencoded=float(nearest_N.mean()), outlier_error=_outlier_error(error_N)
            )
        self.report = report
        return report.reencoded

    def _first_errors(self, embeddings_NVD: Floats) -> Floats:
        if isinstance(self.coder, LevelCoder):
            return self.coder.encode(embeddings_NVD).error_N
        if isinstance(self.coder, HierarchicalCoder):
            return self.coder.first_errors(embeddings_NVD)
        return np.zeros(len(embeddings_NVD))

    def why_recode(self, config: CodeConfig, num_new: int = 0) -> str:
        """Why all tools should get codes anew before `num_new` come in; empty: no reason (A41)."""
        made = _describe_codes(self.coder.name, self.embedder, self.views)
        wanted = _describe_codes(config.coder, config.embedder, config.views)
        if made != wanted:
            return f"these are {made}, the recipe has {wanted}"
        if not config.recode_every or not self.needs_documents:
            return ""
        report, num_tools = self.report, len(self)
        new = (num_tools - (report.fitted or num_tools) + num_new) / (num_tools + num_new)
        if report.age >= config.recode_every:
            return f"the codes are {report.age} trainings old"
        if new >= RECODE_NEW:
            return f"{new:.0%} of the tools came after the fit"
        later = self.tools[report.fitted or num_tools :]
        moved = sum(entry.resolved_by != "nearest" for entry in later)
        if moved > RECODE_MOVED * num_tools:
            return f"{moved / num_tools:.0%} of the tools came later and are off their nearest code"
        if len(self.outliers) > RECODE_OUTLIERS * num_tools:
            return f"{len(self.outliers) / num_tools:.0%} of the tools are far from all codes"
        return ""

    def install(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        embeddings: Floats | None = None,
        *,
        reframe: bool = True,
    ) -> list[list[int]]:
        """Add the code tokens to a model and its tokenizer; new ones get rows of their members.

        Rows are made of the model's own embeddings of the members' documents where a coder puts
        residuals back into its width (§2.4), else of the members' names (§3.1, A20).

        Args:
            model: causal model.
            tokenizer: its tokenizer.
            embeddings: (N, D) or (N, V, D) of `self.tools`, in that order; None for coders that
                read no documents.
            reframe: whether rows are made of members; else new ones stay as the model makes them.

        Returns:
            Token ids by position.
        """
        if not self.tokens:
            return []
        ids = add_code_tokens(tokenizer, model, self.tokens)
        if any(self._fresh) and reframe:
            codes, names = self._codes(), [_words(entry.tool) for entry in self.tools]
            if self.finish is not None and isinstance(self.coder, AtomicCoder):
                codes, names = [*codes, self.finish], [*names, "Finish"]
            codes_NP = np.array(codes, dtype=np.int32)
            if isinstance(self.coder, ResidualCoder) and not self.embedder:
                documents_NVD = self._documents(embeddings, len(self))
                rows = self.coder.rows(documents_NVD, codes_NP)
            else:
                name_ND = embed_names(model, tokenizer, names)
                levels = self.coder.levels if isinstance(self.coder, LevelCoder) else 1
                rows = mean_rows(name_ND, codes_NP, self.coder.sizes, levels)
            initialise_rows(model, ids, rows, self._fresh)
            self._fresh = []
        return ids

    def unexplained(self, embeddings: Floats) -> float | None:
        """Share of the documents' variance that whole codes leave; None where none is explained.

        `embeddings` are those of `self.tools`, in that order.
        """
        if not isinstance(self.coder, LevelCoder):
            return None
        embeddings_NVD = as_NVD(embeddings)
        left_N = self.coder.errors(embeddings_NVD, np.array(self._codes(), dtype=np.int32)) ** 2
        views = range(len(self.coder.sizes) // self.coder.levels)
        spread = sum(self.coder.project(embeddings_NVD, v).var(axis=0).sum() for v in views)
        return float(left_N.mean() / spread) if spread else 0.0

    def mark_fresh(self) -> None:
        """Let `install` write the rows of all code tokens."""
        self._fresh = [set(range(len(position))) for position in self.tokens]

    def take_names(self, old: Codebook, embeddings: Floats | None) -> float:
        """Number the codes as in an older codebook where they mean the same; its share that do.

        `embeddings` are those of `self.tools`, in that order. The old centroids are in another
        space, so an old number stands where its tools are in this coder's, on average.
        """
        coder, other = self.coder, old.coder
        if not (isinstance(coder, LevelCoder) and isinstance(other, LevelCoder)):
            return 0.0
        documents_NVD = self._documents(embeddings, len(self))
        codes_NP = np.array(self._codes(), dtype=np.int32)
        old_codes = [
            (row, old.code_of(tool_id))
            for row, tool_id in enumerate(self.tool_ids)
            if tool_id in old
        ]
        names_PK, kept = [], 0
        for position, size in enumerate(coder.sizes):
            both = [
                (row, code[position])
                for row, code in old_codes
                if position < len(code) and code[position] < size
            ]
            rows, old_N = np.array(both, dtype=np.int32).reshape(-1, 2).T
            prefix_NP = codes_NP[rows, :position]
            distance_KK = coder.regroup(documents_NVD[rows], prefix_NP, old_N)
            names_K, matched_K = _match_names(codes_NP[rows, position], old_N, distance_KK)
            names_PK.append(names_K)
            self._fresh[position] = set(names_K[~matched_K].tolist())
            kept += int(matched_K.sum())
        coder.renumber(names_PK)
        self._tools = {
            tool_id: replace(
                entry,
                code=tuple(int(names_PK[p][number]) for p, number in enumerate(entry.code)),
            )
            for tool_id, entry in self._tools.items()
        }
        self._ids = {entry.code: tool_id for tool_id, entry in self._tools.items()}
        if self.finish is not None:
            self.finish = tuple(int(names_PK[p][n]) for p, n in enumerate(self.finish))
        return kept / sum(other.sizes)

    def take_finish(self, old: Codebook, embeddings: Floats | None) -> None:
        """Let Finish keep an older codebook's code; a tool that has it now gets another one.

        `embeddings` are those of `self.tools`, in that order. Where codes have another shape,
        Finish has another code.
        """
        wanted, sizes = old.finish, self.coder.sizes
        if wanted is None or self.coder.layout != old.coder.layout:
            return
        if self.tokens and len(wanted) != len(sizes):
            return
        if any(number >= size for number, size in zip(wanted, sizes, strict=False)):
            return
        self.finish = wanted
        if (tool_id := self._ids.pop(wanted, None)) is not None:
            row = self.tool_ids.index(tool_id)
            entry = self._tools[tool_id]
            given = self.coder.assign(
                [_code_name(entry.tool)],
                self._documents(embeddings, len(self))[row : row + 1],
                self._taken(),
            )
            how: ResolvedBy = "sibling" if given.codes[0][:-1] == wanted[:-1] else "prefix"
            self._tools[tool_id] = replace(entry, code=given.codes[0], resolved_by=how)
            self._ids[given.codes[0]] = tool_id

    def summary(self) -> dict[str, Any]:
        """A codebook in figures: what the ledger keeps of it."""
        return {
            "version": self.version,
            "coder": self.coder.name,
            "levels": self.num_levels,
            "size": max(self.coder.sizes, default=0),
            "num_tools": len(self),
            "collisions_before": self.report.collisions_before,
            "moved": self.report.moved,
            "penalty": self.report.penalty,
            "outlier_error": self.report.outlier_error,
            "reencoded": self.report.reencoded,
            "usage_entropy": float(np.mean(self.report.usage_entropy or (0.0,))),
            "sha": self.sha(),
        }

    def sha(self) -> str:
        """SHA-256 over the code tokens and every tool's code, in the order they came in."""
        codes = [[entry.tool.id, *entry.code] for entry in self.tools]
        text = canonical_json({"tokens": self.tokens, "version": self.version, "codes": codes})
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    def spellings(self, tokenizer: PreTrainedTokenizerBase) -> frozenset[Code]:
        """All codes in the ids of a tokenizer, that of Finish too. ModelError as `save` has it."""
        ids = _ids_of(self.tokens, tokenizer.get_vocab(), tokenizer.name_or_path)
        codes = [*self._codes(), *([] if self.finish is None else [self.finish])]
        return frozenset(self._spell(code, ids, tokenizer) for code in codes)

    def save(
        self, checkpoint: Path, tokenizer: PreTrainedTokenizerBase, end: int | None = None
    ) -> None:
        """Write `codes/` into a checkpoint folder, in the ids of the tokenizer saved beside it.

        Args:
            checkpoint: the folder.
            tokenizer: its tokenizer.
            end: the token after a code (factory.engines.turn); None is the tokenizer's eos_token.

        Raises:
            ModelError: the tokenizer lacks a code token or an end-of-turn token.
        """
        ids = _ids_of(self.tokens, tokenizer.get_vocab(), str(checkpoint))
        end = tokenizer.eos_token_id if end is None else end
        if end is None:
            raise ModelError(
                "the tokenizer has no end-of-turn token",
                where=str(checkpoint),
                remedy="set eos_token in the model's tokenizer_config.json",
            )
        folder = checkpoint / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        if self.tokens:
            token_ids_PK = np.array(ids, dtype=np.int32)
            codes_NP = np.array(self._codes(), dtype=np.int32)
            spelt: Ints | list[Code] = token_ids_PK[np.arange(len(ids)), codes_NP]
        else:
            spelt = [self._spell(code, ids, tokenizer) for code in self._codes()]
            self._longest = max(map(len, spelt))
        if self.finish is not None:
            self.finish_ids = self._spell(self.finish, ids, tokenizer)
            self._longest = max(self._longest, len(self.finish_ids))
        Trie.build(spelt, list(self.tool_ids), end).save(folder / "trie.npz")
        if isinstance(self.coder, LevelCoder):
            self._grammar(ids, end).save(folder / "grammar.npz")
        self.coder.save(folder / "coder.npz")
        lines = [json.dumps(_to_json(entry)) + "\n" for entry in self.tools]
        (folder / "tools.jsonl").write_text("".join(lines), encoding="utf-8")
        head = {
            "format": FORMAT,
            "coder": self.coder.name,
            "version": self.version,
            "levels": self.num_levels,
            "size": max(self.coder.sizes, default=0),
            "embedder": self.embedder,
            "views": self.views,
            "end": end,
            "token_ids": {
                token: number
                for names, numbers in zip(self.tokens, ids, strict=True)
                for token, number in zip(names, numbers, strict=True)
            },
            "finish": self.finish,
            "finish_ids": self.finish_ids,
            "report": asdict(self.report),
        }
        (folder / "codebook.json").write_text(json.dumps(head, indent=1) + "\n", encoding="utf-8")
        self._folder = folder

    def _spell(
        self, code: Code, ids: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase
    ) -> Code:
        """A code in token ids."""
        if self.tokens:
            return tuple(ids[position][number] for position, number in enumerate(code))
        return tuple(tokenizer(self.text_of(code), add_special_tokens=False)["input_ids"])

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
            finish = tuple(head["finish"]) if head.get("finish") else None
            if head["format"] != FORMAT or name not in LOADERS:
                raise ValueError(f"format {head['format']} with coder {name!r} is not known here")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"cannot read the codebook: {error}", where=str(folder), remedy=REMEDY
            ) from error
        _refuse_other_tokens(token_ids, Path(checkpoint))
        return cls(
            LOADERS[name](folder / "coder.npz"),
            tools,
            report,
            version=version,
            embedder=head.get("embedder", ""),
            views=head.get("views", 0),
            finish=finish,
            finish_ids=tuple(head.get("finish_ids", ())),
            folder=folder,
            longest=head["levels"],
        )

    def _saved(self, name: str) -> Path:
        if self._folder is None:
            raise ValueError("the codebook has not been saved")
        return self._folder / name

    def _codes(self) -> list[Code]:
        return [entry.code for entry in self.tools]

    def _grammar(self, ids: Sequence[Sequence[int]], end: int) -> Trie:
        """A proposal starts with a number that some tool has (A39); the rest is free."""
        in_use = sorted({entry.code[0] for entry in self.tools})
        return Trie.grammar([[ids[0][number] for number in in_use], *ids[1:]], end)


def fit_codebook(
    tools: Sequence[Tool],
    embeddings: Floats | None,
    config: CodeConfig | None = None,
    *,
    size: int = 512,
    levels: int | None = None,
    seed: int = 0,
    accepted_at: Sequence[str] | None = None,
    pairs: Sequence[Pair] = (),
    on_progress: OnProgress = silent,
) -> Codebook:
    """A codebook of these tools, each with a code of its own.

    Args:
        tools: N tools, at least 2; of equal ids the first is kept (A25(1)).
        embeddings: (N, D) or (N, V, D); None where the coder reads no documents.
        config: which codes; without it residual ones of `size` and `levels`.
        size: numbers of a position at most; capped at N // 8 (A14).
        levels: levels of an embedding; None or 0 is as many as leave 20 codes a tool (A27).
        seed: of everything random.
        accepted_at: N sortable times; tools come in by (accepted-at, id).
        pairs: tools that are called together; only `quantized` looks at them.
        on_progress: hears of the epochs of a coder that learns in epochs.

    Raises:
        InputError: more tools, with Finish, than codes, or more positions than letters.
    """
    config = config or CodeConfig(size=size, levels=levels or 0)
    empty = np.zeros((len(tools), 1, 0))
    given = as_NVD(empty if embeddings is None else embeddings)
    new = _Newcomers.ordered(tools, given, accepted_at)
    num_tools, views, width = new.embeddings_NVD.shape
    if num_tools < 2:
        raise ValueError(f"{num_tools} tools are too few for a codebook")
    coder = config.make(num_tools, views, on_progress)
    if coder.reads_documents and not width:
        raise ValueError(f"the coder {coder.name} needs embeddings of the documents")
    graph = build_graph(pairs, new.tools) if pairs else None
    coder.fit(new.embeddings_NVD, seed=seed, graph=graph)
    taken = Taken()
    assignment = coder.assign(new.names, new.embeddings_NVD, taken)
    finish = coder.reserve(taken)
    moved_N = np.array([how != "nearest" for how in assignment.resolved_by])
    report = Report(
        collisions_before=assignment.collisions,
        moved=assignment.moved,
        penalty=float(assignment.penalty_N[moved_N].mean()) if moved_N.any() else 0.0,
        usage_entropy=_usage_entropy(coder, assignment.codes),
        outlier_error=_outlier_error(assignment.error_N),
        reencoded=float(1 - moved_N.mean()),
        fitted=num_tools,
    )
    entries = _entries(new, assignment, float("inf"))
    codebook = Codebook(
        coder,
        entries,
        report,
        version=config.version,
        embedder=config.embedder,
        views=config.views,
        finish=finish,
    )
    codebook.mark_fresh()
    return codebook


@dataclass(frozen=True, slots=True, kw_only=True)
class Recoding:
    """What making codes anew changed. Example: see recode."""

    codebook: Codebook
    """The new one."""
    reason: str
    """Why it was made."""
    kept_names: float
    """Share of the old code tokens that stand for a new code, and keep their rows."""
    aliases: tuple[CodeAlias, ...]
    """Old and new tokens of each position that share tools; none where codes are no tokens."""
    changed: tuple[Tool, ...]
    """The old codebook's tools whose code reads differently now."""
    churn: float
    """Their share."""

    def figures(self) -> dict[str, Any]:
        """All but the tools and their tokens, for the ledger."""
        return {"reason": self.reason, "kept_names": self.kept_names, "churn": self.churn}


def recode(
    old: Codebook,
    tools: Sequence[Tool],
    embeddings: Floats | None,
    config: CodeConfig,
    *,
    reason: str = "",
    seed: int = 0,
    pairs: Sequence[Pair] = (),
) -> Recoding:
    """Give all tools of a codebook, and `tools` after them, codes anew (A41).

    New numbers take the name of the old number of their position with which they share most tools
    (a matching of greatest total, level by level; of equal totals the one of least distance), so
    that a token goes on meaning what a model has learnt of it. Numbers without such an old one take
    the names left over, lowest first, and get new rows when the codebook is installed.

    Args:
        old: the codebook to replace; it is not changed.
        tools: new tools, in order of insertion.
        embeddings: of the old codebook's tools and then of `tools`, as fit_codebook takes them.
        config: which codes.
        reason: kept in the result.
        seed: of everything random.
        pairs: tools that are called together.
    """
    everyone = [*(entry.tool for entry in old.tools), *tools]
    times = [f"{row:09d}" for row in range(len(everyone))]
    before = {entry.tool.id: old.text_of(entry.code) for entry in old.tools}
    codebook = fit_codebook(everyone, embeddings, config, seed=seed, accepted_at=times, pairs=pairs)
    documents_NVD = None
    if embeddings is not None:
        row_of = {tool.id: row for row, tool in reversed(list(enumerate(everyone)))}
        documents_NVD = as_NVD(embeddings)[[row_of[entry.tool.id] for entry in codebook.tools]]
    kept = codebook.take_names(old, documents_NVD)
    codebook.take_finish(old, documents_NVD)
    changed = tuple(
        entry.tool
        for entry in old.tools
        if codebook.code_text(entry.tool.id) != before[entry.tool.id]
    )
    return Recoding(
        codebook=codebook,
        reason=reason,
        kept_names=kept,
        aliases=_aliases(old, codebook),
        changed=changed,
        churn=len(changed) / len(before),
    )


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

    @property
    def names(self) -> list[str]:
        """Their names, as codes may spell them."""
        return [_code_name(tool) for tool in self.tools]

    def only(self, row: int) -> _Newcomers:
        """One of them."""
        one = slice(row, row + 1)
        return _Newcomers(tools=self.tools[one], embeddings_NVD=self.embeddings_NVD[one])


def _code_name(tool: Tool) -> str:
    """`compress for Imagon`: an API of a service is told apart from another's (§3.2)."""
    service = tool.document.get("tool_name")
    return f"{tool.name} for {service}" if service else tool.name


def _words(tool: Tool) -> str:
    """`Imagon compress`: whose words a code's row is made of (§3.1)."""
    service = tool.document.get("tool_name")
    return f"{service} {tool.name}" if service else tool.name


def _entries(new: _Newcomers, assignment: Assignment, outlier_error: float) -> list[ToolCode]:
    rows = zip(new.tools, assignment.codes, assignment.resolved_by, assignment.error_N, strict=True)
    return [
        ToolCode(
            tool=tool,
            code=code,
            resolved_by=how,
            error=float(error),
            ood=bool(error > outlier_error),
        )
        for tool, code, how, error in rows
    ]


def _match_names(
    new_N: Ints, old_N: Ints, distance_KK: Floats
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """(K) an old number for each new one, all different, and which of them share a tool.

    As many tools as can be keep their number; of equal matchings the one of least total distance
    from new to old numbers (A41), where numbers without a tool in common are farthest apart.

    Args:
        new_N: new numbers of N tools.
        old_N: their old ones.
        distance_KK: from each new number to each old one.
    """
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

    size = len(distance_KK)
    shared_KK = np.zeros((size, size))
    np.add.at(shared_KK, (new_N, old_N), 1)
    farthest = distance_KK.max(initial=0.0, where=shared_KK > 0) or 1.0
    # Size times the greatest tie-break is less than one tool.
    tie_KK = np.where(shared_KK > 0, distance_KK / farthest, 1.0) / (size + 1)
    _, names_K = linear_sum_assignment(tie_KK - shared_KK)
    matched_K = shared_KK[np.arange(size), names_K] > 0
    names_K[~matched_K] = np.sort(names_K[~matched_K])
    return names_K.astype(np.int64), matched_K


def _aliases(old: Codebook, new: Codebook) -> tuple[CodeAlias, ...]:
    """Which tokens tools have now that had another, or the same, position by position."""
    if not (old.tokens and new.tokens):
        return ()
    counts = Counter(
        (position, *numbers)
        for entry in old.tools
        for position, numbers in enumerate(
            zip(entry.code, new.code_of(entry.tool.id), strict=False)
        )
    )
    return tuple(
        CodeAlias(old_token=old.tokens[p][then], new_token=new.tokens[p][now], overlap=count)
        for (p, then, now), count in sorted(counts.items())
    )


def _hamming(a: Code, b: Code) -> int:
    """Positions that differ; one that only the longer code has differs."""
    return abs(len(a) - len(b)) + sum(x != y for x, y in zip(a, b, strict=False))


def _describe_codes(coder: str, embedder: str, views: int) -> str:
    over = embedder or (f"{views} gist states" if views else "")
    return f"{coder} codes" + (f" over {over}" if over else "")


def _outlier_error(error_N: Floats) -> float:
    return float(np.percentile(error_N, OUTLIER_PERCENTILE)) if len(error_N) else 0.0


def _usage_entropy(coder: Coder, codes: Sequence[Code]) -> tuple[float, ...]:
    """Bits of each position's use, among the codes that reach it; none for names."""
    entropies = []
    for position, size in enumerate(coder.sizes):
        numbers = [code[position] for code in codes if position < len(code)]
        share_K = np.bincount(numbers, minlength=size) / max(1, len(numbers))
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
