"""What a server was asked and answered, a line each, as logs that a round may draw from.

A line is {"request": …, "response": …} of OpenAI's API: `factory round --queries FILE` reads it.
A streamed answer is put together to the response that it would have been in one piece.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

KEPT = ("model", "messages", "tools", "tool_choice")
"""Of a request's body: what says what was asked of whom."""


class TranscriptFile:
    """A file of transcripts. Example: TranscriptFile(Path("served.jsonl")).add(body, response)."""

    def __init__(self, path: Path) -> None:
        """Raises OSError where the file cannot be written."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a", encoding="utf-8").close()
        self._path = path

    def add(self, body: Mapping[str, Any], answer: bytes) -> None:
        """One request and its whole response; one that broke off is left out."""
        response = read_response(answer)
        if response is None:
            return
        request = {key: body[key] for key in KEPT if body.get(key) is not None}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"request": request, "response": response}) + "\n")


def read_response(answer: bytes) -> dict[str, Any] | None:
    """The response of a body, streamed or not; None where it is none or broke off."""
    text = answer.decode("utf-8", "replace")
    if not text.startswith("data:"):
        try:
            whole = json.loads(text)
        except ValueError:
            return None
        return whole if isinstance(whole, dict) and whole.get("choices") else None
    # At "\n" alone: JSON may hold other breaks of lines as they are.
    lines = [line.removeprefix("data:").strip() for line in text.split("\n") if line.strip()]
    if not lines or lines[-1] != "[DONE]":
        return None
    try:
        chunks = [json.loads(line) for line in lines[:-1]]
    except ValueError:
        return None
    if not all(isinstance(chunk, dict) and "error" not in chunk for chunk in chunks):
        return None
    return _join(chunk for chunk in chunks if chunk.get("choices"))


def _join(chunks: Iterator[dict[str, Any]]) -> dict[str, Any] | None:
    """The chunks of a stream as one response; None where a choice came to no end."""
    response: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        response |= {key: chunk[key] for key in ("id", "created", "model") if key in chunk}
        for part in chunk["choices"]:
            index = int(part.get("index", 0))
            message = {"role": "assistant", "content": None}
            choice = choices.setdefault(
                index, {"index": index, "message": message, "finish_reason": None}
            )
            choice["finish_reason"] = part.get("finish_reason") or choice["finish_reason"]
            _extend(choice["message"], part.get("delta") or {})
    if not choices or not all(choice["finish_reason"] for choice in choices.values()):
        return None
    return response | {"object": "chat.completion", "choices": list(choices.values())}


def _extend(message: dict[str, Any], delta: Mapping[str, Any]) -> None:
    if text := delta.get("content"):
        message["content"] = (message["content"] or "") + text
    for part in delta.get("tool_calls") or ():
        calls = message.setdefault("tool_calls", [])
        while len(calls) <= part["index"]:
            calls.append({"type": "function", "function": {"name": "", "arguments": ""}})
        call = calls[part["index"]]
        call |= {"id": part["id"]} if part.get("id") else {}
        for key, text in (part.get("function") or {}).items():
            call["function"][key] += text or ""
