"""SoPR and SoWR: the share of requests solved, and won against a reference (algorithms §7.2).

A local model judges. Where the published evaluators leave room, this is stricter and says so: a
request without a prediction counts as unsolved and lost, a pair is shown in both orders and is a
tie unless both name the same winner. Identical answers are a tie too, where the published evaluator
tosses a coin. A judgement that cannot be read is counted by itself: it gives no credit and no vote.
"""

from __future__ import annotations

import asyncio
import json
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from factory.domain.canon import derive_seed, to_json
from factory.domain.failures import ContentError
from factory.domain.records import Message, Request, Sampling
from factory.engines.base import Engine
from factory.score.base import read_json
from factory.score.toolbench.agent import Trajectory
from factory.score.toolbench.data import ApiDocument, ApiKey
from factory.score.toolbench.turns import FINISH, action_name
from factory.workspace.prompts import Prompts

Status = Literal["Solved", "Unsure", "Unsolved", "Unjudged"]
CREDIT: Mapping[Status, float] = {"Solved": 1.0, "Unsure": 0.5, "Unsolved": 0.0, "Unjudged": 0.0}
Winner = Literal["candidate", "reference", "tie", "unjudged"]
RULES_VERSION = 2
"""Of how this module comes to statuses and votes. Count it up where equal answers could be judged
otherwise: verdicts that the ledger has of another version are not read back."""
NUM_RUNS = 3
"""Evaluator runs, and comparisons of a pair."""
TEMPERATURE = 0.2
"""Of the judge (§7.2)."""
MAX_TRIES = 3
"""A judgement that cannot be read is asked for again so often in all."""
UNKNOWN_ANSWERS = ("", "none", "null")


class Rate(NamedTuple):
    """A share in percent over several evaluator runs."""

    mean: float
    std: float
    """Population standard deviation over the runs."""
    runs: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a system did about a request, as a judge needs it."""

    query: str
    finished: bool
    final_answer: str
    """What the user is told; empty for giving up."""
    trajectory: str


# Calculators ------------------------------------------------------------------------------


def pass_rate(runs: Sequence[Mapping[str, Status]], ids: Iterable[str]) -> Rate:
    """SoPR over all `ids`: a request that a run has no status of counts as unsolved.

    Example: pass_rate([{"1": "Solved", "2": "Unsure"}], ["1", "2", "3"]).mean == 50.
    """
    wanted = list(ids)
    shares = tuple(
        100 * sum(CREDIT[run.get(query_id, "Unsolved")] for query_id in wanted) / len(wanted)
        for run in runs
    )
    return Rate(statistics.fmean(shares), statistics.pstdev(shares), shares)


def outcome(votes: Sequence[Winner]) -> Winner:
    """Who has more votes; without any it is the reference.

    Equal votes are a tie only where each was read: the others might have decided.
    """
    if not votes:
        return "reference"
    lead = votes.count("candidate") - votes.count("reference")
    if lead:
        return "candidate" if lead > 0 else "reference"
    return "unjudged" if "unjudged" in votes else "tie"


class Judged(NamedTuple):
    """What a judge said of a system, run by run."""

    statuses: tuple[Mapping[str, Status], ...]
    """Each run's status by request; requests without a prediction are absent."""
    votes: Mapping[str, Sequence[Winner]]
    """Each run's winner by request; empty without a reference."""


# Judging ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """A model that judges. Example: await Judge(engine=…, templates=…).solved(predictions)."""

    engine: Engine
    templates: Prompts
    seed: int = 0
    max_tokens: int = 512

    async def evaluate(
        self,
        ids: Sequence[str],
        candidate: Mapping[str, Prediction],
        reference: Mapping[str, Prediction] | None = None,
        num_runs: int = NUM_RUNS,
    ) -> Judged:
        """The candidate's statuses over `ids`, and votes against the reference if there is one.

        Predictions for other requests are left aside. ValueError without a request.
        """
        if not ids:
            raise ValueError("no requests to judge")
        ours = {query_id: candidate[query_id] for query_id in ids if query_id in candidate}
        mine = [await self.solved(ours, run) for run in range(num_runs)]
        votes: dict[str, list[Winner]] = {}
        if reference is not None:
            theirs = {query_id: reference[query_id] for query_id in ids if query_id in reference}
            other = [await self.solved(theirs, run) for run in range(num_runs)]
            votes = await self.compare(ours, theirs, list(zip(mine, other, strict=True)))
        return Judged(tuple(mine), votes)

    async def solved(
        self, predictions: Mapping[str, Prediction], run: int = 0
    ) -> dict[str, Status]:
        """One evaluator run: a status for each prediction."""
        statuses = await asyncio.gather(
            *(self._status(query_id, each, run) for query_id, each in predictions.items())
        )
        return dict(zip(predictions, statuses, strict=True))

    async def compare(
        self,
        candidate: Mapping[str, Prediction],
        reference: Mapping[str, Prediction],
        statuses: Sequence[tuple[Mapping[str, Status], Mapping[str, Status]]],
    ) -> dict[str, list[Winner]]:
        """One vote a run for each request of the candidate that the reference answered too.

        A request that only one of the two has goes to that one. `statuses` holds the candidate's
        and the reference's of each run.
        """

        async def votes(query_id: str) -> list[Winner]:
            ours, theirs = candidate.get(query_id), reference.get(query_id)
            if ours is None or theirs is None:
                won: Winner = "reference" if ours is None else "candidate"
                return [won] * len(statuses)
            return [
                await self._winner(query_id, ours, theirs, run, mine, other)
                for run, (mine, other) in enumerate(statuses)
            ]

        ids = list(dict.fromkeys([*candidate, *reference]))
        found = await asyncio.gather(*map(votes, ids))
        return dict(zip(ids, found, strict=True))

    async def _status(self, query_id: str, prediction: Prediction, run: int) -> Status:
        """The answer judged, and where that is not enough the whole trajectory (§7.2)."""
        answer = prediction.final_answer.strip().lower()
        if not prediction.finished or answer in UNKNOWN_ANSWERS:
            return "Unsolved"
        status: Status = "Unsure"
        for kind in ("answer", "trajectory"):
            prompt = self.templates.render(
                f"judge_{kind}",
                query=prediction.query,
                answer=prediction.final_answer,
                trajectory=prediction.trajectory,
            )
            name = f"judge/{query_id}/{run}/{kind}"
            found = await self._ask(name, prompt, "status", ("Solved", "Unsure", "Unsolved"))
            if found is None:
                return "Unjudged"
            status = cast(Status, found)
            if status != "Unsure":
                break
        return status

    async def _winner(
        self,
        query_id: str,
        ours: Prediction,
        theirs: Prediction,
        run: int,
        mine: Mapping[str, Status],
        other: Mapping[str, Status],
    ) -> Winner:
        """One comparison: by status where exactly one is better, else by the judge (§7.2).

        A status that could not be read is neither better nor worse.
        """
        pair = mine.get(query_id, "Unsolved"), other.get(query_id, "Unsolved")
        if "Unjudged" not in pair and pair[0] != pair[1]:
            return "candidate" if CREDIT[pair[0]] > CREDIT[pair[1]] else "reference"
        if ours.final_answer == theirs.final_answer and ours.trajectory == theirs.trajectory:
            return "tie"
        picks = await asyncio.gather(
            self._pick(f"{query_id}/{run}/ab", ours, theirs),
            self._pick(f"{query_id}/{run}/ba", theirs, ours),
        )
        if None in picks:
            return "unjudged"
        if picks[0] == picks[1]:  # the place, not the answer
            return "tie"
        return "candidate" if picks[0] == "A" else "reference"

    async def _pick(self, name: str, first: Prediction, second: Prediction) -> str | None:
        prompt = self.templates.render(
            "judge_pair",
            query=first.query,
            first={"answer": first.final_answer, "trajectory": first.trajectory},
            second={"answer": second.final_answer, "trajectory": second.trajectory},
        )
        return await self._ask(f"compare/{name}", prompt, "better", ("A", "B"))

    async def _ask(self, name: str, prompt: str, key: str, allowed: Sequence[str]) -> str | None:
        """The word under `key` of the judge's JSON; None where no try gave an allowed one."""
        for attempt in range(MAX_TRIES):
            request = Request(
                id=f"{name}/{attempt}",
                messages=(Message(role="user", content=prompt),),
                sampling=Sampling(
                    temperature=TEMPERATURE,
                    max_tokens=self.max_tokens,
                    seed=derive_seed(self.seed, name, attempt),
                ),
                logprob=False,
            )
            text = (await self.engine.sample([request]))[0].completions[0].text
            if (word := read_judgement(text, key)) in allowed:
                return word
        return None


def read_judgement(text: str, key: str) -> str | None:
    """The value of `key` in the last JSON object of a judge's answer; None without one."""
    for found in reversed(re.findall(r"\{[^{}]*\}", text)):
        try:
            value = json.loads(found, strict=False)
        except (ValueError, RecursionError):
            continue
        if key in value:
            return str(value[key]).strip()
    return None


# Predictions ------------------------------------------------------------------------------


def to_prediction(trajectory: Trajectory) -> Prediction:
    """A trajectory of ours as a judge sees it."""
    finished = bool(trajectory.steps) and trajectory.steps[-1].key == FINISH
    steps = [
        {
            "thought": step.thought,
            "action": step.action if step.key is None else " / ".join(filter(None, step.key)),
            "input": step.arguments,
            "response": step.response,
        }
        for step in trajectory.steps
    ]
    return Prediction(
        query=trajectory.query,
        finished=finished,
        final_answer=trajectory.final_answer if not trajectory.reason else "",
        trajectory="\n".join(map(to_json, steps)),
    )


def read_predictions(file: Path) -> dict[str, Prediction]:
    """Predictions in StableToolBench's converted form, by query id (§5.2).

    `{qid: {query, answer: {final_answer, answer_details: [tree of {role, message, next}]}}}`;
    other systems publish them so. Raises ContentError.
    """
    try:
        table = read_json(file)
        return {str(query_id): _read_prediction(row) for query_id, row in table.items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ContentError(
            f"not a file of converted answers: {type(error).__name__} {error}",
            where=str(file),
            remedy="give {query id: {query, answer: {final_answer, answer_details}}}",
        ) from error


def to_converted(
    trajectory: Trajectory, documents: Mapping[ApiKey, Sequence[ApiDocument]]
) -> dict[str, Any]:
    """A trajectory in StableToolBench's converted form, for its own evaluator and for others.

    The tools that it calls are among `available_tools`, so that it can be taught.
    """
    nodes: list[dict[str, Any]] = [{"role": "user", "message": trajectory.query}]
    for step in trajectory.steps:
        nodes.append({"role": "assistant", "message": step.thought})
        call = {
            "name": step.action if step.key is None else action_name(step.key),
            "arguments": step.arguments,
            "response": step.response,
        }
        nodes.append({"role": "tool", "message": str(call)})
    called = dict.fromkeys(step.key for step in trajectory.steps if step.key in documents)
    tree: list[dict[str, Any]] = []
    for node in reversed(nodes):
        tree = [{**node, "next": tree}]
    return {
        "query": trajectory.query,
        "available_tools": [_describe(documents[key][0]) for key in called if key is not None],
        "answer": {
            "method": "tool-factory",
            "total_steps": len(nodes),
            "final_answer": trajectory.final_answer,
            "answer_details": tree,
        },
    }


def _describe(document: ApiDocument) -> dict[str, Any]:
    return {key: value for key, value in document.document.items() if key in _DESCRIBED}


_DESCRIBED = frozenset(
    {"category_name", "tool_name", "tool_description", "api_name", "name", "api_description"}
    | {"description", "required_parameters", "optional_parameters"}
)


def _read_prediction(row: Mapping[str, Any]) -> Prediction:
    answer = row["answer"]
    nodes = list(_walk(answer["answer_details"]))
    last = str(nodes[-1]["message"]) if nodes else ""
    finished = "Finish" in last
    final = answer.get("final_answer") or ""
    if isinstance(final, str) and final.lstrip().startswith("{"):
        try:
            final = json.loads(final)
        except ValueError:
            final = str(final)
    if isinstance(final, dict):
        gave_up = final.get("return_type", "give_answer") != "give_answer"
        final = "" if gave_up else final.get("final_answer", "")
    gave_up = "give_up_and_restart" in last
    return Prediction(
        query=str(row["query"]),
        finished=finished,
        final_answer="" if gave_up else str(final or ""),
        trajectory="\n".join(f"{node['role']}: {node['message']}" for node in nodes),
    )


def _walk(nodes: Sequence[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    """The nodes of a tree along its first branch's order, parents first."""
    stack = list(reversed(nodes))
    while stack:
        node = stack.pop()
        yield node
        stack.extend(reversed(node.get("next") or []))
