"""ToolSense: realistic short requests over ToolBench's APIs, by how hard they are.

A line has the request, its complexity and, as `Tool&&API`, the APIs that it needs (`tool`) beside
those that were weighed too (`analyzed_tools`), each with a description.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from factory.domain.failures import InputError
from factory.domain.jsontext import JsonTextError, parse_strict
from factory.score.base import read_text
from factory.score.toolbench.data import (
    ApiDocument,
    ApiKey,
    ToolBench,
    ToolQuery,
    load_documents,
    read_document,
)
from factory.tools.dialects import toolsense_apis
from factory.tools.rowfiles import BadLine

COMPLEXITIES = ("easy", "medium", "hard")
FILE = "realistic_retrieval.jsonl"
"""Its name in ToolSense's folder."""
NO_TOOL = "none of its tools is in the corpus"


@dataclass(frozen=True, slots=True, kw_only=True)
class _SenseRow:
    """A line that can be read."""

    where: str
    query: ToolQuery
    apis: tuple[ApiDocument, ...]
    """What it describes."""


def load_toolsense(
    data: Path, corpus: Path | None, splits: Sequence[str] = (), *, described: bool = True
) -> ToolBench:
    """Its requests over the documents of a corpus; a line that cannot be used is a counted one.

    Args:
        data: the file, or a folder with FILE.
        corpus: corpus.jsonl, or ToolBench's or StableToolBench's folder.
        splits: the wanted COMPLEXITIES; all by default.
        described: search what only the requests' own lines describe too.

    Raises InputError where nothing can be asked or searched.
    """
    if wrong := set(splits) - set(COMPLEXITIES):
        remedy = f"there are {', '.join(COMPLEXITIES)}"
        raise InputError(f"no complexity {min(wrong)!r}", remedy=remedy)
    file = data / FILE if data.is_dir() else data
    rows, bad = _read_rows(file)
    num_lines = len(rows) + len(bad)
    documents = load_documents(corpus) if corpus else {}
    num_corpus = len(documents)
    if described:
        for api in (api for row in rows for api in row.apis):
            documents.setdefault(api.key, (api,))
    queries, num_lost = [], 0
    for row in rows:
        known = row.query.relevant & documents.keys()
        if known:
            queries.append(replace(row.query, relevant=known))
            num_lost += len(row.query.relevant - known)
        else:
            bad.append(BadLine(where=row.where, cause=NO_TOOL))
    notes = _explain(bad, num_lines)
    if not queries:
        raise InputError(
            "no labelled requests of ToolSense here",
            where=str(file),
            remedy=f"give its {FILE}, and a corpus that has its tools; {'; '.join(notes)}",
        )
    if num_lost:
        notes.append(f"{num_lost} relevant APIs have no document and are not asked for")
    if num_own := len(documents) - num_corpus:
        notes.append(f"{num_own} of {len(documents)} APIs are described by the requests alone")
    wanted = [split for split in COMPLEXITIES if split in splits or not splits]
    return ToolBench(
        queries=tuple(q for split in wanted for q in queries if q.split == split),
        documents=documents,
        notes=tuple(notes),
        overall="all",
    )


def _read_rows(file: Path) -> tuple[list[_SenseRow], list[BadLine]]:
    rows, bad = dict[str, _SenseRow](), list[BadLine]()
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        where = f"{file.name}:{number}"
        try:
            if line.strip():
                row = _read_row(parse_strict(line), where, number)
                sample_id = row.query.id.partition("/")[2]
                if sample_id in rows:
                    raise ValueError("a line before has its sample_id")
                rows[sample_id] = row
        except JsonTextError:
            bad.append(BadLine(where=where, cause="not JSON"))
        except ValueError as error:
            bad.append(BadLine(where=where, cause=str(error)))
    return list(rows.values()), bad


def _read_row(value: Any, where: str, number: int) -> _SenseRow:
    """A line's request and documents. Raises ValueError."""
    if not isinstance(value, Mapping) or not isinstance(text := value.get("query"), str):
        raise ValueError("a request is an object with a text under 'query'")
    if (split := value.get("complexity")) not in COMPLEXITIES:
        raise ValueError(f"its complexity is none of {', '.join(COMPLEXITIES)}")
    needed = toolsense_apis({"tool": value.get("tool")})
    return _SenseRow(
        where=where,
        query=ToolQuery(
            id=f"{split}/{value.get('sample_id', number)}",
            split=str(split),
            text=text,
            relevant=frozenset(ApiKey(api["tool_name"], api["api_name"]) for api in needed),
        ),
        apis=tuple(read_document(api, where) for api in toolsense_apis(dict(value))),
    )


def _explain(bad: Sequence[BadLine], num_lines: int) -> list[str]:
    """What was left out, by cause, with the first place of each."""
    places: dict[str, list[str]] = {}
    for line in bad:
        places.setdefault(line.cause, []).append(line.where)
    return [
        f"{len(of)} of {num_lines} lines are left out: {cause} ({of[0]}{', …' * (len(of) > 1)})"
        for cause, of in places.items()
    ]
