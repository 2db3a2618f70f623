"""Files of requests for a round: what may be drawn of them, and what their logs have beside it.

The tools of a log are candidates of its request, its calls an answer that rules and vote judge.
Nothing here is a label: `factory teach` takes labels. Files of any size are gone through as a
stream, of which only the requests that may be drawn are kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from factory.domain.canon import digest, query_id, to_json, tool_id
from factory.domain.failures import InputError
from factory.domain.records import Call, Logged, Query, Tool
from factory.lessons.conversations import read_documents, read_turns
from factory.tools.logs import AskedTurn, follow
from factory.tools.masking import Masker
from factory.tools.rowfiles import BadLine
from factory.tools.sources import Requested, read_requests

MAX_TOOLS = 8
"""Tools of a log that a request is shown with: those called first."""
KEPT_LINES = 1000
"""Bad lines whose places are kept; of the others the number is."""


class BadLines(list[BadLine]):
    """Bad lines, of which the first are kept and all are counted."""

    total = 0

    def append(self, line: BadLine) -> None:
        self.total += 1
        if len(self) < KEPT_LINES:
            super().append(line)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """What some files hold to be drawn."""

    queries: Sequence[Query]
    """Fresh ones in file order, as many as were wanted."""
    size: int
    """Requests in all, each turn of a log as often as it stands there."""
    files: int
    bad: BadLines
    masked: Counter[str]
    """Values that were masked, by kind."""
    masked_rows: int

    @property
    def num_logged(self) -> tuple[int, int]:
        """How many of the queries come with tools, and with calls."""
        logs = [query.log for query in self.queries if query.log is not None]
        return sum(bool(log.tools) for log in logs), sum(bool(log.calls) for log in logs)


def read_pool(
    files: Sequence[Path],
    field: str = "",
    *,
    wanted: int,
    drawn: Collection[str] = (),
    mask: bool = False,
) -> Pool:
    """The first `wanted` requests of files that were not `drawn` before, with their logs.

    Raises InputError for a file that cannot be read or holds no requests.
    """
    kept: dict[str, Query] = {}
    turns: dict[str, str] = {}
    bad, masked = BadLines(), Counter[str]()
    size = rows = 0
    for file in files:
        before = size + bad.total
        for query, turn, counts in _read(file, field, bad, mask):
            size += 1
            rows += bool(counts)
            masked += counts
            if query.id in kept:
                if turn and turn == turns[query.id]:
                    kept[query.id] = _join(kept[query.id], query)
            elif len(kept) < wanted and query.id not in drawn:
                kept[query.id], turns[query.id] = query, turn
        if size + bad.total == before:
            raise InputError("the file holds no requests", where=str(file))
    return Pool(
        queries=tuple(kept.values()),
        size=size,
        files=len(files),
        bad=bad,
        masked=masked,
        masked_rows=rows,
    )


def _read(
    file: Path, field: str, bad: BadLines, mask: bool
) -> Iterator[tuple[Query, str, Counter[str]]]:
    """Each request, what is equal in all snapshots of its turn, and what was masked of it."""
    for found in read_requests(file, bad, field):
        log, turn = None, ""
        if found.asked is not None:
            log, fault = _read_log(found.asked)
            turn = _turn_key(found.asked) if log is not None else ""
            if fault:
                bad.append(BadLine(where=found.where, cause=f"{fault}; its request is used"))
        query, counts = _make_query(found, log), Counter[str]()
        if mask:
            query, counts = mask_query(query)
        yield query, turn, counts


def _make_query(found: Requested, log: Logged | None) -> Query:
    return Query(id=query_id(found.text), text=found.text, source=found.where, log=log)


def _turn_key(asked: AskedTurn) -> str:
    """Equal for turns with the same requests before them and the same tools."""
    return digest(follow(asked.before, asked.text) + to_json(asked.tools))


def _join(query: Query, other: Query) -> Query:
    """One query with what is known first of its tools and calls."""
    if query.log is None or other.log is None or query.log.calls:
        return query if query.log is not None else replace(query, log=other.log)
    return replace(query, log=other.log) if other.log.calls else query


def _read_log(asked: AskedTurn) -> tuple[Logged | None, str]:
    """What a log has beside a request, and why its calls are no candidates."""
    try:
        documents = [dict(document) for document in read_documents(asked.tools)]
    except (ValueError, RecursionError) as error:
        return None, f"its tools cannot be read: {error}"
    try:
        turns = read_turns(asked.answer) if asked.answer else []
    except (ValueError, RecursionError) as error:
        return _make_log(documents, ()), f"what was answered cannot be read: {error}"
    calls = next((turn.calls for turn in turns if turn.calls), ())
    known = {str(document["name"]) for document in documents}
    if missing := [call.name for call in calls if call.name not in known]:
        names = ", ".join(dict.fromkeys(missing))
        return _make_log(documents, ()), f"its calls are no candidates: no tool {names} beside them"
    return _make_log(documents, calls), ""


def _make_log(documents: Sequence[dict[str, object]], calls: tuple[Call, ...]) -> Logged | None:
    """Each tool once by name, the called ones first; None where there is none."""
    called = {call.name for call in calls}
    by_name: dict[str, dict[str, object]] = {}
    for document in documents:
        by_name.setdefault(str(document["name"]), document)
    ordered = sorted(by_name.values(), key=lambda each: each["name"] not in called)
    tools = tuple(Tool(id=tool_id(each), document=each) for each in ordered[:MAX_TOOLS])
    return Logged(tools=tools, calls=calls) if tools else None


def mask_query(query: Query) -> tuple[Query, Counter[str]]:
    """The query without names, addresses, numbers and keys, and how many of each it had.

    A value has one pseudonym in its text, its calls and its tools.
    """
    masker, log = Masker(), query.log
    if log is None:
        text = masker.mask(query.text)
        return replace(query, id=query_id(text), text=text), masker.counts
    calls = [asdict(call) for call in log.calls]
    for tool in log.tools:
        masker.keep(tool.document)
    for call in calls:
        masker.learn(call["arguments"])
    text = masker.mask(query.text)
    made = tuple(Call(name=c["name"], arguments=masker.mask(c["arguments"])) for c in calls)
    documents = [masker.mask_document(tool.document) for tool in log.tools]
    tools = tuple(Tool(id=tool_id(each), document=each) for each in documents)
    log = Logged(tools=tools, calls=made)
    return replace(query, id=query_id(text), text=text, log=log), masker.counts
