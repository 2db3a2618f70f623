"""Child processes: messages, failures, deaths with their cause, and no child without a parent."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from factory.domain.failures import FactoryError, InputError, ModelError
from factory.engines.child import CHILD_ENV, Channel, Child, child_environment

Body = Callable[[Child], Awaitable[Any]]


@pytest.fixture(autouse=True)
def _modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))


def with_child(tmp_path: Path, body: Body, *args: str) -> Any:
    """Run `body` with a started child_echo whose hello has been read."""

    async def run() -> Any:
        child = await Child.start("child_echo", *args, threads=3, log=tmp_path / "logs" / "c.log")
        try:
            hello = await child.receive()
            assert hello == {"type": "hello", "arguments": list(args), "threads": "3"}
            return await body(child)
        finally:
            await child.stop()

    return asyncio.run(run())


def is_alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_gone(pid: int, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_alive(pid)


def test_messages_go_both_ways_whole(tmp_path: Path) -> None:
    values = [1, "line\nbreak", "\ud800 lone surrogate", {"nested": [None, 1.5]}, "x" * 3_000_000]

    async def body(child: Child) -> list[Any]:
        for value in values:
            await child.send({"do": "echo", "value": value})
        return [(await child.receive() or {})["value"] for _ in values]

    assert with_child(tmp_path, body, "--flag", "two words") == values


def test_an_expected_failure_is_raised_as_the_same_class(tmp_path: Path) -> None:
    async def body(child: Child) -> None:
        await child.send({"do": "fail"})
        await child.receive()

    with pytest.raises(ModelError) as caught:
        with_child(tmp_path, body)
    assert (caught.value.what, caught.value.where, caught.value.remedy) == (
        "weights are gone",
        "/models/x",
        "fetch them",
    )


def test_messages_are_prepared_in_order_by_the_reading_thread(tmp_path: Path) -> None:
    async def body(child: Child) -> None:
        await child.send({"do": "prepare"})
        assert await child.receive() == {"type": "preparing"}
        for value in (1, 2):
            await child.send({"do": "echo", "value": value})
        for _ in range(3):
            await child.send({"do": "fail"})
        for value in (1, 2):
            assert await child.receive() == {"type": "echo", "value": [value, "channel"]}
        with pytest.raises(ModelError, match="unreadable"):
            await child.receive()
        await child.stop()
        assert f"exit code {ModelError.exit_code}" in child.cause()

    with_child(tmp_path, body)


def test_a_failure_is_not_lost_over_messages_that_nobody_reads(tmp_path: Path) -> None:
    async def body(child: Child) -> None:
        await child.send({"do": "fail"})
        for _ in range(60):
            await child.send({"do": "echo", "value": "x" * 10_000})
            await asyncio.sleep(0.005)
        with pytest.raises(ModelError, match="weights are gone"):
            await child.receive()

    with_child(tmp_path, body)


@pytest.mark.parametrize(
    ("action", "parts"),
    [
        ("crash", ["exit code 1", "RuntimeError: a bug in the child"]),
        ("exit", ["exit code 7", "some last words"]),
        ("die", ["SIGSEGV"]),
    ],
)
def test_a_death_has_a_cause(tmp_path: Path, action: str, parts: list[str]) -> None:
    async def body(child: Child) -> str:
        await child.send({"do": action})
        assert await child.receive() is None
        assert await child.receive() is None
        await child.send({"do": "echo", "value": "lost, but no error"})
        return child.cause()

    cause = with_child(tmp_path, body)
    assert all(part in cause for part in parts), cause


@pytest.mark.parametrize(
    ("action", "how", "lacks"),
    [
        ("take", "exit code 12 (out of memory)", True),
        ("wrap", "exit code 12 (out of memory)", True),
        ("abort", "killed by SIGABRT (out of memory)", True),
        ("crash", "exit code 1", False),
        ("exit", "exit code 7", False),
        ("die", "killed by SIGSEGV", False),
    ],
)
def test_a_death_for_want_of_memory_is_known_by_what_was_raised(
    tmp_path: Path, action: str, how: str, lacks: bool
) -> None:
    async def body(child: Child) -> tuple[str, bool]:
        await child.send({"do": action})
        assert await child.receive() is None
        return child.cause(), child.ran_out_of_memory

    cause, told = with_child(tmp_path, body)
    assert cause.startswith(how) and told is lacks


def test_kill_9_names_the_signal_and_only_this_childs_log_lines(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "c.log").write_text("an older child's words\n")

    async def body(child: Child) -> str:
        os.kill(child.pid, signal.SIGKILL)
        assert await child.receive() is None
        return child.cause()

    cause = with_child(tmp_path, body)
    assert "SIGKILL" in cause and "memory" in cause and "older" not in cause


def test_stop_lets_the_child_end_and_kills_its_own_children(tmp_path: Path) -> None:
    async def body(child: Child) -> tuple[int, int]:
        await child.send({"do": "grandchild"})
        answer = await child.receive() or {}
        return child.pid, answer["pid"]

    pid, grandchild = with_child(tmp_path, body)
    assert wait_gone(pid) and wait_gone(grandchild)
    assert "the channel is closed" in (tmp_path / "logs" / "c.log").read_text()


def test_kill_does_not_wait_for_a_busy_child(tmp_path: Path) -> None:
    async def body(child: Child) -> float:
        await child.send({"do": "hang"})
        started = time.monotonic()
        await child.kill()
        assert not is_alive(child.pid)
        return time.monotonic() - started

    assert with_child(tmp_path, body) < 2


PARENT = """
import asyncio, signal, sys
from pathlib import Path
from factory.engines.child import Child

# A shell's background job ignores it, and so would whatever runs in one.
signal.signal(signal.SIGINT, signal.default_int_handler)

async def main():
    child = await Child.start("child_echo", threads=1, log=Path(sys.argv[1]))
    await child.receive()
    await child.send({"do": "hang"})
    print(child.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_child_outlives_its_parent(tmp_path: Path, how: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "c.log")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.send_signal(how)
        parent.wait(timeout=30)
    assert wait_gone(pid)


def test_the_environment_keeps_children_off_the_network() -> None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "VLLM_NO_USAGE_STATS", "DO_NOT_TRACK"):
        assert CHILD_ENV[name] == "1"
    assert CHILD_ENV["VLLM_HOST_IP"] == "127.0.0.1"


def test_children_do_not_take_themselves_for_ranks_of_a_cluster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By these a one-process training waits for others, or trains as one of many."""
    launched = (
        "WORLD_SIZE RANK LOCAL_RANK LOCAL_WORLD_SIZE GROUP_RANK NODE_RANK MASTER_ADDR MASTER_PORT "
        "OMPI_COMM_WORLD_SIZE OMPI_COMM_WORLD_RANK PMI_SIZE PMI_RANK PMIX_RANK MV2_COMM_WORLD_SIZE "
        "MPI_LOCALRANKID TORCHELASTIC_RUN_ID ACCELERATE_USE_FSDP ACCELERATE_MIXED_PRECISION "
        "FSDP_VERSION FORCE_COLOR"
    ).split()
    kept = {"HOME": "/h", "PATH": "/bin", "CUDA_VISIBLE_DEVICES": "3", "RANKING": "1"}
    for name in launched:
        monkeypatch.setenv(name, "2")
    for name, value in kept.items():
        monkeypatch.setenv(name, value)
    environment = child_environment(1)
    assert not environment.keys() & set(launched)
    assert kept.items() <= environment.items()
    assert child_environment(1, ("0", "2"))["CUDA_VISIBLE_DEVICES"] == "0,2"


def test_a_worker_module_run_by_hand_says_what_it_is() -> None:
    with pytest.raises(InputError, match="worker process"):
        Channel.from_env()


def test_the_parents_side_imports_no_torch() -> None:
    code = (
        "import sys, json, factory.engines.child, factory.engines.base, factory.engines.process, "
        "factory.engines.replay; "
        "print(json.dumps([m for m in ('torch', 'vllm', 'transformers') if m in sys.modules]))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == []


def test_an_unknown_failure_class_is_our_bug() -> None:
    from factory.engines.child import _failure

    made = _failure({"class": "annotations", "what": "odd", "where": "", "remedy": ""})
    assert type(made) is FactoryError and made.exit_code == 4
