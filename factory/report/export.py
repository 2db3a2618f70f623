"""Accepted samples, and pairs of a winning and a losing answer, as files that trainers read.

trl        messages and tools (TRL's SFTTrainer)
dpo        prompt, chosen, rejected and tools (TRL's DPOTrainer and RewardTrainer)
openai     messages and tools (fine-tuning of the OpenAI API)
sharegpt   conversations and tools (LlamaFactory)
xlam       id, query, answers and tools (xLAM, APIGen)
parquet    the rows of the view `accepted`, and how a round made one that it made

A conversation that was taught is written whole (factory.report.conversations); xlam and parquet
have its first answer.

An Arrow column has one type for all rows: objects of different tools become one struct with
everybody's keys, missing ones filled with null, and a column that holds 5 and 5.0 becomes floats.
So what differs from row to row is JSON text wherever a loader makes Arrow of a file: a call's
arguments are the characters that the ledger holds, and tools are a JSON text, which TRL and
LlamaFactory parse themselves. Only OpenAI's API wants tools as objects. A chat template that prints
`arguments | tojson` whatever it is given would quote the text once more; it has to ask
`arguments is string` first.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from factory.domain.canon import to_json
from factory.domain.disk import disk_remedy
from factory.domain.failures import DiskError, InputError
from factory.domain.records import Form
from factory.judge.reading import SYNTAX, parse_calls
from factory.ledger.database import Ledger
from factory.ledger.losing import rank_losing
from factory.report.conversations import BUILDERS
from factory.tools.schema import respell

if TYPE_CHECKING:
    import pyarrow as pa

Format = Literal["trl", "dpo", "openai", "sharegpt", "xlam", "parquet"]
Line = dict[str, Any]

SAMPLES = """
with kept as (
  select round, query_id, query, tools_json, calls_json, agreement, '' as made_by
  from accepted
  union all
  select round, query_id, query, tools_json, calls_json, null, made_by
  from made where $made and status = 'accepted'
)
select round, query_id, query, tools_json, calls_json, agreement, made_by,
       label.answer, label.turns, coalesce(label.is_chat, false) as is_chat
from kept
left join (select round, query_id,
                  any_value(text) filter (stage = 'label') as answer,
                  any_value(text) filter (stage = 'turns') as turns,
                  bool_or(stage = 'conversation') as is_chat
           from generation where stage in ('label', 'turns', 'conversation')
           group by 1, 2) label using (round, query_id)
where $round = 0 or round = $round
order by round, query_id
"""
"""With what a label says where its right answer calls nothing, or its conversation."""
PAIRS = """
with answers as (
  select round, query_id,
         list(struct_pack(number := sample_index, text := text,
                          form := coalesce(sampling_json ->> 'form', 'own'))
              order by sample_index) as answers
  from generation
  where stage = 'calls' and finish_reason in ('stop', 'length')
  group by round, query_id
),
faults as (
  select round, query_id, list(distinct subject) as faults
  from verdict join latest_judgement using (round, judgement)
  where severity = 'reject' and starts_with(subject, 'sample:')
  group by round, query_id
)
select round, query_id, query, tools_json, calls_json, winner, classes_json, answers,
       coalesce(faults, []) as faults
from accepted
join latest_vote as vote using (round, query_id)
join answers using (round, query_id)
left join faults using (round, query_id)
where winner is not null and ($round = 0 or round = $round)
order by round, query_id
"""
_CHATS = ("messages", "prompt", "chosen", "rejected")
_OPENAI_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_XLAM_TYPES = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "array": "list",
    "object": "dict",
}


class CallText(NamedTuple):
    """A call whose arguments are text. Example: CallText("book_table", '{"people": 4}')."""

    name: str
    arguments: str
    """A JSON object as it was written."""


@dataclass(slots=True, kw_only=True)
class Export:
    """What was written."""

    num_lines: int = 0
    """Lines, or rows."""
    num_made: int = 0
    """Accepted samples that rounds made of others, and that are not in it."""
    left_out: list[str] = field(default_factory=list)
    """Samples that the format cannot hold, each with the cause."""


def export(
    ledger: Ledger,
    to: Format,
    path: Path,
    *,
    round_number: int = 0,
    limit: int = 0,
    pairs: int = 1,
    made: bool = False,
    force: bool = False,
) -> Export:
    """Write accepted samples of a round (0 is all rounds) to a file, aside first, then renamed.

    With `made` also those that rounds made of accepted ones, which no vote stands for. A name that
    ends in .parquet gets Parquet, any other JSON lines. `limit` bounds the lines (0 is all),
    `pairs` the pairs of one query in the format dpo. Raises InputError where the file exists,
    nothing is accepted or can be held, or the format has another suffix, DiskError.
    """
    is_parquet = path.suffix == ".parquet"
    if is_parquet != (to == "parquet") and to not in ("trl", "dpo"):
        wanted = ".parquet" if to == "parquet" else ".jsonl"
        raise InputError(f"the format {to} is written to {wanted} files", where=str(path))
    if path.exists() and not force:
        raise InputError("the file exists", where=str(path), remedy="--force writes over it")
    done = Export()
    lines = islice(_lines(ledger, to, round_number, pairs, made, done), limit or None)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        if is_parquet:
            done.num_lines = _write_parquet(aside, lines, arrow_schema(to))
        else:
            done.num_lines = _write_json_lines(aside, lines)
        if not done.num_lines and done.left_out:
            raise InputError(
                f"all samples ({len(done.left_out)}) were left out: {done.left_out[0]}",
                remedy="choose a format that holds them: trl holds any",
            )
        if not done.num_lines:
            what = (
                "no accepted sample has a losing answer" if to == "dpo" else "nothing is accepted"
            )
            raise InputError(
                what + (f" in round {round_number}" if round_number else ""),
                remedy="`factory status` shows what the rounds gave",
            )
        os.replace(aside, path)
    except OSError as error:
        raise DiskError(
            f"the file cannot be written: {error.strerror or error}",
            where=str(path),
            remedy=f"{disk_remedy(error)}; or choose another folder",
        ) from error
    finally:
        aside.unlink(missing_ok=True)
    return done


def split_calls(calls_json: str) -> list[CallText]:
    """The calls of a `calls_json`; their arguments are slices of it, not parsed and printed again.

    >>> split_calls('[{"name": "f", "arguments": {"x": 5.0}}]')
    [CallText(name='f', arguments='{"x": 5.0}')]
    """
    calls = []
    for start, end in _spans(calls_json, 0):
        members = dict(_members(calls_json[start:end]))
        calls.append(CallText(json.loads(members["name"]), members["arguments"]))
    return calls


def function_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """A tool document as a function with JSON Schema parameters."""
    parameters = respell(document["arguments"])
    return {
        "name": document["name"],
        "description": document.get("description", ""),
        "parameters": {**parameters, "type": "object"},
    }


def _lines(
    ledger: Ledger, to: Format, round_number: int, pairs: int, made: bool, done: Export
) -> Iterator[Line]:
    with ledger.read() as past:
        if not made:
            sql = "select count(*) from made where status = 'accepted' and ? in (0, round)"
            done.num_made = past.query(sql, [round_number]).rows[0][0]
        chosen: dict[str, object] = {"round": round_number}
        if to == "dpo":
            stream = past.stream(PAIRS, chosen)
        else:
            stream = past.stream(SAMPLES, chosen | {"made": made})
        numbers = count()
        for values in chain.from_iterable(stream):
            row = dict(zip(stream.columns, values, strict=True))
            if to == "dpo":
                yield from _preferences(row, pairs)
            elif to == "parquet":
                yield row
            elif line := _line_of(row, to, numbers, done):
                yield line


def _line_of(row: Line, to: Format, numbers: Iterator[int], done: Export) -> Line | None:
    """The line of an accepted sample; None for one that says nothing, or is left out."""
    cause = ""
    if row["turns"] and to in BUILDERS:
        kept = json.loads(row["turns"])
        row = row | {"tools": kept["tools"]}
        try:
            line = BUILDERS[to](kept["turns"]) | {"tools": _tools_as(row, to)}
        except ValueError as error:
            cause = f"its conversation has {error}"
    elif row["calls_json"] == "[]" and not row["answer"]:
        if not row["is_chat"]:
            return None  # a label that names the tools and not the calls
        cause = f"{to} has no trajectories"
        if to in BUILDERS:
            cause = "an earlier version taught it and did not keep its turns: teach it once more"
    else:
        line = _BUILDERS[to](row, next(numbers))
    if to == "openai":
        cause = cause or _openai_fault(row)
    if cause:
        done.left_out.append(f"{row['query_id']}: {cause}")
        return None
    return line


def _to_trl(row: Line, number: int) -> Line:
    return {
        "messages": [_user(row["query"]), _answered(row)],
        "tools": _tools_as(row, "trl"),
    }


def _preferences(row: Line, pairs: int) -> Iterator[Line]:
    """The winning answer against losing ones, at most `pairs` of them.

    Each losing class stands with its first answer, in the order of factory.ledger.losing.
    """
    for text, form in _losers(row)[:pairs]:
        calls = parse_calls(text, syntax=SYNTAX[form]).calls
        lost = (
            {"role": "assistant", "content": text, "tool_calls": None}
            if not calls
            else _called([CallText(call.name, to_json(call.arguments)) for call in calls])
        )
        yield {
            "prompt": [_user(row["query"])],
            "chosen": [_called(split_calls(row["calls_json"]))],
            "rejected": [lost],
            "tools": _tools_as(row, "trl"),
        }


def _losers(row: Line) -> list[tuple[str, Form]]:
    texts = {answer["number"]: (answer["text"], answer["form"]) for answer in row["answers"]}
    broken = [number for number in texts if f"sample:{number}" in row["faults"]]
    ranked = rank_losing(json.loads(row["classes_json"]), row["winner"], texts, broken)
    return [texts[number] for number in ranked]


def _to_openai(row: Line, number: int) -> Line:
    calls = split_calls(row["calls_json"])
    called = [{"id": f"call_{index}", **_function_call(call)} for index, call in enumerate(calls)]
    answer = {"role": "assistant", "tool_calls": called} if calls else _answered(row)
    return {
        "messages": [_user(row["query"]), answer],
        "tools": _tools_as(row, "openai"),
        "parallel_tool_calls": len(calls) > 1,
    }


def _openai_fault(row: Line) -> str:
    """Why the API would refuse the line; empty where it takes it."""
    bad = [f["name"] for f in _functions(row) if not _OPENAI_NAME.fullmatch(f["name"])]
    return f"{bad[0]!r} is no function name there" if bad else ""


def _to_sharegpt(row: Line, number: int) -> Line:
    texts = [
        f'{{"name": {to_json(call.name)}, "arguments": {call.arguments}}}'
        for call in split_calls(row["calls_json"])
    ]
    value = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    answer = {"from": "function_call", "value": value}
    return {
        "conversations": [
            {"from": "human", "value": row["query"]},
            answer if texts else {"from": "gpt", "value": row["answer"]},
        ],
        "tools": _tools_as(row, "sharegpt"),
    }


def _to_xlam(row: Line, number: int) -> Line:
    tools = to_json(
        [{**f, "parameters": _xlam_parameters(f["parameters"])} for f in _functions(row)]
    )
    return {"id": number, "query": row["query"], "answers": row["calls_json"], "tools": tools}


def _xlam_parameters(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters by name, types as Python has them; a parameter's other keys stay."""
    required = schema.get("required") or []
    return {
        name: {
            **(part if isinstance(part, dict) else {}),
            "type": _xlam_type(part) + ("" if name in required else ", optional"),
        }
        for name, part in (schema.get("properties") or {}).items()
    }


def _xlam_type(schema: Any) -> str:
    """`List[int]` and the like."""
    kind = schema.get("type") if isinstance(schema, dict) else None
    if isinstance(kind, list):
        return f"Union[{', '.join(_xlam_type({'type': each}) for each in kind)}]"
    if kind == "array" and isinstance(schema.get("items"), dict) and schema["items"].get("type"):
        return f"List[{_xlam_type(schema['items'])}]"
    return _XLAM_TYPES.get(str(kind), "Any" if kind is None else str(kind))


_BUILDERS: dict[str, Callable[[Line, int], Line]] = {
    "trl": _to_trl,
    "openai": _to_openai,
    "sharegpt": _to_sharegpt,
    "xlam": _to_xlam,
}


def _user(query: str) -> Line:
    return {"role": "user", "content": query, "tool_calls": None}


def _answered(row: Line) -> Line:
    """The message with the calls, or with what is said where nothing is called."""
    if calls := split_calls(row["calls_json"]):
        return _called(calls)
    return {"role": "assistant", "content": row["answer"], "tool_calls": None}


def _called(calls: Sequence[CallText]) -> Line:
    called = [_function_call(call) for call in calls]
    return {"role": "assistant", "content": "", "tool_calls": called}


def _function_call(call: CallText) -> Line:
    return {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _functions(row: Line) -> list[dict[str, Any]]:
    """Those of its conversation, where it has one."""
    documents = row.get("tools")
    if documents is None:
        documents = [tool["document"] for tool in json.loads(row["tools_json"])]
    return [function_of(document) for document in documents]


def _tools_as(row: Line, to: Format) -> Any:
    if to == "sharegpt":
        return to_json(_functions(row))
    return _wrapped(row) if to == "openai" else to_json(_wrapped(row))


def _wrapped(row: Line) -> list[Line]:
    return [{"type": "function", "function": function} for function in _functions(row)]


def _write_json_lines(path: Path, lines: Iterator[Line]) -> int:
    number = 0
    with open(path, "w", encoding="utf-8") as file:
        for number, line in enumerate(lines, 1):  # noqa: B007 - the number of the last
            file.write(json.dumps(_without_null(line), ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return number


def _without_null(value: Any) -> Any:
    """Messages without the keys they lack: an Arrow struct needs them, a JSON line does not."""
    if isinstance(value, list):
        return [_without_null(part) for part in value]
    if isinstance(value, dict) and "role" in value:
        return {key: part for key, part in value.items() if part is not None}
    if isinstance(value, dict):
        return {key: _without_null(part) if key in _CHATS else part for key, part in value.items()}
    return value


def _write_parquet(path: Path, lines: Iterator[Line], schema: pa.Schema) -> int:
    import pyarrow as pa
    from pyarrow import parquet

    number = 0
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        while chunk := list(islice(lines, 1024)):
            writer.write_table(pa.Table.from_pylist(chunk, schema=schema))
            number += len(chunk)
    return number


def arrow_schema(to: Format) -> pa.Schema:
    """Columns of a Parquet file."""
    import pyarrow as pa

    text = pa.string()
    function = pa.struct([("name", text), ("arguments", text)])
    call = pa.struct([("type", text), ("function", function)])
    fields = [("role", text), ("content", text), ("tool_calls", pa.list_(call))]
    if to == "trl":
        fields += [("loss", pa.bool_()), ("silent", pa.list_(text))]
    message = pa.struct(fields)
    if to == "parquet":
        texts = ["query_id", "query", "tools_json", "calls_json"]
        columns = [("round", pa.int32()), *((name, text) for name in texts)]
        return pa.schema([*columns, ("agreement", pa.float64()), ("made_by", text)])
    names = ["messages"] if to == "trl" else ["prompt", "chosen", "rejected"]
    return pa.schema([*((name, pa.list_(message)) for name in names), ("tools", text)])


_DECODER = json.JSONDecoder()
_BLANK = re.compile(r"[ \t\r\n]*")


def _spans(text: str, start: int) -> Iterator[tuple[int, int]]:
    """Where each value of the array or object at `start` begins and ends; an object's keys too."""
    position = _skip(text, _skip(text, start) + 1)
    while text[position] not in "]}":
        _, end = _DECODER.raw_decode(text, position)
        yield position, end
        position = _skip(text, end)
        if text[position] in ",:":
            position = _skip(text, position + 1)


def _members(text: str) -> Iterator[tuple[str, str]]:
    """Keys of an object with the texts of their values."""
    spans = _spans(text, 0)
    for (start, end), (first, last) in zip(spans, spans, strict=True):
        yield json.loads(text[start:end]), text[first:last]


def _skip(text: str, position: int) -> int:
    hit = _BLANK.match(text, position)
    assert hit is not None
    return hit.end()
