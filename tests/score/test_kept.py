"""A stopped scoring goes on with what is missing; what no engine answered has no score."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from test_identity import Notes, a_model, add
from test_scoring import answer_gold, find, make_setup

from factory.domain.failures import ChildError
from factory.domain.records import ENGINE_DIED, Checkpoint, Reply, Request
from factory.engines.base import unanswered
from factory.engines.replay import ReplayEngine
from factory.score.base import Setup
from factory.score.calls.kind import Benchmark
from factory.score.keeper import Keeper, find_missing
from factory.score.kept import KeptAnswers, keeping


class Stopped(Exception):
    """SIGTERM, in the middle of a scoring."""


class Scoring:
    """A scoring of sixty questions that may be stopped after some answers."""

    def __init__(self, tmp_path: Path) -> None:
        self.notes = Notes()
        self.setup: Setup = replace(make_setup(tmp_path), monitor=self.notes)
        self.model = find(self.setup, str(a_model(tmp_path / "model")))
        home = Benchmark.load(self.setup.workspace, "home")
        self.home = replace(home, items=home.items[:60])
        self.asked: list[str] = []

    async def run(
        self, stop: int = 60, *, model: Checkpoint | None = None, afresh: bool = False
    ) -> tuple[int, int]:
        """How many of how many items are right; Stopped after so many answers."""
        model = model or self.model
        gold, self.asked = answer_gold(self.home), []

        def answer(request: Request) -> Sequence[str]:
            if len(self.asked) == stop:
                raise Stopped
            self.asked.append(request.id)
            texts: Sequence[str] = gold(request)
            return texts

        bases = [(self.home, "basis")]
        missing = find_missing(self.setup, model.id, bases, of=model, again=afresh)
        engine = ReplayEngine(answer, model)
        async with Keeper(self.setup, model, missing, lambda _: engine, afresh=afresh) as keeper:
            items = await keeper.score(missing[0])
            self.setup.ledger.append(missing[0].rows(0, model.id, items))
            keeper.stored()
        return sum(item.correct for item in items), len(items)

    def files(self) -> list[Path]:
        return list((self.setup.workspace.state / "scoring").glob("*"))


def test_a_stopped_scoring_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    """SIGTERM at 34 of 60 kept nothing; again, at 35: nothing."""
    scoring = Scoring(tmp_path)
    with pytest.raises(Stopped):
        asyncio.run(scoring.run(34))
    first = set(scoring.asked)
    (file,) = scoring.files()
    assert len(first) == len(file.read_text("utf-8").splitlines()) == 34
    with file.open("ab") as kept:
        kept.write(b'{"key": "torn')  # kill -9 while it wrote
    with pytest.raises(Stopped):
        asyncio.run(scoring.run(20))
    second = set(scoring.asked)
    assert scoring.notes.notes[-1].startswith("34 answers of a stopped scoring on home are kept")
    assert asyncio.run(scoring.run()) == (60, 60)
    third = set(scoring.asked)
    assert (len(second), len(third)) == (20, 6)
    assert len(first | second | third) == 60
    assert scoring.files() == []
    assert find_missing(scoring.setup, scoring.model.id, [(scoring.home, "basis")]) == ()
    assert asyncio.run(scoring.run(afresh=True)) == (60, 60) and len(scoring.asked) == 60


def test_kept_answers_are_of_one_model(tmp_path: Path) -> None:
    scoring = Scoring(tmp_path)
    with pytest.raises(Stopped):
        asyncio.run(scoring.run(34))
    add("chat_template.jinja", "{# mended #}")(Path(scoring.model.path))
    assert asyncio.run(scoring.run()) == (60, 60)
    assert len(scoring.asked) == 60 and scoring.files() == []


def test_nothing_is_kept_of_an_address(tmp_path: Path) -> None:
    """Another model behind it went on with the first one's answers; a judge's likewise."""
    scoring = Scoring(tmp_path)
    server = Checkpoint(id="http://x/v1#m", path="http://x/v1#m", fingerprint="unknown")
    with pytest.raises(Stopped):
        asyncio.run(scoring.run(34, model=server))
    assert scoring.files() == []
    assert asyncio.run(scoring.run(model=server)) == (60, 60) and len(scoring.asked) == 60

    kept = KeptAnswers(tmp_path, ("of", "home"), ("model", "basis"))
    judge = ReplayEngine(lambda request: ["Yes."], server)
    here = ReplayEngine(lambda request: ["Yes."], scoring.model)
    assert keeping(judge, kept) is judge and keeping(here, kept) is not here


class Silent(ReplayEngine):
    """An engine that answers every so many requests only."""

    def __init__(self, model: Checkpoint, every: int) -> None:
        super().__init__(lambda request: ["No."], model)
        self.every, self.count = every, 0

    async def sample(self, requests: Sequence[Request]) -> list[Reply]:
        self.count += 1
        if self.every and self.count % self.every == 0:
            return await super().sample(requests)
        return [unanswered(each, ENGINE_DIED, fault="no such end token") for each in requests]


@pytest.mark.parametrize(("every", "num_kept"), [(0, 0), (3, 20)])
def test_what_was_not_answered_is_no_score_and_is_asked_again(
    tmp_path: Path, every: int, num_kept: int
) -> None:
    """An engine that refused every request scored 0.00, kept for ever, exit 0."""
    scoring = Scoring(tmp_path)
    (missing,) = find_missing(scoring.setup, scoring.model.id, [(scoring.home, "basis")])

    async def run() -> int:
        engine = Silent(scoring.model, every)
        async with Keeper(scoring.setup, scoring.model, [missing], lambda _: engine) as keeper:
            return len(await keeper.score(missing))

    if every:
        assert asyncio.run(run()) == 60
    else:
        with pytest.raises(ChildError, match=r"answered none of 60 items.*no such end") as told:
            asyncio.run(run())
        assert told.value.exit_code == 3
    kept = [line for file in scoring.files() for line in file.read_text("utf-8").splitlines()]
    assert len(kept) == num_kept
