"""The tools that labelled rows name: by their own names, and by those that ToolBench gives them."""

from __future__ import annotations

from collections.abc import Iterable

from factory.domain.canon import tool_id
from factory.domain.records import Tool
from factory.judge.documents import find_unusable
from factory.lessons.records import Document
from factory.score.toolbench.data import environment_name
from factory.score.toolbench.turns import key_of


class Catalogue:
    """Tools by name; where it is known whose they are, by `tool&&api` and `api_for_tool` too."""

    def __init__(self, tools: Iterable[Tool]) -> None:
        self._by_name: dict[str, list[Tool]] = {}
        for tool in tools:
            for name in names_of(tool):
                self._by_name.setdefault(name, []).append(tool)

    def find(self, name: str, arguments: Iterable[str] = ()) -> Tool | None:
        """The tool of this name; of namesakes the first that knows most of these arguments."""
        wanted = set(arguments)

        def known(tool: Tool) -> int:
            return len(wanted & tool.arguments["properties"].keys())

        return max(self._by_name.get(name, []), key=known, default=None)


def names_of(tool: Tool) -> tuple[str, ...]:
    """Its name, and where it is known whose it is `tool&&api` and its name in ToolBench's world."""
    key = key_of(tool.document)
    if not key.tool:
        return (tool.name,)
    return (tool.name, f"{key.tool}&&{key.api}", environment_name(key))


def make_tool(document: Document) -> Tool | None:
    """The document as a tool; None where it can be none."""
    if find_unusable(dict(document)) is not None:
        return None
    return Tool(id=tool_id(dict(document)), document=dict(document))
