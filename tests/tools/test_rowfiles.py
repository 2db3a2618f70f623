"""Files of rows: every layout and packing, what is refused by its name, and bounds."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import threading
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet
from workspaces import ROOT

from factory.domain.failures import InputError
from factory.tools import bytefiles, rowfiles
from factory.tools.sources import read_queries, read_tools

CASES = ROOT.parent / "shared" / "cases" / "requests"


def case(name: str) -> Path:
    path = CASES / name
    if not path.exists():
        pytest.skip(f"the cases are not here: {path}")
    return path


def texts_of(path: Path) -> list[str]:
    read = read_queries(path)
    assert not read.bad
    return [query.text for query in read.items]


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("q08.jsonl.gz", ["Book me a boat for Sunday", "Book me a boat for Monday"]),
        ("q11.parquet", ["Book me a boat for Sunday", "Book me a boat for Monday"]),
        ("q13_pretty.jsonl", ["Book me a boat", "Book me a hut"]),
    ],
)
def test_cases_are_read(name: str, expected: list[str]) -> None:
    assert texts_of(case(name)) == expected


def test_case_of_line_separators_has_three_requests() -> None:
    found = texts_of(case("q12_ls.txt"))
    assert len(found) == 3 and "\u2028" in found[0]


def test_case_of_utf16_is_named() -> None:
    with pytest.raises(InputError, match="UTF-16 without a mark"):
        read_queries(case("q09_utf16le_nobom.txt"))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_only_line_feeds_and_returns_end_a_line(tmp_path: Path, end: str, mark: str) -> None:
    plain = write(tmp_path / "q.txt", f"tea{mark}and cake{end}milk{end}")
    assert texts_of(plain) == [f"tea{mark}and cake", "milk"]
    row = json.dumps({"query": f"tea {mark}x"}, ensure_ascii=False)
    if mark >= " ":
        lines = write(tmp_path / "q.jsonl", f'{row}{end}{{"query": "milk"}}{end}')
        assert texts_of(lines) == [f"tea {mark}x", "milk"]


@pytest.mark.parametrize("indent", [None, 0, 1, 4, "\t"])
@pytest.mark.parametrize("between", ["\n", "", "\n\n"])
def test_objects_one_after_another(tmp_path: Path, indent: int | str, between: str) -> None:
    rows = [{"query": f"Brew {n} cups", "tags": ["hot", [n, {"query": "no"}]]} for n in range(30)]
    text = between.join(json.dumps(row, indent=indent) for row in rows)
    for name in ("q.jsonl", "q.json", "q.log"):
        assert texts_of(write(tmp_path / name, text)) == [str(row["query"]) for row in rows]


def test_a_large_array_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rowfiles, "WHOLE_BYTES", 0)
    monkeypatch.setattr(rowfiles, "CHUNK_CHARS", 777)
    rows = [{"query": f"Paint wall {n}", "note": "x\\\"'é" * (n % 400)} for n in range(300)]
    file = write(tmp_path / "q.json", json.dumps(rows, ensure_ascii=False))
    read = read_queries(file)
    assert [query.text for query in read.items] == [row["query"] for row in rows]
    assert read.items[-1].source == "q.json[300]"
    spaced = write(tmp_path / "r.json", "\n\n".join(json.dumps(row, indent=2) for row in rows))
    assert len(texts_of(spaced)) == 300
    assert read_queries(spaced).items[1].source == "r.json:6"


def test_a_pretty_object_among_lines(tmp_path: Path) -> None:
    text = (
        '{"query": "one"}\n{\n  "query": "two",\n  "tags": [\n    "a"\n  ]\n}\n{"query": "three"}\n'
    )
    assert texts_of(write(tmp_path / "q.jsonl", text)) == ["one", "two", "three"]


BROKEN = [
    '{\n  "query": "one",\n  "tags": [\n    "sea",\n    {"query": "inner"},\n    "sun"\n',
    '[\n{"query": "one"},\n{"query": "two"}\n',
    '[\n{"query": "one"},\n{"query": two},\n{"query": "three"}\n]\n',
    '{"a": [\n"one",\n"two"\n]}}\n',
    '[\n  "one",\n  "two"\n',
    '{"query": "one"}{"query": "two"',
]


@pytest.mark.parametrize("text", BROKEN)
@pytest.mark.parametrize("name", ["q.json", "q.txt"])
def test_nothing_is_taken_out_of_the_middle_of_broken_json(
    tmp_path: Path, name: str, text: str
) -> None:
    with pytest.raises(InputError, match="JSON") as caught:
        read_queries(write(tmp_path / name, text))
    assert f"{name}:" in caught.value.where


def test_a_broken_object_among_lines_costs_itself_alone(tmp_path: Path) -> None:
    text = '{"query": "one"}\n{"query": "two"}\n{\n  "tags": [\n    "sea",\n  {"query": "in"}\n}\n'
    read = read_queries(write(tmp_path / "q.jsonl", text + '{"query": "three"}\n'))
    assert [query.text for query in read.items] == ["one", "two", "three"]
    assert [line.where for line in read.bad] == ["q.jsonl:3"]


def test_a_bare_text_is_a_request_only_among_its_like(tmp_path: Path) -> None:
    read = read_queries(write(tmp_path / "a.json", '["note", {"query": "one"}, "end"]'))
    assert [query.text for query in read.items] == ["one"]
    assert [line.where for line in read.bad] == ["a.json[1]", "a.json[3]"]
    read = read_queries(write(tmp_path / "b.jsonl", '{"query": "one"}\n"note"\n'))
    assert [query.text for query in read.items] == ["one"] and len(read.bad) == 1


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["q.csv", "q.tsv", "q.CSV"])
def test_fields_are_separated_by_any_usual_mark(tmp_path: Path, name: str, mark: str) -> None:
    other = ";" if mark == "," else ","
    text = f'id{mark}query{mark}"a{other}b"\n1{mark}"Send 3{mark} now"{mark}x\n'
    assert texts_of(write(tmp_path / name, text)) == [f"Send 3{mark} now"]


def test_a_long_field_is_read_and_a_longer_one_skipped_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = 'query,note\none,"' + "inside,x\n" * 20_000 + '"\ntwo,b\n'
    assert texts_of(write(tmp_path / "a.csv", rows)) == ["one", "two"]
    monkeypatch.setattr(rowfiles, "MAX_VALUE_CHARS", 1 << 16)
    read = read_queries(tmp_path / "a.csv")
    assert [query.text for query in read.items] == ["two"]
    assert [line.where for line in read.bad] == ["a.csv:2"]


def test_the_separator_may_be_named_as_excel_does(tmp_path: Path) -> None:
    assert texts_of(write(tmp_path / "q.csv", "sep=^\r\nid^query\r\n1^a, b; c\r\n")) == ["a, b; c"]


ROWS = '{"query": "Wake me at 6"}\n{"query": "Wake me at 7"}\n'


@pytest.mark.parametrize("name", ["q.jsonl.packed", "q.jsonl", "q"])
@pytest.mark.parametrize("way", ["gzip", "zstd", "bz2", "xz"])
def test_packed_files(tmp_path: Path, name: str, way: str) -> None:
    packed = {"gzip": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}.get(
        way, lambda data: pa.compress(data, "zstd", asbytes=True)
    )(ROWS.encode())
    file = write(tmp_path / name, packed)
    assert texts_of(file) == ["Wake me at 6", "Wake me at 7"]
    with pytest.raises(InputError, match="damaged"):
        read_queries(write(file, packed[: len(packed) // 2]))


def test_a_packed_file_keeps_its_suffix(tmp_path: Path) -> None:
    file = write(tmp_path / "q.csv.gz", gzip.compress(b"id;query\n1;one\n"))
    assert texts_of(file) == ["one"]


def test_parquet_of_tools_and_requests(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {}}
    rows = [
        {"query": f"q{n}", "tools": [{"name": f"f{n}", "parameters": schema}]} for n in range(300)
    ]
    table = pa.Table.from_pylist([{**row, "tools": json.dumps(row["tools"])} for row in rows])
    parquet.write_table(table, tmp_path / "rows.bin")
    assert texts_of(tmp_path / "rows.bin") == [row["query"] for row in rows]
    assert len(read_tools(tmp_path / "rows.bin").items) == 300


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("Wecke mich um 6\r\n".encode("utf-16-le"), "UTF-16 without"),
        ("Wecke mich um 6\r\n".encode("utf-16-be"), "UTF-16 without"),
        ("日本語の 依頼です。\n".encode("utf-16-le"), "UTF-16 without"),
        ("Wecke mich\n".encode("utf-32"), "UTF-32"),
        ("Wecke mich\n".encode("utf-32-be"), "UTF-32 without"),
        (b"PK\x03\x04\x14\0\x06\0", "ZIP"),
        (b"%PDF-1.7\n%abc\n", "PDF"),
        (b"SQLite format 3\0\x10\0", "SQLite"),
        (b"Obj\x01\x04\x14avro", "Avro"),
        (b"\x89PNG\r\n\x1a\n\0\0", "picture"),
        (bytes(range(256)) * 4, "binary"),
        (b"\0" * 5000, "binary"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path: Path, data: bytes, name: str) -> None:
    for file in ("q.txt", "q.jsonl", "q.csv"):
        with pytest.raises(InputError, match=name):
            read_queries(write(tmp_path / file, data))


def test_text_that_begins_like_another_kind_is_text(tmp_path: Path) -> None:
    assert len(texts_of(write(tmp_path / "q.txt", "ORC or elf?\nGIF8 of a cat\n"))) == 2


def test_deep_json_is_refused_and_not_recursed_into(tmp_path: Path) -> None:
    deep = "[" * 200_000
    with pytest.raises(InputError, match="nested too deeply"):
        read_queries(write(tmp_path / "q.json", f'{{"query":\n{deep}'))
    read = read_queries(write(tmp_path / "q.jsonl", f'{ROWS}{{"query": {deep}\n'))
    assert len(read.items) == 2 and "nested too deeply" in read.bad[0].cause


def test_a_value_or_line_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rowfiles, "MAX_VALUE_CHARS", 1 << 20)
    for name, text in (("q.txt", "x" * 3_000_000), ("q.jsonl", f'{ROWS}"{"x" * 3_000_000}"')):
        with pytest.raises(InputError, match="longer than 1 MiB"):
            read_queries(write(tmp_path / name, text))
    long = ", ".join(['"' + "x" * 100 + '"'] * 90_000)
    with pytest.raises(InputError, match="longer than 1 MiB"):
        read_queries(write(tmp_path / "q.json", f'[{{"query": "one", "a": [{long}]}}]'))


def test_a_pipe_is_read_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def pour(data: bytes, times: int) -> None:
        with pipe.open("wb", buffering=0) as end:
            try:
                for _ in range(times):
                    end.write(data)
            except BrokenPipeError:
                return

    def read(data: bytes, times: int) -> list[str]:
        writer = threading.Thread(target=pour, args=(data, times))
        writer.start()
        try:
            return texts_of(pipe)
        finally:
            writer.join()

    assert read(ROWS.encode(), 1) == ["Wake me at 6", "Wake me at 7"]
    monkeypatch.setattr(bytefiles, "MAX_PIPE_BYTES", 1 << 22)
    with pytest.raises(InputError, match="the pipe gives more than"):
        read(ROWS.encode() * 1000, 10_000)
    with pytest.raises(InputError, match="binary"):
        read_queries(Path("/dev/zero"))


def test_a_pipe_that_gives_nothing_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bytefiles, "PIPE_SECONDS", 0.2)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(InputError, match=r"gives nothing for 0\.2 seconds"):
        read_queries(pipe)
    reader, writer = os.pipe()
    try:
        for sent in (b"", ROWS.encode()):  # nothing at all, and nothing more
            os.write(writer, sent)
            with pytest.raises(InputError, match=r"gives nothing for 0\.2 seconds"):
                read_queries(Path(f"/dev/fd/{reader}"))
        os.write(writer, ROWS.encode())
        os.close(writer)
        assert texts_of(Path(f"/dev/fd/{reader}")) == ["Wake me at 6", "Wake me at 7"]
    finally:
        os.close(reader)
