"""One query from its text to its outcome: write tools, code them, call them, vote, judge.

Each query is one coroutine; the engine batches whatever all of them ask for at the moment, so no
query waits for the slowest one of a stage. What comes back is the query's rows for the ledger,
every raw output with them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from factory.codes.saving import SavedCodebook
from factory.domain.canon import canonical_json, derive_seed
from factory.domain.records import (
    SCHEMA_UNSUPPORTED,
    Constraint,
    Message,
    Query,
    Reply,
    Request,
    Sampling,
    Tool,
    Verdict,
)
from factory.engines.base import Engine
from factory.judge.sample import Judge, Trail, status_of
from factory.ledger.tables import Batch
from factory.round.requests import calls_request, tools_request
from factory.workspace.prompts import Prompts
from factory.workspace.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler:
    """Everything a query needs on its way. Example: see factory.round."""

    engine: Engine
    """The only door to the model."""
    prompts: Prompts
    """Rendered prompts."""
    recipe: Recipe
    """Sampling and voting values."""
    judge: Judge
    """The pass of rules that the verdicts belong to."""
    codebook: SavedCodebook | None
    """The checkpoint's codes; None where it has none yet."""

    async def run(self, query: Query) -> Batch:
        """The ledger rows of one query: exactly one of them is its `sample`."""
        trail = Trail(judge=self.judge, query=query)
        tools = await self._write_tools(query, trail)
        if isinstance(tools, Verdict):
            return trail.close(status_of(tools), "tools", tools)
        _, found = await asyncio.gather(
            self._propose_codes(query, tools, trail), self._retrieve(query, tools, trail)
        )
        trail.tools = (*tools, *found)
        return await self._call(query, trail)

    async def _write_tools(self, query: Query, trail: Trail) -> tuple[Tool, ...] | Verdict:
        request = tools_request(query, self.judge.round_number, self.recipe, self.prompts)
        reply = await self._ask(request)
        self._keep(trail, "tools", "", request, reply, "tools/generate")
        return trail.judge_tools(reply)

    async def _propose_codes(self, query: Query, tools: Sequence[Tool], trail: Trail) -> None:
        """The model's own code for each new document: a signal, never the label (A39)."""
        if self.codebook is None or self.codebook.grammar_path is None:
            return
        requests = [
            Request(
                id=f"{query.id}/propose/{index}",
                messages=(
                    Message(
                        role="user",
                        content=self.prompts.render("codes/encode", tool=tool.document),
                    ),
                ),
                sampling=Sampling(max_tokens=self.codebook.num_levels + 1),
                constraint=Constraint(trie=str(self.codebook.grammar_path)),
            )
            for index, tool in enumerate(tools)
        ]
        replies = await self.engine.sample(requests)
        for tool, request, reply in zip(tools, requests, replies, strict=True):
            self._keep(trail, "propose", tool.id, request, reply, "codes/encode")
            completion = reply.completions[0]
            valid = self.codebook.parse(completion.text) is not None
            trail.judge_code(tool.id, completion, valid=valid)

    async def _retrieve(
        self, query: Query, tools: Sequence[Tool], trail: Trail
    ) -> tuple[Tool, ...]:
        """Existing tools the model names by code for the query: answers or hard distractors."""
        codes = self.recipe.codes
        if self.codebook is None or codes.retrieve == 0 or codes.keep == 0:
            return ()
        request = Request(
            id=f"{query.id}/retrieve",
            messages=(
                Message(
                    role="user", content=self.prompts.render("codes/retrieve", query=query.text)
                ),
            ),
            sampling=Sampling(
                n=codes.retrieve,
                temperature=1.0,
                max_tokens=self.codebook.num_levels + 1,
                seed=derive_seed(self.recipe.seed, self.judge.round_number, query.id, "retrieve"),
            ),
            constraint=Constraint(trie=str(self.codebook.trie_path)),
        )
        reply = await self._ask(request)
        self._keep(trail, "retrieve", "", request, reply, "codes/retrieve")
        found: dict[str, Tool] = {}
        names = {tool.name for tool in tools}
        for completion in sorted(reply.completions, key=lambda c: -c.logprob):
            tool = self.codebook.tool_of(completion.text)
            if tool is not None and tool.name not in names:
                names.add(tool.name)
                found[tool.id] = tool
        return tuple(found.values())[: codes.keep]

    async def _call(self, query: Query, trail: Trail) -> Batch:
        number = self.judge.round_number
        request = calls_request(query, trail.tools, number, self.recipe, self.prompts)
        reply = await self._ask(request)
        if reply.completions[0].finish_reason == SCHEMA_UNSUPPORTED:
            request = replace(request, constraint=None)
            reply = await self._ask(request)
        self._keep(trail, "calls", "", request, reply, "calls/system")
        return trail.judge_calls(reply)

    async def _ask(self, request: Request) -> Reply:
        return (await self.engine.sample([request]))[0]

    def _keep(
        self, trail: Trail, stage: str, subject: str, request: Request, reply: Reply, prompt: str
    ) -> None:
        """Keep every raw output of a reply in the trail."""
        sampling, constraint = request.sampling, request.constraint
        bound = {"constrain": "schema"} if constraint is not None and constraint.tools else {}
        sampling_json = canonical_json(
            {
                "n": sampling.n,
                "temperature": sampling.temperature,
                "top_k": sampling.top_k,
                "top_p": sampling.top_p,
                "max_tokens": sampling.max_tokens,
                **bound,
            }
        )
        trail.generations += [
            {
                "round": self.judge.round_number,
                "query_id": trail.query.id,
                "stage": stage,
                "subject": subject,
                "num_prompt_tokens": reply.num_prompt_tokens,
                "sampling_json": sampling_json,
                "prompt_sha": self.prompts.sha(prompt),
                "checkpoint_id": self.engine.checkpoint.id,
                "sample_index": index,
                "text": completion.text,
                "finish_reason": completion.finish_reason,
                "num_tokens": len(completion.token_ids),
                "logprob": completion.logprob,
                "seed": sampling.seed + index,
            }
            for index, completion in enumerate(reply.completions)
        ]
