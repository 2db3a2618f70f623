"""One round, whole: what the system does, in the order in which it does it.

 1 draw    queries that no round has had: the user's, or the home world's         start.py
 2 score   the parent, the checkpoint that the round starts from                  scoring.py
           and write requests, where there are too few and it may                 writing.py
 3 tools   the model writes the tools that would answer a query                   sampling.py
 4 codes   it names them in code tokens, and retrieves tools it knows by theirs
 5 call    it answers the query with calls, n times
 6 vote    the answers agree on one, and rules judge documents, calls and vote
 7 judge   rules over the round as a whole: duplicates, overlap with benchmarks   judging.py
 8 make    harder samples of those that were accepted, where the recipe wants any  making.py
 9 train   a new checkpoint on what was accepted, each of its tools with a code   training.py
10 score   the new checkpoint, and whom it is to meet where a score is missing
11 gate    promote it, or keep the parent                        opponents.py, gate.py

Steps 3 to 6 are one coroutine a query (sampler.py). Each step is skipped where the ledger says
that it is done, so a round that was killed anywhere continues with the step it was in; within
sampling, with the queries that have no sample yet. Models live in child processes that end with
their step; that of step 10 starts with step 9, and loads nothing before there is a checkpoint.
"""

from __future__ import annotations

from pathlib import Path

from factory.domain.records import Checkpoint
from factory.ledger.history import OpenRound
from factory.round.calibration import calibrate
from factory.round.factory import Factory
from factory.round.gate import RoundResult, decide
from factory.round.judging import judge
from factory.round.making import make_samples
from factory.round.sampling import sample
from factory.round.scoring import early_for, score_answers, score_opponents, score_weights, serve
from factory.round.start import begin
from factory.round.training import train
from factory.round.writing import write_missing
from factory.workspace.models import form_of


async def run_round(factory: Factory, num_queries: int | None = None) -> RoundResult:
    """Run the next round, or continue the open one as it began. Raises FactoryError."""
    factory, this = await begin(factory, num_queries)
    return await finish_round(factory, this)


async def finish_round(factory: Factory, this: OpenRound) -> RoundResult:
    """Every step of a round that has begun and is not done. Raises FactoryError."""
    async with serve(factory, this, this.checkpoint) as parent:
        await score_answers(factory, this, parent)
        await write_missing(factory, this, parent)
        await sample(await calibrate(factory, this, parent), this, parent)
        await score_opponents(factory, this, parent)
        await score_weights(factory, this, parent)
        if not factory.recipe.make.asks_model:
            await parent.close()
        judge(factory, this)
        await make_samples(factory, this, parent)
    async with early_for(factory, this) as early:
        trained = await train(factory, this, early)
        if isinstance(trained, Checkpoint):
            factory = factory.asking(form_of(Path(trained.path)))
            async with serve(factory, this, trained, early=early) as child:
                await score_answers(factory, this, child)
                await score_weights(factory, this, child)
            await score_opponents(factory, this)
    return decide(factory, this, trained)
