"""Trie-constrained decoding (algorithms §6), and the chosen tool's schema for its arguments.

One core for both engines and both vLLM interfaces. A constrained row may only take tokens that lead
on in its trie, and the closing token where a code is whole. Where a row stands follows from the
tokens it sampled and from nothing else, so preemption, moves within a batch and asynchronous
scheduling do no harm, and a batch may mix tries, code spans, schemas and free rows. Codes are
tensor arithmetic on the logits' device: a step of vLLM on a GPU waits for nothing on the host.

Arguments are bound by masks that a library makes on the host (factory.engines.grammar). Rows that
write them need their tokens there; steps without such a row do not.

Shape suffixes: R rows of logits, V vocabulary, T window of sampled tokens, M tokens of an opening
marker, W most ways on, S request slots of vLLM, N nodes, E edges, C rows that write JSON, B bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from factory.codes.arrays import Code
from factory.codes.trie import Trie
from factory.domain.failures import InputError, ModelError
from factory.domain.records import Constraint
from factory.engines.callform import Unsupported
from factory.engines.chat import Chat
from factory.engines.forest import FREE, LOST, NONE, Forest
from factory.engines.grammar import (
    ONLY_END,
    Documents,
    Writer,
    arguments_grammar,
    calls_grammar,
    load_grammars,
    read_documents,
)

if TYPE_CHECKING:
    from llguidance import LLMatcher

GUIDE = "factory_guide"
"""Key of a guide's wire form in vLLM's `SamplingParams.extra_args`."""
GRAMMAR = "factory_grammar"
"""Key there of the grammar of the whole answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guide:
    """A constraint in token ids. Example: Guide(trie=trie, close=2) is one code and its end."""

    trie: Trie
    """Codes that may be written."""
    close: int
    """Token that closes a code; in none of them."""
    marker: tuple[int, ...] = ()
    """Tokens after which the constraint is on; () is from the first new token on."""
    spans: bool = False
    """Whether all tokens are allowed outside a code; else only the end is."""
    documents: Documents | None = None
    """Of the tools, where the arguments of the one that is named follow its code."""


def make_guide(
    path: str,
    only: Sequence[str],
    marker: Sequence[int],
    until: int | None,
    vocabulary: int,
    documents: str = "",
) -> Guide:
    """The guide of the trie at `path`, cached until the file changes.

    Args:
        only: ids of the tools that may be named; none for all of the trie's.
        marker: tokens that open a code span; none where the answer starts with a code.
        until: token that closes a code; None is the end of the turn.
        vocabulary: tokens of the model.
        documents: path of the tools.jsonl whose schemas bind what follows the code, if any.

    Raises ModelError for a trie that is missing or broken, lacks a tool or has tokens beyond the
    vocabulary; InputError where a code holds the marker or `until`: a span has no clear bounds.
    """
    file = Path(path)
    stamp = file.stat().st_mtime_ns if file.exists() else 0
    guide = _make_guide(path, stamp, tuple(only), tuple(marker), until, vocabulary)
    return replace(guide, documents=read_documents(documents)) if documents else guide


@lru_cache(maxsize=256)
def _make_guide(
    path: str,
    stamp: int,
    only: tuple[str, ...],
    marker: tuple[int, ...],
    until: int | None,
    vocabulary: int,
) -> Guide:
    trie = _load(path, stamp, only)
    top = max(int(trie.tokens.max(initial=0)), trie.end)
    if top >= vocabulary:
        raise ModelError(
            f"The trie of codes names token {top}, the model has only {vocabulary}",
            where=path,
            remedy="use the checkpoint whose codes folder the trie comes from",
        )
    bounds = {"after": marker[-1:], "until": () if until is None else (until,)}
    for name, tokens in bounds.items():
        if np.isin(tokens, trie.tokens).any():
            raise InputError(
                f"the constraint's {name!r} is a token that codes are made of",
                where=path,
                remedy="bound the span with text that no code contains",
            )
    return Guide(
        trie=trie,
        close=trie.end if until is None else until,
        marker=marker,
        spans=bool(marker) or until is not None,
    )


@lru_cache(maxsize=256)
def _load(path: str, stamp: int, only: tuple[str, ...]) -> Trie:
    if not only:
        return Trie.load(path)
    try:
        return _load(path, stamp, ()).only(only)
    except ValueError as error:
        raise ModelError(
            f"The sub-trie cannot be made: {error}",
            where=path,
            remedy="name tools that have a code in this checkpoint",
        ) from error


class NodeTable:
    """Guides of the rows (or slots) of a batch as tensors. Rows without one are free."""

    def __init__(self, forest: Forest, guides: Sequence[Guide | None]) -> None:
        self._forest = forest
        binding = [guide for guide in guides if guide is not None]
        forest.cover(guide.trie for guide in binding)
        self.window = max(
            (forest.depth(guide.trie) + len(guide.marker) for guide in binding), default=0
        )
        """T: sampled tokens that say where a row stands, the longest code and its marker."""
        num_marker = max((len(guide.marker) for guide in binding), default=0)
        rows = [
            (
                NONE if guide is None else forest.root(guide.trie),
                NONE if guide is None else guide.close,
                guide is not None and not guide.spans,
                guide is not None and not guide.marker,
                *([NONE] * (num_marker - len(guide.marker if guide else ()))),
                *(guide.marker if guide else ()),
            )
            for guide in guides
        ]
        table = torch.tensor(rows, dtype=torch.int64).reshape(-1, 4 + num_marker)
        self._table_SC = table.to(forest.device)

    def locate(self, window_RT: Tensor, length_R: Tensor, slot_R: Tensor | None = None) -> Tensor:
        """Where each row stands: a node of the forest, or FREE.

        Args:
            window_RT: (R, T) last sampled tokens, on the right, NONE in front of the first one.
            length_R: (R) tokens sampled so far, which may be more than T.
            slot_R: (R) each row's line of the table; None where they are in order.
        """
        table_RC = self._table_SC if slot_R is None else self._table_SC[slot_R]
        root_R, close_R = table_RC[:, 0], table_RC[:, 1]
        outside_R = torch.where(table_RC[:, 2] > 0, LOST, FREE)
        from_start_R = (table_RC[:, 3] > 0) & (length_R <= window_RT.shape[1])
        place_R = torch.where(from_start_R, root_R, outside_R)
        marker_RM = table_RC[:, 4:]
        for t in range(window_RT.shape[1]):
            token_R = window_RT[:, t]
            inside_R = place_R >= 0
            node_R = place_R.clamp(min=LOST)
            next_R = self._forest.step(node_R, token_R)
            closes_R = (next_R == LOST) & self._forest.is_leaf(node_R) & (token_R == close_R)
            next_R = torch.where(closes_R, outside_R, next_R)
            next_R = torch.where(inside_R, next_R, FREE)
            if num_marker := min(t + 1, marker_RM.shape[1]):
                seen_RM = window_RT[:, t + 1 - num_marker : t + 1]
                wanted_RM = marker_RM[:, -num_marker:]
                fits_R = ((seen_RM == wanted_RM) | (wanted_RM == NONE)).all(dim=1)
                fits_R &= (marker_RM[:, :-num_marker] == NONE).all(dim=1)
                fits_R &= (wanted_RM[:, -1] != NONE) & (next_R == FREE)
                next_R = torch.where(fits_R, root_R, next_R)
            place_R = torch.where(token_R == NONE, place_R, next_R)
        return place_R

    def restrict(self, logits_RV: Tensor, place_R: Tensor, slot_R: Tensor | None = None) -> None:
        """Set all but the allowed tokens of the rows that are not FREE to -inf, in place."""
        close_R = self._table_SC[:, 1] if slot_R is None else self._table_SC[slot_R, 1]
        if not logits_RV.is_cuda:
            self._restrict_on_cpu(logits_RV, place_R, close_R)
            return
        tokens_RW = self._forest.choices(place_R.clamp(min=LOST), close_R.clamp(min=0))
        kept_RW = logits_RV.gather(1, tokens_RW)
        logits_RV.masked_fill_((place_R != FREE)[:, None], float("-inf"))
        logits_RV.scatter_(1, tokens_RW, kept_RW)

    def _restrict_on_cpu(self, logits_RV: Tensor, place_R: Tensor, close_R: Tensor) -> None:
        """The same, where looking at the rows costs nothing and passing over the logits much."""
        row_C = (place_R != FREE).nonzero()[:, 0]
        if len(row_C) == 0:
            return
        tokens_CW = self._forest.choices(place_R[row_C], close_R[row_C])
        if len(row_C) == len(logits_RV):
            kept_CW = logits_RV.gather(1, tokens_CW)
            logits_RV.fill_(float("-inf")).scatter_(1, tokens_CW, kept_CW)
        else:
            kept_CW = logits_RV[row_C[:, None], tokens_CW]
            logits_RV[row_C] = float("-inf")
            logits_RV[row_C[:, None], tokens_CW] = kept_CW


class Bound(NamedTuple):
    """What binds a request: a guide for its code, a writer for its JSON, or both in turn."""

    guide: Guide | None
    """Of the code; None where the tool is known."""
    grammar: str
    """Of the whole answer; empty where it starts with a code or has no JSON."""
    writer: Writer | None
    """Follows the JSON; None where there is none."""

    def follow(self, output_ids: Sequence[int]) -> LLMatcher | None:
        """The matcher of the JSON after these tokens; None while anything else is written."""
        if self.writer is None:
            return None
        if self.guide is None or self.guide.documents is None:
            return self.writer.follow(self.grammar, output_ids)
        output = list(output_ids)
        if self.guide.close not in output:
            return None
        num_code = output.index(self.guide.close)
        tool_id = _lookup(self.guide.trie, tuple(output[:num_code]))
        grammar = self.guide.documents.grammar(tool_id)
        try:
            return self.writer.follow(grammar, output[num_code + 1 :])
        except Unsupported:
            return self.writer.follow(ONLY_END, output[num_code + 1 :])


@lru_cache(maxsize=1 << 16)
def _lookup(trie: Trie, code: Code) -> str | None:
    """The tool of a code, asked for at every step that its arguments take."""
    return trie.lookup(code)


def mask_on_cpu(logits_RV: Tensor, row_C: Sequence[int], bits_CB: npt.NDArray[np.uint8]) -> None:
    """Set to -inf, in place, the tokens of these rows whose bit is 0.

    Row by row: a sixth of the time of indexing them all, at 64 rows of 150,000 tokens.
    """
    size = logits_RV.shape[1]
    refused_CV = np.unpackbits(~bits_CB, axis=1, count=size, bitorder="little").view(bool)
    for row, refused_V in zip(row_C, torch.from_numpy(refused_CV), strict=True):
        logits_RV[row].masked_fill_(refused_V, float("-inf"))


def mask_on_device(logits_RV: Tensor, row_C: Sequence[int], bits_CB: npt.NDArray[np.uint8]) -> None:
    """The same where calls cost more than what they do; bits are unpacked on the device."""
    size, device = logits_RV.shape[1], logits_RV.device
    places_8 = torch.arange(8, dtype=torch.uint8, device=device)
    packed_CB = torch.from_numpy(bits_CB).to(device)
    allowed_CV = ((packed_CB[:, :, None] >> places_8) & 1).flatten(1)[:, :size].bool()
    chosen_C = torch.tensor(row_C, device=device)
    logits_RV[chosen_C] = logits_RV[chosen_C].masked_fill(~allowed_CV, float("-inf"))


def write_json(logits_RV: Tensor, rows: Mapping[int, tuple[Bound, Sequence[int]]]) -> None:
    """Restrict, in place, the rows that write JSON, by the tokens they have sampled."""
    writing = [
        (row, bound.writer.grammars, matcher)
        for row, (bound, output_ids) in rows.items()
        if bound.writer and (matcher := bound.follow(output_ids)) is not None
    ]
    if writing:
        row_C, (grammars, *_), matchers = zip(*writing, strict=True)
        mask = mask_on_device if logits_RV.is_cuda else mask_on_cpu
        mask(logits_RV, row_C, grammars.mask(matchers))


class BatchRows:
    """Constrained rows of a batch whose sampled tokens are lists on the host.

    Example: BatchRows(forest, {0: (Bound(guide, "", None), output_ids)}, num_rows=2).apply(logits).
    """

    def __init__(
        self, forest: Forest, rows: Mapping[int, tuple[Bound, Sequence[int]]], num_rows: int
    ) -> None:
        self._rows = dict(rows)
        self._outputs = {
            row: output_ids for row, (bound, output_ids) in rows.items() if bound.guide
        }
        guides = [rows[row][0].guide if row in rows else None for row in range(num_rows)]
        self._table = NodeTable(forest, guides)
        self.num_rows = num_rows
        """R: rows of the logits."""

    def apply(self, logits_RV: Tensor) -> None:
        """Restrict the rows in place, by what their lists hold now."""
        if self._outputs:
            self._follow_codes(logits_RV)
        write_json(logits_RV, self._rows)

    def _follow_codes(self, logits_RV: Tensor) -> None:
        width, device = self._table.window, logits_RV.device
        window_RT = np.full((self.num_rows, width), NONE, dtype=np.int64)
        length_R = np.zeros(self.num_rows, dtype=np.int64)
        for row, output_ids in self._outputs.items():
            tail = output_ids[-width:]
            window_RT[row, width - len(tail) :] = tail
            length_R[row] = len(output_ids)
        place_R = self._table.locate(
            torch.from_numpy(window_RT).to(device), torch.from_numpy(length_R).to(device)
        )
        self._table.restrict(logits_RV, place_R)


def guide_to_wire(
    path: str, only: Sequence[str], marker: Sequence[int], until: int | None, documents: str = ""
) -> dict[str, Any]:
    """What `make_guide` needs besides the vocabulary, for `SamplingParams.extra_args`."""
    guide = {"path": path, "only": [*only], "marker": [*marker], "until": until}
    return {GUIDE: guide | {"documents": documents}}


def constraint_to_wire(constraint: Constraint, chat: Chat, *, native: bool) -> dict[str, Any]:
    """A constraint for `bind`, as `SamplingParams.extra_args` takes it; `native` calls are those of
    the chat template. Raises Unsupported for a template of whose calls no grammar can be made.
    """
    if not constraint.tools:
        bounds = chat.bounds(constraint)
        return guide_to_wire(
            constraint.trie, constraint.only, **bounds, documents=constraint.documents
        )
    if constraint.form == "calls":
        form = chat.native_form if native else chat.own_form
        return {GRAMMAR: calls_grammar(constraint.tools, form)}
    return {GRAMMAR: arguments_grammar(constraint.tools[0])}


def guide_of(wire: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The guide in extra arguments, as make_guide takes it; over HTTP it is a text there."""
    named: dict[str, Any] | str | None = (wire or {}).get(GUIDE)
    guide: dict[str, Any] | None = json.loads(named) if isinstance(named, str) else named
    return guide


def bind(wire: Mapping[str, Any] | None, folder: str, vocabulary: int) -> Bound | None:
    """What binds the request with these extra arguments, of constraint_to_wire or of another
    caller of vLLM; None where nothing does. `folder` is the model's, `vocabulary` its tokens.

    Raises Unsupported where no grammar can be made, and what make_guide raises.
    """
    named, grammar = guide_of(wire), (wire or {}).get(GRAMMAR, "")
    if named is None and not grammar:
        return None
    guide = make_guide(**named, vocabulary=vocabulary) if named else None
    if not grammar and (guide is None or guide.documents is None):
        return Bound(guide, "", None)
    grammars = load_grammars(folder, vocabulary)
    if grammar:
        grammars.start(grammar)
    return Bound(guide, grammar, Writer(grammars))
