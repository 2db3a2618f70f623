"""T-Eval: plans, tools and arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from factory.benchmark import Definition, first_of_each
from factory.canon import canonical_json, digest
from factory.engines.base import Engine, fingerprint
from factory.kinds.base import Scorable, Setup, check_path, find_data, make_item, resolve
from factory.records import Checkpoint, ItemScore
from factory.scorecard import Average, Scorecard, make_card
from factory.scorers import teval
from factory.scorers.retrieval import embed
from factory.serving import engine_settings
from factory.workspace import Workspace


class TEvalDefinition(Definition):
    """eval/<name>.toml of the kind `teval`."""

    kind: Literal["teval"]
    data: str = ""
    """T-Eval's data folder."""
    embedder: str = ""
    """sentence-transformers folder (all-mpnet-base-v2); without one plans are compared as text."""
    limit: int = Field(0, ge=0)
    """Questions of each file; 0 is all."""
    max_tokens: int = Field(1024, gt=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TEval(Scorable):
    """T-Eval's plan, retrieve and understand."""

    definition: TEvalDefinition
    """Its options."""
    questions: tuple[teval.Item, ...]
    """As its files have them."""

    @classmethod
    def load(cls, workspace: Workspace, name: str, definition: TEvalDefinition) -> TEval:
        folder = find_data(workspace, definition.data, name)
        check_path(workspace, definition.embedder, name, "embedder")
        questions = tuple(
            first_of_each(
                teval.load_teval(folder), definition.limit, lambda x: f"{x.task}_{x.form}"
            )
        )
        pairs = [(each, name) for each in questions for name in teval.categories(each)]
        found = {name for _, name in pairs}
        return cls(
            name=name,
            title=definition.title,
            split=definition.split,
            items=tuple(
                make_item(category, x.id, x.messages[-1].content if x.messages else "", x.truth)
                for x, category in pairs
            ),
            categories=tuple(each for each in teval.CATEGORIES if each in found),
            definition=definition,
            questions=questions,
        )

    def basis(self, setup: Setup) -> str:
        asked = [
            [x.id, x.task, x.form, [[m.role, m.content] for m in x.messages], x.truth, x.tools]
            for x in self.questions
        ]
        of = self.definition
        mark = fingerprint(resolve(setup.workspace, of.embedder)) if of.embedder else ""
        return digest(canonical_json([asked, mark, of.max_tokens]))

    async def score(
        self, setup: Setup, checkpoint: Checkpoint, engine: Engine | None
    ) -> list[ItemScore]:
        assert engine is not None

        async def embed_texts(texts: Sequence[str]) -> teval.Vectors:
            return await embed(
                resolve(setup.workspace, self.definition.embedder),
                texts,
                threads=engine_settings(setup.settings).threads,
                log=setup.log("embed"),
            )

        return await teval.score_teval(
            engine,
            self.questions,
            embed_texts if self.definition.embedder else None,
            max_tokens=self.definition.max_tokens,
            progress=setup.progress,
        )

    def card(self, items: Sequence[ItemScore]) -> Scorecard:
        averages = [Average("tooldev", name, of) for name, of in teval.TOOLDEV.items()]
        return make_card(self.ordered(items), averages)
