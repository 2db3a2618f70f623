"""Importers: requests and tool documents from the files people have.

A line that cannot be used is a BadLine with file, line and cause; the rest is imported.
"""

from __future__ import annotations

import csv
import json
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from factory.domain.canon import canonical_json, normalise_text, query_id, tool_id
from factory.domain.failures import InputError
from factory.domain.jsontext import parse_strict
from factory.domain.plaintext import is_unicode
from factory.domain.records import Query, Tool
from factory.tools.dialects import read_dialect

QUERY_FIELDS = (
    *("query", "user_request", "request", "instruction", "question"),
    *("prompt", "text", "input", "utterance"),
)
"""Names under which files keep the request, most specific first."""

MAX_QUERY_CHARACTERS = 8192
JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
"""Names of files that are JSON whatever is in them."""

ItemT = TypeVar("ItemT")


@dataclass(frozen=True, slots=True, kw_only=True)
class BadLine:
    """A line that was not imported. Example: BadLine(where="q.jsonl:7", cause="not JSON: …")."""

    where: str
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported(Generic[ItemT]):
    """What a file gave."""

    items: tuple[ItemT, ...]
    """The usable ones, in file order."""
    bad: tuple[BadLine, ...]


@dataclass(frozen=True, slots=True)
class _Row:
    where: str
    value: Any


def read_queries(path: Path, field: str = "") -> Imported[Query]:
    """Requests of a file: JSON lines, a JSON array, CSV or TSV with a header, or plain lines.

    `field` names the key that holds the request; empty looks for QUERY_FIELDS in their order.
    Raises InputError where the file cannot be read or nobody can tell which field it is.
    """
    queries: list[Query] = []
    bad: list[BadLine] = []
    for row in _rows(path, bad):
        try:
            text = request_text(row.value, field)
        except ValueError as error:
            bad.append(BadLine(where=row.where, cause=str(error)))
            continue
        queries.append(Query(id=query_id(text), text=text, source=row.where))
    if not queries and not bad:
        raise InputError("the file holds no requests", where=str(path))
    return Imported(items=tuple(queries), bad=tuple(bad))


def read_tools(
    path: Path, find_fault: Callable[[dict[str, Any]], str] = lambda _: ""
) -> Imported[Tool]:
    """Tool documents of a file (JSON lines or a JSON array), in any dialect of factory.dialects.

    `find_fault` says why a document cannot be used, or nothing. Documents are bounded as a
    model's are: no NaN, at most 64 levels deep.
    """
    tools: list[Tool] = []
    bad: list[BadLine] = []
    for row in _rows(path, bad):
        try:
            documents = read_dialect(row.value)
            parse_strict(canonical_json(documents))
        except (ValueError, RecursionError) as error:
            bad.append(BadLine(where=row.where, cause=str(error)))
            continue
        for document in documents:
            if fault := find_fault(document):
                bad.append(BadLine(where=row.where, cause=fault))
            else:
                tools.append(Tool(id=tool_id(document), document=document))
    if not tools and not bad:
        raise InputError("the file holds no tools", where=str(path))
    return Imported(items=tuple(tools), bad=tuple(bad))


def request_text(value: Any, field: str = "") -> str:
    """The request that a row holds, or is, within bounds. Raises ValueError with the cause."""
    if isinstance(value, dict):
        names = (field,) if field else QUERY_FIELDS
        name = next((name for name in names if name in value), None)
        if name is None:
            wanted = repr(field) if field else "any of " + ", ".join(QUERY_FIELDS)
            raise ValueError(f"has no field {wanted}; it has {', '.join(map(str, value))[:200]}")
        value = value[name]
    if not isinstance(value, str):
        raise ValueError(f"the request is a {type(value).__name__}, not a text")
    text = value.strip()
    if not normalise_text(text):
        raise ValueError("the request is empty")
    if not is_unicode(text):
        raise ValueError("the request holds half of a surrogate pair")
    if len(text) > MAX_QUERY_CHARACTERS:
        raise ValueError(f"the request has {len(text)} characters; {MAX_QUERY_CHARACTERS} at most")
    return text


def read_values(path: Path, bad: list[BadLine]) -> Iterator[tuple[str, Any]]:
    """Places and values of a file's rows, for readers of other formats; what is no row is `bad`."""
    return ((row.where, row.value) for row in _rows(path, bad))


def _rows(path: Path, bad: list[BadLine]) -> Iterator[_Row]:
    """Values of a file with their places; what cannot be read or parsed goes to `bad`."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read the file: {error.strerror}", where=str(path), remedy="check the path"
        ) from error
    if raw.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        raise InputError("the file is UTF-16", where=str(path), remedy="save it as UTF-8")
    text = raw.decode("utf-8", errors="replace").removeprefix("\ufeff")
    damaged = text.encode() != raw.removeprefix(BOM_UTF8)
    for row in _parsed(path, text, bad):
        if damaged and "\ufffd" in json.dumps(row.value, ensure_ascii=False):
            bad.append(BadLine(where=row.where, cause="not UTF-8: save the file as UTF-8"))
        else:
            yield row


def _parsed(path: Path, text: str, bad: list[BadLine]) -> Iterator[_Row]:
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        yield from _csv_rows(path, text, "\t" if suffix == ".tsv" else ",", bad)
    elif suffix in JSON_SUFFIXES or _looks_like_json(text):
        yield from _json_rows(path, text, bad)
    else:
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                yield _Row(f"{path.name}:{number}", line)


def _csv_rows(path: Path, text: str, delimiter: str, bad: list[BadLine]) -> Iterator[_Row]:
    """Records by the header's names. After a line that is not CSV it goes on with the next one."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    header: list[str] = []
    start = 0
    while start < len(lines):
        rest = (f"{lines[index]}\n" for index in range(start, len(lines)))
        reader = csv.reader(rest, delimiter=delimiter, strict=True)
        begin = first = start
        start = len(lines)
        try:
            for record in reader:
                where = f"{path.name}:{first + 1}"
                first = begin + reader.line_num
                if not header:
                    header = record
                elif any(record[len(header) :]):
                    cause = f"has {len(record)} fields, the header {len(header)}: quotes missing?"
                    bad.append(BadLine(where=where, cause=cause))
                elif record:
                    yield _Row(where, dict(zip(header, record, strict=False)))
        except csv.Error as error:
            if not header:
                raise InputError(f"the header is not CSV: {error}", where=str(path)) from error
            bad.append(BadLine(where=f"{path.name}:{first + 1}", cause=f"not CSV: {error}"))
            start = first + 1


def _looks_like_json(text: str) -> bool:
    """Whether the text is one JSON value, or most of its lines are objects or strings."""
    text = text.strip()
    if text[:1] in ("[", "{") and _is_json(text):
        return True
    lines = [line for line in text.splitlines() if line.strip()]
    good = sum(line.lstrip()[0] in '{["' and _is_json(line) for line in lines)
    return good * 2 > len(lines)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _json_rows(path: Path, text: str, bad: list[BadLine]) -> Iterator[_Row]:
    """Values of an array, of a single object, or of JSON lines."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        if path.suffix.lower() == ".json" and text.lstrip().startswith("["):
            raise InputError(f"not a JSON array: {error}", where=str(path)) from error
        yield from _json_lines(path, text, bad)
        return
    if isinstance(value, list):
        for number, item in enumerate(value, 1):
            yield _Row(f"{path.name}[{number}]", item)
    else:
        blank = text[: len(text) - len(text.lstrip())]
        yield _Row(f"{path.name}:{blank.count(chr(10)) + 1}", value)


def _json_lines(path: Path, text: str, bad: list[BadLine]) -> Iterator[_Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path.name}:{number}"
        try:
            yield _Row(where, json.loads(line))
        except (ValueError, RecursionError) as error:
            bad.append(BadLine(where=where, cause=f"not JSON: {error}"))
