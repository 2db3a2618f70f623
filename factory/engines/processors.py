"""Logits processors, one for each of vLLM's model runners, that bind tokens to tries and schemas.

vLLM calls the interfaces unstable: all that this package knows of them is here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.v1.sample import logits_processor as rows_interface
from vllm.v1.worker.gpu.sample import logits_processor as slots_interface

from factory.engines.constrain import BatchRows, Bound, NodeTable, bind, write_json
from factory.engines.forest import NONE, Forest


class TrieProcessor(rows_interface.LogitsProcessor):  # type: ignore[misc]
    """Follows the constrained requests through the rows of vLLM's persistent batch.

    For its first model runner (0.32: the CPU's; a GPU's by choice).
    """

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        self._folder: str = vllm_config.model_config.model
        self._vocabulary: int = vllm_config.model_config.get_vocab_size()
        self._forest = Forest(device)
        self._bound: dict[int, tuple[Bound, Sequence[int]]] = {}
        self._rows: BatchRows | None = None

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: rows_interface.BatchUpdate | None) -> None:
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
            if replaced is not None and direction == rows_interface.MoveDirectionality.SWAP:
                self._bound[source] = replaced

    def apply(self, logits: Tensor) -> Tensor:
        """Tokens are read here and not in update_state, where the last may be missing."""
        if self._bound:
            if self._rows is None or self._rows.num_rows != len(logits):
                self._rows = BatchRows(self._forest, self._bound, len(logits))
            self._rows.apply(logits)
        return logits


class TrieSlotProcessor(slots_interface.LogitsProcessor):  # type: ignore[misc]
    """Keeps what binds every request slot; rows find theirs by the step's mapping.

    For Model Runner V2 (0.32: the default on a GPU). Sampled tokens are read from the runner's
    buffers on the device, and nothing comes back.
    """

    def __init__(
        self, vllm_config: VllmConfig, req_states: slots_interface.LogitsProcRequestState
    ) -> None:
        if vllm_config.speculative_config is not None:
            raise ValueError("constrained decoding takes one token a step")
        self._states = req_states
        self._folder: str = vllm_config.model_config.model
        self._forest = Forest(req_states.device)
        self._bound: list[Bound | None] = [None] * req_states.max_num_reqs
        self._table: NodeTable | None = None
        self._written: dict[int, list[int]] = {}

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
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
            self._table = NodeTable(self._forest, [bound and bound.guide for bound in self._bound])

    def apply(self, logits: Tensor, ctx: slots_interface.LogitsContext) -> Tensor:
        """Restrict the rows whose slot is bound, by the tokens of the runner's buffers."""
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
