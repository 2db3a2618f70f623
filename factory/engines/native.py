"""Calls as a model's own chat template writes them: what a server's parser would have to read."""

from __future__ import annotations

from pathlib import Path

from factory.domain.records import Call
from factory.engines.child import ask_once
from factory.engines.scratch import Scratch

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


async def render_calls(folder: Path) -> dict[str, str]:
    """The answer with each of KINDS as the template of the model in `folder` writes it.

    Empty where it leaves calls out, as templates without tools do, or refuses them. Raises
    ModelError for a tokenizer that cannot be loaded, ChildError where the child dies.
    """
    kinds = {name: [[c.name, c.arguments] for c in calls] for name, calls in KINDS.items()}
    with Scratch() as logs:
        answer = await ask_once(
            "factory.engines.native_child",
            {"folder": str(folder), "kinds": kinds},
            work="rendering calls",
            threads=1,
            log=logs / "native.log",
        )
    texts: dict[str, str] = answer["texts"]
    return texts
