"""A running MCP server is asked for its tools."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from factory.domain.failures import InputError, MissingError
from factory.engines.toolserver import ask_server
from factory.tools.dialects import read_dialect

pytest.importorskip("mcp", reason="needs tool-factory[mcp]")

SERVER = '''
from mcp.server.mcpserver import MCPServer

server = MCPServer("Bakery")


@server.tool()
def order(cake: str, number: int = 1) -> str:
    """Order a cake."""
    raise SystemExit("called")


@server.tool()
def cancel(order_id: int) -> None:
    """Cancel an order."""


server.run("stdio")
'''


def test_a_server_that_a_command_starts_gives_its_tools(tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text(SERVER, encoding="utf-8")
    answer = ask_server(shlex.join([sys.executable, str(tmp_path / "server.py")]))
    order, cancel = read_dialect(answer)
    assert (order["name"], order["tool_name"], cancel["name"]) == ("order", "Bakery", "cancel")
    assert order["arguments"]["required"] == ["cake"]
    assert order["arguments"]["properties"]["number"]["type"] == "integer"


def test_a_server_that_says_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="gives no tools"):
        ask_server(str(tmp_path / "no-such-program"))
    with pytest.raises(InputError, match="no command"):
        ask_server("  ")
    with pytest.raises(InputError, match="a public address"):
        ask_server("http://93.184.216.34/mcp")
