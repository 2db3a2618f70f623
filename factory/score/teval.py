"""T-Eval: plans, tools and arguments."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from factory.domain.canon import canonical_json, digest
from factory.domain.failures import ContentError, InputError, MissingError
from factory.domain.jsontext import show
from factory.domain.records import Call, Checkpoint, ItemScore, Message
from factory.engines.base import Engine
from factory.engines.serving import engine_settings
from factory.score.asking import ask_all, explain_ending, grade, greedy, parse_text, to_messages
from factory.score.base import Asked, Setup, check_path, find_data, make_item, read_json, resolve
from factory.score.calls.decode import Reading, decode_beside
from factory.score.card import Average, Scorecard, make_card
from factory.score.definition import Definition, first_of_each
from factory.score.toolbench.ranking import embed
from factory.workspace.folder import Workspace
from factory.workspace.models import fingerprint, is_installed


class TEvalDefinition(Definition):
    """eval/<name>.toml of the kind `teval`."""

    kind: Literal["teval"]
    data: str = ""
    embedder: str = ""
    """sentence-transformers folder (all-mpnet-base-v2); without one plans are compared as text."""
    limit: int = Field(0, ge=0)
    """Questions of each file; 0 is all."""
    max_tokens: int = Field(1024, gt=0)
    syntax: Reading = "auto"
    """Calls that are read where an answer has not the form that its question asks for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TEval(Asked):
    """T-Eval's plan, retrieve and understand."""

    definition: TEvalDefinition
    questions: tuple[TEvalQuestion, ...]
    """As its files have them."""

    @classmethod
    def load(cls, workspace: Workspace, name: str, definition: TEvalDefinition) -> TEval:
        folder = find_data(workspace, definition.data, name)
        check_path(workspace, definition.embedder, name, "embedder")
        questions = tuple(
            first_of_each(load_teval(folder), definition.limit, lambda x: f"{x.task}_{x.form}")
        )
        return cls(
            stem=name,
            title=definition.title,
            split=definition.split,
            items=tuple(
                make_item(category, x.id, x.messages[-1].content if x.messages else "", x.truth)
                for x in questions
                for category in categories(x)
            ),
            definition=definition,
            questions=questions,
        )

    @property
    def categories(self) -> tuple[str, ...]:
        found = {item.category for item in self.items}
        return tuple(each for each in CATEGORIES if each in found)

    def basis(self, setup: Setup) -> str:
        asked = [
            [x.id, x.task, x.form, [[m.role, m.content] for m in x.messages], x.truth, x.tools]
            for x in self.questions
        ]
        of = self.definition
        mark = fingerprint(resolve(setup.workspace, of.embedder)) if of.embedder else ""
        parts = [asked, mark, of.max_tokens]
        return digest(canonical_json(parts if of.syntax == "official" else [*parts, of.syntax]))

    @property
    def asked(self) -> Mapping[str, str | int]:
        return {"syntax": self.definition.syntax, "max_tokens": self.definition.max_tokens}

    async def score(self, setup: Setup, checkpoint: Checkpoint, engine: Engine) -> list[ItemScore]:

        async def embed_texts(texts: Sequence[str]) -> Vectors:
            return await embed(
                resolve(setup.workspace, self.definition.embedder),
                texts,
                threads=engine_settings(setup.settings).threads,
                log=setup.log("embed"),
            )

        return await score_teval(
            engine,
            self.questions,
            embed_texts if self.definition.embedder else None,
            max_tokens=self.definition.max_tokens,
            syntax=self.definition.syntax,
            progress=setup.progress,
        )

    def card(self, items: Sequence[ItemScore]) -> Scorecard:
        averages = [Average("tooldev", name, of) for name, of in TOOLDEV.items()]
        return make_card(self.ordered(items), averages)


Form = Literal["json", "str"]
FILES: Mapping[str, tuple[str, Form]] = {
    "plan_json": ("plan", "json"),
    "plan_str": ("plan", "str"),
    "reason_retrieve_understand_json": ("retrieve+understand", "json"),
    "retrieve_str": ("retrieve", "str"),
    "understand_str": ("understand", "str"),
}
"""Beginnings of the files' names with what each asks, and the answers' form."""
TASKS = ("plan", "retrieve", "understand")
TOOLDEV: Mapping[str, Mapping[str, float]] = {
    "overall": {f"{task}_{form}": 1 / 6 for task in TASKS for form in ("str", "json")},
    **{task: {f"{task}_str": 0.5, f"{task}_json": 0.5} for task in TASKS},
}
"""Weights of ToolDev's figures: a task is the mean of its forms, the whole that of tasks (§7.5)."""
CATEGORIES = tuple(
    f"{task}_{form}"
    for task in ("plan", "plan_strict", "retrieve", "understand")
    for form in ("str", "json")
)
"""What is graded, in the order in which it is shown."""
VERSIONS = ("_v2", "_v2_subset", "_v1", "")
NAME_WEIGHT, ARGUMENTS_WEIGHT, THRESHOLD = 0.75, 0.25, 0.8
FINISH = "FinishAction"
Vectors = np.ndarray[Any, np.dtype[np.float32]]
Embed = Callable[[Sequence[str]], Awaitable[Vectors]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TEvalQuestion:
    """One question of T-Eval. Example: TEvalQuestion(id="query_0_1", task="plan", …)."""

    id: str
    """Its key in the file."""
    task: str
    """plan, retrieve, understand or retrieve+understand."""
    form: Form
    """What the answer is read as."""
    messages: tuple[Message, ...]
    """The prompt, as the file has it."""
    truth: Any
    """A plan, or {name, args}."""
    tools: tuple[str, ...]
    """Names that a plan in plain text may mention."""


class Planned(NamedTuple):
    """One call of a plan."""

    name: str
    arguments: str
    """As text; the whole line of a plan in plain text."""


def load_teval(folder: Path) -> tuple[TEvalQuestion, ...]:
    """The questions of every file that is there. Raises InputError, ContentError."""
    items: list[TEvalQuestion] = []
    for base in (folder, folder / "data"):
        for stem, (task, form) in FILES.items():
            paths = [base / f"{stem}{version}.json" for version in VERSIONS]
            for file in [path for path in paths if path.is_file()][:1]:
                items += _read_items(file, task, form)
        if items:
            return tuple(items)
    raise InputError(
        "no questions of T-Eval here",
        where=str(folder),
        remedy=f"give the folder with {', '.join(f'{stem}_v2.json' for stem in FILES)}",
    )


def _read_items(file: Path, task: str, form: Form) -> list[TEvalQuestion]:
    table = read_json(file)
    if not isinstance(table, dict):
        raise ContentError("must be a JSON object of questions by id", where=str(file))
    items = []
    for key, row in table.items():
        where = f"{file}#{key}"
        try:
            meta = row.get("meta") or row.get("meta_data") or {}
            item = TEvalQuestion(
                id=key,
                task=task,
                form=form,
                messages=to_messages(row["origin_prompt"]),
                truth=read_value(row["ground_truth"]),
                tools=tuple(meta.get("API_list") or ()),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ContentError(
                f"not a question of T-Eval: {type(error).__name__} {error}", where=where
            ) from error
        if not (_read_plan(item.truth) if task == "plan" else isinstance(item.truth, dict)):
            raise ContentError(f"the truth is no {task}", where=where)
        items.append(item)
    return items


def categories(item: TEvalQuestion) -> list[str]:
    """What a question is graded in."""
    tasks = ("plan", "plan_strict") if item.task == "plan" else item.task.split("+")
    return [f"{task}_{item.form}" for task in tasks]


async def score_teval(
    engine: Engine,
    items: Sequence[TEvalQuestion],
    embed: Embed | None,
    *,
    max_tokens: int = 1024,
    syntax: Reading = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[ItemScore]:
    """Every question graded; a question of retrieve+understand gives two grades, a plan too.

    `embed` gives sentence vectors for the similarity of plans (T-Eval uses all-mpnet-base-v2);
    without it only equal names and arguments are similar, which is a lower bound.
    """
    requests = [
        greedy(f"teval/{item.task}_{item.form}/{item.id}", item.messages, max_tokens)
        for item in items
    ]
    replies = await ask_all(engine, requests, progress)
    answers = [reply.completions[0].text for reply in replies]
    plans = [
        (item, answer) for item, answer in zip(items, answers, strict=True) if item.task == "plan"
    ]
    grades = await _grade_plans(plans, embed, syntax)
    for item, answer in zip(items, answers, strict=True):
        if item.task != "plan":
            grades += [_grade_call(item, answer, task, syntax) for task in item.task.split("+")]
    by_item = {
        f"{category}/{item.id}": reply
        for item, reply in zip(items, replies, strict=True)
        for category in categories(item)
    }
    return [explain_ending(each, by_item[each.item]) for each in grades]


# Plans ------------------------------------------------------------------------------------


async def _grade_plans(
    plans: Sequence[tuple[TEvalQuestion, str]], embed: Embed | None, syntax: Reading
) -> list[ItemScore]:
    """Plans graded, all their texts embedded at once."""
    read = [
        (_strip(read_plan(item, answer, syntax)), _strip(_read_plan(item.truth) or ()))
        for item, answer in plans
    ]
    texts = sorted(
        {t for pair in read for plan in pair for p in plan for t in (p.name, p.arguments)}
    )
    vectors: dict[str, Vectors] = {}
    if embed is not None and texts:
        found = await embed(texts)
        norms = np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
        vectors = dict(zip(texts, found / norms, strict=True))
    grades = []
    for (item, answer), (given, truth) in zip(plans, read, strict=True):
        for strict in (False, True):
            value = plan_f1(given, truth, vectors, strict=strict)
            grades.append(
                grade(
                    item=item.id,
                    category=f"plan{'_strict' if strict else ''}_{item.form}",
                    value=value,
                    reason="plan_differs" if given else "plan_unreadable",
                    message=f"{len(given)} calls planned, {len(truth)} expected",
                    answer=answer,
                )
            )
    return grades


def plan_f1(
    given: Sequence[Planned],
    truth: Sequence[Planned],
    vectors: Mapping[str, Vectors],
    *,
    strict: bool,
) -> float:
    """F1 of the longest increasing run of one-to-one matches of similar calls.

    `strict` is False for T-Eval's own count, at least one match for a plan that is not empty.
    """
    if not given or not truth:
        return 0.0
    similarity_GT = np.array(
        [
            [
                NAME_WEIGHT * _similar(g.name, t.name, vectors)
                + ARGUMENTS_WEIGHT * _similar(g.arguments, t.arguments, vectors)
                for t in truth
            ]
            for g in given
        ]
    )
    matches = _match(np.where(similarity_GT > THRESHOLD, similarity_GT, 0.0))
    length = max(_longest_run(matches), 0 if strict else 1)
    return 2 * length / (len(given) + len(truth))


def _similar(a: str, b: str, vectors: Mapping[str, Vectors]) -> float:
    if a in vectors and b in vectors:
        return max(0.0, float(vectors[a] @ vectors[b]))
    return float(a == b)


def _match(weights_GT: np.ndarray[Any, Any]) -> list[int]:
    """The truth's position for each given call that is matched, in the plan's order."""
    if not is_installed("scipy"):
        raise MissingError("scipy is not installed", remedy="pip install 'tool-factory[train]'")
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

    rows, columns = linear_sum_assignment(weights_GT, maximize=True)
    return [int(t) for g, t in zip(rows, columns, strict=True) if weights_GT[g, t] > 0]


def _longest_run(positions: Sequence[int]) -> int:
    """Length of the longest increasing subsequence."""
    smallest: list[int] = []  # by length less one, the least position that such a run ends with
    for position in positions:
        place = bisect_left(smallest, position)
        smallest[place : place + 1] = [position]
    return len(smallest)


def _strip(plan: Sequence[Planned]) -> list[Planned]:
    """Without the closing FinishAction."""
    return list(plan[:-1]) if plan and plan[-1].name == FINISH else list(plan)


def read_plan(item: TEvalQuestion, answer: str, syntax: Reading) -> list[Planned]:
    """The calls that an answer plans, in order; none where it cannot be read."""
    if item.form == "json" and (plan := _read_plan(read_value(answer, "[", "]"))):
        return plan
    found = [
        Planned(name=call.name, arguments=str(call.arguments))
        for call in decode_beside(answer, syntax)
    ]
    if found or item.form == "json":
        return found
    for line in answer.replace(". ", "\n").split("\n"):
        places = [(line.find(name), name) for name in item.tools if name in line]
        if places:
            found.append(Planned(name=min(places)[1], arguments=line))
    return found


def _read_plan(value: Any) -> list[Planned] | None:
    """Calls by their ids; None for what is no plan."""
    try:
        rows = sorted(value, key=lambda row: int(row["id"]))
        return [Planned(name=str(row["name"]), arguments=str(row["args"])) for row in rows]
    except (TypeError, KeyError, ValueError):
        return None


# Calls ------------------------------------------------------------------------------------


def _grade_call(item: TEvalQuestion, answer: str, task: str, syntax: Reading) -> ItemScore:
    """The name (retrieve) or the arguments (understand) of one call."""
    reason = "wrong_tool" if task == "retrieve" else "wrong_value"
    calls = decode_beside(answer, syntax)
    call = calls[0] if len(calls) == 1 else None
    if item.form == "str" and task == "retrieve":
        value = _name_in(answer, item.truth, call)
    elif item.form == "str":
        value = _equal(answer, item.truth, call)
    elif not isinstance(given := _read_object(answer, call), dict):
        value, reason = 0.0, "call_json"
    elif task == "retrieve":
        value = float(str(given.get("name", "")) == str(item.truth.get("name", "")))
    else:
        value = arguments_share(given.get("args"), item.truth.get("args"))
    return grade(
        item=item.id,
        category=f"{task}_{item.form}",
        value=value,
        reason=reason,
        message="" if value == 1 else f"{show(item.truth)} is expected",
        answer=answer,
    )


def arguments_share(given: Any, truth: Any) -> float:
    """Share of the expected arguments that are given with an equal value, as text."""
    given = given if isinstance(given, dict) else {}
    truth = truth if isinstance(truth, dict) else {}
    if not truth:
        return float(not given)
    return sum(str(given.get(key)) == str(value) for key, value in truth.items()) / len(truth)


def _read_object(answer: str, call: Call | None) -> Any:
    """The object that T-Eval asks for, `args` in it; else a call in another writing as one."""
    given = read_value(answer, "{", "}")
    if call is None or (isinstance(given, dict) and "args" in given):
        return given
    return {"name": call.name, "args": call.arguments}


def _name_in(answer: str, truth: Mapping[str, Any], call: Call | None) -> float:
    """Whether the answer mentions the expected tool and no other `a.b` or FinishAction.

    Of an answer that is a call whether it calls that tool: its arguments mention nothing.
    """
    name = str(truth.get("name", ""))
    if call is not None:
        return float(call.name == name)
    mentioned = re.findall(r"\w+\.\w+", answer) + re.findall(FINISH, answer)
    return float(bool(name) and name in answer and all(each == name for each in mentioned))


def _equal(answer: str, truth: Mapping[str, Any], call: Call | None) -> float:
    """Arguments in plain text: those of an object by share, others as text without quotes.

    Where an answer is a call instead, its arguments; for plain text its only one.
    """
    expected = truth.get("args")
    if isinstance(expected, dict):
        given = read_value(answer, "{", "}")
        is_object = isinstance(given, dict) and not expected.keys().isdisjoint(given)
        return arguments_share(given if is_object or call is None else call.arguments, expected)
    if answer.strip().strip("'\"") == str(expected):
        return 1.0
    return float(call is not None and [*map(str, call.arguments.values())] == [str(expected)])


def read_value(text: Any, start: str = "", end: str = "") -> Any:
    """A value from its text, as JSON or as Python prints it, from `start` to `end`; else None."""
    if not isinstance(text, str):
        return text
    fenced = re.search(r"```(?:json)?(.*?)(?:```|$)", text, re.DOTALL)
    body = fenced[1] if fenced else text
    if start:
        body = body[max(body.find(start), 0) : body.rfind(end) + 1]
    return parse_text(body.strip())
