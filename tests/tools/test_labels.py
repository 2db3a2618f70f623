"""Labels of one's own: pairs of tools, and requests with the tools that answer them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from factory.domain.failures import InputError
from factory.domain.records import Pair, Tool
from factory.tools.labels import Label, pair_up, read_asked, read_together

TOOLS = [
    Tool(id="t_1", document={"name": "find", "tool_name": "Hotels"}),
    Tool(id="t_2", document={"name": "find", "tool_name": "Flights"}),
    Tool(id="t_3", document={"name": "book_hotel"}),
    Tool(id="t_4", document={"name": "pay"}),
]


def write(path: Path, *lines: object) -> Path:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8")
    return path


def test_tools_are_named_by_name_id_or_service(tmp_path: Path) -> None:
    path = write(
        tmp_path / "pairs.jsonl",
        ["book_hotel", "pay"],
        {"query": "a room", "tools": ["Hotels&&find", "t_3", "pay", "pay"]},
    )
    read = read_together(path, TOOLS)
    assert not read.bad
    assert [label.tools for label in read.items] == [("t_3", "t_4"), ("t_1", "t_3", "t_4")]
    assert sorted((pair.a, pair.b) for pair in pair_up(read.items)) == [
        ("t_1", "t_3"),
        ("t_1", "t_4"),
        ("t_3", "t_4"),
        ("t_3", "t_4"),
    ]
    one = read_together(write(tmp_path / "one.jsonl", ["book_hotel", "pay"]), TOOLS)
    assert pair_up(one.items) == [Pair(a="t_3", b="t_4", weight=1.0)], "a file of one line"


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (["book_hotel", "pays"], "no tool has the name or id 'pays'"),
        (["find", "pay"], "2 tools are named 'find': give an id, or service&&name"),
        (["pay", "t_4"], "names 1 different tools, not 2 to 64"),
        (["pay", 3], "no list of tools"),
        ({"query": "pay"}, "no list of tools"),
        (7, "no list of tools"),
        ("{", "not JSON"),
    ],
)
def test_a_line_that_cannot_be_used_is_told_with_its_place(
    line: object, cause: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "pairs.jsonl", ["book_hotel", "pay"], line)
    read = read_together(path, TOOLS)
    assert [label.tools for label in read.items] == [("t_3", "t_4")]
    (bad,) = read.bad
    assert bad.where == "pairs.jsonl:2" and cause in bad.cause


def test_requests_have_a_text_and_a_tool(tmp_path: Path) -> None:
    path = write(
        tmp_path / "asked.jsonl",
        {"query": " a room ", "tools": ["book_hotel"]},
        {"tools": ["pay"]},
        ["book_hotel", "pay"],
        {"query": "", "tools": ["pay"]},
    )
    read = read_asked(path, TOOLS)
    assert read.items == (Label(query="a room", tools=("t_3",)),)
    assert [bad.where for bad in read.bad] == [f"asked.jsonl:{line}" for line in (2, 3, 4)]
    with pytest.raises(InputError, match="holds no labels"):
        read_asked(write(tmp_path / "none.jsonl"), TOOLS)
