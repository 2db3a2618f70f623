"""The retriever's files of ToolBench: which request needs which documents, split by split.

Beside `qrels.train.tsv` (request, 0, document, 1) lie `train.query.txt` (id, request) and
`corpus.tsv` (id, document), whatever stands before these names.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from factory.domain.failures import InputError
from factory.lessons.conversations import read_documents
from factory.lessons.records import Document, Lesson
from factory.tools.sources import BadLine, read_values, request_text

QRELS = "qrels.train.tsv"


def read_retrieval(qrels: Path, bad: list[BadLine]) -> Iterator[Lesson]:
    """The documents, then each request with those that it needs. Raises InputError."""
    stem = qrels.name.removesuffix(QRELS)
    documents = dict(_read_corpus(qrels.with_name(f"{stem}corpus.tsv"), bad))
    for place, document in documents.values():
        yield Lesson(where=place, documents=(document,))
    needed: dict[str, list[Document]] = {}
    for number, parts in _lines(qrels):
        if len(parts) != 4 or parts[2] not in documents:
            cause = "no row of request, 0, document, 1 whose document is in the corpus"
            bad.append(BadLine(where=f"{qrels.name}:{number}", cause=cause))
        elif parts[3].strip() != "0":
            needed.setdefault(parts[0], []).append(documents[parts[2]][1])
    queries = qrels.with_name(f"{stem}train.query.txt")
    for number, (key, *text) in _lines(queries):
        if key not in needed:
            continue  # the file has a request once for each document that it needs
        where = f"{queries.name}:{number}"
        try:
            query = request_text("\t".join(text))
        except ValueError as error:
            bad.append(BadLine(where=where, cause=str(error)))
            continue
        own = tuple(needed.pop(key))
        yield Lesson(where=where, query=query, documents=own, names=tuple(map(_name, own)))
    for key in needed:
        bad.append(BadLine(where=qrels.name, cause=f"{queries.name} has no request {key}"))


def _name(document: Document) -> str:
    service = document.get("tool_name")
    return f"{service}&&{document['name']}" if service else str(document["name"])


def _read_corpus(path: Path, bad: list[BadLine]) -> Iterator[tuple[str, tuple[str, Document]]]:
    for where, row in read_values(path, bad):
        try:
            (document,) = read_documents(json.loads(row["document_content"]))
            yield str(row["docid"]), (where, document)
        except (ValueError, LookupError, TypeError) as error:
            bad.append(BadLine(where=where, cause=f"no document of a corpus: {error}"))


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Cells of a tab-separated file, quoted as pandas writes it, with the line they end on."""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            reader = csv.reader(stream, delimiter="\t")
            yield from ((reader.line_num, cells) for cells in reader if cells)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read the file: {error}", where=str(path)) from error
