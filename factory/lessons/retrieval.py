"""ToolBench's training requests: which request needs which APIs, without the requests of its tests.

A folder as ToolBench lays it out is read whole; a `qrels.train.tsv` (request, 0, document, 1) that
lies elsewhere is read with `train.query.txt` (id, request) and `corpus.tsv` (id, document) beside
it, whatever stands before these names.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from factory.domain.canon import query_id
from factory.domain.failures import InputError
from factory.lessons.conversations import read_documents
from factory.lessons.records import Document, Lesson
from factory.score.toolbench.data import (
    ApiKey,
    ToolBench,
    has_training,
    load_toolbench,
    load_training_split,
)
from factory.tools.rowfiles import BadLine
from factory.tools.sources import request_text

QRELS = "qrels.train.tsv"
_PARTS = frozenset(
    {"retrieval", "instruction", "toolenv", "test_instruction", "test_query_ids"}
    | {"solvable_queries", "corpus.jsonl", *(f"G{number}" for number in (1, 2, 3))}
    | {f"G{number}_query.json" for number in (1, 2, 3)}
)
"""What of its folder is ToolBench's."""


def is_split(path: Path) -> bool:
    """Whether read_retrieval takes a file, or a folder."""
    return has_training(path) if path.is_dir() else path.name.endswith(QRELS)


def is_part(file: Path, folder: Path) -> bool:
    """Whether a file below ToolBench's folder is read with it, or is of its tests."""
    return file.relative_to(folder).parts[0] in _PARTS


def read_retrieval(path: Path, bad: list[BadLine]) -> Iterator[Lesson]:
    """The documents, then each request with those that it needs. Raises ContentError."""
    is_folder = path.is_dir()
    bench = load_toolbench(path, split="train") if is_folder else load_training_split(path)
    bad += (BadLine(where=_short(line.where), cause=line.cause) for line in bench.bad)
    documents = dict(_read_apis(bench, path.name, bad))
    for key, own in documents.items():
        for document in own:
            yield Lesson(where=f"{path.name} {_name(key)}", documents=(document,))
    for query in bench.queries:
        where = f"{path.name} {query.id}"
        relevant = sorted(query.relevant)
        if lost := [_name(key) for key in relevant if not documents[key]]:
            bad.append(BadLine(where=where, cause=f"no document of {lost[0]} can be read"))
            continue
        try:
            text = request_text(query.text)
        except ValueError as error:
            bad.append(BadLine(where=where, cause=str(error)))
            continue
        needed = tuple(document for key in relevant for document in documents[key])
        yield Lesson(where=where, query=text, documents=needed, names=tuple(map(_name, relevant)))


def read_tested(path: Path) -> frozenset[str]:
    """Query ids of the tests of ToolBench's own folder; none of any other path."""
    if not (path.is_dir() and is_split(path)):
        return frozenset()
    try:
        return frozenset(query_id(query.text) for query in load_toolbench(path).queries)
    except InputError:
        return frozenset()


def _read_apis(
    bench: ToolBench, file: str, bad: list[BadLine]
) -> Iterator[tuple[ApiKey, tuple[Document, ...]]]:
    for key, several in bench.documents.items():
        try:
            yield key, read_documents([each.document for each in several])
        except ValueError as error:
            bad.append(BadLine(where=f"{file} {_name(key)}", cause=str(error)))
            yield key, ()


def _short(where: str) -> str:
    return where.rsplit("/", 1)[-1]


def _name(key: ApiKey) -> str:
    return f"{key.tool}&&{key.api}"
