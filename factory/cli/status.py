"""status: the rounds so far in the terminal, with the course of what they are made for."""

from __future__ import annotations

from factory.cli.card import sparkline
from factory.cli.chosen import describe_best, find_best, find_next
from factory.cli.opening import open_ledger
from factory.cli.sql import Json
from factory.cli.terminal import escape, note, out, print_table, write_json
from factory.domain.failures import FactoryError
from factory.ledger import history
from factory.ledger.database import Source
from factory.report.panel import Record, read_panel

STATUS_ROUNDS = 20
"""Rounds in the table; the sparklines cover TREND_ROUNDS."""
TREND_ROUNDS = 1000
SPARK_WIDTH = 32


def status(as_json: Json = False) -> None:
    """Rounds so far: yield, scores and loss with their course, and what is running.

    factory status
    """
    with open_ledger().read() as past:
        last = history.last_round(past)
        bounds = {"round": last, "first": max(1, last - TREND_ROUNDS + 1)}
        rounds = past.query(read_panel("rounds").fill(bounds)).records()
        scores = past.query(read_panel("score-history").fill(bounds)).records()
        following = _describe_next(past) if rounds and not as_json else ""
    if as_json:
        for each in rounds:
            values = {s["benchmark"]: s["value"] for s in scores if s["round"] == each["round"]}
            write_json({**each, "scores": values})
    elif rounds:
        _print_rounds(rounds[-STATUS_ROUNDS:], scores)
        _print_courses(rounds, scores)
        if following:
            out(following)
    else:
        out("no round yet: `factory round --n 64` starts one")


def _print_rounds(rounds: list[Record], scores: list[Record]) -> None:
    names = _benchmarks(scores)
    found = {(each["round"], each["benchmark"]): each["value"] for each in scores}
    print_table(
        ("round", "model", "outcome", "drawn", "accepted", *names, "loss", "time"),
        [
            (
                each["round"],
                each["model"] or each["parent"],
                each["outcome"],
                each["drawn"],
                f"{each['accepted']} ({_number(each['acceptance'], '.0%')})",
                *(_number(found.get((each["round"], name)), ".1f") for name in names),
                _number(each["loss"], ".3f"),
                _number(each["seconds"], ".0f", " s"),
            )
            for each in rounds
        ],
    )


def _print_courses(rounds: list[Record], scores: list[Record]) -> None:
    """A sparkline of each measure that has two values at least; scores begin with the base's."""
    courses = {"accepted %": [100 * (each["acceptance"] or 0.0) for each in rounds]}
    for name in _benchmarks(scores):
        courses[name] = [each["value"] for each in scores if each["benchmark"] == name]
    courses["loss"] = [each["loss"] for each in rounds if each["loss"] is not None]
    out()
    for name, values in courses.items():
        if len(values) > 1:
            spark = sparkline(values, SPARK_WIDTH)
            ends = f"{_number(values[0], '.3g')} → {_number(values[-1], '.3g')}"
            out(f"{escape(name):<12} {spark}  {ends}")


def _benchmarks(scores: list[Record]) -> list[str]:
    return list(dict.fromkeys(each["benchmark"] for each in scores))


def _describe_next(past: Source) -> str:
    """What `factory round` goes on with: the open round, else the checkpoint it starts from; and
    the best checkpoint, which other commands take.
    """
    try:
        lines = [f"best  {describe_best(find_best(past))}"]
        following = find_next(past)
        next_line = f"next  {escape(following.id)}  {escape(following.path)}"
    except FactoryError as error:
        note(f"{error.what}: {error.where}")
        lines, next_line = [], ""
    if (this := history.open_round(past)) is not None:
        pending = len(history.pending_queries(past, this.number))
        next_line = (
            f"round {this.number} is open: {pending} queries without a sample; done: "
            f"{', '.join(sorted(this.stages_done))}. `factory round` continues it."
        )
    return "".join(f"\n{line}" for line in (*lines, next_line) if line)


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "–" if value is None else f"{value:{form}}{unit}"
