"""Code tokens in a tokenizer and a model, and a model's view of documents.

They are ordinary added tokens (not special): decoded text keeps them. torch and tokenizers are
imported inside the functions that need them.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from factory.codes.arrays import Floats
from factory.codes.base import OnProgress, silent
from factory.codes.literal import encoder_of
from factory.domain.failures import MissingError, ModelError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_NOT_WORD = re.compile(r"[\W_]+")

MAX_DOCUMENT_TOKENS = 512
"""Documents are cut there before they are embedded (A19)."""


def add_code_tokens(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, tokens: Sequence[Sequence[str]]
) -> list[list[int]]:
    """Add tokens to both and return their ids by position; tokens already there keep their rows.

    A model whose tables are longer than its vocabulary keeps the spare rows it does not need.
    """
    from tokenizers import AddedToken

    flat = [token for position in tokens for token in position]
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in flat])
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    return [[int(tokenizer.convert_tokens_to_ids(t)) for t in position] for position in tokens]


def tables_of(model: PreTrainedModel) -> list[torch.Tensor]:
    """The model's input rows, and its output rows where they are not the same."""
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    return [table] if head is None or head.weight is table else [table, head.weight]


@contextlib.contextmanager
def kept_rows(model: PreTrainedModel, ids: Sequence[int]) -> Iterator[Callable[[], None]]:
    """A function that gives these tokens the rows back that they had; called at the end, too."""
    import torch

    at = torch.tensor(ids)
    kept = [(w, w.detach()[at.to(w.device)].clone()) for w in tables_of(model)]

    def give_back() -> None:
        with torch.no_grad():
            for weight, rows in kept:
                weight[at.to(weight.device)] = rows

    try:
        yield give_back
    finally:
        give_back()


def embed_names(
    weight: torch.Tensor, tokenizer: PreTrainedTokenizerBase, names: Sequence[str]
) -> Floats:
    """(N, D) mean row of a name's words in a table (ToolGen's first rows, §3.1)."""
    import torch

    table = weight.detach()
    result_ND = np.zeros((len(names), table.shape[1]), dtype=np.float32)
    for row, name in enumerate(names):
        words = " ".join(_NOT_WORD.split(name.encode("utf-8", "replace").decode())).strip()
        ids = encoder_of(tokenizer).encode(words or name)
        result_ND[row] = table[torch.tensor(ids, device=table.device)].float().mean(dim=0).cpu()
    return result_ND


def embed_with(folder: Path, texts: Sequence[str]) -> Floats:
    """(N, D) embeddings of texts by a sentence-transformers folder, which knows its pooling.

    Raises:
        MissingError: sentence-transformers is not installed.
        ModelError: the folder is no such model.
    """
    if not (folder / "modules.json").exists():
        raise ModelError(
            "this is no folder of a sentence-transformers model",
            where=str(folder),
            remedy="name a folder with a modules.json, or leave codes.embedder empty",
        )
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingError(
            "sentence-transformers is not installed",
            where=str(folder),
            remedy="pip install 'tool-factory[eval]', or name a causal model's folder",
        ) from error
    embedder = SentenceTransformer(str(folder), local_files_only=True)
    found: Floats = embedder.encode(list(texts), convert_to_numpy=True, show_progress_bar=False)
    return found.astype(np.float32)


def embed_documents(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    batch: int = 32,
    on_progress: OnProgress = silent,
) -> Floats:
    """(N, D) mean of the last layer's states (after the final norm) over a document's tokens.

    Documents of similar length share a batch; the order of the result is that of `texts`.
    `on_progress` hears of the documents embedded after each batch.

    Raises:
        ValueError: a text has no tokens.
    """
    import torch

    ids = [encoder_of(tokenizer).encode(text)[:MAX_DOCUMENT_TOKENS] for text in texts]
    if not all(ids):
        raise ValueError("a document without tokens cannot be embedded")
    order = sorted(range(len(ids)), key=lambda row: (len(ids[row]), row))
    width = model.config.get_text_config().hidden_size
    result_ND = np.zeros((len(ids), width), dtype=np.float32)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(order), batch):
                rows = order[start : start + batch]
                result_ND[rows] = _mean_states(model, [ids[row] for row in rows])
                on_progress(start + len(rows), "", len(order))
    finally:
        model.train(was_training)
    return result_ND


def _mean_states(model: PreTrainedModel, ids: Sequence[Sequence[int]]) -> Floats:
    """(B, D); padded on the right, where a causal model cannot see it."""
    import torch

    lengths = torch.tensor([len(row) for row in ids])
    tokens_BT = torch.zeros(len(ids), int(lengths.max()), dtype=torch.long)
    for row, values in enumerate(ids):
        tokens_BT[row, : len(values)] = torch.tensor(values)
    mask_BT = torch.arange(tokens_BT.shape[1]) < lengths[:, None]
    device = model.device
    states_BTD = model.base_model(
        input_ids=tokens_BT.to(device), attention_mask=mask_BT.long().to(device), use_cache=False
    ).last_hidden_state.float()
    weights_BT1 = mask_BT.to(device)[:, :, None]
    sums_BD = (states_BTD * weights_BT1).sum(dim=1)
    mean: Floats = (sums_BD / lengths.to(device)[:, None]).cpu().numpy()
    return mean
