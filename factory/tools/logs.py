"""Logs of what people asked and models did, as conversations in OpenAI's messages.

chats         {messages}, {conversations}, {prompt, completion}: OpenAI, TRL, ShareGPT, Anthropic;
              Gemini's {contents}; {input, output} of OpenAI's; a request with its response
spans         OpenTelemetry: gen_ai.* attributes and events, older dotted attributes, those of
              OpenInference, alone or in an exporter's resourceSpans
runs          LangSmith's, with their children
observations  Langfuse's, alone or in their trace
events        agents' transcripts, an event a line; a list of messages, a message a row

A conversation is split at its users' turns: each is a request with what was answered to it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from factory.domain.canon import digest, query_id
from factory.domain.jsontext import parse_strict
from factory.tools.packed import unpack, unpack_said

Message = dict[str, Any]

_ROLES = {
    **dict.fromkeys(("system", "developer", "SystemMessage"), "system"),
    **dict.fromkeys(("user", "human", "HumanMessage"), "user"),
    **dict.fromkeys(("assistant", "ai", "gpt", "model", "bot", "AIMessage"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "ToolMessage"), "tool"),
    **dict.fromkeys(("function_response", "FunctionMessage", "function_call_output"), "tool"),
    "AIMessageChunk": "assistant",
    "HumanMessageChunk": "user",
    "function_call": "assistant",
}
_CALLS = ("tool_call", "tool_use", "function_call", "functionCall", "toolUse")
_RESULTS = (
    *("tool_call_response", "tool_result", "function_call_output", "functionResponse"),
    "toolResult",
)
_HIDDEN = ("thinking", "reasoning", "redacted_thinking")


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """A conversation. Example: Talk(messages=[{"role": "user", "content": "…"}], tools=[…])."""

    messages: list[Message]
    tools: list[Any] = field(default_factory=list)
    """Tools on offer, in any dialect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedTurn:
    """A user's turn with what was answered to it."""

    text: str
    answer: list[Message]
    """The messages up to the next request."""
    tools: list[Any]
    before: str = ""
    """What stands for the requests before it in its conversation; see follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A row that is a part of a conversation; without messages it says nothing of it."""

    session: str
    messages: list[Message]


def follow(before: str, text: str) -> str:
    """What stands for the requests up to a text, after those that `before` stands for."""
    return digest(f"{before}{query_id(text)}")


def split_talk(talk: Talk) -> Iterator[AskedTurn]:
    """The requests of a conversation, first to last."""
    text, answer, before = "", list[Message](), ""
    for message in talk.messages:
        if message["role"] == "user":
            if text:
                yield AskedTurn(text=text, answer=answer, tools=talk.tools, before=before)
                before = follow(before, text)
            text, answer = message["content"], []
        else:
            answer.append(message)
    if text:
        yield AskedTurn(text=text, answer=answer, tools=talk.tools, before=before)


def open_log(value: object) -> list[Talk] | None:
    """The conversations of a row; None where it is no row of a log.

    Raises ValueError where it is one, and cannot be read.
    """
    if isinstance(value, list) and value and all(map(_is_message, value)):
        return [Talk(messages=_read_all(value))]
    if not isinstance(value, dict):
        return None
    if "resourceSpans" in value or "scopeSpans" in value:
        return [talk for span in _find_spans(value) for talk in _open_span(span)]
    if (attributes := _attributes_of(value)) is not None:
        return _open_span({**value, "attributes": attributes})
    if "run_type" in value or ("child_runs" in value and "inputs" in value):
        return _open_run(value)
    if _is_langfuse(value):
        return _open_observation(value)
    if isinstance(body := value.get("body"), dict) and _asks(body):
        return [_read_exchange(body, value)]
    if isinstance(request := value.get("request"), dict) and _asks(request):
        return [_read_exchange(request, value)]
    return [_read_exchange(value, value)] if _asks(value) else None


def is_trace(value: object) -> bool:
    """Whether a row is what a model did as a program saw it: no file of labelled data has such."""
    if not isinstance(value, dict) or {"messages", "conversations"} & value.keys():
        return False
    inner = (value.get("body"), value.get("request"))
    return (
        bool({"resourceSpans", "scopeSpans", "run_type"} & value.keys())
        or _attributes_of(value) is not None
        or _is_langfuse(value)
        or any(isinstance(part, dict) and _asks(part) for part in inner)
    )


def open_event(value: object) -> Event | None:
    """A row of a transcript; None where it is none."""
    if not isinstance(value, dict):
        return None
    session = str(value.get("sessionId", value.get("session_id", "")))
    kind, message = value.get("type"), value.get("message")
    if "sessionId" in value or "parentUuid" in value:
        is_said = isinstance(message, dict) and not value.get("isMeta")
        return Event(session=session, messages=_read_all([message] if is_said else []))
    payload = value.get("payload")
    if isinstance(payload, dict) and isinstance(kind, str):
        said = [payload] if kind == "response_item" and _is_message(payload) else []
        return Event(session=session, messages=_read_all(said))
    if _is_message(value) and not _asks(value):
        return Event(session=session, messages=_read_all([value]))
    return None


# Messages --------------------------------------------------------------------------------------


def _is_message(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    if value.get("type") in (*_CALLS, *_RESULTS) and ("call_id" in value or "name" in value):
        return True
    wanted = {"content", "parts", "data", "kwargs", "tool_calls"}
    if {"role", "from"} & value.keys():  # a bare `type` beside a text is any column's
        wanted |= {"value", "text"}
    return _role_of(value) in _ROLES and bool(wanted & value.keys())


def _role_of(message: Mapping[str, Any]) -> str:
    if isinstance(message.get("id"), list) and "kwargs" in message:  # LangChain's own writing
        return str(message["id"][-1])
    word = message.get("role", message.get("from", message.get("type", message.get("_type"))))
    return str(word)


def _read_all(messages: Iterable[Any]) -> list[Message]:
    found: list[Message] = []
    for message in messages:
        found += _read_message(message)
    return found


def _read_message(message: Any) -> list[Message]:
    """A message of any notation; its calls, texts and results are parts of one or more of ours."""
    if not isinstance(message, dict):
        raise ValueError(f"a message is a {type(message).__name__}, not an object")
    kind = message.get("type")
    if kind in _HIDDEN:
        return []
    if "role" not in message and kind in (*_CALLS, *_RESULTS):
        return _read_parts("assistant" if kind in _CALLS else "tool", [message])
    word = _role_of(message)
    if word not in _ROLES:
        raise ValueError(f"a message has the unknown role {word!r}")
    role = _ROLES[word]
    inner = message.get("kwargs", message.get("data"))
    body = inner if isinstance(inner, dict) else message
    content = body.get("content", body.get("value", body.get("parts", body.get("text"))))
    if role == "tool":
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        named = {
            key: body[key] for key in ("tool_call_id", "name") if isinstance(body.get(key), str)
        }
        return [{"role": "tool", "content": text, **named}]
    if word == "function_call":
        return [{"role": "assistant", "content": "", "tool_calls": _read_calls(content)}]
    made = _read_parts(role, content if isinstance(content, list) else [content])
    more = body.get("additional_kwargs")
    listed = body.get("tool_calls") or body.get("function_call")
    if not listed and isinstance(more, dict):
        listed = more.get("tool_calls") or more.get("function_call")
    if listed and role == "assistant" and listed not in BLANK_CALLS:
        made = [each for each in made if "tool_calls" not in each] or [
            {"role": role, "content": ""}
        ]
        made[-1]["tool_calls"] = _read_calls(listed)
    return made


BLANK_CALLS = ("", "[]", "{}")


def _read_parts(role: str, parts: Iterable[Any]) -> list[Message]:
    """The texts of a message as one, its calls with them, results as messages of tools."""
    texts: list[str] = []
    calls: list[Any] = []
    results: list[Message] = []
    for part in parts:
        if part is None:
            continue
        if isinstance(part, str):
            texts.append(part)
            continue
        if not isinstance(part, dict):
            raise ValueError(f"a part of a message is a {type(part).__name__}")
        kind = part.get("type")
        if kind in _HIDDEN or part.get("thought") is True:
            continue
        call = next((part[key] for key in ("functionCall", "toolUse") if key in part), None)
        result = next(
            (part[key] for key in ("functionResponse", "toolResult") if key in part), None
        )
        if call is not None or kind in _CALLS:
            calls.append(call if call is not None else part)
        elif result is not None or kind in _RESULTS:
            said = part if result is None else result
            keys = ("content", "result", "response", "output")
            results.append(_read_result(next((said[k] for k in keys if k in said), ""), said))
        elif isinstance(text := part.get("text", part.get("content")), str):
            texts.append(text)
    text = "\n".join(texts).strip()
    if not text and not calls and results:
        return results
    made: Message = {"role": role, "content": text}
    if calls:
        made["tool_calls"] = _read_calls(calls)
    is_said = text or calls or role != "user"
    return [*results, *([made] if is_said else [])]


def _read_result(said: Any, part: Mapping[str, Any]) -> Message:
    text = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
    key = part.get("tool_use_id", part.get("call_id", part.get("id")))
    named = {"tool_call_id": key} if isinstance(key, str) else {}
    return {"role": "tool", "content": text, **named}


_ARGUMENTS = ("arguments", "args", "input", "parameters")


def _read_calls(listed: Any) -> Any:
    """Calls as OpenAI writes them; text is left to be read."""
    if listed == "null":
        raise ValueError("its calls are the text null")
    if isinstance(listed, str):
        return listed
    made = []
    for call in listed if isinstance(listed, list) else [listed]:
        inner = call.get("function", call) if isinstance(call, dict) else None
        if isinstance(inner, dict) and isinstance(inner.get("tool_call"), dict):
            inner = inner["tool_call"].get("function", inner["tool_call"])
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
            raise ValueError("a logged call has no name")
        given: Any = next((inner[key] for key in _ARGUMENTS if key in inner), {})
        given = {} if given == "" else given
        key = call.get("id", call.get("call_id"))
        made.append(
            {
                **({"id": key} if isinstance(key, str) else {}),
                "type": "function",
                "function": {"name": inner["name"], "arguments": given},
            }
        )
    return made


# Chats -----------------------------------------------------------------------------------------

_TALKS = ("messages", "conversations", "contents")


def _asks(row: Mapping[str, Any]) -> bool:
    for key in _TALKS:
        if key in row:
            return True
    for key in ("prompt", "input"):
        listed = row.get(key)
        if isinstance(listed, list) and listed and all(map(_is_message, listed)):
            return True
    return isinstance(row.get("input"), str) and isinstance(row.get("output"), list)


def _read_exchange(row: Mapping[str, Any], whole: Mapping[str, Any]) -> Talk:
    """A request to a model, and its response where that stands beside it."""
    listed = unpack_said(next((row[k] for k in (*_TALKS, "prompt", "input") if k in row), None))
    if isinstance(listed, dict) and "messages" in listed:
        row, listed = {**row, **listed}, listed["messages"]
    if isinstance(listed, str):
        listed = [{"role": "user", "content": listed}]
    if isinstance(listed, list) and len(listed) == 1 and isinstance(listed[0], list):
        (listed,) = listed
    if not isinstance(listed, list) or not listed:
        raise ValueError("the conversation is no list of messages")
    messages = _read_all(listed)
    system = row.get("system", row.get("systemInstruction", row.get("instructions")))
    if system:
        body = system if isinstance(system, dict) else {"content": system}
        messages = [*_read_message({**body, "role": "system"}), *messages]
    messages += _read_response(whole)
    return Talk(messages=messages, tools=listed_tools(row) or listed_tools(whole))


_RESPONSES = ("response", "completion", "chosen", "output", "outputs", "choices", "candidates")


def _read_response(row: Mapping[str, Any]) -> list[Message]:
    """What a model answered; nothing where that is not there."""
    for key in _RESPONSES:
        if key in row and (found := _unpack_answer(row[key])):
            return found
    return []


def _unpack_answer(value: Any) -> list[Message]:
    """The messages of a response that may be JSON text; of text without messages that text."""
    if isinstance(value, str) and value.strip() in BLANK_CALLS:
        return []
    try:
        found = _find_answer(unpack(value))
    except ValueError:
        if not isinstance(value, str):
            raise
        found = []
    return found or _find_answer(value)


def _find_answer(value: Any) -> list[Message]:
    """The messages of a response, whatever they are wrapped in."""
    if isinstance(value, str):
        return [{"role": "assistant", "content": value}] if value.strip() else []
    if isinstance(value, list):
        value = [e for e in value if not (isinstance(e, dict) and e.get("type") in _HIDDEN)]
        if value and isinstance(value[0], list):
            return _find_answer(value[0])
        if value and all(map(_is_message, value)):
            return _read_all(value)
        return _find_answer(value[0]) if value and isinstance(value[0], dict) else []
    if not isinstance(value, dict):
        return []
    if _is_message(value):
        return _read_message(value)
    wrappers = ("message", "body", "choices", "generations", "candidates", "messages", "output")
    for key in (*wrappers, "content"):
        if key in value and (found := _find_answer(value[key])):
            return found
    calls = value.get("tool_calls")
    return _read_message({"role": "assistant", "content": "", "tool_calls": calls}) if calls else []


def listed_tools(row: Mapping[str, Any]) -> list[Any]:
    """The tools on offer; JSON text of them is read. Raises ValueError for text that is none."""
    listed = row.get("tools", row.get("functions"))
    if isinstance(listed, str):
        if not listed.strip():
            return []
        try:
            listed = parse_strict(listed)
        except ValueError as error:
            raise ValueError(f"its tools are text that is not JSON: {error}") from error
        if listed is None:
            raise ValueError("its tools are the text null")
    if isinstance(listed, dict):
        listed = [listed]
    if not isinstance(listed, list):
        return []
    return [
        parse_strict(tool) if isinstance(tool, str) and tool[:1] == "{" else tool for tool in listed
    ]


# OpenTelemetry ---------------------------------------------------------------------------------

_DOTTED = re.compile(
    r"(?:gen_ai\.(?P<side>prompt|completion)|llm\.(?P<other>input|output)_messages)\.(?P<number>\d+)\.(?P<rest>.+)"
)
_DOTTED_CALL = re.compile(r"tool_calls\.(\d+)\.(?:tool_call\.)?(?:function\.)?(id|name|arguments)")
_DOTTED_TOOL = re.compile(r"llm\.(?:request\.functions|tools)\.(\d+)\.(.+)")


def _find_spans(value: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for outer in value.get("resourceSpans") or [value]:
        for inner in outer.get("scopeSpans") or outer.get("instrumentationLibrarySpans") or ():
            for span in inner.get("spans") or ():
                if (attributes := _attributes_of(span)) is not None:
                    yield {**span, "attributes": attributes}


def _attributes_of(span: Mapping[str, Any]) -> dict[str, Any] | None:
    """A span's attributes by name, where it or its events speak of a model; else None."""
    raw = span.get("attributes", span.get("span_attributes", span.get("SpanAttributes")))
    attributes = _plain(raw)
    if any(str(key).startswith(("gen_ai.", "llm.")) for key in attributes):
        return attributes
    events = span.get("events")
    listed = events if isinstance(events, list) else []
    names = [str(each.get("name")) for each in listed if isinstance(each, dict)]
    if any(name.startswith("gen_ai.") for name in names):
        return attributes
    is_span = bool({"spanId", "span_id", "traceId", "trace_id"} & span.keys()) and raw is not None
    return {} if is_span else None


def _plain(attributes: Any) -> dict[str, Any]:
    """Attributes as a table, from the list of keys and typed values of OTLP too."""
    if isinstance(attributes, str):
        attributes = unpack(attributes)
    if isinstance(attributes, list):
        pairs = [each for each in attributes if isinstance(each, dict) and "key" in each]
        return {str(each["key"]): _typed(each.get("value")) for each in pairs}
    return attributes if isinstance(attributes, dict) else {}


def _typed(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if "kvlistValue" in value:
        return _plain(value["kvlistValue"].get("values", []))
    if "arrayValue" in value:
        return [_typed(each) for each in value["arrayValue"].get("values", [])]
    if "intValue" in value:
        return int(value["intValue"])
    return next(iter(value.values()), None)


def _open_span(span: Mapping[str, Any]) -> list[Talk]:
    """The conversation of a model's span; none where the span is about something else."""
    attributes = dict(span["attributes"])
    events = [each for each in span.get("events") or () if isinstance(each, dict)]
    said: list[Message] = []
    for event in events:
        inner = {**_plain(event.get("attributes")), **_plain(event.get("body"))}
        attributes |= {key: part for key, part in inner.items() if key.startswith("gen_ai.")}
        said += _read_span_event(str(event.get("name")), inner)
    messages: list[Message] = []
    if system := unpack_said(attributes.get("gen_ai.system_instructions")):
        parts = system if isinstance(system, list) else [system]
        messages += _read_parts("system", parts)
    for key in ("gen_ai.input.messages", "gen_ai.prompt", "gen_ai.output.messages"):
        listed = unpack_said(attributes.get(key))
        messages += _read_all(listed if isinstance(listed, list) else [])
        if isinstance(listed, str) and listed:
            role = "assistant" if "output" in key else "user"
            messages.append({"role": role, "content": listed})
    if not any(message["role"] == "user" for message in messages):
        messages = _read_dotted(attributes) or said
    defined = unpack(attributes.get("gen_ai.tool.definitions"))
    if defined == "null":
        raise ValueError("its tools are the text null")
    tools = [unpack(each) for each in defined] if isinstance(defined, list) else []
    tools = tools or _dotted_tools(attributes)
    return [Talk(messages=messages, tools=tools)] if messages else []


def _read_span_event(name: str, inner: Mapping[str, Any]) -> list[Message]:
    """`gen_ai.user.message` and its like, one message an event."""
    found = re.fullmatch(r"gen_ai\.(system|user|assistant|tool)\.message|gen_ai\.choice", name)
    if found is None:
        return []
    body = unpack_said(inner.get("message", inner))
    body = dict(body) if isinstance(body, dict) else {"content": body}
    for key in ("content", "tool_calls", "gen_ai.event.content"):
        if key in body:
            opened = unpack(body[key]) if key == "tool_calls" else unpack_said(body[key])
            body[key.removeprefix("gen_ai.event.")] = opened
    if isinstance(body.get("content"), dict):
        body |= body["content"]
    return _read_message({**body, "role": found[1] or "assistant"})


def _read_dotted(attributes: Mapping[str, Any]) -> list[Message]:
    """Messages whose every field is an attribute of its own: gen_ai.prompt.0.content."""
    made: dict[tuple[int, int], Message] = {}
    calls: dict[tuple[int, int], dict[int, dict[str, Any]]] = {}
    for key, value in attributes.items():
        found = _DOTTED.fullmatch(key)
        if found is None:
            continue
        side = found["side"] in ("completion",) or found["other"] == "output"
        place, name = (int(side), int(found["number"])), found["rest"].removeprefix("message.")
        message = made.setdefault(place, {"role": "assistant" if side else "user", "content": ""})
        if call := _DOTTED_CALL.fullmatch(name):
            calls.setdefault(place, {}).setdefault(int(call[1]), {})[call[2]] = value
        elif name in ("role", "content", "tool_call_id"):
            message[name] = unpack_said(value) if name == "content" else value
    for place, several in calls.items():
        made[place]["tool_calls"] = [several[number] for number in sorted(several)]
    return _read_all(made[place] for place in sorted(made))


def _dotted_tools(attributes: Mapping[str, Any]) -> list[Any]:
    tools: dict[int, Any] = {}
    for key, value in attributes.items():
        if found := _DOTTED_TOOL.fullmatch(key):
            if found[2].endswith("json_schema"):
                tools[int(found[1])] = unpack(value)
            else:
                tools.setdefault(int(found[1]), {})[found[2]] = unpack(value)
    return [tools[number] for number in sorted(tools)]


# LangSmith and Langfuse ------------------------------------------------------------------------


def _open_run(run: Mapping[str, Any]) -> list[Talk]:
    """Its model's runs where it has some below it, else what it was asked itself."""
    below = [
        talk for child in run.get("child_runs") or () for talk in _open_run(child) if talk.messages
    ]
    if below:
        return below
    inputs, outputs = unpack(run.get("inputs")) or {}, run.get("outputs") or {}
    if run.get("run_type") in ("tool", "retriever", "embedding", "parser") or not inputs:
        return []
    extra = run.get("extra") if isinstance(run.get("extra"), dict) else {}
    given = extra.get("invocation_params") or {} if extra else {}
    tools = listed_tools(inputs) or listed_tools(given)
    return [_pair(inputs, outputs, tools)]


def _is_langfuse(row: Mapping[str, Any]) -> bool:
    if isinstance(row.get("observations"), list):
        return True
    is_observed = row.get("type") in ("GENERATION", "SPAN", "EVENT", "AGENT", "TOOL", "CHAIN")
    return is_observed and ("input" in row or "traceId" in row or "trace_id" in row)


def _open_observation(row: Mapping[str, Any]) -> list[Talk]:
    below = [
        talk
        for each in row.get("observations") or ()
        if isinstance(each, dict) and each.get("type") == "GENERATION"
        for talk in _open_observation(each)
    ]
    if below:
        return below
    if row.get("type") not in (None, "GENERATION"):
        return []
    given, output = unpack_said(row.get("input"), _TEXTS), row.get("output")
    if given is None or given == "":
        return []
    inputs = given if isinstance(given, dict) else {"messages": given}
    more = (row.get("modelParameters"), row.get("model_parameters"), row.get("metadata"))
    tools = listed_tools(inputs)
    for table in more:
        tools = tools or listed_tools(_plain(table))
    return [_pair(inputs, output, tools)]


_TEXTS = ("input", "question", "query", "prompt", "text", "user_input")


def _pair(inputs: Any, outputs: Any, tools: list[Any]) -> Talk:
    """What a model or chain was given and gave."""
    listed = inputs.get("messages", inputs.get("input")) if isinstance(inputs, dict) else inputs
    listed = unpack_said(listed)
    if isinstance(listed, dict) and "messages" in listed:
        listed = listed["messages"]
    if isinstance(listed, list) and len(listed) == 1 and isinstance(listed[0], list):
        (listed,) = listed
    if isinstance(listed, dict) and _is_message(listed):
        listed = [listed]
    if not isinstance(listed, list):
        text = listed if isinstance(listed, str) else None
        named = (inputs[key] for key in _TEXTS if isinstance(inputs.get(key), str))
        text = text or next(named, "")
        listed = [{"role": "user", "content": text}] if text else []
    said = [
        each if isinstance(each, dict) else {"role": "user", "content": each} for each in listed
    ]
    messages = _read_all(said)
    answer = _unpack_answer(outputs)
    # Some write the whole conversation once more as the answer.
    if len(answer) > len(messages) and answer[: len(messages)] == messages:
        answer = answer[len(messages) :]
    return Talk(messages=[*messages, *answer], tools=tools)
