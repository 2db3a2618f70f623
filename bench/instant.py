"""An engine that knows the home world's answers and computes nothing: a child of bench.round.

What a round through it takes is the command's own time, what it says to its engine included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

from factory.codes.saving import load_codebook
from factory.domain.canon import query_id, to_json
from factory.domain.records import Call, Completion, Reply, Request
from factory.engines.child import Channel, run_child
from factory.engines.wire import request_from_wire
from factory.lab.home.world import FreshItem, fresh_item
from factory.train.examples import calls_text
from factory.workspace.identity import identify


class Known:
    """Answers to the requests of a round that draws from the home world with a model's codes."""

    def __init__(self, folder: Path) -> None:
        codebook = load_codebook(folder)
        self._codes = [] if codebook is None else [*map(codebook.code_text, codebook.tool_ids)]
        self._items: dict[str, FreshItem] = {}
        self._numbers = count()

    def texts(self, request: Request) -> Sequence[str]:
        """One answer for each sample: three of five calls are right, the others lack a value."""
        query, stage, *_ = request.id.split("/")
        if stage in ("propose", "retrieve"):
            first = int(query.removeprefix("q_")[:8], 16)
            return [self._codes[(first + n) % len(self._codes)] for n in range(request.sampling.n)]
        item = self._item(query)
        if stage == "tools":
            return [f"<tools>\n{to_json(item.used)}\n</tools>"]
        *others, last = (Call(**call) for call in item.calls)
        short = Call(name=last.name, arguments=dict([*last.arguments.items()][:-1]))
        right, wrong = calls_text([*others, last]), calls_text([*others, short])
        return [wrong if n % 5 > 2 else right for n in range(request.sampling.n)]

    def _item(self, query: str) -> FreshItem:
        while query not in self._items:
            item = fresh_item(next(self._numbers))
            self._items[query_id(item.query)] = item
        return self._items[query]


def reply_to(request: Request, texts: Sequence[str]) -> dict[str, Any]:
    """A reply as it crosses the channel, with a token for every four letters."""
    completions = tuple(
        Completion(
            text=text,
            token_ids=tuple(range(1000, 1000 + len(text) // 4)),
            finish_reason="stop",
            logprob=-0.5 * n,
        )
        for n, text in enumerate(texts)
    )
    prompt = sum(len(message.content) for message in request.messages) // 4
    reply = Reply(request_id=request.id, completions=completions, num_prompt_tokens=prompt)
    return asdict(reply)


def serve(channel: Channel, _: list[str]) -> None:
    opening = channel.receive()
    assert opening is not None
    folder = Path(opening["path"])
    known, parts = Known(folder), identify(folder).parts
    channel.send({"type": "ready", "fingerprint": parts["weights"], "parts": parts})
    while (message := channel.receive()) is not None:
        if message["type"] == "request":
            request = request_from_wire(message["request"])
            reply = reply_to(request, known.texts(request))
            channel.send({"type": "reply", "number": message["number"], "reply": reply})


if __name__ == "__main__":
    run_child(serve)
