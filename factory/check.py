"""Judging one record: tool documents, calls, a vote, a code (algorithms §1.5).

Pure functions of a record and a rulebook. Every finding is a verdict with rule, reason code, JSON
path and a sentence that shows the offending value; no verdict means that no rule fired. Rules over
many records are SQL (factory.judge_rounds); their cases run here too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from factory.benchmark import Benchmark, Item
from factory.canon import query_id, tool_id
from factory.failures import ContentError
from factory.findings import Finding
from factory.jsontext import json_path, mend, parse_sequence, show
from factory.judge_calls import judge_call, judge_duplicates, judge_grounding, judge_reading
from factory.judge_documents import find_unusable, judge_document, judge_name_in_set
from factory.judge_rounds import Candidate, Past, PastQuery, judge_round, open_bench
from factory.records import Call, Query, Tool, Verdict, Vote
from factory.rulebook import Case, Limit, Rule, Rulebook
from factory.vote import ParsedCalls, parse_calls, vote

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_TOOLS_OPEN, _TOOLS_CLOSE = "<tools>", "</tools>"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedTools:
    """The documents of a `<tools>` block. Example: ParsedTools(documents=[{"name": "f", …}])."""

    documents: list[Any]
    """Parsed values in order, up to the first that cannot be read."""
    repaired: bool = False
    """Whether quotes or trailing commas were mended."""
    failure: str = ""
    """Empty, no_tools_tag or tools_json."""
    message: str = ""
    """One sentence about the failure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedTools:
    """An answer's tools after judgement. Example: CheckedTools(tools=(), verdicts=(…,))."""

    tools: tuple[Tool, ...]
    """Those that no rejecting rule caught, in order."""
    verdicts: tuple[Verdict, ...]
    """Everything that was found; subjects are `tools` and `tool:<index in the answer>`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseFailure:
    """A case that its rule judges otherwise than it says. Example: CaseFailure(rule="call/…")."""

    rule: str
    """Rule id."""
    where: str
    """File and line of the case."""
    message: str
    """What was expected and what came."""


def parse_tools(text: str) -> ParsedTools:
    """Reads the objects of the first `<tools>` block. Never raises."""
    start = text.find(_TOOLS_OPEN)
    if start < 0:
        return ParsedTools(
            documents=[], failure="no_tools_tag", message=f"no <tools> block in {show(text)}"
        )
    start += len(_TOOLS_OPEN)
    end = text.find(_TOOLS_CLOSE, start)
    body = text[start : end if end >= 0 else None]
    values, cause = parse_sequence(body)
    repaired = False
    if cause and (mended := mend(body)) != body:
        again, later = parse_sequence(mended)
        if not later:
            values, cause, repaired = again, "", True
    documents = [
        part for value in values for part in (value if isinstance(value, list) else [value])
    ]
    if not cause and not documents:
        cause = "the <tools> block is empty"
    failure, message = ("tools_json", cause) if cause else ("", "")
    if end < 0:
        cause = cause or f"it ends with {show(body[-40:])}"
        failure, message = "no_tools_tag", f"the <tools> block is not closed; {cause}"
    return ParsedTools(documents=documents, repaired=repaired, failure=failure, message=message)


def check_tools(
    text: str, *, rulebook: Rulebook, query: str = "", finish_reason: str = "stop"
) -> CheckedTools:
    """Judges an answer to `write tools for this query` and keeps the documents that pass."""
    parsed = parse_tools(text)
    verdicts: list[Verdict] = []
    whole, broken = _judge_block(parsed, text, finish_reason, rulebook)
    verdicts += _make_verdicts(whole, rulebook, "tools")
    verdicts += _make_verdicts(broken, rulebook, f"tool:{len(parsed.documents)}")
    tools: list[Tool] = []
    names: dict[str, int] = {}
    limit = rulebook.rule("tool/too_many_tools").limit("max_tools")
    for index, document in enumerate(parsed.documents[:limit]):
        findings = list(judge_document(document, rulebook, query))
        findings += judge_name_in_set(document, index, names)
        found = _judge_tool(document, findings, rulebook, f"tool:{index}")
        verdicts += found
        if not _rejects(found) and isinstance(document, dict):
            tools.append(Tool(id=tool_id(document), document=document))
    if any(v.subject == "tools" and v.severity == "reject" for v in verdicts):
        tools = []
    return CheckedTools(tools=tuple(tools), verdicts=tuple(verdicts))


def check_document(
    document: object, *, rulebook: Rulebook, query: str = "", subject: str = "tool:0"
) -> tuple[Verdict, ...]:
    """Judges one tool document, wherever it comes from."""
    findings = judge_document(document, rulebook, query)
    return tuple(_judge_tool(document, findings, rulebook, subject))


def check_calls(
    answer: ParsedCalls | str,
    tools: Sequence[Tool],
    *,
    rulebook: Rulebook,
    query: str = "",
    finish_reason: str = "stop",
    subject: str = "calls",
) -> tuple[Verdict, ...]:
    """Judges one answer's calls against the candidate tools."""
    parsed = parse_calls(answer) if isinstance(answer, str) else answer
    findings: list[Finding] = []
    if finish_reason == "length":
        message = f"cut after {len(parsed.text)} characters, at the limit of new tokens"
        findings.append(Finding("call/truncated", (), message))
    if parsed.failure:
        return (
            *_make_verdicts(findings, rulebook, subject),
            *_make_verdicts(
                [Finding(f"call/{parsed.failure}", (), parsed.message)],
                rulebook,
                subject,
                parsed.path,
            ),
        )
    calls = parsed.calls or ()
    findings += judge_reading(parsed)
    limit = rulebook.rule("call/too_many_calls").limit("max_calls")
    if len(calls) > limit:
        message = f"{len(calls)} calls, at most {limit} are allowed"
        findings.append(Finding("call/too_many_calls", (), message))
    by_name = {tool.name: tool for tool in tools}
    for index, call in enumerate(calls):
        findings += judge_call(call, index, by_name)
    findings += judge_duplicates(calls, by_name)
    if query and rulebook.rule("call/ungrounded_value").active:
        findings += judge_grounding(calls, by_name, query)
    return tuple(_make_verdicts(findings, rulebook, subject)) if findings else ()


def check_vote(result: Vote, *, rulebook: Rulebook) -> tuple[Verdict, ...]:
    """Judges a vote: nothing when it has a winner."""
    if not result.reason:
        return ()
    share = f"{result.votes} of {result.num_samples} samples"
    messages = {
        "vote_below_min": f"the largest class has {share}, too few to win",
        "vote_tie": f"several classes have {share} each, none leads",
        "no_call_majority": f"{share} call no tool",
    }
    finding = Finding(f"vote/{result.reason}", (), messages[result.reason])
    return tuple(_make_verdicts([finding], rulebook, "vote"))


def check_code(
    code: str, *, valid: bool, rulebook: Rulebook, subject: str = "code:0"
) -> tuple[Verdict, ...]:
    """Judges a sampled code; `valid` is the trie's answer (algorithms A39)."""
    if valid:
        return ()
    message = f"{show(code)} is not a path of the trie"
    return tuple(_make_verdicts([Finding("code/code_not_in_trie", (), message)], rulebook, subject))


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
        Item(id=str(n), category="", query=i["query"], functions=tuple(i.get("functions", ())),
             ground_truth=())
        for n, i in enumerate(benchmark)
    )  # fmt: skip
    found = judge_round(
        {rule.id: rule},
        [_make_candidate(**sample) for sample in candidates],
        Past(
            queries=[PastQuery(round_number=1, id=p.query.id, text=p.query.text) for p in past],
            tools=list({tool.id: tool for p in past for tool in p.tools}.values()),
        ),
        [Benchmark(name="case", title="", split="test", items=items)],
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


def _make_verdicts(
    findings: Iterable[Finding], rulebook: Rulebook, subject: str, path: str | None = None
) -> list[Verdict]:
    """Findings of active rules, as verdicts."""
    verdicts = []
    for finding in findings:
        rule = rulebook.rule(finding.rule)
        if rule.active:
            verdicts.append(
                Verdict(
                    subject=subject,
                    rule=rule.id,
                    reason=rule.reason,
                    severity=rule.severity,
                    path=path or json_path(finding.path),
                    message=finding.message,
                )
            )
    return verdicts


def _judge_tool(
    document: object, findings: Iterable[Finding], rulebook: Rulebook, subject: str
) -> list[Verdict]:
    """The findings as verdicts; one more where no rule rejects what cannot be a tool."""
    verdicts = _make_verdicts(findings, rulebook, subject)
    unusable = None if _rejects(verdicts) else find_unusable(document)
    if unusable is not None:
        verdicts.append(
            Verdict(
                subject=subject,
                rule=unusable.rule,
                reason="tool_unusable",
                severity="reject",
                path=json_path(unusable.path),
                message=unusable.message,
            )
        )
    return verdicts


def _rejects(verdicts: Iterable[Verdict]) -> bool:
    return any(verdict.severity == "reject" for verdict in verdicts)


def _judge_block(
    parsed: ParsedTools, text: str, finish_reason: str, rulebook: Rulebook
) -> tuple[list[Finding], list[Finding]]:
    """Findings about the whole block, and about the document that could not be read."""
    whole: list[Finding] = []
    limit = rulebook.rule("tool/too_many_tools").limit("max_tools")
    if len(parsed.documents) > limit:
        message = f"{len(parsed.documents)} tools, at most {limit} are allowed"
        whole.append(Finding("tool/too_many_tools", (), message))
    if finish_reason == "length" and parsed.failure:
        message = f"cut after {len(text)} characters, at the limit of new tokens"
        return whole, [Finding("tool/truncated", (), message)]
    if parsed.failure == "tools_json":
        return whole, [Finding("tool/tools_json", (), f"not JSON: {parsed.message}")]
    if parsed.failure:
        whole.append(Finding(f"tool/{parsed.failure}", (), parsed.message))
    return whole, []
