"""A lesson: a round whose samples are labelled rows. It trains, scores and is gated like any other.

The rows are written at once, judged, with those that fell; what comes after is steps 8 to 10 of a
round, with the parent's scores before. A lesson that was killed is continued like a round.
"""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from factory.domain.canon import to_json
from factory.domain.records import Candidate, Checkpoint, Example, Message, Tool
from factory.engines.trainable import check_trainable
from factory.ledger import history
from factory.ledger.history import CONVERSATION, LESSON, TURNS, OpenRound
from factory.ledger.lineage import base_checkpoint, next_checkpoint
from factory.ledger.rows import stage_row, tool_rows, unsampled_row
from factory.ledger.tables import Batch, GenerationRow, ToolRow, merge
from factory.lessons.examples import call_chat, lesson_examples
from factory.lessons.judging import JudgedLessons, JudgedRow, judge_lessons
from factory.lessons.keeping import kept_conversation
from factory.lessons.moves import agent_chat
from factory.lessons.records import Lessons
from factory.lessons.split import HELD_OUT, hold_out
from factory.round.factory import Factory
from factory.round.form import settle_form
from factory.round.gate import RoundResult
from factory.round.judging import judgement_of
from factory.round.round import finish_round
from factory.round.start import (
    identity_rows,
    next_round,
    note_model,
    unknown_rows,
    write_start,
)
from factory.score.labelled import Labelled, is_free, write_benchmark
from factory.score.loading import load_benchmarks
from factory.score.toolbench.turns import TEMPLATES, Turns
from factory.train.examples import teaches_calls
from factory.workspace.folder import Workspace
from factory.workspace.prompts import Prompts
from factory.workspace.recipe import vary


@dataclass(frozen=True, slots=True, kw_only=True)
class LessonPlan:
    """What a lesson would do."""

    number: int
    """Its round."""
    lessons: Lessons
    """The rows as they were read."""
    judged: JudgedLessons
    """The same, judged and split."""
    questions: tuple[Labelled, ...]
    """The dev set; none without --dev."""
    dev: str
    """Name of the dev set."""
    examples: tuple[Example, ...]
    """What is taught, replay left out."""
    unstaged: int = 0
    """Conversations of which no stage of the recipe teaches the later turns."""

    @property
    def accepted(self) -> list[JudgedRow]:
        """The requests that teach."""
        return [row for row in self.judged.requests if row.is_accepted]

    @property
    def documents(self) -> list[Tool]:
        """The documents that teach, in file order."""
        return [tool for row in self.judged.documents for tool in row.tools]

    @property
    def fallen(self) -> list[JudgedRow]:
        """The rows that a rule or the dev set keeps from teaching, or from teaching in full."""
        return [row for row in self.judged.rows if not row.is_accepted]

    @property
    def held_out(self) -> list[JudgedRow]:
        """What the dev set keeps from teaching."""
        return [row for row in self.fallen if row.rule.startswith(HELD_OUT)]

    @property
    def in_part(self) -> list[JudgedRow]:
        """Documents that get a code, and are not taught to be written."""
        coded = any(example.kind == "code" for example in self.examples)
        return [row for row in self.fallen if coded and row.tools and not row.lesson.query]

    @property
    def left_out(self) -> list[JudgedRow]:
        """The rows that teach nothing for what is wrong with them."""
        others = {id(row) for row in (*self.held_out, *self.in_part)}
        return [row for row in self.fallen if id(row) not in others]

    def counts(self) -> dict[str, object]:
        """What it teaches, in numbers, for the ledger."""
        kinds = Counter(example.kind for example in self.examples)
        return {
            "formats": dict(self.lessons.formats),
            "requests": len(self.accepted),
            "documents": len(self.documents),
            "conversations": sum(bool(row.moves or row.lesson.turns) for row in self.accepted),
            "questions": len(self.questions),
            "left_out": len(self.left_out),
            "examples": dict(kinds),
        }


def plan_lesson(factory: Factory, lessons: Lessons, dev: float = 0.0) -> LessonPlan:
    """Judge the rows, and hold out a share of the requests by their tools.

    Raises InputError where a share holds out nothing, or everything.
    """
    with factory.ledger.read() as past:
        known = history.imported_tools(past)
        number = history.last_round(past) + 1
        trained = history.trained_queries(past)
    name = _free_name(factory.workspace, number)
    judged = judge_lessons(
        lessons, known, rulebook=factory.rulebook, held_out=factory.all_benchmarks
    )
    questions: tuple[Labelled, ...] = ()
    if dev:
        split = hold_out(judged, dev, name, factory.recipe.seed, trained)
        judged, questions = split.taught, split.questions
    plan = LessonPlan(
        number=number, lessons=lessons, judged=judged, questions=questions, dev=name, examples=()
    )
    examples = lesson_examples(
        [_as_labelled(factory, row) for row in plan.accepted],
        plan.documents,
        rulebook=factory.rulebook,
        prompts=factory.prompts,
        recipe=factory.recipe,
        number=number,
    )
    stages = factory.recipe.stage
    has_stage = not stages or any("trajectory" in stage.kinds for stage in stages)
    unstaged = 0 if has_stage else sum(example.kind == "trajectory" for example in examples)
    return replace(plan, examples=tuple(examples), unstaged=unstaged)


def _as_labelled(factory: Factory, row: JudgedRow) -> Candidate:
    answer = _answer(row, factory.recipe.train.no_call)
    return replace(row.sample.candidate, answer=answer, chat=_chat(factory, row))


def _chat(factory: Factory, row: JudgedRow) -> tuple[Message, ...]:
    """The row's conversation, in the agent's words or those of calls; empty for any other row."""
    lesson = row.lesson
    if row.moves:
        turns = Turns(Prompts(factory.workspace, TEMPLATES))
        by_code = factory.recipe.codes.are_made
        return agent_chat(lesson.query, row.moves, row.given, turns, by_code=by_code)
    if not lesson.turns:
        return ()
    return call_chat(
        lesson.query,
        row.given or row.tools,
        lesson.turns,
        factory.prompts,
        is_taught=not row.is_silent,
    )


def _answer(row: JudgedRow, no_call: str) -> str:
    """What is said where the right answer calls nothing; empty for any other row."""
    lesson = row.lesson
    if lesson.calls is None or lesson.calls or row.is_silent:
        return ""
    return lesson.answer or no_call


def parent_of(factory: Factory) -> Checkpoint:
    """The checkpoint that a lesson would start from. Raises FactoryError."""
    with factory.ledger.read() as past:
        base = base_checkpoint(factory.workspace, factory.settings, past)
        return next_checkpoint(factory.workspace, past, base)


async def run_lesson(factory: Factory, plan: LessonPlan) -> RoundResult:
    """Teach, from the first row of the ledger to the gate. Raises FactoryError."""
    with factory.ledger.read() as past:
        base = base_checkpoint(factory.workspace, factory.settings, past)
        given = unknown_rows(factory, past, base)
        parent = next_checkpoint(factory.workspace, past, base)
    calls = teaches_calls(plan.examples)
    factory = await settle_form(factory, Path(parent.path), teaches=calls)
    factory.monitor.stage("check the model")
    await check_trainable(Path(parent.path), factory.prompts, factory.settings.engine)
    if plan.questions:
        title = _title(plan.number)
        write_benchmark(factory.workspace, plan.dev, title, "dev", plan.questions)
    try:
        factory = _gated_by(factory, plan.dev) if plan.questions else factory
        this = _begin(factory, plan, base, given)
    except BaseException:
        if plan.questions:
            _drop(factory.workspace, plan.dev)
        raise
    return await finish_round(factory, this)


def _begin(factory: Factory, plan: LessonPlan, base: Checkpoint, given: Batch) -> OpenRound:
    """Write every row that the lesson knows from the start, all or nothing."""
    with factory.ledger.read() as past:
        this = next_round(factory, past, base)
        given = merge([given, identity_rows(factory, past, this)])
    note_model(factory)
    written = [row for row in plan.judged.rows if row.lesson.query or not row.is_accepted]
    now, judgement = datetime.now(UTC), judgement_of(factory, this)
    stages = [
        stage_row(this.number, LESSON, now, plan.counts()),
        *(stage_row(this.number, name, now) for name in DONE),
    ]
    rows = merge(
        [
            *(row.sample.rows(judgement, now) for row in written),
            {"generation": _label_rows(factory, plan), "stage": stages},
            {"tool": _document_rows(plan)},
            given,
        ]
    )
    write_start(factory, this, [row.query for row in written], rows)
    return replace(this, stages_done=this.stages_done | {LESSON, *DONE})


DONE = ("sample", "judge")
"""Stages of a round that a lesson begins with behind it."""


def _gated_by(factory: Factory, dev: str) -> Factory:
    """The same with the dev set in the recipe, which the round keeps."""
    recipe = vary(factory.recipe, score=vary(factory.recipe.score, dev=dev))
    origins = factory.resolved.origins | {"score.dev": "--dev"}
    return replace(
        factory,
        resolved=replace(factory.resolved, recipe=recipe, origins=origins),
        benchmarks=load_benchmarks(factory.workspace, recipe),
    )


def _label_rows(factory: Factory, plan: LessonPlan) -> list[GenerationRow]:
    """What no other table holds of labels: what is said where nothing is called, conversations."""
    labelled = [_as_labelled(factory, row) for row in plan.accepted]
    answers = {each.query.id: each.answer for each in labelled if each.answer}
    chats = {
        each.query.id: to_json([message.to_json() for message in each.chat])
        for each in labelled
        if each.chat
    }
    kept = {row.query.id: kept_conversation(row) for row in plan.accepted}
    turns = {each: to_json(conversation) for each, conversation in kept.items() if conversation}
    return [
        unsampled_row(plan.number, each, stage, text)
        for stage, texts in (("label", answers), (CONVERSATION, chats), (TURNS, turns))
        for each, text in texts.items()
    ]


def _document_rows(plan: LessonPlan) -> list[ToolRow]:
    """The documents as imported ones: later rounds code and retrieve them."""
    return [
        row
        for each in plan.judged.documents
        for row in tool_rows(plan.number, each.tools, each.lesson.file)
    ]


def _title(number: int) -> str:
    return f"Requests held out of the lesson of round {number}"


def _free_name(workspace: Workspace, number: int) -> str:
    """The name of a new dev set; one of another ledger, or of a lesson cut short, keeps its own."""
    names = (f"taught-{number}" + (f"-{again}" if again > 1 else "") for again in count(1))
    return next(name for name in names if is_free(workspace, name))


def _drop(workspace: Workspace, dev: str) -> None:
    """Remove the dev set that this lesson has written, where the lesson itself is not."""
    marker = workspace.root / "eval" / f"{dev}.toml"
    marker.unlink(missing_ok=True)
    shutil.rmtree(marker.with_suffix(""), ignore_errors=True)
