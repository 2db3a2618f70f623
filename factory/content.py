"""Trying all content before it is used: a bad prompt or rule stops before a model is loaded."""

from __future__ import annotations

from pathlib import Path

from factory.check import CaseFailure, run_cases
from factory.failures import ContentError
from factory.prompts import Prompts
from factory.rulebook import Rulebook


def check_content(prompts: Prompts, rulebook: Rulebook) -> None:
    """Render every prompt's example and judge every rule's cases, in about 0.1 s.

    A rule that the workspace changed may judge a shipped case otherwise: that is what the change
    is for. It must still judge it, and agree with the workspace's own cases.
    Raises ContentError with the file for the first that fails.
    """
    prompts.check()
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
