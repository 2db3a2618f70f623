"""What a difference between a checkpoint here and its server is worth."""

from __future__ import annotations

from dataclasses import replace

import pytest

from factory.deploy.proving import Flip, Proof
from factory.domain.records import ItemScore
from factory.score.estimates import paired_delta
from factory.score.evaluate import Measured

NUM_ITEMS = 20


def item(number: int, correct: bool) -> ItemScore:
    reason = "" if correct else "wrong_value"
    return ItemScore(
        item=f"simple_{number}",
        category="simple",
        correct=correct,
        reason=reason,
        message="",
        answer="",
    )


def test_noise_is_weighed_as_the_score_is() -> None:
    """One of two items of the small category flips: half of it, whatever the other's size."""
    small, large = ((name, count) for name, count in (("small", 2), ("large", 18)))
    here = [
        replace(item(number, True), item=f"{name}_{number}", category=name)
        for name, count in (small, large)
        for number in range(count)
    ]
    there = [replace(here[0], correct=False), *here[1:]]
    flips = [Flip(here=here[0], there=there[0], steady=False)]
    for weights, floor in ((None, 25), ({"small": 0.8, "large": 0.2}, 40)):
        noisy = Proof(
            here=Measured(system="r1", kind="checkpoint", items=here, is_new=True),
            there=Measured(system="http://x/v1#r1", kind="checkpoint", items=there, is_new=True),
            change=paired_delta(here, there, weights),
            flips=flips,
            reworded=0,
            weights=weights,
        )
        assert noisy.floor == pytest.approx(floor) and noisy.holds
        assert noisy.change.value == pytest.approx(-floor)


def proof(lost: int, won: int = 0, steady: bool = True) -> Proof:
    """Ten of twenty items right here; through the server some lost, some won."""
    here = [item(number, number < 10) for number in range(NUM_ITEMS)]
    there = [item(number, lost <= number < 10 + won) for number in range(NUM_ITEMS)]
    flips = [
        Flip(here=a, there=b, steady=steady)
        for a, b in zip(here, there, strict=True)
        if a.correct != b.correct
    ]
    return Proof(
        here=Measured(system="r1", kind="checkpoint", items=here, is_new=True),
        there=Measured(system="http://x/v1#r1", kind="checkpoint", items=there, is_new=True),
        change=paired_delta(here, there, None),
        flips=flips,
        reworded=0,
    )


def test_the_same_answers_hold() -> None:
    same = proof(0)
    assert same.holds and same.floor == 0 and same.change.value == 0


def test_a_fall_and_a_rise_are_off() -> None:
    for off in (proof(3), proof(0, won=3)):
        assert not off.holds and abs(off.change.value) == 15 and off.floor == 0


def test_what_the_server_judges_two_ways_is_its_noise() -> None:
    noisy = proof(3, steady=False)
    assert noisy.floor == 15 and noisy.holds


def test_flips_that_cancel_out_are_listed_and_hold() -> None:
    even = proof(2, won=2)
    assert even.holds and len(even.flips) == 4
