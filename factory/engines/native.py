"""Calls as a model's own chat template writes them: what a server's parser would have to read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from factory.domain.records import Call
from factory.engines.child import ask_once
from factory.engines.scratch import Scratch
from factory.workspace.models import is_installed

_NESTED = {"to": {"city": "Oslo", "zip": ["0150", 151]}, "warm": True, "note": None, "at": 1.5}
KINDS: dict[str, tuple[Call, ...]] = {
    "one call": (Call(name="get_weather", arguments={"city": "Oslo", "days": 2}),),
    "two calls": (
        Call(name="get_weather", arguments={"city": "Oslo"}),
        Call(name="get_weather", arguments={"city": "Bergen"}),
    ),
    "no arguments": (Call(name="get_weather", arguments={}),),
    "nested values": (Call(name="get_weather", arguments=_NESTED),),
    "quotes and letters": (Call(name="get_weather", arguments={"city": 'Tromsø "north"\n<b>'}),),
}
"""What answers of rounds call."""


class ServerParser(NamedTuple):
    """What reads a model's calls behind vLLM."""

    name: str
    """For `--tool-call-parser`; empty where none of them reads any."""
    lost: tuple[str, ...]
    """Of KINDS."""


def told_kinds() -> dict[str, list[list[Any]]]:
    """KINDS as a child is told them: calls as [name, arguments]."""
    return {name: [[c.name, c.arguments] for c in calls] for name, calls in KINDS.items()}


class WrittenCalls(NamedTuple):
    """How a model's chat template writes calls."""

    texts: Mapping[str, str]
    """The answer with each of KINDS; empty where it leaves calls out, as templates without tools
    do, or refuses them."""
    unbound: str
    """Why no grammar can be made of its calls; empty where one can."""


async def render_calls(folder: Path) -> WrittenCalls:
    """How the template of the model in `folder` writes calls.

    Raises ModelError for a tokenizer that cannot be loaded, ChildError where the child dies.
    """
    return WrittenCalls(**await _ask("factory.engines.native_child", folder, "rendering calls"))


async def find_server_parser(folder: Path) -> ServerParser | None:
    """The parser of vLLM's that reads back what the template writes; None without vLLM.

    Raises as render_calls does.
    """
    if not is_installed("vllm"):
        return None
    answer = await _ask("factory.engines.parsers", folder, "trying vLLM's parsers")
    return ServerParser(answer["parser"], tuple(answer["lost"]))


async def _ask(module: str, folder: Path, work: str) -> dict[str, Any]:
    """What a child of the module says of KINDS and the model in `folder`."""
    with Scratch() as logs:
        return await ask_once(
            module,
            {"folder": str(folder), "kinds": told_kinds()},
            work=work,
            threads=1,
            log=logs / f"{module.rpartition('.')[2]}.log",
        )
