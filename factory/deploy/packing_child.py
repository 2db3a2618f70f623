"""The child of factory.deploy.packing: writes a folder's chat template, and tries it.

It is tried as servers use it, by transformers, against the chat that rounds send, in tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from factory.deploy.template import own_template
from factory.domain.records import Call, Message, Request, Sampling
from factory.engines.chat import Chat, load_tokenizer
from factory.engines.child import Channel, run_child
from factory.engines.turn import fit_roles, read_turn, render
from factory.engines.written import write_calls
from factory.train.examples import calls_text

NAMES = ("Zq7System", "Zq7User", "Zq7Answer", "Zq7More")
"""Texts that no template holds."""


def main(channel: Channel, arguments: list[str]) -> None:
    """Answer the one question."""
    if (told := channel.receive()) is not None:
        channel.send(dress(told))


def dress(told: Mapping[str, Any]) -> dict[str, Any]:
    """Write the template of `out`, which holds a copy of the model in `folder`, and try it.

    What is told: factory.deploy.packing.question. What comes back: whether each of the chats is
    the same in tokens, whether calls are read back, and the marks of the model's own template.
    """
    source, out = Path(told["folder"]), Path(told["out"])
    chat = Chat(source)
    tokenizer = chat.tokenizer
    original = tokenizer.get_chat_template()
    probe = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    native = told["form"] == "native"
    template = original
    if not native:
        template = own_template(
            original,
            told["system"],
            told["invoke"],
            knows_system=fit_roles(tokenizer, probe) == probe,
        )
    pieces = _pieces(chat)
    ends = [tokenizer.decode([token]) for token in sorted(chat.end_ids)]
    _write(out, template, _response_template(pieces["header"], ends))
    written = load_tokenizer(out)
    lead_ids = read_turn(tokenizer, chat.end_ids).lead_ids
    same = []
    for each in told["chats"]:
        messages = tuple(Message.from_json(message) for message in each["chat"])
        wanted = chat.encode(Request(id="a chat", messages=messages, sampling=Sampling()))
        try:
            text = written.apply_chat_template(
                each["messages"],
                tools=each["tools"] or None,
                add_generation_prompt=True,
                tokenize=False,
            )
        except (TemplateError, TypeError, ValueError):  # it has no place for one of the roles
            same.append(False)
            continue
        ids = written.encode(text, add_special_tokens=False)
        same.append(wanted in ([*ids, *lead_ids], ids if native else None))
    called = [(call.name, call.arguments) for call in CALLS]
    text = write_calls(tokenizer, called) if native else calls_text(CALLS)
    parses = _reads_calls(written, pieces["header"], text, ends[0])
    return {"same": same, "parses": parses, "ends": ends, "pieces": pieces}


def _response_template(header: str, ends: list[str]) -> dict[str, Any] | None:
    """How transformers reads an answer of ours back; None where nothing tells where one begins."""
    if not header:
        return None
    calls = {"open": "<tool_call>", "close_pattern": r"</tool_call>\s*", "repeats": True}
    called = {"content": "json", "transform": {"type": "function", "function": "{content}"}}
    text = {"close_pattern": "|".join(map(re.escape, ends)), "content": "text"}
    fields = {"tool_calls": calls | called, "content": text}
    return {"defaults": {"role": "assistant"}, "start_anchor": header, "fields": fields}


CALLS = (Call(name="f", arguments={"a": [1, "é"]}), Call(name="g", arguments={}))


def _reads_calls(tokenizer: Any, header: str, text: str, end: str) -> bool:
    """Whether transformers reads CALLS out of an answer that makes them, and words as words."""
    if getattr(tokenizer, "response_template", None) is None:
        return False
    read = tokenizer.parse_response(text + end, prefix=header)
    said = tokenizer.parse_response("Hello." + end, prefix=header)
    found = [Call(**each["function"]) for each in read.get("tool_calls") or ()]
    return found == [*CALLS] and said.get("content") == "Hello." and not said.get("tool_calls")


def _write(out: Path, template: str, response_template: dict[str, Any] | None) -> None:
    """The folder's only chat template, and how an answer is read."""
    (out / "chat_template.jinja").write_text(template, encoding="utf-8")
    for more in out.glob("additional_chat_templates/*.jinja"):
        more.unlink()
    config = out / "tokenizer_config.json"
    table: dict[str, Any] = json.loads(config.read_text("utf-8"))
    table.pop("chat_template", None)
    if response_template is not None:
        table["response_template"] = response_template
    config.write_text(json.dumps(table, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _pieces(chat: Chat) -> dict[str, str]:
    """What the model's own template writes before a system's text, between that and the user's, and
    so on; before a first user's without a system, and before an answer."""
    tokenizer = chat.tokenizer
    roles = ("system", "user", "assistant", "user")
    said = [{"role": r, "content": c} for r, c in zip(roles, NAMES, strict=True)]
    rest = render(tokenizer, said, answer_next=True)
    pieces = {}
    for name, mark in zip(("start", "user", "answer", "more"), NAMES, strict=True):
        pieces[name], _, rest = rest.partition(mark)
    pieces["next"] = rest
    alone = render(tokenizer, said[1:2], answer_next=True)
    pieces["alone"] = alone.partition(NAMES[1])[0]
    asked = render(tokenizer, said[1:2], answer_next=False)
    pieces["header"] = alone.removeprefix(asked) if alone.startswith(asked) else ""
    if tokenizer.bos_token_id is not None and tokenizer.encode("x")[0] == tokenizer.bos_token_id:
        # The server puts it there too.
        for name in ("start", "alone"):
            pieces[name] = pieces[name].removeprefix(tokenizer.bos_token)
    return pieces


if __name__ == "__main__":
    run_child(main)
