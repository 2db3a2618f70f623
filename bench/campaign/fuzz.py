"""Hostile answers through reading, vote and rules, as a round sends them: Trail, ballots of five.

An answer starts as a call or tool document with at most one planted fault (bench/faults.py) and is
then cut, spliced, repeated, nested or filled with what breaks readers: control tokens and marks of
all families, lone surrogates, zero bytes, numbers without end. What must hold: nothing raises,
what is not accepted has a reason, no ballot takes a second of the processor, and memory does not
grow.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import random
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench.campaign.running import Finding, Records, same
from bench.faults import Document, Planted, make_calls
from factory.domain.canon import query_id
from factory.domain.records import Completion, FinishReason, Query, Reply
from factory.judge.reading import read_answers
from factory.judge.rulebook import Rulebook
from factory.judge.sample import Judgement, Sample, Trail
from factory.workspace.folder import Workspace, shipped_root
from factory.workspace.recipe import VoteSection

CHUNK = 10_000
"""Answers between two rows of results; each has a seed of its own."""
BALLOT = 5
SLOW_SECONDS = 1.0
PIECES = (
    "<tool_call>", "</tool_call>", "<tools>", "</tools>", "<think>", "</think>", "<|im_end|>",
    "<|im_start|>user\n", "<|end|><|user|>", "[TOOL_CALLS]", "<|python_tag|>", "<|message|>",
    "```json\n", "```", "<function=f>", "</function>", "<invoke name=\"f\">", "to=functions.f",
    "Action: f\nAction Input:", "call:f{a:", "{", "}", "[", "]", '"', "'", "\\", "\\u", "\\ud800",
    ":", ",", "null", "NaN", "-Infinity", "1e999", "0x1f", "9" * 5000, "\0", "\ud800", "\udfff",
    "\u202e", "\u2028", "\ufeff", "\x1b]0;x\x07", "ﬀ", "e\u0301" * 50, "😀", "{{", "}}",
    "{% raw %}",
    '<|open|>call tool="f"<|sep|>', '<|open|>json<|sep|>', "<|close|>call<|sep|>", "[1]",
    "$ref", "__proto__", "'; drop table x;--", '{"name": "f", "arguments": ', '"arguments": {}',
    '"name": ', "f(a=1)", "[f(a=1), ", "lambda: 0", "**{}", "0" * 300, "-", "\n\n", "\t", " ",
)  # fmt: skip
OPENS = ("[", "{", '{"a":', "(", "<think>", "<tool_call>", '"', "f(", "[f(a=", "\\", "((a?)*)*")
RUNS = (
    " ",
    "\n",
    "\t",
    " \n",
    "a",
    "9",
    "-",
    "_",
    ".",
    ",",
    "\\",
    "'",
    "`",
    "<",
    "=",
    "f ",
    "a=1,",
)
REASONS: tuple[FinishReason, ...] = ("stop", "stop", "stop", "length")


def mutate(text: str, rng: random.Random) -> str:
    """The text with a few changes of any kind; at most some hundred thousand characters."""
    for _ in range(rng.choice((0, 1, 1, 2, 3, 6))):
        text = rng.choice(MUTATIONS)(text, rng)[:400_000]
    return text


def _place(text: str, rng: random.Random) -> int:
    return rng.randint(0, len(text))


def _insert(text: str, rng: random.Random) -> str:
    at = _place(text, rng)
    return text[:at] + rng.choice(PIECES) + text[at:]


def _cut(text: str, rng: random.Random) -> str:
    at = _place(text, rng)
    return text[:at] + text[at + rng.choice((1, 1, 3, 20, 10**6)) :]


def _swap(text: str, rng: random.Random) -> str:
    at = _place(text, rng)
    letter = chr(rng.choice((rng.randrange(128), rng.randrange(0x3000), rng.randrange(0x110000))))
    return text[:at] + letter + text[at + 1 :]


def _repeat(text: str, rng: random.Random) -> str:
    start, end = sorted((_place(text, rng), _place(text, rng)))
    part = text[start:end]
    count = rng.choice((2, 3, 20, 500)) if len(part) < 800 else 2
    return text[:start] + part * count + text[end:]


def _nest(text: str, rng: random.Random) -> str:
    at = _place(text, rng)
    return text[:at] + rng.choice(OPENS) * rng.choice((3, 40, 900, 900, 12_000)) + text[at:]


def _splice(text: str, rng: random.Random) -> str:
    start, end = sorted((_place(text, rng), _place(text, rng)))
    return text[end:] + text[start:end] + text[:start]


def _mix(text: str, rng: random.Random) -> str:
    return "".join(rng.choices(PIECES, k=rng.randint(1, 40)))


def _run(text: str, rng: random.Random) -> str:
    """One sign over and over, where readers that go back on their way take the square of it."""
    at = _place(text, rng)
    return text[:at] + rng.choice(RUNS) * rng.choice((300, 20_000, 100_000)) + text[at:]


MUTATIONS: tuple[Callable[[str, random.Random], str], ...] = (
    _insert, _insert, _insert, _cut, _cut, _swap, _swap, _repeat, _splice, _mix, _nest,
    _run,
)  # fmt: skip


@dataclass(slots=True)
class Tally:
    """What came of the answers of one chunk."""

    answers: int = 0
    crashes: int = 0
    without_reason: int = 0
    slow: int = 0
    slowest: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)


def rss_mib() -> float:
    """Memory that this process has in use now, in MiB: what lies free is given back before."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # of C libraries other than GNU's
        ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / 2**20


class Fuzz:
    """Ballots of hostile answers. Example: Fuzz(read_documents()).chunk(0)."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self._documents = documents
        rulebook = Rulebook.load(Workspace(shipped_root()))
        self._judgement = Judgement(rulebook=rulebook, vote=VoteSection(), round_number=1, number=1)

    def chunk(self, seed: int, size: int = CHUNK) -> Tally:
        """So many answers, the same for the same seed."""
        rng = random.Random(seed)
        tally = Tally()
        calls = make_calls(self._documents, seed)
        while tally.answers < size:
            planted = next(calls)
            if rng.random() < 0.2:
                block = f"<tools>{json.dumps([tool.document for tool in planted.tools])}</tools>"
                texts = [mutate(block, rng) for _ in range(BALLOT)]
                self._run(tally, texts, partial(self._judge_tools, texts))
            else:
                texts = [mutate(planted.text, rng) for _ in range(BALLOT)]
                reasons = rng.choices(REASONS, k=BALLOT)
                self._run(tally, texts, partial(self._judge_calls, texts, reasons, planted))
        return tally

    def _run(self, tally: Tally, texts: list[str], judge: Callable[[], list[str]]) -> None:
        started = time.process_time()
        try:
            statuses = judge()
        except Exception:
            tally.crashes += 1
            tally.examples.append(f"{traceback.format_exc()[-600:]}\n{texts!r:.400}")
            statuses = ["crash"]
        seconds = time.process_time() - started
        tally.answers += len(texts)
        tally.statuses.update(statuses)
        tally.slowest = max(tally.slowest, seconds)
        if seconds > SLOW_SECONDS:
            tally.slow += 1
            tally.examples.append(f"{seconds:.1f} s: {[text[:200] for text in texts]}")
        if unexplained := statuses.count(WITHOUT):
            tally.without_reason += unexplained
            tally.examples.append(f"without a reason: {texts!r:.400}")

    def _judge_calls(
        self, texts: list[str], reasons: list[FinishReason], planted: Planted
    ) -> list[str]:
        completions = tuple(map(_completion, texts, reasons))
        reply = Reply(request_id="fuzz", completions=completions, num_prompt_tokens=9)
        sample = self._trail(planted.query).judge_calls(tuple(planted.tools), reply)
        explained = {verdict.subject for verdict in sample.verdicts if verdict.message}
        silent = [text for n, text in enumerate(texts) if f"sample:{n}" not in explained]
        if not all(answer.calls for answer in read_answers(silent)):
            return [WITHOUT]
        return [_status(sample)]

    def _judge_tools(self, texts: list[str]) -> list[str]:
        found = []
        for text in texts:
            reply = Reply(
                request_id="fuzz", completions=(_completion(text, "stop"),), num_prompt_tokens=9
            )
            sample = self._trail("").judge_tools(reply)
            found.append(_status(sample) if isinstance(sample, Sample) else "tools taken")
        return found

    def _trail(self, text: str) -> Trail:
        query = Query(id=query_id(text), text=text, source="fuzz")
        return Trail(judgement=self._judgement, query=query)


WITHOUT = "without a reason"


def _completion(text: str, reason: FinishReason) -> Completion:
    return Completion(text=text, token_ids=(1,), finish_reason=reason, logprob=-1.0)


def _status(sample: Sample) -> str:
    if sample.status == "accepted":
        return "accepted"
    cause = sample.cause
    return sample.status if cause and cause.reason and cause.message else WITHOUT


def run_fuzz(
    records: Records, fuzz: Fuzz, *, num_answers: int, deadline: float, seed: int
) -> list[Finding]:
    """Judge chunks until there are so many answers, those of `records` included."""
    done = sum(row["answers"] for row in records.rows)
    while done < num_answers and time.monotonic() < deadline:
        number = seed * 1_000_000 + len(records.rows)
        tally = fuzz.chunk(number, min(CHUNK, num_answers - done))
        done += tally.answers
        records.add({
            "seed": number, "answers": tally.answers, "crashes": tally.crashes,
            "without_reason": tally.without_reason, "slow": tally.slow,
            "slowest": round(tally.slowest, 3), "statuses": tally.statuses,
            "examples": [text.encode("ascii", "backslashreplace").decode()
                         for text in tally.examples[:5]],
            "rss_mib": round(rss_mib(), 1),
        })  # fmt: skip
    return list(_findings(records))


def _findings(records: Records) -> Iterator[Finding]:
    rows = records.rows
    answers = sum(row["answers"] for row in rows)
    yield Finding(what="answers judged", wanted="", found=f"{answers:,}", is_right=answers > 0)
    yield same("crashes", 0, sum(row["crashes"] for row in rows))
    yield same("without a reason", 0, sum(row["without_reason"] for row in rows))
    yield same("ballots over 1 s", 0, sum(row["slow"] for row in rows))
    slowest = max((row["slowest"] for row in rows), default=0.0)
    yield Finding(what="slowest ballot", wanted="", found=f"{slowest:.2f} s", is_right=True)
    if rows:
        early, late = rows[len(rows) // 10]["rss_mib"], rows[-1]["rss_mib"]
        yield Finding(
            what="memory at 10 % and at the end",
            wanted="within 10 %",
            found=f"{early:.0f} MiB, {late:.0f} MiB",
            is_right=late < 1.1 * early,
        )
