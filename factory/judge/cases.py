"""Run the cases that rules ship with, and try all content before it is used."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, model_validator

from factory.domain.canon import query_id, tool_id
from factory.domain.failures import ContentError
from factory.domain.records import Call, Candidate, Past, PastQuery, Query, Tool, Verdict
from factory.judge.bench import Bench
from factory.judge.rulebook import Case, Limit, Rule, Rulebook, RuleStage
from factory.judge.sets import judge_round
from factory.judge.verdicts import check_calls, check_code, check_tools, check_vote
from factory.judge.vote import vote
from factory.tools.dialects import to_document
from factory.workspace.checking import check_table
from factory.workspace.prompts import Prompts


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseFailure:
    """A case that its rule judges otherwise than it says. Example: CaseFailure(rule="call/…")."""

    rule: str
    where: str
    message: str
    """What was expected and what came."""


def run_cases(rulebook: Rulebook, bench: Bench | None = None) -> list[CaseFailure]:
    """Runs every rule's cases, switched-off rules too."""
    rules = {name: replace(rule, active=True) for name, rule in rulebook.rules.items()}
    whole = replace(rulebook, rules=rules)
    failures = []
    with nullcontext(bench) if bench else closing(Bench()) as used:
        for case in rulebook.cases:
            verdicts = judge_case(case, whole, used)
            fired = any(verdict.rule == case.rule for verdict in verdicts)
            if fired == case.accept:
                expected = "let pass" if case.accept else "caught"
                came = "; ".join(f"{v.rule}: {v.message}" for v in verdicts) or "no verdict"
                message = f"should be {expected}, but: {came}"
                failures.append(CaseFailure(rule=case.rule, where=case.where, message=message))
    return failures


def check_content(prompts: Prompts, rulebook: Rulebook) -> None:
    """Render every prompt's example and judge every rule's cases, in about a second: a bad
    prompt or rule stops before a model is loaded.

    A set rule is tried on one request besides, so that one without cases is known to run.
    A rule that the workspace changed may judge a shipped case otherwise: that is what the change
    is for. It must still judge it, and agree with the workspace's own cases.
    Raises ContentError with the file for the first that fails.
    """
    prompts.check()
    request = Candidate(query=Query(id="q_0", text="Book a table for 4.", source="trial"))
    with closing(Bench()) as bench:
        for stage in get_args(RuleStage):
            judge_round(rulebook.rules, [request], Past(), [], stage=stage, bench=bench)
        failures = run_cases(rulebook, bench)
    own = prompts.workspace.root / "rules"
    for failure in failures:
        if Path(failure.where.rpartition(":")[0]).is_relative_to(own):
            raise ContentError(
                f"rule {failure.rule} fails a case: {failure.message}",
                where=failure.where,
                remedy="mend the rule or its case; `factory rules --test` runs them all",
            )


def judge_case(case: Case, rulebook: Rulebook, bench: Bench | None = None) -> tuple[Verdict, ...]:
    """All verdicts on a case's record; of a set rule's case, those of the rule itself.

    Raises ContentError with file, line and key where the keys do not fit the subject.
    """
    kind = KINDS[case.rule.split("/")[0]]
    remedy = f"besides `accept` its keys are {', '.join(kind.model_fields)}"
    content = check_table(kind, case.content, case.where, remedy=remedy)
    if isinstance(content, SetCase):
        return content.judge(rulebook.rule(case.rule), bench)
    return content.judge(rulebook)


class CaseContent(BaseModel):
    """A case's record: what a line holds besides `accept`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ToolCase(CaseContent):
    """Tool documents, or the text of an answer."""

    documents: list[Any] | None = None
    text: str = ""
    query: str = ""
    finish_reason: str = "stop"

    @model_validator(mode="after")
    def _has_a_record(self) -> ToolCase:
        if not self.model_fields_set & {"documents", "text"}:
            raise ValueError("a case of a tool rule has `documents` or `text`")
        return self

    def judge(self, rulebook: Rulebook) -> tuple[Verdict, ...]:
        lines = "\n".join(map(json.dumps, self.documents or ()))
        text = self.text if self.documents is None else f"<tools>{lines}</tools>"
        return check_tools(
            text, rulebook=rulebook, query=self.query, finish_reason=self.finish_reason
        ).verdicts


class CallCase(CaseContent):
    """Calls, or the text of an answer, against tool documents."""

    tools: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    text: str = ""
    query: str = ""
    finish_reason: str = "stop"

    def judge(self, rulebook: Rulebook) -> tuple[Verdict, ...]:
        return check_calls(
            self.text or render_calls(self.calls),
            _make_tools(self.tools),
            rulebook=rulebook,
            query=self.query,
            finish_reason=self.finish_reason,
        )


class VoteCase(CaseContent):
    """Samples, each a text or a list of calls."""

    tools: list[dict[str, Any]] = []
    samples: list[str | list[dict[str, Any]]]
    minimum: int | None = None
    plurality: bool = False

    def judge(self, rulebook: Rulebook) -> tuple[Verdict, ...]:
        texts = [each if isinstance(each, str) else render_calls(each) for each in self.samples]
        tools = _make_tools(self.tools)
        found = vote(texts, tools, minimum=self.minimum, plurality=self.plurality)
        return check_vote(found, rulebook=rulebook)


class CodeCase(CaseContent):
    """A code, and whether the trie has it."""

    code: str
    valid: bool

    def judge(self, rulebook: Rulebook) -> tuple[Verdict, ...]:
        return check_code(self.code, valid=self.valid, rulebook=rulebook)


class CaseCall(CaseContent):
    """A call that won a sample's vote."""

    name: str
    arguments: dict[str, Any]


class CaseSample(CaseContent):
    """A sample of a round."""

    query: str
    tools: list[dict[str, Any]] = []
    calls: list[CaseCall] = []

    def candidate(self) -> Candidate:
        return Candidate(
            query=Query(id=query_id(self.query), text=self.query, source="case"),
            tools=tuple(_make_tools(self.tools)),
            calls=tuple(Call(name=call.name, arguments=call.arguments) for call in self.calls),
        )


class CaseQuestion(CaseContent):
    """A question of a benchmark."""

    id: str = ""
    query: str
    functions: list[dict[str, Any]] = []

    @property
    def documents(self) -> Sequence[Mapping[str, Any]]:
        return tuple(map(to_document, self.functions))


class _Questions(NamedTuple):
    name: str
    items: Sequence[CaseQuestion]


class SetCase(CaseContent):
    """A round, its history, a benchmark, and `limits` in place of the rule's."""

    candidates: list[CaseSample]
    history: list[CaseSample] = []
    benchmark: list[CaseQuestion] = []
    limits: dict[str, Limit] = {}

    def judge(self, rule: Rule, bench: Bench | None) -> tuple[Verdict, ...]:
        rule = replace(rule, limits=rule.limits | self.limits)
        past = [sample.candidate() for sample in self.history]
        items = [q.model_copy(update={"id": str(n)}) for n, q in enumerate(self.benchmark)]
        found = judge_round(
            {rule.id: rule},
            [sample.candidate() for sample in self.candidates],
            Past(
                queries=[
                    PastQuery(round_number=1, id=p.query.id, text=p.query.text, calls=p.calls)
                    for p in past
                ],
                tools=list({tool.id: tool for p in past for tool in p.tools}.values()),
            ),
            [_Questions("case", items)],
            stage=rule.stage,
            bench=bench,
        )
        return tuple(verdict for verdicts in found.values() for verdict in verdicts)


KINDS: dict[str, type[ToolCase | CallCase | VoteCase | CodeCase | SetCase]] = {
    "tool": ToolCase,
    "call": CallCase,
    "vote": VoteCase,
    "code": CodeCase,
    "round": SetCase,
}
"""What a case holds, by its rule's subject."""


def _make_tools(documents: Iterable[dict[str, Any]]) -> list[Tool]:
    return [Tool(id=tool_id(document), document=document) for document in documents]


def render_calls(calls: Iterable[Mapping[str, Any]]) -> str:
    """Call objects as an answer's text."""
    return "\n".join(f"<tool_call>{json.dumps(call)}</tool_call>" for call in calls)
