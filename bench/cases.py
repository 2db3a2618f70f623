"""`python -m bench.cases [FOLDER]`: small cases from what people meet, expected beside got.

FOLDER (`../shared/cases`) holds tool documents, calls, answers, pairs of requests, votes, files of
requests and of labelled rows. Each case is a line; one that comes out otherwise is marked, and the
exit code is 1. `--failed` prints those alone.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from factory.domain.canon import query_id
from factory.domain.failures import FactoryError
from factory.domain.jsontext import show
from factory.domain.records import Call, Candidate, HeldOut, Past, PastQuery, Query, Tool
from factory.judge.answers import Syntax
from factory.judge.calls import judge_call
from factory.judge.keys import make_key
from factory.judge.rulebook import Rulebook
from factory.judge.sets import judge_round
from factory.score.calls.decode import decode
from factory.score.labelled import read_labelled
from factory.tools.sources import read_queries, read_tools
from factory.workspace.folder import Workspace, shipped_root

SHARED = Path("../shared/cases")


class Case(NamedTuple):
    """One case. Example: Case("votes", "-5 | 5", "apart", "apart")."""

    kind: str
    text: str
    expected: object
    got: object

    @property
    def is_right(self) -> bool:
        """Whether it came out as it must."""
        return self.expected == self.got


def find_cases(folder: Path) -> Iterator[Case]:
    """Every case of the folder; files that are not there have none."""
    for read in (_calls, _documents, _answers, _pairs, _votes, _requests, _labelled):
        yield from read(folder)


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    if file.is_file():
        for line in file.read_text(encoding="utf-8").split("\n"):
            if line.strip():
                yield json.loads(line)


def _calls(folder: Path) -> Iterator[Case]:
    for row in _rows(folder / "calls.jsonl"):
        read = read_tools(folder / row["tools"])
        tools = {tool.name: tool for tool in read.items}
        call = Call(name=row["call"]["name"], arguments=row["call"]["arguments"])
        got = not [*judge_call(call, 0, tools)]
        text = f"{row['tools']}: {show(row['call'], 100)} ({row['why']})"
        yield Case("calls", text, row["valid"], got)


OPENAPI = {"getCake": (["id", "lang"], ["id"]), "putCake": (["id", "name", "price"], None)}
"""Arguments of each tool of c07_openapi.json, and the required ones where it is told."""


def _documents(folder: Path) -> Iterator[Case]:
    for file in sorted((folder / "documents").glob("*")):
        read = read_tools(file)
        bad = [line.cause for line in read.bad]
        yield Case("documents", f"{file.name}: bad lines", [], bad)
        if file.name != "c07_openapi.json":
            continue
        yield Case("documents", f"{file.name}: tools", sorted(OPENAPI), _names(read.items))
        for tool in read.items:
            names, required = OPENAPI[tool.name]
            text = f"{file.name}: {tool.name}"
            yield Case("documents", text, names, sorted(tool.arguments["properties"]))
            if required is not None:
                yield Case("documents", text, required, tool.arguments.get("required"))


def _names(tools: tuple[Tool, ...]) -> list[str]:
    return sorted(tool.name for tool in tools)


def _answers(folder: Path) -> Iterator[Case]:
    for row in _rows(folder / "answers.jsonl"):
        expected = [row["read"], row.get("calls") or []]
        name = row.get("note", show(row["text"], 80))
        yield Case("answers", name, expected, _read(row["text"], "auto"))
        if _HERMES.search(row["text"]):
            yield Case("answers", f"{name} (hermes)", expected, _read(row["text"], "hermes"))


_HERMES = re.compile(r"<tool_call>\s*\{")


def _read(text: str, syntax: Syntax) -> list[object]:
    parsed = decode(text, syntax)
    if parsed.calls:
        return ["calls", [[call.name, call.arguments] for call in parsed.calls]]
    if parsed.failure in ("", "no_tool_call"):
        return ["abstention", []]
    return ["truncated" if parsed.failure == "truncated" else "unreadable", []]


class _Item(NamedTuple):
    id: str
    query: str
    functions: tuple[()] = ()
    documents: tuple[()] = ()


class _Exam(NamedTuple):
    name: str
    items: tuple[_Item, ...]


def _pairs(folder: Path) -> Iterator[Case]:
    rules = Rulebook.load(Workspace(shipped_root())).rules
    sets = {name: rule for name, rule in rules.items() if rule.sql}

    def same(one: str, other: str) -> bool:
        """Whether a rule takes the second for the first once more: in a round, history, exam."""
        asked = [
            Candidate(query=Query(id=query_id(text), text=text, source="case"))
            for text in (one, other)
        ]
        past = Past(queries=[PastQuery(round_number=1, id="q_first", text=one)])
        exam: list[HeldOut] = [_Exam("exam", (_Item("1", one),))]
        found = [
            judge_round(sets, asked, Past(), []),
            judge_round(sets, asked[1:], past, []),
            judge_round(sets, asked[1:], Past(), exam, stage="draw"),
        ]
        return any(asked[1].query.id in each for each in found)

    for row in _rows(folder / "pairs.jsonl"):
        got = same(row["a"], row["b"]) or same(row["b"], row["a"])
        yield Case("pairs", f"{row['a']} | {row['b']}", row["same"], got)


def _votes(folder: Path) -> Iterator[Case]:
    for row in _rows(folder / "votes.jsonl"):
        calls = [Call(name="f", arguments={"x": row[name]}) for name in ("a", "b")]
        keys = [
            {make_key([call], {}, loose=loose).text for call in calls} for loose in (False, True)
        ]
        got = any(len(each) == 1 for each in keys)
        yield Case("votes", f"{row['a']!r} | {row['b']!r}", row["one_class"], got)


REQUESTS = {
    "q01_alpaca.json": (3, 0),
    "q02_openai_chat.jsonl": (1, 0),
    "q05_otel.jsonl": (1, 0),
    "q08.jsonl.gz": None,
    "q09_utf16le_nobom.txt": (0, 1),
    "q11.parquet": None,
    "q12_ls.txt": (3, 0),
    "q13_pretty.jsonl": (2, 0),
}
"""Requests and bad lines of each file; None: read, or named for what it is."""
LABELLED = {
    "e01_parts.jsonl": (1, 0),
    "e02_none.jsonl": (1, 0),
    "e04_u2028.jsonl": (2, 0),
    "e05_nullable.jsonl": None,
    "e07_nullable3.jsonl": None,
    "e09_samequestion.jsonl": (3, 0),
    "e17_number.jsonl": None,
}
"""Items and bad lines of each file; None: at least an item."""


def _requests(folder: Path) -> Iterator[Case]:
    def count(file: Path) -> tuple[int, int]:
        read = read_queries(file)
        return len(read.items), len(read.bad)

    for file in sorted((folder / "requests").glob("*")):
        got = _counted(count, file)
        expected: object = REQUESTS.get(file.name)
        if file.name == "q09_utf16le_nobom.txt" and isinstance(got, str):
            expected, got = "named", ("named" if "UTF-16" in got else got)
        elif expected is None:
            expected = got if isinstance(got, str) or got[0] else (1, 0)
        yield Case("requests", file.name, expected, got)


def _labelled(folder: Path) -> Iterator[Case]:
    def count(file: Path) -> tuple[int, int]:
        good, bad = read_labelled(file)
        return len(good), len(bad)

    for file in sorted((folder / "labelled").glob("*")):
        got = _counted(count, file)
        expected = LABELLED.get(file.name) or (got if got[0] else "an item")
        yield Case("labelled", file.name, expected, got)


def _counted(count: Callable[[Path], tuple[int, int]], file: Path) -> tuple[int, int] | str:
    """Read and bad rows, or what is said of the file."""
    try:
        return count(file)
    except FactoryError as error:
        return error.what


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.cases")
    parser.add_argument("folder", type=Path, nargs="?", default=SHARED)
    parser.add_argument("--failed", action="store_true", help="only cases that come out otherwise")
    options = parser.parse_args()
    if not options.folder.is_dir():
        print(f"there are no cases in {options.folder}", file=sys.stderr)
        return 2
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for case in find_cases(options.folder):
        total[case.kind] += 1
        right[case.kind] += case.is_right
        if not (options.failed and case.is_right):
            mark = "ok " if case.is_right else "NOT"
            print(f"{mark} {case.kind:9} {show(case.text, 110)}")
            print(f"      expected {show(case.expected, 200)}   got {show(case.got, 200)}")
    for kind, number in total.items():
        print(f"{kind:9} {right[kind]} of {number}")
    print(f"all       {right.total()} of {total.total()}")
    return int(right != total)


if __name__ == "__main__":
    sys.exit(main())
