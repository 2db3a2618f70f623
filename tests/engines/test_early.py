"""Children of an engine that start before their model is there."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file
from workspaces import child_pids

from factory.domain.records import Checkpoint, Request, Sampling
from factory.engines import opening
from factory.engines.early import Early
from factory.engines.opening import early_engine, open_engine
from factory.workspace.models import fingerprint
from factory.workspace.settings import EngineSection

SETTINGS = EngineSection(
    backend="transformers", threads=4, data_parallel=2, max_model_len=128, max_restarts=2
)


@pytest.fixture(autouse=True)
def _without_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.setitem(opening.BACKENDS, "transformers", "child_engine")
    monkeypatch.setattr(opening, "visible_gpus", lambda: ("5", "7"))


def with_early(tmp_path: Path, body: Callable[[Early], Awaitable[None]]) -> None:
    async def run() -> None:
        async with early_engine(SETTINGS, tmp_path) as early:
            await early.start()
            await asyncio.wait_for(body(early), 60)

    asyncio.run(run())


def make_checkpoint(folder: Path) -> Checkpoint:
    """A folder that looks like a model's; it need not be there when children start."""
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "chat_template.jinja"):
        (folder / name).write_text("{}")
    save_file({"x": torch.zeros(2)}, folder / "model.safetensors")
    return Checkpoint(id="c", path=str(folder), fingerprint=fingerprint(folder))


async def ask_where(tmp_path: Path, early: Early) -> tuple[list[str], list[int]]:
    """What each copy says of its place, and the children that there are meanwhile; nobody is told
    of a death."""
    said: list[str] = []
    async with await open_engine(
        make_checkpoint(tmp_path / "model"),
        settings=SETTINGS,
        log_folder=tmp_path,
        notify=said.append,
        early=early,
    ) as engine:
        request = Request(id="w", prompt="where", sampling=Sampling())
        replies = await engine.sample([request] * 2)
        assert "died" not in "".join(said)
        return [reply.completions[0].text for reply in replies], child_pids()


def test_the_children_that_started_early_are_those_that_serve(tmp_path: Path) -> None:
    async def body(early: Early) -> None:
        started = child_pids()
        assert len(started) == 2
        await early.start()  # again, it starts no more
        told, serving = await ask_where(tmp_path, early)
        assert told == ["5 of 2 threads 0", "7 of 2 threads 0"]
        assert serving == started
        assert await early.take(opening._seats(SETTINGS, "transformers", tmp_path)[0]) is None

    with_early(tmp_path, body)
    assert (tmp_path / "model" / "loads").read_text() == ".."
    assert not child_pids()


def test_one_that_died_meanwhile_is_replaced_without_a_word(tmp_path: Path) -> None:
    async def body(early: Early) -> None:
        dead, alive = sorted(child_pids())
        os.kill(dead, signal.SIGKILL)
        while psutil.Process(dead).status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.01)
        told, serving = await ask_where(tmp_path, early)
        assert sorted(told) == ["5 of 2 threads 0", "7 of 2 threads 0"]
        assert alive in serving and dead not in serving and len(serving) == 2

    with_early(tmp_path, body)


def test_what_nobody_took_ends(tmp_path: Path) -> None:
    started: set[int] = set()

    async def body(early: Early) -> None:
        started.update(child_pids())

    with_early(tmp_path, body)
    assert started and not child_pids()


def test_of_ray_none_starts_early(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(opening, "is_installed", lambda name: True)
    assert not early_engine(EngineSection(backend="ray"), tmp_path)._seats
