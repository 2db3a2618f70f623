"""A dev set of labelled rows whose tools are taught to nobody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from factory.domain.canon import derive_seed, query_id
from factory.domain.failures import InputError
from factory.lessons.catalogue import names_of
from factory.lessons.judging import JudgedLessons, JudgedRow
from factory.score.labelled import Labelled, from_samples

HELD_OUT = "row/held_out"
"""Rule of what is kept from teaching for a dev set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Rows that teach, and the questions that are kept from them."""

    taught: JudgedLessons
    """With what is held out, and what calls a tool of it, among the rows that fell."""
    questions: tuple[Labelled, ...]
    tools: frozenset[str]
    """Names of the tools that the questions are about."""


def hold_out(
    judged: JudgedLessons,
    share: float,
    name: str,
    seed: int,
    trained: frozenset[str] = frozenset(),
) -> Split:
    """Hold out this share of the requests with calls, and all that would teach one of their tools.

    Requests are taken in an order that the seed decides. One brings its tools into the dev set, and
    with them every request that needs no others; so what is taught calls none of these tools.
    No request is one that the model may have been trained on (`trained`, by query id); every row
    with the words of a question is held out with it. Raises InputError where nothing is left on
    either side.
    """
    usable = [row for row in judged.requests if row.is_accepted and row.sample.candidate.calls]
    questions: dict[str, Labelled] = {}
    order: list[JudgedRow] = []
    for row in usable:
        known = questions.keys() | trained
        if not known & {_words(row), row.query.id} and (question := _as_question(row)) is not None:
            questions[_words(row)] = question
            order.append(row)
    wanted = round(share * len(usable))
    order.sort(key=lambda row: derive_seed(seed, "dev", row.query.id))
    chosen, tools = _choose(order, wanted)
    held = frozenset(chosen)
    left = [row for row in usable if not _needed(row) & tools and _words(row) not in held]
    if not chosen or not left:
        num_tools = len({name for row in usable for name in _called(row)})
        raise InputError(
            f"--dev {share:g} leaves no request to {'teach' if chosen else 'score'}: "
            f"{len(usable)} have calls, of {num_tools} tools",
            remedy="choose another share, bring more requests, or leave --dev out",
        )
    requests = [_keep(row, held, tools, name) for row in judged.requests]
    documents = [_keep_document(row, tools, name) for row in judged.documents]
    return Split(
        taught=replace(judged, requests=tuple(requests), documents=tuple(documents)),
        questions=tuple(questions[each] for each in chosen),
        tools=tools,
    )


def _choose(order: Sequence[JudgedRow], wanted: int) -> tuple[list[str], frozenset[str]]:
    """Ids of the words of the requests that are held out, and their tools."""
    tools: set[str] = set()
    covered: list[str] = []
    for row in order:
        if len(covered) >= wanted:
            break
        if not _called(row) <= tools:
            tools |= _called(row)
            covered = [_words(each) for each in order if _called(each) <= tools]
    return covered[:wanted], frozenset(tools)


def _words(row: JudgedRow) -> str:
    """The id of what is asked, whichever rows ask it."""
    return query_id(row.lesson.query)


def _called(row: JudgedRow) -> set[str]:
    return {call.name for call in row.lesson.calls or ()}


def _needed(row: JudgedRow) -> set[str]:
    """What a row teaches: the tools it calls, or those it is said to need."""
    if row.lesson.calls is None:
        return {name for tool in row.tools for name in names_of(tool)}
    return _called(row) | {call.name for turn in row.lesson.turns for call in turn.calls}


def _keep(row: JudgedRow, held: frozenset[str], tools: frozenset[str], name: str) -> JudgedRow:
    if not row.is_accepted:
        return row
    if _words(row) in held:
        return row.fall(HELD_OUT, f"is a question of {name}")
    if common := sorted(_needed(row) & tools):
        return row.fall(f"{HELD_OUT}_tool", f"{common[0]} is a tool of {name}")
    return row


def _keep_document(row: JudgedRow, tools: frozenset[str], name: str) -> JudgedRow:
    if row.tools and row.tools[0].name in tools:
        message = f"{row.tools[0].name} is a tool of {name}"
        return row.fall(f"{HELD_OUT}_tool", message).withdraw()
    return row


def _as_question(row: JudgedRow) -> Labelled | None:
    """The row as a question that its own label answers rightly; None where it is none."""
    good, _ = from_samples([row.query.id], [row.sample.candidate], frozenset())
    return good[0] if good else None
