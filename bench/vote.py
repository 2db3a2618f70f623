"""5-sample votes a second on one core, parsing and canonical keys included.

    python -m bench.vote

Ballots are made from Seal-Tools dev (else from the home world): of five answers six in ten repeat
the gold call's text, two in ten say the same with the arguments in another order, two in ten differ
in a value. The second table has five different texts in every ballot, the worst case. A majority of
raw texts, and reading alone, show what canonical keys cost. Seconds are CPU time.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Any

from bench.gold import read_seal_tools
from bench.table import best_seconds, print_machine, print_table
from factory.domain.canon import tool_id
from factory.domain.records import Call, Tool
from factory.judge.cases import render_calls
from factory.judge.reading import parse_calls
from factory.judge.vote import vote
from factory.lab.home.world import fresh_item

Ballot = tuple[list[str], list[Tool]]


def read_calls() -> list[tuple[Call, Tool]]:
    """Gold calls, each with its tool."""
    found = [(gold.call, gold.tools[gold.call.name]) for gold in read_seal_tools()]
    if found:
        return found
    for number in range(2000):
        item = fresh_item(number)
        tools = {one["name"]: Tool(id=tool_id(one), document=one) for one in item.tools}
        call = item.calls[0]
        found.append((Call(name=call["name"], arguments=call["arguments"]), tools[call["name"]]))
    return found


def make_ballot(call: Call, tool: Tool, rng: random.Random, *, distinct: bool) -> Ballot:
    """Five answers to one request."""
    texts: list[str] = []
    for number in count():
        arguments: dict[str, Any] = dict(call.arguments)
        chance = rng.random()
        if chance > 0.6:
            arguments = dict(rng.sample(list(arguments.items()), len(arguments)))
        if chance > 0.8 and arguments:
            arguments[rng.choice(list(arguments))] = rng.choice(["Oslo", "Rome", 4, 2.5])
        text = render_calls([{"name": call.name, "arguments": arguments}])
        if distinct and text in texts:
            text = text.replace(": ", ":" + " " * (number + 2))  # White space changes no JSON.
        texts.append(text)
        if len(texts) == 5:
            return texts, [tool]
    raise AssertionError


def measure(ballots: list[Ballot], repeats: int) -> list[tuple[str, float, float | None]]:
    """Ballots a second for each way of counting, and its ratio to the raw majority."""
    ways: dict[str, Callable[[], object]] = {
        "majority of raw texts": lambda: [Counter(texts).most_common(1) for texts, _ in ballots],
        "reading alone": lambda: [[parse_calls(text) for text in texts] for texts, _ in ballots],
        "factory.judge.vote, from texts": lambda: [vote(texts, tools) for texts, tools in ballots],
    }
    seconds = {name: best_seconds(run, repeats, time.process_time) for name, run in ways.items()}
    naive = seconds["majority of raw texts"]
    return [(name, len(ballots) / taken, naive / taken) for name, taken in seconds.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15, help="runs, of which the best counts")
    repeats = parser.parse_args().repeats
    print_machine()
    calls = read_calls()
    for distinct in (False, True):
        rng = random.Random(0)
        ballots = [make_ballot(call, tool, rng, distinct=distinct) for call, tool in calls]
        num = sum(len(set(texts)) for texts, _ in ballots) / len(ballots)
        agree = sum(vote(texts, tools).votes for texts, tools in ballots) / len(ballots)
        title = f"5-sample votes a second, one core: {num:.1f} different texts, {agree:.1f} agree"
        print_table(title, ("way", "votes/s", "ratio"), measure(ballots, repeats))


if __name__ == "__main__":
    main()
