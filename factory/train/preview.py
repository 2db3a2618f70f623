"""Codes outside a round: fitted to be looked at before anything is trained, or given to more tools.

A child (factory.train.preview_child) holds the model; this side starts and follows it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from factory.codes.apart import Kept
from factory.codes.codebook import Codebook
from factory.codes.graph import told_of_pairs
from factory.domain.failures import ChildError
from factory.domain.monitor import Monitor
from factory.domain.records import Pair, Tool
from factory.engines.child import SMALLER, Child
from factory.tools.labels import Label
from factory.train.job import TrainingSetup
from factory.train.run import need_libraries

MOST_COLLIDING = 0.01
"""Share of tools beyond the first on one nearest code that is no cause for advice (ToolWeaver)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodingJob:
    """Tools that get codes: new ones of their own, or of those that a checkpoint has."""

    workspace: Path
    """Its root; its prompts say how a document reads."""
    checkpoint: Path
    """Folder of the model that reads them."""
    tools: Sequence[Tool]
    setup: TrainingSetup | None = None
    """That of the training whose codes are previewed; None adds to the checkpoint's own."""
    by_id: bool = True
    """Whether tools get their codes in the order of their ids, not in that of `tools`."""
    asked: Sequence[Label] = ()
    """Requests of one's own that codes are to tell apart; none: the tools' own words."""
    pairs: Sequence[Pair] = ()
    """Tools that answers call together; quantized codes learn them."""
    out: Path | None = None
    """Folder for the model with fitted codes; None writes nothing."""
    plain: str = ""
    """Text without codes: its perplexity is shown, before and with the new code tokens."""

    def to_json(self) -> dict[str, Any]:
        """As JSON; inverse of from_json."""
        values = asdict(self) | {"setup": self.setup and self.setup.to_json()}
        return {key: str(x) if isinstance(x, Path) else x for key, x in values.items()}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> CodingJob:
        return cls(
            workspace=Path(row["workspace"]),
            checkpoint=Path(row["checkpoint"]),
            tools=[Tool(**tool) for tool in row["tools"]],
            setup=TrainingSetup.from_json(row["setup"]) if row["setup"] else None,
            by_id=row["by_id"],
            asked=[Label(**label) for label in row["asked"]],
            pairs=[Pair(**pair) for pair in row["pairs"]],
            out=Path(row["out"]) if row["out"] else None,
            plain=row["plain"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What fitted codes are like."""

    figures: dict[str, Any]
    """By name, with the share of the documents' variance that the codes leave."""
    neighbours: list[list[str]]
    """A few tools: name, code, and the tools whose codes are nearest; none where codes say nothing
    of documents."""
    picture: str
    """SVG of the space of documents, coloured by first number."""
    advice: list[str]
    """What to do about codes that came out badly."""
    asked: str
    """What the documents were looked up by."""
    apart: list[Kept]
    """What they and their codes can still tell apart; none where codes say nothing of documents."""


async def fit_codes(job: CodingJob, *, threads: int, log: Path, monitor: Monitor) -> Preview:
    """Fit codes in a child. Raises ChildError where it dies, and its own failures."""
    async with _started(job, threads, log) as child:
        answer = await _answer(child, monitor)
        return Preview(**answer | {"apart": [Kept(*kept) for kept in answer["apart"]]})


async def add_codes(
    job: CodingJob,
    *,
    threads: int,
    log: Path,
    monitor: Monitor,
    before_writing: Callable[[], None],
) -> None:
    """Give tools codes in a child, which writes them into the checkpoint.

    `before_writing` is called once all have a code, while the checkpoint is still as it was.

    Raises InputError where no code is left, ChildError where the child dies.
    """
    async with _started(job, threads, log) as child:
        await _answer(child, monitor)
        before_writing()
        await child.send({"type": "write"})
        await _answer(child, monitor)


@asynccontextmanager
async def _started(job: CodingJob, threads: int, log: Path) -> AsyncIterator[Child]:
    """A child that was given the job."""
    need_libraries()
    child = await Child.start("factory.train.preview_child", threads=threads, log=log)
    try:
        await child.send(job.to_json())
        yield child
    finally:
        await child.kill()


async def _answer(child: Child, monitor: Monitor) -> dict[str, Any]:
    """What the child answers; what it tells of its work until then goes to the monitor."""
    while (message := await child.receive()) is not None:
        if (kind := message.pop("type")) == "answer":
            return message
        getattr(monitor, kind)(**message)
    raise ChildError(
        f"making codes failed: {child.cause()}",
        remedy=SMALLER if child.ran_out_of_memory else "mend what the log says, and run it again",
    )


def describe(codebook: Codebook) -> dict[str, Any]:
    """A codebook in figures for a person, by their names."""
    report, sizes = codebook.report, codebook.coder.sizes
    return {
        "coder": codebook.coder.name,
        "version": codebook.version,
        "tools": len(codebook),
        "positions": len(sizes),
        "numbers a position": max(sizes, default=0),
        "collisions before": report.collisions_before,
        "collisions after": len(codebook) - len({entry.code for entry in codebook.tools}),
        "moved": report.moved,
        "mean penalty": round(report.penalty, 4),
        "entropy, bits": [round(bits, 2) for bits in report.usage_entropy],
        "far from all codes": len(codebook.outliers),
        "on their nearest code": f"{report.reencoded:.1%}",
        "trainings since the fit": report.age,
        **({} if report.pairs is None else {"pairs used together": report.pairs}),
    }


def advise(codebook: Codebook) -> list[str]:
    """What to do about codes that came out badly; nothing where they did not."""
    report, advice = codebook.report, []
    if report.pairs == 0:
        advice.append(told_of_pairs(0))
    if codebook.coder.reads_documents and report.collisions_before > MOST_COLLIDING * len(codebook):
        share = report.collisions_before / len(codebook)
        advice.append(
            f"{share:.1%} of the tools wanted a code that another has, and got a neighbour's: "
            "a larger codes.size, more codes.levels or codes.dims tell more apart"
        )
    return advice
