"""Code tokens in a model: added to its vocabulary, with first rows made of their members."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from factory.codes.arrays import Floats
from factory.codes.codebook import Codebook, Fresh
from factory.codes.growing import see
from factory.codes.levels import mean_rows
from factory.codes.vocabulary import add_code_tokens, embed_names, initialise_rows
from factory.domain.records import Tool

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def install(
    codebook: Codebook,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    embeddings: Floats | None = None,
    *,
    fresh: Fresh | None = None,
    reframe: bool = True,
) -> list[list[int]]:
    """Add the code tokens to a model and its tokenizer; fresh ones get rows of their members.

    Rows are made of the model's own embeddings of the members' documents where a coder puts
    residuals back into its width (§2.4), else of the members' names (§3.1, A20).

    Args:
        codebook: whose tokens they are.
        model: causal model.
        tokenizer: its tokenizer.
        embeddings: (N, D) or (N, V, D) of the codebook's tools, in that order; None for coders that
            read no documents, and where another model embeds them.
        fresh: the numbers that want rows; None is all of them.
        reframe: whether rows are made of members; else new ones stay as the model makes them.

    Returns:
        Token ids by position.
    """
    if not codebook.tokens:
        return []
    ids = add_code_tokens(tokenizer, model, codebook.tokens)
    if fresh is None:
        fresh = [range(len(position)) for position in codebook.tokens]
    if any(fresh) and reframe:
        rows = _make_rows(codebook, model, tokenizer, embeddings)
        initialise_rows(model, ids, rows, fresh)
    return ids


def _make_rows(
    codebook: Codebook,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    embeddings: Floats | None,
) -> list[Floats]:
    """(K, D) by position."""
    coder, codes = codebook.coder, codebook.codes
    tools = [entry.tool for entry in codebook.tools]
    if not codebook.embedder and (rows := coder.rows(see(tools, embeddings), codes)) is not None:
        return rows
    names = [_words(tool) for tool in tools]
    if codebook.finish is not None and coder.own_finish:
        codes, names = [*codes, codebook.finish], [*names, "Finish"]
    codes_NP = np.array(codes, dtype=np.int32)
    return mean_rows(embed_names(model, tokenizer, names), codes_NP, coder.sizes, coder.levels)


def _words(tool: Tool) -> str:
    """`Imagon compress`: whose words a code's row is made of (§3.1)."""
    service = tool.document.get("tool_name")
    return f"{service} {tool.name}" if service else tool.name
