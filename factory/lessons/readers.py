"""One reader a format of labelled rows; each tells its own rows by keys that only they have.

answer tree, toolllama, toolgen, transcripts   trajectories (factory.lessons.trajectories)
conversations, messages   chats: `factory export trl`, `openai` and `sharegpt`, TRL, ToolACE, Hermes
glaive        {system, chat} as one text each
bfcl          {question or query, function} and {id, ground_truth}, in one row or in two files
seal-tools    {query, calling}; documents are in its tool.jsonl
callnavi      {question, ground_truth: {API, parameters}}; documents are in its APISchema
toolbench     {query, api_list, relevant APIs}
needed        {query, tool}: names of tools, alone or as ToolSense and MetaTool write them
toolalpaca    one request of an API (factory.lessons.toolalpaca)
sgd           {services, turns} of dialogues; documents are in its schema.json
snips         {INTENT: [{data: [{text, entity}]}]}
apibank       {instruction, input, expected_output or output}
parquet       {query, tools_json, calls_json} of `factory export parquet`
plain         {query, tools} and {query, tools, calls or answers, answer}; `factory export xlam`
document      a tool document in any dialect
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from factory.domain.canon import to_json
from factory.domain.jsontext import JsonTextError, parse_strict, show
from factory.domain.records import Call
from factory.lessons.conversations import (
    find_documents,
    read_answer,
    read_calls,
    read_documents,
    read_lesson,
    read_turns,
)
from factory.lessons.records import Document, Lesson, Utterance
from factory.lessons.toolalpaca import is_request, read_request
from factory.lessons.trajectories import (
    is_toolgen,
    is_toolllama,
    is_transcripts,
    read_toolgen,
    read_toolllama,
    read_transcripts,
    read_tree,
)
from factory.score.calls.bfcl import gold_calls
from factory.score.calls.decode import decode
from factory.tools.dialects import read_dialect
from factory.tools.sources import QUERY_FIELDS, request_text

Row = Mapping[str, Any]


class RowReader(NamedTuple):
    """How one format is told and read."""

    knows: Callable[[Row], bool]
    """Whether the row is of this format, by its keys."""
    read: Callable[[Row, str], Iterable[Lesson]]
    """Its lessons. Raises ValueError or LookupError with what is wrong."""


def read_row(value: object, where: str) -> tuple[str, list[Lesson]]:
    """The name of the format and the lessons of a row. Raises ValueError with the cause."""
    if not isinstance(value, dict):
        raise ValueError(f"a row is an object, not a {type(value).__name__}")
    name = next((name for name, reader in READERS.items() if reader.knows(value)), "")
    if not name:
        keys = ", ".join(map(str, value))[:200]
        raise ValueError(f"no reader knows a row with the keys {keys}: {', '.join(READERS)}")
    try:
        lessons = list(READERS[name].read(value, where))
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"it looks like {name}, and is not: {error!r}") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not lessons:
        raise ValueError(f"it looks like {name}, and holds neither a request nor a document")
    return name, lessons


def _has(*keys: str) -> Callable[[Row], bool]:
    return lambda row: all(key in row for key in keys)


def _read_conversation(row: Row, where: str) -> Iterator[Lesson]:
    turns = read_turns(row.get("messages", row.get("conversations")))
    if isinstance(row.get("system"), str):
        turns.insert(0, Utterance(speaker="system", text=row["system"]))
    yield read_lesson(turns, read_documents(row.get("tools")), where)


_GLAIVE_TURN = re.compile(r"(?:^|\n)[^\S\n]*+(USER|ASSISTANT|FUNCTION RESPONSE):")
_GLAIVE_CALL = re.compile(r"<functioncall>\s*(\{.*\})", re.DOTALL)
_GLAIVE_ARGUMENTS = re.compile(r"\"arguments\":\s*'(.*)'\s*\}\s*$", re.DOTALL)
_GLAIVE_SPEAKERS = {"USER": "user", "ASSISTANT": "assistant", "FUNCTION RESPONSE": "tool"}


def _read_glaive(row: Row, where: str) -> Iterator[Lesson]:
    _, *parts = _GLAIVE_TURN.split(row["chat"])
    messages: list[dict[str, Any]] = []
    for word, text in zip(parts[::2], parts[1::2], strict=True):
        message: dict[str, Any] = {"role": _GLAIVE_SPEAKERS[word]}
        text = text.replace("<|endoftext|>", "").strip()
        if word == "ASSISTANT" and (call := _GLAIVE_CALL.search(text)):
            message["tool_calls"] = _glaive_call(call[1])
        messages.append(message | {"content": text})
    documents = find_documents(row["system"]) if isinstance(row.get("system"), str) else ()
    yield read_lesson(read_turns(messages), documents, where)


def _glaive_call(text: str) -> Any:
    """A call whose arguments stand in single quotes, which are not JSON's."""
    quoted = _GLAIVE_ARGUMENTS.search(text)
    if quoted is None:
        return parse_strict(text)
    inner = quoted[1].replace("\\'", "'")
    return parse_strict(text[: quoted.start()] + '"arguments": ' + inner + "}")


def _read_bfcl(row: Row, where: str) -> Iterator[Lesson]:
    """Both halves of an item, or one of them; the first allowed value of each argument counts."""
    calls: tuple[Call, ...] | None = None
    if "ground_truth" in row:
        truth = parse_strict(to_json(_objects(row["ground_truth"], "ground_truth")))
        calls = gold_calls(truth)
    asked = row.get("question", row.get("query"))
    if asked is None:
        yield Lesson(where=where, calls=calls, key=str(row["id"]))
        return
    yield Lesson(
        where=where,
        query=_question(asked),
        documents=read_documents(row["function"]),
        names=_names_of(calls),
        calls=calls,
        key="" if calls is not None else str(row["id"]),
    )


def _question(value: Any) -> str:
    """The request of a text, of messages, or of BFCL's single turn of messages."""
    if isinstance(value, str):
        return request_text(value)
    if value and isinstance(value[0], list):
        if len(value) != 1:
            raise ValueError(f"{len(value)} turns; rows of one are read")
        value = value[0]
    asked = [turn for turn in read_turns(value) if turn.speaker == "user"]
    if len(asked) != 1:
        raise ValueError(f"{len(asked)} requests in one question")
    return request_text(asked[0].text)


def _objects(value: Any, what: str) -> list[dict[str, Any]]:
    listed = value if isinstance(value, list) else [value]
    if not all(isinstance(each, dict) for each in listed):
        raise ValueError(f"{what} is {show(value)}, not a list of objects")
    return listed


def _names_of(calls: Iterable[Call] | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(call.name for call in calls or ()))


def _read_seal_tools(row: Row, where: str) -> Iterator[Lesson]:
    listed = _objects(row["calling"], "calling")
    calls = read_calls([{"name": c["api"], "arguments": c["parameters"]} for c in listed])
    query = request_text(row["query"])
    yield Lesson(where=where, query=query, names=_names_of(calls), calls=calls)


def _read_callnavi(row: Row, where: str) -> Iterator[Lesson]:
    names, given = row["ground_truth"]["API"], row["ground_truth"]["parameters"]
    if len(names) != len(given):
        raise ValueError(f"{len(names)} APIs and {len(given)} objects of parameters")
    pairs = zip(names, given, strict=True)
    calls = read_calls([{"name": name, "arguments": arguments} for name, arguments in pairs])
    query = _question(row["question"])
    yield Lesson(where=where, query=query, names=_names_of(calls), calls=calls)


RELEVANT = ("relevant APIs", "relevant_APIs", "relevant_apis")


def _read_toolbench(row: Row, where: str) -> Iterator[Lesson]:
    relevant = next((row[key] for key in RELEVANT if key in row), None)
    if not relevant:
        raise ValueError("it does not say which of its APIs are relevant")
    documents = read_documents(row["api_list"])
    names = tuple(f"{tool}&&{api}" for tool, api in relevant)
    yield Lesson(where=where, query=request_text(row["query"]), documents=documents, names=names)


def _read_needed(row: Row, where: str) -> Iterator[Lesson]:
    listed = row["tool"] if isinstance(row["tool"], list) else [row["tool"]]
    names = tuple(each if isinstance(each, str) else str(each["tool_name"]) for each in listed)
    documents = read_documents(dict(row)) if "analyzed_tools" in row else ()
    yield Lesson(where=where, query=request_text(row["query"]), documents=documents, names=names)


def _read_sgd(row: Row, where: str) -> Iterator[Lesson]:
    """A lesson for each call of a dialogue: what was asked since the call before."""
    asked: list[str] = []
    for number, turn in enumerate(row["turns"], 1):
        if turn["speaker"] == "USER":
            asked.append(turn["utterance"])
            continue
        called = [frame["service_call"] for frame in turn["frames"] if "service_call" in frame]
        if called and asked:
            calls = read_calls(
                [{"name": c["method"], "arguments": c["parameters"]} for c in called]
            )
            query = request_text("\n".join(asked))
            place = f"{where} turn {number}"
            yield Lesson(where=place, query=query, names=_names_of(calls), calls=calls)
            asked = []


def _is_snips(row: Row) -> bool:
    listed = next(iter(row.values()), None)
    first = listed[0] if isinstance(listed, list) and listed else None
    return len(row) == 1 and isinstance(first, dict) and isinstance(first.get("data"), list)


def _read_snips(row: Row, where: str) -> Iterator[Lesson]:
    """One tool an intent, whose arguments are the slots that any of its requests fills."""
    ((intent, rows),) = row.items()
    slots = sorted({part["entity"] for each in rows for part in each["data"] if "entity" in part})
    properties = {slot: {"type": "string"} for slot in slots}
    document = {"name": intent, "parameters": {"type": "object", "properties": properties}}
    (tool,) = read_dialect(document)
    for number, each in enumerate(rows, 1):
        parts = each["data"]
        arguments = {part["entity"]: part["text"] for part in parts if "entity" in part}
        yield Lesson(
            where=f"{where} {intent}[{number}]",
            query=request_text("".join(part["text"] for part in parts)),
            documents=(tool,),
            names=(intent,),
            calls=(Call(name=intent, arguments=arguments),),
        )


_API_REQUEST = re.compile(r"\[\s*\w+\(.*\)\s*\]", re.DOTALL)


def _read_apibank(row: Row, where: str) -> Iterator[Lesson]:
    """What the dialogue has come to is the request; the descriptions are in the instruction."""
    expected = str(row.get("expected_output", row.get("output")))
    written = _API_REQUEST.search(expected)
    parsed = decode(written[0], "python") if written else None
    if parsed is None or not parsed.calls:
        raise ValueError(f"no call is due: {show(expected)}")
    asked = str(row["input"]).strip().removesuffix("Generate API Request:")
    documents = _apibank_documents(str(row["instruction"]))
    yield Lesson(
        where=where,
        query=request_text(asked),
        documents=documents,
        names=_names_of(parsed.calls),
        calls=parsed.calls,
    )


def _apibank_documents(text: str) -> tuple[Document, ...]:
    found: list[Document] = []
    for line in text.splitlines():
        try:
            value = parse_strict(line) if line.lstrip().startswith("{") else None
        except JsonTextError:
            continue
        if isinstance(value, dict) and "input_parameters" in value:
            properties = value["input_parameters"]
            named = {"name": value.get("name", value.get("apiCode")), "required": [*properties]}
            table = {"description": value.get("description"), "parameters": properties}
            found += read_dialect(named | table)
    return tuple(found)


def _read_parquet(row: Row, where: str) -> Iterator[Lesson]:
    """A row of the ledger's view `accepted`."""
    tools = parse_strict(row["tools_json"])
    documents = tuple(dict(tool["document"]) for tool in tools)
    text = row["calls_json"]
    calls, answer = _read_label(text if read_calls(text) else None, row)
    yield Lesson(
        where=where,
        query=request_text(row["query"]),
        documents=documents,
        names=_names_of(calls) or tuple(str(document["name"]) for document in documents),
        calls=calls,
        answer=answer,
    )


CALL_FIELDS = ("calls", "answers", "tool_calls", "function_calls")
ANSWER_FIELDS = ("answer", "response", "output")
BLANK = ("", "null")
"""Texts of calls that say nothing about them."""


def _is_plain(row: Row) -> bool:
    """A row with a request, and with tools or calls."""
    asks = any(isinstance(row.get(name), str) for name in QUERY_FIELDS)
    return asks and ("tools" in row or any(name in row for name in CALL_FIELDS))


def _read_plain(row: Row, where: str) -> Iterator[Lesson]:
    """Tools are documents, or names of documents that other rows give."""
    given = row.get("tools") or ()
    if isinstance(given, str):
        given = parse_strict(given)
    listed = given if isinstance(given, list | tuple) else [given]
    names = tuple(each for each in listed if isinstance(each, str))
    documents = read_documents([each for each in listed if not isinstance(each, str)])
    listed_calls = next((row[name] for name in CALL_FIELDS if name in row), None)
    calls, answer = _read_label(listed_calls, row)
    if calls is None:
        names = names or tuple(str(document["name"]) for document in documents)
    yield Lesson(
        where=where,
        query=request_text(dict(row)),
        documents=documents,
        names=tuple(dict.fromkeys((*names, *_names_of(calls)))),
        calls=calls,
        answer=answer,
    )


def _read_label(listed: Any, row: Row) -> tuple[tuple[Call, ...] | None, str]:
    """The calls, None where nothing tells them, and what is said where none is made."""
    is_told = listed is not None and not (isinstance(listed, str) and listed.strip() in BLANK)
    calls = read_calls(listed) if is_told else None
    text = next((row[name] for name in ANSWER_FIELDS if isinstance(row.get(name), str)), "").strip()
    if calls or not text:
        return calls, ""
    called, answer = read_answer(text)
    if called and calls is not None:
        raise ValueError(f"it calls nothing, and its answer calls: {show(text)}")
    return called, answer


def _read_document(row: Row, where: str) -> Iterator[Lesson]:
    """A server's list of tools has several."""
    value = row.get("tools", row)
    for document in read_documents(value):
        yield Lesson(where=where, documents=(document,))


_DOCUMENT_KEYS = (
    *("function", "parameters", "arguments", "inputSchema", "name_for_model", "intents"),
    *("api_list", "api_name", "required_parameters", "optional_parameters", "desc", "name"),
    *("document_content", "tools"),
)

_CHAT_KEYS = ("conversation", "dialogue", "dialog", "history", "ground_truth")
_SPEAKER_KEYS = {"role", "from", "speaker"}


def _is_document(row: Row) -> bool:
    """A row with a key of a document, and with neither a request nor a chat, which are labels."""
    asks = any(isinstance(row.get(name), str) for name in QUERY_FIELDS)
    return any(key in row for key in _DOCUMENT_KEYS) and not (
        asks or any(key in row for key in _CHAT_KEYS) or any(map(_is_chat, row.values()))
    )


def _is_chat(value: object) -> bool:
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, dict) and bool(_SPEAKER_KEYS & first.keys())


READERS: Mapping[str, RowReader] = {
    "answer tree": RowReader(_has("answer_generation"), read_tree),
    "toolllama": RowReader(is_toolllama, read_toolllama),
    "toolgen": RowReader(is_toolgen, read_toolgen),
    "transcripts": RowReader(is_transcripts, read_transcripts),
    "messages": RowReader(_has("messages"), _read_conversation),
    "conversations": RowReader(_has("conversations"), _read_conversation),
    "glaive": RowReader(_has("chat"), _read_glaive),
    "callnavi": RowReader(
        lambda row: (
            "question" in row
            and isinstance(row.get("ground_truth"), dict)
            and "API" in row["ground_truth"]
        ),
        _read_callnavi,
    ),
    "bfcl": RowReader(
        lambda row: (
            {"question", "function"} <= row.keys()
            or {"query", "function", "ground_truth"} <= row.keys()
            or {"id", "ground_truth"} <= row.keys()
        ),
        _read_bfcl,
    ),
    "seal-tools": RowReader(_has("query", "calling"), _read_seal_tools),
    "toolbench": RowReader(_has("query", "api_list"), _read_toolbench),
    "needed": RowReader(_has("query", "tool"), _read_needed),
    "toolalpaca": RowReader(is_request, read_request),
    "sgd": RowReader(_has("services", "turns"), _read_sgd),
    "snips": RowReader(_is_snips, _read_snips),
    "apibank": RowReader(
        lambda row: (
            {"instruction", "input"} <= row.keys()
            and ("expected_output" in row or "API" in str(row.get("output")))
        ),
        _read_apibank,
    ),
    "parquet": RowReader(_has("query", "tools_json", "calls_json"), _read_parquet),
    "plain": RowReader(_is_plain, _read_plain),
    "document": RowReader(_is_document, _read_document),
}
"""By name; the first that knows a row reads it."""
