"""The child of factory.engines.retrieve: reads each query once, searches a trie with a beam."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from factory.codes.trie import Trie
from factory.domain.failures import ModelError
from factory.domain.records import PROMPT_TOO_LONG, Message, Request, Sampling
from factory.engines.beam import BeamSearch, Ranking, refuse_other_models
from factory.engines.chat import Chat
from factory.engines.child import Channel, run_child
from factory.engines.loading import load_served, served_length
from factory.workspace.settings import EngineSection


def main(channel: Channel, arguments: list[str]) -> None:
    """Load the model and the trie that the first message names, then answer searches."""
    opening = channel.receive()
    if opening is None:
        return
    folder, settings = Path(opening["path"]), EngineSection(**opening["settings"])
    chat, trie = Chat(folder), Trie.load(opening["trie"])
    model = load_served(folder, settings)
    refuse_other_models(model)
    room = served_length(model.config, settings)

    @lru_cache(maxsize=8)
    def search_in(only: tuple[str, ...]) -> BeamSearch:
        try:
            return BeamSearch(model, trie.only(only) if only else trie)
        except ValueError as error:
            raise ModelError(str(error), where=opening["trie"]) from error

    channel.send({"type": "ready"})
    while (message := channel.receive()) is not None:
        search = search_in(tuple(message["only"]))
        prompts = [chat.encode(_request(text)) for text in message["prompts"]]
        fits = [
            len(prompt) + search.depth < room and search.fits(len(prompt), message["beams"])
            for prompt in prompts
        ]
        fitting = [prompt for prompt, fit in zip(prompts, fits, strict=True) if fit]
        options = {key: message[key] for key in ("k", "beams", "exact")}
        rankings = iter(search.search(fitting, **options))
        found = [_to_wire(rankings, fit) for fit in fits]
        channel.send({"type": "rankings", "rankings": found, "seconds": search.seconds})


def _request(text: str) -> Request:
    return Request(
        id="retrieve", messages=(Message(role="user", content=text),), sampling=Sampling()
    )


def _to_wire(rankings: Iterator[Ranking], fits: bool) -> dict[str, Any]:
    if not fits:
        return {"found": [], "exact": False, "reason": PROMPT_TOO_LONG}
    ranking = next(rankings)
    found = [(code.tool_id, code.score) for code in ranking.codes]
    return {"found": found, "exact": ranking.exact, "reason": ""}


if __name__ == "__main__":
    run_child(main)
