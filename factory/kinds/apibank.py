"""API-Bank: calls that dialogues are due."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from factory.benchmark import Definition, first_of_each
from factory.canon import canonical_json, digest
from factory.engines.base import Engine
from factory.kinds.base import Scorable, Setup, find_data, make_item
from factory.records import Checkpoint, ItemScore
from factory.scorecard import Average, Scorecard, make_card
from factory.scorers import apibank
from factory.workspace import Workspace


class ApiBankDefinition(Definition):
    """eval/<name>.toml of the kind `apibank`."""

    kind: Literal["apibank"]
    data: str = ""
    """API-Bank's folder (DAMO-ConvAI/api-bank)."""
    simulate: bool = False
    """Execute calls in its simulator, or compare arguments."""
    limit: int = Field(0, ge=0)
    """Turns of each level; 0 is all."""
    max_tokens: int = Field(256, gt=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiBank(Scorable):
    """API-Bank's Call and Retrieve+Call."""

    definition: ApiBankDefinition
    """Its options."""
    folder: Path
    """The benchmark's, which has the simulator."""
    turns: tuple[apibank.Turn, ...]
    """Points of dialogues where a call is due."""

    @classmethod
    def load(cls, workspace: Workspace, name: str, definition: ApiBankDefinition) -> ApiBank:
        folder = find_data(workspace, definition.data, name)
        turns = tuple(
            first_of_each(
                apibank.load_apibank(folder), definition.limit, lambda turn: turn.category
            )
        )
        return cls(
            name=name,
            title=definition.title,
            split=definition.split,
            items=tuple(
                make_item(x.category, x.id, x.dialogue, {x.expected.name: x.expected.arguments})
                for x in turns
            ),
            categories=tuple(dict.fromkeys(turn.category for turn in turns)),
            definition=definition,
            folder=folder,
            turns=turns,
        )

    def basis(self, setup: Setup) -> str:
        asked = [[x.id, x.category, x.instruction, x.dialogue] for x in self.turns]
        expected = [[x.expected.name, x.expected.arguments] for x in self.turns]
        of = self.definition
        return digest(canonical_json([asked, expected, of.simulate, of.max_tokens]))

    async def score(
        self, setup: Setup, checkpoint: Checkpoint, engine: Engine | None
    ) -> list[ItemScore]:
        assert engine is not None
        return await apibank.score_apibank(
            engine,
            self.turns,
            simulator=self.folder.resolve() if self.definition.simulate else None,
            log=setup.log("apibank"),
            max_tokens=self.definition.max_tokens,
            progress=setup.progress,
        )

    def card(self, items: Sequence[ItemScore]) -> Scorecard:
        return make_card(self.ordered(items), [Average("tooldev", "overall", apibank.TOOLDEV)])
