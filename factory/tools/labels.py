"""Labels of one's own: tools that belong together, and the requests that ask for them.

A line is a list of tools, `["find_hotel", "book_hotel"]`, or an object that has one under `tools`,
with the request under `query`. A tool is named by its name or its id; where several services have
one of a name, `service&&name` tells which.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from factory.domain.failures import InputError
from factory.domain.records import Pair, Tool
from factory.tools.rowfiles import BadLine
from factory.tools.sources import Imported, read_values, request_text

MOST_TOOLS = 64
"""Tools of one line, at most: each is paired with each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """Tools of one line. Example: Label(query="a room in Rome", tools=("t_91…", "t_0c…"))."""

    query: str
    """The request; empty where the line has none."""
    tools: tuple[str, ...]
    """Their ids, each once."""


def read_together(path: Path, tools: Iterable[Tool]) -> Imported[Label]:
    """Lines of two tools or more that are used together. Raises InputError without any line."""
    return _read(path, tools, least=2, asked=False)


def read_asked(path: Path, tools: Iterable[Tool]) -> Imported[Label]:
    """Lines of a request and the tools that answer it. Raises InputError without any line."""
    return _read(path, tools, least=1, asked=True)


def pair_up(labels: Iterable[Label]) -> list[Pair]:
    """Each two tools of each label, at the full weight of what a person says (A42)."""
    return [
        Pair(a=a, b=b, weight=1.0)
        for label in labels
        for a, b in combinations(sorted(label.tools), 2)
    ]


def _read(path: Path, tools: Iterable[Tool], *, least: int, asked: bool) -> Imported[Label]:
    names = _index(tools)
    labels: list[Label] = []
    bad: list[BadLine] = []
    rows = list(read_values(path, bad))
    if rows and all(isinstance(value, str) for _, value in rows):  # a file of one line, a list
        rows = [(f"{path.name}:1", [value for _, value in rows])]
    for where, value in rows:
        try:
            query = request_text(value, "query") if asked and isinstance(value, dict) else ""
            found = _find(value, names, least)
            if asked and not query:
                raise ValueError('it has no request: {"query": "…", "tools": ["…"]}')
        except ValueError as error:
            bad.append(BadLine(where=where, cause=str(error)))
        else:
            labels.append(Label(query=query, tools=found))
    if not labels and not bad:
        wanted = '{"query": "…", "tools": ["…"]}' if asked else '["find_hotel", "book_hotel"]'
        raise InputError("the file holds no labels", where=str(path), remedy=f"a line is {wanted}")
    return Imported(items=tuple(labels), bad=tuple(bad))


def _index(tools: Iterable[Tool]) -> dict[str, list[str]]:
    """Ids of the tools by all that may name them."""
    names: defaultdict[str, list[str]] = defaultdict(list)
    for tool in tools:
        service = tool.document.get("tool_name", "")
        for name in {tool.id, tool.name, f"{service}&&{tool.name}"}:
            names[name].append(tool.id)
    return names


def _find(value: Any, names: dict[str, list[str]], least: int) -> tuple[str, ...]:
    """Ids of the tools that a line names. Raises ValueError with the cause."""
    listed = value.get("tools") if isinstance(value, dict) else value
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise ValueError("it is no list of tools' names or ids, nor an object with one as `tools`")
    ids = tuple(dict.fromkeys(_one(name, names) for name in listed))
    if not least <= len(ids) <= MOST_TOOLS:
        raise ValueError(f"it names {len(ids)} different tools, not {least} to {MOST_TOOLS}")
    return ids


def _one(name: str, names: dict[str, list[str]]) -> str:
    found = names.get(name, [])
    if len(found) == 1:
        return found[0]
    if not found:
        raise ValueError(f"no tool has the name or id {name!r}")
    raise ValueError(f"{len(found)} tools are named {name!r}: give an id, or service&&name")
