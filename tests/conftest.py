"""Every run alike, however busy the machine: property tests repeat, torch takes one thread."""

import os
import random

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile(
    "repeatable",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--shuffle", type=int, help="seed of another order of files and their tests")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files that start engines or train go first, so that no process is left alone with one. Any
    other order does too; tests of a file stay together, since what they share is made once.
    """
    if (seed := config.getoption("--shuffle")) is None:
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)
        return
    rng = random.Random(seed)
    places = {path: rng.random() for path in dict.fromkeys(item.path for item in items)}
    rng.shuffle(items)
    items.sort(key=lambda item: places[item.path])
