"""Examples: accepted samples -> chat examples -> token ids with a loss mask.

An example is a chat whose assistant text is the target (algorithms §8):

gen        query -> tool documents                    ToolDev Eq. 3
adapt      tool description -> tool document          ToolDev stage 1
invoke     tools and query -> calls                   ToolDev Eq. 2
code       tool document -> its code                  ToolGen memorisation, SGTC
retrieve   query -> code of one tool it needs         ToolGen, SGTC L_ret
ask        called tools and calls -> query            invoke turned round
trajectory a whole conversation, turn by turn         ToolGen's last stage, SGTC L_traj
dpo        an answer with calls, against a losing one, which stands last and has no loss

Texts name tools by id, `{{tool:t_91…}}`; codes are put in when training starts, from the codebook
of that moment (A41), so that examples of old rounds stay valid after re-coding. A chat of kind
retrieve or trajectory may have several steps; `{{tool:<<Finish>>}}` stands for the code that ends
it (§3.4). A trajectory may also name its tools in words, and then needs no codes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from factory.domain.canon import ENCODE_PROMPT, canonical_json, derive_seed
from factory.domain.disk import disk_remedy
from factory.domain.failures import ContentError, DiskError, InputError
from factory.domain.jsontext import JsonTextError, parse_strict
from factory.domain.records import Call, Example, ExampleKind, Form, Message, Query, Tool
from factory.judge.reading import parse_calls
from factory.judge.writings import OPEN
from factory.workspace.prompts import (
    Prompts,
    asking_messages,
    generation_messages,
    invocation_messages,
)

MAX_OTHER_TOOLS = 2
"""Tools of the sample that were not called but stay in the gen target (A2)."""
PLACEHOLDER = re.compile(r"\{\{tool:([^{}\s]+)\}\}")
CODED_KINDS = frozenset({"code", "retrieve"})
"""Kinds whose answers always name tools by code."""


def names_by_code(example: Example) -> bool:
    """Whether its answers name tools by code, so that it needs a codebook."""
    return example.kind in CODED_KINDS or (
        example.kind == "trajectory" and any(map(PLACEHOLDER.search, answers(example)))
    )


def answers(example: Example) -> Iterator[str]:
    """The assistant's texts, those without loss too."""
    return (message.content for message in example.messages if message.role == "assistant")


def tools_text(documents: Iterable[Mapping[str, Any]]) -> str:
    """Assistant text of gen and adapt: one JSON object a line within <tools> tags (Fig. 7)."""
    lines = "\n".join(json.dumps(document, ensure_ascii=False) for document in documents)
    return f"<tools>\n{lines}\n</tools>"


def calls_text(calls: Iterable[Call]) -> str:
    """Assistant text of invoke: one <tool_call> block a call (Fig. 5)."""
    return "\n".join(
        "<tool_call>\n"
        + json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False)
        + "\n</tool_call>"
        for call in calls
    )


def calling(calls: Sequence[Call], prompts: Prompts, *, loss: bool = True) -> Message:
    """The answer that makes these calls, in the form in which prompts ask for them."""
    if prompts.form == "native":
        return Message(role="assistant", content="", calls=tuple(calls), loss=loss)
    return Message(role="assistant", content=calls_text(calls), loss=loss)


def calls_in(example: Example, form: Form) -> bool:
    """Whether an example teaches no calls in another form than this."""
    if any(message.tools for message in example.messages):
        return form == "native"
    in_tags = any(text.startswith(OPEN) for text in answers(example))
    return form == "own" or not (in_tags or example.kind == "invoke")


def teaches_calls(examples: Iterable[Example]) -> bool:
    """Whether any of them is in one form of calls and not in the other."""
    return any(calls_in(each, "own") != calls_in(each, "native") for each in examples)


def calls_of(message: Message) -> tuple[Call, ...]:
    """The calls of an assistant's message, in whichever form it has them."""
    return message.calls or tuple(parse_calls(message.content).calls or ())


def placeholder(tool_id: str) -> str:
    """The text that stands for a tool's code until training starts."""
    return f"{{{{tool:{tool_id}}}}}"


def encode_text(tool: Tool, prompts: Prompts) -> str:
    """What a tool's code is made from and learnt from: the user side of its code example."""
    return prompts.render(ENCODE_PROMPT, tool=tool.document)


def examples_from_sample(
    *,
    query: Query,
    tools: Sequence[Tool],
    calls: Sequence[Call],
    prompts: Prompts,
    round_number: int,
    written: Sequence[Tool] | None = None,
    needed: Sequence[Tool] | None = None,
    max_others: int | None = MAX_OTHER_TOOLS,
) -> list[Example]:
    """Examples of one accepted sample: gen, invoke, and code and retrieve for each called tool.

    `tools` are the candidates of the calls, `written` those of them which the model wrote for this
    query (all, if None): only they can be the uncalled tools of the gen target, at most
    `max_others` of them (all, if None). Tools that no call uses get no code and no retrieve example
    (A40), unless a label says which are `needed`.
    """
    origin = f"r{round_number}/{query.id}"
    names = {call.name for call in calls}
    used = [tool for tool in tools if tool.name in names] if needed is None else list(needed)
    target = _gen_target(used, tools if written is None else written, max_others)
    asked = generation_messages(query.text, prompts)
    shown = invocation_messages(query.text, [tool.document for tool in tools], prompts)
    examples = [
        _example("gen", origin, asked, tools_text(tool.document for tool in target)),
        Example(kind="invoke", messages=(*shown, calling(calls, prompts)), origin=origin),
    ]
    for tool in used:
        examples.append(code_example(tool, prompts, origin))
        examples.append(retrieve_example(query.text, tool.id, prompts, origin))
    return examples


def own_words(tool: Tool) -> str:
    """What a document calls its tool and says of it, without its parameters."""
    parts = (tool.document.get("tool_name", ""), tool.name, tool.document.get("description", ""))
    return " ".join(" ".join(map(str, parts)).replace("_", " ").split())


def retrieve_example(query: str, tool_id: str, prompts: Prompts, origin: str) -> Example:
    """The example that teaches the code of a tool from a request that needs it."""
    asked = (Message(role="user", content=prompts.render("codes/retrieve", query=query)),)
    return _example("retrieve", origin, asked, placeholder(tool_id))


def answer_example(
    query: str, tools: Sequence[Tool], answer: str, prompts: Prompts, origin: str
) -> Example:
    """The example that teaches to say something, and to call none of the tools."""
    shown = invocation_messages(query, [tool.document for tool in tools], prompts)
    return _example("invoke", origin, shown, answer)


def ask_example(
    query: str, tools: Sequence[Tool], calls: Sequence[Call], prompts: Prompts, origin: str
) -> Example:
    """The example that teaches to write a request from the calls that answer it."""
    asked = asking_messages(calls, [tool.document for tool in tools], prompts)
    return _example("ask", origin, asked, query)


def turned_round(example: Example, prompts: Prompts) -> Example | None:
    """An example of calls as one of asking for them; None where it is no triple of our prompts."""
    if example.kind != "invoke" or [m.role for m in example.messages] != _TRIPLE:
        return None
    system, user, answer = example.messages
    calls = calls_of(answer)
    lines = map(_document, system.content.split("\n"))
    documents = [*system.tools] or [row for row in lines if row is not None]
    names = {document["name"] for document in documents}
    if not calls or not user.content.strip() or any(call.name not in names for call in calls):
        return None
    return _example("ask", example.origin, asking_messages(calls, documents, prompts), user.content)


_TRIPLE = ["system", "user", "assistant"]


def _document(line: str) -> dict[str, Any] | None:
    """A line of the prompt `calls/system` that shows a tool."""
    try:
        row = parse_strict(line) if line.startswith("{") else None
    except JsonTextError:
        return None
    return row if isinstance(row, dict) and {"name", "arguments"} <= row.keys() else None


def adapt_example(tool: Tool, prompts: Prompts, origin: str) -> Example:
    """The example that teaches to write a document from its description (ToolDev Eq. 1)."""
    text = prompts.render("tools/adapt", description=tool.document["description"])
    system = Message(role="system", content=prompts.render("tools/system"))
    asked = (system, Message(role="user", content=text))
    return _example("adapt", origin, asked, tools_text([tool.document]))


def code_example(tool: Tool, prompts: Prompts, origin: str) -> Example:
    """The example that teaches a tool's code from its document."""
    document = (Message(role="user", content=encode_text(tool, prompts)),)
    return _example("code", origin, document, placeholder(tool.id))


def _gen_target(
    used: Sequence[Tool], written: Sequence[Tool], max_others: int | None
) -> list[Tool]:
    """A2: the called tools and some others of the sample, in the sample's order."""
    called = {tool.id for tool in used}
    others = [tool for tool in written if tool.id not in called][:max_others]
    target = {tool.id: tool for tool in (*written, *used)}
    kept = called | {tool.id for tool in others}
    return [tool for tool in target.values() if tool.id in kept]


def _example(kind: ExampleKind, origin: str, prompt: tuple[Message, ...], answer: str) -> Example:
    messages = (*prompt, Message(role="assistant", content=answer))
    return Example(kind=kind, messages=messages, origin=origin)


def unique_examples(examples: Iterable[Example]) -> list[Example]:
    """The examples without repeated chats (one tool called by many queries); the first stays."""
    first: dict[str, Example] = {}
    for example in examples:
        first.setdefault(_identity(example), example)
    return list(first.values())


def _identity(example: Example) -> str:
    messages = [
        [m.role, m.content, *([] if m.loss else [False])]
        if not (m.calls or m.tools)
        else m.to_json()
        for m in example.messages
    ]
    return canonical_json([example.kind, messages])


def select_replay(
    seed_examples: Sequence[Example],
    earlier: Sequence[Example],
    *,
    share: float,
    limit: int,
    history: float,
    seed: int,
) -> list[Example]:
    """Replay of A10: `share` of the seed set (at most `limit`), `history` of earlier rounds.

    Which ones depends on the seed and on each example's text only, never on their order.
    """
    num_seed = min(limit, round(share * len(seed_examples)))
    num_earlier = round(history * len(earlier))
    return _draw(seed_examples, num_seed, seed) + _draw(earlier, num_earlier, seed)


def _draw(examples: Sequence[Example], count: int, seed: int) -> list[Example]:
    ranked = sorted(examples, key=lambda example: derive_seed(seed, "replay", _identity(example)))
    return ranked[:count]


def example_to_json(example: Example) -> dict[str, Any]:
    """The example as a JSON object; inverse of example_from_json."""
    messages = [message.to_json() for message in example.messages]
    return {"kind": example.kind, "messages": messages, "origin": example.origin}


def example_from_json(row: object, where: str) -> Example:
    """An example from a JSON object with `messages` and, optionally, `kind` and `origin`.

    A row without kind is `invoke`, one without origin has `where`; `tool_calls` of a message are
    its text, and one with `loss` false stands there without being learnt. Raises ContentError, also
    for a row with `tools`, which no prompt shows yet.
    """
    if not isinstance(row, dict) or not isinstance(row.get("messages"), list):
        raise ContentError("an example is an object with a list `messages`", where=where)
    if row.get("tools"):
        raise ContentError(
            "an example is a chat as it is trained, with its tools in a message; this row has them "
            "apart",
            where=where,
            remedy="factory teach FILE reads such rows, judges them and teaches them",
        )
    kind = row.get("kind", "invoke")
    if kind not in get_args(ExampleKind):
        known = ", ".join(get_args(ExampleKind))
        raise ContentError(f"unknown kind {kind!r}", where=where, remedy=f"use one of {known}")
    messages = tuple(_message(message, where) for message in row["messages"])
    if not any(message.role == "assistant" and message.loss for message in messages):
        raise ContentError(
            "an example without assistant message, or without loss on any, has nothing to learn",
            where=where,
        )
    return Example(kind=kind, messages=messages, origin=str(row.get("origin", where)))


def _message(row: object, where: str) -> Message:
    if isinstance(row, dict) and row.get("role") == "assistant" and row.get("tool_calls"):
        row = row | {"content": calls_text(_listed_calls(row["tool_calls"], where))}
    if not isinstance(row, dict) or not isinstance(row.get("content"), str):
        raise ContentError("a message is an object with `role` and a text `content`", where=where)
    if row.get("role") not in ("system", "user", "assistant", "tool"):
        raise ContentError(f"unknown role {row.get('role')!r}", where=where)
    if not isinstance(loss := row.get("loss", True), bool):
        raise ContentError(f"`loss` of a message is true or false, not {loss!r}", where=where)
    calls, tools = _native_calls(row, where), _native_tools(row, where)
    if row["role"] == "assistant" and loss and not (row["content"].strip() or calls):
        raise ContentError("an empty answer would teach to say nothing", where=where)
    # Only what an assistant says can be learnt: without loss the others are no other messages.
    return Message(
        role=row["role"],
        content=row["content"],
        loss=loss or row["role"] != "assistant",
        calls=calls,
        tools=tools,
    )


def _native_calls(row: Mapping[str, Any], where: str) -> tuple[Call, ...]:
    """An assistant's `calls`, as example_to_json writes them."""
    if not (listed := row.get("calls")):
        return ()
    if row["role"] != "assistant" or not isinstance(listed, list):
        raise ContentError("`calls` are a list, of an assistant's message", where=where)
    return tuple(_listed_calls([{"function": call} for call in listed], where))


def _native_tools(row: Mapping[str, Any], where: str) -> tuple[dict[str, Any], ...]:
    """The documents of a system's `tools`, as example_to_json writes them."""
    if not (tools := row.get("tools")):
        return ()
    if row["role"] != "system" or not isinstance(tools, list) or not all(map(_is_document, tools)):
        raise ContentError(
            "`tools` are a list of documents, of a system's message: "
            '{"name": …, "description": …, "arguments": {…}}',
            where=where,
        )
    return tuple(tools)


def _is_document(tool: object) -> bool:
    if not isinstance(tool, dict):
        return False
    return isinstance(tool.get("name"), str) and isinstance(tool.get("arguments"), dict)


def _listed_calls(listed: Any, where: str) -> list[Call]:
    """A message's `tool_calls`, their arguments an object or its JSON text."""
    try:
        functions = [call["function"] for call in listed]
        return [Call(name=_text(f["name"]), arguments=_object(f["arguments"])) for f in functions]
    except (TypeError, LookupError, ValueError) as error:
        raise ContentError(f"calls of a message cannot be read: {error}", where=where) from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a name is no text")
    return value


def _object(value: Any) -> dict[str, Any]:
    value = json.loads(value) if isinstance(value, str) else value
    if not isinstance(value, dict):
        raise ValueError("arguments are no object")
    return value


def read_examples(path: Path) -> list[Example]:
    """Examples of a JSON-lines file. Raises ContentError with file and line."""
    examples = []
    for number, line in _lines(path):
        where = f"{path.name}:{number}"
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ContentError(f"not a JSON object: {error}", where=f"{path}:{number}") from error
        examples.append(example_from_json(row, where))
    return examples


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the examples: {error}", where=str(path)) from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line


def write_examples(path: Path, examples: Iterable[Example]) -> int:
    """Write examples as JSON lines, escapes only (lone surrogates survive); how many there were."""
    return write_rows(path, (example_to_json(example) for example in examples))


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows as JSON lines; how many there were. Raises DiskError."""
    lines = [json.dumps(row) + "\n" for row in rows]
    try:
        path.write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise DiskError(
            f"cannot write the training data: {error.strerror}",
            where=str(path),
            remedy=f"{disk_remedy(error)}, then `factory round` continues",
        ) from error
    return len(lines)


def tools_of(example: Example) -> list[str]:
    """Ids of the tools whose codes the example teaches."""
    if not names_by_code(example):
        return []
    return [tool_id for text in answers(example) for tool_id in PLACEHOLDER.findall(text)]
