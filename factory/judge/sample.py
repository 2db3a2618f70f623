"""From raw answers to a query's verdicts and outcome: the part of a sample that can be done again.

A Trail takes a query's replies in the order of the stages and closes into ledger rows, exactly one
of them the `sample`. Sampling feeds it from an engine, a re-judgement from stored generations.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from factory.domain.canon import to_json
from factory.domain.records import (
    CONTEXT_FULL,
    ENGINE_DIED,
    PROMPT_TOO_LONG,
    Call,
    Completion,
    Query,
    Reply,
    Status,
    Tool,
    Verdict,
    Vote,
)
from factory.judge.reading import read_answers
from factory.judge.rulebook import Rulebook
from factory.judge.verdicts import check_calls, check_code, check_tools, check_vote
from factory.judge.vote import vote
from factory.ledger.tables import Batch, GenerationRow, SampleRow, VerdictRow, VoteRow
from factory.workspace.recipe import VoteSection

NOT_SAMPLED = "not_sampled"


UNJUDGED = {
    PROMPT_TOO_LONG: "the prompt has {tokens} tokens; raise engine.max_model_len",
    CONTEXT_FULL: "after a prompt of {tokens} tokens the answer met engine.max_model_len; raise it",
    ENGINE_DIED: "this request ended the engine each time it was tried; its log says why",
    NOT_SAMPLED: "the rules of its round stopped it before this was asked; a new round can ask it",
}
"""Why an answer is not judged, where its finish reason or its absence says nothing of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """One pass of rules over one round's candidates. Example: see factory.round."""

    rulebook: Rulebook
    """Rules with their severities."""
    vote: VoteSection
    """What wins a vote."""
    round_number: int
    """The round."""
    judgement: int
    """Id of the pass, unique in the round."""

    def verdict_rows(self, query_id: str, verdicts: Iterable[Verdict]) -> list[VerdictRow]:
        """Verdicts as ledger rows."""
        return [
            {
                "round": self.round_number,
                "judgement": self.judgement,
                "query_id": query_id,
                "subject": verdict.subject,
                "rule": verdict.rule,
                "reason": verdict.reason,
                "severity": verdict.severity,
                "path": verdict.path,
                "message": verdict.message,
            }
            for verdict in verdicts
        ]

    def vote_row(self, query_id: str, vote: Vote) -> VoteRow:
        """A vote as a ledger row."""
        return {
            "round": self.round_number,
            "judgement": self.judgement,
            "query_id": query_id,
            "num_samples": vote.num_samples,
            "winner": vote.winner,
            "votes": vote.votes,
            "margin": vote.margin,
            "entropy": vote.entropy,
            "decided_by": vote.decided_by,
            "reason": vote.reason,
            "classes_json": json.dumps(vote.classes),
        }


@dataclass(slots=True, kw_only=True)
class Trail:
    """What one query leaves behind, as it goes."""

    judge: Judge
    """The pass it belongs to."""
    query: Query
    """The request."""
    generations: list[GenerationRow] = field(default_factory=list)
    """Rows of raw outputs."""
    verdicts: list[Verdict] = field(default_factory=list)
    """Everything that was found so far."""
    tools: tuple[Tool, ...] = ()
    """The candidates that the calls were asked with."""
    calls: tuple[Call, ...] = ()
    """The answer that won."""
    vote: Vote | None = None
    """The vote, once there was one."""

    def stop_at_draw(self, found: Sequence[Verdict]) -> Batch | None:
        """Take the verdicts on the query alone; the rows where one of them rejects it."""
        self.verdicts += found
        reject = first_reject(found)
        return self.close("rejected", "draw", reject) if reject else None

    def judge_tools(self, reply: Reply) -> tuple[Tool, ...] | Verdict:
        """The tools of an answer that pass, or what the sample falls for."""
        completion = reply.completions[0]
        if (unjudged := self._find_unjudged("tools", reply)) is not None:
            return unjudged
        checked = check_tools(
            completion.text,
            rulebook=self.judge.rulebook,
            query=self.query.text,
            finish_reason=completion.finish_reason,
        )
        self.verdicts += checked.verdicts
        return checked.tools or first_reject(checked.verdicts) or _NO_TOOLS

    def judge_code(self, tool_id: str, completion: Completion, *, valid: bool) -> None:
        """Judge the code proposed for a tool; `valid` is the trie's answer."""
        if completion.finish_reason not in UNJUDGED:
            self.verdicts += check_code(
                completion.text,
                valid=valid,
                rulebook=self.judge.rulebook,
                subject=f"code:{tool_id}",
            )

    def judge_calls(self, reply: Reply) -> Batch:
        """Vote on the answers, judge each of them, and close (A5)."""
        if (unjudged := self._find_unjudged("calls", reply)) is not None:
            return self.close("unjudged", "calls", unjudged)
        answers = read_answers(completion.text for completion in reply.completions)
        self.vote = vote(
            answers,
            self.tools,
            minimum=self.judge.vote.minimum or None,
            plurality=self.judge.vote.plurality,
            logprobs=[c.logprob / max(1, len(c.token_ids)) for c in reply.completions],
        )
        reject: Verdict | None = None
        for index, (answer, completion) in enumerate(zip(answers, reply.completions, strict=True)):
            cut = completion.finish_reason in UNJUDGED
            verdicts = check_calls(
                answer,
                self.tools,
                rulebook=self.judge.rulebook,
                query=self.query.text,
                finish_reason="length" if cut else completion.finish_reason,
                subject=f"sample:{index}",
            )
            self.verdicts += verdicts
            if index == self.vote.winner:
                self.calls = answer.calls or ()
                reject = first_reject(verdicts)
        if self.vote.winner is None:
            found = check_vote(self.vote, rulebook=self.judge.rulebook)
            self.verdicts += found
            return self.close("rejected", "vote", found[0] if found else _NO_WINNER)
        return self.close("rejected" if reject else "accepted", "calls", reject)

    def close_unasked(self, stage: str) -> Batch:
        """The rows where a stage's answer was never sampled."""
        verdict = _make_verdict(stage, NOT_SAMPLED, UNJUDGED[NOT_SAMPLED])
        self.verdicts.append(verdict)
        return self.close("unjudged", stage, verdict)

    def close(self, status: Status, stage: str, verdict: Verdict | None) -> Batch:
        """The query's rows; `verdict` is what it fell for, None where it is accepted."""
        judge, query_id = self.judge, self.query.id
        sample: SampleRow = {
            "round": judge.round_number,
            "judgement": judge.judgement,
            "query_id": query_id,
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
            "verdict": judge.verdict_rows(query_id, self.verdicts),
            "vote": [] if self.vote is None else [judge.vote_row(query_id, self.vote)],
            "sample": [sample],
        }

    def _find_unjudged(self, subject: str, reply: Reply) -> Verdict | None:
        """Why none of the reply's answers can be judged; None where one can."""
        reason = reply.completions[0].finish_reason
        if any(completion.finish_reason not in UNJUDGED for completion in reply.completions):
            return None
        message = UNJUDGED[reason].format(tokens=reply.num_prompt_tokens)
        self.verdicts.append(_make_verdict(subject, reason, message))
        return self.verdicts[-1]


def first_reject(verdicts: Sequence[Verdict]) -> Verdict | None:
    """The first verdict that rejects."""
    return next((verdict for verdict in verdicts if verdict.severity == "reject"), None)


def status_of(verdict: Verdict) -> Status:
    """What a sample is that ends with the verdict."""
    return "unjudged" if verdict.reason in UNJUDGED else "rejected"


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
