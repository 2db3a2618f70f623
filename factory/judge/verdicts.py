"""Judging one record: tool documents, calls, a vote, a code (algorithms §1.5).

Pure functions of a record and a rulebook. Every finding is a verdict with rule, reason code, JSON
path and a sentence that shows the offending value; no verdict means that no rule fired. Rules over
many records are SQL (factory.judge.sets); their cases run here too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from factory.domain.canon import tool_id
from factory.domain.jsontext import json_path, show
from factory.domain.records import Tool, Verdict, Vote
from factory.judge.calls import (
    judge_call,
    judge_duplicates,
    judge_grounding,
    judge_reading,
    judge_use,
)
from factory.judge.documents import find_unusable, judge_document, judge_name_in_set
from factory.judge.findings import Finding
from factory.judge.parsed import CUTS, TRUNCATED, ParsedCalls, if_cut
from factory.judge.reading import ParsedTools, parse_calls, parse_tools
from factory.judge.rulebook import Rulebook


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedTools:
    """An answer's tools after judgement. Example: CheckedTools(tools=(), verdicts=(…,))."""

    tools: tuple[Tool, ...]
    """Those that no rejecting rule caught, in order."""
    verdicts: tuple[Verdict, ...]
    """Everything that was found; subjects are `tools` and `tool:<index in the answer>`."""


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
        if not first_reject(found) and isinstance(document, dict):
            tools.append(Tool(id=tool_id(document), document=document))
    if first_reject(verdict for verdict in verdicts if verdict.subject == "tools"):
        tools = []
    return CheckedTools(tools=tuple(tools), verdicts=tuple(verdicts))


def check_document(
    document: object, *, rulebook: Rulebook, query: str = "", subject: str = "tool:0"
) -> tuple[Verdict, ...]:
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
    parsed = parse_calls(answer) if isinstance(answer, str) else answer
    findings: list[Finding] = []
    if finish_reason in CUTS:
        message = f"cut after {len(parsed.text)} characters, {CUTS[finish_reason]}"
        findings.append(Finding("call/truncated", (), message))
        parsed = if_cut(parsed, CUTS[finish_reason])
    if parsed.failure:
        is_said = bool(findings) and parsed.failure == TRUNCATED
        unread = [] if is_said else [Finding(f"call/{parsed.failure}", (), parsed.message)]
        found = _make_verdicts(findings, rulebook, subject)
        return (*found, *_make_verdicts(unread, rulebook, subject, parsed.path))
    calls = parsed.calls or ()
    findings += judge_reading(parsed)
    limit = rulebook.rule("call/too_many_calls").limit("max_calls")
    if len(calls) > limit:
        message = f"{len(calls)} calls, at most {limit} are allowed"
        findings.append(Finding("call/too_many_calls", (), message))
    by_name = {tool.name: tool for tool in tools}
    shared = _find_shared(tools) if len(by_name) < len(tools) else {}
    for index, call in enumerate(calls):
        for tool in shared.get(call.name, ()):
            by_name[call.name] = tool
            if not any(judge_call(call, index, by_name)):
                break
        else:
            findings += judge_call(call, index, by_name)
    findings += judge_duplicates(calls, by_name)
    if query and rulebook.rule("call/ungrounded_value").active:
        findings += judge_grounding(calls, by_name, query)
    if query and rulebook.rule("call/unused_value").active:
        findings += judge_use(calls, by_name, query)
    return tuple(_make_verdicts(findings, rulebook, subject)) if findings else ()


def _find_shared(tools: Sequence[Tool]) -> dict[str, list[Tool]]:
    """Tools whose name others bear too: a call of it is right if it fits one of them."""
    found: dict[str, list[Tool]] = {}
    for tool in tools:
        found.setdefault(tool.name, []).append(tool)
    return {name: same for name, same in found.items() if len(same) > 1}


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
    barred = sum(number < 0 for number in result.classes)
    also = f"; {barred} had no vote (vote.bar)" if barred else ""
    finding = Finding(f"vote/{result.reason}", (), messages[result.reason] + also)
    return tuple(_make_verdicts([finding], rulebook, "vote"))


def check_code(
    code: str, *, valid: bool, rulebook: Rulebook, subject: str = "code:0"
) -> tuple[Verdict, ...]:
    """Judges a sampled code; `valid` is the trie's answer (algorithms A39)."""
    if valid:
        return ()
    message = f"{show(code)} is not a path of the trie"
    return tuple(_make_verdicts([Finding("code/code_not_in_trie", (), message)], rulebook, subject))


def _make_verdicts(
    findings: Iterable[Finding], rulebook: Rulebook, subject: str, path: str | None = None
) -> list[Verdict]:
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
    unusable = None if first_reject(verdicts) else find_unusable(document)
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


def first_reject(verdicts: Iterable[Verdict]) -> Verdict | None:
    return next((verdict for verdict in verdicts if verdict.severity == "reject"), None)


def _judge_block(
    parsed: ParsedTools, text: str, finish_reason: str, rulebook: Rulebook
) -> tuple[list[Finding], list[Finding]]:
    """Findings about the whole block, and about the document that could not be read."""
    whole: list[Finding] = []
    limit = rulebook.rule("tool/too_many_tools").limit("max_tools")
    if len(parsed.documents) > limit:
        message = f"{len(parsed.documents)} tools, at most {limit} are allowed"
        whole.append(Finding("tool/too_many_tools", (), message))
    if finish_reason in CUTS and parsed.failure:
        message = f"cut after {len(text)} characters, {CUTS[finish_reason]}"
        return whole, [Finding("tool/truncated", (), message)]
    if parsed.failure == "tools_json":
        return whole, [Finding("tool/tools_json", (), f"not JSON: {parsed.message}")]
    if parsed.failure:
        whole.append(Finding(f"tool/{parsed.failure}", (), parsed.message))
    return whole, []
