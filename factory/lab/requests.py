"""Requests for given tools, written by a model from their documents.

Labelled requests are few: SGTC learns ten a tool (489,702 for 46,985). A model is asked for words
in which a person would need a tool (prompts/requests/write.j2), after examples; they are kept
where a retriever finds the tool back by them among all tools, and where they repeat neither each
other nor a benchmark. Every other answer is a row with its reason.

Tools are asked for in chunks, each of which is one line of a journal, so that a killed run goes on
where it was. An answer's seed is its tool's and its number's: the same plan gives the same rows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from factory.codes.saving import SavedCodebook
from factory.domain.canon import canonical_json, derive_seed, digest
from factory.domain.failures import ContentError, InputError
from factory.domain.records import (
    Candidate,
    Completion,
    Constraint,
    HeldOut,
    Message,
    Past,
    PastQuery,
    Query,
    Request,
    Sampling,
    Tool,
)
from factory.engines.base import Engine
from factory.judge.reading import read_request
from factory.judge.rulebook import Rulebook
from factory.judge.sets import judge_round
from factory.judge.verdicts import first_reject
from factory.score.toolbench.ranking import WordIndex, best, embed
from factory.workspace.folder import Workspace
from factory.workspace.prompts import Prompts

PROMPT = "requests/write"
EXAMPLES = f"prompts/{PROMPT.partition('/')[0]}/examples.jsonl"
"""Lines of {tool, requests}: a document, and what people said who needed it."""
CHUNK = 16
"""Tools that are asked for at a time: what a killed run loses at most."""
TOP_P, MAX_TOKENS = 0.95, 96
"""Of an answer."""
REPEATS = ("round/duplicate_query", "round/near_duplicate_query")
"""Rules between requests; those of the stage `draw` compare with benchmarks."""
Find = Callable[[Sequence[str]], Awaitable[list[list[str]]]]
"""Ids of the tools that each request needs, best first, at most k."""
Shown: TypeAlias = tuple[dict[str, Any], list[str]]
"""An example: a document, and requests of people who needed it."""
Judge = Callable[[Mapping[str, str], Sequence[str]], dict[str, tuple[str, str]]]
"""Reasons and details of the requests, by id, that repeat others, kept ones or a benchmark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """One answer. Example: Written(tool_id="t_91…", number=3, text="Book us a table.", rank=1)."""

    tool_id: str
    number: int
    """Of the answers to this tool's document, from 0."""
    text: str
    """The request, or the whole answer where none could be read."""
    rank: int = 0
    """Of the tool among those that a retriever finds by it, from 1; 0 where it is not there."""
    reason: str = ""
    """Why it is not kept; empty where it is."""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestPlan:
    """What is asked for."""

    tools: Sequence[Tool]
    """Those to ask for, in this order."""
    per_tool: int = 10
    """Requests wanted of each."""
    tries: int = 2
    """Times that what is still missing is asked for."""
    temperature: float = 0.8
    """Of the answers."""
    seed: int = 0


@dataclass(slots=True)
class State:
    """What has been written so far."""

    rows: list[Written] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    """Times by tool."""
    answers: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)

    def add(self, tool_ids: Sequence[str], rows: Sequence[Written]) -> None:
        self.rows += rows
        self.asked.update(tool_ids)
        self.answers.update(row.tool_id for row in rows)
        self.kept.update(row.tool_id for row in rows if not row.reason)


class Journal:
    """A file of chunks, each written whole or, where a run was killed, not counted."""

    def __init__(self, path: Path, known_by: Mapping[str, Any]) -> None:
        """Raises InputError where the file is of another plan."""
        self._path = path
        head = {"requests": digest(canonical_json(known_by))}
        lines = path.read_text("utf-8").split("\n")[:-1] if path.exists() else []
        if lines and json.loads(lines[0]) != head:
            raise InputError(
                "the file was begun with other tools, options, prompt or model",
                where=str(path),
                remedy=f"name another --out, or delete {path.name} to begin anew",
            )
        self._chunks = [json.loads(line) for line in lines[1:]]
        # What a killed run left of a line goes.
        text = "".join(f"{line}\n" for line in lines or [json.dumps(head)])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def load(self) -> State:
        state = State()
        for chunk in self._chunks:
            state.add(chunk["tools"], [Written(**row) for row in chunk["rows"]])
        return state

    def add(self, tool_ids: Sequence[str], rows: Sequence[Written]) -> None:
        line = {"tools": list(tool_ids), "rows": [asdict(row) for row in rows]}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def missing(plan: RequestPlan, state: State) -> list[Tool]:
    """Tools that lack requests and may be asked for again."""
    return [
        tool
        for tool in plan.tools
        if state.kept[tool.id] < plan.per_tool and state.asked[tool.id] < plan.tries
    ]


async def write_requests(
    plan: RequestPlan,
    *,
    engine: Engine,
    prompts: Prompts,
    find: Find,
    judge: Judge,
    journal: Journal,
    state: State,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Ask until nothing is `missing`; `state` and journal grow.

    `progress` hears the requests kept and those wanted. May be cancelled: what is whole is kept.
    """
    wanted = plan.per_tool * len(plan.tools)
    examples = read_examples(prompts.workspace)
    said = [text for _, texts in examples for text in texts]
    for turn in range(plan.tries):
        due = [tool for tool in missing(plan, state) if state.asked[tool.id] == turn]
        for start in range(0, len(due), CHUNK):
            tools = due[start : start + CHUNK]
            rows = await _ask(plan, tools, state, engine, prompts, examples)
            rows = await _check(rows, state, said, find, judge)
            names = [tool.id for tool in tools]
            journal.add(names, rows)
            state.add(names, rows)
            progress(state.kept.total(), wanted)


async def _ask(
    plan: RequestPlan,
    tools: Sequence[Tool],
    state: State,
    engine: Engine,
    prompts: Prompts,
    examples: Sequence[Shown],
) -> list[Written]:
    """What is missing of each tool's requests, read out of the model's answers."""
    asked = [
        (tool, state.answers[tool.id] + number)
        for tool in tools
        for number in range(plan.per_tool - state.kept[tool.id])
    ]
    replies = await engine.sample(
        [
            Request(
                id=f"{tool.id}/{number}",
                messages=_messages(tool, number, examples, prompts),
                sampling=Sampling(
                    temperature=plan.temperature,
                    top_p=TOP_P,
                    max_tokens=MAX_TOKENS,
                    seed=derive_seed(plan.seed, "requests", tool.id, number),
                ),
                logprob=False,
            )
            for tool, number in asked
        ]
    )
    return [
        _read(tool, number, reply.completions[0])
        for (tool, number), reply in zip(asked, replies, strict=True)
    ]


def read_examples(workspace: Workspace) -> list[Shown]:
    """Documents and their requests, the workspace's own or the shipped ones (EXAMPLES).

    Raises ContentError for a line that is none.
    """
    file = workspace.find(EXAMPLES)
    examples = list[Shown]()
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            said = [str(text) for text in row["requests"]]
            examples.append((dict(row["tool"]), [said[0], *said[1:]]))
        except (ValueError, LookupError, TypeError) as error:
            raise ContentError(
                "not an example of requests",
                where=f"{file}:{number}",
                remedy='a line is {"tool": {…}, "requests": ["…"]}',
            ) from error
    return examples


def _messages(
    tool: Tool,
    number: int,
    examples: Sequence[Shown],
    prompts: Prompts,
) -> tuple[Message, ...]:
    """Examples as turns, which small models follow better than words about them; one request of
    each, in turn, so that the answers to one tool differ."""

    def ask(document: dict[str, Any]) -> Message:
        return Message(role="user", content=prompts.render(PROMPT, tool=document))

    turns = [
        (ask(shown), Message(role="assistant", content=said[number % len(said)]))
        for shown, said in examples
    ]
    return (*chain.from_iterable(turns), ask(tool.document))


def _read(tool: Tool, number: int, completion: Completion) -> Written:
    text, reason = read_request(completion, [tool.name])
    return Written(tool_id=tool.id, number=number, text=text, reason=reason)


async def _check(
    rows: Sequence[Written], state: State, said: Sequence[str], find: Find, judge: Judge
) -> list[Written]:
    """The rows with what retriever and rules say of those that hold a request; one that was `said`
    in an example repeats it."""
    read = [row for row in rows if not row.reason]
    ranked = await find([row.text for row in read]) if read else []
    found = dict(zip(map(_name, read), ranked, strict=True))
    back = {_name(row): row.text for row in read if row.tool_id in found[_name(row)]}
    faults = judge(back, [*said, *(row.text for row in state.rows if not row.reason)])
    return [_judged(row, found.get(_name(row)), faults.get(_name(row))) for row in rows]


def _judged(row: Written, found: Sequence[str] | None, fault: tuple[str, str] | None) -> Written:
    if found is None:
        return row
    values = asdict(row)
    if row.tool_id not in found:
        return Written(**values | {"reason": "not_found", "detail": " ".join(found[:3])})
    reason, detail = fault or ("", "")
    rank = found.index(row.tool_id) + 1
    return Written(**values | {"rank": rank, "reason": reason, "detail": detail})


def _name(row: Written) -> str:
    return f"{row.tool_id}/{row.number}"


def make_judge(rulebook: Rulebook, benchmarks: Sequence[HeldOut]) -> Judge:
    """The workspace's rules: those of fresh queries, and those between queries."""
    repeats = {name: rule for name, rule in rulebook.rules.items() if name in REPEATS}

    def judge(requests: Mapping[str, str], kept: Sequence[str]) -> dict[str, tuple[str, str]]:
        candidates = [
            Candidate(query=Query(id=name, text=text, source="model"))
            for name, text in requests.items()
        ]
        earlier = [
            PastQuery(round_number=0, id=f"kept {place}", text=text)
            for place, text in enumerate(kept, start=1)
        ]
        drawn = judge_round(rulebook.rules, candidates, Past(), benchmarks, stage="draw")
        repeated = judge_round(repeats, candidates, Past(queries=earlier), ())
        verdicts = {
            name: first_reject([*drawn.get(name, ()), *repeated.get(name, ())]) for name in requests
        }
        return {name: (each.reason, each.message) for name, each in verdicts.items() if each}

    return judge


def by_words(tools: Sequence[Tool], k: int) -> Find:
    """BM25 over the documents. Raises MissingError where bm25s is not installed."""
    index = WordIndex([document_text(tool) for tool in tools])
    ids = [tool.id for tool in tools]

    async def find(texts: Sequence[str]) -> list[list[str]]:
        return [best(scores_N, ids, k, above=0.0) for scores_N in index.scores(texts)]

    return find


def by_embeddings(tools: Sequence[Tool], k: int, *, folder: Path, threads: int, log: Path) -> Find:
    """Cosine of a model's embeddings (factory.engines.embedding); raises what `embed` raises."""
    documents: list[np.ndarray[Any, np.dtype[np.float32]]] = []
    ids = [tool.id for tool in tools]

    async def unit(texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        vectors_ND = await embed(folder, texts, threads=threads, log=log)
        vectors_ND /= np.maximum(np.linalg.norm(vectors_ND, axis=1, keepdims=True), 1e-12)
        return vectors_ND

    async def find(texts: Sequence[str]) -> list[list[str]]:
        if not documents:
            documents.append(await unit([document_text(tool) for tool in tools]))
        queries_QD = await unit(texts)
        return [best(documents[0] @ query_D, ids, k) for query_D in queries_QD]

    return find


def by_codes(
    tools: Sequence[Tool], k: int, *, codebook: SavedCodebook, prompts: Prompts
) -> Callable[[Engine], Find]:
    """An engine's own codes, the likeliest of a beam. Raises InputError where a tool has none."""
    if without := [tool.name for tool in tools if tool.id not in codebook]:
        raise InputError(
            f"{len(without)} of {len(tools)} tools have no code in this checkpoint, "
            f"such as {without[0]}",
            where=str(codebook.folder),
            remedy="factory codes add FILE, or find them by words: --by bm25",
        )
    constraint = Constraint(
        trie=str(codebook.trie_path), only=tuple(sorted(tool.id for tool in tools))
    )
    sampling = Sampling(n=k, beam=True, max_tokens=codebook.num_levels + 1)

    async def find(engine: Engine, texts: Sequence[str]) -> list[list[str]]:
        requests = [
            Request(
                id=f"find/{place}",
                messages=(
                    Message(role="user", content=prompts.render("codes/retrieve", query=text)),
                ),
                sampling=sampling,
                constraint=constraint,
            )
            for place, text in enumerate(texts)
        ]
        return [
            [tool.id for each in reply.completions if (tool := codebook.tool_of(each.text))]
            for reply in await engine.sample(requests)
        ]

    return lambda engine: partial(find, engine)


def document_text(tool: Tool) -> str:
    """What words and embeddings are of: whose tool it is, name, description, parameters."""
    of = tool.document
    whose = [str(of[key]) for key in ("category_name", "tool_name") if of.get(key)]
    parameters = [
        f"{name} {schema.get('description', '')}"
        for name, schema in tool.arguments.get("properties", {}).items()
        if isinstance(schema, dict)
    ]
    text = ". ".join([*whose, tool.name, str(of.get("description", "")), *parameters])
    return text.replace("_", " ")


def output_rows(state: State, tools: Sequence[Tool]) -> Iterator[tuple[bool, dict[str, Any]]]:
    """Whether it is kept and its line, of each answer, by tool; `tools` holds ids (labels)."""
    names = {tool.id: tool.name for tool in tools}
    place = {tool.id: number for number, tool in enumerate(tools)}
    for row in sorted(state.rows, key=lambda row: (place[row.tool_id], row.number)):
        line = {"query": row.text, "tools": [row.tool_id], "name": names[row.tool_id]}
        if row.reason:
            line |= {"reason": row.reason, "detail": row.detail}
        yield not row.reason, line | {"rank": row.rank, "answer": row.number}
