"""What the ledger says of the rounds so far: which is open, what was drawn, which model is best."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from factory.domain.canon import query_id
from factory.domain.records import (
    ENGINE_DIED,
    Call,
    Candidate,
    Checkpoint,
    Example,
    ItemScore,
    Logged,
    Message,
    Pair,
    Past,
    PastQuery,
    Query,
    Tool,
)
from factory.ledger.database import Source
from factory.workspace.identity import Identity

SELF_MADE = 0.3
"""Weight of a pair in a sample that a model answered unanimously, beside 1 for a person's (A42)."""
FADING = 0.8
"""Weight that a round's pairs keep in the next one (A42)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRound:
    """A round that has started and not ended."""

    number: int
    recipe_name: str
    recipe_json: str
    """Its recipe as resolved when it started."""
    content_sha: str
    """Prompts and rules it started with (round.content_sha)."""
    checkpoint: Checkpoint
    """The parent it samples from and trains."""
    judgement: int
    """Id of its pass of rules."""
    stages_done: frozenset[str]
    identity: str | None = None
    """Of the checkpoint when it started; None where that was not kept."""

    @property
    def is_lesson(self) -> bool:
        """Whether its samples are labelled rows, not a model's."""
        return LESSON in self.stages_done


LESSON = "teach"
"""Stage of a round whose samples are labelled rows."""
CONVERSATION = "conversation"
"""Stage in `generation` of a labelled conversation: its messages, as an example has them."""
TURNS = "turns"
"""Stage in `generation` of the same: its turns and tools, before any prompt was made of them."""


def open_round(past: Source) -> OpenRound | None:
    """The round without a finished `gate` stage, if any."""
    sql = """
        select r.round, r.recipe_name, r.recipe_json, r.prompts_sha || ' ' || r.rules_sha,
               r.checkpoint_id, r.checkpoint_fingerprint, c.path, j.judgement, r.identity
        from round r
        join (select checkpoint_id, any_value(path) as path from checkpoint group by 1) c
          on c.checkpoint_id = r.checkpoint_id
        join (select round, min(judgement) as judgement from judgement group by round) j
          on j.round = r.round
        where r.round not in (select round from stage where stage = 'gate' and status = 'done')
        order by r.round
        """
    rows = past.query(sql).rows
    if not rows:
        return None
    number, name, recipe_json, content_sha, checkpoint_id, fingerprint, path, *rest = rows[0]
    judgement, identity = rest
    done = past.query("select stage from stage where round = ? and status = 'done'", [number]).rows
    return OpenRound(
        number=number,
        recipe_name=name,
        recipe_json=recipe_json,
        content_sha=content_sha,
        checkpoint=Checkpoint(id=checkpoint_id, path=path, fingerprint=fingerprint),
        judgement=judgement,
        identity=identity,
        stages_done=frozenset(stage for (stage,) in done),
    )


def last_round(past: Source) -> int:
    """Number of the latest round, 0 where there is none."""
    return int(past.query("select coalesce(max(round), 0) from round").rows[0][0])


def finished_rounds(past: Source) -> list[int]:
    """Numbers of the rounds that have ended, in order."""
    sql = "select distinct round from stage where stage = 'gate' and status = 'done' order by 1"
    return [number for (number,) in past.query(sql).rows]


def lessons(past: Source) -> frozenset[int]:
    """Numbers of the rounds whose samples are labelled rows."""
    rows = past.query("select distinct round from stage where stage = ?", [LESSON]).rows
    return frozenset(number for (number,) in rows)


SAMPLED_BY = (
    *(f"$.calls.{key}" for key in ("n", "temperature", "top_k", "top_p", "constrain")),
    *("$.tools.temperature", "$.codes.retrieve", "$.codes.keep", "$.codes.decode"),
)
"""Of a recipe, what decides how varied samples are besides the model and the requests."""
SAMPLED_MORE_BY = tuple(
    f"$.calls.{key}" for key in ("more", "more_temperature", "more_order", "more_constrain")
)
"""The same, where calls.more is not 0; older recipes have none of these."""


def first_round_like(past: Source, number: int, line: Sequence[str]) -> int | None:
    """The earliest round before this one, lessons apart, that can be compared with it.

    It began from one of these checkpoints, drew its requests from the same files or programs (a
    source is `requests.jsonl:12`), sampled by the same settings and had as many imported tools.
    """
    sql = """
        with asked as (
          select d.round, list_sort(list(distinct regexp_replace(q.source, ':[0-9].*$', '')))
            as sources
          from draw d
          join (select query_id, min(source) as source from query group by 1) q using (query_id)
          group by 1
        ),
        made as (
          select r.round, r.checkpoint_id, asked.sources,
                 json_extract(nullif(r.recipe_json, ''), $keys) as settings,
                 case when json_extract_string(nullif(r.recipe_json, ''), '$.calls.more') <> '0'
                   then json_extract(r.recipe_json, $more) end as more,
                 (select count(distinct tool_id) from tool
                  where origin not in ('round', 'checkpoint')
                    and added_at <= r.started_at) as num_tools
          from round r left join asked using (round)
        )
        select min(made.round) from made
        join made as this
          on made.sources is not distinct from this.sources
         and made.settings is not distinct from this.settings
         and made.more is not distinct from this.more
         and made.num_tools = this.num_tools
        where this.round = $number and made.round < $number
          and list_contains($line, made.checkpoint_id)
          and made.round not in (select round from stage where stage = $lesson)
        """
    values = {
        "number": number,
        "line": list(line),
        "lesson": LESSON,
        "keys": list(SAMPLED_BY),
        "more": list(SAMPLED_MORE_BY),
    }
    found = past.query(sql, values).rows[0][0]
    return None if found is None else int(found)


def drawn_texts(past: Source, number: int) -> list[str]:
    """The requests of a round, in draw order."""
    sql = """
        select q.text from draw d
        join (select query_id, any_value(text) as text from query group by 1) q using (query_id)
        where d.round = ? order by d.position
        """
    return [str(text) for (text,) in past.query(sql, [number]).rows]


def drawn_queries(past: Source, number: int) -> list[Query]:
    """The queries of a round, in draw order, without their logs."""
    sql = """
        select query_id, q.text, q.source from draw d
        join (select query_id, any_value(text) as text, any_value(source) as source
              from query group by 1) q using (query_id)
        where d.round = ? order by d.position
        """
    rows = past.query(sql, [number]).rows
    return [Query(id=query_id, text=text, source=source) for query_id, text, source in rows]


def count_missing(past: Source, number: int) -> int:
    """How many requests fewer a round has drawn than it was to have."""
    sql = """
        select max(num_queries) - (select count(*) from draw where draw.round = $number)
        from round where round = $number
        """
    return int(past.query(sql, {"number": number}).rows[0][0])


def known_texts(past: Source) -> list[str]:
    """The requests that rounds have drawn or made so far, each once."""
    sql = "select distinct text from query order by 1"
    return [str(text) for (text,) in past.query(sql).rows]


def answered_and_failed(past: Source, number: int) -> tuple[list[str], list[str]]:
    """The requests of a round that the model answers, and those that it fails in, in draw order;
    without those that fell when they were drawn, as questions of a benchmark do. What fell beside
    others of its round, or could not be judged, is no failure.
    """
    sql = """
        select q.text, s.status <> 'rejected' or s.stage = 'round'
        from draw d
        join (select query_id, any_value(text) as text from query group by 1) q using (query_id)
        join (select * from outcome join latest_judgement using (round, judgement)) s
          on s.round = d.round and s.query_id = d.query_id
        where d.round = ? and s.stage <> 'draw' order by d.position
        """
    rows = past.query(sql, [number]).rows
    return [text for text, kept in rows if kept], [text for text, kept in rows if not kept]


CALIBRATE = "calibrate"
"""Stage whose detail is the calibration that a round's votes are counted by."""


def calibrated(past: Source, number: int) -> dict[str, Any] | None:
    """The calibration of a round's votes; None where it had none."""
    sql = "select detail_json from stage where stage = ? and round = ? order by finished_at"
    rows = past.query(sql, [CALIBRATE, number]).rows
    return dict(json.loads(rows[-1][0])) if rows else None


def known_calibration(past: Source, key: str) -> dict[str, Any] | None:
    """What the same model, questions and settings gave in an earlier round."""
    sql = """
        select detail_json from stage
        where stage = ? and json_extract_string(detail_json, '$.key') = ? order by finished_at
        """
    rows = past.query(sql, [CALIBRATE, key]).rows
    return dict(json.loads(rows[-1][0])) if rows else None


class Fate(NamedTuple):
    """What became of a request. Example: Fate("q_3b1f…", "Book a table", 1.0, "vote_tie")."""

    query_id: str
    text: str
    weakness: float
    """1 where its sample fell, else what the vote left undecided, from 0 to 1."""
    reason: str
    """What it fell for, or `votes`."""


def recent_fates(past: Source, number: int, rounds: int) -> list[Fate]:
    """Of the requests that the last `rounds` rounds before `number` sampled, lessons apart, by
    round and position; without those that fell as copies of others or as a benchmark's questions.
    """
    sql = """
        with recent as (
          select round from round
          where round < $number
            and round not in (select round from stage where stage = $lesson)
          order by round desc limit $rounds
        )
        select d.query_id, q.text,
               if(o.status = 'accepted', coalesce(1 - v.margin, 0), 1)::double,
               if(o.status = 'accepted', 'votes', o.reason)
        from draw d
        join recent using (round)
        join (select query_id, any_value(text) as text from query group by 1) q using (query_id)
        join (select * from outcome join latest_judgement using (round, judgement)) o
          on o.round = d.round and o.query_id = d.query_id
        left join latest_vote v on v.round = d.round and v.query_id = d.query_id
        where o.status in ('accepted', 'rejected') and o.stage not in ('draw', 'round')
        order by d.round, d.position
        """
    values = {"number": number, "lesson": LESSON, "rounds": rounds}
    return [Fate(*row) for row in past.query(sql, values).rows]


def vote_entropy(past: Source, number: int) -> float | None:
    """Mean entropy of a round's votes in bits; None where there were none."""
    sql = "select avg(entropy) from latest_vote where round = ?"
    found = past.query(sql, [number]).rows[0][0]
    return None if found is None else float(found)


ABANDONED = "abandoned by the user"
"""Reason in the stage `gate` of a round that was ended as it was."""
GIVEN_BACK = """
    from draw
    where round in (
      select round from stage
      where stage = 'gate' and json_extract_string(detail_json, '$.reason') = $abandoned
    )
    and not exists (
      from sample where sample.round = draw.round and sample.query_id = draw.query_id
      and sample.reason <> $died
    )
    """
"""Draws of abandoned rounds whose request has no answer: it was not asked, or an engine died."""


def drawn_ids(past: Source) -> set[str]:
    """Ids of the requests that no round draws again."""
    sql = f"select query_id from draw except all select query_id {GIVEN_BACK}"
    values = {"abandoned": ABANDONED, "died": ENGINE_DIED}
    return {query_id for (query_id,) in past.query(sql, values).rows}


def count_given_back(past: Source, number: int) -> int:
    """How many requests of a round later ones may draw again."""
    sql = f"select count(*) {GIVEN_BACK} and round = $number"
    values = {"abandoned": ABANDONED, "died": ENGINE_DIED, "number": number}
    return int(past.query(sql, values).rows[0][0])


def pending_queries(past: Source, number: int) -> list[Query]:
    """Queries drawn for the round that have no sample yet, in draw order."""
    sql = """
        select query_id, text, source
        from draw d
        join (select query_id, any_value(text) as text, any_value(source) as source
              from query group by query_id) q using (query_id)
        where d.round = ?
          and query_id not in (select query_id from sample where round = d.round)
        order by d.position
        """
    rows, logs = past.query(sql, [number]).rows, logged_queries(past, number)
    return [
        Query(id=query_id, text=text, source=source, log=logs.get(query_id))
        for query_id, text, source in rows
    ]


def logged_queries(past: Source, number: int) -> dict[str, Logged]:
    """What the logs of a round's queries have beside them, by query id."""
    sql = "select query_id, text from generation where round = ? and stage = 'log' and subject = ''"
    logs: dict[str, Logged] = {}
    for query, text in past.query(sql, [number]).rows:
        row = json.loads(text)
        logs[query] = Logged(
            tools=tuple(Tool(**tool) for tool in row["tools"]),
            calls=tuple(Call(**call) for call in row["calls"]),
        )
    return logs


class Scored(NamedTuple):
    """The latest score of a checkpoint on a benchmark. Example: Scored("9f3c…", at)."""

    identity: str | None
    """Of the model that was scored; None where the row is of a version that kept none."""
    at: datetime
    """UTC."""

    def is_of(self, model: Identity) -> bool:
        """Whether it is the model's as it is now.

        Without an identity it is where no file of the model has been written since.
        """
        return model.changed < self.at if self.identity is None else self.identity == model.sha


def last_scored(past: Source, checkpoint_id: str, benchmark: str, basis: str) -> Scored | None:
    """The latest score with the same items and prompts, if any."""
    sql = """
        select identity, scored_at
        from score where checkpoint_id = ? and benchmark = ? and basis = ?
        order by scored_at desc
        """
    rows = past.query(sql, [checkpoint_id, benchmark, basis], limit=1).rows
    return Scored(rows[0][0], rows[0][1].replace(tzinfo=UTC)) if rows else None


def is_scored(past: Source, checkpoint_id: str, benchmark: str, basis: str) -> bool:
    """Whether the checkpoint has a score on the benchmark with the same items and prompts."""
    return last_scored(past, checkpoint_id, benchmark, basis) is not None


def knows_questions(past: Source, benchmark: str, basis: str) -> bool:
    """Whether the questions of a basis are stored."""
    sql = "select 1 from benchmark_item where benchmark = ? and basis = ?"
    return bool(past.query(sql, [benchmark, basis], limit=1).rows)


def knows_ruler(past: Source, benchmark: str, basis: str) -> bool:
    """Whether what a basis, or under no benchmark an identity, is made of is stored."""
    sql = "select 1 from ruler where benchmark = ? and basis = ?"
    return bool(past.query(sql, [benchmark, basis], limit=1).rows)


def measured_noise(
    past: Source, checkpoint_id: str, benchmark: str, basis: str, identity: str | None = None
) -> float | None:
    """Points that two passes of a checkpoint differ by; None where that was not measured.

    With an identity, of that model, or by a version that kept none.
    """
    sql = """
        select points from noise where checkpoint_id = ? and benchmark = ? and basis = ?
        and coalesce(identity = ?, true) order by measured_at
        """
    rows = past.query(sql, [checkpoint_id, benchmark, basis, identity], limit=1).rows
    return float(rows[0][0]) if rows else None


def accepted_samples(past: Source, number: int) -> list[Candidate]:
    """Accepted samples of a round, in draw order."""
    sql = """
        select a.query_id, a.query, a.tools_json, a.calls_json,
               coalesce(label.answer, ''), coalesce(label.chat, '[]')
        from accepted a
        join draw d on d.round = a.round and d.query_id = a.query_id
        left join (select round, query_id,
                          any_value(text) filter (stage = 'label') as answer,
                          any_value(text) filter (stage = $chat) as chat
                   from generation where stage in ('label', $chat) group by 1, 2) label
          on label.round = a.round and label.query_id = a.query_id
        where a.round = $number
        order by d.position
        """
    rows = past.query(sql, {"number": number, "chat": CONVERSATION}).rows
    return [_read_candidate(*row) for row in rows]


def made_samples(past: Source, number: int, *, accepted: bool = True) -> list[Candidate]:
    """Samples that a round made of its accepted ones, each way's together; accepted ones only, or
    all of them.
    """
    sql = """
        select m.query_id, m.query, m.tools_json, m.calls_json, m.answer,
               coalesce(told.chat, '[]'), m.made_by, m.made_of_json
        from made m
        left join (select round, query_id, any_value(text) as chat
                   from generation where stage = $chat group by 1, 2) told
          on told.round = m.round and told.query_id = m.query_id
        where m.round = $number and (m.status = 'accepted' or not $accepted)
        order by m.made_by, m.query_id
        """
    values = {"number": number, "chat": CONVERSATION, "accepted": accepted}
    return [_read_candidate(*row) for row in past.query(sql, values).rows]


AskedWith = tuple[str, tuple[str, ...]]
"""A request by the id of its words, and the ids of its tools in alphabetical order."""


def asked_with(sample: Candidate) -> AskedWith:
    """What a sample asks with which tools."""
    return query_id(sample.query.text), tuple(sorted(tool.id for tool in sample.tools))


def asked_before(past: Source, number: int) -> set[AskedWith]:
    """What the rounds before `number` accepted, and what they made of it."""
    sql = """
        select distinct query, list_sort(json_extract_string(tools_json, '$[*].id'))
        from (
          select round, query, tools_json from accepted
          union all
          select round, query, tools_json from made where status = 'accepted')
        where round < ?
        """
    return {(query_id(text), tuple(ids)) for text, ids in past.query(sql, [number]).rows}


def round_candidates(past: Source, number: int, judgement: int) -> list[Candidate]:
    """What the rules about single samples accept under a judgement, in draw order."""
    sql = """
        select s.query_id, q.text, s.tools_json, s.calls_json
        from sample s
        join draw d on d.round = s.round and d.query_id = s.query_id
        join (select query_id, any_value(text) as text from query group by 1) q
          on q.query_id = s.query_id
        where s.round = ? and s.judgement = ? and s.status = 'accepted'
        order by d.position
        """
    return [_read_candidate(*row) for row in past.query(sql, [number, judgement]).rows]


def _read_candidate(
    query_id: str,
    text: str,
    tools_json: str,
    calls_json: str,
    answer: str = "",
    chat_json: str = "[]",
    made_by: str = "",
    made_of_json: str = "[]",
) -> Candidate:
    return Candidate(
        query=Query(id=query_id, text=text, source="ledger"),
        tools=tuple(Tool(**value) for value in json.loads(tools_json)),
        calls=tuple(Call(**value) for value in json.loads(calls_json)),
        answer=answer,
        chat=tuple(Message.from_json(message) for message in json.loads(chat_json)),
        made_by=made_by,
        made_of=tuple(json.loads(made_of_json)),
    )


def accepted_before(past: Source, number: int) -> Past:
    """Requests and tool documents that the rounds before `number` accepted, as judged last."""
    sql = """
        select a.round, a.query_id, a.query, a.calls_json
        from accepted a
        join draw d on d.round = a.round and d.query_id = a.query_id
        where a.round < ?
        order by a.round, d.position
        """
    queries = past.query(sql, [number]).rows
    sql = """
        select tool
        from (
          select a.round, d.position, unnest(json_extract(a.tools_json, '$[*]')) as tool
          from accepted a
          join draw d on d.round = a.round and d.query_id = a.query_id
          where a.round < ?
        )
        group by tool
        order by min((round, position)), tool
        """
    tools = past.query(sql, [number]).rows
    return Past(
        queries=[
            PastQuery(
                round_number=r,
                id=id_,
                text=text,
                calls=tuple(Call(**call) for call in json.loads(calls_json)),
            )
            for r, id_, text, calls_json in queries
        ],
        tools=[Tool(**json.loads(tool)) for (tool,) in tools],
    )


def earlier_examples(
    past: Source, number: int, held_out: frozenset[str] = frozenset()
) -> list[Example]:
    """Examples of all rounds before `number`, in round order, without those of held-out ids, of
    what was made of them, and pairs of answers: they are of the model that gave them.
    """
    sql = """
        with made_of as (
          select round, query_id, any_value(text) as text, any_value(made_of_json) as origins
          from sample left join query using (query_id)
          where made_by <> '' group by 1, 2
        )
        select kind, origin, messages_json, text, coalesce(origins, '[]')
        from example
        left join made_of on made_of.round = example.round
          and made_of.query_id = split_part(origin, '/', 2)
        where example.round < ? and kind <> 'dpo' order by example.round, origin, kind
        """
    rows = past.query(sql, [number]).rows
    return [
        Example(
            kind=kind,
            origin=origin,
            messages=tuple(Message.from_json(message) for message in json.loads(messages)),
        )
        for kind, origin, messages, text, made_of in rows
        if origin.split("/")[-1] not in held_out
        and (text is None or held_out.isdisjoint({query_id(text), *json.loads(made_of)}))
    ]


def trained_queries(past: Source) -> frozenset[str]:
    """Query ids that the latest promoted checkpoint may have been trained on.

    Its round's own examples, and those of all rounds before, which replay draws from. A lesson's
    request that others ask in the same words has an id of its own: the id of the words comes too.
    """
    sql = """
        select distinct query_id, text
        from (
            select distinct split_part(origin, '/', 2) as query_id
            from example
            where round <= (select max(round) from checkpoint where promoted and round > 0)
        )
        left join query using (query_id)
        """
    rows = past.query(sql).rows
    own = frozenset(str(each) for each, _ in rows)
    return own | {query_id(str(text)) for _, text in rows if text is not None}


def what_changed(past: Source, benchmark: str, before: str, after: str) -> list[str]:
    """The parts of a ruler in which two bases of a benchmark differ; none where none is known.

    Under no benchmark, those in which two identities of a model differ.
    """
    sql = """
        select part from ruler
        where benchmark = ? and basis in (?, ?)
        group by part having count(distinct sha) > 1 order by part
        """
    return [part for (part,) in past.query(sql, [benchmark, before, after]).rows]


def load_items(past: Source, checkpoint_id: str, benchmark: str, basis: str) -> list[ItemScore]:
    """The judged items of a checkpoint's latest score, by item id."""
    sql = """
        select item, category, correct, reason, message, answer, value, calls_json, detail_json
        from latest_item where checkpoint_id = ? and benchmark = ? and basis = ? order by item
        """
    rows = past.query(sql, [checkpoint_id, benchmark, basis]).rows
    return [
        ItemScore(
            item=item,
            category=category,
            correct=correct,
            reason=reason,
            message=message,
            answer=answer,
            calls=tuple(Call(**value) for value in json.loads(calls)) if calls else None,
            value=value,
            detail=json.loads(detail) if detail else {},
        )
        for item, category, correct, reason, message, answer, value, calls, detail in rows
    ]


def parts_of(past: Source, identity: str) -> dict[str, str]:
    """What an identity is made of; empty where that is not known."""
    sql = "select part, sha from ruler where benchmark = '' and basis = ?"
    return dict(past.query(sql, [identity]).rows)


def last_identity(past: Source, checkpoint_id: str) -> str | None:
    """What a checkpoint was when a round last began from it, else when it was given or made."""
    sql = """
        select identity from (
          select identity, started_at as known from round where checkpoint_id = $id
          union all
          select identity, made_at from checkpoint where checkpoint_id = $id
        ) where identity is not null order by known desc
        """
    rows = past.query(sql, {"id": checkpoint_id}, limit=1).rows
    return str(rows[0][0]) if rows else None


def has_answers(past: Source, number: int) -> bool:
    """Whether a model has answered anything of the round."""
    sql = "select 1 from generation where round = ? and stage <> 'log'"
    return bool(past.query(sql, [number], limit=1).rows)


def imported_ids(past: Source) -> set[str]:
    """Ids of the tools that a user imported."""
    sql = "select tool_id from tool where origin not in ('round', 'checkpoint')"
    return {row[0] for row in past.query(sql).rows}


def imported_names(past: Source) -> set[str]:
    """Names of the tools that a user imported."""
    sql = "select distinct name from tool where origin not in ('round', 'checkpoint')"
    return {row[0] for row in past.query(sql).rows}


def imported_tools(past: Source) -> list[Tool]:
    """Tool documents a user imported, in import order."""
    sql = """
        select tool_id, any_value(document_json), min(added_at)
        from tool where origin not in ('round', 'checkpoint') group by tool_id order by 3, 1
        """
    rows = past.query(sql).rows
    return [Tool(id=tool_id, document=json.loads(document)) for tool_id, document, _ in rows]


def taught_documents(past: Source, number: int) -> list[Tool]:
    """Tool documents that the lesson of this round gave, by id."""
    sql = """
        select tool_id, any_value(document_json)
        from tool where round = ? and origin not in ('round', 'checkpoint') group by 1 order by 1
        """
    rows = past.query(sql, [number]).rows
    return [Tool(id=tool_id, document=json.loads(document)) for tool_id, document in rows]


def code_answers(past: Source, checkpoint_id: str) -> frozenset[str]:
    """Answers of the code examples that the checkpoint and its ancestors were trained on.

    Rounds that were held back, or ended early, are none of them.
    """
    sql = """
        with recursive ancestor as (
          select $id as checkpoint_id
          union
          select c.parent_id
          from checkpoint c
          join ancestor a using (checkpoint_id)
          where c.parent_id is not null
        )
        select distinct json_extract_string(messages_json, '$[#-1].content')
        from example
        where kind = 'code' and round in (
          select round from checkpoint join ancestor using (checkpoint_id) where round > 0)
        """
    rows = past.query(sql, {"id": checkpoint_id}).rows
    return frozenset(answer for (answer,) in rows)


class CalledPairs(NamedTuple):
    """Tools that accepted answers call together, each pair once in each list (A42)."""

    labelled: list[Pair]
    """By rows that people labelled: 1 each, fading by round."""
    answered: list[Pair]
    """By a model's own answers: SELF_MADE times their share of votes, fading by round."""


def called_pairs(past: Source, number: int) -> CalledPairs:
    """Which tools accepted answers up to round `number` call together."""
    sql = """
        with trajectory as (
          select round, query_id from generation where round <= $number
          group by 1, 2 having bool_or(stage = $chat) and not bool_or(stage = 'label')
        ),
        shown as (
          select round, query_id, agreement, calls_json, unnest(
            from_json(tools_json, '[{"id": "varchar", "document": {"name": "varchar"}}]')) as tool
          from accepted where round <= $number
        ),
        called as (
          select round, query_id, agreement, tool.id as tool_id
          from shown
          where list_contains(
            from_json(calls_json, '[{"name": "varchar"}]').list_transform(lambda c: c.name),
            tool.document.name)
          union all
          select round, query_id, agreement, tool.id as tool_id
          from shown join trajectory using (round, query_id)
          where calls_json = '[]'
        )
        select a.agreement is null, a.tool_id, b.tool_id,
               sum(coalesce($self_made * a.agreement, 1) * pow($fading, $number - a.round))
        from called a
        join called b on a.round = b.round and a.query_id = b.query_id and a.tool_id < b.tool_id
        group by 1, 2, 3 order by 2, 3
        """
    found = CalledPairs([], [])
    values = {"number": number, "self_made": SELF_MADE, "fading": FADING, "chat": CONVERSATION}
    for is_labelled, a, b, weight in past.query(sql, values).rows:
        pairs = found.labelled if is_labelled else found.answered
        pairs.append(Pair(a=a, b=b, weight=float(weight)))
    return found


def written_tools(past: Source) -> list[Tool]:
    """Every tool document that the ledger holds, by id."""
    sql = "select tool_id, any_value(document_json) from tool group by 1 order by 1"
    rows = past.query(sql).rows
    return [Tool(id=tool_id, document=json.loads(document)) for tool_id, document in rows]


def last_codebook_version(past: Source) -> int:
    """The highest version of any codebook so far, 0 where there is none."""
    return int(past.query("select coalesce(max(version), 0) from codebook").rows[0][0])


class LanguageKept(NamedTuple):
    """Perplexity of one plain text. Example: LanguageKept(14.6, 18.3, since=1, first=1)."""

    before: float
    after: float
    since: int
    """Round before whose training `before` was read: the lineage's earliest with this text."""
    first: int
    """The lineage's first one."""


def language_kept(past: Source, number: int, parent_id: str) -> LanguageKept | None:
    """What a round's text read before the lineage's first training, and reads after the round's.

    None where it was not measured.
    """
    sql = """
        with recursive line(checkpoint_id, round, depth) as (
          select $parent, $number::integer, 0
          union all
          select made.parent_id, made.round, depth + 1
          from line join checkpoint as made using (checkpoint_id)
          where made.parent_id is not null and made.parent_id <> made.checkpoint_id
        ),
        trained as (select * from language where round = $number and moment = 'after')
        select arg_max(earlier.perplexity, line.depth), any_value(trained.perplexity),
               arg_max(line.round, line.depth), (select arg_max(round, depth) from line)
        from line
        join language as earlier on earlier.round = line.round and earlier.moment = 'before'
        join trained using (text_sha)
        """
    row = past.query(sql, {"parent": parent_id, "number": number}).rows[0]
    return None if row[0] is None else LanguageKept(*row)


def checkpoint_folder(state: Path, number: int) -> Path:
    return state / "checkpoints" / f"r{number}"
