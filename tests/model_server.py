"""An OpenAI-compatible server on the loopback, for tests that need a model behind HTTP."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any]], str | dict[str, Any]]
"""The text of an answer, or its whole choice."""


class Server(ThreadingHTTPServer):
    """Answers chats with what `answer` makes of a request's body."""

    daemon_threads = True

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = answer
        self.seen: list[dict[str, Any]] = []
        self.statuses: list[int] = []
        """Status of the next answers; 200 once they are used up."""
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            told = {"host": self.headers["Host"], "key": self.headers["Authorization"]}
            self.server.seen.append({**body, "path": self.path, **told})
            status = self.server.statuses.pop(0) if self.server.statuses else 200
        payload = self.answer(body) if status == 200 else {"error": "maximum context length is 8"}
        text = json.dumps(payload).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        if status == 302:
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
        self.end_headers()
        self.wfile.write(text)

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        if "prompt" in body:
            choice = {"text": body["prompt"][::-1], "finish_reason": "length"}
            if "logprobs" in body:
                choice["logprobs"] = {"token_logprobs": [None, -0.5, -1.0]}
        else:
            content = self.server.answer(body)
            choice = {
                "message": {"role": "assistant", "content": content},
                "finish_reason": "stop",
            }
            if isinstance(content, dict):
                choice = content
            if body["logprobs"]:
                choice["logprobs"] = {"content": [{"logprob": -0.5}, {"logprob": -0.25}]}
        return {"choices": [choice], "usage": {"prompt_tokens": 7}}

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@contextlib.contextmanager
def serving(answer: Answer) -> Iterator[Server]:
    """A server that runs until the end of the block."""
    with Server(answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
