"""Calls judged a second on one core: factory.judge beside jsonschema alone.

    python -m bench.checker

Seal-Tools dev (1,804 gold calls), each judged against its own tool. `jsonschema.validate` compiles
the schema at every call; the cached `is_valid` says yes or no and nothing else; factory.judge says
rule, reason, JSON path and message, and from text it also reads the answer. Seconds are CPU time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict

import jsonschema
from jsonschema import Draft202012Validator

from bench.gold import DATA, read_seal_tools
from bench.table import best_seconds, print_machine, print_table
from factory.domain.records import Tool
from factory.judge.cases import render_calls
from factory.judge.parsed import ParsedCalls
from factory.judge.rulebook import Rulebook
from factory.judge.verdicts import check_calls
from factory.tools.schema import arguments_schema
from factory.workspace.folder import Workspace, shipped_root


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15, help="runs, of which the best counts")
    repeats = parser.parse_args().repeats
    print_machine("jsonschema")
    gold = list(read_seal_tools())
    if not gold:
        print(f"Seal-Tools is not in {DATA}")
        return
    rulebook = Rulebook.load(Workspace(shipped_root()))
    calls = [one.call for one in gold]
    tools = [one.tools[one.call.name] for one in gold]
    schemas = [arguments_schema(tool.arguments) for tool in tools]
    compiled = [Draft202012Validator(schema) for schema in schemas]
    plain = [(one, call.arguments) for one, call in zip(compiled, calls, strict=True)]
    pairs = list(zip(calls, ([tool] for tool in tools), strict=True))
    parsed = [(ParsedCalls(text="", calls=(call,)), tools) for call, tools in pairs]
    texts = [(render_calls([asdict(call)]), tools) for call, tools in pairs]

    def validate_each() -> None:
        for call, schema in zip(calls, schemas, strict=True):
            with suppress(jsonschema.ValidationError):
                jsonschema.validate(call.arguments, schema, Draft202012Validator)

    def check(answers: list[tuple[ParsedCalls, list[Tool]]] | list[tuple[str, list[Tool]]]) -> None:
        for answer, tools in answers:
            check_calls(answer, tools, rulebook=rulebook)

    ways: dict[str, Callable[[], object]] = {
        "jsonschema.validate, each call": validate_each,
        "cached is_valid, yes or no": lambda: [v.is_valid(a) for v, a in plain],
        "factory.judge, calls read": lambda: check(parsed),
        "factory.judge, from text": lambda: check(texts),
    }
    seconds = {
        name: best_seconds(run, 1 if "each call" in name else repeats, time.process_time)
        for name, run in ways.items()
    }
    bare = seconds["cached is_valid, yes or no"]
    rows = [(name, len(calls) / taken, bare / taken) for name, taken in seconds.items()]
    title = f"calls judged a second, one core, Seal-Tools dev ({len(calls)} calls)"
    print_table(title, ("way", "calls/s", "ratio"), rows)


if __name__ == "__main__":
    main()
