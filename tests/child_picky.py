"""Child process of test_engines.py: a back end that refuses every prompt but `ok`, of no model."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from factory.domain.records import Completion, Reply, Request
from factory.engines.chat import Chat
from factory.engines.child import Channel, run_child
from factory.engines.server import Answer, Backend, Refused, serve
from factory.workspace.settings import EngineSection


class Picky(Backend):
    """Takes the prompt `ok`."""

    max_model_len = 100

    def __init__(self) -> None:
        self.chat = cast(Chat, self)
        self._taken: list[tuple[int, Request]] = []

    def encode(self, request: Request) -> list[int]:
        return [1, 2, 3]

    @property
    def is_busy(self) -> bool:
        return bool(self._taken)

    def add(self, number: int, request: Request, prompt_ids: list[int]) -> None:
        if request.prompt != "ok":
            raise Refused("stop_token_ids [999] out of vocab")
        self._taken.append((number, request))

    def abort(self, number: int) -> None:
        raise AssertionError("nothing is aborted here")

    def step(self, answer: Answer) -> None:
        for number, request in self._taken:
            yes = Completion(text="yes", token_ids=(1,), finish_reason="stop", logprob=0.0)
            answer(number, Reply(request_id=request.id, completions=(yes,), num_prompt_tokens=3))
        self._taken.clear()


def load(folder: Path, settings: EngineSection) -> Backend:
    return Picky()


def main(channel: Channel, arguments: list[str]) -> None:
    serve(channel, load)


if __name__ == "__main__":
    run_child(main)
