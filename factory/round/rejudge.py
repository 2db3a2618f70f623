"""Judging a round again: today's rules over yesterday's answers, without asking the model.

A re-judgement reads the raw generations of a round, takes every sample through the same Trail as
sampling did, then the round through the set rules, and is appended whole as the round's next
judgement. What the candidates were is known from the round's first judgement: a tool that was not
shown then cannot have been called, so it does not join now; where today's rules let pass what was
stopped before the calls were sampled, the sample is unjudged (`not_sampled`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, NamedTuple

from factory.codes.codebook import Codebook
from factory.codes.saving import load_codebook
from factory.domain.failures import InputError
from factory.domain.records import Candidate, Completion, Query, Reply, Tool, Verdict
from factory.judge.rulebook import Rulebook
from factory.judge.sample import Judge, Trail, first_reject, status_of
from factory.judge.sets import judge_round
from factory.judge.verdicts import check_tools
from factory.ledger import history
from factory.ledger.database import Ledger
from factory.ledger.tables import Batch, JudgementRow, SampleRow
from factory.score.loading import load_benchmarks, load_held_out
from factory.workspace.folder import Workspace
from factory.workspace.recipe import Resolved, load_stored_recipe, mend


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One sample as its round left it."""

    query: Query
    """The request."""
    shown: tuple[Tool, ...]
    """The tools that the calls were asked with; none where it did not come to that."""
    replies: Mapping[tuple[str, str], Reply]
    """Stored answers by stage and subject (a proposed code's tool)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A sample that is judged otherwise now. Example: Change(query_id="q_3b…", before=…)."""

    query_id: str
    """Its query."""
    query: str
    """The request."""
    status_before: str
    """accepted, rejected or unjudged."""
    reason_before: str
    """Reason code, empty where it was accepted."""
    status_after: str
    """The same now."""
    reason_after: str
    """The same now."""
    message: str
    """What is said of it now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejudgement:
    """A pass of today's rules over a round."""

    number: int
    """The round."""
    judgement: int
    """Id of the pass."""
    rows: Batch
    """All of its rows, not appended yet."""
    counts: Mapping[str, int]
    """Samples by status."""
    changes: tuple[Change, ...]
    """Samples with another status or reason than under the round's last judgement."""
    codes_judged: bool
    """False where the checkpoint has no codes, or its folder is gone."""


class _Outcome(NamedTuple):
    """What a sample comes to."""

    status: str
    reason: str
    message: str


def rejudge(
    workspace: Workspace,
    ledger: Ledger,
    rulebook: Rulebook,
    number: int,
    given: Resolved | None = None,
) -> Rejudgement:
    """Judge round `number` again; flags of `given` may change the vote of the round's recipe.

    Nothing is written: appending `rows` makes it the judgement that counts. Raises InputError for
    a round that is not there or not finished, ContentError for a rule that cannot be run.
    """
    this = _find_round(ledger, number)
    resolved = load_stored_recipe(this["recipe_name"], this["recipe_json"])
    if given is not None:
        resolved = mend(resolved, given, ("vote.",))
    folder = workspace.root / this["path"]
    codebook = load_codebook(folder) if folder.is_dir() else None
    judge = Judge(
        rulebook=rulebook,
        vote=resolved.recipe.vote,
        round_number=number,
        judgement=this["judgement"] + 1,
    )
    stored = _read_samples(ledger, number)
    scored = load_benchmarks(workspace, resolved.recipe)
    benchmarks = tuple((load_held_out(workspace) | scored).values())
    past = history.accepted_before(ledger, number)
    asked = [Candidate(query=each.query) for each in stored]
    drawn = judge_round(rulebook.rules, asked, past, benchmarks, stage="draw")
    batches = [_judge_again(each, judge, codebook, drawn.get(each.query.id, [])) for each in stored]
    samples = [batch["sample"][0] for batch in batches]
    candidates = [
        _read_candidate(each.query, row)
        for each, row in zip(stored, samples, strict=True)
        if row["status"] == "accepted"
    ]
    found = judge_round(rulebook.rules, candidates, past, benchmarks)
    after = [_settle(row, found.get(row["query_id"], [])) for row in samples]
    return Rejudgement(
        number=number,
        judgement=judge.judgement,
        rows={
            "judgement": [_judgement_row(judge)],
            "verdict": [
                *(row for batch in batches for row in batch["verdict"]),
                *(row for id_, each in found.items() for row in judge.verdict_rows(id_, each)),
            ],
            "vote": [row for batch in batches for row in batch["vote"]],
            "sample": samples,
        },
        counts=Counter(outcome.status for outcome in after),
        changes=_compare(stored, _last_outcomes(ledger, number), after),
        codes_judged=codebook is not None,
    )


def _judge_again(
    stored: Stored, judge: Judge, codebook: Codebook | None, drawn: Sequence[Verdict]
) -> Batch:
    """One sample through the stages, as far as it was sampled."""
    trail = Trail(judge=judge, query=stored.query)
    if (stopped := trail.stop_at_draw(drawn)) is not None:
        return stopped
    written = stored.replies.get(("tools", ""))
    if written is None:
        return trail.close_unasked("tools")
    tools = trail.judge_tools(written)
    if isinstance(tools, Verdict):
        return trail.close(status_of(tools), "tools", tools)
    reject = first_reject(trail.verdicts)
    for (stage, subject), reply in stored.replies.items():
        if stage == "propose" and codebook is not None:
            valid = codebook.parse(reply.completions[0].text) is not None
            trail.judge_code(subject, reply.completions[0], valid=valid)
    called = stored.replies.get(("calls", ""))
    if called is None:
        return trail.close_unasked("calls")
    passing = {tool.id for tool in tools}
    own = _usable_ids(written, judge.rulebook)
    trail.tools = tuple(t for t in stored.shown if t.id in passing or t.id not in own)
    if not passing & {tool.id for tool in trail.tools}:
        return trail.close("rejected", "tools", reject) if reject else trail.close_unasked("calls")
    return trail.judge_calls(called)


def _usable_ids(written: Reply, rulebook: Rulebook) -> set[str]:
    """Every document of an answer that any setting of the rules could have let pass."""
    off = {name: replace(rule, active=False) for name, rule in rulebook.rules.items()}
    checked = check_tools(written.completions[0].text, rulebook=replace(rulebook, rules=off))
    return {tool.id for tool in checked.tools}


def _settle(sample: SampleRow, verdicts: Sequence[Verdict]) -> _Outcome:
    """The outcome of a sample after the set rules; the view `outcome` says the same."""
    rejects = [verdict for verdict in verdicts if verdict.severity == "reject"]
    if sample["status"] == "accepted" and rejects:
        first = min(rejects, key=lambda verdict: (verdict.rule, verdict.subject, verdict.path))
        return _Outcome("rejected", first.reason, first.message)
    return _Outcome(sample["status"], sample["reason"], sample["message"])


def _compare(
    stored: Sequence[Stored], before: Mapping[str, _Outcome], after: Sequence[_Outcome]
) -> tuple[Change, ...]:
    """Samples whose status or reason differs; the view `judgement_change` says the same."""
    return tuple(
        Change(
            query_id=each.query.id,
            query=each.query.text,
            status_before=was.status,
            reason_before=was.reason,
            status_after=now.status,
            reason_after=now.reason,
            message=now.message,
        )
        for each, now in zip(stored, after, strict=True)
        for was in [before[each.query.id]]
        if (was.status, was.reason) != (now.status, now.reason)
    )


def _judgement_row(judge: Judge) -> JudgementRow:
    return {
        "judgement": judge.judgement,
        "round": judge.round_number,
        "rules_sha": judge.rulebook.sha,
        "made_at": datetime.now(UTC),
        "note": f"factory check, {judge.vote.model_dump_json()}",
    }


# Reading the ledger ----------------------------------------------------------------------------


def _find_round(ledger: Ledger, number: int) -> dict[str, Any]:
    """Recipe, checkpoint folder and last judgement of a finished round. Raises InputError."""
    this = history.open_round(ledger)
    if this is not None and this.number == number:
        raise InputError(
            f"round {number} is not finished, so there is no whole round to judge",
            remedy="finish it with `factory round`, or end it: `factory round --abandon`",
        )
    records = ledger.query(
        """
        select recipe_name, recipe_json,
               (select any_value(path) from checkpoint
                where checkpoint.checkpoint_id = round.checkpoint_id) as path,
               (select max(judgement) from judgement where judgement.round = round.round)
                 as judgement
        from round where round = ?
        """,
        [number],
    ).records()
    if not records:
        raise InputError(f"there is no round {number}", remedy="factory status lists the rounds")
    return records[0]


def _read_samples(ledger: Ledger, number: int) -> list[Stored]:
    """The samples of a round in draw order, as its first judgement left them."""
    rows = ledger.query(
        """
        select s.query_id, q.text, s.tools_json
        from sample s
        join draw d on d.round = s.round and d.query_id = s.query_id
        join (select query_id, any_value(text) as text from query group by 1) q
          on q.query_id = s.query_id
        where s.round = $number
          and s.judgement = (select min(judgement) from sample where round = $number)
        order by d.position
        """,
        {"number": number},
    ).rows
    replies = _read_replies(ledger, number)
    return [
        Stored(
            query=Query(id=query_id, text=text, source="ledger"),
            shown=tuple(Tool(**value) for value in json.loads(tools_json)),
            replies=replies.get(query_id, {}),
        )
        for query_id, text, tools_json in rows
    ]


def _read_replies(ledger: Ledger, number: int) -> dict[str, dict[tuple[str, str], Reply]]:
    """Stored answers by query, then by stage and subject."""
    rows = ledger.query(
        """
        select query_id, stage, subject, num_prompt_tokens, text, finish_reason, num_tokens, logprob
        from generation
        where round = ? and stage in ('tools', 'propose', 'calls')
        order by query_id, stage, subject, sample_index
        """,
        [number],
    ).rows
    replies: dict[str, dict[tuple[str, str], Reply]] = {}
    for (query_id, stage, subject, num_prompt_tokens), group in groupby(rows, lambda r: r[:4]):
        replies.setdefault(query_id, {})[stage, subject] = Reply(
            request_id=f"{query_id}/{stage}",
            completions=tuple(
                Completion(
                    text=text,
                    token_ids=(0,) * num_tokens,  # only their number is stored, and needed
                    finish_reason=finish_reason,
                    logprob=logprob,
                )
                for *_, text, finish_reason, num_tokens, logprob in group
            ),
            num_prompt_tokens=num_prompt_tokens,
        )
    return replies


def _read_candidate(query: Query, sample: SampleRow) -> Candidate:
    return history.read_candidate(query.id, query.text, sample["tools_json"], sample["calls_json"])


def _last_outcomes(ledger: Ledger, number: int) -> dict[str, _Outcome]:
    """Outcomes of a round under its last judgement, by query."""
    rows = ledger.query(
        """
        select query_id, status, reason, message
        from outcome join latest_judgement using (round, judgement)
        where round = ?
        """,
        [number],
    ).rows
    return {query_id: _Outcome(*rest) for query_id, *rest in rows}
