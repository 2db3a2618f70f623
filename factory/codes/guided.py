"""Post-guided training as SGTC's body has it (§4.2 Post-guided Training; algorithms A16).

The trained model is frozen, adapters and task indicators too; only the gist tokens' embeddings
move, on the sum of two losses. L_tool rebuilds documents as compression does. L_traj is the frozen
model's loss on chats that name tools by their codes. After every epoch all documents are clustered
anew, and the codes that come out replace those before them in the chats.

How L_traj reaches the gist tokens is not in the paper: codes come from hard assignments. As A16
has it, it does so through the input embedding of a code token, which is its row in the model and,
beside that, what the gist state of the tool it names has moved since the codes were made: as if
the row, a mean over all tools of the code, moved with this one. At the first level that is the
whole state, at the next ones what PCA keeps of it (§2.4). Output rows stand still, so a chat's
loss on a code's first token moves nothing unless an earlier code stands before it.

Shape suffixes: B chats, T tokens of a chat, U documents that the chats name, M code tokens in them;
the others are those of gist.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from factory.codes.arrays import Code, Floats
from factory.codes.base import Seen
from factory.codes.codebook import Codebook
from factory.codes.gist import (
    Compressor,
    EncodedDocument,
    Epoch,
    Gist,
    Readable,
    attached,
    batches,
    encode_document,
    pad,
    reading_scale,
    score_targets,
    split,
)
from factory.codes.residual import ResidualCoder
from factory.domain.records import IGNORED
from factory.workspace.recipe import GistSection


class CodeToken(NamedTuple):
    """A code token in a chat."""

    place: int
    """Where in the chat."""
    row: int
    """The document whose code it is part of."""
    position: int
    """Of the code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedChat:
    """A chat that names tools by their codes, in token ids."""

    ids: Sequence[int]
    labels: Sequence[int]
    """The same where there is loss, IGNORED elsewhere."""
    marks: Sequence[CodeToken]


@dataclass(frozen=True, slots=True, kw_only=True)
class Coding:
    """Codes in force, and what their tokens' rows have to do with the gist states."""

    chats: Sequence[CodedChat | None]
    """The same chats each time, in the same order; None where one has a tool without a code."""
    levels: int
    """Levels of a state (L); position p codes state p // L."""
    directions: Sequence[Floats | None]
    """(d, D) what PCA keeps, by position; None where a row is a mean of whole states."""
    states_NVD: Floats
    """Gist states when the codes were made."""
    scales_NP: Floats
    """How far a code token's input embedding is from those of its position, by how far the mean
    that it was made from is."""


def make_coding(
    codebook: Codebook,
    model: PreTrainedModel,
    ids: Sequence[Sequence[int]],
    embeddings_NVD: Floats,
    row_of: Mapping[str, int],
    chats: Sequence[tuple[Sequence[int], Sequence[int]] | None],
) -> Coding:
    """What chats are in a codebook's codes.

    Args:
        codebook: of residual codes over gist states, installed in the model.
        model: whose rows its tokens have.
        ids: token ids by position, as `install` returns them.
        embeddings_NVD: gist states of all documents.
        row_of: their rows by tool id.
        chats: ids and labels; None where one has a tool without a code.
    """
    coder = codebook.coder
    assert isinstance(coder, ResidualCoder)
    rows = [row_of[entry.tool.id] for entry in codebook.tools]
    codes_NP = np.array(codebook.codes, dtype=np.int32)
    table, longer = model.get_input_embeddings().weight.detach(), reading_scale(model)
    scales_NP = np.zeros((len(embeddings_NVD), len(ids)))
    for position, means_KD in enumerate(coder.rows(Seen(embeddings_NVD[rows]), codebook.codes)):
        rows_KD = table[list(ids[position])].float().cpu().numpy()
        length_K = longer * _distances(rows_KD)
        scale_K = length_K / np.maximum(_distances(means_KD), 1e-12)
        scales_NP[rows, position] = scale_K[codes_NP[:, position]]
    spelt = np.array(ids)[np.arange(len(ids)), codes_NP].tolist()
    named = {tuple(code): row for code, row in zip(spelt, rows, strict=True)}
    return Coding(
        chats=[None if c is None else _mark(*c, named, len(ids)) for c in chats],
        levels=coder.levels,
        directions=coder.directions,
        states_NVD=embeddings_NVD,
        scales_NP=scales_NP,
    )


def _distances(points_KD: Floats) -> Floats:
    """(K) from their mean: what all rows of a position share says nothing of a state."""
    distances_K: Floats = np.linalg.norm(points_KD - points_KD.mean(axis=0), axis=1)
    return distances_K


def _mark(
    ids: Sequence[int], labels: Sequence[int], named: Mapping[Code, int], length: int
) -> CodedChat:
    """A chat with its code tokens found."""
    marks = [
        CodeToken(begin + position, row, position)
        for begin in range(len(ids) - length + 1)
        if (row := named.get(tuple(ids[begin : begin + length]))) is not None
        for position in range(length)
    ]
    return CodedChat(ids=ids, labels=labels, marks=marks)


def guide_gist(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[Readable],
    start: Gist,
    config: GistSection,
    recode: Callable[[Floats | None], Coding],
    *,
    seed: int = 0,
    report: Callable[[Epoch], None] = lambda epoch: None,
) -> Gist:
    """Move the gist tokens by L_tool + L_traj on the model as it is.

    Training stops with the first epoch that does not lower the held-out loss in the codes that it
    was trained in (A17; losses in different codes cannot be compared), and takes it back.

    Args:
        model: causal model that knows the code tokens; afterwards as `recode` left it.
        tokenizer: its tokenizer.
        documents: N documents, at least 2.
        start: compression as it was when the codes in force were made.
        config: schedule; the adapters' shape is that of `start`.
        recode: gives the documents with these (N, V, D) states codes, writes their rows into the
            model, and says what the chats are in them; None stands for the codes in force.
        seed: of the order.
        report: hears of each epoch; its held-out loss is the sum of both.

    Raises:
        ValueError: fewer than 2 documents, or one without content.
        ContentError: none of a document's fields can be read in its content.
    """
    if len(documents) < 2:
        raise ValueError(f"{len(documents)} documents are too few to compress")
    with torch.random.fork_rng(), attached(model, start.config, start.seed, start) as compressor:
        torch.manual_seed(seed)
        compressor.model.eval()
        guide = _Guide(compressor, [encode_document(one, tokenizer) for one in documents])
        held, train = split(len(documents), config.held_out, seed)
        with compressor.model.disable_adapter():
            coding = recode(None)
        held_chats, train_chats = split(len(coding.chats), config.held_out, seed)
        optimizer = torch.optim.Adam(
            [compressor.gist_VD], lr=config.learning_rate, weight_decay=config.weight_decay
        )
        epochs = [Epoch(0, float("nan"), guide.measure(held, held_chats, coding))]
        best = compressor.state()
        report(epochs[0])
        for number in range(1, config.epochs + 1):
            before = guide.measure(held, held_chats, coding)
            losses = [
                guide.step(part, chats, coding, optimizer)
                for part, chats in guide.shuffle(train, train_chats, coding, config.batch_size)
            ]
            after = guide.measure(held, held_chats, coding)
            epochs.append(Epoch(number, float(np.mean(losses)), after))
            report(epochs[-1])
            if after >= before:
                break
            best = compressor.state()
            if number < config.epochs:
                states_NVD = guide.embed()
                with compressor.model.disable_adapter():
                    coding = recode(states_NVD)
    return replace(start, epochs=tuple(epochs), **best)


@dataclass(frozen=True, slots=True)
class _Guide:
    """The two losses."""

    compressor: Compressor
    documents: Sequence[EncodedDocument]

    def embed(self) -> Floats:
        """(N, V, D) the documents' states as they are now."""
        return self.compressor.embed([document.content for document in self.documents])

    def shuffle(
        self, rows: Sequence[int], chats: Sequence[int], coding: Coding, size: int
    ) -> Iterator[tuple[list[EncodedDocument], list[CodedChat]]]:
        """Batches of both, in a new order; the one with fewer begins again until the other ends."""

        def mix(items: Sequence[int]) -> list[int]:
            return [items[place] for place in torch.randperm(len(items)).tolist()]

        parts = list(batches(self.documents, mix(rows), size))
        known = [chat for item in mix(chats) if (chat := coding.chats[item]) is not None]
        several = [known[begin : begin + size] for begin in range(0, len(known), size)] or [[]]
        steps = max(len(parts), len(several))
        endless = zip(itertools.cycle(parts), itertools.cycle(several), strict=True)
        return itertools.islice(endless, steps)

    def step(
        self,
        documents: Sequence[EncodedDocument],
        chats: Sequence[CodedChat],
        coding: Coding,
        optimizer: torch.optim.Optimizer,
    ) -> float:
        """One step; the sum of both losses in nats a token."""
        loss, number = self.compressor.loss(documents)
        total = loss / number
        if chats:
            loss, number = self.chat_loss(chats, coding)
            total = total + loss / number
        gist_VD = self.compressor.gist_VD
        (gist_VD.grad,) = torch.autograd.grad(total, [gist_VD])
        optimizer.step()
        return float(total.detach())

    def measure(self, rows: Sequence[int], chats: Sequence[int], coding: Coding) -> float:
        """The sum of both losses on these documents and chats, in nats a token."""
        known = [chat for item in chats if (chat := coding.chats[item]) is not None]
        total, count = 0.0, 0
        with torch.no_grad():
            for begin in range(0, len(known), 32):
                loss, number = self.chat_loss(known[begin : begin + 32], coding)
                total, count = total + float(loss), count + number
        tool = self.compressor.measure([self.documents[row] for row in rows])
        return tool + total / max(1, count)

    def chat_loss(self, chats: Sequence[CodedChat], coding: Coding) -> tuple[torch.Tensor, int]:
        """Summed nats of the chats' targets by the frozen model, and their number."""
        embedded_BTD = self.compressor.look_up(pad([chat.ids for chat in chats], 0, fill=0))
        marks = [(line, mark) for line, chat in enumerate(chats) for mark in chat.marks]
        if marks:
            at = [torch.tensor(x) for x in zip(*((b, m.place) for b, m in marks), strict=True)]
            moved_MD = self._moved([mark for _, mark in marks], coding)
            places = tuple(index.to(embedded_BTD.device) for index in at)
            embedded_BTD = embedded_BTD.index_put(places, moved_MD, accumulate=True)
        labels_BT = pad([chat.labels for chat in chats], 0, fill=IGNORED).to(embedded_BTD.device)
        with self.compressor.model.disable_adapter():
            logs_BL, _ = score_targets(self.compressor.model, labels_BT, inputs_embeds=embedded_BTD)
        return -logs_BL.sum(), int((labels_BT[:, 1:] != IGNORED).sum())

    def _moved(self, marks: Sequence[CodeToken], coding: Coding) -> torch.Tensor:
        """(M, D) what the tools' states have moved, as the code tokens' rows see it."""
        rows = sorted({mark.row for mark in marks})
        place = {row: index for index, row in enumerate(rows)}
        states_UVD = self.compressor.compress([self.documents[row].content for row in rows])
        states_UVD = states_UVD - torch.from_numpy(coding.states_NVD[rows]).to(states_UVD)
        device = states_UVD.device
        state_M = torch.tensor([place[mark.row] for mark in marks], device=device)
        position_M = torch.tensor([mark.position for mark in marks], device=device)
        whole_MD = states_UVD[state_M, position_M // coding.levels]
        kept_MD = whole_MD.clone()
        for position, direction in enumerate(coding.directions):
            if direction is not None:
                here_M = position_M == position
                kept_dD = torch.as_tensor(direction).to(whole_MD)
                kept_MD[here_M] = whole_MD[here_M] @ kept_dD.T @ kept_dD
        scales = [coding.scales_NP[mark.row, mark.position] for mark in marks]
        return kept_MD * torch.tensor(scales).to(kept_MD)[:, None]
