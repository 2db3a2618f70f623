"""A text's perplexity: how much language a checkpoint keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from factory.domain.bounded import DATA, read_text
from factory.domain.canon import canonical_json, digest
from factory.domain.failures import ContentError, InputError
from factory.domain.records import Checkpoint, ItemScore, Unit
from factory.engines.perplexity import STRIDES, WINDOW, measure_perplexity
from factory.engines.serving import engine_settings
from factory.score.base import SelfServed, Setup, find_data
from factory.score.card import Line, Scorecard
from factory.score.definition import Definition
from factory.score.estimates import estimate_perplexity
from factory.score.published import PublishedTable
from factory.workspace.folder import Workspace


class LanguageDefinition(Definition):
    """eval/<name>.toml of the kind `language`."""

    kind: Literal["language"]
    data: str = ""
    """Any text file; the longer the better."""
    window: int = Field(WINDOW, ge=2)
    """Tokens of a window, at most the model's positions."""
    strides: tuple[Annotated[int, Field(gt=0)], ...] = Field(STRIDES, min_length=1)
    """Tokens between the starts of windows; the last one's figure is the overall one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Language(SelfServed):
    """A text's perplexity: how much language is kept."""

    unit: ClassVar[Unit] = "perplexity"
    definition: LanguageDefinition
    text: str = field(repr=False)

    @classmethod
    def load(cls, workspace: Workspace, name: str, definition: LanguageDefinition) -> Language:
        file = find_data(workspace, definition.data, name)
        try:
            text = read_text(file, most=DATA)
        except ContentError as error:
            raise InputError(
                f"cannot read the text: it {error.what}",
                where=str(file),
                remedy="give one text file in UTF-8",
            ) from error
        return cls(
            stem=name,
            title=definition.title,
            split=definition.split,
            items=(),
            definition=definition,
            text=text,
        )

    def basis(self, setup: Setup) -> str:
        of = self.definition
        return digest(canonical_json([self.text, of.window, of.strides]))

    async def score(self, setup: Setup, checkpoint: Checkpoint) -> list[ItemScore]:
        """Each window of each stride as an item, with its loss as the detail."""
        found = await measure_perplexity(
            Path(checkpoint.path),
            self.text,
            threads=engine_settings(setup.settings).threads,
            log=setup.log("language"),
            window=self.definition.window,
            strides=self.definition.strides,
        )
        window, of = found[0].window, self.definition
        if window < max(of.window, *of.strides):
            setup.notify(f"{checkpoint.id}: no window or stride is longer than {window} tokens")
        return [
            ItemScore(
                item=f"stride {each.stride}/{number}",
                category=f"stride {each.stride}",
                correct=True,
                reason="",
                message=f"{nats / count:.4f} nats a token over {count} tokens",
                answer="",
                detail={"nats": nats, "tokens": count},
            )
            for each in found
            for number, (nats, count) in enumerate(each.losses)
        ]

    def card(self, items: Sequence[ItemScore]) -> Scorecard:
        """Perplexities, their interval a bootstrap over windows."""
        groups: dict[str, list[ItemScore]] = {}
        for item in sorted(items, key=lambda x: -int(x.category.split()[-1])):
            groups.setdefault(item.category, []).append(item)
        lines = [self._line(name, of_stride) for name, of_stride in groups.items()]
        widest = int(lines[0].name.split()[-1])
        if capped := [str(stride) for stride in self.definition.strides if stride > widest]:
            note = f"in place of {' and '.join(capped)}, the windows being {widest} tokens long"
            lines[0] = replace(lines[0], note=f"{note}; {lines[0].note}")
        last = lines[-1]
        overall = Line(
            scheme=last.name, name="perplexity", estimate=last.estimate, num_items=last.num_items
        )
        return Scorecard(categories=tuple(lines), averages=(overall,), reasons=())

    def beside(self, table: PublishedTable, card: Scorecard) -> Mapping[str, float]:
        return {line.name: line.estimate.value for line in card.averages if line.estimate}

    def _line(self, name: str, items: Sequence[ItemScore]) -> Line:
        nats_W, tokens_W = (np.array([x.detail[key] for x in items]) for key in ("nats", "tokens"))
        bits = nats_W.sum() / math.log(2) / len(self.text)
        return Line(
            name=name,
            estimate=estimate_perplexity(nats_W, tokens_W),
            num_items=len(items),
            note=f"{bits:.4f} bits a character, {int(tokens_W.sum())} tokens"
            + ("; one window says nothing of its spread" if len(items) == 1 else ""),
        )
