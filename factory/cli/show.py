"""`factory show`: one sample whole, the votes side by side, what a rule objects to marked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.text import Text

from factory.cli.jsonview import GUTTER, STYLES, Remark, lay_out, side_by_side, wrap
from factory.cli.opening import open_ledger
from factory.cli.sql import Json
from factory.cli.terminal import escape_line, inline, out, out_indented, stdout, write_json
from factory.domain.canon import tool_id
from factory.domain.failures import InputError
from factory.judge.reading import SYNTAX, parse_calls, parse_tools
from factory.ledger.database import Source

COLUMN_WIDTH = 36
"""Answers stand side by side where each has at least this many characters."""
MAX_RAW = 4000
"""Characters shown of a raw answer."""

CODES_QUERY = """
select tool_id, codebook_version, code, resolved_by, error, ood
from tool_code
where tool_id in (select unnest(?))
qualify row_number() over (partition by tool_id order by codebook_version desc, round desc) = 1
order by tool_id
"""
"""Each tool's code in the latest codebook that has one."""

Record = dict[str, Any]


def show(
    query_id: Annotated[str, typer.Argument(help="A query's id, or the start of it.")],
    raw: Annotated[bool, typer.Option("--raw", help="Every raw output of the model too.")] = False,
    as_json: Json = False,
) -> None:
    """One sample, whole: query, tools, codes, the answers side by side, the vote, the verdicts.

    factory show q_3b1f

    factory show q_3b1f --raw
    """
    with open_ledger().read() as past:
        record = sample_record(past, _find_query(past, query_id))
    if as_json:
        write_json(record)
    else:
        _print_sample(record, raw)


def _find_query(past: Source, start: str) -> str:
    """The drawn or made query with this id, else the one whose id starts so. Raises InputError."""
    sql = """
        select query_id from draw where starts_with(query_id, $start)
        union select query_id from made where starts_with(query_id, $start) order by 1
        """
    ids = [str(query_id) for (query_id,) in past.query(sql, {"start": start}).rows]
    if start in ids:
        return start
    if len(ids) != 1:
        raise InputError(
            f"{len(ids)} queries have an id that starts with {start!r}",
            where=", ".join(ids[:5]),
            remedy='factory sql "select query_id, query from rejected limit 10" lists some',
        )
    return ids[0]


def sample_record(past: Source, query_id: str) -> Record:
    """Everything the ledger holds of one query, by table; `tool_code` is its tools' codes.

    `made` is the sample itself where a round made it, and what rounds made of it elsewhere. The
    vote is that of the judgement that counts; a sample says what set rules made of it.
    """
    record: Record = {}
    views = {"vote": "latest_vote", "sample": "outcome"}
    for table in ("draw", "query", "generation", "vote", "verdict", "sample"):
        source = views.get(table, table)
        rows = past.query(f"select * from {source} where query_id = ?", [query_id])
        record[table] = rows.records()
    sql = "select * from made where query_id = $id or contains(made_of_json, '\"' || $id || '\"')"
    record["made"] = past.query(f"{sql} order by made_by, query_id", {"id": query_id}).records()
    ids = {tool["id"] for sample in _samples(record) for tool in json.loads(sample["tools_json"])}
    record["tool_code"] = past.query(CODES_QUERY, [sorted(ids)]).records()
    return record


def _samples(record: Record) -> list[Record]:
    """Of the query under each judgement; one that a round made, under that which counts."""
    own = record["query"][0]["query_id"] if record["query"] else ""
    return record["sample"] or [row for row in record["made"] if row["query_id"] == own]


def _print_sample(record: Record, raw: bool) -> None:
    query = record["query"][0]
    out_indented(query["text"], 0, "bold")
    out(f"[dim]{escape_line(query['query_id'])}  from {escape_line(query['source'])}[/]")
    sample = max(_samples(record), key=lambda row: row["judgement"] or 0, default=None)
    verdicts = record["verdict"]
    if sample is not None:
        verdicts = [row for row in verdicts if row["judgement"] == sample["judgement"]]
        _print_outcome(sample)
    _print_made(record, sample)
    shown = _print_tools(record, sample, verdicts)
    shown |= _print_votes(record, verdicts)
    shown |= _print_label(sample, verdicts)
    if others := [row for row in verdicts if row["subject"] not in shown]:
        out("[bold]other verdicts[/]")
        _print_verdicts(others)
    if raw:
        _print_raw(record["generation"])


def _print_outcome(sample: Record) -> None:
    color = {"accepted": "green", "rejected": "red"}.get(sample["status"], "yellow")
    why = f": {escape_line(sample['reason'])}" if sample["reason"] else ""
    again = f", judgement {sample['judgement']}" if (sample["judgement"] or 1) > 1 else ""
    out(f"[{color}]{escape_line(sample['status'])}[/] in round {sample['round']}{again}{why}")
    if sample["message"]:
        out_indented(sample["message"])


def _print_made(record: Record, sample: Record | None) -> None:
    """What a sample was made of, or what was made of it."""
    if sample is not None and sample.get("made_by"):
        origins = ", ".join(json.loads(sample["made_of_json"]))
        out(f"[bold]made[/] by {escape_line(sample['made_by'])} of {escape_line(origins)}")
        return
    for row in record["made"]:
        why = f": {row['reason']}" if row["reason"] else ""
        told = f"{row['query_id']} by {row['made_by']}, {row['status']}{why}"
        out(f"[bold]made of it[/] {escape_line(told)}")


def _print_label(sample: Record | None, verdicts: Sequence[Record]) -> set[str]:
    """What a sample that a round made is to be answered with; the subjects it carries."""
    if sample is None or not sample.get("made_by"):
        return set()
    if sample["calls_json"] != "[]":
        out("[bold]calls[/]")
        marks = _marks(verdicts, ("sample:0",))
        _print_lines(lay_out(json.loads(sample["calls_json"]), marks, stdout.width - 2))
        return {"sample:0"}
    out("[bold]answer[/]")
    out_indented(_bounded(sample["answer"]))
    return set()


def _print_tools(record: Record, sample: Record | None, verdicts: Sequence[Record]) -> set[str]:
    """The candidates with their codes, then documents that fell; the subjects they carry."""
    written = [row["text"] for row in record["generation"] if row["stage"] == "tools"]
    documents = parse_tools(written[0]).documents if written else []
    subjects = {_id_of(document): f"tool:{n}" for n, document in enumerate(documents)}
    tools = json.loads(sample["tools_json"]) if sample else []
    codes = {
        row["tool_id"]: f"{escape_line(row['code'])}  [dim]codebook {row['codebook_version']}[/]"
        for row in record["tool_code"]
    }
    for tool in tools:
        out(f"[bold]tool[/] {escape_line(tool['id'])}  {codes.get(tool['id'], '[dim]no code[/]')}")
        about = (subjects.pop(tool["id"], ""), f"code:{tool['id']}")
        _print_lines(lay_out(tool["document"], _marks(verdicts, about), stdout.width - 2))
    for subject in subjects.values():
        marks = _marks(verdicts, (subject,))
        out(f"[bold]document[/] {subject.removeprefix('tool:')}  [dim]not a candidate[/]")
        document = documents[int(subject.removeprefix("tool:"))]
        _print_lines(lay_out(document, marks, stdout.width - 2))
    unread = f"tool:{len(documents)}"
    if written and (faults := [row for row in verdicts if row["subject"] in ("tools", unread)]):
        out("[bold]tools, as written[/]")
        out_indented(_bounded(written[0]))
        _print_verdicts(faults)
    shown = {f"tool:{n}" for n in range(len(documents))} | {"tools", unread}
    return shown | {f"code:{tool['id']}" for tool in tools}


def _id_of(document: Any) -> str:
    return tool_id(document) if isinstance(document, dict) else repr(document)


def _print_votes(record: Record, verdicts: Sequence[Record]) -> set[str]:
    """A column for each class of answers, the winner first; the subjects they carry."""
    answers = {row["sample_index"]: row for row in record["generation"] if row["stage"] == "calls"}
    vote = record["vote"][0] if record["vote"] else None
    if vote:
        out(
            f"[bold]vote[/] {vote['votes']} of {vote['num_samples']} agree, "
            f"margin {vote['margin']:.2f}, entropy {vote['entropy']:.2f} bits, "
            f"decided by: {escape_line(vote['decided_by'])}"
        )
    classes = dict(enumerate(json.loads(vote["classes_json"]))) if vote else {}
    groups: dict[int, list[int]] = {}
    for index in sorted(answers):
        groups.setdefault(classes.get(index, index), []).append(index)
    winner = vote["winner"] if vote else None
    per_row = max(1, (stdout.width + len(GUTTER)) // (COLUMN_WIDTH + len(GUTTER)))
    numbers = sorted(groups, key=lambda number: (winner not in groups[number], number))
    for start in range(0, len(numbers), per_row):
        chosen = numbers[start : start + per_row]
        width = (stdout.width - len(GUTTER) * (len(chosen) - 1)) // len(chosen)
        columns = [_class_lines(n, groups[n], winner, answers, verdicts, width) for n in chosen]
        _print_lines(side_by_side(columns, width), indent=0)
    return {f"sample:{index}" for index in answers}


def _class_lines(
    number: int,
    members: Sequence[int],
    winner: int | None,
    answers: dict[int, Record],
    verdicts: Sequence[Record],
    width: int,
) -> list[Text]:
    """One class: its votes, the calls of one answer, what the rules found in any of them."""
    won = winner in members
    chosen = winner if won and winner is not None else members[0]
    several = "s" if len(members) > 1 else ""
    title = f"class {number}: {len(members)} vote{several}, sample{several} "
    if number < 0:
        title = "no vote, sample "
    title = f"{'winner, ' if won else ''}{title}{' '.join(map(str, members))}"
    marks = _marks(verdicts, [f"sample:{index}" for index in (chosen, *members)])
    text = answers[chosen]["text"]
    asked = json.loads(answers[chosen]["sampling_json"] or "{}")
    calls = parse_calls(text, syntax=SYNTAX[asked.get("form", "own")]).calls
    lines = wrap(title, width, "bold green" if won else "bold")
    if calls is None:
        lines += wrap(_bounded(text), width)
        for mark in marks:
            lines += wrap(f"^ {mark.text}", width, STYLES.get(mark.severity, ""))
        return lines
    value = [{"name": call.name, "arguments": call.arguments} for call in calls]
    return lines + lay_out(value, marks, width)


def _marks(verdicts: Iterable[Record], subjects: Sequence[str]) -> list[Remark]:
    """The findings about some subjects, each once."""
    found = {
        (row["path"], row["reason"]): Remark(
            path=row["path"] or "$",
            severity=row["severity"],
            text=inline(f"{row['reason']}: {row['message']}"),
        )
        for row in verdicts
        if row["subject"] in subjects
    }
    return list(found.values())


def _print_lines(lines: Iterable[Text], indent: int = 2) -> None:
    for line in lines:
        stdout.print(" " * indent, end="")
        stdout.print(line)


def _print_verdicts(verdicts: Iterable[Record]) -> None:
    for verdict in verdicts:
        color = STYLES.get(verdict["severity"], "yellow")
        out(
            f"    [{color}]{escape_line(verdict['reason'])}[/] {escape_line(verdict['subject'])} "
            f"at {escape_line(verdict['path'])}"
        )
        out_indented(verdict["message"], 6)


def _print_raw(generations: Sequence[Record]) -> None:
    """Every output as the model wrote it."""
    stages = ("tools", "propose", "retrieve", "calls", "log", "label", "conversation", "turns")

    def order(row: Record) -> tuple[int, str, int]:
        return stages.index(row["stage"]), row["subject"], row["sample_index"]

    for row in sorted(generations, key=order):
        subject = f" {row['subject']}" if row["subject"] else ""
        out(
            f"[bold]{escape_line(row['stage'])}{escape_line(subject)} {row['sample_index']}[/]  "
            f"[dim]{row['num_tokens']} tokens, {escape_line(row['finish_reason'])}, "
            f"logprob {row['logprob'] or 0:.2f}[/]"
        )
        out_indented(_bounded(row["text"]))


def _bounded(text: str) -> str:
    """The beginning of a long text, and how long it is."""
    if len(text) <= MAX_RAW:
        return text
    return f"{text[:MAX_RAW]}…\n({len(text):,} characters; --json has all)"
