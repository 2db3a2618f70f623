"""What a checkpoint keeps of its codes, and what of them strays into text (algorithms §7.7).

Of each tool that is drawn three things are asked, greedily:

free    its document, answered freely: its code (ToolGen's memorisation), or no tool's at all
bound   its document, answered under the trie of all codes
plain   what it is good for, in words: no code token belongs there
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from factory.codes.codebook import ToolCode
from factory.codes.saving import SavedCodebook, load_codebook
from factory.domain.canon import ENCODE_PROMPT, canonical_json, derive_seed, digest
from factory.domain.failures import InputError
from factory.domain.records import (
    UNANSWERED,
    Checkpoint,
    Completion,
    Constraint,
    ItemScore,
    Message,
    Reply,
    Request,
    Tool,
)
from factory.engines.base import Engine
from factory.ledger.lineage import is_address
from factory.score.asking import ask_all, explain_unanswered, greedy
from factory.score.base import Asked, Scorable, Setup
from factory.score.card import Line, Scorecard
from factory.score.definition import Definition
from factory.score.estimates import combine
from factory.workspace.folder import Workspace
from factory.workspace.prompts import Prompts

PROMPTS = "eval/memory"
RATES = {
    "hallucinated": "less is better: free answers that name no tool",
    "leaked": "less is better: answers in words with a code token",
}
"""Shares of what should not be."""
WHOLE = "whole code"


class MemoryDefinition(Definition):
    """eval/<name>.toml of the kind `memory`."""

    kind: Literal["memory"]
    limit: int = Field(200, ge=0)
    """Tools of the checkpoint that are asked; 0 is all."""
    seed: int = 0
    """Draws them: what two checkpoints both know is drawn alike."""
    max_tokens: int = Field(64, ge=1)
    """Of an answer in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory(Asked):
    """A checkpoint's own tools: documents in, codes out; codes in text."""

    definition: MemoryDefinition

    @classmethod
    def load(cls, workspace: Workspace, name: str, definition: MemoryDefinition) -> Memory:
        return cls(
            stem=name,
            title=definition.title,
            split=definition.split,
            items=(),
            definition=definition,
        )

    def basis(self, setup: Setup) -> str:
        of = self.definition
        shas = [setup.prompts.sha(ENCODE_PROMPT), Prompts(setup.workspace, PROMPTS).sha("plain")]
        return digest(canonical_json([*shas, of.limit, of.seed, of.max_tokens]))

    async def score(self, setup: Setup, checkpoint: Checkpoint, engine: Engine) -> list[ItemScore]:
        """Each tool asked in each way; one item without a code where there are no codes."""
        if is_address(checkpoint.path):
            raise InputError(
                f"{self.name} needs the codes in the checkpoint's folder, not its server",
                where=checkpoint.path,
                remedy="--checkpoint with an id or a model folder",
            )
        codebook = load_codebook(Path(checkpoint.path))
        if codebook is None or not codebook.tools:
            setup.notify(
                f"{checkpoint.id} has no codes and remembers none: run a round, whose training "
                "gives codes to the tools it knows, or factory codes fit --out"
            )
            return [_without_codes()]
        drawn = self._draw(codebook.tools)
        asked = [
            (entry.tool, request)
            for entry in drawn
            for request in self._requests(setup, codebook, entry.tool)
        ]
        replies = await ask_all(engine, [request for _, request in asked], setup.progress)
        return [
            judge_memory(codebook, tool, reply)
            for (tool, _), reply in zip(asked, replies, strict=True)
        ]

    def _draw(self, tools: Sequence[ToolCode]) -> list[ToolCode]:
        of = self.definition
        drawn = sorted(tools, key=lambda each: derive_seed(of.seed, "memory", each.tool.id))
        return drawn[: of.limit or None]

    def _requests(self, setup: Setup, codebook: SavedCodebook, tool: Tool) -> list[Request]:
        def ask(kind: str, text: str, max_tokens: int) -> Request:
            return greedy(f"{kind}/{tool.id}", [Message(role="user", content=text)], max_tokens)

        document = setup.prompts.render(ENCODE_PROMPT, tool=tool.document)
        free = ask("free", document, codebook.num_levels + 1)
        bound = replace(free, id=f"bound/{tool.id}", constraint=_trie(codebook))
        if not codebook.tokens:
            return [free, bound]
        plain = Prompts(setup.workspace, PROMPTS).render("plain", tool=tool.document)
        return [free, bound, ask("plain", plain, self.definition.max_tokens)]

    def card(self, items: Sequence[ItemScore]) -> Scorecard:
        """Shares right at each level and whole, free and bound, and the two rates."""
        measures = dict.fromkeys((x.category, key) for x in items for key in x.detail)
        lines = [_line(items, kind, key) for kind, key in sorted(measures, key=_place)]
        whole = next(line for line in lines if line.name == f"free {WHOLE}")
        return Scorecard(
            categories=tuple(lines),
            averages=(replace(whole, name=WHOLE, scheme="free", note=""),),
            reasons=tuple(Counter(x.reason for x in items if not x.correct).most_common()),
        )

    def change(self, before: Sequence[ItemScore], after: Sequence[ItemScore]) -> Scorecard:
        """What changed on the tools that both know; nothing where they know none in common."""
        shared = {x.item for x in before if x.detail} & {x.item for x in after if x.detail}
        if not shared:
            none = Line(name=WHOLE, scheme="free", missing=("tools that both know",))
            return Scorecard(categories=(), averages=(none,), reasons=())
        first, second = ([x for x in of if x.item in shared] for of in (before, after))
        return Scorable.change(self, first, second)


def _trie(codebook: SavedCodebook) -> Constraint:
    return Constraint(trie=str(codebook.trie_path))


def _without_codes() -> ItemScore:
    return ItemScore(
        item="free/none",
        category="free",
        correct=False,
        reason="no_code",
        message="the checkpoint has no codes",
        answer="",
        detail={WHOLE: 0.0},
    )


def judge_memory(codebook: SavedCodebook, tool: Tool, reply: Reply) -> ItemScore:
    """One answer. What the engine did not answer is not right, and says nothing of the rates."""
    kind, found = reply.request_id.partition("/")[0], reply.completions[0]
    answered = found.finish_reason not in UNANSWERED
    detail, reason, message = (_judge_plain if kind == "plain" else _judge_code)(
        codebook, tool, found
    )
    unknown = {"hallucinated": float(reason == "no_tool")} if kind == "free" else {}
    kept = {**detail, **unknown}
    item = ItemScore(
        item=reply.request_id,
        category=kind,
        correct=not reason and answered,
        reason=reason,
        message=f"{tool.name}: {message}",
        answer=found.text,
        detail=kept if answered else {k: v for k, v in kept.items() if k not in RATES},
    )
    return explain_unanswered(item, reply)


Judged = tuple[dict[str, float], str, str]
"""Measures, reason and message."""


def _judge_code(codebook: SavedCodebook, tool: Tool, found: Completion) -> Judged:
    """Tokens right from the first on, and the code as a whole."""
    wanted, named = codebook.spell(codebook.code_text(tool.id)), codebook.tool_of(found.text)
    depth = len(list(takewhile(lambda p: p[0] == p[1], zip(wanted, found.token_ids, strict=False))))
    levels = {f"level {n}": float(depth >= n) for n in range(1, len(wanted) + 1)}
    reason = "no_tool" if named is None else "" if named.id == tool.id else "other_tool"
    return {**levels, WHOLE: float(not reason)}, reason, f"{depth} of {len(wanted)} tokens right"


def _judge_plain(codebook: SavedCodebook, tool: Tool, found: Completion) -> Judged:
    """Whether there is a code's token in words."""
    known = set(codebook.token_ids.values())
    num_leaked = sum(token in known for token in found.token_ids)
    message = f"{num_leaked} of {len(found.token_ids)} tokens are a code's"
    return {"leaked": float(num_leaked > 0)}, "code_leaked" if num_leaked else "", message


def _place(measure: tuple[str, str]) -> tuple[object, ...]:
    """Where a measure stands: free before bound, level by level; rates last."""
    kind, key = measure
    level = int(key.split()[1]) if key.startswith("level") else math.inf
    return key in RATES, kind != "free", level, key


def _line(items: Sequence[ItemScore], kind: str, key: str) -> Line:
    values = np.array([x.detail[key] for x in items if x.category == kind and key in x.detail])
    return Line(
        name=key if key in RATES else f"{kind} {key}",
        estimate=combine({key: values}, {key: 1.0}),
        num_items=len(values),
        note=RATES.get(key, ""),
    )
