"""Rules over many samples: one SELECT each, on a private, locked, in-memory DuckDB in a child.

A rule `rules/round/<name>.sql` returns one row a finding: `query_id` of the candidate, `detail`
(the verdict's message), and where it helps `subject` and `path`. It reads the tables that
factory.judge.bench_child makes; only those that some rule names are filled. `$name` in it is a
limit of `<name>.toml`. The connection reaches no file, extension or setting, and is bounded in
memory, threads and time.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from typing import Any

import numpy as np
import pyarrow as pa

from factory.domain.canon import canonical_json, digest
from factory.domain.failures import ChildError, ContentError, FactoryError
from factory.domain.jsontext import walk
from factory.domain.plaintext import printable, storable
from factory.domain.records import Call, Candidate, HeldOut, Past, PastQuery, Tool, Verdict
from factory.judge.bench import Bench, Unfinished
from factory.judge.bench_child import TABLES
from factory.judge.keys import make_key
from factory.judge.rulebook import Rule, RuleStage
from factory.judge.similarity import Lists, describe
from factory.judge.wording import fold_wording, fold_words, read_sense
from factory.tools.words import read_type

TIMEOUT_SECONDS = 300.0
"""The longest that one rule may run."""
MAX_FINDINGS = 16
"""Findings of one rule, for each candidate at most on average; more is a runaway join."""
MESSAGE_CHARS = 400
"""Longest message kept."""


def judge_round(
    rules: Mapping[str, Rule],
    candidates: Sequence[Candidate],
    past: Past,
    benchmarks: Iterable[HeldOut],
    *,
    stage: RuleStage = "round",
    timeout_seconds: float = TIMEOUT_SECONDS,
    bench: Bench | None = None,
) -> dict[str, list[Verdict]]:
    """Verdicts of the active set rules of a stage, by query id; queries without any are left out.

    A candidate's verdicts are in the order of the rules' ids. The same input gives the same
    verdicts. `bench` is one to use once more, where there are many rounds.
    Raises ContentError with the rule's file where one cannot be run to its end.
    """
    chosen = [
        rule
        for _, rule in sorted(rules.items())
        if rule.sql and rule.active and rule.stage == stage
    ]
    found: dict[str, list[Verdict]] = {candidate.query.id: [] for candidate in candidates}
    if chosen and candidates:
        names = {word for rule in chosen for word in re.findall(r"\w+", rule.sql.lower())}
        tables = _tables(names & TABLES.keys(), candidates, past, benchmarks)
        with nullcontext(bench) if bench else closing(Bench()) as used:
            for query_id, verdict in _run(used, tables, chosen, found.keys(), timeout_seconds):
                found[query_id].append(verdict)
    return {query_id: verdicts for query_id, verdicts in found.items() if verdicts}


def _tables(
    names: set[str],
    candidates: Sequence[Candidate],
    past: Past,
    benchmarks: Iterable[HeldOut],
) -> dict[str, pa.Table]:
    """The rows of the tables that are named."""
    questions = list(benchmarks) if names & {"benchmark", "benchmark_tool"} else []
    makers = {
        "candidate": lambda: _candidate_rows(candidates, len(past.queries)),
        "history": lambda: _history_rows(past.queries),
        "candidate_tool": lambda: _candidate_tool_rows(candidates),
        "tool": lambda: _tool_rows(_distinct_tools(candidates, past)),
        "benchmark": lambda: _benchmark_rows(questions),
        "benchmark_tool": lambda: _benchmark_tool_rows(questions),
    }
    return {name: makers[name]() for name in sorted(names)}


def _run(
    bench: Bench,
    tables: Mapping[str, pa.Table],
    rules: Sequence[Rule],
    known: Collection[str],
    timeout_seconds: float,
) -> Iterator[tuple[str, Verdict]]:
    """The rules' findings, of each sorted. Raises ContentError, or ChildError."""
    most, left = MAX_FINDINGS * len(known), list(rules)
    try:
        for rule, columns, rows in bench.run(tables, rules, most, timeout_seconds):
            yield from _read(rule, columns, rows, known, most)
            left.pop(0)
    except Unfinished as error:
        kind = ChildError if error.was_ended else ContentError
        raise _refuse(left[0], str(error), error.remedy, kind) from error


def _read(
    rule: Rule, columns: list[str], rows: list[list[str]], known: Collection[str], most: int
) -> Iterator[tuple[str, Verdict]]:
    """A rule's findings in its answer. Raises ContentError."""
    unknown = sorted({"query_id", "detail"} ^ set(columns) - {"subject", "path"})
    if unknown:
        message = f"returns the columns {', '.join(columns)}"
        raise _refuse(rule, message, "name them query_id, detail and, if wanted, subject and path")
    if len(rows) > most:
        raise _refuse(rule, f"has more than {most} findings", "return one row a finding")
    for row in rows:
        finding = {"subject": "query", "path": "$"} | dict(zip(columns, row, strict=True))
        if finding["query_id"] not in known:
            message = f"finds {finding['query_id']!r}, which is no candidate"
            raise _refuse(rule, message, "return query_id from the table candidate")
        yield finding["query_id"], _make_verdict(rule, finding)


def _make_verdict(rule: Rule, finding: Mapping[str, str]) -> Verdict:
    message = printable(finding["detail"] or rule.why)
    return Verdict(
        subject=finding["subject"],
        rule=rule.id,
        reason=rule.reason,
        severity=rule.severity,
        path=finding["path"],
        message=message if len(message) <= MESSAGE_CHARS else message[: MESSAGE_CHARS - 1] + "…",
    )


def _refuse(
    rule: Rule, message: str, remedy: str, kind: type[FactoryError] = ContentError
) -> FactoryError:
    return kind(
        f"rule {rule.id} {message}",
        where=rule.sql_source,
        remedy=f'{remedy}; or switch it off: "{rule.id}" = "off" under [rules] in factory.toml',
    )


# Rows of the tables ----------------------------------------------------------------------------


def _candidate_rows(candidates: Sequence[Candidate], num_before: int) -> pa.Table:
    texts = [candidate.query.text for candidate in candidates]
    return _table(
        place=range(num_before, num_before + len(candidates)),
        query_id=[candidate.query.id for candidate in candidates],
        wording=[
            _mask(text, candidate.calls) for text, candidate in zip(texts, candidates, strict=True)
        ],
        calls_json=[
            canonical_json([{"name": c.name, "arguments": c.arguments} for c in candidate.calls])
            for candidate in candidates
        ],
        calls_key=[_calls_key(candidate.calls) for candidate in candidates],
        **_query_columns(texts),
    )


def _history_rows(queries: Sequence[PastQuery]) -> pa.Table:
    return _table(
        place=range(len(queries)),
        round=[query.round_number for query in queries],
        query_id=[query.id for query in queries],
        calls_key=[_calls_key(query.calls) for query in queries],
        **_query_columns([query.text for query in queries]),
    )


def _calls_key(calls: Sequence[Call]) -> str | None:
    """What calls say, as the loose key of votes does; None where there is no call."""
    return make_key(calls, {}, loose=True).text if calls else None


def _candidate_tool_rows(candidates: Sequence[Candidate]) -> pa.Table:
    shown = [(candidate, tool) for candidate in candidates for tool in candidate.tools]
    return _table(
        query_id=[candidate.query.id for candidate, _ in shown],
        tool_id=[tool.id for _, tool in shown],
        called=[tool.name in {call.name for call in each.calls} for each, tool in shown],
    )


def _distinct_tools(candidates: Sequence[Candidate], past: Past) -> list[Tool]:
    tools = {tool.id: tool for tool in past.tools}
    for candidate in candidates:
        for tool in candidate.tools:
            tools.setdefault(tool.id, tool)
    return list(tools.values())


def _tool_rows(tools: Sequence[Tool]) -> pa.Table:
    columns = _text_columns([str(tool.document.get("description", "")) for tool in tools])
    return _table(
        tool_id=[tool.id for tool in tools],
        place=range(len(tools)),
        description=columns["query"],
        document_json=[canonical_json(tool.document) for tool in tools],
        shingles=columns["shingles"],
        bands=columns["bands"],
        **_signatures([tool.document for tool in tools]),
    )


def _benchmark_rows(benchmarks: Sequence[HeldOut]) -> pa.Table:
    items = [(each, item) for each in benchmarks for item in each.items]
    shas = {each.name: _sha(each) for each in benchmarks}
    return _table(
        item=[f"{each.name}/{item.id}" for each, item in items],
        sha=[shas[each.name] for each, _ in items],
        **_query_columns([item.query for _, item in items]),
    )


def _benchmark_tool_rows(benchmarks: Sequence[HeldOut]) -> pa.Table:
    offered = [
        (each, item, x) for each in benchmarks for item in each.items for x in item.documents
    ]
    shas = {each.name: _sha(each) for each in benchmarks}
    return _table(
        item=[f"{each.name}/{item.id}" for each, item, _ in offered],
        sha=[shas[each.name] for each, _, _ in offered],
        **_signatures([document for _, _, document in offered]),
    )


def _sha(benchmark: HeldOut) -> str:
    return digest(canonical_json([[i.id, i.query, i.functions] for i in benchmark.items]))


def _signatures(documents: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Columns name, parameters and signature (A43)."""
    names = [_fold_name(str(document.get("name", ""))) for document in documents]
    kinds = [
        sorted((str(name), _kind(part)) for name, part in _properties(document).items())
        for document in documents
    ]
    return {
        "name": names,
        "parameters": [[name for name, _ in each] for each in kinds],
        "signature": [
            f"{name}({', '.join(f'{key}: {kind}' for key, kind in each)})"
            for name, each in zip(names, kinds, strict=True)
        ],
    }


def _properties(document: Mapping[str, Any]) -> Mapping[str, Any]:
    arguments = document.get("arguments")
    properties = arguments.get("properties") if isinstance(arguments, dict) else None
    return properties if isinstance(properties, dict) else {}


def _kind(schema: object) -> str:
    """A parameter's type in JSON Schema's word, whatever its dialect."""
    word = schema.get("type") if isinstance(schema, dict) else None
    kind = (read_type(word) or {}).get("type", "any")
    return "|".join(map(str, kind)) if isinstance(kind, list) else str(kind)


def _fold_name(name: str) -> str:
    """A tool's name without its spelling: `getWeather`, `get-weather` and `Get_Weather` are one."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[^\W_A-Z]+|\w", name.replace("_", " "))
    return "_".join(part.lower() for part in parts) or name


def _mask(text: str, calls: Iterable[Call]) -> str:
    """The wording of a text: its words, numbers and the calls' values masked."""
    values = {
        fold_wording(str(leaf))
        for call in calls
        for _, leaf in walk(call.arguments)
        if leaf is not None and not isinstance(leaf, dict | list | bool)
    }
    words = fold_wording(text)
    longest = sorted(filter(None, values), key=lambda value: (-len(value), value))
    if longest:
        words = re.sub(rf"\b(?:{'|'.join(map(re.escape, longest))})\b", "_", words)
    return re.sub(r"\b\d+\b", "_", words)


def _query_columns(texts: Sequence[str]) -> dict[str, Any]:
    """Those of _text_columns, and sense."""
    columns = _text_columns(texts)
    senses = [read_sense(str(storable(words)))._asdict() for words in columns["words"]]
    columns["sense"] = pa.array(senses, _SENSE)
    return columns


def _text_columns(texts: Sequence[str]) -> dict[str, Any]:
    """Columns query, words, shingles, bands and grams."""
    words = [fold_words(text) for text in texts]
    features = describe(words)
    return {
        "query": texts,
        "words": words,
        "shingles": _list_column(features.shingles, "uint32"),
        "bands": _list_column(features.bands, "uint64"),
        "grams": _list_column(features.grams, "uint64"),
    }


_SENSE = pa.struct(
    {
        "marks": pa.list_(pa.string()),
        "signs": pa.list_(pa.string()),
        "units": pa.list_(pa.string()),
        "heard": pa.list_(pa.string()),
    }
)


def _list_column(lists: Lists, dtype: str) -> pa.Array:
    ends = np.concatenate(([0], lists.ends)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(lists.values.astype(dtype)))


def _table(**columns: Any) -> pa.Table:
    return pa.table(
        {
            name: column
            if isinstance(column, pa.Array)
            else pa.array([storable(value) for value in column])
            for name, column in columns.items()
        }
    )
