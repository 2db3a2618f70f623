"""What a model makes of tool documents: the vectors that coders are fitted on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from factory.codes.arrays import Floats
from factory.codes.base import OnProgress, silent
from factory.codes.codebook import Codebook
from factory.codes.gist import (
    GIST_PATH,
    Epoch,
    Gist,
    Readable,
    embed_gists,
    fit_gist,
    make_readable,
)
from factory.codes.guided import Coding, guide_gist
from factory.codes.vocabulary import embed_documents, embed_with
from factory.domain.canon import COMPRESS_PROMPT, ENCODE_PROMPT
from factory.domain.plaintext import encodable
from factory.domain.records import Tool
from factory.workspace.prompts import Prompts
from factory.workspace.recipe import GistSection


@dataclass(slots=True, kw_only=True)
class DocumentReader:
    """Turns tool documents into embeddings: mean states, gist states, or another model's."""

    model: PreTrainedModel | None
    """Causal; None where another model embeds."""
    tokenizer: PreTrainedTokenizerBase | None
    prompts: Prompts
    """`codes/encode` says how a document reads, for compression the prompt of the gist."""
    gist: Gist | None = None
    """How documents are compressed; None is their mean state."""
    embedder: Path | None = None
    """Folder of a sentence-transformers model, in place of the model itself."""

    def compress(
        self, tools: Sequence[Tool], config: GistSection, seed: int, tell: Callable[[str], None]
    ) -> None:
        """Learn to compress these documents on the model as it is; without views, forget how.

        Learning goes on from where it ended the last time: with `codes.recode_every` this is SGTC's
        post-guided training as its appendix has it, the trained model's own gist states being
        clustered anew (A16).
        """
        if not config.views:
            self.gist = None
            return
        self.gist = fit_gist(
            self.model,
            self.tokenizer,
            self._readable(tools, COMPRESS_PROMPT),
            config,
            seed=seed,
            start=self.gist if self.gist and self.gist.config.views == config.views else None,
            report=lambda epoch: tell(_told("compressing documents", epoch)),
        )

    def guide(
        self,
        tools: Sequence[Tool],
        config: GistSection,
        seed: int,
        recode: Callable[[Floats | None], Coding],
        tell: Callable[[str], None],
    ) -> None:
        """Post-guided training as SGTC's body has it: only the gist tokens move (guide_gist)."""
        assert self.gist is not None
        self.gist = guide_gist(
            self.model,
            self.tokenizer,
            self._readable(tools, self.gist.prompt),
            self.gist,
            config,
            recode,
            seed=seed,
            report=lambda epoch: tell(_told("moving the gist tokens", epoch)),
        )

    def embed(self, tools: Sequence[Tool], on_progress: OnProgress = silent) -> Floats:
        """(N, D), or (N, V, D) gist states, of the tools' documents.

        `on_progress` hears of the documents that the model has read; another embedder is silent.
        """
        gist = self.gist if self.embedder is None else None
        prompt = gist.prompt if gist else ENCODE_PROMPT
        return self.embed_texts(self._texts(tools, prompt), on_progress)

    def embed_texts(self, texts: Sequence[str], on_progress: OnProgress = silent) -> Floats:
        """The same of other texts, such as requests."""
        gist = self.gist if self.embedder is None else None
        if self.embedder is not None:
            return embed_with(self.embedder, texts)
        if gist is not None:
            return embed_gists(self.model, self.tokenizer, gist, texts, on_progress=on_progress)
        return embed_documents(self.model, self.tokenizer, texts, on_progress=on_progress)

    def _readable(self, tools: Sequence[Tool], prompt: str) -> list[Readable]:
        texts = zip(self._texts(tools, prompt), tools, strict=True)
        return [make_readable(text, tool.document) for text, tool in texts]

    def _texts(self, tools: Sequence[Tool], prompt: str) -> list[str]:
        """What codes are made from, without lone surrogates."""
        texts = (self.prompts.render(prompt, tool=tool.document) for tool in tools)
        return [encodable(text) for text in texts]


def _told(doing: str, epoch: Epoch) -> str:
    return f"{doing}, epoch {epoch.number}, held-out loss {epoch.held_out:.3f}"


def load_gist(checkpoint: Path, codebook: Codebook | None) -> Gist | None:
    """How a checkpoint compresses documents; None where its codes are made of whole ones."""
    return Gist.load(checkpoint / GIST_PATH) if codebook and codebook.views else None
