"""A server on the loopback that answers as badly as a mode says."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

GOOD = {"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}]}


class Handler(BaseHTTPRequestHandler):
    """Leaves the response to the server's mode."""

    server: BadServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.close_connection = True
        self.server.num_asked += 1
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with contextlib.suppress(OSError):
            self.server.mode(self, body)

    def answer(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def start(self, **headers: str) -> None:
        """Only the head of a response whose end is that of the connection."""
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


Mode = Callable[[Handler, dict[str, Any]], None]


class BadServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, mode: Mode) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.mode, self.over = mode, threading.Event()
        self.num_asked = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has heard enough is no error."""


@contextlib.contextmanager
def serving(mode: Mode) -> Iterator[BadServer]:
    with BadServer(mode) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
            thread.join()


def body(value: object) -> Mode:
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return lambda handler, _: handler.answer(content)


def choice(**of: Any) -> Mode:
    return body({"choices": [{"message": {"content": "yes"}, "finish_reason": "stop", **of}]})


def message(**of: Any) -> Mode:
    return choice(message=of)


def cut_chunks(handler: Handler, _: object) -> None:
    handler.start(Transfer_Encoding="chunked")
    handler.wfile.write(b"40\r\n" + json.dumps(GOOD).encode()[:20])


def hang(handler: Handler, _: object) -> None:
    handler.server.over.wait(30)


def drip(handler: Handler, _: object) -> None:
    handler.start()
    while not handler.server.over.wait(0.02):
        handler.wfile.write(b" ")


def drip_headers(handler: Handler, _: object) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while not handler.server.over.wait(0.02):
        handler.wfile.write(b"a: b\r\n")


def endless(handler: Handler, _: object) -> None:
    handler.start()
    while not handler.server.over.is_set():
        handler.wfile.write(b" " * 65536)
