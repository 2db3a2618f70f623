"""Tools of a running MCP server, asked for with the official `mcp` package.

A server is a command, spoken to over its stdin and stdout, or an address of one's own network.
Nothing is called but `tools/list`.
"""

from __future__ import annotations

import asyncio
import shlex
from typing import Any

from factory.domain.failures import InputError, MissingError
from factory.engines.http import resolve
from factory.workspace.models import is_installed

SECONDS = 120.0
"""For the whole answer: a server may install itself first."""
MAX_PAGES = 1000


def ask_server(target: str) -> dict[str, Any]:
    """{"server": name, "tools": […]} of the server at an address, or started by a command.

    Raises InputError for a public address or an empty command, and MissingError where the server
    does not answer or `mcp` is not installed.
    """
    if not is_installed("mcp"):
        raise MissingError("mcp is not installed", remedy="pip install 'tool-factory[mcp]'")
    is_address = target.startswith(("http://", "https://"))
    if is_address:
        resolve(target)
    elif not _words(target):
        raise InputError("--mcp names no command and no address", remedy='--mcp "npx my-server"')
    try:
        return asyncio.run(asyncio.wait_for(_ask(target, is_address), SECONDS))
    except Exception as error:  # whatever a foreign server or its transport raises
        cause = _innermost(error)
        raise MissingError(
            f"the server gives no tools: {type(cause).__name__} {cause}".rstrip(),
            where=target,
            remedy="start it by hand to see what it says, or correct the command",
        ) from error


def _words(command: str) -> list[str]:
    """Raises InputError for a quote without its other half."""
    try:
        return shlex.split(command)
    except ValueError as error:
        raise InputError(f"--mcp is no command: {error}", where=command) from error


async def _ask(target: str, is_address: bool) -> dict[str, Any]:
    from mcp import Client, StdioServerParameters

    words = [] if is_address else _words(target)
    server = target if is_address else StdioServerParameters(command=words[0], args=words[1:])
    tools: list[dict[str, Any]] = []
    async with Client(server) as client:
        cursor = None
        for _ in range(MAX_PAGES):
            page = await client.list_tools(cursor=cursor)
            tools += (each.model_dump(by_alias=True, exclude_none=True) for each in page.tools)
            cursor = page.next_cursor
            if not cursor:
                break
        info = client.server_info
    if not tools:
        raise ValueError("its list of tools is empty")
    return {"tools": tools, **({"server": info.name} if info is not None else {})}


def _innermost(error: BaseException) -> BaseException:
    """The first cause in a group of them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
