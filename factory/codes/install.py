"""Code tokens in a model: added to its vocabulary, with first rows made of their members."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from factory.codes.arrays import Floats
from factory.codes.codebook import Codebook, Fresh
from factory.codes.growing import see
from factory.codes.levels import mean_rows
from factory.codes.rows import Ear, initialise_rows
from factory.codes.vocabulary import add_code_tokens, embed_names, tables_of
from factory.domain.canon import canonical_json
from factory.domain.plaintext import encodable
from factory.domain.records import Tool
from factory.workspace.recipe import RowsName

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NUM_READ = 64
"""Documents that new rows must not answer to, evenly drawn."""


def install(
    codebook: Codebook,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    embeddings: Floats | None = None,
    *,
    fresh: Fresh | None = None,
    how: RowsName = "calibrated",
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
        how: rows are made (initialise_rows); `random` leaves new ones as the model makes them.

    Returns:
        Token ids by position.
    """
    if not codebook.tokens:
        return []
    ids = add_code_tokens(tokenizer, model, codebook.tokens)
    if fresh is None:
        fresh = [range(len(position)) for position in codebook.tokens]
    if any(fresh) and how != "random":
        rows, of_states = _make_rows(codebook, model, tokenizer, embeddings)
        ear = Ear(model, tokenizer, _documents(codebook))
        initialise_rows(model, ids, rows, fresh, how, ear, of_states=of_states)
    return ids


def _documents(codebook: Codebook) -> list[str]:
    """Some of its tools' documents."""
    rows = np.linspace(0, len(codebook) - 1, min(NUM_READ, len(codebook))).astype(int)
    return [encodable(canonical_json(codebook.tools[row].tool.document)) for row in rows]


def _make_rows(
    codebook: Codebook,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    embeddings: Floats | None,
) -> tuple[list[list[Floats]], bool]:
    """(K, D) by table and position, and whether they are of states."""
    coder, codes, tables = codebook.coder, codebook.codes, tables_of(model)
    tools = [entry.tool for entry in codebook.tools]
    if not codebook.embedder and (rows := coder.rows(see(tools, embeddings), codes)) is not None:
        return [rows] * len(tables), True
    names = [_words(tool) for tool in tools]
    if codebook.finish is not None and coder.own_finish:
        codes, names = [*codes, codebook.finish], [*names, "Finish"]
    codes_NP = np.array(codes, dtype=np.int32)
    of_names = [
        mean_rows(embed_names(table, tokenizer, names), codes_NP, coder.sizes, coder.levels)
        for table in tables
    ]
    return of_names, False


def _words(tool: Tool) -> str:
    """`Imagon compress`: whose words a code's row is made of (§3.1)."""
    service = tool.document.get("tool_name")
    return f"{service} {tool.name}" if service else tool.name
