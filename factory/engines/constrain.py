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

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from factory.codes.base import Code
from factory.codes.trie import ROOT, Trie
from factory.engines.grammar import (
    ONLY_END,
    Documents,
    Unsupported,
    Writer,
    arguments_grammar,
    calls_grammar,
    load_grammars,
    read_documents,
)
from factory.failures import InputError, ModelError
from factory.records import Constraint

GUIDE = "factory_guide"
"""Key of a guide's wire form in vLLM's `SamplingParams.extra_args`."""
GRAMMAR = "factory_grammar"
"""Key there of the grammar of the whole answer."""
FREE = -1
"""Where a row stands that may take any token."""
LOST = 0
"""The forest's node of a row that left its trie: only the closing token is allowed there."""
NONE = -1
"""In place of a token where there is none."""
LEAST_ROOM = 1 << 20
"""Nodes that a forest may hold in vain before it drops the tries nobody walks."""


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
    """The guide of a saved trie, or of its sub-trie of some tools, cached until the file changes.

    Args:
        path: of the trie.
        only: ids of the tools that may be named; none for all of them.
        marker: tokens that open a code span; none where the answer starts with a code.
        until: token that closes a code; None is the end of the turn.
        vocabulary: tokens of the model.
        documents: path of the tools.jsonl whose schemas bind what follows the code, if any.

    Raises:
        ModelError: the trie is missing or broken, lacks one of the tools, or has tokens beyond
            the vocabulary.
        InputError: a code holds the marker or the closing token, so a span has no clear bounds.
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


class Forest:
    """Tries side by side in the arrays of one device, so that one step moves all rows at once.

    A step is a binary search for (node, token) among all edges, which are sorted by that pair.
    Node LOST has no edges and counts as a leaf.
    """

    def __init__(self, device: Any) -> None:
        self.device = device
        """Where the arrays are."""
        self._roots: dict[Trie, int] = {}
        self._depths: dict[Trie, int] = {}
        self._clear()

    def _clear(self) -> None:
        self._roots.clear()
        self._depths.clear()
        self._num_nodes = 1
        self._parts: dict[str, list[np.ndarray[Any, Any]]] = {
            "key": [np.zeros(0, np.int64)],
            "token": [np.zeros(0, np.int64)],
            "following": [np.zeros(0, np.int64)],
            "first": [np.zeros(1, np.int64)],
            "count": [np.zeros(1, np.int64)],
            "leaf": [np.ones(1, bool)],
        }

    def cover(self, tries: Iterable[Trie]) -> None:
        """Hold at least these tries; others go when they take too much room."""
        wanted = dict.fromkeys(tries)
        missing = [trie for trie in wanted if trie not in self._roots]
        if not missing:
            return
        if self._num_nodes > LEAST_ROOM + 2 * sum(trie.num_nodes for trie in wanted):
            self._clear()
            missing = list(wanted)
        for trie in missing:
            self._plant(trie)
        self._upload()

    def root(self, trie: Trie) -> int:
        """Node of a covered trie's root."""
        return self._roots[trie]

    def depth(self, trie: Trie) -> int:
        """Tokens of a covered trie's longest code."""
        return self._depths[trie]

    def _plant(self, trie: Trie) -> None:
        base, flat = self._num_nodes, trie.compact()
        num_edges = sum(len(part) for part in self._parts["token"])
        counts_N, tokens_E = flat.count.astype(np.int64), flat.tokens.astype(np.int64)
        parents_E = np.repeat(base + np.arange(len(counts_N)), counts_N)
        for name, values in (
            ("key", parents_E << 32 | tokens_E),
            ("token", tokens_E),
            ("following", base + flat.following),
            ("first", num_edges + flat.first),
            ("count", counts_N),
            ("leaf", flat.leaf >= 0),
        ):
            self._parts[name].append(values)
        self._roots[trie], self._depths[trie] = base + ROOT, flat.measure_depth()
        self._num_nodes += len(counts_N)

    def _upload(self) -> None:
        import torch

        for name, parts in self._parts.items():
            self._parts[name] = [np.concatenate(parts)]
        arrays = {
            name: torch.from_numpy(parts[0]).to(self.device) for name, parts in self._parts.items()
        }
        # One edge that nothing finds keeps every index valid where there are no edges.
        pad = torch.full((1,), NONE, device=self.device)
        self._key_E = torch.cat([arrays["key"], torch.full_like(pad, 1 << 62)])
        self._token_E = torch.cat([arrays["token"], pad])
        self._following_E = torch.cat([arrays["following"], pad])
        self._first_N, self._count_N = arrays["first"], arrays["count"]
        self._leaf_N = arrays["leaf"]
        self._width = int(self._parts["count"][0].max())

    def step(self, node_R: Any, token_R: Any) -> Any:
        """(R) nodes after one more token; LOST where no code goes on like that."""
        import torch

        key_R = node_R << 32 | token_R
        edge_R = torch.searchsorted(self._key_E, key_R)
        found_R = self._key_E[edge_R] == key_R
        return torch.where(found_R, self._following_E[edge_R], LOST)

    def is_leaf(self, node_R: Any) -> Any:
        """(R) whether a code is whole here."""
        return self._leaf_N[node_R]

    def edges(self, node_R: Any) -> tuple[Any, Any]:
        """(R, W) edges that lead on from each node, in token order, and which of them are real.

        On a GPU W is the widest node's number, so that nothing waits for the device.
        """
        import torch

        count_R = self._count_N[node_R]
        width = self._width if self.device.type == "cuda" else int(count_R.max())
        place_W = torch.arange(width, device=self.device)
        real_RW = place_W < count_R[:, None]
        return torch.where(real_RW, self._first_N[node_R][:, None] + place_W, NONE), real_RW

    def follow(self, edge: Any) -> tuple[Any, Any]:
        """Token and next node of edges of any shape; NONE for an edge that is not real."""
        return self._token_E[edge], self._following_E[edge]

    def choices(self, node_R: Any, close_R: Any) -> Any:
        """(R, W + 1) tokens allowed at each node, some of them repeated to fill the rows."""
        import torch

        edge_RW, real_RW = self.edges(node_R)
        some_R = self._token_E[torch.where(self._count_N[node_R] > 0, self._first_N[node_R], NONE)]
        may_close_R = self._leaf_N[node_R] | (some_R == NONE)
        last_R1 = torch.where(may_close_R, close_R, some_R)[:, None]
        return torch.cat([torch.where(real_RW, self._token_E[edge_RW], last_R1), last_R1], dim=1)


class Table:
    """Guides of the rows (or slots) of a batch as tensors. Rows without one are free."""

    def __init__(self, forest: Forest, guides: Sequence[Guide | None]) -> None:
        import torch

        self._forest = forest
        found = [guide for guide in guides if guide is not None]
        forest.cover(guide.trie for guide in found)
        self.window = max(
            (forest.depth(guide.trie) + len(guide.marker) for guide in found), default=0
        )
        """T: sampled tokens that say where a row stands, the longest code and its marker."""
        num_marker = max((len(guide.marker) for guide in found), default=0)
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

    def locate(self, window_RT: Any, length_R: Any, slot_R: Any | None = None) -> Any:
        """Where each row stands: a node of the forest, or FREE.

        Args:
            window_RT: (R, T) last sampled tokens, on the right, NONE in front of the first one.
            length_R: (R) tokens sampled so far, which may be more than T.
            slot_R: (R) each row's line of the table; None where they are in order.
        """
        import torch

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

    def restrict(self, logits_RV: Any, place_R: Any, slot_R: Any | None = None) -> None:
        """Set all but the allowed tokens of the rows that are not FREE to -inf, in place."""
        close_R = self._table_SC[:, 1] if slot_R is None else self._table_SC[slot_R, 1]
        if not logits_RV.is_cuda:
            self._restrict_on_cpu(logits_RV, place_R, close_R)
            return
        tokens_RW = self._forest.choices(place_R.clamp(min=LOST), close_R.clamp(min=0))
        kept_RW = logits_RV.gather(1, tokens_RW)
        logits_RV.masked_fill_((place_R != FREE)[:, None], float("-inf"))
        logits_RV.scatter_(1, tokens_RW, kept_RW)

    def _restrict_on_cpu(self, logits_RV: Any, place_R: Any, close_R: Any) -> None:
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

    def follow(self, output_ids: Sequence[int]) -> Any:
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


def mask_on_cpu(logits_RV: Any, row_C: Sequence[int], bits_CB: np.ndarray[Any, Any]) -> None:
    """Set to -inf, in place, the tokens of these rows whose bit is 0.

    Row by row: a sixth of the time of indexing them all, at 64 rows of 150,000 tokens.
    """
    import torch

    size = logits_RV.shape[1]
    refused_CV = np.unpackbits(~bits_CB, axis=1, count=size, bitorder="little").view(bool)
    for row, refused_V in zip(row_C, torch.from_numpy(refused_CV), strict=True):
        logits_RV[row].masked_fill_(refused_V, float("-inf"))


def mask_on_device(logits_RV: Any, row_C: Sequence[int], bits_CB: np.ndarray[Any, Any]) -> None:
    """The same where calls cost more than what they do; bits are unpacked on the device."""
    import torch

    size, device = logits_RV.shape[1], logits_RV.device
    places_8 = torch.arange(8, dtype=torch.uint8, device=device)
    packed_CB = torch.from_numpy(bits_CB).to(device)
    allowed_CV = ((packed_CB[:, :, None] >> places_8) & 1).flatten(1)[:, :size].bool()
    chosen_C = torch.tensor(row_C, device=device)
    logits_RV[chosen_C] = logits_RV[chosen_C].masked_fill(~allowed_CV, float("-inf"))


def write_json(logits_RV: Any, rows: Mapping[int, tuple[Bound, Sequence[int]]]) -> None:
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


class Rows:
    """Constrained rows of a batch whose sampled tokens are lists on the host.

    Example: Rows(forest, {0: (Bound(guide, "", None), output_ids)}, num_rows=2).apply(logits).
    """

    def __init__(
        self, forest: Forest, rows: Mapping[int, tuple[Bound, Sequence[int]]], num_rows: int
    ) -> None:
        self._rows = dict(rows)
        self._outputs = {
            row: output_ids for row, (bound, output_ids) in rows.items() if bound.guide
        }
        guides = [rows[row][0].guide if row in rows else None for row in range(num_rows)]
        self._table = Table(forest, guides)
        self.num_rows = num_rows
        """R: rows of the logits."""

    def apply(self, logits_RV: Any) -> None:
        """Restrict the rows in place, by what their lists hold now."""
        if self._outputs:
            self._follow_codes(logits_RV)
        write_json(logits_RV, self._rows)

    def _follow_codes(self, logits_RV: Any) -> None:
        import torch

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
    path: str,
    only: Sequence[str],
    marker: Sequence[int],
    until: int | None,
    documents: str = "",
) -> dict[str, Any]:
    """What `make_guide` needs besides the vocabulary, for `SamplingParams.extra_args`."""
    guide = {"path": path, "only": [*only], "marker": [*marker], "until": until}
    return {GUIDE: guide | {"documents": documents}}


def constraint_to_wire(constraint: Constraint, bounds: Mapping[str, Any]) -> dict[str, Any]:
    """A constraint for `bind`, as `SamplingParams.extra_args` takes it.

    Args:
        constraint: of the request.
        bounds: its texts in tokens (Chat.bounds).
    """
    if not constraint.tools:
        return guide_to_wire(
            constraint.trie, constraint.only, **bounds, documents=constraint.documents
        )
    if constraint.form == "calls":
        return {GRAMMAR: calls_grammar(constraint.tools)}
    return {GRAMMAR: arguments_grammar(constraint.tools[0])}


def bind(wire: Mapping[str, Any] | None, folder: str, vocabulary: int) -> Bound | None:
    """What binds the request with these extra arguments; None where nothing does.

    Args:
        wire: from constraint_to_wire, or what else a caller of vLLM gives.
        folder: of the model.
        vocabulary: tokens of the model.

    Raises:
        Unsupported: no grammar can be made.
        ModelError, InputError: see make_guide.
    """
    named, grammar = (wire or {}).get(GUIDE), (wire or {}).get(GRAMMAR, "")
    if named is None and not grammar:
        return None
    guide = make_guide(**named, vocabulary=vocabulary) if named else None
    if not grammar and (guide is None or guide.documents is None):
        return Bound(guide, "", None)
    grammars = load_grammars(folder, vocabulary)
    if grammar:
        grammars.start(grammar)
    return Bound(guide, grammar, Writer(grammars))


def vllm_processor() -> type:
    """vLLM's logits processor for its first model runner (0.32: the CPU's; a GPU's by choice)."""
    from vllm.v1.sample.logits_processor import (
        BatchUpdate,
        LogitsProcessor,
        MoveDirectionality,
    )

    class TrieProcessor(LogitsProcessor):  # type: ignore[misc]
        """Follows the constrained requests through the rows of vLLM's persistent batch."""

        def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
            self._folder: str = vllm_config.model_config.model
            self._vocabulary: int = vllm_config.model_config.get_vocab_size()
            self._forest = Forest(device)
            self._bound: dict[int, tuple[Bound, Sequence[int]]] = {}
            self._rows: Rows | None = None

        def is_argmax_invariant(self) -> bool:
            return False

        def update_state(self, batch_update: BatchUpdate | None) -> None:
            """Follow requests that leave, enter and move; the order is vLLM's contract."""
            if batch_update is None:
                return
            self._rows = None
            for row in batch_update.removed:
                self._bound.pop(row, None)
            for row, params, _, output_ids in batch_update.added:
                self._bound.pop(row, None)
                bound = bind(params.extra_args, self._folder, self._vocabulary)
                if bound is not None:
                    self._bound[row] = bound, output_ids
            for source, target, direction in batch_update.moved:
                moved, replaced = self._bound.pop(source, None), self._bound.pop(target, None)
                if moved is not None:
                    self._bound[target] = moved
                if replaced is not None and direction == MoveDirectionality.SWAP:
                    self._bound[source] = replaced

        def apply(self, logits: Any) -> Any:
            """Tokens are read here and not in update_state, where the last may be missing."""
            if self._bound:
                if self._rows is None or self._rows.num_rows != len(logits):
                    self._rows = Rows(self._forest, self._bound, len(logits))
                self._rows.apply(logits)
            return logits

    return TrieProcessor


def vllm_slot_processor() -> type:
    """vLLM's logits processor for Model Runner V2 (0.32: the default on a GPU).

    Sampled tokens are read from the runner's buffers on the device, and nothing comes back.
    """
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor

    class TrieSlotProcessor(LogitsProcessor):  # type: ignore[misc]
        """Keeps what binds every request slot; rows find theirs by the step's mapping."""

        def __init__(self, vllm_config: Any, req_states: Any) -> None:
            if vllm_config.speculative_config is not None:
                raise ValueError("constrained decoding takes one token a step")
            self._states = req_states
            self._folder: str = vllm_config.model_config.model
            self._forest = Forest(req_states.device)
            self._bound: list[Bound | None] = [None] * req_states.max_num_reqs
            self._table: Table | None = None
            self._written: dict[int, list[int]] = {}

        def add_request(self, req_idx: int, sampling_params: Any) -> bool:
            """Note what binds a request that enters the slot."""
            bound = bind(sampling_params.extra_args, self._folder, self._states.vocab_size)
            if bound is not None or self._bound[req_idx] is not None:
                self._bound[req_idx] = bound
                self._table = None
            self._written.pop(req_idx, None)
            if bound is not None and bound.writer:
                self._written[req_idx] = []
            return bound is not None

        def apply_staged_writes(self) -> None:
            """Write the slots' guides to the device, where they have changed."""
            if self._table is None:
                self._table = Table(self._forest, [bound and bound.guide for bound in self._bound])

        def apply(self, logits: Any, ctx: Any) -> Any:
            """Restrict the rows whose slot is bound, by the tokens of the runner's buffers."""
            import torch

            slots = ctx.idx_mapping_np.tolist()
            if self._table is None or not any(self._bound[slot] for slot in slots):
                return logits
            states, slot_R = self._states, ctx.expanded_idx_mapping.long()
            total_R = states.total_len.gpu[slot_R].long()
            length_R = total_R - states.prompt_len.gpu[slot_R].long()
            back_T = torch.arange(-self._table.window, 0, device=logits.device)
            sampled_RT = -back_T <= length_R[:, None]
            index_RT = torch.where(sampled_RT, total_R[:, None] + back_T, 0)
            token_RT = states.all_token_ids.gpu[slot_R[:, None], index_RT].long()
            place_R = self._table.locate(torch.where(sampled_RT, token_RT, NONE), length_R, slot_R)
            self._table.restrict(logits, place_R, slot_R)
            rows = {row: slot for row, slot in enumerate(slots) if slot in self._written}
            if rows:
                self._fetch(list(rows.values()))
                write_json(
                    logits,
                    {
                        row: (bound, self._written[slot])
                        for row, slot in rows.items()
                        if (bound := self._bound[slot]) is not None
                    },
                )
            return logits

        def _fetch(self, slots: list[int]) -> None:
            """Copy the tokens of these slots that the host has not seen: one or two waits.

            The host needs the step's last token before it can make the mask of the next one, so
            nothing can be prepared ahead: steps with a row that writes JSON wait for the device.
            """
            import torch

            states = self._states
            slot_C = torch.tensor(slots, device=states.device)
            start_C = states.prompt_len.gpu[slot_C].long()
            num_C = states.total_len.gpu[slot_C].long() - start_C
            lengths = num_C.tolist()
            seen = [self._written[slot] for slot in slots]
            for tokens, length in zip(seen, lengths, strict=True):
                del tokens[length:]
            num_new = max(length - len(have) for have, length in zip(seen, lengths, strict=True))
            if num_new == 0:
                return
            known_C = torch.tensor([len(tokens) for tokens in seen], device=states.device)
            index_CT = (start_C + known_C)[:, None] + torch.arange(num_new, device=states.device)
            index_CT = index_CT.clamp(max=states.all_token_ids.gpu.shape[1] - 1)
            new_CT = states.all_token_ids.gpu[slot_C[:, None], index_CT].tolist()
            for tokens, length, new in zip(seen, lengths, new_CT, strict=True):
                tokens += new[: length - len(tokens)]

    return TrieSlotProcessor
