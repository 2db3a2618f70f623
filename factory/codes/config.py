"""How codes are made: the coder, its sizes, when a codebook is fitted again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from factory.codes.base import Coder, OnProgress, silent
from factory.codes.flat import AtomicCoder, HierarchicalCoder, NumericCoder, SemanticCoder
from factory.codes.gist import GistConfig
from factory.codes.levels import choose_shape
from factory.codes.quantized import QuantizedCoder, QuantizedConfig
from factory.codes.residual import ResidualCoder

CoderName = Literal["residual", "quantized", "atomic", "numeric", "hierarchical", "semantic"]
"""The recipe's words."""


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


PostGuided = Literal["appendix", "body"]
"""Where SGTC describes it: compression trains on, on the trained model (`appendix`), or only the
gist tokens move, also by the loss of chats that name tools, codes anew each epoch (`body`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeConfig:
    """Which codes, and when they are made. Example: CodeConfig(coder="quantized", size=1024)."""

    coder: CoderName = "residual"
    """Which coder."""
    size: int = 512
    """Codes a level of residual and quantized at most, capped at an eighth of the tools (A14)."""
    levels: int = 0
    """Levels of them; 0 is the smallest number with size ** levels >= 20 tools (A27)."""
    min_tools: int = 16
    """Fewer tools than this and no codebook is fitted."""
    dims: int = 32
    """Dimensions that PCA keeps for residual and hierarchical."""
    digits: int = 5
    """Length of a numeric code."""
    branches: int = 10
    """Children of a cluster of hierarchical."""
    reframe: bool = True
    """Rows of new tokens are made of their members; else they start at random."""
    gist: GistConfig | None = None
    """How documents are compressed for residual codes; None is their mean state."""
    quantized: QuantizedConfig = field(default_factory=QuantizedConfig)
    """How the autoencoder is trained."""
    embedder: str = ""
    """Folder of a sentence-transformers model for the documents; empty is the model itself."""
    recode_every: int = 0
    """Trainings after which the codes are made anew at the latest; 0 is never."""
    post_guided: PostGuided = "appendix"
    """How gist states follow a trained model before codes are made anew (A16)."""
    version: int = 1
    """Of the codebook that is fitted, should one be."""

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> CodeConfig:
        """Inverse of asdict, after a passage through JSON."""
        gist = GistConfig(**row["gist"]) if row["gist"] else None
        quantized = QuantizedConfig.from_json(row["quantized"])
        return cls(**{**row, "gist": gist, "quantized": quantized})

    @property
    def views(self) -> int:
        """Gist states of a document; 0 where it is not compressed."""
        return self.gist.views if self.gist else 0

    @property
    def reads_documents(self) -> bool:
        """Whether the coder looks at embeddings of documents."""
        return CODERS[self.coder].reads_documents


def make_coder(
    config: CodeConfig, num_tools: int, views: int, on_progress: OnProgress = silent
) -> Coder:
    """An unfitted coder for so many tools of so many embeddings each.

    `on_progress` hears of each epoch of a coder that learns in epochs.
    """
    match config.coder:
        case "atomic":
            return AtomicCoder()
        case "numeric":
            return NumericCoder(config.digits)
        case "hierarchical":
            return HierarchicalCoder(config.branches, config.dims)
        case "semantic":
            return SemanticCoder()
        case "quantized":
            shape = choose_shape(num_tools, config.size, config.levels)
            return QuantizedCoder(
                **shape._asdict(), config=config.quantized, on_progress=on_progress
            )
        case "residual":
            shape = choose_shape(num_tools, config.size, config.levels, views)
            return ResidualCoder(**shape._asdict(), dims=config.dims)
