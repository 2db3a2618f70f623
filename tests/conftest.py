"""Every run alike, however busy the machine: property tests repeat, torch takes one thread."""

import os

import pytest
from hypothesis import HealthCheck, settings
from real_round import FinishedRound, make_quick_workspace, run_and_kill

os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile(
    "repeatable",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def finished_round(tmp_path_factory: pytest.TempPathFactory) -> FinishedRound:
    """One real round for all tests that only look at what a round leaves."""
    return run_and_kill(make_quick_workspace(tmp_path_factory.mktemp("round") / "ws"), 24)
