"""The command's side of a training: start the child, follow it, start it again."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from factory.domain.failures import ChildError, MissingError
from factory.domain.records import CodeAlias, Fluency, GivenCode, Progress
from factory.engines.child import Child
from factory.train.job import StageFigures, TrainingJob, TrainingResult
from factory.train.memory import check_optimizer
from factory.workspace.models import check_model_folder

LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets", "sklearn")
"""What the child imports."""
NEED_LESS = (
    "lower train.micro_batch_size or train.max_length; "
    "`factory round --set train.micro_batch_size=1` continues with that value"
)
"""Remedy of a training whose memory ran out."""
MEND = "mend what the log says, then `factory round` trains again"
"""Remedy of any other that died."""


async def run_training(
    job: TrainingJob,
    *,
    threads: int,
    log: Path,
    on_progress: Callable[[Progress], None],
    on_phase: Callable[[str], None],
    max_restarts: int,
    notify: Callable[[str], None],
) -> TrainingResult:
    """Train in a child process; one that is killed is run again, at most `max_restarts` times.

    The same job with the same number of threads gives the same weights (on a CPU).
    `on_phase` is told what the child does next (`loading the model`, …), `notify` the cause of
    each restart.

    Raises ChildError once the restarts are used up, or where the child ends by an exception (the
    next one would end the same way), and the child's own failures.
    """
    need_libraries()
    check_optimizer(job.setup.train)
    check_model_folder(job.checkpoint)
    line = json.dumps(job.to_json())
    for attempt in range(max_restarts + 1):
        child = await Child.start("factory.train.child", line, threads=threads, log=log)
        try:
            done = await _follow(child, on_progress, on_phase)
        finally:
            await child.kill()
        if done is not None:
            return _result(job, done, attempt)
        cause = child.cause()
        if child.killed_by is None:
            remedy = NEED_LESS if child.ran_out_of_memory else MEND
            raise ChildError(f"training failed: {cause}", where=str(log), remedy=remedy)
        if attempt < max_restarts:
            notify(f"training died, starting it again ({attempt + 1}/{max_restarts}): {cause}")
    raise ChildError(
        f"training died {max_restarts + 1} times, last: {cause}",
        where=str(log),
        remedy=NEED_LESS if child.ran_out_of_memory else MEND,
    )


def need_libraries() -> None:
    """Raises MissingError where the child could not import what it needs."""
    for name in LIBRARIES:
        if importlib.util.find_spec(name) is None:
            raise MissingError(
                f"training needs the package {name}, which is not installed",
                remedy="pip install 'tool-factory[train]'",
            )


async def _follow(
    child: Child, on_progress: Callable[[Progress], None], on_phase: Callable[[str], None]
) -> dict[str, Any] | None:
    """The child's final message; None where it died before sending it."""
    while (message := await child.receive()) is not None:
        match message.pop("type"):
            case "progress":
                on_progress(Progress(**message))
            case "phase":
                on_phase(message["text"])
            case "done":
                return message
    return None


def _result(job: TrainingJob, done: dict[str, Any], restarts: int) -> TrainingResult:
    del done["job"]
    done["codes"] = tuple(GivenCode(**row) for row in done["codes"])
    done["log"] = tuple(Progress(**step) for step in done["log"])
    done["aliases"] = tuple(CodeAlias(**row) for row in done.get("aliases", ()))
    done["stages"] = tuple(StageFigures(**row) for row in done.get("stages", ()))
    done["language"] = {k: Fluency(**v) for k, v in done.get("language", {}).items()}
    done["unlearnt"] = tuple(done.get("unlearnt", ()))
    return TrainingResult(path=job.out, restarts=restarts, **done)
