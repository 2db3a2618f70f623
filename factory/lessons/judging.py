"""Rows judged before they teach: by the rules, as a model's own answers are.

Documents are judged by the rules on documents, calls against the schemas of the tools they come
with, all of it beside every benchmark. Each row becomes a sample as a round has it. A document that
a rule rejects may still be called and coded if it can be; it is not taught to be written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from factory.domain.canon import canonical_json, digest, query_id
from factory.domain.records import Candidate, HeldOut, Past, Query, Tool, Verdict
from factory.judge.bench import Bench
from factory.judge.rulebook import Rulebook
from factory.judge.sample import Sample
from factory.judge.sets import judge_round
from factory.judge.verdicts import check_calls, check_document, first_reject
from factory.lessons.catalogue import Catalogue, make_tool, names_of
from factory.lessons.moves import Move, find_given, find_moves, judge_moves
from factory.lessons.records import Lesson, Lessons
from factory.score.labelled import held_out_ids
from factory.tools.rowfiles import BadLine
from factory.train.examples import calls_text

DUPLICATE, OVERLAP = "round/duplicate_query", "round/eval_overlap"
OF_OWN_ANSWERS = frozenset(
    {DUPLICATE, "round/near_duplicate_query", "round/tool_crowding", "round/wording_crowding"}
)
"""Rules against a model that repeats itself. People may label like requests; one that comes with
the same tools and calls once more is found here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedRow:
    """A row as a sample: a request with its tools and calls, or a document as its only tool."""

    lesson: Lesson
    sample: Sample
    given: tuple[Tool, ...] = ()
    """Of a trajectory: the tools at hand; those of the sample are the ones it calls."""
    moves: tuple[Move, ...] = ()

    @property
    def is_accepted(self) -> bool:
        return self.sample.status == "accepted"

    @property
    def rule(self) -> str:
        """What it fell for; empty where it is accepted."""
        return self.sample.cause.rule if self.sample.cause else ""

    @property
    def query(self) -> Query:
        return self.sample.candidate.query

    @property
    def tools(self) -> tuple[Tool, ...]:
        return self.sample.candidate.tools

    def fall(self, rule: str, message: str, *, reason: str = "", stage: str = "draw") -> JudgedRow:
        """The same row, rejected for something else than a rule's own finding."""
        cause = Verdict(
            subject="query",
            rule=rule,
            reason=reason or rule.partition("/")[2],
            severity="reject",
            path="$",
            message=message,
        )
        return self.reject(cause, (cause,), stage)

    def withdraw(self) -> JudgedRow:
        """The same row without tools: a document that is to be taught in no way."""
        candidate = replace(self.sample.candidate, tools=())
        return replace(self, sample=replace(self.sample, candidate=candidate))

    @property
    def is_silent(self) -> bool:
        """Whether the first answer of its conversation has no loss."""
        return any(not turn.loss for turn in self.lesson.turns[1:2])

    def without_label(self) -> JudgedRow:
        """The same row with nothing to learn but later turns."""
        candidate = replace(self.sample.candidate, tools=(), calls=())
        return replace(self, sample=replace(self.sample, candidate=candidate), given=self.tools)

    def reject(self, cause: Verdict, more: Sequence[Verdict], stage: str) -> JudgedRow:
        """The same row, fallen for `cause`."""
        verdicts = (*self.sample.verdicts, *more)
        sample = replace(
            self.sample, status="rejected", stage=stage, cause=cause, verdicts=verdicts
        )
        return replace(self, sample=sample)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedLessons:
    """What some files gave, judged; a row that fell is among the others with its cause."""

    requests: tuple[JudgedRow, ...]
    documents: tuple[JudgedRow, ...]
    """Each document once. One that fell is coded and called all the same where it can be."""
    unread: tuple[JudgedRow, ...]
    """Rows that no reader could take."""

    @property
    def rows(self) -> tuple[JudgedRow, ...]:
        """All of them."""
        return (*self.requests, *self.documents, *self.unread)


def judge_lessons(
    lessons: Lessons, known: Iterable[Tool], *, rulebook: Rulebook, held_out: Sequence[HeldOut]
) -> JudgedLessons:
    """Judge all rows. Tools that a row only names are looked up in its files, then in `known`.

    Raises ContentError for a rule over the rows that cannot be run.
    """
    documents = [_judge_document(x, rulebook) for x in lessons.items if not x.query]
    documents = list({row.query.id: row for row in reversed(documents)}.values())[::-1]
    catalogue = Catalogue([*(tool for row in documents for tool in row.tools), *known])
    requests = [_judge_request(x, catalogue, rulebook) for x in lessons.items if x.query]
    requests = list(_without_duplicates(requests, rulebook))
    judged = _judge_together([*requests, *documents], rulebook, held_out)
    judged = [row.without_label() if row.is_silent else row for row in judged]
    return JudgedLessons(
        requests=tuple(judged[: len(requests)]),
        documents=tuple(judged[len(requests) :]),
        unread=tuple(_unread(line, place) for place, line in enumerate(lessons.bad)),
    )


def _judge_document(lesson: Lesson, rulebook: Rulebook) -> JudgedRow:
    """A document as a sample without calls; its tool is left where it can be none."""
    (document,) = lesson.documents
    tool = make_tool(document)
    verdicts = check_document(dict(document), rulebook=rulebook)
    name, description = document.get("name"), document.get("description", "")
    key = tool.id if tool else canonical_json(document)
    text = f"Tool {name}: {description}" if description else f"Tool {name}"
    return _make_row(
        lesson,
        Query(id=f"q_{digest(key)}", text=text, source=lesson.where),
        (tool,) if tool else (),
        verdicts,
        cause=first_reject(verdicts),
        stage="tools",
    )


def _judge_request(lesson: Lesson, catalogue: Catalogue, rulebook: Rulebook) -> JudgedRow:
    """A labelled request beside the tools that it gives, or names."""
    query = Query(id=query_id(lesson.query), text=lesson.query, source=lesson.where)
    if lesson.steps:
        return _judge_trajectory(lesson, query, catalogue, rulebook)
    tools, verdicts = _find_tools(lesson, catalogue, rulebook)
    row = _make_row(lesson, query, tools, tuple(verdicts), stage="calls")
    names = {tool.name for tool in tools}
    if lesson.fault is not None:
        return row.fall(lesson.fault.rule, lesson.fault.message, stage="calls")
    if not lesson.calls:
        found_names = {name for tool in tools for name in names_of(tool)}
        missing = [name for name in lesson.names if name not in found_names]
        if missing or (lesson.calls is None and not tools):
            wanted = ", ".join(missing) or "a tool"
            return row.fall("row/no_document", f"no document of {wanted} is given", stage="tools")
        return _judge_later(row, rulebook)
    text = calls_text(lesson.calls)
    found = check_calls(text, tools, rulebook=rulebook, query=lesson.query, subject="sample:0")
    if (cause := first_reject(found)) is not None:
        unusable = next((v for v in verdicts if v.reason == "tool_unusable"), None)
        if unusable is not None and cause.reason == "unknown_tool":
            return row.reject(unusable, found, "tools")
        return row.reject(cause, found, "calls")
    if unknown := [call.name for call in lesson.calls if call.name not in names]:
        message = f"no document of {unknown[0]} is given"
        return row.fall("row/no_document", message, stage="calls")
    row = replace(row, sample=replace(row.sample, verdicts=(*row.sample.verdicts, *found)))
    return _judge_later(row, rulebook)


def _judge_later(row: JudgedRow, rulebook: Rulebook) -> JudgedRow:
    """The calls of a conversation's later answers; their paths tell the message."""
    names = {tool.name for tool in row.tools}
    for turn in row.lesson.turns[2:]:
        if not turn.calls:
            continue
        found = check_calls(
            calls_text(turn.calls), row.tools, rulebook=rulebook, subject="sample:0"
        )
        place = f"$.messages[{turn.number - 1}]"
        found = tuple(replace(verdict, path=place + verdict.path[1:]) for verdict in found)
        if (cause := first_reject(found)) is not None:
            return row.reject(cause, found, "calls")
        if unknown := [call.name for call in turn.calls if call.name not in names]:
            return row.fall("row/no_document", f"no document of {unknown[0]} is given")
        row = replace(row, sample=replace(row.sample, verdicts=(*row.sample.verdicts, *found)))
    return row


def _judge_trajectory(
    lesson: Lesson, query: Query, catalogue: Catalogue, rulebook: Rulebook
) -> JudgedRow:
    """A trajectory beside the tools that it calls: it needs them, as a label without calls says."""
    given = find_given(lesson.documents, catalogue)
    moves = find_moves(lesson.steps, given, catalogue)
    called = {move.tool.id: move.tool for move in moves if move.tool is not None}
    row = _make_row(lesson, query, tuple(called.values()), (), stage="calls")
    row = replace(row, given=given or row.tools, moves=moves)
    if lesson.fault is not None:
        return row.fall(lesson.fault.rule, lesson.fault.message, stage="calls")
    found = judge_moves(moves, given, rulebook)
    if (cause := first_reject(found)) is not None:
        return row.reject(cause, found, "calls")
    if unknown := [each.step.call.name for each in moves if not (each.tool or each.is_finish)]:
        return row.fall("row/no_document", f"no document of {unknown[0]} is given", stage="calls")
    return replace(row, sample=replace(row.sample, verdicts=found))


def _find_tools(
    lesson: Lesson, catalogue: Catalogue, rulebook: Rulebook
) -> tuple[tuple[Tool, ...], list[Verdict]]:
    """The tools to show: those given with the row, else those that it names."""
    if not lesson.documents:
        arguments = {call.name: call.arguments for call in lesson.calls or ()}
        found = [catalogue.find(name, arguments.get(name, ())) for name in lesson.names]
        return tuple({tool.id: tool for tool in found if tool is not None}.values()), []
    tools: dict[str, Tool] = {}
    verdicts: list[Verdict] = []
    for index, document in enumerate(lesson.documents):
        verdicts += check_document(dict(document), rulebook=rulebook, subject=f"tool:{index}")
        if (tool := make_tool(document)) is not None:
            tools[tool.id] = tool
    given = tuple(tools.values())
    if lesson.calls is not None or not lesson.names:
        return given, verdicts
    own = Catalogue(given)
    needed = [own.find(name) or catalogue.find(name) for name in lesson.names]
    return tuple({tool.id: tool for tool in needed if tool is not None}.values()), verdicts


def _make_row(
    lesson: Lesson,
    query: Query,
    tools: tuple[Tool, ...],
    verdicts: tuple[Verdict, ...],
    *,
    stage: str,
    cause: Verdict | None = None,
) -> JudgedRow:
    candidate = Candidate(query=query, tools=tools, calls=lesson.calls or ())
    sample = Sample(
        candidate=candidate,
        status="rejected" if cause else "accepted",
        stage=stage,
        cause=cause,
        verdicts=verdicts,
        vote=None,
    )
    return JudgedRow(lesson=lesson, sample=sample)


def _unread(line: BadLine, place: int) -> JudgedRow:
    query = Query(id=f"q_{digest(f'{place} {line.where}')}", text=line.where, source=line.where)
    row = _make_row(Lesson(where=line.where), query, (), (), stage="draw")
    return row.fall("row/unreadable", line.cause)


def _without_duplicates(rows: Iterable[JudgedRow], rulebook: Rulebook) -> Iterator[JudgedRow]:
    """Each request once, with its tools and calls; what asks alike with others has its own id."""
    seen: dict[str, str] = {}
    ids: set[str] = set()
    for place, row in enumerate(rows):
        query = row.query
        calls = [[call.name, call.arguments] for call in row.sample.candidate.calls]
        steps = [replace(step, silent=frozenset()) for step in row.lesson.steps]
        silent = [sorted(step.silent) for step in row.lesson.steps]
        turns = [replace(turn, number=0) for turn in row.lesson.turns]
        told = digest(f"{steps}{silent}{turns}")
        label = canonical_json([query.id, sorted(tool.id for tool in row.tools), calls, told])
        first = seen.setdefault(label, query.source)
        if query.id in ids:
            fresh = replace(query, id=f"q_{digest(f'{place} {label}')}")
            candidate = replace(row.sample.candidate, query=fresh)
            row = replace(row, sample=replace(row.sample, candidate=candidate))
        ids.add(row.query.id)
        is_again = first != query.source and row.is_accepted
        if is_again and rulebook.rule(DUPLICATE).active:
            row = row.fall(DUPLICATE, f"is {first} once more")
        yield row


def _judge_together(
    rows: Sequence[JudgedRow], rulebook: Rulebook, held_out: Sequence[HeldOut]
) -> list[JudgedRow]:
    """The rows after the rules over all of them; a question of a benchmark falls in any case."""
    rules = {name: rule for name, rule in rulebook.rules.items() if name not in OF_OWN_ANSWERS}
    asked = [_as_asked(row) for row in rows if row.tools or row.lesson.query]
    later = {row.query.id: _ask_later(row) for row in rows if row.lesson.turns}
    candidates = [candidate for candidate in asked if candidate.tools]
    with closing(Bench()) as bench:
        everything = [*asked, *(each for several in later.values() for each in several)]
        drawn = judge_round(rules, everything, Past(), held_out, stage="draw", bench=bench)
        together = judge_round(rules, candidates, Past(), held_out, bench=bench)
    questions = held_out_ids(held_out)
    drawn = dict(drawn)
    for own, several in later.items():
        if found := [verdict for each in several for verdict in drawn.get(each.query.id, ())]:
            drawn[own] = [*drawn.get(own, ()), *found]
    return [_weigh(row, drawn, together, questions) for row in rows]


def _ask_later(row: JudgedRow) -> list[Candidate]:
    """What a conversation goes on to ask, each as a request."""
    said = [turn.text for turn in row.lesson.turns[2:] if turn.speaker == "user"]
    return [
        Candidate(query=Query(id=f"{row.query.id}/{place}", text=text, source=row.query.source))
        for place, text in enumerate(said)
    ]


def _as_asked(row: JudgedRow) -> Candidate:
    """A document asks nothing that could equal a question."""
    candidate = row.sample.candidate
    if row.lesson.query:
        return candidate
    return replace(candidate, query=replace(candidate.query, text=""))


def _weigh(
    row: JudgedRow,
    drawn: Mapping[str, Sequence[Verdict]],
    together: Mapping[str, Sequence[Verdict]],
    questions: frozenset[str],
) -> JudgedRow:
    for stage, verdicts in (("draw", drawn), ("round", together)):
        found = verdicts.get(row.query.id, ())
        if (cause := first_reject(found)) is not None:
            fallen = row.reject(cause, found, stage)
            return fallen if row.lesson.query else fallen.withdraw()
        sample = replace(row.sample, verdicts=(*row.sample.verdicts, *found))
        row = replace(row, sample=sample)
    asked = (row.lesson.query, *(each.query.text for each in _ask_later(row)))
    if row.is_accepted and not questions.isdisjoint(query_id(text) for text in asked if text):
        return row.fall(OVERLAP, "is a question of a benchmark", reason="eval_overlap")
    return row
