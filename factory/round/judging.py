"""Step 7: the rules over a round as a whole, and those over its queries when they are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from factory.domain.records import Candidate, HeldOut, Past, Query, Verdict
from factory.judge.rulebook import Rulebook
from factory.judge.sample import Judgement, Trail
from factory.judge.sets import judge_round
from factory.judge.verdicts import first_reject
from factory.ledger import history
from factory.ledger.history import OpenRound
from factory.ledger.tables import Batch, SampleRow
from factory.round.factory import Factory


def judgement_of(factory: Factory, this: OpenRound) -> Judgement:
    """The round's own pass of rules."""
    return Judgement(
        rulebook=factory.rulebook,
        vote=factory.recipe.vote,
        round_number=this.number,
        number=this.judgement,
        form=factory.prompts.form,
    )


def judge_drawn(
    factory: Factory,
    this: OpenRound,
    queries: Sequence[Query],
    past: Past,
    earlier: Sequence[Query] = (),
) -> Batch:
    """Rows of the queries that a rule of stage `draw` finds; nothing is asked for rejects.

    `earlier` ones of the round are judged with them, and have their rows.
    """
    judgement, now = judgement_of(factory, this), datetime.now(UTC)
    found = judge_round(
        factory.rulebook.rules,
        [Candidate(query=query) for query in (*earlier, *queries)],
        past,
        factory.all_benchmarks,
        stage="draw",
    )
    verdicts = {query.id: found[query.id] for query in queries if query.id in found}
    stopped: list[SampleRow] = []
    for query in queries:
        trail = Trail(judgement=judgement, query=query)
        if sample := trail.judge_query(verdicts.get(query.id, ())):
            stopped += sample.rows(judgement, now)["sample"]
    return {"verdict": judgement.verdict_rows(verdicts), "sample": stopped}


def find_over_round(
    rulebook: Rulebook,
    candidates: Sequence[Candidate],
    past: Past,
    benchmarks: Sequence[HeldOut],
    accept: int,
) -> dict[str, tuple[Verdict, ...]]:
    """What the rules over a round find, by query id; of more than `accept` (0 is no limit) that
    pass, the first ones in draw order are kept, and the others are `round/surplus`.
    """
    found = judge_round(rulebook.rules, candidates, past, benchmarks)
    verdicts = {query_id: tuple(of_query) for query_id, of_query in found.items()}
    passed = [c.query.id for c in candidates if not first_reject(verdicts.get(c.query.id, ()))]
    surplus = Verdict(
        subject="query",
        rule="round/surplus",
        reason="surplus",
        severity="reject",
        path="$",
        message=f"{accept} samples that were drawn before it are accepted, as many as wanted",
    )
    for query_id in passed[accept:] if accept else ():
        verdicts[query_id] = (*verdicts.get(query_id, ()), surplus)
    return verdicts


def judge(factory: Factory, this: OpenRound) -> None:
    """Judge what was sampled as a whole; once, and before anything is trained."""
    if {"judge", "train"} & this.stages_done:
        return
    factory.monitor.stage("judge")
    started = datetime.now(UTC)
    with factory.ledger.read() as past:
        candidates = history.round_candidates(past, this.number, this.judgement)
        accepted = history.accepted_before(past, this.number)
    verdicts = find_over_round(
        factory.rulebook, candidates, accepted, factory.all_benchmarks, factory.recipe.accept
    )
    rejected = [query_id for query_id, of_query in verdicts.items() if first_reject(of_query)]
    detail = {
        "candidates": len(candidates),
        "rejected": len(rejected),
        "warned": len(verdicts) - len(rejected),
        "rules_sha": factory.rulebook.sha,
    }
    rows = judgement_of(factory, this).verdict_rows(verdicts)
    factory.finish(this.number, "judge", started, {"verdict": rows}, detail)
