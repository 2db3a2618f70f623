"""First rows of new code tokens: they tell of the code's tools, and plain text does not hear them.

An output row is asked at every token of every text. The states of a trained model share a large
part (documents of SmolLM2-135M: mean pairwise cosine 0.93), and a row made of such states, or of
words but longer than words are, answers to it everywhere: perplexity of plain requests rose from 15
to 1e27. So of rows of states, what all of a position share is taken out, and directions in which
text moves are shrunk by how much it does (a linear discriminant: what tells these tools from text).
They stand around the mean row of the table, as far from it as words do; rows of names stand where
the words' mean puts them. Both then move towards the mean row until the model gives them no
probability in other text. Rows that are only kept short tell codes apart too little to be learnt.
Input rows of an untied model are not asked, and stay where they are.

Shape suffixes: M new tokens, K numbers of a position, D width of the model, T tokens, V words.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

from factory.codes.arrays import Floats
from factory.codes.language import read_language, reading
from factory.codes.literal import encoder_of
from factory.codes.vocabulary import tables_of
from factory.workspace.recipe import RowsName

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LOUDEST, LOUDER = 1e-3, 2.0
"""Probability that new tokens may have together in text without codes, token by token: so much, or,
where many tokens at the mean row have more, so many times that."""
SHRINK, SHORTEST = 0.7, 1e-2
"""How rows that are heard move to the mean row, and where that ends."""
RIDGE = 0.1
"""What is added to how much text moves in each direction, by the mean of all directions."""
READ_TOKENS, HEARD_TOKENS = 2048, 512
"""Of each text: to see how states move, and to hear the rows."""
PLAIN_TEXTS = (
    """
In spring the valley floods for a week or two. Farmers on both banks move their sheep uphill and
wait, and by the time the water has gone the grass is thick enough to be cut. What the river takes
from one field it leaves on another, so the boundaries on the oldest maps no longer mean much. My
grandmother kept a list of the years in which the bridge was lost: 1947, 1963, twice in 1968.

To change the language, open the settings and choose one from the list. Save your work first. If the
menu is empty, the program could not reach the server; try again in a few minutes, or ask whoever
looks after the network whether port 8080 is open. Please send me an invoice for the two chairs, and
remind Tom that the meeting with the architects has moved to Thursday at half past nine.
""",
    """
Could you find me a table for four near the river on Friday evening, and tell the others when we
meet? The last train leaves at 23:40, so anything within ten minutes of the station would do. If
nothing is free, book the small place we went to in March; they usually keep two tables back.

Bread needs little: flour, water, salt and time. Mix them the evening before, leave the dough in a
cool room, and fold it twice before it goes into the oven. A loaf is done when it sounds hollow.

1. Write the total below the last line.
2. Save the file as "report.csv" (at most 20 MB) and send it to the address on the last page.
""",
)
"""One to see how states move in plain text, one to hear the rows in."""


class Listener(Protocol):
    """A model that reads text in which no tool is named by code."""

    def distinguish(self, rows_MD: torch.Tensor) -> torch.Tensor:
        """(M, D) the rows, shrunk in the directions in which text moves."""

    def hear(self, token_ids: Sequence[int]) -> float:
        """The most probability that tokens have together in one of the texts."""


class Ear:
    """The listener that a model and some of the tools' documents make."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        documents: Sequence[str],
    ) -> None:
        """Read every other document to see how states move, and the others to hear the rows."""
        self._model, self._tokenizer = model, tokenizer
        seen, heard = documents[::2], documents[1::2] or documents
        self._seen = (PLAIN_TEXTS[0], self._cut(seen, READ_TOKENS))
        self._heard = (PLAIN_TEXTS[1], self._cut(heard, HEARD_TOKENS))

    def _cut(self, documents: Sequence[str], num_tokens: int) -> str:
        """The beginnings of all of them, in so many tokens."""
        ids = [encoder_of(self._tokenizer).encode(document) for document in documents]
        each = max(1, num_tokens // max(1, len(documents)))
        return "\n".join(self._tokenizer.decode(part[:each]) for part in ids)

    def distinguish(self, rows_MD: torch.Tensor) -> torch.Tensor:
        import torch

        return torch.linalg.solve(self._moved_DD, rows_MD.double().T).T.float()

    def hear(self, token_ids: Sequence[int]) -> float:
        read = (
            read_language(self._model, self._tokenizer, text, token_ids, HEARD_TOKENS)
            for text in self._heard
        )
        return max((found.code_mass for found in read if found is not None), default=0.0)

    @cached_property
    def _moved_DD(self) -> torch.Tensor:
        """Mean outer product of the states, each text counting the same, and the ridge."""
        import torch

        moments = []
        for text in self._seen:
            ids = encoder_of(self._tokenizer).encode(text)[:READ_TOKENS]
            ids_T = torch.tensor(ids, device=self._model.device)
            with reading(self._model) as window:
                parts = [
                    self._model.base_model(input_ids=part_T[None], use_cache=False)
                    for part_T in ids_T.split(window)
                ]
            states_TD = torch.cat([part.last_hidden_state[0] for part in parts]).double().cpu()
            moments.append(states_TD.T @ states_TD / len(states_TD))
        moved_DD = torch.stack(moments).mean(dim=0)
        mean = torch.diagonal(moved_DD).mean().clamp_min(1e-12)
        return moved_DD + RIDGE * mean * torch.eye(len(moved_DD), dtype=torch.float64)


def initialise_rows(
    model: PreTrainedModel,
    ids: Sequence[Sequence[int]],
    rows: Sequence[Sequence[Floats]],
    fresh: Sequence[Collection[int]],
    how: RowsName,
    listener: Listener,
    *,
    of_states: bool,
) -> None:
    """Write the `fresh` rows (K, D) of each position into both tables of the model.

    Args:
        model: causal, with the tokens in its vocabulary.
        ids: token ids by position.
        rows: by table, P arrays (K, D) of what the members of each number are.
        fresh: numbers to write, by position.
        how: `calibrated`, or one of the ways that it is measured against: `published`, the rows as
            they are and an untied head left at its mean (ToolGen, algorithms A33); `scaled`, to the
            words' mean length (A15); `mean`, all of them the table's mean row.
        listener: what output rows must not be heard by.
        of_states: whether the rows are of the model's last states, and not of words.
    """
    written = [(p, number) for p, numbers in enumerate(fresh) for number in sorted(numbers)]
    new = [ids[p][number] for p, number in written]
    known = [token for position in ids for token in position]
    tables = tables_of(model)
    if (bias := getattr(model.get_output_embeddings(), "bias", None)) is not None:
        _write(bias[:, None], new, _words(bias[:, None], known).mean().expand(len(new), 1))
    for weight, parts in zip(tables, rows, strict=True):
        members_MD = _pick(parts, written)
        words_VD = _words(weight, known)
        mean_D = words_VD.mean(dim=0)
        match how:
            case "mean":
                _write(weight, new, mean_D.expand(len(new), -1))
            case "published":
                whole = weight is tables[0]
                _write(weight, new, members_MD if whole else mean_D.expand(len(new), -1))
            case "scaled":
                _write(weight, new, words_VD.norm(dim=1).mean() * _unit(members_MD))
            case "calibrated":
                asked, away_MD = weight is tables[-1], members_MD - mean_D
                if of_states:
                    away_MD = _pick([part - part.mean(axis=0) for part in parts], written)
                    away_MD = _unit(listener.distinguish(away_MD) if asked else away_MD)
                    away_MD *= (words_VD - mean_D).norm(dim=1).mean()
                if asked:
                    _write_unheard(weight, new, mean_D, away_MD, listener)
                else:
                    _write(weight, new, mean_D + away_MD)


def _write_unheard(
    weight: torch.Tensor,
    new: Sequence[int],
    mean_D: torch.Tensor,
    away_MD: torch.Tensor,
    listener: Listener,
) -> None:
    """Write rows as far from the mean row as they may be without being heard."""
    _write(weight, new, mean_D.expand(len(new), -1))
    loudest, length = max(LOUDEST, LOUDER * listener.hear(new)), 1.0
    _write(weight, new, mean_D + away_MD)
    while listener.hear(new) > loudest and length > SHORTEST:
        length *= SHRINK
        _write(weight, new, mean_D + length * away_MD)


def _pick(parts: Sequence[Floats], written: Sequence[tuple[int, int]]) -> torch.Tensor:
    """(M, D) the rows of positions and numbers."""
    import torch

    rows_MD = np.stack([parts[position][number] for position, number in written])
    return torch.from_numpy(rows_MD.astype(np.float32))


def _words(weight: torch.Tensor, codes: Sequence[int]) -> torch.Tensor:
    """(V, D) the table's other rows, on the CPU."""
    import torch

    others = torch.ones(len(weight), dtype=torch.bool)
    others[torch.tensor(codes)] = False
    return weight.detach()[others.to(weight.device)].float().cpu()


def _unit(rows_MD: torch.Tensor) -> torch.Tensor:
    """Rows of length 1; one that is nothing beside the others stays next to nothing."""
    norms_M1 = rows_MD.norm(dim=1, keepdim=True)
    return rows_MD / norms_M1.clamp_min(max(1e-6 * float(norms_M1.max()), 1e-12))


def _write(weight: torch.Tensor, token_ids: Sequence[int], rows_MD: torch.Tensor) -> None:
    import torch

    with torch.no_grad():
        at = torch.tensor([*token_ids], device=weight.device)
        weight[at] = rows_MD.to(weight.device, weight.dtype)
