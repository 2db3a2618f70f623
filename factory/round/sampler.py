"""The order of a sample's stages, whoever answers: write tools, code them, call them, vote, judge.

Each query is one coroutine; an engine batches whatever all of them ask for at the moment, so no
query waits for the slowest one of a stage.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from factory.domain.records import Completion, Query, Reply, Tool, Verdict
from factory.judge.sample import Judgement, Sample, Trail


class Proposal(NamedTuple):
    """The model's own code for a new document: a signal, never the label (A39)."""

    tool_id: str
    completion: Completion
    valid: bool
    """Whether the trie has it."""


class Answerer(Protocol):
    """Who answers for one query: a model that is asked, or the record of an earlier round."""

    @property
    def namesakes(self) -> Sequence[Tool]:
        """Retrieved tools that were not shown, because one that was has their name."""

    async def write_tools(self) -> Reply | None:
        """One answer with tool documents; None where that was never asked."""

    async def propose_codes(self, tools: Sequence[Tool]) -> Sequence[Proposal]:
        """Codes for the documents that passed."""

    async def show(self, tools: tuple[Tool, ...]) -> tuple[Tool, ...] | None:
        """Those that passed, and retrieved ones, to be called; None where that was never asked."""

    async def call(self, shown: tuple[Tool, ...]) -> Reply:
        """n answers with calls."""

    @property
    def has_more(self) -> bool:
        """Whether it answers on where those do not agree."""

    async def call_more(self, shown: tuple[Tool, ...]) -> Reply:
        """Those answers."""


def find_namesakes(found: Iterable[Tool], shown: Sequence[Tool]) -> list[Tool]:
    """The tools that are not shown and whose name one of the shown has: a call means that one."""
    ids, names = {tool.id for tool in shown}, {tool.name for tool in shown}
    left = {tool.id: tool for tool in found if tool.id not in ids and tool.name in names}
    return list(left.values())


async def sample_query(
    judgement: Judgement, query: Query, answerer: Answerer, drawn: Sequence[Verdict] = ()
) -> Sample:
    """One query from its text to its outcome; `drawn` is what set rules said when it was drawn."""
    trail = Trail(judgement=judgement, query=query)
    if (stopped := trail.judge_query(drawn)) is not None:
        return stopped
    written = await answerer.write_tools()
    if written is None:
        return trail.close_unasked("tools")
    tools = trail.judge_tools(written)
    if isinstance(tools, Sample):
        return tools
    proposals, shown = await asyncio.gather(answerer.propose_codes(tools), answerer.show(tools))
    for proposal in proposals:
        trail.judge_code(proposal.tool_id, proposal.completion, valid=proposal.valid)
    trail.note_namesakes(answerer.namesakes)
    if shown is None:
        return trail.close_unasked("calls")
    # Of a record only: what passes now was not shown then, and cannot have been called.
    if not {tool.id for tool in tools} & {tool.id for tool in shown}:
        return trail.close_without_own(shown)
    reply, more = await answerer.call(shown), None
    if answerer.has_more and trail.wants_more(shown, reply):
        more = await answerer.call_more(shown)
    return trail.judge_calls(shown, reply, more)
