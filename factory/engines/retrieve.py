"""Tools for a query, by their codes; a child (factory.engines.retrieve_child) searches for them.

It holds the model until the retriever is closed, so thousands of queries, or several catalogues,
cost one start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.codes.codebook import Codebook
from factory.codes.saving import load_codebook
from factory.domain.failures import ChildError, InputError, ModelError
from factory.domain.records import Tool
from factory.engines.base import Closing
from factory.engines.child import Child
from factory.engines.opening import choose_backend
from factory.workspace.models import check_model_folder
from factory.workspace.settings import EngineSection

CHUNK = 256
"""Queries that the child answers at a time: what progress counts in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A tool found. Example: Hit(tool=Tool(…), code="<a_1><b_7><c_0>", score=-0.41)."""

    tool: Tool
    code: str
    """Its code, as the model writes it."""
    score: float
    """Log-probability that the model answers the query with this code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieved:
    """What was found for one query."""

    hits: tuple[Hit, ...]
    """Most likely first."""
    exact: bool
    """Whether no tool outside them can be more likely than one of them."""
    reason: str = ""
    """Why nothing was searched (`prompt_too_long`); else empty."""


class Retriever(Closing):
    """A checkpoint that names tools. `async with await Retriever.open(…) as retriever: …`"""

    def __init__(self, child: Child, codebook: Codebook) -> None:
        self._child = child
        self._codebook = codebook
        self._tools = {entry.tool.id: entry.tool for entry in codebook.tools}
        self.seconds: list[float] = []
        """Spent on reading prompts, then on each token of the codes, in the catalogue searched last
        (BeamSearch.seconds)."""

    @classmethod
    async def open(cls, checkpoint: Path, *, settings: EngineSection, log: Path) -> Retriever:
        """Start the child on a checkpoint with codes.

        Raises:
            ModelError: the folder is no model, has no codes, or cannot be searched with.
            MissingError: transformers is not installed.
            ChildError: the child died.
        """
        choose_backend("transformers", lambda _: None)
        check_model_folder(checkpoint)
        codebook = load_codebook(checkpoint)
        if codebook is None or len(codebook) == 0:
            raise ModelError(
                "This checkpoint has no codes to retrieve tools by",
                where=str(checkpoint),
                remedy="run a round: its training gives codes to the tools it knows",
            )
        child = await Child.start(
            "factory.engines.retrieve_child", threads=settings.threads, log=log
        )
        opening = {"path": str(checkpoint), "settings": settings.model_dump()}
        retriever = cls(child, codebook)
        try:
            await retriever._ask({**opening, "trie": str(codebook.trie_path)})
        except BaseException:
            await child.kill()
            raise
        return retriever

    @property
    def tool_ids(self) -> frozenset[str]:
        """Ids of the tools that have a code: those it can find."""
        return frozenset(self._tools)

    async def close(self) -> None:
        await self._child.stop()

    async def retrieve(
        self,
        prompts: Sequence[str],
        *,
        k: int,
        beams: int = 0,
        exact: bool = False,
        only: Sequence[str] = (),
        progress: Callable[[int], None] = lambda _: None,
    ) -> list[Retrieved]:
        """The k most likely tools of each prompt, in the order of the prompts.

        Args:
            prompts: user messages, as prompts/codes/retrieve.j2 renders queries.
            k: tools of an answer; fewer where the checkpoint knows fewer.
            beams: branches kept at each step; 0 is k.
            exact: widen the beam until no better tool can be left out.
            only: ids of the tools to choose from; none for all of the checkpoint's.
            progress: is told how many prompts are done.

        Raises:
            InputError: k or beams is out of range.
            ModelError: one of `only` has no code.
            ChildError: the child died.
        """
        beams = beams or k
        if not 1 <= k <= beams:
            raise InputError(f"{k} tools of a beam of {beams}", remedy="ask for 1 to `beams` tools")
        options = {"k": k, "beams": beams, "exact": exact, "only": [*only]}
        retrieved: list[Retrieved] = []
        for start in range(0, len(prompts), CHUNK):
            chunk = [*prompts[start : start + CHUNK]]
            answer = await self._ask({**options, "prompts": chunk})
            retrieved += [self._retrieved(ranking) for ranking in answer["rankings"]]
            self.seconds = answer["seconds"]
            progress(len(retrieved))
        return retrieved

    async def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        await self._child.send(message)
        answer = await self._child.receive()
        if answer is None:
            raise ChildError(
                f"Retrieval ended: {self._child.cause()}",
                where="factory.engines.retrieve_child",
                remedy="take fewer beams"
                if self._child.ran_out_of_memory
                else "mend what the log says",
            )
        return answer

    def _retrieved(self, ranking: dict[str, Any]) -> Retrieved:
        hits = tuple(
            Hit(tool=self._tools[tool_id], code=self._codebook.code_text(tool_id), score=score)
            for tool_id, score in ranking["found"]
        )
        return Retrieved(hits=hits, exact=ranking["exact"], reason=ranking["reason"])
