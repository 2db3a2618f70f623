"""Judging a round again: today's rules over yesterday's answers, without asking the model.

A re-judgement takes every sample the way that sampling took it (sampler.py), with the answers that
the ledger keeps in place of a model, then the round through the set rules; it is appended whole as
the round's next judgement. What the candidates were is known from the round's first judgement: a
tool that was not shown then cannot have been called, so it does not join now; where today's rules
let pass what was stopped before the calls were sampled, the sample is unjudged (`not_sampled`).
What the round made of accepted samples is judged again as it stands, and falls with them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from factory.codes.codebook import Codebook
from factory.codes.saving import load_codebook
from factory.domain.failures import InputError
from factory.domain.records import Candidate, Completion, Query, Reply, Tool, Verdict
from factory.judge.rulebook import Rulebook
from factory.judge.sample import Judgement, Sample
from factory.judge.sets import judge_round
from factory.judge.verdicts import check_tools, first_reject
from factory.ledger import history
from factory.ledger.database import Ledger, Source
from factory.ledger.tables import Batch, JudgementRow, merge
from factory.round.asking import MORE
from factory.round.calibration import settled_vote
from factory.round.judging import find_over_round
from factory.round.making import judge_made
from factory.round.sampler import Proposal, find_namesakes, sample_query
from factory.score.loading import load_benchmarks, load_held_out
from factory.workspace.folder import Workspace
from factory.workspace.recipe import Resolved, load_stored_recipe, mend


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """An Answerer from the record of a round: one sample as its round left it."""

    query: Query
    shown: tuple[Tool, ...]
    """The tools that the calls were asked with; none where it did not come to that."""
    replies: Mapping[tuple[str, str], Reply]
    """Stored answers by stage and subject (a proposed code's tool)."""
    rulebook: Rulebook
    codebook: Codebook | None

    async def write_tools(self) -> Reply | None:
        return self.replies.get(("tools", ""))

    async def propose_codes(self, tools: Sequence[Tool]) -> list[Proposal]:
        book = self.codebook
        return [
            Proposal(tool_id, completion, book.parse(completion.text) is not None)
            for (stage, tool_id), reply in self.replies.items()
            for completion in reply.completions[:1]
            if stage == "propose" and book is not None
        ]

    @property
    def namesakes(self) -> list[Tool]:
        """As its codes, read with the codebook of today, say."""
        reply = self.replies.get(("retrieve", ""))
        if reply is None or self.codebook is None:
            return []
        found = [self.codebook.tool_of(each.text) for each in reply.completions]
        return find_namesakes([tool for tool in found if tool is not None], self.shown)

    async def show(self, tools: tuple[Tool, ...]) -> tuple[Tool, ...] | None:
        """What was shown then, without the documents of its own that fall now."""
        if ("calls", "") not in self.replies:
            return None
        passing, own = {tool.id for tool in tools}, self._usable_ids()
        return tuple(tool for tool in self.shown if tool.id in passing or tool.id not in own)

    async def call(self, shown: tuple[Tool, ...]) -> Reply:
        return self.replies["calls", ""]

    @property
    def has_more(self) -> bool:
        return ("calls", MORE) in self.replies

    async def call_more(self, shown: tuple[Tool, ...]) -> Reply:
        return self.replies["calls", MORE]

    def _usable_ids(self) -> set[str]:
        """Every document of its answer that any setting of the rules could have let pass."""
        off = {name: replace(rule, active=False) for name, rule in self.rulebook.rules.items()}
        (completion, *_) = self.replies["tools", ""].completions
        checked = check_tools(completion.text, rulebook=replace(self.rulebook, rules=off))
        return {tool.id for tool in checked.tools}


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgementChange:
    """A sample that is judged otherwise now: a row of the view `judgement_change`."""

    query_id: str
    query: str
    status_before: str
    """accepted, rejected or unjudged."""
    reason_before: str
    """Reason code, empty where it was accepted."""
    status_after: str
    reason_after: str
    message: str
    """What is said of it now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejudgement:
    """A pass of today's rules over a round."""

    number: int
    judgement: int
    """Number of the pass."""
    rows: Batch
    """All of its rows, not appended yet."""
    counts: Mapping[str, int]
    """Samples by status, after the rules over the round."""
    changes: tuple[JudgementChange, ...]
    """Samples with another status or reason than under the round's last judgement."""
    codes_judged: bool
    """False where the checkpoint has no codes, or its folder is gone."""


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
    with ledger.read() as past:
        this = _find_round(past, number)
        resolved = load_stored_recipe(this["recipe_name"], this["recipe_json"])
        if given is not None:
            resolved = mend(resolved, given, ("vote.",))
        rulebook = rulebook.under(resolved.recipe.rules)
        rulebook.check_bar(resolved.recipe.vote.bar)
        folder = workspace.root / this["path"]
        codebook = load_codebook(folder) if folder.is_dir() else None
        recorded = read_samples(past, number, rulebook, codebook)
        accepted = history.accepted_before(past, number)
        made = history.made_samples(past, number, accepted=False)
        replies = _read_replies(past, number) if made else {}
        asked_before = history.asked_before(past, number) if made else set()
        vote = settled_vote(resolved, history.calibrated(past, number))
    judgement = Judgement(
        rulebook=rulebook,
        vote=vote,
        round_number=number,
        number=this["judgement"] + 1,
        form=resolved.recipe.calls.asked,
    )
    scored = load_benchmarks(workspace, resolved.recipe)
    benchmarks = tuple((load_held_out(workspace, resolved.recipe) | scored).values())
    asked = [Candidate(query=record.query) for record in recorded]
    drawn = judge_round(rulebook.rules, asked, accepted, benchmarks, stage="draw")
    samples = asyncio.run(judge_again(recorded, judgement, drawn))
    candidates = [sample.candidate for sample in samples if sample.status == "accepted"]
    verdicts = find_over_round(rulebook, candidates, accepted, benchmarks, resolved.recipe.accept)
    fallen = {each for each, of_query in verdicts.items() if first_reject(of_query)}
    origins = {each.query.id: each for each in candidates if each.query.id not in fallen}
    made_anew = judge_made(made, origins, asked_before, judgement, benchmarks, replies)
    rows = _rows(judgement, [*samples, *made_anew], verdicts)
    with ledger.read(also=rows) as past:
        sql = "select status, count(*) from outcome where round = ? and judgement = ? group by 1"
        return Rejudgement(
            number=number,
            judgement=judgement.number,
            rows=rows,
            counts=dict(past.query(sql, [number, judgement.number]).rows),
            changes=_compare(past, judgement),
            codes_judged=codebook is not None,
        )


async def judge_again(
    recorded: Iterable[Recorded], judgement: Judgement, drawn: Mapping[str, Sequence[Verdict]]
) -> list[Sample]:
    return [
        await sample_query(judgement, record.query, record, drawn.get(record.query.id, ()))
        for record in recorded
    ]


def _rows(
    judgement: Judgement, samples: Iterable[Sample], verdicts: Mapping[str, Sequence[Verdict]]
) -> Batch:
    now = datetime.now(UTC)
    row: JudgementRow = {
        "judgement": judgement.number,
        "round": judgement.round_number,
        "rules_sha": judgement.rulebook.sha,
        "made_at": now,
        "note": f"factory check, {judgement.vote.model_dump_json()}",
    }
    more: Batch = {"judgement": [row], "verdict": judgement.verdict_rows(verdicts)}
    return merge([*(sample.rows(judgement, now) for sample in samples), more])


# Reading the ledger ----------------------------------------------------------------------------


def _compare(past: Source, judgement: Judgement) -> tuple[JudgementChange, ...]:
    """Samples whose status or reason differs from the judgement before, in draw order."""
    records = past.query(
        """
        select query_id, text as query, status_before, reason_before, status_after, reason_after,
               message
        from judgement_change
        join draw using (round, query_id)
        join (select query_id, any_value(text) as text from query group by 1) using (query_id)
        where round = ? and judgement = ?
        order by position
        """,
        [judgement.round_number, judgement.number],
    ).records()
    return tuple(JudgementChange(**{k: str(v) for k, v in record.items()}) for record in records)


def _find_round(past: Source, number: int) -> dict[str, Any]:
    """Recipe, checkpoint folder and last judgement of a finished round. Raises InputError."""
    this = history.open_round(past)
    if this is not None and this.number == number:
        raise InputError(
            f"round {number} is not finished, so there is no whole round to judge",
            remedy="finish it with `factory round`, or end it: `factory round --abandon`",
        )
    records = past.query(
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
    if number in history.lessons(past):
        raise InputError(
            f"round {number} is a lesson: people labelled its rows, and no model answered",
            remedy="factory teach FILE judges them with today's rules",
        )
    return records[0]


def read_samples(
    past: Source, number: int, rulebook: Rulebook, codebook: Codebook | None
) -> list[Recorded]:
    """The samples of a round in draw order, as its first judgement left them."""
    rows = past.query(
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
    replies, logs = _read_replies(past, number), history.logged_queries(past, number)
    return [
        Recorded(
            query=Query(id=query_id, text=text, source="ledger", log=logs.get(query_id)),
            shown=tuple(Tool(**value) for value in json.loads(tools_json)),
            replies=replies.get(query_id, {}),
            rulebook=rulebook,
            codebook=codebook,
        )
        for query_id, text, tools_json in rows
    ]


def _read_replies(past: Source, number: int) -> dict[str, dict[tuple[str, str], Reply]]:
    """Stored answers by query, then by stage and subject."""
    rows = past.query(
        """
        select query_id, stage, subject, num_prompt_tokens, text, finish_reason, num_tokens, logprob
        from generation
        where round = ? and stage in ('tools', 'propose', 'retrieve', 'calls', 'ask')
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
