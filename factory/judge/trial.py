"""Trying all content before it is used: a bad prompt or rule stops before a model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from factory.domain.failures import ContentError
from factory.domain.records import Candidate, Past, Query
from factory.judge.cases import CaseFailure, run_cases
from factory.judge.rulebook import Rulebook, RuleStage
from factory.judge.sets import judge_round
from factory.workspace.prompts import Prompts


def check_content(prompts: Prompts, rulebook: Rulebook) -> None:
    """Render every prompt's example and judge every rule's cases, in less than a second.

    A set rule is tried on one request besides, so that one without cases is known to run.
    A rule that the workspace changed may judge a shipped case otherwise: that is what the change
    is for. It must still judge it, and agree with the workspace's own cases.
    Raises ContentError with the file for the first that fails.
    """
    prompts.check()
    request = Candidate(query=Query(id="q_0", text="Book a table for 4.", source="trial"))
    for stage in get_args(RuleStage):
        judge_round(rulebook.rules, [request], Past(), [], stage=stage)
    own = prompts.workspace.root / "rules"
    for failure in run_cases(rulebook):
        if _file_of(failure).is_relative_to(own):
            raise ContentError(
                f"rule {failure.rule} fails a case: {failure.message}",
                where=failure.where,
                remedy="mend the rule or its case; `factory rules --test` runs them all",
            )


def _file_of(failure: CaseFailure) -> Path:
    return Path(failure.where.rpartition(":")[0])
