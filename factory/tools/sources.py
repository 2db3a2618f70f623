"""Importers: requests and tool documents from the files people have.

A line that cannot be used is a BadLine with file, line and cause; the rest is imported.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from factory.domain.canon import canonical_json, normalise_text, query_id, tool_id
from factory.domain.failures import InputError
from factory.domain.jsontext import json_path, parse_strict, show, walk
from factory.domain.plaintext import is_unicode
from factory.domain.records import Query, Tool
from factory.tools.dialects import find_tools
from factory.tools.logs import AskedTurn, is_trace, listed_tools, open_event, open_log, split_talk
from factory.tools.masking import Masker
from factory.tools.rowfiles import JSON_SUFFIXES, BadLine, FileRow, read_rows
from factory.tools.transcripts import Transcripts
from factory.tools.yamltext import YAML_SUFFIXES

QUERY_FIELDS = (
    *("query", "user_request", "request", "instruction", "question"),
    *("prompt", "text", "input", "utterance"),
)
"""Names under which files keep the request, most specific first."""
PLAIN_FIELDS = QUERY_FIELDS[:5]
"""Those that no log uses: a row with a text under one of them asks that."""
NO_TEXTS = ("null", "none", "nan", "undefined")
"""What programs write where there is no text."""

MAX_QUERY_CHARACTERS = 8192
STRAY_STRING = "a text alone is a request only in a file of nothing else"
TOOL_SUFFIXES = (*JSON_SUFFIXES, *YAML_SUFFIXES)
"""Names of a folder's files in which tools are looked for."""

FindFault = Callable[[dict[str, Any]], str]
"""Why a document cannot be used; empty where it can."""

ItemT = TypeVar("ItemT")


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
    masked: Counter[str] = field(default_factory=Counter)
    """Values that were masked, by kind."""
    masked_rows: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Requested:
    """A request as a file has it. Example: Requested(where="q.jsonl:7", text="Book a table")."""

    where: str
    text: str
    asked: AskedTurn | None = None
    """Its turn of a conversation, where it comes from a log; what is on offer, where tools are."""


def read_queries(path: Path, field: str = "") -> Imported[Query]:
    """Requests of a file, in any form that tools.rowfiles reads; of logs each user's turn, once.

    `field` names the key that holds the request; empty looks for QUERY_FIELDS in their order.
    Raises InputError where the file cannot be read or nobody can tell which field it is.
    """
    queries: list[Query] = []
    bad: list[BadLine] = []
    logged: set[str] = set()
    for found in read_requests(path, bad, field):
        query = Query(id=query_id(found.text), text=found.text, source=found.where)
        if found.asked is None:
            queries.append(query)
        elif query.id not in logged:
            logged.add(query.id)
            queries.append(query)
    if not queries and not bad:
        raise InputError("the file holds no requests", where=str(path))
    return Imported(items=tuple(queries), bad=tuple(bad))


def read_requests(path: Path, bad: list[BadLine], field: str = "") -> Iterator[Requested]:
    """Requests of a file as a stream; a conversation's turns each time that it stands there."""
    transcripts = Transcripts()
    for row in _without_stray_strings(path, bad):
        try:
            yield from _requests_of(row, field, transcripts, bad)
        except (ValueError, RecursionError) as error:
            bad.append(BadLine(where=row.where, cause=str(error)))
        except (LookupError, TypeError, AttributeError) as error:
            cause = f"it looks like a log, and is not: {error!r}"
            bad.append(BadLine(where=row.where, cause=cause))
    for where, asked in transcripts.close():
        yield from _turn_of(where, asked, bad)


def _turn_of(where: str, asked: AskedTurn, bad: list[BadLine]) -> Iterator[Requested]:
    """A turn as a request; one that is none costs itself alone."""
    try:
        text = request_text(asked.text)
    except ValueError as error:
        bad.append(BadLine(where=where, cause=str(error)))
        return
    yield Requested(where=where, text=text, asked=asked)


def _requests_of(
    row: FileRow, field: str, transcripts: Transcripts, bad: list[BadLine]
) -> Iterator[Requested]:
    """The requests of a row: what it asks, or each turn of a user where it is a log's."""
    value = row.value
    is_plain = bool(field) or (
        isinstance(value, dict) and any(isinstance(value.get(n), str) for n in PLAIN_FIELDS)
    )
    if is_plain or isinstance(value, str):
        yield _plain_request(row, field)
        return
    talks = open_log(value)
    if talks is not None:
        asked = [each for talk in talks for each in split_talk(talk)]
        if talks and not asked:
            raise ValueError("the conversation holds no request of a user")
        for each in asked:
            yield from _turn_of(row.where, each, bad)
    elif (event := open_event(value)) is not None:
        for where, each in transcripts.add(event, row.where):
            yield from _turn_of(where, each, bad)
    else:
        yield _plain_request(row, field)


def _plain_request(row: FileRow, field: str) -> Requested:
    """A row that asks one thing; documents beside it as `tools` are on offer, as a log's are."""
    text, offered = request_text(row.value, field), list[Any]()
    if isinstance(row.value, dict):
        with suppress(ValueError):  # a text that is no JSON offers nothing
            offered = [each for each in listed_tools(row.value) if isinstance(each, dict)]
    asked = AskedTurn(text=text, answer=[], tools=offered) if offered else None
    return Requested(where=row.where, text=text, asked=asked)


def _without_stray_strings(path: Path, bad: list[BadLine]) -> Iterator[FileRow]:
    """Rows of a file. A bare JSON string is one only where the file has nothing else."""
    are_strings: bool | None = None
    for row in read_rows(path, bad):
        if isinstance(row.value, str) and row.form != "lines":
            if are_strings is None:
                are_strings = all(isinstance(other.value, str) for other in read_rows(path, []))
            if not are_strings:
                bad.append(BadLine(where=row.where, cause=STRAY_STRING))
                continue
        yield row


def read_tools(
    path: Path,
    find_fault: FindFault = lambda _: "",
    *,
    deprecated: bool = False,
    mask: bool = False,
) -> Imported[Tool]:
    """Tool documents of a file, or of a folder's JSON files, in any dialect of tools.dialects.

    `find_fault` says why a document cannot be used, or nothing; operations of OpenAPI that are
    `deprecated` are left out unless they are wanted. With `mask` what is private is put out of what
    a document tells, and of the causes of bad lines. Documents are bounded as a
    model's are: no NaN, no key twice, at most 64 levels deep.
    """
    if path.is_dir():
        return _read_folder(path, find_fault, deprecated, mask)
    bad: list[BadLine] = []
    loader = StrictLoader()
    rows = ((row.where, row.value) for row in read_rows(path, bad, loader.decoder))
    read = make_tools(rows, find_fault, deprecated=deprecated, mask=mask, check=loader.check)
    bad += read.bad
    if not read.items and not bad and not read.changes:
        raise InputError("the file holds no tools", where=str(path))
    if mask:
        bad = [replace(line, cause=Masker().mask(line.cause)) for line in bad]
    return replace(read, bad=tuple(bad))


def make_tools(
    rows: Iterable[tuple[str, Any]],
    find_fault: FindFault = lambda _: "",
    *,
    deprecated: bool = False,
    mask: bool = False,
    check: Callable[[Any], None] = lambda _: None,
) -> Imported[Tool]:
    """The tools of values with their places; see read_tools. `check` raises ValueError for one."""
    tools: list[Tool] = []
    bad: list[BadLine] = []
    changes: list[Change] = []
    masked: list[Counter[str]] = []
    for row, value in rows:
        try:
            check(value)
            if is_trace(value):
                value = [tool for talk in open_log(value) or () for tool in talk.tools]
            for found in find_tools(value, deprecated=deprecated) if value != [] else ():
                where = f"{row} {found.place}".rstrip()
                document = found.document
                if found.left_out:
                    changes.append(Change(where=where, tool="", what=found.left_out))
                elif document is None:
                    bad.append(BadLine(where=where, cause=found.cause))
                else:
                    told = found.changes
                    if mask:
                        document, counts = _mask(document)
                        if counts:
                            masked.append(counts)
                            told = (*told, f"masked {list_counts(counts)}")
                    text, fault = _write(document)
                    if fault := fault or find_fault(document):
                        bad.append(BadLine(where=where, cause=fault))
                        continue
                    tools.append(Tool(id=tool_id(document, text), document=document))
                    name = str(document["name"])
                    changes += (Change(where=where, tool=name, what=w) for w in told)
        except (ValueError, RecursionError) as error:
            bad.append(BadLine(where=row, cause=str(error)))
    return Imported(
        items=tuple(tools),
        bad=tuple(bad),
        changes=tuple(changes),
        masked=sum(masked, Counter[str]()),
        masked_rows=len(masked),
    )


def _mask(document: dict[str, Any]) -> tuple[dict[str, Any], Counter[str]]:
    """The document without what is private in its texts, and how much of it there was."""
    masker = Masker()
    masker.keep(document)
    return masker.mask_document(document), masker.counts


def list_counts(counts: Mapping[str, int]) -> str:
    """For people. Example: list_counts({"NAME": 2, "EMAIL": 1}) is "1 EMAIL, 2 NAME"."""
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))


def _read_folder(
    folder: Path, find_fault: FindFault, deprecated: bool, mask: bool
) -> Imported[Tool]:
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
    masked, masked_rows = Counter[str](), 0
    for file in files:
        above = file.parent.relative_to(folder).as_posix()
        start = "" if above == "." else f"{above}/"
        try:
            read = read_tools(file, find_fault, deprecated=deprecated, mask=mask)
        except InputError as error:
            bad.append(BadLine(where=f"{start}{file.name}", cause=error.what))
            continue
        tools += read.items
        bad += (replace(line, where=start + line.where) for line in read.bad)
        changes += (replace(change, where=start + change.where) for change in read.changes)
        masked += read.masked
        masked_rows += read.masked_rows
    return Imported(
        items=tuple(tools),
        bad=tuple(bad),
        changes=tuple(changes),
        masked=masked,
        masked_rows=masked_rows,
    )


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


class StrictLoader:
    """Reads JSON, and remembers which objects name a key twice."""

    def __init__(self) -> None:
        self.decoder = json.JSONDecoder(object_pairs_hook=self._make)
        self._found = False

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
        more = value.get("input", value.get("context")) if name == "instruction" else None
        value = value[name]
        if isinstance(value, str) and isinstance(more, str) and more.strip() and not field:
            value = f"{value.strip()}\n\n{more.strip()}"  # Alpaca's and Dolly's
    if not isinstance(value, str):
        raise ValueError(f"the request is a {type(value).__name__}, not a text")
    text = value.strip()
    if not normalise_text(text):
        raise ValueError("the request is empty")
    if text.casefold() in NO_TEXTS:
        raise ValueError(f"the request is the text {text!r}, which stands for none")
    if not is_unicode(text):
        raise ValueError("the request holds half of a surrogate pair")
    if len(text) > MAX_QUERY_CHARACTERS:
        raise ValueError(f"the request has {len(text)} characters; {MAX_QUERY_CHARACTERS} at most")
    return text


def read_values(
    path: Path, bad: list[BadLine], decoder: json.JSONDecoder | None = None
) -> Iterator[tuple[str, Any]]:
    """Places and values of a file's rows, for readers of other formats; what is no row is `bad`."""
    return ((row.where, row.value) for row in read_rows(path, bad, decoder))
