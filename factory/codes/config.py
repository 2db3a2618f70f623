"""Which coder a recipe's word stands for."""

from __future__ import annotations

from collections.abc import Mapping

from factory.codes.base import Coder, OnProgress, silent
from factory.codes.flat import AtomicCoder, HierarchicalCoder, NumericCoder, SemanticCoder
from factory.codes.levels import choose_shape
from factory.codes.quantized import QuantizedCoder
from factory.codes.residual import ResidualCoder
from factory.workspace.recipe import CodesSection

CODERS: Mapping[str, type[Coder]] = {
    coder.name: coder
    for coder in (
        AtomicCoder,
        NumericCoder,
        HierarchicalCoder,
        SemanticCoder,
        ResidualCoder,
        QuantizedCoder,
    )
}
"""By the recipe's word."""


AUTO_DIMS = 128
"""Dimensions of codes.dims = 0, as far as embeddings have them. By MiniLM and three levels, 38 % of
StableToolBench's requests find their tool first, 21 % at 32 and 38 % at 256; of a few hundred tools
as many at 32."""


def reads_documents(codes: CodesSection) -> bool:
    """Whether the recipe's coder looks at embeddings of documents."""
    return CODERS[codes.coder].reads_documents


def uses_pairs(codes: CodesSection) -> bool:
    """Whether the recipe's codes bring tools together that are used together."""
    return codes.coder == "quantized" and codes.quantized.graph > 0


def make_coder(
    codes: CodesSection, num_tools: int, views: int, on_progress: OnProgress = silent
) -> Coder:
    """An unfitted coder for so many tools of so many embeddings each.

    `on_progress` hears of each epoch of a coder that learns in epochs.
    """
    match codes.coder:
        case "atomic":
            return AtomicCoder()
        case "numeric":
            return NumericCoder(codes.digits)
        case "hierarchical":
            return HierarchicalCoder(codes.branches, codes.dims or AUTO_DIMS)
        case "semantic":
            return SemanticCoder()
        case "quantized":
            shape = choose_shape(num_tools, codes.size, codes.levels)
            return QuantizedCoder(
                **shape._asdict(), config=codes.quantized, on_progress=on_progress
            )
        case "residual":
            shape = choose_shape(num_tools, codes.size, codes.levels, views)
            return ResidualCoder(**shape._asdict(), dims=codes.dims or AUTO_DIMS)
        case "none":
            raise ValueError("the recipe makes no codes")
