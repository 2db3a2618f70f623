"""Labelled requests and the documents to find: ToolBench's folder, or JSON lines of one's own.

A line `{"query": "…", "tools": ["find_hotel"]}` names tools by name or id; a name that several
services have is written `service&&name`. A label that cannot be used is a BadLine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from factory.domain.canon import derive_seed
from factory.domain.failures import InputError
from factory.domain.records import Tool
from factory.score.toolbench.data import (
    ApiDocument,
    ApiKey,
    ToolBench,
    ToolQuery,
    has_training,
    is_toolbench,
    load_documents,
    load_toolbench,
    to_tool,
)
from factory.tools.rowfiles import JSON_SUFFIXES, BadLine
from factory.tools.sources import read_tools, read_values

FROM_THE_TEST = (
    "there are only requests of a test: two thirds of them are learnt and a third is asked, which "
    "is not how the papers measure. Give --train FILE, or the folder of all of ToolBench"
)

Documents = Mapping[ApiKey, tuple[ApiDocument, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """What is learnt and what is asked. Example: load_labels(Path("data/toolbench"))."""

    bench: ToolBench
    """All documents, and the requests that are asked."""
    learnt: tuple[ToolQuery, ...] | None = None
    """The requests to learn; None: some of those that are asked are learnt instead."""
    notes: tuple[str, ...] = ()
    bad: tuple[BadLine, ...] = ()


def load_labels(source: Path, train: Sequence[Path] = (), test: Sequence[Path] = ()) -> Labels:
    """Documents and requests.

    Args:
        source: ToolBench's folder, or tool documents: a file, or a folder of files.
        train: files of requests to learn, in place of the folder's own.
        test: files of requests to ask, in place of the folder's own.

    Raises:
        InputError: nothing to ask, to learn or to find; a file cannot be read.
    """
    published = source.is_dir() and is_toolbench(source)
    learnt: tuple[ToolQuery, ...] | None = None
    bad: list[BadLine] = []
    notes: list[str] = []
    if published and not test:
        bench = load_toolbench(source)
    elif published:
        bench = ToolBench(queries=(), documents=load_documents(source))
    elif test:
        documents, bad = _read_documents(source)
        bench = ToolBench(queries=(), documents=documents)
    else:
        raise InputError(
            "these are documents without requests to ask",
            where=str(source),
            remedy='name a file of lines {"query": "…", "tools": ["…"]}: --test FILE',
        )
    notes += bench.notes
    if published and not train and has_training(source):
        taught = load_toolbench(source, split="train")
        documents = {**bench.documents, **_others(taught.documents, bench.documents)}
        bench, learnt = replace(bench, documents=documents), taught.queries
        notes += taught.notes
        bad += taught.bad
    names = _Names(bench.documents) if train or test else None
    if test and names:
        asked, wrong = names.read_all(test)
        bench, bad = replace(bench, queries=asked), [*bad, *wrong]
        _refuse_none(asked, "ask", test, wrong)
    if train and names:
        learnt, wrong = names.read_all(train)
        bad += wrong
        _refuse_none(learnt, "learn", train, wrong)
    if learnt is None:
        notes.append(FROM_THE_TEST)
    return Labels(bench=bench, learnt=learnt, notes=tuple(dict.fromkeys(notes)), bad=tuple(bad))


def fewer(labels: Labels, asked: int = 0, learnt: int = 0) -> Labels:
    """At most `asked` requests of each split and `learnt` to learn; 0 is all.

    Which ones a hash of their ids says, so that more of them hold fewer.
    """
    queries, taught = labels.bench.queries, labels.learnt
    if asked:
        seen: Counter[str] = Counter()
        kept = set()
        for query in sorted(queries, key=lambda query: derive_seed("asked", query.id)):
            seen[query.split] += 1
            if seen[query.split] <= asked:
                kept.add(query.id)
        queries = tuple(query for query in queries if query.id in kept)
    if learnt and taught is not None:
        order = sorted(taught, key=lambda query: derive_seed("learnt", query.id))
        kept = {query.id for query in order[:learnt]}
        taught = tuple(query for query in taught if query.id in kept)
    return replace(labels, bench=replace(labels.bench, queries=queries), learnt=taught)


def _others(documents: Documents, known: Documents) -> dict[ApiKey, tuple[ApiDocument, ...]]:
    return {key: several for key, several in documents.items() if key not in known}


def _refuse_none(
    queries: Sequence[ToolQuery], verb: str, files: Sequence[Path], bad: Sequence[BadLine]
) -> None:
    if not queries:
        first = f": {bad[0].cause} ({bad[0].where})" if bad else ""
        raise InputError(
            f"no request to {verb}{first}",
            where=", ".join(map(str, files)),
            remedy='a line is {"query": "…", "tools": ["…"]}, with names or ids of the documents',
        )


def _read_documents(source: Path) -> tuple[dict[ApiKey, tuple[ApiDocument, ...]], list[BadLine]]:
    """The tools of a file, or of a folder's files, each by a key of its own."""
    files = [source]
    if source.is_dir():
        files = sorted(path for path in source.rglob("*") if path.suffix.lower() in JSON_SUFFIXES)
    if not files:
        raise InputError(
            "no tool documents are here",
            where=str(source),
            remedy="give a file or folder of JSON lines, or ToolBench's folder",
        )
    imported = [read_tools(file) for file in files]
    tools = {tool.id: tool for each in imported for tool in each.items}
    plain = Counter(_key(tool) for tool in tools.values())
    documents: dict[ApiKey, tuple[ApiDocument, ...]] = {}
    for tool in tools.values():
        key = _key(tool)
        if plain[key] > 1:
            key = ApiKey(key.tool, f"{key.api} ({tool.id})")
        documents[key] = (ApiDocument(key=key, document=tool.document),)
    return documents, [line for each in imported for line in each.bad]


def _key(tool: Tool) -> ApiKey:
    return ApiKey(str(tool.document.get("tool_name", "")), tool.name)


class _Names:
    """The APIs that a label may name, by each way to write one."""

    def __init__(self, documents: Documents) -> None:
        self._keys: dict[str, dict[ApiKey, None]] = {}
        for key, several in documents.items():
            made = [tool for document in several if (tool := to_tool(document))]
            service = {f"{key.tool}&&{tool.name}" for tool in made}
            ids, names = {tool.id for tool in made}, {tool.name for tool in made}
            for name in {key.api, f"{key.tool}&&{key.api}"} | service | ids | names:
                self._keys.setdefault(name, {})[key] = None

    def read_all(self, files: Sequence[Path]) -> tuple[tuple[ToolQuery, ...], list[BadLine]]:
        """The requests of the files, and the lines that cannot be used."""
        queries: list[ToolQuery] = []
        bad: list[BadLine] = []
        several = len({file.name for file in files}) < len(files)
        for file in files:
            for where, value in read_values(file, bad):
                place = f"{file.parent}/{where}" if several else where
                try:
                    queries.append(self._read(value, place, file.stem))
                except ValueError as error:
                    bad.append(BadLine(where=where, cause=str(error)))
        return tuple(queries), bad

    def _read(self, value: object, where: str, split: str) -> ToolQuery:
        if not isinstance(value, dict):
            raise ValueError(f"a labelled request is an object, not a {type(value).__name__}")
        text, tools = value.get("query"), value.get("tools", value.get("tool"))
        if not isinstance(text, str) or not text.strip():
            raise ValueError("a labelled request needs a text under 'query'")
        tools = [tools] if isinstance(tools, str) else tools
        if not isinstance(tools, list) or not tools:
            raise ValueError("a labelled request needs names or ids of tools under 'tools'")
        return ToolQuery(
            id=where,
            split=str(value.get("split") or split),
            text=text.strip(),
            relevant=frozenset(self._find(tool) for tool in tools),
        )

    def _find(self, name: object) -> ApiKey:
        if isinstance(name, list) and len(name) == 2:
            name = "&&".join(map(str, name))
        keys = list(self._keys.get(name, {})) if isinstance(name, str) else []
        if not keys:
            raise ValueError(f"no document describes the tool {name!r}")
        if len(keys) > 1:
            known = ", ".join("&&".join(filter(None, key)) for key in keys[:3])
            raise ValueError(f"{len(keys)} tools are called {name!r}, such as {known}: give its id")
        return keys[0]
