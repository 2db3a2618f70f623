"""Answers that lost the vote to the accepted one: what a model says when it is wrong."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from factory.domain.records import Form
from factory.ledger.database import Source


class Losing(NamedTuple):
    """One answer of a losing class. Example: see losing_answers."""

    text: str
    """As the model wrote it."""
    votes: int
    """Of its class."""
    message: str
    """What the first rule that rejects it says; empty where it was outvoted alone."""
    path: str
    """Where that is, `$[0].arguments.people`."""
    form: Form = "own"
    """In which it was asked for."""


def losing_answers(past: Source, number: int) -> dict[str, list[Losing]]:
    """By id of each accepted request of a round, an answer of each class that lost, in the order of
    rank_losing. Requests that nobody voted on, or all answers of which agree, are left out.

    Example:
        losing_answers(past, 1)
        {"q_3b1f…": [Losing('<tool_call>…', 1, "'4' is a string, not an integer", "$[0]…")]}
    """
    sql = """
        with fault as (
          select round, query_id, subject, min_by(message, rule) as message,
                 min_by(path, rule) as path
          from verdict join latest_judgement using (round, judgement)
          where severity = 'reject' and starts_with(subject, 'sample:') and round = $number
          group by 1, 2, 3
        )
        select query_id, vote.winner, vote.classes_json, g.sample_index, g.text,
               coalesce(fault.message, ''), coalesce(fault.path, ''),
               coalesce(g.sampling_json ->> 'form', 'own')
        from accepted
        join latest_vote as vote using (round, query_id)
        join generation as g using (round, query_id)
        left join fault on fault.query_id = g.query_id
          and fault.subject = 'sample:' || g.sample_index
        where round = $number and vote.winner is not null
          and g.stage = 'calls' and g.finish_reason in ('stop', 'length')
        order by query_id, g.sample_index
        """
    found: dict[str, list[Losing]] = {}
    rows = past.query(sql, {"number": number}).rows
    for (query_id, winner, classes_json), group in groupby(rows, key=lambda row: row[:3]):
        answers = {row[3]: (str(row[4]), str(row[5]), str(row[6]), row[7]) for row in group}
        broken = [place for place, (_, message, _, _) in answers.items() if message]
        classes: list[int] = json.loads(classes_json)
        ranked = rank_losing(classes, winner, answers, broken)
        if ranked:
            votes = Counter(classes)
            found[query_id] = [
                Losing(text, votes[classes[place]], message, path, form)
                for place in ranked
                for text, message, path, form in [answers[place]]
            ]
    return found


def rank_losing(
    classes: Sequence[int], winner: int, places: Iterable[int], broken: Iterable[int]
) -> list[int]:
    """The first answer of each class but the winner's, by their places among the samples.

    Those that a rule rejects come first, then those with more votes: an answer that is certainly
    wrong teaches more than one that was outvoted, and one that the model gives often more than a
    slip. `places` are the answers that there are, ascending; those after the ones that were voted
    on, which were asked for later, are not of the vote that counts.
    """
    first: dict[int, int] = {}
    for place in places:
        if place < len(classes):
            first.setdefault(classes[place], place)
    first.pop(classes[winner], None)
    votes, fallen = Counter(classes), set(broken)
    return sorted(first.values(), key=lambda p: (p not in fallen, -votes[classes[p]], p))
