"""Run the cases that rules ship with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from factory.domain.canon import query_id, tool_id
from factory.domain.failures import ContentError
from factory.domain.records import Call, Candidate, Past, PastQuery, Query, Tool, Verdict
from factory.judge.rulebook import Case, Limit, Rule, Rulebook
from factory.judge.sets import judge_round, open_bench
from factory.judge.verdicts import check_calls, check_code, check_tools, check_vote
from factory.judge.vote import vote
from factory.tools.dialects import to_document

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseFailure:
    """A case that its rule judges otherwise than it says. Example: CaseFailure(rule="call/…")."""

    rule: str
    """Rule id."""
    where: str
    """File and line of the case."""
    message: str
    """What was expected and what came."""


def run_cases(rulebook: Rulebook) -> list[CaseFailure]:
    """Runs every rule's cases, switched-off rules too."""
    rules = {name: replace(rule, active=True) for name, rule in rulebook.rules.items()}
    whole = replace(rulebook, rules=rules)
    failures = []
    with closing(open_bench()) as bench:
        for case in rulebook.cases:
            verdicts = judge_case(case, whole, bench)
            fired = any(verdict.rule == case.rule for verdict in verdicts)
            if fired == case.accept:
                expected = "let pass" if case.accept else "caught"
                came = "; ".join(f"{v.rule}: {v.message}" for v in verdicts) or "no verdict"
                message = f"should be {expected}, but: {came}"
                failures.append(CaseFailure(rule=case.rule, where=case.where, message=message))
    return failures


def judge_case(
    case: Case, rulebook: Rulebook, bench: DuckDBPyConnection | None = None
) -> tuple[Verdict, ...]:
    """All verdicts on a case's record. Its keys by subject:

    tool: `documents` or `text`, `query`, `finish_reason`;
    call: `tools`, `calls` or `text`, `query`, `finish_reason`;
    vote: `tools`, `samples` (each a text or a list of calls), `minimum`, `plurality`;
    code: `code`, `valid`;
    round: `candidates` (each `query`, `tools`, `calls`), `history` (the same), `benchmark` (each
    `query`, `functions`), `limits` in place of the rule's; the rule itself judges, not the others.
    """
    content = dict(case.content)
    tools = [Tool(id=tool_id(doc), document=doc) for doc in content.pop("tools", [])]
    try:
        match case.rule.split("/")[0]:
            case "tool":
                if "documents" in content:
                    content["text"] = _render_tools(content.pop("documents"))
                return check_tools(**content, rulebook=rulebook).verdicts
            case "call":
                answer = content.pop("text", None) or render_calls(content.pop("calls", []))
                return check_calls(answer, tools, **content, rulebook=rulebook)
            case "vote":
                samples = [
                    sample if isinstance(sample, str) else render_calls(sample)
                    for sample in content.pop("samples")
                ]
                return check_vote(vote(samples, tools, **content), rulebook=rulebook)
            case "round":
                return _judge_set(rulebook.rule(case.rule), bench, **content)
            case _:
                return check_code(**content, rulebook=rulebook)
    except (TypeError, KeyError) as error:
        raise ContentError(f"the case's keys do not fit: {error}", where=case.where) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _CaseQuestion:
    id: str
    query: str
    functions: tuple[Mapping[str, Any], ...]

    @property
    def documents(self) -> Sequence[Mapping[str, Any]]:
        return tuple(map(to_document, self.functions))


@dataclass(frozen=True, slots=True, kw_only=True)
class _CaseQuestions:
    name: str
    items: tuple[_CaseQuestion, ...]


def _judge_set(
    rule: Rule,
    bench: DuckDBPyConnection | None,
    *,
    candidates: Sequence[dict[str, Any]],
    history: Sequence[dict[str, Any]] = (),
    benchmark: Sequence[dict[str, Any]] = (),
    limits: Mapping[str, Limit] | None = None,
) -> tuple[Verdict, ...]:
    """One set rule's verdicts on a case's round, its history and a benchmark."""
    rule = replace(rule, limits=rule.limits | dict(limits or {}))
    past = [_make_candidate(**sample) for sample in history]
    items = tuple(
        _CaseQuestion(id=str(n), query=i["query"], functions=tuple(i.get("functions", ())))
        for n, i in enumerate(benchmark)
    )
    found = judge_round(
        {rule.id: rule},
        [_make_candidate(**sample) for sample in candidates],
        Past(
            queries=[PastQuery(round_number=1, id=p.query.id, text=p.query.text) for p in past],
            tools=list({tool.id: tool for p in past for tool in p.tools}.values()),
        ),
        [_CaseQuestions(name="case", items=items)],
        stage=rule.stage,
        bench=bench,
    )
    return tuple(verdict for verdicts in found.values() for verdict in verdicts)


def _make_candidate(
    *, query: str, tools: Sequence[dict[str, Any]] = (), calls: Sequence[dict[str, Any]] = ()
) -> Candidate:
    return Candidate(
        query=Query(id=query_id(query), text=query, source="case"),
        tools=tuple(Tool(id=tool_id(document), document=document) for document in tools),
        calls=tuple(Call(**call) for call in calls),
    )


def render_calls(calls: Iterable[Mapping[str, Any]]) -> str:
    """Call objects as an answer's text."""
    return "\n".join(f"<tool_call>{json.dumps(call)}</tool_call>" for call in calls)


def _render_tools(documents: Iterable[object]) -> str:
    return "<tools>" + "\n".join(json.dumps(document) for document in documents) + "</tools>"
