"""From raw answers to a query's verdicts and outcome: the part of a sample that can be done again.

A Trail takes a query's answers stage by stage and ends as a Sample; it neither asks a model nor
reads the ledger, so that sampling and judging again go the same way.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from itertools import chain
from typing import NamedTuple

from factory.domain.canon import to_json
from factory.domain.jsontext import show
from factory.domain.records import (
    CONTEXT_FULL,
    ENGINE_DIED,
    PROMPT_TOO_LONG,
    Call,
    Candidate,
    Completion,
    Form,
    Query,
    Reply,
    Status,
    Tool,
    Verdict,
    Vote,
)
from factory.judge.keys import is_same
from factory.judge.parsed import ParsedCalls, text_arguments
from factory.judge.reading import SYNTAX, read_completions
from factory.judge.rulebook import Rulebook
from factory.judge.verdicts import check_calls, check_code, check_tools, check_vote, first_reject
from factory.judge.vote import vote
from factory.ledger.tables import Batch, VerdictRow, VoteRow
from factory.workspace.recipe import VoteSection

NOT_SAMPLED = "not_sampled"
UNJUDGED = {
    PROMPT_TOO_LONG: "the prompt has {tokens} tokens; raise engine.max_model_len",
    CONTEXT_FULL: "after a prompt of {tokens} tokens the answer met engine.max_model_len; raise it",
    ENGINE_DIED: "the engine gave no answer; its log says why",
    NOT_SAMPLED: "the rules of its round stopped it before this was asked; a new round can ask it",
}
"""Why an answer is not judged, where its finish reason or its absence says nothing of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One pass of a rulebook over a round: what its verdicts, votes and samples belong to."""

    rulebook: Rulebook
    vote: VoteSection
    """What wins a vote."""
    round_number: int
    number: int
    """1 while sampling, one more each time the round is judged again."""
    form: Form = "own"
    """In which its calls were asked for."""

    def verdict_rows(self, verdicts: Mapping[str, Sequence[Verdict]]) -> list[VerdictRow]:
        """Verdicts by query id as ledger rows."""
        return [
            {
                "round": self.round_number,
                "judgement": self.number,
                "query_id": query_id,
                "subject": verdict.subject,
                "rule": verdict.rule,
                "reason": verdict.reason,
                "severity": verdict.severity,
                "path": verdict.path,
                "message": verdict.message,
            }
            for query_id, of_query in verdicts.items()
            for verdict in of_query
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What became of a query under the rules about single samples."""

    candidate: Candidate
    """The query, the tools its calls were asked with, and the calls that won."""
    status: Status
    stage: str
    """The last stage it came to: draw, tools, vote or calls."""
    cause: Verdict | None
    """What it fell for; None where it is accepted."""
    verdicts: tuple[Verdict, ...]
    """All that was found, warnings too."""
    vote: Vote | None
    """None where it did not come to one."""

    def rows(self, judgement: Judgement, now: datetime) -> Batch:
        """The sample as ledger rows: one `sample`, its verdicts and its vote."""
        cause, candidate, result = self.cause, self.candidate, self.vote
        query_id = candidate.query.id
        return {
            "verdict": judgement.verdict_rows({query_id: self.verdicts}),
            "vote": [] if result is None else [_vote_row(judgement, query_id, result)],
            "sample": [
                {
                    "round": judgement.round_number,
                    "judgement": judgement.number,
                    "query_id": query_id,
                    "status": self.status,
                    "stage": self.stage,
                    "reason": cause.reason if cause else "",
                    "rule": cause.rule if cause else "",
                    "path": cause.path if cause else "",
                    "message": cause.message if cause else "",
                    "tools_json": to_json(
                        [{"id": tool.id, "document": tool.document} for tool in candidate.tools]
                    ),
                    "calls_json": to_json([asdict(call) for call in candidate.calls]),
                    "num_tools": len(candidate.tools),
                    "num_calls": len(candidate.calls),
                    "agreement": result.votes / result.num_samples if result else None,
                    "finished_at": now,
                    "made_by": candidate.made_by,
                    "made_of_json": to_json(candidate.made_of),
                }
            ],
        }


class _Heard(NamedTuple):
    """The answers to a query, what the rules find in each, and their vote."""

    answers: Sequence[ParsedCalls]
    found: Sequence[Sequence[Verdict]]
    vote: Vote


@dataclass(slots=True, kw_only=True)
class Trail:
    """A sample in the making: each method takes a stage's answers; what ends it gives the Sample.

    Example:
        trail = Trail(judgement=judgement, query=query)
        tools = trail.judge_tools(written)
        sample = tools if isinstance(tools, Sample) else trail.judge_calls(tools, answers)
    """

    judgement: Judgement
    query: Query
    _verdicts: list[Verdict] = field(default_factory=list)

    def judge_query(self, verdicts: Sequence[Verdict]) -> Sample | None:
        """Take what set rules of stage `draw` found; the sample where one of them rejects."""
        self._verdicts += verdicts
        reject = first_reject(verdicts)
        return self._close("rejected", "draw", reject) if reject else None

    def judge_tools(self, reply: Reply) -> tuple[Tool, ...] | Sample:
        """The tools of an answer that pass; the sample where none does."""
        completion = reply.completions[0]
        if (unjudged := self._find_unjudged("tools", reply)) is not None:
            return self._close("unjudged", "tools", unjudged)
        checked = check_tools(
            completion.text,
            rulebook=self.judgement.rulebook,
            query=self.query.text,
            finish_reason=completion.finish_reason,
        )
        self._verdicts += checked.verdicts
        if checked.tools:
            return checked.tools
        return self._close("rejected", "tools", first_reject(checked.verdicts) or _NO_TOOLS)

    def judge_code(self, tool_id: str, completion: Completion, *, valid: bool) -> None:
        """Judge the code proposed for a tool; `valid` is the trie's answer."""
        if completion.finish_reason not in UNJUDGED:
            self._verdicts += check_code(
                completion.text,
                valid=valid,
                rulebook=self.judgement.rulebook,
                subject=f"code:{tool_id}",
            )

    def note_namesakes(self, tools: Sequence[Tool]) -> None:
        """Note retrieved tools that are left out because a candidate has their name."""
        for tool in tools:
            message = f"retrieved and not shown: a candidate is called {show(tool.name, 60)} too"
            found = _make_verdict("code", "name_taken", message)
            self._verdicts.append(replace(found, subject=f"code:{tool.id}", severity="warn"))

    def wants_more(self, tools: tuple[Tool, ...], reply: Reply) -> bool:
        """Whether too few of the answers agree for one to win."""
        if all(completion.finish_reason in UNJUDGED for completion in reply.completions):
            return False
        return self._hear(tools, reply, None).vote.reason in ("vote_below_min", "vote_tie")

    def judge_calls(
        self, tools: tuple[Tool, ...], reply: Reply, more: Reply | None = None
    ) -> Sample:
        """Vote on the answers to a query with these tools, and judge each of them (A5); on `more`
        answers too, where those did not agree.
        """
        if (unjudged := self._find_unjudged("calls", reply)) is not None:
            return self._close("unjudged", "calls", unjudged, tools)
        answers, found, result = self._hear(tools, reply, more)
        self._verdicts += chain.from_iterable(found)
        calls: tuple[Call, ...] = ()
        reject: Verdict | None = None
        if result.winner is not None:
            calls, reject = answers[result.winner].calls or (), first_reject(found[result.winner])
        if self.query.log is not None and self.query.log.calls:
            won = None if result.winner is None else answers[result.winner].calls
            self._verdicts += self._judge_logged(self.query.log.calls, tools, won)
        if result.winner is None:
            lost = check_vote(result, rulebook=self.judgement.rulebook)
            self._verdicts += lost
            cause = lost[0] if lost else _NO_WINNER
            return self._close("rejected", "vote", cause, tools, vote=result)
        status: Status = "rejected" if reject else "accepted"
        return self._close(status, "calls", reject, tools, calls, result)

    def _hear(self, tools: tuple[Tool, ...], reply: Reply, more: Reply | None) -> _Heard:
        """Read the answers, judge each, and count their votes."""
        known: dict[str, frozenset[str]] = {}
        for tool in tools:
            known |= text_arguments(tool.name, tool.arguments.get("properties"))
        completions = (*reply.completions, *(more.completions if more is not None else ()))
        answers = read_completions(completions, known, SYNTAX[self.judgement.form])
        found = [
            check_calls(
                answer,
                tools,
                rulebook=self.judgement.rulebook,
                query=self.query.text,
                finish_reason=completion.finish_reason,
                subject=f"sample:{index}",
            )
            for index, (answer, completion) in enumerate(zip(answers, completions, strict=True))
        ]
        section = self.judgement.vote
        result = vote(
            answers,
            tools,
            minimum=section.needed(len(reply.completions), len(completions)),
            plurality=section.plurality,
            logprobs=[c.logprob / max(1, len(c.token_ids)) for c in completions],
            barred=_find_barred(answers, found, section.bar),
        )
        return _Heard(answers, found, result)

    def _judge_logged(
        self, calls: tuple[Call, ...], tools: tuple[Tool, ...], won: tuple[Call, ...] | None
    ) -> Iterator[Verdict]:
        """What rules and vote say of the calls of a log; they neither vote nor win."""
        parsed = ParsedCalls(text=to_json([asdict(call) for call in calls]), calls=calls)
        found = check_calls(
            parsed, tools, rulebook=self.judgement.rulebook, query=self.query.text, subject=LOGGED
        )
        yield from found
        if first_reject(found) is None and won is None:
            yield _warn("unconfirmed", f"no answer won, the log has {show(parsed.text)}")
        elif first_reject(found) is None and won is not None:
            by_name = {tool.name: tool for tool in tools}
            if not is_same(calls, won, by_name):
                winner = show(to_json([asdict(call) for call in won]))
                yield _warn("differs", f"the log has {show(parsed.text)}, the vote {winner}")

    def close_unasked(self, stage: str, shown: tuple[Tool, ...] = ()) -> Sample:
        """The sample where a stage's answer was never sampled."""
        cause = _make_verdict(stage, NOT_SAMPLED, UNJUDGED[NOT_SAMPLED])
        self._verdicts.append(cause)
        return self._close("unjudged", stage, cause, shown)

    def close_without_own(self, shown: tuple[Tool, ...]) -> Sample:
        """The sample where every document of its own that the calls were asked with falls now."""
        fallen = [v for v in self._verdicts if v.subject.startswith("tool")]
        if reject := first_reject(fallen):
            return self._close("rejected", "tools", reject, shown)
        return self.close_unasked("calls", shown)

    def _close(
        self,
        status: Status,
        stage: str,
        cause: Verdict | None,
        tools: tuple[Tool, ...] = (),
        calls: tuple[Call, ...] = (),
        vote: Vote | None = None,
    ) -> Sample:
        return Sample(
            candidate=Candidate(query=self.query, tools=tools, calls=calls),
            status=status,
            stage=stage,
            cause=cause,
            verdicts=tuple(self._verdicts),
            vote=vote,
        )

    def _find_unjudged(self, subject: str, reply: Reply) -> Verdict | None:
        """Why none of the reply's answers can be judged; None where one can."""
        reason = reply.completions[0].finish_reason
        if any(completion.finish_reason not in UNJUDGED for completion in reply.completions):
            return None
        told = UNJUDGED[reason].format(tokens=reply.num_prompt_tokens)
        message = reply.completions[0].fault or told
        self._verdicts.append(_make_verdict(subject, reason, message))
        return self._verdicts[-1]


def _find_barred(
    answers: Sequence[ParsedCalls], found: Sequence[Sequence[Verdict]], bar: Collection[str]
) -> frozenset[int]:
    """Samples without a vote: those with a finding that bars. One that calls nothing keeps its
    vote, for it says that no call is right.
    """
    return frozenset(
        index
        for index, (answer, verdicts) in enumerate(zip(answers, found, strict=True))
        if answer.calls != () and any(v.severity in bar or v.rule in bar for v in verdicts)
    )


def _vote_row(judgement: Judgement, query_id: str, result: Vote) -> VoteRow:
    return {
        "round": judgement.round_number,
        "judgement": judgement.number,
        "query_id": query_id,
        "num_samples": result.num_samples,
        "winner": result.winner,
        "votes": result.votes,
        "margin": result.margin,
        "entropy": result.entropy,
        "decided_by": result.decided_by,
        "reason": result.reason,
        "classes_json": json.dumps(result.classes),
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


LOGGED = "logged"
"""Subject of what is found about the calls of a log."""


def _warn(reason: str, message: str) -> Verdict:
    return replace(_make_verdict("log", reason, message), subject=LOGGED, severity="warn")


_NO_TOOLS = _make_verdict("tools", "no_tools", "the answer holds no tool document")
"""Where nothing is left to call although every rule about it is off."""
_NO_WINNER = _make_verdict("vote", "no_winner", "no answer won the vote")
"""The same for a vote."""
