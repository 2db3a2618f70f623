"""One answer to a question of calls, judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from factory.domain.records import UNANSWERED, ItemScore, Reply
from factory.judge.answers import Syntax
from factory.judge.parsed import TRUNCATED, ParsedCalls, if_cut, text_arguments
from factory.score.asking import CUT_BY, cut_of, no_answer
from factory.score.calls.bfcl import LANGUAGES, RIGHT, AstVerdict, check_ast, match_calls
from factory.score.calls.decode import decode
from factory.score.items import Item

PER_CALL = ("named", "exact")
"""Measures of single calls: the right tool is called; and with the right arguments."""
UNREADABLE_CALL = "unreadable_call"
"""Nothing was to be called, and what was answered is no abstention and no call either."""


def judge(item: Item, reply: Reply, syntax: Syntax = "hermes") -> ItemScore:
    """One reply against its item.

    An answer whose JSON has to be repaired is wrong, as it is to BFCL's decoders. Where nothing is
    to be called, only an answer that neither calls nor tries to is right: to BFCL one that cannot
    be read is right as well, and one that a limit cut.
    """
    completion = reply.completions[0]
    syntax = "hermes" if completion.calls_apart else syntax
    parsed = decode(completion.text, syntax, _texts(item.functions))
    if completion.finish_reason in CUT_BY:
        parsed = if_cut(parsed, f"at {CUT_BY[completion.finish_reason]}")
    verdict = _find_unreadable(parsed, reply)
    if item.judge in LANGUAGES:
        verdict = verdict or check_ast(
            parsed.calls or (), item.functions, item.ground_truth, item.language
        )
    elif item.judge == "any_call":
        verdict = verdict or RIGHT
    elif completion.finish_reason not in UNANSWERED:
        verdict = _judge_abstention(verdict, parsed)
    assert verdict is not None
    return ItemScore(
        item=item.id,
        category=item.category,
        correct=verdict.correct,
        reason=verdict.reason,
        message=verdict.message,
        answer=completion.text,
        calls=None if parsed.calls is None else tuple(parsed.calls),
        detail={**cut_of(completion), **_match(item, parsed)},
    )


def _match(item: Item, parsed: ParsedCalls) -> dict[str, float]:
    """F1 of the single calls, by name and whole; empty where no certain calls are due."""
    if item.judge not in LANGUAGES:
        return {}
    given = parsed.calls or ()
    hits = match_calls(given, item.functions, item.ground_truth, item.language)
    whole = len(given) + len(item.ground_truth)
    return {metric: 2 * count / whole for metric, count in zip(PER_CALL, hits, strict=True)}


def _texts(functions: Sequence[Mapping[str, Any]]) -> dict[str, frozenset[str]]:
    """Of each function, the arguments that are text."""
    found: dict[str, frozenset[str]] = {}
    for function in functions:
        parameters = function.get("parameters")
        properties = parameters.get("properties") if isinstance(parameters, dict) else None
        found |= text_arguments(str(function.get("name")), properties)
    return found


def _find_unreadable(parsed: ParsedCalls, reply: Reply) -> AstVerdict | None:
    """Why there are no calls to judge; None where there are."""
    completion = reply.completions[0]
    if completion.finish_reason in UNANSWERED:
        return AstVerdict(False, completion.finish_reason, no_answer(reply))
    if parsed.calls is None and completion.finish_reason in CUT_BY:
        limit = CUT_BY[completion.finish_reason]
        return AstVerdict(False, "truncated", f"the answer reached {limit}")
    if parsed.calls is None or parsed.failure:
        return AstVerdict(False, parsed.failure, parsed.message)
    if parsed.repaired:
        return AstVerdict(False, "call_json", "a call is readable only after repair")
    return None


def _judge_abstention(unreadable: AstVerdict | None, parsed: ParsedCalls) -> AstVerdict:
    """Right where the answer neither calls nor tries to."""
    if unreadable is None:
        names = ", ".join(call.name for call in parsed.calls or ())
        return AstVerdict(False, "unwanted_call", f"calls {names} where nothing is to be called")
    if parsed.kind == "abstention":
        return RIGHT
    if unreadable.reason == TRUNCATED:
        return unreadable
    return AstVerdict(False, UNREADABLE_CALL, f"a call that cannot be read: {unreadable.message}")
