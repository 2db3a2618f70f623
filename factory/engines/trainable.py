"""Whether a round can work with a model, found before it samples with it: `check_trainable`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import NamedTuple

from factory.domain.failures import MissingError
from factory.domain.records import Message
from factory.engines.child import ask_once
from factory.engines.kernels import check_heads
from factory.engines.opening import check_engine
from factory.engines.scratch import Scratch
from factory.workspace.models import INSTALL, check_model_folder, is_installed
from factory.workspace.prompts import Prompts, generation_messages, invocation_messages
from factory.workspace.settings import EngineSection

_DOCUMENT = {
    "name": "get_weather",
    "description": "Tells the weather.",
    "arguments": {"type": "object", "properties": {"city": {"type": "string"}}},
}
_QUERY = "What is the weather in Oslo?"


class Looked(NamedTuple):
    """Of a model's weights, how many bytes were looked at for NaN, and of how many."""

    looked: int
    whole: int

    def __str__(self) -> str:
        mib = 2**20
        return f"{self.looked / mib:.1f} of {self.whole / mib:.1f} MiB looked at for NaN"


async def check_trainable(folder: Path, prompts: Prompts, engine: EngineSection) -> Looked:
    """Raise ModelError unless a round can work with the model in `folder`, in about a second.

    Its parts are whole and fit together, the engine has kernels for it, the chats of rounds can be
    rendered, and answers be learnt in its template by a class of transformers. MissingError,
    ChildError where that cannot be found out.
    """
    if not is_installed("transformers"):
        raise MissingError("transformers is not installed", remedy=INSTALL["transformers"])
    check_model_folder(folder)
    check_heads(folder, engine)
    chats = [[message.to_json() for message in chat] for chat in _round_chats(prompts)]
    with Scratch() as logs:
        answer = await ask_once(
            "factory.engines.trainable_child",
            {"folder": str(folder), "chats": chats},
            work="the check of the model",
            threads=1,
            log=logs / "check.log",
        )
    return Looked(answer["looked"], answer["whole"])


def check_planned(folder: Path, prompts: Prompts, engine: EngineSection) -> Looked | None:
    """The same for a plan, which may be made where transformers is not installed: None there. An
    engine that factory.toml names must be there, as check_engine says."""
    check_model_folder(folder)
    if engine.backend != "auto":
        check_engine(engine, lambda _: None)
    if not is_installed("transformers"):
        return None
    return asyncio.run(check_trainable(folder, prompts, engine))


def _round_chats(prompts: Prompts) -> list[tuple[Message, ...]]:
    """Chats as rounds and lessons send them and learn from them, of one turn and of two."""
    answer = Message(role="assistant", content="[]")
    asked = [
        generation_messages(_QUERY, prompts),
        invocation_messages(_QUERY, [_DOCUMENT], prompts),
        (Message(role="user", content=_QUERY),),
    ]
    again = (*asked[1], answer, Message(role="user", content=_QUERY))
    return [*asked, (*asked[1], answer), again, (*again, answer)]
