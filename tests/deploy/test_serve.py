"""`factory serve` with vLLM's real server on a real model: asked as clients ask, and left alone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served_model import ServedModel, names, serving
from workspaces import ROOT, make_workspace

from factory.score.calls.kind import Benchmark
from factory.workspace.folder import Workspace

pytestmark = pytest.mark.slow

SETTINGS = """
recipe = "cpu"
model = "rounds/seed"

[engine]
backend = "vllm"
threads = 1
max_model_len = 512
memory_gib = 0.06
"""
ITEM = Benchmark.load(Workspace.locate(ROOT), "home").items[0]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedModel]:
    folder = tmp_path_factory.mktemp("serve") / "ws"
    make_workspace(folder, {"factory.toml": SETTINGS})
    with serving(folder, "--record", "served.jsonl", last="record") as model:
        yield model


def test_asked_with_tools_calls_come_back_streamed_and_not(served: ServedModel) -> None:
    tools = ITEM.openai_tools
    whole = served.chat(ITEM.query, tools=tools)
    assert names(whole) == ["rent_tractor"] and whole["finish_reason"] == "tool_calls"
    (call,) = whole["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"year": 2022}
    streamed = served.chat(ITEM.query, tools=tools, stream=True)
    (again,) = streamed["message"]["tool_calls"]
    assert again["function"] == call["function"]
    other = {"type": "function", "function": {"name": "sing", "parameters": {"type": "object"}}}
    named = {"type": "function", "function": {"name": "sing"}}
    assert names(served.chat(ITEM.query, tools=[*tools, other], tool_choice=named)) == ["sing"]
    assert names(served.chat(ITEM.query, tools=[other], tool_choice="required", stream=True))
    assert names(served.chat(ITEM.query, tools=tools, tool_choice="none")) == []
    strict = [
        {**each, "function": {**each["function"], "strict": True}} for each in (other, *tools)
    ]
    assert set(names(served.chat(ITEM.query, tools=strict))) <= {"sing", "rent_tractor"}


def test_asked_without_tools_one_of_the_catalogue_is_called(served: ServedModel) -> None:
    query = "Please book a table for 4 people on Friday."
    whole, streamed = served.chat(query), served.chat(query, stream=True)
    assert names(whole) == names(streamed) == ["book_table"]
    (call,) = whole["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"])["people"] == 4
    lines = (served.workspace / "served.jsonl").read_text("utf-8").splitlines()
    last = json.loads(lines[-1])
    assert [each["function"]["name"] for each in last["request"]["tools"]] == ["book_table"]
    assert names(last["response"]["choices"][0]) == ["book_table"]


def test_what_cannot_be_bound_or_asked_is_refused(served: ServedModel) -> None:
    ahead = {"type": "object", "properties": {"x": {"type": "string", "pattern": "(?=a)b"}}}
    odd = {"type": "function", "function": {"name": "odd", "parameters": ahead}}
    asked = {"model": "factory", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8}
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"tools": [odd], "tool_choice": "required"}, "no grammar can be made"),
        ({"tools": [odd, odd]}, "is given 2 times"),
        ({"messages": [{"role": "user", "content": "hi " * 600}]}, "maximum context length"),
    ]
    for more, said in wrong:
        status, body = served.ask("/v1/chat/completions", {**asked, **more})
        assert status == 400 and said in body.decode(), body
    guide = {"path": "/etc/passwd", "only": [], "marker": [], "until": None, "documents": ""}
    body_of = {
        "model": "factory",
        "prompt": "x",
        "vllm_xargs": {"factory_guide": json.dumps(guide)},
    }
    assert served.ask("/v1/completions", body_of)[0] == 400
    assert served.ask("/v1/chat/completions", asked, key="wrong")[0] == 401


def test_a_client_that_leaves_costs_nobody_anything(served: ServedModel) -> None:
    asked = {
        "model": "factory",
        "messages": [{"role": "user", "content": "Hi"}],
        "tool_choice": "none",
        "stream": True,
        "max_tokens": 400,
        "ignore_eos": True,
        "stop_token_ids": [],
    }
    connection = served.start("/v1/chat/completions", asked)
    connection.getresponse().read(200)
    connection.close()
    deadline = time.monotonic() + 20
    running = re.compile(rb"^vllm:num_requests_running\{.*\} (\S+)$", re.MULTILINE)
    while (found := running.search(served.ask("/metrics")[1])) and float(found[1]) > 0:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert found and served.ask("/health")[0] == 200


def test_a_port_in_use_is_named(served: ServedModel) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "factory", "serve", "--port", str(served.port)],
        cwd=served.workspace,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3 and f"port {served.port} of 127.0.0.1 is in use" in done.stderr


def test_a_server_that_is_killed_leaves_no_process(served: ServedModel) -> None:
    """The engine is a process of its own."""
    pids = descendants(served.process.pid)
    assert len(pids) >= 2
    served.process.kill()
    deadline = time.monotonic() + 30
    while left := [pid for pid in pids if is_alive(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task").glob("*/children")
    found = [int(each) for path in children for each in path.read_text("ascii").split()]
    return found + [each for child in found for each in descendants(child)]


def is_alive(pid: int) -> bool:
    """Whether it runs: what has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
