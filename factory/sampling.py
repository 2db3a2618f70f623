"""One query from its text to its verdict: write tools, code them, call them, vote, judge.

Each query is one coroutine; the engine batches whatever all of them ask for at the moment, so no
query waits for the slowest one of a stage. What comes back is the query's rows for the ledger,
every raw output with them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from factory.calls import calls_request
from factory.canon import canonical_json, derive_seed
from factory.check import check_calls, check_code, check_tools, check_vote
from factory.codes.lifecycle import Codebook
from factory.engines.base import CONTEXT_FULL, ENGINE_DIED, PROMPT_TOO_LONG, Engine
from factory.prompts import Prompts, to_json
from factory.queries import Contamination
from factory.recipe import Recipe
from factory.records import (
    Call,
    Constraint,
    Message,
    Query,
    Reply,
    Request,
    Sampling,
    Status,
    Tool,
    Verdict,
    Vote,
)
from factory.rulebook import Rulebook
from factory.tools import tools_request
from factory.vote import ParsedCalls, read_answers, vote

Row = Mapping[str, object]
Batch = Mapping[str, Sequence[Row]]

UNJUDGED = {
    PROMPT_TOO_LONG: "the prompt has {tokens} tokens; raise engine.max_model_len",
    CONTEXT_FULL: "after a prompt of {tokens} tokens the answer met engine.max_model_len; raise it",
    ENGINE_DIED: "this request ended the engine each time it was tried; its log says why",
}
"""Finish reasons that say nothing of the answer: the sample is not judged, and this is why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler:
    """Everything a query needs on its way. Example: see factory.round."""

    engine: Engine
    """The only door to the model."""
    prompts: Prompts
    """Rendered prompts."""
    recipe: Recipe
    """Sampling and voting values."""
    rulebook: Rulebook
    """Rules with their severities."""
    codebook: Codebook | None
    """The checkpoint's codes; None where it has none yet."""
    contamination: Contamination
    """Questions of every benchmark that scores the model."""
    round_number: int
    """The round."""
    judgement: int
    """Id of the pass of rules the verdicts belong to."""

    async def run(self, query: Query) -> Batch:
        """The ledger rows of one query: exactly one of them is its `sample`."""
        trail = _Trail(sampler=self, query=query)
        if (overlap := self.contamination.find(query.text)) is not None:
            message = f"shares {overlap.share:.0%} of its 8-grams with {overlap.item}"
            return trail.close("rejected", "draw", trail.add_overlap(message))
        tools = await self._write_tools(query, trail)
        if isinstance(tools, Verdict):
            return trail.close(_status(tools), "tools", tools)
        _, found = await asyncio.gather(
            self._propose_codes(query, tools, trail), self._retrieve(query, tools, trail)
        )
        trail.tools = (*tools, *found)
        return await self._call(query, trail)

    async def _write_tools(self, query: Query, trail: _Trail) -> tuple[Tool, ...] | Verdict:
        request = tools_request(query, self.round_number, self.recipe, self.prompts)
        reply = await self._ask(request)
        trail.add_generations("tools", "", request, reply, "tools/generate")
        completion = reply.completions[0]
        if (unjudged := trail.add_unjudged("tools", reply)) is not None:
            return unjudged
        checked = check_tools(
            completion.text,
            rulebook=self.rulebook,
            query=query.text,
            finish_reason=completion.finish_reason,
        )
        trail.verdicts += checked.verdicts
        return checked.tools or _first_reject(checked.verdicts) or _NO_TOOLS

    async def _propose_codes(self, query: Query, tools: Sequence[Tool], trail: _Trail) -> None:
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
            trail.add_generations("propose", tool.id, request, reply, "codes/encode")
            completion = reply.completions[0]
            if completion.finish_reason not in UNJUDGED:
                trail.verdicts += check_code(
                    completion.text,
                    valid=self.codebook.parse(completion.text) is not None,
                    rulebook=self.rulebook,
                    subject=f"code:{tool.id}",
                )

    async def _retrieve(
        self, query: Query, tools: Sequence[Tool], trail: _Trail
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
                seed=derive_seed(self.recipe.seed, self.round_number, query.id, "retrieve"),
            ),
            constraint=Constraint(trie=str(self.codebook.trie_path)),
        )
        reply = await self._ask(request)
        trail.add_generations("retrieve", "", request, reply, "codes/retrieve")
        found: dict[str, Tool] = {}
        names = {tool.name for tool in tools}
        for completion in sorted(reply.completions, key=lambda c: -c.logprob):
            tool = self.codebook.tool_of(completion.text)
            if tool is not None and tool.name not in names:
                names.add(tool.name)
                found[tool.id] = tool
        return tuple(found.values())[: codes.keep]

    async def _call(self, query: Query, trail: _Trail) -> Batch:
        request = calls_request(query, trail.tools, self.round_number, self.recipe, self.prompts)
        reply = await self._ask(request)
        trail.add_generations("calls", "", request, reply, "calls/system")
        if (unjudged := trail.add_unjudged("calls", reply)) is not None:
            return trail.close("unjudged", "calls", unjudged)
        answers = read_answers(completion.text for completion in reply.completions)
        return self.judge(query, trail, answers, reply)

    def judge(
        self, query: Query, trail: _Trail, answers: Sequence[ParsedCalls], reply: Reply
    ) -> Batch:
        """Vote on parsed answers, judge each of them, and close the trail (A5)."""
        trail.vote = vote(
            answers,
            trail.tools,
            minimum=self.recipe.vote.minimum or None,
            plurality=self.recipe.vote.plurality,
            logprobs=[c.logprob / max(1, len(c.token_ids)) for c in reply.completions],
        )
        reject: Verdict | None = None
        for index, (answer, completion) in enumerate(zip(answers, reply.completions, strict=True)):
            cut = completion.finish_reason in UNJUDGED
            verdicts = check_calls(
                answer,
                trail.tools,
                rulebook=self.rulebook,
                query=query.text,
                finish_reason="length" if cut else completion.finish_reason,
                subject=f"sample:{index}",
            )
            trail.verdicts += verdicts
            if index == trail.vote.winner:
                trail.calls = answer.calls or ()
                reject = _first_reject(verdicts)
        if trail.vote.winner is None:
            found = check_vote(trail.vote, rulebook=self.rulebook)
            trail.verdicts += found
            return trail.close("rejected", "vote", found[0] if found else _NO_WINNER)
        return trail.close("rejected" if reject else "accepted", "calls", reject)

    async def _ask(self, request: Request) -> Reply:
        return (await self.engine.sample([request]))[0]


@dataclass(slots=True, kw_only=True)
class _Trail:
    """What one query leaves behind, as it goes."""

    sampler: Sampler
    query: Query
    generations: list[Row] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    tools: tuple[Tool, ...] = ()
    calls: tuple[Call, ...] = ()
    vote: Vote | None = None

    def add_generations(
        self, stage: str, subject: str, request: Request, reply: Reply, prompt: str
    ) -> None:
        sampling = request.sampling
        common = {
            "round": self.sampler.round_number,
            "query_id": self.query.id,
            "stage": stage,
            "subject": subject,
            "num_prompt_tokens": reply.num_prompt_tokens,
            "sampling_json": canonical_json(
                {
                    "n": sampling.n,
                    "temperature": sampling.temperature,
                    "top_k": sampling.top_k,
                    "top_p": sampling.top_p,
                    "max_tokens": sampling.max_tokens,
                }
            ),
            "prompt_sha": self.sampler.prompts.sha(prompt),
            "checkpoint_id": self.sampler.engine.checkpoint.id,
        }
        for index, completion in enumerate(reply.completions):
            self.generations.append(
                common
                | {
                    "sample_index": index,
                    "text": completion.text,
                    "finish_reason": completion.finish_reason,
                    "num_tokens": len(completion.token_ids),
                    "logprob": completion.logprob,
                    "seed": sampling.seed + index,
                }
            )

    def add_overlap(self, message: str) -> Verdict:
        verdict = _make_verdict("query", "eval_overlap", message)
        self.verdicts.append(verdict)
        return verdict

    def add_unjudged(self, subject: str, reply: Reply) -> Verdict | None:
        """Why none of the reply's answers can be judged; None where one can."""
        reason = reply.completions[0].finish_reason
        if any(completion.finish_reason not in UNJUDGED for completion in reply.completions):
            return None
        message = UNJUDGED[reason].format(tokens=reply.num_prompt_tokens)
        self.verdicts.append(_make_verdict(subject, reason, message))
        return self.verdicts[-1]

    def close(self, status: Status, stage: str, verdict: Verdict | None) -> Batch:
        """The query's rows; `verdict` is what it fell for, None where it is accepted."""
        key: dict[str, object] = {
            "round": self.sampler.round_number,
            "judgement": self.sampler.judgement,
            "query_id": self.query.id,
        }
        sample: Row = key | {
            "status": status,
            "stage": stage,
            "reason": verdict.reason if verdict else "",
            "rule": verdict.rule if verdict else "",
            "path": verdict.path if verdict else "",
            "message": verdict.message if verdict else "",
            "tools_json": to_json([{"id": t.id, "document": t.document} for t in self.tools]),
            "calls_json": to_json([asdict(call) for call in self.calls]),
            "num_tools": len(self.tools),
            "num_calls": len(self.calls),
            "agreement": self.vote.votes / self.vote.num_samples if self.vote else None,
            "finished_at": datetime.now(UTC),
        }
        return {
            "generation": self.generations,
            "verdict": [key | asdict(v) for v in self.verdicts],
            "vote": [] if self.vote is None else [self._vote_row(self.vote)],
            "sample": [sample],
        }

    def _vote_row(self, vote: Vote) -> Row:
        return {
            "round": self.sampler.round_number,
            "query_id": self.query.id,
            "num_samples": vote.num_samples,
            "winner": vote.winner,
            "votes": vote.votes,
            "margin": vote.margin,
            "entropy": vote.entropy,
            "decided_by": vote.decided_by,
            "reason": vote.reason,
            "classes_json": json.dumps(vote.classes),
        }


def _make_verdict(subject: str, reason: str, message: str) -> Verdict:
    return Verdict(
        subject=subject,
        rule=f"{subject}/{reason}",
        reason=reason,
        severity="reject",
        path="$",
        message=message,
    )


_NO_TOOLS = _make_verdict("tools", "no_tools", "the answer holds no tool document")
"""Where nothing is left to call although every rule about it is off."""
_NO_WINNER = _make_verdict("vote", "no_winner", "no answer won the vote")
"""The same for a vote."""


def _first_reject(verdicts: Sequence[Verdict]) -> Verdict | None:
    return next((verdict for verdict in verdicts if verdict.severity == "reject"), None)


def _status(verdict: Verdict) -> Status:
    return "unjudged" if verdict.reason in UNJUDGED else "rejected"
