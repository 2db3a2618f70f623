"""Step 7: the rules over a round as a whole, and those over its queries when they are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from factory.domain.records import Candidate, Past, Query
from factory.judge.sample import Judgement, Trail
from factory.judge.sets import judge_round
from factory.ledger import history
from factory.ledger.history import OpenRound
from factory.ledger.tables import Batch, SampleRow, VerdictRow
from factory.round.factory import Factory


def judgement_of(factory: Factory, this: OpenRound) -> Judgement:
    """The round's own pass of rules."""
    return Judgement(
        rulebook=factory.rulebook,
        vote=factory.recipe.vote,
        round_number=this.number,
        number=this.judgement,
    )


def judge_drawn(factory: Factory, this: OpenRound, queries: Sequence[Query], past: Past) -> Batch:
    """Rows of the queries that a rule of stage `draw` finds; nothing is asked for rejects."""
    judgement, now = judgement_of(factory, this), datetime.now(UTC)
    found = judge_round(
        factory.rulebook.rules,
        [Candidate(query=query) for query in queries],
        past,
        factory.all_benchmarks,
        stage="draw",
    )
    judged: list[VerdictRow] = []
    stopped: list[SampleRow] = []
    for query in queries:
        verdicts = found.get(query.id, [])
        judged += judgement.verdict_rows(query.id, verdicts)
        if sample := Trail(judgement=judgement, query=query).judge_query(verdicts):
            stopped += sample.rows(judgement, now)["sample"]
    return {"verdict": judged, "sample": stopped}


def judge(factory: Factory, this: OpenRound) -> None:
    """Judge what was sampled as a whole; once, and before anything is trained."""
    if {"judge", "train"} & this.stages_done:
        return
    factory.monitor.stage("judge")
    started = datetime.now(UTC)
    with factory.ledger.read() as past:
        candidates = history.round_candidates(past, this.number, this.judgement)
        accepted = history.accepted_before(past, this.number)
    verdicts = judge_round(factory.rulebook.rules, candidates, accepted, factory.all_benchmarks)
    judgement = judgement_of(factory, this)
    rows = [row for query, each in verdicts.items() for row in judgement.verdict_rows(query, each)]
    num_rejected = sum(any(v.severity == "reject" for v in each) for each in verdicts.values())
    detail = {
        "candidates": len(candidates),
        "rejected": num_rejected,
        "warned": len(verdicts) - num_rejected,
        "rules_sha": factory.rulebook.sha,
    }
    factory.finish(this.number, "judge", started, {"verdict": rows}, detail)
