"""Rows of the files that people have: JSON in any layout, CSV, plain lines, Parquet, YAML.

A row that cannot be read is a BadLine with its place and cause. A file is gone through as a stream,
so its size does not matter; a single value or line is bounded. JSON may stand one value a line, as
one array, or as values one after the other over any lines. Only of the first a broken value costs
nothing but its line: of the others nobody could tell where the next row begins, so the file is
refused, and nothing in the middle of a broken value becomes a row.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from factory.domain.failures import InputError
from factory.domain.jsontext import show
from factory.tools.bytefiles import HEAD_BYTES, OpenedFile, open_file
from factory.tools.yamltext import YAML_SUFFIXES, YamlError, load_yaml

JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
"""Names of files that are JSON whatever is in them."""
SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".psv": "|"}
"""Names of files with a header and separated fields, with what separates them as a rule."""
USUAL_SEPARATORS = (",", ";", "\t", "|")
MAX_VALUE_CHARS = 128 << 20
"""Longest single line or JSON value."""
CHUNK_CHARS = 1 << 20
WHOLE_BYTES = 8 << 20
"""A JSON file up to this size is taken in at once."""
PARQUET_ROWS = 256
"""Rows of Parquet that are made at a time."""
NOT_UTF8 = "not UTF-8: save the file as UTF-8"

Form = Literal["json", "csv", "lines", "parquet", "yaml"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BadLine:
    """A line that was not imported. Example: BadLine(where="q.jsonl:7", cause="not JSON: …")."""

    where: str
    cause: str


@dataclass(frozen=True, slots=True)
class FileRow:
    """A value with its place. Example: FileRow("q.jsonl:7", {"query": "…"}, "json")."""

    where: str
    value: Any
    form: Form


def read_rows(
    path: Path, bad: list[BadLine], decoder: json.JSONDecoder | None = None
) -> Iterator[FileRow]:
    """Values of a file with their places, in file order; what cannot be read goes to `bad`.

    The form is told by the file's suffix and content. Raises InputError for a file that is not
    there, is of another kind, or is JSON and broken as a whole.
    """
    with open_file(path) as opened:
        if opened.is_parquet:
            yield from _parquet_rows(path, opened.stream)
            return
        # Bytes that are no UTF-8 become lone surrogates, which no UTF-8 gives.
        text = io.TextIOWrapper(
            io.BufferedReader(opened.stream, CHUNK_CHARS)
            if isinstance(opened.stream, io.RawIOBase)
            else opened.stream,
            encoding="utf-8-sig",
            errors="surrogateescape",
            newline=None,
        )
        try:
            yield from _text_rows(_RowFile(path, opened, text, decoder or _DECODER), bad)
        finally:
            text.detach()


_DECODER = json.JSONDecoder()
_DAMAGED = re.compile("[\udc80-\udcff]")
_JSON_START = re.compile(r"\s*(?:\{\s*(?:[\"}]|$)|\[\s*(?:[\[{\"\]]|$))")
_SPACE = re.compile(r"\s*")


def _is_damaged(text: str, start: int = 0, end: int | None = None) -> bool:
    if text.isascii():
        return False
    return _DAMAGED.search(text, start, len(text) if end is None else end) is not None


@dataclass(frozen=True, slots=True)
class _RowFile:
    path: Path
    opened: OpenedFile
    text: io.TextIOWrapper
    decoder: json.JSONDecoder

    def place(self, number: int) -> str:
        return f"{self.path.name}:{number}"

    def broken(self, what: str, number: int) -> InputError:
        return InputError(
            what,
            where=f"{self.path}:{number}",
            remedy="mend or leave out what is broken there: no row is taken of a broken file",
        )


def _text_rows(file: _RowFile, bad: list[BadLine]) -> Iterator[FileRow]:
    suffix = file.opened.suffix
    if suffix in SEPARATORS:
        yield from _csv_rows(file, bad)
    elif suffix in YAML_SUFFIXES:
        yield from _yaml_rows(file, bad)
    else:
        head = _Beginning.of(file)
        if head.is_json or (suffix in JSON_SUFFIXES and not head.is_prose(suffix)):
            yield from _json_rows(file, head, bad)
        else:
            for number, line in _lines(file):
                if _is_damaged(line):
                    bad.append(BadLine(where=file.place(number), cause=NOT_UTF8))
                elif line.strip():
                    yield FileRow(file.place(number), line, "lines")


def _lines(file: _RowFile) -> Iterator[tuple[int, str]]:
    r"""Lines with their numbers; only \n, \r\n and \r end one."""
    number = 0
    while line := file.text.readline(MAX_VALUE_CHARS + 1):
        number += 1
        if len(line) > MAX_VALUE_CHARS:
            what = f"line {number} is longer than {MAX_VALUE_CHARS >> 20} MiB"
            raise InputError(what, where=str(file.path), remedy="a row a line is wanted")
        yield number, line.removesuffix("\n")


# JSON ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Beginning:
    """What the beginning of a text tells of it."""

    text: str
    lines: tuple[str, ...]
    """Whole lines that are not empty."""
    valid: tuple[bool, ...]
    """Which of them are JSON by themselves."""
    is_whole: bool
    """Whether there is nothing after it."""

    @classmethod
    def of(cls, file: _RowFile) -> _Beginning:
        raw = file.opened.head
        text = raw.decode("utf-8-sig", "surrogateescape")
        is_whole = len(raw) < HEAD_BYTES
        lines = re.split(r"\r\n|\n|\r", text)
        whole = [line for line in (lines if is_whole else lines[:-1]) if line.strip()]
        return cls(text, tuple(whole), tuple(map(_is_json, whole)), is_whole)

    @property
    def is_json(self) -> bool:
        """Whether it begins as JSON does, or most of its lines are objects, arrays or strings."""
        return bool(_JSON_START.match(self.text.split("\n", 1)[0])) or self._are_values

    @property
    def _are_values(self) -> bool:
        pairs = zip(self.lines, self.valid, strict=True)
        good = sum(valid and line.lstrip()[0] in '{["' for line, valid in pairs)
        return good * 2 > len(self.lines)

    def is_prose(self, suffix: str) -> bool:
        """Whether a file that is called JSON lines is lines of plain text."""
        marks = tuple('{}[]"')
        return suffix != ".json" and not (
            any(self.valid) or any(line.lstrip().startswith(marks) for line in self.lines)
        )

    def is_rows(self, suffix: str) -> bool:
        """Whether each line is a value."""
        if not self.lines:
            return False
        first = self.lines[0]
        if self.valid[0]:
            # One line with an array is a file with an array.
            return not (first.lstrip().startswith("[") and len(self.lines) == 1)
        if first.lstrip().startswith("[") and suffix == ".json":
            return False
        return self._are_values or (
            suffix in (".jsonl", ".ndjson") and not _is_cut(first) and len(self.lines) > 1
        )


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _is_cut(text: str) -> bool:
    """Whether a value goes on after the text."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return _wants_more(error, len(text.rstrip()))
    except (ValueError, RecursionError):
        return False
    return False


def _wants_more(error: json.JSONDecodeError, end: int) -> bool:
    """Whether more text could mend it; a literal or an escape may be cut within 10 letters."""
    return error.msg.startswith("Unterminated string") or error.pos >= end - 10


def _json_rows(file: _RowFile, head: _Beginning, bad: list[BadLine]) -> Iterator[FileRow]:
    if head.is_rows(file.opened.suffix):
        yield from _json_lines(file, bad)
        return
    reader = _Values(file)
    if head.text.lstrip().startswith("["):
        for number, (start, end, value) in enumerate(reader.items(), 1):
            where = f"{file.path.name}[{number}]"
            yield from _undamaged(FileRow(where, value, "json"), reader.buffer, start, end, bad)
        if not reader.is_over():
            raise file.broken("more follows after the JSON array", reader.line)
    else:
        while not reader.is_over():
            number = reader.line
            start, end, value = reader.next_value()
            row = FileRow(file.place(number), value, "json")
            yield from _undamaged(row, reader.buffer, start, end, bad)


def _undamaged(
    row: FileRow, text: str, start: int, end: int, bad: list[BadLine]
) -> Iterator[FileRow]:
    if _is_damaged(text, start, end):
        bad.append(BadLine(where=row.where, cause=NOT_UTF8))
    else:
        yield row


def _json_lines(file: _RowFile, bad: list[BadLine]) -> Iterator[FileRow]:
    """A value a line; one that goes on over lines is read as a whole, or is one bad line."""
    lines = _lines(file)
    held: deque[tuple[int, str]] = deque()
    while True:
        number, line = held.popleft() if held else next(lines, (0, ""))
        if not number:
            return
        if not line.strip():
            continue
        value, cause = _load(file, line)
        if cause and _is_cut(line):
            block = [line, *_rest_of_value(lines, held)]
            if len(block) > 1:
                line = "\n".join(block)
                value, cause = _load(file, line)
        if cause or _is_damaged(line):
            bad.append(BadLine(where=file.place(number), cause=cause or NOT_UTF8))
        else:
            yield FileRow(file.place(number), value, "json")


def _load(file: _RowFile, text: str) -> tuple[Any, str]:
    """The value, or why there is none."""
    try:
        return file.decoder.decode(text), ""
    except RecursionError:
        return None, "not JSON that can be read: it is nested too deeply"
    except ValueError as error:
        return None, f"not JSON: {error}"


def _rest_of_value(lines: Iterator[tuple[int, str]], held: deque[tuple[int, str]]) -> Iterator[str]:
    """Lines that belong to a value begun before: those indented, and the first that closes."""
    size = 0
    for number, line in lines:
        if line.strip() and not line.startswith((" ", "\t", "}", "]", '"')):
            held.append((number, line))
            return
        size += len(line)
        if size > MAX_VALUE_CHARS:
            return
        yield line
        if line.startswith(("}", "]")):
            return


class _Values:
    """JSON values of a stream that follow one another, or stand in one array."""

    def __init__(self, file: _RowFile) -> None:
        self._file = file
        size = file.opened.size
        self._step = size + 1 if 0 < size <= WHOLE_BYTES else CHUNK_CHARS
        self._at_end = False
        self._position = 0
        self._counted = 0
        self._line = 1
        self._kind = "not JSON"
        self.buffer = ""

    @property
    def line(self) -> int:
        """Of what is read next."""
        self._line += self.buffer.count("\n", self._counted, self._position)
        self._counted = self._position
        return self._line

    def is_over(self) -> bool:
        """Whether nothing but white space is left."""
        return not self._peek(_SPACE)

    def next_value(self) -> tuple[int, int, Any]:
        """Where the next value stands in the buffer, and the value. Raises InputError."""
        self._peek(_SPACE)
        while True:
            try:
                value, end = self._file.decoder.raw_decode(self.buffer, self._position)
            except RecursionError as error:
                raise self._file.broken("the JSON is nested too deeply", self.line) from error
            except json.JSONDecodeError as error:
                if not (_wants_more(error, len(self.buffer)) and self._fill()):
                    raise self._broken(error) from error
            except ValueError as error:
                raise self._file.broken(f"not JSON: {error}", self.line) from error
            else:
                if end < len(self.buffer) or not self._fill():
                    start, self._position = self._position, end
                    return start, end, value

    def items(self) -> Iterator[tuple[int, int, Any]]:
        """The values of an array. Raises InputError where it is broken or does not end."""
        self._peek(_SPACE)
        self._position += 1
        self._kind = "not a JSON array"
        if self._peek(_SPACE) == "]":
            self._position += 1
            return
        while True:
            yield self.next_value()
            mark = self._peek(_SPACE)
            self._position += 1
            if mark == "]":
                return
            if mark != ",":
                found = show(mark) if mark else "the end of the file"
                what = f"{self._kind}: {found} stands where a comma or ] is wanted"
                raise self._file.broken(what, self.line)

    def _peek(self, skip: re.Pattern[str]) -> str:
        """The next letter after what is skipped; empty at the end."""
        while True:
            found = skip.match(self.buffer, self._position)
            self._position = found.end() if found else self._position
            if self._position < len(self.buffer) or not self._fill():
                return self.buffer[self._position : self._position + 1]

    def _fill(self) -> bool:
        """Read on, and forget what is behind; False at the end of the file."""
        if self._at_end:
            return False
        self._line = self.line
        rest = self.buffer[self._position :]
        if len(rest) > MAX_VALUE_CHARS:
            what = f"a single JSON value is longer than {MAX_VALUE_CHARS >> 20} MiB"
            raise InputError(
                what,
                where=f"{self._file.path}:{self._line}",
                remedy="export it as JSON lines, a row a line",
            )
        more = self._file.text.read(max(self._step, len(rest)))
        self._at_end = not more
        self.buffer, self._position, self._counted = rest + more, 0, 0
        return bool(more)

    def _broken(self, error: json.JSONDecodeError) -> InputError:
        begins = self.line
        line = begins + self.buffer.count("\n", self._position, error.pos)
        near = self.buffer[error.pos : error.pos + 20]
        found = f"found {show(near, 40)}" if near.strip() else "the file ends"
        return self._file.broken(f"{self._kind}: {error.msg}: {found}", line)


# CSV, YAML, Parquet ----------------------------------------------------------------------------


class _Pulled:
    """Lines for the CSV reader, which may be given back from the last record on."""

    def __init__(self, lines: Iterator[tuple[int, str]]) -> None:
        self._lines = lines
        self._ahead: deque[tuple[int, str]] = deque()
        self._taken: list[tuple[int, str]] = []

    def __iter__(self) -> Iterator[str]:
        while (pair := self._next()) is not None:
            self._taken.append(pair)
            yield f"{pair[1]}\n"

    def _next(self) -> tuple[int, str] | None:
        return self._ahead.popleft() if self._ahead else next(self._lines, None)

    def settle(self) -> int:
        """A record has ended; the line that it began in."""
        first = self._taken[0][0] if self._taken else 0
        self._taken.clear()
        return first

    def go_back(self) -> int:
        """Give back all lines of the record but its first; the number of that one."""
        first, *rest = self._taken
        self._ahead.extendleft(reversed(rest))
        self._taken.clear()
        return first[0]

    def skip(self) -> int:
        """Leave the rest of the record, until its quotes are closed; the line that it began in."""
        is_open = sum(line.count('"') for _, line in self._taken) % 2
        first = self.settle()
        while is_open and (pair := self._next()) is not None:
            is_open ^= pair[1].count('"') % 2
        return first


def _csv_rows(file: _RowFile, bad: list[BadLine]) -> Iterator[FileRow]:
    """Records by the header's names. After a line that is not CSV it goes on with the next one.

    Nothing inside a field that is too long becomes a record.
    """
    csv.field_size_limit(MAX_VALUE_CHARS)
    lines = _lines(file)
    first = next(((number, line) for number, line in lines if line.strip()), (1, ""))
    named = re.fullmatch(r"sep=(.)", first[1].strip("\"'\ufeff"))
    separator = named[1] if named else _find_separator(first[1], SEPARATORS[file.opened.suffix])
    pulled = _Pulled(lines if named else _chain(first, lines))
    header: list[str] = []
    while True:
        reader = csv.reader(pulled, delimiter=separator, strict=True)
        try:
            for record in reader:
                where = file.place(pulled.settle())
                if not header:
                    header = record
                elif any(_is_damaged(each) for each in record):
                    bad.append(BadLine(where=where, cause=NOT_UTF8))
                elif any(record[len(header) :]):
                    cause = f"has {len(record)} fields, the header {len(header)}: quotes missing?"
                    bad.append(BadLine(where=where, cause=cause))
                elif record:
                    yield FileRow(where, dict(zip(header, record, strict=False)), "csv")
            return
        except csv.Error as error:
            if not header:
                what = f"the header is not CSV: {error}"
                raise InputError(what, where=str(file.path)) from error
            is_long = "field larger than" in str(error)
            where = file.place(pulled.skip() if is_long else pulled.go_back())
            bad.append(BadLine(where=where, cause=f"not CSV: {error}"))


def _chain(first: tuple[int, str], lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    yield first
    yield from lines


def _find_separator(header: str, usual: str) -> str:
    """The usual mark that the header has most of, outside of quotes; `usual` where none is."""
    plain = re.sub(r'"[^"]*"', "", header)
    return max((usual, *USUAL_SEPARATORS), key=plain.count)


def _yaml_rows(file: _RowFile, bad: list[BadLine]) -> Iterator[FileRow]:
    """Values of a list, or each document of the file."""
    text = file.text.read(MAX_VALUE_CHARS + 1)
    if len(text) > MAX_VALUE_CHARS:
        what = f"the YAML is longer than {MAX_VALUE_CHARS >> 20} MiB"
        raise InputError(what, where=str(file.path), remedy="write it as JSON lines")
    if _is_damaged(text):
        bad.append(BadLine(where=file.path.name, cause=NOT_UTF8))
        return
    documents = load_yaml(text)
    number = 0
    while True:
        number += 1
        try:
            value = next(documents)
        except StopIteration:
            return
        except YamlError as error:
            bad.append(BadLine(where=file.path.name, cause=str(error)))
            return
        where = file.path.name if number == 1 else f"{file.path.name}#{number}"
        listed = value if isinstance(value, list) else [value]
        for index, item in enumerate(listed, 1):
            yield FileRow(f"{where}[{index}]" if listed is value else where, item, "yaml")


def _parquet_rows(path: Path, stream: IO[bytes]) -> Iterator[FileRow]:
    import pyarrow as pa
    from pyarrow import parquet

    number = 0
    try:
        for batch in parquet.ParquetFile(stream).iter_batches(PARQUET_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield FileRow(f"{path.name}[{number}]", _without_null(row), "parquet")
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"cannot read the Parquet file: {error}", where=str(path)) from error


def _without_null(value: Any) -> Any:
    """A value without the keys that a struct has only because another row has them."""
    if isinstance(value, dict):
        return {key: _without_null(part) for key, part in value.items() if part is not None}
    return [_without_null(part) for part in value] if isinstance(value, list) else value
