"""Importers: requests and tool documents from the files people have.

A line that cannot be used is a BadLine with file, line and cause; the rest is imported.
"""

from __future__ import annotations

import csv
import json
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from factory.domain.canon import canonical_json, normalise_text, query_id, tool_id
from factory.domain.failures import InputError
from factory.domain.jsontext import json_path, parse_strict, show, walk
from factory.domain.plaintext import is_unicode
from factory.domain.records import Query, Tool
from factory.tools.dialects import find_tools
from factory.tools.yamltext import YAML_SUFFIXES, YamlError, load_yaml

QUERY_FIELDS = (
    *("query", "user_request", "request", "instruction", "question"),
    *("prompt", "text", "input", "utterance"),
)
"""Names under which files keep the request, most specific first."""

MAX_QUERY_CHARACTERS = 8192
JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
"""Names of files that are JSON whatever is in them."""

TOOL_SUFFIXES = (*JSON_SUFFIXES, *YAML_SUFFIXES)
"""Names of a folder's files in which tools are looked for."""

FindFault = Callable[[dict[str, Any]], str]
"""Why a document cannot be used; empty where it can."""

ItemT = TypeVar("ItemT")


@dataclass(frozen=True, slots=True, kw_only=True)
class BadLine:
    """A line that was not imported. Example: BadLine(where="q.jsonl:7", cause="not JSON: …")."""

    where: str
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What was not taken as it was written. Example: Change(where="t.json:1", tool="f", what="")"""

    where: str
    tool: str
    """Its name."""
    what: str
    """What was put in place, moved or dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported(Generic[ItemT]):
    """What a file gave."""

    items: tuple[ItemT, ...]
    """The usable ones, in file order."""
    bad: tuple[BadLine, ...]
    changes: tuple[Change, ...] = ()
    """Of the usable ones."""


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
    path: Path,
    find_fault: FindFault = lambda _: "",
    *,
    deprecated: bool = False,
) -> Imported[Tool]:
    """Tool documents of a file, or of a folder's JSON files, in any dialect of tools.dialects.

    `find_fault` says why a document cannot be used, or nothing; operations of OpenAPI that are
    `deprecated` are left out unless they are wanted. Documents are bounded as a
    model's are: no NaN, no key twice, at most 64 levels deep.
    """
    if path.is_dir():
        return _read_folder(path, find_fault, deprecated)
    bad: list[BadLine] = []
    loader = _Loader()
    rows = ((row.where, row.value) for row in _rows(path, bad, loader.load))
    read = make_tools(rows, find_fault, deprecated=deprecated, check=loader.check)
    bad += read.bad
    if not read.items and not bad and not read.changes:
        raise InputError("the file holds no tools", where=str(path))
    return replace(read, bad=tuple(bad))


def make_tools(
    rows: Iterable[tuple[str, Any]],
    find_fault: FindFault = lambda _: "",
    *,
    deprecated: bool = False,
    check: Callable[[Any], None] = lambda _: None,
) -> Imported[Tool]:
    """The tools of values with their places; see read_tools. `check` raises ValueError for one."""
    tools: list[Tool] = []
    bad: list[BadLine] = []
    changes: list[Change] = []
    for row, value in rows:
        try:
            check(value)
            for found in find_tools(value, deprecated=deprecated):
                where = f"{row} {found.place}".rstrip()
                document = found.document
                if found.left_out:
                    changes.append(Change(where=where, tool="", what=found.left_out))
                elif document is None:
                    bad.append(BadLine(where=where, cause=found.cause))
                else:
                    text, fault = _write(document)
                    if fault := fault or find_fault(document):
                        bad.append(BadLine(where=where, cause=fault))
                        continue
                    tools.append(Tool(id=tool_id(document, text), document=document))
                    name = str(document["name"])
                    changes += (Change(where=where, tool=name, what=w) for w in found.changes)
        except (ValueError, RecursionError) as error:
            bad.append(BadLine(where=row, cause=str(error)))
    return Imported(items=tuple(tools), bad=tuple(bad), changes=tuple(changes))


def _read_folder(folder: Path, find_fault: FindFault, deprecated: bool) -> Imported[Tool]:
    """All files of a folder that may hold tools, by name."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in TOOL_SUFFIXES)
    if not files:
        raise InputError(
            "the folder holds no files of tools",
            where=str(folder),
            remedy=f"name a file, or a folder with {', '.join(TOOL_SUFFIXES)}",
        )
    tools: list[Tool] = []
    bad: list[BadLine] = []
    changes: list[Change] = []
    for file in files:
        above = file.parent.relative_to(folder).as_posix()
        start = "" if above == "." else f"{above}/"
        try:
            read = read_tools(file, find_fault, deprecated=deprecated)
        except InputError as error:
            bad.append(BadLine(where=f"{start}{file.name}", cause=error.what))
            continue
        tools += read.items
        bad += (replace(line, where=start + line.where) for line in read.bad)
        changes += (replace(change, where=start + change.where) for change in read.changes)
    return Imported(items=tuple(tools), bad=tuple(bad), changes=tuple(changes))


def _write(document: dict[str, Any]) -> tuple[str, str]:
    """A document's canonical text, and why no later step can carry it; one of them is empty."""
    try:
        text = canonical_json(document)
        parse_strict(text)
    except ValueError as error:
        return "", str(error)
    return text, ""


class _Twice(dict[str, Any]):
    """An object that names a key twice; the last value is kept, as json does."""

    key = ""


class _Loader:
    """Reads JSON, and remembers which objects name a key twice."""

    def __init__(self) -> None:
        self._decoder = json.JSONDecoder(object_pairs_hook=self._make)
        self._found = False

    def load(self, text: str) -> Any:
        return self._decoder.decode(text)

    def check(self, value: Any) -> None:
        """Raises ValueError where an object in a value that was loaded names a key twice."""
        if self._found:
            for path, part in walk(value):
                if isinstance(part, _Twice):
                    key, place = show(part.key, 60), json_path(path)
                    raise ValueError(f"the key {key} stands twice in one object, at {place}")

    def _make(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) == len(pairs):
            return table
        self._found, twice = True, _Twice(table)
        names = [name for name, _ in pairs]
        twice.key = next(name for name in names if names.count(name) > 1)
        return twice


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


Load = Callable[[str], Any]


def _rows(path: Path, bad: list[BadLine], load: Load = json.loads) -> Iterator[_Row]:
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
    for row in _parsed(path, text, bad, load):
        if damaged and "\ufffd" in json.dumps(row.value, ensure_ascii=False):
            bad.append(BadLine(where=row.where, cause="not UTF-8: save the file as UTF-8"))
        else:
            yield row


def _parsed(path: Path, text: str, bad: list[BadLine], load: Load) -> Iterator[_Row]:
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        yield from _csv_rows(path, text, "\t" if suffix == ".tsv" else ",", bad)
    elif suffix in YAML_SUFFIXES:
        yield from _yaml_rows(path, text, bad)
    elif suffix in JSON_SUFFIXES or _looks_like_json(text):
        yield from _json_rows(path, text, bad, load)
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


def _json_rows(path: Path, text: str, bad: list[BadLine], load: Load) -> Iterator[_Row]:
    """Values of an array, of a single object, or of JSON lines."""
    try:
        value = load(text)
    except (ValueError, RecursionError) as error:
        if path.suffix.lower() == ".json" and text.lstrip().startswith("["):
            raise InputError(f"not a JSON array: {error}", where=str(path)) from error
        yield from _json_lines(path, text, bad, load)
        return
    if isinstance(value, list):
        for number, item in enumerate(value, 1):
            yield _Row(f"{path.name}[{number}]", item)
    else:
        blank = text[: len(text) - len(text.lstrip())]
        yield _Row(f"{path.name}:{blank.count(chr(10)) + 1}", value)


def _yaml_rows(path: Path, text: str, bad: list[BadLine]) -> Iterator[_Row]:
    """Values of a list, or each document of the file."""
    documents = load_yaml(text)
    number = 0
    while True:
        number += 1
        try:
            value = next(documents)
        except StopIteration:
            return
        except YamlError as error:
            bad.append(BadLine(where=path.name, cause=str(error)))
            return
        where = path.name if number == 1 else f"{path.name}#{number}"
        listed = value if isinstance(value, list) else [value]
        for index, item in enumerate(listed, 1):
            yield _Row(f"{where}[{index}]" if listed is value else where, item)


def _json_lines(path: Path, text: str, bad: list[BadLine], load: Load) -> Iterator[_Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path.name}:{number}"
        try:
            yield _Row(where, load(line))
        except (ValueError, RecursionError) as error:
            bad.append(BadLine(where=where, cause=f"not JSON: {error}"))
