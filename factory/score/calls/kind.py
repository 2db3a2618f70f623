"""Questions in BFCL's format, answered by calls: home, BFCL, and benchmarks of one's own."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from factory.domain.canon import canonical_json, digest
from factory.domain.failures import ContentError
from factory.domain.records import Checkpoint, ItemScore, Message, Request, Score
from factory.engines.base import Engine
from factory.judge.answers import Syntax
from factory.judge.parsed import TRUNCATED
from factory.judge.reading import SYNTAX
from factory.score.asking import ask_all, greedy
from factory.score.base import Asked, Setup, resolve
from factory.score.calls.bfcl import (
    LANGUAGES,
    LEADERBOARD_PARTS,
    LIVE,
    NON_LIVE,
    OVERALL,
    check_ast,
    gold_calls,
)
from factory.score.calls.judging import PER_CALL, UNREADABLE_CALL, judge
from factory.score.calls.questions import MAX_TOKENS, PromptStyle, load_questions
from factory.score.card import Average, Groups, Line, Scorecard, make_card
from factory.score.definition import check_definition, first_of_each
from factory.score.estimates import combine, group_marks, group_values, summarise
from factory.score.items import Item
from factory.score.published import PublishedTable
from factory.workspace.folder import Workspace
from factory.workspace.prompts import Prompts, invocation_messages, join_neighbours

FIRST_READING = 1
READING: int = 2
"""Raised when answers are read or judged otherwise than before: scores are other ones then."""


class Changes(BaseModel):
    """What of a definition can be changed for once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str = ""
    categories: tuple[str, ...] = ()
    limit: int = Field(0, ge=0)
    prompt: PromptStyle | None = None
    syntax: Syntax | None = None
    max_tokens: int = Field(0, ge=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark(Asked):
    """A set of questions in BFCL's format that are answered by calls."""

    average: Literal["categories", "tooldev"] = "categories"
    """What the overall score is: the mean of the categories, or ToolDev's Overall where all the
    categories that it needs are there."""
    prompt: PromptStyle = "own"
    """How the question is put."""
    syntax: Syntax = "hermes"
    """How calls are read out of the answer."""
    max_tokens: int = MAX_TOKENS
    """New tokens of an answer."""

    @classmethod
    def load(cls, workspace: Workspace, name: str, data: Path | None = None) -> Benchmark:
        """The benchmark of eval/<name>.toml, its questions from the folder `data` if given.

        Raises ContentError with file and line, MissingError for a package that is not installed.
        """
        definition, items = load_questions(workspace, name, data)
        return cls(
            stem=name,
            title=definition.title,
            split=definition.split,
            items=items,
            average=definition.average,
            prompt=definition.prompt,
            syntax=definition.syntax,
            max_tokens=definition.max_tokens,
        )

    @classmethod
    def load_changed(cls, workspace: Workspace, name: str, changes: Mapping[str, Any]) -> Benchmark:
        """The benchmark, narrowed by `changes`."""
        wanted = check_definition(Changes, changes, f"eval/{name}.toml")
        whole = cls.load(workspace, name, resolve(workspace, wanted.data) if wanted.data else None)
        return whole.narrow(**wanted.model_dump(exclude={"data"}))

    def narrow(
        self,
        *,
        categories: tuple[str, ...] = (),
        limit: int = 0,
        prompt: PromptStyle | None = None,
        syntax: Syntax | None = None,
        max_tokens: int = 0,
    ) -> Benchmark:
        """A part of the benchmark, or another way to ask it, under a name that says so.

        No categories are all, and so is a limit of 0 (the first items of each category);
        `max_tokens` of 0 is the definition's.
        """
        unknown = [category for category in categories if category not in self.categories]
        if unknown:
            raise ContentError(
                f"{self.name} has no category {unknown[0]!r}",
                where=f"eval/{self.name}.toml",
                remedy="its categories are " + ", ".join(self.categories),
            )
        kept = [i for i in self.items if not categories or i.category in categories]
        kept = first_of_each(kept, limit, lambda item: item.category)
        asked: dict[str, Any] = {
            "prompt": prompt or self.prompt,
            "syntax": syntax or self.syntax,
            "max_tokens": max_tokens or self.max_tokens,
        }
        marks = [
            "+".join(categories),
            f"limit={limit}" if limit else "",
            *(f"{key}={value}" for key, value in asked.items() if value != self.asked[key]),
        ]
        variant = ",".join(mark for mark in marks if mark)
        return replace(self, variant=variant, items=tuple(kept), **asked)

    @property
    def asked(self) -> Mapping[str, str | int]:
        return {"prompt": self.prompt, "syntax": self.syntax, "max_tokens": self.max_tokens}

    def basis(self, setup: Setup) -> str:
        return score_basis(self, setup.prompts)

    def ruler(self, setup: Setup) -> Mapping[str, str]:
        parts: dict[str, object] = {
            "questions": [
                [item.id, item.functions, [message.to_json() for message in item.turn]]
                for item in self.items
            ],
            "answers": [
                [item.id, _JUDGED_BY.get(item.judge, item.judge), item.ground_truth]
                for item in self.items
            ],
            "prompt": [self.prompt, *_prompt_shas(self, setup.prompts)],
            "max_tokens": self.max_tokens,
            "reading": [self.syntax, READING],
        }
        return {part: digest(canonical_json(value)) for part, value in parts.items()}

    async def score(self, setup: Setup, checkpoint: Checkpoint, engine: Engine) -> list[ItemScore]:
        return await self.ask(engine, setup.prompts, setup.progress)

    async def ask(
        self,
        engine: Engine,
        prompts: Prompts,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[ItemScore]:
        """Every item, judged, in the benchmark's order; what the engine raises ends the scoring."""
        requests = [make_request(self, item, prompts) for item in self.items]
        replies = await ask_all(engine, requests, progress)
        syntax = SYNTAX["native"] if self.is_native(prompts) else self.syntax
        return [judge(i, reply, syntax) for i, reply in zip(self.items, replies, strict=True)]

    def is_native(self, prompts: Prompts) -> bool:
        """Whether the prompt of rounds is the chat template's own."""
        return self.prompt == "own" and prompts.form == "native"

    def card(self, items: Sequence[ItemScore]) -> Scorecard:
        ordered = self.ordered(items)
        card = make_card(
            ordered,
            _averages(self, group_marks(ordered)),
            ceilings=group_ceilings(self),
            official=_official_abstentions(self, items),
        )
        return replace(card, per_call=_per_call(ordered))

    @property
    def weights(self) -> Mapping[str, float] | None:
        """Weight of each category in the overall score; None is the mean of all."""
        has_all = set(OVERALL) <= set(self.categories)
        return OVERALL if self.average == "tooldev" and has_all else None

    def summary(self, checkpoint: str, items: Sequence[ItemScore]) -> Score:
        return summarise(self.name, checkpoint, items, self.weights)

    def beside(self, table: PublishedTable, card: Scorecard) -> Mapping[str, float]:
        values = {line.name: line.estimate.value for line in card.categories if line.estimate}
        for line in card.averages:
            if line.scheme == "tooldev" and line.estimate:
                values[line.name] = line.estimate.value
        simple = [f"simple_{word}" for word in ("python", "java", "javascript")]
        if all(name in values for name in simple):
            values["simple"] = statistics.fmean(values[name] for name in simple)
        return values


def make_request(benchmark: Benchmark, item: Item, prompts: Prompts) -> Request:
    """One item's prompt, to be answered greedily."""
    own = benchmark.prompt == "own"
    messages = _own_messages(item, prompts) if own else join_neighbours(item.turn)
    tools = () if own else item.openai_tools
    name = f"score/{benchmark.name}/{item.id}"
    return greedy(name, messages, benchmark.max_tokens, tools)


def _own_messages(item: Item, prompts: Prompts) -> tuple[Message, ...]:
    """The invocation prompt with the turn's last message as the query.

    A system message of the turn follows the prompt's own, earlier messages stand between.
    """
    *earlier, last = item.turn
    system, query = invocation_messages(last.content, item.documents, prompts)
    rules = [message for message in earlier if message.role == "system"]
    chat = [message for message in earlier if message.role != "system"]
    return join_neighbours([system, *rules, *chat, query])


_JUDGED_BY = {"no_call": "true abstention"}
"""Judges that judge otherwise than they did under their name: older scores are not theirs."""


def score_basis(benchmark: Benchmark, prompts: Prompts) -> str:
    """Hash of what a score depends on besides the checkpoint: items, prompts, length.

    What is as usual adds nothing: our prompt and syntax, one user message, calls in Python.
    """
    items = [[item.id, item.query, item.functions, item.ground_truth] for item in benchmark.items]
    shas = _prompt_shas(benchmark, prompts)
    unusual: dict[str, object] = {
        item.id: [_JUDGED_BY.get(item.judge, item.judge), [m.to_json() for m in item.turn]]
        for item in benchmark.items
        if item.judge != "python" or len(item.turn) > 1
    }
    if (benchmark.prompt, benchmark.syntax) != ("own", "hermes"):
        unusual[""] = [benchmark.prompt, benchmark.syntax]
    if READING != FIRST_READING:
        unusual["reading"] = READING
    parts = [items, shas, benchmark.max_tokens]
    return digest(canonical_json([*parts, unusual] if unusual else parts))


def _per_call(items: Sequence[ItemScore]) -> tuple[Line, ...]:
    """Means over the items that expect certain calls."""
    of = {name: [x.detail[name] for x in items if name in x.detail] for name in PER_CALL}
    return tuple(
        Line(
            name="per call",
            metric=name,
            estimate=combine({name: np.array(values)}, {name: 1.0}),
            num_items=len(values),
        )
        for name, values in of.items()
        if values
    )


def _prompt_shas(benchmark: Benchmark, prompts: Prompts) -> list[str]:
    if benchmark.is_native(prompts):
        return ["native"]
    return [prompts.sha(name) for name in ("calls/system", "calls/invoke")]


IRRELEVANCE = {"irrelevance": 0.5, "live_irrelevance": 0.5}


def group_ceilings(benchmark: Benchmark) -> dict[str, NDArray[np.float64]]:
    """1.0 for each item whose own gold is judged right, by category."""
    return group_values((item.category, float(_gold_is_right(item))) for item in benchmark.items)


def _gold_is_right(item: Item) -> bool:
    if item.judge not in LANGUAGES:
        return True
    calls = gold_calls(item.ground_truth, item.functions, item.language)
    return check_ast(calls, item.functions, item.ground_truth, item.language).correct


def _official_abstentions(benchmark: Benchmark, items: Sequence[ItemScore]) -> dict[str, float]:
    """Percent of answers of which no call can be read, in each category where none is due."""
    asked = {item.category for item in benchmark.items if item.judge == "no_call"}
    unread = (UNREADABLE_CALL, TRUNCATED)
    abstained = [
        (x.category, float(x.correct or x.reason in unread)) for x in items if x.category in asked
    ]
    return {name: 100 * float(of.sum()) / len(of) for name, of in group_values(abstained).items()}


def _averages(benchmark: Benchmark, marks: Groups) -> list[Average]:
    """The conventions that apply to the benchmark."""
    if benchmark.average != "tooldev":
        return []
    live = {name: len(marks[name]) for name in LIVE if name in marks}
    sizes = {name: live[name] / sum(live.values()) for name in LIVE} if len(live) == 4 else LIVE
    parts = ", ".join(f"{part} ({LEADERBOARD_PARTS[part]} %)" for part in ("multi_turn", "agentic"))
    return [
        Average("tooldev", "overall", OVERALL),
        Average("tooldev", "non_live", NON_LIVE),
        Average("tooldev", "live", LIVE),
        Average("leaderboard", "non_live", NON_LIVE),
        Average("leaderboard", "live", sizes),
        Average("leaderboard", "irrelevance", IRRELEVANCE),
        Average("leaderboard", "relevance", {"live_relevance": 1.0}),
        Average("leaderboard", "overall", {parts: 1.0}),
    ]
