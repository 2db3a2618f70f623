"""Step 8: samples that a round makes of its accepted ones, or a lesson of labelled rows, judged
as these are.

The ways are in factory.lessons.harder; in factory.round.backwards a model is asked. What is made
has an id of its own, since a request may be asked once more with other tools; it was not drawn, and
no funnel, vote or score counts it. Rows and the end of the step are one append: a kill leaves all,
or nothing.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from factory.domain.canon import canonical_json, derive_seed, digest, query_id, to_json
from factory.domain.records import Candidate, HeldOut, Past, Verdict
from factory.engines.base import Engine
from factory.judge.bench import Bench
from factory.judge.reading import parse_calls
from factory.judge.sample import Judgement, Sample
from factory.judge.sets import judge_round
from factory.judge.verdicts import check_calls, check_document, first_reject
from factory.ledger import history
from factory.ledger.database import Source
from factory.ledger.history import CONVERSATION, TURNS, AskedWith, OpenRound
from factory.ledger.losing import Losing, losing_answers
from factory.ledger.rows import unsampled_row
from factory.ledger.tables import Batch, QueryRow, merge
from factory.lessons.failures import REPAIR, make_repairs
from factory.lessons.harder import NEEDS_CATALOGUE, WAYS, Stock, make
from factory.lessons.judging import OF_OWN_ANSWERS, OVERLAP
from factory.lessons.keeping import keep_turns
from factory.lessons.wishes import ASK
from factory.round.backwards import (
    Replies,
    WrittenRequests,
    ask_backwards,
    find_catalogue,
    find_fault,
)
from factory.round.chats import CHAT, ask_chats, find_call, find_requests
from factory.round.factory import Factory
from factory.round.judging import judgement_of
from factory.score.keeper import Keeper
from factory.score.labelled import held_out_ids
from factory.train.curriculum import learnt_share
from factory.train.examples import calls_text
from factory.workspace.models import word_pieces

ASKED_FOR = frozenset({ASK, CHAT})
"""Ways that the model is asked for: what is made may fall."""
MOST_CHATS = 3
"""Requests that need no tool asked for each that is wanted, at most."""
REWRITTEN = frozenset({"rename", "optional"})
"""Ways that write tool documents, which are judged as the model's own are."""
OF_MODELS_WRITING = OF_OWN_ANSWERS | {"round/duplicate_tool", "round/near_duplicate_tool"}
"""Rules over a round against a model that repeats itself; what is made repeats by construction."""


def learnt_samples(factory: Factory, this: OpenRound, past: Source) -> list[Candidate]:
    """The accepted samples that the round teaches: no benchmark's question, `train.accepted`."""
    held_out = held_out_ids(factory.all_benchmarks)
    accepted = history.accepted_samples(past, this.number)
    accepted = [sample for sample in accepted if sample.query.id not in held_out]
    return accepted if this.is_lesson else learnt_share(accepted, factory.recipe)


async def make_samples(factory: Factory, this: OpenRound, parent: Keeper) -> None:
    """Make what [make] asks for of the samples that the round or lesson will learn; once."""
    shares = factory.recipe.make.shares
    if not shares or {"make", "train"} & this.stages_done:
        return
    started = datetime.now(UTC)
    with factory.ledger.read() as past:
        accepted = learnt_samples(factory, this, past)
        if this.is_lesson:
            accepted = [sample for sample in accepted if sample.calls]
        elif len(accepted) < factory.recipe.train.min_accepted:
            return
        factory.monitor.stage("make")
        catalogue = find_catalogue(this, past)
        asked_before = history.asked_before(past, this.number)
        answered, failed = history.answered_and_failed(past, this.number)
        losing = losing_answers(past, this.number) if REPAIR in shares else {}
    wanted = {way: round(share * len(accepted)) for way, share in shares.items()}
    pieces = word_pieces(Path(this.checkpoint.path)) if "words" in wanted else ()
    stock = Stock(accepted, catalogue, [*answered, *failed], failed, pieces)
    made, turns = _make_all(factory, this, stock, losing, wanted)
    asked = WrittenRequests()
    if factory.recipe.make.asks_model:
        asked = await _ask_all(factory, this, await parent.engine(), stock, wanted)
    origins = {sample.query.id: sample for sample in accepted}
    judgement = judgement_of(factory, this)
    made += asked.candidates
    samples = judge_made(
        made, origins, asked_before, judgement, factory.all_benchmarks, asked.replies
    )
    counts = _count(wanted, samples)
    for way, of_way in counts.items():
        if of_way["accepted" if way in ASKED_FOR else "made"] < of_way["wanted"]:
            factory.monitor.note(_too_few(way, of_way, len(accepted), len(catalogue)))
    now = datetime.now(UTC)
    kept = _request_rows(this, made, turns)
    rows = merge(
        [
            *(sample.rows(judgement, now) for sample in samples),
            kept,
            {"generation": asked.generations},
        ]
    )
    factory.finish(this.number, "make", started, rows, {"ways": counts})


def _chance(factory: Factory, this: OpenRound, way: str) -> random.Random:
    return random.Random(derive_seed(factory.recipe.seed, this.number, "make", way))


async def _ask_all(
    factory: Factory, this: OpenRound, engine: Engine, stock: Stock, wanted: Mapping[str, int]
) -> WrittenRequests:
    """What the model is asked for."""
    asked = WrittenRequests()
    if count := wanted.get(ASK):
        rng = _chance(factory, this, ASK)
        asked.join(await ask_backwards(factory, this, engine, rng, stock, count))
    if count := wanted.get(CHAT):
        rng, known = _chance(factory, this, CHAT), history.known_texts(factory.ledger)
        requests = find_requests(factory, known, MOST_CHATS * count)
        asked.join(await ask_chats(factory, this, engine, rng, stock.samples, requests, count))
    return asked


def _make_all(
    factory: Factory,
    this: OpenRound,
    stock: Stock,
    losing: Mapping[str, Sequence[Losing]],
    wanted: Mapping[str, int],
) -> tuple[list[Candidate], dict[str, str]]:
    """What each way makes that asks no model, the same from the same samples and seed, and the
    turns of those that are conversations, by query id.
    """
    made: list[Candidate] = []
    for way in (way for way in WAYS if way in wanted):
        found = make(way, _chance(factory, this, way), stock, wanted[way])
        made += [_named(m.candidate, way, m.origins, place) for place, m in enumerate(found)]
    turns: dict[str, str] = {}
    if REPAIR in wanted:
        rng = _chance(factory, this, REPAIR)
        repairs = make_repairs(rng, stock.samples, losing, factory.prompts, wanted[REPAIR])
        for place, (candidate, said) in enumerate(repairs):
            made.append(_named(candidate, REPAIR, (candidate.query.id,), place))
            turns[made[-1].query.id] = to_json(keep_turns(candidate.tools, said))
    return made, turns


def _named(candidate: Candidate, way: str, origins: tuple[str, ...], place: int) -> Candidate:
    """As a sample of the round, with an id of its own."""
    tools = [tool.id for tool in candidate.tools]
    mark = canonical_json([way, place, candidate.query.text, tools, *origins])
    return replace(
        candidate,
        query=replace(candidate.query, id=f"q_{digest(mark)}"),
        made_by=way,
        made_of=origins,
    )


# -- judging -------------------------------------------------------------------------------------


def judge_made(
    made: Sequence[Candidate],
    origins: Mapping[str, Candidate],
    asked: Collection[AskedWith],
    judgement: Judgement,
    benchmarks: Sequence[HeldOut],
    replies: Mapping[str, Replies] | None = None,
) -> list[Sample]:
    """Each under the rules of its kind, then under those over all of them.

    `origins` are the accepted samples by id: what is made of another one falls with it. `asked` are
    the requests that were accepted so far, each with its tools: none is taught twice but in a
    conversation. `replies` are a model's by query id, where it was asked.
    """
    seen = {*asked, *map(history.asked_with, origins.values())}
    samples: list[Sample] = []
    for candidate in made:
        heard = (replies or {}).get(candidate.query.id, {})
        sample = _judge_one(candidate, origins, judgement, heard)
        if sample.status == "accepted" and not candidate.chat:
            if (key := history.asked_with(candidate)) in seen:
                message = "the same request with the same tools once more"
                sample = _fall(sample, "duplicate", message)
            seen.add(key)
        samples.append(sample)
    return list(_judge_together(samples, judgement, benchmarks))


def _judge_one(
    candidate: Candidate,
    origins: Mapping[str, Candidate],
    judgement: Judgement,
    replies: Replies,
) -> Sample:
    sample = Sample(
        candidate=candidate, status="accepted", stage="calls", cause=None, verdicts=(), vote=None
    )
    if lost := [each for each in candidate.made_of if each not in origins]:
        return _fall(sample, "origin", f"it is made of {lost[0]}, which is not accepted")
    if candidate.made_by == ASK and (fault := find_fault(candidate, replies, judgement)):
        return _fall(sample, *fault)
    if candidate.made_by == CHAT and (fault := find_call(replies)):
        return _fall(sample, *fault)
    found = list(_judge_documents(candidate, origins, judgement))
    if candidate.calls:
        text = calls_text(candidate.calls)
        found += check_calls(
            text,
            candidate.tools,
            rulebook=judgement.rulebook,
            query=candidate.query.text,
            subject="sample:0",
        )
    sample = _with_verdicts(sample, found, "calls")
    if sample.status == "rejected" or candidate.calls:
        return sample
    if not candidate.answer.strip():
        return _fall(sample, "no_answer", "it has neither calls nor an answer")
    if parse_calls(candidate.answer).failure != "no_tool_call":
        return _fall(sample, "call_in_answer", "its answer is to call nothing, and holds a call")
    return sample


def _judge_documents(
    candidate: Candidate, origins: Mapping[str, Candidate], judgement: Judgement
) -> Iterator[Verdict]:
    """What rules say of documents that were written for it."""
    if candidate.made_by not in REWRITTEN:
        return
    known = {tool.id for each in candidate.made_of for tool in origins[each].tools}
    for index, tool in enumerate(candidate.tools):
        if tool.id not in known:
            yield from check_document(
                tool.document,
                rulebook=judgement.rulebook,
                query=candidate.query.text,
                subject=f"tool:{index}",
            )


def _judge_together(
    samples: Sequence[Sample], judgement: Judgement, benchmarks: Sequence[HeldOut]
) -> Iterator[Sample]:
    """The samples after the rules over all of them; a question of a benchmark falls in any case."""
    rules = judgement.rulebook.rules
    rules = {name: rule for name, rule in rules.items() if name not in OF_MODELS_WRITING}
    passing = [sample.candidate for sample in samples if sample.status == "accepted"]
    with closing(Bench()) as bench:
        drawn = judge_round(rules, passing, Past(), benchmarks, stage="draw", bench=bench)
        together = judge_round(rules, passing, Past(), benchmarks, bench=bench)
    questions = held_out_ids(benchmarks)
    for sample in samples:
        own = sample.candidate.query
        for stage, verdicts in (("draw", drawn), ("round", together)):
            if sample.status == "accepted":
                sample = _with_verdicts(sample, verdicts.get(own.id, ()), stage)
        if sample.status == "accepted" and query_id(own.text) in questions:
            sample = _fall(sample, OVERLAP, "is a question of a benchmark")
        yield sample


def _with_verdicts(sample: Sample, found: Iterable[Verdict], stage: str) -> Sample:
    """The sample with what was found of it; it falls at this stage where a rule rejects."""
    found = tuple(found)
    cause = first_reject(found)
    sample = replace(sample, verdicts=(*sample.verdicts, *found))
    return replace(sample, status="rejected", stage=stage, cause=cause) if cause else sample


def _fall(sample: Sample, reason: str, message: str) -> Sample:
    rule = reason if "/" in reason else f"made/{reason}"
    reason = rule.partition("/")[2]
    verdict = Verdict(
        subject="query", rule=rule, reason=reason, severity="reject", path="$", message=message
    )
    return _with_verdicts(sample, (verdict,), "make")


# -- rows and notes ------------------------------------------------------------------------------


def _request_rows(this: OpenRound, made: Sequence[Candidate], turns: Mapping[str, str]) -> Batch:
    """The requests, and what no other table holds of labels: answers without a call, chats and
    their turns by query id.
    """
    now = datetime.now(UTC)
    requests: list[QueryRow] = [
        {"query_id": q.id, "text": q.text, "source": q.source, "added_at": now}
        for q in (candidate.query for candidate in made)
    ]
    answers = [
        unsampled_row(this.number, each.query.id, "label", each.answer)
        for each in made
        if each.answer
    ]
    chats = [
        unsampled_row(
            this.number, each.query.id, CONVERSATION, to_json([m.to_json() for m in each.chat])
        )
        for each in made
        if each.chat
    ]
    kept = [unsampled_row(this.number, each, TURNS, text) for each, text in turns.items()]
    return {"query": requests, "generation": [*answers, *chats, *kept]}


def _count(wanted: Mapping[str, int], samples: Sequence[Sample]) -> dict[str, dict[str, int]]:
    """By way: how many were wanted, made, and accepted."""
    made = Counter(sample.candidate.made_by for sample in samples)
    kept = Counter(s.candidate.made_by for s in samples if s.status == "accepted")
    return {
        way: {"wanted": count, "made": made[way], "accepted": kept[way]}
        for way, count in wanted.items()
    }


def _too_few(way: str, counts: Mapping[str, int], num_accepted: int, num_tools: int) -> str:
    """What is said where a way made fewer than its share, with the remedy."""
    remedy = f"draw more requests (--n), or lower make.{way}"
    if way in NEEDS_CATALOGUE and not num_tools:
        remedy = (
            f"`factory add-tools FILE` imports a catalogue to take tools from, or set make.{way}=0"
        )
    if way == ASK:
        return (
            f"make.{way}: {counts['accepted']} of {counts['wanted']} were kept of {counts['made']} "
            "requests that the model wrote; it learns to write them from each round's samples, and "
            f"`factory rejects --made` says why others fell; lower make.{way}"
        )
    if way == CHAT:
        return (
            f"make.{way}: {counts['accepted']} of {counts['wanted']} were kept of {counts['made']} "
            "requests that need no tool: name files of more in `chat` of factory.toml; where all "
            f"fell for a call, make.withheld teaches to call nothing first; or lower make.{way}"
        )
    if way == REPAIR:
        remedy = f"only requests with a losing answer that a rule rejects can; lower make.{way}"
    return (
        f"make.{way}: {counts['made']} of {counts['wanted']} could be made of {num_accepted} "
        f"accepted samples and a catalogue of {num_tools} tools; {remedy}"
    )
