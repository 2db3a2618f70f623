"""`factory serve` on a real model, asked as clients ask."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workspaces import ROOT

from factory.deploy.running import find_running
from factory.deploy.transcripts import read_response

KEY = "a-key-for-the-test"


@dataclass
class ServedModel:
    process: subprocess.Popen[str]
    port: int
    workspace: Path

    def ask(
        self, path: str, body: dict[str, Any] | None = None, key: str = KEY
    ) -> tuple[int, bytes]:
        """The status and the whole body."""
        connection = self.start(path, body, key)
        response = connection.getresponse()
        found = response.status, response.read()
        connection.close()
        return found

    def start(
        self, path: str, body: dict[str, Any] | None, key: str = KEY
    ) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        connection.request("POST" if body else "GET", path, body and json.dumps(body), headers)
        return connection

    def chat(self, query: str, **more: Any) -> dict[str, Any]:
        """The answer's only choice, streamed or not."""
        (choice,) = self.choices(query, **more)
        return choice

    def choices(self, query: str, **more: Any) -> list[dict[str, Any]]:
        """The answer's choices, streamed or not."""
        messages = [{"role": "user", "content": query}]
        asked = {"model": "factory", "messages": messages, "temperature": 0, "max_tokens": 200}
        status, body = self.ask("/v1/chat/completions", {**asked, **more})
        response = read_response(body)
        assert status == 200 and response is not None, body
        choices: list[dict[str, Any]] = response["choices"]
        return choices


@contextlib.contextmanager
def serving(workspace: Path, *arguments: str, last: str) -> Iterator[ServedModel]:
    """A server of the workspace, once it has said its `last` line; ended in the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "factory", "serve", "--port", "0", *arguments],
        cwd=workspace,
        env={**os.environ, "PYTHONPATH": str(ROOT), "VLLM_API_KEY": KEY, "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        if last in line:
            break
    found = re.search(r"ready +http://127\.0\.0\.1:(\d+)/v1", printed)
    assert found, printed + (workspace / ".factory/logs").joinpath("serve.log").name
    yield ServedModel(process, int(found[1]), workspace)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=30)
    process.stdout.close()
    assert not find_running(workspace / ".factory")


def names(choice: dict[str, Any]) -> list[str]:
    return [call["function"]["name"] for call in choice["message"].get("tool_calls") or ()]
